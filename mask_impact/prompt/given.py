"""The tokens of a text that stands where the model's answer would: `answer`, and the texts of `contrast`.

In:  the prompt's inputs and a text. Out: the text's ids, in the place of an answer.

A decoder reads prompt and answer as one text, so they are cut into tokens together; the prompt's own tokens must come
out as they are without the answer. An encoder-decoder's answer is a text of its own, as in its training. No end of text
is put after it.
"""

from collections.abc import Sequence
from typing import Any

from mask_impact.errors import UserError
from mask_impact.prompt.bounds import check_text
from mask_impact.prompt.inputs import ModelInputs
from mask_impact.prompt.token_text import decoded, special_ids, token_text

SHOWN = 4  # tokens on each side of where a message says that they differ


def given_ids(option: str, text: str, tokenizer: Any, inputs: ModelInputs, apart: bool) -> list[int]:
    """The ids of `text` after the prompt.

    Args:
        option: the field that holds the text, for messages.
        apart: the answer is a text of its own, in an encoder-decoder.

    Raises UserError for a text without tokens, and for one whose beginning changes the prompt's tokens.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"`{option}` is not valid text (character {error.start}); give it as UTF-8") from error
    check_text(tokenizer, text, f"`{option}`")
    ids = _target(tokenizer, text) if apart else _continuing(option, text, tokenizer, inputs)
    if not text or not ids:
        raise UserError(f"`{option}` {text!r} has no tokens for this model; give a text of at least one")
    return ids


def read_as(tokenizer: Any, ids: Sequence[int], text: str) -> str | None:
    """What these tokens of `text` say, where that is another text: a normalizer changed it, or has no token for a part
    of it. None where it is the same, but for spaces around it and special tokens.
    """
    special = special_ids(tokenizer)
    said = [decoded(tokenizer, ids), decoded(tokenizer, [each for each in ids if each not in special])]
    return None if text.strip() in (each.strip() for each in said) else said[0]


def _continuing(option: str, text: str, tokenizer: Any, inputs: ModelInputs) -> list[int]:
    if not text:
        return []
    if inputs.followed_by is None:
        raise UserError(f"`{option}` needs a prompt that is a text, and this one was given as tokens")
    prompt, both = [token.id for token in inputs.tokens], inputs.followed_by(text)
    if both[: len(prompt)] == prompt:
        return both[len(prompt) :]
    at = next((at for at, (a, b) in enumerate(zip(prompt, both, strict=False)) if a != b), min(len(prompt), len(both)))
    alone, together = (
        ", ".join(repr(token_text(tokenizer, each)) for each in ids[at : at + SHOWN]) for ids in (prompt, both)
    )
    raise UserError(
        f"`{option}` {text!r} changes the tokens of the prompt: its end is {alone} without it, and {together} with it; "
        "divide prompt and answer where a token ends, most often before a space"
    )


def _target(tokenizer: Any, text: str) -> list[int]:
    """The ids as the model was trained to give them: after what the tokenizer puts before an answer (BART's <s>, a
    language), without what it puts after it.
    """
    whole, own = (
        tokenizer(text_target=text, add_special_tokens=special, verbose=False)["input_ids"] for special in (True, False)
    )
    before = next((at for at in range(len(whole) - len(own) + 1) if whole[at : at + len(own)] == own), 0)
    return list(whole[: before + len(own)]) if own else []
