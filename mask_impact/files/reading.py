"""Result files read back: one file, or every run of a folder.

In:  NAME_results.csv, .json, .parquet or .html, or NAME_run.json; a folder of them. Or a table beside them, such as
     NAME_effects.csv.
Out: the table as `to_dataframe` gives it, number for number, with the manifest in `attrs`.

    df = load("output/masking_run.json")  # df.attrs["run"]
    df = load_many("output")              # df.name, df.attrs["runs"]["masking"]

Unknown columns are kept. pyarrow and pandas are imported where they are used: results.py needs this module, and
help texts must appear at once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mask_impact.distances import METRICS
from mask_impact.errors import UserError, plain_words
from mask_impact.files import side_readers
from mask_impact.files.arrow import arrow_schema, cell_twice, to_pandas
from mask_impact.files.checksums import changed
from mask_impact.files.columns import known_columns, metrics_in
from mask_impact.files.formats import FORMATS, Format, best_first
from mask_impact.files.readers import csv_table
from mask_impact.files.side_tables import KINDS
from mask_impact.files.stored import Run, Unreadable, stored
from mask_impact.files.unpacked import MOST, check_unpacked
from mask_impact.files.writers import reproducible
from mask_impact.prompt.text_files import check_regular
from mask_impact.table import PATCH_COLUMNS, QUERY_POSITION

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    Manifest = dict[str, Any]
    Content = tuple[pa.Table, Manifest | None]  # a file's table, and the manifest embedded in it

MANIFEST_END = "_run.json"
VALID = f"give NAME_results.csv, .json, .parquet or .html, or NAME{MANIFEST_END}"
BESIDE = re.compile(
    rf"(?P<name>.+)_(?P<kind>{'|'.join(KINDS)}|neighbors|scales)\.(csv|json|parquet|html)(\.gz)?", re.IGNORECASE
)


def load(path: str | Path, relative: bool = False, floors: bool = False, max_bytes: int = MOST) -> pd.DataFrame:
    """The table of one file of a run; of NAME_run.json, that of the best of its files. Tables beside the results are
    read, too: NAME_effects.csv, .json or .parquet, and those of trace, pairs, deepstack, lengths, neighbors and scales.

    `attrs["run"]` is the manifest: NAME_run.json if it is beside the file and of the same run, else the copy in a
    Parquet file or a report, which lacks `writers.VOLATILE`, else not there.

    Args:
        relative: also give the column relative_distance: l2_distance divided by the length of the unmasked vector,
            float32. A change of a vector of length 0 has none: the cell is empty.
        floors: also give each metric's noise floor, as l2_distance_floor: a value below it can be rounding, and one of
            0 is exact.
        max_bytes: refuse a file that becomes larger than this when it is unpacked (.gz, .parquet), unless it is large
            itself: a file of 4 MB can hold gigabytes.

    Raises UserError for a file that is missing, damaged or cut off, or no result; with `relative` or `floors`, for a
    run whose unmasked lengths or noise floors were not measured (by an older version) or are not beside it.
    """
    path = Path(path)
    if not isinstance(max_bytes, (int, float)) or isinstance(max_bytes, bool) or not max_bytes > 0:
        raise UserError(f"max_bytes is {max_bytes!r}; give a number of bytes above 0")
    _readable(path, lambda path: check_unpacked(path, max_bytes))
    if beside := BESIDE.fullmatch(path.name):
        table, manifest = _read_beside(path, beside, "relative" * relative or "floors" * floors)
    else:
        table, manifest = _read_run(path) if path.name.endswith(MANIFEST_END) else _read_with_manifest(path)
    df = to_pandas(table)
    if manifest is not None:
        df.attrs["run"] = manifest
    if floors:
        _add_floors(path, df)
    if relative:
        _add_relative(path, df)
    return df


def load_many(folder: str | Path) -> pd.DataFrame:
    """The tables of all complete runs of a folder in one, a first column `name` saying which run a row is of.

    In the order of the names. A run is complete when its manifest is there; one without result files (it can have been
    too large for the report that was asked for) is left out. A column that some runs lack has missing values there.
    `attrs["runs"]` gives the manifests by name. Raises UserError if there is no run, or one cannot be read.
    """
    import pyarrow as pa

    folder = Path(folder)
    if not os.path.isdir(folder):  # which knows of paths that cannot be
        name = str(folder) if str(folder).isprintable() else repr(str(folder))
        raise UserError(f"there is no folder {name}; give one with the results of several runs, as output")
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

    Unknown columns are left out. Raises UserError if one is missing, ValueError if a value does not fit its column.
    """
    table = csv_table(path)
    return to_pandas(table.select(known_columns(table.column_names)))


# --- which manifest belongs to which file ------------------------------------------------------------------
def _read_run(manifest_path: Path) -> Content:
    manifest = _read_manifest(manifest_path)
    return _table_of_run(manifest_path, manifest), manifest


def _read_with_manifest(path: Path) -> Content:
    """A file's table, and the manifest beside it or in it."""
    name = path.name.removesuffix(".gz")
    manifest_path = path.with_name(name.rpartition("_results.")[0] + MANIFEST_END)
    manifest = _read_manifest(manifest_path) if manifest_path.is_file() else None
    table, embedded = _read(path, manifest)
    if manifest is None or name not in manifest["files"]:
        return table, embedded
    if embedded is not None and reproducible(embedded) != reproducible(manifest):  # it brings its own
        return table, embedded
    if reason := _difference(path, table, embedded, manifest):
        raise UserError(f"{path} is cut off, or of another run than {manifest_path.name} ({reason})")
    return table, manifest


def _read_beside(path: Path, found: re.Match[str], more: str) -> Content:
    """A table beside the results, and the manifest beside it or in it."""
    if more:
        raise UserError(f"{path} is a table of {found['kind']}; {more}=True is for the results, NAME_results.csv")
    if found[3].lower() == "html":
        raise UserError(f"{path} is a page to look at; give {path.with_suffix('.csv').name}, .json or .parquet")
    table, embedded = _readable(path, side_readers.read)
    ends = (f"_{found['kind']}{MANIFEST_END}", MANIFEST_END)  # the lens has a manifest for each table
    for beside in filter(Path.is_file, (path.with_name(found["name"] + end) for end in ends)):
        manifest = _read_manifest(beside)
        if path.name.removesuffix(".gz") in manifest.get("tables", []):
            if path.suffix.lower() != ".gz" and (reason := changed(path, manifest)):
                raise UserError(f"{path} is cut off, or of another run than {beside.name} ({reason})")
            return table, manifest
    return table, embedded


def _table_of_run(manifest_path: Path, manifest: Manifest) -> pa.Table:
    """The table that a manifest tells of, from the best of its files."""
    names = [Path(name).name for row in best_first() for name in manifest["files"] if name.endswith(f".{row.name}")]
    for path in filter(Path.is_file, map(manifest_path.with_name, names)):
        table, embedded = _read(path, manifest)
        if reason := _difference(path, table, embedded, manifest):
            raise UserError(f"{path} is cut off, or of another run than {manifest_path.name} ({reason})")
        return table
    if not manifest["files"] and (tables := manifest.get("tables")):
        raise UserError(
            f"{manifest_path} is of a run without result files; give one of its tables: {', '.join(tables)}"
        )
    told = ", ".join(manifest["files"]) or "no result file"
    raise UserError(f"{manifest_path} names {told}, and nothing of it is beside it; put them into one folder")


def _difference(path: Path, table: pa.Table, embedded: Manifest | None, manifest: Manifest) -> str | None:
    """Why a file is not the one that a manifest describes, None if it is."""
    of_patches = path.suffix.lower() == ".html" and manifest.get(
        "vision"
    )  # a page has one row for all patches of an image token
    if table.num_rows != manifest.get("rows", table.num_rows) and not of_patches:
        return f"{table.num_rows:,} rows, not {manifest['rows']:,}"
    if embedded is not None and reproducible(embedded) != reproducible(manifest):
        return "it embeds another manifest"
    written = {each["column"] for each in manifest.get("metrics") or []}
    more = set(table.column_names) - set(known_columns(table.column_names, manifest))
    by_the_user = path.suffix.lower() == ".gz" or (more and written <= set(table.column_names))  # columns were added
    return None if by_the_user else changed(path, manifest)


def _read_manifest(path: Path) -> Manifest:
    try:
        return dict(_readable(path, lambda path: stored(path, Run)))
    except Unreadable as error:
        raise UserError(f"{path} is no manifest of a run, or damaged ({error})") from error


# --- one file ----------------------------------------------------------------------------------------------
def _format(path: Path) -> Format:
    """The format that the end of a name says. Raises UserError for none of FORMATS."""
    for row in FORMATS.values():
        ends = (f".{row.name}", f".{row.name}.gz") if row.name in ("csv", "json") else (f".{row.name}",)
        if path.name.lower().endswith(ends):
            return row
    raise UserError(f"{path} is no result file; {VALID}")


def _read(path: Path, manifest: Manifest | None = None) -> Content:
    """A file's table with the types of `arrow_schema`, unknown columns after the known ones, and the manifest in it.

    `manifest` is the one beside it.
    """
    table, embedded = _readable(path, lambda path: _format(path).reader(path))
    try:
        known = known_columns(table.column_names, embedded or manifest)
    except UserError as error:
        raise UserError(f"{path} {error}") from None
    typed = _readable(path, lambda _: _typed(table, known))
    if twice := cell_twice(typed):
        raise UserError(f"{path} has two rows for one cell ({twice}); measure it again, or take one of them out")
    return typed, embedded


def _readable(path: Path, read: Callable[[Path], Any]) -> Any:
    """What `read` makes of a file. Raises UserError for whatever a library says of one that is damaged."""
    if "\0" in str(path):
        raise UserError(f"{str(path)!r} has a null character, which no path has; {VALID}")
    try:
        if path.is_dir():
            raise UserError(f"{path} is a folder; {VALID}, or load_many for all runs of a folder")
        check_regular(path, str(path), VALID.removeprefix("give "))
        return read(path)
    except (MemoryError, UserError):
        raise
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}; {VALID}") from error
    except OSError as error:
        if error.errno is None:  # one of Arrow's or gzip's
            raise _damaged(path, error) from error
        raise UserError(f"{path} cannot be read ({error.strerror or error}); {VALID}") from error
    except Exception as error:  # Arrow, zlib, orjson and base64 have a dozen classes for it
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} is cut off, damaged or no result file ({plain_words(error)[:200]})")


def _typed(table: pa.Table, known: Sequence[str]) -> pa.Table:
    """The known columns in order and with their types, then the others as they are."""
    import pyarrow as pa

    others = [name for name in table.column_names if name not in known]
    schema = [
        field.with_nullable(True) if pa.types.is_floating(field.type) else field  # load_many: not every run has it
        for field in arrow_schema(known)
    ]
    table = table.select([*known, *others])
    return _no_nulls(table.cast(pa.schema([*schema, *(table.schema.field(name) for name in others)])), known)


def _no_nulls(table: pa.Table, known: Sequence[str]) -> pa.Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    for name in known:
        if (
            pa.types.is_floating(table.schema.field(name).type)
            and pc.all(pc.is_finite(table.column(name))).as_py() is False
        ):
            raise ValueError(f"column {name} has a value that is no number (NaN or infinite)")
        # empty for some runs of a joined table
        if table.column(name).null_count and name not in (QUERY_POSITION, *PATCH_COLUMNS):
            raise ValueError(f"column {name} has empty cells")
    return table


# --- lengths of the unmasked vectors ------------------------------------------------------------------------
def _add_relative(path: Path, df: pd.DataFrame) -> None:
    """Add the column relative_distance. Raises UserError for a run that does not have what it takes."""
    column = METRICS["relative"].column
    if column in df.columns:
        return
    if "l2_distance" not in df.columns:
        raise UserError(f"{path} has no l2_distance, which {column} is computed from")
    length = _lengths(path, df)
    l2 = df["l2_distance"].to_numpy(np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(l2 == 0, np.float32(0), l2 / length)
    relative[np.isinf(relative)] = np.nan  # a change of a zero vector has no relative distance
    columns = list(df.columns)
    place = max(columns.index(METRICS[metric].column) for metric in metrics_in(columns))
    df.insert(place + 1, column, relative.astype(np.float32))


def _lengths(path: Path, df: pd.DataFrame) -> np.ndarray:
    """[rows] float32 the length of each row's unmasked vector."""
    manifest = df.attrs.get("run")
    if manifest is None or "unmasked_length" not in manifest:
        what = "there is no manifest beside it or in it" if manifest is None else "an older version measured this run"
        raise UserError(
            f"{path} has no lengths of the unmasked vectors ({what}); measure it again, or load without relative=True"
        )
    if QUERY_POSITION in df.columns:
        table = _side_table(path, manifest, "lengths")
        keys = [QUERY_POSITION, "layer", "variant"]
    else:
        table = _fitting(path, lambda: _in_manifest(manifest["unmasked_length"]))
        keys = ["generation_step", "layer", "variant"]
    found = df[keys].merge(table, how="left", on=keys)["unmasked_length"]
    if len(found) != len(df) or found.isna().any():
        raise UserError(f"{path} has rows of which the length of the unmasked vector is not known; measure it again")
    return found.to_numpy(np.float32)


def _in_manifest(described: dict[str, Any]) -> pd.DataFrame:
    """A manifest's unmasked_length, one row for each step, layer and variant."""
    import pandas as pd

    rows = [
        (step, layer, variant, value)
        for step, layers in enumerate(described["values"])
        for layer, variants in zip(described["layers"], layers, strict=True)
        for variant, value in zip(described["variants"], variants, strict=True)
    ]
    return pd.DataFrame(rows, columns=["generation_step", "layer", "variant", "unmasked_length"])


def _add_floors(path: Path, df: pd.DataFrame) -> None:
    """Add a column with the noise floor of each metric. Raises UserError for a run that has none."""
    import pandas as pd

    described = df.attrs.get("run", {}).get("noise_floor", {}).get("by_layer")
    if described is None:
        raise UserError(
            f"{path} has no noise floors by layer and variant (there is no manifest beside it or in it, or an older "
            "version measured this run); measure it again, or load without floors=True"
        )

    def by_layer() -> pd.DataFrame:
        rows = [
            (layer, variant, *(values or [None] * len(described["metrics"])))
            for layer, variants in zip(described["layers"], described["values"], strict=True)
            for variant, values in zip(described["variants"], variants, strict=True)
        ]
        return pd.DataFrame(rows, columns=["layer", "variant", *described["metrics"]])

    table = _fitting(path, by_layer)
    found = df[["layer", "variant"]].merge(table, how="left", on=["layer", "variant"])
    columns = {metric["name"]: metric["column"] for metric in df.attrs["run"]["metrics"]}
    for name in described["metrics"]:
        df[f"{columns[name]}_floor"] = found[name].to_numpy(np.float32)


def _fitting(path: Path, table: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """Raises UserError where a manifest's axes and values do not fit together."""
    try:
        return table()
    except ValueError as error:
        why = "its layers, variants and values do not fit together"
        raise UserError(f"the manifest of {path} is damaged ({why}); measure it again") from error


def _side_table(path: Path, manifest: Manifest, kind: str) -> pd.DataFrame:
    """The table NAME_KIND of a run, from the best of its files."""
    end = MANIFEST_END if path.name.endswith(MANIFEST_END) else "_results" + path.suffix
    stem = path.name.removesuffix(end)
    for row in best_first():
        name = f"{stem}_{kind}.{row.name}"
        if name in manifest.get("tables", []) and (file := path.with_name(name)).is_file():
            table, _ = _readable(file, side_readers.read)
            return to_pandas(table)
    raise UserError(f"there is no {stem}_{kind}.csv, .json or .parquet of the same run beside {path}")
