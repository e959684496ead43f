"""The built viewer page with one run inside: NAME_results.html. One file, no network, opened by double click.

In:  the values of a run, what they are about (`PageTable`), its manifest and its pictures.
Out: visualize_results.html with its empty data element filled, in the format that viewer/src/data/embed.ts describes.

page_writer.py fills the page while a run is measured, notebook.py from a finished table.

    write_report("cat_results.html", df, df.attrs["run"], ["cat.jpg"])
    show(df)  # in a notebook
    write_neighbors("cat_neighbors.html", columns, manifest, [picture])  # what image tokens say, in the same page

Shapes: S query steps, V variants, L layers, T positions that were masked at any step.
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
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from mask_impact.errors import UserError
from mask_impact.files.side_tables import as_json
from mask_impact.files.writers import manifest_text, reproducible
from mask_impact.table import CROSS, Columns, valid

PAGE_NAME = "visualize_results.html"
PACKAGE = Path(__file__).resolve().parents[1]
EMPTY_ELEMENT = b'<script type="text/plain" id="mask-impact-data"></script>'  # as in viewer/src/data/embed.ts
SHOWN = ("effects", "deepstack")  # of the tables beside the results
EMBED_FORMAT = 2  # of a run: a list of metrics. 1 had "l2" and "cosine" instead
NEIGHBORS_FORMAT = 1  # of a table of neighbors
MAX_BASE64 = 64_000_000  # bytes of base64 in one report: what a browser opens in a second or two and mail may carry


def find_page() -> Path:
    """The built viewer, in a checkout or in the installed package. Raises UserError."""
    for root in (PACKAGE.parent, PACKAGE):
        if (root / PAGE_NAME).is_file():
            return root / PAGE_NAME
    raise UserError(
        f"the viewer is missing: no {PAGE_NAME} beside {PACKAGE}; get it from the repository, or leave html out of "
        "`formats`"
    )


def read_page(page: str | os.PathLike[str] | None = None) -> tuple[bytes, bytes]:
    """The page before and after its data. Raises UserError if it is not the viewer or is filled already."""
    path = Path(page) if page is not None else find_page()
    parts = path.read_bytes().split(EMPTY_ELEMENT)
    if len(parts) != 2:
        raise UserError(f"{path} is not the viewer of mask-impact as it was built: it has no empty data element")
    start, end = EMPTY_ELEMENT.split(b"><")
    return parts[0] + start + b">", b"<" + end + parts[1]


class QueryStep(NamedTuple):
    """What the first axis of the values counts: a generation step, at one query position."""

    step: int
    position: int | None  # None: of a table without other query positions than those that predict the output


@dataclass
class PageTable:
    """What the values in a page are about."""

    name: str
    rows: int
    queries: list[QueryStep]  # rising
    layers: list[int]
    variants: list[str]
    tokens: dict[int, str]  # by position, rising
    metrics: list[dict[str, Any]]  # as `Metric.described`

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self.queries), len(self.variants), len(self.layers), len(self.tokens)


def base64_size(shape: Sequence[int], pictures: Sequence[str | None] = (), metrics: int = 2) -> int:
    """Bytes of base64 in a page: the values of `metrics` metrics of this shape [S, V, L, T], and the pictures."""
    return metrics * ((4 * math.prod(shape) + 2) // 3 * 4) + sum(len(picture or "") for picture in pictures)


def fill(
    out: BinaryIO,
    page: tuple[bytes, bytes],
    table: PageTable,
    values: Iterable[Iterable[np.ndarray]],
    manifest: dict[str, Any] | None,
    pictures: Sequence[str | None],
    tables: Mapping[str, Columns] | None = None,
) -> None:
    """Write the page with the run in it.

    Args:
        page: as `read_page` gives it.
        values: for each of `table.metrics`, float32 in pieces, one after the other in the order of [S, V, L, T].
        pictures: data URLs.
        tables: the columns of the tables beside the results, by kind; the page shows those in `SHOWN`.
    """
    before, after = page
    head = {
        "format": EMBED_FORMAT,
        "name": table.name,
        "rows": table.rows,
        "steps": [step for step, _ in table.queries],
        "layers": table.layers,
        "variants": table.variants,
        "positions": list(table.tokens),
        "tokens": list(table.tokens.values()),
        "metrics": table.metrics,
    }
    if table.queries[0].position is not None:
        head["queries"] = [position for _, position in table.queries]
    out.write(before + json_in_page(head)[:-1] + b',"values":[')
    for place, pieces in enumerate(values):
        out.write(b',"' if place else b'"')
        out.writelines(_base64(pieces))
        out.write(b'"')
    more = {kind: {"columns": as_json(columns)} for kind, columns in (tables or {}).items() if kind in SHOWN}
    out.write(b"]," + json_in_page(manifest_and_images(manifest, pictures) | more)[1:] + after)


def manifest_and_images(manifest: dict[str, Any] | None, pictures: Sequence[str | None]) -> dict[str, Any]:
    """What every page has besides its table; `pictures` are data URLs."""
    plain = None if manifest is None else json.loads(manifest_text(reproducible(manifest)))
    paths = [found.get("path") or "" for found in (plain or {}).get("images") or []]
    images = [
        picture and {"name": os.path.basename(paths[place]) if place < len(paths) else "", "data": picture}
        for place, picture in enumerate(pictures)
    ]
    return {"manifest": plain, "images": images}


def json_in_page(value: Any) -> bytes:
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


def refusal(table: PageTable, pictures: Sequence[str | None]) -> str | None:
    """Why a run has no report, None if it has one."""
    if not table.rows:
        return "a run without rows has no report"
    size = base64_size(table.shape, pictures, len(table.metrics))
    return too_large(size) if size > MAX_BASE64 else None


def too_large(size: int) -> str:
    """Why a page with `size` bytes of base64 is not written."""
    return f"the report would be {size / 1e6:,.0f} MB; a page holds at most {MAX_BASE64 / 1e6:,.0f} MB"


def opened_instead(what: str) -> str:
    """What to do with a run that has no page of its own."""
    return f"open visualize_results.html and drop {what} instead"


def variant_order(variant: str) -> tuple[bool, int, int, str]:
    """A key to sort by: Full, Attn, Head_0, Head_1, ..., Head_10; the same of cross-attention; then other names."""
    name = variant.removeprefix(CROSS)
    first = ("Full", "Attn").index(name) if name in ("Full", "Attn") else 3
    head = re.fullmatch(r"Head_(\d+)", name)
    return (name != variant, *((2, int(head[1])) if head else (first, 0)), variant)
