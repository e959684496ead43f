"""The noise floors of a run, by layer, variant and metric: values below them can be rounding.

Gathered while a run is measured: for each layer and variant the largest floor of any query position, and how many
values are below it. A value of 0 is not counted: there the mask changes nothing.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mask_impact.distances import METRICS


@dataclass
class NoiseFloors:
    """Gathered while a run is measured."""

    metrics: Sequence[str]
    found: dict[int, dict[tuple[str, ...], list[np.ndarray]]] = field(default_factory=dict)  # layer, variants [V]
    values: int = 0  # of each metric

    def add(self, layer: int, variants: Sequence[str], floors: np.ndarray, values: np.ndarray) -> None:
        """`floors` [V, M] of one query position, and its `values` [P, V, M]; both float32."""
        of_layer, names = self.found.setdefault(layer, {}), tuple(variants)
        largest, below = of_layer.get(names, (np.float32(0), 0))  # [V, M] floors, and how many values are below them
        largest = np.maximum(floors, largest)
        of_layer[names] = [largest, below + ((values > 0) & (values < largest)).sum(axis=0)]
        self.values += values.shape[0] * values.shape[1]

    def described(self, layers: Sequence[int], variants: Sequence[str]) -> dict[str, Any]:
        """The manifest's noise_floor.by_layer. None (null) stands for what was not measured."""

        def table(which: int, number: type) -> list[list[list[Any] | None]]:
            rows = {
                (layer, name): [number(str(one)) for one in row]
                for layer, of_layer in self.found.items()
                for names, found in of_layer.items()
                for name, row in zip(names, found[which], strict=True)
            }
            return [[rows.get((layer, variant)) for variant in variants] for layer in layers]

        return {
            "layers": list(layers),
            "variants": list(variants),
            "metrics": list(self.metrics),
            "values": table(0, float),  # the float32 with the shortest text
            "below": table(1, int),
        }

    def note(self) -> str | None:
        """What to say of the values below; None if there are none."""
        counts = [below.sum(axis=0) for layer in self.found.values() for _, below in layer.values()]
        total = sum(counts, np.zeros(len(self.metrics)))
        parts = [
            f"{int(count):,} of {self.values:,} {METRICS[name].brief} values"
            for name, count in zip(self.metrics, total, strict=True)
            if count
        ]
        return f"below the noise floor, where a value can be rounding: {', '.join(parts)}" if parts else None


def floor_over_layers(manifest: Mapping[str, Any], variant: str, metric: str) -> float:
    """The root of the sum of squares of the floors of all layers, as tokens are ranked (impact/top_tokens.py)."""
    layers = (manifest["noise_floor"].get("by_layer") or {}).get("layers", ())
    floors = [floor_of(manifest, layer, variant, metric) for layer in layers]
    return math.sqrt(sum(floor * floor for floor in floors))


def floor_of(manifest: Mapping[str, Any], layer: int, variant: str, metric: str) -> float:
    """One floor of a manifest; 0 where it is not known."""
    found = manifest["noise_floor"].get("by_layer")
    if found is None or layer not in found["layers"] or variant not in found["variants"]:
        return 0.0
    values = found["values"][found["layers"].index(layer)][found["variants"].index(variant)]
    return values[found["metrics"].index(metric)] if values else 0.0
