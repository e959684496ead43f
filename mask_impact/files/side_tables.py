"""Tables beside a run's results, such as NAME_effects.csv: small, so each is written at once.

Texts are quoted and numbers are the shortest text of the float32, as in the results.
"""

from pathlib import Path
from typing import Any

import numpy as np
import orjson

from mask_impact.files.writers import manifest_text, reproducible
from mask_impact.table import Columns, valid

KINDS = ("effects", "trace", "pairs", "lengths", "deepstack")


def checked(columns: Columns) -> Columns:
    """The columns as int64 or float32 arrays and lists of valid texts. Raises ValueError for NaN and infinity."""
    typed = {name: _typed(values) for name, values in columns.items()}
    for name, values in typed.items():
        missing = np.array([value is None for value in columns[name]], dtype=bool)
        if isinstance(values, np.ndarray) and not (np.isfinite(values) | missing).all():
            raise ValueError(f"column {name} has a value that is no finite number")
    return typed


def as_json(columns: Columns) -> dict[str, Any]:
    """The columns as they are in NAME_effects.json, for a report."""
    return orjson.loads(json_bytes(columns))


def json_bytes(columns: Columns) -> bytes:
    """The columns as NAME_effects.json and its relatives have them."""
    typed = {name: _typed(values) for name, values in columns.items()}
    return orjson.dumps(typed, option=orjson.OPT_SERIALIZE_NUMPY)


def _typed(values: Any) -> Any:
    """int64, float32 or valid texts; an array is kept as it is."""
    if isinstance(values, np.ndarray):
        return values
    if values and isinstance(values[0], str):
        return [valid(text) for text in values]
    if values and isinstance(values[0], int):
        return np.asarray(values, np.int64)
    return np.asarray([np.nan if value is None else value for value in values], np.float32)


def _texts(values: Any) -> list[str]:
    if isinstance(values, list):
        return ['"' + text.replace('"', '""') + '"' for text in values]
    texts = orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].decode().split(",") if len(values) else []
    return ["" if text == "null" else text for text in texts]


def write_csv(path: Path, typed: dict[str, Any], manifest: dict[str, Any]) -> None:
    rows = zip(*map(_texts, typed.values()), strict=True)
    path.write_bytes("".join(",".join(row) + "\n" for row in [tuple(typed), *rows]).encode())


def write_json(path: Path, typed: dict[str, Any], manifest: dict[str, Any]) -> None:
    path.write_bytes(orjson.dumps(typed, option=orjson.OPT_SERIALIZE_NUMPY) + b"\n")


def write_parquet(path: Path, typed: dict[str, Any], manifest: dict[str, Any]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({name: pa.array(values, from_pandas=True) for name, values in typed.items()})  # NaN was None: null
    with pq.ParquetWriter(path, table.schema, write_page_checksum=True, store_schema=False) as file:
        file.write_table(table)
        file.add_key_value_metadata({"mask_impact": manifest_text(reproducible(manifest))})
