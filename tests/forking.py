"""Processes that are killed by tests, as forks of one in which everything is imported already.

Importing takes longer than what is to be killed, so that nearly all kills would fall into it. The process that forks
has done nothing else: torch's threads do not survive a fork ("Invalid thread pool!" in the child, now and then).
"""

import os
import time
import traceback
from collections.abc import Callable

import torch

import mask_impact.jobs.session  # noqa: F401 - brings what a command imports late


def forked(command: Callable[[list[str]], int], argv: list[str]) -> int:
    """The process that runs the command."""
    assert len(os.listdir("/proc/self/task")) == 1, "other threads would be missing in the child, with what they hold"
    child = os.fork()
    if child == 0:
        code = 1
        try:
            torch.set_num_threads(1)
            code = command(argv)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return child


def wait_for(condition: Callable[[], bool], child: int) -> None:
    """Until it holds, or until the child has ended; it stays to be waited for."""
    while not condition() and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(0.001)


def exit_code(child: int) -> int:
    """When it has ended; as of `subprocess`, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
