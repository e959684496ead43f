"""Which tokens matter most: the one rule for the summary, the manifest's top_tokens, pairs, and the page.

A masked unit counts with the largest value of the first metric of the first variant, over all layers and generation
steps; where a metric can be below 0, with the value furthest from 0. (With the default options that is the L2 distance
of Full. Of queries other than those that predict the output, only positions that predict it count, if there are any.)
The page ranks by the same rule in viewer/src, over what is shown there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

LISTED = 5  # in a manifest and in the summary


@dataclass
class TopTokens:
    """Each position's largest value so far, and the layer where it is."""

    best: dict[int, tuple[float, int]] = field(default_factory=dict)

    def add(self, layer: int, positions: Sequence[int], values: Sequence[float]) -> None:
        for position, value in zip(positions, values, strict=True):
            if position not in self.best or abs(value) > abs(self.best[position][0]):
                self.best[position] = (value, layer)

    def ranked(self) -> list[tuple[int, float, int]]:
        """(position, value, layer), the value furthest from 0 first."""
        return sorted(((p, v, layer) for p, (v, layer) in self.best.items()), key=lambda row: -abs(row[1]))

    def listed(self, count: int = LISTED) -> list[dict[str, Any]]:
        """The manifest's top_tokens: the first `count` of the ranking, then position 0, which often just absorbs
        attention.
        """
        ranked = self.ranked()
        kept = [row for row in ranked if row[0] > 0][:count] + [row for row in ranked if row[0] == 0]
        return [{"position": position, "value": value, "layer": layer} for position, value, layer in kept]
