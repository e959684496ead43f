"""FlashTrace's scores of the same prompts (the PyPI package flashtrace 0.1.1), for validation/ranking.py.

FlashTrace asks for its own versions of many packages, so it has an environment of its own (`make
.venv-peers/flashtrace/ready`), in which only this runs.

In:  output/validation/others.jsonl: which prompts.
Out: output/validation/flashtrace.jsonl, one line a prompt: a score for each token of the prompt.

    .venv-peers/flashtrace/bin/python -m validation.flashtrace_scores --prompts 2
"""

from __future__ import annotations

import argparse

from validation.measure import chosen
from validation.real import Real, loaded
from validation.stored import Store


def scores(real: Real, text: str, answer: str) -> list[float]:
    """One score for each token of the prompt, for the answer's token."""
    from flashtrace import FlashTrace

    real.model.set_attn_implementation("eager")
    found = FlashTrace(real.model, real.tokenizer).trace(prompt=text, target=answer, output_span=(0, 0), hops=1)
    return [float(f"{score:.6g}") for score in found.scores]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=60, help="of each task; those that have other scores")
    given = parser.parse_args(argv)
    real, store, others = loaded(), Store("flashtrace"), Store("others").known
    for prompt in (each for each in chosen(real, given.prompts) if each.text in others):
        store.get(prompt.text, lambda prompt=prompt: scores(real, prompt.text, prompt.answer))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
