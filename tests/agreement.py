"""How far the engine is from brute force: the worst of all layers, masks and variants, in both head spaces."""

from collections.abc import Mapping, Sequence

import torch
from brute_force import Rows, distances, observe, variants
from families import Family
from torch import nn
from value_zeroing import values_zeroed

from mask_impact.impact.meter import Meter, Wanted
from mask_impact.impact.record import Recording

Inputs = torch.Tensor | Mapping[str, torch.Tensor]


def singles(query: int) -> list[tuple[int, ...]]:
    """Every position up to `query` alone."""
    return [(position,) for position in range(query + 1)]


def worst_error(
    row: Family,
    model: nn.Module,
    inputs: Inputs,
    recording: Recording,
    query: int,
    masks: Sequence[Sequence[int]],
    relative: float,
    rounding: float,
    ablation: str = "neg-inf",
) -> tuple[float, str]:
    """The largest |l2 - reference| / (relative * reference + rounding * length of the base vector), and where."""
    worst = (0.0, "")
    spaces = ("output", "residual") if row.o_proj else ("output",)
    meters = {space: Meter(model, Wanted(head_space=space), ablation) for space in spaces}
    measured = [  # if the engine refuses the family, it does so here, before brute force runs
        (layer, {space: meter.impact(layer, layer.queries[query], masks) for space, meter in meters.items()})
        for layer in recording.with_attention()
    ]
    base = observe(model, row, inputs)
    for layer, impacts in measured:
        assert ablation == "neg-inf" or not any(impact.blind for impact in impacts.values())
        for index, mask in enumerate(masks):
            changed = masked(model, row, inputs, layer.index, query, mask, ablation)
            for space, impact in impacts.items():
                for column, (variant, before, after) in enumerate(
                    variants(base[layer.index].at(query), changed, space)
                ):
                    expected, _ = distances(before, after)
                    allowed = relative * expected + rounding * before.double().norm().item()
                    error = abs(impact.l2[index, column].item() - expected) / allowed
                    worst = max(worst, (error, f"{space} {variant} layer {layer.index} mask {mask} l2 {expected:.3g}"))
    return worst


def masked(
    model: nn.Module, row: Family, inputs: Inputs, layer: int, query: int, mask: Sequence[int], ablation: str
) -> Rows:
    """What brute force has at `query` without the tokens of `mask`, or without their values."""
    if ablation == "neg-inf":
        return observe(model, row, inputs, layer, mask, until=layer)[layer].at(query)
    with values_zeroed(model, row, layer, query, mask):
        return observe(model, row, inputs, until=layer)[layer].at(query)
