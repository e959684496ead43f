"""Tiny random decoder-only text models, one row per family: what the engine is held against, and on what.

In: a row's name. Out: a seeded 3-layer model in eval mode, built from its config (no download, well under a second).

FAMILIES     attention in every layer
HYBRIDS      the same, with some layers that have no softmax attention (Mamba, linear attention, convolutions)
ODD          a layer is not "x + attention, heads through o_proj"
UNSUPPORTED  attention that went through transformers' AttentionInterface in no release so far, and is measured by whole
             calls of its layers; or no attention at all

Whether a family's attention goes through the interface differs from release to release, and is found out. A row's paths
are relative to a decoder layer and were read in that family's modeling file. No mask_impact import here:
these tables and `brute_force.py` are the independent side of every comparison.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from packaging.version import Version
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES, model_type_to_module_name

PROMPT_LENGTH = 12  # tests use prompts of about this length; windows and chunks below are shorter
VOCABULARY = 97

COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
HEAD16 = {"head_dim": 16}  # heads * head_dim = 64, not the hidden size
WINDOW = {"sliding_window": 5}
ALTERNATING = WINDOW | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LOCAL_MOE = {"num_local_experts": 4, "num_experts_per_tok": 2}
ROUTED_MOE = {
    "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
    "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
}  # fmt: skip
MLA = {
    "num_key_value_heads": 4, "q_lora_rank": 24, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8,
    "v_head_dim": 12, "head_dim": 8,
}  # fmt: skip
MAMBA = {
    "mamba_n_heads": 4, "mamba_d_head": 24, "mamba_n_groups": 1, "mamba_d_state": 8, "mamba_d_conv": 4,
    "mamba_expand": 2, "mamba_chunk_size": 8,
}  # fmt: skip
DELTA_NET = {
    "linear_conv_kernel_dim": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}  # fmt: skip
LINEAR_FULL_LINEAR = ["linear_attention", "full_attention", "linear_attention"]
NORM_AFTER = "post_attention_layernorm"  # between attention and the add (llama's, of that name, is the MLP's)


@dataclass(frozen=True)
class Family:
    """One row: a config and where the parts of a decoder layer are.

    `attn_addend` is the submodule whose output is added to the residual stream (times the layer's attribute
    `attn_scale`, where there is one): the attention module itself, or the norm after it.
    """

    model_type: str
    special: str  # what this row is in the table for
    config: dict[str, Any] = field(default_factory=dict)  # on top of COMMON
    heads: int = 4  # query heads: equal slices of o_proj's input
    layers: str = "model.layers"
    attention: str = "self_attn"
    o_proj: str = "self_attn.o_proj"  # empty: there is none, and heads are not compared
    attn_addend: str = "self_attn"
    attn_scale: str = ""
    attends: tuple[int, ...] = (0, 1, 2)  # the layers with softmax attention
    before_o_proj: str = ""  # what stands between the attention function's output and o_proj's input
    gain: float = 1.5  # scale of the weight matrices, where 1.5 leaves attention too flat or too peaked
    sdpa: str = ""  # why sdpa is not to be compared with eager; empty: they agree
    min_version: str = "4.57"  # where older releases have the family, and cannot build this row

    @property
    def available(self) -> bool:
        """Whether the installed transformers can build this row."""
        installed = Version(Version(transformers.__version__).base_version)
        return self.model_type in CONFIG_MAPPING_NAMES and Version(self.min_version) <= installed


FAMILIES: dict[str, Family] = {
    "llama": Family("llama", "the plain case: GQA, RMS norm, rotary; here with biases", {"attention_bias": True}),
    "mistral": Family("mistral", "sliding window of 5 in every layer", WINDOW),
    "ministral": Family("ministral", "window in some layers, head_dim not hidden / heads", HEAD16 | ALTERNATING),
    "mixtral": Family("mixtral", "experts, no window", LOCAL_MOE),
    "qwen2": Family("qwen2", "bias on q, k, v"),
    "qwen2_moe": Family(
        "qwen2_moe", "experts and a shared expert", MOE | {"shared_expert_intermediate_size": 32},
    ),
    "qwen3": Family("qwen3", "q and k norm, head_dim not hidden / heads", HEAD16),
    "qwen3_window": Family(
        "qwen3", "window in the upper layers only",
        HEAD16 | WINDOW | {"use_sliding_window": True, "max_window_layers": 1},
    ),
    "qwen3_moe": Family("qwen3_moe", "q and k norm, experts", HEAD16 | MOE),
    "phi": Family(
        "phi", "attention and MLP in parallel, partial rotary, LayerNorm, o_proj is `dense`",
        o_proj="self_attn.dense",
    ),
    "phi3": Family("phi3", "fused qkv and gate_up", {"sliding_window": 7}),
    "phimoe": Family(
        "phimoe", "experts, LayerNorm, biases", LOCAL_MOE | {"attention_bias": True}, gain=1.3,
    ),
    "gpt2": Family(
        "gpt2", "learned positions, Conv1D, LayerNorm", gain=2.5, layers="transformer.h",
        attention="attn", o_proj="attn.c_proj", attn_addend="attn",
    ),
    "gpt2_scaled": Family(
        "gpt2", "logits divided by layer index + 1", {"scale_attn_by_inverse_layer_idx": True}, gain=3.0,
        layers="transformer.h", attention="attn", o_proj="attn.c_proj", attn_addend="attn",
        sdpa="4.57's sdpa leaves out the division",
    ),
    "gpt_neox": Family(
        "gpt_neox", "attention and MLP in parallel, partial rotary, fused qkv", {"rotary_pct": 0.5},
        layers="gpt_neox.layers",
        attention="attention", o_proj="attention.dense", attn_addend="attention",
    ),
    "gpt_neox_serial": Family(
        "gpt_neox", "the same family, not parallel", {"use_parallel_residual": False, "rotary_pct": 0.5},
        layers="gpt_neox.layers",
        attention="attention", o_proj="attention.dense", attn_addend="attention",
    ),
    "gpt_bigcode": Family(
        "gpt_bigcode", "one key/value head for all (MQA), learned positions", {"multi_query": True}, gain=1.2,
        layers="transformer.h", attention="attn", o_proj="attn.c_proj", attn_addend="attn",
    ),
    "starcoder2": Family("starcoder2", "window, biases everywhere, LayerNorm", WINDOW),
    "gemma": Family("gemma", "norm weight is 1 + w, scaled embeddings, MQA", HEAD16 | {"num_key_value_heads": 1}),
    "gemma2": Family(
        "gemma2", "soft-capped logits, alternating window, norms on both sides",
        HEAD16 | ALTERNATING | {"query_pre_attn_scalar": 16, "attn_logit_softcapping": 3.0},
        attn_addend=NORM_AFTER, sdpa="sdpa leaves out the soft cap",
    ),
    "gemma3": Family(
        "gemma3_text", "rotary by layer type, q and k norm, alternating window, norms on both sides",
        HEAD16 | ALTERNATING | {"query_pre_attn_scalar": 16}, attn_addend=NORM_AFTER,
    ),
    "vaultgemma": Family(
        "vaultgemma", "soft cap without the norm after attention",
        HEAD16 | ALTERNATING | {"query_pre_attn_scalar": 16, "attn_logit_softcapping": 3.0},
        sdpa="sdpa leaves out the soft cap",
    ),
    "cohere": Family("cohere", "parallel on one shared norm, interleaved rotary, q and k norm", {"use_qk_norm": True}),
    "cohere2": Family("cohere2", "parallel, rotary only in window layers", HEAD16 | ALTERNATING),
    "olmo": Family("olmo", "norm without weights, clipped q, k, v", {"clip_qkv": 3.0}),
    "olmo2": Family("olmo2", "norm after attention only, q and k norm over all heads", attn_addend=NORM_AFTER),
    "olmo3": Family("olmo3", "as olmo2 with alternating window", ALTERNATING, attn_addend=NORM_AFTER),
    "olmoe": Family("olmoe", "experts, q and k norm over all heads", MOE),
    "flex_olmo": Family("flex_olmo", "norm after attention, experts", MOE, attn_addend=NORM_AFTER),
    "granite": Family(
        "granite", "residual and attention multipliers",
        {"attention_multiplier": 0.25, "residual_multiplier": 0.3, "embedding_multiplier": 2.0},
        attn_scale="residual_multiplier",
    ),
    "granitemoe": Family(
        "granitemoe", "multipliers and experts",
        LOCAL_MOE | {"attention_multiplier": 0.25, "residual_multiplier": 0.3}, attn_scale="residual_multiplier",
    ),
    "granitemoeshared": Family(
        "granitemoeshared", "multipliers, experts and a shared MLP",
        LOCAL_MOE | {"attention_multiplier": 0.25, "residual_multiplier": 0.3, "shared_intermediate_size": 32},
        attn_scale="residual_multiplier",
    ),
    "gpt_oss": Family(
        "gpt_oss", "attention sinks, alternating window, biases, experts", HEAD16 | ALTERNATING | LOCAL_MOE,
        gain=1.2, sdpa="no sdpa: sinks",
    ),
    "deepseek_v2": Family(
        "deepseek_v2", "MLA: keys and values from a low rank, widths of k and v differ; complex rotary",
        MLA | ROUTED_MOE,
    ),
    "deepseek_v3": Family("deepseek_v3", "MLA, sigmoid router with shared expert", MLA | ROUTED_MOE),
    "glm": Family("glm", "partial interleaved rotary, fused gate_up", HEAD16),
    "glm4": Family("glm4", "norms on both sides", HEAD16, attn_addend="post_self_attn_layernorm"),
    "glm4_moe": Family(
        "glm4_moe", "partial rotary, q and k norm, experts", HEAD16 | ROUTED_MOE | {"use_qk_norm": True},
    ),
    "dots1": Family("dots1", "q and k norm, experts, window", HEAD16 | ROUTED_MOE | ALTERNATING),
    "exaone4": Family(
        "exaone4", "norm after attention only, rotary only in window layers",
        ALTERNATING | {"sliding_window_pattern": None}, attn_addend=NORM_AFTER,
    ),
    "smollm3": Family("smollm3", "no rotary in layer 1", {"no_rope_layers": [1, 0, 1]}),
    "stablelm": Family(
        "stablelm", "q and k norm per head, LayerNorm, partial rotary",
        {"qk_layernorm": True, "use_qkv_bias": True, "partial_rotary_factor": 0.5}, min_version="5",
    ),
    "stablelm_parallel": Family(
        "stablelm", "attention and MLP in parallel", {"use_parallel_residual": True, "partial_rotary_factor": 0.5},
        min_version="5",
    ),
    "nemotron": Family("nemotron", "LayerNorm with weight 1 + w, squared ReLU", HEAD16, gain=0.75),
    "opt": Family(
        "opt", "learned positions with an offset, biases", {"ffn_dim": 64, "word_embed_proj_dim": 48}, gain=1.3,
        layers="model.decoder.layers", o_proj="self_attn.out_proj",
    ),
    "opt_post_norm": Family(
        "opt", "norm after the add (350m)",
        {"ffn_dim": 64, "word_embed_proj_dim": 48, "do_layer_norm_before": False}, gain=1.2,
        layers="model.decoder.layers", o_proj="self_attn.out_proj",
    ),
    "biogpt": Family(
        "biogpt", "learned positions, scaled embeddings", gain=1.3, layers="biogpt.layers",
        o_proj="self_attn.out_proj",
    ),
    "modernbert_decoder": Family(
        "modernbert-decoder", "LayerNorm, window on both kinds of rotary, first layer without norm",
        ALTERNATING | {"local_attention": 8}, attention="attn", o_proj="attn.Wo", attn_addend="attn",
    ),
    "llama4": Family(
        "llama4_text", "chunked attention, layer 1 without rotary and with scaled queries, experts",
        HEAD16 | LOCAL_MOE | {
            "num_experts_per_tok": 1, "attention_chunk_size": 5, "no_rope_layers": [1, 0, 1], "floor_scale": 4,
            "intermediate_size_mlp": 64, "interleave_moe_layer_step": 2,
            "layer_types": ["chunked_attention", "full_attention", "chunked_attention"],
        },
    ),
    "helium": Family("helium", "interleaved rotary", {"head_dim": 12}),
    "ernie4_5": Family("ernie4_5", "biases, interleaved rotary", HEAD16 | {"use_bias": True}),
    "ernie4_5_moe": Family(
        "ernie4_5_moe", "experts with a corrected router",
        {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 32, "moe_num_shared_experts": 1,
         "moe_layer_start_index": 1, "moe_layer_end_index": 2},
    ),
    "hunyuan_v1_dense": Family("hunyuan_v1_dense", "q and k norm after rotary", HEAD16),
    "hunyuan_v1_moe": Family("hunyuan_v1_moe", "the same with experts", HEAD16 | {"num_experts": 4, "moe_topk": 2}),
    "apertus": Family("apertus", "q and k norm, xIELU without gate"),
    "arcee": Family("arcee", "squared ReLU without gate", HEAD16),
    "seed_oss": Family("seed_oss", "bias on q, k, v but not o", HEAD16 | {"residual_dropout": 0.0}),
    "bitnet": Family("bitnet", "norm before o_proj", before_o_proj="attn_sub_norm over all heads"),
    "persimmon": Family(
        "persimmon", "fused qkv interleaved by head, LayerNorm on q and k, partial rotary",
        o_proj="self_attn.dense",
    ),
    "doge": Family(
        "doge", "the residual itself is scaled; the layer adds its own bias to the mask", {"keep_window_size": 64},
        sdpa="it forgets causality under sdpa where it gets no mask: 4.57, and 5.17 on CUDA",
    ),
    "dbrx": Family(
        "dbrx", "attention inside a norm-attention-norm block, experts",
        {"d_model": 48, "n_heads": 4, "n_layers": 3, "max_seq_len": 128,
         "attn_config": {"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": 1e4},
         "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": 48}},
        layers="transformer.blocks", attention="norm_attn_norm.attn", o_proj="norm_attn_norm.attn.out_proj",
        attn_addend="norm_attn_norm.attn", min_version="5",
    ),
    "afmoe": Family(
        "afmoe", "gated attention, norms on both sides, rotary only in window layers, experts",
        HEAD16 | ALTERNATING | MOE | {"num_shared_experts": 1, "num_dense_layers": 1, "global_attn_every_n_layers": 2},
        attn_addend=NORM_AFTER, before_o_proj="sigmoid gate",
    ),
    "nanochat": Family("nanochat", "norms without weights, q and k norm after rotary"),
    "minimax_m2": Family("minimax_m2", "q and k norm over all heads, experts", HEAD16 | LOCAL_MOE),
    "ministral3": Family("ministral3", "queries scaled by position", HEAD16),
    "exaone_moe": Family(
        "exaone_moe", "alternating window, experts",
        ALTERNATING | MOE | {"num_shared_experts": 1, "mlp_layer_types": ["dense", "sparse", "sparse"]},
    ),
    "mimo_v2_flash": Family(
        "mimo_v2_flash", "sinks in window layers, widths of k and v differ, experts",
        HEAD16 | ALTERNATING | ROUTED_MOE | {"v_head_dim": 8, "swa_head_dim": 16, "swa_v_head_dim": 8},
        sdpa="no sdpa: sinks",
    ),
    "youtu": Family("youtu", "MLA without experts", MLA),
    "jais2": Family("jais2", "LayerNorm, squared ReLU"),
    "cwm": Family("cwm", "alternating window, scaled rotary", HEAD16 | ALTERNATING),
    "gptj": Family(
        "gptj", "attention and MLP in parallel on one norm, interleaved partial rotary",
        {"n_embd": 48, "n_head": 4, "n_layer": 3, "rotary_dim": 8},
        layers="transformer.h", attention="attn", o_proj="attn.out_proj", attn_addend="attn",
    ),
    "codegen": Family(
        "codegen", "as gptj, with q, k and v fused in four pieces",
        {"n_embd": 48, "n_head": 4, "n_layer": 3, "rotary_dim": 8},
        layers="transformer.h", attention="attn", o_proj="attn.out_proj", attn_addend="attn",
    ),
}  # fmt: skip

HYBRIDS: dict[str, Family] = {
    "qwen3_next": Family(
        "qwen3_next", "gated delta net and gated attention, experts",
        HEAD16 | MOE | DELTA_NET | {"layer_types": LINEAR_FULL_LINEAR, "shared_expert_intermediate_size": 32},
        before_o_proj="sigmoid gate", attends=(1,),
    ),
    "qwen3_5": Family(
        "qwen3_5_text", "gated delta net and gated attention",
        HEAD16 | DELTA_NET | {"layer_types": LINEAR_FULL_LINEAR}, before_o_proj="sigmoid gate",
        attends=(1,),
    ),
    "olmo_hybrid": Family(
        "olmo_hybrid", "norm after attention, norm before linear attention",
        DELTA_NET | {"layer_types": LINEAR_FULL_LINEAR}, attn_addend=NORM_AFTER, attends=(1,),
    ),
    "jamba": Family(
        "jamba", "Mamba 1, no positions, experts",
        {"num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 8, "mamba_dt_rank": 4,
         "use_mamba_kernels": False},
        attends=(1,),
    ),
    "bamba": Family("bamba", "Mamba 2", MAMBA | {"attn_layer_indices": [1]}, attends=(1,)),
    "lfm2": Family(
        "lfm2", "short convolutions",
        {"layer_types": ["conv", "full_attention", "conv"], "full_attn_idxs": [1], "block_multiple_of": 16},
        o_proj="self_attn.out_proj", attends=(1,),
    ),
    "lfm2_moe": Family(
        "lfm2_moe", "short convolutions, experts",
        MOE | {"layer_types": ["conv", "full_attention", "conv"], "num_dense_layers": 1},
        o_proj="self_attn.out_proj", attends=(1,),
    ),
    "granitemoehybrid": Family(
        "granitemoehybrid", "Mamba 2, multipliers, experts",
        LOCAL_MOE | MAMBA | {
            "layer_types": ["mamba", "attention", "mamba"], "shared_intermediate_size": 32,
            "attention_multiplier": 0.25, "residual_multiplier": 0.3,
        },
        attn_scale="residual_multiplier", attends=(1,),
    ),
    "nemotron_h": Family(
        "nemotron_h", "one mixer per layer: Mamba 2, attention or MLP",
        {"layers_block_type": ["mamba", "attention", "mlp"], "mamba_num_heads": 4, "mamba_head_dim": 24,
         "n_groups": 1, "ssm_state_size": 8, "chunk_size": 8, "head_dim": 16, "use_mamba_kernels": False},
        attention="mixer", o_proj="mixer.o_proj", attn_addend="mixer", attends=(1,),
    ),
    "falcon_h1": Family(
        "falcon_h1", "attention and Mamba 2 side by side in every layer, multipliers",
        MAMBA | {"mamba_d_ssm": 96, "attention_in_multiplier": 0.8, "attention_out_multiplier": 0.6,
                 "key_multiplier": 0.9, "ssm_out_multiplier": 0.7},
        attn_scale="attn_out_multiplier", gain=1.2,
    ),
    "minimax": Family(
        "minimax", "lightning attention; the residual is taken after the norm, and scaled",
        LOCAL_MOE | {"layer_types": LINEAR_FULL_LINEAR, "block_size": 8, "full_attn_beta_factor": 0.7},
        attn_scale="attn_beta_factor", attends=(1,),
    ),
    "recurrent_gemma": Family(
        "recurrent_gemma", "RG-LRU and windowed attention",
        {"block_types": ["recurrent", "attention"], "lru_width": 48, "attention_window_size": 5},
        attention="temporal_block", o_proj="temporal_block.o_proj", attn_addend="temporal_block",
        attends=(1,),
    ),
    "kimi_linear": Family(
        "kimi_linear", "delta attention and MLA, experts",
        MLA | MOE | {
            "q_lora_rank": None, "num_experts_per_token": 2, "layer_types": LINEAR_FULL_LINEAR,
            "mlp_layer_types": ["dense", "sparse", "sparse"], "linear_head_dim": 8, "linear_num_heads": 4,
        },
        attends=(1,),
    ),
}  # fmt: skip

ODD: dict[str, Family] = {
    "jetmoe": Family(
        "jetmoe", "heads go to experts: there is no o_proj to slice",
        {"num_key_value_heads": 2, "kv_channels": 12, "num_local_experts": 4, "num_experts_per_tok": 2},
        attention="self_attention", o_proj="", attn_addend="self_attention",
    ),
    "diffllama": Family("diffllama", "two attention calls per layer, a head is a difference of two"),
    "longcat_flash": Family(
        "longcat_flash", "two attention sublayers in one layer",
        MLA | {"num_layers": 3, "ffn_hidden_size": 64, "expert_ffn_hidden_size": 32, "n_routed_experts": 4,
               "zero_expert_num": 2, "moe_topk": 2, "num_hidden_layers": 6},
    ),
    "zamba2": Family(
        "zamba2", "shared attention whose output feeds a Mamba layer, not the residual stream",
        MAMBA | {"layers_block_type": ["mamba", "hybrid", "mamba"], "n_mamba_heads": 4, "mamba_headdim": 24,
                 "num_mem_blocks": 1, "use_mem_rope": True, "adapter_rank": 8, "use_shared_attention_adapter": False},
    ),
    "gemma3n": Family(
        "gemma3n_text", "the residual stream runs in four copies",
        HEAD16 | ALTERNATING | {
            "vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 8, "num_kv_shared_layers": 0,
            "laurel_rank": 8, "activation_sparsity_pattern": [0.0, 0.0, 0.0], "intermediate_size": [64, 64, 64],
        },
        attn_addend=NORM_AFTER,
    ),
}  # fmt: skip

UNSUPPORTED: dict[str, Family] = {
    "bloom": Family(
        "bloom", "ALiBi, own attention, which also adds the residual", {"n_head": 4, "n_layer": 3},
        layers="transformer.h", attention="self_attention", o_proj="self_attention.dense",
        attn_addend="self_attention.dense",
    ),
    "falcon": Family(
        "falcon", "own attention classes",
        layers="transformer.h", attention="self_attention", o_proj="self_attention.dense", attn_addend="self_attention",
    ),
    "gpt_neo": Family(
        "gpt_neo", "own attention, local and global layers",
        {"num_layers": 3, "num_heads": 4, "attention_types": [[["global", "local", "global"], 1]], "window_size": 5},
        layers="transformer.h", attention="attn.attention", o_proj="attn.attention.out_proj", attn_addend="attn",
    ),
    "mpt": Family(
        "mpt", "ALiBi, own attention", {"d_model": 48, "n_heads": 4, "n_layers": 3, "max_seq_len": 128},
        layers="transformer.blocks", attention="attn", o_proj="attn.out_proj", attn_addend="attn",
    ),
    "xglm": Family(
        "xglm", "own attention", {"d_model": 48, "attention_heads": 4, "num_layers": 3, "ffn_dim": 64},
        o_proj="self_attn.out_proj",
    ),
    "gpt_neox_japanese": Family(
        "gpt_neox_japanese", "own attention; its bias is added apart",
        layers="gpt_neox_japanese.layers", attention="attention", o_proj="attention.dense",
        attn_addend="attention.dense",
    ),
    "mamba": Family("mamba", "no attention at all", {"state_size": 8, "time_step_rank": 4}),
    "mamba2": Family("mamba2", "no attention at all", {"state_size": 8, "num_heads": 4, "head_dim": 24, "n_groups": 1}),
    "falcon_mamba": Family("falcon_mamba", "no attention at all", {"state_size": 8, "time_step_rank": 4}),
    "rwkv": Family("rwkv", "no attention at all", {"context_length": 64}),
}  # fmt: skip
TABLES = (FAMILIES, HYBRIDS, ODD, UNSUPPORTED)

# One of each way in which layers are built: norms, positions, windows, experts, shared keys, sinks, parallel blocks,
# compressed keys, states over the whole text.
DISTINCT = {
    "llama", "mistral", "mixtral", "qwen2", "qwen3", "phi", "gpt2", "gpt_neox", "gpt_bigcode", "gptj", "gemma2",
    "cohere2", "olmo2", "granite", "gpt_oss", "deepseek_v3", "opt", "opt_post_norm", "stablelm_parallel",
    "modernbert_decoder", "llama4", "doge", "nanochat", "qwen3_next", "falcon_h1", "recurrent_gemma", "minimax",
}  # fmt: skip
ALL = os.environ.get("MASK_IMPACT_FAMILIES") == "all"  # make families


def distinct(names: list[str]) -> list[str]:
    """Of these, those that differ in kind, or all with `make families`: for what comes beside a float64 test of all."""
    return [name for name in names if ALL or name in DISTINCT]


def find(name: str) -> Family:
    """The row called `name`, from whichever table has it."""
    for table in TABLES:
        if name in table:
            return table[name]
    raise KeyError(f"no family {name!r}; there are {sorted(name for table in TABLES for name in table)}")


def available(table: dict[str, Family]) -> list[str]:
    """The names in `table` that the installed transformers can build; families and hybrids only with its interface."""
    return [
        name
        for name, family in table.items()
        if family.available and (name in ODD or name in UNSUPPORTED or calls_interface(family.model_type))
    ]


@cache
def calls_interface(model_type: str) -> bool:
    """Whether attention goes through AttentionInterface in the installed transformers, by its source.

    Without a model built for each test to be found; test_families.py holds it against models that run.
    """
    name = model_type_to_module_name(model_type)
    source = Path(transformers.__file__).parent / "models" / name / f"modeling_{name}.py"
    return "ALL_ATTENTION_FUNCTIONS" in source.read_text("utf-8")


def submodule(module: nn.Module, path: str) -> nn.Module | None:
    """The module at a dotted path, or None where the path leads nowhere (a hybrid's attention-free layer)."""
    for part in path.split("."):
        module = getattr(module, part, None)
        if module is None:
            return None
    return module


def decoder_layers(model: nn.Module, family: Family) -> nn.ModuleList:
    """The model's decoder layers, in order; of a family whose `layers` are several paths, one list after the other."""
    parts = [submodule(model, path) for path in family.layers.split()]
    for layers in parts:
        assert isinstance(layers, nn.ModuleList), f"{family.model_type}: {family.layers} has {type(layers)}"
    return nn.ModuleList(layer for layers in parts for layer in layers)


def build(name: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> PreTrainedModel:
    """The tiny model `name`, in eval mode; the same weights every time, up to rounding to `dtype`."""
    config = AutoConfig.for_model(find(name).model_type, **COMMON | find(name).config)
    if dtype == torch.float64:
        config._experts_implementation = "eager"  # the grouped matrix product has no float64
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
    redraw(model, find(name).gain, seed)
    return model.to(dtype).eval()


@torch.no_grad()
def redraw(model: nn.Module, gain: float, seed: int) -> None:
    """Draw weights large enough that attention is far from uniform (default initialisation is nearly uniform).

    Matrices: normal, gain / sqrt(last axis). What starts constant (norm weights at 1 or 0, biases at 0): that constant
    + noise, with q and k norms raised, since they alone set the scale of the logits. Embeddings and sinks: normal.
    Other vectors (Mamba's decay rates) keep their seeded start.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, weight in sorted(model.named_parameters()):
        noise = torch.randn(weight.shape, generator=generator)
        if "embed" in name or name.endswith(("wte.weight", "wpe.weight", "sinks")):
            weight.copy_(noise)
        elif weight.unique().numel() == 1:
            raised = 0.5 if re.search(r"\b(q|k|query|key)_(layer)?norm", name) else 0.0
            weight.add_(raised + (0.2 if name.endswith("bias") else 0.1) * noise)
        elif weight.dim() >= 2:
            weight.copy_(gain * noise / weight.shape[-1] ** 0.5)


def prompt(length: int = PROMPT_LENGTH, seed: int = 1, batch: int = 1) -> torch.Tensor:
    """Random token ids [batch, length], special tokens left out."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCABULARY, (batch, length), generator=generator)
