"""Which tokens are attention sinks: much of the attention, and little to read there.

A token is a sink where its attention weight is at least WEIGHT times an even share, and the values that are read there
are at most SHORT as long as those that the query reads on average. Both are means over layers, heads, and the query
positions that predict the output. With values of one length everywhere, every token reads 1 of the average.

Many heads give the first token, and some others, the weight that they have no use for (Xiao et al. 2023, "Efficient
Streaming Language Models with Attention Sinks", arXiv 2309.17453). Masking one moves a layer a lot, because the others
then share its weight; that says little about what the token is for (docs/validation.md holds the rule against runs in
which values are zeroed).

In:  what each layer reads at each query (masking.reading). Out: the manifest's `sinks`.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

WEIGHT = 1.5  # times an even share of the attention
SHORT = 2 / 3  # of the average length of what is read


@dataclass
class Sinks:
    """Gathers what is read of each position; one layer at one query position after the other."""

    _sums: dict[int, np.ndarray] = field(default_factory=dict)  # [4] weight, times even, share read, how often

    def add(self, first: int, reading: np.ndarray) -> None:
        """`reading` is [2, T] (masking.reading) of the positions from `first` on."""
        weight, read = reading.astype(np.float64)
        seen, total = weight > 0, read.sum()
        if total == 0:  # a layer without values says nothing about them
            return
        rows = np.stack([weight, weight * seen.sum(), read / total, np.ones_like(weight)], axis=1)
        for place in np.flatnonzero(seen).tolist():
            self._sums[first + place] = self._sums.get(first + place, 0) + rows[place]

    def described(self) -> list[dict[str, Any]] | None:
        """The sinks in the order of their positions; None where nothing is known of any position.

        `weight` is the mean attention weight, 0 to 1, and `value_length` the mean length of the values that are read
        there, divided by that of all values that are read.
        """
        if not self._sums:
            return None
        found = []
        for position in sorted(self._sums):
            weight, times_even, share, _ = self._sums[position] / self._sums[position][3]
            if times_even >= WEIGHT and share <= SHORT * weight:
                found.append({"position": position, "weight": float(weight), "value_length": float(share / weight)})
        return found
