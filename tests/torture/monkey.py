"""A monkey at the page: random keys, clicks and wheels, and no error.

In:  a folder with reports. Out: what the page complained about.
"""

import os
import random
from pathlib import Path

import chromium
from playwright.sync_api import Page, sync_playwright

from torture import stock

KEYS = [
    *("ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight", "Home", "End", "PageUp", "PageDown", "Enter", "Escape", "Tab"),
    *("Shift+Tab", " ", "?", "/", "+", "-", "a", "h", "l", "m", "s", "t", "v", "0", "9", "Backspace", "Control+a"),
]  # fmt: skip


TEXT = ["--prompt", "Tom has a ball. Ann has a cup. Ann's"]
RUNS: dict[str, tuple[str, list[str]]] = {  # a report for each kind of view
    "asked": ("text", [*TEXT, "--queries", "all", "--num-tokens", "2"]),
    "fine": ("text", [*TEXT, "--effects", "--refine", "2"]),
    "heads": ("text", [*TEXT, "--effects", "--by-head", "--readers", "last"]),
    "deep": ("vl", [*stock.PICTURE, "--mask-mode", "both", "--effects", "--deepstack"]),
    "tower": ("vl", [*stock.PICTURE, "--tower", "vision"]),
}


def made(folder: Path) -> list[Path]:
    """The reports of RUNS, of the models in a stock."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        for name, (script, options) in RUNS.items():
            model = "model" if script == "text" else "vl"
            stock.done(
                script, "--model", model, *options, "--format", "html", "--output", name, "--output-dir", "kinds"
            )
    finally:
        os.chdir(before)
    return [folder / "kinds" / f"{name}_results.html" for name in RUNS]


def played(reports: list[Path], acts: int, seed: int) -> tuple[int, list[str]]:
    """So many keys and clicks on each report."""
    chance, trouble = random.Random(seed), list[str]()
    with sync_playwright() as playwright:
        browser = chromium.launch(playwright)
        for report in reports:
            page = browser.new_page(viewport={"width": 1000, "height": 700}, accept_downloads=True)
            page.on("pageerror", lambda error, report=report: trouble.append(f"{report.name}: {error}"))
            page.on(
                "console",
                lambda said, report=report: said.type == "error" and trouble.append(f"{report.name}: {said.text}"),
            )
            page.on(
                "dialog",
                lambda dialog, report=report: (trouble.append(f"{report.name}: {dialog.message}"), dialog.dismiss()),
            )
            page.on("filechooser", lambda chooser: None)
            page.set_default_timeout(120_000)
            page.goto(report.as_uri())
            page.wait_for_function("[...document.querySelectorAll('h1')].some((each) => each.checkVisibility())")
            for _ in range(acts):
                _act(page, chance)
            page.close()
        browser.close()
    return acts * len(reports), trouble


def _act(page: Page, chance: random.Random) -> None:
    what, x, y = chance.random(), chance.randrange(1000), chance.randrange(700)
    if what < 0.45:
        page.keyboard.press(chance.choice(KEYS))
    elif what < 0.8:
        page.mouse.click(x, y, click_count=chance.choice((1, 1, 2)))
    elif what < 0.9:
        page.mouse.wheel(chance.randrange(-300, 300), chance.randrange(-900, 900))
    else:
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(chance.randrange(1000), chance.randrange(700))
        page.mouse.up()
