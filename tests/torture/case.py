"""One bad input: the files it needs, the command, and how it is run in a process of its own.

In:  a `Case` and a folder with what cases start from (`stock`). Out: an `Outcome`: exit code, what was printed, seconds
and memory. A case runs in an empty folder, so that paths in messages are short and the same everywhere.
"""

import contextlib
import json
import os
import re
import resource
import shutil
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import latent_lens
import mask_impact_analysis
import mask_impact_vl
from mask_impact.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
MAINS: dict[str, Callable[[list[str]], int]] = {
    "text": mask_impact_analysis.main, "vl": mask_impact_vl.main, "lens": latent_lens.main,
}  # fmt: skip
SCRIPTS = {"text": "mask_impact_analysis.py", "vl": "mask_impact_vl.py", "lens": "latent_lens.py"}
SECONDS, BYTES = 20, 2 * 10**9  # of the processor and of memory, the most that a case may take

Make = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """`words`: a command line, "text --num-tokens x", or a function to call in its place."""

    name: str
    words: str | Sequence[str] | Callable[[], object]
    make: Make = lambda: None  # makes the files that it needs, in the current folder
    needs: tuple[str, ...] = ()  # files and folders of the stock

    @property
    def argv(self) -> list[str]:
        return self.words.split() if isinstance(self.words, str) else [str(word) for word in self.words]  # type: ignore[union-attr]


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str
    seconds: float  # of the processor
    memory: int  # bytes, at most

    @property
    def shown(self) -> str:
        """The exit code and what the user is told: errors, and what is done again or noted."""
        told = [line for line in self.out.splitlines() if line.startswith(("redo ", "note")) or " redo " in line]
        return "\n".join([str(self.code), *told, *self.err.splitlines()])

    @property
    def held(self) -> bool:
        """One line of error and exit code 2, or what is left is redone; within the time and the memory."""
        said = self.err.splitlines()
        refused = self.code == 2 and said and all(line.startswith(("error: ", "skipped: ")) for line in said)
        failed = self.code == 1 and len(said) == 1 and said[0].startswith("cannot run ")
        redone = self.code == 0 and not said and " redo " in self.out
        short = all(len(line) < 2000 and line.isprintable() for line in said)
        return (refused or failed or redone) and short and self.seconds <= SECONDS and self.memory <= BYTES


def run(case: Case, stock: Path) -> int:
    """Run it here and now, in the current folder, which is empty; the exit code."""
    for name in case.needs:
        if (stock / name).is_dir():
            shutil.copytree(stock / name, name)
        else:
            shutil.copy(stock / name, name)
    case.make()
    try:
        if not callable(case.words):
            name, *argv = case.argv
            sys.argv[0] = SCRIPTS[name]  # which messages name
            return MAINS[name](argv)
        case.words()
    except SystemExit as error:
        return int(error.code or 0)  # type: ignore[arg-type]
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def apart(case: Case, stock: Path, folder: Path, before: Callable[[], None] = lambda: None) -> Outcome:
    """Run it in a fork of this process, which has no threads; `before` is called in the fork, and there first."""
    shutil.rmtree(folder, ignore_errors=True)
    work = folder / "work"
    work.mkdir(parents=True)
    child = os.fork()
    if child == 0:
        code = 120
        try:
            with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
                os.dup2(out.fileno(), 1)
                os.dup2(err.fileno(), 2)
                sys.stdout = os.fdopen(1, "w", closefd=False)
                sys.stderr = os.fdopen(2, "w", closefd=False)
                os.chdir(work)
                resource.setrlimit(resource.RLIMIT_AS, (6 * 10**9, resource.RLIM_INFINITY))
                resource.setrlimit(resource.RLIMIT_CPU, (3 * SECONDS, 3 * SECONDS + 1))
                before()
                code = run(case, stock)
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)
    _, status, used = os.wait4(child, 0)
    texts = [_shown((folder / name).read_bytes()) for name in ("out", "err")]
    return Outcome(os.waitstatus_to_exitcode(status), *texts, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024)


def _shown(data: bytes) -> str:
    """What stays on a screen: a progress bar is gone."""
    return re.sub(r"[^\n]*\r", "", data.decode(errors="backslashreplace"))


# --- what makes files -------------------------------------------------------------------------------------------
def json_with(path: str, change: Any, *keys: str) -> Make:
    """JSON with other values for some keys of it, or of what it has under `keys`; `...` takes a key away."""

    def make() -> None:
        whole = json.loads(Path(path).read_text())
        part = whole
        for key in keys:
            part = part[key]
        for key, value in change.items():
            if value is ...:
                del part[key]
            else:
                part[key] = value
        Path(path).write_text(json.dumps(whole))

    return make


def file_of(path: str, content: str | bytes) -> Make:
    data = content.encode() if isinstance(content, str) else content

    def make() -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(data)

    return make


def all_of(*steps: Make) -> Make:
    return lambda: [step() for step in steps]


def cut(path: str, size: int) -> Make:
    """Only the first bytes of a file; negative: without the last."""
    return lambda: Path(path).write_bytes(Path(path).read_bytes()[:size])
