"""What is tried to break mask-impact: tables of bad inputs, damaged files, kills. `run.py` tries all of it."""
