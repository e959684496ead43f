"""The Python functions on what is wrong, and on what is unusual: one clear sentence, or the right numbers."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import checkpoints
import pytest
import torch
from huggingface_hub import utils as hub
from prepared import PREPARED
from test_report import embedded
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

import mask_impact_analysis
from mask_impact import load, load_many, run_effects_experiment, run_masking_experiment, run_vl_masking_experiment
from mask_impact.distances import METRICS, Metric
from mask_impact.errors import UnsupportedModel, UserError
from mask_impact.files.notebook import write_report
from mask_impact.options import Request, option

PROMPT = "Tom has a red ball."
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.qwen3(tmp_path_factory.mktemp("model") / "qwen3")


def loaded(folder: Path) -> dict:
    return {"model": AutoModelForCausalLM.from_pretrained(folder), "tokenizer": AutoTokenizer.from_pretrained(folder)}


# --- effects alone ----------------------------------------------------------------------------------------
def test_effects_of_a_model_that_computes_nan_are_refused(folder: Path) -> None:
    given = loaded(folder)
    with torch.no_grad():
        given["model"].model.layers[0].self_attn.o_proj.weight.fill_(float("nan"))
    for more in ({}, {"no_check": True}):
        with pytest.raises(
            UserError, match=r"no numbers \(NaN or infinite\) in float32: model.layers.0.self_attn.o_proj.weight; take"
        ):
            run_effects_experiment(PROMPT, **given, **more)


def test_effects_of_a_model_that_cannot_be_replayed_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = loaded(folder)
    layer = given["model"].model.layers[1]
    before = layer.forward
    monkeypatch.setattr(layer, "forward", lambda *a, **k: before(*a, **k) + 0.5 * torch.randn(1))
    with pytest.raises(UnsupportedModel, match="replayed without a mask"):
        run_effects_experiment(PROMPT, **given, no_check=True)


def test_the_manifest_of_effects_says_what_was_masked(folder: Path) -> None:
    run = run_effects_experiment(PROMPT, str(folder), "cpu", mask_unit="word").attrs["run"]
    assert run["masks"] == "the tokens of each unit together"
    assert [unit["label"] for unit in run["units"]][:2] == ["Tom", "has"]
    assert run["noise_floor"]["Full"]["relative"] < 1e-5 and run["metrics"] == []
    assert run["request"]["mask_unit"] == "word"
    assert run_effects_experiment(PROMPT, str(folder), "cpu").attrs["run"]["units"] is None


@pytest.mark.parametrize("shown", [True, False])
def test_nothing_is_printed_and_what_libraries_print_is_put_back(
    capfd: pytest.CaptureFixture[str], shown: bool
) -> None:
    """The bar of "Loading weights" above all, which transformers shows unless it is told not to."""
    before = transformers_logging.is_progress_bar_enabled()
    switch = {True: transformers_logging.enable_progress_bar, False: transformers_logging.disable_progress_bar}
    switch[shown]()
    try:
        run_masking_experiment(PROMPT, "demo", "cpu")
        run_effects_experiment(PROMPT, "demo", "cpu")
        assert capfd.readouterr() == ("", "")
        assert transformers_logging.is_progress_bar_enabled() == shown
        assert hub.are_progress_bars_disabled() != shown
    finally:
        switch[before]()


# --- values -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("function", "given"),
    [
        (run_masking_experiment, {"ablation": None}),
        (run_masking_experiment, {"head_space": None}),
        (run_masking_experiment, {"layers": 3}),
        (run_masking_experiment, {"queries": 1}),
        (run_masking_experiment, {"queries": [1]}),
        (run_masking_experiment, {"queries": "x"}),
        (run_masking_experiment, {"variants": None}),
        (run_masking_experiment, {"metrics": 5}),
        (run_masking_experiment, {"spans": None}),
        (run_masking_experiment, {"spans": [3]}),
        (run_masking_experiment, {"chat": "yes"}),
        (run_masking_experiment, {"num_tokens": 2}),
        (run_masking_experiment, {"num_output_tokens": "2"}),
        (run_effects_experiment, {"pairs": "two"}),
        (run_effects_experiment, {"pairs": -5}),
        (run_effects_experiment, {"refine": True}),
        (run_effects_experiment, {"refine": False}),
        (run_effects_experiment, {"refine": 2.0}),
        (run_masking_experiment, {"num_output_tokens": True}),
        (run_masking_experiment, {"layers": True}),
        (run_masking_experiment, {"queries": [(True, 2)]}),
        (run_masking_experiment, {"queries": [(1, 2.5)]}),
        (run_masking_experiment, {"head_space": True}),
        (run_effects_experiment, {"contrast": None}),
        (run_vl_masking_experiment, {"mask_mode": None}),
        (run_vl_masking_experiment, {"vision_attention": None}),
        (run_vl_masking_experiment, {"max_pixels": "x"}),
    ],
)
def test_a_wrong_value_is_one_sentence_that_names_the_keyword(function, given: dict) -> None:
    (name,) = given
    with pytest.raises(UserError, match=name.replace("_", "[_ ]").removesuffix("s")) as raised:
        function(PROMPT, model_name="demo", device="cpu", **given)
    assert str(raised.value) and "\n" not in str(raised.value)


def test_a_prompt_that_is_no_text() -> None:
    with pytest.raises(UserError, match="prompt is None; it must be a text"):
        run_masking_experiment(None, "demo")


@pytest.mark.parametrize(("wrong", "right"), [("num_tokens", "num_output_tokens"), ("span", "spans")])
def test_the_name_of_a_flag_leads_to_the_keyword(wrong: str, right: str) -> None:
    with pytest.raises(UserError, match=rf"unknown keyword '{wrong}'; did you mean {right}\? valid"):
        run_masking_experiment(PROMPT, "demo", **{wrong: 1})


def test_texts_are_read_as_on_the_command_line(folder: Path) -> None:
    text = run_masking_experiment(PROMPT, str(folder), "cpu", queries="1,3-4", layers="0", metrics="cosine,l2")
    listed = run_masking_experiment(PROMPT, str(folder), "cpu", queries=[(1, 1), (3, 4)], layers=[0])
    assert text.equals(listed) and sorted(text.query_position.unique()) == [1, 3, 4]
    windows = run_effects_experiment(PROMPT, str(folder), "cpu", mask_layers=[0, 1])
    assert windows.equals(run_effects_experiment(PROMPT, str(folder), "cpu", mask_layers="0,1"))


# --- extensions -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "details", "what"),
    [
        ("mine", {"key": "layers"}, "YAML key layers"),
        ("mine", {"flag": "--layers"}, "flag --layers"),
        ("vision", {}, "name vision"),
        ("output", {}, "name output"),
        ("formats", {}, "name formats"),
        ("request", {}, "name request"),
    ],
)
def test_a_field_that_clashes_is_named(name: str, details: dict, what: str) -> None:
    field = {"__annotations__": {name: str}, name: option("", "help", **details)}
    clashing = dataclass(frozen=True)(type("Clashing", (Request,), field))
    with pytest.raises(UserError, match=f"the field '{name}' of Clashing clashes: its {what} is taken"):
        mask_impact_analysis.main(["--model", "demo", "--prompt", PROMPT], request=clashing)


def test_help_may_hold_a_percent_sign(capsys: pytest.CaptureFixture[str]) -> None:
    @dataclass(frozen=True)
    class Half(Request):
        part: Path = option(Path("half"), "50% of it", metavar="P", parse=Path)  # noqa: RUF009

    with pytest.raises(SystemExit):
        mask_impact_analysis.main(["--help"], request=Half)
    assert "50% of it" in capsys.readouterr().out
    run = run_masking_experiment(PROMPT, "demo", "cpu", layers="0", request_type=Half).attrs["run"]
    assert run["request"]["part"] == "half"


# --- files ------------------------------------------------------------------------------------------------
def test_a_metric_of_another_program_is_read_by_its_manifest(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["--model", str(folder), "--prompt", PROMPT, "--output-dir", str(tmp_path), "--device", "cpu", "--quiet"]
    flags += ["--format", "csv,json,parquet,html"]
    own = Metric("length", "length_change", "Length", "", (0, None), lambda base, change, weights: change.norm(dim=-1))
    with monkeypatch.context() as while_there:
        while_there.setitem(METRICS, "length", own)
        assert mask_impact_analysis.main([*flags, "--output", "own", "--metrics", "length"]) == 0
    assert mask_impact_analysis.main([*flags, "--output", "plain"]) == 0
    for end in ("results.csv", "results.json", "results.parquet", "results.html", "run.json"):
        found = load(tmp_path / f"own_{end}")
        assert list(found.columns)[5:] == ["length_change"] and found.length_change.dtype == "float32", end
    page = write_report(tmp_path / "again.html", load(tmp_path / "own_run.json"))
    assert embedded(page.read_text("utf-8"))["metrics"][0]["title"] == "Length"
    assert {"length_change", "l2_distance"} <= set(load_many(tmp_path).columns)


def test_old_results_without_layers_are_kept(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--model", str(folder), "--prompt", PROMPT, "--output-dir", str(tmp_path), "--output", "x"]
    flags += ["--format", "csv", "--device", "cpu"]
    assert mask_impact_analysis.main(flags) == 0
    path = tmp_path / "x_run.json"
    manifest = json.loads(path.read_text())
    manifest["request"] |= {"layers": None}
    del manifest["request"]["metrics"]
    path.write_text(json.dumps(manifest))
    assert mask_impact_analysis.main([*flags, "--resume"]) == 0
    assert "kept" in capsys.readouterr().out
    path.write_text(json.dumps(manifest | {"request": None}))
    assert mask_impact_analysis.main([*flags, "--resume"]) == 0
    assert "cannot be read (" in capsys.readouterr().out


def test_pairs_of_a_single_unit_are_none(tmp_path: Path, folder: Path) -> None:
    flags = ["--model", str(folder), "--prompt", "Tom", "--mask-unit", "word", "--pairs", "2", "--device", "cpu"]
    assert mask_impact_analysis.main([*flags, "--output-dir", str(tmp_path), "--output", "x", "--format", "csv"]) == 0
    assert (tmp_path / "x_pairs.csv").read_text().count("\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full on this system")
def test_a_full_standard_output_is_not_a_full_folder(tmp_path: Path, folder: Path) -> None:
    command = [*PREPARED, str(ROOT / "mask_impact_analysis.py"), "--model", str(folder), "--prompt", PROMPT]
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [*command, "--device", "cpu"], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert ended.returncode == 1 and "the output cannot be printed (No space left on device)" in ended.stderr
    assert (tmp_path / "output" / "masking_run.json").exists()
