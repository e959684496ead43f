"""Take docs/viewer_text.png, viewer_vl.png and viewer_lens.png: the viewer in a real browser.

The first two are of the demo models; what image tokens say is of smollm2-vl, whose wheels are needed.

python docs/draw_viewer.py
python docs/draw_viewer.py --output /tmp --dark
"""

import argparse
import io
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from chromium import launch
from PIL import Image
from playwright.sync_api import Page, sync_playwright

import latent_lens
import mask_impact_analysis
import mask_impact_vl

TEXT = ["--model", "demo", "--prompt", "Tom has a red ball. Ann has a blue cup. Ann's cup is", "--num-tokens", "3"]
VISION = ["--model", "demo", "--prompt", "What color is the circle?", "--mask-mode", "both", "--image"]
SEEING = ["--model", "smollm2-vl"]
LAYERS = ["--layers", "0,1,2,4,8,16,24"]
LENS = [*SEEING, *LAYERS, "--prompt", "Describe this image.", "--image", str(ROOT / "testimg.png")]
CAPTIONS = [
    *SEEING,
    "--layers",
    "1,2,4,8,16,24",
    "--captions",
    str(ROOT / "demo" / "captions.txt"),
    "--num-captions",
    "400",
]
SHOTS = {  # the page, what is chosen on it, and the height of the picture
    "viewer_text": ("text_results", "", 800),
    "viewer_vl": ("vision_results", "", 960),
    "viewer_lens": ("lens_neighbors", "#patch=21&layer=8", 960),
}
FEW_COLOURS = ("viewer_lens",)  # less than half the size
WIDTH, SCALE = 1280, 1.5


def make_runs(folder: Path) -> None:
    quiet = ["--output-dir", str(folder), "--device", "cpu", "--quiet"]
    common = [*quiet, "--format", "html"]
    assert mask_impact_analysis.main([*TEXT, "--output", "text", *common]) == 0
    assert mask_impact_vl.main([*VISION, str(ROOT / "testimg.png"), "--output", "vision", *common]) == 0
    masked = [*LENS, "--output", "masked", "--mask-mode", "vision", "--format", "csv"]
    assert mask_impact_vl.main([*masked, *quiet]) == 0
    assert latent_lens.main(["bank", *CAPTIONS, *quiet]) == 0
    found = ["--bank", str(folder), "--run", str(folder / "masked_run.json"), "--static", "--output", "lens"]
    assert latent_lens.main(["neighbors", *LENS, *found, *common]) == 0


def take(page: Page, folder: Path, output: Path) -> None:
    for name, (shown, fragment, height) in SHOTS.items():
        page.set_viewport_size({"width": WIDTH, "height": height})
        page.goto("about:blank")
        page.goto((folder / f"{shown}.html").as_uri() + fragment)
        page.wait_for_timeout(800)
        data = page.screenshot()
        if name in FEW_COLOURS:
            made = io.BytesIO()
            picture = Image.open(io.BytesIO(data)).convert("RGB")
            picture.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(made, "PNG", optimize=True)
            data = made.getvalue()
        (output / f"{name}.png").write_bytes(data)
        print(f"wrote {output / name}.png")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "docs", help="folder (default: docs)")
    parser.add_argument("--dark", action="store_true")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        make_runs(Path(folder))
        browser = launch(playwright)
        scheme = "dark" if args.dark else "light"
        take(browser.new_page(color_scheme=scheme, device_scale_factor=SCALE), Path(folder), args.output)
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
