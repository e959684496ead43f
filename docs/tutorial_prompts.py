"""Write the prompts of docs/tutorial.md: 100 sentences in which one of two names comes next.

python docs/tutorial_prompts.py names.yaml
python docs/tutorial_prompts.py names.yaml --count 10 --model demo

Three words of each are spans: the name that is the answer, the other name where it comes for the second time, and the
place, a control of one word. The same seed gives the same prompts.
"""

import argparse
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

NAMES = ("Mary", "John", "Tom", "Anna", "Paul", "Lisa", "James", "Sarah", "David", "Emma")
PLACES = ("store", "park", "station", "school", "beach", "museum", "garden", "market")
THINGS = ("drink", "book", "ticket", "letter", "key", "present")


def prompt_of(number: int, dice: random.Random) -> dict[str, Any]:
    answer, other = dice.sample(NAMES, 2)
    first, second = dice.sample([answer, other], 2)
    place, thing = dice.choice(PLACES), dice.choice(THINGS)
    return {
        "name": f"names{number:03}",
        "prompt": f"When {first} and {second} went to the {place}, {other} gave a {thing} to",
        "span": [f"answer=/{answer}/", f"other=/(?<=, ){other}/", f"place=/{place}/"],
        "contrast": [f" {answer}", f" {other}"],
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--model", default="smollm2")
    args = parser.parse_args(argv)
    dice = random.Random(0)
    defaults = {"effects": True, "variants": ["full"], "metrics": ["relative"]}
    prompts = [prompt_of(number, dice) for number in range(args.count)]
    file = {"model": args.model, "formats": ["csv", "json"], "defaults": defaults, "prompts": prompts}
    args.file.write_text(json.dumps(file, indent=1) + "\n", "utf-8")  # JSON is YAML
    return 0


if __name__ == "__main__":
    sys.exit(main())
