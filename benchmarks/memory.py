"""Peak memory of whole runs, each in a fresh process."""

import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch

from benchmarks.machine import PeakMemory, synchronize
from benchmarks.models import Setup
from benchmarks.tables import Cell, Spread, Table, say
from benchmarks.work import generate, run_experiment
from mask_impact.files.results import ResultFiles


def memory_of(setup: Setup, size: int, tokens: int, analysed: bool) -> dict[str, float]:
    """The memory of one run of `tokens` output tokens, or of generation alone."""
    model, inputs = setup.model(), setup.inputs(size)
    peak = PeakMemory(setup.device)
    rows = 0
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        if not analysed:
            generate(model, inputs, tokens)
        else:
            with ResultFiles(folder, "bench", ["csv", "json"]) as files:
                files.commit(run_experiment(model, inputs, tokens, files.write).manifest)
                rows = files.rows
    synchronize()
    return {
        "rows": rows,
        "seconds": time.perf_counter() - started,
        "loaded": peak.start,
        "above": peak.above(),
        "cache": setup.kv_cache_bytes(inputs["input_ids"].shape[1] + tokens - 1),
    }


def in_child(setup: Setup, size: int, tokens: int, analysed: bool) -> dict[str, float]:
    """`memory_of` in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(memory_of, setup, size, tokens, analysed).result()


def memory_table(setup: Setup, size: int, steps: int, repetitions: int) -> Table:
    cases = {f"generation alone, {steps} tokens": (steps, False), "run, 1 token": (1, True)}
    cases |= {f"run, {steps} tokens": (steps, True)} if steps > 1 else {}
    rows: list[list[Cell]] = []
    for label, (tokens, analysed) in cases.items():
        samples = []
        for repetition in range(repetitions):
            say(f"memory, {label}, repetition {repetition + 1} of {repetitions}")
            samples.append(in_child(setup, size, tokens, analysed))
        cache = samples[0]["cache"] / 1e6
        loaded, above, both = (
            Spread.of([found[key] / 1e6 - less for found in samples])
            for key, less in (("loaded", 0), ("above", 0), ("above", cache))
        )
        seconds = Spread.of([found["seconds"] for found in samples])
        target = "< 500" if analysed else ""
        rows.append([label, int(samples[0]["rows"]), seconds, loaded, above, cache, both, target])
    kind = "image tokens" if setup.shape.tower else "prompt tokens"
    return Table(
        f"Peak memory in MB (10^6 bytes): {size} {kind}; {setup}",
        ["", "rows", "seconds", "model loaded", "peak above it", "KV cache", "peak above both", "target"],
        rows,
        [
            f"median (smallest-largest) of {repetitions} fresh processes without a warm-up, so that first-call buffers "
            "of the libraries are in it",
            "glibc keeps freed pieces between what stays: MALLOC_MMAP_THRESHOLD_=1048576 in the environment gives them "
            "back, and takes more time",
            "the runs write their rows to CSV and JSON as they are measured",
            f"model loaded: size once the model is made; peak: {PeakMemory.source(setup.device)}",
            "KV cache: 2 x layers x key/value heads x head width x positions x bytes, computed, not measured",
        ],
    )
