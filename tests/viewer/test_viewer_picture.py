"""The picture with its patches, and regions of it that were masked as a whole."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from playwright.sync_api import Locator, expect
from viewer_page import Rgb, alike, laid_over, most_frequent, shown_number
from viewer_runs import ROOT, by_token, effects_of, patches

import mask_impact_vl
from mask_impact.files.results import read_csv

# --- the picture -----------------------------------------------------------------------------------------


def pixels(places: list[tuple[float, float]]) -> list[Rgb]:
    """Of the test picture, at places between 0 and 1."""
    with Image.open(ROOT / "testimg.png") as file:
        picture = file.convert("RGB")
        return [picture.getpixel((int(x * picture.width), int(y * picture.height))) for x, y in places]


SPOTS = {
    (row, col): ((col + 0.2) / 4, (row + 0.8) / 4) for row in range(4) for col in range(4)
}  # no edge of a shape is near


def shown_at(canvas: Locator, places: list[tuple[float, float]]) -> list[Rgb]:
    width = canvas.bounding_box()["width"]
    return most_frequent(canvas, [(x * width, y * width, 1, 1) for x, y in places])


def test_the_opacity_of_the_colour_is_the_value(picture, runs):
    """Over the picture's own pixels, one hue; in one layer, and all layers joined."""
    run = runs["both"]
    where, cells = patches(run), run.cells()
    joined = by_token(run)[list(where)]
    ends = {None: joined.max(), 2: max(float(cells[p, each]) for p in where for each in run.layers)}
    canvas = picture.page.locator(".picture-frame canvas")
    assert canvas.bounding_box()["width"] == pytest.approx(canvas.bounding_box()["height"], abs=1)
    for layer, end in ends.items():
        picture.go(opacity=0.5, token=1, **({} if layer is None else {"layer": layer}))
        spots = [SPOTS[place] for place in where.values()]
        for position, found, under in zip(where, shown_at(canvas, spots), pixels(spots), strict=True):
            value = joined[position] if layer is None else cells[position, layer]
            wanted = laid_over(under, value, end, 0.5)
            assert alike(found, wanted, 24), (position, layer, found, wanted)  # the picture is enlarged, and noisy
        expect(picture.page.get_by_role("region", name="Picture")).to_contain_text("a scale apart from the text’s")


def test_without_colour_the_picture_is_untouched_and_stands_beside_the_other_always(picture):
    spots = list(SPOTS.values())
    beside, canvas = picture.page.locator(".picture-beside"), picture.page.locator(".picture-frame canvas")
    assert all(alike(*pair, 24) for pair in zip(shown_at(beside, spots), pixels(spots), strict=True))
    assert any(not alike(*pair, 40) for pair in zip(shown_at(canvas, spots), pixels(spots), strict=True))
    slider = picture.page.get_by_label("Colour over picture")
    slider.fill("0")
    picture.settle()
    assert shown_at(canvas, spots) == shown_at(beside, spots)


def test_the_strongest_patch_is_that_of_the_ranking_and_every_layer_is_there_in_small(picture, runs):
    run = runs["both"]
    where, joined = patches(run), by_token(run)
    best = max(where, key=lambda position: joined[position])
    row, col = where[best]
    picture.key("Escape")
    expect(picture.page.locator(".picture-readout")).to_contain_text(f"Strongest patch: row {row}, column {col}:")
    ranking = picture.page.get_by_role("region", name="Most read tokens")
    expect(ranking.locator("ol").nth(1).locator("li").first).to_contain_text(f"{row},{col}")
    expect(picture.page.locator(".story")).to_contain_text(f"row {row}, column {col}")
    strips = picture.page.locator(".picture-strip canvas:visible")
    end = max(float(run.cells()[position, layer]) for position in where for layer in run.layers)
    title = f"Every layer, on one scale to {shown_number(end)}"
    expect(strips.first).to_have_attribute("aria-label", f"{title}: layer 0, layer 1, layer 2, layer 3")
    box = strips.first.bounding_box()
    strips.first.click(position={"x": box["width"] * 0.6, "y": 20})
    picture.address("layer=2")
    strips.first.click(position={"x": box["width"] * 0.6, "y": 20})
    picture.page.wait_for_function("() => !location.hash.includes('layer')")


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
    picture.check("fold images")
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
    ends = {"text": most.drop(list(where)).max(), "image patches": most[list(where)].max()}
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
    expect(picture.page.get_by_label("Colour over picture")).to_have_value("80")
    picture.settle(2)
    assert most_frequent(canvas, spots) == coloured


# --- units, and effects over the picture -----------------------------------------------------------------


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
    viewer.key("Escape")
    assert "of another run" not in viewer.text("header") and "not masked in this run" not in viewer.text("header")
    df = read_csv(regions / "regions_results.csv")
    full = df[df.variant == "Full"]
    root = full.l2_distance.astype(float).pow(2).groupby(full.token_masked).sum().pow(0.5)
    members = {"region 1,1,2,2": [(1, 1), (1, 2), (2, 1), (2, 2)], "region 0,3,1,3": [(0, 3), (1, 3)]}
    canvas = viewer.page.locator(".picture-frame canvas")
    side = canvas.bounding_box()["width"] / 4

    def check(values: pd.Series, signed: bool) -> None:
        for label, places in members.items():
            spots = [SPOTS[place] for place in places]
            for found, under in zip(shown_at(canvas, spots), pixels(spots), strict=True):
                assert alike(found, laid_over(under, values[label], values.abs().max(), 1, signed), 24), label

    check(root, signed=False)
    canvas.click(position={"x": 2.5 * side, "y": 2.5 * side})  # the last patch of the first region
    viewer.address("token=9")
    assert "region 1,1,2,2" in viewer.text(".selection")

    effects = pd.read_csv(regions / "regions_effects.csv").set_index("token_masked").logprob_change.astype(np.float32)
    view = viewer.page.get_by_role("region", name="Picture")
    view.get_by_label("Colour by").select_option("effect on the answer")
    viewer.go(opacity=1, shade="effect")
    assert viewer.page.locator("#picture-layer").is_hidden()
    check(effects, signed=True)
    assert "Change of log-probability with the unit hidden" in view.inner_text()
    noise = json.loads((regions / "regions_run.json").read_bytes())["effects"]["noise"]["logit"]
    said = "hatched: below the noise" in effects_of(viewer).inner_text()
    assert said == bool((effects.abs() < noise).any())
    copied = pd.read_csv(io.StringIO(viewer.copied("Picture")))
    assert len(copied) == 6
    assert set(copied.value.astype(np.float32)) == set(effects)
