"""Adapters: merged where they are asked for, refused where they lie beside weights or belong to another model."""

import json
import shutil
from pathlib import Path
from typing import Any

import checkpoints
import pytest
import torch
from as_people_have_them import PROMPT, command, loaded, logits, table, worst_difference
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM

import mask_impact_analysis
from mask_impact.errors import UserError
from mask_impact.files.results import load as load_results
from mask_impact.model import adapters, find
from mask_impact.model.load import notes_of

EVERYWHERE = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "lm_head"]


def adapter(folder: Path, base: Path, config: Any = None, seed: int = 1) -> Path:
    """One that changes much, of `base`."""
    torch.manual_seed(seed)
    config = config or LoraConfig(r=4, target_modules=EVERYWHERE, init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.qwen3(tmp_path_factory.mktemp("adapters") / "base")


@pytest.fixture(scope="module")
def lora(base: Path) -> Path:
    return adapter(base.with_name("lora"), base)


@pytest.mark.parametrize("head_space", ["output", "residual"])
def test_a_run_with_an_adapter_is_one_of_the_merged_model(
    base: Path, lora: Path, tmp_path: Path, head_space: str
) -> None:
    manifest = command(base, tmp_path / "out", "--adapter", str(lora), "--head-space", head_space)
    found = load_results(tmp_path / "out" / "run_run.json")
    merged = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), lora).merge_and_unload()
    assert worst_difference(found, merged, base, head_space) < 1e-5
    assert worst_difference(found, AutoModelForCausalLM.from_pretrained(base), base, head_space) > 0.1
    assert manifest["model"]["adapter"] == str(lora)
    assert manifest["notes"] == [f"the adapter {lora} (LORA, rank 4, trained for {base}) is merged into the weights"]


@pytest.mark.parametrize("kind", ["LoHaConfig", "IA3Config", "VeraConfig", "DoRA"])
def test_other_kinds_of_adapters(base: Path, tmp_path: Path, kind: str) -> None:
    import peft

    targets: dict[str, Any] = {"target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
    if kind == "DoRA":
        config = LoraConfig(use_dora=True, init_lora_weights=False, **targets)
    elif kind == "IA3Config":
        config = peft.IA3Config(feedforward_modules=[], init_ia3_weights=False, **targets)
    else:
        config = getattr(peft, kind)(**targets)
    folder = adapter(tmp_path / "adapter", base, config)
    merged = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder).merge_and_unload()
    model = loaded(base, adapter=str(folder))
    for name, weight in merged.named_parameters():
        assert torch.equal(model.get_parameter(name), weight), name
    assert not isinstance(model, PeftModel) and folder.name in " ".join(notes_of(model))


def test_an_adapter_of_another_model_is_refused(base: Path, lora: Path, tmp_path: Path) -> None:
    others = {
        "wider": checkpoints.qwen3(tmp_path / "wider", hidden_size=64),
        "deeper": checkpoints.qwen3(tmp_path / "deeper", num_hidden_layers=3),
        "shallower": checkpoints.qwen3(tmp_path / "shallower", num_hidden_layers=1),
        "family": checkpoints.decoder(tmp_path / "family", "gpt2"),
    }
    for name, folder in others.items():
        with pytest.raises(
            UserError, match=rf"`adapter` .* does not fit the model; it was trained for {base}"
        ) as found:
            loaded(folder, adapter=str(lora))
        assert "\n" not in str(found.value), name


def test_what_is_no_adapter_is_refused_before_the_weights_are_read(
    base: Path, lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, reason in (
        (tmp_path / "none", "has no adapter_config.json"),
        (base, "has no adapter_config.json"),
        (Path(shutil.copytree(lora, tmp_path / "cut")), "has no adapter_model.safetensors"),
        (
            adapter(tmp_path / "p", base, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)),
            "PROMPT_TUNING",
        ),
    ):
        (tmp_path / "cut" / "adapter_model.safetensors").unlink(missing_ok=True)
        with pytest.raises(UserError, match=reason):
            find.find_model(str(base), adapter=str(folder))
    monkeypatch.setattr(adapters.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs the package peft, which is not installed; pip install peft"):
        find.find_model(str(base), adapter=str(lora))


@pytest.mark.parametrize("file", ["{", "[]", "3"])
def test_a_damaged_config(base: Path, lora: Path, tmp_path: Path, file: str) -> None:
    folder = Path(shutil.copytree(lora, tmp_path / "damaged"))
    (folder / "adapter_config.json").write_text(file)
    with pytest.raises(UserError, match=r"adapter_config.json' is not JSON as peft saves it"):
        find.find_model(str(base), adapter=str(folder))


def test_an_adapter_beside_weights_and_one_alone(base: Path, lora: Path, tmp_path: Path) -> None:
    both = Path(shutil.copytree(base, tmp_path / "both"))
    for file in lora.glob("adapter_*"):
        shutil.copy(file, both)
    with pytest.raises(UserError, match=r"has an adapter .* beside its weights, .* merge it .* `adapter`"):
        find.find_model(str(both))
    with pytest.raises(
        UserError, match=rf"is not a model but an adapter .* for {base}; give the base model as `model`"
    ):
        find.find_model(str(lora))


def test_an_adapter_of_tied_weights_is_refused_and_acts_where_it_was_handed_over(tmp_path: Path) -> None:
    """Merged into the output's matrix, it would change the embeddings as well, which the adapted model does not."""
    tied = checkpoints.qwen3(tmp_path / "tied", tie_word_embeddings=True)
    config = LoraConfig(r=4, target_modules=["lm_head", "q_proj"], init_lora_weights=False)
    folder = adapter(tmp_path / "adapter", tied, config)
    with pytest.raises(UserError, match=r"changes lm_head, whose weights the model also uses elsewhere"):
        loaded(tied, adapter=str(folder))
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tied), folder)
    generated = table(model, tied).attrs["run"]["generated"]
    expected = logits(model, tied)[0, -1].softmax(-1)
    assert generated[0]["id"] == int(expected.argmax())
    assert generated[0]["probability"] == pytest.approx(float(expected.max()), rel=1e-5)


def test_the_adapter_is_part_of_what_resume_compares(base: Path, lora: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(lora, tmp_path / "lora"))
    plain, before = (find.fingerprint(find.find_model(str(base), adapter=each)) for each in (None, str(copy)))
    adapter(copy, base, seed=2)
    assert len({plain, before, find.fingerprint(find.find_model(str(base), adapter=str(copy)))}) == 3


def test_a_model_that_transformers_gave_an_adapter(base: Path, lora: Path) -> None:
    """`load_adapter` puts it into the model, which stays of its own class."""
    model = AutoModelForCausalLM.from_pretrained(base)
    model.load_adapter(str(lora))
    merged = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), lora).merge_and_unload()
    assert worst_difference(table(model, base, head_space="residual"), merged, base, "residual") < 1e-5


def test_the_command_says_it_in_one_line(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--model", str(base), "--prompt", PROMPT, "--adapter", str(tmp_path), "--output-dir", str(tmp_path)]
    assert mask_impact_analysis.main(given) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not json.loads((base / "config.json").read_text()).get("adapter")


def test_an_empty_name_is_no_adapter(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As `--adapter "$UNSET"` in a script gives it."""
    assert mask_impact_analysis.main(["--model", str(base), "--prompt", "The capital", "--adapter", ""]) == 2
    assert "--adapter '' has no adapter_config.json" in capsys.readouterr().err
