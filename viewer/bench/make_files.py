"""Write the files that bench.mjs reads: synthetic runs of two sizes in every format.

    .venv/bin/python viewer/bench/make_files.py /tmp/viewer-bench

165k: 5 steps, 36 layers, 34 variants, 27 tokens. 4M: 3 steps, 36 layers, 34 variants, 1,024 tokens (3.76 million rows).
"""

from __future__ import annotations

import gzip
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mask_impact.files.results import COLUMNS, Block, ResultFiles

SIZES = {"165k": (5, 27), "4M": (3, 1024)}
LAYERS, HEADS = 36, 32


def blocks(steps: int, tokens: int) -> Iterator[Block]:
    rng = np.random.default_rng(0)
    variants = ["Full", "Attn", *(f"Head_{head}" for head in range(HEADS))]
    texts = [f" token{i % 700}" for i in range(tokens)]
    shape = (tokens, len(variants))
    for step in range(steps):
        for layer in range(LAYERS):
            l2, cosine = rng.lognormal(0, 2, shape), rng.lognormal(-6, 3, shape)
            yield Block.of_l2_and_cosine(step, layer, texts, np.arange(tokens), variants, l2, cosine)


def records(path: Path) -> None:
    """Record JSON, as other tools write it: 6 decimals."""
    columns = json.loads(path.with_suffix(".json").read_bytes())
    with path.with_name(f"{path.stem}_records.json").open("w") as out:
        for i, row in enumerate(zip(*(columns[name] for name in COLUMNS), strict=True)):
            step, layer, token, position, variant, l2, cosine = row
            keys = f'"generation_step":{step},"layer":{layer},"token_masked":"{token}","token_position":{position}'
            text = f'{{{keys},"variant":"{variant}","l2_distance":{l2:.6f},"cosine_distance":{cosine:.6f}}}'
            out.write(("," if i else "[") + text)
        out.write("]\n")


def main() -> None:
    folder = Path(sys.argv[1])
    for name, (steps, tokens) in SIZES.items():
        with ResultFiles(folder, name, ["csv", "json", "parquet"]) as files:
            for block in blocks(steps, tokens):
                files.write(block)
            files.commit({"name": name})
        path = folder / f"{name}_results.json"
        with path.open("rb") as plain, gzip.open(f"{path}.gz", "wb", 1) as packed:
            shutil.copyfileobj(plain, packed, 1 << 20)
        records(path)


if __name__ == "__main__":
    main()
