"""The output folder: one command at a time, nothing left of failed and killed ones.

pytest tests/test_folder.py
pytest tests/test_folder.py -k processes       # real ones, killed and side by side
"""

import errno
import os
import platform
import re
import signal
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import pytest
from test_results import make_block, names, save

from mask_impact.errors import UserError
from mask_impact.files.folder import LOCK_NAME, output_folder, remove_temporaries, writing
from mask_impact.files.results import ResultFiles

ROOT = Path(__file__).resolve().parents[1]
BUSY = "another run is writing into {}; wait for it to end, or choose another `output_dir`"
FOREIGN = ".other_results.another.machine.999999999-abc_12.tmp"  # of a process that may live, elsewhere

HOLDING = """
    import sys
    sys.path[:0] = [{root!r}, {tests!r}]
    from test_results import make_block
    from mask_impact.files.folder import output_folder
    from mask_impact.files.results import ResultFiles
    from pathlib import Path
    with output_folder(Path({folder!r})), ResultFiles({folder!r}, "first", ["csv"]) as files:
        files.write(make_block())
        print("holds", flush=True)
        sys.stdin.readline()
        files.commit({{}})
"""


@pytest.fixture
def holding(tmp_path):
    """Starts another process in the middle of a run into a folder; its stdin lets it go on."""
    started = []

    def start(folder: Path) -> subprocess.Popen:
        code = HOLDING.format(root=str(ROOT), tests=str(ROOT / "tests"), folder=str(folder))
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout.readline() == "holds\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


# --- one at a time ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("coming", [None, "", "[]", "{", '{"a": 1}', "[1, null]"])
def test_what_was_killed_while_it_was_removed_stops_nothing(tmp_path, coming):
    hidden = tmp_path / ".x_results.vm.99999-abcd.tmp"
    (hidden / "earlier").mkdir(parents=True)
    if coming is not None:
        (hidden / "coming.json").write_text(coming)
    with output_folder(tmp_path):
        assert not hidden.exists()


def test_of_two_processes_the_second_says_so(tmp_path, holding):
    first = holding(tmp_path)
    before = names(tmp_path)
    with pytest.raises(UserError) as raised, output_folder(tmp_path):
        pytest.fail("both have the folder")
    assert str(raised.value) == BUSY.format(tmp_path)
    assert names(tmp_path) == before and any(name.startswith(".first_results.") for name in before)
    first.communicate("\n")
    assert first.returncode == 0 and names(tmp_path) == [LOCK_NAME, "first_results.csv", "first_run.json"]
    with output_folder(tmp_path):
        save(tmp_path, [make_block()], ["csv"], name="second")
    assert "second_run.json" in names(tmp_path)


def test_killed_processes_leave_no_lock_and_the_next_run_cleans(tmp_path, holding):
    first = holding(tmp_path / "new")
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert [name for name in names(tmp_path / "new") if name.endswith(".tmp")]
    with output_folder(tmp_path / "new"):
        assert names(tmp_path / "new") == [LOCK_NAME]
        save(tmp_path / "new", [make_block()], ["csv"], name="second")  # the cleaning is of any name
    assert names(tmp_path / "new") == [LOCK_NAME, "second_results.csv", "second_run.json"]


def test_one_process_cannot_take_a_folder_twice(tmp_path):
    with output_folder(tmp_path):
        with pytest.raises(UserError, match="another run is writing"), output_folder(tmp_path):
            pytest.fail("both have the folder")
        with output_folder(tmp_path / "below"):
            pass


def test_the_lock_is_free_after_a_failure(tmp_path):
    for _ in range(2):
        with pytest.raises(KeyError), output_folder(tmp_path):
            raise KeyError
    assert names(tmp_path) == [LOCK_NAME]


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_a_file_system_without_locks(tmp_path, monkeypatch, number):
    """Without a lock: filelock must not take a file in its place, which a killed run would leave for ever."""

    def unknown(*args: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", unknown)
    (tmp_path / FOREIGN).mkdir()
    with warnings.catch_warnings(action="error"), output_folder(tmp_path), output_folder(tmp_path):
        save(tmp_path, [make_block()], ["csv"])
    assert set(names(tmp_path)) - {LOCK_NAME} == {FOREIGN, "run_results.csv", "run_run.json"}


# --- temporaries ------------------------------------------------------------------------------------------
def ended_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_every_temporary_goes_under_the_lock_and_nothing_else(tmp_path):
    here, dead = platform.node(), ended_process()
    ours = [f".a_results.{here}.{os.getpid()}-x1.tmp", f".b c_results.{here}.{dead}-y_2.tmp", FOREIGN]
    others = [".a_results.csv.k3j2.tmp", "a_results.host.1-x.tmp", ".a_results.host.1-x.tmp.bak", ".a.1-x.tmp", "a.csv"]
    for name in (*ours, *others):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")
    with output_folder(tmp_path):
        assert names(tmp_path) == sorted([*others, LOCK_NAME])


def test_without_the_lock_only_those_of_dead_processes_here(tmp_path):
    here, dead = platform.node(), ended_process()
    living, gone = f".a_results.{here}.{os.getpid()}-x1.tmp", f".b_results.{here}.{dead}-x1.tmp"
    for name in (living, gone, FOREIGN):
        (tmp_path / name).mkdir()
    assert [path.name for path in remove_temporaries(tmp_path, alone=False)] == [gone]
    assert names(tmp_path) == sorted([living, FOREIGN])


def test_processes_of_one_batch_leave_each_other_alone(tmp_path, holding):
    """The first has the lock; the others do not ask for it, and no ResultFiles touches a sibling's temporaries."""
    holding(tmp_path)
    before = names(tmp_path)
    (hidden,) = [name for name in before if name.endswith(".tmp")]
    assert re.fullmatch(rf"\.first_results\.{re.escape(platform.node())}\.\d+-\w+\.tmp", hidden)
    with output_folder(tmp_path, lock=False):
        save(tmp_path, [make_block()], ["csv"], name="first")  # even one of the same name
    assert names(tmp_path) == sorted([*before, "first_results.csv", "first_run.json"])


# --- folders ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("lock", [True, False])
def test_a_failure_removes_the_folders_that_were_made(tmp_path, lock):
    (tmp_path / "mine").mkdir()
    with pytest.raises(KeyboardInterrupt), output_folder(tmp_path / "mine" / "a" / "b", lock):
        assert (tmp_path / "mine" / "a" / "b").is_dir()
        raise KeyboardInterrupt
    assert names(tmp_path) == ["mine"] and names(tmp_path / "mine") == []


def test_a_folder_that_is_not_empty_stays(tmp_path):
    with pytest.raises(KeyError), output_folder(tmp_path / "a" / "b"):
        (tmp_path / "a" / "other").write_text("x")
        raise KeyError
    assert names(tmp_path) == ["a"] and names(tmp_path / "a") == ["other"]


def test_a_relative_folder_and_one_that_is_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("a/b", "a/../c", "."):
        with output_folder(Path(folder)):
            save(folder, [make_block()], ["csv"])
    assert names("a/b") == names("c") == [LOCK_NAME, "run_results.csv", "run_run.json"]


# --- errors in words --------------------------------------------------------------------------------------
def test_a_file_in_the_way(tmp_path):
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=r"is not a folder; choose another `output_dir`"), output_folder(folder):
            pytest.fail("it was opened")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("call", ["mkdir", "open"])
@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_folder_that_may_not_be_written(tmp_path, monkeypatch, call, number):
    """Simulated, because root may write everywhere: neither the folder nor the lock's file can be made."""
    before, folder = getattr(os, call), tmp_path / "a" / "output"

    def refuse(path: object, *args: object, **kwargs: object) -> object:
        if str(path).startswith(str(folder)):
            raise OSError(number, os.strerror(number), str(path))
        return before(path, *args, **kwargs)

    monkeypatch.setattr(os, call, refuse)
    wanted = rf"the output folder {folder} cannot be written \({os.strerror(number)}\); choose another `output_dir`"
    with pytest.raises(UserError, match=wanted), output_folder(folder):
        pytest.fail("it was opened")
    assert names(tmp_path) == []


@pytest.mark.parametrize(("error", "wanted"), [
    (OSError(errno.ENOSPC, "no"), "is full; nothing was written; make room, or choose another `output_dir`"),
    (OSError(errno.EDQUOT, "no"), "is full"), (OSError(errno.EIO, "Input/output error"), r"\(Input/output error\)"),
    (OSError("odd"), r"cannot be written \(odd\)"),
])  # fmt: skip
def test_errors_of_the_system(tmp_path, error, wanted):
    for place in (output_folder, writing):
        with pytest.raises(UserError, match=f"output folder .*{wanted}"), place(tmp_path):
            raise error


def test_other_errors_pass(tmp_path):
    for error in (BrokenPipeError(), UserError("mine"), ValueError("x")):
        with pytest.raises(type(error)) as raised, output_folder(tmp_path):
            raise error
        assert raised.value is error


@pytest.fixture
def small_disk(tmp_path, monkeypatch):
    """A folder on a disk of 256 kB; where none can be mounted, one where writing the third block fails."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        blocks, original = [], ResultFiles.write

        def write(self: ResultFiles, block: object) -> None:
            blocks.append(block)
            if len(blocks) > 2:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            original(self, block)

        monkeypatch.setattr(ResultFiles, "write", write)
    yield disk
    if mounted:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk(small_disk):
    blocks = [make_block(0, layer, [f"t{i}" for i in range(2000)]) for layer in range(9)]
    folder = small_disk / "output"
    with pytest.raises(UserError, match=f"the disk of the output folder {folder} is full"), output_folder(folder):
        save(folder, blocks, ["csv", "json"])
    assert names(small_disk) == []
