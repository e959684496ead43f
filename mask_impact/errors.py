"""The kinds of failure a user can meet; commands/exit_codes.py alone turns them into exit codes."""

import contextlib
from collections.abc import Iterator


class UserError(Exception):
    """Bad input, found before any long computation: one line saying what was given, what is valid and what to do."""


class UnsupportedModel(UserError):
    """The model cannot be measured truthfully; the message names the family and the reason."""

    final = False  # whether no other way of measuring it would help


class OutOfMemory(Exception):
    """The input is good, but memory ran out: one line saying in what, how much was asked for, and what to do."""


@contextlib.contextmanager
def panics_as_errors() -> Iterator[None]:
    """What a library written in Rust throws when it panics is no Exception: tokenizers does on some tokenizer files.
    Here it becomes a RuntimeError, so that it fails one prompt and not the command."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # pyo3 makes it in every library anew
            raise
        raise RuntimeError(f"a library failed in its own code, {' '.join(str(error).split())}") from error
