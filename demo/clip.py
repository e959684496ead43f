"""A short video for the bundled vision-language demo model: a red circle crosses the picture, beside a blue square.

In:  nothing. Out: clip.gif beside this file, 8 frames of 128 x 128 pixels in 2 seconds, always the same bytes.

    python demo/clip.py                          # write demo/clip.gif
    python demo/clip.py --output /tmp/clip.gif   # write it elsewhere

The model has learnt from single pictures alone: what it says about the video is not to be taken for knowledge of time.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw
from scenes import COLORS

CLIP = Path(__file__).resolve().parent / "clip.gif"
FRAMES, MILLISECONDS, SIDE = 8, 250, 128
DARK, LIGHT, CHECK = (84, 88, 92), (100, 103, 106), 16  # a background of two greys, in squares of 16 pixels


def frame(number: int) -> Image.Image:
    """The circle at one moment of its way from the left to the right; in few colors, so that the file is small."""
    image = Image.new("RGB", (SIDE, SIDE), DARK)
    pen = ImageDraw.Draw(image)
    for at in range(0, (SIDE // CHECK) ** 2, 2):
        row, col = divmod(at, SIDE // CHECK)
        left, top = (col + row % 2) * CHECK, row * CHECK
        pen.rectangle((left, top, left + CHECK - 1, top + CHECK - 1), LIGHT)
    pen.rectangle((44, 76, 84, 116), COLORS["blue"])
    pen.circle((22 + 12 * number, 34), 18, COLORS["red"])
    return image.quantize(16, dither=Image.Dither.NONE)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=CLIP, help="video to write (default: demo/clip.gif)")
    output = parser.parse_args(argv).output
    first, *others = map(frame, range(FRAMES))
    first.save(output, save_all=True, append_images=others, duration=MILLISECONDS, loop=0)
    print(f"saved to {output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
