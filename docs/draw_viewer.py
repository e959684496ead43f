"""Take docs/viewer_text.png and docs/viewer_vl.png: the viewer on two runs of the demo models, in a real browser.

python docs/draw_viewer.py
python docs/draw_viewer.py --output /tmp --dark
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from chromium import launch
from playwright.sync_api import Page, sync_playwright

import mask_impact_analysis
import mask_impact_vl

TEXT = ["--model", "demo", "--prompt", "Tom has a red ball. Ann has a blue cup. Ann's cup is", "--num-tokens", "3"]
VISION = ["--model", "demo", "--prompt", "What color is the circle?", "--mask-mode", "both", "--image"]
SHOTS = {  # the run, what is chosen on the page, and the height of the picture
    "viewer_text": ("text", "#token=10&layer=3&heads=[5]", 830),
    "viewer_vl": ("vision", "#token=9&layer=1&palette=viridis&curve=sqrt", 1060),
}
WIDTH, SCALE = 1280, 1.5


def make_runs(folder: Path) -> None:
    common = ["--output-dir", str(folder), "--format", "html", "--device", "cpu", "--quiet"]
    assert mask_impact_analysis.main([*TEXT, "--output", "text", *common]) == 0
    assert mask_impact_vl.main([*VISION, str(ROOT / "testimg.png"), "--output", "vision", *common]) == 0


def take(page: Page, folder: Path, output: Path) -> None:
    for name, (run, fragment, height) in SHOTS.items():
        page.set_viewport_size({"width": WIDTH, "height": height})
        page.goto("about:blank")
        page.goto((folder / f"{run}_results.html").as_uri() + fragment)
        page.wait_for_timeout(800)
        page.screenshot(path=output / f"{name}.png")
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
