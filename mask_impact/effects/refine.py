"""From coarse to fine: which units are masked next, when it is known what the last ones do to the answer.

In:  the prompt's largest parts, how many are split in a round, and the changes of the round before.
Out: the units of every round, until they are tokens; and what the manifest says of them.

Every round measures its units as any other run would; only which units there are depends on what was found.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from mask_impact.errors import UserError
from mask_impact.options import Request
from mask_impact.prompt.levels import Part
from mask_impact.prompt.units import Unit

T = TypeVar("T")
TOGETHER = 3.0  # times as much as any part
CLEAR = 0.1  # of log-probability: smaller changes of a whole are not worth a word
Key = tuple[int, int]  # level and first position; no two units have the same


def key_of(unit: Unit) -> Key:
    return unit.level or 0, unit.positions[0]


@dataclass
class Refinement:
    """One run's rounds."""

    count: int  # of the units of a round, how many are split
    limit: int | None  # of masks
    newest: list[Part]  # what the present round masks
    units: list[dict[str, Any]] = field(default_factory=list)  # of all rounds, for the manifest, in the table's order
    unsplit: int = 0  # parts that would have been split without the limit
    _place: dict[Key, int] = field(default_factory=dict)  # in `units`

    def __post_init__(self) -> None:
        self._mask([(part, None) for part in self.newest])

    @property
    def masked(self) -> list[Unit]:
        """The units of the present round."""
        return [part.unit for part in self.newest]

    def split(self, changes: Mapping[Key, float]) -> bool:
        """Go on to the next round; False if there is none.

        Args:
            changes: of the answer's log-probability, by every unit of the present round.
        """
        found = [part for part in self.newest if part.parts and key_of(part.unit) in changes]
        strongest = sorted(found, key=lambda part: -abs(changes[key_of(part.unit)]))[: self.count]
        finer: list[tuple[Part, int | None]] = []
        for place, part in enumerate(strongest):
            if self.limit is not None and len(self.units) + len(finer) + len(part.parts) > self.limit:
                self.unsplit += len(strongest) - place
                break
            finer += [(each, self._place[key_of(part.unit)]) for each in part.parts]
        self._mask(sorted(finer, key=lambda each: each[0].unit.positions[0]))
        return bool(finer)

    def _mask(self, parts: Sequence[tuple[Part, int | None]]) -> None:
        """Make these, with the places of their parents, the present round."""
        self.newest = [part for part, _ in parts]
        for part, parent in parts:
            unit = part.unit
            self._place[key_of(unit)] = len(self.units)
            said = {"label": unit.label, "positions": list(unit.positions), "level": unit.level, "parent": parent}
            self.units.append(said)

    @property
    def leaves(self) -> set[Key]:
        """Units that were not split: each position is in exactly one of them."""
        parents = {unit["parent"] for unit in self.units}
        return {key for key, place in self._place.items() if place not in parents}

    def more_than_parts(self, changes: Mapping[Key, float]) -> dict[Key, str]:
        """Units that were split and change the answer `TOGETHER` times as much as any of their parts alone, and what is
        to be said of each: the parts can replace each other, so that none of them seems to matter."""
        largest: dict[int, float] = {}
        for key, place in self._place.items():
            if (parent := self.units[place]["parent"]) is not None and key in changes:
                largest[parent] = max(largest.get(parent, 0.0), abs(changes[key]))
        return {
            key: f"{self.units[place]['label']} changes the answer's log-probability by {changes[key]:.3g}, each of "
            f"its parts alone by at most {largest[place]:.2g}: they can replace each other"
            for key, place in self._place.items()
            if place in largest and abs(changes[key]) > max(TOGETHER * largest[place], CLEAR)
        }

    @property
    def manifest(self) -> dict[str, Any]:
        return {"split": self.count, "max_masks": self.limit, "units": self.units}

    @property
    def notes(self) -> list[str]:
        if not self.unsplit:
            return []
        which = f"{self.unsplit} of the strongest units were" if self.unsplit > 1 else "one of the strongest units was"
        done = f"{len(self.units)} mask{'s' * (len(self.units) != 1)}"
        return [f"`max_masks` {self.limit}: {which} not split, after {done}; larger units stand for their tokens there"]


def rounds_of(parts: Sequence[Part], count: int) -> Iterator[Sequence[Part]]:
    """What each round may mask, where it is not known which units will be the strongest: some of every place."""
    while parts:
        yield parts
        parts = [each for part in spread([part for part in parts if part.parts], count) for each in part.parts]


def spread(found: Sequence[T], count: int) -> Sequence[T]:
    """At most `count` of them, from all over."""
    return found if len(found) <= count else [found[place * len(found) // count] for place in range(count)]


def check_refine(request: Request, one_by_one: bool) -> None:
    """Raises UserError for what does not go together with `refine`, or is not without it.

    Args:
        one_by_one: whether every token is a unit of its own.
    """
    if not request.refine:
        if request.max_masks is not None:
            raise UserError("`max_masks` bounds the masks of `refine`; add `refine`, or leave it out")
        return
    for name, why in (
        ("pairs", "and `refine` both choose units"),
        ("top", "and `refine` both choose units"),
        ("by_head", "is of fixed units"),
    ):
        if getattr(request, name):
            raise UserError(f"`{name}` {why}; leave out `{name}` or `refine`")
    if not one_by_one:
        raise UserError(
            "`refine` makes its own units, from pictures and sentences down to tokens; leave out `mask_unit` and "
            "`spans` and `regions` that are masked, or `refine`"
        )


def check_rounds(request: Request, windows: int, routes: int, coarsest: int) -> None:
    """Raises UserError where a round would not be of one mask for each unit, or there may be none.

    Args:
        windows, routes: how many; coarsest: how many units the first round has.
    """
    if not request.refine:
        return
    for name, what, count in (("mask_layers", "windows of layers", windows), ("readers", "sets of readers", routes)):
        if count > 1:
            raise UserError(
                f"`refine` splits what is strongest in one window for one set of readers, and `{name}` gives {count} "
                f"{what}; give one, or leave out `refine`"
            )
    if request.max_masks is not None and request.max_masks < coarsest:
        raise UserError(
            f"`max_masks` {request.max_masks}: the coarsest units alone are {coarsest}; give {coarsest} or more"
        )
