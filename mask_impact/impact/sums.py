"""Numbers of many masked units, gathered block by block in arrays: a prompt has thousands of tokens, and dozens of
layers.

In:  the units of a block and a value for each. Out: for each unit what it comes to.
"""

from collections.abc import Hashable, Iterator, Sequence
from typing import Generic, TypeVar

import numpy as np

Unit = TypeVar("Unit", bound=Hashable)


class _Rows(Generic[Unit]):
    """Each unit's row of an array. Most blocks have the same units as the one before."""

    def __init__(self) -> None:
        self.row: dict[Unit, int] = {}
        self._units: Sequence[Unit] = ()
        self._rows = np.zeros(0, np.int64)

    def of(self, units: Sequence[Unit]) -> np.ndarray:
        if units != self._units:
            self._units = units
            self._rows = np.array([self.row.setdefault(unit, len(self.row)) for unit in units], np.int64)
        return self._rows

    def grown(self, numbers: np.ndarray, value: float) -> np.ndarray:
        """`numbers` with a row for every unit; new ones hold `value`."""
        missing = len(self.row) - len(numbers)
        return np.concatenate((numbers, np.full(missing, value, numbers.dtype))) if missing else numbers


class Sums(Generic[Unit]):
    """Of units at one query position, over layers: the sum of squares, and where the value furthest from 0 is."""

    def __init__(self) -> None:
        self._rows: _Rows[Unit] = _Rows()
        self._squares = np.zeros(0)
        self._furthest = np.zeros(0)
        self._layer = np.zeros(0, np.int64)

    def add(self, layer: int, units: Sequence[Unit], values: np.ndarray) -> None:
        """One value [P] for each of P units."""
        rows, values = self._rows.of(units), np.abs(values.astype(np.float64))
        self._squares = self._rows.grown(self._squares, 0.0)
        self._furthest = self._rows.grown(self._furthest, -1.0)
        self._layer = self._rows.grown(self._layer, 0)
        np.add.at(self._squares, rows, values * values)
        further = values > self._furthest[rows]
        self._furthest[rows[further]] = values[further]
        self._layer[rows[further]] = layer

    def items(self) -> Iterator[tuple[Unit, float, int]]:
        """(unit, sum of squares, layer of the value furthest from 0) in the order in which the units came."""
        return zip(self._rows.row, self._squares.tolist(), self._layer.tolist(), strict=True)


class Largest(Generic[Unit]):
    """Each unit's largest value; values are 0 or more."""

    def __init__(self) -> None:
        self._rows: _Rows[Unit] = _Rows()
        self._largest = np.zeros(0)

    def add(self, units: Sequence[Unit], values: np.ndarray) -> None:
        """One value [P] for each of P units."""
        rows = self._rows.of(units)
        self._largest = self._rows.grown(self._largest, 0.0)
        np.maximum.at(self._largest, rows, values.astype(np.float64))

    def items(self) -> Iterator[tuple[Unit, float]]:
        return zip(self._rows.row, self._largest.tolist(), strict=True)
