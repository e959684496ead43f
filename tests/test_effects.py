"""Effects of masks on the answer: vision-language models, the numbers of a row, and what must hold at the edges.

The reference is `brute_effects.py`, the whole model rerun with hooks; the numbers are computed again from its logits
with numpy, in double precision and by their definitions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import astuple, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from brute_effects import carried, carried_each
from brute_force import distances
from families import build, find
from families import prompt as text_prompt
from float64 import true_float64
from test_vl_engine import PROMPT, folders, images, load, longer, own_positions, row, tensors  # noqa: F401
from transformers import AttentionInterface

from mask_impact.effects import answer, predictions
from mask_impact.effects.answer import WHOLE, Effect, Effects, Trace
from mask_impact.effects.asked import Window, contrast_ids, windows_of
from mask_impact.effects.carry import Carrier, Forwards
from mask_impact.effects.edits import Edit
from mask_impact.effects.recorded_forward import record_passage
from mask_impact.errors import OutOfMemory, UserError
from mask_impact.model.masks import create_vl_attention_mask
from mask_impact.model.towers import decoder_layers
from mask_impact.options import BLOCKS
from mask_impact.prompt.inputs import ModelInputs, tokens_of


@dataclass(frozen=True)
class Unit:
    label: str
    positions: tuple[int, ...]
    level: int | None = None


class Words:
    """A tokenizer: each of "abc..." is a token, whose text is its id in angle brackets."""

    all_special_ids: tuple[int, ...] = ()

    def __len__(self) -> int:
        return 26

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        assert not add_special_tokens
        return {"input_ids": [ord(letter) - 97 for letter in text]}

    def convert_ids_to_tokens(self, token_id: int) -> str:
        return chr(token_id + 97)

    def decode(self, ids: Sequence[int], **how: bool) -> str:
        return "".join(f"<{each}>" for each in ids)


def units(*sets: tuple[int, ...]) -> list[Unit]:
    return [Unit(f"unit {index}", positions) for index, positions in enumerate(sets)]


def apart(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def near(found: Effect | Trace, expected: Sequence[Any], **tolerance: float) -> None:
    """Decimals within the tolerance, all else equal; the last field is the head, of which there is none."""
    for name, one, other in zip(vars(found), astuple(found), (*expected, *[None] * 6)[: len(vars(found))], strict=True):
        assert one == (pytest.approx(other, **tolerance) if isinstance(other, float) else other), (name, found)


# --- vision-language models -----------------------------------------------------------------------------------
def image_sets(inputs: Any) -> list[tuple[int, ...]]:
    """A region of the picture, its first and last token, all of it, and text before and after it."""
    places = [found.position for found in inputs.tokens if found.kind == "image"]
    region = (places[1], places[2], places[len(places) // 2])
    return [region, (places[0],), (places[-1],), tuple(places), (places[0] - 1,), (places[-1] + 2, places[2])]


def agree(
    model: Any,
    name: str,
    given: Mapping[str, torch.Tensor],
    sets: Sequence[tuple[int, ...]],
    tolerance: float,
    ablation: str = "neg-inf",
    together: Sequence[tuple[int, int]] = (),
    reference: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Logits and states of every block, window and set; `reference`: the inputs of the whole model, where others."""
    passage = record_passage(model, given, together)
    whole = Forwards(model, passage, given, together, ablation)
    runner = Carrier(model, passage, whole)
    for window in [(0, 2), (1, 1), (0, 0)]:
        for readers in (None, (passage.length - 1,)):
            edits = [Edit(each, readers) for each in sets]
            start = min(*runner.reach(*window, edits).starts, passage.length - 1)
            carried_on, rerun = runner.run(*window, start, edits), whole.run(*window, start, edits[:1])
            logits, states = carried_each(model, row(name), reference or given, window, edits, ablation)
            assert apart(rerun.logits[0], logits[0]) < tolerance, f"layers {window}, readers {readers}"
            for index, each in enumerate(sets):
                where = f"layers {window}, positions {each}, readers {readers}"
                assert apart(carried_on.logits[index], logits[index]) < tolerance, where
                for layer, state in carried_on.states.items():
                    assert apart(state[index], states[layer][index]) < tolerance, f"{where}, state after layer {layer}"


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "gemma3"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_pictures_equal_the_whole_model(name: str, dtype: torch.dtype, load: Any) -> None:  # noqa: F811
    """DeepStack's features between layers, three-part positions, and pictures that see themselves both ways."""
    loaded = load(name, dtype)
    inputs = loaded.inputs(PROMPT, *images())
    with true_float64() if dtype == torch.float64 else nullcontext():
        tolerance = 1e-9 if dtype == torch.float64 else 1e-5
        agree(loaded.model, name, tensors(inputs, dtype), image_sets(inputs), tolerance)


@pytest.mark.parametrize("name", ["qwen3_vl", "gemma3"])
def test_zeroed_values_of_a_picture_equal_the_whole_model(name: str, load: Any) -> None:  # noqa: F811
    loaded = load(name, torch.float64)
    inputs = loaded.inputs(PROMPT, *images())
    with true_float64():
        agree(loaded.model, name, tensors(inputs, torch.float64), image_sets(inputs), 1e-9, "zero-value")


def test_tokens_that_are_made_to_see_each_other(load: Any) -> None:  # noqa: F811
    """`--vision-attention bidirectional` is the whole model with that mask."""
    loaded = load("qwen3_vl", torch.float64)
    inputs = loaded.inputs(PROMPT, *images())
    given = tensors(inputs, torch.float64)
    mask = create_vl_attention_mask(len(inputs.tokens), inputs.image_ranges(), dtype=torch.float64)
    with true_float64():
        reference = given | {"attention_mask": mask} | own_positions(loaded.model, given)
        sets, together = image_sets(inputs), inputs.image_ranges()
        agree(loaded.model, "qwen3_vl", given, sets, 1e-9, together=together, reference=reference)
        plain, _ = carried(loaded.model, row("qwen3_vl"), given)
        seeing, _ = carried(loaded.model, row("qwen3_vl"), reference)
        assert apart(seeing, plain) > 1e-3, "the mask has changed nothing"


def test_a_picture_that_sees_itself_changes_from_its_first_token_on(load: Any) -> None:  # noqa: F811
    loaded = load("gemma3")
    inputs = loaded.inputs(PROMPT, *images())
    places = [found.position for found in inputs.tokens if found.kind == "image"]
    passage = record_passage(loaded.model, tensors(inputs))
    assert passage.reach(0, 2, [Edit((places[3],))]).starts == [places[0]]
    assert passage.reach(2, 2, [Edit((places[3],))]).starts == [places[4]]


def test_pictures_are_carried_on_at_the_second_step(load: Any) -> None:  # noqa: F811
    """After a generated token the inputs are longer by it, and the rest as they were."""
    loaded = load("qwen3_vl", torch.float64)
    given = longer("qwen3_vl", tensors(loaded.inputs(PROMPT, *images()), torch.float64), [30])
    with true_float64():
        agree(loaded.model, "qwen3_vl", given, [(8, 9), (given["input_ids"].shape[1] - 2,)], 1e-9)


# --- the numbers of a row -------------------------------------------------------------------------------------
LENGTH, LAST = 12, 11
SETS = [(3,), (0,), (2, 5, 6), (10,), (LAST,), (4, LAST, LAST + 5)]  # the last reaches beyond the input


@pytest.mark.parametrize("name", ["qwen3", "mistral", "gemma2", "qwen3_next"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("window", [(0, 2), (1, 1), (1, 2)])
def test_rows_are_what_the_whole_models_logits_say(name: str, attention: str, window: tuple[int, int]) -> None:
    model, ids, contrast, chosen = build(name, torch.float64), text_prompt(), (7, 9), 20
    with true_float64():
        base, unmasked = (each for each in carried(model, find(name), ids))
        if not find(name).sdpa:
            model.set_attn_implementation(attention)
        found = Effects(model, Words(), {"input_ids": ids}, 4, contrast=contrast, chosen=[chosen])
        assert found.notes == ([WHOLE] if name == "qwen3_next" else [])
        for block in BLOCKS:
            rows, traces = found.measure(units(*SETS), Window(*window), block, trace=True)
            expected, moves = [], []
            for unit in units(*SETS):
                members = [each for each in unit.positions if each < LENGTH]
                logits, states = carried(
                    model, find(name), ids, window, members, (LENGTH - 1,) if block == "last" else None
                )
                where = (4, unit.label, unit.positions[0], *window, block)
                l2_and_cosine = {layer: distances(unmasked[layer], states[layer]) for layer in range(window[0], 3)}
                numbers = by_definition(base.numpy(), logits.numpy(), chosen, contrast)
                expected.append(
                    (*where, *numbers[:5], *l2_and_cosine[2], *numbers[5:], None)
                )  # no pair, so no interaction
                moves += [(*where, layer, *pair) for layer, pair in l2_and_cosine.items()]
            for row, wanted in zip([*rows, *traces], [*expected, *moves], strict=True):
                near(row, wanted, rel=1e-7, abs=1e-10)


def by_definition(base: np.ndarray, logits: np.ndarray, chosen: int, contrast: tuple[int, int]) -> list[Any]:
    def logprobs(values: np.ndarray) -> np.ndarray:
        return values - values.max() - np.log(np.exp(values - values.max()).sum())

    p, q = logprobs(base), logprobs(logits)
    rank = 1 + sum(value > logits[chosen] for value in logits)
    difference, before = (values[contrast[0]] - values[contrast[1]] for values in (logits, base))
    kl = sum(np.exp(one) * (one - other) for one, other in zip(p, q, strict=True))
    top = f"<{int(np.argmax(logits))}>"
    return [q[chosen], q[chosen] - p[chosen], rank, top, kl, difference, difference - before]


def test_the_chosen_token_is_the_likeliest_by_itself() -> None:
    model = build("qwen3")
    found = Effects(model, Words(), {"input_ids": text_prompt()}, 0)
    (row,), traces = found.measure(units((3,)), Window(0, 2), "all")
    base, _ = carried(model, find("qwen3"), text_prompt())
    masked, _ = carried(model, find("qwen3"), text_prompt(), (0, 2), (3,))
    assert row.logprob == pytest.approx(masked.log_softmax(-1)[base.argmax()].item(), rel=1e-4)
    assert (row.contrast, row.contrast_change, traces) == (None, None, [])


def test_a_small_change_keeps_its_digits() -> None:
    """KL goes with the square of the change: of float32's log-probabilities nothing would be left of it."""
    base = torch.randn(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    change = 1e-6 * torch.randn(1000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (found,) = predictions.Base(base, None, None).compared((base + change)[None])
    p = base.softmax(-1)
    mean = (p * change).sum()
    assert found.kl == pytest.approx(float((p * (change - mean).square()).sum() / 2), rel=1e-3)


def test_tokens_that_the_model_rules_out() -> None:
    """A logit of -inf, as of a padded vocabulary: 0 log 0 is 0."""
    base = torch.tensor([0.5, -float("inf"), 1.0])
    (found,) = predictions.Base(base, 2, None).compared(torch.tensor([[1.0, -float("inf"), 1.0]]))
    p, q = torch.tensor([0.5, 1.0]).double().softmax(-1), torch.tensor([1.0, 1.0]).double().softmax(-1)
    assert found.kl == pytest.approx(float((p * (p / q).log()).sum()), rel=1e-12)
    assert found.rank == 1


# --- the edges ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_what_nothing_reads_changes_nothing_at_all(attention: str) -> None:
    """Beyond the windows of the masked layers, or the last token where later ones stop reading, to the last bit."""
    model = build("mistral")  # a window of 5 in all 3 layers
    model.set_attn_implementation(attention)
    found = Effects(model, Words(), {"input_ids": text_prompt()}, 0, contrast=(7, 9))
    cases = [("last", (0, 2), 6), ("all", (2, 2), 6), ("all", (1, 2), 2), ("all", (0, 2), LAST), ("all", (0, 0), LAST)]
    for block, window, position in cases:
        (row, other), traces = found.measure(units((position,), (9,)), Window(*window), block, trace=True)
        base = found.bases[0].prediction
        numbers = (row.logprob, row.logprob_change, row.rank, row.kl, row.final_l2, row.final_cosine)
        assert numbers == (base.logprob, 0.0, base.rank, 0.0, 0.0, 0.0), (block, window, position)
        assert (row.contrast, row.contrast_change) == (base.contrast, 0.0)
        still = traces[: len(traces) // 2]
        assert all((each.l2_distance, each.cosine_distance) == (0.0, 0.0) for each in still)
        assert other.kl > 0 and other.final_l2 > 0, "a token that is read changes something"


def test_a_trace_is_zero_until_the_change_arrives() -> None:
    """Two windows of 5 away from the end, a mask in the lowest layer reaches it only two layers above."""
    model = build("mistral")
    model.set_attn_implementation("sdpa")
    found = Effects(model, Words(), {"input_ids": text_prompt()}, 0)
    _, traces = found.measure(units((1,), (1, 2), (2,), (1,)), Window(0, 0), "all", trace=True)
    assert [each.l2_distance > 0 for each in traces] == [False, False, True] * 4


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("ablation", ["neg-inf", "zero-value"])
def test_a_prompt_of_one_token(attention: str, ablation: str) -> None:
    """It reads itself: with nothing left to read, attention gives 0. No later token reads it."""
    model, ids = build("llama", torch.float64), text_prompt(1)
    model.set_attn_implementation(attention)
    with true_float64():
        found = Effects(model, Words(), {"input_ids": ids}, 0, ablation=ablation)
        (gone,), _ = found.measure(units((0,)), Window(0, 2), "last")
        (same,), _ = found.measure(units((0,)), Window(0, 2), "all")
        logits, _ = carried(model, find("llama"), ids, (0, 2), (0,), (ids.shape[1] - 1,), ablation)
        assert gone.logprob == pytest.approx(float(logits.log_softmax(-1)[found.bases[0].chosen]), rel=1e-9)
    assert gone.kl > 0 and (same.kl, same.logprob_change) == (0.0, 0.0)


def test_no_units_no_rows() -> None:
    found = Effects(build("llama"), Words(), {"input_ids": text_prompt()}, 0)
    assert found.measure([], Window(0, 2), "all", trace=True) == ([], [])


# --- in pieces ------------------------------------------------------------------------------------------------
def everything(found: Effects) -> list[Effect | Trace]:
    masked = units(*((position,) for position in range(LENGTH)), (2, 7))
    rows: list[Effect | Trace] = []
    for block in BLOCKS:
        for each in found.measure(masked, Window(1, 2), block, trace=True):
            rows += each
    return rows


def same(found: Sequence[Effect | Trace], expected: Sequence[Effect | Trace]) -> None:
    for one, other in zip(found, expected, strict=True):
        near(one, astuple(other), rel=1e-6, abs=1e-9)


@contextmanager
def counted(found: Effects, most: int = 10**9) -> Iterator[list[int]]:
    """How many edits each run had; with more than `most`, memory runs out."""
    counts: list[int] = []
    own = found.runner.run

    def run(first: int, last: int, start: int, edits: Sequence[Edit]) -> Any:
        counts.append(len(edits))
        if len(edits) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB.")
        return own(first, last, start, edits)

    found.runner.run = run  # type: ignore[method-assign]
    try:
        yield counts
    finally:
        del found.runner.run


@pytest.fixture
def measured() -> Effects:
    model = build("qwen3", torch.float64)
    model.set_attn_implementation("sdpa")
    return Effects(model, Words(), {"input_ids": text_prompt()}, 0)


def test_pieces_give_the_same_as_one_piece(measured: Effects, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer, "ENOUGH_ROWS", 10**9)
    with counted(measured) as counts:
        expected = everything(measured)
    assert counts == [13, 12]  # the blocks in one piece each; the last token is not read by a later one
    monkeypatch.setattr(answer, "memory_budget", lambda device: 1)
    monkeypatch.setattr(predictions, "PREDICTION_NUMBERS", 1)
    with counted(measured) as counts:
        same(everything(measured), expected)
    assert counts == [1] * 25
    monkeypatch.undo()
    with counted(measured) as counts:
        same(everything(measured), expected)
    assert 1 < len(counts) < 25, "pieces of edits that begin near each other"


def test_out_of_memory_is_split(measured: Effects) -> None:
    expected = everything(measured)
    with counted(measured, most=2) as counts:
        same(everything(measured), expected)
    assert max(counts) > 2 and {1, 2} <= set(counts)


def test_not_even_one_mask_fits(measured: Effects) -> None:
    message = (
        r"memory ran out in a mask in layers 0 to 1, from position 4 on, where 3\.2 GB more were asked for; shorten"
    )
    with counted(measured, most=0), pytest.raises(OutOfMemory, match=message):
        measured.measure(units((3,)), Window(0, 1), "all")


def test_another_error_is_not_split(measured: Effects, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured.runner, "run", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        everything(measured)


# --- what is asked for ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all", [(0, 3)]),
        ("from", [(0, 3), (1, 3), (2, 3), (3, 3)]),
        ("window:3", [(0, 2), (1, 3)]),
        ("window:4", [(0, 3)]),
        ("0-2,3", [(0, 2), (3, 3)]),
        ("2", [(2, 2)]),
        (" 1-1 , 0", [(1, 1), (0, 0)]),
    ],
)
def test_windows(text: str, expected: list[tuple[int, int]]) -> None:
    assert windows_of(text, 4) == [Window(*each) for each in expected]


NOT_KNOWN = "`mask_layers` {!r} is not a list of layers; write for example 0,8,20-27, or all, from, window:3"
MALFORMED = {
    **{
        each: NOT_KNOWN.format(each) for each in ("", "every", "window:", "window:0", "window:x", "window:-1", "window")
    },
    **{
        each: NOT_KNOWN.format(each) for each in ("1-", "-1", "1-2-3", "1,,2", "1,", "1.5", "all,2", "²", "0-²", "1--2")
    },
    "window:5": "`mask_layers` window:5: the model has 4 layers, so a window has at most 4",
    "3-1": "`mask_layers` '3-1': the range 3-1 runs backwards; write 1-3, or all, from, window:3",
    "0, 3-1": "`mask_layers` '0, 3-1': the range 3-1 runs backwards; write 1-3, or all, from, window:3",
    "4": "`mask_layers` '4': there is no layer 4; this model has 0 to 3",
    "0,2-9": "`mask_layers` '0,2-9': there is no layer 9; this model has 0 to 3",
}


@pytest.mark.parametrize("text", MALFORMED)
def test_windows_that_are_none(text: str) -> None:
    with pytest.raises(UserError) as caught:
        windows_of(text, 4)
    assert str(caught.value) == MALFORMED[text]


def test_contrast() -> None:
    """Of single tokens by their text alone, whatever they would be after the prompt; else as an answer."""
    ids = text_prompt()
    tokens = tokens_of(Words(), ids[0].tolist())
    inputs = ModelInputs({"input_ids": ids}, tokens, "", False, followed_by=lambda text: [*ids[0].tolist(), 3, 4])
    assert contrast_ids(Words(), ["<2>", "<0>"], inputs, apart=False) == ((2,), (0,))
    with pytest.raises(UserError, match="twice, which is no contrast"):
        contrast_ids(Words(), ["<3><4>", "<3><4>"], inputs, apart=False)
    for texts, said in (
        (["<0>", "bc"], "`contrast` '<0>' is '<3><4>' for this model; give texts as the tables show them, often with"),
        (["", "<0>"], "`contrast` '' has no tokens for this model; give a text of at least one"),
    ):
        with pytest.raises(UserError) as caught:
            contrast_ids(Words(), texts, inputs, apart=False)
        assert str(caught.value).startswith(said)


# --- the model afterwards -------------------------------------------------------------------------------------
@contextmanager
def unchanged(model: torch.nn.Module) -> Iterator[None]:
    """Hooks, replaced methods, attention, settings and weights are as they were."""

    def state() -> tuple[object, ...]:
        hooks = [(len(each._forward_hooks), len(each._forward_pre_hooks)) for each in model.modules()]
        methods = ["forward" in vars(each) for each in model.modules()]
        return model.config._attn_implementation, hooks, methods, id(model.generation_config), model.training

    before, weights = state(), [parameter.clone() for parameter in model.parameters()]
    yield
    assert state() == before
    assert all(torch.equal(old, new) for old, new in zip(weights, model.parameters(), strict=True))
    assert "mask_impact" not in AttentionInterface()


@pytest.mark.parametrize("name", ["qwen3", "gemma2", "qwen3_next"])
def test_the_model_is_put_back(name: str) -> None:
    model = build(name)
    with unchanged(model):
        found = Effects(model, Words(), {"input_ids": text_prompt()}, 0)
        first = everything(found)
        assert everything(found) == first, "a second measurement gives the same"


@pytest.mark.parametrize("name", ["qwen3", "qwen3_next"])
@pytest.mark.parametrize("stage", ["record", "run"])
def test_the_model_is_put_back_after_an_exception(name: str, stage: str) -> None:
    model = build(name)
    found = Effects(model, Words(), {"input_ids": text_prompt()}, 0)

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    handle = decoder_layers(model)[1].mlp.register_forward_pre_hook(stop)
    with unchanged(model), pytest.raises(KeyboardInterrupt):
        everything(found) if stage == "run" else Effects(model, Words(), {"input_ids": text_prompt()}, 0)
    handle.remove()


def test_a_forward_that_was_replaced_before_is_put_back() -> None:
    """accelerate puts its own in each layer."""
    model = build("qwen3")
    layer = decoder_layers(model)[0]
    own = layer.forward
    layer.forward = replaced = partial(own)  # type: ignore[method-assign]
    everything(Effects(model, Words(), {"input_ids": text_prompt()}, 0))
    assert layer.forward is replaced


def test_a_layer_that_writes_into_its_input() -> None:
    """The record stays as it is, and so does every edit's own row."""
    model, ids = build("qwen3", torch.float64), text_prompt()
    for layer in decoder_layers(model)[:2]:
        own = layer.forward
        layer.forward = lambda hidden_states, *args, own=own, **kwargs: own(hidden_states.mul_(1.25), *args, **kwargs)
    found = Effects(model, Words(), {"input_ids": ids}, 0)
    assert found.notes == []
    _, base = carried(model, find("qwen3"), ids)
    for block in BLOCKS:
        rows, traces = found.measure(units((3,), (5,), (3,)), Window(0, 2), block, trace=True)
        assert replace(rows[2], token_masked=rows[0].token_masked) == rows[0]
        for unit, effect in zip([(3,), (5,)], rows, strict=False):
            logits, states = carried(
                model, find("qwen3"), ids, (0, 2), unit, (LENGTH - 1,) if block == "last" else None
            )
            moves = [each.l2_distance for each in traces if each.token_masked == effect.token_masked]
            assert moves == pytest.approx([distances(base[layer], states[layer])[0] for layer in range(3)], rel=1e-6)
            assert effect.logprob == pytest.approx(float(logits.log_softmax(-1)[found.bases[0].chosen]), rel=1e-6)
