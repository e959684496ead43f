"""Attention masks: what is added to the logits, and image tokens that see each other.

In: the mask a model passes to its attention (none, boolean or additive). Out: an additive mask in float32 or better, 0
where a query position sees a key and -inf where it does not; or the model's own mask with the tokens of each picture
visible to each other, which is the `bidirectional` vision attention. A decoder's own mask lets image tokens see earlier
tokens only (Qwen-VL) or each other (Gemma 3, PaliGemma).

n query positions, T keys, H query heads.
"""

from collections.abc import Sequence

import torch

Ranges = Sequence[tuple[int, int]]  # [first, last) positions of each picture's tokens
ALL_ROWS = slice(None)


def additive_mask(
    mask: torch.Tensor | None, query: torch.Tensor, key: torch.Tensor, causal: bool, rows: slice = ALL_ROWS
) -> torch.Tensor:
    """[1, 1 or H, n, T] what attention adds to the logits of the chosen rows.

    Args:
        mask: as the model passes it, [1, 1 or H, 1 or n, T or more]; None: as `causal` says.
        query, key: [1, H, n, D] and [1, G, T, D]; the queries are at the last n of the T positions.
        causal: without a mask, whether a row sees no later position; otherwise it sees all.
        rows: which of the n rows.
    """
    if mask is not None:
        return additive(rows_of(mask, rows)[..., : key.shape[2]], query.dtype)
    keys = torch.arange(key.shape[2], device=key.device)
    last_seen = keys[-query.shape[2] :][rows, None] if causal else keys[-1:, None].expand(query.shape[2], -1)[rows]
    return additive((keys <= last_seen)[None, None], query.dtype)


def rows_of(mask: torch.Tensor, rows: slice) -> torch.Tensor:
    """[1, 1 or H, n, T] of a mask or position bias [1, 1 or H, 1 or N, T]; a single row stands for all."""
    return mask[:1, :, rows] if mask.shape[2] > 1 else mask[:1]


def additive(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A boolean (True: visible) or additive mask as an additive one, in float32 or better, with true -inf.

    `dtype` is that of the queries; models write its lowest number, or half of it, where they mean -inf.
    """
    precise = torch.promote_types(dtype, torch.float32)
    if mask.dtype == torch.bool:
        return torch.zeros_like(mask, dtype=precise).masked_fill(~mask, float("-inf"))
    hidden = mask <= torch.finfo(mask.dtype).min / 2
    return mask.to(precise).masked_fill(hidden, float("-inf"))


def same_image(length: int, ranges: Ranges, device: torch.device | str | None = None) -> torch.Tensor:
    """[N, N] bool: whether both positions lie in the same range. Raises ValueError for a range outside the sequence."""
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
    """The mask [1, 1 or H, N, N] of a prompt's forward, with the tokens of each range visible to each other.

    Everything else stays as the model wants it, windows included. None stands for a causal mask.
    """
    length = query.shape[2]
    if mask is None:
        return create_vl_attention_mask(length, ranges, query.device, query.dtype)
    together = same_image(length, ranges, query.device)
    if mask.dtype == torch.bool:
        return mask[..., :length] | together
    return mask[..., :length].masked_fill(together, 0.0)
