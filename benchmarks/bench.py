#!/usr/bin/env python3
"""How long an analysis takes next to the plain forward it needs anyway, and how much memory it takes.

In: nothing; a model of Qwen3-0.6B's shape with random weights is made in memory (float32, CPU).
Out: tables on stdout: time by phase and prompt length, the speed-up over rerunning a layer for every masked token,
five generated tokens, peak memory, result files; with --json also as a file.

Things compared are timed in turn in one process (A B C A B C ...) after a warm-up. A cell is the median over the
repetitions, then the smallest and the largest. A ratio is taken inside each repetition, so that it survives a machine
that gets slower or faster on the way; it is so not exactly the ratio of the medians above it.

    python benchmarks/bench.py                                  # everything, 8 to 10 minutes
    python benchmarks/bench.py --only rows                      # one part; this one takes seconds
    python benchmarks/bench.py --only speed --layers 2 --lengths 32,128 --repetitions 2
"""

import argparse
import gc
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import numpy as np
import torch
import transformers
from torch import nn
from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mask_impact import experiment, impact
from mask_impact.capture import Recording, layer_output, record_generation
from mask_impact.inputs import ModelInputs, token
from mask_impact.results import Block, ResultFiles

T = TypeVar("T")

PARTS = ("speed", "steps", "memory", "rows")
VOCABULARY, HIDDEN, MLP, HEADS, KV_HEADS, HEAD_DIM, LAYERS = 151936, 1024, 3072, 16, 8, 128, 28
VARIANTS = ["Full", "Attn", *(f"Head_{head}" for head in range(HEADS))]
LONGEST = 1024  # prompt tokens in the memory part
STEPS = 5  # generated tokens in the comparison of several with one
TABLE_ROWS = 4_000_000

# The default number of layers is as large as fits both. Of a prompt's forward, one repetition of the speed part
# does about 5, the warm-up 3; the rest of the bench takes about 2 minutes.
MEMORY_SHARE = 0.6  # of what is available
SPEED_SECONDS = 400.0
FORWARDS_PER_REPETITION, FORWARDS_WARM_UP = 5, 3


# --- tables -----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Spread:
    """What one thing measured over the repetitions."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        if self.low == self.high:
            return _short(self.median)
        return f"{_short(self.median)} ({_short(self.low)}-{_short(self.high)})"


Cell = str | int | float | Spread


@dataclass
class Table:
    """One table of the output."""

    title: str
    columns: list[str]
    rows: list[list[Cell]]
    notes: list[str]

    def __str__(self) -> str:
        grid = [self.columns, *([_text(cell) for cell in row] for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
        lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in grid]
        rule = "  ".join("-" * width for width in widths)
        return "\n".join([f"\n{self.title}", lines[0], rule, *lines[1:], *(f"  * {note}" for note in self.notes)])


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _text(cell: Cell) -> str:
    return _short(cell) if isinstance(cell, float) else str(cell)


def say(what: str) -> None:
    """Progress, on stderr."""
    print(f"bench: {what}", file=sys.stderr, flush=True)


# --- the model and the machine ----------------------------------------------------------------------------
def build_model(layers: int, vocabulary: int = VOCABULARY) -> Any:
    """Qwen3-0.6B's shape with `layers` layers and random weights."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=HIDDEN,
        intermediate_size=MLP,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        head_dim=HEAD_DIM,
        tie_word_embeddings=True,
    )
    return Qwen3ForCausalLM(config).eval()


def layer_bytes() -> int:
    """Size of one layer's weights."""
    return 4 * HIDDEN * (2 * HEADS * HEAD_DIM + 2 * KV_HEADS * HEAD_DIM + 3 * MLP)


def kv_cache_bytes(layers: int, positions: int) -> int:
    """Keys and values of all positions in all layers."""
    return 4 * 2 * layers * KV_HEADS * HEAD_DIM * positions


def available_bytes() -> int:
    """Memory that new programs can have."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        fields = dict(line.split(":") for line in meminfo.read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def layers_that_fit_memory() -> int:
    """The model and the memory part's run within MEMORY_SHARE of what is available, 1 to LAYERS."""
    per_layer = layer_bytes() + kv_cache_bytes(1, LONGEST)
    fixed = 4 * VOCABULARY * HIDDEN + 500_000_000
    return max(1, min(LAYERS, int((MEMORY_SHARE * available_bytes() - fixed) // per_layer)))


def layers_that_fit_time(lengths: Sequence[int], repetitions: int) -> int:
    """As many as the speed part can have in SPEED_SECONDS, from a forward of 2 layers, 1 to LAYERS."""
    model, ids = build_model(2, 256), prompt(512, 256)
    with torch.no_grad():
        seconds = min(timed(lambda: plain_forward(model, ids))[1] for _ in range(3))
    per_layer = seconds / 2 / 512 * sum(lengths) * (FORWARDS_PER_REPETITION * repetitions + FORWARDS_WARM_UP)
    return max(1, min(LAYERS, int(SPEED_SECONDS / per_layer)))


def machine_table(layers: int, why: str) -> Table:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    rows: list[list[Cell]] = [
        ["CPU", cpu_model()],
        ["cores / threads used", f"{os.cpu_count()} / {torch.get_num_threads()}"],
        ["load average (1 minute)", f"{os.getloadavg()[0]:.1f}"],
        ["memory / available", f"{total / 1e9:.1f} GB / {available_bytes() / 1e9:.1f} GB"],
        ["system", platform.platform()],
        ["python", platform.python_version()],
        ["torch / transformers", f"{torch.__version__} / {transformers.__version__}"],
        ["model", f"Qwen3-0.6B's shape, random weights, float32: hidden {HIDDEN}, MLP {MLP}, {HEADS} query and"],
        ["", f"{KV_HEADS} key/value heads of {HEAD_DIM}, vocabulary {VOCABULARY}, tied embeddings"],
        ["layers", f"{layers} of {LAYERS} ({why})"],
    ]
    notes = ["other work on the machine shows in the load average, and distorts short prompts most"]
    return Table("Machine and model", ["what", "value"], rows, notes)


# --- the things that are timed ----------------------------------------------------------------------------
def timed(work: Callable[[], T]) -> tuple[T, float]:
    """The result of `work` and its seconds."""
    started = time.perf_counter()
    result = work()
    return result, time.perf_counter() - started


def prompt(length: int, vocabulary: int = VOCABULARY) -> torch.Tensor:
    """[1, N] random ids, the same every time."""
    return torch.randint(0, vocabulary, (1, length), generator=torch.Generator().manual_seed(length))


def plain_forward(model: Any, ids: torch.Tensor) -> None:
    """The forward that generation starts with: logits of the last position only."""
    model(ids, use_cache=False, logits_to_keep=1)


def generate(model: Any, ids: torch.Tensor, tokens: int) -> None:
    settings = GenerationConfig(max_new_tokens=tokens, do_sample=False, use_cache=True, pad_token_id=0)
    model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)


def record(model: Any, ids: torch.Tensor) -> Recording:
    return record_generation(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, 1, [])


@contextmanager
def timed_distances() -> Iterator[list[float]]:
    """The seconds of each call of `distances` that the replay makes until the block ends."""
    spent: list[float] = []
    original = impact.distances

    def distances(base: torch.Tensor, change: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        result, seconds = timed(lambda: original(base, change))
        spent.append(seconds)
        return result

    with mock.patch.object(impact, "distances", distances):
        yield spent


def measure_layers(model: Any, recording: Recording, position: int) -> list[impact.Impact]:
    """Every layer's distances at one query position, each token up to it masked by itself."""
    meter = impact.Meter(model, impact.Wanted())
    masks = [[masked] for masked in range(position + 1)]
    return [meter.impact(layer, layer.queries[position], masks) for layer in recording.measured()]


def as_block(step: int, layer: int, l2: np.ndarray, cosine: np.ndarray) -> Block:
    """Distances [P, V] of P masked tokens as the engine hands them to the files."""
    masks = len(l2)
    return Block(step, layer, [f" word{i}" for i in range(masks)], np.arange(masks), VARIANTS, l2, cosine)


def write_files(blocks: Sequence[Block]) -> None:
    """CSV and JSON, complete and moved into place."""
    with tempfile.TemporaryDirectory() as folder, ResultFiles(folder, "bench", ["csv", "json"]) as files:
        for block in blocks:
            files.write(block)
        files.commit({})


# --- the baseline: rerun the cached layer for every masked token --------------------------------------------
@dataclass
class LayerCall:
    """One layer's call inside the forward of the whole prompt: its cached input."""

    index: int
    layer: nn.Module
    hidden: torch.Tensor  # [1, N, C]
    kwargs: dict[str, Any]

    def update(self, bias: torch.Tensor) -> torch.Tensor:
        """[C] what the layer adds at the last position under an additive mask [1, 1, N, N]."""
        output = layer_output(self.layer(self.hidden, **(self.kwargs | {"attention_mask": bias})))
        return output[0, -1] - self.hidden[0, -1]


def cached_calls(model: Any, ids: torch.Tensor, indices: Sequence[int]) -> list[LayerCall]:
    """The calls of the layers `indices` in one forward."""
    calls: list[LayerCall] = []

    def keep(index: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            calls.append(LayerCall(index, module, args[0] if args else kwargs.pop("hidden_states"), dict(kwargs)))

        return hook

    layers = model.model.layers
    handles = [layers[index].register_forward_pre_hook(keep(index), with_kwargs=True) for index in indices]
    try:
        plain_forward(model, ids)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def causal_bias(length: int, masked: int | None = None) -> torch.Tensor:
    """[1, 1, N, N] additive causal mask, the column of `masked` at -inf."""
    bias = torch.full((length, length), float("-inf")).triu(1)
    if masked is not None:
        bias[:, masked] = float("-inf")
    return bias[None, None]


@dataclass
class Baseline:
    """A few masked tokens in a few layers; the time of all is scaled up from their mean."""

    calls: list[LayerCall]
    masked: list[int]
    biases: list[torch.Tensor]

    @classmethod
    def prepare(cls, model: Any, ids: torch.Tensor) -> "Baseline":
        length, layers = ids.shape[1], len(model.model.layers)
        masked = sorted({length // 4, length // 2, length - 2})
        calls = cached_calls(model, ids, sorted({0, layers // 2}))
        return cls(calls, masked, [causal_bias(length, position) for position in masked])

    def seconds(self) -> list[float]:
        """Of each rerun of one layer for one masked token."""
        return [timed(lambda: call.update(bias))[1] for call in self.calls for bias in self.biases]  # noqa: B023

    def difference(self, impacts: Sequence[impact.Impact]) -> float:
        """The largest difference between the engine's L2 of Full and this one's, relative to it."""
        worst = 0.0
        for call in self.calls:
            base = call.update(causal_bias(call.hidden.shape[1]))
            for masked, bias in zip(self.masked, self.biases, strict=True):
                l2 = (call.update(bias) - base).norm().item()
                worst = max(worst, abs(impacts[call.index].l2[masked, 0].item() - l2) / l2)
        return worst


# --- speed --------------------------------------------------------------------------------------------------
Sample = dict[str, float]  # what one repetition measured


def speed_sample(model: Any, ids: torch.Tensor, baseline: Baseline) -> Sample:
    """One repetition: everything once, in turn."""
    length, layers = ids.shape[1], len(model.model.layers)
    found: Sample = {}
    _, found["plain"] = timed(lambda: plain_forward(model, ids))
    recording, found["whole"] = timed(lambda: record(model, ids))
    found["recorded"] = recording.seconds[0]
    with timed_distances() as spent:
        impacts, both = timed(lambda: measure_layers(model, recording, length - 1))
    found["distances"] = sum(spent)
    found["replay"] = both - sum(spent)
    blocks = [as_block(0, layer, each.l2.numpy(), each.cosine.numpy()) for layer, each in enumerate(impacts)]
    _, found["write"] = timed(lambda: write_files(blocks))
    found["call"] = statistics.mean(baseline.seconds())
    for tokens in (1, STEPS):
        _, found[f"generate {tokens}"] = timed(lambda: generate(model, ids, tokens))  # noqa: B023
    analysis = found["recorded"] + both
    found["baseline"] = found["call"] * length * layers
    found["ratio"] = analysis / found["plain"]
    found["ratio whole"] = (found["whole"] + both) / found["plain"]
    found["speed-up"] = found["baseline"] / both
    found["speed-up whole"] = found["baseline"] / analysis
    return found


def speed_samples(model: Any, length: int, repetitions: int) -> list[Sample]:
    """The repetitions at one prompt length, after a warm-up."""
    ids = prompt(length)
    baseline = Baseline.prepare(model, ids)  # a plain forward: the first part of the warm-up
    difference = baseline.difference(measure_layers(model, record(model, ids), length - 1))
    samples = []
    for repetition in range(repetitions):
        say(f"speed, {length} tokens, repetition {repetition + 1} of {repetitions}")
        gc.collect()
        samples.append(speed_sample(model, ids, baseline) | {"difference": difference})
    return samples


SPEED_ROWS = (  # key in Sample, label, target
    ("plain", "plain forward [s]", ""),
    ("generate 1", "generate, 1 token [s]", ""),
    (f"generate {STEPS}", f"generate, {STEPS} tokens [s]", ""),
    ("recorded", "recorded forward [s]", ""),
    ("whole", "  the whole recording call [s]", ""),
    ("replay", "replay [s]", ""),
    ("distances", "distances [s]", ""),
    ("write", "writing CSV and JSON [s]", ""),
    ("ratio", "(recorded forward + replay + distances) / plain", "<= 2.0 from 128 on, aim 1.7"),
    ("ratio whole", "  with the whole recording call", ""),
    ("call", "one layer rerun for one masked token [s]", ""),
    ("baseline", "  times tokens and layers [s], scaled", ""),
    ("speed-up", "speed-up: reruns / (replay + distances)", ">= 60 at 128, >= 500 at 512"),
    ("speed-up whole", "  reruns / (recorded forward + replay + distances)", "near tokens / ratio"),
    ("difference", "largest relative difference from the reruns' L2", ""),
)


def speed_table(model: Any, lengths: Sequence[int], repetitions: int) -> Table:
    samples = {length: speed_samples(model, length, repetitions) for length in lengths}
    rows: list[list[Cell]] = [
        [label, *(Spread.of([sample[key] for sample in samples[length]]) for length in lengths), target]
        for key, label, target in SPEED_ROWS
    ]
    return Table(
        f"Speed: one generation step, every token masked, {len(model.model.layers)} layers, {len(VARIANTS)} variants",
        ["", *(f"{length} tokens" for length in lengths), "target"],
        rows,
        [
            f"median (smallest-largest) of {repetitions} repetitions; all of a column is timed in turn in this process",
            "plain forward: no cache kept, logits of the last position only, as in generation's first forward",
            "recorded forward: the model's forward inside record_generation, hooks included; one output token",
            "replay: Meter.impact less distances, for all layers; distances are timed where the replay calls them",
            "reruns: the layer itself on its cached input of the whole prompt, the masked token's column at -inf in a",
            "  4-D mask made beforehand; 3 tokens x 2 layers are timed, their mean is scaled to all tokens and layers",
            "  (the forward that fills the cache, the heads and the distances of the reruns count as free)",
            "rerunning all layers takes about one plain forward, so the second speed-up is near tokens / ratio: with a",
            "  ratio of 1.7 it is 75 at 128 tokens and 301 at 512; the first leaves out the forward that both need",
            "the last row compares L2 of Full of those tokens and layers: engine and baseline measure the same thing",
        ],
    )


# --- five generated tokens ------------------------------------------------------------------------------------
class StandInTokenizer:
    """What the engine asks of a tokenizer, for a model whose tokens are random ids. No token ends a generation."""

    all_special_ids: Sequence[int] = ()
    eos_token_id: int | None = None

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        return " ".join(f"word{each}" for each in ids)

    def convert_ids_to_tokens(self, token_id: int) -> str:
        return f"word{token_id}"

    def get_vocab(self) -> dict[str, int]:
        return {}


def run_experiment(model: Any, ids: torch.Tensor, tokens: int, write: Callable[[Block], None]) -> experiment.Run:
    """The program's own run, from inputs to blocks."""
    tokenizer = StandInTokenizer()
    listed = [token(tokenizer, position, token_id) for position, token_id in enumerate(ids[0].tolist())]
    tensors = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    inputs = ModelInputs(tensors, listed, "random ids", False)
    return experiment.run(model, tokenizer, inputs, experiment.Options(num_tokens=tokens), write)


def decode_seconds(model: Any, ids: torch.Tensor) -> float:
    """The mean time of one of STEPS plain decode steps after a prompt: one token, with the KV cache."""
    cache = model(ids, use_cache=True, logits_to_keep=1).past_key_values
    steps = prompt(STEPS)

    def decode() -> None:
        for step in range(STEPS):
            model(steps[:, step : step + 1], past_key_values=cache, use_cache=True, logits_to_keep=1)

    return timed(decode)[1] / STEPS


def steps_sample(model: Any, ids: torch.Tensor) -> Sample:
    """One repetition: the run of five tokens, and its parts by themselves."""
    length = ids.shape[1]
    found: Sample = {}
    run, found["run"] = timed(lambda: run_experiment(model, ids, STEPS, lambda block: None))
    found["run forward"] = run.manifest["seconds"]["recorded_forward"]
    found["run decode"] = run.manifest["seconds"]["decode"]
    found["run replay"] = run.manifest["seconds"]["replay"]
    found["decode"] = decode_seconds(model, ids)
    recording = record(model, ids)
    found["recorded"] = recording.seconds[0]
    _, one_step = timed(lambda: measure_layers(model, recording, length - 1))
    rows = sum(length + step for step in range(STEPS))
    found["replay"] = one_step / length * rows
    found["parts"] = STEPS * found["decode"] + found["recorded"] + found["replay"]
    found["ratio"] = found["run"] / found["parts"]
    return found


STEPS_ROWS = (
    ("run", f"measured: the whole run of {STEPS} tokens [s]"),
    ("run forward", "  of it: recorded forward [s]"),
    ("run decode", f"  of it: {STEPS - 1} recorded decode steps [s]"),
    ("run replay", "  of it: replay and distances [s]"),
    ("parts", f"parts by themselves: {STEPS} decode steps + 1 recorded forward + replay [s]"),
    ("decode", "  one plain decode step [s]"),
    ("recorded", "  one recorded forward [s]"),
    ("replay", "  replay and distances of the rows [s], scaled"),
    ("ratio", "measured / parts"),
)


def steps_table(model: Any, lengths: Sequence[int], repetitions: int) -> Table:
    columns: list[list[Sample]] = []
    for length in lengths:
        ids = prompt(length)
        steps_sample(model, ids)  # warm-up
        say(f"steps, {length} tokens")
        columns.append([steps_sample(model, ids) for _ in range(repetitions)])
    rows: list[list[Cell]] = [
        [label, *(Spread.of([sample[key] for sample in samples]) for samples in columns)] for key, label in STEPS_ROWS
    ]
    return Table(
        f"{STEPS} generated tokens, {len(model.model.layers)} layers",
        ["", *(f"{length} tokens" for length in lengths)],
        rows,
        [
            "measured: experiment.run, from inputs to blocks, writing left out",
            "replay by itself: that of a one-token run, scaled from N rows a layer to N + (N + 1) + ... + (N + 4)",
            f"the first token comes out of the prompt's forward: {STEPS} tokens need {STEPS - 1} decode steps",
        ],
    )


# --- memory ---------------------------------------------------------------------------------------------------
STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
PEAK_SOURCE = (
    "the kernel's VmHWM, reset at that moment"
    if CLEAR_REFS.exists()
    else "ru_maxrss of the whole process, so making the model is in it"
)


def resident_bytes(largest: bool) -> int:
    """This process's resident memory: now, or the largest since `reset_peak` (where there is no /proc: ever)."""
    if STATUS.exists():
        fields = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
        return int(fields["VmHWM" if largest else "VmRSS"].split()[0]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def reset_peak() -> None:
    """Start a new peak: making the model holds its tied embedding twice for a moment."""
    if CLEAR_REFS.exists():
        CLEAR_REFS.write_text("5")


def memory_child(layers: int, tokens: int, length: int) -> dict[str, float]:
    """In a process of its own: the memory of one run of `tokens` output tokens, 0 for generation alone."""
    model, ids = build_model(layers), prompt(length)
    gc.collect()
    reset_peak()
    loaded = resident_bytes(largest=False)
    rows = 0
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        if tokens == 0:
            generate(model, ids, STEPS)
        else:
            with ResultFiles(folder, "bench", ["csv", "json"]) as files:
                files.commit(run_experiment(model, ids, tokens, files.write).manifest)
                rows = files.rows
    positions = length + (tokens or STEPS) - 1
    return {
        "rows": rows,
        "seconds": time.perf_counter() - started,
        "loaded": loaded,
        "above": resident_bytes(largest=True) - loaded,
        "cache": kv_cache_bytes(layers, positions),
    }


def in_child(layers: int, tokens: int, length: int) -> dict[str, float]:
    """`memory_child` in a fresh process."""
    command = [sys.executable, __file__, "--memory-child", f"{layers},{tokens},{length}"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def memory_table(layers: int, length: int) -> Table:
    rows: list[list[Cell]] = []
    for label, tokens in (
        (f"generation alone, {STEPS} tokens", 0),
        ("run, 1 token", 1),
        (f"run, {STEPS} tokens", STEPS),
    ):
        say(f"memory, {label}")
        found = in_child(layers, tokens, length)
        megabytes = [found[key] / 1e6 for key in ("loaded", "above", "cache")]
        rows.append(
            [
                label,
                int(found["rows"]),
                found["seconds"],
                *megabytes,
                megabytes[1] - megabytes[2],
                "< 500" * (tokens > 0),
            ]
        )
    return Table(
        f"Peak memory in MB (10^6 bytes): {length} prompt tokens, {layers} layers, {len(VARIANTS)} variants",
        ["", "rows", "seconds", "model loaded", "peak above it", "KV cache", "peak above both", "target"],
        rows,
        [
            "each line is a fresh process without a warm-up, so that first-call buffers of the libraries are in it",
            "the runs write their rows to CSV and JSON as they are measured",
            f"model loaded: resident size once the model is made; peak: {PEAK_SOURCE}",
            "KV cache: 2 x layers x key/value heads x head width x positions x 4 bytes, computed, not measured",
        ],
    )


# --- result files ---------------------------------------------------------------------------------------------
def rows_table(repetitions: int, count: int = TABLE_ROWS) -> Table:
    """Many rows to CSV and JSON."""
    say(f"writing {count} rows")
    generator = np.random.default_rng(0)
    shape = (LONGEST, len(VARIANTS))
    blocks = []
    for index in range(-(-count // (LONGEST * len(VARIANTS)))):
        l2, cosine = generator.lognormal(-4, 2, (2, *shape)).astype(np.float32)
        blocks.append(as_block(index // LAYERS, index % LAYERS, l2, cosine))
    write_files(blocks[:4])  # warm-up
    spread = Spread.of([timed(lambda: write_files(blocks))[1] for _ in range(repetitions)])
    rows: list[list[Cell]] = [[sum(block.rows for block in blocks), spread, "<= 5"]]
    notes = ["from the first row to both files synced and in place; the numbers are random, of all magnitudes"]
    return Table("Result files: CSV and JSON", ["rows", "seconds", "target"], rows, notes)


# --- command line ---------------------------------------------------------------------------------------------
def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--only", choices=PARTS, help="one part; default all")
    parser.add_argument("--layers", type=int, help=f"default: as many as memory and time allow, up to {LAYERS}")
    parser.add_argument("--lengths", type=numbers, default=[32, 128, 512, LONGEST], help="prompt tokens; 3 or more")
    parser.add_argument("--steps-lengths", type=numbers, default=[128], help=f"prompt tokens for {STEPS} output tokens")
    parser.add_argument("--memory-length", type=int, default=LONGEST, help="prompt tokens in the memory part")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the tables there too")
    parser.add_argument("--memory-child", type=numbers, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if min(args.lengths) < 3:
        parser.error(f"--lengths {args.lengths}: a prompt needs 3 tokens or more")
    return args


def choose_layers(args: argparse.Namespace) -> tuple[int, str]:
    """The number of layers of the speed and steps parts, and why."""
    if args.layers:
        return args.layers, "--layers"
    memory = layers_that_fit_memory()
    fitting = min(memory, layers_that_fit_time(args.lengths, args.repetitions))
    if fitting == LAYERS:
        return fitting, "all"
    return fitting, "as many as memory allows" if fitting == memory else "as many as the time allows, by a quick timing"


def tables(args: argparse.Namespace) -> Iterator[Table]:
    """The tables that were asked for, each as soon as it is measured."""
    wanted = [args.only] if args.only else PARTS
    layers, why = choose_layers(args) if {"speed", "steps"} & {*wanted} else (args.layers or LAYERS, "memory part")
    yield machine_table(layers, why)
    if {"speed", "steps"} & {*wanted}:
        model = build_model(layers)
        if "speed" in wanted:
            yield speed_table(model, args.lengths, args.repetitions)
        if "steps" in wanted:
            yield steps_table(model, args.steps_lengths, args.repetitions)
        del model
        gc.collect()
    if "memory" in wanted:
        yield memory_table(args.layers or layers_that_fit_memory(), args.memory_length)
    if "rows" in wanted:
        yield rows_table(args.repetitions)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    if args.memory_child:
        print(json.dumps(memory_child(*args.memory_child)))
        return 0
    started = time.perf_counter()
    done: list[Table] = []
    with torch.no_grad():
        for table in tables(args):
            print(table, flush=True)
            done.append(table)
    print(f"\n{time.perf_counter() - started:.0f} seconds in all")
    if args.json:
        args.json.write_text(json.dumps([asdict(table) for table in done], indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
