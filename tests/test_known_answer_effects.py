"""Masks in all layers find what the answer is made of: the color word in a text, the asked object in a picture."""

import random
from collections.abc import Callable
from functools import cache

import known_answer_effects as text
import known_answer_effects_vl as vision
import pytest
from known_answer import trained_and_untrained
from text_data import held_out_prompts

from mask_impact.effects.answer import Effect

PROMPTS, SCENES = 20, 10  # the scripts and the model cards have more


@cache
def ranked(by: text.Measure, which: str) -> text.Places:
    trained, untrained, tokenizer = trained_and_untrained()
    model = trained if which == "trained" else untrained
    return text.measure(which, by, model, tokenizer, held_out_prompts(random.Random(42), PROMPTS))


@cache
def rows() -> list[Effect]:
    return vision.measure(SCENES, seed=43)


def falls(region: str, first_layer: int = 0) -> list[float]:
    return [vision.drop(row) for row in vision.of(rows(), region, first_layer)]


def mean_fall(region: str, first_layer: int = 0) -> float:
    found = falls(region, first_layer)
    return sum(found) / len(found)


def test_the_color_word_is_among_the_two_strongest() -> None:
    found = ranked(text.all_layers, "trained")
    assert found.among_two(text.COLOR) >= 0.9 * PROMPTS, f"{found.among_two(text.COLOR)} of {PROMPTS}"
    assert 2 * found.chance() < 0.2


@pytest.mark.parametrize(("by", "which"), [(text.all_layers, "untrained"), (text.one_layer, "trained")])
def test_that_takes_training_and_all_layers(by: text.Measure, which: str) -> None:
    found = ranked(by, which)
    assert found.among_two(text.COLOR) <= 0.4 * PROMPTS, f"{found.among_two(text.COLOR)} of {PROMPTS}: proves nothing"


def test_ranks_are_the_statements_tokens() -> None:
    for places in ranked(text.all_layers, "trained").ranked:
        assert {0, text.ITEM, text.COLOR} <= set(places) and len(set(places)) == len(places) in (12, 18, 24)


@pytest.mark.parametrize("other", [vision.RANDOM, vision.COMPACT, vision.ANOTHER])
def test_the_answer_needs_the_asked_object_and_nothing_else(other: str) -> None:
    assert len(falls(vision.OBJECT)) == SCENES
    assert mean_fall(vision.OBJECT) > 0.5 + mean_fall(other)
    assert abs(mean_fall(other)) < 0.1


def test_it_is_read_in_the_first_layers() -> None:
    """A mask that begins later costs less: the object has been read by then."""
    assert mean_fall(vision.OBJECT, 1) > 0.5
    assert max(abs(mean_fall(vision.OBJECT, layer)) for layer in (2, 3)) < 0.1


def test_regions_are_of_one_size_and_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random and compact tokens are as many as the asked object's, and none of them covers it."""
    seen = []
    regions: Callable[..., list[vision.Unit]] = vision.regions
    monkeypatch.setattr(vision, "regions", lambda *given: seen.append(regions(*given)) or seen[-1])
    vision.measure(4)
    for found in seen:
        masked = {unit.label: set(unit.positions) for unit in found}
        own = masked[vision.OBJECT]
        assert len(own) == len(masked[vision.RANDOM]) == len(masked[vision.COMPACT])
        assert own <= masked[vision.EDGES] <= masked[vision.PICTURE]
        assert not own & (masked[vision.RANDOM] | masked[vision.COMPACT] | masked[vision.ANOTHER])


def test_the_tables_print(capsys: pytest.CaptureFixture[str]) -> None:
    assert text.main(["--count", "2"]) == 0
    assert vision.main(["--count", "2"]) == 0
    printed = capsys.readouterr().out
    assert "2 held-out prompts" in printed and "2 held-out scenes" in printed and "-0.000" not in printed
