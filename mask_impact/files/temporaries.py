"""What is not complete yet: a hidden folder beside the files, and how its content takes their place.

    .NAME_results.HOST.PID-RANDOM.tmp/
        new files, under the names that they will have
        coming.json   these names, in the order in which they come
        leaving/    earlier files; the others are still in their place
        earlier/    all earlier files; new ones are coming into their place

No file system replaces several files at once. So the earlier files move into the hidden folder, the manifest first, and
the new ones come, their manifest last. A manifest always describes the files beside it, and files of two runs never lie
side by side. Whatever fails on the way, also by the death of the process, the earlier files are put back: at once, or
by the next command that holds the folder. Folders are synced after each move: a power failure cannot keep a later one
and lose an earlier.
"""

import contextlib
import json
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from mask_impact.errors import UserError

TEMPORARY = re.compile(r"\..+_results\.(?P<host>.*)\.(?P<pid>\d+)-\w+\.tmp", re.DOTALL)
COMING, LEAVING, EARLIER = "coming.json", "leaving", "earlier"


def temporary_folder(directory: Path, name: str) -> Path:
    """A new hidden folder."""
    prefix = f".{name}_results.{platform.node()}.{os.getpid()}-"
    return Path(tempfile.mkdtemp(prefix=prefix, suffix=".tmp", dir=directory))


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Where to write a file that takes the place of `path` when it is whole; after a failure `path` is as before."""
    folder = temporary_folder(path.parent, path.stem)
    try:
        yield folder / path.name
        sync_file(folder / path.name)
        os.replace(folder / path.name, path)
        _sync_folder(path.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def new_set(directory: Path, name: str, earlier: Sequence[Path]) -> Iterator[tuple[Path, list[str]]]:
    """A hidden folder to write files into, and the list in which to put their names, the manifest's last; they take the
    place of `earlier` files together, or nothing changes."""
    temporary, names = temporary_folder(directory, name), list[str]()
    try:
        yield temporary, names
        replace_set(temporary, earlier, names)
    finally:
        discard(temporary)


def check_replaceable(paths: Sequence[Path]) -> None:
    """Raises UserError for a folder where a file has to be written; said before the work."""
    for path in paths:
        if path.is_dir():
            raise UserError(f"{path} is a folder, and a file of this name has to be written; move it away")


def replace_set(temporary: Path, earlier: Sequence[Path], names: Sequence[str]) -> None:
    """Earlier files out of the way, new ones in.

    Args:
        temporary: the hidden folder with the new files.
        earlier: all that is there of an earlier set, in the order in which it goes, the manifest first.
        names: of the new files, in the order in which they come, the manifest last.
    """
    check_replaceable(earlier)
    (temporary / COMING).write_text(json.dumps(list(names)))
    for name in (*names, COMING):
        sync_file(temporary / name)
    try:
        _put_away(temporary, earlier)
        for name in names:
            _move(temporary / name, temporary.parent / name)
    except BaseException:
        _put_back(temporary)
        raise
    shutil.rmtree(temporary / EARLIER, ignore_errors=True)


def _put_away(temporary: Path, earlier: Sequence[Path]) -> None:
    (temporary / LEAVING).mkdir()
    for path in earlier:
        _move(path, temporary / LEAVING / path.name)
    _move(temporary / LEAVING, temporary / EARLIER)


def recover(temporary: Path) -> None:
    """What a killed process left of `replace_set`: the new files where all have come, else the earlier ones."""
    if (temporary / EARLIER).is_dir():
        names = _coming(temporary)
        come = [(temporary.parent / name).exists() and not (temporary / name).exists() for name in names[-1:]]
        if all(come):  # the last one, too; without names, all was done and the removal of the folder had begun
            shutil.rmtree(temporary / EARLIER, ignore_errors=True)
    _put_back(temporary)


def _coming(temporary: Path) -> list[str]:
    try:
        names = json.loads((temporary / COMING).read_text())
    except (OSError, ValueError):
        return []
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def _put_back(temporary: Path) -> None:
    """The earlier files into their place again, the manifest last, and new ones that have come already away."""
    away = temporary / EARLIER
    if away.is_dir():
        for name in reversed(_coming(temporary)):
            (temporary.parent / name).unlink(missing_ok=True)
    else:
        away = temporary / LEAVING
    found = sorted(away.iterdir(), key=lambda path: path.name.endswith("_run.json")) if away.is_dir() else []
    for path in found:
        _move(path, temporary.parent / path.name)


def _move(path: Path, target: Path) -> None:
    os.replace(path, target)
    for folder in {path.parent, target.parent}:
        _sync_folder(folder)


def discard(temporary: Path) -> None:
    """Remove the hidden folder; not one from which earlier files could not be put back, as the next command will."""
    if not any(each.is_dir() and any(each.iterdir()) for each in (temporary / LEAVING, temporary / EARLIER)):
        shutil.rmtree(temporary, ignore_errors=True)


def sync_file(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    """Make renames in a folder durable, where the system can (Windows and some network disks cannot)."""
    with contextlib.suppress(OSError):
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
