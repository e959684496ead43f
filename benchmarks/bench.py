#!/usr/bin/env python3
"""How long an analysis takes compared with the plain forward it needs anyway, and how much memory.

In: nothing; models with random weights are made in memory: on a GPU in the shapes of Qwen3-4B and Qwen3-VL-4B
(bfloat16), on the CPU in that of Qwen3-0.6B, for vision-language with a small vision tower (float32).
Out: tables on stdout: time by phase and prompt length, the speed-up over rerunning a layer for every masked token,
several generated tokens, effects on the answer, peak memory, result files, features of image tokens, banks and
their search; with --json also as a file.

Things compared are timed in turn in one process (A B C A B C ...) after a warm-up. A cell is the median over the
repetitions, then the smallest and the largest. A ratio is taken within each repetition, so that it stays right on a
machine that gets slower or faster meanwhile. So it is not exactly the ratio of the medians above it.

    python benchmarks/bench.py                                  # everything, 15 to 20 minutes
    python benchmarks/bench.py --only rows                      # one part; this one takes seconds
    python benchmarks/bench.py --only speed --layers 2 --lengths 32,128 --repetitions 2
    python benchmarks/bench.py --only vision --shape tiny --dtype bfloat16 --image-tokens 16,64
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from math import isqrt
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

PARTS = ("speed", "steps", "effects", "memory", "rows", "batch", "vision", "features", "search")


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--only", choices=PARTS, help="one part; default all")
    parser.add_argument("--layers", type=int, help="default: as many as memory and time allow, up to the shape's own")
    parser.add_argument("--lengths", type=numbers, default=[32, 128, 512, 1024], help="prompt tokens; 3 or more")
    parser.add_argument("--steps-lengths", type=numbers, default=[128], help="prompt tokens for 5 output tokens")
    parser.add_argument("--effects-lengths", type=numbers, default=[32, 128, 256], help="prompt tokens for effects")
    parser.add_argument("--effects-layers", type=int, default=3, help="of the model for effects; default 3")
    parser.add_argument("--memory-length", type=int, default=1024, help="prompt tokens in the memory part")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the tables there too")
    model = parser.add_argument_group("model")
    model.add_argument(
        "--shape", choices=("small", "4b", "tiny"), help="default: 4b on a GPU, else small; tiny: of vision"
    )
    model.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda if there is one")
    model.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="default: bfloat16 on a GPU")
    vision = parser.add_argument_group("vision-language")
    vision.add_argument("--image-tokens", type=numbers, default=[16, 64, 256, 1024], help="square numbers")
    vision.add_argument("--steps", type=int, default=3, help="output tokens")
    args = parser.parse_args(argv)
    for flag, lengths in (("--lengths", args.lengths), ("--effects-lengths", args.effects_lengths)):
        if min(lengths) < 3:
            parser.error(f"{flag} {lengths}: a prompt needs 3 tokens or more")
    if any(size < 1 or isqrt(size) ** 2 != size for size in args.image_tokens):
        parser.error(f"--image-tokens {args.image_tokens}: images are square; give square numbers such as 16,64,256")
    if min(args.steps, args.repetitions) < 1:
        parser.error("--steps and --repetitions must be 1 or more")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    from benchmarks.parts import tables  # here, so that --help does not wait for torch

    started = time.perf_counter()
    done = []
    for table in tables(args, (args.only,) if args.only else PARTS):
        print(table, flush=True)
        done.append(table)
    print(f"\n{time.perf_counter() - started:.0f} seconds in all")
    if args.json:
        args.json.write_text(json.dumps([asdict(table) for table in done], indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
