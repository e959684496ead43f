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
    floors: dict[int, dict[str, np.ndarray]] = field(default_factory=dict)  # layer, variant -> [M] float32
    below: dict[int, dict[str, np.ndarray]] = field(default_factory=dict)  # the same -> [M] int64, counted
    values: int = 0  # of each metric

    def add(self, layer: int, variants: Sequence[str], floors: np.ndarray, values: np.ndarray) -> None:
        """`floors` [V, M] of one query position, and its `values` [P, V, M]; both float32."""
        largest, counts = self.floors.setdefault(layer, {}), self.below.setdefault(layer, {})
        for place, variant in enumerate(variants):
            largest[variant] = np.maximum(floors[place], largest.get(variant, np.float32(0)))
            mine = values[:, place]
            below = ((mine > 0) & (mine < largest[variant])).sum(axis=0)
            counts[variant] = counts.get(variant, 0) + below
        self.values += values.shape[0] * values.shape[1]

    def described(self, layers: Sequence[int], variants: Sequence[str]) -> dict[str, Any]:
        """The manifest's noise_floor.by_layer. None (null) stands for what was not measured."""

        def table(found: dict[int, dict[str, np.ndarray]], number: type) -> list[list[list[Any] | None]]:
            rows = [[found.get(layer, {}).get(variant) for variant in variants] for layer in layers]
            return [[None if each is None else [number(str(one)) for one in each] for each in row] for row in rows]

        return {
            "layers": list(layers),
            "variants": list(variants),
            "metrics": list(self.metrics),
            "values": table(self.floors, float),  # the float32 with the shortest text
            "below": table(self.below, int),
        }

    def note(self) -> str | None:
        """What to say of the values below; None if there are none."""
        total = sum((count for layer in self.below.values() for count in layer.values()), np.zeros(len(self.metrics)))
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
