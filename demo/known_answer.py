"""Does masking find the sentence that holds the answer? The demo model against chance and the untrained model.

In:  held-out retrieval prompts ("Tom has a red ball. Ann has a blue cup. Ann's cup is"), the demo model, and the same
     architecture with random weights.
Out: how often the most important statement token (Full L2 at the last position, joined over layers by the root of the
     sum of squares) lies in the asked statement, how often it is the item of that statement, and how often it is the
     color word. Each share has a 95 % Wilson interval.

    python demo/known_answer.py --count 20
    python demo/known_answer.py
"""

import argparse
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

import torch
from evaluate_text import FOLDER, wilson_interval
from text_data import RetrievalPrompt, held_out_prompts
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from mask_impact.impact.run import run
from mask_impact.jobs.prepared import fitted
from mask_impact.options import Request
from mask_impact.prompt.inputs import text_inputs

SEED = 20  # neither training nor the choice of the ranking has used prompts of this seed


@dataclass(frozen=True)
class Hits:
    """How many of `count` prompts had the top statement token in the right place."""

    model: str
    count: int
    asked: int  # in the asked statement
    item: int  # on the asked statement's item
    color: int  # on the asked statement's color, the answer itself
    chance_asked: float  # mean over prompts of 1 / statements
    chance_token: float  # mean over prompts of 1 / statement tokens


def statement_tokens(tokenizer: Any, prompt: RetrievalPrompt) -> list[int | None]:
    """For each token of the prompt the index of the statement it lies in, or None."""
    encoded = tokenizer(prompt.prompt, return_offsets_mapping=True)
    places: list[int | None] = []
    for start, end in encoded["offset_mapping"]:
        inside = [i for i, (first, last) in enumerate(prompt.statements) if first < end <= last and start < last]
        places.append(inside[0] if inside else None)
    return places


def measure(name: str, model: Any, tokenizer: Any, prompts: Sequence[RetrievalPrompt]) -> Hits:
    """Analyse every prompt with one output token and look where the top statement token is."""
    asked = item = color = 0
    chance_asked = chance_token = 0.0
    for prompt in prompts:
        places = statement_tokens(tokenizer, prompt)
        inputs = text_inputs(tokenizer, prompt.prompt)
        wanted = Request(prompt.prompt, variants=("full",))
        found = run(model, fitted(tokenizer, model.config, inputs, wanted), lambda block: None)
        ranked = [position for position, _, _ in found.top.ranked() if places[position] is not None]
        full_stop = max(position for position, place in enumerate(places) if place == prompt.asked)
        asked += places[ranked[0]] == prompt.asked
        item += ranked[0] == full_stop - 1  # a statement ends "... COLOR ITEM ."
        color += ranked[0] == full_stop - 2
        chance_asked += 1 / len(prompt.statements)
        chance_token += 1 / len(ranked)
    count = len(prompts)
    return Hits(name, count, asked, item, color, chance_asked / count, chance_token / count)


def trained_and_untrained() -> tuple[Any, Any, Any]:
    """(demo model, the same architecture with seeded random weights, tokenizer)."""
    model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()
    torch.manual_seed(0)
    untrained = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(FOLDER), dtype=torch.float32).eval()
    return model, untrained, AutoTokenizer.from_pretrained(FOLDER)


def table(results: Sequence[Hits]) -> str:
    lines = [
        f"{results[0].count} held-out prompts; top statement token by Full L2, root of the sum of squares over layers",
        f"{'':<10} {'in the asked statement':<26} {'on its item':<26} {'on its color':<26}",
    ]
    for hits in results:
        cells = []
        for found in (hits.asked, hits.item, hits.color):
            low, high = wilson_interval(found, hits.count)
            cells.append(f"{found / hits.count:6.1%} ({low:.1%} to {high:.1%})")
        lines.append(f"{hits.model:<10} {cells[0]:<26} {cells[1]:<26} {cells[2]:<26}")
    token = f"{results[0].chance_token:6.1%}"
    lines.append(f"{'chance':<10} {f'{results[0].chance_asked:6.1%}':<26} {token:<26} {token:<26}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=500, help="prompts (default: 500)")
    args = parser.parse_args(argv)
    model, untrained, tokenizer = trained_and_untrained()
    prompts = held_out_prompts(random.Random(SEED), args.count)
    print(table([measure("trained", model, tokenizer, prompts), measure("untrained", untrained, tokenizer, prompts)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
