"""One request from the model to its files and its manifest; resume; the Python functions."""
