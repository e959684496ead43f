"""Signals that ask a command to stop: Ctrl-C, SIGTERM, which job queues send before they kill, and SIGHUP, which comes
when the connection to the terminal is lost. Each of them ends the command with KeyboardInterrupt, and so with all that
is finished kept and nothing left of the rest.
"""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
TIDYING = 5.0  # seconds after a signal in which others are not heard, so that they do not disturb the tidying up


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Inside, the signals stop the command; one that is ignored, as SIGHUP under `nohup`, stays so."""
    if threading.current_thread() is not threading.main_thread():  # Python allows it nowhere else
        yield
        return
    heard = -TIDYING

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal heard
        if time.monotonic() - heard > TIDYING:
            heard = time.monotonic()
            raise KeyboardInterrupt

    numbers = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    taken = [number for number, handler in before.items() if handler not in (signal.SIG_IGN, None)]
    for number in taken:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, before[number])
