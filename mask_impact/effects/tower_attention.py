"""One attention call of a vision tower without the edges that an edit takes out of it.

In:  the call, the row of the tower with which it begins, and an edit of rows. Out: the call's output without them.

Rows that stop reading the edit's rows lose the same keys, so these keys are left out, and no mask over all rows is
needed. Rows that are themselves among the edit's keep themselves: each loses other keys, and these few have a mask.

E entries of a batch (pictures, tiles), L rows of an entry, n chosen rows, H heads, D head width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from mask_impact.effects.edits import Bias, Edit, edited_attention
from mask_impact.model.attention import attention_function
from mask_impact.model.watching import AttentionCall, AttentionResult

WEIGHTS_AT_ONCE = 2**24  # of rows that each have a mask of their own: all patches of a large picture take GBs


@dataclass(frozen=True)
class Segment:
    """Rows of the tower that can see each other in one layer."""

    rows: range
    visible: torch.Tensor | None  # [L, L] bool, which row sees which; None: each sees all

    def has(self, edit: Edit) -> bool:
        """Whether an edit takes any edge out of it."""
        first = self.rows.start
        members = [row - first for row in edit.positions if row in self.rows]
        readers = [row - first for row in (self.rows if edit.readers is None else edit.readers) if row in self.rows]
        if not members or not readers:
            return False
        if self.visible is None:
            return len({*members, *readers}) > 1
        seen = self.visible[readers][:, members].clone()
        seen[torch.tensor(readers)[:, None] == torch.tensor(members)] = False
        return bool(seen.any())


def segments(calls: Sequence[AttentionCall]) -> list[Segment]:
    """Of a layer's attention calls."""
    found: list[Segment] = []
    for call in calls:
        for entry in range(len(call.query)):
            start, bias = (found[-1].rows.stop if found else 0), _bias(_entry(call, entry))
            visible = None if bias is None else ~bias.isneginf().all(dim=1)[0].cpu()
            visible = None if visible is not None and visible.all() else visible
            found.append(Segment(range(start, start + call.query.shape[2]), visible))
    return found


def attend_without(
    call: AttentionCall, first: int, edit: Edit, zero_values: bool, heads: tuple[int, ...] | None = None
) -> AttentionResult:
    """Output [E, L, H, D].

    Args:
        first: the tower's row with which the call begins.
        heads: those in which the edges are taken out; None: all.
    """
    length, found = call.query.shape[2], []
    for entry in range(len(call.query)):
        one, start = _entry(call, entry), first + entry * call.query.shape[2]
        members, readers = (
            [row - start for row in rows if start <= row < start + length]
            for rows in (edit.positions, range(start, start + length) if edit.readers is None else edit.readers)
        )
        found.append(_without(one, members, readers, zero_values, heads) if members and readers else one.compute()[0])
    return torch.cat(found), None


def _entry(call: AttentionCall, entry: int) -> AttentionCall:
    """One of the batch."""
    this = slice(entry, entry + 1)
    mask = call.mask if call.mask is None or len(call.mask) == 1 else call.mask[this]
    return replace(call, query=call.query[this], key=call.key[this], value=call.value[this], mask=mask)


def _without(
    call: AttentionCall, members: list[int], readers: list[int], zero_values: bool, heads: tuple[int, ...] | None
) -> torch.Tensor:
    """[1, L, H, D] of one entry."""
    length, inside = call.query.shape[2], set(members)
    others = [row for row in readers if row not in inside]
    themselves = [row for row in readers if row in inside]
    whole = len(others) + len(themselves) == length and heads is None
    output = torch.empty_like(call.query.transpose(1, 2)) if whole else call.compute()[0].clone()
    bias, step = _bias(call), max(1, WEIGHTS_AT_ONCE // (call.query.shape[1] * length))
    parts = [(others, _of_others)] if others else []
    parts += [(themselves[start : start + step], _of_themselves) for start in range(0, len(themselves), step)]
    for rows, attend in parts:
        part = attend(call, rows, members, bias, zero_values)
        output[:, rows] = part if heads is None else _in_heads(part, output[:, rows], heads)
    return output


def _in_heads(masked: torch.Tensor, plain: torch.Tensor, heads: tuple[int, ...]) -> torch.Tensor:
    """`plain` [1, n, H, D], `masked` in these heads."""
    output = plain.clone()
    output[:, :, list(heads)] = masked[:, :, list(heads)]
    return output


def _bias(call: AttentionCall) -> torch.Tensor | None:
    """[1, 1 or H, L, L] all that is added to the logits; None for nothing."""
    if call.mask is None and not call.causal and call.named.get("position_bias") is None:
        return None
    return call.bias(call.causal).expand(-1, -1, call.query.shape[2], -1)


def _of_others(
    call: AttentionCall, rows: list[int], members: list[int], bias: torch.Tensor | None, zero_values: bool
) -> torch.Tensor:
    """[1, n, H, D] of rows that are not among those that they stop reading."""
    keys, values = call.key, call.value
    mask = None if bias is None else bias[:, :, rows].to(call.query.dtype)
    if zero_values:
        values = values.clone()
        values[:, :, members] = 0.0
    else:
        kept = sorted(set(range(keys.shape[2])) - set(members))
        keys, values = keys[:, :, kept], values[:, :, kept]
        mask = None if mask is None else mask[..., kept]
    options = call.options | ({"is_causal": False} if "is_causal" in call.named else {})
    function = attention_function(call.name, call.module)
    return function(call.module, call.query[:, :, rows], keys, values, mask, *call.positional, **options)[0]


def _of_themselves(
    call: AttentionCall, rows: list[int], members: list[int], bias: torch.Tensor | None, zero_values: bool
) -> torch.Tensor:
    """[1, n, H, D] of rows that are among those that they stop reading; each keeps itself."""
    length = call.key.shape[2]
    gone = torch.zeros(1, 1, len(rows), length, dtype=torch.bool, device=call.key.device)
    gone[..., members] = True
    gone[:, :, range(len(rows)), rows] = False
    precise = torch.promote_types(call.query.dtype, torch.float32)
    added = torch.zeros_like(gone, dtype=precise) if bias is None else bias[:, :, rows]
    masked = Bias.of(added, gone, "zero-value" if zero_values else "neg-inf")
    options = call.options | ({"output_attentions": True} if zero_values else {})  # 4.57's CLIP keeps weights only so
    query = call.query[:, :, rows]
    return edited_attention(call.name, call.module, query, call.key, call.value, masked, options)[0]
