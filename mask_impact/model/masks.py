"""Image tokens that see each other in the decoder: the `bidirectional` vision attention.

A decoder's own mask lets image tokens see earlier tokens only (Qwen-VL) or each other (Gemma 3, PaliGemma). Both are
measured as they are unless `bidirectional` is asked for.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

Ranges = Sequence[tuple[int, int]]  # [first, last) positions of each picture's tokens


def same_image(length: int, ranges: Ranges, device: torch.device | str | None = None) -> torch.Tensor:
    """[N, N] bool: both positions lie in the same range."""
    image = torch.full((length,), -1, device=device)
    for index, (first, last) in enumerate(ranges):
        if not 0 <= first < last <= length:
            raise ValueError(f"the range {first} to {last} is not within the {length} positions")
        image[first:last] = index
    return (image[:, None] == image[None]) & (image >= 0)[None]


def create_vl_attention_mask(
    seq_length: int,
    vision_ranges: Ranges,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """[1, 1, N, N] additive attention mask: causal, and all tokens of one picture see each other.

    Args:
        vision_ranges: [first, last) positions of each picture's tokens.

    0 where a row may look, the dtype's lowest number where not: what transformers models take as a 4D
    `attention_mask`. Raises ValueError for a range outside the sequence.
    """
    causal = torch.ones(seq_length, seq_length, dtype=torch.bool, device=device).tril()
    visible = causal | same_image(seq_length, vision_ranges, device)
    mask = torch.zeros(seq_length, seq_length, dtype=dtype, device=device)
    return mask.masked_fill(~visible, torch.finfo(dtype).min)[None, None]


def seeing_each_other(mask: torch.Tensor | None, query: torch.Tensor, ranges: Ranges) -> torch.Tensor:
    """The mask [1, 1 or H, N, N] of a prompt's forward with the tokens of each range visible to each other.

    Everything else stays as the model wants it, windows included. None stands for a causal mask.
    """
    length = query.shape[2]
    if mask is None:
        return create_vl_attention_mask(length, ranges, query.device, query.dtype)
    together = same_image(length, ranges, query.device)
    if mask.dtype == torch.bool:
        return mask[..., :length] | together
    return mask[..., :length].masked_fill(together, 0.0)


def whole_bias(query: torch.Tensor, key: torch.Tensor, mask: Any, causal: bool | None) -> torch.Tensor:
    """What a forward of n queries over all T keys adds to its logits: [1, 1 or H, n, T], as `capture.Recorder` reads
    it."""
    if mask is not None:
        return additive(mask[:1, :, :, : key.shape[2]], query.dtype)
    visible = torch.ones(1, 1, query.shape[2], key.shape[2], dtype=torch.bool, device=key.device)
    return additive(visible.tril() if causal else visible, query.dtype)


def is_causal(module: nn.Module, name: str, kwargs: Mapping[str, Any]) -> bool:
    """Whether a call without a mask over all positions is causal: sdpa then is by itself, eager sees everything."""
    given = kwargs.get("is_causal")
    return name == "sdpa" and (getattr(module, "is_causal", True) if given is None else given)


def _cross_bias(query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None, row: int) -> torch.Tensor:
    """The same [1, 1 or H, 1, T] over the encoder's positions: nothing is later than another there."""
    if mask is None:
        return query.new_zeros(1, 1, 1, key.shape[2], dtype=torch.promote_types(query.dtype, torch.float32))
    return additive(_of_row(mask, row), query.dtype)


def _of_row(mask: torch.Tensor, row: int) -> torch.Tensor:
    """[1, 1 or H, 1, T] of a mask or position bias [1, 1 or H, 1 or N, T]; one row can stand for all."""
    return mask[:1, :, row : row + 1] if mask.shape[2] > 1 else mask[:1]


def additive(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A boolean (True: visible) or additive mask as an additive one in float32 or better with true -inf."""
    precise = torch.promote_types(dtype, torch.float32)
    if mask.dtype == torch.bool:
        return torch.zeros_like(mask, dtype=precise).masked_fill(~mask, float("-inf"))
    hidden = mask <= torch.finfo(mask.dtype).min / 2
    return mask.to(precise).masked_fill(hidden, float("-inf"))
