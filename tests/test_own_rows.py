"""Families whose layers have rows of their own beside the prompt's tokens, or stand in several lists.

The reference knows from each family's modeling file which row predicts and where it reads (`every_type.OWN_ROWS`), and
takes the keys out there, in forwards of the whole model. The engine finds the same by trying.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import cache
from typing import Any

import every_type
import pytest
import torch
from agreement import singles
from brute_force import distances, observe
from brute_force import variants as named
from checkpoints import tokenizer
from every_type import OWN_ROWS, OwnRows, without
from families import Family, prompt
from float64 import true_float64
from torch import nn

from mask_impact.effects.answer import Effects
from mask_impact.effects.edits import Edit
from mask_impact.errors import UnsupportedModel
from mask_impact.impact.meter import Meter, Wanted
from mask_impact.impact.record import LayerRecord, Recording, record_generation
from mask_impact.impact.rerun import RerunMeter
from mask_impact.impact.run import run
from mask_impact.impact.whole_calls import record_calls
from mask_impact.jobs.prepared import fitted
from mask_impact.model.layout import find_layout, marked_sets, numbers_of
from mask_impact.model.towers import decoder_layers
from mask_impact.options import ABLATIONS, Request
from mask_impact.prompt.inputs import ModelInputs, tokens_of
from mask_impact.table import Block

LENGTH = 9
LAST = LENGTH - 1
ATTENTION = {"cpmant": "self_att.self_attention", "prophetnet": "self_attn"}  # whose output is added to the residual
FULL, ATTN = Wanted(True, False, False), Wanted(False, True, False)

HRM = Family(
    "hrm_text", "two stacks of two layers, which are called six times and twice", heads=4, attends=(0, 1, 2, 3),
    layers="model.L_module.layers model.H_module.layers", before_o_proj="sigmoid gate",
)  # fmt: skip


@cache
def build(model_type: str) -> Any:
    return every_type.build(model_type, 97)


def given(ids: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def record(model: Any, ids: torch.Tensor, *queries: int) -> Recording:
    return record_calls(model, given(ids), 1, [], (queries or (ids.shape[1] - 1,)).__contains__)


def far(found: float, base: torch.Tensor, changed: torch.Tensor) -> float:
    """How far a distance is from that of two vectors, in units of what is allowed."""
    expected, _ = distances(base, changed)
    return abs(found - expected) / (1e-9 * expected + 1e-12 * base.norm().item())


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("name", OWN_ROWS)
def test_every_layer_and_token_equals_brute_force(name: str, ablation: str) -> None:
    model, ids = build(name), prompt(LENGTH)
    layers = decoder_layers(model)
    with true_float64():
        for _ in range(2):  # generated tokens
            recording, last = record(model, ids), ids.shape[1] - 1
            assert [layer.index for layer in recording.with_attention()] == [0, 1, 2]
            for layer in recording.with_attention():
                impact = RerunMeter(model, FULL, ablation).impact(layer, layer.queries[last], singles(last))
                base = every_type.update(model, layers[layer.index], ids)
                assert impact.l2[:, 0].all(), f"layer {layer.index}: not every mask acted"
                for position, found in enumerate(impact.l2[:, 0].tolist()):
                    changed = every_type.update(model, layers[layer.index], ids, [position], ablation == "zero-value")
                    assert far(found, base, changed) < 1, f"layer {layer.index} position {position}"
            ids = torch.cat([ids, torch.tensor([recording.tokens])], dim=1)


def test_several_tokens_at_once_and_an_earlier_position(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = build("prophetnet"), prompt(LENGTH)
    at_5 = OwnRows(2, lambda weights: weights[:, 0, :, 5, :], 0, lambda states, count: states[0][0, count + 5])
    monkeypatch.setitem(OWN_ROWS, "prophetnet", at_5)
    with true_float64():
        layer = record(model, ids, 5, LAST).layers[1]
        impact = RerunMeter(model, FULL).impact(layer, layer.queries[5], [(0, 2), (1, 3, 5)])
        base = every_type.update(model, layer.layer, ids)
        for mask, found in zip(((0, 2), (1, 3, 5)), impact.l2[:, 0].tolist(), strict=True):
            assert far(found, base, every_type.update(model, layer.layer, ids, mask)) < 1


@pytest.mark.parametrize("name", ATTENTION)
def test_attn_equals_brute_force(name: str) -> None:
    model, ids = build(name), prompt(LENGTH)
    with true_float64():
        for layer in record(model, ids).with_attention():
            impact = RerunMeter(model, ATTN).impact(layer, layer.queries[LAST], singles(LAST))
            base = attention_output(name, model, ids, layer)
            for position, found in enumerate(impact.l2[:, 0].tolist()):
                with without(layer.layer, LENGTH, [position], False, 1, OWN_ROWS[name]):
                    changed = attention_output(name, model, ids, layer)
                assert far(found, base, changed) < 1, f"layer {layer.index} position {position}"


@torch.no_grad()
def attention_output(name: str, model: Any, ids: torch.Tensor, layer: LayerRecord) -> torch.Tensor:
    """[C] at the row that predicts."""
    seen: list[torch.Tensor] = []
    module = layer.layer.get_submodule(ATTENTION[name])
    handle = module.register_forward_hook(lambda _, __, out: seen.append(OWN_ROWS[name].predicts(out, LENGTH).clone()))
    model(input_ids=ids, use_cache=False)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize(("name", "variants"), [("cpmant", ("full", "attn")), ("xlnet", ("full",))])
def test_the_manifest_says_that_steps_were_computed_anew(name: str, variants: tuple[str, ...]) -> None:
    model, ids = build(name), prompt(LENGTH)
    words = tokenizer()
    inputs = ModelInputs(given(ids), tokens_of(words, ids[0].tolist()), "random", False)
    request = Request("random", num_tokens=2, variants=variants)
    blocks: list[Block] = []
    with true_float64():
        manifest = run(model, fitted(words, model.config, inputs, request), blocks.append).manifest
    assert manifest["replay"] == "fallback" and {block.generation_step for block in blocks} == {0, 1}
    assert sum("every step was computed anew" in note for note in manifest["notes"]) == 1


def test_what_cannot_be_read_off_is_refused_with_advice() -> None:
    model = build("xlnet")
    with true_float64():
        layer = record(model, prompt(LENGTH)).layers[0]
        for wanted in (ATTN, Wanted(False, False, True)):
            with pytest.raises(UnsupportedModel, match=r"'xlnet'.*measure it with `variants` full"):
                RerunMeter(model, wanted).impact(layer, layer.queries[LAST], singles(LAST))
        with pytest.raises(UnsupportedModel, match=r"'xlnet'.*position 4 predicts nothing.*leave out `queries`"):
            record(model, prompt(LENGTH), 4)


@pytest.mark.parametrize("name", OWN_ROWS)
def test_effects_are_refused_by_name(name: str) -> None:
    model = build(name)
    with true_float64(), pytest.raises(UnsupportedModel, match=f"'{name}'.*adds tokens of its own"):
        Effects(model, tokenizer(), given(prompt(LENGTH)), 0)


def test_parts_of_layers_are_no_layers() -> None:
    """XLM has a list of attentions, one of feed-forwards, and no list of layers; it puts a mask token at the end."""
    model = build("xlm")
    with true_float64(), pytest.raises(UnsupportedModel, match=r"'xlm'.*not what comes out of the one below"):
        record(model, prompt(LENGTH))


class Elsewhere(nn.Module):
    """A layer that reads the mean of its tokens beside its attention."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        states, *rest = self.layer(hidden_states, *args, **kwargs)
        return (states + hidden_states.mean(dim=1, keepdim=True), *rest)


def test_what_reads_tokens_elsewhere_is_refused() -> None:
    model = every_type.build("cpmant", 97)
    layers = model.cpmant.encoder.layers
    layers[1] = Elsewhere(layers[1])
    with true_float64(), pytest.raises(UnsupportedModel, match="layer 1: it reads its tokens otherwise than through"):
        record(model, prompt(LENGTH))


def test_numbers_are_found_by_their_bits() -> None:
    items = torch.tensor([[3, 0, 4, -1], [-1, 1, 2, 0]])
    marks = [
        torch.tensor([[item >= 0 and bool(chosen[item]) for item in row] for row in items]) for chosen in marked_sets(5)
    ]
    assert torch.equal(numbers_of(marks), items)
    both = [one | two for one, two in zip(marks, [mark.roll(1, dims=1) for mark in marks], strict=True)]
    assert numbers_of(both) is None  # items that depend on two


def test_the_layout_of_a_plain_family_is_its_rows() -> None:
    model = build("llama")
    with true_float64():
        found = find_layout(model, given(prompt(LENGTH)), 3)
    assert found.tokens == tuple(range(LENGTH)) and found.predicting == {each: each for each in (6, 7, 8)}


@pytest.mark.parametrize("query", [LAST, LENGTH])
def test_layers_in_several_lists(query: int) -> None:
    """Every variant of HRM's layers, in the last of their passes."""
    model = build("hrm_text")
    with true_float64():
        recording = record_generation(model, given(prompt(LENGTH)), 2, [])
        ids = torch.cat([prompt(LENGTH), torch.tensor([recording.tokens])], dim=1)[:, : query + 1]
        base = observe(model, HRM, ids)
        assert [layer.passes for layer in recording.with_attention()] == [6, 6, 2, 2]
        for layer in recording.with_attention():
            impact = Meter(model, Wanted()).impact(layer, layer.queries[query], singles(query))
            for position in range(query + 1):
                with without(layer.layer, query + 1, [position], False, layer.passes):
                    changed = observe(model, HRM, ids)[layer.index].at(query)
                rows = named(base[layer.index].at(query), changed)
                for found, (variant, before, after) in zip(impact.l2[position].tolist(), rows, strict=True):
                    assert far(found, before, after) < 1, f"{variant} layer {layer.index} position {position}"


def test_effects_of_layers_in_several_lists() -> None:
    """Masks in the last passes of some layers, carried on to the logits."""
    model, ids = build("hrm_text"), prompt(LENGTH)
    layers = decoder_layers(model)
    passes = [every_type.passes_of(model, layer) for layer in layers]
    with true_float64(), torch.no_grad():
        runner = Effects(model, tokenizer(), given(ids), 0).runner
        for first, last in ((0, 3), (1, 2)):
            found = runner.run(first, last, 0, [Edit((3,), (LAST,))]).logits[0, -1]
            with ExitStack() as undo:
                for index in range(first, last + 1):
                    undo.enter_context(without(layers[index], LENGTH, [3], False, passes[index]))
                expected = model(input_ids=ids, use_cache=False).logits[0, -1]
            plain = model(input_ids=ids, use_cache=False).logits[0, -1]
            assert (found - expected).norm() < 1e-9 * (expected - plain).norm()
