"""What was read, traced back from the predicted token: the graph's reads, followed anew through the table by pandas."""

import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import Locator, expect
from viewer_page import Viewer
from viewer_runs import read_copied

Reads = list[tuple[int, int, int, np.float32]]  # layer, position that reads, token that is read, value


@pytest.fixture(scope="module")
def table(reports) -> pd.DataFrame:
    df = pd.read_csv(reports / "asked_results.csv", keep_default_na=False)
    return df.astype({"l2_distance": np.float32, "cosine_distance": np.float32})


@pytest.fixture
def asked(opened, reports) -> Viewer:
    viewer = opened(reports / "asked_results.html")
    viewer.shows("asked")
    return viewer


def traced(df: pd.DataFrame, start: int, part: float, metric: str = "l2_distance", variant: str = "Full") -> Reads:
    """From the last layer to the first: what the positions reached so far read there, if it is enough."""
    rows = df[(df.variant == variant) & (df.token_position > 0) & (df.token_position != df.query_position)]
    least = part * most_read(df, start, metric, variant)
    reached, found = {start}, []
    for layer in sorted(df.layer.unique(), reverse=True):
        here = rows[(rows.layer == layer) & rows.query_position.isin(reached) & (rows[metric].astype(float) >= least)]
        here = here.sort_values(metric, ascending=False)
        found += list(here[["layer", "query_position", "token_position", metric]].itertuples(index=False, name=None))
        reached |= set(here.token_position)
    return found


def most_read(df: pd.DataFrame, start: int, metric: str = "l2_distance", variant: str = "Full") -> float:
    rows = df[(df.variant == variant) & (df.token_position > 0) & (df.token_position != df.query_position)]
    return float(rows[rows.query_position == start][metric].max())


def graph(viewer: Viewer) -> Locator:
    return viewer.page.get_by_role("region", name="What was read, traced back")


def shown(viewer: Viewer, part: Locator | None = None) -> Reads:
    cells = "[+row.dataset.layer, +row.dataset.to, +row.dataset.from, row.cells[3].textContent]"
    rows = (part or graph(viewer)).locator("tbody tr").evaluate_all(f"(all) => all.map((row) => {cells})")
    return [(layer, reader, read, np.float32(value)) for layer, reader, read, value in rows]


def test_reads_are_followed_from_the_predicted_token(asked, table):
    for state in ({}, {"edges": 0.2}, {"edges": 0.05}, {"metric": "cosine"}, {"variant": "Attn", "edges": 0.3}):
        asked.go(**state)
        metric, variant = f"{state.get('metric', 'l2')}_distance", state.get("variant", "Full")
        wanted = traced(table, 15, state.get("edges", 0.5), metric, variant)
        assert shown(asked) == wanted, state
        assert 0 < len(wanted) < 150
    for step, start in ((1, 16), (0, 15)):
        asked.go(step=step)
        assert shown(asked) == traced(table[table.generation_step <= step], start, 0.5)
    asked.go(query=10)
    assert shown(asked) == traced(table, 10, 0.5)
    expect(graph(asked).locator(".matrix__what")).to_contain_text("cup (10) reads")


def test_the_story_of_the_readme(asked):
    """blue -> cup (10) -> is, and what the question asks for."""
    assert [edge[:3] for edge in shown(asked)] == [(3, 15, 10), (1, 15, 14), (1, 10, 9)]
    expect(graph(asked).locator(".matrix__what")).to_have_text(
        "To say blue, is (15) reads cup (10) in layer 3, which has read blue (9) in layer 1; and cup (14) in layer 1."
    )


def test_the_threshold_is_moved(asked, table):
    slider = graph(asked).get_by_role("slider", name="Reads of at least")
    slider.fill("20")
    asked.address("edges=0.2")
    asked.settle(2)
    assert shown(asked) == traced(table, 15, 0.2)
    largest = table[(table.query_position == 15) & (table.variant == "Full") & (table.token_position.between(1, 14))]
    end = 0.2 * float(largest.l2_distance.max())
    expect(graph(asked)).to_contain_text(f"20 % of its largest, {float(f'{end:.3g}'):g}")


def test_more_reads_than_can_be_told_apart_are_not_drawn(asked, opened, reports, tmp_path):
    """Every token reads every other one: the threshold rises until there are few enough, and the page says to what."""
    df = pd.read_csv(reports / "asked_results.csv", keep_default_na=False)
    df = df[df.generation_step == 0].assign(l2_distance=lambda each: 1 + 0.001 * (each.index % 97))
    many = opened()
    many.drop(
        ("flat_results.csv", df.to_csv(index=False).encode()),
        ("flat_run.json", (reports / "asked_run.json").read_bytes()),
    )
    many.shows("flat")
    many.go(edges=0.05)
    reads = shown(many)
    assert 0 < len(reads) <= 150
    expect(graph(many)).not_to_contain_text("5 % of its largest, 0.05")


def heads(viewer: Viewer) -> dict[str, float]:
    found = (
        graph(viewer)
        .locator("dd[data-head]")
        .evaluate_all("(all) => all.map((each) => [each.dataset.head, each.title])")
    )
    return {head: np.float32(value) for head, value in found}


def of_heads(df: pd.DataFrame, layer: int, reader: int, read: int) -> dict[str, float]:
    here = df[(df.layer == layer) & (df.query_position == reader) & (df.token_position == read)]
    here = here[here.variant.str.startswith("Head_")].set_index("variant").l2_distance
    return here.sort_values(ascending=False, kind="stable").to_dict()


def test_a_click_on_a_line_shows_its_heads(asked, table):
    own = [edge for edge in shown(asked) if edge[1] == 15]
    best = max(own, key=lambda edge: edge[3])
    assert list(heads(asked).items()) == list(of_heads(table, *best[:3]).items())
    canvas = graph(asked).locator("canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    wide = min(92, (box["width"] - 58 - 12) / 16)
    x = [58 + (position + 0.5) * wide for position in range(16)]
    y = [34 + 62 * (4 - level) for level in range(5)]
    canvas.click(
        position={"x": (x[9] + 3 * x[10]) / 4, "y": (y[1] + 3 * y[2]) / 4}
    )  # cup (10) reads blue (9) in layer 1
    asked.address("token=9")
    asked.address("layer=1")
    asked.settle(2)
    assert list(heads(asked).items()) == list(of_heads(table, 1, 10, 9).items())
    expect(graph(asked)).to_contain_text("layer 1: cup (10) reads blue (9), 67.4, by head")
    canvas.click(position={"x": x[2], "y": y[3]})  # nothing is there
    asked.settle(2)
    assert list(heads(asked)) == list(of_heads(table, 1, 10, 9))
    graph(asked).locator("summary").click()
    graph(asked).get_by_role("button", name="cup (10)").click()
    asked.settle(2)
    assert list(heads(asked).items()) == list(of_heads(table, 3, 15, 10).items())


def test_the_graph_leaves_the_page(asked, table):
    copied = read_copied(asked, "Trace")
    found = list(copied[["layer", "query_position", "token_position", "value"]].itertuples(index=False, name=None))
    assert [(*edge[:3], np.float32(edge[3])) for edge in found] == shown(asked)
    drawn = ET.fromstring(asked.download("Trace", "SVG").path().read_text())
    texts = list(drawn.itertext())
    assert {"→ blue", "layer 3", "74.8", "67.4", "80.3"} <= set(texts)


def test_without_other_positions_there_is_no_graph(talk):
    assert not graph(talk).is_visible()
    assert talk.export_menu().get_by_text("Trace").count() == 0


def test_side_by_side_every_run_has_its_own_on_one_scale(opened, reports, table):
    """The threshold is a part of the largest of both, so that a line is as thick for the same number."""
    viewer = opened()
    viewer.drop(*(reports / f"{name}_{kind}" for name in ("asked", "hat") for kind in ("results.csv", "run.json")))
    viewer.shows("asked", "hat")
    hat = pd.read_csv(reports / "hat_results.csv", keep_default_na=False).astype({"l2_distance": np.float32})
    tables = [table[table.generation_step == 0], hat]
    largest = max(most_read(each, 15) for each in tables)
    for place, (name, each) in enumerate(zip(("asked", "hat"), tables, strict=True)):
        part = viewer.page.get_by_role("group", name=f"{place + 1}. {name}").filter(has=graph(viewer))
        assert shown(viewer, part) == traced(each, 15, 0.5 * largest / most_read(each, 15))
        expect(part).to_contain_text("50 % of the largest in these runs")
    both = read_copied(viewer, "Trace")
    assert set(both.run) == {"asked", "hat"}
