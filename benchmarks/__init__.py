"""Speed and memory: `bench.py` is the command, `text.py` and `vision.py` are its parts over the same `speed.py`."""
