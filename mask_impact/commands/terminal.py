"""What is printed: lines on stdout and stderr, the progress, and what libraries may say meanwhile."""

import os
import sys
import time
from collections.abc import Mapping
from typing import Self

from mask_impact.errors import OutOfMemory, UserError, one_line, plain_words, short
from mask_impact.options import named

ENOUGH = 5.0  # seconds of measuring after which the remaining time is shown
unprinted: list[str] = []  # why stdout took no more, which makes the exit code 1
UNEXPECTED = 500  # characters of what a library says
HEAD_START = 60.0  # seconds, for the first process to start and to read its files


def described(error: Exception, flags: Mapping[str, str]) -> str:
    """A failure in one line, which names options by their flags."""
    if isinstance(error, UserError | OutOfMemory):
        return named(one_line(error), flags)
    return f"unexpected failure: {short(one_line(plain_words(error)), UNEXPECTED)}"


def complain(line: str) -> None:
    """Print a line on stderr, with the number of the process if it is not the first of its command."""
    rank = os.environ.get("RANK", "0")
    print(one_line(line) if rank == "0" else f"process {rank}: {one_line(line)}", file=sys.stderr)


def let_the_first_speak() -> None:
    """Before several processes are connected, all but the first wait: an error usually hits every process.

    A launcher ends the others as soon as one has ended, so one that left at once could silence the first.
    """
    distributed = sys.modules.get("torch.distributed")
    if os.environ.get("RANK", "0") != "0" and not (distributed is not None and distributed.is_initialized()):
        time.sleep(HEAD_START)


def show(text: str) -> None:
    """Print on stdout. A closed pipe, as in `| head -1`, is not a failure of the run."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        _discard_output()
    except OSError as error:  # the results have their own folder, so they are written all the same
        _discard_output()
        unprinted.append(error.strerror or str(error))
        complain(f"error: the output cannot be printed ({unprinted[-1]}); files are written all the same")


def _discard_output() -> None:
    """Send further output to nowhere, because Python flushes stdout once more when it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class ProgressBar:
    """One line on stderr with what is being done, gone at the end: one unit per forward and per replayed layer,
    and for masks carried on as many as they take.

    Where stderr is not a terminal, only runs that take long show it, and seldom. The remaining time is shown once
    `ENOUGH` seconds of measuring tell how long a unit takes; loading the model does not count.
    """

    FORMAT = "{desc:<34} |{bar:30}| {percentage:3.0f}% {elapsed}<"

    def __init__(self, what: str, quiet: bool) -> None:
        from tqdm import tqdm

        class Bar(tqdm):
            monitor_interval = 0  # no thread, which would stay

        pause = 0.1 if sys.stderr.isatty() else 10.0  # seconds
        self.bar = Bar(
            desc=what, disable=quiet, file=sys.stderr, leave=False, bar_format=f"{self.FORMAT}?", mininterval=pause,
            delay=0 if sys.stderr.isatty() else pause,
        )  # fmt: skip
        self.began: float | None = None  # when the first unit began
        self.units = 0.0  # ended
        self.begun = 0.0  # the part that is being done
        self.phase = ("", 0.0, 0.0)  # what is being done, in a word; when it began, and after how many units

    def expect(self, total: float) -> None:
        self.bar.total = total

    def describe(self, what: str) -> None:
        """Say what is being done, without a unit of work."""
        self.bar.set_description_str(what, refresh=sys.stderr.isatty())

    def say(self, text: str) -> None:
        """Print `text` on stdout, above the bar."""
        if sys.stderr.isatty():
            self.bar.clear()
        show(text)

    def __call__(self, what: str, work: float = 1.0, /) -> None:
        """A part of the work begins, of so many units; what was before it has ended."""
        now = time.perf_counter()
        self.began = now if self.began is None else self.began
        ended, self.begun = self.begun, work
        self.units += ended
        if what.split()[0] != self.phase[0]:
            self.phase = what.split()[0], now, self.units
        _, began, before = self.phase
        if now - began < ENOUGH:  # a unit does not take as long in every phase, so this one counts when it is known
            began, before = self.began, 0.0
        total = self.bar.total
        left = remaining(now - began, self.units - before, None if total is None else total - before)
        self.bar.bar_format = self.FORMAT + left
        self.bar.set_description_str(what, refresh=False)
        self.bar.update(ended)

    def close(self) -> None:
        self.bar.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def remaining(seconds: float, done: float, total: float | None) -> str:
    """How long the rest takes, "01:30", when `done` of `total` units took `seconds`; "?" where too little is known."""
    if seconds < ENOUGH or not done or total is None:
        return "?"
    left = round(seconds / done * max(0, total - done))
    hours, minutes = divmod(left // 60, 60)
    return (f"{hours}:" if hours else "") + f"{minutes:02}:{left % 60:02}"
