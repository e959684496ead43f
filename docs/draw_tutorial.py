"""Draw docs/tutorial.svg, and print the numbers of docs/tutorial.md: what is read at which layer, and what is needed.

python docs/draw_tutorial.py output/names
python docs/draw_tutorial.py output/names --output /tmp/picture.svg

In: a folder with the runs of docs/tutorial_prompts.py. Without one, the picture is drawn from
docs/measured/tutorial.json, where the numbers of the last drawing are kept.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from plot import Curve, plot

DOCS = Path(__file__).resolve().parent
KEPT = DOCS / "measured" / "tutorial.json"
SPANS = {"answer": "the answer's name", "other": "the other name, second time", "place": "the place (control)"}


def interval(values: Sequence[float], times: int = 2000) -> list[float]:
    """The mean, and its 95 % bootstrap interval over prompts."""
    dice = np.random.default_rng(0)
    numbers = np.asarray(values, dtype=np.float64)
    means = dice.choice(numbers, (times, len(numbers))).mean(axis=1)
    return [float(numbers.mean()), *np.quantile(means, [0.025, 0.975]).tolist()]


def measured(folder: Path) -> dict[str, Any]:
    """From the runs: mean relative distance by span and layer, mean changes of the answer by span, counts."""
    from mask_impact import load

    runs = [load(path) for path in sorted(folder.glob("names*_results.json"))]
    effects = [load(path).set_index("token_masked") for path in sorted(folder.glob("names*_effects.json"))]
    told = [run.attrs["run"] for run in runs]
    by_layer = [run.pivot(index="token_masked", columns="layer", values="relative_distance") for run in runs]
    layers = list(by_layer[0])
    return {
        "prompts": len(runs),
        "right": sum(run["generated"][0]["text"] == run["request"]["contrast"][0] for run in told),
        "answer costs most": sum(table.logprob_change.idxmin() == "answer" for table in effects),
        "read": {
            span: [interval([table.loc[span, layer] for table in by_layer]) for layer in layers] for span in SPANS
        },
        "logprob_change": {span: interval([table.logprob_change[span] for table in effects]) for span in SPANS},
        "contrast_change": {span: interval([table.contrast_change[span] for table in effects]) for span in SPANS},
    }


def kept() -> dict[str, Any]:
    """The numbers of the last drawing."""
    found: dict[str, Any] = json.loads(KEPT.read_text("utf-8"))
    return found


def draw() -> str:
    found = kept()
    curves = [
        Curve(
            name,
            tuple((float(layer), mean) for layer, (mean, _, _) in enumerate(found["read"][span])),
            tuple((low, high) for _, low, high in found["read"][span]),
        )
        for span, name in SPANS.items()
    ]
    title = f"How far a layer's update moves without the word: mean of {found['prompts']} prompts, 95 % interval"
    return plot(title, ("layer", "relative distance"), curves, ((0, 5, 10, 15, 20, 25, 29), (0, 0.25, 0.5, 0.75, 1)))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--output", type=Path, default=DOCS / "tutorial.svg")
    args = parser.parse_args(argv)
    if args.folder:
        KEPT.parent.mkdir(exist_ok=True)
        KEPT.write_text(json.dumps(measured(args.folder)) + "\n", "utf-8")
    args.output.write_text(draw(), "utf-8")
    found = kept()
    print(f"{found['prompts']} prompts, {found['right']} answered with the right name")
    print(f"masking the answer's name costs most in {found['answer costs most']}")
    for column in ("logprob_change", "contrast_change"):
        for span, (mean, low, high) in found[column].items():
            print(f"{column}  {span:6}  {mean:6.2f} ({low:.2f} to {high:.2f})")
    for span, layers in found["read"].items():
        peak = max(range(len(layers)), key=lambda layer: layers[layer][0])
        print("read most in layer {}  {:6}  {:.2f} ({:.2f} to {:.2f})".format(peak, span, *layers[peak]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
