#!/usr/bin/env python3
"""Do the neighbours of an image token name what the token shows?

In: a vision-language model (default: the bundled one), a bank of its captions, and held-out scenes of one object.
Out: for each layer, the share of image tokens on the object with its color or shape among their nearest neighbours, in
     context and in the static vocabulary. For comparison: the same for tokens on the background, and for tokens on the
     object with a color and shape that it does not have, drawn for each scene, which is the chance level. 95 %
     bootstrap intervals over scenes, since the tokens of one scene are not independent. Then, for each layer, in which
     layers of the bank the nearest neighbours are: the published finding is that image tokens of the first layers
     are nearest to text tokens of middle layers.

    python demo/lens_meaning.py --count 20
    python demo/lens_meaning.py
    python demo/lens_meaning.py --top-k 1
    python demo/lens_meaning.py --model smollm2-vl --count 40 --layers 0,1,2,4,8,16,24,28,30  # docs/smollm2-vl.md
"""

import argparse
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

import numpy as np
from captions import CAPTIONS
from scenes import COLORS, NOTHING, SHAPES, SIZES, Scene, draw, make_scene, squares

import latent_lens
from mask_impact.jobs.session import Session
from mask_impact.lens.neighbors import Lens, open_bank
from mask_impact.model.quiet import quiet_libraries
from mask_impact.options import Settings
from mask_impact.prompt.vision import open_pictures, vision_inputs

SEED = 40  # nothing else has used scenes of this seed
PROMPT = "Describe this image."
RESAMPLED = 2000
OBJECT = 0  # index of the only object in a scene

GROUPS = ("object", "background", "other words")
HEADINGS = {"merged": "in context", "static": "static"}
Counts = dict[
    tuple[str, int, str], tuple[int, int]
]  # (kind, layer, group): (tokens that name it, tokens), of one scene


def counted(lens: Lens, scene: Scene, rng: random.Random, nearest: Counter[tuple[int, int]]) -> Counts:
    """How many image tokens on the object and on the background name its color or shape, or others.

    `nearest` counts (layer, bank layer) of the nearest neighbour of each token.
    """
    inputs = vision_inputs(lens.session.reader, lens.session.source.config, PROMPT, open_pictures(draw(scene)))
    tokens = [token for token in inputs.tokens if token.kind == "image"]
    side = scene.width // (1 + max(token.col or 0 for token in tokens))
    where = dict(zip([token.position for token in tokens], squares(scene, side), strict=True))
    thing = scene.objects[OBJECT]
    words = {thing.color, thing.shape}
    others = {rng.choice(sorted({*names} - words)) for names in (COLORS, SHAPES)}
    columns = lens.look(inputs).columns()
    first = (np.array(columns["rank"]) == 1) & (np.array(columns["kind"]) == "merged")
    nearest.update(zip(*(np.array(columns[name])[first].tolist() for name in ("layer", "bank_layer")), strict=True))
    named: dict[tuple[str, int, int], set[str]] = {}  # the texts of the neighbours
    for kind, layer, position, text in zip(
        *(columns[name] for name in ("kind", "layer", "token_position", "neighbor_token")), strict=True
    ):
        named.setdefault((kind, int(layer), int(position)), set()).add(text.strip())
    found: Counts = {}
    for (kind, layer, position), texts in named.items():
        groups = {NOTHING: {"background": words}, OBJECT: {"object": words, "other words": others}}
        for group, asked in groups.get(where[position], {}).items():
            hits, tokens_of_it = found.get((kind, layer, group), (0, 0))
            found[kind, layer, group] = hits + bool(texts & asked), tokens_of_it + 1
    return found


def share(scenes: Sequence[Counts], cell: tuple[str, int, str]) -> str:
    """Over all tokens, and its interval with scenes drawn anew."""
    counts = np.array([found.get(cell, (0, 0)) for found in scenes])  # [scenes, 2]
    drawn = np.random.default_rng(0).integers(0, len(counts), (RESAMPLED, len(counts)))
    hits, totals = counts[drawn].sum(axis=1).T
    low, high = np.percentile(hits / totals, [2.5, 97.5])
    hit, total = counts.sum(axis=0)
    return f"{hit / total:5.1%} ({low:.1%} to {high:.1%})"


def table(scenes: Sequence[Counts], layers: Sequence[int], top_k: int) -> str:
    counts = [sum(found.get(("merged", layers[0], group), (0, 0))[1] for found in scenes) for group in GROUPS]
    cells = [(kind, group) for kind in HEADINGS for group in GROUPS]
    lines = [
        f"{len(scenes)} held-out scenes of one object, {counts[0]} image tokens on it, {counts[1]} on the background",
        f"share with the object's color or shape among the {top_k} nearest (95 % interval)",
        f"{'layer':<7}" + "".join(f"{f'{HEADINGS[kind]}, {group}':<25}" for kind, group in cells),
    ]
    for layer in layers:
        shares = [share(scenes, (kind, layer, group)) for kind, group in cells]
        lines.append(f"{layer:<7}" + "".join(f"{text:<25}" for text in shares))
    return "\n".join(lines)


def layers_table(nearest: Counter[tuple[int, int]], layers: Sequence[int]) -> str:
    """The share of tokens whose nearest neighbour of all is in each layer of the bank."""
    found = sorted({bank for _, bank in nearest})
    lines = ["nearest neighbour by layer of the bank", f"{'layer':<7}" + "".join(f"{bank:>7}" for bank in found)]
    for layer in layers:
        total = sum(nearest[layer, bank] for bank in found)
        lines.append(f"{layer:<7}" + "".join(f"{nearest[layer, bank] / total:>7.1%}" for bank in found))
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=300, help="scenes (default: 300)")
    parser.add_argument("--top-k", type=int, default=5, help="neighbours that are looked at (default: 5)")
    parser.add_argument("--max-per-token", default="20", help="contexts of a token in the bank (default: 20)")
    parser.add_argument("--model", default="demo", help="demo or smollm2-vl (default: demo)")
    parser.add_argument("--layers", help="layers of the image tokens (default: all)")
    args = parser.parse_args(argv)
    rng = random.Random(SEED)
    nearest: Counter[tuple[int, int]] = Counter()
    size = None if args.model == "demo" else SIZES[0]  # smollm2-vl makes every picture a square
    with tempfile.TemporaryDirectory() as folder, quiet_libraries(verbose=False):
        flags = ["--captions", str(CAPTIONS), "--output-dir", folder, "--max-per-token", args.max_per_token, "--quiet"]
        if latent_lens.main(["bank", "--model", args.model, "--device", "cpu", *flags]):
            return 1
        session = Session(Settings(args.model, vision=True, device="cpu"))
        given = [int(layer) for layer in args.layers.split(",")] if args.layers else None
        layers = given or [*range(session.source.num_layers + 1)]
        lens = Lens(session, open_bank(Path(folder)), layers, args.top_k, static=True)
        scenes = [counted(lens, make_scene(rng, 1, True, size), rng, nearest) for _ in range(args.count)]
    print(f"{table(scenes, layers, args.top_k)}\n\n{layers_table(nearest, layers)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
