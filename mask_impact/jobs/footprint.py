"""About how much memory a run takes at its peak beside the model's weights, before they are loaded: for --dry-run.

In:  a prepared request, the model's config, and where it runs. Out: bytes.

Counted in states, which are the numbers of all positions, or of all patches, between two layers. How many of them are
held at once was measured at 1,024 image tokens (docs/performance.md); what is done one after the other is added up all
the same, since freed blocks lie between those that are still in use.
"""

from typing import Any

import torch

from mask_impact.impact.measurement import MOST_NUMBERS
from mask_impact.impact.vision_attention import AT_ONCE
from mask_impact.impact.vision_layer import STATES_PER_MASK
from mask_impact.jobs.vision import patch_count
from mask_impact.model.costs import number
from mask_impact.model.memory import memory_budget
from mask_impact.prompt.prepared import Prepared

INPUTS = 5  # times the pixels: as a picture, resized, normalised, cut into patches
FORWARD = 20  # states in a layer besides its MLP: queries, keys and values, their rotated copies, residual stream
CALLED = 14  # the same where a vision layer is called again, on two copies at least
RECORDED = 4  # states that effects keep of every layer: input, keys, values, output
LOGITS = 3  # copies of a part of a vision layer's logits


def peak_bytes(prepared: Prepared, config: Any, dtype: torch.dtype | str, device: torch.device) -> int:
    """`dtype`: or "auto" for the checkpoint's own, which is not known before it is loaded; bfloat16 stands for it."""
    size = dtype.itemsize if isinstance(dtype, torch.dtype) else torch.bfloat16.itemsize
    text, length = config.get_text_config(decoder=True), len(prepared.inputs.tokens) + prepared.request.num_tokens
    state, layers = size * length * _width(text), number(text, 1, "num_hidden_layers", "num_layers")
    heads = number(text, 1, "num_attention_heads")
    shared = number(text, heads, "num_key_value_heads") / heads
    budget, tower = memory_budget(device), prepared.request.tower == "vision"
    found: float = INPUTS * sum(tensor.nbytes for tensor in prepared.inputs.tensors.values())
    found += state * (_in_forward(text) + 2 * shared * layers)
    if not tower:  # rows, and the blocks of queries that are measured together
        of_query = length * (heads + 2) * len(prepared.request.metrics) * layers
        found += budget + torch.float32.itemsize * min(of_query * prepared.request.num_tokens, MOST_NUMBERS)
    if prepared.effects is not None:
        found += RECORDED * layers * state + budget
    if getattr(config, "vision_config", None) is not None and prepared.inputs.images:
        seen = size * patch_count(config, prepared.inputs) * _width(config.vision_config)
        found += _in_layers(config.vision_config, seen, budget) if tower else seen * _in_forward(config.vision_config)
    return int(found)


def _in_layers(config: Any, state: float, budget: int) -> float:
    """Of a vision tower whose layers were recorded, and are called again one by one."""
    kept = number(config, 1, "depth", "num_hidden_layers") + 2 * (CALLED + 2 * _mlp(config))
    return state * kept + max(state * STATES_PER_MASK, budget) + LOGITS * AT_ONCE


def _in_forward(config: Any) -> float:
    return FORWARD + 2 * _mlp(config)


def _width(config: Any) -> float:
    return number(config, 1, "embed_dim", "hidden_size", "d_model")


def _mlp(config: Any) -> float:
    """How many times as wide as a state its MLP is."""
    width = _width(config)
    return number(config, 4 * width, "intermediate_size", "d_ff") / width
