"""The bundled demo model: small, right on what it was made for, and a known answer that masking must find."""

import random
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from evaluate_text import accuracy
from known_answer import Hits, measure, trained_and_untrained
from text_data import held_out_prompts

from mask_impact_analysis import run_masking_experiment

DEMO = Path(__file__).resolve().parent.parent / "demo"
COUNT = 150  # known-answer prompts; the model card has the figure for 500


@cache
def models() -> tuple[Any, Any, Any]:
    return trained_and_untrained()


def test_weights_are_small() -> None:
    assert (DEMO / "text" / "model.safetensors").stat().st_size <= 4_000_000


def test_answers_are_right() -> None:
    """98 % or better in every form, on contexts kept out of training; and chat answers stop."""
    trained, _, tokenizer = models()
    scores = accuracy(trained, tokenizer, count=400, seed=7)
    assert len(scores) >= 8
    for score in scores:
        assert score.share >= 0.98, str(score)


def test_the_accuracy_is_not_a_property_of_the_test() -> None:
    _, untrained, tokenizer = models()
    for score in accuracy(untrained, tokenizer, count=50, seed=7):
        assert score.share < 0.2, str(score)


@cache
def hits(which: str) -> Hits:
    trained, untrained, tokenizer = models()
    prompts = held_out_prompts(random.Random(31), COUNT)
    return measure(which, trained if which == "trained" else untrained, tokenizer, prompts)


def test_the_top_statement_token_lies_in_the_asked_statement() -> None:
    """Masking finds the sentence that holds the answer; chance and the untrained model are at about a third."""
    found = hits("trained")
    assert found.asked / found.count >= 0.9, f"{found.asked} of {found.count}"
    assert 0.3 < found.chance_asked < 0.4


def test_an_untrained_model_does_not_find_it() -> None:
    found = hits("untrained")
    assert found.asked / found.count < 0.5, f"{found.asked} of {found.count}: the test proves nothing"


def test_chat_stops_early() -> None:
    table = run_masking_experiment("What is the capital of France?", "demo", "cpu", 5, chat=True)
    run = table.attrs["run"]
    assert run["stop_reason"] != "length"
    assert [entry["text"] for entry in run["generated"]] == ["Paris", "<|im_end|>"]
    assert table["generation_step"].max() == 1


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [("The capital of France is", " Paris"), ("Tom has a red ball. Ann has a blue cup. Ann's cup is", " blue")],
)
def test_the_prompts_of_the_readme(prompt: str, answer: str) -> None:
    run = run_masking_experiment(prompt, "demo", "cpu").attrs["run"]
    assert run["generated"][0]["text"] == answer
    assert run["generated"][0]["probability"] > 0.9
