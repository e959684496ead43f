"""What leaves the page: pictures and tables; and tokens that are hostile."""

import csv
import io
import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from viewer_runs import ROOT, VIEWS, assert_as_in, compare, difference, patches, read_copied

# --- exports ---------------------------------------------------------------------------------------------
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


@pytest.mark.parametrize("views", [("Heat map", "Prompt", "Ranking", "Heads", "Figure")])
def test_on_paper_the_dark_theme_is_the_light_one(talk, views):
    drawn = []
    for theme in ("light", "dark"):
        talk.go(theme=theme)
        talk.settle(3)
        drawn.append([talk.download(view, "SVG").path().read_text() for view in views])
    assert drawn[0] == drawn[1]


CONTEXT = ["run", "metric", "variant", "generation_step"]


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
    picture.go(metric="cosine", step=1, join="max", **{"from": 1, "to": 2})
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
    picture.check("fold images")
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


# --- hostile tokens --------------------------------------------------------------------------------------


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
