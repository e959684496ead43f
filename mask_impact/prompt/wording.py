"""The text of a prompt with pictures and videos: in the model's chat template, with the model's own token for each.

In:  a processor, and a prompt with `<image>` and `<video>` marks or a conversation. Out: the processor's text.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mask_impact.errors import UserError
from mask_impact.prompt.chat import continuing, opening, rendered, taken_as_it_is, template_of, user_marks
from mask_impact.prompt.inputs import check_prompt
from mask_impact.prompt.messages import texts_of, with_system
from mask_impact.prompt.turns import Said, said_as_written, said_in

MARKS = {"image": "<image>", "video": "<video>"}  # where one stands in the user's prompt
KINDS = {mark: kind for kind, mark in MARKS.items()}
Counts = Mapping[str, int]  # how many there are of each kind


def own_tokens(processor: Any, image_token: str | None = None, videos: bool = False) -> tuple[str, ...]:
    """What stands for a picture in a text for the processor, and in the ids for the model; the same for `videos`."""
    video_token = getattr(processor, "video_token", None) if videos else None
    return tuple(own for own in (getattr(processor, "image_token", None), image_token, video_token) if own)


Worded = tuple[str, list[str], Said | None]  # the text, what is to be noted, and what in it are the messages' words


def wording(processor: Any, prompt: str, counts: Counts, system: str | None, own: Sequence[str]) -> Worded:
    """A prompt with as many pictures and videos as `counts` says in the chat template. Raises UserError."""
    check_prompt(re.sub("|".join(KINDS), "", prompt))
    if mark := opening(processor, prompt):
        note = taken_as_it_is(mark, system)
        text = with_pictures(processor, prompt, counts, mark, own)
        return text, [note], said_as_written(processor, text)
    content = message(prompt, counts, own)
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


def message(prompt: str, counts: Counts, own: Sequence[str]) -> list[dict[str, str]]:
    """The user's message as parts: text, pictures and videos in their order; those that the prompt has no marks for
    come first. Raises UserError, also for a prompt that holds one of the `own` tokens for pictures and videos."""
    pieces = _pieces(prompt, counts)
    _check_own(pieces, own)
    first = [{"type": kind} for kind, mark in MARKS.items() if mark not in pieces for _ in range(counts.get(kind, 0))]
    return first + [
        {"type": KINDS[each]} if each in KINDS else {"type": "text", "text": each} for each in pieces if each
    ]


def _pieces(prompt: str, counts: Counts) -> list[str]:
    """The texts and the marks between them. Raises UserError if there are marks of a kind, but not one for each."""
    for kind, mark in MARKS.items():
        if prompt.count(mark) not in (0, counts.get(kind, 0)):
            raise UserError(
                f"the prompt has {prompt.count(mark)} {mark}, but the number of {kind}s given is "
                f"{counts.get(kind, 0)}; write one {mark} for every {kind}, or none: then the {kind}s come first"
            )
    return re.split(f"({'|'.join(KINDS)})", prompt)


def _check_own(pieces: Sequence[str], own: Sequence[str]) -> None:
    for piece in pieces:
        if piece not in KINDS:
            check_no_token(piece, own, "the prompt holds", "write <image> where an image stands, <video> where a video")


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
    return "".join(part.get("text") or getattr(processor, f"{part['type']}_token") for part in content)


def _told(content: list[dict[str, str]], system: str | None) -> list[dict[str, Any]]:
    return with_system([{"role": "user", "content": content}], system, parts=True)


def check_there(processor: Any, kind: str, tokens: int = 0) -> None:
    """Raises UserError if the template is the reason that there are no tokens of pictures, or of videos."""
    if not tokens and template_of(processor) is not None and not text_of(processor, kind):
        raise UserError(f"the model's chat template leaves the {kind}s out; mend chat_template in the checkpoint")


# --- a prompt that is in the template already -----------------------------------------------------------------
def with_pictures(processor: Any, prompt: str, counts: Counts, mark: str, own: Sequence[str]) -> str:
    """The prompt with what the template writes for a picture or video where its mark stands; without marks, they come
    after `mark`, which opens the user's turn. A prompt may have the model's own tokens instead. Raises UserError."""
    pieces = _pieces(prompt, counts)
    video_token = getattr(processor, "video_token", None)
    mine = {kind: [each for each in own if (each == video_token) == (kind == "video")] for kind in MARKS}
    unmarked = {kind: count for kind, count in counts.items() if count and MARKS[kind] not in pieces}
    there = [kind for kind, count in unmarked.items() if any(prompt.count(token) == count for token in mine[kind])]
    _check_own(pieces, [token for kind in MARKS if kind not in there for token in mine[kind]])
    first = "".join(text_of(processor, kind) * count for kind, count in unmarked.items() if kind not in there)
    if first:
        if mark not in user_marks(processor):
            marks = " or ".join(MARKS[kind] for kind in unmarked)
            raise UserError(
                f"the prompt is in the model's chat template already (it has {mark!r}); write {marks} where it stands"
            )
        at = pieces[0].index(mark) + len(mark)
        at += len(pieces[0][at:]) - len(pieces[0][at:].lstrip())
        pieces[0] = pieces[0][:at] + first + pieces[0][at:]
    return "".join(text_of(processor, KINDS[each]) if each in KINDS else each for each in pieces)


def text_of(processor: Any, kind: str) -> str:
    """What the template writes for a picture or a video: where it differs with one and without one."""
    text = {"type": "text", "text": "a question"}
    without, having = (in_template(processor, content) for content in ([text], [{"type": kind}, text]))
    start = shared(without, having)
    end = shared(without[start:][::-1], having[start:][::-1])
    return having[start : len(having) - end]


def shared(one: str, other: str) -> int:
    """How many characters they have in common at their beginning."""
    pairs = zip(one, other, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
