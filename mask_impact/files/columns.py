"""Which columns a table has: what a row is about, one for each metric, and perhaps the query position, or the patch."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mask_impact.distances import METRICS
from mask_impact.errors import UserError
from mask_impact.table import COLUMNS, KEY_COLUMNS, PATCH_COLUMNS, QUERY_POSITION, Block


def table_columns(metrics: Sequence[str], with_query: bool = False, with_patch: bool = False) -> tuple[str, ...]:
    """The columns of a table with these metrics, in order. Raises KeyError for an unknown metric."""
    names = (*KEY_COLUMNS, *(METRICS[name].column for name in metrics))
    return (*names, *[QUERY_POSITION] * with_query, *PATCH_COLUMNS * with_patch)


def columns_of(block: Block) -> tuple[str, ...]:
    """The columns of the table that a block belongs to."""
    return table_columns(block.metrics, block.query_position is not None, block.places is not None)


def metrics_in(columns: Collection[str]) -> tuple[str, ...]:
    """The metrics that have a column among `columns`, in the order of METRICS."""
    return tuple(name for name, metric in METRICS.items() if metric.column in columns)


def described_metrics(columns: Collection[str], manifest: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The metrics that have a column among `columns`, as `Metric.described`: those of METRICS in their order, then
    others that the manifest describes."""
    found = [METRICS[name].described for name in metrics_in(columns)]
    known = {each["column"] for each in found}
    written = (manifest or {}).get("metrics") or []
    return found + [each for each in written if each.get("column") in columns and each["column"] not in known]


def known_columns(columns: Collection[str], manifest: Mapping[str, Any] | None = None) -> tuple[str, ...]:
    """The columns among `columns` that a result table has, in its order.

    Args:
        manifest: of the run; it names the columns of metrics that only the program which wrote them knew.

    Raises UserError for a table that lacks one of KEY_COLUMNS or has no metric; its message begins "has no column".
    """
    metrics = [each["column"] for each in described_metrics(columns, manifest)]
    needed = KEY_COLUMNS if metrics else COLUMNS
    if missing := [column for column in needed if column not in columns]:
        raise UserError(f"has no column {missing[0]!r}; a result table has {', '.join(COLUMNS)}")
    more = [column for column in (QUERY_POSITION, *PATCH_COLUMNS) if column in columns]
    return (*KEY_COLUMNS, *metrics, *more)
