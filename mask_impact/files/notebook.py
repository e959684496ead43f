"""The page with a finished table inside: in a notebook cell, or as a file."""

from __future__ import annotations

import base64
import contextlib
import html
import io
import os
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from mask_impact.errors import UserError
from mask_impact.files import page as viewer
from mask_impact.files.columns import described_metrics, known_columns
from mask_impact.files.page import (
    NEIGHBORS_FORMAT,
    PageTable,
    QueryStep,
    fill,
    json_in_page,
    manifest_and_images,
    opened_instead,
    read_page,
    refusal,
    too_large,
    variant_order,
)
from mask_impact.files.page_writer import ReportWriter
from mask_impact.files.pictures import data_url, opened
from mask_impact.files.side_tables import json_bytes
from mask_impact.files.temporaries import replacing
from mask_impact.table import QUERY_POSITION, Block, Columns, checked

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image

    PictureSource = str | os.PathLike[str] | Image.Image


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
    if size > viewer.MAX_BASE64:
        raise UserError(f"{too_large(size)}; {opened_instead('the table as Parquet or CSV')}, with its _run.json")
    head = {"format": NEIGHBORS_FORMAT, "name": path.stem, "neighbors": packed.decode()}
    with _replacing(path) as out:
        out.write(before + json_in_page(head | manifest_and_images(manifest, pictures)) + after)
    return path


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when it is whole."""
    with replacing(path) as made, made.open("wb") as out:
        yield out


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


def _write_table(
    out: BinaryIO,
    df: pd.DataFrame,
    name: str,
    page: tuple[bytes, bytes],
    manifest: dict[str, Any] | None,
    pictures: Sequence[str | None],
) -> None:
    """The page for a table in any order; of rows for the same cell the last one counts."""
    try:
        known_columns(df.columns, manifest)
    except UserError as error:
        raise UserError(f"the table {error}") from None
    ints = {column: df[column].to_numpy(np.int64) for column in ("generation_step", "layer", "token_position")}
    layers, layer = np.unique(ints["layer"], return_inverse=True)
    positions, token = np.unique(ints["token_position"], return_inverse=True)
    asked = df[QUERY_POSITION].to_numpy(np.int64) if QUERY_POSITION in df.columns else None
    size = 1 if asked is None else int(asked.max(initial=0)) + 1
    keys, query = np.unique(ints["generation_step"] * size + (0 if asked is None else asked), return_inverse=True)
    queries = [QueryStep(key // size, None if asked is None else key % size) for key in keys.tolist()]
    variants = sorted(map(str, df["variant"].unique()), key=variant_order)
    texts = df.drop_duplicates("token_position", keep="last").set_index("token_position")["token_masked"]
    tokens = {int(position): str(texts[position]) for position in positions}
    metrics = described_metrics(df.columns, manifest)
    table = PageTable(name, len(df), queries, layers.tolist(), variants, tokens, metrics)
    if reason := refusal(table, pictures):
        raise UserError(f"{reason}; {opened_instead('the table as Parquet or CSV')}")
    variant = df["variant"].astype(str).map({each: place for place, each in enumerate(variants)}).to_numpy(np.int64)
    cells = np.ravel_multi_index((query, variant, layer, token), table.shape)

    def pieces(column: str) -> Iterator[np.ndarray]:
        cube = np.full(int(np.prod(table.shape)), np.nan, "<f4")
        cube[cells] = df[column].to_numpy("<f4")
        yield from (cube[start : start + (1 << 18)] for start in range(0, cube.size, 1 << 18))

    fill(out, page, table, (pieces(metric["column"]) for metric in metrics), manifest, pictures)
