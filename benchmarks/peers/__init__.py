"""What people would pick instead, timed beside mask-impact on the same model and prompts: see run.py."""
