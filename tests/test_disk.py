"""A disk that is too small, that fills up, and a folder that goes away in the middle."""

import resource
import shutil
from pathlib import Path
from typing import Any

import pytest
from checkpoints import qwen3
from test_batch import write_config

import latent_lens
import mask_impact_analysis
import mask_impact_vl
from mask_impact.impact import run as impact_run

ROOT = Path(__file__).resolve().parent.parent
CAPTIONS = str(ROOT / "demo" / "captions.txt")


def bank(folder: Path, *more: str) -> int:
    flags = ["--model", "demo", "--quiet", "--captions", CAPTIONS, "--num-captions", "40", "--output-dir", str(folder)]
    return latent_lens.main(["bank", *flags, *more])


def test_room_for_a_bank_is_looked_for_before_the_forwards(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 500, 500))
    monkeypatch.setattr("mask_impact.lens.bank.Build.run", lambda *args: pytest.fail("it was begun"))
    assert bank(tmp_path / "bank") == 2
    said = capsys.readouterr().err
    assert said.startswith("error: the bank needs about ") and "has 0 MB free; choose another --output-dir" in said


def test_a_disk_that_fills_up_under_a_bank_is_one_line(tmp_path, capsys):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # no file may grow larger: writing it fails
    try:
        assert bank(tmp_path / "bank") == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    said = capsys.readouterr().err
    assert said.startswith(f"error: the output folder {tmp_path / 'bank'} cannot be written (File too large)"), said
    assert not [path for path in (tmp_path / "bank").glob(".*") if path.is_dir()]
    assert bank(tmp_path / "bank", "--resume") == 0


PICTURE = ["--image", str(ROOT / "testimg.png"), "--prompt", "Describe this image."]
TEXT = ["--prompt", "Tom has a ball. Ann has a", "--layers", "0"]
SMALL = [*PICTURE, "--layers", "0", "--mask-mode", "vision"]
COMMANDS: dict[str, tuple[Any, list[str], tuple[str, ...]]] = {
    "text": (mask_impact_analysis, TEXT, ("csv", "json", "parquet", "html")),
    "all queries": (mask_impact_analysis, [*TEXT, "--queries", "all", "--metrics", "l2"], ("csv", "parquet")),
    "effects": (
        mask_impact_analysis, [*TEXT, "--effects", "--mask-layers", "0", "--pairs", "2", "--trace-layers"],
        ("csv", "json", "parquet", "html"),
    ),
    "picture": (mask_impact_vl, SMALL, ("json", "html")),
    "deepstack": (mask_impact_vl, [*SMALL, "--region", "0,0,1,1", "--effects", "--deepstack"], ("csv", "parquet")),
    "features": (latent_lens, ["features", "--images", PICTURE[1], "--layers", "0", "--save-features"], ("",)),
    "scales": (latent_lens, ["scales", *PICTURE, "--max-pixels", "9216,24576", "--layers", "0"], ("csv", "parquet")),
}  # fmt: skip


@pytest.mark.parametrize(("name", "form"), [(name, form) for name, row in COMMANDS.items() for form in row[2]])
def test_a_disk_that_fills_up_is_one_line_and_leaves_nothing_torn(tmp_path, capsys, name, form):
    script, given, _ = COMMANDS[name]
    argv = [*given, "--model", "demo", "--quiet", "--output-dir", str(tmp_path / "out"), "--output", "it"]
    argv += ["--format", form] if form else []
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (900, hard))
    try:
        code = script.main(argv)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    said = capsys.readouterr().err
    assert (code, said.count("\n")) == (2, 1), said
    assert "cannot be written (File too large)" in said
    assert [path.name for path in tmp_path.glob("out/*") if path.suffix != ".part" and path.name[0] != "."] == []
    assert script.main(argv) == 0
    assert [path.name for path in tmp_path.glob("out/.*")] == [".mask_impact.lock"]


def test_a_folder_that_goes_away_is_not_made_again(tmp_path, monkeypatch, capsys):
    """Made anew, it would have no lock, so that a second run could write into it."""
    prompts = {name: {"prompt": f"{name} has a ball"} for name in ("tom", "ann", "eve")}
    write_config(tmp_path / "night.yaml", prompts, "formats: [csv]", qwen3(tmp_path / "model"))
    output, original = tmp_path / "output", impact_run.run

    def removes(model: Any, prepared: Any, *more: Any) -> Any:
        if "ann" in prepared.inputs.prompt:
            shutil.rmtree(output)
        return original(model, prepared, *more)

    monkeypatch.setattr(impact_run, "run", removes)
    assert mask_impact_analysis.main(["--config", str(tmp_path / "night.yaml"), "--output-dir", str(output)]) == 2
    said = capsys.readouterr().err
    assert f"eve: the output folder {output} was removed or replaced in the middle of the work" in said
    assert not output.exists()


@pytest.mark.parametrize("name", ["m_results.csv", "m_run.json", "m_effects.csv"])
def test_a_folder_in_the_place_of_a_file_is_told_before_the_work(tmp_path, monkeypatch, capsys, name):
    flags = ["--model", "demo", "--prompt", "Tom", "--format", "csv", "--output-dir", str(tmp_path), "--output", "m"]
    assert mask_impact_analysis.main(flags) == 0
    (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / name).mkdir()
    (tmp_path / name / "mine.txt").write_text("kept")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.setattr(impact_run, "run", lambda *args: pytest.fail("it was begun"))
    assert mask_impact_analysis.main([*flags, "--overwrite"]) == 2
    assert f"{tmp_path / name} is a folder, and a file of this name has to be written" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_folder_in_the_place_of_the_batch_table_is_told_before_the_work(tmp_path, monkeypatch, capsys):
    write_config(tmp_path / "night.yaml", {"a": {"prompt": "Tom"}}, "formats: [csv]", "demo")
    (tmp_path / "output" / "night_batch.json").mkdir(parents=True)
    monkeypatch.setattr(impact_run, "run", lambda *args: pytest.fail("it was begun"))
    flags = ["--config", str(tmp_path / "night.yaml"), "--output-dir", str(tmp_path / "output")]
    assert mask_impact_analysis.main(flags) == 2
    assert "night_batch.json is a folder" in capsys.readouterr().err


def test_a_failed_overwrite_leaves_the_bank(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "bank"
    assert bank(folder) == 0
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr("mask_impact.lens.bank.Build.run", lambda *args: (_ for _ in ()).throw(OSError(28, "full")))
        assert bank(folder, "--overwrite", "--max-per-token", "3") == 2
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    assert bank(folder, "--overwrite", "--max-per-token", "3") == 0
    assert {path.name for path in folder.iterdir()} == {path.name for path in before}
    assert all(path.read_bytes() != old for path, old in before.items() if path.suffix != ".lock")
