"""A config that asks for an attention kernel: loaded without it, the same numbers, and a note."""

from pathlib import Path

import checkpoints
import pytest
import torch
from as_people_have_them import command, loaded, logits
from transformers import AutoModelForCausalLM
from transformers.models.qwen3.modeling_qwen3 import Qwen3PreTrainedModel
from vl_families import make_vl_checkpoint

from mask_impact.model import find
from mask_impact.model.implementations import parts_of
from mask_impact.model.load import load_model, notes_of

KERNELS = ["flash_attention_2", "flash_attention_3", "flex_attention", "kernels-community/flash-attn2", "paged|sdpa"]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.qwen3(tmp_path_factory.mktemp("kernels") / "good")


def asking_for(good: Path, folder: Path, name: str | dict[str, str]) -> Path:
    folder.mkdir()
    for file in good.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return checkpoints.change_config(folder, _attn_implementation=name)


@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_in_the_config(good: Path, tmp_path: Path, name: str) -> None:
    folder = asking_for(good, tmp_path / "model", name)
    manifest = command(folder, tmp_path / "out")
    (note,) = manifest["notes"]
    assert f"asks for attention by {name}; it was loaded with sdpa" in note
    assert manifest["attention_implementation"] == "sdpa"
    assert torch.equal(logits(loaded(folder), good), logits(AutoModelForCausalLM.from_pretrained(good), good))


@pytest.mark.parametrize("name", ["sdpa", "flash_attention_2", "eager"])
def test_a_family_without_sdpa(good: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Qwen3PreTrainedModel, "_supports_sdpa", False)
    model = loaded(asking_for(good, tmp_path / "model", name))
    assert model.config._attn_implementation == "eager"


def test_eager_stays_what_was_asked_for(good: Path, tmp_path: Path) -> None:
    model = loaded(asking_for(good, tmp_path / "model", "eager"))
    assert model.config._attn_implementation == "eager" and notes_of(model) == ()


@pytest.mark.parametrize("where", ["whole", "vision_config"])
def test_a_kernel_for_the_vision_tower(tmp_path: Path, where: str) -> None:
    folder = Path(make_vl_checkpoint("qwen3_vl", tmp_path / "model"))
    name = "flash_attention_2"
    if where == "whole":
        checkpoints.change_config(folder, _attn_implementation=name)
    else:
        checkpoints.change_config(folder, _attn_implementation={"vision_config": name, "text_config": "sdpa"})
    source = find.find_model(str(folder), vision=True)
    model = load_model(source, torch.device("cpu"), torch.float32)
    assert {part._attn_implementation for part in parts_of(model.config)} == {"sdpa"}
    assert [name in note for note in notes_of(model)] == [True]
