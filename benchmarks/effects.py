"""The effects part: masks over several layers, carried to the logits, against one whole forward per mask."""

import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.machine import timed
from benchmarks.models import Inputs, Setup
from benchmarks.tables import Labels, Sample, Table, say
from benchmarks.work import StandInTokenizer, plain_forward
from mask_impact.effects.answer import Effects
from mask_impact.effects.asked import Window, windows_of
from mask_impact.effects.carry import Carrier, Forwards
from mask_impact.effects.edits import Edit
from mask_impact.effects.refine import Refinement, key_of
from mask_impact.effects.routes import route_to
from mask_impact.effects.some_heads import head_by_head
from mask_impact.prompt.inputs import ModelInputs, Token
from mask_impact.prompt.levels import parts_of_prompt
from mask_impact.prompt.units import Unit

TOP = 10  # tokens that single layers read most
REPETITIONS = 3  # at most; one takes as long as hundreds of forwards


LABELS: Labels = {
    "plain": "plain forward [s]",
    "prepare": "recording and its checks, once for both blocks [s]",
    "all": "block all: every token, in all layers [s]",
    "ratio all": "  / plain forward / tokens",
    "ratio all whole": "  with recording and checks",
    "speed-up all": "  speed-up over a forward for every mask",
    "five": "block all, an answer of five tokens: CPU time with recording / that of one token",
    "last": "block last: every token, from every layer on [s]",
    "ratio last": "  / plain forward",
    "ratio last token": "  / plain forward / tokens",
    "speed-up last": "  speed-up over a forward for every mask",
    "by head": "by head: every token in each head of the middle layer, read by the last position [s]",
    "ratio by head": "  x layers / plain forward: all heads of all layers",
    "by head top": f"the same, of {TOP} tokens (--top {TOP}) [s]",
    "ratio by head top": "  x layers / plain forward: all heads of all layers",
    "refine": "block all, a picture of 256 tokens in place of the prompt (--refine 4): masks",
    "loop": "one forward of the model with hooks, for one mask [s]",
    "difference": "largest relative difference of the logits from those forwards",
}
NOTES = [
    f"median (smallest-largest) of at most {REPETITIONS} repetitions; all of a column is timed in turn in this process",
    "plain forward: no cache kept, logits of the last position only, as in generation's first forward;",
    "  it is short beside the blocks: the median of 12, three before, between, twice, and after them",
    "recording and its checks: Effects(...); the blocks: Effects.measure, rows of the table included",
    "block last: from each layer to the last one, so tokens x layers masks; block all: as many masks as tokens",
    "forward with hooks: carry.Forwards, which edits the attention and runs the whole model; 3 masks are timed,",
    "  their mean is scaled to all masks (what is computed from the logits counts as free)",
]
TARGETS: Labels = {
    "ratio all": "<= 0.6", "five": "<= 1.15",
    "ratio by head": "<= 400", "ratio by head top": "<= 40", "refine": "<= 60",
}  # fmt: skip


def answer_seconds(model: Any, inputs: Inputs, tokens: int) -> float:
    """CPU time of every token's mask in all layers, for an answer of so many tokens after the prompt."""
    started = time.process_time()
    ids = inputs["input_ids"]
    answer = ids[:, :tokens]
    both = {"input_ids": torch.cat([ids, answer[:, :-1]], dim=1)}
    effects = Effects(model, StandInTokenizer(), both, 0, chosen=answer[0].tolist())
    units = [Unit(f"word{position}", (position,)) for position in range(ids.shape[1])]
    effects.measure(units, Window(0, len(effects.passage.calls) - 1), "all")
    return time.process_time() - started


def masks_of_a_picture(side: int, count: int) -> int:
    """How many masks `--refine` takes for a picture of side x side tokens, whichever parts are the strongest."""
    tokens = [Token(place, 0, "<image>", "image", 0, *divmod(place, side)) for place in range(side * side)]
    inputs = ModelInputs({}, tokens, "", chat=False)
    refinement = Refinement(count, None, parts_of_prompt(StandInTokenizer(), inputs, "vision"))
    while refinement.split({key_of(unit): float(unit.positions[0]) for unit in refinement.masked}):
        pass
    return len(refinement.units)


def effects_sample(model: Any, inputs: Inputs) -> Sample:
    """One repetition: everything once, one after the other."""
    length = inputs["input_ids"].shape[1]
    found: Sample = {}
    plain: list[float] = []

    def plain_forwards() -> None:
        plain.extend(timed(lambda: plain_forward(model, inputs))[1] for _ in range(3))

    plain_forwards()
    effects, found["prepare"] = timed(lambda: Effects(model, StandInTokenizer(), inputs, 0))
    assert isinstance(effects.runner, Carrier | Forwards)
    passage = effects.runner.passage
    layers = len(passage.calls)
    units = [Unit(f"word{position}", (position,)) for position in range(length)]
    every = Window(0, layers - 1)
    _, found["all"] = timed(lambda: effects.measure(units, every, "all"))
    one, five = (answer_seconds(model, inputs, tokens) for tokens in (1, 5))
    found["five"] = five / one
    plain_forwards()
    from_each = windows_of("from", layers)
    _, found["last"] = timed(lambda: [effects.measure(units, window, "last") for window in from_each])
    middle = Window(layers // 2, layers // 2)
    by_head = head_by_head(route_to("last").masks(units, length), middle.first, effects.runner.heads)
    _, found["by head"] = timed(lambda: effects.measure_masks(by_head, middle))
    few = [mask for mask in by_head if mask.position in range(0, length, -(-length // TOP))]
    _, found["by head top"] = timed(lambda: effects.measure_masks(few, middle))
    found["refine"] = masks_of_a_picture(16, 4)
    plain_forwards()
    loop = Forwards(model, passage, inputs)
    masked = sorted({length // 4, length // 2, length - 2})
    edits = [Edit((position,)) for position in masked]
    expected, seconds = timed(lambda: loop.run(0, layers - 1, 0, edits))
    found["loop"] = seconds / len(edits)
    carried = effects.runner.run(0, layers - 1, min(masked), edits)
    apart = (carried.logits - expected.logits).norm(dim=-1) / expected.logits.norm(dim=-1)
    found["difference"] = apart.max().item()
    plain_forwards()
    found["plain"] = statistics.median(plain)
    found["ratio all"] = found["all"] / found["plain"] / length
    found["ratio all whole"] = (found["all"] + found["prepare"]) / found["plain"] / length
    found["speed-up all"] = found["loop"] * length / found["all"]
    found["ratio last"] = found["last"] / found["plain"]
    found["ratio last token"] = found["ratio last"] / length
    found["ratio by head"] = found["by head"] * layers / found["plain"]
    found["ratio by head top"] = found["by head top"] * layers / found["plain"]
    found["speed-up last"] = found["loop"] * length * layers / found["last"]
    return found


def effects_table(setup: Setup, model: Any, lengths: Sequence[int], repetitions: int) -> Table:
    columns: dict[str, list[Sample]] = {}
    for length in lengths:
        inputs = setup.inputs(length)
        say(f"effects, {length} tokens, warm-up")
        plain_forward(model, inputs)
        name = f"{length} tokens"
        columns[name] = []
        for repetition in range(repetitions):
            say(f"effects, {name}, repetition {repetition + 1} of {repetitions}")
            columns[name].append(effects_sample(model, inputs))
    title = "Effects: each token masked alone, carried on to the logits"
    return Table.of_samples(f"{title}; {setup}", LABELS, TARGETS, columns, NOTES)
