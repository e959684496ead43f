"""Image tokens that see each other in the decoder: the `bidirectional` vision attention.

A decoder's own mask lets image tokens see earlier tokens only (Qwen-VL) or each other (Gemma 3, PaliGemma). Both are
measured as they are unless `bidirectional` is asked for.
"""

from collections.abc import Sequence

import torch

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
