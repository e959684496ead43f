"""The measurements of validation/ranking.py: for each prompt its scores, its exact effects, and its curves.

In:  SmolLM2-135M-Instruct (or the same with random weights), prompts that it gets right.
Out: output/validation/*.jsonl, one line a prompt; a run that was stopped goes on where it was.

    python -m validation.measure program --prompts 5   # a minute
    python -m validation.measure program               # the program's scores and the effects
    python -m validation.measure others                # attention, gradients, value zeroing
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from validation import prompts
from validation.real import Real, is_right, loaded
from validation.removal import log_probabilities
from validation.scores import of_others, of_tables
from validation.stored import Store

TASKS = {"names": prompts.indirect_objects, "facts": prompts.facts}
SEED = 0


def chosen(real: Real, count: int) -> Iterator[prompts.Prompt]:
    """The first `count` prompts of each task that the model gets right, by turns; the funnel is kept in a store."""
    store = Store("right")
    found = {
        task: (p for p in make(SEED) if store.get(p.text, lambda p=p: is_right(real, p)) == "right")
        for task, make in TASKS.items()
    }
    for together in itertools.islice(itertools.zip_longest(*found.values()), count):
        yield from (prompt for prompt in together if prompt)


def program(real: Real, prompt: prompts.Prompt) -> dict[str, Any]:
    """The values of single layers [T, n], and by exact removal the change of ln p(answer) [n - 1]."""
    ids, answer = real.ids(prompt.text), real.ids(prompt.answer)[0]
    everything = tuple(range(len(ids)))
    without = [everything[:i] + everything[i + 1 :] for i in range(len(ids) - 1)]
    found = log_probabilities(real.model, ids, answer, [everything, *without])
    effect = [found[kept] - found[everything] for kept in without]
    tables = {name: [shortened(layer) for layer in values] for name, values in of_tables(real, prompt.text).items()}
    return {"task": prompt.task, "tokens": [real.tokenizer.decode([i]) for i in ids], "logprob": found[everything],
            "effect": shortened(effect), "tables": tables}  # fmt: skip


def others(real: Real, prompt: prompts.Prompt) -> dict[str, Any]:
    """Scores [n] by everything else."""
    answer = real.ids(prompt.answer)[0]
    seed = sum(map(ord, prompt.text))
    scores, missed = of_others(real, prompt.text, answer, seed)
    return {
        "task": prompt.task,
        "scores": {name: shortened(values) for name, values in scores.items()},
        "completeness missed by": missed,
    }


def shortened(values: Iterable[float]) -> list[float]:
    """Six digits of each."""
    return [float(f"{value:.6g}") for value in values]


STAGES: dict[str, Callable[[Real, prompts.Prompt], Any]] = {"program": program, "others": others}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--prompts", type=int, default=200, help="of each task")
    given = parser.parse_args(argv)
    real, store = loaded(), Store(given.stage)
    for prompt in chosen(real, given.prompts):
        store.get(prompt.text, lambda prompt=prompt: STAGES[given.stage](real, prompt))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
