"""Which position reads which."""

import io
import json
import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from playwright.sync_api import expect
from test_results import save
from viewer_page import Scale, Viewer, alike, cells_of, most_frequent
from viewer_runs import EVERY, METRICS, Map, pressed

from mask_impact.files.notebook import write_report
from mask_impact.files.results import Block


@pytest.fixture
def asked(viewer) -> Viewer:
    """A run with every query position, loaded."""
    viewer.drop(*EVERY)
    viewer.shows("every")
    return viewer


def test_the_map_is_that_of_pandas(asked, every):
    shown = Map(asked)
    for metric in METRICS:
        for variant in ("Full", "Attn"):
            for layer in (0, 3, None):
                asked.go(join="max", metric=metric, variant=variant, **({} if layer is None else {"layer": layer}))
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
    assert (
        asked.page.get_by_role("region", name="Prompt").locator("[data-hovered]").get_attribute("aria-label") == "␣has"
    )
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
    ranked = asked.page.get_by_role("region", name="Most read tokens").inner_text()
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
