"""The slow reference for zeroed values: the family's own attention function, replaced while the whole model runs.

With brute_force.py's `observe` inside. No mask_impact: nothing is shared with the engine this is held against.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from families import Family, decoder_layers, submodule
from torch import nn


@contextmanager
def values_zeroed(
    model: nn.Module, family: Family, layer: int, query: int, masks: Sequence[Collection[int]]
) -> Iterator[None]:
    """Eager attention in which `query` of each prompt gets nothing of the values at its mask, in one layer."""
    module = submodule(decoder_layers(model, family)[layer], family.attention)
    names = inspect.unwrap(type(module).forward).__globals__
    original = names["eager_attention_forward"]
    calls: list[int] = []

    def attention(caller: nn.Module, queries: Any, keys: Any, values: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        output, *rest = original(caller, queries, keys, values, *args, **kwargs)
        if caller is module:
            calls.append(layer)
            zeroed = values.clone()
            for index, mask in enumerate(masks):
                zeroed[index, :, list(mask)] = 0
            output = output.clone()
            output[:, query] = original(caller, queries, keys, zeroed, *args, **kwargs)[0][:, query]
        return output, *rest

    names["eager_attention_forward"] = attention
    try:
        yield
    finally:
        names["eager_attention_forward"] = original
    assert calls == [layer], f"the reference replaced {len(calls)} attention calls"
