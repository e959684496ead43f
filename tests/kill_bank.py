"""A bank whose build is killed again and again, for test_lens_bank.py: run as a script, in a process of its own.

In:  the captions, an output folder, after how many finished shards to kill, a folder for a build that is not killed.
Out: as JSON on stdout, after each kill the shards that were there, and the exit codes of the runs that came to the end.

The process that is killed is a fork of this one, which has built a small bank before: everything is imported once.
"""

import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch

import latent_lens
from mask_impact.lens import bank

bank.SHARD_VALUES = 3000  # some 20 rows of the demo model
FLAGS = ["--batch-size", "4", "--quiet", "--model", "demo", "--max-per-token", "8"]


def build(captions: str, folder: Path, *more: str) -> int:
    return latent_lens.main(["bank", "--captions", captions, "--output-dir", str(folder), "--resume", *FLAGS, *more])


def forked(captions: str, folder: Path) -> int:
    """The process that builds."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = build(captions, folder)
        finally:
            os._exit(code)
    return child


def shards(folder: Path) -> dict[str, int]:
    """Name and time of each."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("shard_*")}


def main() -> None:
    captions, folder = sys.argv[1], Path(sys.argv[2])
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as elsewhere:
        assert build(captions, Path(elsewhere), "--num-captions", "4") == 0
    seen = []
    for count in map(int, sys.argv[3].split(",")):
        child = forked(captions, folder)
        while len(shards(folder)) < count:
            time.sleep(0.001)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), "it was faster"
        seen.append(shards(folder))
    codes = [os.WEXITSTATUS(os.waitpid(forked(captions, path), 0)[1]) for path in (folder, Path(sys.argv[4]))]
    print(json.dumps({"seen": seen, "end": shards(folder), "codes": codes}))


if __name__ == "__main__":
    main()
