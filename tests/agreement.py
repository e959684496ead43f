"""How far the engine is from brute force: the worst of all layers, masks and variants, in both head spaces."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from brute_force import Rows, distances, observe, observe_each, variants
from every_type import update, without
from families import Family
from torch import nn
from value_zeroing import values_zeroed

from mask_impact.errors import UnsupportedModel
from mask_impact.impact.meter import Impact, Meter, Wanted
from mask_impact.impact.record import LayerRecord, Recording
from mask_impact.impact.rerun import RerunMeter
from mask_impact.model.towers import decoder_layers

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
        (layer, {space: among_others(meter, layer, query, masks) for space, meter in meters.items()})
        for layer in recording.with_attention()
    ]
    base = observe(model, row, inputs)
    for layer, impacts in measured:
        assert ablation == "neg-inf" or not any(impact.blind for impact in impacts.values())
        before, changed = base[layer.index].at(query), masked(model, row, inputs, layer.index, query, masks, ablation)
        for space, impact in impacts.items():
            for column, (variant, vector, vectors) in enumerate(variants(before, changed, space)):
                expected = (vectors.double() - vector.double()).norm(dim=-1).cpu()  # [M], the definition
                allowed = relative * expected + rounding * vector.double().norm().cpu()
                errors = ((impact.l2[:, column] - expected).abs() / allowed).tolist()
                index = max(range(len(masks)), key=errors.__getitem__)
                where = f"{space} {variant} layer {layer.index} mask {masks[index]} l2 {expected[index]:.3g}"
                worst = max(worst, (errors[index], where))
    return worst


def among_others(meter: Meter, layer: LayerRecord, query: int, masks: Sequence[Sequence[int]]) -> Impact:
    """What the meter finds at `query` together with all other recorded queries, which have masks of their own."""
    every = list(layer.queries)
    mine = [masks if each == query else singles(each) for each in every]
    return meter.impacts(layer, list(layer.queries.values()), mine)[every.index(query)]


def worst_whole_error(
    row: Family, model: nn.Module, ids: torch.Tensor, recording: Recording, ablation: str = "neg-inf"
) -> tuple[float, str]:
    """The same of whole calls of layers, at the last position of `ids`; of Full alone where no more is measured.

    The keys are taken from the last position in a forward of the whole model, where its layers take a softmax.
    """
    query, zero_values, worst = ids.shape[1] - 1, ablation == "zero-value", (0.0, "")
    layers = decoder_layers(model)
    for layer in recording.with_attention():
        every = {}
        try:
            impact = RerunMeter(model, Wanted(), ablation).impact(layer, layer.queries[query], singles(query))
            every = dict(variants_at(row, model, ids, layer.index))
        except UnsupportedModel as error:
            assert "measure it with `variants` full" in str(error), error
            impact = RerunMeter(model, Wanted(True, False, False), ablation).impact(
                layer, layer.queries[query], singles(query)
            )
        before = every or {"Full": update(model, layers[layer.index], ids)}
        assert impact.l2[:, 0].any(), f"layer {layer.index}: nothing was masked"
        for (position,) in singles(query):
            if every:
                with without(layers[layer.index], query + 1, [position], zero_values, passes=1):
                    changed = dict(variants_at(row, model, ids, layer.index))
            else:
                changed = {"Full": update(model, layers[layer.index], ids, [position], zero_values)}
            assert list(changed) == list(before)
            for column, (variant, after) in enumerate(changed.items()):
                expected, _ = distances(before[variant], after)
                allowed = 1e-9 * expected + 1e-12 * before[variant].double().norm().item()
                error = abs(impact.l2[position, column].item() - expected) / allowed
                worst = max(worst, (error, f"{variant} layer {layer.index} mask {position} l2 {expected:.3g}"))
    return worst


def variants_at(row: Family, model: nn.Module, ids: torch.Tensor, layer: int) -> Iterator[tuple[str, torch.Tensor]]:
    """Full, Attn and the heads of one layer at the last position."""
    rows = observe(model, row, ids, until=layer)[layer].at(ids.shape[1] - 1)
    for variant, vector, _ in variants(rows, rows):
        yield variant, vector


def masked(
    model: nn.Module, row: Family, inputs: Inputs, layer: int, query: int, masks: Sequence[Sequence[int]], ablation: str
) -> Rows:
    """What brute force has at `query` without the tokens of each mask, or without their values."""
    if ablation == "neg-inf":
        return observe_each(model, row, inputs, layer, masks, until=layer)[layer].at((slice(None), query))
    with values_zeroed(model, row, layer, query, masks):
        return observe_each(model, row, inputs, None, [()] * len(masks), until=layer)[layer].at((slice(None), query))
