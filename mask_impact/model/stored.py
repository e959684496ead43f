"""The tensors in a checkpoint's folder, by name, read one at a time."""

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open

PACKED = ("I8", "U8", "I16", "U16", "F8_E4M3", "F8_E5M2")  # as safetensors calls them


class Stored:
    """The tensors in a checkpoint's folder, read one at a time."""

    def __init__(self, folder: Path | None) -> None:
        """None: there is no such folder, and nothing is found."""
        files = sorted(folder.glob("*.safetensors")) if folder else []
        pickles = sorted(folder.glob("*.bin")) if folder and not files else []
        kinds = {file: _kinds(file) for file in files}
        self._files = {name: file for file, found in kinds.items() for name in found}
        self._kinds = {name: kind for found in kinds.values() for name, kind in found.items()}
        self._pickled = dict(each for file in pickles for each in _pickled(file))
        self.names = [*self._files, *self._pickled]

    def packed(self) -> dict[str, str]:
        """The tensors whose numbers are not weights by themselves but need a scale, and how they are stored."""
        return {name: kind for name, kind in self._kinds.items() if kind in PACKED}

    def __call__(self, key: str) -> torch.Tensor | None:
        """By the model's name of it, which may begin in another way than the file's; None where there is none."""
        for name in self.names:
            if same(key, name):
                return self._pickled[name] if name in self._pickled else _tensor(self._files[name], name)
        return None


def same(key: str, name: str) -> bool:
    """Whether two names are one, apart from the modules that one of them begins with."""
    return name == key or name.endswith(f".{key}") or key.endswith(f".{name}")


def _kinds(file: Path) -> dict[str, str]:
    """How each tensor of a file is stored."""
    with safe_open(file, "pt") as tensors:
        return {name: str(tensors.get_slice(name).get_dtype()) for name in tensors.keys()}  # noqa: SIM118 - no mapping


def _tensor(file: Path, name: str) -> torch.Tensor:
    with safe_open(file, "pt") as tensors:
        return tensors.get_tensor(name)


def _pickled(file: Path) -> Iterator[tuple[str, torch.Tensor]]:
    yield from torch.load(file, mmap=True, weights_only=True, map_location="cpu").items()
