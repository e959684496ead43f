"""Bounds on what comes with a model and is run on the user's text: a chat template can loop, and a template or a
tokenizer's normalizer can make gigabytes of a word.

In:  a text, or a block of code that runs a template. Out: nothing, or a UserError that says what is too large.
"""

import contextlib
import json
import math
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from mask_impact.errors import UserError, plain_words

LONGEST = 2**21  # characters of a text that is tokenized: some 500,000 tokens, more than can be masked one at a time
PATIENCE, AGAIN = 5.0, 0.2  # seconds of the processor
MEMORY = 2**30  # bytes
WHY = 200  # characters of what a library says


def check_text(tokenizer: Any, text: str, what: str = "the prompt") -> None:
    """Raises UserError for a text that would take hours and gigabytes to tokenize."""
    if len(text) > LONGEST:
        raise UserError(f"{what} has {len(text):,} characters; at most {LONGEST:,} can be tokenized; shorten it")
    if (most := growth(tokenizer) * len(text)) > 8 * LONGEST:
        raise UserError(
            f"the model's tokenizer can make {most:,} characters of {what}, because its normalizer replaces some by "
            "long texts; mend the normalizer in the checkpoint's tokenizer.json"
        )


def growth(tokenizer: Any) -> int:
    """How many characters the tokenizer's normalizer can make of one, by the texts that it puts in place of others."""
    normalizer = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)
    if normalizer is None:
        return 1
    try:
        steps = json.loads(normalizer.__getstate__())
    except Exception:  # of a normalizer in Python, which cannot be looked into
        return 1
    return math.prod(max(1, len(each.get("content") or "")) for each in steps.get("normalizers", [steps]))


@contextlib.contextmanager
def refused(what: str, hint: Callable[[], str]) -> Iterator[None]:
    """What the code of a tokenizer or processor raises becomes a UserError: `what`, why in brackets, and the hint."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise UserError(f"{what} ({plain_words(error)[:WHY]}); {hint()}") from error


@contextlib.contextmanager
def bounded(what: str) -> Iterator[None]:
    """Raises UserError where the block takes longer than PATIENCE, or, on Linux, more memory than MEMORY.

    Time is the processor's, so that a busy machine changes nothing. It is bounded where Python allows it: in the main
    thread, and not on Windows.
    """
    too_long = UserError(f"{what} takes longer than {PATIENCE:g} s; mend it in the checkpoint")
    try:
        with _alarm(too_long), _less_memory():
            yield
    except MemoryError as error:
        raise UserError(f"{what} takes more than {MEMORY / 1e9:.1f} GB of memory; mend it in the checkpoint") from error


@contextlib.contextmanager
def _alarm(error: Exception) -> Iterator[None]:
    """Raise the error after PATIENCE, and again and again: code may swallow it, as Jinja does where it computes parts
    of a template beforehand."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return
    inside = True

    def stop(number: int, frame: FrameType | None) -> None:
        if inside:
            raise error

    handler = signal.signal(signal.SIGPROF, stop)
    left, again = signal.setitimer(signal.ITIMER_PROF, PATIENCE, AGAIN)  # somebody else's, if there is one
    try:
        yield
    finally:
        inside = False
        signal.setitimer(signal.ITIMER_PROF, left, again)
        signal.signal(signal.SIGPROF, handler)


@contextlib.contextmanager
def _less_memory() -> Iterator[None]:
    """No more than MEMORY beside what the process has."""
    if sys.platform != "linux":
        yield
        return
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[5])  # that can be written to
    before = resource.getrlimit(resource.RLIMIT_DATA)
    most = pages * resource.getpagesize() + MEMORY
    if before[1] != resource.RLIM_INFINITY:
        most = min(most, before[1])
    resource.setrlimit(resource.RLIMIT_DATA, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
