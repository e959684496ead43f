"""Which tokens are a message's own words.

In:  model inputs, and where the messages stand in the template's text. Out: positions.

    positions_of(tokenizer, inputs, inputs.said)  # [(3, 4, 5), (12, 13)]
"""

import re
from typing import Any

from mask_impact.prompt.inputs import ModelInputs
from mask_impact.prompt.turns import Said, Turn
from mask_impact.prompt.wording import shared
from mask_impact.prompt.words import reading

CONTEXT = 16  # characters on each side that tell a text from the same text elsewhere


def positions_of(tokenizer: Any, inputs: ModelInputs, said: Said) -> list[tuple[int, ...]]:
    """The positions of every turn's text; () for one that the tokens do not show."""
    if inputs.source is not None:
        offsets = inputs.source.offsets
        return [
            tuple(at for at, (first, last) in enumerate(offsets) if max(first, turn.start) < min(last, turn.end))
            for turn in said.turns
        ]
    shown = reading(tokenizer, inputs.tokens, len(inputs.tokens))
    letters = [at for at, letter in enumerate(shown.text) if not letter.isspace()]
    squeezed = "".join(shown.text[at] for at in letters)
    found: list[tuple[int, ...]] = []
    reached = 0
    for turn in said.turns:
        at = _alike(squeezed, said.text, turn, reached)
        length = len(_squeezed(said.text[turn.start : turn.end]))
        if at is None or not length:
            found.append(())
            continue
        reached = at + length
        found.append(shown.overlapping(letters[at], letters[reached - 1] + 1))
    return found


def _squeezed(text: str) -> str:
    """Without spaces, which tokenizers add and take away."""
    return "".join(text.split())


def _alike(shown: str, text: str, turn: Turn, reached: int) -> int | None:
    """Where a turn of `text` stands in `shown` from `reached` on, among several places the one whose surroundings are
    most alike: a processor writes more tokens for a picture than the template does."""
    before, content, after = map(_squeezed, (text[: turn.start], text[turn.start : turn.end], text[turn.end :]))

    def alike(at: int) -> int:
        left, right = shown[:at][-CONTEXT:][::-1], shown[at + len(content) :][:CONTEXT]
        return shared(left, before[-CONTEXT:][::-1]) + shared(right, after[:CONTEXT])

    found = [match.start() for match in re.finditer(f"(?={re.escape(content)})", shown) if match.start() >= reached]
    return max(found, key=alike) if found else None
