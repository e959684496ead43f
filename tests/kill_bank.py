"""A bank whose build is killed again and again, for test_lens_bank.py: run as a script, in a process of its own.

In:  the captions, an output folder, after how many finished shards to kill, a folder for a build that is not killed.
Out: as JSON on stdout, after each kill the shards that were there, and the exit codes of the runs that came to the end.
"""

import json
import os
import signal
import sys
from pathlib import Path

from forking import exit_code, forked, wait_for

import latent_lens
from mask_impact.lens import bank

bank.SHARD_VALUES = 3000  # some 20 rows of the demo model
FLAGS = ["--batch-size", "4", "--quiet", "--model", "demo", "--max-per-token", "8"]


def build(captions: str, folder: Path) -> int:
    """The process that builds."""
    return forked(latent_lens.main, ["bank", "--captions", captions, "--output-dir", str(folder), "--resume", *FLAGS])


def shards(folder: Path) -> dict[str, int]:
    """Name and time of each."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("shard_*")}


def main() -> None:
    captions, folder = sys.argv[1], Path(sys.argv[2])
    seen = []
    for count in map(int, sys.argv[3].split(",")):
        child = build(captions, folder)
        wait_for(lambda count=count: len(shards(folder)) >= count, child)
        os.kill(child, signal.SIGKILL)
        assert exit_code(child) == -signal.SIGKILL, "it ended before it was killed"
        seen.append(shards(folder))
    codes = [exit_code(build(captions, path)) for path in (folder, Path(sys.argv[4]))]
    print(json.dumps({"seen": seen, "end": shards(folder), "codes": codes}))


if __name__ == "__main__":
    main()
