"""The attention output of one layer's queries under any set of masked positions.

In: a layer's recorded keys and values, one recorded query or several, and masks. Out: what each mask changes in the
attention output of each query, per head.

Shapes: R masks, Q queries, H heads, T positions, D head width, G key/value heads.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from accelerate.utils import align_module_device
from torch import nn

from mask_impact.impact.record import QueryRecord
from mask_impact.model.attention import Attention, eager_attention
from mask_impact.model.memory import Portion, memory_budget

Masks = Sequence[Sequence[int]]  # R sets of masked positions; the empty set masks nothing

# Leave-one-out divides by 1 - p: at p = 0.5 it loses one bit, at 0.99999 all digits of float32.
LEAVE_OUT_LIMIT = 0.5
# What is left of an output is its sum with the change: a hundredth of it has two digits fewer.
SHORT = 0.01


class Masked(NamedTuple):
    """The attention output under R masks. Each field is computed by itself where the other has not all digits of it."""

    output: torch.Tensor  # [R, Q, H, D]
    change: torch.Tensor  # [R, Q, H, D] from the output without a mask


class QueryAttention:
    """The attention of Q queries in one layer, for any set of masked positions.

    The weights p come from one call of the family's own eager attention, in float32 or better. Masking a set M is then
    exact algebra at a cost that does not grow with the number of keys, and with all digits however small the change:

        neg-inf     z_M - z = (z * sum p_m - sum p_m v_m) / (1 - sum p_m)
        zero-value  z_M - z = -sum p_m v_m

    The first takes the tokens out of the softmax, and the others share their weight (leave-one-out). The second keeps
    all weights and takes what the tokens give: Value Zeroing, Mohebbi et al. 2023, "Quantifying Context Mixing in
    Transformers" (https://aclanthology.org/2023.eacl-main.245).

    Rows of the first with more than half of the weight masked, rows that leave little of the output, and families whose
    weights do not reproduce their output, are computed by the same function with -inf at the masked keys, or 0 for
    their values (`explicit`).
    """

    def __init__(
        self, recorded: Attention, query: QueryRecord, portion: Portion | None = None, ablation: str = "neg-inf"
    ) -> None:
        """`portion`: how many rows fit the memory, as far as is known; kept from layer to layer."""
        precise = torch.promote_types(query.query.dtype, torch.float32)
        length = query.bias.shape[-1]
        self.module = recorded.module
        self.options, self.options_by_query = query.options, query.options_by_query
        self.portion = portion or Portion()
        self.zero_values = ablation == "zero-value"
        self.query = query.query.to(precise)
        self.keys = recorded.keys[:, :, :length].to(precise)
        self.values = recorded.values[:, :, :length].to(precise)
        self.bias = query.bias
        self.compute = eager_attention(recorded.module)
        self.output, weights = self._eager(self.bias)  # [Q, H, D]
        self.weights = self._usable(weights)  # [Q, H, T]

    def _eager(
        self, bias: torch.Tensor, queries: torch.Tensor | None = None, values: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The family's attention for B biases [B, 1 or H, 1, T], each with a query of its own (`queries` [B] says
        which; by default all in order) and perhaps with values of its own [B, G, T, D]: the output [B, H, D] and the
        weights [B, H, 1, T].

        Rows are a batch and not one long query, because some families also mask causally by the query's length.
        """
        options = dict(self.options)
        query = self.query if queries is None else self.query.index_select(0, queries)
        for name in self.options_by_query if queries is not None else ():
            options[name] = options[name].index_select(0, queries)
        keys, values = (
            item.expand(len(bias), -1, -1, -1) for item in (self.keys, self.values if values is None else values)
        )
        with align_module_device(self.module):  # sinks are its parameters, and offloaded ones are there only in a call
            output, weights = self.compute(self.module, query, keys, values, bias, **options)
        return output[:, 0], weights

    def _usable(self, weights: torch.Tensor | None) -> torch.Tensor | None:
        """The weights [Q, H, T] if they are what the output was made with, else None."""
        count, heads = self.output.shape[:2]
        if weights is None or weights.shape != (count, heads, 1, self.keys.shape[2]):
            return None
        again = torch.einsum("qht,htd->qhd", weights[:, :, 0], self._head_values())
        errors = (again - self.output).abs().amax(dim=(1, 2)) / self.output.abs().amax(dim=(1, 2)).clamp_min(1e-30)
        limit = 1e-5 if again.dtype == torch.float32 else 1e-11  # a sink's factor (Granite SWA) can be nearly 1
        return weights[:, :, 0] if errors.max() < limit else None

    def _head_values(self, positions: torch.Tensor | None = None) -> torch.Tensor:
        """[H, T, D], or at `positions`: each query head's values (grouped-query attention shares them)."""
        values = self.values[0] if positions is None else self.values[0].index_select(1, positions)
        return values.repeat_interleave(self.query.shape[1] // values.shape[0], dim=0)

    @property
    def heads(self) -> int:
        return self.output.shape[1]

    def visible(self) -> torch.Tensor:
        """[Q, T] bool: positions that at least one head can see."""
        return ~self.bias.isneginf().all(dim=1)[:, 0]

    def pull(self, masks: Masks | None = None) -> torch.Tensor | None:
        """As the function `pull`, of the first query; None where the family does not give its weights."""
        if self.weights is None:
            return None
        return pull(self.weights[0], self._head_values(), self.output[0], self.zero_values, masks)

    def reading(self) -> torch.Tensor | None:
        """[Q, 2, T] as the function `reading`; None where the family does not give its weights."""
        return None if self.weights is None else reading(self.weights, self.values[0].norm(dim=-1))

    def masked(self, masks: Masks) -> Masked:
        """The attention output under each mask, and how it differs from `self.output`."""
        if self.weights is None:
            explicit = self.explicit(masks)
            return Masked(explicit, explicit - self.output)
        if not any(masks):
            none = self.output.new_zeros(len(masks), *self.output.shape)
            return Masked(self.output.repeat(len(masks), 1, 1, 1), none)
        change, mass = self._left_out(masks)
        output = self.output + change
        again = output.norm(dim=-1) < SHORT * self.output.norm(dim=-1)  # [R, Q, H]
        if mass is not None:
            again |= mass > LEAVE_OUT_LIMIT
        rows = again.any(dim=2).nonzero()  # [B, 2] mask and query
        if len(rows):
            places = rows.unbind(dim=1)
            explicit = self._explicit([(masks[row], query) for row, query in rows.tolist()])
            by_rows = again[places].unsqueeze(-1)
            for ours, exact in ((output, explicit), (change, explicit - self.output[places[1]])):
                ours[places] = torch.where(by_rows, exact, ours[places])
        return Masked(output, change)

    def _left_out(self, masks: Masks) -> tuple[torch.Tensor, torch.Tensor | None]:
        """[R, Q, H, D] the change in closed form, and [R, Q, H] the weight that was masked (None where it stays)."""
        assert self.weights is not None
        masked = sorted({position for mask in masks for position in mask})  # M positions: fewer rows, a smaller table
        place = {position: index for index, position in enumerate(masked)}
        members = [place[position] for mask in masks for position in mask]  # of one mask after the other
        starts = list(accumulate((len(mask) for mask in masks[:-1]), initial=0))  # where each mask's members begin
        numbers = torch.tensor([*members, *starts, *masked], device=self.weights.device)  # one transfer to the device
        member, start, taken = numbers.split([len(members), len(starts), len(masked)])

        def removed(table: torch.Tensor) -> torch.Tensor:  # [M, X] -> [R, X]: sums over each mask's members
            return nn.functional.embedding_bag(member, table, start, mode="sum")

        weights = self.weights.index_select(2, taken).permute(2, 0, 1).contiguous()  # [M, Q, H]
        shares = weights.unsqueeze(-1) * self._head_values(taken).transpose(0, 1).unsqueeze(1)  # [M, Q, H, D]
        removed_shares = removed(shares.flatten(1)).view(len(masks), *self.output.shape)
        if self.zero_values:
            return -removed_shares, None
        mass = removed(weights.flatten(1)).view(len(masks), *self.output.shape[:2])
        left = (1 - mass).clamp_min(1 - LEAVE_OUT_LIMIT).unsqueeze(-1)
        return (self.output * mass.unsqueeze(-1)).sub_(removed_shares).div_(left), mass

    def explicit(self, masks: Masks) -> torch.Tensor:
        """[R, Q, H, D] attention output under each mask, by the family's attention with -inf added at the masked keys,
        or with 0 for their values. Where nothing is left to see, 0.
        """
        count = len(self.query)
        every = self._explicit([(mask, query) for mask in masks for query in range(count)])
        return every.unflatten(0, (len(masks), count))

    def _explicit(self, pairs: Sequence[tuple[Sequence[int], int]]) -> torch.Tensor:
        """[B, H, D] the same, of a query under a mask each."""
        by_head = self.keys.shape[2] * self.query[0].numel() * self.query.element_size()
        per_row = 8 * by_head  # keys and values, copied on the way; a part of the budget, since few rows come here

        def masked(part: Sequence[tuple[Sequence[int], int]]) -> torch.Tensor:
            hidden = torch.zeros(len(part), self.keys.shape[2], dtype=torch.bool)
            rows = [row for row, (mask, _) in enumerate(part) for _ in mask]
            hidden[rows, [position for mask, _ in part for position in mask]] = True
            hidden = hidden.to(self.bias.device)[:, None, None]  # [B, 1, 1, T]
            queries = torch.tensor([query for _, query in part], device=self.bias.device)
            bias = self.bias.index_select(0, queries)
            if self.zero_values:
                values = self.values.masked_fill(hidden.transpose(2, 3), 0.0)
                return self._eager(bias, queries, values)[0]
            bias = bias.masked_fill(hidden, float("-inf"))
            output, _ = self._eager(bias, queries)
            blind = bias.isneginf().all(dim=-1)  # [B, 1 or H, 1]
            return output.masked_fill(blind, 0.0)

        return torch.cat(self.portion.pieces(pairs, max(1, memory_budget(self.query.device) // per_row), masked))


def pull(
    weights: torch.Tensor, values: torch.Tensor, output: torch.Tensor, zero_values: bool, masks: Masks | None
) -> torch.Tensor:
    """[R] how much each set of positions contributes to an attention output, or [T] each position alone: the largest
    ||sum p_m (v_m - z)|| / ||z|| of any head; ||sum p_m v_m|| / ||z|| where values are zeroed.

    0 where no head looks, and where the value is the output anyway (a prompt of one repeated token).

    Args:
        weights, values, output: p [H, T], v [H, T, D] and z [H, D].
    """
    kept = torch.zeros_like(output) if zero_values else output  # what a position gave is replaced by this
    bearing = weights.unsqueeze(-1) * (values - kept.unsqueeze(1))  # [H, T, D]
    if masks is not None:
        bearing = torch.stack([bearing[:, list(mask)].sum(dim=1) for mask in masks], dim=1)  # [H, R, D]
    return (bearing.norm(dim=-1) / output.norm(dim=-1, keepdim=True).clamp_min(1e-30)).amax(dim=0)


def reading(weights: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """[..., 2, T] of each position the attention weight p, and p ||v||, how much of what it gives is read; means over
    heads.

    Kobayashi et al. 2020, "Attention is Not Only a Weight" (https://aclanthology.org/2020.emnlp-main.574), here before
    the output projection.

    Args:
        weights, lengths: p [..., H, T] and ||v|| [G, T]; G divides H (grouped-query attention shares values).
    """
    lengths = lengths.to(weights.dtype).repeat_interleave(weights.shape[-2] // len(lengths), dim=0)
    return torch.stack([weights.mean(dim=-2), (weights * lengths).mean(dim=-2)], dim=-2)


def read(recorded: Attention, query: QueryRecord, rows: torch.Tensor) -> torch.Tensor:
    """[R, 1, H, D] what queries `rows` [R, H, 1, D] read from the encoder, in the place of `query`.

    Computed as one long query over the same keys, in float32 or better.
    """
    precise = torch.promote_types(rows.dtype, torch.float32)
    states = (rows.transpose(0, 2), recorded.keys, recorded.values)
    with align_module_device(recorded.module):
        output, _ = eager_attention(recorded.module)(
            recorded.module,
            *(item.to(precise) for item in states),
            query.bias.expand(-1, -1, len(rows), -1),
            **query.options,
        )
    return output.transpose(0, 1).to(rows.dtype)
