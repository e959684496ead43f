"""What is masked in a vision tower, and which of its patches are compared.

In:  for each row of the tower the position of its image token (`model/vision_patches.py`), and the units that were
     asked for. Out: `RowUnit`s, rows that are masked together with what the table says of them, by picture.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from math import isqrt

from mask_impact.errors import UserError
from mask_impact.model.vision_patches import NO_TOKEN
from mask_impact.prompt.inputs import Token
from mask_impact.prompt.prepared import Prepared
from mask_impact.prompt.units import Unit

NOWHERE = (-1, -1)  # of a row that is no patch of a grid


@dataclass(frozen=True)
class RowUnit(Unit):
    """Rows of the tower that are masked together. Its positions are those of its image tokens; NO_TOKEN for a CLS token
    or a register."""

    rows: tuple[int, ...] = ()
    place: tuple[int, int] | None = None  # where patches are masked one by one, row and column, or NOWHERE

    @property
    def position(self) -> int:
        """Where the table has it."""
        return self.positions[0]


class Pictures:
    """The rows of each picture."""

    def __init__(self, positions: Sequence[int], tokens: Sequence[Token], views: int) -> None:
        """
        Args:
            positions: [N] of each row's image token.
            views: how many parts of equal length the rows have (a batch); a CLS token belongs to its part's picture.
        """
        self.tokens = {token.position: token for token in tokens}
        self.rows_of: dict[int, list[int]] = {}  # by position, and all that become no token under NO_TOKEN
        for row, position in enumerate(positions):
            self.rows_of.setdefault(position, []).append(row)
        length = len(positions) // views
        self.picture: list[int] = []  # of each row
        for start in range(0, len(positions), length):
            own = positions[start : start + length]
            known = [self._picture(position) for position in own if position != NO_TOKEN]
            last = known[0] if known else (self.picture[-1] if self.picture else 0)
            for position in own:
                last = last if position == NO_TOKEN else self._picture(position)
                self.picture.append(last)

    def _picture(self, position: int) -> int:
        return self.tokens[position].image or 0

    def rows(self, picture: int) -> list[int]:
        return [row for row, found in enumerate(self.picture) if found == picture]

    @property
    def count(self) -> int:
        return max(self.picture) + 1

    def extra(self, place: tuple[int, int] | None = None) -> list[RowUnit]:
        """A CLS token, registers, or what was cut away: a unit each."""
        rows = self.rows_of.get(NO_TOKEN, [])
        return [RowUnit(f"extra row {row}", (NO_TOKEN,), rows=(row,), place=place) for row in rows]

    def units(self, asked: Sequence[Unit]) -> list[RowUnit]:
        """Units of image tokens, as the rows that become these tokens; none for those that no row becomes."""
        found = [
            unit if isinstance(unit, RowUnit) else
            RowUnit(unit.label, unit.positions, unit.level, self.rows_at(unit.positions))
            for unit in asked
        ]  # fmt: skip
        return [unit for unit in found if unit.rows]

    def rows_at(self, positions: Iterable[int]) -> tuple[int, ...]:
        """The rows that become the image tokens at `positions`."""
        return tuple(row for position in positions for row in self.rows_of.get(position, ()))

    def patches(self) -> list[RowUnit]:
        """Every patch by itself, with its place. The patches of a token are a square of them, row by row."""
        found = []
        for position in sorted(self.rows_of.keys() - {NO_TOKEN}):
            rows, token = self.rows_of[position], self.tokens[position]
            side = isqrt(len(rows))
            for index, row in enumerate(rows):
                place = NOWHERE
                if token.row is not None and token.col is not None and side * side == len(rows):
                    place = (token.row * side + index // side, token.col * side + index % side)
                label = f"patch {place[0]},{place[1]}" if place != NOWHERE else f"patch {index} of token {position}"
                found.append(RowUnit(label, (position,), rows=(row,), place=place))
        return found

    def readers(self, positions: Collection[int] | None, picture: int) -> list[int]:
        """The rows of a picture that are compared: all, or those that become the tokens at `positions`."""
        if positions is None:
            return self.rows(picture)
        chosen = set(self.rows_at(positions))
        return [row for row in self.rows(picture) if row in chosen]

    def of_request(self, prepared: Prepared) -> list[RowUnit]:
        """What a request masks, in the order of the table; what becomes no image token comes last. Raises UserError."""
        if prepared.request.mask_unit == "patch":
            return [*self.patches(), *self.extra(NOWHERE)]
        asked = self.units(prepared.units(prepared.inputs.tokens))
        if not asked:
            raise UserError("no patch of the vision tower becomes any of the image tokens to mask; choose others")
        return [*asked, *self.extra()] if prepared.plain else asked


def check_readers(pictures: Pictures, positions: Collection[int] | None) -> None:
    """Raises UserError where no patch becomes any of the tokens that are to read."""
    if positions is not None and not any(pictures.rows_of.get(position) for position in positions):
        raise UserError("`readers` name no image token that a patch becomes; name image tokens, such as image:0")
