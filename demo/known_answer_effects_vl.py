"""Does the answer need the image tokens of the object that was asked about, and until which layer?

In:  the bundled vision-language model and held-out scenes of two or three objects on textured backgrounds, each with a
     question about the color of one object.
Out: the change of the answer when every later position stops reading all image tokens of the asked object in all
     layers: how far its probability falls (mean, 95 % bootstrap interval) and how often another token becomes the
     likeliest (95 % Wilson interval). For comparison: as many other tokens, at random places or side by side, the
     tokens of another object, and the whole picture. Then the same for masks that begin at a later layer.

    python demo/known_answer_effects_vl.py --count 20
    python demo/known_answer_effects_vl.py
    python demo/known_answer_effects_vl.py --model smollm2-vl --count 40 --every 5  # docs/smollm2-vl.md
"""

import argparse
import math
import random
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

import numpy as np
import torch
from evaluate_text import wilson_interval
from evaluate_vl import FOLDER, load
from known_answer_vl import Asked, covers, questions
from scenes import Question, Scene, SceneObject, draw

from mask_impact.effects.answer import Effect, Effects
from mask_impact.effects.asked import windows_of
from mask_impact.prompt.inputs import Token
from mask_impact.prompt.units import Unit
from mask_impact.prompt.vision import open_pictures, vision_inputs

SEED = 41  # neither training nor another script has used scenes of this seed
RESAMPLES = 2000

OBJECT, EDGES, PICTURE = "asked object", "with its edges", "whole picture"
RANDOM, COMPACT, ANOTHER = "random tokens", "compact region", "another object"


def regions(asked: Asked, rng: random.Random) -> list[Unit]:
    """The units to mask: the asked object's image tokens (`covers`: a tenth of each or more), and the same with the
    tokens it only touches. For comparison random, compact and another object's tokens, none of which covers the asked
    object; another object that has no such token is left out.
    """
    assert asked.question.asked is not None
    others = list(asked.scene.objects)
    thing = others.pop(asked.question.asked)
    own = [token for token in asked.tokens if covers(token, thing)]
    rest = [token for token in asked.tokens if not covers(token, thing)]
    other = rng.choice(others)
    count = min(len(own), len(rest))
    found = {
        OBJECT: own,
        EDGES: [token for token in asked.tokens if touches(token, thing)],
        RANDOM: rng.sample(rest, count),
        COMPACT: nearest(rest, rng.choice(rest), count),
        ANOTHER: [token for token in rest if covers(token, other)],
        PICTURE: asked.tokens,
    }
    return [Unit(name, tuple(sorted(token.position for token in tokens))) for name, tokens in found.items() if tokens]


def touches(token: Token, thing: SceneObject) -> bool:
    """Whether the boxes of token and object overlap."""
    assert token.box is not None, "the demo model's tokens have a grid"
    left, top, right, bottom = token.box
    return left < thing.box[2] and thing.box[0] < right and top < thing.box[3] and thing.box[1] < bottom


def nearest(tokens: Sequence[Token], middle: Token, count: int) -> list[Token]:
    """The `count` tokens nearest to `middle`, itself included."""

    def distance(token: Token) -> float:
        assert token.box is not None and middle.box is not None, "the demo model's tokens have a grid"
        return math.dist(token.box, middle.box)

    return sorted(tokens, key=distance)[:count]


def ask(
    model: Any, processor: Any, scene: Scene, question: Question, rng: random.Random, every: int = 1
) -> list[Effect]:
    """One scene: each region masked from every N-th layer to the last, and the effect on the right answer."""
    inputs = vision_inputs(processor, model.config, question.text, open_pictures(draw(scene)))
    asked = Asked(scene, question, [token for token in inputs.tokens if token.kind == "image"])
    answer = processor.tokenizer(question.answer)["input_ids"][0]
    effects = Effects(model, processor.tokenizer, inputs.tensors, 0, chosen=[answer])
    masked = regions(asked, rng)
    windows = windows_of("from", model.config.get_text_config().num_hidden_layers)[::every]
    return [row for window in windows for row in effects.measure(masked, window, "all")[0]]


def measure(count: int, seed: int = SEED, folder: Path = FOLDER, every: int = 1) -> list[Effect]:
    """Every region, scene and first masked layer."""
    model, processor = load(folder)
    rng = random.Random(f"regions {seed}")  # independent of the generator that draws the scenes
    return [row for one in questions(seed, count) for row in ask(model, processor, *one, rng, every)]


def drop(row: Effect) -> float:
    """How far the answer's probability falls under the mask, -1 to 1."""
    return math.exp(row.logprob - row.logprob_change) - math.exp(row.logprob)


def of(rows: Iterable[Effect], region: str, first_layer: int = 0) -> list[Effect]:
    return [row for row in rows if (row.token_masked, row.first_layer) == (region, first_layer)]


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """(mean, low, high): the 95 % percentile bootstrap interval, seeded."""
    given = np.array(values)
    means = np.random.default_rng(0).choice(given, (RESAMPLES, len(given))).mean(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(given.mean()), float(low), float(high)


def drop_cell(rows: Sequence[Effect]) -> str:
    mean, low, high = (round(value, 3) + 0.0 for value in mean_interval([drop(row) for row in rows]))  # no -0.000
    return f"{mean:6.3f} ({low:.3f} to {high:.3f})"


def changed_cell(rows: Sequence[Effect]) -> str:
    hits = sum(row.rank > 1 for row in rows)
    low, high = wilson_interval(hits, len(rows))
    return f"{hits / len(rows):6.1%} ({low:.1%} to {high:.1%})"


def table(rows: Sequence[Effect]) -> str:
    scenes = of(rows, OBJECT)
    before = sum(math.exp(row.logprob - row.logprob_change) for row in scenes) / len(scenes)
    lines = [
        f"{len(scenes)} held-out scenes of two and three objects; mean probability of the right answer {before:.3f}",
        f"{'masked in all layers':<22} {'scenes':<8} {'fall of the probability':<28} answer changes",
    ]
    for name in (OBJECT, EDGES, RANDOM, COMPACT, ANOTHER, PICTURE):
        found = of(rows, name)
        lines.append(f"{name:<22} {len(found):<8} {drop_cell(found):<28} {changed_cell(found)}")
    columns = (OBJECT, RANDOM, PICTURE)
    lines += ["", f"{'masked from layer':<22} " + " ".join(f"{name:<28}" for name in columns).rstrip()]
    for layer in sorted({row.first_layer for row in rows}):
        cells = [f"{drop_cell(of(rows, name, layer)):<28}" for name in columns]
        lines.append(f"{f'{layer} on':<22} {' '.join(cells)}".rstrip())
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=300, help="scenes (default: 300)")
    parser.add_argument("--model", type=Path, default=FOLDER, help="checkpoint folder, or smollm2-vl")
    parser.add_argument("--every", type=int, default=1, help="masks begin at every N-th layer (default: 1)")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)  # a model this small is not faster with more
    print(table(measure(args.count, folder=args.model, every=args.every)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
