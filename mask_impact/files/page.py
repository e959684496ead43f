"""NAME_results.html: the built viewer page with one run inside. One file, no network, opened by double click.

In:  the rows of a run (Blocks as they come, or a DataFrame), its manifest and its pictures.
Out: visualize_results.html with its empty data element filled, in the format that viewer/src/data/embed.ts describes.

    write_report("cat_results.html", df, df.attrs["run"], ["cat.jpg"])
    show(df)  # in a notebook
    write_neighbors("cat_neighbors.html", columns, manifest, [picture])  # what image tokens say, in the same page

While a run is written its values wait in a file beside the report, so memory does not grow with the run.
Shapes: S steps, or query positions where others were measured than those that predict the output; V variants, L layers,
T positions that were masked at any step; a Block has P of them.
"""

from __future__ import annotations

import base64
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np

from mask_impact.errors import UserError
from mask_impact.files.side_tables import as_json
from mask_impact.files.writers import manifest_text, reproducible
from mask_impact.table import CROSS, Columns, valid

if TYPE_CHECKING:
    from PIL import Image

    PictureSource = str | os.PathLike[str] | Image.Image

PAGE_NAME = "visualize_results.html"
PACKAGE = Path(__file__).resolve().parents[1]
EMPTY_ELEMENT = b'<script type="text/plain" id="mask-impact-data"></script>'  # as in viewer/src/data/embed.ts
EMBED_FORMAT = 1
MAX_BASE64 = 64_000_000  # bytes of base64 in one report: what a browser opens in a second or two and mail may carry


# --- the page ---------------------------------------------------------------------------------------------
def find_page() -> Path:
    """The built viewer, in a checkout or in the installed package. Raises UserError."""
    for root in (PACKAGE.parent, PACKAGE):
        if (root / PAGE_NAME).is_file():
            return root / PAGE_NAME
    raise UserError(
        f"the viewer is missing: no {PAGE_NAME} beside {PACKAGE}; get it from the repository, or leave html out of the "
        "formats (--format csv,json)"
    )


def read_page(page: str | os.PathLike[str] | None = None) -> tuple[bytes, bytes]:
    """The page before and after its data. Raises UserError if it is not the viewer or is filled already."""
    path = Path(page) if page is not None else find_page()
    parts = path.read_bytes().split(EMPTY_ELEMENT)
    if len(parts) != 2:
        raise UserError(f"{path} is not the viewer of mask-impact as it was built: it has no empty data element")
    start, end = EMPTY_ELEMENT.split(b"><")
    return parts[0] + start + b">", b"<" + end + parts[1]


class Query(NamedTuple):
    """What the first axis of a cube counts."""

    step: int
    position: int | None  # None: of a table without other query positions than those that predict the output


@dataclass
class Run:
    """What a page says of a run, apart from its numbers, manifest and pictures."""

    name: str
    rows: int
    queries: list[Query]  # rising
    layers: list[int]
    variants: list[str]
    tokens: dict[int, str]  # by position, rising

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self.queries), len(self.variants), len(self.layers), len(self.tokens)


def base64_size(shape: Sequence[int], pictures: Sequence[str | None] = ()) -> int:
    """Bytes of base64 that the numbers of a run of this shape [S, V, L, T] and its pictures take in a page."""
    return 2 * ((4 * math.prod(shape) + 2) // 3 * 4) + sum(len(picture or "") for picture in pictures)


def fill(
    out: BinaryIO,
    page: tuple[bytes, bytes],
    run: Run,
    metrics: Mapping[str, Iterable[np.ndarray]],
    manifest: dict[str, Any] | None,
    pictures: Sequence[str | None],
    effects: Columns | None = None,
) -> None:
    """Write the page with the run in it.

    `metrics` gives l2 and cosine in pieces, one after the other in the order of [S, V, L, T]; `pictures` are data URLs.
    `effects` are the columns of NAME_effects, where there is one.
    """
    before, after = page
    head = {
        "format": EMBED_FORMAT,
        "name": run.name,
        "rows": run.rows,
        "steps": [step for step, _ in run.queries],
        "layers": run.layers,
        "variants": run.variants,
        "positions": list(run.tokens),
        "tokens": list(run.tokens.values()),
    }
    if run.queries[0].position is not None:
        head["queries"] = [position for _, position in run.queries]
    out.write(before + _json(head)[:-1])
    for metric, pieces in metrics.items():
        out.write(b',"%s":"' % metric.encode())
        out.writelines(_base64(pieces))
        out.write(b'"')
    more = {} if effects is None else {"effects": {"columns": as_json(effects)}}
    out.write(b"," + _json(_about(manifest, pictures) | more)[1:] + after)


def _about(manifest: dict[str, Any] | None, pictures: Sequence[str | None]) -> dict[str, Any]:
    """What a page has besides the numbers; `pictures` are data URLs."""
    plain = None if manifest is None else json.loads(manifest_text(reproducible(manifest)))
    paths = [found.get("path") or "" for found in (plain or {}).get("images") or []]
    images = [
        picture and {"name": os.path.basename(paths[place]) if place < len(paths) else "", "data": picture}
        for place, picture in enumerate(pictures)
    ]
    return {"manifest": plain, "images": images}


def _json(value: Any) -> bytes:
    """Without "<": nothing in a text can end the element it stands in, or begin a comment."""
    return valid(json.dumps(value, ensure_ascii=False, separators=(",", ":"))).replace("<", "\\u003c").encode()


def _base64(pieces: Iterable[np.ndarray]) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        data = rest + piece.astype("<f4", copy=False).tobytes()
        whole = len(data) // 3 * 3
        rest = data[whole:]
        yield base64.b64encode(data[:whole])
    yield base64.b64encode(rest)


# --- a table ----------------------------------------------------------------------------------------------


# --- blocks as they come ----------------------------------------------------------------------------------


_INSTEAD = "open visualize_results.html and drop {} instead"


def _refusal(run: Run, pictures: Sequence[str | None]) -> str | None:
    """Why a run has no report, None if it has one."""
    if not run.rows:
        return "a run without rows has no report"
    size = base64_size(run.shape, pictures)
    if size <= MAX_BASE64:
        return None
    return _too_large(size)


def _too_large(size: int) -> str:
    return f"the report would be {size / 1e6:,.0f} MB; a page holds at most {MAX_BASE64 / 1e6:,.0f} MB"


def _variant_order(variant: str) -> tuple[bool, int, int, str]:
    """Full, Attn, Head_0, Head_1, ..., Head_10; then the same of cross-attention; other names after those."""
    name = variant.removeprefix(CROSS)
    first = ("Full", "Attn").index(name) if name in ("Full", "Attn") else 3
    head = re.fullmatch(r"Head_(\d+)", name)
    return (name != variant, *((2, int(head[1])) if head else (first, 0)), variant)


# --- pictures ---------------------------------------------------------------------------------------------
