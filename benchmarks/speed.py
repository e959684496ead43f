"""The comparison that text and vision share: an analysis against one plain forward and against reruns of the layers.

A part gives a model, inputs by length, and what else it measures. Everything is timed in turn in one process, once per
repetition, so that a ratio stays right on a machine that gets slower or faster meanwhile.
"""

import gc
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import nn

from benchmarks.baseline import Baseline
from benchmarks.machine import timed
from benchmarks.models import Inputs
from benchmarks.tables import Labels, Sample, say
from benchmarks.work import measure_layers, plain_forward, record, timed_distances
from mask_impact.impact.meter import Impact
from mask_impact.impact.record import Recording
from mask_impact.model.towers import decoder_layers

Further = Callable[[Any, Inputs, list[Impact]], Sample]  # what only one part measures


def recorded_tensors(value: Any) -> Iterator[torch.Tensor]:
    """Every tensor that a recording keeps, without those of the model."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from recorded_tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from recorded_tensors(item)
    elif is_dataclass(value) and not isinstance(value, nn.Module):
        yield from recorded_tensors([getattr(value, each.name) for each in fields(value)])


def recording_size(recording: Recording, length: int) -> Sample:
    """The size of what the recording holds.

    Raises RuntimeError for a tensor with two axes as long as the prompt (or prompt and output), and for a small view
    that keeps such a tensor alive.
    """
    tensors = list(recorded_tensors(recording))
    storages = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors}
    long = range(length, length + len(recording.tokens))
    keys_and_values = {id(each) for each in recorded_tensors([layer.attention for layer in recording.with_attention()])}
    for each in tensors:
        axes = each.shape[:-1] if id(each) in keys_and_values else each.shape  # a head can be as wide as N
        square = sum(size in long for size in axes) > 1
        behind = each.untyped_storage().nbytes() // each.element_size()
        if square or (behind > each.numel() and behind >= length**2):
            raise RuntimeError(f"a prompt of {length} tokens: {tuple(each.shape)} of {behind} numbers was recorded")
    return {"recording": sum(storages.values()) / 1e6, "square": 0}


def speed_sample(model: Any, inputs: Inputs, baseline: Baseline, steps: int, further: Further) -> Sample:
    """One repetition: everything once. "1" is the first output token alone, "all" are all `steps`."""
    length, layers = inputs["input_ids"].shape[1], len(decoder_layers(model))
    found: Sample = {}
    _, found["plain"] = timed(lambda: plain_forward(model, inputs))
    recording, found["whole"] = timed(lambda: record(model, inputs, steps))
    found["decode all"] = sum(recording.seconds[1:])
    # generate of transformers 5 runs a vision tower before it calls the model: then the whole call counts
    found["recorded"] = found["whole"] - found["decode all"] if "pixel_values" in inputs else recording.seconds[0]
    impacts: list[Impact] = []
    found |= {"replay all": 0.0, "distances all": 0.0}
    for step in range(steps):
        with timed_distances() as spent:
            measured, both = timed(lambda: measure_layers(model, recording, length - 1 + step))  # noqa: B023
        found["distances all"] += sum(spent)
        found["replay all"] += both - sum(spent)
        if step == 0:
            impacts, found["distances 1"], found["replay 1"] = measured, sum(spent), both - sum(spent)
    found |= recording_size(recording, length)
    found["call"] = statistics.mean(baseline.seconds())
    found |= further(model, inputs, impacts)
    found["ratio whole"] = (found["whole"] + found["replay 1"] + found["distances 1"]) / found["plain"]
    rows = {"1": length, "all": sum(length + step for step in range(steps))}
    for which, count in rows.items():
        rest = found[f"replay {which}"] + found[f"distances {which}"]
        found[f"seconds {which}"] = found["recorded"] + rest + found["decode all"] * (which == "all")
        found[f"ratio {which}"] = (found["recorded"] + rest) / found["plain"]
        found[f"baseline {which}"] = found["call"] * count * layers
        found[f"speed-up {which}"] = found[f"baseline {which}"] / rest
        found[f"speed-up whole {which}"] = found[f"baseline {which}"] / (found["recorded"] + rest)
    return found


def speed_samples(
    name: str, model: Any, inputs: Inputs, steps: int, repetitions: int, further: Further
) -> list[Sample]:
    """The repetitions at one prompt length, after a warm-up that compares the engine with the reruns."""
    length = inputs["input_ids"].shape[1]
    say(f"{name}, warm-up")
    baseline = Baseline.prepare(model, inputs)
    differences = baseline.differences(measure_layers(model, record(model, inputs, 1), length - 1))
    if model.device.type == "cuda":  # the first use of a kernel at a shape is slow, and a repetition is cheap
        speed_sample(model, inputs, baseline, steps, further)
    samples = []
    for repetition in range(repetitions):
        say(f"{name}, repetition {repetition + 1} of {repetitions}")
        gc.collect()
        samples.append(speed_sample(model, inputs, baseline, steps, further) | differences)
    return samples


RERUNS: Labels = {
    "call": "one layer rerun for one masked token [s]",
    "baseline 1": "  times tokens and layers [s], scaled",
    "speed-up 1": "speed-up: reruns / (replay + distances)",
    "speed-up whole 1": "  reruns / (recorded forward + replay + distances)",
}
CHECKS: Labels = {
    "difference": "largest relative difference from the reruns' L2",
    "difference of update": "  the same relative to the update's length",
    "recording": "recording held, keys and values included [MB]",
    "square": "  its tensors with two axes of prompt length",
}

NOTES = (
    "plain forward: no cache kept, logits of the last position only, as in generation's first forward",
    "replay: Meter.impact less distances, for all layers; distances are timed where the replay calls them",
    "reruns: the layer itself on its cached input of the whole prompt, the masked token's column at -inf in a",
    "  4-D mask made beforehand; 3 tokens x 2 layers are timed, their mean is scaled to all tokens and layers",
    "  (the forward that fills the cache, the heads and the distances of the reruns count as free)",
    "the differences compare L2 of Full of those tokens and layers: engine and reruns measure the same thing;",
    "  where they are more than rounding, or a recorded tensor has two axes of prompt length, the bench stops",
)
