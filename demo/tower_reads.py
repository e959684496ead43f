"""How far the layers of the demo's vision tower mix patches: the table at the end of docs/vision-tower.md.

Every image token of testimg.png is once the only reader (`readers`). Printed: how far its patches move when another
token's patches are hidden from them, as a part of their update, by the distance between the two tokens on the grid
(the larger of the distances in rows and in columns), on average over all pairs.

    python demo/tower_reads.py
"""

import sys
from pathlib import Path

import pandas as pd

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]

from mask_impact import run_vl_masking_experiment

ROOT = Path(__file__).resolve().parent.parent
QUESTION = "What color is the circle?"


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


def main() -> None:
    run = run_vl_masking_experiment(QUESTION, str(ROOT / "testimg.png"), model_name="demo", tower="vision").attrs["run"]
    readers = [token["position"] for token in run["tokens"] if token["kind"] == "image"]
    found = pd.concat(map(read_by, readers))
    table = 100 * found.pivot_table(index="layer", columns="apart", values="relative_distance")
    print(table.round(1).to_string())


if __name__ == "__main__":
    main()
