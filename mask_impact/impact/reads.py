"""What single layers read for each token of the output: the few most read, and how much every layer reads.

In:  blocks, those of one generation step after the other. Out: the manifest's `reads`, from which the first lines of
     the summary, the index of a folder and its lines over the layers are made.

A masked unit counts as in top_tokens.py, each step by itself; its layer is the one with the value furthest from 0.
Position 0 as a single token, which often just absorbs attention, is left out.
"""

import math
from typing import Any

import numpy as np

from mask_impact.impact.sums import Sums
from mask_impact.table import Block

KEPT = 5  # tokens of each step
KEPT_UNITS = 50  # units that were asked for by name have a value in every run


Unit = tuple[int, str]  # its first position, and its text or name: several may begin at one position


class Reads:
    def __init__(self, plain: bool) -> None:
        """
        Args:
            plain: every token is masked by itself.
        """
        self._plain = plain
        self._step = -1
        self._units: Sums[Unit] = Sums()  # of the present step
        self._layers: dict[int, float] = {}  # the largest value of each
        self._found: list[dict[str, Any]] = []

    def add(self, block: Block) -> None:
        if block.generation_step != self._step:
            self._close()
            self._step = block.generation_step
        values, units = block.values[:, 0, 0], list(zip(block.positions.tolist(), block.tokens, strict=True))
        if self._plain:
            values, units = values[block.positions > 0], [unit for unit in units if unit[0] > 0]
        if units:
            self._units.add(block.layer, units, values)
            self._layers[block.layer] = max(self._layers.get(block.layer, 0.0), float(np.abs(values).max()))

    def described(self) -> list[dict[str, Any]]:
        """One for each step: `tokens`, the most read first, and `by_layer`, the largest value in every layer."""
        self._close()
        return self._found

    def _close(self) -> None:
        if self._layers:
            ranked = sorted(self._units.items(), key=lambda item: (-item[1], item[0]))
            tokens = [
                {"position": position, "text": text, "value": math.sqrt(squares), "layer": layer}
                for (position, text), squares, layer in ranked[: KEPT if self._plain else KEPT_UNITS]
            ]
            by_layer = [float(f"{self._layers[layer]:.4g}") for layer in sorted(self._layers)]
            self._found.append({"generation_step": self._step, "tokens": tokens, "by_layer": by_layer})
        self._units, self._layers = Sums(), {}
