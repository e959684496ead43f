"""A batch file: many prompts, measured with one model that is loaded once.

In:  a YAML file (prompts_config.yaml and prompts_config_vl.yaml show every key).
Out: Config: what the file gives, as typed values; what it leaves out is the command line's to decide.

    config = read_config(Path("prompts_config.yaml"), vision=False)

A ConfigError holds everything that is wrong with the file, line by line. The file is read as a tree of YAML nodes and
never made into Python objects: nothing in it can run, every error knows its line, and a text is the text that was
written, whatever YAML takes it for (`name: 2024`, `prompt: yes`). No torch here, as in `options`.
"""

import argparse
import contextlib
import copy
import difflib
import functools
import os
import stat
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TextIO

import yaml

from mask_impact import options
from mask_impact.errors import UserError

SETTINGS = ("model", "device", "dtype", "device_map", "max_memory", "output_dir", "formats")
OWN = ("name", "enabled", "prompt", "prompt_file")  # of one prompt; all below may also stand in `defaults`
SHARED = (
    "num_tokens", "layers", "variants", "head_space", "ablation", "queries", "mask_unit", "span", "effects",
    "mask_layers", "block", "contrast", "trace_layers", "pairs",
)  # fmt: skip
TEXT_ONLY = ("chat", "tower", "attention")
VISION_ONLY = ("image", "mask_mode", "vision_attention", "max_pixels", "region", "region_mask")
PLURAL = {"span": "spans", "block": "blocks", "region": "regions", "region_mask": "region_masks"}  # in options.Request
OLDER = {"image_path": "image"}  # spellings of the first version, still read
FLAGS = ("trust_remote_code", "allow_pickle", "overwrite", "resume")  # what a file may not decide
LISTS = (
    "max_memory",
    "formats",
    "layers",
    "variants",
    "queries",
    "attention",
    "block",
)  # a list, or text with commas as on the command line

MAX_BYTES = 4_000_000
MAX_DEPTH = 50
MAX_NODES = 100_000  # about 10,000 prompts; aliases count as often as they are used
MAX_ERRORS = 50
MAX_VALUE = 60  # characters of a value in a message
MAX_MESSAGE = 250

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


@dataclass(frozen=True)
class Entry:
    """One prompt."""

    name: str
    enabled: bool
    line: int
    values: dict[str, Any]  # by the names of options.Request; only what the file gives, `defaults` included


@dataclass(frozen=True)
class Config:
    path: Path
    settings: dict[str, Any]  # by the names of options.Settings; only what the file gives
    entries: tuple[Entry, ...]


class ConfigError(UserError):
    """`errors`: all that is wrong with a file, by line, each in one printable line."""

    def __init__(self, path: Path, found: Iterable[tuple[int | None, str]]) -> None:
        ordered = sorted(dict.fromkeys(found), key=lambda error: error[0] or 0)  # a shared block is read many times
        self.errors = [
            printable(f"{path}:{line}: {short(message)}" if line else f"{path}: {short(message)}")
            for line, message in ordered[:MAX_ERRORS]
        ]
        if len(ordered) > MAX_ERRORS:
            self.errors.append(f"... and {len(ordered) - MAX_ERRORS} more")
        super().__init__("\n".join(self.errors))


class Wrong(Exception):
    """What is wrong with a value, as the end of a sentence that starts with its key."""


def read_config(path: Path, vision: bool) -> Config:
    """The batch file at `path`, for the vision-language script or the one for text. Raises ConfigError.

    A prompt file and pictures are found from the file's own folder, and those of enabled prompts must be there.
    """
    root = compose(path, read_text(path))
    reader = Reader(path, vision)
    config = reader.config(root)
    if reader.errors:
        raise ConfigError(path, reader.errors)
    return config


# --- text to nodes ------------------------------------------------------------------------------------------
def read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ConfigError(path, [(None, f"larger than {MAX_BYTES:,} bytes; put long texts into a prompt_file")])
        return data.decode("utf-8-sig")
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


# --- nodes to values ----------------------------------------------------------------------------------------
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


def parsed(key: str, node: yaml.Node) -> Any:
    text = ",".join(scalars(node, "text or a list")) if key in LISTS else scalar(node, "one value")
    if key == "mask_mode" and text == "all":
        text = "both"  # the older spelling
    return parse(options.PARSERS[PLURAL.get(key, key)], text)


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


def texts(node: yaml.Node) -> tuple[str, ...]:
    return tuple(scalars(node, "text or a list of texts"))


READERS: dict[str, Callable[[yaml.Node], Any]] = {
    **{key: functools.partial(parsed, key) for key in (*options.PARSERS, "block")},
    "model": model_name,
    "output_dir": file_path,  # from the current folder, as the flag
    "name": lambda node: parse(options.output_name, scalar(node)),
    "enabled": flag,
    "prompt": prompt_text,
    "prompt_file": file_path,
    "chat": flag,
    "image": file_paths,
    "span": texts,
    "region": texts,
    "region_mask": texts,
    "contrast": texts,
    "effects": flag,
    "trace_layers": flag,
    "mask_layers": lambda node: ",".join(scalars(node, "text or a list")),
}


class Reader:
    """Reads a file's nodes and collects what is wrong with them."""

    def __init__(self, path: Path, vision: bool) -> None:
        self.path = path
        self.shared = (*SHARED, *(VISION_ONLY if vision else TEXT_ONLY))
        self.errors: list[tuple[int, str]] = []
        self.places = {  # where a key belongs that stands elsewhere
            **dict.fromkeys(FLAGS, "the command line"),
            **dict.fromkeys(SETTINGS, "the top level"),
            **dict.fromkeys(OWN, "a prompt"),
            **dict.fromkeys(SHARED, "a prompt or to defaults"),
            **dict.fromkeys(VISION_ONLY, "a prompt or to defaults" if vision else "mask_impact_vl.py"),
            **dict.fromkeys(TEXT_ONLY, "mask_impact_analysis.py" if vision else "a prompt or to defaults"),
        }

    @contextlib.contextmanager
    def collecting(self, line: int, subject: str) -> Iterator[None]:
        try:
            yield
        except Wrong as error:
            self.errors.append((line, f"{subject} {error}"))
        except argparse.ArgumentTypeError as error:
            self.errors.append((line, f"{subject}: {error}"))

    def config(self, root: yaml.Node) -> Config:
        settings: dict[str, Any] = {}
        entries: list[Entry] = []
        with self.collecting(line_of(root), "the file"):
            top = self.members(root, (*SETTINGS, "defaults", "prompts"))
            settings = self.values({key: top[key] for key in SETTINGS if key in top})
            defaults = self.defaults(top)
            if "prompts" not in top:
                raise Wrong("has no prompts; write 'prompts:', and below it '- name: ...'")
            for node in self.prompts(top["prompts"]):
                with self.collecting(line_of(node), "a prompt"):
                    entries.append(self.entry(node, defaults))
        self.check_names(entries)
        return Config(self.path, settings, tuple(entries))

    def defaults(self, top: dict[str, Member]) -> dict[str, Member]:
        if "defaults" not in top:
            return {}
        members: dict[str, Member] = {}
        with self.collecting(top["defaults"].line, "defaults"):
            members = self.members(top["defaults"].node, self.shared)
            self.values(members)  # finds what is wrong also where every prompt says otherwise
        return members

    def prompts(self, member: Member) -> list[yaml.Node]:
        nodes: list[yaml.Node] = []
        with self.collecting(member.line, "prompts"):
            nodes = expect(member.node, yaml.SequenceNode, "a list")
            if not nodes:
                raise Wrong("is empty; give at least one prompt")
        return nodes

    def entry(self, node: yaml.Node, defaults: dict[str, Member]) -> Entry:
        line = line_of(node)
        members = defaults | self.members(node, (*OWN, *self.shared))
        values = self.values(members)
        if "name" not in members:
            self.errors.append((line, "name is missing"))
        if "prompt" not in members and "prompt_file" not in members:
            self.errors.append((line, "prompt is missing; give prompt or prompt_file"))
        if "prompt" in members and "prompt_file" in members:
            self.errors.append((line, "prompt and prompt_file are both given; keep one"))
        mode = values.get("mask_mode", "text")
        if mode != "text" and not values.get("image", "image" in members):  # one that is wrong has its own error
            self.errors.append((line, f"mask_mode {mode} needs an image; give one, or choose text"))
        name, enabled = values.pop("name", ""), values.pop("enabled", True)
        self.find_files(members, values, enabled)
        return Entry(name, enabled, line, {PLURAL.get(key, key): value for key, value in values.items()})

    def find_files(self, members: dict[str, Member], values: dict[str, Any], enabled: bool) -> None:
        """Paths start in the file's folder. A disabled prompt may wait for its files."""
        folder = self.path.parent
        if "image" in values:
            values["images"] = tuple(folder / image for image in values.pop("image"))
            for image in values["images"] if enabled else ():
                with self.collecting(members["image"].line, "image"), opened(image):
                    pass
        if (file := values.pop("prompt_file", None)) and enabled:
            with self.collecting(members["prompt_file"].line, "prompt_file"):
                values["prompt"] = read_prompt(folder / file)

    def check_names(self, entries: Iterable[Entry]) -> None:
        """A name is a file's. To macOS and Windows "Cup" and "cup" are one, to macOS also the two codes of an "é"."""
        taken: dict[str, Entry] = {}
        for entry in entries:
            first = taken.setdefault(unicodedata.normalize("NFC", entry.name).casefold(), entry)
            if entry.name and first is not entry:
                same = "" if first.name == entry.name else f" ({quoted(first.name)}, the same to some file systems)"
                message = (
                    f"the name {quoted(entry.name)} is taken by line {first.line}{same}; give every prompt its own"
                )
                self.errors.append((entry.line, message))

    def values(self, members: dict[str, Member]) -> dict[str, Any]:
        found = {}
        for key, member in members.items():
            with self.collecting(member.line, member.key):
                found[key] = READERS[key](member.node)
        return found

    def members(self, node: yaml.Node, valid: tuple[str, ...]) -> dict[str, Member]:
        """The keys of a mapping by their newer spelling, over those it merges with `<<`. Raises Wrong."""
        own: dict[str, Member] = {}
        merged: dict[str, Member] = {}
        for key, value in expect(node, yaml.MappingNode, "a mapping"):
            line = line_of(key)
            if key.tag == MERGE:
                with self.collecting(line, "<<"):
                    for base in items(value):
                        merged = self.members(base, valid) | merged
                continue
            with self.collecting(line, "a key"):
                self.add(own, Member(scalar(key), line, value), valid)
        return merged | own

    def add(self, own: dict[str, Member], member: Member, valid: tuple[str, ...]) -> None:
        name = OLDER.get(member.key, member.key)
        if first := own.get(name):
            same = "is given twice, first" if first.key == member.key else f"is the same as {quoted(first.key)}"
            self.errors.append((member.line, f"{quoted(member.key)} {same} in line {first.line}; keep one"))
        elif name in valid:
            own[name] = member
        elif name in self.places:
            self.errors.append((member.line, f"{quoted(member.key)} belongs to {self.places[name]}"))
        elif near := difflib.get_close_matches(name.lower()[:MAX_VALUE], valid, 1):
            self.errors.append((member.line, f"unknown key {quoted(name)}; did you mean {quoted(near[0])}?"))
            own.setdefault(near[0], member)  # so that nothing is said to be missing
        else:
            self.errors.append((member.line, f"unknown key {quoted(name)}; valid keys: {', '.join(valid)}"))


# --- files and messages -------------------------------------------------------------------------------------
@contextlib.contextmanager
def opened(path: Path) -> Iterator[TextIO]:
    """A regular file, open as text. What fails inside is Wrong, too."""
    name = quoted(str(path))
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise Wrong(f"{name} is not a file")
        with path.open(encoding="utf-8-sig") as file:
            yield file
    except UnicodeDecodeError as error:
        raise Wrong(f"{name} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except (OSError, ValueError) as error:
        raise Wrong(f"{name} cannot be read: {reason(error)}") from error


def read_prompt(path: Path) -> str:
    with opened(path) as file:
        text = file.read()
    if not text.strip():
        raise Wrong(f"{quoted(str(path))} is empty; write the prompt into it")
    return text.removesuffix("\n")


def reason(error: Exception) -> str:
    return str(error.strerror or error) if isinstance(error, OSError) else "no file can have this name"


def line_of(found: Any) -> int:
    """Of a node or an event."""
    return int(found.start_mark.line) + 1


def short(text: str, limit: int = MAX_MESSAGE) -> str:
    """The start and the end: in a message the end says what to do, in a path it is the file."""
    return text if len(text) <= limit else f"{text[: limit // 2]}...{text[3 - limit // 2 :]}"


def quoted(text: str) -> str:
    return repr(short(text, MAX_VALUE))


def printable(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
