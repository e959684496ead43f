"""The search for neighbours against one matrix product of the same size; building a bank against plain forwards."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from benchmarks.machine import PeakMemory, timed
from benchmarks.models import Setup
from benchmarks.tables import Cell, Sample, Spread, Table, say
from benchmarks.work import plain_forward
from mask_impact.lens.bank import Build
from mask_impact.lens.contexts import Corpus, batches
from mask_impact.lens.search import nearest

BANKS = ((100_000, 2048), (1_000_000, 512))  # rows x hidden
QUERIES, TOP_K = 256, 5
REPETITIONS = 3  # at most
WRITTEN = 20_000  # rows at a time
CAPTIONS, CAPTION_TOKENS, VOCABULARY = 300, 12, 50


def mapped_bank(path: Path, rows: int, hidden: int) -> torch.Tensor:
    """[rows, hidden] float16 random unit vectors, memory-mapped from a file."""
    generator = torch.Generator().manual_seed(0)
    bank = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(rows, hidden))
    for start in range(0, rows, WRITTEN):
        vectors = torch.randn(min(WRITTEN, rows - start), hidden, generator=generator)
        bank[start : start + WRITTEN] = torch.nn.functional.normalize(vectors, dim=1).half().numpy()
    bank.flush()
    del bank
    return torch.from_numpy(np.load(path, mmap_mode="c"))


def search_rows(rows: int, hidden: int, repetitions: int) -> list[list[Cell]]:
    """Two rows of the table: on one thread, and on all."""
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        bank = mapped_bank(Path(folder) / "bank.npy", rows, hidden)
        queries = torch.randn(QUERIES, hidden, generator=torch.Generator().manual_seed(1))
        nearest(queries, [bank], TOP_K)  # from here on the pages of the bank are in memory
        peak = PeakMemory(torch.device("cpu"))
        nearest(queries, [bank], TOP_K)
        above = peak.above() / 1e6
        whole = bank.float()
        found: list[list[Cell]] = []
        for count in sorted({1, threads}):
            torch.set_num_threads(count)
            samples: list[Sample] = []
            for _ in range(min(repetitions, REPETITIONS) + 1):
                search = timed(lambda: nearest(queries, [bank], TOP_K))[1]
                product = timed(lambda: queries @ whole.T)[1]
                samples.append({"search": search, "product": product, "ratio": search / product})
            spreads = [Spread.of([sample[key] for sample in samples[1:]]) for key in ("product", "search", "ratio")]
            found.append([f"{rows:,} x {hidden:,}", count, *spreads, "<= 1.5", above, "< 2,000"])
        torch.set_num_threads(threads)
    return found


def search_table(repetitions: int) -> Table:
    rows: list[list[Cell]] = []
    for size in BANKS:
        say("search in {:,} x {:,}".format(*size))
        rows += search_rows(*size, repetitions)
    columns = ["bank", "threads", "product [s]", "search [s]", "search / product", "target", "peak [MB]", "target"]
    notes = [
        f"{QUERIES} queries, the {TOP_K} nearest of each, among float16 vectors mapped from a file",
        "product: queries times the same vectors, float32, in memory",
        "peak: above the resident size with the bank's pages in memory, VmHWM reset at that moment",
    ]
    return Table(f"Neighbours: exact search, {QUERIES} queries", columns, rows, notes)


def random_captions() -> Corpus:
    """Captions of few different ids, so that some begin alike."""
    ids = np.random.default_rng(0).integers(1, VOCABULARY, (CAPTIONS, CAPTION_TOKENS)).astype(np.int32)
    starts = np.arange(CAPTIONS + 1) * CAPTION_TOKENS
    return Corpus([""] * CAPTIONS, ids.ravel(), starts, np.array([], np.int64))


def bank_sample(build: Build, model: Any, folder: Path) -> Sample:
    """One repetition: the shards, and the same captions in the same batches in plain forwards."""
    cut = [rows for shard in build.shards for rows in batches(build.contexts, shard, build.batch_size)]
    ids = [torch.from_numpy(np.stack([own for own, _ in build._captions(rows)])).long() for rows in cut]

    def plain() -> None:
        for some in ids:
            plain_forward(model, {"input_ids": some, "attention_mask": torch.ones_like(some)})

    _, forwards = timed(plain)
    _, building = timed(lambda: build.run(range(len(build.shards))))
    tokens = sum(some.numel() for some in ids)
    return {"plain": tokens / forwards, "bank": tokens / building, "ratio": building / forwards}


@torch.no_grad()
def bank_table(setup: Setup, repetitions: int) -> Table:
    say("building a bank")
    model = setup.model()
    layers = tuple(range(1, setup.layers + 1))
    config = model.config.get_text_config()
    session: Any = SimpleNamespace(model=model, source=SimpleNamespace(text_config=config))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "bank.json").touch()
        build = Build(session, random_captions(), CAPTIONS, layers, 32, folder)
        samples = [bank_sample(build, model, folder) for _ in range(repetitions + 1)][1:]
    labels = {
        "plain": "plain forwards of the same batches [tokens/s]",
        "bank": "building the bank, shards written [tokens/s]",
        "ratio": "seconds of building / plain",
    }
    notes = [
        f"{CAPTIONS} captions of {CAPTION_TOKENS} random tokens, 32 in a forward; plain: logits of the last position",
        f"kept: {len(build.contexts.token):,} contexts at {len(layers)} layers",
    ]
    return Table.of_samples(f"Bank; {setup}", labels, {}, {"": samples}, notes)


def tables(setup: Setup, repetitions: int) -> Sequence[Table]:
    return [bank_table(setup, repetitions), search_table(repetitions)]
