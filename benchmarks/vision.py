"""The vision-language part: a prompt with one square image, every text and image token masked, several output tokens.

The vision tower runs in the plain forward and in the recorded one. Its time has a separate row.
"""

from collections.abc import Sequence
from typing import Any

from benchmarks.machine import timed
from benchmarks.models import TEXT_TOKENS, Inputs, Setup
from benchmarks.speed import CHECKS, NOTES, RERUNS, speed_samples
from benchmarks.tables import Labels, Sample, Table
from benchmarks.work import run_experiment
from mask_impact.impact.meter import Impact

FORWARDS_WARM_UP = 3  # forwards of a prompt


def forwards(steps: int) -> float:
    """How many forwards of the prompt one repetition takes: a replay is about one, and everything is replayed twice."""
    return 4 + 2 * steps


def labels(steps: int) -> Labels:
    every = {
        "plain": "plain forward, pixels in [s]",
        "tower": "  of which the vision tower [s]",
        "recorded": "recorded forward, pixels in, with the tower [s]",
        "replay 1": "replay, 1 token [s]",
        "distances 1": "distances, 1 token [s]",
        "ratio 1": "(recorded forward + replay + distances) / plain, 1 token",
        "replay all": f"replay, {steps} tokens [s]",
        "distances all": f"distances, {steps} tokens [s]",
        "ratio all": f"(recorded forward + replay + distances) / plain, {steps} tokens",
        "decode all": f"  the {steps - 1} recorded decode steps besides [s]",
        "seconds all": f"  recorded forward + decode steps + replay + distances, {steps} tokens [s]",
        "run": f"the whole run, output tokens: {steps} [s]",
        **RERUNS,
        "speed-up all": f"speed-up of replay + distances, {steps} tokens",
        "speed-up whole all": f"  of recorded forward + replay + distances, {steps} tokens",
        **CHECKS,
    }
    return {key: label for key, label in every.items() if steps > 1 or not key.endswith(" all")}


def vision_table(setup: Setup, model: Any, sizes: Sequence[int], steps: int, repetitions: int) -> Table:
    def tower_and_run(model: Any, inputs: Inputs, impacts: list[Impact]) -> Sample:
        pixels, grid = inputs["pixel_values"], inputs["image_grid_thw"]
        return {
            "tower": timed(lambda: model.model.get_image_features(pixels, grid))[1],
            "run": timed(lambda: run_experiment(model, inputs, steps, lambda block: None))[1],
        }

    columns = {}
    for size in sizes:
        name = f"{size} image tokens"
        columns[name] = speed_samples(f"vision, {name}", model, setup.inputs(size), steps, repetitions, tower_and_run)
    return Table.of_samples(
        f"Vision-language: one square image and {TEXT_TOKENS} text tokens, every token masked; {setup}",
        labels(steps),
        {"run": "<= 1 s on a GPU at 1,024"},
        columns,
        [
            f"{setup.shape}",
            f"median (smallest-largest) of {repetitions} repetitions; all of a column is timed in turn in this process",
            "recorded forward: the whole recording call less the decode steps; generate may run the tower on its own",
            *NOTES,
            "the whole run: experiment.run, from model inputs to blocks, its checks included, writing left out",
            "the vision tower is in both sides of the ratios and in no rerun",
        ],
    )
