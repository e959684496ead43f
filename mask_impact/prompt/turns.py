"""Where what the messages say stands in a prompt that is in the model's chat template.

In:  a tokenizer or processor, the messages, and the text that the template makes of them.
Out: `Said`: for each text of a message its role and its characters in that text; turn_tokens.py finds their tokens.

The template is applied a second time with a mark in place of every text: what it writes around the marks is its own.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mask_impact.prompt.chat import PROBES, applied, around, user_marks
from mask_impact.prompt.messages import parts_of


@dataclass(frozen=True)
class Turn:
    """One text of a message."""

    role: str
    message: int  # its place in the conversation
    start: int  # [start, end) characters in the template's text
    end: int


@dataclass(frozen=True)
class Said:
    """A text in the model's chat template, and what in it are the messages' own words."""

    text: str
    turns: list[Turn]  # none: the template does not show it
    whole: bool = True  # False: it was written in the template, and only the last user's turn was looked for


def said_in(reader: Any, messages: Sequence[Mapping[str, Any]], text: str) -> Said:
    """What `messages` say in `text`, which the template made of them."""
    parts = [
        (number, str(message["role"]), part["text"])
        for number, message in enumerate(messages)
        for part in parts_of(message)
        if part["type"] == "text"
    ]
    pieces = _template_around(reader, messages, len(parts))
    if pieces is None:
        return Said(text, [])
    turns, reached = [], 0
    for (number, role, content), before, after in zip(parts, pieces, pieces[1:], strict=False):
        start, end = _place(text, content, before, after, reached)
        if start < 0:
            return Said(text, [])
        turns.append(Turn(role, number, start, end))
        reached = end
    return Said(text, turns)


def _template_around(reader: Any, messages: Sequence[Mapping[str, Any]], count: int) -> list[str] | None:
    """What the template writes before, between and after the messages' texts."""
    names = [f"mark{number}of{count}" for number in range(count)]
    marks = iter(names)
    marked = [
        {**message, "content": next(marks)}
        if isinstance(message["content"], str)
        else {
            **message,
            "content": [part | {"text": next(marks)} if part["type"] == "text" else part for part in parts_of(message)],
        }
        for message in messages
    ]
    try:
        found = applied(reader, marked)
    except Exception:  # a template may insist on what a message says
        return None
    each = rf"mark\d+of{count}"
    return re.split(each, found) if re.findall(each, found) == names else None


def _place(text: str, content: str, before: str, after: str, reached: int) -> tuple[int, int]:
    """[start, end) of a message's text from `reached` on; (-1, -1) where it is not found."""
    for said in (content, content.strip()):  # many templates strip it
        if (found := text.find(before + said, reached)) >= 0:
            return found + len(before), found + len(before) + len(said)
    start = text.find(before, reached)  # some shorten earlier answers: Qwen 3's lose their thoughts
    end = text.find(after, start + len(before)) if after else len(text)
    return (start + len(before), end) if 0 <= start <= end else (-1, -1)


def said_as_written(reader: Any, text: str) -> Said:
    """The last user's turn of a prompt that was written in the template."""
    opened = [(text.rfind(mark) + len(mark), mark) for mark in user_marks(reader) if mark in text]
    around_it = around(reader, PROBES[:1])
    if not opened or not around_it:
        return Said(text, [], whole=False)
    start = max(opened)[0]
    start += len(text[start:]) - len(text[start:].lstrip())
    closing = around_it[-1].split()
    end = text.find(closing[0], start) if closing else -1
    end = len(text) if end < 0 else end
    return Said(text, [Turn("user", 0, start, len(text[:end].rstrip()))], whole=False)
