"""Checkpoints with one fault each: the line names the file and the field, and the exit code is 2."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import checkpoints
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import mask_impact_analysis

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 12\n"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.qwen3(tmp_path_factory.mktemp("good") / "good")


@pytest.fixture(scope="module")
def lora(good: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = AutoModelForCausalLM.from_pretrained(good)
    config = LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(folder := tmp_path_factory.mktemp("lora") / "lora")
    return folder


@pytest.fixture
def case(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "case"))


def refused(case: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    """The line that the command says."""
    given = ["--model", str(case), "--prompt", "The capital", "--output-dir", str(case.parent / "out"), "--quiet"]
    assert mask_impact_analysis.main([*given, *flags]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and not re.search(r"Error\b|NoneType|<class", said)
    return said


@pytest.mark.parametrize(
    "file, content, why",
    [
        ("generation_config.json", '{"eos_token_id": "x"}', "has eos_token_id 'x'; it must be a token's number"),
        ("generation_config.json", '{"eos_token_id": [1, [2]]}', r"has eos_token_id \[1, \[2\]\]"),
        ("generation_config.json", "[]", "holds a list"),
        ("generation_config.json", "null", "holds null"),
        ("generation_config.json", "{", "is not JSON"),
        ("tokenizer.json", "{}", "has no model"),
        ("tokenizer.json", "null", "holds null"),
        ("tokenizer_config.json", "[]", "holds a list"),
        ("special_tokens_map.json", "[]", "holds a list"),
        ("added_tokens.json", "[]", "holds a list"),
        ("config.json", "null", "holds null"),
        ("model.safetensors", POINTER, "is only a pointer of Git LFS; fetch the file itself with: git lfs pull"),
        ("tokenizer.json", POINTER, "is only a pointer of Git LFS"),
    ],
)
def test_a_file(case: Path, file: str, content: str, why: str, capsys: pytest.CaptureFixture[str]) -> None:
    (case / file).write_text(content)
    assert re.search(f"{file}'? {why}", refused(case, capsys))


def test_the_index_of_the_weights(case: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (case / "model.safetensors").unlink()
    for content in ("[]", "{}"):
        (case / "model.safetensors.index.json").write_text(content)
        assert "its model.safetensors.index.json h" in refused(case, capsys)


@pytest.mark.parametrize(
    "name, value",
    [
        ("hidden_act", "foo"),
        ("num_attention_heads", 0),
        ("num_hidden_layers", "two"),
        ("quantization_config", "x"),
        ("architectures", 3),
        ("dtype", "foo"),
        ("eos_token_id", "x"),
    ],
)
def test_a_field_of_the_config(case: Path, name: str, value: Any, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(checkpoints.change_config(case, **{name: value}), capsys)
    assert re.search(rf"config.json'? has {name} {value!r}", said)


@pytest.mark.parametrize(
    "changed", [{"r": "four"}, {"target_modules": "(("}, {"lora_alpha": "x"}, {"target_modules": 3}]
)
def test_a_field_of_an_adapter(
    case: Path, lora: Path, changed: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = Path(shutil.copytree(lora, tmp_path / "lora")) / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changed))
    assert "its adapter_config.json has " in refused(case, capsys, "--adapter", str(config.parent))


def test_an_adapter_of_no_numbers(case: Path, lora: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    weights = Path(shutil.copytree(lora, tmp_path / "lora")) / "adapter_model.safetensors"
    save_file({name: weight * torch.nan for name, weight in load_file(weights).items()}, weights)
    assert "q_proj.lora_A.weight has values that are no numbers" in refused(
        case, capsys, "--adapter", str(tmp_path / "lora")
    )
    weights.write_text(POINTER)
    assert "pointer of Git LFS" in refused(case, capsys, "--adapter", str(tmp_path / "lora"))


@pytest.mark.parametrize(
    "weight, factor, why",
    [
        ("1.mlp.up_proj", 1e30, "numbers are too large in float32: a vector of layer 1"),
        ("1.self_attn.v_proj", 1e19, "numbers are too large in float32: a vector of layer 1"),
        ("0.mlp.up_proj", float("inf"), "no numbers (NaN or infinite) in float32: model.layers.0.mlp.up_"),
        (
            "1.self_attn.q_proj",
            float("nan"),
            "no numbers (NaN or infinite) in float32: model.layers.1.self_attn.q_",
        ),
    ],
)
def test_weights_that_overflow(
    case: Path, weight: str, factor: float, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    key = f"model.layers.{weight}.weight"
    checkpoints.change_weights(case, lambda tensors: tensors.update({key: tensors[key] * factor}))
    assert why in refused(case, capsys)


def test_a_config_that_asks_for_tuples(case: Path, tmp_path: Path) -> None:
    checkpoints.change_config(case, return_dict=False)
    given = ["--model", str(case), "--prompt", "The capital", "--output-dir", str(tmp_path / "out")]
    assert mask_impact_analysis.main(given) == 0


def test_resume_of_a_file_that_was_cut(case: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--model", str(case), "--prompt", "The", "--output-dir", str(tmp_path / "out"), "--output", "one"]
    assert mask_impact_analysis.main(given) == 0
    files = sorted((tmp_path / "out").glob("one_results.*"))
    whole = {file: file.read_bytes() for file in files}
    for file in files:
        file.write_bytes(whole[file][: len(whole[file]) // 2])
        capsys.readouterr()
        assert mask_impact_analysis.main([*given, "--resume"]) == 0
        assert (
            f"{file.name} has {len(whole[file]) // 2} bytes, and {len(whole[file])} were written"
            in capsys.readouterr().out
        )
        assert file.read_bytes()[-9:] == whole[file][-9:]
    manifest = tmp_path / "out" / "one_run.json"
    old = {key: value for key, value in json.loads(manifest.read_text()).items() if key not in ("bytes", "checksums")}
    manifest.write_text(json.dumps(old))
    capsys.readouterr()
    assert mask_impact_analysis.main([*given, "--resume"]) == 0
    assert capsys.readouterr().out.startswith("kept")
    manifest.write_text("{")
    assert mask_impact_analysis.main([*given, "--resume"]) == 0
    assert "one_run.json cannot be read (" in capsys.readouterr().out
