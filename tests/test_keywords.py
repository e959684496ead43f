"""The keywords of the four Python functions: what they are, what is said of a wrong one, and what they leave undone."""

import importlib
import inspect
from typing import Any

import make_keywords
import pytest

import mask_impact_analysis
import mask_impact_vl
from mask_impact.effects.asked import windows_of
from mask_impact.errors import UserError
from mask_impact.impact import run as impact_run
from mask_impact.jobs import keywords
from mask_impact.jobs.from_python import keywords_of
from mask_impact.options import Request

PROMPT = "The capital of France is"
ARGUMENTS = {"prompt", "image_path", "mask_mode", "model_name", "device", "num_output_tokens", "model", "tokenizer"}
ARGUMENTS |= {"processor", "dtype", "request_type", "request"}


def function(name: str) -> Any:
    script = mask_impact_vl if "_vl_" in name else mask_impact_analysis
    return getattr(script, name)


def test_generated_files_are_fresh() -> None:
    """`python tools/make_keywords.py` renews them."""
    assert make_keywords.MODULE.read_text("utf-8") == make_keywords.module()
    text = make_keywords.PAGE.read_text("utf-8")
    assert text == make_keywords.page(text)


@pytest.mark.parametrize("name", make_keywords.CLASSES)
def test_functions_have_few_arguments_and_typed_keywords(name: str) -> None:
    called, vision, effects = make_keywords.CLASSES[name]
    parameters = inspect.signature(function(called)).parameters
    assert set(parameters) <= ARGUMENTS
    assert parameters["request"].kind is inspect.Parameter.VAR_KEYWORD
    assert parameters["request"].annotation == f"Unpack[{name}]"
    types = getattr(importlib.reload(keywords), name)
    assert set(types.__annotations__) == set(keywords_of(Request, vision, effects))


@pytest.mark.parametrize("name", [called for called, _, _ in make_keywords.CLASSES.values()])
def test_an_unknown_keyword_is_named_with_the_nearest_and_all_valid_ones(name: str) -> None:
    with pytest.raises(UserError, match=r"unknown keyword 'ablatoin'; did you mean ablation\? valid keywords: .*spans"):
        function(name)(PROMPT, model_name="demo", ablatoin="neg-inf")


@pytest.mark.parametrize(
    ("wrong", "part"),
    [
        ({"mask_layers": "all"}, "unknown keyword 'mask_layers'; it is for functions for effects; valid"),
        ({"regions": ["0,0,1,1"]}, "unknown keyword 'regions'; it is for vision models; valid"),
        (
            {"trace_layers": True},
            "unknown keyword 'trace_layers'; it is for the command alone, as --trace-layers; valid",
        ),
        ({"prompt_file": "x"}, "valid keywords: answer, layers, variants, metrics"),
        ({"metrics": ["l1"]}, "unknown metric 'l1'; choose from l2, cosine"),
        ({"metrics": []}, "no metric was chosen"),
        ({"variants": "full,mlp"}, "variants unknown 'mlp'; choose from full, attn, head"),
        ({"ablation": "mean"}, "unknown ablation 'mean'"),
    ],
)
def test_wrong_keywords(wrong: dict[str, Any], part: str) -> None:
    with pytest.raises(UserError, match=part):
        mask_impact_analysis.run_masking_experiment(PROMPT, "demo", **wrong)


def test_a_list_is_a_list_or_a_text() -> None:
    run = mask_impact_analysis.run_masking_experiment
    as_list = run(PROMPT, "demo", variants=["full", "attn"], layers=[0, 1])
    as_text = run(PROMPT, "demo", variants="full,attn", layers="0-1")
    assert as_list.equals(as_text) and set(as_list.variant) == {"Full", "Attn"}


def test_effects_alone_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """No layer is masked and no table made that would be thrown away; the tokens are those of a run."""
    whole = mask_impact_analysis.run_masking_experiment(PROMPT, "demo", num_output_tokens=3, variants=["full"])
    monkeypatch.setattr(impact_run, "run", lambda *args: pytest.fail("layers were masked"))
    table = mask_impact_analysis.run_effects_experiment(PROMPT, "demo", num_output_tokens=3, pairs=2)
    found, expected = table.attrs["run"], whole.attrs["run"]
    assert {"generated", "tokens", "stop_reason"} <= set(found)
    for key in ("generated", "tokens", "stop_reason", "model"):
        assert found[key] == expected[key], key
    assert found["layers"] == found["variants"] == [] and set(table.generation_step) == {-1, 0, 1, 2}
    window = windows_of("all", found["model"]["layers"])[0]
    assert set(table.last_layer) == {window.last}


def test_effects_of_pictures_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(impact_run, "run", lambda *args: pytest.fail("layers were masked"))
    image = make_keywords.ROOT / "testimg.png"
    table = mask_impact_vl.run_vl_effects_experiment("What color is the circle?", image, "demo", mask_mode="vision")
    assert table.attrs["run"]["mask_mode"] == "vision" and len(table) == 16
