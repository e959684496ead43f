"""The page with a run inside, written while the run is measured.

The values wait in a file beside the report, so that memory does not grow with the run.
Shapes: as in page.py; a Block has P masked tokens.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from mask_impact.distances import DEFAULT_METRICS, METRICS
from mask_impact.files import page
from mask_impact.files.page import (
    PageTable,
    QueryStep,
    base64_size,
    fill,
    opened_instead,
    read_page,
    refusal,
    variant_order,
)
from mask_impact.files.pictures import data_url
from mask_impact.files.writers import Writer
from mask_impact.table import Block, Columns

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class _Piece:
    """A block in the waiting file: [V, P] float32 of each metric, one after the other."""

    query: QueryStep
    layer: int
    variants: Sequence[str]
    positions: np.ndarray  # [P]
    offset: int  # bytes


class ReportWriter(Writer):
    """The writer of the format html, and what `write_report` gives blocks to."""

    def __init__(self, path: Path, page: str | os.PathLike[str] | None = None) -> None:
        self._page = read_page(page)  # a missing page is reported before the run measures anything
        self._path = path
        self._values = path.with_name(f"{path.name}.values").open("w+b")
        self._pieces: list[_Piece] = []
        self._metrics: tuple[str, ...] = DEFAULT_METRICS  # those of the first block, when there is one
        self._queries: set[QueryStep] = set()
        self._layers: set[int] = set()
        self._variants: set[str] = set()
        self._tokens: dict[int, str] = {}
        self._rows = 0
        self._pictures: list[str | None] = []  # data URLs

    def write(self, block: Block) -> None:
        query = QueryStep(int(block.generation_step), block.query_position)
        self._metrics = block.metrics
        self._queries.add(query)
        self._layers.add(int(block.layer))
        self._variants.update(block.variants)
        self._tokens.update(zip(block.positions.tolist(), block.tokens, strict=True))
        self._rows += block.rows
        shape = [len(axis) for axis in (self._queries, self._variants, self._layers, self._tokens)]
        if base64_size(shape, metrics=len(self._metrics)) > page.MAX_BASE64:  # and it only grows
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
        self._values.write(np.ascontiguousarray(block.values.T, "<f4").tobytes())  # [M, V, P]

    def prepare(
        self, pictures: Sequence[Image.Image | None], others: Sequence[str], tables: Mapping[str, Columns] | None = None
    ) -> str | None:
        self._side = tables
        self._pictures = [None if picture is None else data_url(picture) for picture in pictures]
        reason = refusal(self.table(), self._pictures)
        return f"{reason}; {opened_instead(others[-1])}" if reason and others and self._rows else reason

    def finish(self, manifest: dict[str, Any]) -> None:
        with self._path.open("wb") as out:
            self.write_page(out, manifest.get("name") or self._path.stem.removesuffix("_results"), manifest)
        self._values.truncate(0)

    def write_page(self, out: BinaryIO, name: str, manifest: dict[str, Any] | None) -> None:
        """The page, after `prepare` gave None."""
        table = self.table(name)
        values = (self._slabs(table, metric) for metric in range(len(self._metrics)))
        fill(out, self._page, table, values, manifest, self._pictures, self._side)

    def table(self, name: str = "") -> PageTable:
        """What has been written so far."""
        tokens = dict(sorted(self._tokens.items()))
        variants = sorted(self._variants, key=variant_order)
        metrics = [METRICS[metric].described for metric in self._metrics]
        return PageTable(name, self._rows, sorted(self._queries), sorted(self._layers), variants, tokens, metrics)

    def _slabs(self, table: PageTable, metric: int) -> Iterator[np.ndarray]:
        """[L, T] for each query and variant."""
        places = np.array(list(table.tokens))
        layers = {layer: row for row, layer in enumerate(table.layers)}
        pieces: dict[QueryStep, list[tuple[_Piece, np.ndarray]]] = {query: [] for query in table.queries}
        for piece in self._pieces:
            pieces[piece.query].append((piece, np.searchsorted(places, piece.positions)))
        for query in table.queries:
            for variant in table.variants:
                slab = np.full((len(table.layers), len(places)), np.nan, "<f4")
                for piece, columns in pieces[query]:
                    if variant in piece.variants:
                        row = metric * len(piece.variants) + list(piece.variants).index(variant)
                        self._values.seek(piece.offset + 4 * row * len(columns))
                        values = np.frombuffer(self._values.read(4 * len(columns)), "<f4")
                        np.fmax.at(
                            slab[layers[piece.layer]], columns, values
                        )  # the largest where a position has several
                yield slab

    def close(self) -> None:
        self._values.close()
