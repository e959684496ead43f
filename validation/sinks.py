"""Where does attention rest without taking much? Attention weight of a token, and what both ablations make of it.

In:  prompts that the model gets right.
Out: output/validation/sinks.jsonl: for each prompt and position the mean attention weight over layers, and the L2
     distance of Full (root of the sum of squares over layers), out of the softmax and with its value zeroed.

    python -m validation.sinks --prompts 2
    python -m validation.sinks
    python -m validation.sinks --untrained
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from mask_impact import run_masking_experiment
from validation.measure import chosen, shortened
from validation.real import Real, loaded
from validation.scores import AGGREGATES
from validation.stored import Store

ABLATIONS = ("neg-inf", "zero-value")


def sinks(real: Real, text: str) -> dict[str, Any]:
    """Of each position."""
    found: dict[str, Any] = {}
    for ablation in ABLATIONS:
        table = run_masking_experiment(
            text, real.name, model=real.model, tokenizer=real.tokenizer, variants="full", metrics="l2,attention",
            ablation=ablation, no_check=True,
        )  # fmt: skip
        columns = {
            column: table.pivot(index="layer", columns="token_position", values=column).to_numpy(np.float64)
            for column in ("l2_distance", "attention_weight")
        }
        found[ablation] = shortened(AGGREGATES["root of squares"](columns["l2_distance"]))
        found["attention"] = shortened(columns["attention_weight"].mean(axis=0))
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=20, help="of each task")
    parser.add_argument("--untrained", action="store_true", help="random weights")
    given = parser.parse_args(argv)
    prompts = list(chosen(loaded(), given.prompts))
    real = loaded(untrained=given.untrained)
    store = Store("sinks_untrained" if given.untrained else "sinks")
    for prompt in prompts:
        store.get(prompt.text, lambda prompt=prompt: sinks(real, prompt.text))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
