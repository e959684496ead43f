"""The result files of a run: written together, whole or not there.

In:  Blocks (all values of one query position and one layer), in the order they are to be written.
Out: NAME_results.csv / .json / .parquet / .html with the same rows, and NAME_run.json, the manifest, which is there
     only when the files beside it are complete and of one run. docs/output-format.md is the user's side.

    with ResultFiles("output", "masking", ["csv", "json"]) as files:
        for block in blocks:
            files.write(block)
        paths = files.commit(manifest)
    df = load(paths["run"])

formats.py has a row for each format. This module also gives what a user of the results needs from the others.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mask_impact.errors import UserError
from mask_impact.files.arrow import to_dataframe
from mask_impact.files.checksums import recorded
from mask_impact.files.columns import columns_of
from mask_impact.files.formats import FORMATS, formats_named, side_table_formats, write_side_table
from mask_impact.files.reading import load, load_many, read_csv
from mask_impact.files.side_tables import KINDS
from mask_impact.files.temporaries import discard, replace_set, replacing, temporary_folder
from mask_impact.files.writers import CsvWriter, JsonWriter, ParquetWriter, Writer, manifest_text
from mask_impact.table import COLUMNS, Block, Columns, checked, valid

if TYPE_CHECKING:
    from typing import Self

    from mask_impact.files.writers import Pictures

__all__ = [
    "COLUMNS", "FORMATS", "Block", "CsvWriter", "JsonWriter", "ParquetWriter", "ResultFiles", "Writer", "checked",
    "existing_files", "load", "load_many", "manifest_text", "read_csv", "to_dataframe", "valid", "write_text",
]  # fmt: skip

SCHEMA_VERSION = 1
PART_ROWS = 65_536  # a larger block is written in parts, so that memory does not grow with the block


class ResultFiles:
    """The result files of one run, written to a hidden folder in `directory` and moved up by `commit`.

    A context manager. Leaving it without `commit` removes everything written and touches nothing else.
    Raises UserError for an unknown format or a name that is not a plain file name; OSError passes through.
    """

    def __init__(self, directory: str | Path, name: str, formats: Sequence[str]) -> None:
        self._rows = formats_named(formats)
        if not name or Path(name).name != name:
            raise UserError(f"the output name {name!r} must be a plain file name, without a folder")
        self.directory, self.name, self.formats = Path(directory), name, tuple(row.name for row in self._rows)
        self.rows = 0
        self.notes: list[str] = []  # after `commit`: what was not written and why
        self._columns: tuple[str, ...] = ()  # of the first block, and then of all
        self._writers: dict[str, Writer] = {}
        self._tables: dict[str, Columns] = {}  # beside the results, by kind
        self._usable = False  # between __enter__ and commit, as long as nothing failed

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        self._temporary = temporary_folder(self.directory, self.name)
        try:
            for row in self._rows:
                self._writers[row.name] = row.writer(self._temporary / self._result(row.name).name)
        except BaseException:
            self._discard()
            raise
        self._usable = True
        return self

    def __exit__(self, *exc: object) -> None:
        self._discard()

    def write(self, block: Block) -> None:
        """Append the rows of one block to every file.

        Raises ValueError if a value is NaN or infinite, and for a block with other columns than the first.
        """
        with self._whole_or_unusable():
            columns = columns_of(block)
            self._columns = self._columns or columns
            if columns != self._columns:
                raise ValueError(f"a block with {', '.join(columns)} after one with {', '.join(self._columns)}")
            for part in _parts(checked(block)):
                if part.rows:
                    for writer in self._writers.values():
                        writer.write(part)
                    self.rows += part.rows

    def add_table(self, kind: str, columns: Columns) -> None:
        """A table beside the results, NAME_KIND.csv and so on, in those of the formats that have side tables."""
        if kind not in KINDS:
            raise ValueError(f"unknown table {kind!r}; choose from {', '.join(KINDS)}")
        self._tables[kind] = columns

    def commit(self, manifest: dict[str, Any], pictures: Pictures = ()) -> dict[str, Path]:
        """Complete the files and move them into place. They replace all results of an earlier run.

        `manifest` is written with schema_version, rows, files, their sizes and checksums filled in here, and a note
        for a report that is too large to be one file. `pictures` are those of manifest["images"], for the report.
        Returns the path of every format written, of tables under "effects.csv" and the like, and of the manifest under
        "run". Raises OSError if a file cannot be completed or moved.
        """
        with self._whole_or_unusable():
            formats = self._possible_formats(pictures)
            names = [self._result(fmt).name for fmt in formats]
            version = {"schema_version": SCHEMA_VERSION}  # on the left to be first, on the right to be true
            table_formats = [row.name for row in self._rows if row.side_tables is not None]
            tables = [f"{self.name}_{kind}.{fmt}" for kind in self._tables for fmt in table_formats]
            manifest = version | manifest | version | {"rows": self.rows, "files": names, "tables": tables}
            if self.notes:
                manifest["notes"] = [*manifest.get("notes", []), *self.notes]
            for fmt in formats:
                self._writers[fmt].finish(manifest)
                self._writers[fmt].close()
            for table in tables:
                kind = table.removeprefix(f"{self.name}_").partition(".")[0]
                write_side_table(self._temporary / table, self._tables[kind], manifest)
            text = manifest_text(manifest | recorded(self._temporary, (*names, *tables)))
            (self._temporary / self._manifest.name).write_bytes(text.encode())
            everything = (*names, *tables, self._manifest.name)
            replace_set(self._temporary, existing_files(self.directory, self.name), everything)
        self._usable = False
        written = {table.removeprefix(f"{self.name}_"): self.directory / table for table in tables}
        return {fmt: self._result(fmt) for fmt in formats} | written | {"run": self._manifest}

    def _possible_formats(self, pictures: Pictures) -> list[str]:
        """The formats without those that cannot hold this run, for which there is a note."""
        possible = []
        for fmt in self.formats:
            others = [self._result(other).name for other in self.formats if other != fmt]
            if reason := self._writers[fmt].prepare(pictures, others, self._tables):
                self.notes.append(f"{self._result(fmt).name} was not written: {reason}")
            else:
                possible.append(fmt)
        return possible

    @contextlib.contextmanager
    def _whole_or_unusable(self) -> Iterator[None]:
        """After a failure the files may hold half a block: nothing more may be written or committed."""
        if not self._usable:
            raise RuntimeError(f"{self.name}: not open, already committed, or an earlier write failed")
        self._usable = False
        yield
        self._usable = True

    def _discard(self) -> None:
        self._usable = False
        for writer in self._writers.values():
            with contextlib.suppress(Exception):  # a full disk fails once more; the first error counts
                writer.close()
        discard(self._temporary)

    def _result(self, fmt: str) -> Path:
        return self.directory / f"{self.name}_results.{fmt}"

    @property
    def _manifest(self) -> Path:
        return self.directory / f"{self.name}_run.json"


def existing_files(directory: str | Path, name: str) -> list[Path]:
    """What an earlier run left under this name, in any of FORMATS; the manifest first. Nothing else is removed."""
    names = [f"{name}_run.json", *(f"{name}_results.{fmt}" for fmt in sorted(FORMATS))]
    names += [f"{name}_{kind}.{fmt}" for kind in KINDS for fmt in side_table_formats()]
    return [path for path in (Path(directory) / each for each in names) if os.path.lexists(path)]


def write_text(path: Path, text: str) -> None:
    """Write a file of its own: whatever happens, it has all of `text`, or is as it was before."""
    with replacing(path) as temporary:
        temporary.write_bytes(valid(text).encode())


def _parts(block: Block) -> Iterator[Block]:
    """The block cut between masked tokens into blocks of at most PART_ROWS rows (at least one token each)."""
    step = max(1, PART_ROWS // max(1, len(block.variants)))
    for i in range(0, len(block.tokens), step):
        part = slice(i, i + step)
        yield replace(
            block,
            tokens=block.tokens[part],
            positions=block.positions[part],
            values=block.values[part],
            places=None if block.places is None else block.places[part],
        )
