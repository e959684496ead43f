"""Does the score of the word that decides come first? "The keys near the car clearly" -> " are", because of "keys".

In:  agreement prompts of prompts.py in which the model prefers the right verb, as in Mohebbi et al. 2023.
Out: output/validation/cues.jsonl: for each prompt the scores [n] by the program, attention and value zeroing, and by
     `--effects --contrast` how much less the right verb is preferred without each token, in nats.

    python -m validation.cues --prompts 3
    python -m validation.cues
    python -m validation.cues --untrained   # the same architecture and prompts with random weights
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from validation import prompts
from validation.measure import shortened
from validation.real import Real, falls, prepared
from validation.scores import AGGREGATES, of_attention, of_tables, value_zeroing
from validation.stored import Store

SEED, COUNT = 3, 100
EFFECTS = "exact effects"


@torch.inference_mode()
def prefers(real: Real, prompt: prompts.Prompt) -> bool:
    """Whether the right verb is likelier than the wrong one."""
    logits = real.model(torch.tensor([real.ids(prompt.text)]), logits_to_keep=1).logits[0, -1]
    return bool(logits[real.ids(prompt.answer)[0]] > logits[real.ids(prompt.other)[0]])


def cues(real: Real, prompt: prompts.Prompt) -> dict[str, Any]:
    """The scores, and where cue and distractor are. The adverb at the end predicts the verb."""
    ids = torch.tensor([real.ids(prompt.text)])
    full = of_tables(real, prompt.text)["Full l2"]
    scores = {f"Full l2, {how}": aggregate(full) for how, aggregate in AGGREGATES.items()}
    scores |= of_attention(real.model, ids)
    scores["value zeroing, mean"] = value_zeroing(real.model, ids)[:, -1].mean(dim=0).numpy()
    scores[EFFECTS] = falls(real, prompt, "contrast_change", contrast=(prompt.answer, prompt.other))
    places = {part: real.positions(prompt, part) for part in prompt.parts}
    return places | {"scores": {name: shortened(values) for name, values in scores.items()}}


def main(argv: list[str] | None = None) -> int:
    def right(trained: Real) -> Iterator[prompts.Prompt]:
        return (prompt for prompt in prompts.agreement(SEED) if prefers(trained, prompt))

    real, chosen, end = prepared(argv, __doc__, COUNT, right)
    store = Store(f"cues{end}")
    for prompt in chosen:
        store.get(prompt.text, lambda prompt=prompt: cues(real, prompt))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
