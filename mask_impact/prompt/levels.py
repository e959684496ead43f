"""Units from large to small: a prompt's pictures and sentences, and what each of them is cut into, down to tokens.

In:  the prompt's tokens and the mask mode. Out: `Part`s, the largest first, that hold their own parts.

A video is cut into frames, a picture or frame into the quarters of its grid, a sentence into words, a word into tokens.
What is one token is not cut.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from mask_impact.prompt.inputs import ModelInputs, Token
from mask_impact.prompt.unit_syntax import Visual
from mask_impact.prompt.units import MASKED, Unit, of_visual
from mask_impact.prompt.words import STARTS, reading, text_parts

Cut = Callable[[tuple[int, ...]], list[tuple[int, ...]]]  # positions into those of the parts
Label = Callable[[tuple[int, ...]], str]


@dataclass(frozen=True)
class Part:
    """A unit, and what it is cut into; every one of its positions is in one of these."""

    unit: Unit
    parts: tuple["Part", ...] = ()  # none, if it is one token

    def below(self) -> Iterator["Part"]:
        """Itself, and everything that it can be cut into."""
        yield self
        for part in self.parts:
            yield from part.below()


def parts_of_prompt(tokenizer: Any, inputs: ModelInputs, mask_mode: str) -> list[Part]:
    """The largest parts of what `mask_mode` masks, in the order of the prompt."""
    tokens = [token for token in inputs.tokens if MASKED[mask_mode](token)]
    found = [*_sentences(tokenizer, inputs, tokens), *_pictures(tokens)]
    return sorted(found, key=lambda part: part.unit.positions[0])


def _part(positions: tuple[int, ...], cut: Cut, label: Label, level: int = 0) -> Part:
    finer = cut(positions) if len(positions) > 1 else []
    parts = tuple(_part(each, cut, label, level + 1) for each in finer)
    return Part(Unit(label(positions), positions, level), parts)


# --- text ---------------------------------------------------------------------------------------------------
def _sentences(tokenizer: Any, inputs: ModelInputs, tokens: Sequence[Token]) -> Iterator[Part]:
    """Of what is no picture; a special token stands for itself."""
    masked = {token.position for token in tokens if token.kind != "image"}
    shown = reading(tokenizer, inputs.tokens, len(inputs.tokens), inputs.source)
    words = list(text_parts(shown, STARTS["word"]))
    word_of = {position: place for place, word in enumerate(words) for position in word}

    def cut(positions: tuple[int, ...]) -> list[tuple[int, ...]]:
        found = [tuple(word) for _, word in groupby(positions, word_of.__getitem__)]
        return found if len(found) > 1 else [(position,) for position in positions]

    def label(positions: tuple[int, ...]) -> str:
        return inputs.tokens[positions[0]].text if len(positions) == 1 else shown.label(positions)

    for sentence in text_parts(shown, STARTS["sentence"]):
        if sentence[0] in masked:
            yield _part(tuple(sentence), cut, label)


# --- pictures -----------------------------------------------------------------------------------------------
def _pictures(tokens: Sequence[Token]) -> Iterator[Part]:
    """Of the image tokens; parts are labelled as `spans` and `regions` have them, so that each can be masked alone."""
    images = [token for token in tokens if token.kind == "image"]
    for visual in dict.fromkeys(map(_visual, images)):
        own = {token.position: token for token in images if _visual(token) == visual}

        def cut(positions: tuple[int, ...], own: dict[int, Token] = own) -> list[tuple[int, ...]]:
            there = [own[position] for position in positions]
            return _frames(there) if len({token.image for token in there}) > 1 else _quarters(there)

        def label(positions: tuple[int, ...], own: dict[int, Token] = own) -> str:
            there = [own[position] for position in positions]
            picture = [token for token in own.values() if token.image == there[0].image]
            return _label(there, whole=len(there) >= len(picture))

        yield _part(tuple(own), cut, label)


def _visual(token: Token) -> tuple[bool, int | None]:
    """Which video a token is of, or which picture."""
    return (True, token.video) if token.video is not None else (False, token.image)


def _frames(tokens: Sequence[Token]) -> list[tuple[int, ...]]:
    frames = [[token.position for token in group] for _, group in groupby(tokens, lambda token: token.image)]
    return [tuple(frame) for frame in frames]


def _quarters(tokens: Sequence[Token]) -> list[tuple[int, ...]]:
    """The quarters of the rectangle that the tokens fill, by rows and columns; of a picture without a grid, runs."""
    places = _places(tokens)
    if not places:
        size = -(-len(tokens) // 4)
        return [tuple(token.position for token in tokens[at : at + size]) for at in range(0, len(tokens), size)]
    (row0, col0), (row1, col1) = places[0], places[-1]
    row, col = (row0 + row1 + 1) // 2, (col0 + col1 + 1) // 2  # where the second half begins
    quarters: dict[tuple[bool, bool], list[int]] = {}
    for token, place in zip(tokens, places, strict=True):
        quarters.setdefault((place[0] >= row, place[1] >= col), []).append(token.position)
    return [tuple(quarters[key]) for key in sorted(quarters)]


def _places(tokens: Sequence[Token]) -> list[tuple[int, int]]:
    """Row and column of each token; none of a picture without a grid."""
    return [(token.row, token.col) for token in tokens if token.row is not None and token.col is not None]


def _label(tokens: Sequence[Token], whole: bool) -> str:
    first, places = tokens[0], _places(tokens)
    if len(tokens) == 1:
        return first.text
    if first.image != tokens[-1].image:
        return str(Visual(first.video or 0, video=True))
    shown = Visual(first.image or 0) if first.video is None else Visual(first.video, True, first.frame)
    if whole:
        return str(shown)
    if not places:
        return f"{shown} {first.position}-{tokens[-1].position}"
    return f"region {of_visual(shown)}{','.join(map(str, (*places[0], *places[-1])))}"
