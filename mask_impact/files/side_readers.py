"""Side tables read back, such as NAME_effects.csv: whichever columns there are, with the types they were written with.

In:  a .csv, .csv.gz, .json, .json.gz or .parquet file. Out: its Arrow table, and the manifest that is in it, or None.

Any exception for a file that is damaged, as in readers.py. pyarrow is imported where it is used.
"""

from __future__ import annotations

import gzip
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from mask_impact.files import readers

if TYPE_CHECKING:
    import pyarrow as pa

    from mask_impact.files.readers import Content

CELL = re.compile(rb'("(?:[^"]|"")*"|[^,\n]*)([,\n])')  # texts are always quoted, numbers never


def read(path: Path) -> Content:
    """A side table and the manifest in it."""
    name = path.name.lower().removesuffix(".gz")
    if name.endswith(".parquet"):
        return readers.read_parquet(path)
    return (_csv(path) if name.endswith(".csv") else _json(path)), None


def _bytes(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes()) if path.suffix.lower() == ".gz" else path.read_bytes()


def _csv(path: Path) -> pa.Table:
    """A quoted cell is text, even if it looks like a number; an empty one is a missing number."""
    import pyarrow as pa
    from pyarrow import csv

    data = _bytes(path)
    if not data:
        raise ValueError("it is empty")
    if not data.endswith(b"\n"):
        raise ValueError("its last line has no end")
    header, _, rows = data.partition(b"\n")
    names = header.decode().split(",")
    quoted = [found[1].startswith(b'"') for found, _ in zip(CELL.finditer(rows), names, strict=False)]
    types = {name: pa.string() for name, text in zip(names, quoted, strict=False) if text}
    inferred = _parsed(csv, data, types).schema
    floats = (field.name for field in inferred if pa.types.is_floating(field.type) or pa.types.is_null(field.type))
    exact = dict.fromkeys(floats, pa.float32())  # by way of float64 some would be rounded twice
    return _parsed(csv, data, types | exact)


def _parsed(csv: Any, data: bytes, types: dict[str, Any]) -> pa.Table:
    convert = csv.ConvertOptions(column_types=types, null_values=[""], strings_can_be_null=False)
    parse = csv.ParseOptions(newlines_in_values=True)
    return csv.read_csv(io.BytesIO(data), parse_options=parse, convert_options=convert)


def _json(path: Path) -> pa.Table:
    import pyarrow as pa

    columns = orjson.loads(_bytes(path))
    if not isinstance(columns, dict):
        raise ValueError("it is not one object with an array for each column")
    return pa.table({name: _column(values) for name, values in columns.items()})


def _column(values: list[Any]) -> Any:
    """Texts and whole numbers as they are, other numbers as the float32 that were written; a missing one is null."""
    import pyarrow as pa

    numbers = [value for value in values if value is not None]
    if all(isinstance(value, str) for value in values) or all(isinstance(value, int) for value in values):
        return pa.array(values, pa.string() if values and isinstance(values[0], str) else pa.int64())
    found = iter(readers.exact_float32(np.array(numbers, np.float64)).tolist())
    return pa.array([None if value is None else next(found) for value in values], pa.float32())
