"""Masks that hold over several layers and are carried on to the logits, against the whole model with the same edit."""

from __future__ import annotations

from contextlib import nullcontext
from itertools import chain

import pytest
import torch
from brute_effects import carried, carried_each
from families import FAMILIES, HYBRIDS, PROMPT_LENGTH, available, build, distinct, find, prompt
from float64 import true_float64

from mask_impact.effects.carry import Carrier, Forwards
from mask_impact.effects.edits import Edit
from mask_impact.effects.recorded_forward import record_passage
from mask_impact.errors import UnsupportedModel

WHOLE = {*HYBRIDS, "doge"}  # one forward for each mask; doge's mask is made of the values
WINDOWS = [(0, 2), (1, 1), (2, 2), (0, 0)]
SETS = [(3,), (0,), (2, 5, 6), (PROMPT_LENGTH - 1,)]
LAST = (PROMPT_LENGTH - 1,)
HEADS = ("llama", "mistral", "gemma2", "gpt_neox")
READERS = [LAST, None, (3, 5, 9)]  # None: every later position


# Both ways of zero-value and every kind of attention that has a projection of values by itself.
VALUES = ["llama", "mistral", "qwen2", "qwen3_window", "gemma2", "gpt_oss", "mixtral"]
SDPA = ["llama", "mistral", "qwen3_window", "gpt_neox", "phi3", "mixtral", "cohere"]


def agree(name: str, dtype: torch.dtype, tolerance: float, ablation: str = "neg-inf", attention: str = "eager") -> None:
    """Every window, set and kind of mask; windows without attention change nothing."""
    model, family, ids = build(name, dtype), find(name), prompt()
    model.set_attn_implementation(attention)
    passage = record_passage(model, {"input_ids": ids})
    runner: Carrier | Forwards = Forwards(model, passage, {"input_ids": ids}, ablation=ablation)
    if name in WHOLE:
        with pytest.raises(UnsupportedModel):
            Carrier(model, passage, runner)
    else:
        runner = Carrier(model, passage, runner)
    for window in WINDOWS:
        kinds = READERS if window == WINDOWS[0] else READERS[:2]
        edits = [[Edit(members, readers) for members in SETS] for readers in kinds]
        logits, states = carried_each(model, family, ids, window, [*chain(*edits)], ablation)
        for index, some in enumerate(edits):
            start = min(*runner.reach(*window, some).starts, PROMPT_LENGTH - 1)
            found = runner.run(*window, start, some)
            rows = slice(index * len(SETS), (index + 1) * len(SETS))
            close(found.logits, logits[rows], tolerance)
            for layer, state in found.states.items():
                close(state, states[layer][rows], tolerance)


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    """Each row, in proportion to its length."""
    found = found.reshape(expected.shape)  # [M, V] or [M, C]
    apart = ((found.double() - expected.double()).norm(dim=-1) / expected.double().norm(dim=-1)).max()
    assert apart < tolerance, float(apart)


@pytest.mark.parametrize("name", distinct(available(FAMILIES | HYBRIDS)))
def test_float64_equals_the_whole_model(name: str) -> None:
    with true_float64():
        agree(name, torch.float64, 1e-9)


@pytest.mark.parametrize("name", distinct(available(FAMILIES | HYBRIDS)))
def test_float32_equals_the_whole_model(name: str) -> None:
    agree(name, torch.float32, 1e-5)


@pytest.mark.parametrize("name", SDPA)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_sdpa_equals_the_whole_model(name: str, dtype: torch.dtype) -> None:
    """What users load runs sdpa, where many rows of the last position share their keys."""
    with true_float64() if dtype == torch.float64 else nullcontext():  # eager's softmax is in float32 else
        agree(name, dtype, 1e-9 if dtype == torch.float64 else 1e-5, attention="sdpa")


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_zeroed_values_equal_the_whole_model(name: str, attention: str) -> None:
    """A token keeps its own value for itself where every later position stops reading it."""
    if attention == "sdpa" and find(name).sdpa:
        return
    with true_float64():
        agree(name, torch.float64, 1e-9, "zero-value", attention)


@pytest.mark.parametrize("name", distinct(available(FAMILIES | HYBRIDS)))
def test_the_reference_takes_edits_together_as_one_by_one(name: str) -> None:
    model, family, ids = build(name, torch.float64), find(name), prompt()
    edits = [Edit((3,)), Edit(()), Edit((2, 5, 6), LAST), Edit((0, 8), (3, 5, 9))]
    with true_float64():
        logits, states = carried_each(model, family, ids, (0, 1), edits)
        for index, edit in enumerate(edits):
            alone, its_states = carried(model, family, ids, (0, 1), edit.positions, edit.readers)
            close(logits[index], alone, 1e-12)
            close(states[2][index], its_states[2], 1e-12)


@pytest.mark.parametrize("name", ["qwen3_next", "llama"])
def test_whole_forwards_equal_the_carried_ones(name: str) -> None:
    """The way for families that do not fit in rows, with both ablations."""
    model, family, ids = build(name, torch.float64), find(name), prompt()
    passage = record_passage(model, {"input_ids": ids})
    for ablation in ("neg-inf", "zero-value"):
        whole = Forwards(model, passage, {"input_ids": ids}, ablation=ablation)
        edits = [Edit((2, 5), readers) for readers in READERS]
        found = whole.run(1, 2, 0, edits)
        logits, states = carried_each(model, family, ids, (1, 2), edits, ablation)
        close(found.logits, logits, 1e-9)
        close(found.states[2], states[2], 1e-9)


def test_sets_that_reach_into_what_changes() -> None:
    """Masks that begin at different positions, run together from the first of them on."""
    model, family, ids = build("qwen3", torch.float64), find("qwen3"), prompt()
    passage = record_passage(model, {"input_ids": ids})
    for ablation in ("neg-inf", "zero-value"):
        runner = Carrier(model, passage, Forwards(model, passage, {"input_ids": ids}, ablation=ablation))
        edits = [Edit(each) for each in ((4, 5, 6, 9), (8,), (10,), (6, 11))]
        assert runner.reach(0, 2, edits).starts == [5, 9, 11, 7]
        found = runner.run(0, 2, 5, edits)
        for row, edit in enumerate(edits):
            logits, _ = carried(model, family, ids, (0, 2), edit.positions, ablation=ablation)
            close(found.logits[row], logits, 1e-9)


ROUNDING = 1e-6  # of the largest number; what a mask changes is more


@pytest.mark.parametrize("name", distinct([*available(FAMILIES), "qwen3_next", "falcon_h1"]))
@pytest.mark.parametrize("readers", [None, LAST], ids=["later", "last"])
def test_what_is_out_of_reach_stays_exactly_as_it_is(name: str, readers: tuple[int, ...] | None) -> None:
    """Of the whole model, too: where `reach` says that nothing can change, reruns give the same numbers.

    Some processors round the rows of a batch in different ways.
    """
    if name == "falcon_h1" and readers:
        return
    model, family, ids = build(name), find(name), prompt()
    passage = record_passage(model, {"input_ids": ids})
    edits = [Edit((position,), readers) for position in range(0, PROMPT_LENGTH, 1 if name == "mistral" else 4)]
    for first, last in [(0, 2), (1, 1), (2, 2)]:
        reach = passage.reach(first, last, edits, stateful=name in WHOLE)
        _, states = carried_each(model, family, ids, (first, last), [Edit(()), *edits])
        for index, (edit, moved) in enumerate(zip(edits, reach.moved, strict=True), start=1):
            for layer, can in zip(range(first, 3), moved[:, -1].tolist(), strict=True):
                apart = (states[layer][index] - states[layer][0]).abs().max()
                same = bool(apart <= ROUNDING * states[layer][0].abs().max())
                assert can or same, (edit, layer)
                if name == "mistral":  # and no more than that
                    assert can != same, (edit, layer)


@pytest.mark.parametrize(
    "name", available({name: FAMILIES[name] for name in ("llama", "mistral", "gemma2", "gpt_neox")})
)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_heads_of_layers(name: str, attention: str) -> None:
    """Edges taken out in some heads of some layers, in one forward with edits of all heads."""
    model, family, ids = build(name, torch.float64), find(name), prompt()
    model.set_attn_implementation("eager" if family.sdpa else attention)
    edits = [
        Edit((3,), heads={0: (1,), 2: (0, 3)}),
        Edit((2, 5), readers=LAST, heads={1: (2,)}),
        Edit((0, *range(1, PROMPT_LENGTH)), readers=(4, PROMPT_LENGTH - 1), heads={1: (0, 1, 2)}),  # nothing is left
        Edit((7,)),
    ]
    with true_float64():
        passage = record_passage(model, {"input_ids": ids})
        whole = Forwards(model, passage, {"input_ids": ids})
        for runner in (Carrier(model, passage, whole), whole):
            found = runner.run(0, 2, 0, edits)
            logits, states = carried_each(model, family, ids, (0, 2), edits)
            close(found.logits, logits, 1e-9)
            close(found.states[2], states[2], 1e-9)
