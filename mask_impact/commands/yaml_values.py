"""Turn nodes of a YAML file into values: one reader for each kind of field.

Raises Wrong, whose text ends a sentence that starts with the key, or the parser's argparse.ArgumentTypeError.
"""

import argparse
import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import yaml

from mask_impact import parsers
from mask_impact.commands.yaml_nodes import KINDS, NULL, PLAIN, PREFIX, Wrong, quoted, reason
from mask_impact.errors import UserError
from mask_impact.options import Option
from mask_impact.prompt.text_files import LARGEST, check_regular


class Member(NamedTuple):
    """A key of a mapping, and what it holds."""

    key: str  # as the file spells it
    line: int
    node: yaml.Node


def expect(node: yaml.Node, kind: type[yaml.Node], words: str, verb: str = "is") -> Any:
    """What a node of this kind holds. Raises Wrong."""
    if node.tag not in PLAIN:
        raise Wrong(f"{verb} tagged {quoted(node.tag.replace(PREFIX, '!!'))}; tags are not read, remove it")
    if node.tag == NULL:
        raise Wrong(f"{verb} empty")
    if not isinstance(node, kind):
        raise Wrong(f"must be {words}, but {verb} {KINDS[type(node)]}")
    return node.value


def scalar(node: yaml.Node, words: str = "text", verb: str = "is") -> str:
    text: str = expect(node, yaml.ScalarNode, words, verb)
    if not text.strip():
        raise Wrong(f"{verb} empty")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Wrong(f"{verb} no valid text: half a character, {text[error.start]!r}") from error
    return text


def items(node: yaml.Node) -> list[yaml.Node]:
    """A list's, or the one that stands in its place."""
    return expect(node, yaml.SequenceNode, "a list") if isinstance(node, yaml.SequenceNode) else [node]


def scalars(node: yaml.Node, words: str) -> list[str]:
    verb = "has an item that is" if isinstance(node, yaml.SequenceNode) else "is"
    return [scalar(item, words, verb) for item in items(node)]


def parse(parser: Callable[[str], Any], text: str) -> Any:
    try:
        return parser(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(str(error).replace(repr(text), quoted(text))) from error
    except ValueError as error:  # more digits than int() takes
        raise Wrong(f"cannot be {quoted(text)}") from error


def flag(node: yaml.Node) -> bool:
    words = "true or false"
    text = scalar(node, words)
    if text.lower() not in yaml.SafeLoader.bool_values:  # with the yes, no, on and off of YAML 1.1
        raise Wrong(f"must be {words}, but is {quoted(text)}")
    return yaml.SafeLoader.bool_values[text.lower()]


def prompt_text(node: yaml.Node) -> str:
    """As written, but for the newline that ends every block (`prompt: |`): the next word would depend on it."""
    text = scalar(node)
    in_block = isinstance(node, yaml.ScalarNode) and node.style in ("|", ">")
    return text.removesuffix("\n") if in_block else text


def model_name(node: yaml.Node) -> str:
    """A hub name or a folder; an older spelling is `model: {path: ...}`."""
    if isinstance(node, yaml.MappingNode) and [key.value for key, _ in node.value] == ["path"]:
        node = node.value[0][1]
    return os.path.expanduser(scalar(node))


def file_path(node: yaml.Node) -> Path:
    return Path(os.path.expanduser(scalar(node, "a path")))


def file_paths(node: yaml.Node) -> tuple[Path, ...]:
    return tuple(Path(os.path.expanduser(text)) for text in scalars(node, "a path or a list of paths"))


def messages(node: yaml.Node) -> Path | list[Any]:
    """The path of a JSON file, or the messages themselves."""
    return _plain(node) if isinstance(node, yaml.SequenceNode) else file_path(node)


def _plain(node: yaml.Node) -> Any:
    """What a node holds, with every value as text."""
    if isinstance(node, yaml.MappingNode):
        return {scalar(key): _plain(value) for key, value in expect(node, yaml.MappingNode, "a mapping")}
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item) for item in expect(node, yaml.SequenceNode, "a list")]
    return scalar(node)


def texts(node: yaml.Node) -> tuple[str, ...]:
    return tuple(scalars(node, "text or a list of texts"))


def reader_of(option: Option) -> Callable[[yaml.Node], Any]:
    """The function that reads the value of a field."""
    if option.name in READERS:
        return READERS[option.name]
    if option.kind == "switch":
        return flag
    if option.kind in ("repeated", "pair"):
        return file_paths if option.parse in (Path, parsers.path) else texts
    if option.parse in (Path, parsers.path):
        return file_path

    def parsed(node: yaml.Node) -> Any:
        """A list may be a YAML list, or a text with commas as on the command line."""
        text = ",".join(scalars(node, "text or a list")) if option.kind == "list" else scalar(node, "one value")
        return parse(option.parse, dict(option.older_values).get(text, text))

    return parsed


READERS: dict[str, Callable[[yaml.Node], Any]] = {  # by the field's name
    "model": model_name, "prompt": prompt_text, "system": prompt_text, "messages": messages
}  # fmt: skip


# --- files that a value names -------------------------------------------------------------------------------
@contextlib.contextmanager
def opened(path: Path) -> Iterator[TextIO]:
    """A regular file, open as text. What fails inside is Wrong, too."""
    name = quoted(str(path))
    try:
        check_regular(path, name, "a file")
        with path.open(encoding="utf-8-sig") as file:
            yield file
    except UserError as error:
        raise Wrong(str(error)) from error
    except UnicodeDecodeError as error:
        raise Wrong(f"{name} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except (OSError, ValueError) as error:
        raise Wrong(f"{name} cannot be read: {reason(error)}") from error


def read_prompt(path: Path) -> str:
    with opened(path) as file:
        if os.fstat(file.fileno()).st_size > LARGEST:
            raise Wrong(f"{quoted(str(path))} is larger than {LARGEST:,} bytes; give a shorter text")
        text = file.read()
    if not text.strip():
        raise Wrong(f"{quoted(str(path))} is empty; write the prompt into it")
    return text.removesuffix("\n")
