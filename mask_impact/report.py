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
import contextlib
import html
import io
import json
import math
import os
import re
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np

from mask_impact.errors import UserError
from mask_impact.extra import Columns, as_json, json_bytes
from mask_impact.table import COLUMNS, CROSS, QUERY_POSITION, Block, checked, valid
from mask_impact.writers import Writer, manifest_text, reproducible

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image

    PictureSource = str | os.PathLike[str] | Image.Image

PAGE_NAME = "visualize_results.html"
PACKAGE = Path(__file__).resolve().parent
EMPTY_ELEMENT = b'<script type="text/plain" id="mask-impact-data"></script>'  # as in viewer/src/data/embed.ts
EMBED_FORMAT = 2
MAX_BASE64 = 64_000_000  # bytes of base64 in one report: what a browser opens in a second or two and mail may carry
LONGEST_SIDE = 1024  # pixels of an embedded picture
PNG_BYTES = 200_000  # a picture that is larger as PNG (a photograph) is embedded as JPEG


def write_report(
    path: str | os.PathLike[str],
    table_or_blocks: pd.DataFrame | Iterable[Block],
    manifest: dict[str, Any] | None = None,
    images: Sequence[PictureSource | None] | None = None,
    page: str | os.PathLike[str] | None = None,
) -> Path:
    """Write a run as a page of its own, all or nothing, and return its path.

    Args:
        path: where to, usually NAME_results.html; a file that is there is replaced.
        table_or_blocks: the table, as `run_masking_experiment` or `read_csv` gives it, or its Blocks.
        manifest: of the run; without it, `df.attrs["run"]`, or none: the page then knows texts and numbers only.
        images: the pictures of `manifest["images"]` in order, as files or PIL images, None for one that is missing;
            without it, those that are still where the manifest says and have not changed.
        page: the built viewer, if it is not the one that comes with this package.

    Raises UserError for a run that is larger than a page may hold (MAX_BASE64), or without rows.
    """
    path = Path(path)
    manifest = _manifest_of(table_or_blocks, manifest)
    pictures = opened(manifest, images)
    name = (manifest or {}).get("name") or path.stem.removesuffix("_results")
    with _replacing(path) as out:
        _write(out, table_or_blocks, name, page, manifest, pictures)
    return path


def write_neighbors(
    path: str | os.PathLike[str],
    columns: Columns,
    manifest: dict[str, Any] | None = None,
    images: Sequence[PictureSource | None] | None = None,
    page: str | os.PathLike[str] | None = None,
) -> Path:
    """Write the neighbours of image tokens as a page of their own, all or nothing, and return its path.

    Args:
        path: where to, usually NAME_neighbors.html; a file that is there is replaced.
        columns: of NAME_neighbors.csv (docs/latent-lens.md), one list or array each, all of one length.
        manifest: what is in NAME_neighbors_run.json, or none: the page then knows no picture, model and bank.
        images, page: as in `write_report`.

    The table is in the page as the zlib stream of its JSON. Raises UserError if that and the pictures take more
    than MAX_BASE64, or for a table without rows.
    """
    path = Path(path)
    if not len(columns["rank"]):
        raise UserError("a table without rows has no report")
    before, after = read_page(page)
    pictures = [None if picture is None else data_url(picture) for picture in opened(manifest, images)]
    packed = base64.b64encode(zlib.compress(json_bytes(columns)))
    size = len(packed) + sum(len(picture or "") for picture in pictures)
    if size > MAX_BASE64:
        raise UserError(f"{_too_large(size)}; {_INSTEAD.format('the table as Parquet or CSV')}, with its _run.json")
    head = {"format": EMBED_FORMAT, "name": path.stem, "neighbors": packed.decode()}
    with _replacing(path) as out:
        out.write(before + _json(head | _about(manifest, pictures)) + after)
    return path


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when it is whole."""
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent) as folder:
        made = Path(folder) / path.name
        with made.open("wb") as out:
            yield out
        os.replace(made, path)


def show(
    df: pd.DataFrame,
    height: int = 800,
    images: Sequence[PictureSource | None] | None = None,
    page: str | os.PathLike[str] | None = None,
) -> Notebook:
    """The viewer with this table, for the last line of a notebook cell.

    Works for what `run_masking_experiment` and `run_vl_masking_experiment` return, and for any table with the columns
    of docs/output-format.md. `images` and `page` are as in `write_report`. The page is part of the notebook's output:
    it needs no server, is saved with the notebook and sees nothing of it.
    """
    manifest = _manifest_of(df, None)
    out = io.BytesIO()
    _write(out, df, (manifest or {}).get("name") or "run", page, manifest, opened(manifest, images))
    return Notebook(out.getvalue().decode(), height)


@dataclass(frozen=True)
class Notebook:
    """A page that Jupyter and its relatives show inline."""

    page: str
    height: int  # CSS pixels

    def _repr_html_(self) -> str:
        return (
            f'<iframe srcdoc="{html.escape(self.page)}" sandbox="allow-scripts allow-downloads" '
            f'allow="clipboard-write" title="mask impact" '
            f'style="width: 100%; height: {self.height}px; border: 0"></iframe>'
        )

    def __repr__(self) -> str:
        return f"<mask impact viewer, {len(self.page) / 1e6:.1f} MB>"


def _manifest_of(table: Any, manifest: dict[str, Any] | None) -> dict[str, Any] | None:
    return manifest if manifest is not None else getattr(table, "attrs", {}).get("run")


def _write(
    out: BinaryIO,
    table_or_blocks: pd.DataFrame | Iterable[Block],
    name: str,
    page: str | os.PathLike[str] | None,
    manifest: dict[str, Any] | None,
    pictures: Sequence[Image.Image | None],
) -> None:
    import pandas as pd

    if isinstance(table_or_blocks, pd.DataFrame):
        urls = [None if picture is None else data_url(picture) for picture in pictures]
        return _write_table(out, table_or_blocks, name, read_page(page), manifest, urls)
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.closing(ReportWriter(Path(folder) / "blocks", page)) as writer,
    ):
        for block in table_or_blocks:
            writer.write(checked(block))
        if reason := writer.prepare(pictures, ["the table as Parquet or CSV"]):
            raise UserError(reason)
        writer.write_page(out, name, manifest)


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


class Metric(NamedTuple):
    """As in a manifest, and in the page."""

    name: str
    column: str
    title: str
    unit: str
    range: tuple[float | None, float | None]  # None: no limit


METRICS = (
    Metric("l2", "l2_distance", "L2 distance", "model units", (0, None)),
    Metric("cosine", "cosine_distance", "Cosine distance", "", (0, 2)),
)


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
    return len(METRICS) * ((4 * math.prod(shape) + 2) // 3 * 4) + sum(len(picture or "") for picture in pictures)


def fill(
    out: BinaryIO,
    page: tuple[bytes, bytes],
    run: Run,
    metrics: Sequence[tuple[Metric, Iterable[np.ndarray]]],
    manifest: dict[str, Any] | None,
    pictures: Sequence[str | None],
    effects: Columns | None = None,
) -> None:
    """Write the page with the run in it.

    `metrics` gives the numbers of each in pieces, in the order of [S, V, L, T]; `pictures` are data URLs.
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
        "metrics": [metric._asdict() for metric, _ in metrics],
    }
    if run.queries[0].position is not None:
        head["queries"] = [position for _, position in run.queries]
    out.write(before + _json(head)[:-1] + b',"values":[')
    for place, (_, pieces) in enumerate(metrics):
        out.write(b',"' if place else b'"')
        out.writelines(_base64(pieces))
        out.write(b'"')
    out.write(b"]")
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
def _write_table(
    out: BinaryIO,
    df: pd.DataFrame,
    name: str,
    page: tuple[bytes, bytes],
    manifest: dict[str, Any] | None,
    pictures: Sequence[str | None],
) -> None:
    """The page for a table in any order; of rows for the same cell the last one counts."""
    if missing := [column for column in COLUMNS if column not in df.columns]:
        raise UserError(f"the table has no column {missing[0]!r}; a result table has {', '.join(COLUMNS)}")
    ints = {column: df[column].to_numpy(np.int64) for column in ("generation_step", "layer", "token_position")}
    layers, layer = np.unique(ints["layer"], return_inverse=True)
    positions, token = np.unique(ints["token_position"], return_inverse=True)
    asked = df[QUERY_POSITION].to_numpy(np.int64) if QUERY_POSITION in df.columns else None
    size = 1 if asked is None else int(asked.max(initial=0)) + 1
    keys, query = np.unique(ints["generation_step"] * size + (0 if asked is None else asked), return_inverse=True)
    queries = [Query(key // size, None if asked is None else key % size) for key in keys.tolist()]
    variants = sorted(map(str, df["variant"].unique()), key=_variant_order)
    texts = df.drop_duplicates("token_position", keep="last").set_index("token_position")["token_masked"]
    tokens = {int(position): str(texts[position]) for position in positions}
    run = Run(name, len(df), queries, layers.tolist(), variants, tokens)
    if reason := _refusal(run, pictures):
        raise UserError(f"{reason}; {_INSTEAD.format('the table as Parquet or CSV')}")
    variant = df["variant"].astype(str).map({each: place for place, each in enumerate(variants)}).to_numpy(np.int64)
    cells = np.ravel_multi_index((query, variant, layer, token), run.shape)

    def pieces(column: str) -> Iterator[np.ndarray]:
        cube = np.full(int(np.prod(run.shape)), np.nan, "<f4")
        cube[cells] = df[column].to_numpy("<f4")
        yield from (cube[start : start + (1 << 18)] for start in range(0, cube.size, 1 << 18))

    fill(out, page, run, [(metric, pieces(metric.column)) for metric in METRICS], manifest, pictures)


# --- blocks as they come ----------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Piece:
    """A block in the waiting file: [V, P] of each of METRICS, one after the other, float32."""

    query: Query
    layer: int
    variants: Sequence[str]
    positions: np.ndarray  # [P]
    offset: int  # bytes


class ReportWriter(Writer):
    """One of results.FORMATS, and what `write_report` gives blocks to."""

    def __init__(self, path: Path, page: str | os.PathLike[str] | None = None) -> None:
        self._page = read_page(page)  # a page that is missing is found before the long work
        self._path = path
        self._values = path.with_name(f"{path.name}.values").open("w+b")
        self._pieces: list[_Piece] = []
        self._queries: set[Query] = set()
        self._layers: set[int] = set()
        self._variants: set[str] = set()
        self._tokens: dict[int, str] = {}
        self._rows = 0
        self._pictures: list[str | None] = []  # data URLs

    def write(self, block: Block) -> None:
        query = Query(int(block.generation_step), block.query_position)
        self._queries.add(query)
        self._layers.add(int(block.layer))
        self._variants.update(block.variants)
        self._tokens.update(zip(block.positions.tolist(), block.tokens, strict=True))
        self._rows += block.rows
        shape = [len(axis) for axis in (self._queries, self._variants, self._layers, self._tokens)]
        if base64_size(shape) > MAX_BASE64:  # and it only grows
            self._pieces.clear()
            self._values.seek(0)
            self._values.truncate()
            return
        positions, variants = block.positions, block.variants
        last = self._pieces[-1] if self._pieces else None
        if last and np.array_equal(last.positions, positions) and list(last.variants) == list(variants):
            positions, variants = last.positions, last.variants  # most often: one array for all layers of a query
        else:
            positions = positions.copy()
        self._pieces.append(_Piece(query, block.layer, variants, positions, self._values.tell()))
        for values in (block.l2, block.cosine):
            self._values.write(np.ascontiguousarray(values.T, "<f4").tobytes())

    def prepare(
        self, pictures: Sequence[Image.Image | None], others: Sequence[str], tables: Mapping[str, Columns] | None = None
    ) -> str | None:
        self._effects = (tables or {}).get("effects")
        self._pictures = [None if picture is None else data_url(picture) for picture in pictures]
        reason = _refusal(self.run(), self._pictures)
        return f"{reason}; {_INSTEAD.format(others[-1])}" if reason and others and self._rows else reason

    def finish(self, manifest: dict[str, Any]) -> None:
        with self._path.open("wb") as out:
            self.write_page(out, manifest.get("name") or self._path.stem.removesuffix("_results"), manifest)
        self._values.truncate(0)

    def write_page(self, out: BinaryIO, name: str, manifest: dict[str, Any] | None) -> None:
        run = self.run(name)
        metrics = [(metric, self._slabs(run, place)) for place, metric in enumerate(METRICS)]
        fill(out, self._page, run, metrics, manifest, self._pictures, self._effects)

    def run(self, name: str = "") -> Run:
        """What has been written so far."""
        tokens = dict(sorted(self._tokens.items()))
        variants = sorted(self._variants, key=_variant_order)
        return Run(name, self._rows, sorted(self._queries), sorted(self._layers), variants, tokens)

    def _slabs(self, run: Run, metric: int) -> Iterator[np.ndarray]:
        """[L, T] for each query and variant."""
        places = np.array(list(run.tokens))
        layers = {layer: row for row, layer in enumerate(run.layers)}
        pieces: dict[Query, list[tuple[_Piece, np.ndarray]]] = {query: [] for query in run.queries}
        for piece in self._pieces:
            pieces[piece.query].append((piece, np.searchsorted(places, piece.positions)))
        for query in run.queries:
            for variant in run.variants:
                slab = np.full((len(run.layers), len(places)), np.nan, "<f4")
                for piece, columns in pieces[query]:
                    if variant in piece.variants:
                        row = metric * len(piece.variants) + list(piece.variants).index(variant)
                        self._values.seek(piece.offset + 4 * row * len(columns))
                        slab[layers[piece.layer], columns] = np.frombuffer(self._values.read(4 * len(columns)), "<f4")
                yield slab

    def close(self) -> None:
        self._values.close()


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
def opened(manifest: dict[str, Any] | None, images: Sequence[PictureSource | None] | None) -> list[Image.Image | None]:
    """The pictures of a run, upright RGB; None for one that is not there. Raises UserError for a wrong number."""
    from mask_impact.images import open_picture

    described = (manifest or {}).get("images") or []
    if images is None:
        return [_unchanged(found) for found in described]
    if manifest is not None and len(images) != len(described):
        raise UserError(
            f"{len(images)} images were given, but the manifest names {len(described)}; None stands for a missing one"
        )
    return [None if image is None else open_picture(image).image for image in images]


def _unchanged(described: dict[str, Any]) -> Image.Image | None:
    """The picture the manifest tells of, if its file is still there."""
    from mask_impact.images import open_picture

    try:
        picture = open_picture(described["path"])
    except (UserError, KeyError):
        return None
    return picture.image if picture.sha256 == described.get("sha256") else None


def data_url(picture: Image.Image) -> str:
    """At most LONGEST_SIDE pixels a side; PNG keeps every pixel of a drawing, a photograph becomes JPEG."""
    from PIL import Image

    image = picture.convert("RGB")
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    kind, data = "png", _saved(image, "PNG")
    if len(data) > PNG_BYTES:
        kind, data = "jpeg", _saved(image, "JPEG", quality=90)
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _saved(image: Image.Image, fmt: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, fmt, icc_profile=None, **options)
    return out.getvalue()
