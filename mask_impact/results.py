"""The long table: its columns, its files on disk and the run manifest.

In:  Blocks (all distances of one generation step and one layer), in the order they are to be written.
Out: NAME_results.csv / .json / .parquet / .html with the same rows, and NAME_run.json, the manifest, which is there
     only when the files beside it are complete and of one run. docs/output-format.md is the user's side.

    with ResultFiles("output", "masking", ["csv", "json"]) as files:
        for block in blocks:
            files.write(block)
        paths = files.commit(manifest)

A new format is one more writer class in FORMATS. Shapes: P masked tokens, V variants; P * V rows a block.
pyarrow and pandas are imported where they are used: `--help` needs FORMATS and must answer at once.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import orjson

from mask_impact.errors import UserError

if TYPE_CHECKING:
    from typing import Self

    import pandas as pd
    import pyarrow as pa
    from PIL import Image

    Pictures = Sequence[Image.Image | None]  # upright RGB; None: not there

COLUMNS = (
    "generation_step",
    "layer",
    "token_masked",
    "token_position",
    "variant",
    "l2_distance",
    "cosine_distance",
)
VARIANTS = ("full", "attn", "head")  # what a user chooses; in the table Full, Attn and Head_N
HEAD_SPACES = ("output", "residual")  # before the output projection, or each head's share of what it gives
MASK_MODES = ("text", "vision", "both")
VISION_ATTENTION = ("model", "bidirectional")
SCHEMA_VERSION = 1
PART_ROWS = 65_536  # a larger block is written in parts, so that memory does not grow with the block
ROW_GROUP_ROWS = 131_072  # Parquet: blocks are gathered until a row group has at least this many rows


@dataclass(frozen=True, eq=False)
class Block:
    """The rows of one generation step and one layer: for every masked token, every variant."""

    generation_step: int
    layer: int
    tokens: Sequence[str]  # [P] text of what is masked
    positions: np.ndarray  # [P] int
    variants: Sequence[str]  # [V] "Full", "Attn", "Head_0", ...
    l2: np.ndarray  # [P, V] float32
    cosine: np.ndarray  # [P, V] float32

    @property
    def rows(self) -> int:
        return len(self.tokens) * len(self.variants)


def checked(block: Block) -> Block:
    """The block as int64, float32 and valid text. Raises ValueError for a wrong shape, NaN or infinity."""
    block = replace(
        block,
        tokens=[valid(token) for token in block.tokens],
        positions=np.asarray(block.positions, np.int64),
        variants=[valid(variant) for variant in block.variants],
        l2=np.asarray(block.l2, np.float32),
        cosine=np.asarray(block.cosine, np.float32),
    )
    where = f"generation step {block.generation_step}, layer {block.layer}"
    masks, variants = len(block.tokens), len(block.variants)
    shapes = (block.positions.shape, block.l2.shape, block.cosine.shape)
    if shapes != ((masks,), (masks, variants), (masks, variants)):
        given = "positions {}, l2 {}, cosine {}".format(*shapes)
        raise ValueError(f"{where}: {masks} tokens and {variants} variants do not fit {given}")
    for name, values in (("l2", block.l2), ("cosine", block.cosine)):
        if not np.isfinite(values).all():
            p, v = np.argwhere(~np.isfinite(values))[0]
            masked = f"token {block.tokens[p]!r} at position {block.positions[p]}"
            what = f"{name} distance of {block.variants[v]} without {masked}"
            raise ValueError(f"{where}: the {what} is {values[p, v]}")
    return block


_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def valid(text: str) -> str:
    """Half of a surrogate pair, which no UTF-8 file can hold, becomes U+FFFD. All other text is unchanged."""
    return _LONE_SURROGATE.sub("\ufffd", text)


def _parts(block: Block) -> Iterator[Block]:
    """The block cut between masked tokens into blocks of at most PART_ROWS rows (at least one token each)."""
    step = max(1, PART_ROWS // max(1, len(block.variants)))
    for i in range(0, len(block.tokens), step):
        part = slice(i, i + step)
        yield replace(
            block,
            tokens=block.tokens[part],
            positions=block.positions[part],
            l2=block.l2[part],
            cosine=block.cosine[part],
        )


# --- one writer for each format ---------------------------------------------------------------------------
class Writer(Protocol):
    """Writes one file. `write` gets checked blocks of 1 to about PART_ROWS rows."""

    def __init__(self, path: Path) -> None: ...
    def write(self, block: Block) -> None: ...
    def prepare(self, pictures: Pictures, others: Sequence[str]) -> str | None:
        """All blocks are written. Why this file cannot be had, None if it can; `others` are the run's other files."""
        return None

    def finish(self, manifest: dict[str, Any]) -> None:
        """Complete the file; only after `prepare` gave None."""

    def close(self) -> None:
        """Let go of open files; called after `finish`, or without it when the run failed."""


def _shortest(values: np.ndarray) -> bytes:
    """JSON text of a float32 array, each number the shortest text that reads back as the same float32."""
    return orjson.dumps(np.ascontiguousarray(values), option=orjson.OPT_SERIALIZE_NUMPY)


class CsvWriter(Writer):
    """UTF-8, "\\n" line ends, one header line. Tokens are always quoted, as in RFC 4180, numbers never."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._file.write(",".join(COLUMNS).encode() + b"\n")
        # The text between layer and distances is the same for every layer of a step: keep the last one.
        self._middles = functools.lru_cache(maxsize=1)(_csv_middles)

    def write(self, block: Block) -> None:
        pairs = np.stack((block.l2, block.cosine), axis=-1).reshape(-1, 2)  # [P * V, 2]
        middles = self._middles(tuple(block.tokens), tuple(block.positions.tolist()), tuple(block.variants))
        numbers = _shortest(pairs)[2:-2].split(b"],[")  # "[[a,b],[c,d]]" -> "a,b", "c,d"
        start = b"%d,%d," % (block.generation_step, block.layer)
        self._file.writelines((start, (b"\n" + start).join(map(add, middles, numbers)), b"\n"))

    def finish(self, manifest: dict[str, Any]) -> None:
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
        self._columns = [path.with_name(f"{path.name}.{column}").open("w+b") for column in COLUMNS]

    def write(self, block: Block) -> None:
        masks, variants = len(block.tokens), len(block.variants)
        texts = (  # every value has a comma before it
            b",%d" % block.generation_step * block.rows,
            b",%d" % block.layer * block.rows,
            b"".join([(b"," + orjson.dumps(token)) * variants for token in block.tokens]),
            b"".join([b",%d" % position * variants for position in block.positions.tolist()]),
            b"".join([b"," + orjson.dumps(variant) for variant in block.variants]) * masks,
            b"," + _shortest(block.l2.reshape(-1))[1:-1],
            b"," + _shortest(block.cosine.reshape(-1))[1:-1],
        )
        for file, text in zip(self._columns, texts, strict=True):
            file.write(text)

    def finish(self, manifest: dict[str, Any]) -> None:
        with self._path.open("wb") as out:
            for before, name, file in zip("{,,,,,,", COLUMNS, self._columns, strict=True):
                out.write(f'{before}"{name}":['.encode())
                file.seek(1)  # past the comma before the first value
                shutil.copyfileobj(file, out, 1 << 20)
                out.write(b"]")
                file.truncate(0)  # so the disk never holds the table twice
            out.write(b"}\n")

    def close(self) -> None:
        with contextlib.ExitStack() as all_of_them:  # also when closing one of them fails
            for file in self._columns:
                all_of_them.enter_context(file)


class ParquetWriter(Writer):
    """Snappy, dictionary-coded strings, the manifest as JSON under the metadata key "mask_impact"."""

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        self._file = pq.ParquetWriter(
            path,
            _arrow_schema(),
            compression="snappy",
            write_page_checksum=True,  # so that a reader can tell a damaged file
            use_dictionary=list(COLUMNS[:5]),  # not the distances
            store_schema=False,  # with it, readers would make the text columns categories
        )
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_rows = 0

    def write(self, block: Block) -> None:
        self._waiting.append(_arrow_batch(block))
        self._waiting_rows += block.rows
        if self._waiting_rows >= ROW_GROUP_ROWS:
            self._write_row_group()

    def _write_row_group(self) -> None:
        import pyarrow as pa

        if self._waiting:
            table = pa.Table.from_batches(self._waiting).unify_dictionaries()
            self._file.write_table(table, row_group_size=table.num_rows)
            self._waiting, self._waiting_rows = [], 0

    def finish(self, manifest: dict[str, Any]) -> None:
        self._write_row_group()
        self._file.add_key_value_metadata({"mask_impact": manifest_text(manifest)})
        self._file.close()

    def close(self) -> None:
        self._file.close()


def _report_writer(path: Path) -> Writer:
    from mask_impact.report import ReportWriter  # which imports this module

    return ReportWriter(path)


FORMATS: dict[str, Callable[[Path], Writer]] = {
    "csv": CsvWriter,
    "json": JsonWriter,
    "parquet": ParquetWriter,
    "html": _report_writer,
}
_EXTENSIONS = sorted(FORMATS)  # what a run may have left; no other file is ever touched


# --- the folder -------------------------------------------------------------------------------------------
class ResultFiles:
    """The result files of one run, written to a hidden folder in `directory` and moved up by `commit`.

    A context manager. Leaving it without `commit` removes everything written and touches nothing else.
    Raises UserError for an unknown format or a name that is not a plain file name; OSError passes through.
    """

    def __init__(self, directory: str | Path, name: str, formats: Sequence[str]) -> None:
        unknown = [fmt for fmt in formats if fmt not in FORMATS]
        if unknown:
            raise UserError(f"unknown format {unknown[0]!r}; choose from {', '.join(FORMATS)}")
        if not name or Path(name).name != name:
            raise UserError(f"the output name {name!r} must be a plain file name, without a folder")
        self.directory, self.name, self.formats = Path(directory), name, tuple(dict.fromkeys(formats))
        self.rows = 0
        self.notes: list[str] = []  # after `commit`: what was not written and why
        self._writers: dict[str, Writer] = {}
        self._usable = False  # between __enter__ and commit, as long as nothing failed

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        remove_stale_temporaries(self.directory, self.name)
        prefix = f"{_temporary_prefix(self.name)}{os.getpid()}-"
        self._temporary = Path(tempfile.mkdtemp(prefix=prefix, suffix=".tmp", dir=self.directory))
        try:
            for fmt in self.formats:
                self._writers[fmt] = FORMATS[fmt](self._temporary / self._result(fmt).name)
        except BaseException:
            self._discard()
            raise
        self._usable = True
        return self

    def __exit__(self, *exc: object) -> None:
        self._discard()

    def write(self, block: Block) -> None:
        """Append the rows of one block to every file. Raises ValueError if a distance is NaN or infinite."""
        with self._whole_or_unusable():
            for part in _parts(checked(block)):
                if part.rows:
                    for writer in self._writers.values():
                        writer.write(part)
                    self.rows += part.rows

    def commit(self, manifest: dict[str, Any], pictures: Pictures = ()) -> dict[str, Path]:
        """Complete the files and move them into place. They replace all results of an earlier run.

        `manifest` is written with schema_version, rows and files filled in here, and a note for a report that is too
        large to be one file. `pictures` are those of manifest["images"], for the report. Returns the path of every
        format written, and of the manifest under "run". Raises OSError if a file cannot be completed or moved.
        """
        with self._whole_or_unusable():
            formats = self._possible_formats(pictures)
            names = [self._result(fmt).name for fmt in formats]
            version = {"schema_version": SCHEMA_VERSION}  # on the left to be first, on the right to be true
            manifest = version | manifest | version | {"rows": self.rows, "files": names}
            if self.notes:
                manifest["notes"] = [*manifest.get("notes", []), *self.notes]
            text = manifest_text(manifest)
            (self._temporary / self._manifest.name).write_bytes(text.encode())
            for fmt in formats:
                self._writers[fmt].finish(manifest)
                self._writers[fmt].close()
            for name in (*names, self._manifest.name):
                _sync_file(self._temporary / name)
            self._replace(names)
        self._usable = False
        return {fmt: self._result(fmt) for fmt in formats} | {"run": self._manifest}

    def _possible_formats(self, pictures: Pictures) -> list[str]:
        """The formats without those that cannot hold this run, for which there is a note."""
        possible = []
        for fmt in self.formats:
            others = [self._result(other).name for other in self.formats if other != fmt]
            if reason := self._writers[fmt].prepare(pictures, others):
                self.notes.append(f"{self._result(fmt).name} was not written: {reason}")
            else:
                possible.append(fmt)
        return possible

    def _replace(self, names: Sequence[str]) -> None:
        """Old results out, new results in. No file system replaces several files at once, so order matters:

        1. the old manifest goes. Stopped before: the old run is whole, with its manifest.
        2. the old result files go, those of formats not written now too. Stopped in here: no manifest, and
           what is left is of the old run only.
        3. the new result files come. Stopped in here: no manifest, and what is there is of the new run only.
        4. the new manifest comes. Stopped after: the new run is whole, with its manifest.

        So files of two runs never lie side by side, and a manifest always describes the files beside it.
        The folder is synced after each move: a power failure cannot keep a later one and lose an earlier.
        """
        for path in existing_files(self.directory, self.name):
            path.unlink()
            _sync_folder(self.directory)
        for name in (*names, self._manifest.name):
            os.replace(self._temporary / name, self.directory / name)
            _sync_folder(self.directory)

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
        shutil.rmtree(self._temporary, ignore_errors=True)

    def _result(self, fmt: str) -> Path:
        return self.directory / f"{self.name}_results.{fmt}"

    @property
    def _manifest(self) -> Path:
        return self.directory / f"{self.name}_run.json"


def existing_files(directory: str | Path, name: str) -> list[Path]:
    """What an earlier run left under this name, in whatever format; the manifest first."""
    names = [f"{name}_run.json", *(f"{name}_results.{extension}" for extension in _EXTENSIONS)]
    return [path for path in (Path(directory) / each for each in names) if os.path.lexists(path)]


def remove_stale_temporaries(directory: str | Path, name: str) -> list[Path]:
    """Remove what killed runs of this name left in the folder; returns the paths removed.

    Only of processes of this machine that no longer exist: on a shared disk others may still be writing.
    """
    if os.name != "posix":  # elsewhere os.kill(pid, 0) is not a question
        return []
    pattern = re.compile(re.escape(_temporary_prefix(name)) + r"(\d+)-\w+\.tmp")
    found = [(path, pattern.fullmatch(path.name)) for path in Path(directory).iterdir()]
    stale = [path for path, match in found if match and not _is_alive(int(match[1]))]
    for path in stale:
        shutil.rmtree(path, ignore_errors=True)
    return stale


def _temporary_prefix(name: str) -> str:
    return f".{name}_results.{platform.node()}."


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # signal 0 asks and sends nothing
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def _sync_file(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    """Make renames in a folder durable, where the system can (Windows and some network disks cannot)."""
    with contextlib.suppress(OSError):
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def manifest_text(manifest: dict[str, Any]) -> str:
    """Readable JSON. Raises ValueError for NaN or inf, TypeError for a value JSON has no form for."""
    return valid(json.dumps(manifest, indent=2, ensure_ascii=False, allow_nan=False, default=_plain)) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"the manifest holds {value!r}, which JSON has no form for")


# --- Arrow and pandas -------------------------------------------------------------------------------------
def _arrow_schema(text: pa.DataType | None = None) -> pa.Schema:
    """The columns with their types; text columns are dictionary-coded unless another type is given."""
    import pyarrow as pa

    text = text or pa.dictionary(pa.int32(), pa.string())
    types = (pa.int64(), pa.int64(), text, pa.int64(), text, pa.float32(), pa.float32())
    return pa.schema([pa.field(*column, nullable=False) for column in zip(COLUMNS, types, strict=True)])


def _arrow_batch(block: Block) -> pa.RecordBatch:
    """The rows of a checked block, copied: the engine may use its arrays again."""
    import pyarrow as pa

    masks, variants = len(block.tokens), len(block.variants)
    token = np.repeat(np.arange(masks, dtype=np.int32), variants)
    variant = np.tile(np.arange(variants, dtype=np.int32), masks)
    arrays = (
        np.full(block.rows, block.generation_step, np.int64),
        np.full(block.rows, block.layer, np.int64),
        pa.DictionaryArray.from_arrays(token, pa.array(block.tokens, pa.string())),
        np.repeat(block.positions, variants),
        pa.DictionaryArray.from_arrays(variant, pa.array(block.variants, pa.string())),
        block.l2.flatten(),
        block.cosine.flatten(),
    )
    return pa.record_batch([pa.array(x) for x in arrays], schema=_arrow_schema())


def to_dataframe(blocks: Iterable[Block]) -> pd.DataFrame:
    """The table in memory, COLUMNS in order: integers are int64, text is plain strings, distances float32.

    Raises ValueError if a distance is NaN or infinite.
    """
    import pyarrow as pa

    batches = [_arrow_batch(checked(block)) for block in blocks]
    return _to_pandas(pa.Table.from_batches(batches, _arrow_schema()))


def read_csv(path: str | Path) -> pd.DataFrame:
    """NAME_results.csv with the dtypes of `to_dataframe`: every token is text, whatever it looks like.

    Raises KeyError if a column is missing, ValueError if a value does not fit its column.
    """
    import pyarrow as pa
    from pyarrow import csv

    parse = csv.ParseOptions(newlines_in_values=True)
    convert = csv.ConvertOptions(
        column_types=_arrow_schema(pa.string()),
        include_columns=COLUMNS,
        strings_can_be_null=False,
        null_values=[],
    )
    return _to_pandas(csv.read_csv(path, parse_options=parse, convert_options=convert))


def _to_pandas(table: pa.Table) -> pd.DataFrame:
    import pyarrow as pa

    return table.cast(_arrow_schema(pa.large_string())).to_pandas(split_blocks=True, self_destruct=True)
