"""Do the numbers mean something? Scripts that hold them against a real language model (docs/validation.md)."""
