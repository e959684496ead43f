"""Exact nearest neighbours by cosine, in a bank that need not fit into memory.

In:  queries, and the bank as consecutive parts of rows, usually mapped from files.
Out: for each query the k most similar rows; equally similar rows are ordered by index.

    found = nearest(queries, bank.parts(16), k=5)
    found.similarity, found.index  # [Q, k] float64, int64

The result is that of a search in float64 over all rows, for the price of one product in float32. Each block of rows is
multiplied with all queries in float32. Only rows that may be among the k best are computed again in float64. "May be"
is a proven bound: a dot product of C terms in float32, in any order of summation, is off by at most about C * 2^-24
times the product of the norms (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1). `margin`
is more than twice that, which covers normalising too. A row whose float32 similarity is more than `margin` below the
k-th best float64 similarity so far cannot be among the k best.

Shapes: Q queries, B rows of a block, C hidden, k neighbours. Memory beyond the queries and the mapped pages: a block in
float32 (34 MB), its similarities to QUERIES queries (4 * QUERIES * B bytes), and the float64 rows being compared
(34 MB a copy): about 200 MB at C of 512 and more, however large the bank is. The search takes longer if very many rows
are within the bound of the k-th similarity, since all of them are compared in float64.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from mask_impact.errors import UserError

BLOCK_VALUES = 1 << 23  # rows x hidden of a block; smaller ones are faster, unless threads share their cores
QUERIES = 512  # how many are multiplied with a block at a time
RESCORED_VALUES = 1 << 22  # candidates x hidden that are compared in float64 at a time
GROUP = 64  # rows; the largest similarity of a group is compared first
MANY = 256  # rows of a block per query; if more would be compared, the k best of the block tighten the bound


@dataclass(frozen=True)
class Nearest:
    """The neighbours of each query, best first. k is smaller than requested if the bank has fewer rows."""

    similarity: np.ndarray  # [Q, k] float64, -1 to 1
    index: np.ndarray  # [Q, k] int64, row in the bank


def nearest(
    queries: torch.Tensor,
    parts: Iterable[torch.Tensor],
    k: int,
    device: torch.device | str = "cpu",
    progress: Callable[[int], None] = lambda rows: None,
) -> Nearest:
    """The k rows most similar to each query.

    Args:
        queries: [Q, C], any float dtype.
        parts: [n, C] each, any float dtype, in the order of the rows.
        device: where the products are computed; float64 is computed on the CPU.
        progress: called with the number of rows of each finished block.

    Raises UserError for a query or a row that is not finite. A vector of zeros has similarity 0 to all.
    """
    exact = queries.cpu()
    if not exact.isfinite().all():
        raise UserError("a hidden state that was to be looked up is not finite; try --dtype float32")
    norms = _safe(torch.linalg.vector_norm(exact, dim=1, dtype=torch.float64))  # [Q]
    units = (exact.float() / norms.float()[:, None]).to(device)
    best = _Best(len(exact), k)
    first = 0
    size = max(GROUP, BLOCK_VALUES // queries.shape[1] // GROUP * GROUP)  # B
    room = torch.empty(size, queries.shape[1], device=device)  # the same memory for every block
    with _full_float32():
        for part in parts:
            for rows in part.split(size):
                block = _Block(rows, first, room)
                for start in range(0, len(exact), QUERIES):
                    some = slice(start, start + QUERIES)
                    for query, row in block.candidates(units[some], best, some):
                        best.offer(query, first + row, _cosines(exact, norms, query, block.take(row)))
                first += len(rows)
                progress(len(rows))
    return best.found(first)


def rescored(queries: torch.Tensor, parts: Iterable[torch.Tensor], rows: np.ndarray, k: int) -> Nearest:
    """The k most similar rows among those given for each query [Q, n], -1 for none, in float64.

    Only these rows are read. If fewer than k are given, the last similarities are -inf.
    """
    queries = queries.cpu()
    norms = _safe(torch.linalg.vector_norm(queries, dim=1, dtype=torch.float64))
    best = _Best(len(queries), k)
    first = 0
    for part in parts:
        query, place = np.nonzero((rows >= first) & (rows < first + len(part)))
        step = max(1, RESCORED_VALUES // part.shape[1])
        for start in range(0, len(query), step):
            some = query[start : start + step]
            row = rows[some, place[start : start + step]]
            best.offer(some, row, _cosines(queries, norms, some, part[torch.from_numpy(row - first)]))
        first += len(part)
    return best.found(first)


def merged(found: dict[int, Nearest], k: int) -> tuple[Nearest, np.ndarray]:
    """The k best over all layers of a bank, and the layer of each [Q, k]; the lower layer first if equally similar."""
    layers = sorted(found)
    similarity = np.concatenate([found[layer].similarity for layer in layers], axis=1)
    index = np.concatenate([found[layer].index for layer in layers], axis=1)
    layer = np.repeat(layers, [found[layer].index.shape[1] for layer in layers])
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :k]  # within a layer they are in order already
    return Nearest(*(np.take_along_axis(values, order, axis=1) for values in (similarity, index))), layer[order]


def margin(hidden: int) -> float:
    """How far a similarity computed in float32 can be from the true one, in either direction."""
    return 2 * (hidden + 8) * 2.0**-24


class _Best:
    """The k best rows of each query so far."""

    def __init__(self, queries: int, k: int) -> None:
        self.k = k
        self.similarity = np.full((queries, k), -np.inf)
        self.index = np.full((queries, k), np.iinfo(np.int64).max)

    def offer(self, query: np.ndarray, index: np.ndarray, similarity: np.ndarray) -> None:
        """Add candidates: for each a query, a row and their similarity."""
        asked, query = np.unique(query, return_inverse=True)
        held = np.repeat(np.arange(len(asked)), self.k)
        query = np.concatenate([held, query])
        index = np.concatenate([self.index[asked].ravel(), index])
        similarity = np.concatenate([self.similarity[asked].ravel(), similarity])
        order = np.lexsort((index, -similarity, query))
        place = np.searchsorted(query[order], np.arange(len(asked)))  # each query has at least k
        order = order[place[:, None] + np.arange(self.k)]
        self.index[asked], self.similarity[asked] = index[order], similarity[order]

    def bound(self, some: slice) -> torch.Tensor:
        """[Q] the k-th best similarity of some queries, -inf while there are fewer."""
        return torch.from_numpy(self.similarity[some, -1])

    def found(self, rows: int) -> Nearest:
        k = min(self.k, rows)
        return Nearest(self.similarity[:, :k], self.index[:, :k])


class _Block:
    """Consecutive rows of the bank in float32, and their similarity to queries."""

    def __init__(self, rows: torch.Tensor, first: int, room: torch.Tensor) -> None:
        size = len(rows)
        self.rows = room[: -(-size // GROUP) * GROUP]  # [B, C], whole groups
        self.rows[:size].copy_(rows)
        self.rows[size:] = 0
        norms = torch.linalg.vector_norm(self.rows, dim=1)
        if (tiny := norms < 1e-12).any():  # their squares may underflow; scaling by a power of 2 rounds nothing
            self.rows[tiny] *= 2.0**100
            norms = torch.linalg.vector_norm(self.rows, dim=1)
        if not norms.isfinite().all():
            wrong = first + int((~norms.isfinite()).nonzero()[0])
            raise UserError(f"row {wrong:,} of the bank is not finite; build the bank anew, with --dtype float32")
        self.scale = 1 / _safe(norms)  # [B]
        self.size = size

    def candidates(self, units: torch.Tensor, best: _Best, some: slice) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(query, row) of all rows that may be among the k best of some queries, in pieces that fit the memory."""
        off = margin(self.rows.shape[1])
        similar = units @ self.rows.T  # [Q, B]
        similar *= self.scale
        similar[:, self.size :] = -torch.inf
        groups = similar.view(len(units), -1, GROUP)
        highest = groups.amax(2)  # [Q, B / GROUP]
        bound = (best.bound(some) - off).to(similar)  # this rounds, by far less than `off` allows
        if (highest >= bound[:, None]).sum() > MANY * len(units) // GROUP:
            k = min(best.k, self.size)
            bound = torch.maximum(bound, similar.topk(k, dim=1).values[:, -1] - 2 * off)
        bound.clamp_min_(torch.finfo(bound.dtype).min)  # above the -inf that fills the last group
        query, row = _above(groups, highest, bound)
        step = max(1, RESCORED_VALUES // self.rows.shape[1])
        for start in range(0, len(query), step):
            yield some.start + query[start : start + step], row[start : start + step]

    def take(self, row: np.ndarray) -> torch.Tensor:
        return self.rows[torch.from_numpy(row).to(self.rows.device)]


def _cosines(queries: torch.Tensor, norms: torch.Tensor, query: np.ndarray, rows: torch.Tensor) -> np.ndarray:
    """[P] cosines of queries[query] and rows [P, C] in float64, where every product of two float32 is exact."""
    rows = rows.cpu().double()
    dots = (rows * queries[query].double()).sum(1)
    return (dots / (norms[query] * _safe(torch.linalg.vector_norm(rows, dim=1)))).numpy()


def _above(groups: torch.Tensor, highest: torch.Tensor, bound: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(query, row) of similarities [Q, groups, GROUP] that reach the query's bound [Q]; highest [Q, groups]."""
    query, group = (highest >= bound[:, None]).nonzero(as_tuple=True)
    place, inside = (groups[query, group] >= bound[query, None]).nonzero(as_tuple=True)
    return query[place].cpu().numpy(), (group[place] * GROUP + inside).cpu().numpy()


def _safe(norms: torch.Tensor) -> torch.Tensor:
    return torch.where(norms == 0, 1, norms)


@contextmanager
def _full_float32() -> Iterator[None]:
    """Products of float32 without lower precision inside, whatever was set, because the bound is for float32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
