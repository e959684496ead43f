"""Videos in `latent_lens.py features` and `neighbors`, on the demo model. The states themselves are held against the
real processor and model in test_video_inputs.py."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_cli import Ended
from test_video_cli import CLIP, PICTURE, page
from test_vl_engine import folders  # noqa: F401

import latent_lens
import mask_impact_vl
from mask_impact.files.reading import load as read

QUESTION = "What color is the circle?"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> Callable[..., Ended]:
    """run("features", "--fps", 2) -> Ended: the command on the demo model, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(command: str, *words: Any, model: Any = "demo") -> Ended:
        capfd.readouterr()
        return Ended(
            latent_lens.main([command, "--model", str(model), *map(str, words)]),
            *capfd.readouterr(),
        )

    return call


def test_features_of_videos_and_pictures(run: Callable[..., Ended], tmp_path: Path) -> None:
    """A video's rows come frame after frame; the index says which pictures each frame is of, and when it is shown."""
    words = ("--video", CLIP, "--images", PICTURE, "--fps", 2, "--save-features", "--feature-dtype", "float32")
    ended = run("features", *words, "--layers", "0,4", "--output", "it")
    assert (ended.code, ended.err) == (0, "")
    assert "1 image and 1 video, 48 image tokens" in ended.out
    assert f"note       {CLIP}: 4 of 8 frames are taken, 2 for each second" in ended.out
    index = json.loads((tmp_path / "output/features_it_index.json").read_text("utf-8"))
    picture, video = sorted(index["images"], key=lambda each: "frames" in each)
    assert (video["frames"], video["seconds"], video["grid"]) == ([[0, 2], [5, 7]], [[0, 0.5], [1.25, 1.75]], [4, 4])
    assert "frames" not in picture and picture["rows"][1] - picture["rows"][0] == 16
    rows = load_file(tmp_path / "output/features_it_layer_4.safetensors")["features"]
    run("features", *words, "--layers", "0,4", "--output", "alone", "--batch-size", 1)
    alone = load_file(tmp_path / "output/features_alone_layer_4.safetensors")["features"]
    torch.testing.assert_close(rows, alone, rtol=1e-4, atol=1e-3)
    kept = run("features", *words, "--layers", "0,4", "--output", "it", "--resume")
    assert "2 of them kept" in kept.out
    other = run("features", *words, "--max-frames", 2, "--layers", "0,4", "--output", "it", "--resume")
    assert other.code == 2 and "max_frames was None, is 2" in other.err


def test_neighbours_in_frames(run: Callable[..., Ended], tmp_path: Path) -> None:
    """The table knows frames and times, the page shows them, and a masking run of the same frames can be beside it."""
    captions = CLIP.with_name("captions.txt")
    bank = ("--captions", captions, "--num-captions", 40, "--layers", 2, "--output-dir", "bank")
    assert run("bank", *bank).code == 0
    masked = [
        "--video",
        str(CLIP),
        "--prompt",
        QUESTION,
        "--mask-mode",
        "vision",
        "--variants",
        "full",
        "--format",
        "csv",
    ]
    assert mask_impact_vl.main(["--model", "demo", *masked, "--layers", "0", "--output", "m", "--quiet"]) == 0
    words = ("--bank", "bank", "--video", CLIP, "--prompt", QUESTION, "--layers", 0, "--top-k", 1)
    ended = run("neighbors", *words, "--run", "output/m_run.json")
    assert ended.code == 0 and "64 image tokens" in ended.out
    table = read(tmp_path / "output/clip_neighbors.csv")
    table = table[table.kind == "merged"]
    assert (table.video == 0).all() and table.frame.tolist() == table.image.tolist()
    assert table.frame.tolist() == [frame for frame in range(4) for _ in range(16)]
    assert table.seconds.tolist() == [frame / 2 for frame in range(4) for _ in range(16)]
    impact = read(tmp_path / "output/m_results.csv").set_index("token_position").l2_distance
    assert table.masking_impact.tolist() == impact[table.token_position].tolist()
    manifest = json.loads((tmp_path / "output/clip_neighbors_run.json").read_text("utf-8"))
    assert next(token["seconds"] for token in manifest["tokens"] if token.get("frame") == 1) == [0.5, 0.75]
    assert manifest["videos"][0]["sampled"] == [*range(8)] and len(manifest["images"]) == 4
    embedded = page(tmp_path / "output/clip_neighbors.html")
    assert len({each["data"] for each in embedded["images"]}) == 4
    other = run("neighbors", *words, "--max-frames", 4, "--run", "output/m_run.json", "--output", "other")
    assert other.code == 2 and "is of another image" in other.err and other.err.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "words", "says"),
    [
        ("features", ["--fps", 2, "--test-only"], "--fps 2 needs a video, but none was given; add --video"),
        ("neighbors", ["--bank", "bank"], "no picture was given; give one with --image, or a video with --video"),
        ("features", ["--video", "no.gif"], "none of 1 video can be read: the video no.gif does not exist"),
        ("features", ["--video", CLIP, "--prompt", "<image> or <video>"], "<image>"),
        ("features", ["--video", PICTURE, "--images", PICTURE], "was given as an image and as a video"),
    ],
)
def test_bad_input(command: str, words: list[Any], says: str, run: Callable[..., Ended], tmp_path: Path) -> None:
    (tmp_path / "bank").mkdir()
    ended = run(command, *words)
    assert (ended.code, ended.out) == (2, "") and ended.err.count("\n") == 1 and says in ended.err


def test_a_family_without_videos(run: Callable[..., Ended], folders: Any) -> None:  # noqa: F811
    ended = run("features", "--video", CLIP, model=folders("llava"))
    assert ended.code == 2 and "videos of model family 'llava' are not supported" in ended.err
