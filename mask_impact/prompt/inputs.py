"""From text to model inputs and a list of tokens."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import torch

from mask_impact.errors import UserError
from mask_impact.prompt.bounds import check_text, refused
from mask_impact.prompt.chat import beginning, continuing, opening, rendered, taken_as_it_is, template_of
from mask_impact.prompt.messages import as_recorded, images_of, last_text, videos_of, with_system
from mask_impact.prompt.token_text import special_ids, token_text
from mask_impact.prompt.turns import Said, said_as_written, said_in

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
    video: int | None = None  # index of its video; a temporal patch of a video is a picture
    frame: int | None = None  # which temporal patch of the video it belongs to
    seconds: tuple[float, ...] | None = None  # when the frames of this patch are shown

    @property
    def described(self) -> dict[str, Any]:
        """As the manifest has it: a token of no video says nothing of videos."""
        of_videos = () if self.video is not None else ("video", "frame", "seconds")
        return {name: value for name, value in vars(self).items() if name not in of_videos}


@dataclass(frozen=True)
class Source:
    """What was tokenized."""

    text: str
    offsets: list[tuple[int, int]]  # [first, last) character of each token; (0, 0) of one that the tokenizer added


@dataclass
class ModelInputs:
    """What the model is called with, and what each position is."""

    tensors: Mapping[str, torch.Tensor]  # "input_ids" [1, N], "attention_mask" [1, N], and pixels for images
    tokens: list[Token]
    prompt: str
    chat: bool
    images: list[dict[str, Any]] = field(default_factory=list)  # what the manifest says about each picture
    # The pictures as the model got them, upright RGB; of a temporal patch its first frame, None beyond films.SHOWN
    pictures: "list[Image.Image | None]" = field(default_factory=list)
    videos: list[dict[str, Any]] = field(default_factory=list)  # what the manifest says about each video
    messages: list[dict[str, Any]] | None = None  # of a conversation that was given, as the manifest has them
    notes: list[str] = field(default_factory=list)  # what was done to the prompt that it does not say
    source: Source | None = None  # None where it is not known which part of the text a token is
    said: Said | None = None  # where the prompt is in a chat template
    # The ids of the prompt with a text after it, cut into tokens together; None for a prompt that was never a text
    followed_by: Callable[[str], list[int]] | None = None

    def image_ranges(self) -> list[tuple[int, int]]:
        """[first, last) position of the tokens of each picture, including other tokens between them."""
        places: dict[int, list[int]] = {}
        for found in self.tokens:
            if found.image is not None:
                places.setdefault(found.image, []).append(found.position)
        return [(positions[0], positions[-1] + 1) for positions in places.values()]


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


def text_inputs(
    tokenizer: Any,
    prompt: str,
    chat: bool = False,
    system: str | None = None,
    messages: Sequence[dict[str, Any]] = (),
    continued: bool = True,
) -> ModelInputs:
    """Tokenize `prompt`, or `messages` in its place.

    Args:
        chat: wrap the prompt in the model's chat template; `system` and `messages` imply it.
        continued: the model continues the prompt, so an end of text that the tokenizer adds is left out.

    Raises UserError for a prompt that is empty or not valid text, and for what the model's chat template cannot take.
    """
    if not messages:
        check_prompt(prompt)
    text, complete, said = prompt, False, None
    notes: list[str] = []
    if chat or system is not None or messages:
        text, complete, notes, said = _in_chat(tokenizer, prompt, system, messages)
    check_text(tokenizer, text)
    fast = {"return_offsets_mapping": True} if getattr(tokenizer, "is_fast", False) else {}
    with refused("the model's tokenizer cannot take this prompt", lambda: "mend the tokenizer's files"):
        encoded = tokenizer(text, return_tensors="pt", add_special_tokens=not complete, **fast)
    ids = encoded["input_ids"]
    if continued and (count := added_ends(tokenizer, ids[0].tolist(), text)):
        notes.append(ends_note(tokenizer, ids[0].tolist(), count))
        ids = ids[:, :-count]
    if ids.shape[1] == 0:
        raise UserError(f"the tokenizer makes no tokens of the prompt {prompt!r}; give some text")

    def followed_by(more: str) -> list[int]:
        both = tokenizer(text + more, add_special_tokens=not complete, verbose=False)["input_ids"]
        return list(both[: len(both) - added_ends(tokenizer, both, text + more)])

    return ModelInputs(
        tensors={"input_ids": ids, "attention_mask": torch.ones_like(ids)},
        tokens=tokens_of(tokenizer, ids[0].tolist()),
        prompt=last_text(messages) if messages else prompt,
        chat=chat or system is not None or bool(messages),
        messages=as_recorded(messages) if messages else None,
        notes=notes,
        source=Source(text, encoded["offset_mapping"][0].tolist()[: ids.shape[1]]) if fast else None,
        said=said,
        followed_by=followed_by,
    )


def _in_chat(
    tokenizer: Any, prompt: str, system: str | None, messages: Sequence[dict[str, Any]]
) -> tuple[str, bool, list[str], Said | None]:
    """The text in the chat template; whether it begins as the model's texts begin; what is to be noted; and what in it
    are the messages' words."""
    option = "`messages` were" if messages else "`chat` was" if system is None else "`system` was"
    if template_of(tokenizer) is None:
        raise UserError(
            f"{option} given, but this model has no chat template; leave {option.split()[0]} out and write the "
            "prompt as the model is to read it"
        )
    if images_of(messages):
        raise UserError("`messages` have an image, and this model takes text alone; use mask_impact_vl.py for images")
    if videos_of(messages):
        raise UserError("`messages` have a video, and this model takes text alone; use mask_impact_vl.py for videos")
    if not messages and (mark := opening(tokenizer, prompt)):
        complete = begins_as_texts_do(tokenizer, prompt) or not begins_as_texts_do(tokenizer, beginning(tokenizer))
        return prompt, complete, [taken_as_it_is(mark, system)], said_as_written(tokenizer, prompt)
    told = with_system(messages or [{"role": "user", "content": prompt}], system)
    text = rendered(tokenizer, told)
    return text, True, continuing(told) if messages else [], said_in(tokenizer, told, text)


def begins_as_texts_do(tokenizer: Any, text: str) -> bool:
    """Whether the token that begins every text is there already."""
    return tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)


def added_ends(tokenizer: Any, ids: Sequence[int], text: str) -> int:
    """How many tokens at the end of `ids`, which are those of `text`, say that a text ends and are not in the text."""
    ends = {tokenizer.eos_token_id, getattr(tokenizer, "sep_token_id", None)}
    own = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] if ids and ids[-1] in ends else []
    there, written = (sum(1 for _ in takewhile(ends.__contains__, reversed(found))) for found in (ids, list(own)))
    return max(0, there - written)


def ends_note(tokenizer: Any, ids: Sequence[int], count: int) -> str:
    """What the manifest says of ends that were left out."""
    ends = "".join(token_text(tokenizer, token_id) for token_id in ids[-count:])
    return f"the tokenizer ends every text with {ends!r}; it was left out, so that the model continues the prompt"


def stop_ids(tokenizer: Any, *configs: Any) -> list[int]:
    """The ids that end an answer: the tokenizer's and the configs' end-of-sequence tokens and `<|im_end|>`."""
    found: set[int] = set()
    for value in (getattr(tokenizer, "eos_token_id", None), *(getattr(c, "eos_token_id", None) for c in configs)):
        found.update(value if isinstance(value, list | tuple) else [] if value is None else [value])
    found.add(tokenizer.get_vocab().get("<|im_end|>", -1))
    return sorted(token_id for token_id in found if token_id >= 0)
