"""The vision-language part: a prompt with one square image, every text and image token masked, several output tokens.

The vision tower runs in the plain forward and in the recorded one. Its time has a separate row.
"""

from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.machine import timed
from benchmarks.models import IMAGE_PAD, TEXT_TOKENS, Inputs, Setup
from benchmarks.speed import CHECKS, NOTES, RERUNS, speed_samples
from benchmarks.tables import Labels, Sample, Table
from benchmarks.work import StandInTokenizer, plain_forward, run_experiment
from mask_impact.effects.asked import Window
from mask_impact.effects.routes import Route
from mask_impact.effects.tower_run import TowerEffects, seen_by_tower
from mask_impact.impact.meter import Impact, Wanted
from mask_impact.impact.vision_layer import TowerLayer
from mask_impact.model.vision_tower import TowerCalls
from mask_impact.prompt.inputs import Token
from mask_impact.prompt.units import Unit

FOUR = 4  # patches of an image token
MASKS = 8  # timed in each layer of the vision tower
EFFECTS = 4  # masks that are carried on to the logits
FORWARDS_WARM_UP = 3  # forwards of a prompt


def forwards(steps: int) -> float:
    """How many forwards of the prompt one repetition takes: a replay is about one, and everything is replayed twice."""
    return 4 + 2 * steps


def labels(steps: int) -> Labels:
    every = {
        "plain": "plain forward, pixels in [s]",
        "tower": "  of which the vision tower [s]",
        "masks": f"{MASKS} masks in every layer of the tower, all variants [s]",
        "ratio masks": "  forwards of the tower for each mask",
        "effects": f"effects of {EFFECTS} masks in all layers of the tower [s]",
        "ratio effects": "  plain forwards for each mask",
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


@torch.no_grad()
def tower_masks(model: Any, inputs: Inputs) -> float:
    """Seconds for MASKS image tokens, each masked in every layer of the tower; what a layer needs once is left out."""
    tower, seconds, wanted = TowerCalls(model), 0.0, Wanted()
    with tower.recording():
        model.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"])
    units = [list(range(FOUR * each, FOUR * (each + 1))) for each in range(MASKS)]
    rows = torch.arange(tower.calls[0].rows, device=model.device)
    for call in tower.calls:
        layer = TowerLayer(model, call)

        def measure(layer: TowerLayer = layer) -> None:
            for start in range(0, MASKS, layer.at_once()):
                for each in layer.vectors(layer.without(units[start : start + layer.at_once()]), rows, wanted):
                    each.metrics(("l2", "cosine"), None)

        seconds += timed(measure)[1]
    return seconds


def tower_effects(model: Any, inputs: Inputs) -> float:
    """Seconds for the masks of EFFECTS image tokens in all layers of the tower, carried on; recording is left out."""
    places = (inputs["input_ids"][0] == IMAGE_PAD).nonzero().flatten().tolist()
    tokens = [Token(place, IMAGE_PAD, "<image>", "image", 0) for place in places]
    effects = TowerEffects(seen_by_tower(model, inputs, tokens), 0.0, model, StandInTokenizer(), inputs, 0)
    units = [Unit(token.text, (token.position,)) for token in tokens[:: max(1, len(tokens) // EFFECTS)][:EFFECTS]]
    window = Window(0, len(effects.seen.calls) - 1)
    return timed(lambda: effects.measure_masks(effects.masks(Route(), units), window))[1]


def vision_table(setup: Setup, model: Any, sizes: Sequence[int], steps: int, repetitions: int) -> Table:
    def tower_and_run(model: Any, inputs: Inputs, impacts: list[Impact]) -> Sample:
        pixels, grid = inputs["pixel_values"], inputs["image_grid_thw"]
        tower = timed(lambda: model.model.get_image_features(pixels, grid))[1]
        masks, effects = tower_masks(model, inputs), tower_effects(model, inputs)
        plain = timed(lambda: plain_forward(model, inputs))[1]
        return {
            "tower": tower,
            "masks": masks,
            "ratio masks": masks / MASKS / tower,
            "effects": effects,
            "ratio effects": effects / EFFECTS / plain,
            "run": timed(lambda: run_experiment(model, inputs, steps, lambda block: None))[1],
        }

    columns = {}
    for size in sizes:
        name = f"{size} image tokens"
        columns[name] = speed_samples(f"vision, {name}", model, setup.inputs(size), steps, repetitions, tower_and_run)
    return Table.of_samples(
        f"Vision-language: one square image and {TEXT_TOKENS} text tokens, every token masked; {setup}",
        labels(steps),
        {"run": "<= 1 s on a GPU at 1,024", "ratio effects": "<= 1"},
        columns,
        [
            f"{setup.shape}",
            f"median (smallest-largest) of {repetitions} repetitions; all of a column is timed in turn in this process",
            "recorded forward: the whole recording call less the decode steps; generate may run the tower on its own",
            *NOTES,
            "the whole run: experiment.run, from model inputs to blocks, its checks included, writing left out",
            "effects of masks: tower, mergers and the decoder from the first image token on; recording left out",
            "masks in the tower: the call of its layers and the distances; three forwards of it come before, once",
            "the vision tower is in both sides of the ratios and in no rerun",
        ],
    )
