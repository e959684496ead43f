"""Pairs among the strongest units, and how two of them interact under one layer's mask.

In:  a finished run, which says which units are the strongest.
Out: the columns of NAME_pairs: for each pair its distances, and its interaction: how much further the pair moves the
     update than the sum of what its two units do alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mask_impact.distances import DEFAULT_METRICS, METRICS
from mask_impact.impact import run
from mask_impact.options import Progress, unseen
from mask_impact.prompt.inputs import Token
from mask_impact.prompt.prepared import Prepared
from mask_impact.prompt.units import Unit, paired
from mask_impact.table import QUERY_POSITION, Block, Columns


def columns(metrics: Sequence[str], with_query: bool = False) -> tuple[str, ...]:
    """The columns of NAME_pairs with these metrics, in order."""
    where = ("generation_step", "layer", "token_masked", "token_position", "second_position", "variant")
    values = (*(METRICS[name].column for name in metrics), "interaction")
    return (*where, *values, QUERY_POSITION) if with_query else (*where, *values)


COLUMNS = columns(DEFAULT_METRICS)


def pair_impacts(
    model: Any,
    prepared: Prepared,
    ranked: Sequence[int],
    apart: int | None = None,
    progress: Progress = unseen,
) -> Columns:
    """All pairs among the `prepared.request.pairs` strongest units, measured in a run of their own.

    Args:
        ranked: first positions of units, the strongest first.
        apart: as for `paired`.
    """
    strongest = set(ranked[: prepared.request.pairs])
    blocks: list[Block] = []
    two_of: dict[tuple[str, int], tuple[Unit, Unit]] = {}  # a pair's label and position -> its two units

    def chosen(tokens: Sequence[Token]) -> list[Unit]:
        singles = [unit for unit in prepared.units(tokens) if unit.positions[0] in strongest]
        pairs = list(paired(singles, apart))
        two_of.update({(pair.label, pair.positions[0]): (singles[a], singles[b]) for pair, a, b in pairs})
        return [*singles, *(pair for pair, _, _ in pairs)]

    run.run(model, replace(prepared, units=chosen, plain=False), blocks.append, progress)
    names = columns(prepared.request.metrics, with_query=prepared.request.queries != "last")
    rows = [row for block in blocks for row in _rows(block, two_of)]
    return {name: [row[place] for row in rows] for place, name in enumerate(names)}


def _rows(block: Block, two_of: Mapping[tuple[str, int], tuple[Unit, Unit]]) -> Iterator[tuple[Any, ...]]:
    """One row for each pair and variant of a block."""
    place = {key: row for row, key in enumerate(zip(block.tokens, block.positions.tolist(), strict=True))}
    end = () if block.query_position is None else (block.query_position,)
    for (label, position), two in two_of.items():
        if (label, position) not in place:
            continue
        both, (one, other) = place[label, position], (place[unit.label, unit.positions[0]] for unit in two)
        first = block.values[..., 0]
        interaction = first[both] - first[one] - first[other]
        where = (block.generation_step, block.layer, label, position, two[1].positions[0])
        for variant, values, more in zip(
            block.variants, block.values[both].tolist(), interaction.tolist(), strict=True
        ):
            yield (*where, variant, *values, more, *end)
