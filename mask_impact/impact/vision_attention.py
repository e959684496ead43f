"""The attention of one layer of a vision tower, for any patches taken out of it.

In:  the layer's attention calls: queries, keys and values of patches that see each other (a picture, a tile, a window).
Out: its output on all rows, and what it changes by where a unit's patches are not read by the others.

A unit's patches do not read each other either, but each keeps itself, so no row is left without anything to read. The
algebra is that of `masking.py`, for all rows at once: with p the weights and z the output of a row that loses the
patches M,

    neg-inf     z_M - z = (z * sum p_m - sum p_m v_m) / (1 - sum p_m)
    zero-value  z_M - z = -sum p_m v_m

Shapes: N rows of the tower, L rows of one segment, M masked ones, H heads, D head width.
"""

from collections.abc import Sequence

import torch

from mask_impact.impact.masking import LEAVE_OUT_LIMIT, SHORT
from mask_impact.model.watching import AttentionCall

AT_ONCE = 64 * 2**20  # bytes of logits


class Segment:
    """Rows that see each other."""

    def __init__(self, call: AttentionCall, entry: int, first: int) -> None:
        """
        Args:
            entry: of the call's batch.
            first: the tower's row with which the segment begins.
        """
        precise = torch.promote_types(call.query.dtype, torch.float32)
        query, key, value = (item[entry].to(precise) for item in (call.query, call.key, call.value))
        scale = call.named.get("scaling")
        groups = len(query) // len(key)
        self.first, self.length = first, query.shape[1]
        self.query = query * (query.shape[-1] ** -0.5 if scale is None else scale)  # [H, L, D]
        self.keys, self.values = (item.repeat_interleave(groups, dim=0) for item in (key, value))  # [H, L, D]
        self.bias = _bias(call, entry)
        step = max(1, AT_ONCE // (len(query) * self.length * query.element_size()))
        self.parts = [torch.arange(start, min(start + step, self.length)) for start in range(0, self.length, step)]
        whole = [self._whole(rows) for rows in self.parts]
        self.total = torch.cat([total for total, _ in whole], dim=1)  # [H, L, 1]
        self.output = torch.cat([output for _, output in whole], dim=1)  # [H, L, D]

    def _whole(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[H, rows, 1] the logarithm of what the weights are divided by, and [H, rows, D] the output."""
        logits = self._logits(rows)
        return logits.logsumexp(dim=-1, keepdim=True), _weights(logits) @ self.values

    def _logits(self, rows: torch.Tensor, keys: Sequence[int] | None = None) -> torch.Tensor:
        """[H, rows, keys], all keys by default."""
        key = self.keys if keys is None else self.keys[:, list(keys)]
        logits = self.query[:, rows] @ key.transpose(-2, -1)
        if self.bias is None:
            return logits
        bias = self.bias[:, rows]
        return logits + (bias if keys is None else bias[..., list(keys)])

    def seen_by(self, members: Sequence[int]) -> torch.Tensor:
        """[L] bool: the rows that read any of `members` besides themselves."""
        others = torch.ones(self.length, len(members), dtype=torch.bool)
        others[list(members), range(len(members))] = False
        if self.bias is not None:
            others &= ~self.bias[..., list(members)].isneginf().all(dim=0).cpu()
        return others.any(dim=-1)

    def change(self, members: Sequence[int], zero_values: bool) -> torch.Tensor:
        """[H, L, D] the output without `members`, minus the output."""
        every = torch.arange(self.length)
        weights = (self._logits(every, members) - self.total).exp().nan_to_num(0.0)  # [H, L, M]
        weights[:, list(members), range(len(members))] = 0.0
        pulled = weights @ self.values[:, list(members)]
        if zero_values:
            return -pulled
        mass = weights.sum(dim=-1, keepdim=True)
        change = (self.output * mass - pulled) / (1 - mass)
        short = (self.output + change).norm(dim=-1) < SHORT * self.output.norm(dim=-1)
        again = ((mass[..., 0] > LEAVE_OUT_LIMIT) | short).any(dim=0).cpu()
        for rows in (part[again[part]] for part in self.parts):
            if len(rows):
                change[:, rows] = self._explicit(rows, members) - self.output[:, rows]
        return change

    def _explicit(self, rows: torch.Tensor, members: Sequence[int]) -> torch.Tensor:
        """[H, rows, D] with -inf in the logits: where the division would lose digits."""
        gone = torch.zeros(len(rows), self.length, dtype=torch.bool)
        gone[:, list(members)] = True
        gone[torch.arange(len(rows)), rows] = False
        logits = self._logits(rows)
        return _weights(logits.masked_fill(gone.to(logits.device), float("-inf"))) @ self.values


def _weights(logits: torch.Tensor) -> torch.Tensor:
    """Rows that see nothing, as those of padding, get zeros."""
    return logits.softmax(dim=-1).nan_to_num(0.0)


def _bias(call: AttentionCall, entry: int) -> torch.Tensor | None:
    """[1 or H, L, L] all that is added to the logits; None for nothing."""
    if call.mask is None and not call.causal and call.named.get("position_bias") is None:
        return None
    if call.mask is not None and len(call.mask) > 1:
        call = AttentionCall(
            call.module, call.query, call.key, call.value, call.mask[entry : entry + 1],
            call.positional, call.named, call.name,
        )  # fmt: skip
    bias = call.bias(call.causal)[0]
    return bias.expand(-1, call.query.shape[2], -1)


class TowerAttention:
    """All of a layer's attention: segments, one after the other."""

    def __init__(self, calls: Sequence[AttentionCall]) -> None:
        self.segments: list[Segment] = []
        for call in calls:
            for entry in range(len(call.query)):
                first = sum(each.length for each in self.segments)
                self.segments.append(Segment(call, entry, first))
        self.output = torch.cat([each.output.transpose(0, 1) for each in self.segments])  # [N, H, D]

    def _parts(self, rows: Sequence[int]) -> list[tuple[Segment, list[int]]]:
        """A unit's rows by segment."""
        parts = [
            (each, [row - each.first for row in rows if 0 <= row - each.first < each.length]) for each in self.segments
        ]
        return [(each, members) for each, members in parts if members]

    def seen_by(self, rows: Sequence[int]) -> torch.Tensor:
        """[N] bool: the rows that read any of a unit's besides themselves."""
        seen = torch.zeros(len(self.output), dtype=torch.bool)
        for each, members in self._parts(rows):
            seen[each.first : each.first + each.length] = each.seen_by(members)
        return seen

    def changes(self, units: Sequence[Sequence[int]], zero_values: bool = False) -> torch.Tensor:
        """[R, N, H, D] the output without each unit's rows, minus the output."""
        changes = self.output.new_zeros(len(units), *self.output.shape)
        for change, rows in zip(changes, units, strict=True):
            for each, members in self._parts(rows):
                changed = each.change(members, zero_values)
                change[each.first : each.first + each.length] = changed.transpose(0, 1)
        return changes
