"""The kinds of failure a user can meet, and how they are worded; commands/exit_codes.py alone gives them exit codes."""

import contextlib
import re
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


# --- wording ------------------------------------------------------------------------------------------------
LONGEST_WORD, LONGEST_LINE = 300, 1500  # characters of a message; values and paths can be longer


def one_line(message: object) -> str:
    """A message as it can be shown: in one line, of bounded length, without codes that a terminal would obey."""
    text = printable(" ".join(str(message).split()))
    return short(re.sub(rf"\S{{{LONGEST_WORD},}}", lambda word: short(word[0], LONGEST_WORD // 2), text), LONGEST_LINE)


def printable(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


def short(text: str, limit: int) -> str:
    """The start and the end: in a message the end says what to do, in a path it is the file."""
    return text if len(text) <= limit else f"{text[: limit // 2]}...{text[3 - limit // 2 :]}"


def plain_words(error: BaseException) -> str:
    """What an exception of a library says, in one line, without the names of classes and functions in it."""
    text = re.sub(r"\b[A-Z]\w*(Error|Exception)\b(:\s*)?", "", " ".join(str(error).split())).strip()
    text = re.sub(r"<class '([\w.]*\.)?(\w+)'>", r"\2", text).replace("NoneType", "null")
    text = re.sub(r"'\w+' object has no attribute '\w+'", "a value is of another kind than it must be", text)
    text = re.sub(r"^\[Errno \d+\] ", "", text)
    text = re.sub(r"^Class validation error for validator '\w+':\s*| of untagged enum \w+", "", text)
    return f"{text} is unknown or missing" if isinstance(error, KeyError) else text or "it does not say why"
