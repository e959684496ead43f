"""A model in whatever state it comes: measured as it is in evaluation, and given back as it came."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import pytest
import torch
from as_people_have_them import PROMPT, table, worst_difference
from peft import LoraConfig, PrefixTuningConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

import mask_impact_analysis
from mask_impact.errors import UnsupportedModel, UserError
from mask_impact.jobs import session
from mask_impact.model import handed_over
from mask_impact.model.handed_over import measurable, unwrapped


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.qwen3(tmp_path_factory.mktemp("handed") / "model", attention_dropout=0.5)


def plain(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder)


def lora(model: Any) -> Any:
    torch.manual_seed(1)
    targets = ["q_proj", "v_proj", "o_proj", "down_proj"]
    return get_peft_model(model, LoraConfig(r=4, target_modules=targets, init_lora_weights=False, lora_dropout=0.5))


def compiled_layer(model: Any) -> Any:
    model.model.layers[1] = torch.compile(model.model.layers[1], backend="eager")
    return model


def compiled_in_place(model: Any) -> Any:
    model.compile(backend="eager")
    return model


def compiled_forward(model: Any) -> Any:
    model.forward = torch.compile(model.forward, backend="eager")
    return model


def checkpointing(model: Any) -> Any:
    model.gradient_checkpointing_enable()
    model.enable_input_require_grads()
    return model.train()


def prepared_by_accelerate(model: Any) -> Any:
    from accelerate.utils import convert_outputs_to_fp32

    model._original_forward = model.forward
    model.forward = convert_outputs_to_fp32(torch.autocast("cpu", dtype=torch.bfloat16)(model.forward))
    return model


STATES: dict[str, Callable[[Any], Any]] = {
    "as it is": lambda model: model,
    "training": lambda model: model.train(),
    "partly training": lambda model: model.eval() and model.model.layers[0].train() and model,
    "checkpointing": checkpointing,
    "parallel": nn.DataParallel,
    "compiled": lambda model: torch.compile(model, backend="eager"),
    "compiled in place": compiled_in_place,
    "compiled forward": compiled_forward,
    "compiled layer": compiled_layer,
    "compiled and parallel": lambda model: nn.DataParallel(torch.compile(model, backend="eager")),
    "prepared": prepared_by_accelerate,
    "frozen": lambda model: model.requires_grad_(False),
}


def state(model: Any) -> dict[str, Any]:
    """All that a caller could miss afterwards."""
    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        hooks = len(module._forward_hooks), len(module._forward_pre_hooks)
        flags = getattr(module, "gradient_checkpointing", None), getattr(module, "merged_adapters", None)
        found[name] = (type(module), module.training, vars(module).get("forward"), hooks, str(flags))
    return found


def same_state(model: Any, before: dict[str, Any], weights: dict[str, torch.Tensor]) -> bool:
    return state(model) == before and all(
        torch.equal(model.state_dict()[name], value) for name, value in weights.items()
    )


@pytest.mark.parametrize("name", STATES)
def test_every_state_gives_the_numbers_of_the_plain_model(folder: Path, name: str) -> None:
    model = STATES[name](plain(folder))
    before, weights = state(model), {name: value.clone() for name, value in model.state_dict().items()}
    found = table(model, folder)
    assert worst_difference(found, plain(folder).eval(), folder) < 1e-5
    assert same_state(model, before, weights)


@pytest.mark.parametrize("name", [*STATES, "adapted"])
def test_every_state_is_given_back_after_a_run_that_failed(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = {**STATES, "adapted": lora}[name](plain(folder))
    before, weights = state(model), {name: value.clone() for name, value in model.state_dict().items()}

    def fails(model: Any, *_: Any, **__: Any) -> None:
        assert not any(module.training for module in model.modules())
        raise ValueError("on the way")

    monkeypatch.setattr(session, "run_prepared", fails)
    with pytest.raises(ValueError, match="on the way"):
        table(model, folder)
    assert same_state(model, before, weights)


@pytest.mark.parametrize("head_space", ["output", "residual"])
@pytest.mark.parametrize("training", [True, False])
def test_an_adapted_model_gives_the_numbers_of_the_merged_one(folder: Path, training: bool, head_space: str) -> None:
    model = lora(plain(folder)).train(training)
    before, weights = state(model), {name: value.clone() for name, value in model.state_dict().items()}
    found = table(model, folder, head_space=head_space)
    assert same_state(model, before, weights)
    assert found.attrs["run"]["notes"] == ["the model's adapters (default) took part; they were merged for the run"]
    merged = model.merge_and_unload().eval()
    assert worst_difference(found, merged, folder, head_space) < 1e-5
    assert worst_difference(found, plain(folder).eval(), folder, head_space) > 0.1


def test_adapters_that_are_switched_off_or_merged_already(folder: Path) -> None:
    model = lora(plain(folder)).eval()
    with model.disable_adapter():
        found = table(model, folder)
    assert worst_difference(found, plain(folder).eval(), folder) < 1e-5 and found.attrs["run"]["notes"] == []
    model.merge_adapter()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    found = table(model, folder)
    assert same_state(model, state(model), weights)
    assert worst_difference(found, model.merge_and_unload(), folder) < 1e-5


def test_adapters_that_stay_beside_the_weights(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of quantised weights: the matrix under the adapter is not what the heads pass through."""
    monkeypatch.setattr(handed_over, "DENSE", ())
    model = lora(plain(folder)).train()
    with pytest.raises(UnsupportedModel, match="residual needs an output projection with a weight"):
        table(model, folder, head_space="residual")
    found = table(model, folder)
    assert worst_difference(found, model.merge_and_unload().eval(), folder) < 1e-5


def test_effects_of_a_model_in_training(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tables = [
        mask_impact_analysis.run_effects_experiment(PROMPT, model=model, tokenizer=tokenizer)
        for model in (plain(folder).eval(), plain(folder).train(), torch.compile(plain(folder), backend="eager"))
    ]
    assert (tables[0].logprob_change == tables[1].logprob_change).all()
    assert (tables[0].logprob_change == tables[2].logprob_change).all()


def test_autocast_around_the_call(folder: Path) -> None:
    """Heads are then not rounded to eight bits, and autocast is on again afterwards."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = table(plain(folder), folder)
        assert torch.is_autocast_enabled("cpu")
    assert worst_difference(found, plain(folder).eval(), folder) < 1e-5
    assert found.attrs["run"]["notes"] == ["autocast was on; the model was measured without it"]


@pytest.mark.parametrize("around", [torch.inference_mode, torch.no_grad, torch.enable_grad, contextlib.nullcontext])
def test_what_is_around_the_call(folder: Path, around: Callable[[], Any]) -> None:
    with around():
        found = table(plain(folder), folder)
    assert worst_difference(found, plain(folder).eval(), folder) < 1e-5


def test_what_cannot_be_measured_is_refused_in_one_line(folder: Path) -> None:
    prefix = get_peft_model(plain(folder), PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    for model, reason in (
        (prefix, r"adapter of the model \(PREFIX_TUNING\) adds virtual tokens to the prompt"),
        (nn.Linear(2, 2), "neither a transformers model nor one wrapped by"),
        ("a name", "neither a transformers model nor one wrapped by"),
    ):
        with pytest.raises(UserError, match=reason):
            table(model, folder)


def across(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
    return output + output.roll(1, 1)


def test_hooks_of_the_callers_own_are_named(folder: Path) -> None:
    """The note where they take part, and the refusal where the layer could not be measured for them."""
    model = plain(folder).eval()
    model.lm_head.register_forward_hook(lambda module, args, output: output)
    assert table(model, folder).attrs["run"]["notes"] == [
        "the model has hooks of its own on 1 module (lm_head); they took part"
    ]
    model.model.layers[1].mlp.register_forward_hook(across)
    with pytest.raises(UnsupportedModel, match=r"hooks of its own on 2 modules .*layers.1.mlp.*; take them off if"):
        table(model, folder)


def test_what_is_given_in_python(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    run = mask_impact_analysis.run_masking_experiment
    with pytest.raises(UserError, match="has no output head for tokens"):
        run(PROMPT, model=plain(folder).model, tokenizer=tokenizer)
    with pytest.raises(UserError, match=r"tokenizer is '.*'; pass what AutoTokenizer.from_pretrained gives"):
        run(PROMPT, model=plain(folder), tokenizer=str(folder))
    with pytest.raises(UserError, match=r"`model_name` is 3; it must be"):
        run(PROMPT, model_name=3)
    assert run(PROMPT, model_name=folder).equals(run(PROMPT, model_name=str(folder)))


@pytest.mark.parametrize("name, value", [("_output_attentions", True), ("return_dict", False)])
def test_what_a_config_says_of_outputs(folder: Path, name: str, value: bool) -> None:
    model = plain(folder).eval()
    model.config.__dict__[name] = value
    assert worst_difference(table(model, folder), plain(folder).eval(), folder) < 1e-5
    assert model.config.__dict__[name] is value


def test_measurable_is_nothing_for_a_model_that_is_ready(folder: Path) -> None:
    model = plain(folder).eval()
    before = state(model)
    with measurable(unwrapped(model)) as notes:
        assert notes == []
    assert state(model) == before
