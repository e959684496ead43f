"""The one rule that ranks tokens: the root of the sum of squares over layers, at the query where it is largest."""

import math

import pytest

from mask_impact.impact.top_tokens import TopTokens


def test_many_layers_outweigh_one_and_steps_do_not_add_up() -> None:
    top = TopTokens()
    top.add(7, 0, [0, 1, 2, 3], [9.0, 3.0, 0.0, 0.0])
    top.add(7, 1, [0, 1, 2, 3], [0.0, -3.0, 4.0, 0.0])
    top.add(8, 0, [1, 2, 3], [0.0, 0.0, 4.1])  # the next output token
    top.add(8, 1, [1, 2, 3], [1.0, 3.9, 0.0])
    ranked = top.ranked()
    assert [(position, layer) for position, _, layer in ranked] == [(0, 0), (1, 0), (3, 0), (2, 1)]
    assert [value for _, value, _ in ranked] == pytest.approx([9, math.sqrt(18), 4.1, 4])
    assert [row["position"] for row in top.listed(None, 2)] == [1, 3, 0], "position 0 comes last"
    assert ranked == top.ranked(), "asking changes nothing"


def test_position_0_is_set_apart_as_a_single_token_alone() -> None:
    top = TopTokens()
    top.add(7, 0, [-1, 0, 2, 3], [9.0, 5.0, 3.0, 4.0])
    phrase, token = {"positions": [0, 1]}, {"positions": [0]}
    assert [row["position"] for row in top.listed(None)] == [3, 2, 0]
    assert [row["position"] for row in top.listed([token, {"positions": [2, 3]}])] == [3, 2, 0]
    assert [row["position"] for row in top.listed([phrase])] == [0, 3, 2]


def test_units_that_start_at_one_position_do_not_add_up() -> None:
    """Patches of one image token, or a word and the phrase that it begins."""
    top = TopTokens()
    top.add(5, 0, [2, 2], [-3.0, 1.0])
    top.add(5, 1, [2, 2], [0.0, 4.0])
    assert top.ranked() == [(2, 5.0, 1)]
