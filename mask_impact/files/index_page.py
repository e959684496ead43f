"""The page of a folder of runs: index.html, the viewer with one row for each run inside.

In:  rows, as commands/index.py makes them. Out: a file of about 200 kB and half a kilobyte for each run.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mask_impact.errors import UserError
from mask_impact.files.page import json_in_page, read_page
from mask_impact.files.temporaries import replacing

INDEX = "index.html"
INDEX_FORMAT = 2  # of the data element, viewer/src/data/embed.ts
MARK = b'id="mask-impact-data"'  # what every page of this program has


def check_ours(path: Path) -> None:
    """Raises UserError for a file of this name that somebody else has written."""
    if path.is_dir() or (path.exists() and MARK not in path.read_bytes()):
        raise UserError(f"{path} is a page of something else and is kept; move it, or choose another `output_dir`")


def write_index(path: Path, name: str, rows: Sequence[dict[str, Any]]) -> None:
    """Write the page, all or nothing.

    Args:
        name: what its title says.

    Raises UserError where `path` is a page of something else.
    """
    check_ours(path)
    before, after = read_page()
    data = {"format": INDEX_FORMAT, "name": name, "index": list(rows)}
    with replacing(path) as temporary:
        temporary.write_bytes(before + json_in_page(data) + after)
