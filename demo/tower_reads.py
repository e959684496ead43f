"""How far the layers of the demo's vision tower mix patches: the table at the end of docs/vision-tower.md.

Every image token of testimg.png is once the only reader (`readers`). Printed: how far its patches move when another
token's patches are hidden from them, as a part of their update, by the distance between the two tokens on the grid
(the larger of the distances in rows and in columns), on average over all pairs.

Then by effects, over drawn scenes: no patch reads another in one layer, or from one layer on. Printed: how far the
image features move (cosine distance), and how far the answer's probability falls, with 95 % bootstrap intervals.

    python demo/tower_reads.py --count 10
    python demo/tower_reads.py
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

import numpy as np
import pandas as pd
import torch
from evaluate_vl import FOLDER, load
from known_answer_effects_vl import mean_interval
from known_answer_vl import questions
from scenes import draw

from mask_impact import run_vl_effects_experiment, run_vl_masking_experiment

ROOT = Path(__file__).resolve().parent.parent
QUESTION = "What color is the circle?"
SEED = 47  # neither training nor another script has used scenes of this seed


def read_by(reader: int) -> pd.DataFrame:
    """The rows of `Full` under every mask, with only the patches of the image token at this position compared."""
    df = run_vl_masking_experiment(
        QUESTION, str(ROOT / "testimg.png"), model_name="demo", tower="vision", readers=str(reader),
        metrics="l2,relative", variants="full",
    )  # fmt: skip
    tokens = {token["position"]: (token["row"], token["col"]) for token in df.attrs["run"]["tokens"]}
    row, col = tokens[reader]
    places = [tokens[position] for position in df.token_position]
    return df.assign(apart=[max(abs(row - other[0]), abs(col - other[1])) for other in places])


def read_in_one_layer() -> pd.DataFrame:
    """By layer and distance, in percent."""
    run = run_vl_masking_experiment(QUESTION, str(ROOT / "testimg.png"), model_name="demo", tower="vision").attrs["run"]
    readers = [token["position"] for token in run["tokens"] if token["kind"] == "image"]
    found = pd.concat(map(read_by, readers))
    return 100 * found.pivot_table(index="layer", columns="apart", values="relative_distance")


def without_mixing(count: int) -> str:
    """What it does that no patch reads another, in windows of layers."""
    model, processor = load(FOLDER)
    rows = []
    for scene, question in questions(SEED, count):
        rows.append(
            run_vl_effects_experiment(
                question.text, draw(scene), model=model, processor=processor, tower="vision", answer=question.answer,
                routes="image -> image", mask_layers="0-2,1-2,2,0,1",
            )
        )  # fmt: skip
    found = pd.concat(rows)
    found = found[found.generation_step == 0]
    found["fall"] = np.exp(found.logprob - found.logprob_change) - np.exp(found.logprob)
    lines = [f"{'layers':<8} {'features move (cosine)':<26} fall of the probability"]
    for (first, last), each in found.groupby(["first_layer", "last_layer"]):
        cells = [
            "{:.3f} ({:.3f} to {:.3f})".format(*mean_interval(each[name].tolist())) for name in ("image_cosine", "fall")
        ]
        lines.append(f"{f'{first} to {last}':<8} {cells[0]:<26} {cells[1]}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=100, help="scenes (default: 100)")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)  # a model this small is not faster with more
    print(read_in_one_layer().round(1).to_string())
    print(without_mixing(args.count))
    return 0


if __name__ == "__main__":
    sys.exit(main())
