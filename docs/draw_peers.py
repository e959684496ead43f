"""Draw docs/peers.svg: time against prompt length, for mask-impact and what people would pick instead.

python docs/draw_peers.py
python docs/draw_peers.py --output /tmp/picture.svg

The numbers are those that benchmarks/peers/run.py wrote to docs/measured/peers.json.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from plot import Curve, plot

DOCS = Path(__file__).resolve().parent


def draw() -> str:
    told = json.loads((DOCS / "measured" / "peers.json").read_text("utf-8"))
    curves = [
        Curve(name, tuple((float(tokens), median(cell["ratio"])) for tokens, cell in cells.items()))
        for tool in told.values()
        for name, cells in tool["times"].items()
    ]
    title = "CPU time, as a multiple of one plain forward (SmolLM2-135M, one thread)"
    ticks = (16, 32, 64, 128, 256, 512), (1, 10, 100, 1000, 10_000, 100_000)
    return plot(title, ("prompt tokens", "plain forwards"), curves, ticks, log=(True, True))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--output", type=Path, default=DOCS / "peers.svg")
    args = parser.parse_args(argv)
    args.output.write_text(draw(), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
