"""What single layers read for each token of the output: the few most read, and how much every layer reads.

In:  blocks, those of one generation step after the other. Out: the manifest's `reads`, from which the first lines of
     the summary, the index of a folder and its lines over the layers are made.

A masked unit counts as in top_tokens.py, each step by itself; its layer is the one with the value furthest from 0.
Position 0 as a single token, which often just absorbs attention, is left out.
"""

from typing import Any

import numpy as np

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
        self._layers: dict[int, dict[Unit, float]] = {}  # of the present step
        self._found: list[dict[str, Any]] = []

    def add(self, block: Block) -> None:
        if block.generation_step != self._step:
            self._close()
            self._step = block.generation_step
        units = zip(block.positions.tolist(), block.tokens, strict=True)
        self._layers.setdefault(block.layer, {}).update(zip(units, block.values[:, 0, 0].tolist(), strict=True))

    def described(self) -> list[dict[str, Any]]:
        """One for each step: `tokens`, the most read first, and `by_layer`, the largest value in every layer."""
        self._close()
        return self._found

    def _close(self) -> None:
        layers = sorted(self._layers)
        found = {unit for values in self._layers.values() for unit in values}
        units = sorted(unit for unit in found if unit[0] > 0 or (unit[0] == 0 and not self._plain))
        if units:
            values = np.array([[self._layers[layer].get(unit, np.nan) for unit in units] for layer in layers])
            self._found.append(self._described(layers, units, values))
        self._layers = {}

    def _described(self, layers: list[int], units: list[Unit], values: np.ndarray) -> dict[str, Any]:
        """`values`: [layers, units]; NaN where a layer has none."""
        sizes = np.abs(values)
        root = np.sqrt(np.nansum(values * values, axis=0))
        peaks = np.nanargmax(sizes, axis=0)
        order = np.argsort(-root, kind="stable")[: KEPT if self._plain else KEPT_UNITS]
        tokens = [
            {"position": units[at][0], "text": units[at][1], "value": float(root[at]), "layer": layers[peaks[at]]}
            for at in order
        ]
        by_layer = [float(f"{size:.4g}") for size in np.nanmax(sizes, axis=1, initial=0)]
        return {"generation_step": int(self._step), "tokens": tokens, "by_layer": by_layer}
