"""Approximate nearest neighbours through FAISS, for banks too large to be read for every search.

In:  queries and a bank. Out: `search.Nearest`. Its similarities are exact, but neighbours may be missing.

FAISS was chosen because it is a library in this process, and its index is one file beside the bank. The vectors stay in
the bank's shards; LanceDB would copy them into a database. The index of a layer holds one bit per number of a vector, a
sixteenth of the bank (inverted file with RaBitQ, Gao and Long 2024, doi:10.1145/3654970; only its cells need training).
It is built at the first search and written beside the bank. A search takes CANDIDATES times as many rows from the index
as were asked for, and computes their similarities again in float64 from the bank.

Shapes: Q queries, C hidden, k neighbours.
"""

import contextlib
import hashlib
import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from mask_impact.errors import UserError
from mask_impact.files.folder import writing
from mask_impact.files.results import replacing
from mask_impact.lens.bank_files import Searchable
from mask_impact.lens.search import Nearest, rescored

CANDIDATES = 50  # rows taken from the index for each neighbour asked for
PROBED = 10  # a query looks into one cell in 10
CELLS_MOST = 16384
SAMPLE_VALUES = 1 << 28  # rows x hidden; an index is trained on at most this many numbers, 1 GB
ROWS_PER_CELL = 64  # of the sample; FAISS warns below 39
SMALL = 20_000  # rows; fewer are stored unchanged, and no neighbour is missed
ADDED = 1 << 16  # rows at a time


def faiss() -> Any:
    """The library. Raises UserError if it is not installed."""
    try:
        import faiss
    except ImportError as error:
        raise UserError(
            "--search approximate needs FAISS, which is not installed; run pip install faiss-cpu, or leave the flag out"
        ) from error
    return faiss


def nearest(
    queries: torch.Tensor, bank: Searchable, layer: int, k: int, progress: Callable[[int], None] = lambda rows: None
) -> Nearest:
    """Like `search.nearest`. The index is read from the bank's folder, or built and written there."""
    index = _index(bank, layer, progress)
    count = min(bank.rows(layer), max(CANDIDATES * k, 100))
    _, rows = index.search(_units(queries.cpu()), count)
    return rescored(queries, bank.parts(layer), rows, min(k, bank.rows(layer)))


def _index(bank: Searchable, layer: int, progress: Callable[[int], None]) -> Any:
    library = faiss()
    about = {key: value for key, value in bank.identity.items() if key != "folder"}
    tag = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:12]
    path = bank.folder / f"index_layer_{layer}_{tag}.faiss"
    if path.is_file():
        with contextlib.suppress(RuntimeError):  # damaged: it is built anew
            return library.read_index(str(path))
    index = _trained(library, bank, layer)
    for part in bank.parts(layer):
        for rows in part.split(ADDED):
            index.add(_units(rows))
            progress(len(rows))
    with writing(bank.folder), replacing(path) as temporary:
        library.write_index(index, str(temporary))
    return index


def _trained(library: Any, bank: Searchable, layer: int) -> Any:
    count, hidden = bank.rows(layer), bank.hidden_size
    if count <= SMALL:
        return library.IndexFlatIP(hidden)
    most = min(count, SAMPLE_VALUES // hidden)
    cells = max(1, min(CELLS_MOST, int(4 * math.sqrt(count)), most // ROWS_PER_CELL))
    index = library.index_factory(hidden, f"IVF{cells},RaBitQ", library.METRIC_INNER_PRODUCT)
    chosen = np.sort(np.random.default_rng(0).choice(count, min(most, ROWS_PER_CELL * cells), replace=False))
    index.train(np.concatenate(list(_taken(bank.parts(layer), chosen))))
    index.nprobe = max(1, cells // PROBED)
    return index


def _taken(parts: Iterator[torch.Tensor], rows: np.ndarray) -> Iterator[np.ndarray]:
    """These rows, in rising order, as unit vectors."""
    first = 0
    for part in parts:
        inside = rows[(rows >= first) & (rows < first + len(part))]
        yield _units(part[torch.from_numpy(inside - first)])
        first += len(part)


def _units(rows: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray(torch.nn.functional.normalize(rows.float(), dim=1).numpy())
