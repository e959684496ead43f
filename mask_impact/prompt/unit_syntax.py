"""How the user writes units: words and sentences, spans of text or positions, regions of a picture. No torch here."""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from mask_impact.errors import UserError

UNITS = ("token", "word", "sentence", "span", "patch")

# The names of sets of positions (sets.py). Those of spans and regions stand beside them, so none may be the same.
LATER = "later"  # whatever follows what is masked: no set by itself
SETS = ("first", "last", LATER, "text", "image", "video", "system", "question", "template", "generated")
TAKEN = (*SETS, "all")  # as the effects table calls the readers `later`


@dataclass(frozen=True)
class Chosen:
    """The units that the user asked for, as they were written."""

    unit: str = "token"  # one of UNITS; "token" with any of the following is "span"
    spans: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    region_masks: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        unit: str | None = None,
        spans: str | Iterable[str] = (),
        regions: str | Iterable[str] = (),
        region_masks: str | Iterable[str] = (),
    ) -> Chosen:
        """`unit`, or if None: spans if any are given, else tokens. Raises UserError for a contradiction."""
        texts = [(each,) if isinstance(each, str) else tuple(each) for each in (spans, regions, region_masks)]
        chosen = cls(unit or ("span" if any(texts) else "token"), *texts)
        if unit == "token":  # asked for, not just the default
            _check_alone(chosen)
        chosen.parsed()
        return chosen

    @property
    def plain(self) -> bool:
        """Whether every token is a unit of its own."""
        return self.unit == "token" and not self.given

    @property
    def given(self) -> list[tuple[str, str]]:
        """(field, text) of every span and region, in the order of their units."""
        fields = (("spans", self.spans), ("regions", self.regions), ("region_masks", self.region_masks))
        return [(field, text) for field, texts in fields for text in texts]

    def parsed(self) -> list[tuple[str, Place]]:
        """For each span and region its name in messages, and its meaning. Raises UserError."""
        if self.unit not in UNITS:
            raise UserError(f"unknown unit {self.unit!r}; choose from {', '.join(UNITS)}")
        if self.unit in ("word", "sentence", "patch"):
            _check_alone(self)
        if self.unit == "span" and not self.given:
            raise UserError("unit 'span' was chosen, but no span; give `spans`, `regions` or `region_masks`")
        places: list[tuple[str, Place]] = []
        for field, text in self.given:
            try:
                places.append((f"`{field}` {text!r}", PARSERS[field](text)))
            except argparse.ArgumentTypeError as error:
                raise UserError(f"`{field}` {error}") from error
        names = [place.name for _, place in places if place.name]
        for name in names:
            if names.count(name) > 1:
                raise UserError(f"{names.count(name)} spans have the name {name!r}; give each a name of its own")
        return places


def by_name(texts: Mapping[str, Iterable[str]], names: Collection[str]) -> tuple[dict[str, tuple[str, ...]], ...]:
    """Spans and regions, texts by field: those whose name is none of `names`, and those whose name is."""
    found: tuple[dict[str, tuple[str, ...]], ...] = {}, {}
    for field, given in texts.items():
        for which in (False, True):
            found[which][field] = tuple(text for text in given if (_named(text)[0] in names) == which)
    return found


def _check_alone(chosen: Chosen) -> None:
    for field, text in chosen.given:
        raise UserError(f"unit {chosen.unit!r} and `{field}` {text!r} were both given; leave one of them out")


@dataclass(frozen=True)
class Visual:
    """A picture, a video, or one temporal patch of a video, which is a frame."""

    number: int  # of the picture, or of the video
    video: bool = False
    frame: int | None = None

    def __str__(self) -> str:
        if self.frame is not None:
            return f"frame:{self.number}:{self.frame}" if self.number else f"frame:{self.frame}"
        return f"{'video' if self.video else 'image'}:{self.number}"


VISUAL = r"(?:(image|video):([0-9]{1,9})|frame:(?:([0-9]{1,9}):)?([0-9]{1,9}))"


def visual(found: Sequence[str | None]) -> Visual | None:
    """The groups of VISUAL: image:0, video:0, frame:3, or frame:1:3 of video 1. None where they did not match."""
    kind, number, video, frame = found[:4]
    if frame is not None:
        return Visual(int(video or 0), True, int(frame))
    return Visual(int(number or 0), kind == "video") if kind else None


@dataclass(frozen=True)
class Span:
    """One of these: a text, a regular expression, positions from first to last, or all tokens of a picture, a video or
    a frame."""

    name: str
    text: str = ""
    regex: str = ""
    positions: tuple[int, int] | None = None
    visual: Visual | None = None
    written: str = dataclasses.field(default="", compare=False)  # as it was given, with its name


@dataclass(frozen=True)
class Region:
    """A rectangle in the grid of a picture, a frame, or every frame of a video, including its last row and column."""

    name: str
    visual: Visual
    row0: int
    col0: int
    row1: int
    col1: int


@dataclass(frozen=True)
class RegionMask:
    """The patches of a picture or frame, or of every frame of a video, that are white in an image file."""

    name: str
    visual: Visual
    path: str


Place = Span | Region | RegionMask


def parse_span(text: str) -> Span:
    """`a text of the prompt`, `/regular expression/`, `12-18` or `12`, `image:0`, `video:0`, `frame:3` (of video 0) or
    `frame:1:3` (of video 1); NAME= in front names the span.

    Write a text with = in it after an empty name, `=a=b`, and digits that are meant as text as `/12/`.
    """
    name, given = _named(text)
    if text.startswith("=") and given and "=" not in given:
        raise argparse.ArgumentTypeError(
            f"{text!r} has no name before its =; write {given!r}, or NAME={given} with a name"
        )
    if not given:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no span; write a text of the prompt, /a regular expression/, positions such as 12-18, "
            "or image:0, video:0, frame:3"
        )
    if found := re.fullmatch(VISUAL, given):
        return Span(name, visual=visual(found.groups()), written=text)
    if found := re.fullmatch(r"([0-9]{1,18})(?:-([0-9]{1,18}))?", given):
        first, last = int(found[1]), int(found[2] or found[1])
        if first > last:
            raise argparse.ArgumentTypeError(f"{text!r}: the positions run backwards; write {last}-{first}")
        return Span(name, positions=(first, last), written=text)
    if len(given) > 1 and given[0] == given[-1] == "/":
        return Span(name, regex=_checked_regex(text, given[1:-1]), written=text)
    return Span(name, text=given, written=text)


def _checked_regex(text: str, regex: str) -> str:
    if not regex:
        raise argparse.ArgumentTypeError(f"{text!r} is an empty regular expression; write one between the slashes")
    import regex as expressions  # here, so that --help appears at once

    try:
        expressions.compile(regex)
    except (expressions.error, OverflowError, RecursionError) as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a regular expression ({error}); mend it, or write the text without slashes around it"
        ) from error
    return regex


def parse_region(text: str) -> Region:
    """`row0,col0,row1,col1` of picture 0, `K:row0,...` of picture K, `video:K:row0,...` of all frames of video K,
    `frame:K:row0,...` of one frame; NAME= in front names the region."""
    name, given = _named(text)
    place, given = _of_picture(given)
    numbers = [part.strip() for part in given.split(",")]
    if len(numbers) != 4 or not all(re.fullmatch("[0-9]{1,9}", part) for part in numbers):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no region; write row0,col0,row1,col1 such as 0,0,2,3, for picture 1 1:0,0,2,3, and for a "
            "video or a frame video:0:0,0,2,3 or frame:3:0,0,2,3"
        )
    row0, col0, row1, col1 = map(int, numbers)
    if row0 > row1 or col0 > col1:
        corners = min(row0, row1), min(col0, col1), max(row0, row1), max(col0, col1)
        raise argparse.ArgumentTypeError(f"{text!r} runs backwards; write {','.join(map(str, corners))}")
    return Region(name, place, row0, col0, row1, col1)


def parse_region_mask(text: str) -> RegionMask:
    """The path of an image file for picture 0, `K:path` for picture K, `video:K:path`, `frame:K:path`; NAME= in front
    names the mask."""
    name, given = _named(text)
    place, path = _of_picture(given)
    if not path:
        raise argparse.ArgumentTypeError(f"{text!r} names no file; write the path of an image, white where to mask")
    return RegionMask(name, place, path)


def _named(text: str) -> tuple[str, str]:
    """ "colour=red" -> ("colour", "red"), "=a=b" -> ("", "a=b"). A name is a plain identifier."""
    name, equals, rest = text.partition("=")
    return (name, rest) if equals and (not name or name.isidentifier()) else ("", text)


def _of_picture(given: str) -> tuple[Visual, str]:
    if found := re.fullmatch(rf"{VISUAL}:(.*)", given, re.DOTALL):
        return visual(found.groups()) or Visual(0), found[5]
    found = re.fullmatch(r"([0-9]{1,9}):(.*)", given, re.DOTALL)
    return (Visual(int(found[1])), found[2]) if found else (Visual(0), given)


PARSERS: dict[str, Callable[[str], Place]] = {
    "spans": parse_span,
    "regions": parse_region,
    "region_masks": parse_region_mask,
}
