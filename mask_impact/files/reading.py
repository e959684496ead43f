"""Result files read back: one file, or every run of a folder.

In:  NAME_results.csv, .json, .parquet or .html, or NAME_run.json; a folder of them.
Out: the table as `to_dataframe` gives it, number for number, with the manifest in `attrs`.

    df = load("output/masking_run.json")  # df.attrs["run"]
    df = load_many("output")              # df.name, df.attrs["runs"]["masking"]

Columns that a later version may append are kept. Shapes: S steps, V variants, L layers, T positions.
pyarrow and pandas are imported where they are used: results.py needs this module, and `--help` must answer at once.
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

from mask_impact.errors import UserError
from mask_impact.files.arrow import arrow_schema, to_pandas
from mask_impact.files.page import EMPTY_ELEMENT
from mask_impact.files.writers import reproducible
from mask_impact.table import COLUMNS, QUERY_POSITION

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    Manifest = dict[str, Any]
    Content = tuple[pa.Table, Manifest | None]  # a file's table, and the manifest embedded in it

MANIFEST_END = "_run.json"
VALID = f"give NAME_results.csv, .json, .parquet or .html, or NAME{MANIFEST_END}"
TEXT = ["token_masked", "variant"]


def load(path: str | Path) -> pd.DataFrame:
    """The table of one file of a run; of NAME_run.json, that of the best of its files.

    `attrs["run"]` is the manifest: NAME_run.json if it is beside the file and of the same run, else the copy in a
    Parquet file or a report, which lacks `writers.VOLATILE`, else not there.
    Raises UserError for a file that is missing, damaged or cut off, or no result.
    """
    path = Path(path)
    table, manifest = _read_run(path) if path.name.endswith(MANIFEST_END) else _read_with_manifest(path)
    df = to_pandas(table)
    if manifest is not None:
        df.attrs["run"] = manifest
    return df


def load_many(folder: str | Path) -> pd.DataFrame:
    """The tables of all complete runs of a folder in one, a first column `name` saying whose a row is.

    In the order of the names. A run is complete when its manifest is there; one without result files (it can have been
    too large for the report that was asked for) is left out. A column that some runs lack has missing values there.
    `attrs["runs"]` gives the manifests by name. Raises UserError if there is no run, or one cannot be read.
    """
    import pyarrow as pa

    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; give one with the results of several runs, as output")
    found = {path.name.removesuffix(MANIFEST_END): path for path in folder.glob(f"[!.]*{MANIFEST_END}")}
    runs = {name: _read_manifest(found[name]) for name in sorted(found)}
    runs = {name: manifest for name, manifest in runs.items() if manifest["files"]}
    if not runs:
        raise UserError(f"no complete run in {folder}: no NAME{MANIFEST_END} that names result files")

    def named(name: str) -> pa.Table:
        table = _table_of_run(found[name], runs[name])
        field = pa.field("name", pa.dictionary(pa.int32(), pa.string()), nullable=False)
        names = pa.DictionaryArray.from_arrays(np.zeros(table.num_rows, np.int32), pa.array([name], pa.string()))
        return table.add_column(0, field, names)

    df = to_pandas(pa.concat_tables([named(name) for name in runs], promote_options="permissive"))
    df.attrs["runs"] = runs
    return df


def read_csv(path: str | Path) -> pd.DataFrame:
    """NAME_results.csv with the dtypes of `to_dataframe`: every token is text, whatever it looks like.

    Columns that are not ours are left out. Raises KeyError if one is missing, ValueError if a value does not fit its
    column.
    """
    table = _csv_table(path)
    return to_pandas(table.select(_ours(table)))


# --- which manifest belongs to which file ------------------------------------------------------------------
def _read_run(manifest_path: Path) -> Content:
    manifest = _read_manifest(manifest_path)
    return _table_of_run(manifest_path, manifest), manifest


def _read_with_manifest(path: Path) -> Content:
    """A file's table, and the manifest beside it or in it."""
    table, embedded = _read(path)
    name = path.name.removesuffix(".gz")
    manifest_path = path.with_name(name.rpartition("_results.")[0] + MANIFEST_END)
    if not manifest_path.is_file():
        return table, embedded
    manifest = _read_manifest(manifest_path)
    if name not in manifest["files"]:
        return table, embedded
    if reason := _difference(table, embedded, manifest):
        if embedded is None:
            raise UserError(f"{path} is cut off, or of another run than {manifest_path.name} ({reason})")
        return table, embedded
    return table, manifest


def _table_of_run(manifest_path: Path, manifest: Manifest) -> pa.Table:
    """The table that a manifest tells of, from the best of its files."""
    names = [Path(name).name for form in READERS for name in manifest["files"] if name.endswith(f".{form}")]
    for path in filter(Path.is_file, map(manifest_path.with_name, names)):
        table, embedded = _read(path)
        if reason := _difference(table, embedded, manifest):
            raise UserError(f"{path} is cut off, or of another run than {manifest_path.name} ({reason})")
        return table
    told = ", ".join(manifest["files"]) or "no result file"
    raise UserError(f"{manifest_path} names {told}, and nothing of it is beside it; put them into one folder")


def _difference(table: pa.Table, embedded: Manifest | None, manifest: Manifest) -> str | None:
    """Why a file is not the one that a manifest describes, None if it is."""
    if table.num_rows != manifest.get("rows", table.num_rows):
        return f"{table.num_rows:,} rows, not {manifest['rows']:,}"
    if embedded is not None and reproducible(embedded) != reproducible(manifest):
        return "it embeds another manifest"
    return None


def _read_manifest(path: Path) -> Manifest:
    manifest = _readable(path, lambda path: orjson.loads(path.read_bytes()))
    files = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(files, list) or not all(isinstance(name, str) for name in files):
        raise UserError(f"{path} is no manifest of a run: it has no list of files")
    return manifest


# --- one reader for each format ---------------------------------------------------------------------------
def _format(path: Path) -> str:
    """The format that a name's end says. Raises UserError for none of ours."""
    names = {f".{form}": form for form in READERS} | {".csv.gz": "csv", ".json.gz": "json"}
    for end, form in names.items():
        if path.name.lower().endswith(end):
            return form
    raise UserError(f"{path} is no result file; {VALID}")


def _read(path: Path) -> Content:
    """A file's table with the types of `arrow_schema`, further columns after ours, and the manifest in it."""
    table, embedded = _readable(path, lambda path: READERS[_format(path)](path))
    if missing := [column for column in COLUMNS if column not in table.column_names]:
        raise UserError(f"{path} has no column {missing[0]!r}; a result table has {', '.join(COLUMNS)}")
    return _readable(path, lambda _: _typed(table)), embedded


def _readable(path: Path, read: Callable[[Path], Any]) -> Any:
    """What `read` makes of a file. Raises UserError for whatever a library says of one that is damaged."""
    if path.is_dir():
        raise UserError(f"{path} is a folder; {VALID}, or load_many for all runs of a folder")
    if not path.exists():
        raise UserError(f"there is no file {path}; {VALID}")
    try:
        return read(path)
    except (MemoryError, UserError):
        raise
    except PermissionError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    except Exception as error:  # Arrow, zlib, orjson and base64 have a dozen classes for it
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is cut off, damaged or no result file ({reason})") from error


def _typed(table: pa.Table) -> pa.Table:
    """The columns of a result table in order and with their types, then the others as they are."""
    import pyarrow as pa

    ours = _ours(table)
    others = [name for name in table.column_names if name not in ours]
    table = table.select([*ours, *others])
    return table.cast(pa.schema([*arrow_schema(ours), *(table.schema.field(name) for name in others)]))


def _ours(table: pa.Table) -> tuple[str, ...]:
    """The columns that a result table must have, and the one that it may have."""
    return (*COLUMNS, QUERY_POSITION) if QUERY_POSITION in table.column_names else COLUMNS


def _read_parquet(path: Path) -> Content:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, read_dictionary=TEXT, page_checksum_verification=True) as file:
        text = (file.metadata.metadata or {}).get(b"mask_impact")
        return file.read(), None if text is None else json.loads(text)


def _read_csv(path: Path) -> Content:
    if path.suffix.lower() != ".gz":  # which has a checksum
        with path.open("rb") as file:
            file.seek(-1, 2)
            if file.read() != b"\n":
                raise ValueError("its last line has no end")
    return _csv_table(path), None


def _csv_table(path: str | Path) -> pa.Table:
    """All columns of a CSV file. Raises ValueError."""
    from pyarrow import csv

    parse = csv.ParseOptions(newlines_in_values=True)
    convert = csv.ConvertOptions(
        column_types=arrow_schema((*COLUMNS, QUERY_POSITION)),
        strings_can_be_null=False,
        null_values=[],
    )
    return csv.read_csv(path, parse_options=parse, convert_options=convert)


def _read_json(path: Path) -> Content:
    import pyarrow as pa

    data = path.read_bytes()
    columns = orjson.loads(gzip.decompress(data) if path.suffix.lower() == ".gz" else data)
    if not isinstance(columns, dict):
        raise ValueError("it is not one object with an array for each column")
    schema = arrow_schema((*COLUMNS, QUERY_POSITION))
    types = dict(zip(schema.names, schema.types, strict=True))
    table = {}
    for name in list(columns):
        values = columns.pop(name)  # popped, so that the table is not there twice
        if name in COLUMNS[5:]:
            table[name] = pa.array(_float32(pa.array(values, pa.float64()).to_numpy(zero_copy_only=True)))
        else:
            table[name] = pa.array(values, types.get(name))
    return pa.table(table), None


def _float32(numbers: np.ndarray) -> np.ndarray:
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


def _read_html(path: Path) -> Content:
    """The table of a report, in the order in which runs are written."""
    import pyarrow as pa

    opening, closing = EMPTY_ELEMENT.split(b"></")
    text, end, _ = path.read_bytes().partition(opening + b">")[2].partition(b"</" + closing)
    if not text or not end:
        raise ValueError("no run is in it")
    data = orjson.loads(text)
    shape = [len(data[axis]) for axis in ("steps", "variants", "layers", "positions")]
    l2, cosine = (
        np.frombuffer(base64.b64decode(data[metric], validate=True), "<f4").reshape(shape).transpose(0, 2, 3, 1)
        for metric in ("l2", "cosine")
    )  # [S, L, T, V]
    there = ~np.isnan(l2)
    query, layer, token, variant = np.nonzero(there)
    columns = (
        np.array(data["steps"], np.int64)[query],
        np.array(data["layers"], np.int64)[layer],
        pa.DictionaryArray.from_arrays(token.astype(np.int32), pa.array(data["tokens"], pa.string())),
        np.array(data["positions"], np.int64)[token],
        pa.DictionaryArray.from_arrays(variant.astype(np.int32), pa.array(data["variants"], pa.string())),
        l2[there],
        cosine[there],
    )
    table = pa.table(dict(zip(COLUMNS, map(pa.array, columns), strict=True)))
    if "queries" in data:
        table = table.append_column(QUERY_POSITION, pa.array(np.array(data["queries"], np.int64)[query]))
    return table, data["manifest"]


READERS: dict[str, Callable[[Path], Content]] = {  # best first: the fastest, and those that can tell a damaged file
    "parquet": _read_parquet,
    "csv": _read_csv,
    "json": _read_json,
    "html": _read_html,
}
