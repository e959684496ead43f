"""Commands that are killed before each of their file operations, and at random: no file is torn, none is lost.

In:  a folder of `stock`, and how many kills. Out: how many there were, and what was wrong after them, in words.

A command is run once to count its operations: what Python's audit hooks tell of the output folder. Then it is forked
anew for each of them and killed just before it; and as often as is left, at a random moment. After each kill the next
command takes the folder, as it would: what it finds must be the earlier files or the new ones, each as they were
written, and nothing else. What was killed before the first file was complete leaves what was there.
"""

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from forking import exit_code, forked

from mask_impact.files.checksums import checksum
from mask_impact.files.folder import output_folder
from torture.case import MAINS
from torture.stock import PICTURE

OPERATIONS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate")  # and opening to write
LOCK = ".mask_impact.lock"


@dataclass(frozen=True)
class Killed:
    """A command that is killed. `earlier`: what is in its output folder before, a folder of the stock."""

    name: str
    words: Sequence[str]
    earlier: str | None = None

    def run(self, more: Sequence[str] = ()) -> int:
        main, *argv = self.words
        return MAINS[main]([*argv, *more, "--quiet", "--output-dir", "out"])


TEXT = ["text", "--model", "model", "--prompt", "Tom has a ball.", "--layers", "0", "--format", "csv,json,parquet,html"]
BATCH = ["text", "--config", "night.yaml", "--layers", "0", "--format", "csv,json"]
EFFECTS = [
    "text",
    "--model",
    "model",
    "--prompt",
    "Tom has",
    "--layers",
    "0",
    "--effects",
    "--mask-layers",
    "0",
    "--format",
    "csv",
]
BANK = ["lens", "bank", "--model", "vl", "--captions", "captions.txt"]
FEATURES = [
    "lens",
    "features",
    "--model",
    "vl",
    "--images",
    "testimg.png",
    "--layers",
    "1",
    "--save-features",
    "--output",
    "f",
]
NEAR = [
    "lens",
    "neighbors",
    "--model",
    "vl",
    "--bank",
    "bank",
    *PICTURE,
    "--output",
    "n",
    "--layers",
    "0",
    "--format",
    "csv,json",
]
COMMANDS = [
    Killed("a prompt", [*TEXT, "--output", "a"]),
    Killed("a prompt, --overwrite", [*TEXT, "--output", "a", "--overwrite"], "runs"),
    Killed("a batch", BATCH),
    Killed("a batch, --overwrite", [*BATCH, "--overwrite"], "runs"),
    Killed("effects, --overwrite", [*EFFECTS, "--output", "e", "--overwrite"], "effects"),
    Killed("bank", [*BANK, "--resume"]),
    Killed("bank, --overwrite", [*BANK, "--max-per-token", "3", "--overwrite"], "bank"),
    Killed("features", [*FEATURES, "--resume"]),
    Killed("features, --overwrite", [*FEATURES, "--feature-format", "pt", "--overwrite"], "features"),
    Killed("neighbors, --overwrite", [*NEAR, "--overwrite"], "near"),
]


def operations(folder: Path, act: Callable[[int], None]) -> None:
    """From now on, call `act` with a number before each operation on files of the folder."""
    inside, count = str(folder.resolve()) + os.sep, 0

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal count
        writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if not writes and event not in OPERATIONS:
            return
        if isinstance(args[0], str | bytes | os.PathLike) and os.path.abspath(os.fsdecode(args[0])).startswith(inside):
            count += 1
            act(count)

    sys.addaudithook(hook)


# --- is everything whole? ---------------------------------------------------------------------------------------
def torn(folder: Path) -> list[str]:
    """What of the finished sets of files in a folder is not as it was written."""
    found = [why for path in folder.glob("*.json") for why in _torn(path)]
    return found + [f"{path.name} is left" for path in folder.iterdir() if path.name.endswith(".tmp")]


def _torn(path: Path) -> Iterator[str]:
    try:
        about = json.loads(path.read_text())
    except ValueError:
        yield f"{path.name} is torn"
        return
    if not isinstance(about, dict):
        return
    sums = about.get("checksums") or {}
    for name, expected in sums.items():
        if not (path.parent / name).is_file() or checksum(path.parent / name) != expected:
            yield f"{name} is not the one of {path.name}"
    for each in [about["contexts"], *about["shards"]] if about.get("shards") else []:
        file = path.parent / each["file"]
        if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != each["sha256"]:
            yield f"{file.name} is not the one of {path.name}"
    if path.name.startswith("extraction_summary_"):
        yield from _torn_features(path, about)


def _torn_features(path: Path, about: dict[str, Any]) -> Iterator[str]:
    stored = about["request"]["stored"]
    for layer in about["request"]["layers"] if stored else ():
        file = path.parent / f"features_f_layer_{layer}.{stored['format']}"
        if (
            not file.is_file()
            or file.stat().st_size < about["images"][-1]["rows"][1] * about["model"]["hidden_size"] * 2
        ):
            yield f"{file.name} is not the one of {path.name}"


def sets(folder: Path) -> set[str]:
    """The manifests of finished sets."""
    names = set()
    for path in folder.glob("*.json") if folder.exists() else ():
        about = json.loads(path.read_text())
        if isinstance(about, dict) and (path.name.endswith("_run.json") or about.get("shards") or "images" in about):
            names.add(path.name)
    return names


# --- killing --------------------------------------------------------------------------------------------------
@dataclass
class Found:
    kills: int = 0
    failed: int = 0  # kills after which something was wrong
    wrong: list[str] = field(default_factory=list)


def killed_everywhere(command: Killed, stock: Path, work: Path, most: int, seed: int) -> Found:
    """Kill a command `most` times: before every operation, as far as there are so many, then at random moments."""
    found, chance = Found(), random.Random(seed)
    count, seconds = _counted(command, stock, work)
    places = list(range(1, count + 1))
    chance.shuffle(places)
    for place in (*places[:most], *[0] * (most - count)):
        _prepare(command, stock, work)
        child = forked(lambda argv, place=place: _until(command, place), [])
        if not place:
            time.sleep(chance.uniform(0, 1.2 * seconds))
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        code = exit_code(child)
        if code not in (0, -signal.SIGKILL):
            found.failed += 1
            found.wrong.append(f"{command.name}, operation {place}: exit code {code}")
        found.kills += code == -signal.SIGKILL
        wrong = _after(command, stock)
        found.failed += bool(wrong)
        found.wrong += [f"{command.name}, operation {place or 'random'}: {why}" for why in wrong]
    _prepare(command, stock, work)
    return found


def _until(command: Killed, place: int) -> int:
    if place:
        operations(Path("out"), lambda number: os.kill(os.getpid(), signal.SIGKILL) if number == place else None)
    return command.run()


def _counted(command: Killed, stock: Path, work: Path) -> tuple[int, float]:
    """How many operations there are, and how long all takes."""
    _prepare(command, stock, work)

    def count(argv: list[str]) -> int:
        operations(Path("out"), lambda number: Path("count").write_text(str(number)))
        return command.run()

    started = time.perf_counter()
    assert exit_code(forked(count, [])) == 0, f"{command.name} fails"
    return int(Path("count").read_text()), time.perf_counter() - started


def _prepare(command: Killed, stock: Path, work: Path) -> None:
    """Everything that the command needs, in the current folder."""
    if not (work / "model").exists():
        shutil.copytree(stock, work, dirs_exist_ok=True)
    os.chdir(work)
    shutil.rmtree("out", ignore_errors=True)
    if command.earlier:
        shutil.copytree(stock / command.earlier, "out")


def _after(command: Killed, stock: Path) -> list[str]:
    """What is wrong with the folder after a kill: once the next command has it, and once the command has been run to
    its end."""
    out = Path("out")
    if out.exists():
        assert exit_code(forked(_taken, [])) == 0, "the next command cannot take the folder"
    before = sets(stock / command.earlier) if command.earlier else set()
    wrong = torn(out) if out.exists() else []
    wrong += [f"{name} is lost" for name in before - sets(out)]
    return wrong


def _taken(argv: list[str]) -> int:
    with output_folder(Path("out")):
        return 0
