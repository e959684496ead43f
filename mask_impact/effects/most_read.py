"""The units that single layers read most, where the effects of these alone are measured.

In:  units, and the ranking of the results table (impact/top_tokens.py). Out: the chosen units, and what the manifest
     says of the choice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mask_impact.prompt.units import Unit

Ranked = tuple[int, float, int]  # a unit's first position, its value, the layer where that is


@dataclass(frozen=True)
class MostRead:
    """The units whose effects are measured."""

    count: int  # how many were asked for
    units: list[Unit]  # in the order of the text
    ranked: list[tuple[Unit, Ranked]]  # the same, the most read first
    among: int  # so many units

    @classmethod
    def of(cls, units: Sequence[Unit], ranked: Sequence[Ranked], count: int) -> "MostRead":
        """The first `count` of `units` by the ranking of their first positions."""
        starting: dict[int, list[Unit]] = {}
        for unit in units:
            starting.setdefault(unit.positions[0], []).append(unit)
        found = [(unit, row) for row in ranked for unit in starting.get(row[0], ())][:count]
        chosen = {(unit.label, unit.positions) for unit, _ in found}
        return cls(count, [unit for unit in units if (unit.label, unit.positions) in chosen], found, len(units))

    @property
    def manifest(self) -> dict[str, Any]:
        return {
            "count": self.count,
            "units": [
                {"label": unit.label, "positions": list(unit.positions), "value": value, "layer": layer}
                for unit, (_, value, layer) in self.ranked
            ],
        }

    @property
    def notes(self) -> list[str]:
        listed = ", ".join(f"{unit.label!r} ({unit.positions[0]})" for unit, _ in self.ranked[:5])
        more = ", ..." if len(self.ranked) > 5 else ""
        return [
            f"`top` {self.count}: effects are of the {len(self.units)} of {self.among} units that single layers read "
            f"most, {listed}{more}; the others were not masked"
        ]
