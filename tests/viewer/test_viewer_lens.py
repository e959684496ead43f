"""What image tokens say."""

import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
from PIL import Image
from playwright.sync_api import expect
from viewer_page import Viewer, alike, most_frequent, shown_number, step255, tint
from viewer_runs import LENS, ROOT


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
    viewer = opened(said.file("html"), "wash=1")
    first = said.df[(said.df.kind == "merged") & (said.df["rank"] == 1)]
    canvas = viewer.page.get_by_role("region", name=LENS).locator(".picture-frame canvas")
    expect(canvas).to_be_visible()
    low, high = first.similarity.min(), first.similarity.max()
    place: dict[str, Callable[[Any], float]] = {
        "similarity": lambda row: (row.similarity - low) / (high - low),
        "impact": lambda row: row.masking_impact / first.masking_impact.max(),
    }
    for kind, where in place.items():
        viewer.go(wash=1, layer=3, tint=kind, patch=4)
        viewer.settle(2)
        side = canvas.bounding_box()["width"] / 4
        rows = list(first[(first.layer == 3) & (first.token_position > 4)].itertuples())
        corners = [(row.col * side + 8, row.row * side + 8, side / 6, side / 6) for row in rows]
        for row, found in zip(rows, most_frequent(canvas, corners), strict=True):
            assert alike(found, tint(step255(where(row)))), (kind, row, found)
    viewer.go(wash=1, layer=3, tint="bank", patch=4)
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
    viewer.address("wash=0")
    viewer.go(layer=3)
    lens.get_by_role("button", name="Play layers").click()
    viewer.address("layer=4")
    expect(lens.get_by_role("button", name="Play layers")).to_be_visible()  # it has come to its end
    viewer.page.locator("body").focus()
    viewer.go(patch=15)
    viewer.key("p", "t", "Escape")
    assert "patch" not in viewer.address("palette=cividis", "theme=dark")


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
