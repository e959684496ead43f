"""The text of a prompt with pictures: in the model's chat template, with the model's own token where a picture stands.

In:  a processor, and a prompt with `<image>` marks or a conversation. Out: the text that the processor takes.
"""

from collections.abc import Sequence
from typing import Any

from mask_impact.errors import UserError
from mask_impact.prompt.chat import continuing, opening, rendered, taken_as_it_is, template_of, user_marks
from mask_impact.prompt.inputs import check_prompt
from mask_impact.prompt.messages import texts_of, with_system
from mask_impact.prompt.turns import Said, said_as_written, said_in

MARKER = "<image>"  # where a picture stands in the user's prompt
PICTURE = {"type": "image"}


def own_tokens(processor: Any, image_token: str | None = None) -> tuple[str, ...]:
    """What stands for a picture in a text for the processor, and in the ids for the model."""
    return tuple(own for own in (getattr(processor, "image_token", None), image_token) if own)


Worded = tuple[str, list[str], Said | None]  # the text, what is to be noted, and what in it are the messages' words


def wording(processor: Any, prompt: str, count: int, system: str | None, own: Sequence[str]) -> Worded:
    """A prompt with `count` pictures in the chat template. Raises UserError."""
    check_prompt(prompt.replace(MARKER, ""))
    if mark := opening(processor, prompt):
        note = taken_as_it_is(mark, system)
        text = with_pictures(processor, prompt, count, mark, own)
        return text, [note], said_as_written(processor, text)
    content = message(prompt, count, own)
    text = in_template(processor, content, system)
    if template_of(processor) is None:
        return text, [], None
    return text, [], said_in(processor, _told(content, system), text)


def conversation(processor: Any, messages: Sequence[dict[str, Any]], system: str | None, own: Sequence[str]) -> Worded:
    """A conversation in the chat template. Raises UserError."""
    if template_of(processor) is None:
        raise UserError("`messages` were given, but this model has no chat template; give a prompt and its images")
    for text in (text for each in messages for text in texts_of(each)):
        check_no_token(text, own, "`messages` hold", 'give each image as a part, {"type": "image", "path": ...}')
    told = with_system(messages, system, parts=True)
    text = rendered(processor, told)
    return text, continuing(messages), said_in(processor, told, text)


def message(prompt: str, count: int, own: Sequence[str]) -> list[dict[str, str]]:
    """The user's message as parts: text, and `count` pictures in their order. Raises UserError, also for a prompt that
    holds one of the `own` tokens for pictures."""
    pieces = _pieces(prompt, count)
    for piece in pieces:
        check_no_token(piece, own, "the prompt holds", f"write {MARKER} where an image stands")
    if len(pieces) == 1:
        return [PICTURE] * count + [{"type": "text", "text": prompt}]
    parts = [part for piece in pieces for part in (PICTURE, {"type": "text", "text": piece})][1:]
    return [part for part in parts if part.get("text") != ""]


def _pieces(prompt: str, count: int) -> list[str]:
    """The texts around the marks. Raises UserError if there are some, but not one for every picture."""
    pieces = prompt.split(MARKER)
    if len(pieces) - 1 not in (0, count):
        raise UserError(
            f"the prompt has {len(pieces) - 1} {MARKER}, but the number of images given is {count}; write one {MARKER} "
            "for every image, or none: then the images come first"
        )
    return pieces


def check_no_token(text: str, own: Sequence[str], where: str, what_to_do: str) -> None:
    for token in own:
        if token in text:
            raise UserError(f"{where} the model's own token {token}; {what_to_do}")


def in_template(processor: Any, content: list[dict[str, str]], system: str | None = None) -> str:
    """The message in the model's chat template; without one, its parts one after the other."""
    if template_of(processor) is not None:
        return rendered(processor, _told(content, system))
    if system is not None:
        raise UserError("`system` was given, but this model has no chat template; leave it out")
    return "".join(part.get("text", processor.image_token) for part in content)


def _told(content: list[dict[str, str]], system: str | None) -> list[dict[str, Any]]:
    return with_system([{"role": "user", "content": content}], system, parts=True)


def check_images_there(processor: Any, tokens: int = 0) -> None:
    """Raises UserError if the template is the reason that there are no image tokens."""
    if not tokens and template_of(processor) is not None and not picture_text(processor):
        raise UserError("the model's chat template leaves the images out; mend chat_template in the checkpoint")


# --- a prompt that is in the template already -----------------------------------------------------------------
def with_pictures(processor: Any, prompt: str, count: int, mark: str, own: Sequence[str]) -> str:
    """The prompt with what the template writes for a picture where `<image>` stands; without marks, the pictures come
    after `mark`, which opens the user's turn. A prompt may have the model's own tokens instead. Raises UserError."""
    pieces = _pieces(prompt, count)
    if len(pieces) == 1 and count and any(prompt.count(token) == count for token in own):
        return prompt
    for piece in pieces:
        check_no_token(piece, own, "the prompt holds", f"write {MARKER} where an image stands")
    picture = picture_text(processor)
    if count and len(pieces) == 1:
        if mark not in user_marks(processor):
            raise UserError(
                f"the prompt is in the model's chat template already (it has {mark!r}); write {MARKER} where an image "
                "stands in it"
            )
        at = prompt.index(mark) + len(mark)
        at += len(prompt[at:]) - len(prompt[at:].lstrip())
        pieces = [prompt[:at] + picture * (count - 1), prompt[at:]]
    return picture.join(pieces)


def picture_text(processor: Any) -> str:
    """What the template writes for a picture: where it differs with a picture and without one."""
    text = {"type": "text", "text": "a question"}
    without, having = (in_template(processor, content) for content in ([text], [PICTURE, text]))
    start = shared(without, having)
    end = shared(without[start:][::-1], having[start:][::-1])
    return having[start : len(having) - end]


def shared(one: str, other: str) -> int:
    """How many characters they have in common at their beginning."""
    pairs = zip(one, other, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
