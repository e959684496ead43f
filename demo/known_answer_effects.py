"""Does masking in all layers find the word that is the answer? Demo model, untrained model and chance.

In:  held-out retrieval prompts ("Tom has a red ball. Ann has a blue cup. Ann's cup is"), the demo model, and the same
     architecture with random weights.
Out: statement tokens are ranked by how much the answer's log-probability falls when every later position stops reading
     the token in all layers. How often the color word of the asked statement is first, or among the first two; beside
     it the ranking of `known_answer.py`, one layer at the last position. Each share has a 95 % Wilson interval.

    python demo/known_answer_effects.py --count 20
    python demo/known_answer_effects.py
"""

import argparse
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

import torch
from evaluate_text import wilson_interval
from known_answer import statement_tokens, trained_and_untrained
from text_data import RetrievalPrompt, held_out_prompts

from mask_impact.effects.answer import Effects
from mask_impact.effects.asked import windows_of
from mask_impact.impact.run import run
from mask_impact.jobs.prepared import fitted
from mask_impact.options import Request
from mask_impact.prompt.inputs import text_inputs
from mask_impact.prompt.units import Unit

SEED = 40  # neither training nor another script has used prompts of this seed
ITEM, COLOR = -1, -2  # from the full stop: a statement ends "... COLOR ITEM ."

Values = dict[int, float]  # position -> value; larger is more important
Measure = Callable[[Any, Any, RetrievalPrompt, list[int]], Values]


@dataclass(frozen=True)
class Places:
    """For each prompt the statement tokens, the most important first, each as its distance from the asked full stop."""

    name: str
    ranked: list[list[int]]

    def strongest(self, place: int) -> int:
        """In how many prompts this place comes first."""
        return sum(places[0] == place for places in self.ranked)

    def among_two(self, place: int) -> int:
        return sum(place in places[:2] for places in self.ranked)

    def chance(self) -> float:
        """The chance that one token comes first: mean over prompts of 1 / statement tokens."""
        return sum(1 / len(places) for places in self.ranked) / len(self.ranked)


def all_layers(model: Any, tokenizer: Any, prompt: RetrievalPrompt, positions: list[int]) -> Values:
    """How far the log-probability of the right answer falls when no later position reads a token in any layer."""
    inputs = text_inputs(tokenizer, prompt.prompt)
    effects = Effects(model, tokenizer, inputs.tensors, 0, chosen=tokenizer(prompt.answer)["input_ids"][:1])
    (window,) = windows_of("all", model.config.num_hidden_layers)
    rows, _ = effects.measure([Unit(inputs.tokens[each].text, (each,)) for each in positions], window, "all")
    return {row.token_position: -row.logprob_change for row in rows}


def one_layer(model: Any, tokenizer: Any, prompt: RetrievalPrompt, positions: list[int]) -> Values:
    """Full L2 at the last position, the root of the sum of squares over layers, as `known_answer.py` ranks."""
    inputs = text_inputs(tokenizer, prompt.prompt)
    wanted = Request(prompt.prompt, variants=("full",))
    found = run(model, fitted(tokenizer, model.config, inputs, wanted), lambda block: None)
    ranked = [position for position, _, _ in found.top.ranked() if position in positions]
    return {position: -rank for rank, position in enumerate(ranked)}


def measure(name: str, by: Measure, model: Any, tokenizer: Any, prompts: Sequence[RetrievalPrompt]) -> Places:
    """Rank the statement tokens of every prompt."""
    ranked = []
    for prompt in prompts:
        statements = statement_tokens(tokenizer, prompt)
        positions = [position for position, statement in enumerate(statements) if statement is not None]
        full_stop = max(position for position in positions if statements[position] == prompt.asked)
        values = by(model, tokenizer, prompt, positions)
        ranked.append([position - full_stop for position in sorted(positions, key=values.__getitem__, reverse=True)])
    return Places(name, ranked)


def table(results: Sequence[Places]) -> str:
    count, chance = len(results[0].ranked), results[0].chance()
    lines = [
        f"{count} held-out prompts; the asked statement's words among all statement tokens",
        f"{'':<26} {'color is the strongest':<24} {'color among the two':<24} {'item is the strongest':<24}",
    ]
    for found in results:
        cells = []
        for hits in (found.strongest(COLOR), found.among_two(COLOR), found.strongest(ITEM)):
            low, high = wilson_interval(hits, count)
            cells.append(f"{f'{hits / count:6.1%} ({low:.1%} to {high:.1%})':<24}")
        lines.append(f"{found.name:<26} {' '.join(cells)}".rstrip())
    cells = [f"{f'{share:6.1%}':<24}" for share in (chance, 2 * chance, chance)]
    return "\n".join([*lines, f"{'chance':<26} {' '.join(cells)}".rstrip()])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=500, help="prompts (default: 500)")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)  # a model this small is not faster with more
    model, untrained, tokenizer = trained_and_untrained()
    prompts = held_out_prompts(random.Random(SEED), args.count)
    results = [
        measure("all layers, trained", all_layers, model, tokenizer, prompts),
        measure("all layers, untrained", all_layers, untrained, tokenizer, prompts),
        measure("one layer, trained", one_layer, model, tokenizer, prompts),
    ]
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
