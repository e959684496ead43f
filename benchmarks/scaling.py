"""How time and memory of an analysis grow: with tokens, layers, heads, hidden size and output tokens.

In: nothing; small Qwen3-like models with random weights. One axis varies at a time, around the BASE. One thread, CPU
time. Memory is what the recording holds, keys and values included (counted, not sampled).
Out: a Markdown table on stdout: for each axis the exponent a of cost ~ size^a, fitted to the logarithms, with a 95 %
interval from resampling the repetitions; and what models of 4 and 8 billion parameters need for 1,000 image tokens.

    python benchmarks/scaling.py                           # about a minute of CPU time
    python benchmarks/scaling.py --repetitions 1 --axes layers,heads
    python benchmarks/scaling.py --axes ""                 # only what large models need, which is counted
"""

import argparse
import gc
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from benchmarks.models import Setup, Shape
from benchmarks.needs import needs_table
from benchmarks.speed import recorded_tensors
from benchmarks.work import measure_queries, plain_forward, record

SMALL = Shape("small", 4, 256, 768, 4, 2, head_dim=64, vocabulary=2000)


@dataclass(frozen=True)
class Case:
    """What is measured once."""

    shape: Shape = SMALL
    tokens: int = 128
    outputs: int = 1


BASE = Case()
AXES: dict[str, tuple[Sequence[int], Callable[[int], Case]]] = {
    "prompt tokens": ((16, 32, 64, 128, 256, 512, 1024, 2048), lambda n: replace(BASE, tokens=n)),
    "layers": ((2, 4, 8, 16, 32), lambda n: replace(BASE, shape=replace(SMALL, layers=n))),
    "heads": ((2, 4, 8, 16, 32), lambda n: replace(BASE, shape=replace(SMALL, heads=n))),
    "hidden size": (
        (256, 512, 1024, 2048),
        lambda n: replace(BASE, shape=replace(SMALL, hidden=n, mlp=3 * n, heads=n // 64, kv_heads=n // 128)),
    ),
    "output tokens": ((1, 2, 4, 8, 16), lambda n: replace(BASE, outputs=n)),
}
COSTS = ("plain forward", "analysis", "memory held")


def seconds(work: Callable[[], Any]) -> tuple[Any, float]:
    gc.collect()
    started = time.process_time()
    result = work()
    return result, time.process_time() - started


def measured(case: Case, repetitions: int) -> list[tuple[float, ...]]:
    """CPU seconds of a plain forward and of an analysis, and bytes that its recording holds; one row a repetition."""
    setup = Setup(case.shape, case.shape.layers)
    model, inputs = setup.model(), setup.inputs(case.tokens)

    def analysis() -> int:
        recording = record(model, inputs, case.outputs)
        measure_queries(model, recording, range(case.tokens - 1, case.tokens - 1 + case.outputs))
        storages = {each.untyped_storage().data_ptr(): each.untyped_storage() for each in recorded_tensors(recording)}
        return sum(storage.nbytes() for storage in storages.values())

    analysis()  # warm-up
    rows: list[tuple[float, ...]] = []
    for _ in range(repetitions):
        _, plain = seconds(lambda: plain_forward(model, inputs))
        held, spent = seconds(analysis)
        rows.append((plain, spent, float(held)))
    return rows


def exponents(sizes: Sequence[int], costs: np.ndarray, times: int = 1000) -> list[float]:
    """The slope of log cost over log size, with its 95 % interval; `costs` [sizes, repetitions].

    Each resampling draws as many repetitions at every size as there are. It shows what noise does to the slope, not how
    far the cost is from a power of the size.
    """
    dice = np.random.default_rng(0)
    drawn = dice.integers(costs.shape[1], size=(times, *costs.shape))
    means = np.log(np.take_along_axis(np.broadcast_to(costs, drawn.shape), drawn, axis=2)).mean(
        axis=2
    )  # [times, sizes]
    x = np.log(sizes) - np.log(sizes).mean()
    slopes = means @ x / (x @ x)
    whole = np.log(costs).mean(axis=1) @ x / (x @ x)
    return [float(whole), *np.quantile(slopes, [0.025, 0.975]).tolist()]


def row(axis: str, repetitions: int) -> str:
    """One line of the table."""
    sizes, case = AXES[axis]
    found = []
    for size in sizes:
        print(f"scaling: {axis} {size}", file=sys.stderr, flush=True)
        found.append(measured(case(size), repetitions))
    costs = np.array(found)  # [sizes, repetitions, 3]
    cells = [
        f"{a:.2f} ({low:.2f} to {high:.2f})" for a, low, high in (exponents(sizes, costs[:, :, i]) for i in range(3))
    ]
    ratios = np.median(costs[:, :, 1] / costs[:, :, 0], axis=1)
    return f"| {axis}, {sizes[0]:,} to {sizes[-1]:,} | {' | '.join(cells)} | {ratios[0]:.2f}, {ratios[-1]:.2f} |"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--axes", default=",".join(AXES), help="comma-separated; none: only the needs of large models")
    parser.add_argument("--repetitions", type=int, default=3)
    args = parser.parse_args(argv)
    axes = [axis for axis in args.axes.split(",") if axis]
    if unknown := set(axes) - set(AXES):
        parser.error(f"--axes {','.join(sorted(unknown))}: choose from {', '.join(AXES)}")
    torch.set_num_threads(1)
    if axes:
        print(f"| what grows | {' | '.join(COSTS)} | analysis / plain forward, smallest and largest |")
        print("|---|---|---|---|---|")
    for axis in axes:
        print(row(axis, args.repetitions), flush=True)
    print("\n" + needs_table())
    return 0


if __name__ == "__main__":
    sys.exit(main())
