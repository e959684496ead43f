"""The text of a token: one and the same in the manifest, in tables, labels and spans, and for `contrast`.

In:  a tokenizer and ids. Out: the text that the ids are in the middle of a text.

    token_text(tokenizer, 278)                      # " the"
    ids_of_text(tokenizer, " the")                  # [278]

A decoder may drop a space at the beginning or end of what it decodes (Llama 2's Strip, SentencePiece's Metaspace, slow
tokenizers' `.strip()`), and may put one between two tokens (WordPiece). So an id is decoded between two copies of a
known token, which are then cut off. Joined, the texts of a prompt's tokens are the prompt, up to a space that the
tokenizer puts before it and to what its normalizer changes.
"""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

CUT = "\ufffd"  # what a tokenizer gives for bytes that are part of a character
BYTE = re.compile("<0x[0-9A-Fa-f]{2}>")  # a byte of a character for which SentencePiece has no piece
TRIED = 20_000  # ids among which a token that stands for a letter is looked for


def token_text(tokenizer: Any, token_id: int) -> str:
    """The text of one token, with its leading space. Bytes that are only part of a character become U+FFFD."""
    added = _added(tokenizer).get(token_id)
    if added is not None and added.special:
        return str(added.content)
    text = decoded(tokenizer, [token_id])
    if added is not None and CUT in text:  # byte-level decoders take an added "é" for a byte
        return str(added.content)
    return text or ("" if added is not None else CUT)  # ByT5 leaves out bytes that are no character


def decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of these ids in the middle of a text, with the spaces around it."""
    around, before, after = _surrounding(tokenizer)
    whole = _decode(tokenizer, [*around, *ids, *around])
    if whole.startswith(before):
        if len(whole) >= len(before) + len(after) and whole.endswith(after):
            return whole[len(before) : len(whole) - len(after)]
        whole = _decode(tokenizer, [*around, *ids])
        if whole.startswith(before):
            return whole[len(before) :]
    return _decode(tokenizer, ids)


def ids_of_text(tokenizer: Any, text: str) -> list[int]:
    """The ids of the tokens with exactly this text. SentencePiece's bytes count only where there is no other: no text
    is cut into them if its characters have pieces."""
    found = _by_text(tokenizer, len(tokenizer)).get(text, [])
    return [token_id for token_id in found if not BYTE.fullmatch(_piece(tokenizer, token_id))] or list(found)


@lru_cache(maxsize=2)
def _by_text(tokenizer: Any, size: int) -> dict[str, list[int]]:
    """The ids below `size` by their text. Kept: a large vocabulary takes seconds, for every prompt of a batch."""
    found: dict[str, list[int]] = {}
    for token_id in range(size):
        found.setdefault(token_text(tokenizer, token_id), []).append(token_id)
    return found


def special_ids(tokenizer: Any) -> set[int]:
    """The ids of special tokens. Some are marked only among the tokens added to the vocabulary."""
    return {*tokenizer.all_special_ids, *(token_id for token_id, found in _added(tokenizer).items() if found.special)}


@lru_cache(maxsize=8)
def _added(tokenizer: Any) -> dict[int, Any]:
    """The tokens beside the vocabulary's own, by id."""
    return dict(getattr(tokenizer, "added_tokens_decoder", {}))


def _decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """As it is, with no space put around special tokens and none taken from before punctuation."""
    plain = {"clean_up_tokenization_spaces": False, "spaces_between_special_tokens": False}
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, **plain))


def _piece(tokenizer: Any, token_id: int) -> str:
    """The entry of the vocabulary; tokenizers of tiktoken's kind have bytes there."""
    piece = tokenizer.convert_ids_to_tokens(token_id)
    return piece.decode(errors="replace") if isinstance(piece, bytes) else str(piece or "")


@lru_cache(maxsize=8)
def _surrounding(tokenizer: Any) -> tuple[list[int], str, str]:
    """A token to decode others between, and the texts that its two copies are then."""
    for token_id in _plain_letters(tokenizer):
        one, two = _decode(tokenizer, [token_id]), _decode(tokenizer, [token_id] * 2)
        if one and two.startswith(one) and CUT not in two and len(two) > len(one):
            return [token_id], one, two[len(one) :]
    return [], "", ""


def _plain_letters(tokenizer: Any) -> Iterator[int]:
    """First the ids of letters that join with their neighbours, as in the middle of a word; then all that are text."""
    special = special_ids(tokenizer)
    others = [token_id for token_id in range(min(len(tokenizer), TRIED)) if token_id not in special]
    waiting = []
    for token_id in others:
        piece = _piece(tokenizer, token_id)
        if BYTE.fullmatch(piece) or not re.search("[A-Za-z0-9]", piece):
            continue
        letters = re.fullmatch("[A-Za-z]+", piece)
        if letters and _decode(tokenizer, [token_id] * 2) == piece * 2:
            yield token_id
        waiting.append(token_id)
    yield from waiting
    yield from others
