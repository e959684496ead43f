"""Result files: many rows to CSV and JSON."""

import numpy as np

from benchmarks.machine import timed
from benchmarks.tables import Cell, Spread, Table, say
from benchmarks.work import as_block, write_files

ROWS, TOKENS, VARIANTS, LAYERS = 4_000_000, 1024, 18, 28


def rows_table(repetitions: int) -> Table:
    say(f"writing {ROWS} rows")
    generator = np.random.default_rng(0)
    blocks = []
    for index in range(-(-ROWS // (TOKENS * VARIANTS))):
        l2, cosine = generator.lognormal(-4, 2, (2, TOKENS, VARIANTS)).astype(np.float32)
        blocks.append(as_block(index // LAYERS, index % LAYERS, l2, cosine))
    write_files(blocks[:4])  # warm-up
    spread = Spread.of([timed(lambda: write_files(blocks))[1] for _ in range(repetitions)])
    rows: list[list[Cell]] = [[sum(block.rows for block in blocks), spread, "<= 5"]]
    notes = ["from the first row to both files synced and in place; the numbers are random, of all magnitudes"]
    return Table("Result files: CSV and JSON", ["rows", "seconds", "target"], rows, notes)
