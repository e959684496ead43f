"""What happens to the answer when the tokens that a score puts first are removed, or alone are kept.

In:  the scores of validation/measure.py.
Out: output/validation/curves.jsonl: for each prompt ln p(answer) of the whole prompt, and for each way of scoring that
     of the prompt without its first tokens ("removed") and with these alone ("kept"), at each of SHARES.

    python -m validation.curves --prompts 2
    python -m validation.curves
"""

from __future__ import annotations

import argparse
import math
from typing import Any

import numpy as np

from validation.measure import chosen
from validation.real import Real, loaded
from validation.removal import log_probabilities
from validation.scores import AGGREGATES
from validation.stored import Store

SHARES = (0.1, 0.2, 0.3, 0.5, 0.7)  # of the tokens that are ranked: all but the first and the last
PROGRAM = [f"Full l2, {how}" for how in ("root of squares", "largest", "mean")]
OTHERS = [
    "attention weight, mean", "attention weight, largest", "attention rollout", "value zeroing, mean",
    "value zeroing, rollout", "gradient x input", "integrated gradients", "random", "position, later first",
]  # fmt: skip
EXACT = "exact effects"


def scores_of(program: dict[str, Any], others: dict[str, Any]) -> dict[str, np.ndarray]:
    """Every way of scoring [n]; the exact effect of the last position, which is never removed, counts as 0."""
    found = {}
    for name, layers in program["tables"].items():
        for how, aggregate in AGGREGATES.items():
            found[f"{name}, {how}"] = aggregate(np.array(layers))
    found |= {name: np.array(values) for name, values in others["scores"].items()}
    return found | {EXACT: np.array([*(-change for change in program["effect"]), 0.0])}


def sets(scores: np.ndarray) -> dict[str, list[tuple[int, ...]]]:
    """The kept positions when the first of the ranking are removed, and when they alone are kept, by share.

    As in the program's rankings, position 0 is not ranked; it is always kept, and so is the last, which predicts.
    """
    last = len(scores) - 1
    order = (1 + np.argsort(-scores[1:last], kind="stable")).tolist()
    counts = [math.ceil(share * len(order)) for share in SHARES]
    return {
        "removed": [tuple(sorted([0, *order[count:], last])) for count in counts],
        "kept": [tuple(sorted([0, *order[:count], last])) for count in counts],
    }


def curves(real: Real, text: str, answer: str, scores: dict[str, np.ndarray]) -> dict[str, Any]:
    """Of every way of scoring, "removed" and "kept" by share; "whole" and "empty" are without and with all removed."""
    ids = real.ids(text)
    wanted = {name: sets(values) for name, values in scores.items()}
    whole, empty = tuple(range(len(ids))), (0, len(ids) - 1)
    every = {each for both in wanted.values() for part in both.values() for each in part}
    found = log_probabilities(real.model, ids, real.ids(answer)[0], {whole, empty, *every})
    lines = {
        name: {kind: [float(f"{found[each]:.5g}") for each in part] for kind, part in both.items()}
        for name, both in wanted.items()
    }
    return {"whole": found[whole], "empty": found[empty], "curves": lines}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=200, help="of each task; those that have scores already")
    given = parser.parse_args(argv)
    program, others, store, real = Store("program").known, Store("others").known, Store("curves"), loaded()
    for prompt in chosen(real, given.prompts):
        if prompt.text not in program or prompt.text not in others:
            continue
        scores = scores_of(program[prompt.text], others[prompt.text])
        shown = {name: scores[name] for name in (*PROGRAM, *OTHERS, EXACT)}
        store.get(prompt.text, lambda p=prompt, s=shown: {"task": p.task} | curves(real, p.text, p.answer, s))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
