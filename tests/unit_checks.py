"""Helpers for the tests of units: a text spelt letter by letter, and a check of what holds for every list of units."""

from collections.abc import Sequence
from typing import Any

from mask_impact.prompt.inputs import Token
from mask_impact.prompt.units import MASKED, Unit


def spelt(tokenizer: Any, text: str) -> list[int]:
    """The ids of a text letter by letter, as a tokenizer would not cut it."""
    return [token_id for letter in text for token_id in tokenizer(letter, add_special_tokens=False)["input_ids"]]


def covered(found: Sequence[Unit]) -> list[int]:
    return [position for unit in found for position in unit.positions]


def check_parts(found: Sequence[Unit], tokens: Sequence[Token], mode: str = "text") -> None:
    """They are the maskable tokens, each once, in order; a unit of several tokens has text tokens alone."""
    assert covered(found) == [token.position for token in tokens if MASKED[mode](token)]
    for unit in found:
        assert unit.positions == tuple(range(unit.positions[0], unit.positions[-1] + 1))
        kinds = {tokens[position].kind for position in unit.positions}
        assert len(unit.positions) == 1 or kinds == {"text"}
        blank = all(tokens[position].text.isspace() for position in unit.positions)
        assert blank or unit.label == unit.label.strip() != ""
