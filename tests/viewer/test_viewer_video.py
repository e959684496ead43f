"""A run with a video: one of its frames is large, all of them are in small."""

import json
from pathlib import Path

import pytest
from playwright.sync_api import expect
from viewer_page import alike, most_frequent
from viewer_runs import ROOT

import mask_impact_vl
from mask_impact.files.results import read_csv

RED, BLUE = (215, 35, 40), (40, 75, 215)  # of demo/scenes.py


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    words = ["--video", str(ROOT / "demo" / "clip.gif"), "--prompt", "What color is the circle?", "--mask-mode", "both"]
    common = ["--model", "demo", "--output-dir", str(folder), "--output", "clip", "--quiet"]
    assert mask_impact_vl.main([*common, *words]) == 0
    return folder


def test_the_report_shows_every_frame_with_its_patches(clip, opened):
    """One of them large, all of them in small."""
    viewer = opened(clip / "clip_results.html")
    large = viewer.page.locator(".picture-frame canvas")
    expect(large).to_have_count(1)
    region = viewer.page.get_by_role("region", name="Picture")
    expect(region).to_contain_text("4 × 4 grid")
    strip = region.get_by_role("img", name="Every frame")
    viewer.page.get_by_role("button", name="Picture alone").click()
    for frame in range(4):
        region.get_by_role("slider", name="Frame").fill(str(frame))
        viewer.address(f"frame={frame}")
        viewer.settle(2)
        expect(region).to_contain_text(f"<clip.gif, frame {frame}, {frame / 2:g} and")
        x = 22 + 24 * frame  # where the circle is in the first of the two frames
        for canvas, scale, left in (
            (large, large.bounding_box()["width"] / 128, 0),
            (strip, 150 / 128, 1 + 158 * frame),  # maps of 150 pixels with 8 between them
        ):
            spots = [(left + (x - 3) * scale, 31 * scale, 6 * scale, 6 * scale)]
            spots.append((left + 60 * scale, 92 * scale, 8 * scale, 8 * scale))
            circle, square = most_frequent(canvas, spots)
            assert alike(circle, RED, 12) and alike(square, BLUE, 12), (frame, circle, square)


def test_the_frame_is_that_of_the_selected_patch_or_has_the_strongest(clip, opened):
    manifest = json.loads((clip / "clip_run.json").read_text("utf-8"))
    frames = {token["position"]: token["image"] for token in manifest["tokens"] if token["kind"] == "image"}
    df = read_csv(clip / "clip_results.csv").query("variant == 'Full' and generation_step == 0")
    sums = df[df.token_position.isin(frames)].groupby("token_position").l2_distance.agg(lambda of: (of**2).sum())
    viewer = opened(clip / "clip_results.html", fragment="token=null&layer=null")
    region = viewer.page.get_by_role("region", name="Picture")
    expect(region).to_contain_text(f"<clip.gif, frame {frames[sums.idxmax()]},")
    expect(viewer.page.locator("p.story")).to_contain_text(f"of frame {frames[sums.idxmax()]}.")
    for frame in (3, 1):
        position = next(place for place, each in frames.items() if each == frame)
        viewer.go(token=position)
        expect(region).to_contain_text(f"<clip.gif, frame {frame},")


def test_frames_are_played_and_clicked(clip, opened):
    viewer = opened(clip / "clip_results.html", fragment="frame=2")
    region = viewer.page.get_by_role("region", name="Picture")
    region.get_by_role("button", name="Play frames").click()
    viewer.address("frame=3")
    expect(region.get_by_role("button", name="Play frames")).to_be_visible()  # it stops at the last one
    region.get_by_role("img", name="Every frame").click(position={"x": 158 + 40, "y": 30})
    viewer.address("frame=1")


def test_without_the_report_a_frame_is_not_the_files_first_one(clip, viewer):
    """The GIF, dropped beside the table, is not taken for each of its frames."""
    viewer.drop(clip / "clip_results.csv", clip / "clip_run.json", ROOT / "demo" / "clip.gif")
    viewer.shows("clip")
    viewer.settle(2)
    region = viewer.page.get_by_role("region", name="Picture")
    viewer.go(frame=1)
    expect(region).to_contain_text("The picture is not in these files")
    assert len(json.loads((clip / "clip_run.json").read_text("utf-8"))["images"]) == 4
