"""Which heads move the name? In prompts such as "When Mary and John went to the store, John gave a drink to".

In:  prompts that the model gets right. On some, one head at a time stops reading the indirect object at the last
     position (`--by-head --readers last`). On others, the strongest heads together (`--heads`), and all but these
     (`--heads "not ..."`), beside as many heads drawn at random.
Out: output/validation/heads.jsonl and heads_together.jsonl, one line a prompt; a run that was stopped goes on.

    python -m validation.heads --prompts 2
    python -m validation.heads
    python -m validation.heads --untrained   # the same prompts with random weights
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from validation import prompts
from validation.real import Real, effects, is_right, prepared
from validation.stored import Store

SEED, COUNT, TOGETHER = 1, 20, 10  # other prompts than those of validation/measure.py; of each half; heads


def unread(real: Real, prompt: prompts.Prompt, **asked: Any) -> pd.DataFrame:
    """The effects where the last position stops reading the indirect object."""
    places = real.positions(prompt, "object")
    contrast = prompt.answer, prompt.other
    return effects(real, prompt, spans=[f"{places[0]}-{places[-1]}"], readers="last", contrast=contrast, **asked)


def by_head(real: Real, prompt: prompts.Prompt) -> list[list[float]]:
    """[layers, heads] how much less the answer is preferred to the other name, in logits."""
    table = unread(real, prompt, by_head=True).sort_values(["first_layer", "head"])
    heads = table["head"].max() + 1
    return [[float(f"{-change:.5g}") for change in row] for row in table.contrast_change.to_numpy().reshape(-1, heads)]


def strongest(found: list[list[list[float]]], count: int = TOGETHER) -> list[tuple[int, int]]:
    """The heads (layer, head) with the largest mean over prompts."""
    mean = np.mean(found, axis=0)
    order = np.argsort(-mean, axis=None, kind="stable")[:count]
    return [(int(place) // mean.shape[1], int(place) % mean.shape[1]) for place in order]


def together(real: Real, prompt: prompts.Prompt, chosen: list[tuple[int, int]]) -> dict[str, float]:
    """What the answer loses, in logits of preference, when these heads stop reading the name, and when others do."""
    layers, heads = real.model.config.num_hidden_layers, real.model.config.num_attention_heads
    others = [each for each in itertools.product(range(layers), range(heads)) if each not in chosen]
    control = random.Random(prompt.text).sample(others, len(chosen))
    asked = {"these": listed(chosen), "all others": "not " + listed(chosen), "at random": listed(control), "all": ""}
    return {name: -float(unread(real, prompt, heads=each).contrast_change.iloc[0]) for name, each in asked.items()}


def listed(heads: list[tuple[int, int]]) -> str:
    return ",".join(f"{layer}.{head}" for layer, head in heads)


def main(argv: list[str] | None = None) -> int:
    def right(trained: Real) -> Iterator[prompts.Prompt]:
        return (prompt for prompt in prompts.indirect_objects(SEED) if is_right(trained, prompt) == "right")

    real, half, end = prepared(argv, __doc__, COUNT, right, "in each half", times=2)
    single, joint = Store(f"heads{end}"), Store(f"heads_together{end}")
    found = [single.get(prompt.text, lambda prompt=prompt: by_head(real, prompt)) for prompt in half[::2]]
    chosen = strongest(found)
    for prompt in half[1::2]:
        key = f"{listed(chosen)}: {prompt.text}"
        joint.get(key, lambda prompt=prompt: together(real, prompt, chosen))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
