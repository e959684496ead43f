"""A batch file: many prompts, measured with one model that is loaded once.

In:  a YAML file (prompts_config.yaml and prompts_config_vl.yaml show every key).
Out: Config: what the file gives, as typed values; what it leaves out is the command line's to decide.

    config = read_config(Path("prompts_config.yaml"), vision=False)

Its keys are the fields of `Settings` and of `Request`, beside `name`, `enabled` and `prompt_file`. A ConfigError holds
everything that is wrong with the file, line by line. No torch here, as in `options`.
"""

import argparse
import contextlib
import difflib
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mask_impact.commands.yaml_nodes import MAX_VALUE, MERGE, ConfigError, Wrong, compose, line_of, quoted, read_text
from mask_impact.commands.yaml_values import (
    Member,
    expect,
    file_path,
    flag,
    items,
    opened,
    parse,
    read_prompt,
    reader_of,
    scalar,
)
from mask_impact.errors import UserError
from mask_impact.options import Request, Settings, options_of
from mask_impact.parsers import output_name
from mask_impact.prompt.messages import Messages, checked_messages, read_messages

OWN = ("name", "enabled", "prompt", "prompt_file", "messages")  # of one prompt; all others may also stand in `defaults`
OWN_READERS: dict[str, Any] = {
    "name": lambda node: parse(output_name, scalar(node)), "enabled": flag, "prompt_file": file_path
}  # fmt: skip
SCOPES = ("both", "text", "vision")


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


def read_config(path: Path, vision: bool, request: type[Request] = Request) -> Config:
    """The batch file at `path`, for the vision-language script or the one for text. Raises ConfigError.

    A prompt file and pictures are found from the file's own folder, and those of enabled prompts must be there.
    """
    root = compose(path, read_text(path))
    reader = Reader(path, vision, request)
    config = reader.config(root)
    if reader.errors:
        raise ConfigError(path, reader.errors)
    return config


class Reader:
    """Reads a file's nodes and collects what is wrong with them."""

    def __init__(self, path: Path, vision: bool, request: type[Request]) -> None:
        self.path = path
        self.fields = options_of(request)
        settings = options_of(Settings)
        scopes = {scope: [each.key for each in self.fields.values() if each.scope == scope] for scope in SCOPES}
        shared = [key for key in scopes["both"] if key not in OWN]
        self.shared = (*shared, *scopes["vision" if vision else "text"])
        self.settings = tuple(each.key for each in settings.values() if each.in_files)
        self.readers = OWN_READERS | {each.key: reader_of(each) for each in (*settings.values(), *self.fields.values())}
        self.names = {each.key: each.name for each in self.fields.values()}
        self.newer = {old: each.key for each in (*settings.values(), *self.fields.values()) for old in each.older_keys}
        self.errors: list[tuple[int, str]] = []
        here = "a prompt or to defaults"
        self.places = {  # where a key belongs that stands elsewhere
            **dict.fromkeys(["overwrite", "resume"], "the command line"),
            **{each.key: "the top level" if each.in_files else "the command line" for each in settings.values()},
            **dict.fromkeys(OWN, "a prompt"),
            **dict.fromkeys(shared, here),
            **dict.fromkeys(scopes["vision"], here if vision else "mask_impact_vl.py"),
            **dict.fromkeys(scopes["text"], "mask_impact_analysis.py" if vision else here),
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
            top = self.members(root, (*self.settings, "defaults", "prompts"))
            settings = self.values({key: top[key] for key in self.settings if key in top})
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
        said = [key for key in ("prompt", "prompt_file", "messages") if key in members]
        if not said:
            self.errors.append((line, "prompt is missing; give prompt, prompt_file or messages"))
        if said[1:]:
            self.errors.append((line, f"{said[0]} and {said[1]} are both given; keep one"))
        mode = values.get("mask_mode", "text")
        seen = [values.get(key, True) for key in ("image", "video", "messages") if key in members]
        if mode != "text" and not any(seen):  # one that is wrong has its own error
            self.errors.append((line, f"mask_mode {mode} needs an image; give one, or choose text"))
        name, enabled = values.pop("name", ""), values.pop("enabled", True)
        self.find_files(members, values, enabled)
        return Entry(name, enabled, line, {self.names[key]: value for key, value in values.items()})

    def find_files(self, members: dict[str, Member], values: dict[str, Any], enabled: bool) -> None:
        """Paths start in the file's folder. A disabled prompt may wait for its files."""
        folder = self.path.parent
        if "image" in values:
            values["image"] = tuple(folder / image for image in values["image"])
            for image in values["image"] if enabled else ():
                with self.collecting(members["image"].line, "image"), opened(image):
                    pass
        if "video" in values:
            values["video"] = tuple(folder / video for video in values["video"])
            for video in values["video"] if enabled else ():
                with self.collecting(members["video"].line, "video"):
                    if not video.is_dir():  # a folder of frames
                        with opened(video):
                            pass
        if (file := values.pop("prompt_file", None)) and enabled:
            with self.collecting(members["prompt_file"].line, "prompt_file"):
                values["prompt"] = read_prompt(folder / file)
        if "messages" in values:
            with self.collecting(members["messages"].line, "messages:"):
                values["messages"] = _messages(values["messages"], folder) if enabled else ()

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
                found[key] = self.readers[key](member.node)
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
        name = self.newer.get(member.key, member.key)
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


def _messages(given: Any, folder: Path) -> Messages:
    """Of a file, or as they stand in the batch file. Raises Wrong."""
    try:
        return read_messages(folder / given) if isinstance(given, Path) else checked_messages(given, "the list", folder)
    except UserError as error:
        raise Wrong(str(error)) from error
