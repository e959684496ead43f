"""The parsers of what can be given as a text: one for each kind of value.

A parser takes a text and raises argparse.ArgumentTypeError, whose message says what was given and what is valid.
"""

import argparse
import re
from collections.abc import Callable, Collection
from numbers import Integral
from pathlib import Path
from typing import Any

DIGITS = 18  # of a whole number: those of a file fit into 64 bits
MAX_NAME = 150  # bytes; file systems allow 255, and names of temporary folders are longer

SLOWEST, FASTEST = 0.00001, 1000.0  # frames for each second

# Names Windows keeps for devices: https://learn.microsoft.com/windows/win32/fileio/naming-a-file
RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in "123456789¹²³")}


def is_whole(text: str) -> bool:
    """Whether it is a whole number that is no larger than anything that is counted here."""
    return text.isdecimal() and len(text) <= DIGITS


def positive(text: str) -> int:
    if not is_whole(text) or int(text) < 1:
        most = f", at most {DIGITS} digits" if len(text) > DIGITS else ""
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more{most}")
    return int(text)


def whole(value: Any) -> int:
    """A whole number that is not given as a text. Raises TypeError: True is none, though Python counts with it."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError
    return int(value)


def rate(text: str) -> float:
    """Frames for each second: of a video between one a day and those of a fast camera."""
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not SLOWEST <= found <= FASTEST:  # also true for NaN
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from {SLOWEST:.5f} to {FASTEST:g}")
    return found


def one_of(choices: Collection[str]) -> Callable[[str], str]:
    """The parser of one choice. `choices` are read when a text is parsed: a registry may have grown by then."""

    def parse(text: str) -> str:
        if text not in choices:
            raise argparse.ArgumentTypeError(f"unknown {text!r}; choose from {', '.join(choices)}")
        return text

    return parse


def one_of_list(choices: Collection[str]) -> Callable[[str], tuple[str, ...]]:
    """The parser of comma-separated choices; they come in the order of `choices`."""

    def parse(text: str) -> tuple[str, ...]:
        chosen = [part.strip() for part in text.split(",") if part.strip()]
        for part in chosen:
            one_of(choices)(part)
        if not chosen:
            raise argparse.ArgumentTypeError(f"nothing chosen; choose from {', '.join(choices)}")
        return tuple(choice for choice in choices if choice in chosen)

    return parse


def layer_list(text: str) -> tuple[tuple[int, int], ...]:
    """ "0,8,20-27" -> ((0, 0), (8, 8), (20, 27)), () for "all". Only the model knows which layers exist."""
    if text == "all":
        return ()
    found = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not is_whole(first) or (dash and not is_whole(last)):
            raise argparse.ArgumentTypeError(f"{text!r} is not a list of layers; write for example 0,8,20-27")
        found.append((int(first), int(last or first)))
        if found[-1][0] > found[-1][1]:
            raise argparse.ArgumentTypeError(f"{text!r}: the range {part.strip()} runs backwards; write {last}-{first}")
    return tuple(found)


def query_list(text: str) -> str | tuple[tuple[int, int], ...]:
    """ "last", "all", or positions written like layers: "4,8-10"."""
    if text in ("last", "all"):
        return text
    try:
        return layer_list(text)
    except argparse.ArgumentTypeError as error:
        message = f"{text!r} is not known; write last, all, or positions such as 4,8-10"
        raise argparse.ArgumentTypeError(message) from error


def device_name(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", text):
        raise argparse.ArgumentTypeError(f"unknown {text!r}; choose auto, cpu, cuda, cuda:N or mps")
    return text


def memory_limits(text: str) -> tuple[tuple[int | str, str], ...]:
    """ "0=20GiB,cpu=60GiB" -> ((0, "20GiB"), ("cpu", "60GiB")): what `--device-map auto` may use of each device."""
    found = re.findall(r"(?:^|,)\s*(\d{1,3}|cpu)=(\d{1,9}(?:\.\d{1,9})?[KMG]i?B)\s*(?=,|$)", text)
    if len(found) != text.count(",") + 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of limits; write for example 0=20GiB,cpu=60GiB")
    return tuple((int(device) if device.isdecimal() else device, amount) for device, amount in found)


def path(text: str) -> Path:
    """A path that is not empty, as that of a variable that was not set."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty; give a file or folder")
    if "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} has a null character, which no path has; give a file or folder")
    return Path(text)


def path_from_python(value: Any) -> Path | None:
    """Raises TypeError, as the next two do, for a keyword that is no such value."""
    found = paths_from_python(value)
    if len(found) > 1:
        raise TypeError
    return path(str(found[0])) if found else None


def paths_from_python(value: Any) -> tuple[Any, ...]:
    found = (value,) if isinstance(value, str | Path) else tuple(value or ())
    if not all(isinstance(each, str | Path) for each in found):
        raise TypeError
    return found


def rate_from_python(value: Any) -> float | None:
    return None if value is None else rate(str(value))


def output_name(text: str) -> str:
    """A name that is a file name on every system."""
    if not text or text[0] in ". " or text[-1] in ". " or re.search(r'[/\\<>:"|?*\x00-\x1f\x7f\ud800-\udfff]', text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a plain file name; use letters, digits, - and _ (the folder goes into --output-dir)"
        )
    if len(text.encode()) > MAX_NAME:
        raise argparse.ArgumentTypeError(f"a name of {len(text.encode())} bytes is too long; at most {MAX_NAME}")
    if text.split(".")[0].rstrip().lower() in RESERVED:
        raise argparse.ArgumentTypeError(f"{text!r} is a name that Windows reserves; choose another")
    return text
