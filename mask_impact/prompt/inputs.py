"""From text to model inputs and a list of tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from mask_impact.errors import UserError

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Token:
    """One position of the model's input."""

    position: int
    id: int
    text: str
    kind: str  # "text", "special" or "image"
    image: int | None = None  # index of its picture; row and col in the grid of the picture's tokens
    row: int | None = None
    col: int | None = None
    box: tuple[float, float, float, float] | None = None  # left, top, right, bottom in pixels of the picture


@dataclass
class ModelInputs:
    """What the model is called with, and what each position is."""

    tensors: Mapping[str, torch.Tensor]  # "input_ids" [1, N], "attention_mask" [1, N], and pixels for images
    tokens: list[Token]
    prompt: str
    chat: bool
    images: list[dict[str, Any]] = field(default_factory=list)  # what the manifest says about each picture
    pictures: "list[Image.Image]" = field(default_factory=list)  # the pictures as the model got them, upright RGB

    def image_ranges(self) -> list[tuple[int, int]]:
        """[first, last) position of the tokens of each picture, including other tokens between them."""
        places: dict[int, list[int]] = {}
        for found in self.tokens:
            if found.image is not None:
                places.setdefault(found.image, []).append(found.position)
        return [(positions[0], positions[-1] + 1) for positions in places.values()]


def token_text(tokenizer: Any, token_id: int) -> str:
    """The text of one token, with its leading space. Bytes that are only part of a character become U+FFFD."""
    text = tokenizer.decode([token_id], skip_special_tokens=False, clean_up_tokenization_spaces=False)
    piece = tokenizer.convert_ids_to_tokens(token_id)
    if isinstance(piece, str) and piece.startswith("▁") and not text.startswith(" "):
        return " " + text  # SentencePiece decoders drop the space of the first piece
    return text


def special_ids(tokenizer: Any) -> set[int]:
    """The ids of special tokens. Some are marked only among the tokens added to the vocabulary."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return {*tokenizer.all_special_ids, *(token_id for token_id, found in added.items() if found.special)}


def tokens_of(tokenizer: Any, ids: Sequence[int], first: int = 0) -> list[Token]:
    """The tokens with these ids, the first of them at position `first`."""
    special = special_ids(tokenizer)
    return [
        Token(position, token_id, token_text(tokenizer, token_id), "special" if token_id in special else "text")
        for position, token_id in enumerate(ids, first)
    ]


def check_prompt(prompt: str) -> None:
    """Raises UserError for a prompt that is empty or not valid text."""
    if not prompt.strip():
        raise UserError("the prompt is empty; give some text with `prompt`")
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"the prompt is not valid text (character {error.start}); give it as UTF-8") from error


def text_inputs(tokenizer: Any, prompt: str, chat: bool = False) -> ModelInputs:
    """Tokenize `prompt`, wrapped in the model's chat template if `chat`.

    Raises UserError for a prompt that is empty or not valid text, and for `chat` if the model has no chat template.
    """
    check_prompt(prompt)
    if chat and not tokenizer.chat_template:
        raise UserError("`chat` was given, but this model has no chat template; leave it out")
    if chat:
        messages = [{"role": "user", "content": prompt}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        encoded = tokenizer(text, return_tensors="pt", add_special_tokens=False)
    else:
        encoded = tokenizer(prompt, return_tensors="pt")
    ids = encoded["input_ids"]
    if ids.shape[1] == 0:
        raise UserError(f"the tokenizer makes no tokens of the prompt {prompt!r}; give some text")
    tensors = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return ModelInputs(tensors, tokens_of(tokenizer, ids[0].tolist()), prompt, chat)


def stop_ids(tokenizer: Any, *configs: Any) -> list[int]:
    """The ids that end an answer: the tokenizer's and the configs' end-of-sequence tokens and `<|im_end|>`."""
    found: set[int] = set()
    for value in (getattr(tokenizer, "eos_token_id", None), *(getattr(c, "eos_token_id", None) for c in configs)):
        found.update(value if isinstance(value, list | tuple) else [] if value is None else [value])
    found.add(tokenizer.get_vocab().get("<|im_end|>", -1))
    return sorted(token_id for token_id in found if token_id >= 0)
