"""Does the vision encoder of smollm2-vl, DINOv2-small, have patches of very large norm, and are they read more?

Large models of its kind do (Darcet et al. 2023, arXiv 2309.16588): in the last layers a few patches of the background
have several times the norm of all others. The paper finds none in small ones.

In:  `--model smollm2-vl`, and held-out scenes.
Out: by layer, the norms of the states of patches, with the largest in units of the median, for pictures of the size
     that the model takes and of a larger one; and the rank correlation between a patch's norm and how far the
     other patches of its picture move when they do not read it (`--tower vision`), over all patches of a scene.

    python demo/sink_patches.py --count 2
    python demo/sink_patches.py
"""

import argparse
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

import numpy as np
import torch
from evaluate_vl import load
from scenes import Scene, draw, held_out_scenes

from mask_impact import run_vl_masking_experiment

MODEL = "smollm2-vl"
SEED = 43  # neither training nor another script has used scenes of this seed
LARGER = 448  # pixels on each side
OUTLIER = 3  # times the median norm of its layer
QUESTION = "How many shapes?"


@torch.no_grad()
def norms(model: Any, processor: Any, scene: Scene, side: int) -> np.ndarray:
    """[layers + 1, patches] of what each layer gets, and of what the last one gives, in a side x side picture."""
    size = {"height": side, "width": side}
    pixels = processor.image_processor(draw(scene), size=size, return_tensors="pt")["pixel_values"]
    states = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
    return torch.stack([layer[0, 1:].norm(dim=-1) for layer in states]).numpy()


def reads(scene: Scene) -> np.ndarray:
    """[layers, patches] how far the others' updates move when they do not read a patch."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scene.png"
        draw(scene).save(path)
        df = run_vl_masking_experiment(QUESTION, str(path), model_name=MODEL, tower="vision", variants="full")
    table = df[df.token_position >= 0].pivot(index="layer", columns="token_position", values="l2_distance")
    return table.to_numpy()


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's, -1 to 1."""
    ranks = [np.argsort(np.argsort(values)) for values in (one, other)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def spread(found: Sequence[np.ndarray]) -> list[str]:
    """A line for each layer: median norm, the largest and the share of outliers."""
    table = np.concatenate(found, axis=1)  # [layers + 1, patches of all scenes]
    medians = np.median(table, axis=1)
    outliers = (table > OUTLIER * medians[:, None]).mean(axis=1)
    return [
        f"{median:6.1f} {largest / median:6.2f} {share:8.2%}"
        for median, largest, share in zip(medians, table.max(axis=1), outliers, strict=True)
    ]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=12, help="scenes (default: 12)")
    args = parser.parse_args(argv)
    model, processor = load(Path(MODEL))
    scenes = held_out_scenes(random.Random(SEED), args.count)
    own = processor.image_processor.size["height"]
    small, large = ([norms(model, processor, scene, side) for scene in scenes] for side in (own, LARGER))
    print(f"{args.count} held-out scenes; norms of patches: median, largest / median, share of")
    print(f"patches above {OUTLIER} x the median; and the rank correlation of norm and reading within a scene")
    read = [reads(scene) for scene in scenes]
    print(f"{'layer':<6} {f'{own} x {own} pixels':<24} {f'{LARGER} x {LARGER}':<24} correlation")
    for layer, (few, many) in enumerate(zip(spread(small), spread(large), strict=True)):
        cell = "" if layer == len(read[0]) else _mean([(n[layer], r[layer]) for n, r in zip(small, read, strict=True)])
        print(f"{layer:<6} {few:<24} {many:<24} {cell}".rstrip())
    return 0


def _mean(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> str:
    return f"{np.mean([rank_correlation(*pair) for pair in pairs]):6.2f}"


if __name__ == "__main__":
    sys.exit(main())
