"""Where does attention rest without taking much? Attention weight of a token, and what both ablations make of it.

In:  prompts that the model gets right.
Out: output/validation/sinks.jsonl: for each prompt and position the mean attention weight over layers, whether the
     program labels it a sink, and by both ablations, out of the softmax and with its value zeroed, the L2 distance of
     Full (root of the sum of squares over layers) and by how much ln p(answer) falls (`--effects`).

    python -m validation.sinks --prompts 2
    python -m validation.sinks
    python -m validation.sinks --untrained
"""

from __future__ import annotations

import functools
import sys
from typing import Any

import numpy as np

from mask_impact import run_masking_experiment
from validation.measure import TASKS, chosen, shortened
from validation.prompts import Prompt
from validation.real import Real, falls, prepared
from validation.scores import AGGREGATES
from validation.stored import Store

ABLATIONS = ("neg-inf", "zero-value")
COUNT = 20


def sinks(real: Real, prompt: Prompt) -> dict[str, Any]:
    """Of each position; the labels are those of the run out of the softmax."""
    found: dict[str, Any] = {}
    for ablation in ABLATIONS:
        table = run_masking_experiment(
            prompt.text, real.name, model=real.model, tokenizer=real.tokenizer, variants="full", metrics="l2,attention",
            ablation=ablation, no_check=True,
        )  # fmt: skip
        columns = {
            column: table.pivot(index="layer", columns="token_position", values=column).to_numpy(np.float64)
            for column in ("l2_distance", "attention_weight")
        }
        found[ablation] = shortened(AGGREGATES["root of squares"](columns["l2_distance"]))
        found["attention"] = shortened(columns["attention_weight"].mean(axis=0))
        found.setdefault("labelled", [sink["position"] for sink in table.attrs["run"]["sinks"]])
        found[f"{ablation}, fall"] = shortened(falls(real, prompt, ablation=ablation))
    return found


def main(argv: list[str] | None = None) -> int:
    right = functools.partial(chosen, count=sys.maxsize)  # by turns, so the first ones are as many of each task
    real, prompts, end = prepared(argv, __doc__, COUNT, right, "of each task", times=len(TASKS))
    store = Store(f"sinks{end}")
    for prompt in prompts:
        store.get(prompt.text, lambda prompt=prompt: sinks(real, prompt))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
