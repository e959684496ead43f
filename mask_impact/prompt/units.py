"""What is masked together: single tokens, words, sentences, spans of the prompt, or regions of a picture.

In:  Chosen, what the user asked for, and the tokens so far.
Out: Units: for each its label in the table, and the positions that are masked together.

    chosen = Chosen.of("word")                                      # "Ann's", "cup", ".", each special token alone
    chosen = Chosen.of(spans=["a blue cup", "who=/Tom|Ann/", "12-18", "image:0"], regions=["0,0,1,3"])
    for unit in units(chosen, tokenizer, inputs, tokens, mask_mode="text"):
        unit.label, unit.positions

Errors in the text of a span or region alone are found by the parsers of unit_syntax.py, before a model is loaded.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import regex

from mask_impact.errors import UserError
from mask_impact.prompt.inputs import ModelInputs, Token
from mask_impact.prompt.unit_syntax import Chosen, Place, Region, RegionMask, Span, Visual
from mask_impact.prompt.words import STARTS, Reading, as_tokens_say, reading, text_parts

# Which tokens each mask mode masks. The first two share no token; together they are the third.
MASKED: dict[str, Callable[[Token], bool]] = {
    "text": lambda token: token.kind != "image",
    "vision": lambda token: token.kind == "image",
    "both": lambda token: True,
}


LISTED = 4  # how many places an error message lists
PATIENCE = 5  # seconds
CONTEXT = 12  # characters on each side of them
EXCERPT = 60  # characters of the prompt


@dataclass(frozen=True)
class Unit:
    """Tokens that are masked together."""

    label: str  # token_masked in the table: the text of the tokens, or the given name
    positions: tuple[int, ...]  # sorted, at least one
    level: int | None = None  # of units from coarse to fine, 0 the coarsest; None: all are of one kind


def units(chosen: Chosen, tokenizer: Any, inputs: ModelInputs, tokens: Sequence[Token], mask_mode: str) -> list[Unit]:
    """The units among `tokens`, which are those of `inputs` and those generated so far. Raises UserError.

    Tokens, words and sentences are those that `mask_mode` masks. Spans and regions do not depend on the mask mode. They
    are looked for only in the prompt, so they are the same at every step. They may overlap.
    """
    places = chosen.parsed()
    if places:
        prompt = reading(tokenizer, inputs.tokens, len(inputs.tokens), inputs.source)
        said = as_tokens_say(tokenizer, inputs.tokens)
        return _distinct([(what, _resolved(what, place, (prompt, said), inputs)) for what, place in places])
    masked = MASKED[mask_mode]
    if chosen.unit in ("token", "patch"):  # which patches an image token is made of, the model knows
        return [Unit(token.text, (token.position,)) for token in tokens if masked(token)]
    shown = reading(tokenizer, tokens, len(inputs.tokens), inputs.source)
    parts = text_parts(shown, STARTS[chosen.unit])
    return [Unit(shown.label(part), tuple(part)) for part in parts if masked(tokens[part[0]])]


def _distinct(found: list[tuple[str, Unit]]) -> list[Unit]:
    """The units. Raises UserError for two that would have the same label and position in the table."""
    seen: dict[tuple[str, int], str] = {}
    for what, unit in found:
        row = unit.label, unit.positions[0]
        if row in seen:
            raise UserError(
                f"{seen[row]} and {what} would both stand in the table as {unit.label!r} at position "
                f"{unit.positions[0]}; leave one out, or give it a name: NAME=..."
            )
        seen[row] = what
    return [unit for _, unit in found]


# --- spans and regions ------------------------------------------------------------------------------------
def _resolved(what: str, place: Place, prompts: tuple[Reading, Reading], inputs: ModelInputs) -> Unit:
    """The unit of one span or region, which messages call `what`; the prompt as it was given, and as its tokens say."""
    if isinstance(place, Region):
        label = f"region {of_visual(place.visual)}{place.row0},{place.col0},{place.row1},{place.col1}"
        positions = _region(what, place, inputs)
    elif isinstance(place, RegionMask):
        # the path may have bytes that are not text
        label = of_visual(place.visual) + place.path.encode(errors="replace").decode()
        positions = _region_mask(what, place, inputs)
    elif place.visual is not None:
        label = str(place.visual)
        positions = tuple(token.position for token in visual_tokens(what, place.visual, inputs))
    else:
        positions = _positions(what, place, prompts, inputs)
        label = prompts[0].label(positions)
    return Unit(place.name or label, positions)


def of_visual(visual: Visual) -> str:
    """Before a region: which picture or video, unless it is the first picture."""
    return f"{visual}:" if visual.video else f"{visual.number}:" if visual.number else ""


def _positions(what: str, span: Span, prompts: tuple[Reading, Reading], inputs: ModelInputs) -> tuple[int, ...]:
    """The positions of a span that is given as positions or text. Raises UserError.

    A text is looked for in the prompt as it was given, and only if it is not there, in what its tokens say.
    """
    end = len(inputs.tokens) - 1
    if span.name and any(span.written in prompt.text for prompt in prompts):
        raise UserError(
            f"{what}: the prompt has this text, and NAME= in front of a span also names it; write "
            f"{'=' + span.written!r} for the text, or choose another name"
        )
    if span.positions:
        first, last = span.positions
        if last > end:
            raise UserError(
                f"{what}: there is no position {last}; the prompt has 0 to {end} (digits that are a text: /{last}/)"
            )
        return tuple(range(first, last + 1))
    for prompt in prompts:
        if found := list(_occurrences(span, prompt)):
            break
    else:
        given, said = ("".join(reading.text.split()) for reading in prompts)
        changed = "" if given == said else f" (to the tokenizer: {_excerpt(prompts[1].text)!r})"
        raise UserError(
            f"{what} stands nowhere in the prompt {_excerpt(inputs.prompt)!r}{changed}; give a text that does, exactly "
            f"as it is written there, or positions from 0 to {end}"
        )
    if len(found) > 1:
        shown = [_range(prompt, *place) for place in found[:LISTED]]
        listed = [
            f"at position{'s' * ('-' in positions)} {positions} in {_context(prompt.text, *place)!r}"
            for positions, place in zip(shown, found, strict=False)
        ]
        more = [f"and {len(found) - LISTED} more"] if len(found) > LISTED else []
        raise UserError(
            f"{what} stands at {len(found)} places: {', '.join(listed + more)}; give more of the text around it, or "
            f"positions such as {shown[0]}"
        )
    return prompt.overlapping(*found[0])


def _excerpt(text: str) -> str:
    return text if len(text) <= EXCERPT else text[:EXCERPT] + "…"


def _occurrences(span: Span, prompt: Reading) -> Iterator[tuple[int, int]]:
    """[first, last) character of each occurrence. A special token or image token matches as a whole or not at all:
    "image" does not match in <|image_pad|>."""
    inside = {
        at
        for token, (start, end) in zip(prompt.tokens, prompt.places, strict=True)
        if token.kind != "text" and token.text.strip() in prompt.text[start:end]  # not a word that is unknown
        for at in range(start + 1, end)
    }
    # Matches of a regular expression do not overlap; those of a text may: "aa" occurs twice in "aaa"
    pattern = span.regex or f"(?={re.escape(span.text)})"
    try:
        for found in regex.finditer(pattern, prompt.text, timeout=PATIENCE):
            start, end = found.start(), found.end() if span.regex else found.start() + len(span.text)
            if start < end and not {start, end} & inside:
                yield start, end
    except TimeoutError:
        raise UserError(
            f"`spans` {span.written!r} takes longer than {PATIENCE} s to find in this prompt; write a simpler regular "
            "expression, without a repetition inside a repetition"
        ) from None


def _range(prompt: Reading, start: int, end: int) -> str:
    """The positions as `parse_span` reads them."""
    positions = prompt.overlapping(start, end)
    return f"{positions[0]}-{positions[-1]}" if len(positions) > 1 else f"{positions[0]}"


def _context(text: str, start: int, end: int) -> str:
    before, after = text[max(0, start - CONTEXT) : start], text[end : end + CONTEXT]
    return f"{'…' * (start > CONTEXT)}{before}{text[start:end]}{after}{'…' * (end + CONTEXT < len(text))}"


def visual_tokens(what: str, visual: Visual, inputs: ModelInputs) -> list[Token]:
    """The tokens of a picture, a video or a frame. Raises UserError if there is none of this number."""
    stills = sum("frame" not in described for described in inputs.images)
    kind, count = ("video", len(inputs.videos)) if visual.video else ("image", stills)
    if not count:
        raise UserError(
            f"{what} needs {'a video' if visual.video else 'an image'}, but none was given; add `{kind}s`, or give a "
            "text of the prompt"
        )
    check_number(what, "video" if visual.video else "picture", visual.number, count)
    if not visual.video:
        return [token for token in inputs.tokens if token.image == visual.number]
    tokens = [token for token in inputs.tokens if token.video == visual.number]
    if visual.frame is None:
        return tokens
    check_number(what, "frame", visual.frame, 1 + max(token.frame or 0 for token in tokens))
    return [token for token in tokens if token.frame == visual.frame]


def check_number(what: str, kind: str, number: int, count: int) -> None:
    """Raises UserError where `number` is not one of the `count` pictures, videos or frames."""
    if number >= count:
        there = f"{kind}s 0 to {count - 1} are" if count > 1 else f"only {kind} 0 is"
        raise UserError(f"{what}: there is no {kind} {number}; {there} there (the first is {kind} 0)")


def _grid(what: str, visual: Visual, inputs: ModelInputs) -> tuple[list[Token], dict[str, Any]]:
    """The tokens of a picture, frame or video, and what the manifest says of the first picture among them, whose grid
    they share. Raises UserError if there is no grid."""
    if inputs.videos and not visual.video and all("frame" in described for described in inputs.images):
        visual = Visual(visual.number, video=True)  # where there are only videos, the number is a video's
    tokens = visual_tokens(what, visual, inputs)
    described = inputs.images[tokens[0].image or 0]
    if not described["grid"]:
        first, last = described["positions"]
        raise UserError(
            f"{what}: this model's tokens of picture {visual.number} lie in no grid ({described['layout']}); give "
            f"`spans` {visual}, or positions from {first} to {last}"
        )
    return tokens, described


def _named(visual: Visual, described: Mapping[str, Any]) -> str:
    return f"{'video' if 'frame' in described else 'picture'} {visual.number}"


def _region(what: str, region: Region, inputs: ModelInputs) -> tuple[int, ...]:
    tokens, described = _grid(what, region.visual, inputs)
    rows, cols = described["grid"]
    if region.row1 >= rows or region.col1 >= cols:
        raise UserError(
            f"{what} goes beyond the {rows} x {cols} grid of {_named(region.visual, described)}; give rows from 0 to "
            f"{rows - 1} and columns from 0 to {cols - 1}"
        )
    return tuple(
        token.position
        for token in tokens
        if token.row is not None
        and token.col is not None
        and region.row0 <= token.row <= region.row1
        and region.col0 <= token.col <= region.col1
    )


def _region_mask(what: str, mask: RegionMask, inputs: ModelInputs) -> tuple[int, ...]:
    """The patches of which more than half is white; the mask is stretched over the whole picture."""
    from mask_impact.prompt.images import open_picture

    tokens, described = _grid(what, mask.visual, inputs)
    drawn = open_picture(mask.path)
    if any("transparency" in note for note in drawn.notes):
        raise UserError(f"{what} has transparent parts; save it without transparency, white where to mask, else black")
    white = np.asarray(drawn.image.convert("L")) > 127  # [height, width]
    if not white.any():
        raise UserError(f"{what} is black all over; paint white what is to be masked")
    width, height = described["size"]
    scale_x, scale_y = white.shape[1] / width, white.shape[0] / height
    found = []
    for token in tokens:
        if token.box is None:  # in the padding
            continue
        left, top, right, bottom = token.box
        share = _mean(white, left * scale_x, top * scale_y, right * scale_x, bottom * scale_y)
        if share > 0.5 + 1e-9:  # rounding can put a half slightly above 0.5
            found.append(token.position)
    if not found:
        raise UserError(
            f"{what} covers no more than half of any patch of {_named(mask.visual, described)} "
            f"({described['grid'][0]} x {described['grid'][1]} grid); paint more of it white"
        )
    return tuple(found)


def _mean(white: np.ndarray, left: float, top: float, right: float, bottom: float) -> float:
    """The mean over a box whose edges may cut through pixels."""

    def weights(low: float, high: float, size: int) -> tuple[slice, np.ndarray]:  # how much of each pixel is inside
        first, last = int(low), min(size, int(high) + 1)
        pixels = np.arange(first, last)
        return slice(first, last), np.minimum(pixels + 1, high) - np.maximum(pixels, low)

    rows, by_row = weights(top, bottom, white.shape[0])
    cols, by_col = weights(left, right, white.shape[1])
    return float(by_row @ white[rows, cols] @ by_col / (by_row.sum() * by_col.sum()))


Units = Callable[[Sequence[Token]], Sequence[Unit]]  # from the tokens that a query sees to the units to mask


def paired(units: Sequence[Unit], apart: int | None = None) -> Iterator[tuple[Unit, int, int]]:
    """All pairs of `units`, each as one unit, with the indices of the two. The label has the positions of both.

    Args:
        apart: only pairs on one side of this position; in an encoder-decoder, no attention sees both sides.
    """
    for a, b in itertools.combinations(range(len(units)), 2):
        two = units[a], units[b]
        if apart is None or len({unit.positions[0] < apart for unit in two}) == 1:
            label = " + ".join(f"{unit.label} ({unit.positions[0]})" for unit in two)
            yield Unit(label, tuple(sorted({*two[0].positions, *two[1].positions}))), a, b
