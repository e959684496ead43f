"""What is on the progress line, and that libraries are left as they were."""

import fcntl
import io
import logging
import os
import pty
import struct
import sys
import termios
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import utils as hub
from started import started
from transformers.utils import logging as transformers_logging

from mask_impact.commands import terminal
from mask_impact.commands.terminal import ProgressBar, remaining
from mask_impact.model.quiet import quiet_libraries

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    ("seconds", "done", "total", "said"),
    [
        (4.9, 50, 100, "?"),  # too early
        (5.0, 50, 100, "00:05"),
        (5.0, 0, 100, "?"),
        (5.0, 50, None, "?"),
        (60.0, 1, 3, "02:00"),
        (100.0, 1, 100, "2:45:00"),
        (9.0, 12, 10, "00:00"),
    ],
)
def test_remaining_time(seconds: float, done: int, total: int | None, said: str) -> None:
    assert remaining(seconds, done, total) == said


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """clock(3.0): three seconds later."""
    now = [100.0]
    monkeypatch.setattr(terminal.time, "perf_counter", lambda: now[0])
    return lambda seconds: now.__setitem__(0, now[0] + seconds)


def test_no_remaining_time_before_enough_is_measured(monkeypatch: pytest.MonkeyPatch, clock: Callable) -> None:
    """Loading, which took 30 seconds, is not measuring."""
    monkeypatch.setattr(sys, "stderr", Terminal())
    with ProgressBar("demo: loading libraries", quiet=False) as bar:
        clock(30)
        bar.describe("loading demo")
        bar.expect(20)
        said = []
        for _ in range(20):
            bar("replay")
            said.append(str(bar.bar).rpartition("<")[2])
            clock(1)
    assert said[:5] == ["?"] * 5
    assert said[5:7] == ["00:15", "00:14"] and said[-1] == "00:01"


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo terminal")
def test_a_line_stands_before_torch_is_imported() -> None:
    """Where the import of torch would take long, something is said before."""
    code = (
        "import sys\n"
        "class Watch:\n"
        "    def find_spec(self, name, *more):\n"
        "        if name in ('torch', 'transformers'): sys.stderr.write(f'[import {name}]'); sys.exit(9)\n"
        "sys.meta_path.insert(0, Watch())\n"
        "import mask_impact_analysis\n"
        "mask_impact_analysis.main(['--model', 'demo', '--prompt', 'Hello'])\n"
    )
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    with started([sys.executable, "-c", code], cwd=ROOT, stderr=follower) as running:
        os.close(follower)
        shown = b""
        try:
            while part := os.read(leader, 4096):
                shown += part
        except OSError:  # the other end is closed
            pass
        os.close(leader)
        assert running.wait(60) == 9
    text = shown.decode()
    assert "demo: loading libraries" in text.partition("[import ")[0], text


@pytest.mark.parametrize("enabled", [True, False])
def test_libraries_are_left_as_they_were(enabled: bool) -> None:
    def state() -> tuple:
        loggers = [logging.getLogger(name) for name in ("huggingface_hub", "transformers", "accelerate")]
        levels = [logger.level for logger in loggers]
        bars = transformers_logging.is_progress_bar_enabled(), hub.are_progress_bars_disabled()
        return levels, bars, list(warnings.filters)

    def switch(on: bool) -> None:
        (transformers_logging.enable_progress_bar if on else transformers_logging.disable_progress_bar)()

    first = state()
    logging.getLogger("accelerate").setLevel(logging.INFO)
    transformers_logging.set_verbosity_info()
    switch(enabled)
    try:
        before = state()
        with pytest.raises(KeyError), quiet_libraries(verbose=False):
            inside = state()
            raise KeyError
        assert state() == before
        assert inside[0] == [logging.ERROR] * 3 and inside[1] == (False, True) and inside[2] != before[2]
        with quiet_libraries(verbose=True):
            assert state()[:2] == before[:2]
    finally:
        logging.getLogger("accelerate").setLevel(first[0][2])
        logging.getLogger("transformers").setLevel(first[0][1])
        switch(first[1][0])
