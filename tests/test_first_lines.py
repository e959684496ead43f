"""What the console says first: what was read for each output token, and what the answer needs."""

import math

import pytest

from mask_impact.commands.first_lines import Names, costly, first_lines
from mask_impact.prompt.template import template_positions

TEXTS = ["<s>", "user", "\n", "Is", " the", " b", "all", " red", "</s>", "", "\n"]
KINDS = {0: "special", 8: "special", 9: "image"}


def manifest(reads: list[dict], **more) -> dict:
    tokens = [
        {"position": p, "text": text, "kind": KINDS.get(p, "text"), "image": 0, "row": 2, "col": 3}
        for p, text in enumerate(TEXTS)
    ]
    return {
        "tokens": tokens, "prompt_length": len(TEXTS), "prompt": "Is the ball red", "chat": True, "messages": None,
        "generated": [{"step": 0, "text": " no"}, {"step": 1, "text": "."}], "units": None, "effects": None,
        "metrics": [{"name": "l2"}], "variants": ["Full"], "noise_floor": {"by_layer": None}, "reads": reads, **more,
    }  # fmt: skip


def read(step: int, *rows: tuple[int, float, int]) -> dict:
    tokens = [{"position": p, "text": TEXTS[p], "value": value, "layer": layer} for p, value, layer in rows]
    return {"generation_step": step, "tokens": tokens, "by_layer": []}


def test_a_line_for_each_output_token():
    """Words by layer, little ones left out; pieces with their word; patches by their place; the template apart."""
    found = first_lines(manifest([read(0, (8, 9.0, 1), (7, 6.0, 3), (6, 5.0, 2), (9, 4.0, 2), (4, 1.0, 0)), read(1)]))
    assert found == [
        "' no'  reads b[all]@6 (layer 2), ' red'@7 (layer 3); in the picture image 0 row 2 col 3 (layer 2); "
        "of the template '</s>'@8 (layer 1)",
        "'.'    reads nothing above the noise floor",
    ]


def test_a_quiet_token_of_the_template_is_not_named():
    assert first_lines(manifest([read(0, (7, 6.0, 3), (8, 5.0, 1))])) == ["' no'  reads ' red'@7 (layer 3)"]


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        ({}, {0, 1, 2, 8, 10}),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Is the ball"}]}]}, {0, 1, 2, 7, 8, 10}),
        ({"prompt": "something else"}, {0, 8}),  # only what is special for certain
        ({"chat": False}, {0, 8}),
    ],
)
def test_the_template_is_what_is_outside_of_the_messages(more, wanted):
    assert template_positions(manifest([], **more)) == wanted


def test_units_have_their_names():
    units = [{"label": "subject", "positions": [5, 6]}, {"label": " red", "positions": [7]}]
    names = Names(manifest([], units=units))
    found = [names.at(p, text) for p, text in ((5, "subject"), (5, " b"), (6, "all"), (7, " red"))]
    assert found == ["'subject'@5", "[b]all@5", "b[all]@6", "' red'@7"]


def test_a_unit_that_begins_at_position_0_is_named_as_any_other():
    units = [{"label": "all of it", "positions": [0, 1, 2]}, {"label": " red", "positions": [7]}]
    rows = read(0, (0, 9.0, 1), (7, 1.0, 2))
    rows["tokens"][0]["text"] = "all of it"
    found = first_lines(manifest([rows], units=units))
    assert "'all of it'@0 (layer 1)" in found[0]


def strongest(change: float, top: str = " yes") -> dict:
    return {
        "generation_step": 0, "token_masked": " red", "token_position": 7, "logprob": math.log(0.9) + change,
        "logprob_change": change, "top_token": top,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "top", "line"),
    [
        (-3.0, " yes", "without ' red'@7 the answer is ' yes': probability 0.9 to 0.045"),
        (-0.5, " no", "without ' red'@7 probability 0.9 to 0.55"),
        (-0.003, " no", "without ' red'@7 probability 0.9 to 0.8973"),  # not to 0.9
        (-0.001, " no", "no single mask lowers the answer's probability by 0.001 or more"),  # by 0.0009
        (0.05, " no", "no single mask lowers the answer's probability by 0.001 or more"),  # it helps
    ],
)
def test_what_costs_the_answer_most(change, top, line):
    found = manifest([], effects={"strongest": [strongest(change, top)], "noise": {"logit": 1e-6}})
    assert first_lines(found) == [line]
    assert bool(costly(found)) == ("without" in line)


def test_a_loss_below_the_noise_is_none():
    found = manifest([], effects={"strongest": [strongest(-0.01)], "noise": {"logit": 0.02}})
    assert costly(found) == []
