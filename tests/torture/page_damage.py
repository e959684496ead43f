"""Damaged files on the page: refused in a sentence, or every number as `load` reads it from the same bytes.

In:  a folder of finished runs. Out: how often a file was damaged, and what was wrong.

The page has no checksum to go by where the manifest is not beside a file, so that a digit in a CSV that became another
is a number as any other: what has to be right is that both read the same.
"""

import random
import re
from pathlib import Path

import chromium
import numpy as np
from playwright.sync_api import TimeoutError as PlaywrightTimeout
from playwright.sync_api import sync_playwright
from viewer_page import Cells, Viewer

from mask_impact import load
from mask_impact.errors import UserError
from torture.damage import damages

PAGE = Path(__file__).resolve().parents[2] / "visualize_results.html"
RESULTS = [f"runs/a_results.{kind}" for kind in ("csv", "json", "parquet", "html")]
BESIDE = {f"effects/e_effects.{kind}": "effects/e_results.csv" for kind in ("csv", "json", "parquet")}
NEIGHBORS = [f"near/n_neighbors.{kind}" for kind in ("csv", "json", "parquet", "html")]
PATIENCE_MS = 20_000
ANSWERED = """() => [...document.querySelectorAll("h1")].some((each) => each.checkVisibility())
  || [...document.querySelectorAll("[role=listitem], li")].some((each) => each.checkVisibility() && each.textContent)"""
# What a browser or a library says of its own accord, and no sentence for a reader.
NOT_SAID = re.compile(r"\b(undefined|[A-Z]\w+Error|Unexpected token|not valid JSON|is not a function|\[object)\b")


def damaged_on_page(stock: Path, times: int, seed: int) -> tuple[int, list[str]]:
    """Each file is damaged `times` times; in the current folder."""
    chance, tried, wrong = random.Random(seed), 0, list[str]()
    with sync_playwright() as playwright:
        browser = chromium.launch(playwright)
        viewer = Viewer(browser, PAGE.as_uri())
        for name in [*RESULTS, *BESIDE, *NEIGHBORS]:
            for damage, data in damages((stock / name).read_bytes(), times, chance):
                tried += 1
                if why := _unnoticed(viewer, stock, name, data):
                    wrong.append(f"{name} after {damage}: {why}")
        browser.close()
    return tried, wrong


def _unnoticed(viewer: Viewer, stock: Path, name: str, data: bytes) -> str | None:
    """What is wrong with what the page makes of it, if anything."""
    path = Path("damaged") / Path(name).name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    viewer.trouble.clear()
    viewer.open(PAGE.as_uri())
    viewer.drop(*([stock / BESIDE[name]] if name in BESIDE else []), path)
    try:
        viewer.page.wait_for_function(ANSWERED, timeout=PATIENCE_MS)
        viewer.settle()
    except PlaywrightTimeout:
        return "the page says nothing"
    if viewer.trouble:
        return viewer.trouble[0][:200]
    said = viewer.page.get_by_role("listitem").locator("visible=true").all_text_contents()
    if bad := [each for each in said if NOT_SAID.search(each) or "\n" in each.strip()]:
        return f"it says {bad[0]!r}"
    return _other_numbers(viewer, path, stock / name) if name in RESULTS and _shows_a_run(viewer) else None


def _shows_a_run(viewer: Viewer) -> bool:
    return viewer.page.locator("details.heatmap-numbers").is_visible()


def _other_numbers(viewer: Viewer, path: Path, whole: Path) -> str | None:
    caption, shown, _ = viewer.numbers()
    expected = _cells(path, caption)
    if expected is None:
        expected = _cells(whole, caption)
    return None if shown == expected else f"the page shows {len(shown)} numbers, others than what was read: {caption}"


def _cells(path: Path, caption: str) -> Cells | None:
    """What `load` reads of the variant, metric and step that a table on the page names; None where it refuses."""
    try:
        df = load(path)
    except UserError:
        return None
    column = "cosine_distance" if "osine" in caption else "l2_distance"
    shown = {name for name in df.variant.astype(str).unique() if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", caption)}
    (step,) = map(int, re.findall(r", step (\d+)", caption))
    rows = df[df.variant.isin(shown) & (df.generation_step == step - 1) & np.isfinite(df[column])]
    found = zip(rows.token_position.tolist(), rows.layer.tolist(), rows[column].to_numpy(np.float32), strict=True)
    return {(position, layer): value for position, layer, value in found}  # of two the last one
