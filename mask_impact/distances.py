"""L2 and cosine distance between a vector and the same vector changed by a mask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

METRICS: dict[str, Any] = dict.fromkeys(("l2", "cosine", "relative"))


def distances(base: torch.Tensor, change: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How far `base + change` is from `base`.

    Args:
        base: [..., C], any float dtype.
        change: [R, ..., C], the same dtype; masked minus base.

    Returns:
        l2: [R, ...] ||change||, in the model's own units, 0 to infinity.
        cosine: [R, ...] 1 - cos(base, base + change), 0 to 2, without unit. Two zero vectors are at distance 0, a zero
            and a non-zero vector at distance 1 (a zero vector has no direction).
        Both in float32, or float64 for float64 input.

    1 - cos(u, w) equals 0.5 * ||u/|u| - w/|w|||^2. With w = u + d the difference of the unit vectors is
    (d - u (|w| - |u|) / |u|) / |w|, and |w| - |u| = (2 u.d + |d|^2) / (|w| + |u|): every term is as small as d, so that
    nothing cancels. 1 - cos itself has no digits left in float32 once the cosine is within 1e-7 of 1.
    """
    import torch

    precise = torch.promote_types(base.dtype, torch.float32)
    base, change = base.to(precise), change.to(precise)
    tiny = torch.finfo(precise).tiny
    l2 = change.norm(dim=-1)
    length = base.norm(dim=-1)
    masked_length = (base + change).norm(dim=-1)
    longer = (2 * (change * base).sum(dim=-1) + l2.square()) / (masked_length + length).clamp_min(tiny)
    apart = change - base * (longer / length.clamp_min(tiny)).unsqueeze(-1)
    cosine = (apart.norm(dim=-1) / masked_length.clamp_min(tiny)).square() / 2
    no_direction = (masked_length == 0) | (length == 0)
    return l2, torch.where(no_direction, (l2 != 0).to(precise), cosine)
