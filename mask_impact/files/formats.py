"""The formats: one row for each, and the functions that go through the rows.

A format of an extension is one more row, given to `register` before a command starts:

    register(Format("tsv", TsvWriter, read_tsv, bytes_per_row=50))

It can then be chosen, `load` reads NAME_results.tsv, the manifest lists it, and overwriting a run removes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mask_impact.errors import UserError
from mask_impact.files import readers, side_tables
from mask_impact.files.page_writer import ReportWriter
from mask_impact.files.writers import CsvWriter, JsonWriter, ParquetWriter, Writer
from mask_impact.table import FORMAT_NAMES, Columns

if TYPE_CHECKING:
    from mask_impact.files.readers import Reader


@dataclass(frozen=True)
class Format:
    """One kind of result file, NAME_results.<name>."""

    name: str  # the end of its files' names, by which it is chosen
    writer: Callable[[Path], Writer]
    reader: Reader
    bytes_per_row: float  # with two metrics, rounded up; includes what is needed while the file is written
    bytes_per_file: int = 0  # of an empty table
    side_tables: Callable[[Path, Columns, dict[str, Any]], None] | None = None  # writes one; None: it has none
    checksummed: bool = False  # the reader can tell a damaged file: read first where there are several


FORMATS: dict[str, Format] = {}


def register(row: Format) -> None:
    """Add a format, or replace the one of that name."""
    FORMATS[row.name] = row
    if row.name not in FORMAT_NAMES:
        FORMAT_NAMES.append(row.name)


def formats_named(names: Sequence[str]) -> list[Format]:
    """The formats of these names, each once. Raises UserError for an unknown name."""
    for name in names:
        if name not in FORMATS:
            raise UserError(f"unknown format {name!r}; choose from {', '.join(FORMATS)}")
    return [FORMATS[name] for name in dict.fromkeys(names)]


def best_first() -> list[Format]:
    """The formats in the order in which they are tried when a run is read."""
    return sorted(FORMATS.values(), key=lambda row: not row.checksummed)


def side_table_formats() -> list[str]:
    """The names of the formats that can hold side tables."""
    return [row.name for row in FORMATS.values() if row.side_tables is not None]


def write_side_table(path: Path, columns: Columns, manifest: dict[str, Any]) -> None:
    """Write `columns` in the format that the path's suffix names; None becomes empty, or null.

    Raises ValueError for NaN and infinity.
    """
    write = FORMATS[path.suffix[1:]].side_tables
    assert write is not None, f"{path.suffix} has no side tables"
    write(path, side_tables.checked(columns), manifest)


def bytes_needed(rows: int, formats: Sequence[str], metrics: int = 2) -> float:
    """The most that `rows` rows take on disk in all of `formats`, pictures and side tables left out."""
    per_row = max(1.0, metrics / 2)
    found = formats_named(formats)
    return sum(row.bytes_per_row * per_row * rows + row.bytes_per_file for row in found)


# Bytes are measured on the demo model. Those of html include the built page, not the pictures in it.
for _row in (
    Format("csv", CsvWriter, readers.read_csv_file, 50, side_tables=side_tables.write_csv),
    Format("json", JsonWriter, readers.read_json, 60, side_tables=side_tables.write_json),
    Format(
        "parquet",
        ParquetWriter,
        readers.read_parquet,
        12,
        bytes_per_file=20_000,
        side_tables=side_tables.write_parquet,
        checksummed=True,
    ),
    Format("html", ReportWriter, readers.read_html, 20, bytes_per_file=300_000),
):
    register(_row)
