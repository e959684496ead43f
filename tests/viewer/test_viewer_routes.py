"""Effects of routes: a row for each of them, and a graph whose lines are those of the table, by pandas."""

import xml.etree.ElementTree as ET
from typing import Any

import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import Locator, expect
from viewer_page import Viewer
from viewer_runs import effect_table, effects_of, read_copied

NAMES = {"9": "blue (9)", "10": "cup (10)", "14": "cup (14)", "all": "later"}  # a position is shown with its token
NOISE = 1e-5


def read(folder: Any, name: str) -> pd.DataFrame:
    df = pd.read_csv(folder / f"{name}_effects.csv", keep_default_na=False, dtype={"token_masked": str, "block": str})
    df = df.astype({"logprob_change": np.float32, "kl": np.float32})
    sides = [df[side].replace(NAMES) for side in ("token_masked", "block")]
    return df.assign(route=sides[0] + " → " + sides[1])


@pytest.fixture(scope="module")
def table(reports) -> pd.DataFrame:
    return read(reports, "routes")


@pytest.fixture
def cut(opened, reports) -> Viewer:
    viewer = opened(reports / "routes_results.html")
    viewer.shows("routes")
    return viewer


def graph(viewer: Viewer) -> Locator:
    return viewer.page.get_by_role("region", name="Routes to the answer")


def shown(viewer: Viewer, part: Locator | None = None) -> set[tuple[str, str, np.float32]]:
    cells = "[row.dataset.route, row.dataset.layers, row.cells[3].textContent]"
    rows = (part or graph(viewer)).locator("tbody tr").evaluate_all(f"(all) => all.map((row) => {cells})")
    assert len({(route, layers) for route, layers, _ in rows}) == len(rows)
    return {(route, layers, np.float32(value)) for route, layers, value in rows}


def lines(df: pd.DataFrame, measure: str, part: float, step: int = 0) -> set[tuple[str, str, np.float32]]:
    """Each mask of at least a part of the largest effect."""
    rows = df[df.generation_step == step]
    size = rows[measure].astype(float).abs()
    rows = rows[(size >= part * size.max()) & (size > (0 if measure == "kl" else NOISE))]
    layers = rows.first_layer.astype(str) + "-" + rows.last_layer.astype(str)
    return set(zip(rows.route, layers, rows[measure], strict=True))


def test_lines_are_the_masks_of_the_table(cut, table):
    wholes = {"answer": "whole"}
    for state in ({}, {"routes": 0.5}, {"routes": 0.05}, {"effect": "kl"}, {"step": 1}, {**wholes, "routes": 0.3}):
        cut.go(**state)
        step = -1 if "answer" in state else state.get("step", 0)
        wanted = lines(table, state.get("effect", "logprob_change"), state.get("routes", 0.1), step)
        assert shown(cut) == wanted and (wanted or step == 1), state


def test_the_matrix_has_a_row_for_each_route(cut, table):
    found = effect_table(cut)
    rows = (
        effects_of(cut).locator("details tbody tr").evaluate_all("(all) => all.map((row) => row.cells[0].textContent)")
    )
    wide = table[table.generation_step == 0].pivot(index="route", columns="first_layer", values="logprob_change")
    assert sorted(rows) == sorted(wide.index)
    assert np.array_equal(found.to_numpy(np.float32), wide.loc[rows].to_numpy())
    expect(effects_of(cut)).to_contain_text("with the route cut in these layers")
    assert not effects_of(cut).get_by_text("hidden from").locator("visible=true").count()
    copied = read_copied(cut, "Effects")
    keys = ["generation_step", "token_masked", "block", "first_layer", "last_layer"]
    both = copied.astype({"token_masked": str, "block": str}).merge(table, on=keys)
    assert len(both) == len(copied) == len(table[table.generation_step == 0])
    assert both.value.astype(np.float32).tolist() == both.logprob_change_y.tolist()


def test_the_story_of_the_routes(cut):
    """What the page says first is true of routes, and the chain is told: blue (9) -> cup (10) -> the answer."""
    what = graph(cut).locator(".matrix__what")
    expect(what).to_contain_text("To say blue, the last position needs cup (14) in layer 1 (−8.9); every later ")
    expect(what).to_contain_text("cup (10) in layer 3 (−8.07), which needs blue (9) in layer 1 (−4.92)")
    expect(cut.page.locator("p.story")).to_contain_text("without cup (14) → last in layer 1 the answer is ball")


def test_a_click_on_a_line_says_what_becomes_of_the_answer(cut, table):
    expect(graph(cut).locator("h3")).to_contain_text("cup (14) → last, cut in layer 1: ")
    canvas = graph(cut).locator("canvas")
    canvas.scroll_into_view_if_needed()
    columns = ["fact", "blue (9)", "cup (10)", "cup (14)", "later", "last"]
    wide = min(120, (canvas.bounding_box()["width"] - 58 - 12) / len(columns))
    x = {name: 58 + (place + 0.5) * wide for place, name in enumerate(columns)}
    y = [34 + 62 * (4 - level) for level in range(5)]
    canvas.click(position={"x": (x["blue (9)"] + 3 * x["cup (10)"]) / 4, "y": (y[1] + 3 * y[2]) / 4})
    cut.address("token=9", "layer=1")
    cut.settle(2)
    (row,) = table[
        (table.generation_step == 0) & (table.route == "blue (9) → cup (10)") & (table.first_layer == 1)
    ].itertuples()
    expect(graph(cut).locator("h3")).to_have_text(
        f"blue (9) → cup (10), cut in layer 1: log-probability −{-row.logprob:.3g}, "
        f"changed by −{-row.logprob_change:.3g}, rank {row.rank}, likeliest ␣purple, KL {row.kl:.3g}"
    )


def test_heads_of_a_route(opened, reports):
    """A line is of the strongest head of its layer; all heads are shown."""
    viewer = opened(reports / "by_head_results.html")
    viewer.shows("by_head")
    df = read(reports, "by_head")
    df["size"] = df.logprob_change.abs()
    best = df.sort_values("size").groupby(["route", "first_layer"]).tail(1)
    best = best[(best["size"] >= 0.1 * df["size"].max()) & (best["size"] > NOISE)]
    wanted = {
        (row.route, f"{row.first_layer}-{row.last_layer}.{row.head}", row.logprob_change) for row in best.itertuples()
    }
    assert shown(viewer) == wanted and wanted
    route, window = (
        graph(viewer).locator("tr[data-chosen]").evaluate("(row) => [row.dataset.route, row.dataset.layers]")
    )
    own = df[(df.route == route) & (df.first_layer == int(window[0]))].sort_values("size", ascending=False)
    found = (
        graph(viewer)
        .locator("dd[data-head]")
        .evaluate_all("(all) => all.map((each) => [each.dataset.head, each.title])")
    )
    assert [(head, np.float32(value)) for head, value in found] == [
        (f"Head_{row.head}", row.logprob_change) for row in own.itertuples()
    ]


def test_routes_about_a_picture(opened, reports):
    viewer = opened(reports / "ways_results.html")
    viewer.shows("ways")
    df = read(reports, "ways")
    assert shown(viewer) == lines(df, "logprob_change", 0.1)
    expect(graph(viewer)).to_contain_text(
        "To say red, the last position needs question in layers 0 to 1 (−6.33); and image"
    )
    expect(viewer.page.locator("p.story")).to_contain_text(
        "without question → last in layers 0 to 1 the answer is pink"
    )
    copied = read_copied(viewer, "Routes")
    keys = ["token_masked", "block", "first_layer", "last_layer"]
    both = copied.merge(df, on=keys)
    assert len(both) == len(copied) == len(shown(viewer))
    assert both.value.astype(np.float32).tolist() == both.logprob_change.tolist()
    texts = set(ET.fromstring(viewer.download("Routes", "SVG").path().read_text()).itertext())
    assert {"→ red", "image", "question", "last", "−6.33", "−5.37"} <= texts


def test_without_a_manifest_the_readers_are_chosen(viewer, reports):
    """The table alone does not tell a route from a unit."""
    viewer.drop(reports / "routes_results.csv", reports / "routes_effects.csv")
    viewer.shows("routes")
    expect(effects_of(viewer).get_by_label("hidden from")).to_be_visible()
    assert not graph(viewer).is_visible()


def test_side_by_side_on_one_scale(viewer, reports, table):
    """As if one of the runs had half the effects."""
    half = pd.read_csv(reports / "routes_effects.csv", keep_default_na=False, dtype={"token_masked": str})
    half["logprob_change"] /= 2
    files = [reports / f"routes_{kind}" for kind in ("results.csv", "run.json", "effects.csv")]
    results = (reports / "routes_results.csv").read_bytes()
    manifest = (reports / "routes_run.json").read_bytes().replace(b'"name": "routes"', b'"name": "half"')
    effects = half.to_csv(index=False).encode()
    viewer.drop(*files, ("half_results.csv", results), ("half_run.json", manifest), ("half_effects.csv", effects))
    viewer.shows("routes", "half")
    viewer.go(runs="[0,1]", routes=0.5)
    for place, (name, scale) in enumerate((("routes", 1), ("half", 2))):
        part = viewer.page.get_by_role("group", name=f"{place + 1}. {name}").filter(has=graph(viewer))
        own = {(route, layers) for route, layers, _ in lines(table, "logprob_change", 0.5 * scale)}
        assert {(route, layers) for route, layers, _ in shown(viewer, part)} == own
