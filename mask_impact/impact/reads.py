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


class Reads:
    def __init__(self, plain: bool) -> None:
        """
        Args:
            plain: every token is masked by itself.
        """
        self._plain = plain
        self._step = -1
        self._layers: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}  # of the present step: positions, values
        self._found: list[dict[str, Any]] = []

    def add(self, block: Block) -> None:
        if block.generation_step != self._step:
            self._close()
            self._step = block.generation_step
        self._layers.setdefault(block.layer, []).append((block.positions.copy(), block.values[:, 0, 0].copy()))

    def described(self) -> list[dict[str, Any]]:
        """One for each step: `tokens`, the most read first, and `by_layer`, the largest value in every layer."""
        self._close()
        return self._found

    def _close(self) -> None:
        if not self._layers:
            return
        layers, positions, values = self._matrix()
        if not len(positions):  # nothing but position 0
            self._layers = {}
            return
        sizes = np.abs(values)
        root = np.sqrt(np.nansum(values * values, axis=0))
        peaks = np.nanargmax(sizes, axis=0)
        order = np.argsort(-root, kind="stable")[: KEPT if self._plain else KEPT_UNITS]
        tokens = [
            {"position": int(positions[at]), "value": float(root[at]), "layer": layers[peaks[at]]} for at in order
        ]
        by_layer = [float(f"{size:.4g}") for size in np.nanmax(sizes, axis=1, initial=0)]
        self._found.append({"generation_step": int(self._step), "tokens": tokens, "by_layer": by_layer})
        self._layers = {}

    def _matrix(self) -> tuple[list[int], np.ndarray, np.ndarray]:
        """Layers, positions, and values [layers, positions]; NaN where a layer has none."""
        layers = sorted(self._layers)
        positions = np.unique(np.concatenate([each for found in self._layers.values() for each, _ in found]))
        positions = positions[positions > 0] if self._plain else positions[positions >= 0]
        values = np.full((len(layers), len(positions)), np.nan)
        for row, layer in enumerate(layers):
            for places, found in self._layers[layer]:
                columns = np.searchsorted(positions, places).clip(max=max(0, len(positions) - 1))
                known = positions[columns] == places if len(positions) else np.zeros(len(places), bool)
                values[row, columns[known]] = found[known]
        return layers, positions, values
