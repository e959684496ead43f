"""How well scores agree with effects, with intervals: rank correlation, hits, and a paired bootstrap over prompts.

Shapes: n tokens of a prompt, P prompts, B draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 2000


@dataclass(frozen=True)
class Interval:
    """A mean over prompts with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} ({self.low:.3f} to {self.high:.3f})"


def bootstrap(values: Sequence[float], seed: int = 0, draws: int = DRAWS) -> Interval:
    """Of [P] values, one for each prompt. The same seed draws the same prompts, so that differences are paired."""
    found = np.asarray(values, np.float64)
    drawn = np.random.default_rng(seed).integers(len(found), size=(draws, len(found)))
    low, high = np.quantile(found[drawn].mean(axis=1), (0.025, 0.975))
    return Interval(float(found.mean()), float(low), float(high))


def ranks(values: np.ndarray) -> np.ndarray:
    """[n] ranks from 0, equal values share the mean of theirs."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return (last - (count + 1) / 2)[place]


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Rank correlation; 0 where all values of one are equal."""
    first, second = (ranks(each) - (len(each) - 1) / 2 for each in (a, b))
    size = np.sqrt((first**2).sum() * (second**2).sum())
    return float((first * second).sum() / size) if size else 0.0


def hits(scores: np.ndarray, effect: np.ndarray, count: int) -> float:
    """The share of the `count` tokens of the largest effect that are among the `count` of the largest score."""
    best = [set(np.argsort(-each, kind="stable")[:count].tolist()) for each in (scores, effect)]
    return len(best[0] & best[1]) / count
