"""Which tokens matter most: the one rule for the summary, the manifest's top_tokens, pairs, and the page.

A masked unit counts with the root of the sum of squares, over all layers, of the first metric of the first variant. For
L2 distances that is the length of the changes of all layers side by side. Of several generation steps, the one where it
is largest counts. (With the default options it is the L2 distance of Full. Of queries other than those that predict the
output, only positions that predict it count, if there are any.) The page ranks by the same rule in viewer/src, over
what is shown there.

Why this rule: among simple ones it agrees best with what the answer loses without a token, together with the largest
value of any layer; and a token does not come first for one layer alone (docs/validation.md).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mask_impact.impact.sums import Sums

LISTED = 5  # in a manifest and in the summary
RULE = "root of the sum of squares over layers"  # as manifests name it


def set_apart(units: Sequence[Mapping[str, Any]] | None) -> set[int]:
    """The positions that are not ranked: 0 as a single token, not where one of a manifest's units begins there that is
    several tokens."""
    return {0} - {unit["positions"][0] for unit in units or () if len(unit["positions"]) > 1}


@dataclass
class TopTokens:
    """Each unit's sum at the query position where it is largest so far, by the unit's first position."""

    best: dict[int, tuple[float, int]] = field(default_factory=dict)  # of the queries before: sum, and layer
    now: Sums[int] = field(default_factory=Sums)  # of this query, whose layers come one after the other
    query: int | None = None

    def add(self, query: int, layer: int, positions: Sequence[int], values: Sequence[float] | np.ndarray) -> None:
        """Of several units with the same first position, the value furthest from 0 counts."""
        if query != self.query:
            self.best, self.now, self.query = self._joined(), Sums(), query
        found = np.asarray(values)
        if len(set(positions)) < len(positions):
            largest: dict[int, float] = {}
            for position, value in zip(positions, found.tolist(), strict=True):
                largest[position] = max(value, largest.get(position, 0.0), key=abs)
            positions, found = list(largest), np.array(list(largest.values()))
        self.now.add(layer, positions, found)

    def _joined(self) -> dict[int, tuple[float, int]]:
        joined = dict(self.best)
        for position, squares, layer in self.now.items():
            if position not in joined or squares > joined[position][0]:
                joined[position] = (squares, layer)
        return joined

    def ranked(self) -> list[tuple[int, float, int]]:
        """(position, value, layer of the value furthest from 0), the largest first."""
        rows = [(position, math.sqrt(squares), layer) for position, (squares, layer) in self._joined().items()]
        return sorted(rows, key=lambda row: -row[1])

    def listed(self, units: Sequence[Mapping[str, Any]] | None, count: int = LISTED) -> list[dict[str, Any]]:
        """The manifest's top_tokens: the first `count` of the ranking, then position 0 as a single token, which often
        just absorbs attention.

        Args:
            units: the manifest's.
        """
        ranked, unranked = self.ranked(), set_apart(units)
        kept = [row for row in ranked if row[0] >= 0 and row[0] not in unranked][:count]
        kept += [row for row in ranked if row[0] in unranked]
        return [{"position": position, "value": value, "layer": layer} for position, value, layer in kept]
