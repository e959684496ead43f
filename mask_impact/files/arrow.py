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

CELL = (*KEY_COLUMNS, QUERY_POSITION)  # the columns that say what a row is about; each has one


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


def cell_twice(table: pa.Table) -> str | None:
    """A cell for which a result table has two rows, in words; None if there is none."""
    rows = _rows_of_one_number(table, [name for name in CELL if name in table.column_names and name != "token_masked"])
    if rows.size:  # units that overlap can begin at one position
        table = table.take(rows)
        rows = _rows_of_one_number(table, [name for name in CELL if name in table.column_names])
    if not rows.size:
        return None
    row = table.slice(int(rows[0]), 1).to_pylist()[0]
    return ", ".join(f"{name} {row[name]!r}" for name in CELL if name in row)


def _rows_of_one_number(table: pa.Table, names: Sequence[str]) -> np.ndarray:
    """The rows whose values in these columns are also those of another. Combinations of values are numbered, and those
    of a run are nearly all there, so that counting them takes no sorting."""
    numbers, size = np.zeros(table.num_rows, np.int64), 1
    for name in names:
        found = _numbered(table.column(name))
        low, high = (int(found.min()), int(found.max())) if len(found) else (0, 0)
        if high - low > 2 * len(found) + 1024:
            _, found = np.unique(found, return_inverse=True)
            low, high = 0, int(found.max())
        numbers, size = numbers * (high - low + 1) + (found - low), size * (high - low + 1)
        if size > 4 * len(found) + 1024:
            _, numbers = np.unique(numbers, return_inverse=True)
            size = int(numbers.max()) + 1
    return np.flatnonzero(np.bincount(numbers, minlength=1)[numbers] > 1)


def _numbered(column: pa.ChunkedArray) -> np.ndarray:
    """A number for each value, the same for the same."""
    import pyarrow as pa

    if not pa.types.is_dictionary(column.type):
        return column.fill_null(-1).to_numpy()
    parts = [part.indices.to_numpy(zero_copy_only=False) for part in column.unify_dictionaries().chunks]
    return np.concatenate([np.zeros(0, np.int64), *parts])


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
