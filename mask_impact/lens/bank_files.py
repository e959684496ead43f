"""The folder of a bank: shards of unit vectors, what their rows are, and a manifest. Writes, finds and reads it.

    bank.json              the manifest; while the bank is being built, what it is built from
    contexts.parquet       for every row: token_id, token, caption, caption_index, caption_position
    shard_00000.safetensors, ...   for each layer K: layer_K [rows, hidden] float16 and norm_K [rows] float32

The hidden state of a row is norm * vector; stored directly in float16, numbers of some models would overflow. Rows are
memory-mapped, so a bank may be larger than memory. A shard is written whole or not at all, and its checksum is checked
when it is first read.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from mask_impact.errors import UserError
from mask_impact.files.results import replacing, write_text
from mask_impact.files.stored import BankBegun, BankDone, Unreadable, stored, typed
from mask_impact.files.temporaries import discard, replace_set, temporary_folder
from mask_impact.files.writers import manifest_text
from mask_impact.model.find import Source

SCHEMA_VERSION = 1
MANIFEST, CONTEXTS = "bank.json", "contexts.parquet"
NEW = ".new_bank"  # in the folder of a bank, the one that is built to replace it
SHARD = re.compile(r"shard_\d{5,}\.safetensors")
AGAIN = "build the bank anew with --overwrite"

Manifest = dict[str, Any]


class Searchable(Protocol):
    """A bank that can be searched for neighbours: one of ours, or a published one."""

    folder: Path
    layers: tuple[int, ...]
    hidden_size: int

    def rows(self, layer: int) -> int: ...
    def parts(self, layer: int) -> Iterator[torch.Tensor]:
        """The rows of the layer [n, C], in order, memory-mapped from the files."""
        ...

    def contexts(self, layer: int, rows: np.ndarray) -> dict[str, list[Any]]:
        """For these rows "token" and "caption" (str), "caption_position" (int)."""
        ...

    def check(self, source: Source, fingerprint: str) -> None:
        """Raises UserError if the bank belongs to another model."""
        ...

    @property
    def identity(self) -> dict[str, Any]:
        """What the manifest of neighbours says about the bank."""
        ...


def shard_name(number: int) -> str:
    return f"shard_{number:05}.safetensors"


def write_shard(path: Path, vectors: Mapping[int, torch.Tensor], norms: Mapping[int, torch.Tensor]) -> None:
    """{layer: [rows, C] float16}, {layer: [rows] float32}. Raises UserError for numbers that are not finite."""
    tensors: dict[str, torch.Tensor] = {}
    for layer in vectors:
        if not (vectors[layer].isfinite().all() and norms[layer].isfinite().all()):
            raise UserError(f"layer {layer} gives numbers that are not finite; try --dtype float32")
        tensors |= {f"layer_{layer}": vectors[layer], f"norm_{layer}": norms[layer]}
    with replacing(path) as temporary:
        _save(tensors, temporary)
        shutil.copymode(path.with_name(MANIFEST), temporary)  # safetensors makes files that only their owner can read


def _save(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Raises OSError where safetensors has an error of its own for what the system says."""
    try:
        save_file(dict(tensors), path)
    except SafetensorError as error:
        if found := re.search(r"(?:code: |os error )(\d+)", str(error)):
            raise OSError(int(found[1]), os.strerror(int(found[1]))) from error
        raise


def write_contexts(path: Path, columns: Mapping[str, Sequence[Any]]) -> None:
    """token_id, token, caption, caption_index and caption_position of every row."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    with replacing(path) as temporary:
        pq.write_table(table, temporary, use_dictionary=["token", "caption"], store_schema=False)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    write_text(folder / MANIFEST, manifest_text({"schema_version": SCHEMA_VERSION, **manifest}))


def described(path: Path) -> dict[str, Any]:
    """A file's name, size and checksum, for the manifest."""
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": sha256(path)}


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(folder: Path) -> Manifest | None:
    """bank.json, or None if there is none. Raises UserError if it cannot be read."""
    path = folder / MANIFEST
    try:
        manifest: Manifest = dict(stored(path, BankBegun))
        if manifest["schema_version"] != SCHEMA_VERSION:
            raise UserError(f"{path} is of version {manifest['schema_version']}, not {SCHEMA_VERSION}; {AGAIN}")
        if manifest["shards"] is None:
            return manifest
        done: Manifest = dict(typed(manifest, BankDone))
        if done["layers"] != done["request"].get("layers"):
            raise Unreadable("it has other layers than were asked for")
        return done
    except FileNotFoundError:
        return None
    except Unreadable as error:
        raise UserError(f"{path} is damaged ({error}); {AGAIN}") from error


def files_of(folder: Path) -> list[Path]:
    """All files of a bank that are there, the manifest first."""
    paths = [folder / MANIFEST, folder / CONTEXTS, *filter(lambda path: SHARD.fullmatch(path.name), folder.iterdir())]
    return [path for path in paths if os.path.lexists(path)]


def begin(folder: Path, manifest: Manifest) -> None:
    """What is there of an unfinished bank goes, and the manifest of the new one comes."""
    folder.mkdir(exist_ok=True)
    for path in files_of(folder):
        path.unlink()
    write_manifest(folder, manifest | {"shards": None})


def take_place(new: Path, folder: Path) -> None:
    """A bank that was built in a folder of `folder` takes the place of the one that is there; both as a whole."""
    temporary = temporary_folder(folder, "bank")
    temporary.rmdir()
    os.replace(new, temporary)
    try:
        names = [path.name for path in reversed(files_of(temporary))]
        replace_set(temporary, files_of(folder), names)
    finally:
        discard(temporary)


class Bank:
    """A finished bank that can be searched."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        """Raises UserError if the bank is not finished or lacks files. Their contents are checked when used."""
        self.folder, self.manifest = folder, manifest
        if manifest.get("shards") is None:
            raise UserError(f"the bank {folder} is not finished; run the bank command that builds it with --resume")
        self.layers = tuple(manifest["layers"])
        self.hidden_size = int(manifest["hidden_size"])
        for about in (manifest["contexts"], *manifest["shards"]):
            path = folder / about["file"]
            if not path.is_file():
                raise UserError(f"the bank {folder} lacks {path.name}; copy it there, or {AGAIN}")
            if path.stat().st_size != about["bytes"]:
                raise _damaged(path, f"{path.stat().st_size:,} bytes, not {about['bytes']:,}")
        if (rows := sum(about["rows"] for about in manifest["shards"])) != manifest["rows"]:
            raise UserError(
                f"{folder / MANIFEST} is damaged (its shards have {rows:,} rows, not {manifest['rows']:,}); {AGAIN}"
            )
        self._whole: set[str] = set()  # files whose checksum was checked

    def rows(self, layer: int) -> int:
        return int(self.manifest["rows"])

    def parts(self, layer: int) -> Iterator[torch.Tensor]:
        return self._tensors(f"layer_{layer}")

    def norms(self, layer: int) -> torch.Tensor:
        """[rows] float32, the norms of the hidden states."""
        return torch.cat(list(self._tensors(f"norm_{layer}")))

    def _tensors(self, name: str) -> Iterator[torch.Tensor]:
        for about in self.manifest["shards"]:
            path = self._checked(about)
            try:
                with safe_open(path, framework="pt") as file:
                    tensor = file.get_tensor(name)
            except SafetensorError as error:
                raise _damaged(path, str(error)) from error
            yield tensor

    def _checked(self, about: Mapping[str, Any]) -> Path:
        path = self.folder / about["file"]
        if path.name not in self._whole:
            if (found := sha256(path)) != about["sha256"]:
                raise _damaged(path, f"SHA-256 {found[:12]}..., not {about['sha256'][:12]}...")
            self._whole.add(path.name)
        return path

    @cached_property
    def _table(self) -> Any:
        import pyarrow.parquet as pq

        path = self._checked(self.manifest["contexts"])
        table = pq.read_table(path, read_dictionary=["token", "caption"], memory_map=True)
        if table.num_rows != self.manifest["rows"]:
            raise _damaged(path, f"{table.num_rows:,} rows, not {self.manifest['rows']:,}")
        return table

    def contexts(self, layer: int, rows: np.ndarray) -> dict[str, list[Any]]:
        return {name: self._table[name].take(rows).to_pylist() for name in ("token", "caption", "caption_position")}

    def check(self, source: Source, fingerprint: str) -> None:
        check_size(self, source)
        made = self.manifest["model"]
        if made["fingerprint"] != fingerprint:
            raise UserError(
                f"the bank {self.folder} is of another model: it was built with {made['name']} "
                f"({made['fingerprint']}), and --model is {source.name} ({fingerprint}); give that model, or the bank "
                "of this one"
            )

    @property
    def identity(self) -> dict[str, Any]:
        manifest = self.manifest
        kept = ("model", "layers", "hidden_size", "rows", "captions", "max_per_token", "seed")
        shards = "".join(about["sha256"] for about in manifest["shards"])
        return {
            "kind": "mask-impact",
            "folder": str(self.folder),
            "sha256": hashlib.sha256(shards.encode()).hexdigest(),
            **{key: manifest[key] for key in kept},
        }


def check_size(bank: Searchable, source: Source) -> None:
    """Raises UserError if the bank cannot belong to the model."""
    hidden = source.text_config.hidden_size
    if bank.hidden_size != hidden:
        raise UserError(
            f"the bank {bank.folder} is of another model: its hidden size is {bank.hidden_size}, that of {source.name} "
            f"is {hidden}; give the model's own bank"
        )
    if bank.layers[-1] > source.num_layers:
        raise UserError(
            f"the bank {bank.folder} is of another model: it has layer {bank.layers[-1]}, {source.name} has 0 to "
            f"{source.num_layers}; give the model's own bank"
        )


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(f"{path} is damaged: {reason}; copy it again, or {AGAIN}")
