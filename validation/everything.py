"""All measurements of docs/validation.md in two halves, which can run side by side; each loads the model once.

In:  one of HALVES, and how many prompts at most each measurement takes.
Out: output/validation/*.jsonl. A run that was stopped goes on where it was.

    python -m validation.everything ranking --most 1   # a minute
    python -m validation.everything ranking
    python -m validation.everything finding
"""

from __future__ import annotations

import argparse
import time

from validation import cues, curves, heads, measure, recall, sinks

UNTRAINED = ("--untrained",)
HALVES = {  # (measurement, its arguments, prompts): of each task, of each half, or in all, as its --help says
    "ranking": (
        (measure, ("program",), 200),
        (measure, ("others",), 200),
        (curves, (), 60),
    ),
    "finding": (
        (heads, (), 20),
        (recall, (), 40),
        (cues, (), 80),
        (sinks, (), 20),
        (heads, UNTRAINED, 10),
        (recall, UNTRAINED, 20),
        (cues, UNTRAINED, 40),
        (sinks, UNTRAINED, 10),
    ),
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("half", choices=HALVES)
    parser.add_argument("--most", type=int, help="prompts in each measurement (default: what fits an hour)")
    given = parser.parse_args(argv)
    for module, arguments, prompts in HALVES[given.half]:
        started = time.process_time()
        count = prompts if given.most is None else min(prompts, given.most)
        module.main([*arguments, "--prompts", str(count)])
        name = " ".join((module.__name__, *arguments))
        print(f"{name}: {count} prompts, {(time.process_time() - started) / 60:.1f} CPU minutes", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
