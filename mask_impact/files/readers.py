"""One reader for each format: from a file to its table, and the manifest that is in it.

Each takes the path of a result file, or of a side table, and returns an Arrow table with the file's columns and the
manifest inside, or None. It raises any exception for a file that is damaged; reading.py words the error.

Shapes: S steps, L layers, T positions, V variants. pyarrow is imported where it is used.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from mask_impact.distances import METRICS
from mask_impact.files.arrow import arrow_schema
from mask_impact.files.columns import table_columns
from mask_impact.files.page import EMPTY_ELEMENT
from mask_impact.table import KEY_COLUMNS, QUERY_POSITION

if TYPE_CHECKING:
    import pyarrow as pa

    Content = tuple[pa.Table, dict[str, Any] | None]
    Reader = Callable[[Path], Content]

TEXT = ["token_masked", "variant"]


def read_parquet(path: Path) -> Content:
    import pyarrow.parquet as pq

    coded = [name for name in TEXT if name in pq.read_schema(path).names]  # a side table may have none
    with pq.ParquetFile(path, read_dictionary=coded, page_checksum_verification=True) as file:
        text = (file.metadata.metadata or {}).get(b"mask_impact")
        return file.read(), None if text is None else json.loads(text)


def read_csv_file(path: Path) -> Content:
    if path.suffix.lower() != ".gz":  # which has a checksum
        with path.open("rb") as file:
            if not file.seek(0, 2):
                raise ValueError("it is empty")
            file.seek(-1, 2)
            if file.read() != b"\n":
                raise ValueError("its last line has no end")
    return csv_table(path), None


def csv_table(path: str | Path) -> pa.Table:
    """All columns of a CSV file. Raises ValueError."""
    from pyarrow import csv

    parse = csv.ParseOptions(newlines_in_values=True)
    convert = csv.ConvertOptions(
        column_types=arrow_schema(table_columns(tuple(METRICS), with_query=True, with_patch=True)),
        strings_can_be_null=False,
        null_values=[],
    )
    return csv.read_csv(path, parse_options=parse, convert_options=convert)


def read_json(path: Path) -> Content:
    import pyarrow as pa

    data = path.read_bytes()
    columns = orjson.loads(gzip.decompress(data) if path.suffix.lower() == ".gz" else data)
    if not isinstance(columns, dict):
        raise ValueError("it is not one object with an array for each column")
    schema = arrow_schema(table_columns(tuple(METRICS), with_query=True, with_patch=True))
    types = dict(zip(schema.names, schema.types, strict=True))
    table = {}
    for name in list(columns):
        values = columns.pop(name)  # popped, so that the table is not there twice
        if types.get(name) == pa.float32():
            table[name] = pa.array(exact_float32(pa.array(values, pa.float64()).to_numpy(zero_copy_only=True)))
        else:
            table[name] = pa.array(values, types.get(name))
    return pa.table(table), None


def exact_float32(numbers: np.ndarray) -> np.ndarray:
    """The float32 that were written as the shortest text that reads back as them, and read as float64.

    Rounding gives them back, except from exactly between two float32, where the text tells which (7.038531e-26).
    """
    nearest = numbers.astype(np.float32)
    with np.errstate(over="ignore"):  # beside the largest float32 is infinity
        other = np.nextafter(nearest, np.where(numbers > nearest, np.inf, -np.inf).astype(np.float32))
    for place in np.flatnonzero(numbers - nearest == other - numbers):
        if float(str(other[place])) == numbers[place]:
            nearest[place] = other[place]
    return nearest


def read_html(path: Path) -> Content:
    """The table of a report, in the order in which runs are written."""
    import pyarrow as pa

    opening, closing = EMPTY_ELEMENT.split(b"></")
    text, end, _ = path.read_bytes().partition(opening + b">")[2].partition(b"</" + closing)
    if not text or not end:
        raise ValueError("no run is in it")
    data = orjson.loads(text)
    shape = [len(data[axis]) for axis in ("steps", "variants", "layers", "positions")]
    names, texts = _embedded_metrics(data)
    cubes = [
        np.frombuffer(base64.b64decode(text, validate=True), "<f4").reshape(shape).transpose(0, 2, 3, 1)
        for text in texts
    ]  # [S, L, T, V]
    there = ~np.isnan(cubes[0])
    query, layer, token, variant = np.nonzero(there)
    columns = (
        np.array(data["steps"], np.int64)[query],
        np.array(data["layers"], np.int64)[layer],
        pa.DictionaryArray.from_arrays(token.astype(np.int32), pa.array(data["tokens"], pa.string())),
        np.array(data["positions"], np.int64)[token],
        pa.DictionaryArray.from_arrays(variant.astype(np.int32), pa.array(data["variants"], pa.string())),
        *(cube[there] for cube in cubes),
    )
    table = pa.table(dict(zip((*KEY_COLUMNS, *names), map(pa.array, columns), strict=True)))
    if "queries" in data:
        table = table.append_column(QUERY_POSITION, pa.array(np.array(data["queries"], np.int64)[query]))
    return table, data["manifest"]


def _embedded_metrics(data: dict[str, Any]) -> tuple[list[str], list[str]]:
    """The columns of a page's metrics, and the base64 of each one's values."""
    if data["format"] == 1:  # of versions that had two metrics
        return ["l2_distance", "cosine_distance"], [data["l2"], data["cosine"]]
    return [metric["column"] for metric in data["metrics"]], data["values"]
