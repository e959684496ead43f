"""How far the engine is from brute force: the worst of all layers, masks and variants, in both head spaces."""

from collections.abc import Mapping, Sequence

import torch
from brute_force import distances, observe, variants
from families import Family
from torch import nn

from mask_impact.capture import Recording
from mask_impact.impact import Meter, Wanted


def singles(query: int) -> list[tuple[int, ...]]:
    """Every position up to `query` by itself."""
    return [(position,) for position in range(query + 1)]


def worst_error(
    row: Family,
    model: nn.Module,
    inputs: torch.Tensor | Mapping[str, torch.Tensor],
    recording: Recording,
    query: int,
    masks: Sequence[Sequence[int]],
    relative: float,
    rounding: float,
) -> tuple[float, str]:
    """The largest |l2 - reference| / (relative * reference + rounding * length of the base vector), and where."""
    base = observe(model, row, inputs)
    worst = (0.0, "")
    meters = {space: Meter(model, Wanted(head_space=space)) for space in ("output", "residual")}
    for layer in recording.measured():
        impacts = {space: meter.impact(layer, layer.queries[query], masks) for space, meter in meters.items()}
        for index, mask in enumerate(masks):
            changed = observe(model, row, inputs, layer.index, mask)[layer.index].at(query)
            for space, impact in impacts.items():
                for column, (variant, before, after) in enumerate(
                    variants(base[layer.index].at(query), changed, space)
                ):
                    expected, _ = distances(before, after)
                    allowed = relative * expected + rounding * before.double().norm().item()
                    error = abs(impact.l2[index, column].item() - expected) / allowed
                    worst = max(worst, (error, f"{space} {variant} layer {layer.index} mask {mask} l2 {expected:.3g}"))
    return worst
