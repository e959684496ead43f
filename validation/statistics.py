"""How well scores agree with effects, with intervals: rank correlation, hits, and a paired bootstrap over prompts.

Shapes: n tokens of a prompt, P prompts, B draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pandas as pd

DRAWS, JOINT_DRAWS = 2000, 500
Row = TypeVar("Row")


@dataclass(frozen=True)
class Interval:
    """A mean over prompts with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return "none"
        return f"{self.mean:.3f} ({self.low:.3f} to {self.high:.3f})"


def bootstrap(values: Sequence[float], seed: int = 0, draws: int = DRAWS) -> Interval:
    """Of [P] values, one for each prompt. The same seed draws the same prompts, so that differences are paired."""
    found = np.asarray(values, np.float64)
    drawn = np.random.default_rng(seed).integers(len(found), size=(draws, len(found)))
    low, high = np.quantile(found[drawn].mean(axis=1), (0.025, 0.975))
    return Interval(float(found.mean()), float(low), float(high))


def bootstrapped(rows: Sequence[Row], measure: Callable[[Sequence[Row]], float], seed: int = 0) -> Interval:
    """Of what is measured on all prompts together, from one row for each; draws without a value (NaN) are left out."""
    rng, value = np.random.default_rng(seed), measure(rows)
    if math.isnan(value):
        return Interval(value, value, value)
    drawn = rng.integers(len(rows), size=(JOINT_DRAWS, len(rows)))
    low, high = np.nanquantile([measure([rows[place] for place in draw]) for draw in drawn], (0.025, 0.975))
    return Interval(value, float(low), float(high))


def signed(found: Interval) -> str:
    return f"{found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f})"


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Rank correlation, equal values with the mean of their ranks; 0 where all values of one are equal."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(np.corrcoef(pd.Series(a).rank(), pd.Series(b).rank())[0, 1])


def hits(scores: np.ndarray, effect: np.ndarray, count: int) -> float:
    """The share of the `count` tokens of the largest effect that are among the `count` of the largest score."""
    best = [set(np.argsort(-each, kind="stable")[:count].tolist()) for each in (scores, effect)]
    return len(best[0] & best[1]) / count
