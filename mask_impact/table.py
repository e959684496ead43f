"""The long table: its columns, and the Blocks it comes in.

In:  Blocks (all values of one query position and one layer).
Out: the same, checked.

Shapes: P masked tokens, V variants, M metrics; P * V rows a block.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

KEY_COLUMNS = ("generation_step", "layer", "token_masked", "token_position", "variant")  # what a row is about
COLUMNS = (*KEY_COLUMNS, "l2_distance", "cosine_distance")  # of a table with the default metrics
CROSS = "Cross"  # before a variant's name: of the attention from a decoder to its encoder
QUERY_POSITION = "query_position"  # the last column of a table with other queries than those that predict the output
PATCH_COLUMNS = ("patch_row", "patch_col")  # the last columns of a table in which single patches are masked
FORMAT_NAMES = ["csv", "json", "parquet", "html"]  # of files/formats.py, which adds those of extensions


@dataclass(frozen=True, eq=False)
class Block:
    """The rows of one query position and one layer: for every masked token, every variant."""

    generation_step: int
    layer: int
    tokens: Sequence[str]  # [P] text of what is masked
    positions: np.ndarray  # [P] int
    variants: Sequence[str]  # [V] "Full", "Attn", "Head_0", ...
    metrics: tuple[str, ...]  # [M] names, as in distances.METRICS
    values: np.ndarray  # [P, V, M] float32
    query_position: int | None = None  # None: the position that predicts the step's token; the table has no column
    places: np.ndarray | None = None  # [P, 2] row and column of each patch, -1 outside a grid; None: no such columns

    @classmethod
    def of_l2_and_cosine(
        cls,
        generation_step: int,
        layer: int,
        tokens: Sequence[str],
        positions: np.ndarray,
        variants: Sequence[str],
        l2: np.ndarray,
        cosine: np.ndarray,
        query_position: int | None = None,
    ) -> Block:
        """A block of the default metrics, from l2 [P, V] and cosine [P, V]. Raises ValueError for other shapes."""
        if np.shape(l2) != np.shape(cosine):
            raise ValueError(f"l2 {np.shape(l2)} does not fit cosine {np.shape(cosine)}")
        values = np.stack((np.asarray(l2, np.float32), np.asarray(cosine, np.float32)), axis=-1)
        return cls(generation_step, layer, tokens, positions, variants, ("l2", "cosine"), values, query_position)

    @property
    def l2(self) -> np.ndarray:
        """[P, V] a view of the L2 distances. Raises ValueError where there are none."""
        return self.of("l2")

    @property
    def cosine(self) -> np.ndarray:
        """[P, V] a view of the cosine distances. Raises ValueError where there are none."""
        return self.of("cosine")

    def of(self, metric: str) -> np.ndarray:
        """[P, V] a view of one metric's values. Raises ValueError for a metric that was not measured."""
        return self.values[..., self.metrics.index(metric)]

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
        values=np.asarray(block.values, np.float32),
    )
    where = f"generation step {block.generation_step}, layer {block.layer}"
    masks, variants, metrics = len(block.tokens), len(block.variants), len(block.metrics)
    if (block.positions.shape, block.values.shape) != ((masks,), (masks, variants, metrics)):
        given = f"positions {block.positions.shape}, values {block.values.shape}"
        raise ValueError(f"{where}: {masks} tokens, {variants} variants and {metrics} metrics do not fit {given}")
    if not np.isfinite(block.values).all():
        p, v, m = np.argwhere(~np.isfinite(block.values))[0]
        masked = f"token {block.tokens[p]!r} at position {block.positions[p]}"
        what = f"{block.metrics[m]} distance of {block.variants[v]} without {masked}"
        raise ValueError(f"{where}: the {what} is {block.values[p, v, m]}")
    return block


_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def valid(text: str) -> str:
    """Half of a surrogate pair, which no UTF-8 file can hold, becomes U+FFFD. All other text is unchanged."""
    return _LONE_SURROGATE.sub("\ufffd", text)


Columns = dict[str, Any]  # lists, or arrays of int64 and float32
