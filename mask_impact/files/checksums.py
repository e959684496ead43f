"""Checksums of result files, as the manifest has them: a file that was changed, cut or emptied is recognised."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

KEY = "checksums"  # of the manifest; manifests of older versions do not have it


def checksum(path: Path) -> str:
    """BLAKE2b of 16 bytes, in hexadecimal: about a second for a gigabyte, far less than writing it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def recorded(folder: Path, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What a manifest says of these files in a folder: their sizes and checksums."""
    return {
        "bytes": {name: (folder / name).stat().st_size for name in names},
        KEY: {name: checksum(folder / name) for name in names},
    }


def changed(path: Path, manifest: Mapping[str, Any]) -> str | None:
    """Why a file is not as it was written; None if it is, or if its manifest does not say how it was written."""
    sizes, sums = manifest.get("bytes"), manifest.get(KEY)
    if any(known is not None and path.name not in known for known in (sizes, sums)):
        return f"the size or checksum of {path.name} is not recorded"
    if sizes is not None and (size := path.stat().st_size) != sizes[path.name]:
        return f"{path.name} has {size} bytes, and {sizes[path.name]} were written"
    if sums is not None and checksum(path) != sums[path.name]:
        return f"{path.name} has been changed since it was written"
    return None
