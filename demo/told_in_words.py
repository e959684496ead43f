"""Can a language model answer the questions about the demo's scenes when it is told in words what they show?

If it cannot, no connector makes it answer about pictures while it stays as it is.

In:  a text model (default: `--model smollm2`), and held-out scenes of two objects.
Out: for three ways of telling and two of answering, how often the right color has a higher logit than that of the other
     object (chance: 50 %), and how often it is the likeliest token of all, with 95 % Wilson intervals.

    python demo/told_in_words.py --count 4
    python demo/told_in_words.py
"""

import argparse
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

import torch
from evaluate_text import wilson_interval
from scenes import SIZES, Scene, describe, make_scene

from mask_impact.model import find, load

SEED = 44  # nothing else has used scenes of this seed
CHAT = "<|im_start|>user\n{told}\n{question}<|im_end|>\n<|im_start|>assistant\n{begun}"
TELLINGS: dict[str, Callable[[Scene], str]] = {
    "A picture of a red circle and ...": lambda scene: f"A picture of {describe(scene)}.",
    "red circle red circle ...": lambda scene: " ".join(f"{o.color} {o.shape}" for o in scene.objects for _ in "12"),
    "The circle is red. ...": lambda scene: " ".join(f"The {o.shape} is {o.color}." for o in scene.objects),
}
BEGINNINGS = {"at once": "", "The circle is": "The {shape} is"}  # of the answer


@torch.no_grad()
def right(model: Any, tokenizer: Any, scenes: Sequence[Scene], telling: str, beginning: str) -> tuple[int, int, int]:
    """(questions, right of two, likeliest of all)."""
    asked = total = likeliest = 0
    space = " " if BEGINNINGS[beginning] else ""
    for scene in scenes:
        first, second = [tokenizer(space + o.color)["input_ids"][0] for o in scene.objects][:2]
        for thing, own, other in zip(scene.objects, (first, second), (second, first), strict=True):
            question, begun = f"What color is the {thing.shape}?", BEGINNINGS[beginning].format(shape=thing.shape)
            text = CHAT.format(told=TELLINGS[telling](scene), question=question, begun=begun)
            logits = model(**tokenizer(text, return_tensors="pt"), logits_to_keep=1).logits[0, -1]
            asked, total = asked + 1, total + int(logits[own] > logits[other])
            likeliest += int(logits.argmax() == own)
    return asked, total, likeliest


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="smollm2", help="a text model with SmolLM2's chat template")
    parser.add_argument("--count", type=int, default=50, help="scenes (default: 50)")
    args = parser.parse_args(argv)
    source = find.find_model(args.model)
    tokenizer, model = load.load_tokenizer(source), load.load_model(source, torch.device("cpu"), torch.float32)
    rng = random.Random(SEED)
    scenes = [make_scene(rng, 2, held_out=True, size=SIZES[0]) for _ in range(args.count)]
    print(f"{'told':<36}{'answered':<16}{'right of two':<26}likeliest of all")
    for telling in TELLINGS:
        for beginning in BEGINNINGS:
            asked, *hits = right(model, tokenizer, scenes, telling, beginning)
            cells = [
                f"{n / asked:.0%} ({low:.0%} to {high:.0%})" for n in hits for low, high in [wilson_interval(n, asked)]
            ]
            print(f"{telling:<36}{beginning:<16}{cells[0]:<26}{cells[1]}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
