"""How large is large: what a percentile among other prompts' tokens (`--null-runs`) tells of what the answer needs.

In:  output/validation/program.jsonl: single-layer distances and exact effects of 400 prompts of two kinds.
Out: Markdown on stdout. A token is needed if the answer is half as likely without it, and idle if that changes
     ln p(answer) by less than IDLE. Position 0 and the last are left out, as in rankings. Every interval is a 95 %
     bootstrap over prompts.

    python -m validation.null
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mask_impact.impact.null import Null
from validation.scores import AGGREGATES
from validation.statistics import bootstrap, bootstrapped, signed, spearman
from validation.stored import Store

NEEDED, IDLE, LARGE = math.log(2), 0.1, 95.0
TASKS = {"names": "indirect objects", "facts": "facts"}


@dataclass
class Prompt:
    """One prompt: its ranked tokens."""

    task: str
    layers: np.ndarray  # [T, n] L2 distances of Full
    falls: np.ndarray  # [n] of ln p(answer), exact

    @property
    def values(self) -> np.ndarray:
        """[n] as the program ranks them."""
        return AGGREGATES["root of squares"](self.layers)

    @property
    def ranks(self) -> np.ndarray:
        """[n] 0 for the largest."""
        return np.argsort(np.argsort(-self.values, kind="stable"), kind="stable")


def prompts() -> list[Prompt]:
    return [
        Prompt(found["task"], np.array(found["tables"]["Full l2"])[:, 1:-1], -np.array(found["effect"])[1:])
        for found in Store("program").known.values()
    ]


# --- null distributions ---------------------------------------------------------------------------------------
def null_of(values: Sequence[Sequence[float]]) -> Null:
    return Null.of([{"text": each, "template": [], "image": [], "output": []} for each in values])


def percentiles(null: Null, values: np.ndarray) -> np.ndarray:
    return np.array([null.percentile("text", value) for value in values])


def of_all(prompt: Prompt, others: Sequence[Prompt]) -> np.ndarray:
    """[n] among all tokens of the other prompts: what the program says."""
    return percentiles(null_of([list(each.values) for each in others]), prompt.values)


def of_largest(prompt: Prompt, others: Sequence[Prompt]) -> np.ndarray:
    """[n] among the largest token of each of the other prompts."""
    return percentiles(null_of([[each.values.max()] for each in others]), prompt.values)


def by_layer(prompt: Prompt, others: Sequence[Prompt]) -> np.ndarray:
    """[T, n] among all tokens of the other prompts in the same layer."""
    layers = range(len(prompt.layers))
    nulls = [null_of([list(each.layers[layer]) for each in others]) for layer in layers]
    return np.stack([percentiles(nulls[layer], prompt.layers[layer]) for layer in layers])


def others_of(prompt: Prompt, every: Sequence[Prompt], same: bool) -> list[Prompt]:
    """The other prompts of the same kind, or those of the other kind."""
    return [each for each in every if each is not prompt and (each.task == prompt.task) == same]


# --- what they tell -------------------------------------------------------------------------------------------
Rows = Sequence[tuple[Prompt, np.ndarray]]  # prompts with their percentiles


def share_needed(rows: Rows) -> float:
    """Of the tokens with a percentile of LARGE or more."""
    found = [prompt.falls[large >= LARGE] >= NEEDED for prompt, large in rows]
    return mean(np.concatenate(found))


def share_needed_by_rank(rows: Rows) -> float:
    """Of as many tokens, the first of the rankings; of the rank at which they run out, the mean."""
    count = sum(int((large >= LARGE).sum()) for _, large in rows)
    ranks = np.concatenate([prompt.ranks for prompt, _ in rows])
    needed = np.concatenate([prompt.falls >= NEEDED for prompt, _ in rows])
    total, left = 0.0, count
    for rank in range(int(ranks.max()) + 1):
        mine = needed[ranks == rank]
        taken = min(left, len(mine))
        total, left = total + taken * mine.mean(), left - taken
    return total / count if count else math.nan


def found_of_needed(rows: Rows) -> float:
    """The share of the needed tokens that reach LARGE."""
    return mean(np.concatenate([large[prompt.falls >= NEEDED] >= LARGE for prompt, large in rows]))


def idle_that_reach_it(rows: Rows) -> float:
    return mean(np.concatenate([large[np.abs(prompt.falls) < IDLE] >= LARGE for prompt, large in rows]))


def apart_at_a_rank(rows: Rows) -> float:
    """Of two tokens of the same rank in their prompts, one needed and one not: how often the needed one has the larger
    percentile. 0.5 is chance: then percentiles add nothing to ranks."""
    ranks = np.concatenate([prompt.ranks for prompt, _ in rows])
    needed = np.concatenate([prompt.falls >= NEEDED for prompt, _ in rows])
    large = np.concatenate([each for _, each in rows])
    right = pairs = 0.0
    for rank in np.unique(ranks):
        yes, no = large[(ranks == rank) & needed], np.sort(large[(ranks == rank) & ~needed])
        right += (np.searchsorted(no, yes, "left") + np.searchsorted(no, yes, "right")).sum() / 2
        pairs += len(yes) * len(no)
    return right / pairs if pairs else math.nan


def falls_of_the_first(rows: Rows) -> float:
    """Rank correlation over prompts of the first token's percentile with how far the answer falls without it."""
    firsts = [(large[prompt.ranks == 0][0], prompt.falls[prompt.ranks == 0][0]) for prompt, large in rows]
    return spearman(*np.array(firsts).T)


def mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else math.nan


QUESTIONS: dict[str, Callable[[Rows], float]] = {
    f"needed, of the tokens at {LARGE:.0f} or above": share_needed,
    "needed, of as many by rank": share_needed_by_rank,
    f"at {LARGE:.0f} or above, of the needed tokens": found_of_needed,
    f"at {LARGE:.0f} or above, of the idle tokens": idle_that_reach_it,
    "needed one larger, of two tokens of a rank": apart_at_a_rank,
    "first token: percentile with fall": falls_of_the_first,
}
NULLS: dict[str, Callable[[Prompt, Sequence[Prompt]], np.ndarray]] = {"all tokens": of_all, "the largest": of_largest}


def table(task: str, every: Sequence[Prompt]) -> Iterator[str]:
    mine = [prompt for prompt in every if prompt.task == task]
    tokens, needed = sum(len(each.falls) for each in mine), sum(int((each.falls >= NEEDED).sum()) for each in mine)
    yield f"{len(mine)} prompts of {TASKS[task]}, {tokens} tokens, {needed} of them needed"
    yield f"| {TASKS[task]}: percentile among | {' | '.join(QUESTIONS)} |"
    yield "|---" * (len(QUESTIONS) + 1) + "|"
    for kind, same in (("other prompts of the kind", True), ("prompts of the other kind", False)):
        if not all(others_of(prompt, every, same) for prompt in mine):
            continue  # a single prompt
        for what, percentile in NULLS.items():
            rows = [(prompt, percentile(prompt, others_of(prompt, every, same))) for prompt in mine]
            cells = [str(bootstrapped(rows, question)) for question in QUESTIONS.values()]
            yield f"| {what} of {kind} | {' | '.join(cells)} |"


def rankings(task: str, every: Sequence[Prompt]) -> Iterator[str]:
    """Whether a ranking by percentiles of single layers would be better: rank correlation with effects."""
    mine = [prompt for prompt in every if prompt.task == task]
    found: dict[str, list[float]] = {"root of squares": [], "mean percentile": [], "largest percentile": []}
    for prompt in mine:
        layers = by_layer(prompt, others_of(prompt, every, False))
        scores: tuple[Any, ...] = prompt.values, layers.mean(axis=0), layers.max(axis=0)
        for name, score in zip(found, scores, strict=True):
            found[name].append(spearman(score, np.abs(prompt.falls)))
    default = found["root of squares"]
    for name, each in found.items():
        difference = signed(bootstrap(np.subtract(each, default).tolist())) if each is not default else ""
        yield f"| {TASKS[task]}: {name} | {bootstrap(each)} | {difference} |"


def main() -> int:
    every = prompts()
    for task in TASKS:
        print("\n" + "\n".join(table(task, every)))
    print("\n| ranked by | rank correlation with effects | minus the default's |\n|---|---|---|")
    for task in TASKS:
        print("\n".join(rankings(task, every)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
