"""The index of a folder of runs: its rows against the runs' own files, and what it does with what is no run."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import mask_impact_analysis
from mask_impact.commands import index
from mask_impact.files.results import read_csv

PROMPT = "Tom has a red ball. Ann has a blue cup. Ann's cup is"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A batch of two: tokens, and a span with a name and effects."""
    folder = tmp_path_factory.mktemp("runs")
    plain = {"name": "plain", "prompt": PROMPT, "num_tokens": 2}
    named = {"name": "named", "prompt": PROMPT, "span": ["color=/blue/", "thing=/blue cup/"], "effects": True}
    (folder / "few.yaml").write_text(json.dumps({"prompts": [plain, named]}))
    flags = ["--model", "demo", "--config", str(folder / "few.yaml"), "--output-dir", str(folder), "--quiet"]
    assert mask_impact_analysis.main([*flags, "--format", "csv,html"]) == 0
    return folder


def rows_in(page: Path) -> list[dict]:
    found = re.search(r'id="mask-impact-data">(.*?)</script>', page.read_text(), re.S)
    assert found
    return json.loads(found[1])["index"]


def test_rows_are_those_of_the_runs(folder):
    named, plain = rows_in(folder / "index.html")
    assert [named["name"], plain["name"], plain["report"]] == ["named", "plain", "plain_results.html"]
    assert (plain["prompt"], plain["answer"], plain["effect"], plain["units"]) == (PROMPT, " blue.", None, None)
    full = read_csv(folder / "plain_results.csv").query("variant == 'Full' and generation_step == 0")
    others = full[full.token_position > 0]
    by_layer = others.groupby("layer").l2_distance.max()
    assert plain["by_layer"] == pytest.approx(by_layer.tolist(), rel=1e-3)
    root = others.l2_distance.astype(float).pow(2).groupby(others.token_position).sum().pow(0.5)
    peak = others[others.token_position == root.idxmax()].set_index("layer").l2_distance.idxmax()
    assert plain["top"] == {"text": f"' cup'@{root.idxmax()}", "layer": peak, "value": pytest.approx(root.max())}
    reads = json.loads((folder / "plain_run.json").read_text())["reads"]
    assert [each["generation_step"] for each in reads] == [0, 1]
    assert [each["position"] for each in reads[0]["tokens"]] == root.sort_values(ascending=False).index[:5].tolist()


def test_units_have_what_is_read_and_what_they_do_to_the_answer(folder):
    named = rows_in(folder / "index.html")[0]
    table = pd.read_csv(folder / "named_effects.csv", keep_default_na=False)
    lowest = table.groupby("token_masked").logprob_change.min()
    full = read_csv(folder / "named_results.csv").query("variant == 'Full'")
    root = full.l2_distance.astype(float).pow(2).groupby(full.token_masked).sum().pow(0.5)
    assert {unit["name"] for unit in named["units"]} == {"color", "thing"} == set(lowest.index)
    for unit in named["units"]:
        assert np.float32(unit["effect"]) == np.float32(lowest[unit["name"]])
        assert unit["read"] == pytest.approx(root[unit["name"]])
    assert (
        named["effect"]["text"]
        == f"{lowest.idxmin()!r}@{table.set_index('token_masked').token_position[lowest.idxmin()]}"
    )


def test_a_batch_keeps_the_same_rows(folder):
    batch = json.loads((folder / "few_batch.json").read_text())["index"]
    assert sorted(batch, key=lambda row: row["name"]) == rows_in(folder / "index.html")


def test_by_hand_anew_and_what_is_damaged_is_named(folder, capsys, tmp_path):
    for path in folder.glob("*_run.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "bad_run.json").write_text("{")
    damaged = json.loads((folder / "named_run.json").read_text()) | {"prompt": 5, "effects": "x"}
    (tmp_path / "older_run.json").write_text(json.dumps(damaged))
    (tmp_path / "picture_scales_run.json").write_text('{"files": []}')  # of the lens, which is no run
    assert index.main([str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "bad_run.json is left out: no JSON" in said
    assert "older_run.json is left out: it is damaged, or of an older version" in said
    assert "scales" not in said
    assert said.endswith(f"2 runs\nopen {tmp_path / 'index.html'}\n")
    assert [row["report"] for row in rows_in(tmp_path / "index.html")] == [None, None]


def test_runs_of_older_versions_have_a_row(folder, tmp_path):
    newer = {"reads", "messages", "metrics", "noise_floor", "checksums", "bytes", "vision", "unmasked_length"}
    older = {
        key: value for key, value in json.loads((folder / "plain_run.json").read_text()).items() if key not in newer
    }
    (tmp_path / "plain_run.json").write_text(json.dumps(older))
    assert index.main([str(tmp_path)]) == 0
    (row,) = rows_in(tmp_path / "index.html")
    assert (row["prompt"], row["answer"], row["metric"], row["top"]) == (PROMPT, " blue.", None, None)


def broken(folder: Path) -> None:
    folder.mkdir()
    (folder / "bad_run.json").write_text("{")


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (broken, "that can be read (bad_run.json is left out: no JSON"),
        (lambda folder: None, "is not a folder"),
        (lambda folder: folder.mkdir(), "no finished run in"),
    ],
)
def test_what_is_no_folder_of_runs(prepare, message, tmp_path, capsys):
    prepare(tmp_path / "x")
    assert index.main([str(tmp_path / "x")]) == 2
    assert message in capsys.readouterr().err


def test_a_page_of_somebody_else_is_kept(folder, tmp_path, capsys):
    (tmp_path / "plain_run.json").write_bytes((folder / "plain_run.json").read_bytes())
    (tmp_path / "index.html").write_text("<p>mine</p>")
    assert index.main([str(tmp_path)]) == 2
    assert "is a page of something else and is kept" in capsys.readouterr().err
    assert (tmp_path / "index.html").read_text() == "<p>mine</p>"
