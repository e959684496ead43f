"""One masked run over prompt and answer, against one for every step on its own prefix, and against the whole model."""

from __future__ import annotations

from dataclasses import astuple

import pytest
import seq2seq_families as seq2seq
import torch
from brute_effects import carried
from families import FAMILIES, HYBRIDS, available, build, find, prompt
from float64 import true_float64
from test_carry import VALUES
from test_effects import Words, units

from mask_impact.effects.answer import Effects
from mask_impact.effects.asked import Window

STEPS = 4
PROMPT = 9  # tokens; those of the answer follow
UNITS = units((0,), (3,), (2, 5, 6), (8,), (9,), (10,), (11,))
WINDOWS = [Window(0, 2), Window(1, 1)]
NAMES = ["llama", "mistral", "gemma2", "gpt_neox", "mixtral", "qwen3_next", "falcon_h1"]
ENCODER_DECODERS = ["t5", "bart"]


def same(found: object, expected: object) -> None:
    """Rows of the table, numbers to 1e-9."""
    for ours, theirs in zip(astuple(found), astuple(expected), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-9) if isinstance(ours, float) else ours == theirs


@pytest.mark.parametrize("ablation", ["neg-inf", "zero-value"])
@pytest.mark.parametrize("name", available({name: (FAMILIES | HYBRIDS)[name] for name in NAMES}))
def test_each_step_is_that_of_its_prefix(name: str, ablation: str) -> None:
    model, family, ids = build(name, torch.float64), find(name), prompt()
    length, chosen = PROMPT + STEPS - 1, [5, 9, 7, 11]
    assert ids.shape[1] >= length
    with true_float64():
        whole = Effects(model, Words(), {"input_ids": ids[:, :length]}, 0, (), ablation, chosen=chosen)
        for window in WINDOWS:
            rows, traces = whole.measure(UNITS, window, "all", trace=True)
            for step in range(STEPS):
                given = {"input_ids": ids[:, : PROMPT + step]}
                alone = Effects(model, Words(), given, step, (), ablation, chosen=chosen[step : step + 1])
                seen = [unit for unit in UNITS if unit.positions[0] < PROMPT + step]
                for found, expected in zip((rows, traces), alone.measure(seen, window, "all", trace=True), strict=True):
                    mine = [row for row in found if row.generation_step == step]
                    for ours, theirs in zip(mine, expected, strict=True):
                        same(ours, theirs)
                for unit, row in zip(seen, (row for row in rows if row.generation_step == step), strict=True):
                    if step in (0, STEPS - 1) and window == WINDOWS[0] and (ablation == "neg-inf" or name in VALUES):
                        members = [each for each in unit.positions if each < PROMPT + step]
                        logits, _ = carried(model, family, given["input_ids"], (0, 2), members, ablation=ablation)
                        assert row.logprob == pytest.approx(logits.log_softmax(-1)[chosen[step]].item(), rel=1e-9)


@pytest.mark.parametrize("name", [name for name in ENCODER_DECODERS if name in seq2seq.available()])
def test_the_steps_of_an_encoder_decoder(name: str) -> None:
    model, ids = seq2seq.build(name, torch.float64), seq2seq.prompt()
    start, chosen = ids.shape[1], [5, 9, 7]
    answer = torch.tensor([[model.config.decoder_start_token_id, *chosen[:-1]]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    several = units((0,), (2, 4), (start,), (start + 1,), (start + 2,))
    with true_float64():
        whole = Effects(model, Words(), inputs | {"decoder_input_ids": answer}, 0, chosen=chosen)
        for window in WINDOWS:
            rows, _ = whole.measure(several, window, "all")
            for step in range(3):
                given = inputs | {"decoder_input_ids": answer[:, : step + 1]}
                alone = Effects(model, Words(), given, step, chosen=chosen[step : step + 1])
                seen = [unit for unit in several if unit.positions[0] <= start + step]
                expected, _ = alone.measure(seen, window, "all")
                for ours, theirs in zip((row for row in rows if row.generation_step == step), expected, strict=True):
                    same(ours, theirs)


def test_what_comes_later_changes_nothing_to_the_last_digit() -> None:
    model, ids = build("llama"), prompt()
    length = PROMPT + STEPS - 1
    whole = Effects(model, Words(), {"input_ids": ids[:, :length]}, 0, chosen=[5, 9, 7, 11])
    rows, _ = whole.measure(UNITS, Window(0, 2), "all")
    at_its_own = [row for row in rows if row.token_position == PROMPT - 1 + row.generation_step]
    assert len(at_its_own) == 4 and all(row.logprob_change == row.final_l2 == row.kl == 0 for row in at_its_own)
    assert sum(row.logprob_change != 0 for row in rows) > 10
