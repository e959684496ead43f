"""Banks that the latentlens package (PyPI, 0.1.0) has saved, or that its authors have published.

In:  a folder with layer_K/embeddings_cache.pt for each layer: "embeddings" [rows, C], of length 1, and "metadata", a
     list with token_str, token_id, caption and position of every row.
Out: what a bank of ours gives, without the checks: such a folder names neither its model nor checksums.

Layers are numbered as here: 0 is the decoder's input, K the state after K blocks. Only the last layer differs: there it
is the state after the final norm. The files are pickles; only tensors, texts and numbers are read from them.
"""

import pickle
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mask_impact.errors import UserError
from mask_impact.lens.bank_files import check_size
from mask_impact.model.find import Source

CACHE = "embeddings_cache.pt"
CHECKED = 1 << 16  # rows at a time
TOLERANCE = 0.02  # of a length of 1; bfloat16 rounds each number by up to 0.004
FOLDER = re.compile(r"layer_(\d{1,6})")


def cache_files(folder: Path) -> dict[int, Path]:
    """{layer: file} of a published bank; empty for other folders."""
    found = {
        int(match[1]): path / CACHE
        for path in folder.iterdir()
        if (match := FOLDER.fullmatch(path.name)) and (path / CACHE).is_file()
    }
    return dict(sorted(found.items()))


class PublishedBank:
    """A published bank. Embeddings are memory-mapped; the contexts of the rows are read into memory."""

    def __init__(self, folder: Path) -> None:
        """Raises UserError if the files of the folder do not fit together."""
        self.folder = folder
        self._caches = {layer: _read(path) for layer, path in cache_files(folder).items()}
        self.layers = tuple(self._caches)
        sizes = {layer: cache["embeddings"].shape[1] for layer, cache in self._caches.items()}
        first = self.layers[0]
        self.hidden_size = int(sizes[first])
        for layer, size in sizes.items():
            if size != self.hidden_size:
                raise UserError(
                    f"the bank {folder} does not fit together: vectors have {self.hidden_size} numbers in "
                    f"layer {first}, {size} in layer {layer}; get it again"
                )

    def rows(self, layer: int) -> int:
        return len(self._caches[layer]["embeddings"])

    def parts(self, layer: int) -> Iterator[torch.Tensor]:
        """Raises UserError for vectors that are not of length 1."""
        vectors = self._caches[layer]["embeddings"]
        first = 0
        for rows in vectors.split(CHECKED):
            lengths = torch.linalg.vector_norm(rows.float(), dim=1)
            if len(wrong := torch.nonzero(~((lengths - 1).abs() <= TOLERANCE))):
                row = int(wrong[0])
                raise UserError(
                    f"the bank {self.folder} is damaged: in layer {layer}, row {first + row:,} has the length "
                    f"{float(lengths[row]):.3g}, and vectors of such a bank have the length 1; get it again"
                )
            first += len(rows)
            yield rows

    def contexts(self, layer: int, rows: np.ndarray) -> dict[str, list[Any]]:
        found = [self._caches[layer]["metadata"][row] for row in rows.tolist()]
        return {
            "token": [str(each.get("token_str", "")) for each in found],
            "caption": [str(each.get("caption", "")) for each in found],
            "caption_position": [int(each.get("position", -1)) for each in found],
        }

    def check(self, source: Source, fingerprint: str) -> None:
        check_size(self, source)

    @cached_property
    def identity(self) -> dict[str, Any]:
        return {
            "kind": "latentlens",
            "folder": str(self.folder),
            "layers": list(self.layers),
            "hidden_size": self.hidden_size,
            "rows": {str(layer): self.rows(layer) for layer in self.layers},
        }


def _read(path: Path) -> dict[str, Any]:
    """One layer's file. Raises UserError."""
    try:
        cache = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds more than tensors, texts and numbers, and is not read: as a pickle it could run any code "
            f"({' '.join(str(error).split())[:100]})"
        ) from error
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        raise UserError(f"{path} is damaged ({' '.join(str(error).split())[:100]}); get it again") from error
    vectors, about = (cache.get(name) if isinstance(cache, dict) else None for name in ("embeddings", "metadata"))
    if not isinstance(vectors, torch.Tensor) or vectors.ndim != 2 or not vectors.is_floating_point():
        raise UserError(f"{path} has no matrix of embeddings; a bank of latentlens has one for each layer")
    if not isinstance(about, list) or len(about) != len(vectors) or not all(isinstance(each, dict) for each in about):
        count = len(about) if isinstance(about, list) else 0
        raise UserError(f"{path} does not fit together: {len(vectors):,} embeddings, {count:,} metadata; get it again")
    return {"embeddings": vectors, "metadata": about}
