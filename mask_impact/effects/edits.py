"""Attention without what an edit takes out of it.

In: the family's attention, its logits' bias, and which positions each row does not read. Out: what it then gives.

B edits, n rows (query positions), T keys, H query heads, G key/value heads, D head width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mask_impact.model.attention import attention_function, eager_attention


@dataclass(frozen=True)
class Edit:
    """What one row of a carried run does not read."""

    positions: tuple[int, ...]  # sorted
    last_only: bool  # only the last position stops reading them; else every later one


def edited_positions(edits: Sequence[Edit], start: int, length: int) -> torch.Tensor:
    """[B, 1, n, T] bool: which positions (last axis) each row from `start` on does not read."""
    edited = torch.zeros(len(edits), 1, length - start, length, dtype=torch.bool)
    for row, edit in enumerate(edits):
        members = list(edit.positions)
        if edit.last_only:
            edited[row, 0, -1, members] = True
        else:
            edited[row, 0, :, members] = torch.arange(start, length)[:, None] > torch.tensor(members)
    return edited


@dataclass
class Bias:
    """What is added to the logits of n rows, with what an edit takes out of them."""

    added: torch.Tensor  # [B or 1, 1 or H, n, T]
    blind: torch.Tensor | None  # [B or 1, n, 1 or H, 1] bool, rows that see nothing; None: every row sees something
    zeroed: torch.Tensor | None = None  # [B, 1, n, T] bool, what keeps its weight and gives nothing

    @classmethod
    def of(cls, bias: torch.Tensor, edited: torch.Tensor | None, ablation: str) -> "Bias":
        """`bias` [1, 1 or H, n, T] without what is `edited` [B, 1, n, T]."""
        if ablation == "zero-value" and edited is not None:
            return cls(bias, None, edited)
        bias = bias if edited is None else bias.masked_fill(edited, float("-inf"))
        blind = bias.isneginf().all(dim=-1).transpose(1, 2).unsqueeze(-1)
        return cls(bias, blind if blind.any() else None)

    def abreast(self, count: int) -> "Bias":
        """Of B times one row, for B rows over the same keys, each with a key of its own at the end."""
        added = self.added.expand(count, -1, -1, -1).permute(2, 1, 0, 3)  # [1, 1 or H, B, T]
        own = torch.eye(count, dtype=torch.bool, device=added.device)
        own_added = torch.where(own, added[..., -1:], float("-inf"))  # [1, 1 or H, B, B]
        blind = None if self.blind is None else self.blind.expand(count, -1, -1, -1).transpose(0, 1)
        return Bias(torch.cat([added[..., :-1], own_added], dim=-1), blind)


def edited_attention(
    name: str,
    module: nn.Module,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    bias: Bias,
    kwargs: dict[str, Any],
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The family's attention with what is edited out of it: output [B, n, H, D].

    Args:
        query: [B, H, n, D]; keys, values: [B, G, T, D].
        kwargs: further arguments of the attention call.
    """
    if "is_causal" in kwargs:
        kwargs = kwargs | {"is_causal": False}  # the bias says what can be seen
    added = bias.added.to(query.dtype)
    if bias.zeroed is not None:
        output, weights = eager_attention(module)(module, query, keys, values, added, **kwargs)
        assert weights is not None
        values = values.repeat_interleave(query.shape[1] // values.shape[1], dim=1)
        return output - torch.einsum("bhnt,bhtd->bnhd", weights.masked_fill(~bias.zeroed, 0), values), None
    output, _ = attention_function(name, module)(module, query, keys, values, added, **kwargs)
    return output if bias.blind is None else output.masked_fill(bias.blind, 0.0), None


def attend_abreast(
    name: str,
    module: nn.Module,
    query: torch.Tensor,
    before: Sequence[torch.Tensor],
    own: Sequence[torch.Tensor],
    bias: Bias,
    kwargs: dict[str, Any],
) -> tuple[torch.Tensor, None]:
    """B rows of one position as B queries over the same keys: copies for every row would take most of the time.

    Args:
        query: [B, H, 1, D].
        before: keys and values [1, G, T - 1, D] of the positions before; own: of each row [B, G, 1, D].
        bias: made for this by `Bias.abreast`.
    """
    keys, values = (torch.cat([all_of, mine.transpose(0, 2)], dim=2) for all_of, mine in zip(before, own, strict=True))
    output, _ = edited_attention(name, module, query.transpose(0, 2), keys, values, bias, kwargs)
    return output.transpose(0, 1), None
