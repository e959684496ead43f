"""Processes that a test starts and waits for; none of them can outlive it or keep it waiting."""

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def started(command: list[str], **options: Any) -> Iterator[subprocess.Popen]:
    """Killed at the end, where it still runs: `Popen` by itself would wait for it then."""
    with subprocess.Popen(command, **options) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_until(condition: Callable[[], Any], process: subprocess.Popen, seconds: float = 300) -> None:
    """Until it holds, which a process is to bring about. Fails when it has ended without, or takes too long."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None or condition(), f"the process has ended with {process.returncode}"
        assert time.monotonic() < deadline, f"not within {seconds} seconds"
        time.sleep(0.02)
