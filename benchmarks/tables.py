"""The output of the bench: tables of medians with the smallest and largest value."""

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """One quantity over the repetitions."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        if self.low == self.high:
            return _short(self.median)
        return f"{_short(self.median)} ({_short(self.low)}-{_short(self.high)})"


Cell = str | int | float | Spread
Sample = dict[str, float]  # what one repetition measured, by key
Labels = dict[str, str]  # key -> its line in a table


@dataclass
class Table:
    """One table of the output."""

    title: str
    columns: list[str]
    rows: list[list[Cell]]
    notes: list[str]

    @classmethod
    def of_samples(
        cls, title: str, labels: Labels, targets: Labels, columns: dict[str, list[Sample]], notes: list[str]
    ) -> "Table":
        """One line per label, one column per length, the targets last."""
        rows: list[list[Cell]] = []
        for key, label in labels.items():
            spreads = [Spread.of([sample[key] for sample in samples]) for samples in columns.values()]
            rows.append([label, *spreads, *[targets.get(key, "")] * bool(targets)])
        return cls(title, ["", *columns, *["target"] * bool(targets)], rows, notes)

    def __str__(self) -> str:
        grid = [self.columns, *([_text(cell) for cell in row] for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
        lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in grid]
        rule = "  ".join("-" * width for width in widths)
        return "\n".join([f"\n{self.title}", lines[0], rule, *lines[1:], *(f"  * {note}" for note in self.notes)])


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _text(cell: Cell) -> str:
    return _short(cell) if isinstance(cell, float) else str(cell)


def say(what: str) -> None:
    """Progress, on stderr."""
    print(f"bench: {what}", file=sys.stderr, flush=True)
