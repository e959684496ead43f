"""A run with a video: each of its frames is a picture of the page."""

import json
from pathlib import Path

import pytest
from playwright.sync_api import expect
from viewer_page import alike, most_frequent
from viewer_runs import ROOT

import mask_impact_vl

RED, BLUE = (215, 35, 40), (40, 75, 215)  # of demo/scenes.py


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    words = ["--video", str(ROOT / "demo" / "clip.gif"), "--prompt", "What color is the circle?", "--mask-mode", "both"]
    common = ["--model", "demo", "--output-dir", str(folder), "--output", "clip", "--quiet"]
    assert mask_impact_vl.main([*common, *words]) == 0
    return folder


def test_the_report_shows_every_frame_with_its_patches(clip, opened):
    viewer = opened(clip / "clip_results.html")
    figures = viewer.page.locator(".picture-frame")
    expect(figures).to_have_count(4)
    region = viewer.page.get_by_role("region", name="Picture")
    for frame in range(4):
        expect(region).to_contain_text(f"image {frame}: <clip.gif, frame {frame}, {frame / 2:g} and")
    expect(region).to_contain_text("4 × 4 grid")
    viewer.page.get_by_role("button", name="Picture alone").click()
    viewer.settle(2)
    for frame in range(4):
        canvas = figures.nth(frame).locator("canvas")
        scale = canvas.bounding_box()["width"] / 128
        x = 22 + 24 * frame  # where the circle is in the first of the two frames
        spots = [((x - 3) * scale, 31 * scale, 6 * scale, 6 * scale), (60 * scale, 92 * scale, 8 * scale, 8 * scale)]
        circle, square = most_frequent(canvas, spots)
        assert alike(circle, RED, 12) and alike(square, BLUE, 12), (frame, circle, square)


def test_without_the_report_a_frame_is_not_the_files_first_one(clip, viewer):
    """The GIF, dropped beside the table, is not taken for each of its frames."""
    viewer.drop(clip / "clip_results.csv", clip / "clip_run.json", ROOT / "demo" / "clip.gif")
    viewer.shows("clip")
    viewer.settle(2)
    region = viewer.page.get_by_role("region", name="Picture")
    expect(region).to_contain_text("The picture is not in these files")
    assert len(json.loads((clip / "clip_run.json").read_text("utf-8"))["images"]) == 4
