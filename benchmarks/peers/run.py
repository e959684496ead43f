"""What people would pick instead, on SmolLM2-135M: time as a multiple of a plain forward, and of ours; agreement.

inseq's value zeroing and FlashTrace run in environments of their own (`make bench-peers` makes them), the loops that
one writes by hand in ours. One thread, CPU time, float32. Each tool takes turns with a plain forward in its own
process, so that a ratio stays right on a busy machine, and on another transformers.

In: nothing. Out: Markdown tables on stdout, and docs/measured/peers.json, from which docs/draw_peers.py draws.

    python -m benchmarks.peers.run                                     # about 20 minutes of CPU time
    python -m benchmarks.peers.run --lengths 16,64 --repetitions 1 --json /tmp/peers.json    # a minute or two
    python -m benchmarks.peers.run --tools ours,inseq                  # two of them again; the others stay in the file
    python -m benchmarks.peers.run --tools ""                          # print the tables of what is in the file
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.machine import cpu_model

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENTS = ROOT / ".venv-peers"
MODEL = ENVIRONMENTS / "smollm2"
MODULES = {"ours": "ours", "by-hand": "by_hand", "inseq": "inseq_zeroing", "flashtrace": "flashtrace_trace"}
OURS = "mask-impact, every head"
AT_MOST = 128  # tokens for inseq, which takes a forward for each: 20 minutes of CPU time at 512

Times = dict[str, dict[str, dict[str, list[float]]]]  # tool -> tokens -> "ratio" and "plain"


def run(tool: str, lengths: Sequence[int], repetitions: int) -> dict[str, Any]:
    """What the tool's module tells, run in its environment."""
    own = ENVIRONMENTS / tool / "bin" / "python"
    asked = ",".join(f"{tokens}={repetitions}" for tokens in lengths if tool != "inseq" or tokens <= AT_MOST)
    command = [own if own.exists() else sys.executable, "-m", f"benchmarks.peers.{MODULES[tool]}", MODEL, asked]
    single = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, cwd=ROOT, env=single, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def spread(values: Sequence[float]) -> str:
    """12.3 (11.9 to 12.9)"""
    short = [
        f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in (median(values), min(values), max(values))
    ]
    return short[0] if len(values) == 1 else f"{short[0]} ({short[1]} to {short[2]})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def time_tables(times: Times) -> str:
    """Each tool's ratio to a plain forward, and the same divided by ours, as Markdown."""
    lengths = sorted({tokens for found in times.values() for tokens in found}, key=int)
    head = [f"{tokens} tokens" for tokens in lengths]
    plain = [
        [name, *(spread(found[tokens]["ratio"]) if tokens in found else "" for tokens in lengths)]
        for name, found in times.items()
    ]
    said = table(["CPU time / that of a plain forward", *head], plain)
    if OURS not in times:
        return said
    ours = {tokens: median(cell["ratio"]) for tokens, cell in times[OURS].items()}
    apart = [
        [name, *(spread([median(found[t]["ratio"]) / ours[t]]) if t in found and t in ours else "" for t in lengths)]
        for name, found in times.items()
    ]
    return said + "\n\n" + table([f"divided by that of {OURS!r}", *head], apart)


def largest_difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> float:
    """Over all prompts, tokens and layers."""
    return max(
        abs(one - other)
        for prompt in ours
        for rows in zip(ours[prompt], theirs[prompt], strict=True)
        for one, other in zip(*rows, strict=True)
    )


def agreement(found: Mapping[str, Any]) -> dict[str, float]:
    """Of inseq's scores with ours, where both ran."""
    if not {"ours", "inseq"} <= set(found):
        return {}
    ours = found["ours"]["scores"]
    return {
        "inseq as it is": largest_difference(ours, found["inseq"]["scores"]),
        "inseq, its cosine in float64": largest_difference(ours, found["inseq"]["precise scores"]),
    }


def report(found: Mapping[str, Any]) -> str:
    """All tables as Markdown, from what the tools told."""
    times: Times = {name: cells for tool in MODULES if tool in found for name, cells in found[tool]["times"].items()}
    lines = [
        f"- largest difference of a score from ours, {name}: {value:.2g}" for name, value in agreement(found).items()
    ]
    return "\n".join([time_tables(times), "", *lines])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--tools", default=",".join(MODULES), help="comma-separated; none: print what was measured")
    parser.add_argument("--lengths", default="16,64,128,512", help="prompt tokens")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--json", type=Path, default=ROOT / "docs" / "measured" / "peers.json")
    args = parser.parse_args(argv)
    tools = [tool for tool in args.tools.split(",") if tool]
    if unknown := set(tools) - set(MODULES):
        parser.error(f"--tools {','.join(sorted(unknown))}: choose from {', '.join(MODULES)}")
    if tools and not MODEL.exists():
        parser.error(f"{MODEL} is not there; `make bench-peers` makes it, and the environments")
    args.json.parent.mkdir(exist_ok=True)
    found = json.loads(args.json.read_text("utf-8")) if args.json.exists() else {}
    for tool in tools:  # what one tool told is kept when another fails or is interrupted
        found[tool] = {
            "cpu": cpu_model(),
            **run(tool, [int(tokens) for tokens in args.lengths.split(",")], args.repetitions),
        }
        args.json.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    print(report(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
