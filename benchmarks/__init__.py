"""Speed and memory: `bench.py` is the command, `text.py` and `vision.py` are parts of it that share `speed.py`."""
