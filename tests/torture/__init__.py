"""What is tried to break mask-impact: tables of bad inputs, damaged files, kills. Run by `python -m torture.run` in tests/."""
