"""The long table: its columns, and the Blocks it comes in.

In:  Blocks (all distances of one query position and one layer).
Out: the same, checked; as Arrow, for Parquet and for pandas.

Shapes: P masked tokens, V variants; P * V rows a block. pyarrow is imported where it is used: `--help` needs a module
that needs this one, and must answer at once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    pass

COLUMNS = (
    "generation_step",
    "layer",
    "token_masked",
    "token_position",
    "variant",
    "l2_distance",
    "cosine_distance",
)
FORMAT_NAMES = ["csv", "json", "parquet", "html"]  # of result tables
CROSS = "Cross"  # before a variant's name: of the attention from a decoder to its encoder
QUERY_POSITION = "query_position"  # the last column of a table with other queries than those that predict the output


@dataclass(frozen=True, eq=False)
class Block:
    """The rows of one query position and one layer: for every masked token, every variant."""

    generation_step: int
    layer: int
    tokens: Sequence[str]  # [P] text of what is masked
    positions: np.ndarray  # [P] int
    variants: Sequence[str]  # [V] "Full", "Attn", "Head_0", ...
    l2: np.ndarray  # [P, V] float32
    cosine: np.ndarray  # [P, V] float32
    query_position: int | None = None  # None: the position that predicts the step's token; the table has no column

    @property
    def columns(self) -> tuple[str, ...]:
        return COLUMNS if self.query_position is None else (*COLUMNS, QUERY_POSITION)

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


Columns = dict[str, Any]  # lists, or arrays of int64 and float32
