"""A whole run: order of the rows, manifest, notes, and the refusals that need more than one layer."""

from typing import Any

import numpy as np
import pytest
import torch
from brute_force import distances, observe, variants
from families import build, find, prompt
from float64 import true_float64

from mask_impact.errors import UnsupportedModel, UserError
from mask_impact.experiment import Options, Run, run
from mask_impact.inputs import ModelInputs, Token
from mask_impact.masking import QueryAttention
from mask_impact.results import Block


class Words:
    """A stand-in tokenizer: token 7 is "w7"."""

    all_special_ids: tuple[int, ...] = (0, 1, 2)
    eos_token_id = None

    def decode(self, ids: list[int], **_: Any) -> str:
        return " ".join(f"w{i}" for i in ids)

    def convert_ids_to_tokens(self, token_id: int) -> str:
        return f"w{token_id}"

    def get_vocab(self) -> dict[str, int]:
        return {}


def inputs(length: int = 9) -> ModelInputs:
    ids = prompt(length)
    tokens = [Token(i, token_id, f"w{token_id}", "text") for i, token_id in enumerate(ids[0].tolist())]
    return ModelInputs({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, tokens, "a prompt", False)


def analyse(name: str, length: int = 9, model: Any = None, **options: Any) -> tuple[list[Block], Run]:
    blocks: list[Block] = []
    model = model or build(name)
    model.generation_config.eos_token_id = model.config.eos_token_id = None
    found = run(model, Words(), inputs(length), Options(**options), blocks.append)
    return blocks, found


def test_blocks_come_in_order_and_cover_every_position() -> None:
    blocks, found = analyse("llama", num_tokens=3)
    assert [(b.generation_step, b.layer) for b in blocks] == [(s, layer) for s in range(3) for layer in range(3)]
    for block in blocks:
        assert block.positions.tolist() == list(range(9 + block.generation_step))
        assert list(block.variants) == ["Full", "Attn", "Head_0", "Head_1", "Head_2", "Head_3"]
        assert block.l2.dtype == np.float32 and (block.l2 > 0).all()
    generated = [entry["text"] for entry in found.manifest["generated"]]
    assert list(blocks[-1].tokens[9:]) == generated[:2], "generated tokens are masked too, except the last"


def test_only_what_was_asked_for() -> None:
    blocks, found = analyse("llama", layers=(0, 2), variants=("attn",))
    assert [b.layer for b in blocks] == [0, 2] == found.manifest["layers"]
    assert list(blocks[0].variants) == ["Attn"] == found.manifest["variants"]
    everything, _ = analyse("llama")
    np.testing.assert_allclose(blocks[1].l2[:, 0], everything[2].l2[:, 1], rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variants": ("fool",)}, "unknown variant 'fool'; choose from full, attn, head"),
        ({"variants": ()}, "no variant was chosen"),
        ({"head_space": "input"}, "unknown head space 'input'; choose from output, residual"),
        ({"layers": (1, 3)}, "there is no layer 3; this model has layers 0 to 2"),
        ({"num_tokens": 200}, "208 positions, but this model has 128"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        analyse("llama", **options)


def test_hybrid_layers_are_named() -> None:
    blocks, found = analyse("qwen3_next")
    assert [b.layer for b in blocks] == [1]
    assert [entry["layer"] for entry in found.manifest["skipped_layers"]] == [0, 2]
    assert "GatedDeltaNet" in found.manifest["skipped_layers"][0]["reason"]
    with pytest.raises(UserError, match="this model has it in layers 1"):
        analyse("qwen3_next", layers=(0,))


def test_noise_floor_is_small_and_there() -> None:
    _, found = analyse("llama")
    for name in ("Full", "Head"):
        assert 0 < found.manifest["noise_floor"][name]["relative"] < 1e-5


def test_a_one_token_prompt_says_so_once() -> None:
    _, found = analyse("llama", length=1, num_tokens=2)
    assert [note for note in found.manifest["notes"] if "nothing to attend to" in note] == found.manifest["notes"]


def test_masks_that_do_nothing_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(self: QueryAttention, masks: Any) -> torch.Tensor:
        return torch.zeros(len(masks), *self.output.shape)

    monkeypatch.setattr(QueryAttention, "changes", nothing)
    with pytest.raises(UnsupportedModel, match=r"'llama' cannot be measured truthfully.*changes nothing"):
        analyse("llama")


def test_one_token_that_is_never_masked_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check at the end: a token with real weight that moved nothing in any layer."""
    honest = QueryAttention.changes

    def all_but_position_4(self: QueryAttention, masks: Any) -> torch.Tensor:
        return honest(self, [[p for p in mask if p != 4] for mask in masks])

    monkeypatch.setattr(QueryAttention, "changes", all_but_position_4)
    with pytest.raises(UnsupportedModel, match=r"position 4 bears on its attention, but masking it changed nothing"):
        analyse("llama")


def dynamic_model(dtype: torch.dtype) -> Any:
    """Llama with dynamic NTK, and shorter than the test's prompts: every length has other frequencies."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}
    config = LlamaConfig(vocab_size=97, num_key_value_heads=2, max_position_embeddings=6, **shape)
    if hasattr(config, "rope_parameters"):
        config.rope_parameters = rope
    else:
        config.rope_scaling = rope
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).to(dtype).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=1.5 / parameter.shape[-1] ** 0.5)
    return model


def test_positions_that_depend_on_the_length_get_a_forward_per_step() -> None:
    """Dynamic NTK: each step against a fresh run on its prefix, which a cache would not give."""
    model = dynamic_model(torch.float64)
    with true_float64():
        model(prompt(20))  # a longer input before must not matter
        blocks, found = analyse("", model=model, num_tokens=3)
        assert any("forward of its own" in note for note in found.manifest["notes"])
        ids = torch.tensor([[entry["id"] for entry in found.manifest["tokens"]]])
        for block in blocks:
            query = 8 + block.generation_step
            prefix = ids[:, : query + 1]
            model(ids[:, :1])  # forget the frequencies of longer inputs, which transformers keeps
            base = observe(model, find("llama"), prefix)[block.layer].at(query)
            for masked in (0, 4, query):
                changed = observe(model, find("llama"), prefix, block.layer, [masked])[block.layer].at(query)
                for column, (variant, before, after) in enumerate(variants(base, changed)):
                    expected, _ = distances(before, after)
                    assert block.l2[masked, column] == pytest.approx(expected, rel=1e-6), (query, variant)


def test_another_prompt_gives_other_numbers() -> None:
    """A guard against results that do not come from the prompt at all."""
    here, _ = analyse("llama", length=9)
    there, _ = analyse("llama", length=8)
    assert not np.allclose(here[0].l2[:8], there[0].l2, rtol=0.01)


def test_a_model_in_training_is_measured_without_dropout() -> None:
    model = build("gpt2")
    expected, _ = analyse("gpt2", model=model)
    model.train()
    found, _ = analyse("gpt2", model=model)
    assert model.training and model.transformer.h[0].training
    for here, there in zip(found, expected, strict=True):
        np.testing.assert_array_equal(here.l2, there.l2)


def test_a_prompt_of_one_repeated_token_is_not_refused() -> None:
    """All values are equal, so that no mask changes anything: true, and no fault of the masks."""
    ids = torch.full((1, 6), 7)
    tokens = [Token(i, 7, "w7", "text") for i in range(6)]
    blocks: list[Block] = []
    same = ModelInputs({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, tokens, "w7", False)
    run(build("llama"), Words(), same, Options(), blocks.append)
    assert max(block.l2.max() for block in blocks) < 1e-4
