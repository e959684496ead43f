"""The built viewer in Chromium, through file://: what a reader sees, compared with pandas.

pytest tests/test_viewer.py
VIEWER_PAGE=/tmp/dist/index.html pytest tests/test_viewer.py     # another build than visualize_results.html

Every test fails on a dialog, an error on the console, an error of the page or a request to a network.
"""

import base64
import csv
import gzip
import io
import json
import os
import re
import xml.etree.ElementTree as ET
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from checkpoints import bart
from chromium import NoChromium, launch
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright
from test_report import NASTY
from test_results import make_block, save
from viewer_page import (
    VIRIDIS,
    Cells,
    Grid,
    Scale,
    Viewer,
    alike,
    cells_of,
    cividis,
    most_frequent,
    shown_number,
    step255,
)

import latent_lens
import mask_impact_analysis
import mask_impact_vl
from mask_impact.files.notebook import write_report
from mask_impact.files.results import Block, ResultFiles, read_csv, to_dataframe

ROOT = Path(__file__).resolve().parent.parent
PAGE = Path(os.environ.get("VIEWER_PAGE") or ROOT / "visualize_results.html").resolve()
LARGEST_PAGE = 200_000  # bytes
METRICS = {"l2": "L2 distance", "cosine": "Cosine distance"}
VIEWS = ("Heat map", "Prompt", "Ranking", "Picture", "Layers", "Heads")
WIDTHS = {"wide": {"width": 1280, "height": 900}, "narrow": {"width": 390, "height": 844}}

Open = Callable[..., Viewer]


# --- fixtures ---------------------------------------------------------------------------------------------
@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        try:
            found = launch(playwright)
        except NoChromium as error:
            pytest.fail(str(error), pytrace=False)
        yield found
        found.close()


@pytest.fixture(scope="module")
def opened_once(browser) -> Iterator[Open]:
    """For pages that several tests share."""
    yield from opener(browser)


@pytest.fixture
def opened(browser) -> Iterator[Open]:
    """Opens the viewer, or another page; at the end no page may have done what it must not."""
    yield from opener(browser)


def opener(browser: Browser) -> Iterator[Open]:
    viewers: list[Viewer] = []

    def open_page(path: Path = PAGE, fragment: str = "", **options: Any) -> Viewer:
        viewers.append(Viewer(browser, path.as_uri() + (f"#{fragment}" if fragment else ""), **options))
        return viewers[-1]

    yield open_page
    trouble = [each for viewer in viewers for each in viewer.trouble]
    for viewer in viewers:
        viewer.close()
    assert trouble == []


@pytest.fixture
def viewer(opened) -> Viewer:
    return opened()


@dataclass
class Run:
    folder: Path
    name: str
    df: pd.DataFrame
    manifest: dict[str, Any]

    def file(self, kind: str) -> Path:
        return self.folder / (f"{self.name}_run.json" if kind == "run" else f"{self.name}_results.{kind}")

    @property
    def variants(self) -> list[str]:
        return list(self.df.variant.unique())

    @property
    def steps(self) -> list[int]:
        return sorted(self.df.generation_step.unique().tolist())

    @property
    def layers(self) -> list[int]:
        return sorted(self.df.layer.unique().tolist())

    @property
    def tokens(self) -> dict[int, str]:
        return dict(zip(self.df.token_position.tolist(), self.df.token_masked, strict=True))

    def cells(self, metric: str = "l2", variant: str = "Full", step: int = 0) -> Cells:
        return cells_of(self.df, metric, variant, step)

    def states(self) -> list[tuple[str, str, int]]:
        return [(metric, variant, step) for metric in METRICS for variant in self.variants for step in self.steps]


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> dict[str, Run]:
    """Real runs of the demo models: a prompt, a shorter one, and a question about a picture in three mask modes."""
    folder = tmp_path_factory.mktemp("runs")

    def made(main: Callable[[list[str]], int], name: str, *options: str, formats: str) -> Run:
        common = ["--model", "demo", "--output-dir", str(folder), "--output", name, "--format", formats, "--quiet"]
        assert main([*common, *options]) == 0
        manifest = json.loads((folder / f"{name}_run.json").read_bytes())
        return Run(folder, name, read_csv(folder / f"{name}_results.csv"), manifest)

    text, picture = mask_impact_analysis.main, mask_impact_vl.main
    long = "Tom has a red ball. Ann has a blue cup. Ann's cup is"
    question = ["--image", str(ROOT / "testimg.png"), "--prompt", "What color is the circle?", "--num-tokens", "2"]
    every = "csv,json,parquet,html"
    found = [
        made(text, "talk", "--num-tokens", "3", "--prompt", long, formats=every),
        made(text, "short", "--num-tokens", "2", "--prompt", long[:27], formats="csv"),
        made(picture, "both", *question, "--mask-mode", "both", formats=every),
        made(picture, "text", *question, "--mask-mode", "text", formats="csv"),
        made(picture, "vision", *question, "--mask-mode", "vision", formats="csv"),
    ]
    for run in found:
        if run.file("json").exists():
            run.file("json.gz").write_bytes(gzip.compress(run.file("json").read_bytes()))
    return {run.name: run for run in found}


@pytest.fixture
def talk(runs, viewer) -> Viewer:
    """The text run, loaded."""
    viewer.drop(runs["talk"].file("csv"), runs["talk"].file("run"))
    viewer.shows("talk")
    return viewer


@pytest.fixture
def picture(runs, viewer) -> Viewer:
    """The run about a picture, with the picture."""
    viewer.drop(runs["both"].file("csv"), runs["both"].file("run"), ROOT / "testimg.png")
    viewer.shows("both")
    viewer.settle(2)
    return viewer


def compare(viewer: Viewer, *runs: Run) -> None:
    """Loaded and shown together."""
    viewer.drop(*(run.file(kind) for run in runs for kind in ("csv", "run")))
    viewer.shows(*(run.name for run in runs))


@dataclass
class Said:
    """Neighbours of the image tokens of a picture, and a run that masks them."""

    folder: Path
    df: pd.DataFrame
    run: pd.DataFrame

    def file(self, kind: str) -> Path:
        return self.folder / f"m_neighbors{'_run.json' if kind == 'run' else f'.{kind}'}"


@pytest.fixture(scope="session")
def said(tmp_path_factory) -> Said:
    folder = tmp_path_factory.mktemp("said")
    flags = ["--model", "demo", "--output-dir", str(folder), "--quiet"]
    picture = ["--image", str(ROOT / "testimg.png"), "--prompt", "Describe this image.", "--output", "m"]
    captions = ["--captions", str(ROOT / "demo" / "captions.txt"), "--num-captions", "200"]
    assert latent_lens.main(["bank", *flags, *captions]) == 0
    assert mask_impact_vl.main([*flags, *picture, "--mask-mode", "vision", "--format", "csv"]) == 0
    more = ["--bank", str(folder), "--run", str(folder / "m_run.json"), "--static", "--format", "csv,json,html,parquet"]
    assert latent_lens.main(["neighbors", *flags, *picture, *more]) == 0
    table = pd.read_csv(folder / "m_neighbors.csv", keep_default_na=False, na_values={"masking_impact": [""]})
    return Said(folder, table, read_csv(folder / "m_results.csv"))


# --- the page ---------------------------------------------------------------------------------------------
def test_the_page_is_small_and_complete():
    page = PAGE.read_bytes()
    assert len(page) <= LARGEST_PAGE, f"{PAGE.name} has {len(page):,} bytes; agreed on: {LARGEST_PAGE:,}"
    text = page.decode()
    assert "default-src 'none'" in text
    assert not re.search(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=", text)
    packed = dict(re.findall(r'<script type="text/plain" data-packed="(\w+)">([^<]+)</script>', text))
    assert list(packed) == ["style", "script"]
    script = zlib.decompress(base64.b64decode(packed["script"])).decode()
    assert re.search(r"^\tfunction startPage\(\) \{$", script, re.MULTILINE), "the developer tools show readable code"


def test_a_browser_that_cannot_unpack_the_page_is_told(browser):
    context = browser.new_context()
    context.add_init_script("delete window.DecompressionStream")
    page = context.new_page()
    page.goto(PAGE.as_uri())
    assert page.locator("body").inner_text() == (
        "This browser is too old for this page, which needs DecompressionStream: "
        "Chrome 123, Firefox 120, Safari 17.5 or newer has it."
    )
    context.close()


def test_the_empty_page_says_what_to_drop_and_has_an_example(viewer):
    for text in ("Drop the files of a run", "NAME_results.csv", "NAME_run.json"):
        expect(viewer.page.get_by_text(text, exact=False).first).to_be_visible()
    viewer.page.get_by_role("button", name="Show an example").click()
    expect(viewer.page.get_by_role("grid")).to_be_visible()
    _, cells, names = viewer.numbers()
    assert len(cells) >= 20 and len(names) >= 5
    expect(viewer.page.get_by_text("This is the example inside of the page").locator("visible=true")).to_be_visible()


# --- numbers, in every format -----------------------------------------------------------------------------
FORMATS = ("csv", "json", "json.gz", "parquet")


def assert_all_numbers(viewer: Viewer, run: Run) -> None:
    """Every cell of every metric, variant and step, float32 for float32."""
    states = run.states()
    read = viewer.numbers_in([{"metric": m, "variant": v, "step": s, "runs": "[0,1]"} for m, v, s in states])
    for (metric, variant, step), (caption, cells) in zip(states, read, strict=True):
        assert f"step {step + 1}: {METRICS[metric]} of {variant.replace('_', ' ')};" in caption
        assert cells == run.cells(metric, variant, step), (metric, variant, step)


@pytest.mark.parametrize(
    ("name", "kind"), [*(("talk", kind) for kind in FORMATS), *(("both", kind) for kind in ("csv", "parquet", "html"))]
)
def test_every_number_is_that_of_pandas(viewer, runs, name, kind):
    run = runs[name]
    if (name == "talk") == (kind in ("csv", "parquet")):  # each format once in each way
        viewer.pick(run.file(kind))
    else:
        viewer.drop(run.file(kind))
    viewer.shows(name)
    assert_all_numbers(viewer, run)


def test_a_report_opens_by_itself(opened, runs, tmp_path):
    """As it is written beside the other formats, with its picture; the page has read nothing but itself."""
    run = runs["both"]
    report = run.file("html")
    if PAGE != ROOT / "visualize_results.html":
        report = write_report(tmp_path / "both_results.html", run.df, run.manifest, page=PAGE)
    viewer = opened(report)
    viewer.shows("both")
    assert_all_numbers(viewer, run)
    viewer.go(opacity=0)
    canvas = viewer.page.locator(".picture-frame canvas")
    assert len({*most_frequent(canvas, [(x, y, 2, 2) for x in (20, 150, 300) for y in (20, 150, 300)])}) > 1


def test_numbers_by_controls(talk, runs):
    """The same with the controls that a reader uses, once around."""
    run = runs["talk"]
    talk.open_numbers()
    for metric, button in (("cosine", "Cosine"), ("l2", "L2")):
        talk.choose("Metric", button)
        for variant in ("Head_7", "Attn"):
            talk.variant(variant)
            for step in (1, 0) if variant == "Attn" else (1, 2, 1, 0):
                buttons = talk.page.get_by_role("group", name="Generation step")
                name = "Previous step" if f"Step {step + 2}" in buttons.inner_text() else "Next step"
                buttons.get_by_role("button", name=name).click()
                talk.settle()
                assert f"Step {step + 1} of 3" in buttons.inner_text()
                assert talk.numbers()[1] == run.cells(metric, variant, step)


def test_words_around_the_numbers(talk, runs):
    manifest = runs["talk"].manifest
    header = talk.page.locator("header")
    expect(header).to_contain_text("demo")
    expect(header).to_contain_text("4 layers × 8 heads")
    first = manifest["generated"][0]
    expect(header.locator("strong")).to_have_text("␣" + first["text"].strip())
    talk.key("]")
    expect(header.locator("strong")).to_have_text(manifest["generated"][1]["text"].replace(" ", "␣"))
    assert "talk" in talk.page.title()


# --- files that belong together, and files that do not ----------------------------------------------------
def test_a_manifest_may_come_first_or_last(opened, runs):
    run = runs["both"]
    first, last = opened(), opened()
    first.drop(run.file("run"))
    first.message("both_run.json is the manifest of a run; its numbers are in")
    first.drop(run.file("csv"))
    last.drop(run.file("csv"))
    last.shows("both")
    expect(last.page.locator("header")).to_contain_text("no manifest")
    assert not last.page.get_by_role("heading", name="Picture").is_visible()
    last.drop(run.file("run"))
    for viewer in (first, last):
        viewer.shows("both")
        expect(viewer.page.locator("header")).to_contain_text("demo")
        expect(viewer.page.get_by_role("heading", name="Picture")).to_be_visible()
        assert not viewer.page.get_by_text("is the manifest of a run").is_visible()


def test_a_bare_table_shows_a_grid_and_takes_the_picture_later(viewer, runs):
    run = runs["both"]
    viewer.drop(run.file("csv"), run.file("run"))
    viewer.shows("both")
    canvas = viewer.page.locator(".picture-frame canvas")
    expect(viewer.page.get_by_text("The picture is not in these files: drop testimg.png")).to_be_visible()
    assert not viewer.page.get_by_label("Colour over picture").is_visible()
    before = canvas.screenshot()
    viewer.drop(ROOT / "testimg.png")
    expect(viewer.page.get_by_text("The picture is not in these files")).to_be_hidden()
    expect(viewer.page.get_by_label("Colour over picture")).to_be_visible()
    viewer.settle(2)
    assert canvas.screenshot() != before


def test_the_same_run_twice_is_shown_once(talk, runs):
    talk.drop(runs["talk"].file("json"))
    talk.message("talk_results.json holds the same run as talk_results.csv; it is shown once.")
    assert not talk.page.get_by_label("Loaded runs").is_visible()


def without_column(data: bytes) -> bytes:
    table = pd.read_csv(io.BytesIO(data), keep_default_na=False)
    return table.drop(columns="l2_distance").to_csv(index=False).encode()


WRONG = {
    "notes.txt": (lambda run: b"just some words\n", "generation_step"),
    "empty_results.csv": (lambda run: b"", "the file is empty"),
    "cut_results.csv": (lambda run: run.file("csv").read_bytes()[:5000].rpartition(b",")[0], "line"),
    "cut_results.json": (lambda run: run.file("json").read_bytes()[:5000], "ends"),
    "cut_results.parquet": (lambda run: run.file("parquet").read_bytes()[:5000], "Parquet"),
    "tail_results.parquet": (lambda run: run.file("parquet").read_bytes()[5000:], ""),
    "less_results.csv": (lambda run: without_column(run.file("csv").read_bytes()), "column l2_distance is missing"),
    "words_results.json": (lambda run: b'{"a": [1, 2]}', "missing"),
    "half_results.json.gz": (lambda run: run.file("json.gz").read_bytes()[:3000], ""),
    "number_results.csv": (lambda run: run.file("csv").read_bytes().replace(b",0,Full,", b",zero,Full,", 1), "line 2"),
    "page.html": (lambda run: b"<!doctype html><title>x</title>", "this page has no results inside"),
}


@pytest.fixture(scope="module")
def with_talk(opened_once, runs) -> Viewer:
    viewer = opened_once()
    viewer.drop(runs["talk"].file("csv"))
    viewer.shows("talk")
    return viewer


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_result_is_said_and_what_was_there_stays(with_talk, runs, name):
    make, words = WRONG[name]
    with_talk.drop((name, make(runs["talk"])))
    found = with_talk.message(re.compile(f"^{re.escape(name)}: "))
    assert words in found.inner_text()
    with_talk.shows("talk")
    assert with_talk.numbers()[1] == runs["talk"].cells()
    found.get_by_role("button", name="Dismiss").click()
    expect(found).to_be_hidden()


def test_good_and_wrong_files_together(viewer, runs):
    viewer.pick(
        {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no results\n"},
        *(
            {"name": runs[n].file("csv").name, "mimeType": "", "buffer": runs[n].file("csv").read_bytes()}
            for n in ("talk", "short")
        ),
    )
    viewer.message(re.compile("^notes.txt: "))
    viewer.shows("talk", "short")
    for name in ("short", "talk"):
        viewer.page.get_by_title(f"Show only {name}").click()
        viewer.shows(name)
        assert viewer.numbers()[1] == runs[name].cells()
    viewer.page.get_by_role("button", name="Remove short").click()
    expect(viewer.page.get_by_label("Loaded runs")).to_be_hidden()


def test_other_tools_tables(viewer, runs):
    """Extra and reordered columns, records, dictionary columns: as pandas and others write them."""
    run = runs["talk"]
    df = run.df[run.df.columns[::-1].tolist()].assign(extra="x", model=1.5)
    parquet = io.BytesIO()
    df.astype({"variant": "category", "token_masked": "category"}).to_parquet(parquet, index=False)
    files = {
        "a_results.csv": df.to_csv(index=False).encode(),
        "b_results.json": df.to_json(orient="records", double_precision=15).encode(),
        "c_results.parquet": parquet.getvalue(),
    }
    for name, data in files.items():
        viewer.drop((name, data))
        viewer.shows(name[0])
        _, cells, _ = viewer.numbers()
        wanted = run.cells()
        assert cells.keys() == wanted.keys()
        np.testing.assert_allclose([cells[key] for key in wanted], list(wanted.values()), rtol=0, atol=1e-14)


# --- colours ----------------------------------------------------------------------------------------------
def largest(cells: Cells, first: bool = False) -> float:
    return float(max(value for (position, _), value in cells.items() if first or position))


def assert_colours(viewer: Viewer, grid: Grid, cells: Cells, scale: Callable[[int, int], Scale], run: Run) -> None:
    """The colour of every cell is the one of its value. `scale` by position and layer."""
    positions, layers = sorted(run.tokens), run.layers
    by_layers = grid.rows == len(layers) and grid.columns == len(positions)
    places = {
        (position, layer): (len(layers) - 1 - row, column) if by_layers else (column, row)
        for row, layer in enumerate(layers)
        for column, position in enumerate(positions)
    }
    found = dict(zip(places, grid.colours(places.values()), strict=True))
    empty = {found[key] for key in places if key not in cells}
    assert len(empty) <= 1
    for key, value in cells.items():
        wanted = scale(*key).colour(value)
        assert alike(found[key], wanted), (key, value, found[key], wanted)


def test_colours_are_those_of_the_values(talk, runs):
    run = runs["talk"]
    grid = talk.grid()
    for state in (
        {},
        {"metric": "cosine", "variant": "Head_3", "step": 2},
        {"curve": "sqrt"},
        {"first": True},
        {"range": "row"},
        {"range": "row", "curve": "sqrt", "first": True},
        {"theme": "dark", "metric": "cosine"},
    ):
        talk.go(**state)
        metric, variant, step = state.get("metric", "l2"), state.get("variant", "Full"), state.get("step", 0)
        cells = run.cells(metric, variant, step)
        first = state.get("first", False)
        of_all = largest(cells, first)
        of_row = {layer: largest({k: v for k, v in cells.items() if k[1] == layer}, first) for layer in run.layers}

        def scale(_: int, layer: int, state=state, of_all=of_all, of_row=of_row) -> Scale:
            end = of_row[layer] if state.get("range") == "row" else of_all
            return Scale(end, state.get("curve") == "sqrt")

        assert_colours(talk, grid, cells, scale, run)
        said = talk.scale()
        assert f"{METRICS[metric]} of {variant.replace('_', ' ')}" in said
        if state.get("range") == "row":
            assert "each layer from 0 to its own largest value" in said
        else:
            assert f"from 0 to {shown_number(of_all)}" in said


def test_rows_can_be_tokens(talk, runs):
    run = runs["talk"]
    talk.choose("Rows", "tokens")
    grid = talk.grid()
    assert (grid.rows, grid.columns) == (len(run.tokens), len(run.layers))
    cells = run.cells()
    end = largest(cells)
    visible = {position for position in run.tokens if grid.y0 + (position + 1) * grid.height < grid.y1}
    assert len(visible) > 10
    assert_colours(talk, grid, cells, lambda *_: Scale(end), run)
    talk.choose("Scale", "row")
    assert "each token from 0 to its own largest value" in talk.scale()
    ends = {p: largest({k: v for k, v in cells.items() if k[0] == p}, True) for p, _ in cells} | {0: end}
    assert_colours(talk, grid, cells, lambda position, _: Scale(ends[position]), run)


def test_viridis_and_the_ends_of_the_scale(talk, runs):
    cells = runs["talk"].cells()
    grid = talk.grid()
    position, layer = max((key for key in cells if key[0]), key=lambda key: cells[key])
    place = (len(runs["talk"].layers) - 1 - layer, position)
    (blue_to_yellow,) = grid.colours([place])
    talk.choose("Palette", "viridis")
    (found,) = grid.colours([place])
    assert alike(found, VIRIDIS[1.0]) and found != blue_to_yellow


def test_controls_change_what_is_shown(talk):
    """Each by itself, with the mouse; and the address keeps it."""
    grid = talk.page.get_by_role("grid").locator("canvas")
    seen = [grid.screenshot()]
    for act, part in (
        (lambda: talk.choose("Metric", "Cosine"), "metric=cosine"),
        (lambda: talk.variant("Attn"), "variant=Attn"),
        (lambda: talk.variant("Head_5"), "variant=Head_5"),
        (lambda: talk.choose("Scale", "row"), "range=row"),
        (lambda: talk.choose("Curve", "√"), "curve=sqrt"),
        (lambda: talk.page.get_by_role("checkbox", name="position 0").check(), "first=true"),
        (lambda: talk.choose("Palette", "viridis"), "palette=viridis"),
        (lambda: talk.page.get_by_role("button", name="Next step").click(), "step=1"),
        (lambda: talk.choose("Rows", "tokens"), "rows=tokens"),
    ):
        act()
        talk.settle(2)
        seen.append(grid.screenshot())
        talk.address(part)
    assert all(a != b for a, b in pairwise(seen))


def test_position_0_is_hatched_while_it_is_outside_of_the_scale(talk):
    """A cell of one colour is not hatched."""
    grid = talk.grid()
    script = """(canvas, [x, y, w, h]) => {
      const { data } = canvas.getContext("2d").getImageData(x, y, w, h);
      return new Set(Array.from({ length: data.length / 4 }, (_, i) => data.slice(4 * i, 4 * i + 3).join())).size;
    }"""
    where = [grid.x0 - grid.left + 3, grid.y0 - grid.top + 3, grid.width - 6, grid.height - 6]
    assert grid.canvas.evaluate(script, where) > 1
    talk.page.get_by_role("checkbox", name="position 0").check()
    talk.settle()
    assert grid.canvas.evaluate(script, where) == 1


def test_light_and_dark(talk):
    paper = "() => getComputedStyle(document.body).backgroundColor"
    light = talk.page.evaluate(paper)
    button = talk.page.get_by_role("button", name="Dark theme")
    button.click()
    talk.settle()
    dark = talk.page.evaluate(paper)
    bright = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (light, dark)]
    assert bright[0] > 600 and bright[1] < 150
    expect(button).to_have_attribute("aria-pressed", "true")
    talk.page.emulate_media(color_scheme="dark")
    button.click()
    talk.settle()
    assert talk.page.evaluate(paper) == light


# --- selection --------------------------------------------------------------------------------------------
def pressed(page: Page, region: str) -> list[str]:
    return page.get_by_role("region", name=region).locator("[aria-pressed=true]").all_inner_texts()


def test_hover_previews_and_click_selects_everywhere(talk, runs):
    run = runs["talk"]
    cells = run.cells()
    grid = talk.grid()
    layer, position = 2, 10
    row = len(run.layers) - 1 - layer
    value = str(cells[position, layer])
    assert f"Layer 2, token ␣cup at position 10 — L2 {value}" in grid.hover(row, position)
    assert talk.page.locator("[data-hovered]").count() >= 1
    grid.leave()
    assert "Point at a cell" in talk.readout() and talk.page.locator("[data-hovered]").count() == 0
    grid.click(row, position)
    grid.leave()
    assert value in talk.readout()
    assert pressed(talk.page, "Prompt") == ["␣cup"]
    ranking = talk.page.get_by_role("region", name="Most important tokens").locator("[aria-pressed=true]")
    assert any("␣cup" in text for text in ranking.all_inner_texts())
    selection = talk.page.get_by_role("region", name="Selection")
    for text in ("␣cup", "position 10", "layer 2", value):
        expect(selection).to_contain_text(text)
    expect(talk.page.get_by_role("region", name="Importance over layers")).to_contain_text("token ␣cup at position 10")
    expect(talk.page.get_by_role("region", name="Heads", exact=True)).to_contain_text("token ␣cup at position 10")
    talk.address("token=10", "layer=2")
    talk.open_numbers()
    chosen = talk.page.locator(".heatmap-numbers td.heatmap-chosen").all_inner_texts()
    assert value in chosen
    grid.click(row, position)  # again: none
    expect(selection).to_contain_text("Nothing yet")


def test_selecting_in_the_prompt_and_in_the_ranking(talk, runs):
    page = talk.page
    page.get_by_role("region", name="Prompt").get_by_role("button", name="␣cup").first.click()
    talk.settle()
    assert "token ␣cup at position 10" in talk.readout().lower()
    best = page.get_by_role("button", name=re.compile("select it in layer")).first
    name = best.get_attribute("aria-label") or ""
    best.click()
    talk.settle()
    token, layer = re.findall(r"(token .*): select it in layer (\d+)", name)[0]
    cells = runs["talk"].cells()
    position = int(token.rpartition(" ")[2])
    assert cells[position, int(layer)] == largest(cells)
    assert f"Layer {layer}, {token} — L2 {cells[position, int(layer)]!s}" in talk.readout()


def test_ranking_and_prompt_follow_pandas(talk, runs):
    run = runs["talk"]
    rows = read_copied(talk, "Ranking")
    full = run.df[(run.df.variant == "Full") & (run.df.generation_step == 0)]
    best = full.groupby("token_position").l2_distance.max().sort_values(ascending=False)
    assert rows.token_position.tolist() == best.index.tolist()
    assert rows.value.astype(np.float32).tolist() == best.tolist()
    peaks = full.loc[full.groupby("token_position").l2_distance.idxmax()].set_index("token_position").layer
    assert rows.peak_layer.tolist() == peaks[best.index].tolist()
    talk.go(join="mean", **{"from": 1, "to": 2}, metric="cosine")
    rows = read_copied(talk, "Ranking")
    mean = full[full.layer.isin([1, 2])].groupby("token_position").cosine_distance.mean()
    assert rows.value.tolist() == pytest.approx(mean[rows.token_position].tolist(), rel=1e-5)


def test_heads_and_lines_follow_pandas(talk, runs):
    run = runs["talk"]
    talk.go(token=9, metric="cosine", step=1, heads="[2,5]")
    here = run.df[(run.df.token_position == 9) & (run.df.generation_step == 1)]
    wide = here.pivot(index="layer", columns="variant", values="cosine_distance")
    lines = read_copied(talk, "Layers")
    assert set(lines.variant) == {"Full", "Attn", "Head_2", "Head_5"} and set(lines.layer) == set(run.layers)
    for row in lines.itertuples():
        assert np.float32(row.value) == wide.loc[row.layer, row.variant]
    talk.page.keyboard.press("Escape")
    heads = talk.page.get_by_role("region", name="Heads", exact=True)
    heads.get_by_text("Exact numbers").click()
    table = heads.get_by_role("region", name="Exact numbers, layers by heads").locator("table")
    expect(table).to_be_visible()
    names = table.locator("thead th").all_inner_texts()[1:]
    for tr in table.locator("tbody tr").all():
        layer, *values = tr.locator("th, td").all_inner_texts()
        for name, value in zip(names, values, strict=True):
            assert np.float32(value) == wide.loc[int(layer), name.replace(" ", "_")]


def test_strongest_token_of_each_head_while_none_is_selected(talk, runs):
    run = runs["talk"]
    here = run.df[(run.df.generation_step == 0) & run.df.variant.str.startswith("Head") & (run.df.token_position > 0)]
    best = here.groupby(["layer", "variant"]).l2_distance.max()
    rows = list(csv.reader(io.StringIO(talk.copied("Heads"), newline="")))
    text = "\n".join(",".join(row) for row in rows)
    for value in best:
        assert str(np.float32(value)) in text


# --- comparing --------------------------------------------------------------------------------------------
def difference(first: Run, second: Run, metric: str = "l2", variant: str = "Full", step: int = 0) -> Cells:
    """Second minus first where both have the same token at a position."""
    a, b = first.cells(metric, variant, step), second.cells(metric, variant, step)
    same = {position for position, text in first.tokens.items() if second.tokens.get(position) == text}
    return {key: np.float32(float(b[key]) - float(a[key])) for key in a if key in b and key[0] in same}


def mismatches(first: Run, second: Run) -> tuple[int, int]:
    everywhere = first.tokens.keys() | second.tokens.keys()
    return sum(first.tokens.get(p) != second.tokens.get(p) for p in everywhere), len(everywhere)


@pytest.mark.parametrize(("one", "other"), [("both", "text"), ("vision", "both"), ("talk", "short")])
def test_difference_is_that_of_pandas(viewer, runs, one, other):
    first, second = runs[one], runs[other]
    compare(viewer, first, second)
    viewer.choose("Compare", "difference")
    viewer.shows(one, other)
    for metric, variant, step in (("l2", "Full", 0), ("cosine", "Head_1", 1)):
        viewer.go(runs="[0,1]", compare="difference", metric=metric, variant=variant, step=step)
        caption, cells, _ = viewer.numbers()
        wanted = difference(first, second, metric, variant, step)
        assert f"{other} − {one}" in caption
        assert cells == wanted
        end = max((abs(float(value)) for (position, _), value in wanted.items() if position), default=0)
        assert f"from −{shown_number(end)} to {shown_number(end)}" in viewer.scale()
    lost, everywhere = mismatches(first, second)
    assert lost
    assert f"{lost} of {everywhere} positions do not match" in viewer.text(".heatmap-notes")
    viewer.page.get_by_role("button", name="swap").click()
    viewer.shows(other, one)
    assert viewer.numbers()[1] == difference(second, first, "cosine", "Head_1", 1)


def test_colours_of_a_difference(viewer, runs):
    first, second = runs["talk"], runs["short"]
    compare(viewer, first, second)
    viewer.go(runs="[0,1]", compare="difference")
    cells = difference(first, second)
    end = max(abs(float(value)) for (position, _), value in cells.items() if position)
    grid = viewer.grid()
    assert grid.columns == len(first.tokens)
    assert_colours(viewer, grid, cells, lambda *_: Scale(end, signed=True), first)
    assert any(value < 0 for value in cells.values()) and any(value > 0 for value in cells.values())


def test_runs_side_by_side_share_scale_selection_and_scrolling(viewer, runs):
    three = [runs[name] for name in ("text", "vision", "both")]
    compare(viewer, *three)
    viewer.shows("text", "vision", "both")
    assert viewer.page.get_by_role("grid").count() == 3
    end = max(largest(run.cells()) for run in three)
    assert f"to {shown_number(end)}" in viewer.scale()
    grid = viewer.grid(2)
    grid.click(1, 25)
    assert "text: L2" in viewer.readout() and "both: L2" in viewer.readout() and "vision: " in viewer.readout()
    for panel in range(3):
        label = viewer.page.get_by_role("grid").nth(panel).get_by_role("gridcell").text_content()
        assert "layer 2, token ␣circle at position 25" in label
    viewer.page.set_viewport_size({"width": 500, "height": 900})
    viewer.settle(3)
    scroll = viewer.page.locator(".heatmap-scroll")
    scroll.nth(0).evaluate("(each) => each.scrollTo(120, 0)")
    viewer.settle(3)
    assert scroll.evaluate_all("(all) => all.map((each) => each.scrollLeft)") == [120, 120, 120]


def by_token(run: Run, metric: str = "l2", variant: str = "Full", step: int = 0) -> pd.Series:
    """The largest value of each token over the layers."""
    cells = run.cells(metric, variant, step)
    return pd.Series({p: max(v for (q, _), v in cells.items() if q == p) for p in {p for p, _ in cells}}, dtype=float)


def changed(run: Run, folder: Path) -> Run:
    """The same run with other numbers, a token less and another one in the place of one."""
    df = run.df[run.df.token_position != 21].copy()
    rng = np.random.default_rng(0)
    df["l2_distance"] = (df.l2_distance * rng.lognormal(0, 1, len(df))).astype(np.float32)
    df.loc[df.token_position == 25, "token_masked"] = " square"
    tokens = [{**each, "text": " square"} if each["position"] == 25 else each for each in run.manifest["tokens"]]
    made = Run(folder, "changed", df, {**run.manifest, "name": "changed", "tokens": tokens})
    df.to_csv(made.file("csv"), index=False)
    made.file("run").write_text(json.dumps(made.manifest))
    return made


@pytest.mark.parametrize(("one", "other"), [("talk", "short"), ("both", "changed"), ("both", "vision")])
def test_prompt_and_ranking_show_the_difference(viewer, runs, tmp_path, one, other):
    """Signed, on the diverging scale, by size, and the sign also in words; what does not match has no value."""
    first = runs[one]
    second = changed(first, tmp_path) if other == "changed" else runs[other]
    compare(viewer, first, second)
    viewer.choose("Compare", "difference")
    same = {p for p, text in first.tokens.items() if second.tokens.get(p) == text}
    wanted = (by_token(second) - by_token(first)).reindex(sorted(same)).dropna()
    by_size = wanted.drop(0, errors="ignore").abs().sort_values(ascending=False, kind="stable").index.tolist()
    ranking = viewer.page.get_by_role("region", name="Most important tokens")
    images = {p for p, kind in ((t["position"], t["kind"]) for t in first.manifest["tokens"]) if kind == "image"}
    for kind in (images, set(first.tokens) - images):
        expected = [p for p in by_size if p in kind]
        buttons = ranking.locator("ol").nth(int(kind is images)).locator(".ranking__token:visible")
        assert buttons.count() == min(10, len(expected))
        for button, position in zip(buttons.all(), expected, strict=False):
            value = wanted[position]
            text = button.text_content()
            sign, words = (
                ("", "the same in both")
                if value == 0
                else ("+", f"more in {other}")
                if value > 0
                else ("−", f"less in {other}")
            )
            assert f"{sign}{shown_number(abs(value))}" in text and words in text
    expect(ranking).to_contain_text(f"{other} − {one}")
    prompt = viewer.page.get_by_role("region", name="Prompt", exact=True)
    ends = {kind: max([abs(wanted[p]) for p in by_size if (p in images) == kind], default=0) for kind in (True, False)}
    legend = prompt.locator(".prompt__legend")
    for end in filter(None, ends.values()):
        expect(legend).to_contain_text(f"−{shown_number(end)}")
        expect(legend).to_contain_text(f"+{shown_number(end)}")
    texts = [p for p in range(first.manifest["prompt_length"]) if p not in images]
    buttons = prompt.get_by_role("button").all()[: len(texts)]
    empty = set()
    for position, button in zip(texts, buttons, strict=True):
        found = button.evaluate("(each) => getComputedStyle(each).backgroundColor.match(/\\d+/g).map(Number)")[:3]
        if position in wanted:
            assert not ends[False] or alike(found, Scale(ends[False], signed=True).colour(wanted[position])), position
        else:
            empty.add(tuple(found))
    assert len(empty) <= 1
    if by_size[0] in texts:
        buttons[texts.index(by_size[0])].hover()
        expect(prompt.locator(".prompt__readout")).to_contain_text(re.compile(f": [+−].* in {other}"))


def test_heads_show_the_difference(viewer, runs):
    first, second = runs["talk"], runs["short"]
    compare(viewer, first, second)
    viewer.go(runs="[0,1]", compare="difference", token=3)
    heads = viewer.page.get_by_role("region", name="Heads", exact=True)
    heads.get_by_text("Exact numbers").click()
    a, b = (
        run.df[(run.df.token_position == 3) & (run.df.generation_step == 0) & run.df.variant.str.startswith("Head")]
        .pivot(index="layer", columns="variant", values="l2_distance")
        .astype(float)
        for run in (first, second)
    )
    wanted = (b - a).astype(np.float32)
    for tr in heads.locator("tbody tr").all():
        layer, *values = tr.locator("th, td").all_inner_texts()
        assert [np.float32(value) for value in values] == wanted.loc[int(layer)].tolist()
    end = shown_number(float(wanted.abs().to_numpy().max()))
    expect(heads.locator(".heads__legend")).to_contain_text(f"−{end}")
    expect(heads.locator(".heads__what")).to_contain_text("short − talk")
    viewer.go(runs="[0,1]", compare="difference")
    expect(heads.locator(".heads__readout")).to_contain_text(re.compile("[+−]"))
    viewer.go(runs="[0,1]", compare="difference", token=12)  # not in the second run
    expect(heads.locator(".heads__readout")).to_contain_text("No value was measured here")


def test_the_palette_rests_in_a_difference(viewer, runs):
    compare(viewer, runs["talk"], runs["short"])
    palette = viewer.page.get_by_role("group", name="Palette")
    cividis = palette.get_by_role("radio", name="cividis")
    expect(cividis).to_be_enabled()
    viewer.choose("Compare", "difference")
    expect(cividis).to_be_disabled()
    assert "difference" in palette.get_attribute("title")
    viewer.page.locator("body").focus()
    viewer.key("p")
    viewer.choose("Compare", "side by side")
    expect(cividis).to_be_enabled()
    expect(cividis).to_be_checked()


def test_one_run_has_no_difference(talk):
    talk.page.locator("body").focus()
    talk.key("c", "m")
    assert "compare" not in talk.address("metric=cosine")


def test_layers_of_two_models_are_not_in_one_unit(viewer, runs):
    run = runs["talk"]
    viewer.drop(run.file("csv"), run.file("run"), ("other_results.csv", runs["short"].file("csv").read_bytes()))
    manifest = runs["short"].manifest
    manifest = {**manifest, "name": "other", "model": {**manifest["model"], "name": "else"}}
    viewer.drop(("other_run.json", json.dumps(manifest).encode()))
    viewer.go(runs="[0,1]", token=3)
    viewer.shows("talk", "other")
    lines = viewer.page.get_by_role("region", name="Importance over layers")
    expect(lines).to_contain_text("different units")
    marks = lines.locator(".lines__readout i").all()
    dashed = [each.evaluate("(each) => getComputedStyle(each).backgroundImage") != "none" for each in marks]
    assert dashed == [False, False, True, True]  # Full and Attn of the one run, then of the other
    viewer.choose("Metric", "Cosine")
    expect(lines).not_to_contain_text("different units")
    viewer.go(runs="[0,1]", rows="tokens")
    boxes = [each.bounding_box() for each in viewer.page.locator(".heatmap-panel").all()]
    assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]


@pytest.mark.parametrize("names", [("talk", "short"), ("talk", "short", "text")])
def test_sheets_next_to_each_other_do_not_overlap(viewer, runs, names):
    compare(viewer, *(runs[name] for name in names))
    viewer.choose("Rows", "tokens")
    viewer.settle(2)
    for inside in (".heatmap-scroll", ".heatmap-bar"):
        boxes = [each.bounding_box() for each in viewer.page.locator(f"{inside}:visible").all()]
        assert boxes and all(a["x"] + a["width"] <= b["x"] for a, b in pairwise(boxes))
    tops = {each.bounding_box()["y"] for each in viewer.page.get_by_role("grid").all()}
    assert len(tops) == 1
    for grid in viewer.page.get_by_role("grid").all():
        width, whole = grid.evaluate("(each) => [each.clientWidth, each.firstElementChild.offsetWidth]")
        assert whole <= width + 1  # all layers of a small model are seen


def test_mask_modes_are_explained(viewer, runs):
    for name, words in (("vision", "text tokens have no values"), ("text", "they have no values")):
        viewer.drop(runs[name].file("csv"), runs[name].file("run"))
        viewer.shows(name)
        expect(viewer.page.locator("header")).to_contain_text(words)


# --- the page stays where it is ---------------------------------------------------------------------------
BOXES = """() => [...document.querySelectorAll("h2, h3, canvas, select, summary, .heatmap-scroll, ol")]
  .filter((each) => each.checkVisibility()).map((each) => {
    const { x, y, width, height } = each.getBoundingClientRect();
    const name = each.className || each.textContent.slice(0, 20) || each.tagName;
    return [name, x + scrollX, y + scrollY, width, height].join();
  })"""


@pytest.mark.parametrize(
    ("mode", "names", "width"),
    [
        ("side", ["talk"], "narrow"),
        ("side", ["both"], "wide"),
        ("side", ["both"], "narrow"),
        ("side", ["talk", "short", "text"], "wide"),
        ("side", ["both", "vision"], "narrow"),
        ("difference", ["both", "vision"], "wide"),
    ],
)
def test_nothing_moves_under_the_pointer(opened, runs, mode, names, width):
    viewer = opened(viewport=WIDTHS[width])
    compare(viewer, *(runs[name] for name in names))
    viewer.drop(ROOT / "testimg.png")
    viewer.go(runs=json.dumps([*range(len(names))]).replace(" ", ""), compare=mode)
    viewer.settle(4)
    page = viewer.page
    before = page.evaluate(BOXES)
    spots = [(".heatmap-scroll", 0.4, 0.7), (".heatmap-scroll", 0.8, 0.9), (".heatmap-scroll", 0.1, 0.6)]
    spots += [(".heads__plot canvas", 0.5, 0.5), (".heads__plot canvas", 0.9, 0.9), (".heads__plot canvas", 0.5, 0.05)]
    spots += [(".lines__plot canvas", 0.4, 0.5), (".prompt__image canvas", 0.6, 0.6), (".picture-frame", 0.6, 0.6)]
    spots += [(f".prompt__token >> nth={place}", 0.5, 0.5) for place in (0, 1, -3, -1)]
    spots += [(f".ranking li >> nth={place}", 0.5, 0.5) for place in (0, 3)]
    for selector, across, down in spots:
        found = page.locator(selector).first
        if not found.is_visible():
            continue
        box = found.bounding_box()
        found.hover(position={"x": box["width"] * across, "y": box["height"] * down})
        viewer.settle()
        assert page.evaluate(BOXES) == before, selector


def test_the_hint_about_keys_is_there_while_they_work(talk):
    """The arrow keys move the selection from the heat map alone, until something is selected."""
    hint = "() => getComputedStyle(document.querySelector('.heatmap-readout'), '::after').content"
    assert "arrow" not in talk.readout() + talk.page.evaluate(hint)
    talk.page.get_by_role("grid").focus()
    assert "Arrow keys" in talk.page.evaluate(hint)
    talk.key("ArrowRight")
    assert "token=" in talk.address("token=")
    assert "Arrow" not in talk.page.evaluate(hint)


def test_tokens_in_the_prompt_stay_whole(viewer, tmp_path):
    """A line ends between tokens; a token is broken only where it is longer than a line."""
    words = [
        "well-known",
        " state-of-the-art",
        "一二三四五六",
        " a b c",
        "x/y/z",
        " http://a.b/c?d=e",
        "w" * 60,
        " end",
    ]
    tokens = [word for i in range(8) for word in (*words[i:], *words[:i])]
    save(tmp_path, [make_block(0, 0, tokens, ("Full",))], ("csv",), "words")
    viewer.drop(tmp_path / "words_results.csv")
    viewer.shows("words")
    for width in (1280, 390):
        viewer.page.set_viewport_size({"width": width, "height": 900})
        viewer.settle(2)
        found = viewer.page.locator(".prompt__token")
        pieces = found.evaluate_all("(all) => all.map((each) => [each.textContent, each.getClientRects().length])")
        assert len(pieces) == len(tokens)
        assert [each for each in pieces if each[1] > 1] == []
        box = viewer.page.locator(".prompt__text")
        assert box.evaluate("(each) => each.scrollWidth <= each.clientWidth")


# --- the address ------------------------------------------------------------------------------------------
def test_the_address_brings_the_same_state_back(opened, runs):
    files = [runs[name].file(kind) for name in ("both", "text") for kind in ("csv", "run")]
    first = opened()
    first.drop(*files, ROOT / "testimg.png")
    first.shows("both", "text")
    first.page.get_by_role("checkbox", name="Show both").uncheck()
    first.shows("text")
    first.page.get_by_role("checkbox", name="Show both").check()
    first.shows("text", "both")
    first.choose("Metric", "Cosine")
    first.variant("Head_2")
    first.choose("Curve", "√")
    first.choose("Rows", "tokens")
    first.choose("Palette", "viridis")
    first.page.get_by_role("checkbox", name="position 0").check()
    first.page.get_by_role("checkbox", name="fold images").check()
    first.page.get_by_role("button", name="Next step").click()
    first.page.get_by_role("region", name="Prompt").get_by_role("button", name="␣circle").click()
    first.page.get_by_label("Colour over picture").fill("35")
    first.page.get_by_role("combobox", name="How layers are joined").select_option("mean")
    address = first.address("curve=sqrt", "fold=true", "opacity=0.35", "join=mean", "token=25", "step=1")
    second = opened(fragment=address.lstrip("#"))
    second.drop(*files, ROOT / "testimg.png")
    second.shows("text", "both")
    first.page.mouse.move(2, 2)
    first.settle(2)
    second.settle(2)
    assert second.address() == first.address()
    assert second.numbers() == first.numbers()
    for read in (Viewer.scale, Viewer.readout, lambda viewer: viewer.page.locator("main").inner_text()):
        assert read(second) == read(first)


NONSENSE = [
    "%", "&&&===", "runs=[99]&compare=difference", "runs=[]", "runs={}", "runs=[-1,1.5,null]", "variant=Nope&step=1e99",
    "token=-1&layer=x&step=-3", "heads=[999999999999,-1,%22a%22]", "opacity=7&fold=maybe", "token=" + "9" * 400,
    "metric=<img src=x onerror=alert(1)>", "__proto__=1&constructor=2&toString=3", "from=3&to=1", "x" * 20_000,
    "from=99&to=98&join=median", "theme=%FF&palette=%E0%A4%A", "rows=tokens&range=row&token=99999&layer=99999",
]  # fmt: skip


def test_nonsense_in_the_address_breaks_nothing(opened, runs):
    viewer = opened(fragment=NONSENSE[0])
    viewer.drop(runs["talk"].file("csv"), runs["talk"].file("run"))
    viewer.shows("talk")
    for text in NONSENSE:
        viewer.page.evaluate("(text) => { location.hash = text; }", text)
        viewer.settle(2)
        assert viewer.page.get_by_role("grid").is_visible()
        assert viewer.numbers()[1] == runs["talk"].cells(), text
    assert viewer.page.locator("h1:visible").inner_text() == "talk"


# --- keyboard ---------------------------------------------------------------------------------------------
REACHABLE = """() => {
  const tabbable = "a[href], button, input, select, textarea, summary, [tabindex]";
  const all = [...document.querySelectorAll(tabbable)].filter((each) =>
    each.tabIndex >= 0 && !each.disabled && each.checkVisibility({ visibilityProperty: true }) &&
    !(each.type === "radio" && !each.checked) && !(each.closest("details:not([open])") && each.tagName !== "SUMMARY"));
  window.tabbed = new Set();
  document.activeElement?.blur();
  return all.length;
}"""
TABBED = """() => {
  const { activeElement } = document;
  if (activeElement === document.body) return null;
  const again = window.tabbed.has(activeElement);
  window.tabbed.add(activeElement);
  const around = [activeElement, activeElement.parentElement, activeElement.nextElementSibling].filter(Boolean);
  const ring = around.map((each) => getComputedStyle(each)).some(({ outlineStyle, outlineWidth, boxShadow }) =>
    (outlineStyle !== "none" && parseFloat(outlineWidth) > 0) || boxShadow !== "none");
  return { again, ring, html: activeElement.outerHTML.slice(0, 120) };
}"""


def test_everything_is_reached_by_tab_and_the_focus_is_seen(picture):
    page = picture.page
    count = page.evaluate(REACHABLE)
    assert count > 40
    found = 0
    for _ in range(count + 5):
        page.keyboard.press("Tab")
        state = page.evaluate(TABBED)
        if state is None or state["again"]:
            break
        assert state["ring"], f"no focus ring: {state['html']}"
        found += 1
    assert found == count


def test_keys_do_what_the_controls_do(talk, runs):
    run = runs["talk"]
    talk.page.locator("body").focus()
    for key, part in (
        ("m", "metric=cosine"), ("v", "variant=Attn"), ("s", "range=row"), ("l", "curve=sqrt"), ("0", "first=true"),
        ("r", "rows=tokens"), ("p", "palette=viridis"), ("]", "step=1"), ("t", "theme=dark"), ("f", "fold=true"),
    ):  # fmt: skip
        talk.key(key)
        talk.address(part)
    talk.key("V", "[", "r", "s", "l", "0", "p", "t", "f", "m")
    talk.settle()
    assert talk.numbers()[1] == run.cells()
    talk.key("e")
    expect(talk.page.locator("#exports")).to_be_visible()
    talk.key("Escape")
    expect(talk.page.locator("#exports")).to_be_hidden()
    with talk.page.expect_file_chooser():
        talk.settle()  # the browser has heard that its dialog is not to open
        talk.key("o")


def test_arrows_walk_through_the_heat_map(talk, runs):
    run = runs["talk"]
    cells = run.cells()
    grid = talk.page.get_by_role("grid")
    grid.focus()
    talk.key("ArrowRight")
    position, layer = max((key for key in cells if key[0]), key=lambda key: cells[key])
    cell = grid.get_by_role("gridcell")
    where = lambda: tuple(map(int, re.findall(r"layer (\d+).* at position (\d+)", cell.text_content() or "")[0]))  # noqa: E731
    assert where() == (layer, position)
    for key, (up, right) in {
        "ArrowUp": (1, 0), "ArrowRight": (0, 1), "ArrowDown": (-1, 0), "ArrowLeft": (0, -1),
        "Home": (0, -99), "End": (0, 99), "PageDown": (-99, 0), "PageUp": (99, 0),
    }.items():  # fmt: skip
        talk.key(key)
        layer = min(max(layer + up, min(run.layers)), max(run.layers))
        position = min(max(position + right, 0), max(run.tokens))
        assert where() == (layer, position)
    value = cells.get((position, layer))
    assert value is None or str(value) in talk.readout()
    talk.key("Escape")
    assert "Point at a cell" in talk.readout()
    assert "nothing selected" in (cell.text_content() or "")


def test_views_by_keyboard_alone(picture):
    page = picture.page
    page.get_by_role("region", name="Prompt").get_by_role("button", name="<|im_start|>").first.focus()
    picture.key("End", "ArrowLeft", "Home", "ArrowRight", "Enter")
    picture.address("token=1")
    page.locator(".picture-frame").focus()
    picture.key("ArrowRight", "ArrowDown", "Enter")
    assert "image token" in page.get_by_role("region", name="Selection").inner_text()
    page.get_by_role("region", name="Importance over layers").locator("canvas").focus()
    picture.key("End")
    picture.address("layer=3")
    picture.key("ArrowLeft")
    picture.address("layer=2")
    page.get_by_role("region", name="Heads", exact=True).locator("canvas").focus()
    picture.key("ArrowRight", "l", "Enter")
    picture.address("heads=[1]", "variant=Head_1")


def test_help_lists_the_keys_and_gives_the_focus_back(talk):
    page = talk.page
    page.get_by_role("checkbox", name="position 0").focus()
    talk.key("?")
    dialog = page.get_by_role("dialog", name="Keys")
    expect(dialog).to_be_visible()
    for text in ("metric: L2 or cosine", "clear the selection", "open files"):
        expect(dialog).to_contain_text(text)
    for _ in range(6):
        page.keyboard.press("Tab")
        assert page.evaluate(
            "() => !!document.activeElement.closest('dialog') || document.activeElement === document.body"
        )
    before = talk.scale()
    talk.key("m")
    assert talk.scale() == before  # the page behind does not listen
    talk.key("Escape")
    expect(dialog).to_be_hidden()
    assert page.evaluate("() => document.activeElement.type") == "checkbox"
    page.get_by_role("button", name="Keys").click()
    dialog.get_by_role("button", name="Close").click()
    expect(dialog).to_be_hidden()


# --- the picture ------------------------------------------------------------------------------------------
def patches(run: Run) -> dict[int, tuple[int, int]]:
    """Row and column by position."""
    return {t["position"]: (t["row"], t["col"]) for t in run.manifest["tokens"] if t["kind"] == "image"}


def test_picture_colours_are_those_of_the_patches(picture, runs):
    run = runs["both"]
    where = patches(run)
    cells = run.cells()
    for layer in (2, 0):
        picture.go(opacity=1, layer=layer)
        canvas = picture.page.locator(".picture-frame canvas")
        width = canvas.bounding_box()["width"]
        side = width / 4
        assert width == pytest.approx(canvas.bounding_box()["height"], abs=1)
        end = max(float(cells[position, each]) for position in where for each in run.layers)
        areas = {p: (col * side + 6, row * side + 6, side - 12, side - 12) for p, (row, col) in where.items()}
        for position, found in zip(areas, most_frequent(canvas, list(areas.values())), strict=True):
            wanted = Scale(end).colour(cells[position, layer])
            assert alike(found, wanted), (position, layer, found, wanted)
        expect(picture.page.get_by_role("region", name="Picture")).to_contain_text("a scale apart from the text’s")


def test_picture_opacity_goes_down_to_the_picture_alone(picture):
    canvas = picture.page.locator(".picture-frame canvas")
    spots = [(x, y, 3, 3) for x in (20, 120, 220, 300) for y in (20, 120, 220, 300)]
    slider = picture.page.get_by_label("Colour over picture")
    slider.fill("0")
    picture.settle()
    alone = most_frequent(canvas, spots)
    with Image.open(ROOT / "testimg.png") as file:
        picture_itself = file.convert("L")
        scale = picture_itself.width / canvas.bounding_box()["width"]
        original = [
            picture_itself.getpixel((round((x + 1.5) * scale), round((y + 1.5) * scale))) for x, y, _, _ in spots
        ]
    assert max(abs(np.corrcoef([sum(rgb) for rgb in alone], original)[0, 1] - 1) for _ in "x") < 0.1
    slider.fill("100")
    picture.settle()
    assert most_frequent(canvas, spots) != alone


def test_picture_sliders_play_and_click(picture, runs):
    run = runs["both"]
    page = picture.page
    layer, step = (page.get_by_role("slider", name=re.compile(f"^{name}")) for name in ("Layer", "Step"))
    layer.focus()
    picture.key("ArrowRight")
    picture.address("layer=0")
    picture.key("ArrowRight")
    assert layer.get_attribute("aria-valuetext") == "layer 1"
    step.focus()
    picture.key("ArrowRight")
    picture.address("step=1")
    picture.key("ArrowLeft")
    page.get_by_role("button", name="Play layers").click()
    expect(layer).to_have_attribute("aria-valuetext", "layer 3", timeout=4000)
    expect(page.get_by_role("button", name="Play layers")).to_be_visible(timeout=4000)
    frame = page.locator(".picture-frame canvas")
    side = frame.bounding_box()["width"] / 4
    where = patches(run)
    position = next(p for p, place in where.items() if place == (2, 3))
    frame.hover(position={"x": 3.5 * side, "y": 2.5 * side})
    picture.settle()
    value = str(run.cells()[position, 3])
    expect(page.locator(".picture-readout")).to_contain_text(f"row 2, column 3: {value}")
    frame.click(position={"x": 3.5 * side, "y": 2.5 * side})
    page.mouse.move(2, 2)
    picture.settle()
    picture.address(f"token={position}", "layer=3")
    assert f"L2 {value}" in picture.readout()
    expect(page.get_by_role("region", name="Selection")).to_contain_text("row 2, column 3 of image 0")


def test_folded_pictures_are_one_column(picture, runs):
    run = runs["both"]
    before = int(picture.page.get_by_role("grid").get_attribute("aria-colcount"))
    picture.page.get_by_role("checkbox", name="fold images").check()
    picture.settle()
    where = patches(run)
    assert int(picture.page.get_by_role("grid").get_attribute("aria-colcount")) == before - len(where) + 1
    _, cells, names = picture.numbers()
    first = min(where)
    assert "image 0" in names[first]
    for layer in run.layers:
        assert cells[first, layer] == max(run.cells()[position, layer] for position in where)


def test_scales_of_text_and_patches_are_told_apart(picture, runs):
    run = runs["both"]
    where = patches(run)
    most = by_token(run).drop(0)
    ends = {"text": most.drop(where).max(), "image patches": most[list(where)].max()}
    legend = picture.page.locator(".prompt__legend")
    for kind, end in ends.items():
        expect(legend).to_contain_text(f"{shown_number(end)} {kind}")
    expect(picture.page.locator(".ranking__what")).to_contain_text("on scales of their own")


def test_the_picture_alone_is_a_click_away(picture):
    canvas = picture.page.locator(".picture-frame canvas")
    spots = [(x, y, 3, 3) for x in (120, 220, 300) for y in (120, 220, 300)]
    coloured = most_frequent(canvas, spots)
    button = picture.page.get_by_role("button", name="Picture alone")
    button.click()
    picture.address("opacity=0")
    alone = most_frequent(canvas, spots)
    assert any(max(rgb) - min(rgb) > 120 for rgb in alone)  # the red circle, the blue square
    expect(button).to_have_attribute("aria-pressed", "true")
    button.click()
    expect(picture.page.get_by_label("Colour over picture")).to_have_value("60")
    picture.settle(2)
    assert most_frequent(canvas, spots) == coloured


# --- effects on the answer --------------------------------------------------------------------------------
FIXTURES = ROOT / "viewer" / "tests" / "fixtures"
REACH = [FIXTURES / f"reach_{name}" for name in ("results.csv", "run.json", "effects.csv")]
EFFECTS = {"logprob_change": "change of log-probability", "kl": "KL divergence", "contrast_change": "change of the"}


@pytest.fixture(scope="session")
def effects() -> pd.DataFrame:
    return pd.read_csv(REACH[2], keep_default_na=False).astype({"logprob_change": np.float32, "kl": np.float32})


@pytest.fixture
def reach(viewer) -> Viewer:
    viewer.drop(*REACH)
    viewer.shows("reach")
    return viewer


def effects_of(viewer: Viewer) -> Any:
    return viewer.page.get_by_role("region", name="Effects on the answer")


def effect_table(viewer: Viewer) -> pd.DataFrame:
    """The accessible table: positions down, layers across."""
    details = effects_of(viewer).locator("details")
    if details.get_attribute("open") is None:
        details.locator("summary").click()
    viewer.settle()
    table = effects_of(viewer).get_by_role("region", name="Exact effects").locator("table")
    columns = table.locator("thead th").all_inner_texts()[1:]
    rows = table.locator("tbody tr").evaluate_all(
        "(all) => all.map((row) => "
        "[Number(row.dataset.position), ...[...row.cells].slice(1).map((each) => each.textContent)])"
    )
    return pd.DataFrame([row[1:] for row in rows], columns=columns, index=[row[0] for row in rows])


def test_effects_are_those_of_pandas(reach, effects):
    for measure in EFFECTS:
        for block in ("last", "all"):
            reach.go(effect=measure, block=block)
            table = effect_table(reach).map(np.float32)
            wide = effects[effects.block == block].pivot(index="token_position", columns="first_layer", values=measure)
            assert list(table.columns) == [f"layers {first}-3" for first in range(4)]
            assert table.index.tolist() == list(range(16))
            assert table.to_numpy().tolist() == wide.to_numpy(np.float32).tolist(), (measure, block)
            caption = effects_of(reach).locator("caption").inner_text()
            assert EFFECTS[measure][1:] in caption
            assert ("logit of ␣blue minus that of ␣red" in caption) == (measure == "contrast_change")
    reach.go(order="strength", mask="1-3")
    size = (
        effects[(effects.block == "all") & (effects.first_layer == 1)].set_index("token_position").logprob_change.abs()
    )
    assert effect_table(reach).index.tolist() == size.sort_values(ascending=False, kind="stable").index.tolist()


def test_effects_by_controls(reach):
    box = effects_of(reach)
    for label, choice, part in (
        ("show", "KL divergence", "effect=kl"),
        ("hidden from", "the predicting position", "block=last"),
        ("one value for a unit", "layers 2 to 3", "mask=2-3"),
        ("sorted by", "strength", "order=strength"),
    ):
        box.get_by_label(label).select_option(label=choice)
        reach.address(part)
    assert "predicting position" in box.locator(".heads__what").first.inner_text()
    assert effect_table(reach).index[0] == 10
    reach.page.get_by_role("region", name="Prompt").get_by_label("shade by").select_option("effect")
    reach.address("shade=effect")


def test_colours_of_effects(reach, effects):
    canvas = effects_of(reach).locator("canvas").first
    canvas.scroll_into_view_if_needed()
    width = canvas.bounding_box()["width"]
    left = min(150, width * 0.32)
    wide = min(72, (width - left - 2) / 4)
    for measure, state in (("logprob_change", {}), ("logprob_change", {"curve": "sqrt"}), ("kl", {"theme": "dark"})):
        reach.go(effect=measure, **state)
        here = effects[effects.block == "all"]
        end = here[here.token_position > 0][measure].abs().max()
        scale = Scale(end, state.get("curve") == "sqrt", signed=measure != "kl")
        places = [
            (left + first * wide + 2, 30 + 18 * position + 2, 4, 12) for position in range(1, 16) for first in range(4)
        ]
        values = here.set_index(["token_position", "first_layer"])[measure]
        found = most_frequent(canvas, places)
        for (position, first), rgb in zip([(p, f) for p in range(1, 16) for f in range(4)], found, strict=True):
            assert alike(rgb, scale.colour(values[position, first])), (measure, position, first)


def test_effects_are_pointed_at_and_selected(reach, effects):
    box = effects_of(reach)
    canvas = box.locator("canvas").first
    canvas.scroll_into_view_if_needed()
    width = canvas.bounding_box()["width"]
    left = min(150, width * 0.32)
    wide = min(72, (width - left - 2) / 4)
    row = effects[(effects.block == "all") & (effects.token_position == 9) & (effects.first_layer == 1)].iloc[0]
    spot = {"x": left + 1.5 * wide, "y": 30 + 18 * 9 + 9}
    canvas.hover(position=spot)
    reach.settle()
    said = box.locator(".heads__readout").inner_text().replace("−", "-")
    for text in (
        "token ␣blue at position 9, masked in layers 1 to 3",
        f"changed by {float(f'{row.logprob_change:.4g}'):g}",
        f"rank {row['rank']}",
        f"likeliest {row.top_token.replace(' ', '␣')}",
        f"KL {float(f'{row.kl:.4g}'):g}",
    ):
        assert text in said, said
    assert reach.page.get_by_role("region", name="Prompt").locator("[data-hovered]").inner_text() == "␣blue"
    canvas.click(position=spot)
    reach.address("token=9")
    assert pressed(reach.page, "Prompt") == ["␣blue"]
    canvas.click(position=spot)
    canvas.focus()
    reach.key("ArrowDown", "ArrowRight", "ArrowRight", "Enter")  # from the cell of the click
    reach.address("token=10")
    assert "masked in layers 3 to 3" in box.locator(".heads__readout").inner_text()


def test_effects_beside_impact(reach, effects):
    known = json.loads((FIXTURES / "reach_numbers.json").read_text())
    box = effects_of(reach)
    for block in ("last", "all"):
        for first in range(4):
            reach.go(block=block, mask=f"{first}-3")
            text = box.locator(".heads__what").nth(1).inner_text().replace("−", "-")
            found = re.search(r"in layers (\d) to 3 .* ρ = (-?[\d.]+), n = 15, position 0 left out", text)
            assert found and int(found[1]) == first
            assert float(found[2]) == pytest.approx(known[f"{block} {first}"], abs=0.0051)
    reach.go(first=True)
    expect(box).to_contain_text("n = 16")
    scatter = box.get_by_role("img")
    scatter.scroll_into_view_if_needed()
    box_ = scatter.bounding_box()
    scatter.click(position={"x": box_["width"] - 48, "y": 26})  # the strongest of both
    reach.address("token=14")


def test_the_prompt_is_shaded_by_effects(reach, effects):
    reach.go(shade="effect", mask="1-3")
    prompt = reach.page.get_by_role("region", name="Prompt")
    here = effects[(effects.block == "all") & (effects.first_layer == 1)].set_index("token_position").logprob_change
    scale = Scale(here[1:].abs().max(), signed=True)
    shades = prompt.locator(".prompt__token").evaluate_all(
        "(all) => all.map((each) => getComputedStyle(each).backgroundColor)"
    )
    for position in range(1, 16):
        rgb = tuple(int(part) for part in re.findall(r"\d+", shades[position])[:3])
        assert alike(rgb, scale.colour(here[position])), position
    expect(prompt.locator(".prompt__legend")).to_contain_text("hidden from every later position in layers 1 to 3")
    assert not prompt.get_by_label("First layer that counts").is_visible()
    table = read_copied(reach, "Prompt")
    assert table.value[:16].astype(np.float32).tolist() == here.astype(np.float32).tolist()
    assert set(table.metric) == {"logprob_change"} and set(table.layers) == {"1-3"} and set(table.block) == {"all"}


def test_effects_leave_the_page(reach, effects, tmp_path):
    table = read_copied(reach, "Effects")
    here = effects[effects.block == "all"]
    keys = [
        "token_position",
        "token_masked",
        "first_layer",
        "last_layer",
        "block",
        "rank",
        "top_token",
        "generation_step",
    ]
    found = table.merge(here, on=keys, suffixes=("", "_file"))
    assert len(found) == len(table) == len(here)
    assert found.value.astype(np.float32).tolist() == found.logprob_change_file.tolist()
    assert set(table.metric) == {"logprob_change"} and set(table.run) == {"reach"}
    root = ET.fromstring(reach.download("Effects", "SVG").path().read_text())
    texts = "".join(root.itertext())
    assert "Spearman’s ρ = 0.22" in texts and "␣blue" in texts
    with Image.open(reach.download("Effects", "PNG").path()) as image:
        assert len(image.convert("RGB").resize((64, 64)).getcolors(9999) or []) > 5


def test_effects_come_back_by_their_address(opened):
    state = {"effect": "kl", "block": "last", "mask": "2-3", "order": "strength", "shade": "effect", "token": 9}
    first, second = opened(), opened(fragment="&".join(f"{key}={value}" for key, value in state.items()))
    for viewer in (first, second):
        viewer.drop(*REACH)
        viewer.shows("reach")
    first.go(**state)
    first.settle(2)
    assert first.page.locator("main").inner_text() == second.page.locator("main").inner_text()


def test_effects_wait_for_their_results(viewer, effects):
    viewer.drop(REACH[2])
    viewer.message("reach_effects.csv holds effects on the answer; the results of their run are in reach_results.csv")
    viewer.drop(("bad_effects.csv", effects.drop(columns="kl").to_csv(index=False).encode()))
    viewer.message("bad_effects.csv: not a table of effects: the column kl is missing")
    viewer.drop(*REACH[:2])
    viewer.shows("reach")
    expect(effects_of(viewer)).to_be_visible()
    assert not viewer.page.get_by_text("holds effects on the answer").is_visible()


def test_without_effects_nothing_of_them_is_shown(talk):
    assert not effects_of(talk).is_visible()
    assert not talk.page.get_by_label("shade by").is_visible()
    assert talk.export_menu().get_by_text("Effects").count() == 0


def test_one_range_of_layers_is_a_list(viewer, tmp_path):
    for kind in ("results.csv", "run.json"):
        (tmp_path / f"one_{kind}").write_bytes((FIXTURES / f"reach_{kind}").read_bytes())
    viewer.drop(*(tmp_path / f"one_{kind}" for kind in ("results.csv", "run.json")), FIXTURES / "one_effects.parquet")
    viewer.shows("one")
    df = pd.read_csv(FIXTURES / "one_effects.csv", keep_default_na=False)
    single = df[df.interaction == ""].set_index("token_position")
    table = effect_table(viewer)
    assert (
        table.index.tolist() == single.logprob_change.abs().sort_values(ascending=False, kind="stable").index.tolist()
    )
    for column in ("logprob", "kl", "final_l2", "contrast"):
        assert sorted(table[column].map(np.float32)) == sorted(single[column].astype(np.float32))
    viewer.go(effect="interaction")
    assert len(effect_table(viewer)) == 2


def test_hostile_units_are_text(viewer, hostile):
    tokens = hostile.tokens
    df = pd.DataFrame({"token_position": list(tokens), "token_masked": list(tokens.values())})
    numbers = dict.fromkeys(("logprob", "logprob_change", "kl", "final_l2", "final_cosine", "contrast_change"), -0.5)
    df = df.assign(
        generation_step=0, first_layer=0, last_layer=1, block="all", rank=1, top_token=df.token_masked, **numbers
    )
    viewer.drop(
        hostile.file("csv"), hostile.file("run"), ("hostile_effects.json", df.to_json(orient="records").encode())
    )
    viewer.shows("hostile")
    assert len(effect_table(viewer)) == len(tokens)
    viewer.go(shade="effect", effect="contrast_change", token=3)
    assert viewer.page.locator("img, main script, main svg, iframe, b").count() == 0
    ET.fromstring(viewer.download("Effects", "SVG").path().read_bytes())


def test_many_units_and_layers_scroll(viewer, tmp_path):
    """3,000 units in 36 ranges of layers: drawn at once, and the last one is reached."""
    rows = [(position, first) for first in range(36) for position in range(3000)]
    df = pd.DataFrame(rows, columns=["token_position", "first_layer"])
    df = df.assign(
        token_masked="t" + df.token_position.astype(str), generation_step=0, last_layer=35, block="all", rank=2
    )
    df = df.assign(
        top_token="x", logprob=-1.5, logprob_change=-df.token_position / 3000, kl=0.1, final_l2=1.0, final_cosine=0.1
    )
    block = make_block(0, 0, [f"t{position}" for position in range(3000)], ("Full",))
    save(tmp_path, [block], ("csv",), "many")
    df.to_parquet(tmp_path / "many_effects.parquet")
    viewer.drop(tmp_path / "many_results.csv", tmp_path / "many_effects.parquet")
    viewer.shows("many")
    box = effects_of(viewer)
    expect(box).to_be_visible()
    viewer.settle(3)
    box.locator("canvas").first.focus()
    viewer.key("PageDown", "End")
    assert "t2999 at position 2999, masked in layers 35 to 35" in box.locator(".heads__readout").inner_text()
    canvas = box.locator("canvas").first.bounding_box()
    assert canvas["height"] <= 420
    assert viewer.page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")


# --- which position reads which ---------------------------------------------------------------------------
EVERY = [FIXTURES / f"every_{name}" for name in ("results.csv", "run.json")]


@pytest.fixture(scope="session")
def every() -> pd.DataFrame:
    kinds = {"l2_distance": np.float32, "cosine_distance": np.float32}
    return pd.read_csv(EVERY[0], keep_default_na=False).astype(kinds)


@pytest.fixture
def asked(viewer) -> Viewer:
    """A run with every query position, loaded."""
    viewer.drop(*EVERY)
    viewer.shows("every")
    return viewer


class Map:
    """The map, and where its cells are: found by pointing at it."""

    def __init__(self, viewer: Viewer) -> None:
        self.viewer = viewer
        self.box = viewer.page.get_by_role("region", name="Which position reads which")
        self.canvas = self.box.locator(".reads__box canvas")

    def readout(self) -> str:
        return self.box.locator(".heads__readout").inner_text()

    def point(self, x: float, y: float) -> tuple[int, int] | None:
        box = self.canvas.bounding_box()
        self.viewer.page.mouse.move(box["x"] + x, box["y"] + y)
        self.viewer.settle()
        found = re.match(r"Token .* at position (\d+).* (?:reads|see) token .* at position (\d+)", self.readout())
        return (int(found[1]), int(found[2])) if found else None

    x: ClassVar[dict[int, int]] = {}
    y: ClassVar[dict[int, int]] = {}

    def measure(self) -> "Map":
        """The middle of each column and row of seven, which are the same in all tests."""
        self.canvas.scroll_into_view_if_needed()
        if not self.x:
            size = {key: int(value) for key, value in self.canvas.bounding_box().items()}
            across = [(x, self.point(x, size["height"] - 12)) for x in range(4, size["width"], 14)]
            self.x.update({p: int(np.mean([x for x, at in across if at and at[1] == p])) for p in range(7)})
            down = [(y, self.point(self.x[0], y)) for y in range(4, size["height"], 8)]
            self.y.update({p: int(np.mean([y for y, at in down if at and at[0] == p])) for p in range(7)})
        return self

    def table(self) -> dict[tuple[int, int], np.float32]:
        """(query, token): value, of the accessible table."""
        details = self.box.locator("details")
        if details.get_attribute("open") is None:
            details.locator("summary").click()
            self.viewer.settle()
        cells = details.locator("tbody tr").evaluate_all(
            "(all) => all.map((row) => [row.dataset.query, ...[...row.cells].slice(1).map((each) => each.textContent)])"
        )
        return {
            (int(query), place): np.float32(text)
            for query, *texts in cells
            for place, text in enumerate(texts)
            if text != "–"
        }


def test_the_map_is_that_of_pandas(asked, every):
    shown = Map(asked)
    for metric in METRICS:
        for variant in ("Full", "Attn"):
            for layer in (0, 3, None):
                asked.go(metric=metric, variant=variant, **({} if layer is None else {"layer": layer}))
                rows = every[(every.variant == variant) & ((every.layer == layer) | (layer is None))]
                wanted = rows.groupby(["query_position", "token_position"])[f"{metric}_distance"].max()
                assert shown.table() == wanted.to_dict(), (metric, variant, layer)
    assert {(q, t) for q, t in shown.table() if t > q} == set()


def test_colours_of_the_map(asked, every):
    shown = Map(asked).measure()
    full = every[every.variant == "Full"]
    for state in ({"layer": 3}, {"layer": 3, "range": "row", "first": True}, {"curve": "sqrt", "layer": 0}):
        asked.go(**state)
        rows = full[full.layer == state["layer"]].set_index(["query_position", "token_position"]).l2_distance
        counted = full[(full.token_position > 0) | ("first" in state)]
        cells = [(query, token) for query, token in rows.index if token > 0 or "first" in state]
        # Beside of the number in the middle of a cell.
        places = [(shown.x[token] - 24, shown.y[query] - 10, 8, 5) for query, token in cells]
        for (query, token), found in zip(cells, most_frequent(shown.canvas, places), strict=True):
            here = counted[(counted.layer == 3) & (counted.query_position == query)] if "range" in state else counted
            scale = Scale(float(here.l2_distance.max()), state.get("curve") == "sqrt")
            assert alike(found, scale.colour(rows[query, token])), (state, query, token)


def test_the_map_is_pointed_at_and_chosen(asked, every):
    asked.go(layer=3)
    shown = Map(asked).measure()
    cell = every[(every.layer == 3) & (every.variant == "Full") & (every.query_position == 4)].iloc[1]
    assert shown.point(shown.x[1], shown.y[4]) == (4, 1)
    l2, cosine = str(np.float32(cell.l2_distance)), str(np.float32(cell.cosine_distance))
    assert f"L2 {l2}, cosine {cosine}, layer 3" in shown.readout()
    assert asked.page.get_by_role("region", name="Prompt").locator("[data-hovered]").inner_text() == "␣has"
    shown.canvas.click(position={"x": shown.x[1], "y": shown.y[4]})
    assert "query" not in asked.address("token=1", "layer=3")
    assert pressed(asked.page, "Prompt") == ["␣has"]
    shown.canvas.click(position={"x": 20, "y": shown.y[4]})  # the name of the row
    asked.address("token=1", "query=4")
    shown.canvas.focus()
    asked.key("ArrowUp", "ArrowLeft", "Enter")  # from the cell of the first click
    asked.address("token=0", "query=4")
    asked.key("Shift+Enter")
    asked.address("query=3")
    shown.box.get_by_role("slider", name="Layer").focus()
    asked.key("ArrowLeft")
    asked.address("layer=0")
    shown.box.get_by_role("button", name="Play layers").click()
    asked.address("layer=3")


def test_the_page_shows_one_position_that_reads(asked, every):
    read = asked.page.get_by_label("read at")
    expect(read).to_have_value("")
    assert asked.numbers()[1] == cells_of(every[every.query_position == 5], "l2", "Full", 0)
    assert "at the predicting position" in asked.text(".header-meaning")
    asked.key("]")
    assert asked.numbers()[1] == cells_of(every[every.query_position == 6], "l2", "Full", 1)
    read.select_option("3")
    asked.address("query=3")
    assert "at position 3 when" in asked.text(".header-meaning")
    assert asked.numbers()[1] == cells_of(every[every.query_position == 3], "l2", "Full", 0)
    ranked = asked.page.get_by_role("region", name="Most important tokens").inner_text()
    assert "␣red" in ranked and "␣ball" not in ranked
    read.blur()
    asked.key("q")
    asked.address("query=4")
    asked.key("Q", "Q")
    asked.address("query=2")
    line = pd.read_csv(io.StringIO(asked.copied("Heat map")))
    assert set(line.query_position) == {2}
    assert (
        line.value.astype(np.float32).tolist()
        == every[(every.query_position == 2) & (every.variant == "Full")].l2_distance.tolist()
    )


def test_the_map_leaves_the_page(opened, every, tmp_path):
    manifest = json.loads(EVERY[1].read_bytes())
    viewer = opened(write_report(tmp_path / "every_results.html", every, manifest), "layer=3")
    viewer.shows("every")
    wanted = every[(every.variant == "Full") & (every.layer == 3)]
    found = pd.read_csv(io.StringIO(viewer.copied("Reads")), keep_default_na=False)
    keys = ["generation_step", "query_position", "layer", "token_position", "token_masked"]
    assert found[keys].to_numpy().tolist() == wanted[keys].to_numpy().tolist()
    assert found.value.astype(np.float32).tolist() == wanted.l2_distance.tolist()
    assert found.query_token.unique().tolist() == ["Tom", " has", " a", " red", " ball", ".", " Tom"]
    root = ET.fromstring(viewer.download("Reads", "SVG").path().read_text())
    texts = "".join(root.itertext())
    assert "Which position reads which" in texts and "layer 3" in texts and "␣red" in texts
    with Image.open(viewer.download("Reads", "PNG").path()) as image:
        assert len(image.convert("RGB").resize((64, 64)).getcolors(9999) or []) > 20


def test_without_other_positions_nothing_of_them_is_shown(talk):
    assert talk.page.get_by_label("read at").is_hidden()
    assert Map(talk).box.count() == 0
    assert "Reads" not in talk.export_menu().inner_text()


def test_hundreds_of_positions(opened, tmp_path):
    """All of them at once, or cells that scroll and show what is selected."""
    rng = np.random.default_rng(0)
    texts = [f" t{i}" for i in range(300)]
    blocks = [
        Block.of_l2_and_cosine(
            0, 0, texts[: q + 1], np.arange(q + 1), ["Full"], *rng.random((2, q + 1, 1)), query_position=q
        )
        for q in range(300)
    ]
    save(tmp_path, blocks, ("parquet",), "many")
    viewer = opened()
    viewer.drop(tmp_path / "many_results.parquet")
    viewer.shows("many")
    shown = Map(viewer)
    room = shown.box.locator(".reads__box")
    sizes = "(each) => [each.scrollWidth - each.clientWidth, each.scrollHeight - each.clientHeight, each.scrollTop]"
    assert room.evaluate(sizes)[0] == 0
    shown.box.get_by_label("large cells").check()
    viewer.go(large=True, token=200, query=250)
    across, down, top = room.evaluate(sizes)
    assert across > 2000 and down > 2000 and top > 2000
    assert viewer.page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    value = str(np.float32(blocks[250].l2[200, 0]))
    assert f"t250 at position 250 reads token ␣t200 at position 200: L2 distance {value}" in shown.readout()


# --- units, and effects over the picture ------------------------------------------------------------------
@pytest.fixture(scope="module")
def regions(tmp_path_factory) -> Path:
    """A run about the picture in which two regions were hidden, with effects."""
    folder = tmp_path_factory.mktemp("regions")
    options = ["--region", "1,1,2,2", "--region", "0,3,1,3", "--effects", "--format", "csv,html", "--quiet"]
    picture = ["--image", str(ROOT / "testimg.png"), "--prompt", "What color is the circle?", "--model", "demo"]
    assert mask_impact_vl.main([*picture, *options, "--output-dir", str(folder), "--output", "regions"]) == 0
    return folder


def test_a_region_is_one_thing_everywhere(opened, regions):
    viewer = opened(regions / "regions_results.html", "opacity=1")
    viewer.shows("regions")
    assert "of another run" not in viewer.text("header") and "not masked in this run" not in viewer.text("header")
    df = read_csv(regions / "regions_results.csv")
    largest = df[df.variant == "Full"].groupby("token_masked").l2_distance.max()
    members = {"region 1,1,2,2": [(1, 1), (1, 2), (2, 1), (2, 2)], "region 0,3,1,3": [(0, 3), (1, 3)]}
    canvas = viewer.page.locator(".picture-frame canvas")
    side = canvas.bounding_box()["width"] / 4

    def colours(places: list[tuple[int, int]]) -> list[Any]:
        return most_frequent(canvas, [(col * side + 12, row * side + 12, side - 24, side - 24) for row, col in places])

    for label, places in members.items():
        for found in colours(places):
            assert alike(found, Scale(largest.max()).colour(largest[label])), label
    canvas.click(position={"x": 2.5 * side, "y": 2.5 * side})  # the last patch of the first region
    viewer.address("token=9")
    assert "region 1,1,2,2" in viewer.text(".selection")

    effects = pd.read_csv(regions / "regions_effects.csv").set_index("token_masked").logprob_change.astype(np.float32)
    view = viewer.page.get_by_role("region", name="Picture")
    view.get_by_label("Colour by").select_option("effect on the answer")
    viewer.go(opacity=1, shade="effect")
    assert viewer.page.locator("#picture-layer").is_hidden()
    for label, places in members.items():
        for found in colours(places):
            assert alike(found, Scale(effects.abs().max(), signed=True).colour(effects[label])), label
    assert "Change of log-probability with the unit hidden" in view.inner_text()
    noise = json.loads((regions / "regions_run.json").read_bytes())["effects"]["noise"]["logit"]
    said = "hatched: below the noise" in effects_of(viewer).inner_text()
    assert said == bool((effects.abs() < noise).any())
    copied = pd.read_csv(io.StringIO(viewer.copied("Picture")))
    assert len(copied) == 6
    assert set(copied.value.astype(np.float32)) == set(effects)


# --- what image tokens say --------------------------------------------------------------------------------
LENS = "What image tokens say"


def neighbours_shown(viewer: Viewer) -> list[list[str]]:
    """Layer, masking impact, rank, token marked in its caption, bank layer, similarity; a layer is named once."""
    return viewer.page.evaluate("""() => [...document.querySelector(".lens-table tbody").rows].map((row) =>
      [...row.cells].map((cell) => cell.querySelector("mark")?.textContent ?? cell.textContent))""")


@pytest.mark.parametrize("near", ["merged", "2", "static"])
def test_neighbours_are_those_of_pandas(opened, said, near):
    viewer = opened(said.file("html"), f"ranks=true&near={near}")
    kind = "layer" if near.isdigit() else near
    table = said.df[(said.df.kind == kind) & ((kind != "layer") | (said.df.bank_layer.astype(str) == near))]
    for position in (4, 13, 19):
        viewer.go(ranks=True, near=near, patch=position, layer=2)
        own = table[table.token_position == position].sort_values(["layer", "rank"], ascending=[False, True])
        rows = neighbours_shown(viewer)
        assert len(rows) == len(own) == 5 * 5
        for cells, row in zip(rows, own.itertuples(), strict=True):
            impact = "–" if pd.isna(row.masking_impact) else shown_number(row.masking_impact)
            first = [str(row.layer), impact] if row.rank == 1 else ["", ""]
            bank = [str(row.bank_layer)] if kind == "merged" else []
            assert cells[:3] + cells[4:] == [*first, str(row.rank), *bank, f"{row.similarity:.3f}"]
            assert cells[3].strip("␣⏎") == row.neighbor_token.strip(), (cells, row)


def test_patches_are_coloured_by_what_is_chosen(opened, said):
    viewer = opened(said.file("html"), "opacity=1")
    first = said.df[(said.df.kind == "merged") & (said.df["rank"] == 1)]
    canvas = viewer.page.get_by_role("region", name=LENS).locator(".picture-frame canvas")
    expect(canvas).to_be_visible()
    low, high = first.similarity.min(), first.similarity.max()
    place: dict[str, Callable[[Any], float]] = {
        "similarity": lambda row: (row.similarity - low) / (high - low),
        "impact": lambda row: row.masking_impact / first.masking_impact.max(),
    }
    for tint, where in place.items():
        viewer.go(opacity=1, layer=3, tint=tint, patch=4)
        viewer.settle(2)
        side = canvas.bounding_box()["width"] / 4
        rows = list(first[(first.layer == 3) & (first.token_position > 4)].itertuples())
        corners = [(row.col * side + 8, row.row * side + 8, side / 6, side / 6) for row in rows]
        for row, found in zip(rows, most_frequent(canvas, corners), strict=True):
            assert alike(found, cividis(step255(where(row)))), (tint, row, found)
    viewer.go(opacity=1, layer=3, tint="bank", patch=4)
    viewer.settle(2)
    swatches = viewer.page.locator(".lens-legend span").evaluate_all(
        "(all) => all.map((each) => [Number(each.textContent), getComputedStyle(each.firstChild).backgroundColor])"
    )
    legend = {layer: tuple(map(int, re.findall(r"\d+", colour))) for layer, colour in swatches}
    assert len(set(legend.values())) == len(legend) == 3
    for row, found in zip(rows, most_frequent(canvas, corners), strict=True):
        assert alike(found, legend[row.bank_layer], 1), (row, found)


def test_the_layer_evolution_counts_nearest_neighbours(opened, said):
    viewer = opened(said.file("html"))
    first = said.df[(said.df.kind == "merged") & (said.df["rank"] == 1)]
    wanted = pd.crosstab(first.layer, first.bank_layer).reindex(columns=[1, 2, 3], fill_value=0)[::-1]
    found = viewer.page.locator(".lens-wins tbody tr").evaluate_all(
        "(rows) => rows.map((row) => [...row.cells].map((cell) => Number(cell.textContent)))"
    )
    assert found == [[layer, *counts] for layer, *counts in wanted.itertuples()]


def test_patches_by_pointer_keys_and_words(opened, said):
    viewer = opened(said.file("html"))
    lens = viewer.page.get_by_role("region", name=LENS)
    frame, told = lens.locator(".picture-frame"), lens.locator(".lens-said")
    expect(lens.get_by_role("heading", level=1)).to_have_text("m: what image tokens say")
    side = frame.locator("canvas").bounding_box()["width"] / 4
    frame.click(position={"x": 2.5 * side, "y": 1.5 * side})
    viewer.address("patch=10")
    expect(told).to_contain_text("Patch row 1, column 2 (position 10), layer 2")
    frame.focus()
    viewer.key("ArrowDown", "ArrowRight", "PageUp")
    viewer.address("patch=15", "layer=3")
    row = said.df[(said.df.kind == "merged") & (said.df.token_position == 15) & (said.df.layer == 3)].iloc[0]
    expect(told).to_contain_text(f"similarity {row.similarity:.3f}, bank layer {row.bank_layer}")
    lens.get_by_role("button", name="Show layer 1").first.click()
    viewer.address("layer=1")
    lens.get_by_role("searchbox", name="Find a token").fill("Red")
    own = said.df[(said.df.kind == "merged") & said.df.neighbor_token.str.contains("red")]
    hits = own[own.layer == 1].token_position.nunique()
    expect(lens).to_contain_text(f"in {hits} of 16 patches; in any layer, {own.token_position.nunique()}")
    lens.get_by_role("combobox", name="Neighbours in").select_option("static")
    viewer.address("near=static", "find=Red", "patch=15")
    assert "bank" not in " ".join(lens.get_by_role("combobox", name="Colour by").locator("option").all_inner_texts())
    lens.get_by_role("button", name="Picture and words alone").click()
    viewer.address("opacity=0")
    viewer.go(layer=3)
    lens.get_by_role("button", name="Play layers").click()
    viewer.address("layer=4")
    expect(lens.get_by_role("button", name="Play layers")).to_be_visible()  # it has come to its end
    viewer.page.locator("body").focus()
    viewer.go(patch=15)
    viewer.key("p", "t", "Escape")
    assert "patch" not in viewer.address("palette=viridis", "theme=dark")


def test_neighbours_and_a_run_of_the_same_picture_share_the_selection(viewer, said):
    files = [said.folder / name for name in ("m_results.csv", "m_run.json")]
    viewer.drop(*files, said.file("parquet"))
    expect(viewer.page.get_by_role("region", name=LENS)).to_be_visible()
    viewer.drop(ROOT / "testimg.png")
    viewer.settle(3)
    frame = viewer.page.get_by_role("region", name=LENS).locator(".picture-frame")
    side = frame.locator("canvas").bounding_box()["width"] / 4
    frame.click(position={"x": 3.5 * side, "y": 0.5 * side})
    viewer.address("token=7")
    expect(viewer.page.locator(".selection-token")).to_have_text("▦ 0,3")
    viewer.page.mouse.move(0, 0)
    viewer.go(token=9, layer=1)
    expect(viewer.page.locator(".lens-table caption")).to_contain_text("Patch row 1, column 1 (position 9)")
    impact = said.run[(said.run.variant == "Full") & (said.run.token_position == 9) & (said.run.layer == 1)].l2_distance
    assert shown_number(impact.iloc[0]) in {row[0]: row[1] for row in neighbours_shown(viewer)}["1"]
    viewer.page.get_by_role("button", name="Close these neighbours").click()
    expect(viewer.page.get_by_role("region", name=LENS)).to_be_hidden()
    expect(viewer.page.locator("h1:visible")).to_have_text("m")


def test_neighbours_leave_the_page(opened, said, tmp_path):
    viewer = opened(said.file("html"), "patch=10&layer=3")
    columns = ["layer", "token_position", "rank", "neighbor_token", "caption", "bank_layer", "similarity"]
    merged = said.df[said.df.kind == "merged"]
    for view, wanted in (("Neighbours", merged[merged.layer == 3]), ("Patch", merged[merged.token_position == 10])):
        found = pd.read_csv(io.StringIO(viewer.copied(view)), keep_default_na=False)
        order = ["layer", "token_position", "rank"]
        pd.testing.assert_frame_equal(
            found[columns].sort_values(order, ignore_index=True), wanted[columns].sort_values(order, ignore_index=True)
        )
    for view in ("Neighbours", "Layer evolution"):
        path = tmp_path / f"{view}.svg"
        viewer.download(view, "SVG").save_as(path)
        texts = "".join(ET.fromstring(path.read_text()).itertext())
        assert "16 image tokens in 5 layers" in texts, view
        viewer.download(view, "PNG").save_as(path.with_suffix(".png"))
        with Image.open(path.with_suffix(".png")) as image:
            assert len(image.convert("RGB").resize((64, 64)).getcolors(9999) or []) > 5, view


def test_a_damaged_page_of_neighbours_is_said(opened, said, tmp_path):
    page = said.file("html").read_text("utf-8")
    damaged = tmp_path / "m_neighbors.html"
    damaged.write_text(re.sub(r'("neighbors":".{400})[^"]*', r"\1", page), "utf-8")
    viewer = opened(damaged)
    viewer.message("cannot be shown: the data in the page is damaged")


# --- cross-attention --------------------------------------------------------------------------------------
def test_a_run_with_cross_attention_opens_on_it(opened, tmp_path):
    flags = ["--model", str(bart(tmp_path / "model")), "--prompt", "the cat sat on the mat", "--num-tokens", "2"]
    assert mask_impact_analysis.main([*flags, "--output", "bart", "--output-dir", str(tmp_path), "--quiet"]) == 0
    df = read_csv(tmp_path / "bart_results.csv")
    viewer = opened(tmp_path / "bart_results.html")
    viewer.shows("bart")
    length = int(df.token_position[df.variant == "CrossFull"].max()) + 1
    expect(viewer.page.get_by_text(f"{length} prompt tokens + start token + 2 generated").first).to_be_visible()
    assert viewer.numbers()[1] == cells_of(df, "l2", "CrossFull", 0)
    viewer.address("variant=CrossFull")
    expect(viewer.page.locator(".prompt__divider").first).to_have_text("decoder begins")
    viewer.go(variant="CrossFull", token=2)
    heads = viewer.page.get_by_role("region", name="Heads")
    expect(heads).to_contain_text("Heads of cross-attention. For token")
    for cross in ("Cross", ""):
        viewer.go(variant=f"{cross}Full", token=2 if cross else int(df.token_position.max() - 1))
        found = read_copied(viewer, "Heads")
        assert set(found.variant) == {name for name in df.variant if name.startswith(f"{cross}Head_")}
        assert_as_in(found, Run(tmp_path, "bart", df, {}), "l2")
        assert set(read_copied(viewer, "Layers").variant) == {f"{cross}Full", f"{cross}Attn"}
    viewer.address("variant=Full")  # said, since without it the page would open on the other
    opened(tmp_path / "bart_results.html", "variant=Full").address("variant=Full")


# --- exports ----------------------------------------------------------------------------------------------
DARK_DIFFERENCE = {"compare": "difference", "runs": "[0,1]", "theme": "dark", "curve": "sqrt"}


@pytest.mark.parametrize(("state", "views"), [({"runs": "[1]"}, VIEWS), (DARK_DIFFERENCE, VIEWS)])
def test_every_view_becomes_a_png_and_an_svg(viewer, runs, tmp_path, state, views):
    compare(viewer, runs["text"], runs["both"])
    viewer.drop(ROOT / "testimg.png")
    viewer.go(**state)
    viewer.settle(3)
    for view in views:
        for kind in ("PNG", "SVG"):
            download = viewer.download(view, kind)
            path = tmp_path / download.suggested_filename
            download.save_as(path)
            assert path.suffix == f".{kind.lower()}" and "both" in path.name
            if kind == "PNG":
                with Image.open(path) as image:
                    image.load()
                    assert min(image.size) > 100
                    assert len(image.convert("RGB").resize((64, 64)).getcolors(9999) or []) > 5, view
                    continue
            root = ET.fromstring(path.read_text())
            texts = "".join(root.itertext())
            assert root.tag.endswith("svg") and root.find("{*}title") is not None
            assert "both" in texts and "L2 distance" in texts and "demo" in texts, view
            assert "script" not in path.read_text().lower()


CONTEXT = ["run", "metric", "variant", "generation_step"]


def read_copied(viewer: Viewer, view: str) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(viewer.copied(view)), keep_default_na=False, dtype={"token_masked": str})


def assert_as_in(df: pd.DataFrame, run: Run, metric: str) -> None:
    """Each line says what it is of, and its value is that of the results."""
    keys = ["variant", "generation_step", "layer", "token_position", "token_masked"]
    found = df.merge(run.df, on=keys, how="left")
    assert len(found) == len(df) > 0
    assert found.value.astype(np.float32).tolist() == found[f"{metric}_distance"].tolist()
    assert set(df.run) == {run.name} and set(df.metric) == {metric}


def test_every_line_of_a_csv_says_what_it_is_of(picture, runs):
    run = runs["both"]
    where = patches(run)
    picture.go(metric="cosine", variant="Head_2", step=1)
    heat, heads = read_copied(picture, "Heat map"), read_copied(picture, "Heads")
    assert_as_in(heat, run, "cosine")
    assert list(heat.columns[:4]) == CONTEXT
    assert len(heat) == len(run.cells("cosine", "Head_2", 1)) == len(picture.numbers()[1])
    places = heat[heat.row != ""].astype({"row": int, "col": int})
    assert {p: (r, c) for p, r, c in zip(places.token_position, places.row, places.col, strict=True)} == where
    assert_as_in(heads, run, "cosine")  # the strongest token of each cell
    picture.go(metric="cosine", step=1, token=25, layer=2, heads="[1]")
    lines, patch = read_copied(picture, "Layers"), read_copied(picture, "Picture")
    assert_as_in(lines, run, "cosine")
    assert set(lines.variant) == {"Full", "Attn", "Head_1"} and set(lines.token_position) == {25}
    assert_as_in(patch, run, "cosine")
    assert set(patch.layer) == {2} and set(patch.token_position) == set(where)
    assert "row" not in read_copied(picture, "Layers").columns  # no patch among them
    picture.go(metric="cosine", step=1, **{"from": 1, "to": 2})
    full = run.df[(run.df.variant == "Full") & (run.df.generation_step == 1) & run.df.layer.isin([1, 2])]
    wanted = full.groupby("token_position").cosine_distance
    for view in ("Prompt", "Ranking", "Picture"):
        table = read_copied(picture, view)
        assert list(table.columns[:4]) == CONTEXT
        assert set(table[["joined", "first_layer", "last_layer"]].itertuples(index=False, name=None)) == {("max", 1, 2)}
        table = table[table.value != ""].astype({"value": np.float32, "peak_layer": int})
        assert table.value.tolist() == wanted.max()[table.token_position].tolist()
        peaks = full.loc[wanted.idxmax()].set_index("token_position").layer
        assert table.peak_layer.tolist() == peaks[table.token_position].tolist()
    picture.page.get_by_role("checkbox", name="fold images").check()
    folded = read_copied(picture, "Heat map")  # the strongest patch stands for all
    assert_as_in(folded, run, "cosine")
    assert len(folded[folded.row != ""]) == len(run.layers)


def test_a_csv_of_a_difference_names_both_runs(viewer, runs):
    first, second = runs["both"], runs["vision"]
    compare(viewer, first, second)
    viewer.go(runs="[0,1]", compare="difference")
    wanted = difference(first, second)
    for view in ("Heat map", "Prompt", "Ranking", "Heads", "Picture"):
        assert set(read_copied(viewer, view).run) == {"vision − both"}, view
    heat = read_copied(viewer, "Heat map")
    keys = zip(heat.token_position, heat.layer, strict=True)
    assert dict(zip(keys, heat.value.astype(np.float32), strict=True)) == wanted
    viewer.choose("Compare", "side by side")
    heat = read_copied(viewer, "Heat map")
    for run in (first, second):
        assert_as_in(heat[heat.run == run.name], run, "l2")


def test_a_csv_is_saved_as_it_is_copied(talk):
    for view in ("Heat map", "Prompt", "Ranking", "Layers", "Heads"):
        download = talk.download(view, "Save CSV")
        assert download.suggested_filename == f"talk_{view.replace(' ', '-')}.csv"
        assert download.path().read_bytes().decode() == talk.copied(view)


def test_an_open_menu_exports_what_is_shown_now(talk):
    menu = talk.export_menu()
    talk.go(metric="cosine", step=1)
    with talk.page.expect_download() as found:
        menu.get_by_role("button", name="Heat map: Save CSV").click()
    saved = pd.read_csv(found.value.path())
    assert set(saved.metric) == {"cosine"} and set(saved.generation_step) == {1}
    with talk.page.expect_download() as found:
        menu.get_by_role("button", name="Heat map: SVG").click()
    assert "Cosine distance" in found.value.path().read_text()


# --- hostile tokens ---------------------------------------------------------------------------------------
@pytest.fixture(scope="session")
def hostile(tmp_path_factory) -> Run:
    """Nasty tokens in every format. A run as every other: two layers, three variants."""
    folder = tmp_path_factory.mktemp("hostile")
    tokens = [
        *NASTY,
        "javascript:alert(1)",
        "<svg/onload=alert(1)>",
        "=cmd|' /C calc'!A0",
        "NULL",
        "None",
        "1e5",
        "-0",
        "true",
    ]
    blocks = [make_block(0, layer, tokens, ("Full", "Attn", "Head_0"), seed=layer) for layer in (0, 1)]
    texts = dict(zip((df := to_dataframe(blocks)).token_position.tolist(), df.token_masked, strict=True))
    manifest = {
        "model": {"name": "<img src=x onerror=alert(2)>"},
        "prompt": "</script><script>alert(3)</script>",
        "notes": ["<b onmouseover=alert(4)>note</b>"],
        "prompt_length": len(tokens),
        "tokens": [{"position": p, "id": p, "text": text, "kind": "text"} for p, text in texts.items()],
        "generated": [{"step": 0, "id": 1, "text": "<script>alert(5)</script>", "probability": 0.5}],
    }
    save(folder, blocks, ("csv", "json", "parquet"), "hostile", manifest)
    write_report(folder / "hostile_results.html", df, {"name": "hostile", **manifest}, page=PAGE)
    return Run(folder, "hostile", df, manifest)


@pytest.mark.parametrize("kind", ["csv", "json", "parquet", "html", "page"])
def test_hostile_tokens_are_text(opened, hostile, kind):
    viewer = opened(hostile.file("html")) if kind == "page" else opened()
    if kind != "page":
        files = [hostile.file(kind)] + ([hostile.file("run")] if kind in ("csv", "json") else [])
        viewer.drop(*files)
    viewer.shows("hostile")
    assert viewer.numbers()[1] == hostile.cells()
    rows = list(csv.DictReader(io.StringIO(viewer.copied("Heat map").replace("\r\n", "\n"), newline="")))
    wanted = {position: text.replace("\r\n", "\n") for position, text in hostile.tokens.items()}
    found = {int(row["token_position"]): row["token_masked"] for row in rows}
    assert found == wanted
    page = viewer.page
    if kind == "json":
        viewer.numbers_in([{"token": position, "layer": 0} for position in hostile.tokens])
    viewer.go(rows="tokens", token=20)
    assert page.locator("img, main script, main svg, iframe, b").count() == 0
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    for view in ("Heat map", "Prompt", "Ranking") if kind == "json" else ():
        source = viewer.download(view, "SVG").path().read_bytes()
        root = ET.fromstring(source)
        assert not [each for each in root.iter() if each.tag.rpartition("}")[2] in ("script", "foreignObject")]


# --- accessibility ----------------------------------------------------------------------------------------
def empty_page(viewer: Viewer, runs: dict[str, Run]) -> None:
    pass


def text_run(viewer: Viewer, runs: dict[str, Run]) -> None:
    viewer.drop(runs["talk"].file("csv"), runs["talk"].file("run"))
    viewer.shows("talk")
    viewer.go(token=9, layer=2, heads="[1,2]")
    viewer.open_numbers()


def picture_run(viewer: Viewer, runs: dict[str, Run]) -> None:
    viewer.drop(runs["both"].file("csv"), runs["both"].file("run"), ROOT / "testimg.png")
    viewer.shows("both")


def difference_of_runs(viewer: Viewer, runs: dict[str, Run]) -> None:
    compare(viewer, runs["both"], runs["text"])
    viewer.go(runs="[0,1]", compare="difference", token=25)


def help_dialog(viewer: Viewer, runs: dict[str, Run]) -> None:
    viewer.key("?")
    expect(viewer.page.get_by_role("dialog", name="Keys")).to_be_visible()


def export_menu(viewer: Viewer, runs: dict[str, Run]) -> None:
    text_run(viewer, runs)
    viewer.drop(("notes.txt", b"words"))
    viewer.message("notes.txt")
    viewer.export_menu()


def run_with_effects(viewer: Viewer, runs: dict[str, Run]) -> None:
    viewer.drop(*REACH)
    viewer.shows("reach")
    viewer.go(token=9, shade="effect")
    effect_table(viewer)


def run_with_queries(viewer: Viewer, runs: dict[str, Run]) -> None:
    viewer.drop(*EVERY)
    viewer.shows("every")
    viewer.go(token=2, query=4)
    Map(viewer).table()


def neighbours(viewer: Viewer, runs: dict[str, Any]) -> None:
    said = runs["said"]
    viewer.drop(said.file("json"), said.file("run"), ROOT / "testimg.png")
    expect(viewer.page.get_by_role("region", name=LENS)).to_be_visible()
    viewer.go(find="red", tint="bank", patch=9)


STATES = [
    empty_page,
    text_run,
    picture_run,
    difference_of_runs,
    run_with_effects,
    run_with_queries,
    neighbours,
    help_dialog,
    export_menu,
]


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_no_serious_accessibility_violation(opened, runs, said, state):
    from axe_playwright_python.sync_playwright import Axe

    viewer = opened()
    state(viewer, {**runs, "said": said})
    problems = []
    contrast = {"runOnly": ["color-contrast"]}  # the other rules ask for no colours
    for width, theme, options in (
        ("wide", "light", {}),
        ("wide", "dark", contrast),
        ("narrow", "dark", {}),
    ):
        if options and state in (help_dialog, export_menu):
            continue
        viewer.page.set_viewport_size(WIDTHS[width])
        viewer.page.emulate_media(color_scheme=theme)
        viewer.settle(3)
        found = Axe().run(viewer.page, options={"resultTypes": ["violations"], **options}).response["violations"]
        for each in found:
            if each["impact"] in ("serious", "critical"):
                nodes = [f"{node['html'][:100]} {node.get('failureSummary', '')[:200]}" for node in each["nodes"][:3]]
                problems.append(f"{width} {theme} {each['id']}: {nodes}")
        scroll, inner = viewer.page.evaluate("() => [document.documentElement.scrollWidth, innerWidth]")
        if scroll > inner:
            problems.append(f"{width}: the page scrolls sideways ({scroll} > {inner})")
    assert problems == []


# --- narrow -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("state", ["text_run", "difference_of_runs"])
def test_narrow_controls_leave_the_first_screen_to_the_heat_map(opened, runs, state):
    viewer = opened(viewport=WIDTHS["narrow"])
    if state == "text_run":
        viewer.drop(runs["talk"].file("csv"), runs["talk"].file("run"))
        viewer.shows("talk")
        viewer.go(metric="cosine", variant="Head_3", step=1)
    else:
        difference_of_runs(viewer, runs)
    page = viewer.page
    expect(page.get_by_role("grid")).to_have_count(1)
    box = page.get_by_role("grid").bounding_box()
    assert box["y"] < 600 and box["y"] + box["height"] <= WIDTHS["narrow"]["height"]
    assert not page.get_by_role("group", name="Metric").is_visible()
    summary = page.get_by_label("What is shown").locator("summary")
    if state == "text_run":
        for part in ("Cosine", "Head 3", "step 2 of 3"):
            expect(summary).to_contain_text(part)
    summary.focus()
    viewer.key("Enter")
    viewer.choose("Metric", "L2")
    viewer.key("Tab")
    assert page.evaluate("() => document.activeElement.matches('.controls *')")
    expect(summary).to_contain_text("L2")
    page.set_viewport_size(WIDTHS["wide"])
    viewer.settle(2)
    assert page.get_by_role("group", name="Metric").is_visible() and not summary.is_visible()
    page.set_viewport_size(WIDTHS["narrow"])
    viewer.settle(2)
    assert not page.get_by_role("group", name="Metric").is_visible()


def test_reduced_motion(opened, runs):
    viewer = opened(reduced_motion="reduce")
    picture_run(viewer, runs)
    moving = """() => [...document.querySelectorAll("*")].filter((each) => {
      const { transitionDuration, animationDuration, animationName } = getComputedStyle(each);
      const moves = animationName !== "none" && parseFloat(animationDuration) > 0.01;
      return moves || parseFloat(transitionDuration) > 0.01;
    }).map((each) => each.outerHTML.slice(0, 80))"""
    assert viewer.page.evaluate(moving) == []


@pytest.mark.parametrize("state", [text_run, picture_run], ids=lambda state: state.__name__)
def test_print(opened, runs, state):
    viewer = opened(color_scheme="dark")
    state(viewer, runs)
    paper = viewer.page.pdf()
    assert paper.startswith(b"%PDF") and len(paper) > 10_000
    viewer.page.emulate_media(media="print")
    viewer.settle(2)
    assert viewer.page.get_by_role("grid").is_visible()
    assert not viewer.page.get_by_role("button", name="Open files…").is_visible()


# --- notebook ---------------------------------------------------------------------------------------------
def test_a_notebook_shows_the_page(opened, runs, tmp_path, monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    run = runs["both"]
    cell = f"""
from mask_impact.report import show
from mask_impact.results import read_csv
import json, pathlib
df = read_csv({str(run.file("csv"))!r})
df.attrs["run"] = json.loads(pathlib.Path({str(run.file("run"))!r}).read_text())
show(df, page={str(PAGE)!r})
"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    (output,) = [each for each in notebook.cells[0].outputs if each.output_type == "execute_result"]
    page = tmp_path / "notebook.html"
    page.write_text(f"<!doctype html><meta charset=utf-8><p>Out[1]</p>{output['data']['text/html']}")
    viewer = opened(page)
    inside = viewer.page.frame_locator("iframe")
    expect(inside.locator("h1:visible")).to_have_text("both")
    inside.get_by_role("grid").scroll_into_view_if_needed()
    expect(inside.get_by_role("grid")).to_be_visible()
    inside.get_by_text("Numbers as a table").click()
    row = inside.locator(".heatmap-numbers tr[data-position='25'] td[data-layer='0']")
    expect(row).to_have_text(str(run.cells()[25, 0]))
    colours = most_frequent(inside.locator(".heatmap-scroll canvas"), [(60 + 14 * i, 200, 6, 6) for i in range(20)])
    assert len(set(colours)) > 3


# --- speed ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["csv", "json", "parquet"])
def test_a_large_table_is_there_at_once(opened, tmp_path, kind):
    """165,240 rows. The bounds are generous; `make bench-viewer` prints what it takes."""
    rng = np.random.default_rng(0)
    variants = ["Full", "Attn", *(f"Head_{head}" for head in range(32))]
    texts = [f" token{i}" for i in range(27)]
    with ResultFiles(tmp_path, "large", [kind]) as files:
        for step in range(5):
            for layer in range(36):
                l2, cosine = rng.lognormal(0, 2, (2, 27, 34)).astype(np.float32)
                files.write(Block.of_l2_and_cosine(step, layer, texts, np.arange(27), variants, l2, cosine))
        files.commit({"name": "large"})
    viewer = opened(metered=True)
    viewer.settle(10)  # the worker has started
    viewer.page.evaluate("() => meter.reset()")
    viewer.page.locator("input[type=file]").set_input_files(tmp_path / f"large_results.{kind}")
    took = viewer.page.evaluate("() => meter.loaded('large')")
    assert took["first"] < 2000
    assert took["gap"] < 500


def test_thousands_of_tokens_and_many_layers(opened, tmp_path):
    """1,500 tokens, 80 layers: readable cells that scroll, a minimap, all numbers in pages."""
    rng = np.random.default_rng(0)
    blocks = [
        Block.of_l2_and_cosine(
            0,
            layer,
            [f" t{i}" for i in range(1500)],
            np.arange(1500),
            ["Full"],
            *rng.lognormal(0, 2, (2, 1500, 1)).astype(np.float32),
        )
        for layer in range(80)
    ]
    save(tmp_path, blocks, ("parquet",), "wide")
    viewer = opened()
    viewer.drop(tmp_path / "wide_results.parquet")
    viewer.shows("wide")
    expect(viewer.page.locator(".minimap")).to_be_visible()
    grid = viewer.page.get_by_role("grid")
    canvas = grid.locator("canvas").bounding_box()
    assert canvas["width"] <= 1280 and canvas["height"] <= 900
    viewer.go(token=1400, layer=70)
    assert grid.evaluate("(each) => each.scrollLeft") > 1000
    found = viewer.page.locator(".heatmap-numbers")
    viewer.open_numbers()
    wanted = cells_of(to_dataframe(blocks), "l2", "Full", 0)
    expect(found.locator("tr[data-position='1400'] td[data-layer='70']")).to_have_text(str(wanted[1400, 70]))
