"""The metrics: how far a vector moves when a mask changes it.

In:  a vector without a mask, and the change that each mask makes to it.
Out: one number for each mask and metric.

METRICS has one row for each metric. A new entry is all that a metric needs: the engine computes it where it is chosen,
and files, manifest, page and `load` take its column from here. No torch at import, so that `--help` answers at once.

Shapes: R masks, ... further axes such as attention heads, C hidden, M metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

DEFAULT_METRICS = ("l2", "cosine")
MetricFunction = Callable[["torch.Tensor", "torch.Tensor", "torch.Tensor | None"], "torch.Tensor"]


@dataclass(frozen=True)
class Metric:
    """One way to compare a vector with and without a mask."""

    name: str  # for --metrics
    column: str  # in the tables
    title: str  # for people, short
    unit: str  # "" for none
    range: tuple[float | None, float | None]  # smallest and largest value; None: no limit
    # (base [..., C], change [R, ..., C], weights) -> [R, ...]. Change is masked minus base, because that difference
    # loses digits where the two are almost equal. Both are float32, or float64 for float64 models. Weights [R, H] is
    # the attention weight that each mask removes from each head, None where it is not known or not asked for.
    function: MetricFunction
    needs_weights: bool = False  # they take time, so only metrics that ask for them get them
    infinite: str = ""  # when a value is infinite; a run in which one is, is refused with these words

    @property
    def in_text(self) -> str:
        """The title within a sentence: "L2 distance", "cosine distance"."""
        return self.title[0].lower() + self.title[1:] if self.title[1:2].islower() else self.title

    @property
    def brief(self) -> str:
        """The same, shorter: "L2", "cosine"."""
        return self.in_text.removesuffix(" distance")

    @property
    def described(self) -> dict[str, Any]:
        """The metric as the manifest and the page describe it."""
        named = {"name": self.name, "column": self.column, "title": self.title, "unit": self.unit}
        return named | {"range": list(self.range)}


def distances(base: torch.Tensor, change: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """L2 and cosine distance between `base` and `base + change`; the two share most of their work.

    Args:
        base: [..., C], any float dtype.
        change: [R, ..., C], the same dtype; masked minus base.

    Returns:
        l2: [R, ...] ||change||, in the model's own units, 0 to infinity.
        cosine: [R, ...] 1 - cos(base, base + change), 0 to 2, without unit. Two zero vectors are at distance 0, a zero
            and a non-zero vector at distance 1 (a zero vector has no direction).
        Both in float32, or float64 for float64 input.

    1 - cos(u, w) equals 0.5 * ||u/|u| - w/|w|||^2. With w = u + d the difference of the unit vectors is
    (d - u (|w| - |u|) / |u|) / |w|, and |w| - |u| = (2 u.d + |d|^2) / (|w| + |u|): every term is as small as d, so that
    nothing cancels. 1 - cos itself has no digits left in float32 once the cosine is within 1e-7 of 1.

    Where a mask leaves almost nothing (|w| below 1e-6 |u|), w = u + d itself cancels in float32, and the cosine keeps
    only the digits that u and d leave it.
    """
    import torch

    precise = torch.promote_types(base.dtype, torch.float32)
    base, change = base.to(precise), change.to(precise)
    tiny = torch.finfo(precise).tiny
    l2 = change.norm(dim=-1)
    length = base.norm(dim=-1)
    masked_length = (base + change).norm(dim=-1)
    longer = (2 * (change * base).sum(dim=-1) + l2.square()) / (masked_length + length).clamp_min(tiny)
    apart = change - base * (longer / length.clamp_min(tiny)).unsqueeze(-1)
    cosine = (apart.norm(dim=-1) / masked_length.clamp_min(tiny)).square() / 2
    no_direction = (masked_length == 0) | (length == 0)
    return l2, torch.where(no_direction, (l2 != 0).to(precise), cosine)


def l2_distance(base: torch.Tensor, change: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """[R, ...] ||change||, in the model's own units, 0 to infinity."""
    return change.norm(dim=-1)


def cosine_distance(base: torch.Tensor, change: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """[R, ...] 1 - cos(base, base + change), 0 to 2, see `distances`."""
    return distances(base, change)[1]


def relative_distance(base: torch.Tensor, change: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """[R, ...] ||change|| / ||base||, 0 to infinity, without unit: how much of its own length a vector moves.

    Two zero vectors are at distance 0. A change of a zero vector has no relative distance: it is infinite here, and
    such a run is refused, because tables hold finite numbers only.
    """
    l2 = change.norm(dim=-1)
    return (l2 / base.norm(dim=-1)).masked_fill(l2 == 0, 0.0)


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("l2", "l2_distance", "L2 distance", "model units", (0.0, None), l2_distance),
        Metric("cosine", "cosine_distance", "Cosine distance", "", (0.0, 2.0), cosine_distance),
        Metric(
            "relative",
            "relative_distance",
            "Relative distance",
            "",
            (0.0, None),
            relative_distance,
            infinite="without a mask it is a zero vector, and a mask changes it",
        ),
    )
}


def in_order(names: Sequence[str]) -> tuple[str, ...]:
    """Metrics once each, in the order of METRICS. Raises ValueError for two that have the same column."""
    chosen = tuple(name for name in METRICS if name in names)
    columns: dict[str, str] = {}
    for name in chosen:
        other = columns.setdefault(METRICS[name].column, name)
        if other != name:
            raise ValueError(f"metrics {other!r} and {name!r} both have the column {METRICS[name].column}; choose one")
    return chosen


def compare(
    names: Sequence[str], base: torch.Tensor, change: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """[R, ..., M] the metrics `names` between base [..., C] and base + change [R, ..., C].

    In float32, or float64 for float64 input. L2 and cosine are computed together where both are chosen.
    """
    import torch

    precise = torch.promote_types(base.dtype, torch.float32)
    base, change = base.to(precise), change.to(precise)
    together = {}
    if {"l2", "cosine"} <= set(names):
        together = dict(zip(("l2", "cosine"), distances(base, change), strict=True))
    found = [together[name] if name in together else METRICS[name].function(base, change, weights) for name in names]
    return torch.stack(found, dim=-1)
