"""One writer for each format that other programs read, and what a writer is.

In:  checked Blocks, in the order they are to be written, and the manifest.
Out: one file each: CsvWriter, JsonWriter, ParquetWriter (page_writer.py has the report's).

The same blocks and the same `reproducible` part of a manifest give the same bytes.
Shapes: P masked tokens, V variants, M metrics; P * V rows a block. pyarrow is imported where it is used.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import numpy as np
import orjson

from mask_impact.files.arrow import arrow_batch, arrow_schema
from mask_impact.files.columns import columns_of
from mask_impact.table import COLUMNS, Block, valid

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    Pictures = Sequence[Image.Image | None]  # upright RGB; None: not there

ROW_GROUP_ROWS = 131_072  # Parquet: blocks are gathered until a row group has at least this many rows
# Keys of the manifest that change when the same inputs are run again, or from another place.
VOLATILE = ("created", "argv", "config", "seconds", "peak_memory_mb", "bytes", "checksums")


class Writer(Protocol):
    """Writes one file. `write` gets checked blocks of 1 to about PART_ROWS rows."""

    def __init__(self, path: Path) -> None: ...
    def write(self, block: Block) -> None: ...
    def prepare(
        self, pictures: Pictures, others: Sequence[str], tables: Mapping[str, dict[str, list[Any]]] | None = None
    ) -> str | None:
        """All blocks are written. Returns why this file cannot be written, None if it can.

        `others` are the names of the run's other files, `tables` are the side tables, by kind.
        """
        return None

    def finish(self, manifest: dict[str, Any]) -> None:
        """Complete the file; only after `prepare` gave None."""

    def close(self) -> None:
        """Close open files. Called after `finish`, or without it when the run failed."""


def _shortest(values: np.ndarray) -> bytes:
    """JSON text of a float32 array, each number the shortest text that reads back as the same float32."""
    return orjson.dumps(np.ascontiguousarray(values), option=orjson.OPT_SERIALIZE_NUMPY)


class CsvWriter(Writer):
    """UTF-8, "\\n" line ends, one header line. Tokens are always quoted, as in RFC 4180, numbers never."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._columns: tuple[str, ...] = ()  # the first block has them
        # The text between layer and metrics is the same for every layer of a step: keep the last one, and the last
        # one of cross-attention.
        self._middles = functools.lru_cache(maxsize=2)(_csv_middles)

    def write(self, block: Block) -> None:
        if not self._columns:
            self._begin(columns_of(block))
        values = block.values.reshape(-1, len(block.metrics))  # [P * V, M]
        middles = self._middles(tuple(block.tokens), tuple(block.positions.tolist()), tuple(block.variants))
        numbers = _shortest(values)[2:-2].split(b"],[")  # "[[a,b],[c,d]]" -> "a,b", "c,d"
        start = b"%d,%d," % (block.generation_step, block.layer)
        if block.places is not None:
            places = [b",%d,%d" % tuple(place) for place in block.places.tolist() for _ in block.variants]
            numbers = list(map(add, numbers, places))
        end = b"\n" if block.query_position is None else b",%d\n" % block.query_position
        self._file.writelines((start, (end + start).join(map(add, middles, numbers)), end))

    def _begin(self, columns: tuple[str, ...]) -> None:
        self._columns = columns
        self._file.write(",".join(columns).encode() + b"\n")

    def finish(self, manifest: dict[str, Any]) -> None:
        if not self._columns:
            self._begin(COLUMNS)
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _csv_middles(tokens: Sequence[str], positions: Sequence[int], variants: Sequence[str]) -> list[bytes]:
    """[P * V] the text of token_masked, token_position and variant in each row, a comma after each."""
    names = [name if name.isidentifier() else _csv_quoted(name) for name in variants]
    masks = [f"{_csv_quoted(token)},{position}," for token, position in zip(tokens, positions, strict=True)]
    return [f"{mask}{name},".encode() for mask in masks for name in names]


def _csv_quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


class JsonWriter(Writer):
    """One JSON object, one array per column. Each column goes to a file of its own; `finish` joins them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._columns: dict[str, BinaryIO] = {}  # the first block has them

    def _open(self, column: str) -> BinaryIO:
        return self._path.with_name(f"{self._path.name}.{column}").open("w+b")

    def write(self, block: Block) -> None:
        self._columns = self._columns or {column: self._open(column) for column in columns_of(block)}
        masks, variants = len(block.tokens), len(block.variants)
        texts = [  # every value has a comma before it
            b",%d" % block.generation_step * block.rows,
            b",%d" % block.layer * block.rows,
            b"".join([(b"," + orjson.dumps(token)) * variants for token in block.tokens]),
            b"".join([b",%d" % position * variants for position in block.positions.tolist()]),
            b"".join([b"," + orjson.dumps(variant) for variant in block.variants]) * masks,
            *(b"," + _shortest(block.of(metric).reshape(-1))[1:-1] for metric in block.metrics),
        ]
        if block.query_position is not None:
            texts.append(b",%d" % block.query_position * block.rows)
        if block.places is not None:
            texts += [b"".join(b",%d" % place * variants for place in column) for column in block.places.T.tolist()]
        for file, text in zip(self._columns.values(), texts, strict=True):
            file.write(text)

    def finish(self, manifest: dict[str, Any]) -> None:
        self._columns = self._columns or {column: self._open(column) for column in COLUMNS}
        with self._path.open("wb") as out:
            for place, (name, file) in enumerate(self._columns.items()):
                out.write(f'{"," if place else "{"}"{name}":['.encode())
                file.seek(1)  # past the comma before the first value
                shutil.copyfileobj(file, out, 1 << 20)
                out.write(b"]")
                file.truncate(0)  # so the disk never holds the table twice
            out.write(b"}\n")

    def close(self) -> None:
        with contextlib.ExitStack() as all_of_them:  # also when closing one of them fails
            for file in self._columns.values():
                all_of_them.enter_context(file)


class ParquetWriter(Writer):
    """Snappy, dictionary-coded strings, the manifest as JSON under the metadata key "mask_impact"."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: pq.ParquetWriter | None = None  # opened when the columns are known
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_rows = 0

    def write(self, block: Block) -> None:
        self._waiting.append(arrow_batch(block))
        self._waiting_rows += block.rows
        if self._waiting_rows >= ROW_GROUP_ROWS:
            self._write_row_group()

    def _write_row_group(self) -> pq.ParquetWriter:
        import pyarrow as pa

        schema = self._waiting[0].schema if self._waiting else arrow_schema()
        self._file = self._file or self._open(schema)
        if self._waiting:
            table = pa.Table.from_batches(self._waiting).unify_dictionaries()
            self._file.write_table(table, row_group_size=table.num_rows)
            self._waiting, self._waiting_rows = [], 0
        return self._file

    def _open(self, schema: pa.Schema) -> pq.ParquetWriter:
        import pyarrow as pa
        import pyarrow.parquet as pq

        return pq.ParquetWriter(
            self._path,
            schema,
            compression="snappy",
            write_page_checksum=True,  # so that a reader can tell a damaged file
            use_dictionary=[field.name for field in schema if not pa.types.is_floating(field.type)],
            store_schema=False,  # with it, readers would make the text columns categories
        )

    def finish(self, manifest: dict[str, Any]) -> None:
        file = self._write_row_group()
        file.add_key_value_metadata({"mask_impact": manifest_text(reproducible(manifest))})
        file.close()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


# --- the manifest in a file -------------------------------------------------------------------------------
def reproducible(manifest: dict[str, Any]) -> dict[str, Any]:
    """What Parquet and report embed: without VOLATILE, so that the same inputs give the same bytes.

    These files are sent to others, and a command line names folders of the user's machine, which is another reason.
    """
    return {key: value for key, value in manifest.items() if key not in VOLATILE}


def manifest_text(manifest: dict[str, Any]) -> str:
    """Readable JSON. Raises ValueError for NaN or inf, TypeError for a value JSON has no form for."""
    return valid(json.dumps(manifest, indent=2, ensure_ascii=False, allow_nan=False, default=_plain)) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"the manifest holds {value!r}, which JSON has no form for")
