"""Where words and sentences begin in a tokenized text.

In:  tokens and their tokenizer. Out: the positions of each word or sentence.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from mask_impact.prompt.token_text import CUT, decoded

if TYPE_CHECKING:
    from mask_impact.prompt.inputs import Source, Token


# Letters, digits and _, with ' ’ or - inside; a flag; or one other symbol. \0 replaces marks, see `_word_starts`.
WORD = re.compile(
    r"\0* (?:"
    r"(?:\w[\0\u200d]*)+ (?: ['’-] (?:\w[\0\u200d]*)+ )*"
    r"| [\U0001F1E6-\U0001F1FF]{2}"
    r"| \S (?: [\0\u200d] | (?<=\u200d)\S )*"  # family and profession emoji are several characters joined by U+200D
    r")",
    re.VERBOSE,
)


CLOSING = r"""["'”’»)\]}」』）】]*"""


SENTENCE_END = re.compile(
    rf"[.!?…؟۔।]+{CLOSING}(?=\s|\Z)"
    rf"|[。！？]+{CLOSING}"  # Chinese and Japanese have no space after them
    r"|[\n\r\v\f\x85\u2028\u2029]"
)


MOST_PARTS = 16  # tokens of one character; it has at most 4 bytes, but they may be merged with neighbouring bytes


@dataclass(frozen=True)
class Reading:
    """Tokens, their text, and where each token is in it."""

    tokens: Sequence[Token]
    text: str
    places: list[tuple[int, int]]  # [first, last) character of each token; parts of a character share it

    def label(self, positions: Sequence[int]) -> str:
        """The text of these tokens, stripped unless it is only space. The token of a picture is written once."""
        text, reached, image = "", 0, None
        for position in positions:
            start, end = self.places[position]
            token = self.tokens[position]
            if token.image is None or token.image != image:
                text += self.text[max(start, reached) : end]
            image, reached = token.image, max(reached, end)
        return text.strip() or text

    def first_letter(self, position: int) -> int | None:
        """Index of the first character of the token that is not a space, or None."""
        return next((at for at in range(*self.places[position]) if not self.text[at].isspace()), None)

    def overlapping(self, start: int, end: int) -> tuple[int, ...]:
        """The positions of the tokens that contain one of these characters, or a part of it."""
        return tuple(index for index, (first, last) in enumerate(self.places) if first < end and start < last)


def reading(tokenizer: Any, tokens: Sequence[Token], prompt_length: int, source: Source | None = None) -> Reading:
    """The tokens as text: the prompt by the tokenizer's own offsets, the generated tokens by their texts.

    The prompt is what was tokenized, if `source` says so: a normalizer may have changed what the tokens say of it. It
    is read by the texts of its tokens too if the tokenizer has no offsets, or would not cut the text into the same
    tokens again. Offsets are never used for generated tokens: a model may spell a word as no tokenizer would, and the
    next token would then change the words of the prompt.
    """
    prompt, generated = tokens[:prompt_length], tokens[prompt_length:]
    if source is not None:
        text, places = _in_source(prompt, source)
    else:
        text, places = _by_offsets(tokenizer, prompt) or _by_texts(tokenizer, prompt)
    more, later = _by_texts(tokenizer, generated)
    places = places + [(len(text) + start, len(text) + end) for start, end in later]
    return Reading(tokens, text + more, places)


def as_tokens_say(tokenizer: Any, tokens: Sequence[Token]) -> Reading:
    """The tokens as their own texts: what a normalizer made of the prompt, if there is one."""
    return Reading(tokens, *_by_texts(tokenizer, tokens))


def _in_source(tokens: Sequence[Token], source: Source) -> tuple[str, list[tuple[int, int]]]:
    """The text that was tokenized, with the tokens that the tokenizer added to it, and the places of all tokens."""
    pieces, places, reached, added = [], [], 0, 0  # reached: in the source; added: characters that are not in it
    for token, (start, end) in zip(tokens, source.offsets, strict=True):
        if start == end and token.kind != "text":
            pieces.append(token.text)
            places.append((reached + added, reached + added + len(token.text)))
            added += len(token.text)
            continue
        lost = re.match(r"\S*", source.text[reached:start])
        if reached and lost and lost[0]:  # an accent that a normalizer took away from the token before
            pieces.append(lost[0])
            places[-1] = (places[-1][0], places[-1][1] + len(lost[0]))
            reached += len(lost[0])
        start, end = _widened(source.text, token.text, start, end, reached)
        pieces.append(source.text[reached:end])
        places.append((start + added, max(start, end) + added))
        reached = max(reached, end)
    return "".join([*pieces, source.text[reached:]]), places


def _widened(text: str, piece: str, start: int, end: int, reached: int) -> tuple[int, int]:
    """The place of a token with the space around it, which some tokenizers leave out of its offsets (trim_offsets, as
    in Llama 3), or which a normalizer took away. A space that the tokenizer put before the text has no place."""
    if not piece.strip() and text[start:end].strip():
        return start, start
    start = min(start, reached)
    return start, max(end, start + len(piece)) if text.startswith(piece, start) else end


def _by_offsets(tokenizer: Any, tokens: Sequence[Token]) -> tuple[str, list[tuple[int, int]]] | None:
    """Text and places. None if tokenizing the text again does not give the same tokens, or gives no offsets."""
    ids = [token.id for token in tokens]
    text = decoded(tokenizer, ids)
    if not getattr(tokenizer, "is_fast", False):
        return None
    # not verbose: it would warn of a text too long for the model, which is checked elsewhere
    again = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    if list(again["input_ids"]) != ids:
        return None
    places, reached = [], 0
    for token, (start, end) in zip(tokens, again["offset_mapping"], strict=True):
        start, end = _widened(text, token.text, start, end, reached)
        reached = max(reached, end)
        places.append((start, max(start, end)))
    return text, places


def _by_texts(tokenizer: Any, tokens: Sequence[Token]) -> tuple[str, list[tuple[int, int]]]:
    """The texts of the tokens in sequence. Tokens that are parts of a character are decoded together and share it."""
    text = ""
    places: list[tuple[int, int]] = []
    waiting: list[Token] = []
    for index, token in enumerate(tokens):
        waiting.append(token)
        whole = token.text if len(waiting) == 1 else decoded(tokenizer, [part.id for part in waiting])
        unfinished = whole.endswith(CUT) and index + 1 < len(tokens) and CUT in tokens[index + 1].text
        if unfinished and len(waiting) < MOST_PARTS:
            continue
        places += [(len(text), len(text) + len(whole))] * len(waiting)
        text += whole
        waiting = []
    return text, places


def text_parts(shown: Reading, starts_of: Callable[[str], list[int]]) -> Iterator[list[int]]:
    """The positions of each part of the text; every token is in exactly one part.

    A token belongs to the part that contains its first character other than a space. A token of spaces alone belongs to
    the part that follows; at the end of a text, such tokens form a part. A special token or image token is always a
    part of its own, and no part extends across one.
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
    """Runs of letters and digits, and other symbols one by one. In scripts without spaces a run is one word.

    Python's \\w does not match accents and vowel signs that are separate characters. These, skin tones and invisible
    characters belong to the character before them, or, if there is none, to the one after them.
    """
    if not text.isascii():
        text = "".join("\0" if _mark(character) else character for character in text)
    return [found.start() for found in WORD.finditer(text)]


def _mark(character: str) -> bool:
    category = unicodedata.category(character)
    tone = "\U0001f3fb" <= character <= "\U0001f3ff"
    return (category[0] == "M" or category == "Cf" or tone) and character != "\u200d"


def _sentence_starts(text: str) -> list[int]:
    """After . ! ? … and closing quotes or brackets if space or the end follows, after 。 ！ ？, and at line breaks.

    There is no other rule: "Mr. Smith" is cut after "Mr.".
    """
    return [0, *(found.end() for found in SENTENCE_END.finditer(text))]


STARTS: dict[str, Callable[[str], list[int]]] = {"word": _word_starts, "sentence": _sentence_starts}
