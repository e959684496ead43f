"""The output folder while a command writes into it: made, locked, tidied, and its errors put into words.

In:  a folder; what is to be written there happens inside `with output_folder(folder):`.
Out: UserErrors instead of OSErrors; after a failure nothing that was not there before.

Only one command at a time writes into a folder. The lock is the operating system's, on an open file: it ends with the
process, however that ends. So whoever has it may remove all that killed runs left.
"""

import contextlib
import errno
import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

from mask_impact.errors import UserError
from mask_impact.files.temporaries import TEMPORARY, recover

LOCK_NAME = ".mask_impact.lock"  # stays: removing it while others open it would give two of them a lock each
NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}  # of file systems without locks


class Held:
    """A folder that a command holds."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.identity = folder, _identity(folder)

    def check(self) -> None:
        """Raises UserError if the folder was removed meanwhile. Made anew, it would have no lock."""
        if _identity(self.folder) != self.identity:
            raise UserError(f"the output folder {self.folder} was removed or replaced in the middle of the work")


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


@contextlib.contextmanager
def output_folder(folder: Path, lock: bool = True) -> Iterator[Held]:
    """Make `folder` and hold it for everything inside; if that fails, folders made here are gone again.

    Args:
        lock: False in the further processes of a command that holds the folder already.

    Raises UserError if another command is writing there, and for every OSError inside.
    """
    with writing(folder), _made(folder) as made:
        if not lock:
            yield Held(folder)
            return
        with _locked(folder, remove_after_failure=folder in made) as alone:
            remove_temporaries(folder, alone)
            yield Held(folder)


def check_room(folder: Path, needed: int, what: str, less: str) -> None:
    """Raises UserError when the disk of the folder cannot hold `needed` bytes; `less`: what else would help."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{what} about {needed / 1e6:,.0f} MB, but the disk of {folder} has {free / 1e6:,.0f} MB free; choose "
            f"another `output_dir`, {less}"
        )


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """An OSError inside becomes a UserError about `folder`; for a part of the work whose failure stops nothing else."""
    try:
        yield
    except BrokenPipeError:
        raise
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f"the output folder {folder} is not a folder; choose another `output_dir`") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            message = f"the disk of the output folder {folder} is full; nothing was written; make room, or"
        else:
            why = os.strerror(error.errno) if error.errno else error  # pyarrow says it at length
            message = f"the output folder {folder} cannot be written ({why});"
        raise UserError(f"{message} choose another `output_dir`") from error


@contextlib.contextmanager
def _made(folder: Path) -> Iterator[list[Path]]:
    """Make a folder and those above it; after a failure inside, the made ones that are empty go."""
    made: list[Path] = []
    try:
        for path in (*reversed(folder.parents), folder):
            if not path.is_dir():
                with contextlib.suppress(FileExistsError):  # made by another process just now, or no folder: see below
                    path.mkdir()
                    made.append(path)
        folder.mkdir(exist_ok=True)
        yield made
    except BaseException:
        for path in reversed(made):
            with contextlib.suppress(OSError):  # not empty
                path.rmdir()
        raise


@contextlib.contextmanager
def _locked(folder: Path, remove_after_failure: bool) -> Iterator[bool]:
    """Hold the folder's lock; gives False where the file system knows no locks."""
    from filelock import FileLock, Timeout

    path = folder / LOCK_NAME
    lock = FileLock(path, fallback_to_soft=False)  # to a file as the lock, which would outlive a killed process
    alone = True
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"another run is writing into {folder}; wait for it to end, or choose another `output_dir`"
        ) from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        alone = False
    try:
        yield alone
    except BaseException:
        if remove_after_failure:
            if os.name == "nt":  # where an open file cannot be removed
                lock.release()
            with contextlib.suppress(OSError):
                path.unlink()
        raise
    finally:
        lock.release()


def remove_temporaries(folder: Path, alone: bool) -> list[Path]:
    """Tidy up after killed processes, whatever they wrote: the files that one was replacing are put back, and its
    hidden folder goes. Returns the folders that were removed.

    Without the lock (not `alone`) only what processes of this machine left that no longer exist: others may be writing.
    """
    found = [(path, TEMPORARY.fullmatch(path.name)) for path in folder.iterdir()]
    stale = [path for path, match in found if match and (alone or _is_dead(match["host"], int(match["pid"])))]
    for path in stale:
        recover(path)
        shutil.rmtree(path, ignore_errors=True)
    return stale


def _is_dead(host: str, pid: int) -> bool:
    if os.name != "posix" or host != platform.node():  # elsewhere os.kill(pid, 0) is not a question
        return False
    try:
        os.kill(pid, 0)  # signal 0 asks and sends nothing
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # another user's, or no process number
        return False
    return False
