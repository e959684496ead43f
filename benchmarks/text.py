"""The text parts: one generation step at several prompt lengths, and several steps against their parts."""

from collections.abc import Sequence
from typing import Any

from benchmarks.machine import timed
from benchmarks.models import Inputs, Setup
from benchmarks.speed import CHECKS, NOTES, RERUNS, speed_samples
from benchmarks.tables import Labels, Sample, Table, say
from benchmarks.work import as_block, generate, measure_layers, record, run_experiment, write_files
from mask_impact.impact.meter import Impact

STEPS = 5  # generated tokens in the comparison of several with one
FORWARDS_PER_REPETITION, FORWARDS_WARM_UP = 5, 3  # forwards of the prompt that the speed part takes

SPEED: Labels = {
    "plain": "plain forward [s]",
    "generate 1": "generate, 1 token [s]",
    f"generate {STEPS}": f"generate, {STEPS} tokens [s]",
    "recorded": "recorded forward [s]",
    "whole": "  the whole recording call [s]",
    "replay 1": "replay [s]",
    "distances 1": "distances [s]",
    "write": "writing CSV and JSON [s]",
    "ratio 1": "(recorded forward + replay + distances) / plain",
    "ratio whole": "  with the whole recording call",
    **RERUNS,
    **CHECKS,
}
TARGETS: Labels = {
    "ratio 1": "<= 2.0 from 128 on, aim 1.7",
    "speed-up 1": ">= 60 at 128, >= 500 at 512",
    "speed-up whole 1": "near tokens / ratio",
}


def generation_and_files(model: Any, inputs: Inputs, impacts: list[Impact]) -> Sample:
    """What a run of one token does besides the analysis."""
    blocks = [
        as_block(0, layer, each.l2.cpu().numpy(), each.cosine.cpu().numpy()) for layer, each in enumerate(impacts)
    ]
    found = {"write": timed(lambda: write_files(blocks))[1]}
    for tokens in (1, STEPS):
        found[f"generate {tokens}"] = timed(lambda: generate(model, inputs, tokens))[1]  # noqa: B023
    return found


def speed_table(setup: Setup, model: Any, lengths: Sequence[int], repetitions: int) -> Table:
    columns = {}
    for length in lengths:
        inputs = setup.inputs(length)
        generate(model, inputs, STEPS)  # warm-up
        name = f"{length} tokens"
        columns[name] = speed_samples(f"speed, {name}", model, inputs, 1, repetitions, generation_and_files)
    return Table.of_samples(
        f"Speed: one generation step, every token masked; {setup}",
        SPEED,
        TARGETS,
        columns,
        [
            f"median (smallest-largest) of {repetitions} repetitions; all of a column is timed in turn in this process",
            "recorded forward: the model's forward inside record_generation, hooks included",
            *NOTES,
            "rerunning all layers takes about one plain forward, so the second speed-up is near tokens / ratio: with a",
            "  ratio of 1.7 it is 75 at 128 tokens and 301 at 512; the first leaves out the forward that both need",
        ],
    )


def decode_seconds(setup: Setup, model: Any, inputs: Inputs) -> float:
    """The mean time of one of STEPS plain decode steps after a prompt: one token, with the KV cache."""
    cache = model(**inputs, use_cache=True, logits_to_keep=1).past_key_values
    steps = setup.inputs(STEPS)["input_ids"]

    def decode() -> None:
        for step in range(STEPS):
            model(steps[:, step : step + 1], past_key_values=cache, use_cache=True, logits_to_keep=1)

    return timed(decode)[1] / STEPS


def steps_sample(setup: Setup, model: Any, length: int) -> Sample:
    """One repetition: the run of five tokens, and each of its parts alone."""
    inputs = setup.inputs(length)
    found: Sample = {}
    run, found["run"] = timed(lambda: run_experiment(model, inputs, STEPS, lambda block: None))
    for phase in ("recorded_forward", "decode", "replay"):
        found[f"run {phase}"] = run.manifest["seconds"][phase]
    found["decode"] = decode_seconds(setup, model, inputs)
    recording = record(model, inputs, 1)
    found["recorded"] = recording.seconds[0]
    _, one_step = timed(lambda: measure_layers(model, recording, length - 1))
    rows = sum(length + step for step in range(STEPS))
    found["replay"] = one_step / length * rows
    found["parts"] = STEPS * found["decode"] + found["recorded"] + found["replay"]
    found["ratio"] = found["run"] / found["parts"]
    return found


SEVERAL: Labels = {
    "run": f"measured: the whole run of {STEPS} tokens [s]",
    "run recorded_forward": "  of which recorded forward [s]",
    "run decode": f"  of which {STEPS - 1} recorded decode steps [s]",
    "run replay": "  of which replay and distances [s]",
    "parts": f"parts alone: {STEPS} decode steps + 1 recorded forward + replay [s]",
    "decode": "  one plain decode step [s]",
    "recorded": "  one recorded forward [s]",
    "replay": "  replay and distances of the rows [s], scaled",
    "ratio": "measured / parts",
}


def steps_table(setup: Setup, model: Any, lengths: Sequence[int], repetitions: int) -> Table:
    columns = {}
    for length in lengths:
        steps_sample(setup, model, length)  # warm-up
        say(f"steps, {length} tokens")
        columns[f"{length} tokens"] = [steps_sample(setup, model, length) for _ in range(repetitions)]
    return Table.of_samples(
        f"{STEPS} generated tokens; {setup}",
        SEVERAL,
        {},
        columns,
        [
            "measured: experiment.run, from inputs to blocks, writing left out",
            "replay alone: that of a one-token run, scaled from N rows a layer to N + (N + 1) + ... + (N + 4)",
            f"the first token comes out of the prompt's forward: {STEPS} tokens need {STEPS - 1} decode steps",
        ],
    )
