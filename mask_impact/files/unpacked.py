"""How large a file becomes when it is read: a packed file of 4 MB can hold gigabytes.

In:  a path. Out: nothing, or a UserError before anything is read into memory.
"""

import gzip
from pathlib import Path

from mask_impact.errors import UserError

MOST = 2**28  # bytes
TIMES = 20  # as many times its size on the disk is no more than tables become
PIECE = 2**20


def check_unpacked(path: Path, most: int) -> None:
    """Raises UserError for a file that becomes larger than `most` bytes, and than TIMES its size."""
    limit = max(most, TIMES * path.stat().st_size)
    if path.suffix.lower() == ".gz" and _more_than(path, limit):
        raise _bomb(path, "is unpacked", limit)
    if path.suffix.lower() == ".parquet" and _cells(path) * 8 > limit:
        raise _bomb(path, "is read", limit)


def _more_than(path: Path, limit: int) -> bool:
    """Whether a gzip file holds more than so many bytes; never more than a piece of them is in memory."""
    size = 0
    with gzip.open(path) as file:
        while piece := file.read(PIECE):
            size += len(piece)
            if size > limit:
                return True
    return False


def _cells(path: Path) -> int:
    import pyarrow.parquet as pq

    about = pq.read_metadata(path)
    return int(about.num_rows * about.num_columns)


def _bomb(path: Path, when: str, limit: int) -> UserError:
    return UserError(
        f"{path} becomes larger than {limit:,} bytes when it {when}; if that is right, give a larger max_bytes to load"
    )
