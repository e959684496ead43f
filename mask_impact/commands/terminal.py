"""What is printed: lines on stdout and stderr, the progress, and what libraries may say meanwhile."""

import contextlib
import os
import sys
import time
import warnings
from collections.abc import Iterator
from logging import ERROR, getLogger
from typing import Self

from mask_impact.errors import OutOfMemory, UserError

HEAD_START = 60.0  # seconds, for the first process to start and to read its files


def one_line(message: object) -> str:
    return " ".join(str(message).split())


def described(error: Exception) -> str:
    """A failure in one line."""
    if isinstance(error, UserError | OutOfMemory):
        return one_line(error)
    return f"{type(error).__name__}: {one_line(error)[:500]}"


def complain(line: str) -> None:
    """Print `line` on stderr, with the number of the process if it is not the first of its command."""
    rank = os.environ.get("RANK", "0")
    print(line if rank == "0" else f"process {rank}: {line}", file=sys.stderr)


def let_the_first_speak() -> None:
    """Before several processes have met, all but the first wait: what stops one stops most often all.

    A launcher ends the others as soon as one has ended, so one that left at once could silence the first.
    """
    distributed = sys.modules.get("torch.distributed")
    if os.environ.get("RANK", "0") != "0" and not (distributed is not None and distributed.is_initialized()):
        time.sleep(HEAD_START)


def show(text: str) -> None:
    """Print on stdout; a reader that has gone, as in `| head -1`, is no failure of the run."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more when it exits


class ProgressBar:
    """One line on stderr with what is being done, gone at the end: one unit per forward and per replayed layer.

    Where stderr is not a terminal, only runs that take long show it, and seldom.
    """

    def __init__(self, what: str, quiet: bool) -> None:
        from tqdm import tqdm

        pause = 0.1 if sys.stderr.isatty() else 10.0  # seconds
        bar_format = "{desc:<34} |{bar:30}| {percentage:3.0f}% {elapsed}<{remaining}"
        self.bar = tqdm(
            desc=what, disable=quiet, file=sys.stderr, leave=False, bar_format=bar_format, mininterval=pause,
            delay=0 if sys.stderr.isatty() else pause,
        )  # fmt: skip

    def expect(self, total: int) -> None:
        self.bar.total = total

    def say(self, text: str) -> None:
        """Print `text` on stdout, above the bar."""
        if sys.stderr.isatty():
            self.bar.clear()
        show(text)

    def __call__(self, what: str) -> None:
        self.bar.set_description_str(what, refresh=False)
        self.bar.update()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.bar.close()


@contextlib.contextmanager
def quiet_libraries(verbose: bool) -> Iterator[None]:
    """No warnings of torch and transformers, which would hide what this program has to say, unless `verbose`."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with warnings.catch_warnings():
        if not verbose:
            warnings.simplefilter("ignore")
            import transformers
            from huggingface_hub.utils import logging

            logging.set_verbosity_error()
            transformers.utils.logging.set_verbosity_error()
            transformers.utils.logging.disable_progress_bar()
            getLogger("accelerate").setLevel(ERROR)  # the manifest says which layers are where
        yield
