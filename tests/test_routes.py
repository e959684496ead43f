"""Effects from one set of positions to another and in some heads, against the whole model with exactly those edges cut.

The sets are drawn at random, from a seed; the reference is `brute_effects.py`, for encoder-decoders `answer` in
`seq2seq_families.py`.
"""

from __future__ import annotations

import random
from contextlib import nullcontext
from typing import Any

import pytest
import seq2seq_families as seq2seq
import torch
from brute_effects import carried, carried_each
from brute_force import distances
from families import FAMILIES, HYBRIDS, PROMPT_LENGTH, available, build, find, prompt
from float64 import true_float64
from test_carry import VALUES
from test_effects import Words
from test_vl_engine import PROMPT, folders, images, load, row, tensors  # noqa: F401

from mask_impact.effects.answer import Effect, Effects
from mask_impact.effects.asked import Asked, Window
from mask_impact.effects.routes import Mask, Route, route_to
from mask_impact.prompt.positions import in_text
from mask_impact.prompt.sets import PositionSet, Sets
from mask_impact.prompt.units import Unit

torch.set_num_threads(1)
WINDOWS = [Window(0, 2), Window(1, 1), Window(1, 2)]
LAST = PROMPT_LENGTH - 1
HEADS = 4


def drawn(seed: int, first: int, length: int, count: int = 4) -> list[Route]:
    """Routes between random sets; readers from position `first` on; the last route ends at the predicting position."""
    draw = random.Random(seed)

    def some(start: int) -> tuple[int, ...]:
        return tuple(sorted(draw.sample(range(start, length), draw.randint(1, min(5, length - start)))))

    routes = [Route(PositionSet("to", some(first)), PositionSet("from", some(0))) for _ in range(count)]
    return [*routes, Route(PositionSet("last", is_last=True), PositionSet("from", (*some(0)[:2], length - 1)))]


def asking(**changes: Any) -> Asked:
    return Asked("all", tuple(WINDOWS), (), (), None, False, **changes)


def holds(found: Effect, base: torch.Tensor, logits: torch.Tensor, states: tuple[Any, Any], tolerance: float) -> bool:
    """Whether a row says what the logits and the last state do; whether anything has moved."""
    logprob, chosen = logits.double().log_softmax(-1), int(base.argmax())
    assert abs(found.logprob - logprob[chosen].item()) <= tolerance * (1 + abs(logprob[chosen].item())), found
    l2, _ = distances(*states)
    assert abs(found.final_l2 - l2) <= tolerance * float(states[0].norm()), found
    return bool(l2 > 1e-3 * float(states[0].norm()))


def compare(model: Any, family: Any, given: Any, masks: list[Mask], effects: Effects, **how: Any) -> int:
    """Every mask in every window; how many of them have moved the last state."""
    tolerance, ablation = how["tolerance"], how.get("ablation", "neg-inf")
    base, before = carried(model, family, given)
    moved = 0
    for window in WINDOWS:
        rows, _ = effects.measure_masks(masks, window)
        assert len(rows) == len(masks)
        edits = [mask.edit for mask in masks]
        logits, states = carried_each(model, family, given, (window.first, window.last), edits, ablation)
        for index, found in enumerate(rows):
            moved += holds(found, base, logits[index], (before[2], states[2][index]), tolerance)
    return moved


def agree(name: str, dtype: torch.dtype, ablation: str = "neg-inf") -> None:
    model, ids = build(name, dtype), prompt()
    masks = [mask for seed in (1, 2) for route in drawn(seed, 0, LAST + 1) for mask in route.masks([], LAST + 1)]
    with true_float64() if dtype == torch.float64 else nullcontext():
        effects = Effects(model, Words(), {"input_ids": ids}, 0, ablation=ablation)
        tolerance = 1e-9 if dtype == torch.float64 else 1e-5
        assert compare(model, find(name), ids, masks, effects, tolerance=tolerance, ablation=ablation) > 5


@pytest.mark.parametrize("name", available(FAMILIES | HYBRIDS))
def test_random_routes_equal_the_whole_model(name: str) -> None:
    agree(name, torch.float64)


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2", "gpt_neox", "gpt_oss"])
def test_in_float32(name: str) -> None:
    agree(name, torch.float32)


@pytest.mark.parametrize("name", VALUES)
def test_random_routes_with_zeroed_values(name: str) -> None:
    agree(name, torch.float64, "zero-value")


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2", "gemma2", "qwen3_next"])
@pytest.mark.parametrize("ablation", ["neg-inf", "zero-value"])
def test_heads_equal_the_whole_model(name: str, ablation: str) -> None:
    """Each head by itself, of models in which query heads share keys; some heads; and all but those."""
    if (name, ablation) == ("qwen3_next", "zero-value"):
        return  # the reference has no gate between heads and output projection
    model, ids = build(name, torch.float64), prompt()
    units = [Unit("a", (3,)), Unit("b", (2, 5, 6))]
    layer = Window(find(name).attends[-1], find(name).attends[-1])
    masks = [
        mask
        for route in (Route(), Route(PositionSet("last", is_last=True)), Route(PositionSet("c", (4, 6, LAST))))
        for mask in asking(by_head=HEADS).in_heads(route.masks(units, LAST + 1), layer)
        + asking(heads={1: (0, 3), 2: (1,)}).in_heads(route.masks(units, LAST + 1), layer)
    ]
    assert [mask.head for mask in masks[:6]] == [0, 1, 2, 3, 0, 1]
    with true_float64():
        effects = Effects(model, Words(), {"input_ids": ids}, 0, ablation=ablation)
        assert compare(model, find(name), ids, masks, effects, tolerance=1e-9, ablation=ablation) > 5


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen3_vl", "gemma3"])
@pytest.mark.parametrize("ablation", ["neg-inf", "zero-value"])
def test_pictures_question_and_answer(name: str, ablation: str, load: Any) -> None:  # noqa: F811
    """The named sets of a prompt with pictures, those that see themselves both ways too."""
    loaded = load(name, torch.float64)
    inputs = loaded.inputs(PROMPT, *images())
    given, length = tensors(inputs, torch.float64), len(inputs.tokens)
    sets = Sets(loaded.processor.tokenizer, inputs, in_text(length, 1), {})
    names = [("image", "question"), ("question", "last"), ("image", "last"), ("last", "last"), ("image:0", "image:0")]
    routes = [Route(sets.named("", to), sets.named("", source)) for source, to in [*names, ("template", "text")]]
    masks = [mask for route in (*routes, *drawn(3, 0, length)) for mask in route.masks([], length)]
    with true_float64():
        effects = Effects(loaded.model, Words(), given, 0, ablation=ablation)
        moved = compare(loaded.model, row(name), given, masks, effects, tolerance=1e-9, ablation=ablation)
    assert moved > 5


START = torch.tensor([[2, 17, 33, 41]])


@pytest.mark.parametrize("name", ["t5", "bart"])
@pytest.mark.parametrize("ablation", ["neg-inf", "zero-value"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_encoder_decoders(name: str, ablation: str, dtype: torch.dtype) -> None:
    """Positions of the encoder and the decoder in one route, with all heads and with some."""
    model, ids = seq2seq.build(name, dtype), seq2seq.prompt()
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "decoder_input_ids": START}
    length, moved = ids.shape[1] + START.shape[1], 0
    tolerance = 1e-9 if dtype == torch.float64 else 1e-5
    plain, by_head = asking(), asking(by_head=HEADS)
    with true_float64() if dtype == torch.float64 else nullcontext():
        effects = Effects(model, Words(), inputs, 0, (), ablation)
        base, before = seq2seq.answer(model, name, ids, START, (), (), ())
        for window in WINDOWS:
            routes = drawn(4, ids.shape[1], length)
            masks = [mask for route in routes for mask in plain.in_heads(route.masks([], length), window)]
            if window.first == window.last:
                masks += by_head.in_heads(routes[0].masks([], length), window)
            rows, _ = effects.measure_masks(masks, window)
            for mask, found in zip(masks, rows, strict=True):
                layers, heads = range(window.first, window.last + 1), None if mask.head is None else (mask.head,)
                logits, state = seq2seq.answer(
                    model,
                    name,
                    ids,
                    START,
                    layers,
                    mask.edit.positions,
                    mask.edit.readers,
                    ablation != "neg-inf",
                    heads,
                )
                moved += holds(found, base, logits, (before, state), tolerance)
    assert moved > 5


# --- what is the same, and what is exactly nothing ------------------------------------------------------------
def test_a_route_to_later_positions_is_block_all_bit_for_bit() -> None:
    effects = Effects(build("qwen3"), Words(), {"input_ids": prompt()}, 0)
    unit = Unit("set", (2, 5, 6))
    route = Route(None, PositionSet("set", (2, 5, 6)))
    for window in WINDOWS:
        expected = effects.measure([unit], window, "all", trace=True)
        assert effects.measure_masks(route.masks([], LAST + 1), window, trace=True) == expected
        last = Route(PositionSet("last", is_last=True))
        assert effects.measure_masks(last.masks([unit], LAST + 1), window) == effects.measure([unit], window, "last")


def test_what_no_reader_sees_and_layers_without_a_masked_head_change_nothing() -> None:
    effects = Effects(build("mistral"), Words(), {"input_ids": prompt()}, 0)
    ahead = Route(PositionSet("to", (1, 2)), PositionSet("from", (5, 6))).masks([], LAST + 1)
    elsewhere = asking(heads={0: (1,)}).in_heads(route_to("last").masks([Unit("a", (LAST,))], LAST + 1), WINDOWS[1])
    rows, _ = effects.measure_masks([*ahead, *elsewhere], WINDOWS[1])
    assert [(each.logprob_change, each.final_l2, each.kl) for each in rows] == [(0, 0, 0)] * 2


def test_steps_at_which_a_set_is_empty_have_no_row() -> None:
    """What was generated stands nowhere at the first step."""
    steps, length = 3, LAST + 1
    generated = PositionSet("generated", grows_from=length - steps + 1)
    effects = Effects(build("qwen3"), Words(), {"input_ids": prompt()}, 0, chosen=[5, 9, 7])
    for route in (Route(None, generated), Route(generated, PositionSet("first", (0,)))):
        rows, _ = effects.measure_masks(route.masks([], length), WINDOWS[0])
        assert [each.generation_step for each in rows] == [1, 2]
        for each in rows:  # as one run on the text up to there has it
            prefix = {"input_ids": prompt()[:, : length - 2 + each.generation_step]}
            alone = Effects(
                build("qwen3"), Words(), prefix, each.generation_step, chosen=[[5, 9, 7][each.generation_step]]
            )
            masks = route.masks([], length - 2 + each.generation_step)
            (expected,), _ = alone.measure_masks(masks, WINDOWS[0])
            assert each.logprob == pytest.approx(expected.logprob, abs=1e-5)
