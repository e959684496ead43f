"""Percentiles among the tokens of other prompts (`--null-runs`), held against pandas on the tables of the runs.

pytest tests/test_null.py
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import mask_impact_analysis
from mask_impact import load, run_masking_experiment
from mask_impact.errors import UserError
from mask_impact.impact.null import Null, kinds_of, values_by_kind

PROMPTS = {
    "cup": "Tom has a red ball. Ann has a blue cup. Ann's cup is",
    "hat": "Tom has a green hat. Ann has a red ball. Tom's hat is",
    "car": "Sam has a blue car. Ann has a red cup. Sam's car is",
    "box": "Ann has a big box. Tom has a red ball. Ann's box is",
}
COMMON = ("--model", "demo", "--num-tokens", "2", "--variants", "full", "--quiet")


def run(folder: Path, name: str, *more: str) -> int:
    flags = ["--prompt", PROMPTS[name], "--output", name, "--output-dir", str(folder), *COMMON, *more]
    return mask_impact_analysis.main(flags)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of all prompts but the last."""
    folder = tmp_path_factory.mktemp("runs")
    assert [run(folder, name) for name in list(PROMPTS)[:3]] == [0, 0, 0]
    return folder


def manifest_of(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


def by_pandas(path: Path) -> pd.DataFrame:
    """Of every token its value, the largest of the output tokens, and whether it is of the output."""
    table = load(path)
    length = table.attrs["run"]["prompt_length"]
    squares = (table.l2_distance.astype(float) ** 2).groupby([table.generation_step, table.token_position]).sum()
    found = squares.groupby("token_position").max().pow(0.5).rename("value").reset_index()
    found = found[found.token_position > 0]
    return found.assign(output=found.token_position >= length - 1)


def test_a_percentile_is_the_share_of_smaller_values_of_other_prompts(runs: Path, tmp_path: Path) -> None:
    assert run(tmp_path, "box", "--null-runs", str(runs)) == 0
    mine, theirs = by_pandas(tmp_path / "box_run.json"), pd.concat(by_pandas(p) for p in runs.glob("*_run.json"))
    manifest = manifest_of(tmp_path / "box_run.json")
    found = manifest["null"]
    counts = theirs.output.value_counts()
    assert found["runs"] == 3
    assert found["values"] == {"text": counts[False], "template": 0, "image": 0, "output": counts[True]}
    assert [row["position"] for row in found["percentiles"]] == mine.sort_values("value")[::-1].token_position.tolist()
    percentiles = {row["position"]: row["percentile"] for row in found["percentiles"]}
    for token in mine.itertuples():
        others = theirs[theirs.output == token.output].value
        wanted = 100 * (others < token.value).sum() / (len(others) + 1)
        assert percentiles[token.token_position] == pytest.approx(wanted)
    assert len(set(percentiles.values())) > 5, "they differ"
    for row in manifest["top_tokens"]:
        assert row["percentile"] == percentiles.get(row["position"]), "none of position 0"


def test_the_runs_of_the_prompt_itself_are_left_out(runs: Path, tmp_path: Path) -> None:
    assert run(tmp_path, "cup", "--null-runs", str(runs)) == 0
    assert manifest_of(tmp_path / "cup_run.json")["null"]["runs"] == 2
    assert run(tmp_path, "hat", "--null-runs", str(runs / "cup_run.json")) == 0, "one run"
    assert manifest_of(tmp_path / "hat_run.json")["null"]["runs"] == 1
    assert run(tmp_path, "box") == 0 and manifest_of(tmp_path / "box_run.json")["null"] is None


def test_they_are_in_the_summary(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [*COMMON[:-1], "--prompt", PROMPTS["box"], "--null-runs", str(runs), "--output-dir", str(tmp_path)]
    assert mask_impact_analysis.main(flags) == 0
    out, null = capsys.readouterr().out, manifest_of(tmp_path / "masking_run.json")["null"]
    first = null["percentiles"][0]
    assert "peak layer  percentile\n" in out and f"  {first['percentile']:.1f}\n" in out
    text, output = null["values"]["text"], null["values"]["output"]
    among = f"percentiles among the tokens of 3 other runs, each among its own kind: {text} text, {output} output\n"
    assert among in out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--num-tokens", "1"], "was measured with --num-tokens 2, not 1"),
        (["--layers", "0-2"], "was measured with --layers [], not [[0, 2]]"),
        (["--ablation", "zero-value"], "was measured with --ablation neg-inf, not zero-value"),
        (["--mask-unit", "word"], "was measured with --mask-unit token, not word"),
        (["--variants", "attn"], "was measured with --variants full, not attn"),
        (["--metrics", "cosine"], "was measured with --metrics l2, not cosine"),
        (["--chat"], "was measured with --chat False, not True"),
        (["--dtype", "bfloat16"], "is of another model (dtype float32, not bfloat16)"),
        (["--queries", "all"], "--null-runs is for what predicts the output"),
    ],
)
def test_other_settings_are_refused_before_the_model_is_loaded(
    runs: Path, tmp_path: Path, flags: list[str], said: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("mask_impact.model.load.load_model", lambda *_: pytest.fail("the weights were loaded"))
    assert run(tmp_path, "box", "--null-runs", str(runs), *flags) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and not list(tmp_path.glob("*.json"))


def test_another_model_is_refused(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(runs, changed)
    path = changed / "hat_run.json"
    for key, value, said in (
        ("model_fingerprint", "0", "hat_run.json is of another model (other weights)"),
        ("layers", 3, "hat_run.json is of another model (layers 3, not 4)"),
    ):
        manifest = manifest_of(runs / "hat_run.json")
        (manifest["request"] if key in manifest["request"] and key != "layers" else manifest["model"])[key] = value
        path.write_text(json.dumps(manifest))
        assert run(tmp_path, "box", "--null-runs", str(changed)) == 2
        assert said in capsys.readouterr().err


def test_what_has_no_other_prompt_is_refused(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a_run.json").write_text("{")
    for path, said in (
        (runs / "box_run.json", "does not exist; give runs of other prompts, of the same model and settings"),
        (runs / "cup_results.csv", "is no folder, and no NAME_run.json; give runs"),
        (tmp_path / "empty", "has no finished run, no NAME_run.json; give runs"),
        (tmp_path / "broken", "a_run.json is no manifest of a run, or damaged"),
        (runs / "cup_run.json", "has no run but that of this prompt; give runs of other prompts"),
    ):
        assert run(tmp_path, "cup", "--null-runs", str(path)) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1


def test_resume_redoes_a_run_whose_null_distribution_has_changed(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    null = tmp_path / "null"
    shutil.copytree(runs, null)
    assert run(tmp_path, "box", "--null-runs", str(null)) == 0
    before = manifest_of(tmp_path / "box_run.json")
    assert run(tmp_path, "box", "--null-runs", str(null), "--resume") == 0
    assert manifest_of(tmp_path / "box_run.json") == before, "kept"
    (null / "car_run.json").unlink()
    assert run(tmp_path, "box", "--null-runs", str(null), "--resume") == 0
    assert manifest_of(tmp_path / "box_run.json")["null"]["runs"] == 2


def test_it_is_a_keyword_and_a_key(runs: Path, tmp_path: Path) -> None:
    table = run_masking_experiment(PROMPTS["box"], "demo", num_output_tokens=2, variants="full", null_runs=runs)
    found = table.attrs["run"]
    assert found["null"]["runs"] == 3 and found["top_tokens"][0]["percentile"] > 50
    with pytest.raises(UserError, match="was measured with `num_output_tokens` 2, not 1"):
        run_masking_experiment(PROMPTS["box"], "demo", variants="full", null_runs=str(runs))
    keys = f"num_tokens: 2, variants: full, null_runs: {runs}"
    config = tmp_path / "batch.yaml"
    entry = f"{{name: box, prompt: {json.dumps(PROMPTS['box'])}}}"
    config.write_text(f"model: demo\noutput_dir: {tmp_path}\ndefaults: {{{keys}}}\nprompts: [{entry}]\n")
    assert mask_impact_analysis.main(["--config", str(config), "--quiet"]) == 0
    assert manifest_of(tmp_path / "box_run.json")["null"] == found["null"]


def test_tokens_are_compared_with_their_own_kind() -> None:
    kinds = ["special", "text", "text", "image", "text", "text", "text", "text"]
    texts = ["<s>", "user", "\n", "<img>", "Hi", " you", "\n", "Yes"]
    manifest = {
        "tokens": [
            {"position": at, "kind": kind, "text": text}
            for at, (kind, text) in enumerate(zip(kinds, texts, strict=True))
        ],
        "prompt_length": 7, "decoder_start": None, "chat": True, "prompt": "Hi you", "messages": None, "units": None,
    }  # fmt: skip
    wanted = ["template", "template", "template", "image", "text", "text", "output", "output"]
    assert list(kinds_of(manifest).values()) == wanted
    assert kinds_of(manifest | {"decoder_start": 7})[6] == "template", "of an encoder"
    ranking = [(4, 3.0, 0), (0, 2.5, 0), (3, 2.0, 0), (6, 1.5, 0), (5, 1.0, 0)]
    found = values_by_kind(manifest, ranking)
    assert found == {"text": [3.0, 1.0], "template": [], "image": [2.0], "output": [1.5]}
    several = manifest | {"units": [{"label": "all", "positions": [0, 1]}]}
    assert values_by_kind(several, ranking)["template"] == [2.5], "a unit of several tokens is no first token"
    null = Null.of([found, {"text": [5.0], "template": [], "image": [], "output": []}])
    assert null.percentile("text", 3.0) == 25 and null.percentile("text", 9.0) == 75
    assert null.percentile("template", 1.0) is None
    assert null.digest != Null.of([found]).digest and np.isfinite(null.values["text"]).all()
