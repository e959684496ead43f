"""Batches in real processes: killed, two at once, several for one batch, a disk that is full."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import checkpoints
import pytest
from prepared import PREPARED
from started import started, wait_until
from test_batch import PROMPTS, ROOT, SCRIPT, statuses, tables, write_config

import mask_impact_analysis
from mask_impact.commands.processes import Processes
from mask_impact.errors import UserError

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
TWO = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "--no_python"]
TORCHRUN = [*PREPARED, *TWO, *PREPARED]
ACCELERATE = [*PREPARED, "-m", "accelerate.commands.launch", "--num_processes", "2", "--cpu", "--no_python", *PREPARED]
KILLS = 10


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.qwen3(tmp_path_factory.mktemp("batch") / "good")


def run(command: list[Any], **more: Any) -> subprocess.CompletedProcess:
    words = [str(part) for part in command]
    return subprocess.run(words, capture_output=True, text=True, timeout=600, env=ENVIRONMENT, check=False, **more)


def demo_prompts(count: int) -> dict[str, Any]:
    """Prompts of the demo model's kind, one to three tokens each."""
    names, colors = ("Tom", "Ann", "Eve", "Max"), ("red", "blue", "green", "black", "white")
    made = [f"{name} has a {color} ball. {name}'s ball is" for name in names for color in colors]
    return {f"p{i:02}": {"prompt": made[i], "num_tokens": 1 + i % 3} for i in range(count)}


def test_killed_at_random_moments_and_resumed(here):
    """Byte-identical to an uninterrupted batch in the end, and no torn file at any moment."""
    write_config(here / "night.yaml", demo_prompts(20), "formats: [csv, json, parquet, html]", "demo")
    killed = run([*PREPARED, ROOT / "tests" / "kill_batch.py", "night.yaml", "whole", "killed", KILLS, 0])
    assert killed.returncode == 0, killed.stderr
    seen = json.loads(killed.stdout)
    assert seen["code"] == 0 and len(seen["kills"]) == KILLS
    assert [kill for kill in seen["kills"] if kill["torn"] != 0] == []
    assert len({kill["finished"] for kill in seen["kills"]}) > 4  # the kills were spread over the batch
    assert sum(kill["temporaries"] for kill in seen["kills"]) >= 2  # and fell into the writing of prompts
    expected, found = tables(here / "whole"), tables(here / "killed")
    assert len(expected) == 20 * 5 and found == expected
    assert [path.name for path in (here / "killed").glob(".*")] == [".mask_impact.lock"]


def test_two_batches_into_one_folder_at_once(here, good, capsys):
    """The first is halted in the middle meanwhile."""
    many = {f"p{i}": {"prompt": "The capital of France is", "num_tokens": 20} for i in range(4)}
    write_config(here / "night.yaml", many, "formats: [csv]", good)
    flags = ["--config", "night.yaml"]
    command = [sys.executable, str(SCRIPT), *flags]
    say = "error: another run is writing into output; wait for it to end, or choose another --output-dir\n"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with started(command, env=ENVIRONMENT, **pipes) as first:
        wait_until(lambda: list(here.glob("output/*_run.json")), first)
        first.send_signal(signal.SIGSTOP)
        for second in ([*flags, "--resume"], ["--model", str(good), "--prompt", "The"]):
            assert mask_impact_analysis.main(second) == 2
            assert capsys.readouterr() == ("", say)
        first.send_signal(signal.SIGCONT)
        out, err = first.communicate(timeout=300)
    assert first.returncode == 0 and "4 done" in out, err
    assert mask_impact_analysis.main([*flags, "--resume"]) == 0 and set(statuses().values()) == {"kept"}


def test_several_processes_give_the_files_of_one(here, good, capsys):
    """torchrun starts two. `accelerate launch --cpu` starts one, more only with MPI."""
    prompts = PROMPTS | {"long": "a" + " is" * 80, "later": {"prompt": "The", "enabled": False}}
    write_config(here / "night.yaml", prompts, "formats: [csv, json, parquet, html]", good)
    flags = [SCRIPT, "--config", "night.yaml", "--output-dir"]  # --device auto: each its own
    one = mask_impact_analysis.main([*flags[1:], "one"])
    ended = {"one": subprocess.CompletedProcess(flags, one, *capsys.readouterr())}
    ended |= {name: run([*by, *flags, name]) for name, by in (("torchrun", TORCHRUN), ("accelerate", ACCELERATE))}
    assert len(tables(here / "one")) == 3 * 5
    expected = dict.fromkeys(PROMPTS, "done") | {"long": "failed", "later": "disabled"}
    for name, process in ended.items():
        assert process.returncode == 1 and process.stdout.count("output or error") == 1, process.stderr  # one table
        written = json.loads((here / name / "night_batch.json").read_text("utf-8"))
        assert tables(here / name) == tables(here / "one")
        assert written["processes"] == (2 if name == "torchrun" else 1)
        assert [found["name"] for found in written["prompts"]] == list(prompts)
        assert {found["name"]: found["status"] for found in written["prompts"]} == expected
    kept = run([*TORCHRUN, *flags, "torchrun", "--resume"])
    assert kept.stdout.count(" kept ") == 3 and tables(here / "torchrun") == tables(here / "one")


FAILING = """
import os, sys
import mask_impact_analysis
from mask_impact.model import load
if os.environ["RANK"] == "1":
    def fails(*args, **more):
        raise RuntimeError("CUDA error: device is broken")
    load.load_model = fails
sys.exit(mask_impact_analysis.main())
"""


def test_a_process_that_fails_is_reported_and_hangs_nobody(here, good):
    (here / "failing.py").write_text(FAILING)
    write_config(here / "night.yaml", {f"p{i}": "The capital" for i in range(4)}, "formats: [csv]", good)
    ended = run([*TORCHRUN, "failing.py", "--config", "night.yaml", "--device", "cpu"])
    assert ended.returncode == 1
    assert statuses() == {"p0": "done", "p1": "done", "p2": "failed", "p3": "failed"}
    assert ended.stdout.count("unexpected failure: CUDA error: device is broken") >= 2
    assert mask_impact_analysis.main(["--config", "night.yaml", "--device", "cpu", "--resume"]) == 0
    assert list(statuses().values()) == ["kept", "kept", "done", "done"]


LATE = """
import os, sys, time
if os.environ["RANK"] == "0":
    time.sleep(2)
import mask_impact_analysis
sys.exit(mask_impact_analysis.main())
"""


def test_bad_input_to_several_processes_is_told_once(here, good):
    """Also where the first process is late: the launcher would end it as soon as the second has gone."""
    (here / "late.py").write_text(LATE)
    write_config(here / "night.yaml", {"a": "The"}, "formats: [xlsx]", good)
    ended = run([*TORCHRUN, "late.py", "--config", "night.yaml"])
    assert ended.returncode != 0 and len(re.findall("error: night.yaml", ended.stderr)) == 1
    write_config(here / "night.yaml", {"a": "The"}, "formats: [csv]", good)
    ended = run([*TORCHRUN, SCRIPT, "--config", "night.yaml", "--device-map", "auto"])
    say = "--device-map spreads one model over all devices, but 2 processes were started"
    assert ended.returncode != 0 and say in ended.stderr and not (here / "output").exists()


def test_one_device_for_several_processes(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="2 processes were started, each for a device of its own, but --device mps is"):
        Processes("mps")


ROOMY = """
import shutil, sys
import mask_impact_analysis
shutil.disk_usage = lambda path: shutil._ntuple_diskusage(10**10, 0, 10**10)
sys.exit(mask_impact_analysis.main())
"""


@pytest.fixture
def small_disk(here):
    """A disk of 400 kB."""
    disk = here / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", disk], capture_output=True, check=False
    ).returncode:
        pytest.skip("this user may not mount a tmpfs; test_batch.py simulates a full disk")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_disk_that_runs_full(here, good, small_disk):
    """In the middle of a prompt, as when others fill it after the free space was looked at."""
    prompts = {"small": "The capital", "large": {"prompt": "a" + " is" * 30, "num_tokens": 30}, "last": "The capital"}
    write_config(here / "night.yaml", prompts, "formats: [json]", good)
    (here / "roomy.py").write_text(ROOMY)
    ended = run([*PREPARED, "roomy.py", "--config", "night.yaml", "--output-dir", "disk"])
    assert ended.returncode == 1, ended.stderr
    found = {o["name"]: o for o in json.loads((small_disk / "night_batch.json").read_text())["prompts"]}
    assert [found[name]["status"] for name in prompts] == ["done", "failed", "done"]
    assert "the disk of the output folder disk is full" in found["large"]["error"]
    assert {path.name for path in small_disk.glob("[!.]*")} - {"index.html"} == {  # which may have room, or not
        "small_results.json", "small_run.json", "last_results.json", "last_run.json", "night_batch.json",
    }  # fmt: skip
