"""T5's attention in transformers older than its attention interface for T5: routed to a handler like any other's.

Newer ones call the interface (https://github.com/huggingface/transformers/pull/47014), with the relative position bias
beside the mask; older ones compute softmax(q k + bias) v in the module. T5 does not scale its queries.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import EncoderDecoderCache

PARTS = (*"qkvo", "n_heads", "key_value_proj_dim", "has_relative_attention_bias", "compute_bias", "layer_idx")
ARGUMENTS = {  # all that T5's attention takes there; UMT5's, which has the same parts, takes others
    "self", "hidden_states", "mask", "key_value_states", "position_bias", "past_key_values", "layer_head_mask",
    "query_length", "use_cache", "output_attentions", "cache_position",
}  # fmt: skip


def computes_itself(module: nn.Module) -> bool:
    """Whether `module` is such an attention: T5's own, mT5's, that of Switch Transformers."""
    if hasattr(module, "scaling") or not all(hasattr(module, part) for part in PARTS):
        return False
    return set(inspect.signature(type(module).forward).parameters) <= ARGUMENTS


def eager_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **_: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output [B, N, H, D] and weights [B, H, N, T] for queries [B, H, N, D], keys and values [B, H, T, D].

    `attention_mask` is added to the logits: the position bias, with what cannot be seen far below 0.
    """
    logits = query @ key.transpose(2, 3)
    if attention_mask is not None:
        logits = logits + attention_mask.to(logits.dtype)
    precise = torch.promote_types(logits.dtype, torch.float32)
    weights = logits.softmax(dim=-1, dtype=precise).to(logits.dtype)
    return (weights @ value).transpose(1, 2), weights


def through(handler: Callable[..., Any], module: Any) -> Callable[..., Any]:
    """A forward for `module` that leaves its attention to `handler(module, query, key, value, bias)`."""

    def split(states: torch.Tensor) -> torch.Tensor:
        return states.unflatten(-1, (module.n_heads, module.key_value_proj_dim)).transpose(1, 2)

    def keys_and_values(hidden: torch.Tensor, encoded: Any, cache: Any, place: Any) -> tuple[torch.Tensor, ...]:
        index, both = module.layer_idx, cache
        if isinstance(both, EncoderDecoderCache):
            cache = both.self_attention_cache if encoded is None else both.cross_attention_cache
            if encoded is not None and both.is_updated.get(index):
                return cache.layers[index].keys, cache.layers[index].values
        states = hidden if encoded is None else encoded
        found = split(module.k(states)), split(module.v(states))
        if cache is not None:
            found = cache.update(*found, index, {"cache_position": place if encoded is None else None})
            if encoded is not None and isinstance(both, EncoderDecoderCache):
                both.is_updated[index] = True
        return found

    signature = inspect.signature(type(module).forward)

    def forward(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        call = signature.bind(module, *args, **kwargs)
        call.apply_defaults()
        given = call.arguments  # of ARGUMENTS
        hidden, place = given["hidden_states"], given["cache_position"]
        query = split(module.q(hidden))
        key, value = keys_and_values(hidden, given["key_value_states"], given["past_key_values"], place)
        length, total = hidden.shape[1], key.shape[2]
        position_bias = given["position_bias"]
        if position_bias is None:  # the first layer's, which the others are given
            if module.has_relative_attention_bias:
                positions = place[-1] + 1 if given["query_length"] is None else given["query_length"]
                bias = module.compute_bias(positions, total, device=query.device, cache_position=place)
                position_bias = bias[:, :, -length:]
            else:
                position_bias = query.new_zeros(1, module.n_heads, length, total)
            if given["mask"] is not None:
                position_bias = position_bias + given["mask"][..., :total]
        output, _weights = handler(module, query, key, value, position_bias)
        return module.o(output.flatten(2)), position_bias

    return forward
