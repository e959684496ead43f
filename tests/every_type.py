"""A tiny random model of any type that transformers can build from its config, and what masks do to it by brute force.

In: a model type. Out: a seeded model with about three layers, in eval mode, and the update of one of its layers at the
last position, without and with tokens taken from the last position's attention there. The tokens are taken out where
the softmax is computed, in a forward of the whole model, so that no family's modules are named. No mask_impact import
here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from families import COMMON, DELTA_NET, HEAD16, MLA, MOE, ROUTED_MOE, TABLES, redraw
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PretrainedConfig, PreTrainedModel

LAYERS = 3
MOST_WEIGHTS = 60_000_000
INVISIBLE = -5e3  # a logit below this is that of a key that the model hides: -inf, the dtype's minimum, or -1e4
OLDER_NAMES: dict[str, Any] = {  # what older families call the sizes in COMMON
    **dict.fromkeys(("d_model", "n_embd", "embedding_size", "emb_dim", "cross_attention_hidden_size"), 48),
    **dict.fromkeys(("d_ff", "dff", "ffn_dim", "d_inner", "encoder_ffn_dim", "decoder_ffn_dim", "dim_ff"), 64),
    **dict.fromkeys(("n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers"), LAYERS),
    **dict.fromkeys(("n_head", "n_heads", "num_heads", "encoder_attention_heads", "decoder_attention_heads"), 4),
    "attention_heads": 4, "dim_head": 12, "moe_intermediate_size": 32, "num_experts_per_tok": 2,
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts"), 4),
    "is_decoder": True, "is_encoder_decoder": False,
}  # fmt: skip
LINEAR_FULL = {"layer_types": ["linear_attention", "full_attention", "linear_attention"]}
VISION = {  # sizes of a vision tower, whatever it calls them
    **dict.fromkeys(("hidden_size", "embed_dim", "d_model"), 32), "intermediate_size": 48,
    **dict.fromkeys(("num_hidden_layers", "depth", "num_layers", "num_global_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "num_heads", "attention_heads"), 4),
}  # fmt: skip
ENCODER = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 4, "head_dim": 8,
}  # fmt: skip
TEXT = COMMON | OLDER_NAMES | {"head_dim": 12}
GEMMA4 = COMMON | {
    "head_dim": 16, "vocab_size_per_layer_input": 500, "hidden_size_per_layer_input": 8, "num_kv_shared_layers": 0,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "sliding_window": 5,
}  # fmt: skip
MLA_ROUTED = COMMON | OLDER_NAMES | MLA | ROUTED_MOE
QWEN35 = COMMON | HEAD16 | MOE | DELTA_NET | LINEAR_FULL
QWEN35_VL = {"text_config": QWEN35, "vision_config": VISION}
MINICPM = {"text_config": QWEN35 | {"model_type": "qwen3_5_text"}, "vision_config": VISION, "insert_layer_id": 0}
QWEN4 = QWEN35 | {
    "layer_types": ["linear_attention", "indexed_attention", "linear_attention"], "indexer_n_heads": 2,
    "indexer_kv_heads": 1, "indexer_head_dim": 16, "indexer_budget": 4, "indexer_compress_ratio": 1,
    "shared_expert_intermediate_size": 32, "hc_lowrank": 8, "ngram_vocab_size_base": 50, "ple_embed_dim": 16,
}  # fmt: skip
DOTS3 = COMMON | OLDER_NAMES | MLA | ROUTED_MOE | {
    "index_topk": 4, "index_head_dim": 16, "index_n_heads": 2, "sliding_window": 5, "per_layer_config": {},
    "head_dim": 16, "layer_types": ["indexed_attention", "sliding_attention", "indexed_attention"],
    "shared_experts_intermediate_size": 32,
}  # fmt: skip
INDEXED = {"index_topk": 4, "index_head_dim": 16, "index_n_heads": 2}
SETTINGS: dict[str, dict[str, Any]] = {  # of types that need more than sizes, beside the rows of families.py
    **dict.fromkeys(("axk1", "axk2", "glm4_moe_lite", "minicpm3", "sarvam_mla"), MLA_ROUTED),
    **dict.fromkeys(("deepseek_v32", "glm_moe_dsa"), MLA_ROUTED | INDEXED),
    "bailing_hybrid": COMMON | MLA | MOE | LINEAR_FULL | {
        "q_lora_rank": None, "num_experts_per_token": 2, "mlp_layer_types": ["dense", "sparse", "sparse"],
        "linear_head_dim": 8, "linear_num_heads": 4, "num_expert_group": 1, "topk_group": 1,
    },
    "cohere_compass_text": TEXT | {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}},
    **dict.fromkeys(("gemma4_text", "gemma4_unified_text"), GEMMA4),
    "gemma4": {"text_config": GEMMA4, "vision_config": ENCODER, "audio_config": None},
    **dict.fromkeys(("minicpmv4_6", "minicpmv4_7", "minicpm_ocr"), MINICPM),
    "gemma3": {"text_config": TEXT, "vision_config": VISION | {"image_size": 28, "patch_size": 14}},
    "got_ocr2": {"text_config": TEXT | {"model_type": "qwen2"}, "vision_config": VISION},
    "git": COMMON | {"vision_config": VISION},
    "phi4_multimodal": COMMON | {"vision_config": VISION, "audio_config": VISION},
    "marian": COMMON | OLDER_NAMES | {"pad_token_id": 0, "decoder_start_token_id": 0},
    "reformer": COMMON | {
        "is_decoder": True, "axial_pos_embds": False, "attn_layers": ["local", "lsh", "local"], "feed_forward_size": 64,
        "attention_head_size": 12, "num_buckets": 4, "local_attn_chunk_length": 8, "lsh_attn_chunk_length": 8,
    },
    "prophetnet": {
        "hidden_size": 48, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "num_encoder_layers": 3,
        "num_decoder_layers": 3, "num_encoder_attention_heads": 4, "num_decoder_attention_heads": 4,
    },
    "xlnet": {"d_model": 48, "n_layer": 3, "n_head": 4, "d_inner": 64, "bos_token_id": 1, "eos_token_id": 2},
    "zamba": COMMON | {
        "num_hidden_layers": 4, "num_key_value_heads": 4, "attention_head_dim": 24, "attention_hidden_size": 96,
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"], "use_mamba_kernels": False,
        "mamba_d_state": 8, "mamba_dt_rank": 4,
    },
    "qwen3_5_moe_text": QWEN35,
    "qwen4_exp_text": QWEN4,
    "qwen4_exp": {"text_config": QWEN4, "vision_config": VISION},
    "gemma4_assistant": {"text_config": GEMMA4 | {"hidden_size_per_layer_input": 0, "num_kv_shared_layers": 3}},
    "gemma4_unified_assistant": {"text_config": GEMMA4 | {"hidden_size_per_layer_input": 0, "num_kv_shared_layers": 3}},
    "dots3_note_text": DOTS3,
    "dots3_note": {"text_config": DOTS3, "vision_config": VISION, "audio_config": VISION},
    "xmod": COMMON | {"is_decoder": True, "languages": ["en_XX"], "default_language": "en_XX"},
    "blt": {
        part: COMMON | {"num_key_value_heads": 4, "cross_attn_k": 1, "hidden_size_global": 48, "head_dim": 12,
                        "cross_attn_all_layers": False}
        for part in ("patcher_config", "encoder_config", "decoder_config", "global_config")
    } | {"encoder_hash_byte_group_vocab": 50, "encoder_hash_byte_group_size": [3], "cross_attn_k": 1},
    "qwen3_5": QWEN35_VL,
    "qwen3_5_moe": QWEN35_VL,
    "dory": COMMON | HEAD16 | {
        "num_hidden_layers": 6, "layer_types": [*["sliding_attention", "mlp"], *["full_attention", "mlp"] * 2],
        "n_input_layers": 2, "n_recurrent_layers": 2, "n_output_layers": 2,
    },
    "hrm_text": COMMON | {"num_layers_per_stack": 2, "num_hidden_layers": 16, "head_dim": 12},
    "xlstm": COMMON | {"num_blocks": 3, "num_heads": 4, "embedding_dim": 48},
}  # fmt: skip
CHECKPOINTS: dict[str, dict[str, Any]] = {  # what every checkpoint's config has, and the class of the config has not
    "qwen2_5_omni_thinker": {"vision_start_token_id": 5},
    "qwen3_omni_moe_thinker": {"vision_start_token_id": 5},
}
NESTED = (
    {"text_config": TEXT, "vision_config": VISION, "audio_config": VISION},
    {"text_config": TEXT, "vision_config": VISION},
    {"text_config": TEXT},
)


@dataclass(frozen=True)
class OwnRows:
    """Where a family with rows of its own predicts and reads, as its modeling file has it."""

    softmax: int  # which of a layer's softmax calls the predicting row comes from
    reads: Callable[[Tensor], Tensor]  # that row among its weights, with any axes before the keys: a view
    first: int  # the key of the first token
    predicts: Callable[[Sequence[Tensor], int], Tensor]  # [C] that row among a layer's states, by the number of tokens


OWN_ROWS: dict[str, OwnRows] = {
    # 32 learned rows before the tokens, which all see each other
    "cpmant": OwnRows(1, lambda weights: weights[..., -1, :], 32, lambda states, _: states[0][0, -1]),
    # after the T tokens, T rows for each of two n-grams; the first predicts the next token, and reads tokens and itself
    "prophetnet": OwnRows(
        2, lambda weights: weights[:, 0, :, -1, :], 0, lambda states, count: states[0][0, 2 * count - 1]
    ),
    # a second stream of one row, which reads the tokens of the first; [T + 1, 1, C]
    "xlnet": OwnRows(2, lambda weights: weights[..., -1, :], 0, lambda states, _: states[1][0, 0]),
}


def parts_of(model_type: str) -> dict[str, Any]:
    """Sizes for each config within this type's own, under the names that it has for them; empty if there is none."""
    whole = AutoConfig.for_model(model_type)
    found: dict[str, Any] = {}
    for name, part in vars(whole).items():
        if isinstance(part, PretrainedConfig):
            sizes = (
                TEXT
                if part is whole.get_text_config(decoder=True)
                else VISION | {"out_hidden_size": 48, "text_hidden_size": 48}
            )
            names = {*part.to_dict(), *part.attribute_map}  # of some, every layer may have its own: no attribute to ask
            found[name] = {key: value for key, value in sizes.items() if key in names}
            found[name]["model_type"] = part.model_type
    return found


def settings_of(model_type: str) -> Iterator[dict[str, Any]]:
    """Settings to try, the most particular first."""
    rows = [row.config for table in TABLES for row in table.values() if row.model_type == model_type]
    if model_type in SETTINGS:
        yield SETTINGS[model_type]
    if model_type in CHECKPOINTS:
        yield from by_parts(model_type)
    if rows:
        yield COMMON | rows[0]
    yield COMMON | OLDER_NAMES
    yield COMMON | {"is_decoder": True, "is_encoder_decoder": False}
    yield from NESTED
    yield from by_parts(model_type)


def by_parts(model_type: str) -> Iterator[dict[str, Any]]:
    """Settings for each config within this type's own, with rotary positions of several kinds."""
    if parts := parts_of(model_type):
        parts |= CHECKPOINTS.get(model_type, {})
        yield parts
        for section in ([2, 2, 2], [1, 1, 1]):  # of 6 or 3 frequencies: those of all of a head, or of half of it
            rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": section}
            yield parts | {"text_config": parts.get("text_config", {}) | {"rope_parameters": rope}}


def build(
    model_type: str, vocabulary: int, auto_class: Any = AutoModelForCausalLM, dtype: torch.dtype = torch.float64
) -> PreTrainedModel:
    """The tiny model that `auto_class` makes. Raises ValueError, which says why, where none can be built."""
    reasons = []
    for settings in settings_of(model_type):
        try:
            config = AutoConfig.for_model(model_type, **settings)
            for part in {id(each): each for each in (config, config.get_text_config(decoder=True))}.values():
                part.vocab_size = vocabulary
                part.unpadded_vocab_size = part.decoder_vocab_size = vocabulary  # Inkling's, Marian's
                part._experts_implementation = "eager"  # the grouped matrix product has no float64
            with torch.device("meta"):
                weights = auto_class.from_config(config, attn_implementation="eager").num_parameters()
            if weights > MOST_WEIGHTS:
                raise ValueError(f"{weights:,} weights with these settings")
            torch.manual_seed(0)
            model = auto_class.from_config(config, attn_implementation="eager", dtype=torch.float32).eval()
            with torch.no_grad():  # settings that do not fit each other are the reason, not the family
                model(input_ids=torch.tensor([[3, 4, 5, 6, 7]]), use_cache=False)
        except Exception as error:  # of many classes, from every family's own checks
            reasons.append(" ".join(str(error).split())[:160] or type(error).__name__)
            continue
        redraw(model, gain=1.5, seed=0)
        return model.to(dtype).eval()
    nested = model_type not in SETTINGS and parts_of(model_type)
    raise ValueError(reasons[-3 if nested else 0])  # of the settings that were meant for it


class WithoutKeys(TorchFunctionMode):
    """Every softmax over all T tokens, at the last of its rows, without some keys; with `zero_values`, the keys keep
    their weight and give nothing."""

    def __init__(self, length: int, keys: Collection[int], zero_values: bool = False) -> None:
        super().__init__()
        self.length, self.keys, self.zero_values = length, sorted(keys), zero_values

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        if name == "scaled_dot_product_attention" and args[1].shape[-2] == self.length:
            return self._attention(func, *args, **kwargs)
        if name not in ("softmax", "logsumexp") or args[0].ndim < 3 or not self._over_tokens(args[0].shape):
            return func(*args, **kwargs)
        if name == "logsumexp" and self.zero_values:
            return func(*args, **kwargs)
        if self.zero_values:
            weights = func(*args, **kwargs).clone()
            weights[..., -1, self.keys] = 0
            return weights
        logits = args[0].clone()
        logits[..., -1, :] = logits[..., -1, :].masked_fill(logits[..., -1, :] < INVISIBLE, float("-inf"))
        logits[..., -1, self.keys] = float("-inf")
        blind = logits.isneginf().all(-1, keepdim=True)
        found = func(logits, *args[1:], **kwargs)
        return found if name == "logsumexp" else found.masked_fill(blind, 0.0)

    def _attention(
        self,
        func: Callable,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        **options: Any,
    ) -> Tensor:
        """The same where torch computes all of it."""
        bias = query.new_zeros(*query.shape[:-1], key.shape[-2])
        if is_causal:
            bias.masked_fill_(torch.ones(bias.shape[-2:], dtype=torch.bool).triu(1), float("-inf"))
        if attn_mask is not None:
            bias = bias.masked_fill(~attn_mask, float("-inf")) if attn_mask.dtype == torch.bool else bias + attn_mask
        output = func(query, key, value, attn_mask=bias, **options).clone()
        value = value.clone()
        if self.zero_values:
            value[..., self.keys, :] = 0
        else:
            bias[..., -1, self.keys] = float("-inf")
        last = func(query[..., -1:, :], key, value, attn_mask=bias[..., -1:, :], **options)
        blind = (bias[..., -1:, :] < INVISIBLE).all(-1, keepdim=True)
        output[..., -1:, :] = last.masked_fill(blind, 0.0)
        return output

    def _over_tokens(self, shape: Sequence[int]) -> bool:
        return shape[-1] in (self.length, self.length + 1) and shape[-2] in (1, self.length)  # + 1: a sink, at the end


class WithoutOwnKeys(TorchFunctionMode):
    """The same in one layer of a family of OWN_ROWS."""

    def __init__(self, own: OwnRows, keys: Collection[int], zero_values: bool = False) -> None:
        super().__init__()
        self.own, self.keys, self.zero_values = own, [own.first + key for key in keys], zero_values
        self.calls = 0

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        self.calls += getattr(func, "__name__", "") == "softmax"
        if getattr(func, "__name__", "") != "softmax" or self.calls != self.own.softmax:
            return func(*args, **kwargs)
        logits = args[0].clone()
        row = self.own.reads(logits)
        if self.zero_values:
            weights = func(*args, **kwargs).clone()
            self.own.reads(weights)[..., self.keys] = 0
            return weights
        row.masked_fill_(row < INVISIBLE, float("-inf"))
        row[..., self.keys] = float("-inf")
        weights = func(logits, *args[1:], **kwargs)
        return weights.masked_fill(logits.isneginf().all(-1, keepdim=True), 0.0)


def passes_of(model: PreTrainedModel, layer: nn.Module) -> int:
    """How often a forward runs `layer`."""
    calls: list[None] = []
    handle = layer.register_forward_hook(lambda *_: calls.append(None))
    with torch.no_grad():
        model(input_ids=torch.tensor([[3, 4, 5, 6, 7]]), use_cache=False)
    handle.remove()
    return len(calls)


@contextmanager
def without(
    layer: nn.Module, length: int, keys: Collection[int], zero_values: bool, passes: int, own: OwnRows | None = None
) -> Iterator[None]:
    """`layer` runs without the keys in the last of its passes, until the block ends."""
    mode = WithoutKeys(length, keys, zero_values) if own is None else WithoutOwnKeys(own, keys, zero_values)
    modes: list[ExitStack] = []
    done: list[None] = []

    def enter(*_: Any) -> None:
        done.append(None)
        modes.append(ExitStack())
        if len(done) == passes:
            modes[-1].enter_context(mode)

    with ExitStack() as undo:
        undo.callback(layer.register_forward_pre_hook(enter).remove)
        undo.callback(layer.register_forward_hook(lambda *_: modes.pop().close()).remove)
        yield


@torch.no_grad()
def update(
    model: PreTrainedModel,
    layer: nn.Module,
    ids: Tensor,
    keys: Collection[int] = (),
    zero_values: bool = False,
    passes: int = 1,
) -> Tensor:
    """[C] what `layer` adds at the last position of `ids` [1, T]; of several streams, all of them."""
    length, seen, own = ids.shape[1], {}, OWN_ROWS.get(model.config.model_type)

    def last(every: Sequence[Tensor]) -> Tensor:  # the axis of tokens is the one after the batch's
        if own is not None:
            return own.predicts(every, length).clone()
        states = every[0]
        batch = states.shape.index(1)
        tokens = batch + 1 if states.shape[batch + 1] in (1, length) else states.shape.index(length)
        return states.select(tokens, -1).flatten().clone()

    def before(_: nn.Module, args: tuple, kwargs: dict) -> None:
        seen["input"] = last(args or [kwargs["hidden_states"]])

    def after(_: nn.Module, __: tuple, output: Any) -> None:
        seen["output"] = last(output if isinstance(output, tuple | list) else [output])

    settings = GenerationConfig(max_new_tokens=1, do_sample=False, use_cache=False, pad_token_id=0)
    with ExitStack() as undo:
        undo.callback(layer.register_forward_pre_hook(before, with_kwargs=True).remove)
        undo.callback(layer.register_forward_hook(after).remove)
        if keys:
            undo.enter_context(without(layer, length, keys, zero_values, passes, own))
        model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=settings)
    return seen["output"] - seen["input"]
