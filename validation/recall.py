"""Until which layer does the last position need the subject, and until which the relation, of a fact?

In:  facts that the model gets right. The last position stops reading the subject's tokens, or the relation's, in a
     sliding window of layers, and from each layer on (`--route`, `--mask-layers window:5` and `from`).
Out: output/validation/recall.jsonl, one line a prompt: how far ln p(answer) falls; a run that was stopped goes on.

    python -m validation.recall --prompts 2
    python -m validation.recall
    python -m validation.recall --untrained   # the same architecture and prompts with random weights
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from validation import prompts
from validation.real import Real, effects, is_right, prepared
from validation.stored import Store

SEED, COUNT, WINDOW = 2, 60, 5
PARTS = ("subject", "relation")


def recall(real: Real, prompt: prompts.Prompt) -> dict[str, Any]:
    """For each part and kind of window: the fall of ln p(answer) by the first masked layer."""
    found: dict[str, Any] = {"tokens": {}}
    for part in PARTS:
        places = [position for position in real.positions(prompt, part) if position > 0]
        found["tokens"][part] = len(places)
        for layers in (f"window:{WINDOW}", "from"):
            spans = [f"{places[0]}-{places[-1]}"]
            table = effects(real, prompt, spans=spans, readers="last", mask_layers=layers)
            falls = -table.sort_values("first_layer").logprob_change
            found[f"{part}, {layers}"] = [float(f"{fall:.5g}") for fall in falls]
    return found


def main(argv: list[str] | None = None) -> int:
    def right(trained: Real) -> Iterator[prompts.Prompt]:
        with_both = (p for p in prompts.facts(SEED) if all(set(trained.positions(p, part)) - {0} for part in PARTS))
        return (prompt for prompt in with_both if is_right(trained, prompt) == "right")

    real, chosen, end = prepared(argv, __doc__, COUNT, right)
    store = Store(f"recall{end}")
    for prompt in chosen:
        store.get(prompt.text, lambda prompt=prompt: recall(real, prompt))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
