#!/usr/bin/env python3
"""Does the most important image token cover the object that was asked about?

In: the bundled vision-language model and held-out scenes of two or three objects on textured backgrounds, each with a
    question about the color of one object.
Out: how often the top image token covers the asked object, for the trained model, the same architecture with random
     weights, attention weights instead of masking, and chance; each with a 95 % Wilson interval. The values of the
     layers are joined as the program ranks tokens: by the root of the sum of their squares.

    python demo/known_answer_vl.py --count 20
    python demo/known_answer_vl.py
"""

import argparse
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

import torch
from evaluate_text import wilson_interval
from scenes import Question, Scene, SceneObject, all_questions, draw, make_scene
from transformers import AutoModelForImageTextToText

from mask_impact.impact.masking import QueryAttention
from mask_impact.impact.meter import Meter, Wanted
from mask_impact.impact.record import Recording, record_generation
from mask_impact.model import find, load
from mask_impact.model.processors import load_processor
from mask_impact.prompt.inputs import ModelInputs, Token
from mask_impact.prompt.vision import open_pictures, vision_inputs

SEED = 30  # neither training, its progress reports nor the choice of the ranking has used scenes of this seed
COVERED = 0.1  # of a token's box must lie in the box of an object for the token to cover it


@dataclass
class Asked:
    """One scene and question, and the value of every image token in every layer, by who measured it."""

    scene: Scene
    question: Question
    tokens: list[Token]
    values: dict[str, torch.Tensor] = field(default_factory=dict)  # [layers, tokens]

    def covering(self) -> list[bool]:
        """Which image tokens cover the asked object."""
        assert self.question.asked is not None
        return [covers(token, self.scene.objects[self.question.asked]) for token in self.tokens]

    def hit(self, measure: str) -> bool:
        """Whether the first token covers it, by the root of the sum of squares over layers."""
        return self.covering()[int(self.values[measure].square().sum(dim=0).argmax())]


def covers(token: Token, thing: SceneObject) -> bool:
    assert token.box is not None, "the demo model's tokens have a grid"
    left, top, right, bottom = token.box
    width = min(right, thing.box[2]) - max(left, thing.box[0])
    height = min(bottom, thing.box[3]) - max(top, thing.box[1])
    return max(width, 0) * max(height, 0) >= COVERED * (right - left) * (bottom - top)


def questions(seed: int, count: int) -> Iterator[tuple[Scene, Question]]:
    """Held-out scenes of two and three objects in turn, each with the color of one of them asked."""
    rng = random.Random(seed)
    for index in range(count):
        scene = make_scene(rng, 2 + index % 2, held_out=True)
        yield scene, rng.choice([question for question in all_questions(scene) if question.kind == "color"])


def masking_values(model: Any, recording: Recording, inputs: ModelInputs, places: Sequence[int]) -> torch.Tensor:
    """[layers, tokens] L2 of the layer's update when an image token is masked."""
    meter, query = Meter(model, Wanted(attn=False, heads=False)), len(inputs.tokens) - 1
    masks = [[place] for place in places]
    return torch.stack(
        [meter.impact(record, record.queries[query], masks).l2[:, 0] for record in recording.with_attention()]
    )


def attention_values(recording: Recording, inputs: ModelInputs, places: Sequence[int]) -> torch.Tensor:
    """[layers, tokens] attention weight on each image token, mean over heads."""
    rows = []
    for record in recording.with_attention():
        assert record.attention is not None
        weights = QueryAttention(record.attention, record.queries[len(inputs.tokens) - 1]).weights
        assert weights is not None
        rows.append(weights[0].mean(dim=0)[list(places)])
    return torch.stack(rows)


def ask(loaded: dict[str, Any], processor: Any, scene: Scene, question: Question) -> Asked:
    """Measure one scene by every means."""
    config = next(iter(loaded.values())).config
    inputs = vision_inputs(processor, config, question.text, open_pictures(draw(scene)))
    tokens = [token for token in inputs.tokens if token.kind == "image"]
    asked, places = Asked(scene, question, tokens), [token.position for token in tokens]
    with torch.no_grad():
        for name, model in loaded.items():
            recording = record_generation(model, inputs.tensors, 1, [])
            asked.values[f"masking, {name} model"] = masking_values(model, recording, inputs, places)
            asked.values[f"attention weight, {name} model"] = attention_values(recording, inputs, places)
    return asked


def trained_and_untrained() -> tuple[dict[str, Any], Any]:
    """({name: model}, processor): the demo model, and its architecture with seeded random weights."""
    source = find.find_model("demo", vision=True)
    trained = load.load_model(source, torch.device("cpu"), torch.float32)
    torch.manual_seed(0)
    untrained = AutoModelForImageTextToText.from_config(source.config, dtype=torch.float32).eval()
    return {"trained": trained, "untrained": untrained}, load_processor(source)


def table(asked: Sequence[Asked]) -> str:
    count = len(asked)
    chance = sum(sum(one.covering()) / len(one.tokens) for one in asked) / count
    lines = [
        f"{count} held-out scenes of two and three objects: the top image token covers the asked object",
        f"{'':<34} share (95 % interval)",
    ]
    for measure in asked[0].values:
        hits = sum(one.hit(measure) for one in asked)
        low, high = wilson_interval(hits, count)
        lines.append(f"{measure:<34} {hits / count:6.1%} ({low:.1%} to {high:.1%})")
    return "\n".join([*lines, f"{'chance':<34} {chance:6.1%}"])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=300, help="scenes (default: 300)")
    args = parser.parse_args(argv)
    loaded, processor = trained_and_untrained()
    asked = [ask(loaded, processor, *one) for one in questions(SEED, args.count)]
    print(table(asked))
    return 0


if __name__ == "__main__":
    sys.exit(main())
