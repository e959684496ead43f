"""Blocks as Arrow batches and as a pandas table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mask_impact.table import COLUMNS, QUERY_POSITION, Block, checked

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


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
