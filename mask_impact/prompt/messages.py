"""A conversation that the user gives: several messages, in the form that chat templates take.

In:  a JSON file, or the same as a list:

    [{"role": "system", "content": "You answer in one word."},
     {"role": "user", "content": [{"type": "image", "path": "cat.jpg"}, {"type": "text", "text": "What is this?"}]}]

Out: the messages, checked; the paths of pictures start in the file's folder. No torch here.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mask_impact.errors import UserError
from mask_impact.prompt.text_files import read_text

Messages = tuple[dict[str, Any], ...]

IN_MEMORY = "<PIL image>"  # a picture that is not from a file
ROLES = ("system", "developer", "user", "assistant", "tool")
FILE_KEYS = {"image": ("image", "path"), "video": ("video", "path")}  # by the type of a part; each names a file
PICTURE_KEYS = (*FILE_KEYS["image"], "video")
EXAMPLE = '[{"role": "user", "content": "Hello"}]'


def read_messages(path: Path) -> Messages:
    """The messages in a JSON file. Raises UserError."""
    what = f"the messages file {path}"
    text = read_text(path, what)
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{what} is not JSON (line {error.lineno}: {error.msg}); write {EXAMPLE}") from error
    except (ValueError, RecursionError) as error:  # a number of too many digits, lists in lists in lists
        raise UserError(f"{what} is not JSON that can be read; write {EXAMPLE}") from error
    return checked_messages(found, what, path.parent)


def given_messages(value: Any) -> Messages:
    """Of Python's keyword: a list, or the path of a file; none for None. Raises UserError."""
    if value is None or (isinstance(value, Sequence) and not value):
        return ()
    return read_messages(Path(value)) if isinstance(value, str | Path) else checked_messages(value, "`messages`")


def checked_messages(found: Any, what: str, folder: Path | None = None) -> Messages:
    """Raises UserError for what is no conversation.

    Args:
        what: the source of the messages, for error messages.
        folder: where the paths of pictures start; None: as they are.
    """
    if not isinstance(found, list | tuple):
        raise UserError(f"{what} must hold a list of messages, not {_kind(found)}; write {EXAMPLE}")
    if not found:
        raise UserError(f"{what} has no messages; write {EXAMPLE}")
    messages = tuple(_message(message, f"{what}, message {number}", folder) for number, message in enumerate(found, 1))
    if not messages[-1].get("content"):
        raise UserError(f"{what}: the last message calls a tool; add the tool's answer, a message of role tool")
    return messages


def _message(message: Any, what: str, folder: Path | None) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise UserError(f"{what} is {_kind(message)}; write it as {EXAMPLE[1:-1]}")
    if message.get("role") not in ROLES:
        given = f"role {message['role']!r}" if "role" in message else "no role"
        raise UserError(f"{what} has {given}; choose from {', '.join(ROLES)}")
    content = message.get("content")
    if not content and message["role"] == "assistant" and message.get("tool_calls"):
        pass  # the calls alone, as chat interfaces write them
    elif isinstance(content, str):
        _check_text(content, what)
    elif isinstance(content, list | tuple) and content:
        content = [_part(part, f"{what}, part {number}", folder) for number, part in enumerate(content, 1)]
    else:
        given = _kind(content) if content else "no content"
        raise UserError(f"{what} has {given}; write its content as a text, or as a list of parts")
    checked = {**message, "content": content}
    try:
        json.dumps(as_recorded([checked]), allow_nan=False)
    except (ValueError, TypeError, RecursionError) as error:  # NaN, 1e999, a date, a list in itself
        raise UserError(f"{what} has a value that no JSON file can hold (NaN, or a date); leave it out") from error
    return checked


def _part(part: Any, what: str, folder: Path | None) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "text" and isinstance(part.get("text"), str):
        _check_text(part["text"], what)
        return dict(part)
    if kind not in FILE_KEYS:
        given = f"of type {kind!r}" if kind != "text" and isinstance(kind, str) else "not a part that can be read"
        raise UserError(f'{what} is {given}; write {{"type": "text", "text": ...}} or {{"type": "image", "path": ...}}')
    keys = [key for key in FILE_KEYS[kind] if key in part]
    source = part[keys[0]] if len(keys) == 1 else None
    if isinstance(source, str) and source.startswith(("http:", "https:", "data:")):
        source = None
    if source is None or source == "":
        name = "picture" if kind == "image" else kind
        raise UserError(f'{what} names no {name} file; write {{"type": "{kind}", "path": ...}} with the path of one')
    if isinstance(source, str | Path):
        source = str(folder / source) if folder else str(source)
    return {**part, keys[0]: source}


def _check_text(text: str, what: str) -> None:
    if not text.strip():
        raise UserError(f"{what} is empty; give some text, or leave it out")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{what} is not valid text (character {error.start}); give it as UTF-8") from error


def _kind(value: Any) -> str:
    names = {dict: "a mapping", list: "a list", str: "a text", bool: "true or false", type(None): "nothing"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else "something else")


# --- what is in messages that were checked ----------------------------------------------------------------------
def parts_of(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The content as parts, also where it is one text."""
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content or ())


def texts_of(message: Mapping[str, Any]) -> list[str]:
    return [part["text"] for part in parts_of(message) if part["type"] == "text"]


def last_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """What the user says last; stands where one prompt is expected."""
    said = [message for message in messages if message["role"] == "user"] or messages
    return "\n".join(texts_of(said[-1]))


def images_of(messages: Sequence[Mapping[str, Any]]) -> tuple[Any, ...]:
    """The pictures in their order: paths, or PIL images."""
    return tuple(_files(messages, "image"))


def videos_of(messages: Sequence[Mapping[str, Any]]) -> tuple[Any, ...]:
    """The videos in their order: paths."""
    return tuple(_files(messages, "video"))


def _files(messages: Sequence[Mapping[str, Any]], kind: str) -> Iterator[Any]:
    for message in messages:
        for part in parts_of(message):
            if part["type"] == kind:
                yield next(part[key] for key in FILE_KEYS[kind] if key in part)


def with_system(messages: Sequence[dict[str, Any]], system: str | None, parts: bool = False) -> list[dict[str, Any]]:
    """The messages after a system message, as one text or as parts. Raises UserError."""
    if system is None:
        return list(messages)
    _check_text(system, "`system`")
    if messages[0]["role"] in ("system", "developer"):
        raise UserError("`system` was given, but `messages` begin with a system message; leave one of the two out")
    return [{"role": "system", "content": [{"type": "text", "text": system}] if parts else system}, *messages]


def as_recorded(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """As the manifest has them: pictures in memory by a name."""
    return [
        {**message, "content": _recorded(content) if isinstance(content := message["content"], list) else content}
        for message in messages
    ]


def _recorded(parts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {key: IN_MEMORY if key in PICTURE_KEYS and not isinstance(value, str) else value for key, value in part.items()}
        for part in parts
    ]
