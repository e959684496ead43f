"""Who stops reading what: readers of the masked units, and routes from one set of positions to another.

In:  a request's `readers`, `blocks` and `routes`, and the prompt's sets of positions.
Out: `Route`s, which give the masks of a text of any length.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from mask_impact.effects.edits import Edit
from mask_impact.errors import UserError
from mask_impact.options import BLOCKS, Request
from mask_impact.prompt.sets import PositionSet, Sets
from mask_impact.prompt.unit_syntax import LATER, by_name
from mask_impact.prompt.units import Unit

BLOCK = {"last": "last", "all": LATER}  # the sets that `blocks` stand for
LATER_BLOCK = "all"  # what the table calls the readers `later`
PLACES = ("spans", "regions", "region_masks")  # fields whose texts can have names
EXAMPLE = '"image -> question"'


class Mask(NamedTuple):
    """One mask, as the table has it, and what it takes away."""

    label: str
    position: int  # the first that is masked
    block: str
    edit: Edit
    head: int | None = None
    level: int | None = None  # of its unit
    place: tuple[int, int] | None = None  # of a single patch, its row and column

    @property
    def begins(self) -> int | None:
        """The first position of a text that has something of it: what is masked, and someone who reads it."""
        if not self.edit.positions or self.edit.readers == ():
            return None
        return max(self.edit.positions[0], *(self.edit.readers or ())[:1], 0)


@dataclass(frozen=True)
class Route:
    """From what is masked to those who stop reading it."""

    readers: PositionSet | None = None  # None: every later position
    source: PositionSet | None = None  # None: every unit of the request

    @property
    def block(self) -> str:
        """What the table calls the readers."""
        return LATER_BLOCK if self.readers is None else self.readers.name

    @property
    def name(self) -> str:
        source, readers = self.source.name if self.source else "units", self.readers.name if self.readers else LATER
        return f"{source} -> {readers}"

    @property
    def by_step(self) -> bool:
        """Whether it is another one at every generation step."""
        return any(each is not None and each.is_last for each in (self.readers, self.source))

    @property
    def at_every_step(self) -> bool:
        """Whether it has a row at every step, and these are about the same positions of the prompt."""
        sides = [each for each in (self.readers, self.source) if each is not None]
        return all(each.fixed or each.is_last for each in sides) and not (self.source and self.source.is_last)

    @property
    def manifest(self) -> dict[str, Any]:
        sides = {"source": self.source, "readers": self.readers}
        found = {side: each.manifest for side, each in sides.items() if each is not None}
        return {"route": self.name, "block": self.block, **found}

    def begins(self, starts: Sequence[int], length: int) -> list[int]:
        """Where its masks begin to change a text of `length` tokens; `starts`: the first position of each unit."""
        read = () if self.readers is None else self.readers.at(length)
        first = starts if self.source is None else self.source.at(length)[:1]
        return [max(each, *read[:1]) if read else each for each in first]

    def masks(self, units: Sequence[Unit], length: int) -> list[Mask]:
        """Of each unit, or of the source, in a text of `length` tokens."""
        readers = None if self.readers is None else self.readers.at(length)
        if self.source is not None:
            found = self.source.at(length)
            return [Mask(self.source.name, found[0], self.block, Edit(found, readers))] if found else []
        return [
            Mask(
                unit.label,
                unit.positions[0],
                self.block,
                Edit(tuple(sorted(each for each in unit.positions if each < length)), readers),
                level=unit.level,
            )
            for unit in units
        ]


def route_to(block: str) -> Route:
    """From every unit to the readers that `blocks` has a name for."""
    return Route(PositionSet("last", is_last=True) if block == "last" else None)


# --- as the user writes them --------------------------------------------------------------------------------
def written(request: Request) -> list[tuple[str, str | None, str]]:
    """(what it is in messages, source, readers) of everything that is asked for; source None for the units.

    Raises UserError.
    """
    if not request.routes:
        named: dict[str, str] = {BLOCK.get(name, name): "`blocks`" for name in request.blocks or ()}
        for name in request.readers:
            named.setdefault(name.strip(), f"`readers` {name!r}")
        return [(what, None, name) for name, what in (named or {LATER: "`readers`"}).items()]
    of_units = {"pairs": "are of units", "refine": "splits units", "top": "chooses units"}
    for name in ("readers", "blocks", *of_units):
        if getattr(request, name):
            why = of_units.get(name, "and a route both say who stops reading")
            raise UserError(f"`{name}` {why}; leave out `{name}` or `routes`")
    found: list[tuple[str, str | None, str]] = []
    for text in request.routes:
        source, arrow, readers = (part.strip() for part in text.partition("->"))
        if not (source and arrow and readers) or "->" in readers:
            raise UserError(f"`routes` {text!r} is no route; write SOURCE -> READERS, such as {EXAMPLE}")
        if source == LATER:
            raise UserError(f"`routes` {text!r}: {LATER} is who reads; write it after ->, or give another source")
        if (source, readers) in [each[1:] for each in found]:
            raise UserError(f"`routes` {text!r} was given twice; leave one out")
        found.append((f"`routes` {text!r}", source, readers))
    return found


def names_in(request: Request) -> set[str]:
    """The names of all sets that are asked for. Raises UserError."""
    return {name for _, source, readers in written(request) for name in (source, readers) if name}


def texts_of_units(request: Request) -> dict[str, tuple[str, ...]]:
    """The spans and regions that are masked, texts by field: not those that readers or a route name."""
    return by_name({field: getattr(request, field) for field in PLACES}, names_in(request))[0]


def routes_of(request: Request, sets: Sets, units: Sequence[Unit]) -> tuple[Route, ...]:
    """Raises UserError for sets that do not exist, are empty, or hold no one who could read.

    Args:
        units: of the prompt.
    """
    unknown = [each for each in request.blocks or () if each not in BLOCKS]
    if unknown:
        raise UserError(f"unknown block {unknown[0]!r}; choose from {', '.join(BLOCKS)}")
    found = []
    for what, source, readers in written(request):
        read = None if readers == LATER else sets.named(what, readers)
        route = Route(read, None if source is None else sets.named(what, source))
        _check_readers(what, route, sets, units)
        found.append(route)
    return tuple(found)


def _check_readers(what: str, route: Route, sets: Sets, units: Sequence[Unit]) -> None:
    """Raises UserError where nobody among the readers comes at or after what is masked."""
    places, readers = sets.places, route.readers
    first = min(unit.positions[0] for unit in units) if route.source is None else _first(route.source, places)
    if readers is None:
        if first >= places.end - 1 and route.source is None:
            raise UserError(
                f"`effects`: no later position reads what is masked (position {first}); write a longer prompt, or mask "
                "what is earlier"
            )
        if first >= places.end - 1:
            raise UserError(f"{what}: no position is later than {first}, so no one reads it; give another source")
        return
    last = readers.at(places.end)[-1]
    if last < places.first:
        raise UserError(
            f"{what}: the positions 0 to {places.first - 1} are the encoder's, which reads no one in the decoder's "
            f"attention; give readers from {places.first} on, or last"
        )
    if last < first and not sets.sees_ahead:
        raise UserError(
            f"{what}: every reader ({readers.name}, up to position {last}) comes before what is masked (from position "
            f"{first} on), and no token reads a later one; give later readers"
        )


def _first(source: PositionSet, places: Any) -> int:
    return places.predicting if source.is_last else source.at(places.end)[0]


# --- what is to be said of them -----------------------------------------------------------------------------
def notes_of(routes: Sequence[Route], sets: Sets, units: Sequence[Unit]) -> list[str]:
    """What the manifest says of readers that see nothing any more, or nothing at all."""
    return [note for route in routes for note in _notes(route, sets, units)]


def _notes(route: Route, sets: Sets, units: Sequence[Unit]) -> Iterator[str]:
    start, end = sets.places.first, sets.places.end
    readers = () if route.readers is None else route.readers.at(end)
    if start and (outside := [each for each in readers if each < start]):
        yield (
            f"{route.name}: of the readers, the positions {outside[0]} to {outside[-1]} are the encoder's and read no "
            "one in the decoder's attention"
        )
    sources = [unit.positions for unit in units] if route.source is None else [route.source.at(end)]
    encoded = [range(start)] if start else []  # what cross-attention sees; self-attention sees all up to the reader
    blind = [
        reader
        for reader in readers
        if reader >= start
        and any({*source}.issuperset(seen) for seen in (*encoded, range(start, reader + 1)) for source in sources)
    ]
    if blind:
        yield (
            f"{route.name}: {len(blind)} of the readers ({blind[0]} the first) have nothing left to attend to; their "
            "attention output is 0"
        )
