"""A batch that is killed again and again, for test_batch_processes.py: run as a script, in a process of its own.

In:  a config, a folder for an uninterrupted batch, one for the killed batch, how many times to kill, a seed.
Out: what was seen after each kill, as JSON on stdout: finished prompts and the moment after the one that was waited
     for, torn prompts, temporaries.

The process that is killed is a fork of this one, which has run a prompt before: everything is imported once (that takes
longer than the batch), and every kill falls into the batch itself.
"""

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch

import mask_impact_analysis
from mask_impact.files.results import load


def forked(argv: list[str]) -> int:
    """The process that runs the command."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = mask_impact_analysis.main(argv)
        finally:
            os._exit(code)
    return child


def torn(folder: Path) -> list[str]:
    """Runs whose manifest does not describe the files beside it."""
    wrong = []
    for path in folder.glob("*_run.json"):
        try:
            manifest = json.loads(path.read_text("utf-8"))
            whole = all(len(load(folder / file)) == manifest["rows"] for file in manifest["files"])
        except Exception:
            whole = False
        wrong += [] if whole else [path.name]
    return wrong


def finished(folder: Path) -> int:
    """How many prompts have a manifest."""
    return sum(path.name.endswith("_run.json") for path in folder.iterdir()) if folder.exists() else 0


def ended(child: int) -> bool:
    """Whether it ended by itself; it stays to be waited for."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def main() -> None:
    file, undisturbed, folder = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    kills, seed = map(int, sys.argv[4:])
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as elsewhere:
        assert (
            mask_impact_analysis.main(["--model", "demo", "--prompt", "Tom", "--quiet", "--output-dir", elsewhere]) == 0
        )
    argv = ["--config", file, "--resume", "--quiet", "--output-dir"]
    chance = random.Random(seed)
    started = time.perf_counter()
    assert os.waitpid(forked([*argv, str(undisturbed)]), 0)[1] == 0
    whole = time.perf_counter() - started  # seconds of an uninterrupted batch
    argv.append(str(folder))
    seen = []
    while len(seen) < kills:
        # So many prompts later and some more seconds: time alone would be all loading on a machine that gets slower.
        awaited = finished(folder) + chance.randrange(4)
        child = forked(argv)
        while finished(folder) < awaited and not ended(child):
            time.sleep(0.002)
        moment = chance.uniform(0, 2 * whole / finished(undisturbed))
        time.sleep(moment)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):  # it was faster: from the beginning
            shutil.rmtree(folder)
            continue
        temporaries = sum(path.name.endswith(".tmp") for path in folder.iterdir()) if folder.exists() else 0
        seen.append({"finished": finished(folder), "moment": moment, "torn": torn(folder), "temporaries": temporaries})
    code = os.WEXITSTATUS(os.waitpid(forked(argv), 0)[1])
    print(json.dumps({"seconds": whole, "kills": seen, "code": code}))


if __name__ == "__main__":
    main()
