"""Files that this program wrote and that hold something else meanwhile: a reason in one line, and nothing stops."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from test_batch import write_config

import latent_lens
import mask_impact_analysis
import mask_impact_vl
from mask_impact import load
from mask_impact.errors import UserError
from mask_impact.files.stored import FinishedRun, Unreadable, parsed

ROOT = Path(__file__).resolve().parent.parent
CAPTIONS = ROOT / "demo" / "captions.txt"
LENS = ["--model", "demo", "--quiet", "--output-dir"]
DEEP = "[" * 200_000

ODD_RUNS: dict[str, Any] = {  # what is changed in a manifest, and the reason that is given
    "no object": ([], "Expected `object`, got `array`"),
    "request null": ({"request": None}, "`$.request`"),
    "request list": ({"request": []}, "`$.request`"),
    "request text": ({"request": "x"}, "`$.request`"),
    "files": ({"files": [1]}, "`$.files[0]`"),
    "tables": ({"tables": None}, "`$.tables`"),
    "notes": ({"notes": {}}, "`$.notes`"),
    "generated gone": ({"generated": ...}, "`generated`"),
    "generated": ({"generated": 3}, "`$.generated`"),
    "prompt_length": ({"prompt_length": "x"}, "`$.prompt_length`"),
    "top_tokens": ({"top_tokens": None}, "`$.top_tokens`"),
    "tokens": ({"tokens": [None]}, "`$.tokens[0]`"),
    "units": ({"units": 1}, "`$.units`"),
    "bytes": ({"bytes": []}, "`$.bytes`"),
    "schema_version": ({"schema_version": {}}, "`$.schema_version`"),
}


def changed(path: Path, change: Any) -> None:
    """Write JSON with other values for some keys; `...` takes a key away."""
    if isinstance(change, dict):
        change = {k: v for k, v in (json.loads(path.read_text()) | change).items() if v is not ...}
    path.write_text(change if isinstance(change, str) else json.dumps(change))


def batch(done: Path, output: Path) -> list[str]:
    return ["--config", str(done / "night.yaml"), "--format", "csv", "--layers", "0", "--output-dir", str(output)]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with night.yaml and its two finished prompts."""
    here = tmp_path_factory.mktemp("done")
    prompts = {"a": {"prompt": "Tom has a ball."}, "b": {"prompt": "Ann has a cup."}}
    write_config(here / "night.yaml", prompts, "", "demo")
    assert mask_impact_analysis.main(batch(here, here / "output")) == 0
    return here


def resumed(done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    capsys.readouterr()
    batch = [
        "--config",
        str(done / "night.yaml"),
        "--model",
        "demo",
        "--format",
        "csv",
        "--layers",
        "0",
        "--resume",
        *more,
    ]
    assert mask_impact_analysis.main([*batch, "--output-dir", str(tmp_path / "output")]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("odd", [*ODD_RUNS, "deep", "cut off", "no text"])
def test_an_odd_manifest_is_redone_and_the_rest_is_kept(done, tmp_path, capsys, odd):
    shutil.copytree(done / "output", tmp_path / "output")
    path = tmp_path / "output" / "a_run.json"
    whole = path.read_text()
    texts = {"deep": (DEEP, "depth"), "cut off": (whole[:900], "no JSON"), "no text": ("", "no JSON")}
    change, reason = (ODD_RUNS | texts)[odd]
    changed(path, change)
    said = resumed(done, tmp_path, capsys)
    assert f"redo a: a_run.json cannot be read ({reason}" in said or (
        "redo a: a_run.json cannot be read (" in said and reason in said
    ), said
    assert "1 kept" in said and "1 done" in said
    assert parsed(path.read_bytes(), FinishedRun)["request"] == json.loads(whole)["request"]


def test_a_manifest_that_is_a_folder_is_redone(done, tmp_path, capsys):
    shutil.copytree(done / "output", tmp_path / "output")
    (tmp_path / "output" / "a_run.json").unlink()
    (tmp_path / "output" / "a_run.json").mkdir()
    assert mask_impact_analysis.main([*batch(done, tmp_path / "output"), "--resume"]) == 2
    assert "a_run.json is a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "more"),
    [
        ({"files": [1]}, {}), ({"files": None}, {}), ([], {}), (DEEP, {}), ({"rows": "x"}, {}), ({"tables": 1}, {}),
        ({"unmasked_length": [1]}, {"relative": True}), ({"unmasked_length": {"layers": 1}}, {"relative": True}),
        ({"unmasked_length": {"layers": [0], "variants": ["Full"], "values": [[]]}}, {"relative": True}),
        ({"noise_floor": {"by_layer": {"layers": "x"}}}, {"floors": True}), ({"noise_floor": 1}, {"floors": True}),
        ({"noise_floor": {"by_layer": {"layers": [0], "variants": [], "metrics": [], "values": []}}}, {"floors": True}),
        ({"metrics": "x"}, {"floors": True}),
    ],
)  # fmt: skip
def test_load_says_what_is_wrong_with_a_manifest(done, tmp_path, change, more):
    shutil.copytree(done / "output", tmp_path / "output")
    changed(tmp_path / "output" / "a_run.json", change)
    with pytest.raises(UserError, match=r"a_run\.json|a_results\.csv"):
        load(tmp_path / "output" / "a_results.csv", **more)


# --- the lens -----------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bank, an extraction and a run about a picture."""
    here = tmp_path_factory.mktemp("built")
    picture = ["--image", str(ROOT / "testimg.png"), "--prompt", "Describe this image."]
    assert (
        latent_lens.main(["bank", *LENS, str(here / "bank"), "--captions", str(CAPTIONS), "--num-captions", "9"]) == 0
    )
    assert latent_lens.main(["features", *LENS, str(here), "--num-images", "1", "--layers", "1"]) == 0
    run = [*LENS, str(here), *picture, "--mask-mode", "vision", "--layers", "0", "--format", "csv"]
    assert mask_impact_vl.main([*run, "--output", "m"]) == 0
    return here


def near(here: Path) -> int:
    picture = ["--image", str(ROOT / "testimg.png"), "--prompt", "Describe this image."]
    more = ["--bank", str(here / "bank"), "--run", str(here / "m_run.json"), "--output", "n", "--format", "csv"]
    return latent_lens.main(["neighbors", *LENS, str(here), *picture, *more, "--overwrite"])


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("bank/bank.json", {"shards": 1}), ("bank/bank.json", {"layers": "x"}), ("bank/bank.json", {"layers": [None]}),
        ("bank/bank.json", {"hidden_size": "x"}), ("bank/bank.json", {"model": None}),
        ("bank/bank.json", {"captions": 3}), ("bank/bank.json", {"request": []}), ("bank/bank.json", DEEP),
        ("bank/bank.json", {"contexts": ["x"]}), ("bank/bank.json", {"rows": ...}), ("bank/bank.json", {"seed": ...}),
        ("m_run.json", {"images": 1}), ("m_run.json", {"tokens": 1}), ("m_run.json", {"request": []}),
        ("m_run.json", {"prompt_length": "x"}), ("m_run.json", {"files": [1]}), ("m_run.json", {"model": 1}),
    ],
)  # fmt: skip
def test_the_lens_says_what_is_wrong_with_a_file(built, tmp_path, capsys, file, change):
    here = Path(shutil.copytree(built, tmp_path / "built"))
    changed(here / file, change)
    capsys.readouterr()
    assert near(here) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and Path(file).name in said and "Error" not in said


def test_the_lens_uses_files_that_are_whole(built, tmp_path):
    assert near(Path(shutil.copytree(built, tmp_path / "built"))) == 0


@pytest.mark.parametrize("change", [{"request": None}, {"images": 1}, {"images": [{}]}, [], DEEP])
def test_an_extraction_that_cannot_be_read_is_not_continued(built, tmp_path, capsys, change):
    here = Path(shutil.copytree(built, tmp_path / "built"))
    (summary,) = here.glob("extraction_summary_*.json")
    changed(summary, change)
    assert latent_lens.main(["features", *LENS, str(here), "--num-images", "1", "--layers", "1", "--resume"]) == 2
    assert f"{summary} cannot be read (" in capsys.readouterr().err


@pytest.mark.parametrize("line", ["null", "3", "{}", '{"rows": "x", "token_count": 1}', DEEP])
def test_a_journal_that_cannot_be_read_is_not_continued(built, tmp_path, capsys, line):
    here = Path(shutil.copytree(built, tmp_path / "built"))
    (summary,) = here.glob("extraction_summary_*.json")
    request = json.loads(summary.read_text())["request"]
    journal = here / summary.name.replace("extraction_summary_", "extraction_").replace(".json", ".journal")
    journal.write_text(f"{json.dumps(request, ensure_ascii=False)}\n{line}\n")
    assert latent_lens.main(["features", *LENS, str(here), "--num-images", "1", "--layers", "1", "--resume"]) == 2
    assert f"{journal} cannot be read (" in capsys.readouterr().err


def test_the_reason_is_short():
    with pytest.raises(Unreadable) as found:
        parsed(json.dumps({"files": ["x" * 100_000], "request": 1}).encode(), FinishedRun)
    assert len(str(found.value)) < 300


@pytest.mark.parametrize("change", [lambda text: "", lambda text: text.replace("1", "2", 1), lambda text: text + "\n"])
def test_a_table_that_was_changed_is_made_again(done, tmp_path, capsys, change):
    shutil.copytree(done / "output", tmp_path / "output")
    path = tmp_path / "output" / "a_results.csv"
    path.write_text(change(path.read_text()))
    said = resumed(done, tmp_path, capsys, "--dry-run")
    assert "a_results.csv has " in said and "redo" in said and "kept" in said


def test_load_refuses_a_table_that_was_changed(done, tmp_path):
    shutil.copytree(done / "output", tmp_path / "output")
    path = tmp_path / "output" / "a_results.csv"
    head, _, last = path.read_text()[:-1].rpartition("\n")
    path.write_text(f"{head}\n{last.rpartition(',')[0]},0.125\n")
    with pytest.raises(UserError, match=r"a_run\.json \(a_results\.csv has"):
        load(path)
    (tmp_path / "output" / "a_run.json").unlink()
    path.write_text(f"{head}\n{last}\n{last}\n")
    with pytest.raises(UserError, match="two rows for one cell"):
        load(path)
    path.write_text(f"{head}\n{last.rpartition(',')[0]},nan\n")
    with pytest.raises(UserError, match="cosine_distance has a value that is no number"):
        load(path)
