"""A batch of many prompts: what each costs beside its analysis, and whether memory grows."""

import json
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import mask_impact_analysis
from benchmarks.machine import resident_bytes
from benchmarks.tables import Cell, Spread, Table, say
from mask_impact.impact import run as impact_run

PROMPTS = 200
FORMATS = "csv,json,parquet,html"
SETTLED = 20  # prompts after which libraries have allocated their buffers


def batch_of(prompts: int) -> dict[str, list[float]]:
    """Run a batch on the demo model. For each prompt: seconds in total, seconds of the analysis, memory after it."""
    analysed: list[float] = []
    resident: list[float] = []
    original = impact_run.run

    def timed(*args: Any, **options: Any) -> impact_run.Run:
        started = time.perf_counter()
        run = original(*args, **options)
        analysed.append(time.perf_counter() - started)
        resident.append(resident_bytes())
        return run

    impact_run.run = timed
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        entries = [
            {"name": f"p{i}", "prompt": f"Tom has a red ball. Ann has {i} cups. Ann's cup is"} for i in range(prompts)
        ]
        lines = ["model: demo", "prompts:", *(f"- {json.dumps(entry)}" for entry in entries)]
        (folder / "many.yaml").write_text("\n".join(lines), "utf-8")
        flags = ["--config", str(folder / "many.yaml"), "--output-dir", name, "--format", FORMATS, "--device", "cpu"]
        if mask_impact_analysis.main([*flags, "--quiet"]):
            raise RuntimeError("the batch failed")
        written = json.loads((folder / "many_batch.json").read_text("utf-8"))
    return {"seconds": [found["seconds"] for found in written["prompts"]], "analysed": analysed, "resident": resident}


def batch_table() -> Table:
    say(f"a batch of {PROMPTS} prompts")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        found = pool.submit(batch_of, PROMPTS).result()
    beside = [1e3 * (all_ - own) for all_, own in zip(found["seconds"], found["analysed"], strict=True)][SETTLED:]
    start, end = (
        statistics.median(part) / 1e6 for part in (found["resident"][SETTLED : SETTLED + 10], found["resident"][-10:])
    )
    rows: list[list[Cell]] = [
        ["beside the analysis, ms a prompt", Spread.of(beside), "<= 50"],
        ["analysis, ms a prompt", Spread.of([1e3 * own for own in found["analysed"][SETTLED:]]), ""],
        [f"memory at prompts {SETTLED} to {SETTLED + 9}, MB", start, ""],
        [f"memory at the last 10 of {PROMPTS}, MB", end, "as before"],
    ]
    notes = [
        f"the demo model, 17 tokens, one output token, {FORMATS}; the first {SETTLED} prompts left out",
        "beside the analysis: reading the prompt, and writing, syncing and moving five files",
    ]
    return Table("A batch", ["", "found", "target"], rows, notes)
