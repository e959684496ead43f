"""The lengths of the unmasked vectors, to compare distances with: for the manifest and for a side table.

A length is the L2 norm of what a variant's distances are measured from: the layer's update, the attention's update, a
head's output. It is kept as the float32 with the shortest text, as the distances are.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mask_impact.table import Columns


@dataclass
class UnmaskedLengths:
    """Gathered while a run is measured."""

    found: dict[int, dict[int, dict[str, float]]] = field(default_factory=dict)  # query position, layer, variant

    def add(self, position: int, layer: int, variants: Sequence[str], lengths: np.ndarray) -> None:
        """`lengths` [V] float32."""
        shortest = [float(str(length)) for length in lengths]
        self.found.setdefault(position, {}).setdefault(layer, {}).update(zip(variants, shortest, strict=True))

    def described(self, queries: Sequence[int], layers: Sequence[int], variants: Sequence[str]) -> dict[str, Any]:
        """The manifest's unmasked_length. `queries` are the positions that predict each step's token, in order.

        None (null) stands for what was not measured.
        """
        values = [
            [[self.found.get(query, {}).get(layer, {}).get(name) for name in variants] for layer in layers]
            for query in queries
        ]
        return {"layers": list(layers), "variants": list(variants), "values": values}

    def table(self) -> Columns:
        """The columns of NAME_lengths: all queries that were measured."""
        rows = [
            (query, layer, variant, length)
            for query, layers in self.found.items()
            for layer, lengths in layers.items()
            for variant, length in lengths.items()
        ]
        names = ("query_position", "layer", "variant", "unmasked_length")
        return {name: [row[place] for row in rows] for place, name in enumerate(names)}
