"""`ablation="zero-value"` against brute force: the real model with masked tokens' value vectors set to 0 for one query.

Value Zeroing, Mohebbi et al. 2023, "Quantifying Context Mixing in Transformers". The reference (`value_zeroing.py`)
replaces the family's own attention function while the whole model runs. The default, logits at -inf, is held against
its own brute force in test_engine.py; here the two are held against each other.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import agreement
import pytest
import torch
from agreement import singles
from families import build, distinct, find
from float64 import true_float64
from test_engine import LENGTH, MEASURED, STEPS, prompt, record
from test_experiment import analyse
from test_vl_engine import PROMPT, folders, images, load, longer, row, some, tensors  # noqa: F401

from mask_impact.errors import UserError
from mask_impact.impact.masking import QueryAttention
from mask_impact.impact.meter import Meter, Wanted
from mask_impact.impact.record import record_generation

worst_error = partial(agreement.worst_error, ablation="zero-value")


@pytest.mark.parametrize("name", distinct(MEASURED))
def test_float64_equals_brute_force(name: str) -> None:
    """Single tokens, sets, and all tokens at once, where the cache is read."""
    model = build(name, dtype=torch.float64)
    with true_float64():
        recording = record(model, prompt(), STEPS)
        ids = torch.cat([prompt(), torch.tensor([recording.tokens])], dim=1)
        query = LENGTH + STEPS - 2
        masks = [*singles(query), (0, 1), (2, 3, 4, 5), tuple(range(query + 1))]
        error, where = worst_error(
            find(name), model, ids[:, : query + 1], recording, query, masks, relative=1e-9, rounding=3e-14
        )
    assert error < 1, f"{error:.3g} times the allowed error at {where}"


@pytest.mark.parametrize("name", distinct(MEASURED))
def test_float32_equals_brute_force(name: str) -> None:
    model = build(name)
    recording = record(model, prompt())
    error, where = worst_error(
        find(name), model, prompt(), recording, LENGTH - 1, singles(LENGTH - 1), relative=1e-5, rounding=1e-5
    )
    assert error < 1, f"{error:.3g} times the allowed error at {where}"


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize(("dtype", "relative", "rounding"), [(torch.float64, 1e-9, 3e-14), (torch.float32, 1e-5, 1e-5)])
def test_vision_language_models_equal_brute_force(
    name: str,
    load: Any,  # noqa: F811
    dtype: torch.dtype,
    relative: float,
    rounding: float,
) -> None:
    loaded = load(name, dtype)
    inputs = loaded.inputs(PROMPT, *images())
    given = tensors(inputs, dtype)
    query = len(inputs.tokens) - 1
    masks = [*some(singles(query), 12), tuple(found.position for found in inputs.tokens if found.kind == "image")]

    def error() -> tuple[float, str]:
        recording = record_generation(loaded.model, given, 1, [])
        return worst_error(row(name), loaded.model, given, recording, query, masks, relative, rounding)

    if dtype == torch.float64:
        with true_float64():
            found, where = error()
    else:
        found, where = error()
    assert found < 1, f"{found:.3g} times the allowed error at {where}"


@pytest.mark.parametrize("name", distinct(MEASURED))
def test_the_two_ablations_of_one_token_differ_by_its_weight(name: str) -> None:
    """zeroed = z - p v and removed = (z - p v) / (1 - p): one is (1 - p) times the other, in every head."""
    with true_float64():
        recording = record(build(name, dtype=torch.float64), prompt())
        for layer in recording.with_attention():
            assert layer.attention is not None
            query = layer.queries[LENGTH - 1]
            removing, zeroing = (
                QueryAttention(layer.attention, query, ablation=ablation) for ablation in ("neg-inf", "zero-value")
            )
            assert removing.weights is not None
            weights = removing.weights[0]
            removed, zeroed = (
                (a.output + a.masked(singles(LENGTH - 1)).change)[:, 0] for a in (removing, zeroing)
            )  # [T, H, D]
            apart = (zeroed - (1 - weights.T).unsqueeze(-1) * removed).abs().amax(dim=(1, 2))
            assert apart.max() < 1e-12 * zeroed.abs().max(), f"layer {layer.index}: {apart}"


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_oss", "gpt2", "deepseek_v3"])
def test_the_closed_form_equals_the_explicit_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a family whose weights are of no use is measured all the same."""
    model = build(name)
    recording = record(model, prompt())
    masks = [*singles(LENGTH - 1), (), (0, 3), tuple(range(LENGTH - 1)), tuple(range(LENGTH))]
    layer = recording.with_attention()[-1]
    assert layer.attention is not None
    query = layer.queries[LENGTH - 1]
    attention = QueryAttention(layer.attention, query, ablation="zero-value")
    assert attention.weights is not None
    apart = (attention.masked(masks).change - (attention.explicit(masks) - attention.output)).abs().max()
    assert apart < 1e-6 * attention.output.abs().max(), f"{apart:.3g}"
    expected = Meter(model, Wanted(), "zero-value").impact(layer, query, masks).l2
    monkeypatch.setattr(QueryAttention, "_usable", lambda self, weights: None)
    found = Meter(model, Wanted(), "zero-value").impact(layer, query, masks).l2
    assert (found - expected).abs().max() < 1e-5 * expected.max()


@pytest.mark.parametrize("name", ["llama", "mistral", "gpt_oss"])
@pytest.mark.parametrize("usable", [True, False])
def test_all_tokens_zeroed_is_output_zero(name: str, usable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exactly, and not "nothing to attend to": the weights are still there. Cosine distance from 0 is 1."""
    if not usable:
        monkeypatch.setattr(QueryAttention, "_usable", lambda self, weights: None)
    model, length = build(name), 60
    for layer in record(model, prompt(length)).with_attention():
        assert layer.attention is not None
        query = layer.queries[length - 1]
        everything = [tuple(reversed(range(length)))]  # summed in another order: rounded otherwise
        attention = QueryAttention(layer.attention, query, ablation="zero-value")
        assert (attention.masked(everything).output == 0).all()
        impact = Meter(model, Wanted(), "zero-value").impact(layer, query, everything)
        assert not impact.blind
        torch.testing.assert_close(impact.l2[0, 2:], query.heads[0].norm(dim=-1))
        assert (impact.cosine[0, 2:] == 1).all(), impact.cosine


def test_outside_the_window_is_exactly_zero() -> None:
    model = build("mistral")  # a window of 5 in every layer
    for layer in record(model, prompt()).with_attention():
        impact = Meter(model, Wanted(), "zero-value").impact(layer, layer.queries[LENGTH - 1], singles(LENGTH - 1))
        assert (impact.l2[: LENGTH - 5] == 0).all() and (impact.l2[LENGTH - 5 :] > 0).all(), impact.l2[:, 0]


def test_a_run_says_which_ablation_it_was() -> None:
    removed, found = analyse("llama")
    assert found.manifest["ablation"] == "neg-inf"
    zeroed, found = analyse("llama", ablation="zero-value")
    assert found.manifest["ablation"] == "zero-value"
    assert (zeroed[0].l2 != removed[0].l2).any() and (zeroed[0].positions == removed[0].positions).all()
    _, found = analyse("llama", length=1, ablation="zero-value")
    assert found.manifest["notes"] == [
        "a mask left nothing of a vector, or no more than rounding (1e-5 of it); its cosine distance is 1"
    ]
    with pytest.raises(UserError, match=r"unknown ablation 'zero'; choose from neg-inf, zero-value"):
        analyse("llama", ablation="zero")


def test_masks_that_do_nothing_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run then zeroes values in whole calls of the layers."""
    honest = QueryAttention.masked
    monkeypatch.setattr(QueryAttention, "masked", lambda self, masks: honest(self, [[] for _ in masks]))
    blocks, found = analyse("llama", ablation="zero-value")
    assert found.manifest["replay"] == "fallback" and all((block.l2 > 0).any() for block in blocks)
