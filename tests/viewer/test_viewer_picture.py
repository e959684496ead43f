"""The picture with its patches, and regions of it that were masked as a whole."""

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from playwright.sync_api import expect
from viewer_page import Scale, alike, most_frequent, shown_number
from viewer_runs import ROOT, by_token, effects_of, patches

import mask_impact_vl
from mask_impact.files.results import read_csv

# --- the picture -----------------------------------------------------------------------------------------


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
