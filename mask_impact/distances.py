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
DISTANCES = {"l2", "cosine"}  # computed together, of vectors with any axes before the last
NOTHING_LEFT = 84  # steps of rounding (eps): 1e-5 in float32, where a direction is known to within a percent
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
    without_weights: str = ""  # why a run is refused where they are not known; "": the function takes None
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


def distances(
    base: torch.Tensor, change: torch.Tensor, masked: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """L2 and cosine distance between `base` and `base + change`; the two share most of their work.

    Args:
        base: [..., C], any float dtype.
        change: [R, ..., C], the same dtype; masked minus base.
        masked: [R, ..., C] base + change, where it was computed by itself and not as this sum.

    Returns:
        l2: [R, ...] ||change||, in the model's own units, 0 to infinity.
        cosine: [R, ...] 1 - cos(base, base + change), 0 to 2, without unit. Two zero vectors are at distance 0, a zero
            and a non-zero vector at distance 1 (a zero vector has no direction).
        Both in float32, or float64 for float64 input.

    1 - cos(u, w) equals 0.5 * ||u/|u| - w/|w|||^2. With w = u + d the difference of the unit vectors is
    (d - u (|w| - |u|) / |u|) / |w|, and |w| - |u| = (2 u.d + |d|^2) / (|w| + |u|): every term is as small as d, so that
    nothing cancels. 1 - cos itself has no digits left in float32 once the cosine is within 1e-7 of 1.

    Where w is shorter than half of u, the terms of that difference cancel instead, and the two unit vectors are
    subtracted as they are. A sum u + d that is shorter than NOTHING_LEFT steps of u's rounding (1e-5 of its length in
    float32) has no digits: nothing is left, as of a zero vector. A `masked` of that length has all of its own.
    """
    import torch

    precise = torch.promote_types(base.dtype, torch.float32)
    base, change = base.to(precise), change.to(precise)
    smallest = torch.finfo(precise).tiny
    l2 = change.norm(dim=-1)
    length = base.norm(dim=-1)
    gone = 0.0 if masked is not None else NOTHING_LEFT * torch.finfo(precise).eps
    masked = base + change if masked is None else masked.to(precise)
    masked_length = masked.norm(dim=-1)
    longer = (2 * (change * base).sum(dim=-1) + l2.square()) / (masked_length + length).clamp_min(smallest)
    apart = change - base * (longer / length.clamp_min(smallest)).unsqueeze(-1)
    cosine = (apart.norm(dim=-1) / masked_length.clamp_min(smallest)).square() / 2
    short = (masked_length < length / 2).nonzero(as_tuple=True)
    if len(short[0]):
        units = [unit(vectors[short]) for vectors in (base.expand_as(change), masked)]
        cosine[short] = (units[0] - units[1]).square().sum(dim=-1) / 2
    no_direction = (masked_length <= gone * length) | (length == 0)
    return l2, torch.where(no_direction, (l2 != 0).to(precise), cosine.clamp_max(2))


def unit(vectors: torch.Tensor) -> torch.Tensor:
    """[..., C] with length 1, however short they are; zero vectors stay."""
    scaled = vectors / vectors.abs().amax(dim=-1, keepdim=True)
    return (scaled / scaled.norm(dim=-1, keepdim=True)).nan_to_num(0.0)


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


def attention_weight(base: torch.Tensor, change: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """[R, ...] the attention weight on what is masked, 0 to 1: [R, H] of the heads, [R] their mean of Full and Attn.

    It is what the query gives to the mask's positions together, before anything is masked.
    """
    assert weights is not None, "the engine refuses what it does not know the weights of"
    return weights if base.ndim == 2 else weights.mean(dim=1)


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
        Metric(
            "attention",
            "attention_weight",
            "Attention weight",
            "",
            (0.0, 1.0),
            attention_weight,
            needs_weights=True,
            without_weights="its attention weights are not known; leave attention out of `metrics`",
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
    names: Sequence[str],
    base: torch.Tensor,
    change: torch.Tensor,
    weights: torch.Tensor | None = None,
    masked: torch.Tensor | None = None,
) -> torch.Tensor:
    """[R, ..., M] the metrics `names` between base [..., C] and base + change [R, ..., C].

    `masked` is that sum where it is known better, see `distances`. In float32, or float64 for float64 input. L2 and
    cosine are computed together.
    """
    import torch

    precise = torch.promote_types(base.dtype, torch.float32)
    base, change = base.to(precise), change.to(precise)
    together = {}
    if "cosine" in names:
        together = dict(zip(("l2", "cosine"), distances(base, change, masked), strict=True))
    found = [together[name] if name in together else METRICS[name].function(base, change, weights) for name in names]
    return torch.stack(found, dim=-1)
