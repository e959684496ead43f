"""Attention without the positions that an edit takes out of it.

In: the family's attention, the bias of its logits, and which positions each row does not read. Out: the attention
output without them.

B edits, n rows (query positions), T keys, H query heads, G key/value heads, D head width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mask_impact.model.attention import attention_function, eager_attention


@dataclass(frozen=True)
class Edit:
    """Edges of attention that are taken out together: from some positions to those that stop reading them."""

    positions: tuple[int, ...]  # sorted, those that are not read
    readers: tuple[int, ...] | None = None  # sorted; None: every later position, a position itself not among them
    heads: Mapping[int, tuple[int, ...]] | None = None  # query heads by layer; None: all heads of all masked layers

    def acts_in(self, layer: int) -> bool:
        """Whether it takes edges out of this layer, if the layer is masked."""
        return self.heads is None or bool(self.heads.get(layer))


def edited_positions(edits: Sequence[Edit], start: int, length: int) -> torch.Tensor:
    """[B, 1, n, T] bool: which positions (last axis) each row from `start` on does not read."""
    edited = torch.zeros(len(edits), 1, length - start, length, dtype=torch.bool)
    for row, edit in enumerate(edits):
        members = list(edit.positions)
        if edit.readers is None:
            edited[row, 0, :, members] = torch.arange(start, length)[:, None] > torch.tensor(members)
        else:
            readers = torch.tensor([reader - start for reader in edit.readers if reader >= start], dtype=torch.int64)
            edited[row, 0, readers[:, None], members] = True
    return edited


class EditedLayers:
    """What each row does not read, layer by layer; where no edit is limited to heads, one tensor serves all layers."""

    def __init__(self, edits: Sequence[Edit], window: range, heads: int, start: int, length: int) -> None:
        """
        Args:
            window: the layers in which the edits hold.
            heads: query heads H of a layer.
        """
        self.edits, self.window, self.heads = edits, window, heads
        self.edges = edited_positions(edits, start, length)
        self.by_layer: dict[int, torch.Tensor] = {}

    def of(self, layer: int) -> torch.Tensor | None:
        """[B, 1 or H, n, T] bool in one layer; None where no edit holds."""
        if layer not in self.window:
            return None
        if all(edit.heads is None for edit in self.edits):
            return self.edges
        if layer not in self.by_layer:
            limited = torch.zeros(len(self.edits), self.heads, 1, 1, dtype=torch.bool)
            for row, edit in enumerate(self.edits):
                limited[row, slice(None) if edit.heads is None else list(edit.heads.get(layer, ()))] = True
            self.by_layer[layer] = self.edges & limited
        return self.by_layer[layer]


@dataclass
class Bias:
    """What is added to the logits of n rows, with -inf where an edit takes a key out of them."""

    added: torch.Tensor  # [B or 1, 1 or H, n, T]
    blind: torch.Tensor | None  # [B or 1, n, 1 or H, 1] bool, rows that see nothing; None: every row sees something
    zeroed: torch.Tensor | None = None  # [B, 1 or H, n, T] bool, what keeps its weight and gives nothing

    @classmethod
    def of(cls, bias: torch.Tensor, edited: torch.Tensor | None, ablation: str) -> "Bias":
        """`bias` [1, 1 or H, n, T] without the keys that are `edited` [B, 1 or H, n, T].

        `ablation`: one of options.ABLATIONS. With "zero-value" the keys stay, and `zeroed` says which.
        """
        if ablation == "zero-value" and edited is not None:
            return cls(bias, None, edited)
        bias = bias if edited is None else bias.masked_fill(edited, float("-inf"))
        blind = bias.isneginf().all(dim=-1).transpose(1, 2).unsqueeze(-1)
        return cls(bias, blind if blind.any() else None)

    def with_shared_keys(self, count: int) -> "Bias":
        """The bias of one row of each of B edits, as B rows over the same keys: each has a key of its own at the end,
        [1, 1 or H, B, T - 1 + B].
        """
        added = self.added.expand(count, -1, -1, -1).permute(2, 1, 0, 3)  # [1, 1 or H, B, T]
        own = torch.eye(count, dtype=torch.bool, device=added.device)
        own_added = torch.where(own, added[..., -1:], float("-inf"))  # [1, 1 or H, B, B]
        blind = None if self.blind is None else self.blind.expand(count, -1, -1, -1).transpose(0, 1)
        return Bias(torch.cat([added[..., :-1], own_added], dim=-1), blind)


class EditedBiases:
    """The biases of a run's layers under its edits; most layers share one, and it is made once."""

    def __init__(self, ablation: str, shared_by: int | None = None) -> None:
        """`shared_by`: the number of edits, one row each, that are to share their keys; None: they do not."""
        self.ablation, self.shared_by = ablation, shared_by
        self.made: dict[tuple[int, int], tuple[Bias, Any]] = {}

    def of(self, recorded: torch.Tensor, edited: torch.Tensor | None, start: int = 0) -> Bias:
        """`recorded` [1, 1 or H, T', T] from row `start` on, without the keys that are `edited` [B, 1 or H, n, T]."""
        key = id(recorded), id(edited)
        if key not in self.made:
            hidden = None if edited is None else edited.to(recorded.device)
            bias = Bias.of(recorded[:, :, start:], hidden, self.ablation)
            bias = bias if self.shared_by is None else bias.with_shared_keys(self.shared_by)
            self.made[key] = bias, (recorded, edited)  # both are kept alive, so that no other tensor gets their ids
        return self.made[key][0]


def edited_attention(
    name: str,
    module: nn.Module,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    bias: Bias,
    kwargs: dict[str, Any],
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The family's attention under B edits: output [B, n, H, D], 0 for a row that sees nothing.

    Args:
        name: the attention implementation.
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


def attend_with_shared_keys(
    name: str,
    module: nn.Module,
    query: torch.Tensor,
    before: Sequence[torch.Tensor],
    own: Sequence[torch.Tensor],
    bias: Bias,
    kwargs: dict[str, Any],
) -> tuple[torch.Tensor, None]:
    """One row of each of B edits, as B queries over the same keys: copying the keys for every edit would take most of
    the time. Output [B, 1, H, D].

    Args:
        query: [B, H, 1, D].
        before: keys and values [1, G, T - 1, D] of the positions before; own: of each row [B, G, 1, D].
        bias: made for this by `Bias.with_shared_keys`.
    """
    keys, values = (torch.cat([all_of, mine.transpose(0, 2)], dim=2) for all_of, mine in zip(before, own, strict=True))
    output, _ = edited_attention(name, module, query.transpose(0, 2), keys, values, bias, kwargs)
    return output.transpose(0, 1), None
