"""Compute one layer of a low-precision model in float32, with the weights it has.

In: a layer in bfloat16 or float16. Out: while `in_float32` is open, float32 copies in the place of its weights. A layer
computed that way is the exact function of its inputs, as far as float32 goes: what its own dtype would round away is
most of what a mask changes.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import PreTrainedModel

LOW = (torch.bfloat16, torch.float16)


def widened(tensor: torch.Tensor) -> torch.Tensor:
    """In float32 if it is in bfloat16 or float16, else the tensor itself."""
    return tensor.float() if tensor.dtype in LOW else tensor


def low_precision(layer: nn.Module) -> list[torch.Tensor]:
    """The weights and buffers that are in bfloat16 or float16."""
    return [tensor for tensor in (*layer.parameters(), *layer.buffers()) if tensor.dtype in LOW]


def why_not(model: PreTrainedModel, layer: nn.Module) -> str | None:
    """What keeps a layer from having float32 copies of its weights; None if nothing does."""
    every = [*layer.parameters(), *layer.buffers()]
    if any(tensor.is_meta for tensor in every):
        return "weights that are moved to the device for each call stay as they are"
    plain = all(type(tensor) in (nn.Parameter, nn.Buffer, torch.Tensor) for tensor in every)
    packed = any(tensor.element_size() < 2 for tensor in layer.parameters())
    if not plain or packed or getattr(model, "hf_quantizer", None) is not None:
        return "quantised weights stay as they are"
    return None


@contextmanager
def in_float32(layer: nn.Module, copies: list[torch.Tensor]) -> Iterator[None]:
    """Float32 copies in the place of the layer's weights until the block ends.

    `copies` keeps the memory of the last layer's for the next one: to get it anew takes longer than to fill it.
    """
    low = [(tensor, tensor.data) for tensor in low_precision(layer)]
    if [(copy.shape, copy.device) for copy in copies] != [(data.shape, data.device) for _, data in low]:
        copies.clear()
        copies += [torch.empty_like(data, dtype=torch.float32) for _, data in low]
    try:
        for (tensor, data), copy in zip(low, copies, strict=True):
            tensor.data = copy.copy_(data)
        yield
    finally:
        for tensor, data in low:
            tensor.data = data
