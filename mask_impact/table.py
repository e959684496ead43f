"""The long table: its columns, and the Blocks it comes in.

In:  Blocks (all distances of one query position and one layer).
Out: the same, checked; as Arrow, for Parquet and for pandas.

Shapes: P masked tokens, V variants; P * V rows a block. pyarrow is imported where it is used: `--help` needs a module
that needs this one, and must answer at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

COLUMNS = (
    "generation_step",
    "layer",
    "token_masked",
    "token_position",
    "variant",
    "l2_distance",
    "cosine_distance",
)
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


def arrow_schema(columns: Sequence[str] = COLUMNS) -> pa.Schema:
    """`columns`, ours in order, with their types; text is dictionary-coded."""
    import pyarrow as pa

    text = pa.dictionary(pa.int32(), pa.string())
    types = (pa.int64(), pa.int64(), text, pa.int64(), text, pa.float32(), pa.float32(), pa.int64())
    found = zip(columns, types[: len(columns)], strict=True)
    return pa.schema([pa.field(name, kind, nullable=name == QUERY_POSITION) for name, kind in found])  # load_many


def arrow_batch(block: Block) -> pa.RecordBatch:
    """The rows of a checked block, copied: the engine may use its arrays again."""
    import pyarrow as pa

    masks, variants = len(block.tokens), len(block.variants)
    token = np.repeat(np.arange(masks, dtype=np.int32), variants)
    variant = np.tile(np.arange(variants, dtype=np.int32), masks)
    arrays = [
        np.full(block.rows, block.generation_step, np.int64),
        np.full(block.rows, block.layer, np.int64),
        pa.DictionaryArray.from_arrays(token, pa.array(block.tokens, pa.string())),
        np.repeat(block.positions, variants),
        pa.DictionaryArray.from_arrays(variant, pa.array(block.variants, pa.string())),
        block.l2.flatten(),
        block.cosine.flatten(),
    ]
    if block.query_position is not None:
        arrays.append(np.full(block.rows, block.query_position, np.int64))
    return pa.record_batch([pa.array(x) for x in arrays], schema=arrow_schema(block.columns))


def to_dataframe(blocks: Iterable[Block]) -> pd.DataFrame:
    """The table in memory, COLUMNS in order: integers are int64, text is plain strings, distances float32.

    With QUERY_POSITION after them if the blocks have one.
    Raises ValueError if a distance is NaN or infinite.
    """
    import pyarrow as pa

    batches = [arrow_batch(checked(block)) for block in blocks]
    return to_pandas(pa.Table.from_batches(batches, batches[0].schema if batches else arrow_schema()))


def to_pandas(table: pa.Table) -> pd.DataFrame:
    """Text becomes plain strings, whatever Arrow has it as."""
    import pyarrow as pa

    def plain(field: pa.Field) -> pa.Field:
        text = pa.types.is_dictionary(field.type) or pa.types.is_string(field.type)
        return field.with_type(pa.large_string()) if text else field

    table = table.cast(pa.schema(map(plain, table.schema)))
    return table.to_pandas(split_blocks=True, self_destruct=True)
