"""Rows for the whole answer, and contrasts of texts of several tokens, against the model's own log-probabilities."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pandas as pd
import pytest
import torch
import transformers
from asking import asked
from brute_effects import carried
from families import find
from float64 import true_float64
from test_answer_steps import Words
from test_vl_engine import PROMPT, folders, images, load, tensors  # noqa: F401
from vl_families import available

from mask_impact.effects.answer import WHOLE_ANSWER, Effect, Effects
from mask_impact.effects.asked import Window
from mask_impact.effects.run import NOT_AT_EVERY_STEP, Passages, effect_tables
from mask_impact.effects.whole import whole_answers
from mask_impact.errors import UnsupportedModel
from mask_impact.jobs.prepared import Prepared
from mask_impact.model.find import find_model
from mask_impact.model.generation import longer
from mask_impact.model.load import load_tokenizer
from mask_impact.prompt.inputs import text_inputs
from mask_impact.prompt.units import Unit

torch.set_num_threads(1)

TEXT = "Tom has a red ball. Ann has a blue cup. Ann's cup is"
QWEN = replace(find("qwen3"), attends=tuple(range(4)))  # the bundled model has four layers
Readers = Callable[[int], list[int] | None]  # of a text of this length; None: every later position


@cache
def demo() -> tuple[Any, Any]:
    """The bundled model in double precision, loaded by transformers alone, and its tokenizer."""
    source = find_model("demo")
    model = transformers.AutoModelForCausalLM.from_pretrained(source.path, dtype=torch.float64).eval()
    return model, load_tokenizer(source)


def prepared(text: str = TEXT, **options: Any) -> Prepared:
    model, tokenizer = demo()
    return asked(model, tokenizer, text_inputs(tokenizer, text), effects=True, **options)


def table(ids: Sequence[int], **options: Any) -> tuple[pd.DataFrame, dict[str, Any]]:
    with true_float64():
        tables, said = effect_tables(demo()[0], prepared(**options), ids)
    return pd.DataFrame(tables["effects"]), said


def logprob(
    ids: Sequence[int], answer: Sequence[int], position: int, readers: Callable[[int], list[int] | None]
) -> float:
    """Of `answer` after `ids`, with `position` masked in all layers of the demo model: one forward for each token."""
    total = 0.0
    for step, token in enumerate(answer):
        given = [*ids, *answer[:step]]
        logits, _ = carried(demo()[0], QWEN, torch.tensor([given]), (0, 3), [position], readers(len(given)))
        total += logits.log_softmax(-1)[token].item()
    return total


@pytest.mark.parametrize("block", ["all", "last"])
def test_a_row_is_the_log_probability_of_the_whole_answer(block: str) -> None:
    prompt = prepared().inputs.tensors["input_ids"][0].tolist()
    ids = demo()[1](" red cup.", add_special_tokens=False)["input_ids"]
    assert len(ids) == 3
    found, _ = table(ids, blocks=(block,), mask_unit="token")
    whole = found[found.generation_step == WHOLE_ANSWER]
    assert list(whole.token_position) == list(range(len(prompt))) and found.index[-1] == whole.index[-1]
    assert list(found.generation_step[: -len(prompt)]) == sorted(found.generation_step[: -len(prompt)])
    with true_float64():
        for position in (0, 9, 14):
            row = whole[whole.token_position == position].iloc[0]
            expected = logprob(prompt, ids, position, lambda length: [length - 1] if block == "last" else None)
            assert row.logprob == pytest.approx(expected, rel=1e-9)
            nothing = logprob(prompt, ids, position, lambda length: [])
            assert row.logprob_change == pytest.approx(expected - nothing, rel=1e-9)
    for position, steps in found[found.generation_step >= 0].groupby("token_position"):
        if position >= len(prompt):
            continue
        row = whole[whole.token_position == position].iloc[0]
        assert row.logprob == pytest.approx(math.fsum(steps.logprob), rel=1e-12)
        assert (row["rank"], row.top_token) == (max(steps["rank"]), steps.top_token.iloc[0])
        assert row.kl == pytest.approx(steps.kl.mean(), rel=1e-12)
    assert whole.final_l2.isna().all() and whole.final_cosine.isna().all()


def test_one_generated_token_has_no_such_rows_and_one_given_has() -> None:
    ids = demo()[1](" red", add_special_tokens=False)["input_ids"]
    assert WHOLE_ANSWER not in set(table(ids)[0].generation_step)
    found, said = table(ids, answer=" red")
    step, whole = (found[found.generation_step == each] for each in (0, WHOLE_ANSWER))
    assert list(whole.logprob) == list(step.logprob) and len(whole) == 16
    assert {row["generation_step"] for row in said["strongest"]} == {WHOLE_ANSWER}


def test_the_interaction_of_a_pair_at_every_step() -> None:
    ids = demo()[1](" blue.", add_special_tokens=False)["input_ids"]
    found, said = table(ids, pairs=16)
    whole = found[found.generation_step == WHOLE_ANSWER]
    pairs, alone = whole[whole.interaction.notna()], whole[whole.interaction.isna()]
    assert len(pairs) > 50 and len(alone) == 16
    change = dict(zip(alone.token_position, alone.logprob_change, strict=True))
    for row in pairs.itertuples():
        one, other = (int(part.rpartition("(")[2].rstrip(")")) for part in row.token_masked.split(" + "))
        assert row.interaction == pytest.approx(row.logprob_change - change[one] - change[other], abs=1e-9)
    assert said["notes"] == [] and len(found[found.interaction.notna()]) == 3 * len(pairs)


def test_pairs_of_other_units_at_another_step_are_left_out_and_named() -> None:
    ids = demo()[1](" blue.", add_special_tokens=False)["input_ids"]
    found, said = table(ids, pairs=3)
    pairs = {step: set(rows.token_masked) for step, rows in found[found.interaction.notna()].groupby("generation_step")}
    assert pairs[0] != pairs[1] and pairs.get(WHOLE_ANSWER, set()) == pairs[0] & pairs[1]
    assert said["notes"] == [NOT_AT_EVERY_STEP]


def test_units_of_several_tokens_and_a_pair_that_is_at_no_other_step() -> None:
    mask = Effect(0, "x", 3, 0, 1, "all", -1.0, -0.5, 2, "a", 0.5, 1.0, 0.5, interaction=0.25)
    assert whole_answers([mask], 2) == {}
    (row,) = whole_answers([mask], 1).values()
    assert (row.generation_step, row.logprob, row.interaction, row.final_l2) == (WHOLE_ANSWER, -1.0, 0.25, None)


# --- contrasts of several tokens ------------------------------------------------------------------------------
@pytest.mark.parametrize("block", ["all", "last"])
def test_a_contrast_of_texts_is_that_of_their_log_probabilities(block: str) -> None:
    texts = (" red ball.", " blue cup")
    prompt = prepared().inputs.tensors["input_ids"][0].tolist()
    tokens = [demo()[1](text, add_special_tokens=False)["input_ids"] for text in texts]
    ids = demo()[1](" blue.", add_special_tokens=False)["input_ids"]
    found, said = table(ids, contrast=texts, blocks=(block,), pairs=2)
    assert said["contrast_ids"] == tokens and said["contrast"] == list(texts)
    assert found[found.generation_step == 1].contrast.isna().all()
    with true_float64():
        for position in (3, 9):
            readers: Any = (lambda length: [length - 1]) if block == "last" else (lambda length: None)
            first, second = (logprob(prompt, each, position, readers) for each in tokens)
            before = [logprob(prompt, each, position, lambda length: []) for each in tokens]
            for step in (0, WHOLE_ANSWER):
                rows = found[(found.generation_step == step) & (found.token_position == position)]
                row = rows[rows.interaction.isna()].iloc[0]
                assert row.contrast == pytest.approx(first - second, rel=1e-9)
                assert row.contrast_change == pytest.approx(first - second - (before[0] - before[1]), rel=1e-8)
    pair = found[found.interaction.notna() & (found.generation_step == 0)]
    assert len(pair) == 1 and pair.contrast.notna().all()


def test_a_contrast_of_two_tokens_stays_that_of_their_logits() -> None:
    ids = demo()[1](" blue.", add_special_tokens=False)["input_ids"]
    found, said = table(ids, contrast=(" red", " blue"))
    assert [len(each) for each in said["contrast_ids"]] == [1, 1] and found.contrast.notna().all()
    steps = {step: rows.set_index("token_position") for step, rows in found.groupby("generation_step")}
    assert list(steps[WHOLE_ANSWER].contrast) == list(steps[0].contrast) != list(steps[1].contrast.iloc[:16])
    (red,), (blue,) = said["contrast_ids"]
    prompt = prepared().inputs.tensors["input_ids"]
    with true_float64():
        logits, _ = carried(demo()[0], QWEN, prompt, (0, 3), [9], None)
    assert steps[0].contrast[9] == pytest.approx((logits[red] - logits[blue]).item(), rel=1e-6)


@pytest.mark.parametrize("block", ["all", "last"])
@pytest.mark.parametrize("more", [{}, {"mask_layers": "from"}, {"contrast": (" red ball.", " blue cup")}])
def test_the_work_that_is_expected_is_done(block: str, more: dict[str, Any]) -> None:
    """By the progress, which is true at its end; nearly all of it is that of masks."""
    ids = demo()[1](" red cup.", add_special_tokens=False)["input_ids"]
    wanted, done = prepared(blocks=(block,), num_tokens=3, **more), list[float]()
    effect_tables(demo()[0], wanted, ids, lambda what, work=1.0: done.append(work))
    assert sum(done) == pytest.approx(wanted.effects_forwards * 4, rel=0.2)
    begun = done[0]
    assert max(done[1:]) < sum(done) and 0 < begun < sum(done)


# --- every family ---------------------------------------------------------------------------------------------
# 4.57's PaliGemma has no token types in a forward: all of its input sees itself both ways, an answer in it too.
READS_THE_ANSWER = {"paligemma"} if transformers.__version__ < "5" else set()


@pytest.mark.parametrize("name", available())
def test_the_steps_of_a_vision_language_model(name: str, load: Any) -> None:  # noqa: F811
    """Each is that of the model's own cached generation, and that of a run on its prefix."""
    loaded, answer = load(name, torch.float64), [30, 31, 32]
    inputs = loaded.inputs(PROMPT, *images())
    given = tensors(inputs, torch.float64)
    count = len(inputs.tokens)
    several = [Unit("first", (2,)), Unit("middle", (count // 2, count // 2 + 1)), Unit("answer", (count,))]
    with true_float64():
        wanted = asked(loaded.model, loaded.processor.tokenizer, inputs, effects=True, num_tokens=3, no_check=True)
        passages = Passages(loaded.model, wanted, lambda what, work: None)
        if name in READS_THE_ANSWER:
            with pytest.raises(UnsupportedModel, match="truthfully"):
                list(passages.over(answer[:1])) and list(passages.over(answer))
            return
        ((_, whole),) = passages.over(answer)
        rows, _ = whole.measure(several, Window(0, 1), "all")
        for step in range(3):
            alone = Effects(
                loaded.model, Words(), longer(loaded.model, given, answer[:step]), step, chosen=answer[step : step + 1]
            )
            seen = [unit for unit in several if unit.positions[0] < count + step]
            mine = [row for row in rows if row.generation_step == step]
            for ours, theirs in zip(mine, alone.measure(seen, Window(0, 1), "all")[0], strict=True):
                assert ours.logprob == pytest.approx(theirs.logprob, rel=1e-9)
                assert ours.logprob_change == pytest.approx(theirs.logprob_change, abs=1e-9)
        own = loaded.model.generate(
            **given, max_new_tokens=3, do_sample=False, return_dict_in_generate=True, output_logits=True,
            prefix_allowed_tokens_fn=lambda _, ids: answer[len(ids) - count :][:1], eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
        for base, token, logits in zip(whole.bases, answer, own.logits, strict=True):
            expected = logits[0].log_softmax(-1)[token].item()
            assert base.prediction.logprob == pytest.approx(expected, rel=1e-9)
