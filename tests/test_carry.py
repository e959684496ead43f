"""Masks that hold over several layers and are carried on to the logits, against the whole model with the same edit."""

from __future__ import annotations

import pytest
import torch
from brute_effects import carried
from families import FAMILIES, HYBRIDS, PROMPT_LENGTH, available, build, find, prompt

from mask_impact.carry import Carrier, Edit, Forwards, record_passage
from mask_impact.errors import UnsupportedModel

WHOLE = {*HYBRIDS, "doge"}  # one forward for each mask; doge's mask is made of the values
FLOAT32_INSIDE = {  # their router computes in float32 whatever the model's dtype
    "deepseek_v2", "deepseek_v3", "glm4_moe", "dots1", "exaone_moe", "minimax_m2", "ernie4_5_moe", "mimo_v2_flash",
}  # fmt: skip
WINDOWS = [(0, 2), (1, 1), (2, 2), (0, 0)]
SETS = [(3,), (0,), (2, 5, 6), (PROMPT_LENGTH - 1,)]


def agree(name: str, dtype: torch.dtype, tolerance: float) -> None:
    """Every window, set and kind of mask; windows without attention change nothing."""
    model, family, ids = build(name, dtype), find(name), prompt()
    passage = record_passage(model, {"input_ids": ids})
    runner: Carrier | Forwards = Forwards(model, passage, {"input_ids": ids})
    if name in WHOLE:
        with pytest.raises(UnsupportedModel):
            Carrier(model, passage, runner)
    else:
        runner = Carrier(model, passage, runner)
    for window in WINDOWS:
        for last_only in (True, False):
            edits = [Edit(members, last_only) for members in SETS]
            starts = [PROMPT_LENGTH - 1 if last_only else runner.first_changed(members) for members in SETS]
            start = min(*starts, PROMPT_LENGTH - 1)
            found = runner.run(*window, start, edits)
            for row, members in enumerate(SETS):
                logits, states = carried(model, family, ids, window, members, last_only)
                close(found.logits[row], logits, tolerance)
                for layer, state in found.states.items():
                    close(state[row], states[layer], tolerance)


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    apart = (found.double() - expected.double()).norm() / expected.double().norm()
    assert apart < tolerance, float(apart)


@pytest.mark.parametrize("name", available(FAMILIES | HYBRIDS))
def test_float64_equals_the_whole_model(name: str) -> None:
    agree(name, torch.float64, 1e-5 if name in FLOAT32_INSIDE else 1e-9)


@pytest.mark.parametrize("name", available(FAMILIES | HYBRIDS))
def test_float32_equals_the_whole_model(name: str) -> None:
    agree(name, torch.float32, 1e-5)
