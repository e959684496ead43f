"""The files of one extraction: a file per layer with a row per image token; a journal while it runs, then a summary.

In: for each finished image a record and its rows. Out: extraction_summary_NAME.json and, if features are saved,
features_NAME_layer_K.safetensors (or .pt) with features_NAME_index.json, which says which rows belong to which image.

Rows are appended to the files of the layers first, then the record of the image to the journal. When an extraction is
resumed, rows that the journal does not list are cut off, so a crash loses only the image that was being written.
"""

import itertools
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, Self, TypeVar

import torch
from safetensors import safe_open

from mask_impact.errors import UserError
from mask_impact.files.results import write_text
from mask_impact.files.stored import Extraction, ImageRecord, Unreadable, parsed, stored
from mask_impact.files.temporaries import check_replaceable, new_set
from mask_impact.lens.norms import row_count

SCHEMA_VERSION = 1
HEADER_BYTES = 4096  # of a safetensors file, length field included; enough for any number of rows
DTYPE_NAMES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}  # as safetensors has them
COPIED_ROWS = 4096  # at a time

Record = dict[str, Any]  # what the summary says about an image
T = TypeVar("T")


def read_features(path: str | Path) -> torch.Tensor:
    """The features of one layer [rows, C], memory-mapped: only what is used is read."""
    if Path(path).suffix == ".pt":
        return torch.load(path, weights_only=True, mmap=True)["features"]
    with safe_open(path, framework="pt") as file:
        return file.get_tensor("features")


class FeatureFiles:
    """An extraction that is being written. In a `with` block, `append` adds images, `finish` makes the files."""

    def __init__(
        self, folder: Path, name: str, request: Mapping[str, Any], width: int, resume: bool, overwrite: bool
    ) -> None:
        """Continue an extraction (`resume`), or begin one.

        Args:
            request: what the numbers depend on; "layers", and "stored": dtype and format of features, or None.
            width: C, numbers per row.

        Raises UserError if there is an extraction and neither `resume` nor `overwrite` was asked for, or if it was made
        from another request.
        """
        self.folder, self.name = folder, name
        self.request = json.loads(json.dumps(request))  # as when it is read back
        self.layers: list[int] = self.request["layers"]
        stored = self.request["stored"]
        self.format: str | None = stored and stored["format"]
        self.dtype = getattr(torch, stored["dtype"]) if stored else torch.float32
        self.width = width
        self.records: list[Record] = []
        self.summary = folder / f"extraction_summary_{name}.json"
        self.index = folder / f"features_{name}_index.json"
        self.journal = folder / f"extraction_{name}.journal"
        self._open_files = ExitStack()
        self._parts: dict[int, BinaryIO] = {}
        self._lines: BinaryIO | None = None
        check_replaceable([path for path in self._all_files() if path.exists()])
        found = self._found() if not overwrite else None
        if found and not resume:
            raise UserError(
                f"{found} exists already; choose another --output, keep what is done with --resume, or replace it with "
                "--overwrite"
            )
        if found:
            self.records = self._continued()
        elif self.journal.exists():
            self.journal.unlink()

    @property
    def rows(self) -> int:
        return self.records[-1]["rows"][1] if self.records else 0

    @property
    def row_bytes(self) -> int:
        return self.width * self.dtype.itemsize

    def layer_path(self, layer: int) -> Path:
        return self.folder / f"features_{self.name}_layer_{layer}.{self.format}"

    def _part(self, layer: int) -> Path:
        return self.folder / f"features_{self.name}_layer_{layer}.part"

    def _all_files(self) -> list[Path]:
        layers = [path(layer) for layer in self.layers for path in (self.layer_path, self._part)]
        return [self.summary, self.index, self.journal, *layers]

    def _found(self) -> Path | None:
        return next((path for path in (self.journal, self.summary) if path.exists()), None)

    # --- continuing ---------------------------------------------------------------------------------------
    def _continued(self) -> list[Record]:
        """The records of the finished images."""
        if not self.journal.exists():
            written = self._read(self.summary, lambda: stored(self.summary, Extraction))
            self._check_same(written["request"], self.summary)
            self._check_layers(written["images"])
            return [dict(image) for image in written["images"]]
        lines = self.journal.read_bytes().split(b"\n")[:-1]  # the last line is empty or incomplete
        if not lines:  # killed before anything was done
            return []
        request = self._read(self.journal, lambda: parsed(lines[0], dict[str, Any]))
        self._check_same(request, self.journal)
        records: list[Record] = self._read(
            self.journal, lambda: [dict(parsed(line, ImageRecord)) for line in lines[1:]]
        )
        if self.format:
            whole = min(self._rows_of(self._part(layer)) for layer in self.layers)
            records = [record for record in records if record["rows"][1] <= whole]
        return records

    def _read(self, path: Path, read: Callable[[], T]) -> T:
        """Raises UserError for a file that does not hold what was written."""
        try:
            return read()
        except Unreadable as error:
            raise UserError(
                f"{path} cannot be read ({error}); start anew with --overwrite, or choose another --output"
            ) from error

    def _check_layers(self, images: Sequence[ImageRecord]) -> None:
        """Raises UserError for a finished extraction of which a file is missing or cut off."""
        header = HEADER_BYTES if self.format == "safetensors" else 0
        least = header + (images[-1]["rows"][1] * self.row_bytes if images else 0)
        for path in map(self.layer_path, self.layers if self.format else ()):
            if not path.is_file() or path.stat().st_size < least:
                raise UserError(
                    f"{path} is missing or cut off; start anew with --overwrite, or choose another --output"
                )

    def _check_same(self, request: Record, path: Path) -> None:
        for key in dict.fromkeys((*self.request, *request)):
            if self.request.get(key) != request.get(key):
                raise UserError(
                    f"{path} is of another extraction: {key} was {request.get(key)}, is {self.request.get(key)}; "
                    "choose another --output, or replace it with --overwrite"
                )

    def _rows_of(self, part: Path) -> int:
        return max(0, part.stat().st_size - HEADER_BYTES) // self.row_bytes if part.exists() else 0

    def _begin(self) -> None:
        """Open the journal and the files of the layers, and cut off what is not finished."""
        lines = b"".join(map(_line, (self.request, *self.records)))
        for layer in self.layers if self.format else ():
            part = self._part(layer)
            if not self.journal.exists():  # a new extraction, or a finished one that is continued
                part.unlink(missing_ok=True)
            if self.rows and not part.exists():
                self._copy_back(layer)
            file = self._open_files.enter_context(part.open("r+b" if part.exists() else "w+b"))
            file.truncate(HEADER_BYTES + self.rows * self.row_bytes)
            file.seek(0, os.SEEK_END)
            self._parts[layer] = file
        write_text(self.journal, lines.decode())
        self._lines = self._open_files.enter_context(self.journal.open("ab", buffering=0))

    def _copy_back(self, layer: int) -> None:
        features = read_features(self.layer_path(layer))
        with self._part(layer).open("wb") as file:
            file.write(bytes(HEADER_BYTES))
            for rows in features.split(COPIED_ROWS):
                file.write(_bytes(rows))

    # --- writing ------------------------------------------------------------------------------------------
    def append(self, records: Sequence[Record], states: Mapping[int, torch.Tensor]) -> None:
        """Add finished images, with their rows one after the other: {layer: [rows, C]}, empty if none are saved.

        A record needs "token_count", or "row_count" where that differs. Its "rows", [first, last) in the file of every
        layer, are added to it.
        Raises UserError for numbers that the chosen dtype cannot hold.
        """
        if self._lines is None:
            self._begin()
        assert self._lines is not None
        stored = {layer: self._stored(layer, rows) for layer, rows in states.items()} if self.format else {}
        for layer, rows in stored.items():
            self._parts[layer].write(_bytes(rows))
            self._parts[layer].flush()
        for record in records:
            record["rows"] = [self.rows, self.rows + row_count(record)]
            self.records.append(record)
        self._lines.write(b"".join(map(_line, records)))

    def _stored(self, layer: int, rows: torch.Tensor) -> torch.Tensor:
        stored = rows.to(device="cpu", dtype=self.dtype)
        if not stored.isfinite().all():
            raise UserError(
                f"layer {layer} has numbers up to {rows.abs().max():.3g}, which {self.request['stored']['dtype']} "
                "cannot hold; choose --feature-dtype bfloat16 or float32"
            )
        return stored

    # --- the end ------------------------------------------------------------------------------------------
    def finish(self, summary: Mapping[str, Any]) -> list[Path]:
        """Make the final files, `summary` last. Returns their paths."""
        if self._lines is None and self.journal.exists():  # killed after the last image and before the end
            self._begin()
        self.close()
        parts = [layer for layer in self.layers if self.format and self._part(layer).exists()]
        written = {"schema_version": SCHEMA_VERSION, "request": self.request, **summary, "images": self.records}
        with new_set(self.folder, f"features_{self.name}", self._earlier(parts)) as (temporary, names):
            for layer in parts:
                self._whole(layer, temporary / self.layer_path(layer).name)
                names.append(self.layer_path(layer).name)
            for path, content in ((self.index, self._index() if self.format else None), (self.summary, written)):
                if content is not None:
                    (temporary / path.name).write_bytes(_json(content).encode())
                    names.append(path.name)
        self.journal.unlink(missing_ok=True)
        for layer in parts:
            self._part(layer).unlink()
        return [
            *map(self.layer_path, self.layers if self.format else ()),
            *([self.index] if self.format else []),
            self.summary,
        ]

    def _earlier(self, new: Sequence[int]) -> list[Path]:
        """The files of an earlier extraction that go: its summary and index, layers that are new, and those that are
        not asked for."""
        pattern = re.compile(rf"features_{re.escape(self.name)}_layer_\d+\.(safetensors|pt)")
        kept = {self.layer_path(layer) for layer in self.layers if self.format and layer not in new}
        layers = [path for path in self.folder.iterdir() if pattern.fullmatch(path.name) and path not in kept]
        return [path for path in (self.summary, self.index) if path.exists()] + layers

    def _whole(self, layer: int, path: Path) -> None:
        """The file of a layer. Its part stays, so that nothing is computed twice after a kill."""
        part = self._part(layer)
        with part.open("r+b", buffering=0) as file:
            file.write(self._header(layer))
        if self.format == "pt":
            torch.save({"features": _mapped(part, self.rows, self.width, self.dtype)}, path)
            return
        try:
            os.link(part, path)
        except OSError:  # a file system without links
            shutil.copyfile(part, path)

    def _header(self, layer: int) -> bytes:
        """https://huggingface.co/docs/safetensors: the length, then a JSON text, which may be padded with spaces."""
        header = {
            "__metadata__": {"format": "pt", "layer": str(layer), "index": self.index.name},
            "features": {
                "dtype": DTYPE_NAMES[self.request["stored"]["dtype"]],
                "shape": [self.rows, self.width],
                "data_offsets": [0, self.rows * self.row_bytes],
            },
        }
        length = HEADER_BYTES - 8
        return length.to_bytes(8, "little") + json.dumps(header).encode().ljust(length)

    def _index(self) -> Record:
        kept = ("path", "sha256", "rows", "grid", "patch_grid", "frames", "seconds", "token_ranges")
        return {
            "schema_version": SCHEMA_VERSION,
            "files": {str(layer): self.layer_path(layer).name for layer in self.layers},
            **self.request["stored"],
            "hidden_size": self.width,
            "images": [{key: record[key] for key in kept if key in record} for record in self.records],
        }

    def close(self) -> None:
        self._open_files.close()
        self._parts, self._lines = {}, None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def ranges(positions: Sequence[int]) -> list[list[int]]:
    """[4, 5, 6, 9] -> [[4, 6], [9, 9]]: first and last of each run of neighbours."""
    found: list[list[int]] = []
    for position in positions:
        if found and found[-1][1] == position - 1:
            found[-1][1] = position
        else:
            found.append([position, position])
    return found


def positions(found: Sequence[Sequence[int]]) -> list[int]:
    """The positions that `ranges` made."""
    return list(itertools.chain.from_iterable(range(first, last + 1) for first, last in found))


def _line(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _json(value: Mapping[str, Any]) -> str:
    """One line per entry of the outer object and per image, so that the file is readable and small."""
    lines = []
    for key, item in value.items():
        if key == "images" and item:
            rows = ",\n".join(f"  {json.dumps(each, ensure_ascii=False, allow_nan=False)}" for each in item)
            lines.append(f' "images": [\n{rows}\n ]')
        else:
            lines.append(f" {json.dumps(key)}: {json.dumps(item, ensure_ascii=False, allow_nan=False)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _bytes(rows: torch.Tensor) -> memoryview:
    return rows.contiguous().view(torch.uint8).numpy().data  # numpy has no bfloat16


def _mapped(part: Path, rows: int, width: int, dtype: torch.dtype) -> torch.Tensor:
    size = part.stat().st_size
    whole = torch.from_file(str(part), shared=False, size=size, dtype=torch.uint8)
    return whole[HEADER_BYTES:].view(dtype).view(rows, width)
