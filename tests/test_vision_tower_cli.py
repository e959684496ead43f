"""--tower vision from the command line and from Python: what is refused in one line, and what is written."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import mask_impact_analysis
import mask_impact_vl
from mask_impact import load, results
from mask_impact.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "testimg.png"
PROMPT = "What color is the circle?"
FIRST, LAST = 4, 19  # of the demo's image tokens


def command(folder: Path, *more: str, picture: bool = True) -> int:
    shown = ["--image", str(PICTURE)] if picture else []
    given = ["--model", "demo", "--prompt", PROMPT, "--tower", "vision", "--output-dir", str(folder), *shown, *more]
    return mask_impact_vl.main([*given, "--overwrite"])


def test_units_that_no_reader_sees_are_exactly_0(tmp_path):
    """Of another picture; several of them, so that no mask does anything."""
    picture = ["--image", str(ROOT / "testimg.png")]
    flags = ["--model", "demo", *picture, *picture, "--prompt", "What?", "--tower", "vision", "--readers", "image:1"]
    units = ["--region", "0:0,0,1,1", "--region", "0:2,2,3,3"]
    out = ["--format", "csv", "--quiet", "--output-dir", str(tmp_path), "--output", "m"]
    assert mask_impact_vl.main([*flags, *units, *out]) == 0
    assert not load(tmp_path / "m_results.csv").l2_distance.any()


def test_pictures_and_videos_together_are_refused_before_the_model_is_loaded(tmp_path, capsys):
    both = ["--image", str(ROOT / "testimg.png"), "--video", str(ROOT / "demo" / "clip.gif")]
    flags = ["--model", "demo", *both, "--prompt", "What?", "--tower", "vision", "--dry-run"]
    assert mask_impact_vl.main([*flags, "--output-dir", str(tmp_path)]) == 2
    assert "leave out --image or --video" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--vision-attention", "bidirectional"], "--vision-attention does not go with --tower vision"),
        (["--queries", "all"], "--queries does not go with --tower vision"),
        (["--mask-mode", "both"], "--mask-mode does not go with --tower vision"),
        (["--pairs", "2"], "--pairs does not go with --tower vision"),
        (["--readers", "nobody"], "--readers 'nobody': there is no set 'nobody'"),
        (["--readers", "later"], "--readers 'later': later is of a decoder"),
        (["--readers", "generated"], "--readers 'generated': generated is of a decoder"),
        (["--readers", "text"], "which is no image token"),
        (["--mask-unit", "word"], "--mask-unit word is of text"),
        (["--mask-unit", "patch", "--region", "0,0,1,1"], "were both given"),
        (["--num-tokens", "2"], "the vision tower only reads the prompt"),
        (["--answer", "red"], "--tower vision only reads the prompt"),
        (["--effects", "--top", "3"], "--top does not go with --tower vision"),
        (["--effects", "--block", "last"], "--block does not go with --tower vision"),
        (["--effects", "--trace-layers"], "--trace-layers does not go with --tower vision"),
        (["--effects", "--readers", "last"], "--readers 'last': last is of a decoder"),
        (["--effects", "--route", "text -> image"], "which is no image token"),
        (["--effects", "--route", "image -> later", "--refine", "2"], "--refine splits units"),
        (["--effects", "--refine", "2", "--mask-unit", "patch"], "--refine makes its own units"),
        (["--effects", "--mask-layers", "3"], "there is no layer 3; this model has 0 to 2"),
        (["--span", "circle"], "which is no image token"),
        (["--layers", "3"], "this model has layers 0 to 2"),
        (["--attention", "self"], "unknown flag --attention"),
    ],
)
def test_refused_in_one_line(more: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code: int | str | None
    try:
        code = command(tmp_path, *more)
    except SystemExit as stopped:  # a flag that is not there
        code = stopped.code
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert code == 2 and len(error) == 1 and said in error[0]
    assert not list(tmp_path.glob("vl_masking*"))


def test_needs_a_picture_and_a_model_that_sees(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(tmp_path, picture=False) == 2
    assert "--tower vision needs a picture" in capsys.readouterr().err
    text = ["--model", "demo", "--prompt", PROMPT, "--output-dir", str(tmp_path)]
    assert mask_impact_analysis.main([*text, "--tower", "vision"]) == 2
    assert "this model has no vision tower" in capsys.readouterr().err
    assert mask_impact_analysis.main([*text, "--mask-unit", "patch"]) == 2
    assert "--mask-unit patch is for the vision encoder" in capsys.readouterr().err


def test_dry_run_says_the_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(tmp_path, "--dry-run") == 0
    assert "vision tower: about as long as 13 forwards of it" in capsys.readouterr().out
    assert command(tmp_path, "--dry-run", "--mask-unit", "patch") == 0
    assert "vision tower: about as long as 51 forwards of it" in capsys.readouterr().out


def test_dry_run_says_how_much_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """More for more patches, of videos, too: the demo's clip has 4 times the patches of its picture."""
    said = []
    clip = ROOT / "demo" / "clip.gif"
    for more in (["--image", str(PICTURE)], ["--video", str(clip)]):
        given = ["--model", "demo", "--prompt", PROMPT, "--tower", "vision", "--mask-unit", "patch", "--dry-run", *more]
        assert mask_impact_vl.main([*given, "--output-dir", str(tmp_path)]) == 0
        told = capsys.readouterr().out
        said.append(float(re.search(r"memory: about (\d+) MB beside the model's weights", told)[1]))
        work = float(re.search(r"vision tower: about as long as (\d+) forwards", told)[1])
        assert work == pytest.approx(0.8 * (64 if more[0] == "--image" else 256), abs=1)
    assert 400 < said[0] < said[1]


def test_dry_run_estimates_the_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of layers, and of masks that are carried on."""
    for more in ([], ["--effects"]):
        assert command(tmp_path, "--dry-run", *more) == 0
        said = capsys.readouterr().out
        assert "time: about" in said and ("effects: about as long as" in said) == bool(more)


def test_what_does_not_apply_is_not_measured_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Patches are masked, whatever `mask_mode` says of tokens."""
    more = ["--layers", "0", "--format", "csv", "--output", "again"]
    given = ["--model", "demo", "--prompt", PROMPT, "--tower", "vision", "--output-dir", str(tmp_path), *more]
    assert command(tmp_path, *more) == 0
    capsys.readouterr()
    assert mask_impact_vl.main([*given, "--image", str(PICTURE), "--mask-mode", "vision", "--resume"]) == 0
    assert "kept" in capsys.readouterr().out


def test_every_format_has_the_places_of_patches(tmp_path: Path) -> None:
    assert command(tmp_path, "--mask-unit", "patch", "--format", "csv,json,parquet,html", "--output", "patches") == 0
    tables = [results.load(tmp_path / f"patches_results.{end}") for end in ("csv", "json", "parquet")]
    table = tables[0]
    assert all(table.equals(each) for each in tables[1:])
    assert len(table) == 3 * 64 * 6 and list(table.columns[-2:]) == ["patch_row", "patch_col"]
    tokens = (table["patch_row"] // 2) * 4 + table["patch_col"] // 2 + FIRST
    assert (tokens == table["token_position"]).all()
    page = results.load(tmp_path / "patches_results.html")  # an image token's largest patch
    keys = ["layer", "token_position", "variant"]
    largest = table.groupby(keys)["l2_distance"].max()
    np.testing.assert_array_equal(page.set_index(keys)["l2_distance"].sort_index(), largest.sort_index())


def test_from_python() -> None:
    table = mask_impact_vl.run_vl_masking_experiment(
        PROMPT, str(PICTURE), "vision", model_name="demo", device="cpu", tower="vision", readers=["image:0"],
        regions=["0,0,1,1", "right=0,2,3,3"], variants="full", layers=[1],
    )  # fmt: skip
    assert table["token_masked"].tolist() == ["region 0,0,1,1", "right"]
    assert (table["l2_distance"] > 0).all()
    assert table.attrs["run"]["units"][1]["positions"] == [6, 7, 10, 11, 14, 15, 18, 19]
    with pytest.raises(UserError, match="`queries` does not go with `tower` vision"):
        mask_impact_vl.run_vl_masking_experiment(PROMPT, str(PICTURE), model_name="demo", tower="vision", queries="all")


def test_effects_from_the_command_line_a_file_and_python(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a contrast of several tokens; a file of prompts asks for the same, and --resume keeps it."""
    more = ["--effects", "--region", "left=0,0,3,1", "--mask-layers", "1-2", "--contrast", "red circle", "blue"]
    assert command(tmp_path, *more, "--layers", "0", "--format", "csv,json", "--output", "one") == 0
    table = results.load(tmp_path / "one_effects.json")
    assert table.equals(results.load(tmp_path / "one_effects.csv")) and (table.image_l2 > 0).all()
    assert table.contrast_change.notna().all() and table.first_layer.tolist() == [1]
    config = tmp_path / "two.yaml"
    asked = "effects: true\n    tower: vision\n    region: ['left=0,0,3,1']\n    mask_layers: 1-2\n    layers: 0"
    config.write_text(
        f"prompts:\n  - name: one\n    prompt: {PROMPT}\n    image: {PICTURE}\n    {asked}\n"
        "    contrast: [red circle, blue]\n"
    )
    given = ["--model", "demo", "--config", str(config), "--output-dir", str(tmp_path), "--format", "csv,json"]
    assert mask_impact_vl.main([*given, "--resume"]) == 0
    assert "1 kept" in capsys.readouterr().out
    python = mask_impact_vl.run_vl_effects_experiment(
        PROMPT, str(PICTURE), model_name="demo", device="cpu", tower="vision", regions=["left=0,0,3,1"],
        mask_layers="1-2", contrast=["red circle", "blue"],
    )  # fmt: skip
    np.testing.assert_allclose(python.image_l2, table.image_l2, rtol=1e-6)
    assert python.attrs["run"]["effects"]["mask_layers"] == "1-2"
