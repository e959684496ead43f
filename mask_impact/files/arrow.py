"""Blocks as Arrow batches and as a pandas table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mask_impact.files.columns import columns_of
from mask_impact.table import COLUMNS, KEY_COLUMNS, PATCH_COLUMNS, QUERY_POSITION, Block, checked

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


def arrow_schema(columns: Sequence[str] = COLUMNS) -> pa.Schema:
    """Columns of a result table with their types: text is dictionary-coded, metrics are float32.

    Columns may be null that only some of the tables have which `load_many` joins.
    """
    import pyarrow as pa

    text = pa.dictionary(pa.int32(), pa.string())
    types = dict(zip(KEY_COLUMNS, (pa.int64(), pa.int64(), text, pa.int64(), text), strict=True))
    types |= dict.fromkeys((QUERY_POSITION, *PATCH_COLUMNS), pa.int64())
    return pa.schema([pa.field(name, types.get(name, pa.float32()), nullable=name not in COLUMNS) for name in columns])


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
        *(block.of(metric).flatten() for metric in block.metrics),
    ]
    if block.query_position is not None:
        arrays.append(np.full(block.rows, block.query_position, np.int64))
    if block.places is not None:
        arrays += [np.repeat(column, variants) for column in block.places.T]
    return pa.record_batch([pa.array(x) for x in arrays], schema=arrow_schema(columns_of(block)))


def to_dataframe(blocks: Iterable[Block]) -> pd.DataFrame:
    """The table in memory, as docs/output-format.md describes it: integers int64, text plain strings, metrics float32.

    Raises ValueError if a value is NaN or infinite.
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
