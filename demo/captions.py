"""Captions for the bundled vision-language model, from which its bank of text tokens in context is built.

In:  nothing; a fixed seed decides everything.
Out: captions.txt, COUNT different lines in the words the model was trained on: what is in a scene, or a question about
     it with its answer. No line counts objects, since the tokenizer has no " two" after a space. Held-out scenes are
     left out, so they stay unseen.

    python demo/captions.py                       # write demo/captions.txt
    python demo/captions.py --output /tmp/a.txt   # write it elsewhere
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path

from scenes import all_questions, describe, make_scene

CAPTIONS = Path(__file__).resolve().parent / "captions.txt"
COUNT = 3000
SEED = 0
OBJECTS = [1, 2, 3]
OBJECT_WEIGHTS = [1, 3, 3]
DESCRIBED = 0.6  # share of the scenes that are described; the others get a question


def captions() -> list[str]:
    rng = random.Random(SEED)
    found: dict[str, None] = {}  # in the order in which they were drawn
    while len(found) < COUNT:
        scene = make_scene(rng, rng.choices(OBJECTS, OBJECT_WEIGHTS)[0], held_out=False)
        question = rng.choice([asked for asked in all_questions(scene) if asked.kind != "count"])
        found[describe(scene) if rng.random() < DESCRIBED else f"{question.text} {question.answer}"] = None
    return list(found)


def text() -> str:
    return "".join(f"{caption}\n" for caption in captions())


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=CAPTIONS, help="file to write (default: demo/captions.txt)")
    args = parser.parse_args(argv)
    args.output.write_text(text(), encoding="utf-8", newline="\n")
    print(f"{COUNT} captions saved to {args.output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
