"""A batch that is killed again and again, for test_batch_processes.py: run as a script, in a process of its own.

In:  a config, a folder for an uninterrupted batch, one for the killed batch, how many times to kill, a seed.
Out: what was seen after each kill, as JSON on stdout: finished prompts and the moment after the one that was waited
     for, torn prompts, temporaries.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from functools import partial
from pathlib import Path

from forking import exit_code, forked, wait_for

import mask_impact_analysis
from mask_impact.files.results import load

batch = partial(forked, mask_impact_analysis.main)


def torn(manifests: list[str]) -> int:
    """How many runs have a manifest that does not describe the files beside it; to be run in a fork, for pyarrow has
    threads of its own."""
    wrong = 0
    for path in map(Path, manifests):
        try:
            manifest = json.loads(path.read_text("utf-8"))
            whole = all(len(load(path.parent / file)) == manifest["rows"] for file in manifest["files"])
        except Exception:
            whole = False
        wrong += not whole
    return wrong


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """When each file was written, and its size."""
    found = {path.name: path.stat() for path in folder.iterdir()} if folder.exists() else {}
    return {name: (stat.st_mtime_ns, stat.st_size) for name, stat in found.items()}


def finished(folder: Path) -> int:
    """How many prompts have a manifest."""
    return sum(path.name.endswith("_run.json") for path in folder.iterdir()) if folder.exists() else 0


def main() -> None:
    file, undisturbed, folder = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    kills, seed = map(int, sys.argv[4:])
    argv = ["--config", file, "--resume", "--quiet", "--output-dir"]
    chance = random.Random(seed)
    started = time.perf_counter()
    assert exit_code(batch([*argv, str(undisturbed)])) == 0
    whole = time.perf_counter() - started  # seconds of an uninterrupted batch
    argv.append(str(folder))
    seen: list[dict] = []
    known: dict[str, tuple[int, int]] = {}  # the files when they were read the last time
    while len(seen) < kills:
        # So many prompts later and some more seconds: time alone would be all loading on a machine that gets slower.
        awaited = finished(folder) + chance.randrange(4)
        child = batch(argv)
        wait_for(lambda awaited=awaited: finished(folder) >= awaited, child)
        moment = chance.uniform(0, 2 * whole / finished(undisturbed))
        time.sleep(moment)
        os.kill(child, signal.SIGKILL)
        if exit_code(child) != -signal.SIGKILL:  # it was faster: from the beginning
            shutil.rmtree(folder)
            continue
        temporaries = sum(path.name.endswith(".tmp") for path in folder.iterdir()) if folder.exists() else 0
        now = stamps(folder)
        touched = {
            name.split("_")[0] for name, _ in now.items() ^ known.items()
        }  # a prompt's files begin with its name
        manifests = [str(path) for path in folder.glob("*_run.json") if path.name.split("_")[0] in touched]
        wrong, known = exit_code(forked(torn, manifests)), now
        seen.append({"finished": finished(folder), "moment": moment, "torn": wrong, "temporaries": temporaries})
    code = exit_code(batch(argv))
    print(json.dumps({"seconds": whole, "kills": seen, "code": code}))


if __name__ == "__main__":
    main()
