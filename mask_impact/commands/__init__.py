"""Flags, YAML, batches, processes, terminal, exit codes."""
