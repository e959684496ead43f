"""A whole run: order of the rows, manifest, notes, and the refusals that need more than one layer."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from asking import asked
from brute_force import distances, observe, variants
from families import build, find, prompt
from float64 import true_float64
from value_zeroing import values_zeroed

from mask_impact.errors import UnsupportedModel, UserError
from mask_impact.files.results import Block
from mask_impact.impact.masking import Masked, QueryAttention
from mask_impact.impact.run import Run, run
from mask_impact.options import ABLATIONS
from mask_impact.prompt.inputs import ModelInputs, Token


class Words:
    """A stand-in tokenizer: token 7 is "w7"."""

    all_special_ids: tuple[int, ...] = (0, 1, 2)
    eos_token_id = None

    def __len__(self) -> int:
        return 0

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


def analyse(
    name: str, length: int = 9, model: Any = None, units: Any = None, **options: Any
) -> tuple[list[Block], Run]:
    blocks: list[Block] = []
    model = model or build(name)
    model.generation_config.eos_token_id = model.config.eos_token_id = None
    found = run(model, asked(model, Words(), inputs(length), units, **options), blocks.append)
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


def test_masks_that_do_nothing_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run then sets them in whole calls of the layers."""
    honest = QueryAttention.masked
    monkeypatch.setattr(QueryAttention, "masked", lambda self, masks: honest(self, [[] for _ in masks]))
    blocks, run = analyse("llama")
    assert run.manifest["replay"] == "fallback" and all((block.l2 > 0).any() for block in blocks)
    (note,) = (note for note in run.manifest["notes"] if "changes nothing" in note)
    assert "could not be replayed on single rows" in note


def test_one_token_that_is_never_masked_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check at the end: a token with real weight that moved nothing in any layer."""
    honest = QueryAttention.masked

    def all_but_position_4(self: QueryAttention, masks: Any) -> Masked:
        return honest(self, [[p for p in mask if p != 4] for mask in masks])

    monkeypatch.setattr(QueryAttention, "masked", all_but_position_4)
    with pytest.raises(UnsupportedModel, match=r"position 4 bears on its attention, but masking it changed nothing"):
        analyse("llama")


def test_what_a_window_hides_in_the_chosen_layer_is_read_in_another() -> None:
    """Position 0 is beyond the window of layer 0, and layer 1 reads it: a mask in layer 0 changes nothing, rightly."""
    blocks, run = analyse("gemma2", layers=(0,), num_tokens=2)
    assert run.manifest["replay"] == "rows" and not blocks[0].l2[:, 0].all() and blocks[0].l2.any()


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
    model = build("llama")
    run(model, asked(model, Words(), same), blocks.append)
    assert max(block.l2.max() for block in blocks) < 1e-4


# --- tokens that are masked together ----------------------------------------------------------------------
@dataclass(frozen=True)
class Unit:
    label: str
    positions: tuple[int, ...]


def same(found: list[Block], expected: list[Block], within: float = 0.0) -> None:
    """Bit for bit, or `within` that share of the largest distance, where other queries are measured together."""
    for here, there in zip(found, expected, strict=True):
        assert (here.generation_step, here.layer) == (there.generation_step, there.layer)
        assert list(here.tokens) == list(there.tokens) and list(here.variants) == list(there.variants)
        np.testing.assert_array_equal(here.positions, there.positions)
        for name in ("l2", "cosine"):
            wanted = getattr(there, name)
            np.testing.assert_allclose(getattr(here, name), wanted, rtol=0, atol=within * wanted.max())


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2", "gpt_oss", "mixtral"])
@pytest.mark.parametrize("ablation", ABLATIONS)
def test_units_of_one_token_are_the_tokens(name: str, ablation: str) -> None:
    expected, plain = analyse(name, num_tokens=2, ablation=ablation)
    found, manifest = analyse(
        name,
        num_tokens=2,
        ablation=ablation,
        units=lambda tokens: [Unit(token.text, (token.position,)) for token in tokens],
    )
    same(found, expected)
    assert plain.manifest["units"] is None and plain.manifest["masks"] == "every token by itself"
    assert [unit["positions"] for unit in manifest.manifest["units"]] == [[position] for position in range(10)]


def pairs(tokens: Any) -> list[Unit]:
    """Neighbours two by two; all tokens; and one unit that is not there yet in the first step."""
    two = [tokens[place : place + 2] for place in range(0, len(tokens), 2)]
    parts = [Unit("+".join(token.text for token in part), tuple(token.position for token in part)) for part in two]
    return [*parts, Unit("all", tuple(range(len(tokens)))), Unit("next", (9, 10)), Unit("end", (7, 8, 9, 10))]


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_units_equal_brute_force(ablation: str) -> None:
    model = build("llama", dtype=torch.float64)
    with true_float64():
        blocks, found = analyse("", model=model, num_tokens=2, ablation=ablation, units=pairs)
        ids = torch.tensor([[entry["id"] for entry in found.manifest["tokens"]]])
        for block in blocks:
            query = 8 + block.generation_step
            base = observe(model, find("llama"), ids[:, : query + 1])[block.layer].at(query)
            for row, unit in enumerate(pairs(inputs().tokens[: query + 1] if query == 8 else found_tokens(found))):
                assert (block.tokens[row], block.positions[row]) == (unit.label, unit.positions[0])
                masked = [position for position in unit.positions if position <= query]
                if ablation == "neg-inf":
                    changed = observe(model, find("llama"), ids[:, : query + 1], block.layer, masked)
                else:
                    with values_zeroed(model, find("llama"), block.layer, query, [masked]):
                        changed = observe(model, find("llama"), ids[:, : query + 1])
                for column, (variant, before, after) in enumerate(variants(base, changed[block.layer].at(query))):
                    expected, _ = distances(before, after)
                    assert block.l2[row, column] == pytest.approx(expected, rel=1e-6), (query, unit, variant)
    assert found.manifest["masks"] == "the tokens of each unit together"
    assert found.manifest["units"][0] == {"label": blocks[0].tokens[0], "positions": [0, 1]}
    assert found.manifest["units"][-1] == {"label": "end", "positions": [7, 8, 9, 10]}


def found_tokens(found: Run) -> list[Token]:
    """The tokens that the query of the last step sees."""
    return [Token(**entry) for entry in found.manifest["tokens"][:-1]]


def test_a_unit_without_a_visible_member_moves_nothing() -> None:
    """Later than the query, and outside the window of 5; the rest of a unit counts."""
    units = [Unit("later", (9, 12)), Unit("far", (0, 1, 2)), Unit("near", (0, 7, 12)), Unit("seven", (7,))]
    blocks, _ = analyse("mistral", units=lambda tokens: units)
    for block in blocks:
        assert block.positions.tolist() == [9, 0, 0, 7]
        assert (block.l2[:2] == 0).all() and (block.cosine[:2] == 0).all()
        np.testing.assert_array_equal(block.l2[2], block.l2[3])
        assert (block.l2[3] > 0).all()


def test_a_unit_that_is_never_masked_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = QueryAttention.masked

    def all_but_pairs(self: QueryAttention, masks: Any) -> Masked:
        return honest(self, [mask if len(mask) == 1 else [] for mask in masks])

    monkeypatch.setattr(QueryAttention, "masked", all_but_pairs)
    with pytest.raises(UnsupportedModel, match=r"position 4, 5 bears on its attention, but masking it changed nothing"):
        analyse("llama", units=lambda tokens: [Unit("one", (3,)), Unit("two", (4, 5))])
