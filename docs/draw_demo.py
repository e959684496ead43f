"""Draw docs/demo.png, the README's picture: the demo model's Full L2 for one prompt, tokens across, layers up.

python docs/draw_demo.py
python docs/draw_demo.py --model path/to/checkpoint --prompt "Once upon a time" --output /tmp/picture.png
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mask_impact_analysis import run_masking_experiment

PROMPT = "Tom has a red ball. Ann has a blue cup. Ann's cup is"
CELL, LEFT, TOP, BOTTOM, RIGHT = 46, 96, 126, 56, 120
SCALE = 2  # drawn at twice the size, for sharp screens
INK, GREY, PAPER = (30, 30, 36), (120, 120, 128), (255, 255, 255)
# Five colours of viridis, dark to light (matplotlib, CC0), joined by straight lines.
COLOURS = np.array([(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)], dtype=float)


def colour(share: float) -> tuple[int, int, int]:
    """`share` 0 to 1 of the scale as a colour."""
    place = min(max(share, 0.0), 1.0) * (len(COLOURS) - 1)
    low = min(int(place), len(COLOURS) - 2)
    mixed = COLOURS[low] + (place - low) * (COLOURS[low + 1] - COLOURS[low])
    return int(mixed[0]), int(mixed[1]), int(mixed[2])


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size * SCALE)


def readable(text: str) -> str:
    return text.replace(" ", "␣" if text == " " else " ").replace("\n", "\\n").strip() or repr(text)


def column_label(text: str) -> Image.Image:
    """A token, turned to read upwards."""
    face = font(13)
    width = int(face.getlength(text)) + 4
    label = Image.new("RGB", (width, 20 * SCALE), PAPER)
    ImageDraw.Draw(label).text((2, 1), text, fill=INK, font=face)
    return label.rotate(90, expand=True)


def draw(values: np.ndarray, tokens: Sequence[str], title: str, subtitle: str) -> Image.Image:
    """values [layers, tokens]; the first token is drawn, but not in the scale."""
    layers, count = values.shape
    size = (LEFT + count * CELL + RIGHT, TOP + layers * CELL + BOTTOM)
    picture = Image.new("RGB", (size[0] * SCALE, size[1] * SCALE), PAPER)
    pen = ImageDraw.Draw(picture)
    largest = float(values[:, 1:].max())
    pen.text((LEFT * SCALE, 14 * SCALE), title, fill=INK, font=font(17))
    pen.text((LEFT * SCALE, 40 * SCALE), subtitle, fill=GREY, font=font(12))
    for layer in range(layers):
        y = TOP + (layers - 1 - layer) * CELL
        pen.text((26 * SCALE, (y + 14) * SCALE), f"layer {layer}", fill=INK, font=font(13))
        for position in range(count):
            x = LEFT + position * CELL
            box = [x * SCALE, y * SCALE, (x + CELL - 2) * SCALE, (y + CELL - 2) * SCALE]
            if position == 0:
                pen.rectangle(box, fill=(235, 235, 238))
            else:
                pen.rectangle(box, fill=colour(float(values[layer, position]) / largest))
            light = position == 0 or values[layer, position] > 0.6 * largest
            text = f"{values[layer, position]:.1f}"
            pen.text(((x + 11) * SCALE, (y + 14) * SCALE), text, fill=INK if light else PAPER, font=font(12))
    for position, text in enumerate(tokens):
        label = column_label(readable(text))
        picture.paste(label, ((LEFT + position * CELL + 12) * SCALE, TOP * SCALE - label.height - 6 * SCALE))
    note = "grey: the first position, outside the scale"
    pen.text((LEFT * SCALE, (TOP + layers * CELL + 18) * SCALE), note, fill=GREY, font=font(12))
    draw_scale(pen, LEFT + count * CELL + 24, TOP, layers * CELL, largest)
    return picture


def draw_scale(pen: ImageDraw.ImageDraw, x: int, y: int, height: int, largest: float) -> None:
    for row in range(height * SCALE):
        fill = colour(1 - row / (height * SCALE))
        pen.line([(x * SCALE, y * SCALE + row), ((x + 16) * SCALE, y * SCALE + row)], fill=fill)
    for share in (0.0, 0.5, 1.0):
        place = (y + (1 - share) * height - 8) * SCALE
        pen.text(((x + 24) * SCALE, place), f"{share * largest:.1f}", fill=INK, font=font(12))
    pen.text((x * SCALE, (y - 26) * SCALE), "Full L2", fill=GREY, font=font(12))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--output", type=Path, default=Path(__file__).resolve().parent / "demo.png")
    args = parser.parse_args(argv)
    table = run_masking_experiment(args.prompt, args.model, device="cpu", variants=("full",))
    run = table.attrs["run"]
    grid = table.pivot(index="layer", columns="token_position", values="l2_distance")
    answer = run["generated"][0]
    tokens = [found["text"] for found in run["tokens"][: run["prompt_length"]]]
    draw(
        grid.to_numpy(),
        tokens,
        f"{args.prompt} \N{RIGHTWARDS ARROW} {answer['text'].strip()}".replace("\N{RIGHTWARDS ARROW}", "->"),
        f"{args.model}, probability {answer['probability']:.2f}: how far each layer's update moves without a token",
    ).save(args.output, optimize=True)
    print(f"wrote {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
