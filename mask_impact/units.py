"""What is masked together: single tokens, words, sentences, spans of the prompt, or regions of a picture.

In:  Chosen, what the user asked for, and the tokens that are there so far.
Out: Units: for each its label in the table, and the positions that are masked at once.

    chosen = Chosen.of("word")                                      # "Ann's", "cup", ".", each special token by itself
    chosen = Chosen.of(spans=["a blue cup", "who=/Tom|Ann/", "12-18", "image:0"], regions=["0,0,1,3"])
    for unit in units(chosen, tokenizer, inputs, tokens, mask_mode="text"):
        unit.label, unit.positions

What is wrong with a text by itself comes out in the `parse_` functions, before a model is there; no torch here.
"""

from __future__ import annotations

import argparse
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from mask_impact.errors import UserError

if TYPE_CHECKING:
    from mask_impact.inputs import ModelInputs, Token

UNITS = ("token", "word", "sentence", "span")

# Which tokens each mask mode masks: the first two share none, and together they are the third.
MASKED: dict[str, Callable[[Token], bool]] = {
    "text": lambda token: token.kind != "image",
    "vision": lambda token: token.kind == "image",
    "both": lambda token: True,
}

# Letters, digits and _, with ' ’ or - inside; a flag; or one other symbol. \0 stands for marks, see `_word_starts`.
WORD = re.compile(
    r"\0* (?:"
    r"(?:\w[\0\u200d]*)+ (?: ['’-] (?:\w[\0\u200d]*)+ )*"
    r"| [\U0001F1E6-\U0001F1FF]{2}"
    r"| \S (?: [\0\u200d] | (?<=\u200d)\S )*"  # family and profession emoji are several, joined by U+200D
    r")",
    re.VERBOSE,
)
CLOSING = r"""["'”’»)\]}」』）】]*"""
SENTENCE_END = re.compile(
    rf"[.!?…؟۔।]+{CLOSING}(?=\s|\Z)"
    rf"|[。！？]+{CLOSING}"  # Chinese and Japanese have no space after them
    r"|[\n\r\v\f\x85\u2028\u2029]"
)

LISTED = 4  # places in an error message
CONTEXT = 12  # characters on each side of them
EXCERPT = 60  # characters of the prompt
CUT = "\ufffd"  # what a tokenizer shows for bytes that are a part of a character
MOST_PARTS = 16  # tokens of one character: it has at most 4 bytes, but they may be merged with its neighbours' bytes


@dataclass(frozen=True)
class Unit:
    """Tokens that are masked together."""

    label: str  # what stands in the table as token_masked: the text of the tokens, or the given name
    positions: tuple[int, ...]  # sorted, at least one


@dataclass(frozen=True)
class Chosen:
    """What the user asked for, as it was written."""

    unit: str = "token"  # one of UNITS; "token" with any of the following is "span"
    spans: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    region_masks: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        unit: str | None = None,
        spans: str | Iterable[str] = (),
        regions: str | Iterable[str] = (),
        region_masks: str | Iterable[str] = (),
    ) -> Chosen:
        """`unit` as given, or None: spans if there are any, else tokens. Raises UserError for what cannot be meant."""
        texts = [(each,) if isinstance(each, str) else tuple(each) for each in (spans, regions, region_masks)]
        chosen = cls(unit or ("span" if any(texts) else "token"), *texts)
        if unit == "token":  # given, and not just the default
            _check_alone(chosen)
        chosen.parsed()
        return chosen

    @property
    def plain(self) -> bool:
        """Tokens by themselves."""
        return self.unit == "token" and not self.given

    @property
    def given(self) -> list[tuple[str, str]]:
        """(flag, text) of every span and region, in the order of their units."""
        flags = (("--span", self.spans), ("--region", self.regions), ("--region-mask", self.region_masks))
        return [(flag, text) for flag, texts in flags for text in texts]

    def parsed(self) -> list[tuple[str, Place]]:
        """What stands in a message for each span and region, and its meaning. Raises UserError."""
        if self.unit not in UNITS:
            raise UserError(f"unknown unit {self.unit!r}; choose from {', '.join(UNITS)}")
        if self.unit in ("word", "sentence"):
            _check_alone(self)
        if self.unit == "span" and not self.given:
            raise UserError("unit 'span' was chosen, but no span; give --span, --region or --region-mask")
        places: list[tuple[str, Place]] = []
        for flag, text in self.given:
            try:
                places.append((f"{flag} {text!r}", PARSERS[flag](text)))
            except argparse.ArgumentTypeError as error:
                raise UserError(f"{flag} {error}") from error
        names = [place.name for _, place in places if place.name]
        for name in names:
            if names.count(name) > 1:
                raise UserError(f"{names.count(name)} spans have the name {name!r}; give each a name of its own")
        return places


def _check_alone(chosen: Chosen) -> None:
    for flag, text in chosen.given:
        raise UserError(f"unit {chosen.unit!r} and {flag} {text!r} were both given; leave one of them away")


# --- texts the user writes --------------------------------------------------------------------------------
@dataclass(frozen=True)
class Span:
    """One of: a text, a regular expression, positions from the first to the last, all tokens of a picture."""

    name: str
    text: str = ""
    regex: str = ""
    positions: tuple[int, int] | None = None
    image: int | None = None


@dataclass(frozen=True)
class Region:
    """A rectangle of a picture's grid, its last row and column included."""

    name: str
    image: int
    row0: int
    col0: int
    row1: int
    col1: int


@dataclass(frozen=True)
class RegionMask:
    """The patches of a picture that are white in another picture."""

    name: str
    image: int
    path: str


Place = Span | Region | RegionMask


def parse_span(text: str) -> Span:
    """`a text of the prompt`, `/regular expression/`, `12-18` or `12`, `image:0`; with NAME= in front, a name.

    A text with = in it is written after an empty name, `=a=b`; digits that are meant as text as `/12/`.
    """
    name, given = _named(text)
    if not given:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no span; write a text of the prompt, /a regular expression/, positions such as 12-18, "
            "or image:0"
        )
    if found := re.fullmatch(r"image:([0-9]+)", given):
        return Span(name, image=int(found[1]))
    if found := re.fullmatch(r"([0-9]+)(?:-([0-9]+))?", given):
        first, last = int(found[1]), int(found[2] or found[1])
        if first > last:
            raise argparse.ArgumentTypeError(f"{text!r}: the positions run backwards; write {last}-{first}")
        return Span(name, positions=(first, last))
    if len(given) > 1 and given[0] == given[-1] == "/":
        return Span(name, regex=_checked_regex(text, given[1:-1]))
    return Span(name, text=given)


def _checked_regex(text: str, regex: str) -> str:
    if not regex:
        raise argparse.ArgumentTypeError(f"{text!r} is an empty regular expression; write one between the slashes")
    try:
        re.compile(regex)
    except (re.error, OverflowError, RecursionError) as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a regular expression ({error}); mend it, or write the text without slashes around it"
        ) from error
    return regex


def parse_region(text: str) -> Region:
    """`row0,col0,row1,col1` of picture 0, `K:row0,...` of picture K; with NAME= in front, a name."""
    name, given = _named(text)
    image, given = _of_picture(given)
    numbers = [part.strip() for part in given.split(",")]
    if len(numbers) != 4 or not all(re.fullmatch("[0-9]+", part) for part in numbers):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no region; write row0,col0,row1,col1 such as 0,0,2,3, and for picture 1 1:0,0,2,3"
        )
    row0, col0, row1, col1 = map(int, numbers)
    if row0 > row1 or col0 > col1:
        corners = min(row0, row1), min(col0, col1), max(row0, row1), max(col0, col1)
        raise argparse.ArgumentTypeError(f"{text!r} runs backwards; write {','.join(map(str, corners))}")
    return Region(name, image, row0, col0, row1, col1)


def parse_region_mask(text: str) -> RegionMask:
    """The path of an image file for picture 0, `K:path` for picture K; with NAME= in front, a name."""
    name, given = _named(text)
    image, path = _of_picture(given)
    if not path:
        raise argparse.ArgumentTypeError(f"{text!r} names no file; write the path of an image, white where to mask")
    return RegionMask(name, image, path)


def _named(text: str) -> tuple[str, str]:
    """ "colour=red" -> ("colour", "red"), "=a=b" -> ("", "a=b"); what is no plain identifier is no name."""
    name, equals, rest = text.partition("=")
    return (name, rest) if equals and (not name or name.isidentifier()) else ("", text)


def _of_picture(given: str) -> tuple[int, str]:
    found = re.fullmatch(r"([0-9]+):(.*)", given, re.DOTALL)
    return (int(found[1]), found[2]) if found else (0, given)


PARSERS: dict[str, Callable[[str], Place]] = {
    "--span": parse_span,
    "--region": parse_region,
    "--region-mask": parse_region_mask,
}


# --- the units --------------------------------------------------------------------------------------------
def units(chosen: Chosen, tokenizer: Any, inputs: ModelInputs, tokens: Sequence[Token], mask_mode: str) -> list[Unit]:
    """The units among `tokens`, those of `inputs` and what was generated so far. Raises UserError.

    Tokens, words and sentences are those that `mask_mode` masks. Spans and regions are what was asked for, whatever the
    mask mode; they are found in the prompt only, and so are the same at every step. They may overlap.
    """
    places = chosen.parsed()
    if places:
        prompt = reading(tokenizer, inputs.tokens, len(inputs.tokens))
        return _distinct([(what, _resolved(what, place, prompt, inputs)) for what, place in places])
    masked = MASKED[mask_mode]
    if chosen.unit == "token":
        return [Unit(token.text, (token.position,)) for token in tokens if masked(token)]
    shown = reading(tokenizer, tokens, len(inputs.tokens))
    parts = text_parts(shown, STARTS[chosen.unit])
    return [Unit(shown.label(part), tuple(part)) for part in parts if masked(tokens[part[0]])]


def _distinct(found: list[tuple[str, Unit]]) -> list[Unit]:
    """The units; UserError for two whose rows in the table nobody could tell apart."""
    seen: dict[tuple[str, int], str] = {}
    for what, unit in found:
        row = unit.label, unit.positions[0]
        if row in seen:
            raise UserError(
                f"{seen[row]} and {what} would both stand in the table as {unit.label!r} at position "
                f"{unit.positions[0]}; leave one away, or give it a name: NAME=..."
            )
        seen[row] = what
    return [unit for _, unit in found]


# --- tokens as text ---------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Reading:
    """Tokens, the text they stand for, and where in it each of them is."""

    tokens: Sequence[Token]
    text: str
    places: list[tuple[int, int]]  # [first, last) character; parts of one character share it

    def label(self, positions: Sequence[int]) -> str:
        """The text of these tokens, stripped if more than space is left; a picture's tokens are written once."""
        text, reached, image = "", 0, None
        for position in positions:
            start, end = self.places[position]
            token = self.tokens[position]
            if token.image is None or token.image != image:
                text += self.text[max(start, reached) : end]
            image, reached = token.image, max(reached, end)
        return text.strip() or text

    def first_letter(self, position: int) -> int | None:
        """Where the token's first character stands that is no space."""
        return next((at for at in range(*self.places[position]) if not self.text[at].isspace()), None)

    def overlapping(self, start: int, end: int) -> tuple[int, ...]:
        """The positions of the tokens that have one of these characters, or a part of it."""
        return tuple(index for index, (first, last) in enumerate(self.places) if first < end and start < last)


def reading(tokenizer: Any, tokens: Sequence[Token], prompt_length: int) -> Reading:
    """The tokens as text: by the tokenizer's own offsets for the prompt, by the tokens' texts for what was generated.

    Also by their texts for a prompt whose text the tokenizer would not cut into the same tokens again, and for a
    tokenizer without offsets. Never so for what was generated: a model is free to spell a word as no tokenizer would,
    and the next token would then change what the prompt's words are.
    """
    prompt, generated = tokens[:prompt_length], tokens[prompt_length:]
    text, places = _by_offsets(tokenizer, prompt) or _by_texts(tokenizer, prompt)
    more, later = _by_texts(tokenizer, generated)
    places = places + [(len(text) + start, len(text) + end) for start, end in later]
    return Reading(tokens, text + more, places)


def _decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _by_offsets(tokenizer: Any, tokens: Sequence[Token]) -> tuple[str, list[tuple[int, int]]] | None:
    """None where tokenizing the text again does not give the same tokens, or no offsets."""
    ids = [token.id for token in tokens]
    text = _decoded(tokenizer, ids)
    if not getattr(tokenizer, "is_fast", False):
        return None
    # verbose: it would warn of a text longer than the model's, which is checked elsewhere
    again = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    if list(again["input_ids"]) != ids:
        return None
    places, reached = [], 0
    for token, (start, end) in zip(tokens, again["offset_mapping"], strict=True):
        # Some tokenizers leave the space around a token out of its offsets (trim_offsets, as in Llama 3)
        start = min(start, reached)
        if text.startswith(token.text, start):
            end = max(end, start + len(token.text))
        reached = max(reached, end)
        places.append((start, max(start, end)))
    return text, places


def _by_texts(tokenizer: Any, tokens: Sequence[Token]) -> tuple[str, list[tuple[int, int]]]:
    """One token's text after the other's; tokens that are parts of a character are decoded together and share it."""
    text = ""
    places: list[tuple[int, int]] = []
    waiting: list[Token] = []
    for index, token in enumerate(tokens):
        waiting.append(token)
        whole = token.text if len(waiting) == 1 else _decoded(tokenizer, [part.id for part in waiting])
        unfinished = whole.endswith(CUT) and index + 1 < len(tokens) and CUT in tokens[index + 1].text
        if unfinished and len(waiting) < MOST_PARTS:
            continue
        places += [(len(text), len(text) + len(whole))] * len(waiting)
        text += whole
        waiting = []
    return text, places


# --- words and sentences ----------------------------------------------------------------------------------
def text_parts(shown: Reading, starts_of: Callable[[str], list[int]]) -> Iterator[list[int]]:
    """The positions of each part of the text; every token is in exactly one.

    A token belongs to the part that has its first character which is no space; a token of space alone to the part that
    follows, or, where none does, to one of its own with its like. Special tokens and image tokens are parts by
    themselves, and no part goes beyond them.
    """
    for is_text, run in groupby(range(len(shown.tokens)), lambda index: shown.tokens[index].kind == "text"):
        positions = list(run)
        if not is_text:
            yield from ([position] for position in positions)
            continue
        first, last = shown.places[positions[0]][0], shown.places[positions[-1]][1]
        starts = [first + start for start in starts_of(shown.text[first:last])]
        letters = [shown.first_letter(position) for position in positions]
        parts = [None if letter is None else bisect_right(starts, letter) for letter in letters]
        for at in reversed(range(len(parts) - 1)):
            parts[at] = parts[at + 1] if parts[at] is None else parts[at]
        for _, part in groupby(zip(parts, positions, strict=True), lambda pair: pair[0]):
            yield [position for _, position in part]


def _word_starts(text: str) -> list[int]:
    """Runs of letters and digits, and other symbols one by one. Scripts without spaces: one word per run.

    Python's \\w leaves out accents and vowel signs that are characters of their own; these, skin tones and invisible
    characters stay with the character before them, or where none is, after them.
    """
    if not text.isascii():
        text = "".join("\0" if _mark(character) else character for character in text)
    return [found.start() for found in WORD.finditer(text)]


def _mark(character: str) -> bool:
    category = unicodedata.category(character)
    tone = "\U0001f3fb" <= character <= "\U0001f3ff"
    return (category[0] == "M" or category == "Cf" or tone) and character != "\u200d"


def _sentence_starts(text: str) -> list[int]:
    """After . ! ? … and closing quotes or brackets where space or the end follows, after 。 ！ ？, and at line breaks.

    That is all: "Mr. Smith" is cut after "Mr.".
    """
    return [0, *(found.end() for found in SENTENCE_END.finditer(text))]


STARTS: dict[str, Callable[[str], list[int]]] = {"word": _word_starts, "sentence": _sentence_starts}


# --- spans and regions ------------------------------------------------------------------------------------
def _resolved(what: str, place: Place, prompt: Reading, inputs: ModelInputs) -> Unit:
    """The unit of one span or region. `what`: how messages call it."""
    if isinstance(place, Region):
        image = f"{place.image}:" if place.image else ""
        label = f"region {image}{place.row0},{place.col0},{place.row1},{place.col1}"
        positions = _region(what, place, inputs)
    elif isinstance(place, RegionMask):
        image = f"{place.image}:" if place.image else ""
        label = image + place.path.encode(errors="replace").decode()  # a file name may hold bytes that are no text
        positions = _region_mask(what, place, inputs)
    elif place.image is not None:
        label = f"image:{place.image}"
        positions = tuple(token.position for token in _picture(what, place.image, inputs))
    else:
        positions = _positions(what, place, prompt, inputs)
        label = prompt.label(positions)
    return Unit(place.name or label, positions)


def _positions(what: str, span: Span, prompt: Reading, inputs: ModelInputs) -> tuple[int, ...]:
    """Of a span that is positions or text."""
    end = len(prompt.tokens) - 1
    if span.positions:
        first, last = span.positions
        if last > end:
            raise UserError(
                f"{what}: there is no position {last}; the prompt has 0 to {end} (digits that are a text: /{last}/)"
            )
        return tuple(range(first, last + 1))
    found = list(_occurrences(span, prompt))
    if not found:
        excerpt = inputs.prompt if len(inputs.prompt) <= EXCERPT else inputs.prompt[:EXCERPT] + "…"
        raise UserError(
            f"{what} stands nowhere in the prompt {excerpt!r}; give a text that does, exactly as it is written there, "
            f"or positions from 0 to {end}"
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


def _occurrences(span: Span, prompt: Reading) -> Iterator[tuple[int, int]]:
    """[first, last) character of each. A special token and a piece of a picture are found as a whole or not at all:
    "image" is no part of <|image_pad|>."""
    inside = {
        at
        for token, (start, end) in zip(prompt.tokens, prompt.places, strict=True)
        if token.kind != "text"
        for at in range(start + 1, end)
    }
    # A regular expression matches one place after the other; "aa" stands in "aaa" twice
    pattern = span.regex or f"(?={re.escape(span.text)})"
    for found in re.finditer(pattern, prompt.text):
        start, end = found.start(), found.end() if span.regex else found.start() + len(span.text)
        if start < end and not {start, end} & inside:
            yield start, end


def _range(prompt: Reading, start: int, end: int) -> str:
    """As `parse_span` reads it."""
    positions = prompt.overlapping(start, end)
    return f"{positions[0]}-{positions[-1]}" if len(positions) > 1 else f"{positions[0]}"


def _context(text: str, start: int, end: int) -> str:
    before, after = text[max(0, start - CONTEXT) : start], text[end : end + CONTEXT]
    return f"{'…' * (start > CONTEXT)}{before}{text[start:end]}{after}{'…' * (end + CONTEXT < len(text))}"


def _picture(what: str, image: int, inputs: ModelInputs) -> list[Token]:
    """The tokens of a picture. Raises UserError where there is none."""
    count = len(inputs.images)
    if not count:
        raise UserError(f"{what} needs an image, but none was given; add --image, or give a text of the prompt")
    if image >= count:
        there = f"pictures 0 to {count - 1} are" if count > 1 else "only picture 0 is"
        raise UserError(f"{what}: there is no picture {image}; {there} there (the first is picture 0)")
    return [token for token in inputs.tokens if token.image == image]


def _grid(what: str, image: int, inputs: ModelInputs) -> tuple[list[Token], int, int]:
    """The tokens of a picture, rows and columns of its grid. Raises UserError where there is none."""
    tokens = _picture(what, image, inputs)
    described = inputs.images[image]
    if not described["grid"]:
        first, last = described["positions"]
        raise UserError(
            f"{what}: this model's tokens of picture {image} lie in no grid ({described['layout']}); give "
            f"--span image:{image}, or positions from {first} to {last}"
        )
    rows, cols = described["grid"]
    return tokens, rows, cols


def _region(what: str, region: Region, inputs: ModelInputs) -> tuple[int, ...]:
    tokens, rows, cols = _grid(what, region.image, inputs)
    if region.row1 >= rows or region.col1 >= cols:
        raise UserError(
            f"{what} goes beyond the {rows} x {cols} grid of picture {region.image}; give rows from 0 to {rows - 1} "
            f"and columns from 0 to {cols - 1}"
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
    """Patches of which more than half is white, the mask stretched over the whole picture."""
    from mask_impact.images import open_picture  # with Pillow, which --help does without

    tokens, rows, cols = _grid(what, mask.image, inputs)
    drawn = open_picture(mask.path)
    if any("transparency" in note for note in drawn.notes):
        raise UserError(f"{what} has transparent parts; save it without transparency, white where to mask, else black")
    white = np.asarray(drawn.image.convert("L")) > 127  # [height, width]
    if not white.any():
        raise UserError(f"{what} is black all over; paint white what is to be masked")
    width, height = inputs.images[mask.image]["size"]
    scale_x, scale_y = white.shape[1] / width, white.shape[0] / height
    found = []
    for token in tokens:
        if token.box is None:  # in the padding
            continue
        left, top, right, bottom = token.box
        share = _mean(white, left * scale_x, top * scale_y, right * scale_x, bottom * scale_y)
        if share > 0.5 + 1e-9:  # a half may come out a little more
            found.append(token.position)
    if not found:
        raise UserError(
            f"{what} covers no more than half of any patch of picture {mask.image} ({rows} x {cols} grid); paint more "
            "of it white"
        )
    return tuple(found)


def _mean(white: np.ndarray, left: float, top: float, right: float, bottom: float) -> float:
    """The mean over a box, of whose edges pixels may be in part."""

    def weights(low: float, high: float, size: int) -> tuple[slice, np.ndarray]:  # how much of each pixel is inside
        first, last = int(low), min(size, int(high) + 1)
        pixels = np.arange(first, last)
        return slice(first, last), np.minimum(pixels + 1, high) - np.maximum(pixels, low)

    rows, by_row = weights(top, bottom, white.shape[0])
    cols, by_col = weights(left, right, white.shape[1])
    return float(by_row @ white[rows, cols] @ by_col / (by_row.sum() * by_col.sum()))
