#!/usr/bin/env python3
"""How fast visualize_results.html is in headless Chromium: loading, the page's freedom meanwhile, and every control.

In: nothing; synthetic runs of 165,240 and 3,760,128 rows are written to a temporary folder (0.5 GB).
Out: tables on stdout: from picking a file to its first painted heat map, the longest time the page was blocked while
loading, from a control to everything painted anew at 1,024 tokens x 36 layers, and the size of the page; with targets.

    python benchmarks/viewer.py                       # about 2 minutes
    python benchmarks/viewer.py --sizes 165k          # seconds
    python benchmarks/viewer.py --page viewer/dist/index.html --repetitions 9
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from chromium import NoChromium, launch
from playwright.sync_api import Browser, sync_playwright
from viewer_page import Viewer

from mask_impact.files.results import Block, ResultFiles

SIZES = {"165k": (5, 27), "4M": (3, 1024)}  # generation steps, tokens
LAYERS, HEADS = 36, 32
FORMATS = ("json", "csv", "parquet")
LOAD_S = {"165k": dict.fromkeys(FORMATS, 0.3), "4M": {"json": 2.5, "csv": 4.0, "parquet": 2.5}}
GAP_MS, CONTROL_MS, PAGE_BYTES = 100, 50, 300_000
CLICK = 'document.querySelector(\'input[name="choice-{}"][value="{}"]\').click()'
KEY = 'document.body.dispatchEvent(new KeyboardEvent("keydown", {{ key: "{}", bubbles: true, cancelable: true }}))'
# What is done, and what undoes it.
CONTROLS = {
    "metric": (CLICK.format("metric", "cosine"), CLICK.format("metric", "l2")),
    "Full / Attn": (CLICK.format("variant", "Attn"), CLICK.format("variant", "Full")),
    "head": (KEY.format("v"), KEY.format("V")),
    "step": (KEY.format("]"), KEY.format("[")),
    "row scale": (CLICK.format("range", "row"), CLICK.format("range", "all")),
    "square root": (CLICK.format("curve", "sqrt"), CLICK.format("curve", "linear")),
    "position 0": (KEY.format("0"), KEY.format("0")),
    "rows": (CLICK.format("rows", "tokens"), CLICK.format("rows", "layers")),
    "palette": (CLICK.format("palette", "viridis"), CLICK.format("palette", "cividis")),
    "theme": (KEY.format("t"), KEY.format("t")),
    "token": ("[...document.querySelectorAll('.prompt__token')].slice(-9)[0].click()",) * 2,
}


def write(folder: Path, size: str) -> None:
    steps, tokens = SIZES[size]
    rng = np.random.default_rng(0)
    variants = ["Full", "Attn", *(f"Head_{head}" for head in range(HEADS))]
    texts = [f" token{i % 700}" for i in range(tokens)]
    with ResultFiles(folder, size, FORMATS) as files:
        for step in range(steps):
            for layer in range(LAYERS):
                l2, cosine = rng.lognormal(0, 2, (tokens, len(variants))), rng.lognormal(-6, 3, (tokens, len(variants)))
                files.write(Block.of_l2_and_cosine(step, layer, texts, np.arange(tokens), variants, l2, cosine))
        files.commit({"name": size})


def load(browser: Browser, page: Path, file: Path) -> tuple[Viewer, float, float]:
    """The page with the file in it; milliseconds to the first heat map, and of the longest block."""
    viewer = Viewer(browser, page.as_uri(), metered=True)
    viewer.settle(10)  # the worker has started
    viewer.page.evaluate("() => meter.reset()")
    viewer.page.locator("input[type=file]").first.set_input_files(file)
    viewer.page.set_default_timeout(120_000)
    took = viewer.page.evaluate("(name) => meter.loaded(name)", file.name.split("_")[0])
    return viewer, took["first"], took["gap"]


def loading(browser: Browser, page: Path, folder: Path, sizes: Sequence[str], repetitions: int) -> Iterator[str]:
    yield row("from file pick", "MB", "heat map, ms", "target", "blocked, ms", "target")
    for size in sizes:
        took: dict[str, list[tuple[float, float]]] = {kind: [] for kind in FORMATS}
        files = {kind: folder / f"{size}_results.{kind}" for kind in FORMATS}
        for _ in range(repetitions):  # in turn: a slow moment of the machine hits all of them
            for kind, file in files.items():
                viewer, first, gap = load(browser, page, file)
                viewer.close()
                took[kind].append((first, gap))
        for kind, file in files.items():
            firsts, gaps = ([each[place] for each in took[kind]] for place in (0, 1))
            megabytes = f"{file.stat().st_size / 1e6:.1f}"
            target = f"{1000 * LOAD_S[size][kind]:.0f}"
            yield row(f"{size} {kind}", megabytes, spread(firsts), target, spread(gaps), str(GAP_MS))


def controls(browser: Browser, page: Path, folder: Path, size: str, repetitions: int) -> Iterator[str]:
    viewer, _, _ = load(browser, page, folder / f"{size}_results.parquet")
    yield row(f"a control, {SIZES[size][1]} tokens x {LAYERS} layers", "", "painted, ms", "target", "own work, ms", "")
    for name, acts in CONTROLS.items():
        done = [viewer.page.evaluate(f"() => meter.change(() => {act})") for _ in range(repetitions) for act in acts]
        wall, work = ([each[what] for each in done] for what in ("wall", "work"))
        yield row(name, "", spread(wall), str(CONTROL_MS), spread(work), "")
    viewer.close()


def spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.0f} ({min(values):.0f} to {max(values):.0f})"


def row(name: str, *cells: str) -> str:
    widths = (7, 22, 8, 20, 8)
    return f"{name:<38}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--page", type=Path, default=ROOT / "visualize_results.html")
    parser.add_argument("--sizes", type=lambda text: text.split(","), default=list(SIZES), help="default: 165k,4M")
    parser.add_argument("--repetitions", type=int, default=5)
    args = parser.parse_args(argv)
    if unknown := set(args.sizes) - set(SIZES):
        parser.error(f"--sizes: {', '.join(sorted(unknown))}? There are {', '.join(SIZES)}")
    if args.repetitions < 1:
        parser.error("--repetitions must be 1 or more")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    page = args.page.resolve()
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        try:
            browser = launch(playwright)
        except NoChromium as error:
            print(error, file=sys.stderr)
            return 1
        for size in args.sizes:
            write(folder, size)
        print(f"{page.name}: {page.stat().st_size:,} bytes, at most {PAGE_BYTES:,}; Chromium {browser.version}")
        print("medians, and the smallest and largest\n", flush=True)
        for line in loading(browser, page, folder, args.sizes, args.repetitions):
            print(line, flush=True)
        print()
        for line in controls(browser, page, folder, args.sizes[-1], args.repetitions):
            print(line, flush=True)
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
