"""Checkpoints with keys that the model has no place for: constants are left out and named, weights are refused."""

from pathlib import Path

import checkpoints
import pytest
import torch
from as_people_have_them import command, loaded, logits
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen3ForCausalLM

from mask_impact.errors import UserError
from mask_impact.model.load import notes_of
from mask_impact.model.weights import ignored_keys

SIZE = 16
ANGLES = torch.arange(SIZE)[:, None] * torch.tensor([1.0, 0.1])
CONSTANTS = {
    "attn.masked_bias": torch.tensor(-1e4),
    "attn.old_masked_bias": torch.tensor([-1e9], dtype=torch.float16).clamp(-65504),
    "attn.causal_mask": torch.ones(SIZE, SIZE).tril().to(torch.uint8)[None, None],
    "attn.old_causal_mask": torch.ones(SIZE, SIZE).tril()[None, None],
    "attn.triangle": torch.ones(SIZE, SIZE, dtype=torch.bool).tril(),
    "attn.position_ids": torch.arange(SIZE)[None],
    "attn.cos_cached": ANGLES.cos(),
    "attn.sin_cached": ANGLES.sin(),
}
WEIGHTS = {
    "attn.gate.weight": torch.zeros(4, 4),
    "attn.norm.weight": torch.ones(4),
    "attn.old.bias": torch.zeros(4),
    "attn.scale": torch.tensor(0.5),
    "attn.gate": torch.tensor([-3.0]),
    "attn.packed.qweight": torch.zeros(4, 4, dtype=torch.int32),
    "attn.square": torch.eye(4),
    "attn.cosine": torch.rand(4, 4),
}


@pytest.fixture(scope="module", params=["gpt2", "qwen3", "llama"])
def good(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.decoder(tmp_path_factory.mktemp("weights") / "good", request.param)


def with_more(good: Path, folder: Path, extra: dict[str, torch.Tensor]) -> Path:
    folder.mkdir()
    for file in good.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    layer = "transformer.h.{}." if "gpt2" in (folder / "config.json").read_text() else "model.layers.{}."
    named = {layer.format(index) + key: value for index in range(2) for key, value in extra.items()}
    return checkpoints.change_weights(
        folder, lambda tensors: tensors.update({key: value.clone() for key, value in named.items()})
    )


@pytest.mark.parametrize("name", CONSTANTS)
def test_a_constant_is_left_out_and_noted(good: Path, tmp_path: Path, name: str) -> None:
    beside = {other for other in CONSTANTS if "cached" in other} if "cached" in name else {name}
    model = loaded(with_more(good, tmp_path / "model", {key: CONSTANTS[key] for key in beside}))
    assert torch.equal(logits(model, good), logits(AutoModelForCausalLM.from_pretrained(good), good))
    assert all(note.startswith("left out of the checkpoint: ") for note in notes_of(model)) and notes_of(model)


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_weight_without_a_place_is_refused_and_the_checkpoint_not_called_incomplete(
    good: Path, tmp_path: Path, name: str
) -> None:
    with pytest.raises(UserError, match=rf"has no place: \S+\.0\.{name} and 1 more; without them") as refused:
        loaded(with_more(good, tmp_path / "model", {name: WEIGHTS[name]}))
    assert "complete" not in str(refused.value)


def test_rotary_frequencies_of_older_checkpoints(tmp_path: Path) -> None:
    good = checkpoints.decoder(tmp_path / "good", "llama")
    frequencies = AutoModelForCausalLM.from_pretrained(good).model.rotary_emb.inv_freq
    for name in ("self_attn.rotary_emb.inv_freq", "self_attn.rotary.frequencies"):
        folder = with_more(good, tmp_path / name, {name: frequencies.to(torch.float16)})
        assert any(name in note for note in notes_of(loaded(folder)))
    with pytest.raises(UserError, match="has no place"):
        loaded(with_more(good, tmp_path / "other", {"self_attn.frequencies": frequencies * 2}))


def test_pickled_constants(tmp_path: Path) -> None:
    good = checkpoints.decoder(tmp_path / "good", "gpt2")
    folder = with_more(good, tmp_path / "safe", {"attn.masked_bias": torch.tensor(-1e4)})
    pickled = checkpoints.pickled(tmp_path / "pickled", folder)
    assert "masked_bias" in " ".join(notes_of(loaded(pickled, allow_pickle=True)))


def test_the_manifest_names_what_was_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = checkpoints.decoder(tmp_path / "good", "gpt2")
    folder = with_more(good, tmp_path / "model", {"attn.masked_bias": torch.tensor(-1e4)})
    notes = command(folder, tmp_path / "out")["notes"]
    assert notes == ["left out of the checkpoint: transformer.h.0.attn.masked_bias and 1 more (constants, no weights)"]


def test_what_the_family_leaves_out_itself_is_noted(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the layers with which some families predict further tokens; transformers says nothing of them."""
    if "Qwen3" not in (good / "config.json").read_text():
        good = checkpoints.qwen3(tmp_path / "good")
    monkeypatch.setattr(Qwen3ForCausalLM, "_keys_to_ignore_on_load_unexpected", [r"mtp\."])
    folder = with_more(good, tmp_path / "model", {"mtp.weight": torch.rand(4, 4)})
    (note,) = notes_of(loaded(folder))
    assert note.endswith("layers.0.mtp.weight and 1 more (Qwen3ForCausalLM computes without them)")


def test_transformers_is_put_back() -> None:
    before = PreTrainedModel._adjust_missing_and_unexpected_keys
    with pytest.raises(ValueError, match="inside"), ignored_keys():
        assert PreTrainedModel._adjust_missing_and_unexpected_keys is not before
        raise ValueError("inside")
    assert PreTrainedModel._adjust_missing_and_unexpected_keys is before


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_numbers_that_need_a_scale_are_no_weights(tmp_path: Path, dtype: torch.dtype) -> None:
    good = checkpoints.qwen3(tmp_path / "good")
    name = "model.layers.1.mlp.up_proj.weight"
    packed = checkpoints.change_weights(good, lambda tensors: tensors.update({name: (tensors[name] * 10).to(dtype)}))
    with pytest.raises(
        UserError, match=rf"stores {name} as (I8|F8_E4M3), and its config.json has no quantization_config"
    ):
        loaded(packed)
