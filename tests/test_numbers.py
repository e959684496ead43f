"""Numbers at the edges: little left of a vector, little changed in it, low precision. Each against float64.

Two references, both in float64. Where a model can be built so that its float32 forward has all its digits: brute force,
the model's own forward. Else the engine in float64 on the same weights and the same recorded inputs, which
test_engine.py holds against brute force to 1e-9.
"""

import pytest
import torch
from agreement import masked as masked_rows
from agreement import singles
from brute_force import distances as exact_distances
from brute_force import observe, variants
from families import build, decoder_layers, find
from float64 import doubled, true_float64
from test_engine import LENGTH, prompt, record
from torch import nn

from mask_impact.distances import METRICS, distances
from mask_impact.impact import meter as metering
from mask_impact.impact.meter import Impact, Meter, Wanted
from mask_impact.impact.record import Recording

PAIR = torch.tensor([[5, 9]])


@torch.no_grad()
def overshadowed(name: str, left: float) -> nn.Module:
    """A model in whose first layer the value of token 5 is 1 / `left` times as long as that of token 9.

    The two tokens' embeddings have no number in common, so that each value is right to its own last digit.
    """
    model = build(name)
    half = model.config.hidden_size // 2
    model.get_input_embeddings().weight[5, half:] = 0
    model.get_input_embeddings().weight[9, :half] = 0
    attention = decoder_layers(model, find(name))[0].self_attn
    attention.v_proj.weight[:, half:] *= left
    for projection in (attention.v_proj, attention.o_proj):
        if projection.bias is not None:
            projection.bias.zero_()
    return model


@pytest.mark.parametrize("left", [1e-3, 1e-5, 1e-6, 1e-8, 1e-12])
@pytest.mark.parametrize("ablation", ["neg-inf", "zero-value"])
@pytest.mark.parametrize("name", ["qwen3", "qwen2", "mistral", "gemma2", "qwen3_moe"])
def test_the_cosine_of_what_is_left_is_right(name: str, ablation: str, left: float) -> None:
    """A prompt of two tokens, one of which gives a head nearly all it has: its mask leaves `left` of the output."""
    model = overshadowed(name, left)
    layer = record(model, PAIR).with_attention()[0]
    found = {
        space: Meter(model, Wanted(head_space=space), ablation).impact(layer, layer.queries[1], [(0,)])
        for space in ("output", "residual")
    }
    model.double()
    model.config._experts_implementation = "eager"
    with true_float64():
        before = observe(model, find(name), PAIR, until=0)[0].at(1)
        after = masked_rows(model, find(name), PAIR, 0, 1, [(0,)], ablation)
        for space, impact in found.items():
            for column, (variant, base, masked) in enumerate(variants(before, after, space)):
                l2, cosine = exact_distances(base, masked[0])
                at = f"{space} {variant}"
                assert impact.l2[0, column].item() == pytest.approx(l2, rel=1e-4), at
                assert impact.cosine[0, column].item() == pytest.approx(cosine, rel=1e-3, abs=1e-5), at


@pytest.mark.parametrize("left", [1e-3, 1e-4, 1e-5, 1e-6, 1e-8, 0.0])
def test_a_sum_of_which_nothing_is_left_has_no_direction(left: float) -> None:
    """Known only as base + change, it has digits down to 1e-5 of the base's length; from there on it is as zero."""
    base, direction = torch.randn(2, 16, generator=torch.Generator().manual_seed(0)).double()
    masked = direction / direction.norm() * base.norm() * left
    _, cosine = distances(base.float(), (masked - base).float()[None])
    expected = exact_distances(base, masked)[1] if left > 1e-5 else 1.0
    assert cosine.item() == pytest.approx(expected, abs=1e-2 if left else 0)
    _, known = distances(base.float(), (masked - base).float()[None], masked.float()[None])
    assert known.item() == pytest.approx(exact_distances(base, masked)[1], abs=1e-6)


@pytest.mark.parametrize("length", [1e-3, 1e-7, 1.0, 1e7])
def test_cosine_distances_are_in_their_range(length: float) -> None:
    """Of any base and change, opposite vectors, and change that is as long as the base."""
    base, others = torch.randn(16), torch.randn(3000, 16)
    for change in (
        others * length,
        -base - others * length,
        -base * (1 + others[:, :1] * length),
        -2 * base.expand(9, -1),
    ):
        for masked in (None, base + change):
            _, cosine = distances(base, change, masked)
            assert ((cosine >= 0) & (cosine <= 2)).all(), cosine[(cosine < 0) | (cosine > 2)]


def in_float64(model: nn.Module, recording: Recording, wanted: Wanted, masks: list[tuple[int, ...]]) -> list[Impact]:
    """The engine in float64 on the same weights and recorded inputs. The model stays in float64."""
    model.double()
    model.config._experts_implementation = "eager"
    with true_float64():
        meter = Meter(model, wanted, metrics=tuple(METRICS))
        layers = doubled(recording).with_attention()
        return [meter.impact(layer, layer.queries[masks[-1][0]], masks) for layer in layers]


LONG = 40
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
EVERY_ROUNDING = dict.fromkeys((*DTYPES, torch.float64), 1000000000.0)  # the record's outputs are in another dtype


@pytest.mark.parametrize("space", ["output", "residual"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2", "gpt2", "mixtral"])
def test_errors_stay_below_the_noise_floors(
    name: str, dtype: torch.dtype, space: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 95 % of the values, or below 1 % of the value; L2 and relative distances below the floor itself.

    Attention weights have no floor: they are of the record, and their errors are in proportion to them.
    """
    monkeypatch.setattr(metering, "ROUNDING", metering.ROUNDING | {torch.float64: 1.0})
    model, masks, wanted = build(name, dtype=dtype), singles(LONG - 1), Wanted(head_space=space)
    recording = record(model, prompt(LONG))
    meter = Meter(model, wanted, metrics=tuple(METRICS))
    found = [meter.impact(layer, layer.queries[LONG - 1], masks) for layer in recording.with_attention()]
    for impact, truth in zip(found, in_float64(model, recording, wanted, masks), strict=True):
        error, floors = (impact.values - truth.values).abs(), impact.floors.double()
        for place, metric in enumerate(impact.metrics):
            value, limit = truth.values[..., place], floors[:, place].expand_as(error[..., place])
            within = error[..., place] <= (limit if metric in ("l2", "relative") else limit.maximum(0.01 * value))
            assert within.double().mean(dim=0).min() >= 0.95, f"{metric}: {within.double().mean(dim=0)}"
            read = value[value > 0]
            assert (limit < 0.01 * read.median()).all(), f"{metric}: floors {limit[0]} beside {read.median():.2g}"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "mixtral"])
def test_only_what_is_not_read_has_distance_zero(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a sink that takes all but 1e-11 of the weight, what a token changes is far below rounding, and not 0."""
    monkeypatch.setattr(metering, "ROUNDING", EVERY_ROUNDING)
    model, masks = build(name, dtype=dtype), singles(LENGTH - 1)
    recording = record(model, prompt())
    for layer in recording.with_attention():
        bias = layer.queries[LENGTH - 1].bias = layer.queries[LENGTH - 1].bias.float()
        bias[..., 6] += 30.0
    meter = Meter(model, Wanted(), metrics=tuple(METRICS))
    found = [meter.impact(layer, layer.queries[LENGTH - 1], masks) for layer in recording.with_attention()]
    for impact, truth in zip(found, in_float64(model, recording, Wanted(), masks), strict=True):
        assert ((impact.l2 == 0) == (truth.l2 == 0)).all()
        whole, expected = impact.l2[:, :2], truth.l2[:, :2]
        below = (whole < impact.floors[:2, 0]) & (expected > 0)
        assert below.sum() >= 8 and (expected[below] <= impact.floors[:2, 0].expand_as(whole)[below]).all()
        lost = (expected > 0) & (expected < 0.01 * impact.floors[:2, 0])  # most of it would be 0, or else rounding
        assert ((whole - expected).abs() / expected)[lost].median() < 0.02
