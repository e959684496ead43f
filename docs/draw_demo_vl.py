"""Draw docs/demo_vl.png: where the demo vision-language model looks in testimg.png, layer by layer.

python docs/draw_demo_vl.py
python docs/draw_demo_vl.py --image photo.jpg --prompt "What is on the left?" --model path/to/checkpoint
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

import numpy as np
from draw_demo import GREY, INK, PAPER, SCALE, colour, draw_scale, font
from PIL import Image, ImageDraw

from mask_impact_vl import run_vl_masking_experiment

ROOT = Path(__file__).resolve().parent.parent
PROMPT = "What color is the circle?"
SIDE, GAP, LEFT, TOP, BOTTOM, RIGHT = 168, 14, 14, 92, 16, 110
OPACITY = 0.72


def panel(picture: Image.Image, values: np.ndarray | None, boxes: np.ndarray, largest: float) -> Image.Image:
    """The picture SIDE pixels high, with each token's box in the colour of its value."""
    scale = SIDE * SCALE / picture.height
    size = round(picture.width * scale), SIDE * SCALE
    shown = picture.resize(size, Image.Resampling.LANCZOS)
    if values is None:
        return shown
    shown = shown.convert("L").convert("RGB")  # so that colour means value
    heat = shown.copy()
    pen = ImageDraw.Draw(heat)
    for value, box in zip(values, boxes, strict=True):
        pen.rectangle([round(edge * scale) for edge in box], fill=colour(value / largest))
    mixed = Image.blend(shown, heat, OPACITY)
    pen = ImageDraw.Draw(mixed)
    for box in boxes:
        pen.rectangle([round(edge * scale) for edge in box], outline=(255, 255, 255), width=1)
    return mixed


def draw(picture: Image.Image, grid: np.ndarray, boxes: np.ndarray, title: str, subtitle: str) -> Image.Image:
    """grid [layers, image tokens]; boxes [image tokens, 4] in pixels of the picture."""
    largest = float(grid.max())
    panels = [("picture", panel(picture, None, boxes, largest))]
    panels += [(f"layer {layer}", panel(picture, values, boxes, largest)) for layer, values in enumerate(grid)]
    width = panels[0][1].width // SCALE
    size = LEFT + len(panels) * (width + GAP) + RIGHT, TOP + SIDE + BOTTOM
    canvas = Image.new("RGB", (size[0] * SCALE, size[1] * SCALE), PAPER)
    pen = ImageDraw.Draw(canvas)
    pen.text((LEFT * SCALE, 10 * SCALE), title, fill=INK, font=font(17))
    pen.text((LEFT * SCALE, 36 * SCALE), subtitle, fill=GREY, font=font(12))
    for index, (name, drawn) in enumerate(panels):
        x = (LEFT + index * (width + GAP)) * SCALE
        pen.text((x, (TOP - 24) * SCALE), name, fill=INK, font=font(13))
        canvas.paste(drawn, (x, TOP * SCALE))
    draw_scale(pen, LEFT + len(panels) * (width + GAP) + 6, TOP, SIDE, largest)
    return canvas


def layer_values(table: Any, run: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """([layers, image tokens] Full L2 at the first output token, [image tokens, 4] boxes)."""
    grid = table[table.generation_step == 0].pivot(index="layer", columns="token_position", values="l2_distance")
    tokens = {found["position"]: found for found in run["tokens"]}
    return grid.to_numpy(), np.array([tokens[position]["box"] for position in grid.columns])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--image", type=Path, default=ROOT / "testimg.png")
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "demo_vl.png")
    args = parser.parse_args(argv)
    table = run_vl_masking_experiment(
        args.prompt, args.image, mask_mode="vision", model_name=args.model, device="cpu", variants=("full",)
    )
    run = table.attrs["run"]
    answer = run["generated"][0]
    draw(
        Image.open(args.image).convert("RGB"),
        *layer_values(table, run),
        f"{args.prompt} -> {answer['text'].strip()}",
        f"{args.model}, probability {answer['probability']:.2f}: how far each layer's update moves without a patch",
    ).save(args.output, optimize=True)
    print(f"wrote {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
