"""Videos on the command line, in batch files, in conversations and from Python; and one line for every wrong input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import clip
import numpy as np
import pytest
import torch
from PIL import Image
from test_films import animation, encoded, plain
from vl_families import make_vl_checkpoint

import latent_lens
import mask_impact_analysis
import mask_impact_vl
from mask_impact.errors import UserError
from mask_impact.files.pictures import opened
from mask_impact.model.find import find_model
from mask_impact.model.load import load_model
from mask_impact.model.processors import load_processor
from mask_impact.prompt.clips import Sampling, open_clips
from mask_impact.prompt.films import open_film
from mask_impact.prompt.video_part import video_part
from mask_impact.prompt.vision import open_pictures, vision_inputs
from mask_impact_vl import run_vl_effects_experiment, run_vl_masking_experiment

PICTURE = Path(__file__).parent.parent / "testimg.png"
CLIP = Path(__file__).parent.parent / "demo" / "clip.gif"
QUESTION = "What color is the circle?"
FAST = ("--layers", "0", "--variants", "full")


def ran(tmp_path: Path, *words: str, expect: int = 0) -> dict[str, Any]:
    """The manifest of a run of the command."""
    assert mask_impact_vl.main(["--model", "demo", "--output-dir", str(tmp_path), "--output", "it", *words]) == expect
    manifest: dict[str, Any] = json.loads((tmp_path / "it_run.json").read_text("utf-8"))
    return manifest


def page(path: Path) -> dict[str, Any]:
    """What is embedded in a report."""
    text = path.read_text("utf-8")
    start = text.index(">", text.index('id="mask-impact-data"')) + 1
    found: dict[str, Any] = json.loads(text[start : text.index("</script>", start)])
    return found


def test_the_demo_takes_a_clip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = ran(tmp_path, "--video", str(CLIP), "--prompt", QUESTION, "--mask-mode", "vision", *FAST)
    told = capsys.readouterr().out
    assert "video 0" in told and "8 of 8 frames in 4 temporal patches, each a 4 x 4 grid" in told
    assert "64 image tokens in 1 video" in told and "video 0 frame" in told
    (video,) = manifest["videos"]
    assert (video["frames"], video["fps"], video["sampled"]) == (8, 4.0, [*range(8)])
    assert video["seconds"] == [at / 4 for at in range(8)] and video["size"] == [128, 128]
    assert [image["frames"] for image in manifest["images"]] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    seen = [token for token in manifest["tokens"] if token["kind"] == "image"]
    assert len(seen) == 64 and seen[17] == seen[17] | {
        "video": 0, "frame": 1, "seconds": [0.5, 0.75], "row": 0, "col": 1, "box": [32.0, 0.0, 64.0, 32.0], "image": 1,
    }  # fmt: skip
    embedded = page(tmp_path / "it_results.html")
    assert [each["name"] for each in embedded["images"]] == [
        f"<clip.gif, frame {at}, {at / 2:g} and {at / 2 + 0.25:g} s>" for at in range(4)
    ]
    assert len({each["data"] for each in embedded["images"]}) == 4


def test_frames_are_found_again_from_the_manifest(tmp_path: Path) -> None:
    """For a report that is made later; not from a file that has changed."""
    path = animation(tmp_path / "clip.gif", plain(8))
    manifest = ran(tmp_path, "--video", str(path), "--prompt", QUESTION, "--format", "csv", *FAST)
    shown = opened(manifest, None)
    assert [each.getpixel((5, 5)) for each in shown if each] == [image.getpixel((5, 5)) for image in plain(8)[::2]]
    animation(path, plain(9))
    assert opened(manifest, None) == [None] * 4


def test_what_is_asked_for_is_done_and_noted(tmp_path: Path) -> None:
    words = ("--video", str(CLIP), "--max-frames", "4", "--max-pixels", "4096", "--prompt", "Is <video> red?")
    manifest = ran(tmp_path, *words, *FAST)
    (video,) = manifest["videos"]
    assert len(video["sampled"]) == 4 and video["resized"] == [64, 64]
    assert any("video 0: at most 4 frames are taken" in note for note in manifest["notes"])


def test_more_frames_than_the_file_has(tmp_path: Path) -> None:
    notes = ran(tmp_path, "--video", str(CLIP), "--fps", "30", "--prompt", QUESTION, *FAST)["notes"]
    assert "video 0: 30 frames for each second were asked for, and the file has 4" in notes


def test_a_single_patch_of_effects_is_named_by_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--prompt", QUESTION, "--tower", "vision", "--effects", "--span", "113", "--format", "csv", *FAST)
    ran(tmp_path, "--video", str(CLIP), *words)
    told = capsys.readouterr().out.split("what costs the answer most")[1]
    assert "video 0 frame 3 row 1 col 2" in told and "pad" not in told


def test_a_video_file_and_a_picture(tmp_path: Path) -> None:
    words = ("--video", str(encoded(tmp_path / "clip.mp4", plain(6))), "--image", str(tmp_path / "a.png"))
    plain(1)[0].save(tmp_path / "a.png")
    manifest = ran(tmp_path, *words, "--prompt", "Is <image> in <video>?", *FAST)
    assert [image.get("frame") for image in manifest["images"]] == [None, 0, 1, 2]
    assert manifest["videos"][0]["format"].startswith("mov")


def test_effects_of_a_region_over_all_frames(tmp_path: Path) -> None:
    """A unit of a region in every frame, and a route from a video."""
    told = run_vl_effects_experiment(
        QUESTION, model_name="demo", videos=CLIP, regions=["way=video:0:0,0,1,3"], mask_mode="vision"
    )
    (unit,) = told.attrs["run"]["units"]
    tokens = told.attrs["run"]["tokens"]
    expected = [token["position"] for token in tokens if token.get("video") == 0 and token["row"] < 2]
    assert unit["label"] == "way" and unit["positions"] == expected and len(expected) == 32
    routes = run_vl_effects_experiment(QUESTION, model_name="demo", videos=[str(CLIP)], routes=["video -> last"])
    assert len(routes) == 1


def test_resume_sees_another_video(tmp_path: Path) -> None:
    path = animation(tmp_path / "clip.gif", plain(8))
    words = ["--video", str(path), "--prompt", QUESTION, "--resume", "--format", "csv", *FAST]
    first, again = (ran(tmp_path, *words)["created"] for _ in range(2))
    table = tmp_path / "it_results.csv"
    before = table.stat().st_mtime_ns
    ran(tmp_path, *words)
    assert first == again and table.stat().st_mtime_ns == before
    animation(path, plain(8)[::-1])
    ran(tmp_path, *words)
    assert table.stat().st_mtime_ns > before


def test_a_batch_file_and_a_conversation(tmp_path: Path) -> None:
    """Paths start in the file's folder; both give the tokens of the flags."""
    animation(tmp_path / "clip.gif", plain(8))
    talk = [{"role": "user", "content": [{"type": "video", "path": "clip.gif"}, {"type": "text", "text": QUESTION}]}]
    (tmp_path / "talk.json").write_text(json.dumps(talk))
    (tmp_path / "batch.yaml").write_text(
        "model: demo\nformats: csv\ndefaults:\n  layers: 0\n  variants: full\nprompts:\n"
        f"  - {{name: one, prompt: '{QUESTION}', video: clip.gif, fps: 2, mask_mode: vision}}\n"
        "  - {name: two, messages: talk.json, fps: 2, mask_mode: vision}\n"
    )
    assert mask_impact_vl.main(["--config", str(tmp_path / "batch.yaml"), "--output-dir", str(tmp_path)]) == 0
    runs = [json.loads((tmp_path / f"{name}_run.json").read_text()) for name in ("one", "two")]
    assert runs[0]["tokens"] == runs[1]["tokens"] and len(runs[0]["videos"][0]["sampled"]) == 4
    assert (tmp_path / "one_results.csv").read_text() == (tmp_path / "two_results.csv").read_text()


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What the wrong inputs name."""
    root = tmp_path_factory.mktemp("others")
    (root / "empty").mkdir()
    (root / "text.mp4").write_text("no video\n" * 100)
    animation(root / "long.gif", [Image.effect_noise((32, 32), 90).convert("RGB") for _ in range(310)], 100)
    return {
        "empty": root / "empty", "text": root / "text.mp4", "long": root / "long.gif", "clip": CLIP,
        **{name: make_vl_checkpoint(name, root / name) for name in ("llava", "internvl")},
    }  # fmt: skip


WRONG = {
    "no frames a second": (["--video", "{clip}", "--fps", "0"], "'0' is not a number from 0.00001 to 1000"),
    "text for a rate": (["--video", "{clip}", "--fps", "fast"], "'fast' is not a number from 0.00001 to 1000"),
    "an absurd rate": (["--video", "{clip}", "--fps", "1e9"], "'1e9' is not a number from 0.00001 to 1000"),
    "hardly any rate": (["--video", "{clip}", "--fps", "1e-9"], "'1e-9' is not a number from 0.00001 to 1000"),
    "no number": (["--video", "{clip}", "--fps", "nan"], "'nan' is not a number from 0.00001 to 1000"),
    "a region in frames": (
        ["--video", "{clip}", "--tower", "vision", "--region", "video:0:0,0,1,1"],
        "4 frames, which do not read each other in the vision tower; mask one frame at a time, as --span frame:0",
    ),
    "no end of a rate": (["--video", "{clip}", "--fps", "inf"], "'inf' is not a number from 0.00001 to 1000"),
    "no frames": (["--video", "{clip}", "--max-frames", "0"], "'0' is not a whole number of 1 or more"),
    "missing": (["--video", "missing.mp4"], "the video missing.mp4 does not exist"),
    "a folder without pictures": (["--video", "{empty}"], "is a folder without pictures"),
    "no video": (["--video", "{text}"], "cannot be read"),
    "a rate without a video": (["--fps", "2"], "--fps 2 needs a video, but none was given; add --video"),
    "a limit without a video": (["--max-frames", "2"], "--max-frames 2 needs a video"),
    "a mark without a video": (["--prompt", "Is <video> red?"], "has 1 <video>, but the number of videos given is 0"),
    "one mark for two": (
        ["--video", "{clip}", "--video", "{clip}", "--prompt", "Is <video> red?"], "the number of videos given is 2",
    ),
    "the model's own token": (["--video", "{clip}", "--prompt", "Is <|video_pad|> red?"], "the model's own token"),
    "a family without videos": (["--model", "{llava}", "--video", "{clip}"], "model family 'llava' are not supported"),
    "another family": (["--model", "{internvl}", "--video", "{clip}"], "model family 'internvl' are not supported"),
    "too long": (["--video", "{long}", "--fps", "10"], "position"),
    "a region that is not there": (["--video", "{clip}", "--region", "video:1:0,0,1,1"], "there is no video 1"),
    "a frame that is not there": (["--video", "{clip}", "--span", "frame:4"], "there is no frame 4; frames 0 to 3"),
}  # fmt: skip


@pytest.mark.parametrize("label", WRONG)
def test_wrong_input_gets_one_line(
    label: str, others: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, message = WRONG[label]
    given = [word.format(**others) for word in words]
    command = ["--model", "demo", "--prompt", QUESTION, "--output-dir", str(tmp_path), "--output", "it"]
    try:
        code = mask_impact_vl.main([*command, *given])
    except SystemExit as stopped:
        code = stopped.code
    err = capsys.readouterr().err
    assert code == 2 and message in err and err.count("\n") == 1 and "Traceback" not in err, err
    assert not list(tmp_path.glob("it_*"))


def test_the_command_for_text_names_the_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        mask_impact_analysis.main(["--model", "demo", "--prompt", QUESTION, "--video", str(CLIP)])
    assert stopped.value.code == 2 and "mask_impact_vl.py has it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"videos": CLIP, "fps": "fast"}, "'fast' is not a number from 0.00001 to 1000"),
        ({"videos": CLIP, "fps": True}, "fps cannot be True"),
        ({"videos": CLIP, "max_frames": True}, "max_frames is True; it must be a whole number of 1 or more"),
        ({"videos": 5}, "videos cannot be 5"),
        ({"videos": "missing.gif"}, "the video missing.gif does not exist"),
        ({"max_frames": 3}, "needs a video"),
    ],
)
def test_wrong_keywords(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run_vl_masking_experiment(QUESTION, model_name="demo", **given)


def test_inspect_has_the_norms_of_every_frame(capsys: pytest.CaptureFixture[str]) -> None:
    """A video before a picture: the norms are those of the model's own hidden states at the positions of the tokens.
    Between 0 and 3 transformers gives states without the features that DeepStack adds."""
    words = ["--video", str(CLIP), "--image", str(PICTURE), "--prompt", "Is <video> like <image>?", "--json", "--quiet"]
    assert latent_lens.main(["inspect", "--model", "demo", *words]) == 0
    told = json.loads(capsys.readouterr().out)["image"]
    source = find_model("demo", vision=True)
    model, processor = load_model(source, torch.device("cpu"), torch.float32), load_processor(source)
    clips = open_clips([CLIP], video_part(processor, source.config), Sampling())
    inputs = vision_inputs(processor, source.config, words[5], open_pictures(PICTURE), clips=clips)
    with torch.no_grad():
        states = model(**inputs.tensors, output_hidden_states=True).hidden_states
    assert [about["path"][:9] for about in told["images"]] == [str(PICTURE)[:9], *["<clip.gif"] * 4]
    for index, about in enumerate(told["images"]):
        own = [token.position for token in inputs.tokens if token.image == index]
        expected = [states[layer][0, own].norm(dim=-1).mean().item() for layer in (0, 3)]
        given = [about["norms"]["norm_mean"][layer] for layer in (0, 3)]
        assert given == pytest.approx(expected, rel=1e-4)


def test_the_clip_is_what_its_script_draws(tmp_path: Path) -> None:
    assert clip.main(["--output", str(tmp_path / "clip.gif")]) == 0
    drawn, shipped = (
        [np.array(image) for image, _ in open_film(path).frames()] for path in (tmp_path / "clip.gif", CLIP)
    )
    assert len(shipped) == clip.FRAMES and all(np.array_equal(a, b) for a, b in zip(drawn, shipped, strict=True))
    assert CLIP.stat().st_size < 5000
