"""Read a YAML file as a tree of nodes, and word the errors of a file that is not valid YAML.

In:  a path. Out: the file's one document as PyYAML nodes, which know their lines and are never made into Python
objects: nothing in the file can run, and a text is the text that was written (`name: 2024`, `prompt: yes`).
"""

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

import yaml

from mask_impact.errors import UserError, printable, short
from mask_impact.prompt.text_files import check_regular

MAX_BYTES = 4_000_000
MAX_DEPTH = 50
MAX_NODES = 100_000  # about 10,000 prompts; aliases count as often as they are used
MAX_ERRORS = 50
MAX_VALUE = 60  # characters of a value in a message
MAX_MESSAGE = 400

PREFIX = "tag:yaml.org,2002:"
PLAIN = {PREFIX + name for name in ("str", "int", "float", "bool", "null", "timestamp", "merge", "value", "seq", "map")}
NULL, MERGE = f"{PREFIX}null", f"{PREFIX}merge"
KINDS = {yaml.ScalarNode: "text", yaml.SequenceNode: "a list", yaml.MappingNode: "a mapping"}

# A part of PyYAML's message: what to do about it, and whether the fault lies where the unfinished thing began.
SYNTAX = {
    "character '\\t'": ("a tab; use spaces", False),
    "cannot start any token": ("an unquoted text cannot start with this character; put it in quotes", False),
    "mapping values are not allowed": ("a ':' where no key can be; quote a text with ': ', or check the indent", False),
    "sequence entries are not allowed": ("a '- ' where no list can be; quote a text, or start a new line", False),
    "expected <block end>": ("does not continue what stands above; check indentation and quotes", False),
    "could not find expected ':'": ("neither 'key: value' nor part of the text above; check the indentation", True),
    "quoted scalar: found unexpected": ("a quote that is not closed", True),
    "double-quoted scalar": ("in double quotes a backslash starts a code; use single quotes", False),
    "expected ',' or": ("a bracket that is not closed, or a missing comma", True),
    "undefined alias": ("an alias (*name) without its anchor (&name); quote text that starts with *", False),
    "duplicate anchor": ("an anchor (&name) of the same name stands above", False),
    "alphabetic or numeric": ("a name must follow & and *; quote text that starts with them", False),
    "another document": ("a second document ('---'); a file holds one", False),
}


class ConfigError(UserError):
    """`errors`: all that is wrong with a file, by line, each in one printable line."""

    def __init__(self, path: Path, found: Iterable[tuple[int | None, str]]) -> None:
        ordered = sorted(dict.fromkeys(found), key=lambda error: error[0] or 0)  # a shared block is read many times
        self.errors = [
            printable(f"{path}{f':{line}' if line else ''}: {short(message, MAX_MESSAGE)}")
            for line, message in ordered[:MAX_ERRORS]
        ]
        if len(ordered) > MAX_ERRORS:
            self.errors.append(f"... and {len(ordered) - MAX_ERRORS} more")
        super().__init__("\n".join(self.errors))


class Wrong(Exception):
    """What is wrong with a value, as the end of a sentence that starts with its key."""


def read_text(path: Path) -> str:
    try:
        check_regular(path, "it", "a YAML file")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ConfigError(path, [(None, f"larger than {MAX_BYTES:,} bytes; put long texts into a prompt_file")])
        return data.decode("utf-8-sig")
    except ConfigError:
        raise
    except UserError as error:
        raise ConfigError(path, [(None, str(error))]) from error
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(path, [(line, f"not UTF-8 text (byte {error.start}); save it as UTF-8")]) from error
    except (OSError, ValueError) as error:
        raise ConfigError(path, [(None, f"cannot be read: {reason(error)}")]) from error


def compose(path: Path, text: str) -> yaml.Node:
    """The file's one document as nodes."""
    if found := yaml.SafeLoader.NON_PRINTABLE.search(text):
        line = text.count("\n", 0, found.start()) + 1
        raise ConfigError(path, [(line, f"a character that YAML does not allow, {found.group()!r}; remove it")])
    loader = Loader(path, text)
    try:
        root = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        raise ConfigError(path, [explain(error)]) from error
    except (ValueError, OverflowError) as error:  # PyYAML does not check "\UFFFFFFFF"
        raise ConfigError(path, [(loader.line + 1, "not valid YAML: a code that no character has")]) from error
    if root is None:
        raise ConfigError(path, [(1, "the file is empty; write 'prompts:', and below it '- name: ...'")])
    return root


class Loader(yaml.SafeLoader):
    """Makes nodes, and stops as soon as there are more than a batch needs: aliases can make billions of a few lines.

    Not the faster CSafeLoader: its messages differ, and its recursion is not Python's to stop.
    """

    def __init__(self, path: Path, text: str) -> None:
        super().__init__(text)
        self.path = path
        self.depth = 0
        self.nodes = 0  # an alias counts as all that it stands for
        self.sizes: dict[str, int] = {}  # nodes of the finished anchors

    def compose_node(self, parent: Any, index: Any) -> yaml.Node:
        event, before = self.peek_event(), self.nodes
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self.refuse(event, f"nested more than {MAX_DEPTH} levels deep")
        node: Any = super().compose_node(parent, index)
        self.depth -= 1
        if not isinstance(event, yaml.AliasEvent):
            self.nodes += 1
            if event.anchor:
                self.sizes[event.anchor] = self.nodes - before
        elif event.anchor not in self.sizes:
            self.refuse(event, f"the alias {quoted(f'*{event.anchor}')} stands inside what it is an alias of")
        else:
            self.nodes += self.sizes[event.anchor]
            node = copy.copy(node)
            node.start_mark = event.start_mark  # errors are where the alias is
        if self.nodes > MAX_NODES:
            self.refuse(event, f"more than {MAX_NODES:,} values, with those that aliases repeat; split the file")
        return node

    def refuse(self, event: yaml.Event, message: str) -> NoReturn:
        raise ConfigError(self.path, [(line_of(event), message)])


def explain(error: yaml.MarkedYAMLError) -> tuple[int, str]:
    """The line of a syntax error, and what it means in plain words."""
    said = f"{error.context}: {error.problem}"
    words, at_start = next((SYNTAX[part] for part in SYNTAX if part in said), (error.problem, False))
    mark = error.context_mark if at_start else error.problem_mark
    assert mark is not None
    return mark.line + 1, f"not valid YAML at column {mark.column + 1}: {words}"


# --- messages -----------------------------------------------------------------------------------------------
def reason(error: Exception) -> str:
    return str(error.strerror or error) if isinstance(error, OSError) else "no file can have this name"


def line_of(found: Any) -> int:
    """Of a node or an event."""
    return int(found.start_mark.line) + 1


def quoted(text: str) -> str:
    return repr(short(text, MAX_VALUE))
