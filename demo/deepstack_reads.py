"""Which DeepStack injection of the bundled vision-language model carries the color?

In:  held-out scenes of two or three objects, each with a question about the color of one object.
Out: how far the answer's probability falls (mean, 95 % bootstrap interval), and how often another token becomes the
     likeliest (95 % Wilson interval), where sets of injections are taken away from all image tokens, and each from the
     image tokens that the asked object touches or from as many others.

    python demo/deepstack_reads.py --count 10
    python demo/deepstack_reads.py
"""

import argparse
import random
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

import numpy as np
import pandas as pd
import torch
from evaluate_text import wilson_interval
from evaluate_vl import FOLDER, load
from known_answer_effects_vl import mean_interval, touches
from known_answer_vl import questions
from scenes import Question, Scene, draw

from mask_impact.effects.deepstack import injection_table
from mask_impact.jobs.prepared import fitted
from mask_impact.options import Request, unseen
from mask_impact.prompt.units import Unit
from mask_impact.prompt.vision import open_pictures, vision_inputs

SEED = 43  # neither training nor another script has used scenes of this seed
ASKED, OTHERS = "asked object", "as many others"


def ask(model: Any, processor: Any, scene: Scene, question: Question, rng: random.Random) -> pd.DataFrame:
    """The side table of one scene, on the right answer."""
    inputs = vision_inputs(processor, model.config, question.text, open_pictures(draw(scene)))
    assert question.asked is not None
    images = [token for token in inputs.tokens if token.kind == "image"]
    own = [token.position for token in images if touches(token, scene.objects[question.asked])]
    rest = [token.position for token in images if token.position not in own]
    units = [Unit(ASKED, tuple(own)), Unit(OTHERS, tuple(sorted(rng.sample(rest, min(len(own), len(rest))))))]
    prepared = fitted(processor.tokenizer, model.config, inputs, Request(question.text, effects=True, deepstack=True))
    prepared = replace(prepared, units=lambda tokens: units, plain=False)
    answer = processor.tokenizer(question.answer)["input_ids"][0]
    return pd.DataFrame(injection_table(model, prepared, [answer], unseen))


def measure(count: int, seed: int = SEED) -> pd.DataFrame:
    model, processor = load(FOLDER)
    rng = random.Random(f"others {seed}")  # independent of the generator that draws the scenes
    with torch.no_grad():
        return pd.concat([ask(model, processor, *one, rng) for one in questions(seed, count)])


def table(rows: pd.DataFrame) -> str:
    before, after = np.exp(rows.logprob - rows.logprob_change), np.exp(rows.logprob)
    rows = rows.assign(fall=before - after, changed=rows["rank"] > 1)
    lines = [f"{'injection':<10} {'action':<8} {'image tokens':<18} {'fall of the probability':<26} answer changes"]
    for (injection, action, unit), found in rows.groupby(["injection", "action", "unit"], sort=False):
        mean, low, high = (round(value, 3) + 0.0 for value in mean_interval(found.fall.tolist()))
        hits = int(found.changed.sum())
        least, most = wilson_interval(hits, len(found))
        fall = f"{mean:.3f} ({low:.3f} to {high:.3f})"
        lines.append(
            f"{injection:<10} {action:<8} {unit:<18} {fall:<26} {hits / len(found):.1%} ({least:.1%} to {most:.1%})"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=100, help="scenes (default: 100)")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)  # a model this small is not faster with more
    print(table(measure(args.count)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
