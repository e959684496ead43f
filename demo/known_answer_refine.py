"""Do `--refine` and `--top` find the tokens that the answer needs most, with fewer masks than one for each token?

In:  the bundled models, held-out retrieval prompts, and held-out scenes with a question about one object's color.
Out: against the effects of all tokens (all layers, every later position): how often the strongest token is among the
     single tokens that `--refine` comes to, with how many masks; and how many of the true first 1, 3 and 10 are among
     the `--top` tokens that single layers read most. Shares of prompts have a 95 % Wilson interval.

    python demo/known_answer_refine.py --count 20
    python demo/known_answer_refine.py
"""

import argparse
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

import torch
from evaluate_text import wilson_interval
from evaluate_vl import FOLDER, load
from known_answer import trained_and_untrained
from known_answer_vl import questions
from scenes import draw
from text_data import held_out_prompts

from mask_impact.effects.answer import Effects
from mask_impact.effects.asked import windows_of
from mask_impact.effects.refine import Refinement, key_of
from mask_impact.impact.run import run
from mask_impact.jobs.prepared import fitted
from mask_impact.options import Request
from mask_impact.prompt.inputs import ModelInputs, text_inputs
from mask_impact.prompt.levels import parts_of_prompt
from mask_impact.prompt.units import MASKED, Unit
from mask_impact.prompt.vision import open_pictures, vision_inputs

SEED = 44  # neither training nor another script has used prompts or scenes of this seed
SPLIT = (1, 2, 4)  # --refine
TOP = (5, 10)  # --top
FIRST = (1, 3, 10)  # of the true ranking


@dataclass(frozen=True)
class Found:
    """One prompt. Tokens are positions, the strongest first."""

    true: list[int]  # by the effects of all tokens
    read: list[int]  # by the results table
    refined: dict[int, tuple[set[int], int]]  # by --refine: the tokens that were masked alone, and how many masks


Case = tuple[Any, Any, ModelInputs, int, str]  # model, tokenizer, inputs, the answer's id, mask mode


def find(model: Any, tokenizer: Any, inputs: ModelInputs, answer: int, mask_mode: str) -> Found:
    effects = Effects(model, tokenizer, inputs.tensors, 0, chosen=[answer])
    (window,) = windows_of("all", model.config.get_text_config().num_hidden_layers)

    def changes(units: Sequence[Unit]) -> dict[Unit, float]:
        rows, _ = effects.measure(units, window, "all")
        return {unit: row.logprob_change for unit, row in zip(units, rows, strict=True)}

    tokens = [Unit(token.text, (token.position,)) for token in inputs.tokens if MASKED[mask_mode](token)]
    alone = changes(tokens)
    true = [unit.positions[0] for unit in sorted(tokens, key=lambda unit: -abs(alone[unit]))]
    refined = {}
    for count in SPLIT:
        rounds = Refinement(count, None, parts_of_prompt(tokenizer, inputs, mask_mode))
        while rounds.split({key_of(unit): change for unit, change in changes(rounds.masked).items()}):
            pass
        single = {unit["positions"][0] for unit in rounds.units if len(unit["positions"]) == 1}
        refined[count] = single, len(rounds.units)
    request = Request(inputs.prompt, variants=("full",), mask_mode=mask_mode)
    ranking = run(model, fitted(tokenizer, model.config, inputs, request), lambda block: None).top.ranked()
    return Found(true, [position for position, _, _ in ranking], refined)


def prompts(count: int) -> Iterator[Case]:
    model, _, tokenizer = trained_and_untrained()
    for prompt in held_out_prompts(random.Random(SEED), count):
        yield model, tokenizer, text_inputs(tokenizer, prompt.prompt), tokenizer(prompt.answer)["input_ids"][0], "text"


def scenes(count: int) -> Iterator[Case]:
    model, processor = load(FOLDER)
    for scene, question in questions(SEED, count):
        inputs = vision_inputs(processor, model.config, question.text, open_pictures(draw(scene)))
        yield model, processor.tokenizer, inputs, processor.tokenizer(question.answer)["input_ids"][0], "vision"


def share(hits: int, count: int) -> str:
    low, high = wilson_interval(hits, count)
    return f"{hits / count:6.1%} ({low:.1%} to {high:.1%})"


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def table(what: str, found: Sequence[Found]) -> str:
    sizes = [len(each.true) for each in found]
    lines = [f"{len(found)} {what} of {min(sizes)} to {max(sizes)} tokens (mean {mean(sizes):.1f})"]
    for count in SPLIT:
        hits = [each.true[0] in each.refined[count][0] for each in found]
        three = mean([len({*each.true[:3]} & each.refined[count][0]) / 3 for each in found])
        masks = mean([each.refined[count][1] for each in found])
        lines.append(
            f"  --refine {count}: the strongest token among its tokens in {share(sum(hits), len(hits))}; "
            f"of the first three {three:.1%}; {masks:.1f} masks"
        )
    for count in TOP:
        parts = []
        for first in FIRST:
            parts.append(f"{mean([len({*each.true[:first]} & {*each.read[:count]}) / first for each in found]):.1%}")
        chance = mean([min(1, count / size) for size in sizes])
        lines.append(f"  --top {count}: of the true first 1, 3, 10 has {', '.join(parts)} (chance {chance:.1%})")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=200, help="prompts, and as many scenes (default: 200)")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)  # models this small are not faster with more
    for what, cases in (("prompts", prompts(args.count)), ("pictures", scenes(args.count))):
        print(table(what, [find(*case) for case in cases]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
