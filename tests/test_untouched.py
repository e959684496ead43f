"""What is measured is the model as its users run it: sparse masks, layers that run twice, and the check that says so.

The reference is the model's own generation and its own eager attention, with positions taken out of the logits.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import checkpoints
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.masking_utils import AttentionMaskInterface
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from mask_impact import run_effects_experiment, run_masking_experiment
from mask_impact.errors import UnsupportedModel
from mask_impact.model import untouched, watching
from mask_impact.model.attention import ROUTE, configs_of, renamed_attention

PROMPT = "Tom has a red ball. Ann has a blue cup. Ann's cup is"
SPARSE = ("deepseek_v32", "glm_moe_dsa", "axk2", "dots3_note_text")  # their attention picks index_topk positions
NO_IDS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
SPARSE_SIZES = {
    "hidden_size": 32, "intermediate_size": 64, "moe_intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4, "v_head_dim": 8, "head_dim": 4, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "n_group": 1, "topk_group": 1, "index_topk": 4, "index_n_heads": 2, "index_head_dim": 8,
}  # fmt: skip
LOOPED = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "n_input_layers": 1, "n_output_layers": 1, "n_recurrent_layers": 2,
    "n_recurrent_loops": 2, "layer_types": ["full_attention"] * 4,
}  # fmt: skip


def built(model_type: str, sizes: dict[str, Any], dtype: torch.dtype = torch.float64) -> Any:
    if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        pytest.skip(f"this transformers has no {model_type}")
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, vocab_size=len(checkpoints.tokenizer()), **NO_IDS | sizes)
    model = AutoModelForCausalLM.from_config(config).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(torch.randn_like(parameter) * 1.5 / parameter.shape[-1] ** 0.5)
    return model


def generated(model: Any, ids: torch.Tensor, count: int) -> list[int]:
    return model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False, eos_token_id=None
    )[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("name", SPARSE)
def test_sparse_masks_stay(name: str, implementation: str) -> None:
    words, model = checkpoints.tokenizer(), built(name, SPARSE_SIZES, torch.float32)
    model.set_attn_implementation(implementation)
    ids = words(PROMPT, return_tensors="pt")["input_ids"]
    table = run_masking_experiment(PROMPT, model=model, tokenizer=words, num_output_tokens=3)
    assert [token["id"] for token in table.attrs["run"]["generated"]] == generated(model, ids, 3)
    read = table[table.l2_distance > 0].groupby(["generation_step", "layer"]).token_position.nunique()
    assert (read == 4).all() and len(read) == 6


@pytest.mark.parametrize("name", SPARSE)
def test_another_model_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recorded under a name that the family does not know, it computes without its sparse mask: the check finds out."""

    @contextmanager
    def renamed(handler: Any, layers: Any, name: str, *configs: Any) -> Iterator[None]:
        AttentionMaskInterface.register(ROUTE, AttentionMaskInterface()[name])
        inner = [module for layer in layers for module in layer.modules()]
        with renamed_attention(handler, layers, configs_of(inner, *configs)):
            yield
        del AttentionMaskInterface._global_mapping[ROUTE]

    words, model = checkpoints.tokenizer(), built(name, SPARSE_SIZES, torch.float32)
    monkeypatch.setattr(watching, "exchanged_attention", renamed)
    with pytest.raises(UnsupportedModel, match=f"{name}.*other logits than untouched"):
        run_effects_experiment(PROMPT, model=model, tokenizer=words)
    found = run_masking_experiment(PROMPT, model=model, tokenizer=words, variants=("full",)).attrs["run"]
    assert found["replay"] == "fallback" and "other logits than untouched" in found["notes"][0]
    run_masking_experiment(PROMPT, model=model, tokenizer=words, no_check=True)


def test_the_check_is_made_once_for_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    forwards: list[int] = []
    before = untouched.untouched_logits
    monkeypatch.setattr(untouched, "untouched_logits", lambda *given: forwards.append(1) or before(*given))
    words, model = checkpoints.tokenizer(), built("llama", checkpoints.COMMON)
    seconds = [
        run_masking_experiment(prompt, model=model, tokenizer=words).attrs["run"]["seconds"]
        for prompt in (PROMPT, "Tom has a red")
    ]
    assert len(forwards) == 1 and seconds[0]["untouched"] > 0 and "untouched" not in seconds[1]
    run_effects_experiment("Tom has", model=model, tokenizer=words)  # another way of recording
    run_effects_experiment(PROMPT, model=model, tokenizer=words)
    assert len(forwards) == 2
    model.set_attn_implementation("eager")
    for prompt in ("Tom has", PROMPT):  # the first is the prompt whose logits are known
        run_masking_experiment(prompt, model=model, tokenizer=words)
        assert len(forwards) == 2


# --- layers that run more than once -----------------------------------------------------------------------------
class LastPass:
    """Dory's own eager attention, with positions taken out in the last pass of some layers; what layers add."""

    def __init__(self, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        from transformers.models.dory import modeling_dory

        self.model, self.eager = model, modeling_dory.eager_attention_forward
        self.masked: tuple[tuple[int, ...], Callable[[int], bool]] = ((), lambda layer: False)
        self.calls: dict[int, int] = {}
        self.updates: dict[int, torch.Tensor] = {}
        monkeypatch.setattr(modeling_dory, "eager_attention_forward", self.attend)

    def attend(self, module: Any, query: Any, key: Any, value: Any, *, attention_mask: Any, **given: Any) -> Any:
        layer = module.layer_idx
        self.calls[layer] = self.calls.get(layer, 0) + 1
        positions, holds = self.masked
        if holds(layer) and self.calls[layer] == (2 if layer in (1, 2) else 1):
            attention_mask = attention_mask.clone()
            for position in positions:  # every later position stops reading; at the last, the position itself does too
                attention_mask[..., position + 1 :, position] = float("-inf")
                attention_mask[..., -1, position] = float("-inf")
        return self.eager(module, query, key, value, attention_mask=attention_mask, **given)

    def run(self, ids: torch.Tensor, positions: tuple[int, ...] = (), layers: tuple[int, ...] = ()) -> torch.Tensor:
        self.masked, self.calls = (positions, layers.__contains__), {}
        handles = [
            layer.register_forward_hook(lambda module, args, output, index=index: self.keep(index, args, output))
            for index, layer in enumerate(self.model.model.layers)
        ]
        with torch.no_grad():
            logits = self.model(ids, use_cache=False).logits[0, -1]
        for handle in handles:
            handle.remove()
        return logits.log_softmax(dim=-1)

    def keep(self, index: int, args: Any, output: Any) -> None:
        self.updates[index] = (output - args[0])[0, -1]


def test_the_last_pass_is_masked_in_results_and_effects(monkeypatch: pytest.MonkeyPatch) -> None:
    words, model = checkpoints.tokenizer(), built("dory", LOOPED)
    model.set_attn_implementation("eager")  # its softmax is in float32, so the reference and the program must share it
    ids = words(PROMPT, return_tensors="pt")["input_ids"]
    results = run_masking_experiment(PROMPT, model=model, tokenizer=words, variants=("full",))
    effects = run_effects_experiment(PROMPT, model=model, tokenizer=words, mask_layers="1-1,0-3")
    for found in (results.attrs["run"]["notes"], effects.attrs["run"]["effects"]["notes"]):
        assert any("1 (2 times), 2 (2 times)" in note for note in found)
    reference = LastPass(model, monkeypatch)
    base = reference.run(ids)
    unmasked = dict(reference.updates)
    answer = int(base.argmax())
    for row in results.itertuples():
        reference.run(ids, (row.token_position,), (row.layer,))
        expected = (reference.updates[row.layer] - unmasked[row.layer]).norm().item()
        assert row.l2_distance == pytest.approx(expected, rel=1e-5)
    for row in effects[effects.token_position < ids.shape[1] - 1].itertuples():
        layers = tuple(range(row.first_layer, row.last_layer + 1))
        change = float((reference.run(ids, (row.token_position,), layers) - base)[answer])
        assert row.logprob_change == pytest.approx(change, abs=2e-6)
    assert len(effects) == 2 * ids.shape[1] and results.l2_distance.gt(0).all()


def test_decode_steps_of_looped_layers_follow_each_other() -> None:
    words, model = checkpoints.tokenizer(), built("dory", LOOPED)
    ids = words(PROMPT, return_tensors="pt")["input_ids"]
    table = run_masking_experiment(PROMPT, model=model, tokenizer=words, num_output_tokens=3)
    assert [token["id"] for token in table.attrs["run"]["generated"]] == generated(model, ids, 3)
    assert table[table.generation_step == 2].token_position.max() == ids.shape[1] + 1
