"""Measure families whose layers cannot be replayed on single rows: each layer runs again on its whole input.

In: a recorded layer call (`whole_calls.py`) and masks. Out: what the layer then adds to the residual stream at the
query position, for each mask.

The layer runs on copies of its input, one for each mask, and what a mask takes away is taken at the query's row alone,
where the layer's own code computes its softmax (`model/softmax.py`). That costs a layer over the whole prompt for every
mask, and needs nothing of a family but a softmax over its tokens.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from mask_impact.impact.masking import Masks, pull, reading
from mask_impact.impact.meter import Meter
from mask_impact.impact.record import LayerRecord, QueryRecord
from mask_impact.impact.replay import Rows
from mask_impact.impact.trace import PRODUCTS, RowTrace, is_weight, tensors_in
from mask_impact.impact.vectors import Rounding, signs
from mask_impact.impact.whole_calls import CalledLayer, WholeQuery
from mask_impact.model.call_rows import changed
from mask_impact.model.memory import VECTORS_PER_ROW, is_out_of_memory, memory_budget
from mask_impact.model.rounding import ROUNDING
from mask_impact.model.softmax import SoftmaxMasks
from mask_impact.model.towers import refusing
from mask_impact.model.whole_calls import WholeCall


class SeenAttention:
    """One query's attention in one layer, as the layer itself computed it; with several sites, their heads in a row."""

    def __init__(self, record: CalledLayer, query: WholeQuery, ablation: str) -> None:
        assert record.call is not None
        self.call, self.query, self.zero_values = record.call, query, ablation == "zero-value"
        self.weights = torch.cat(query.weights)[None] if len(query.weights) == 1 else None  # [1, H, T]
        values = record.call.sites[0].values if self.weights is not None else None
        if values is None or self.weights is None:
            self.output = query.heads  # [1, 0, 0]
        else:
            self.output = (self.weights[0].unsqueeze(1) @ values.to(self.weights.dtype)).transpose(0, 1)  # [1, H, D]

    @property
    def heads(self) -> int:
        return len(self.query.weights[0])

    def visible(self) -> torch.Tensor:
        """[1, T] bool: positions that at least one head can see."""
        return ~self.query.bias.isneginf().all(dim=1)[:, 0]

    def pull(self, masks: Masks | None = None) -> torch.Tensor | None:
        """As the function `pull`, the largest of any site; None where the values are not known."""
        pulls = []
        for weights, site in zip(self.query.weights, self.call.sites, strict=True):
            if site.values is None:
                return None
            values = site.values.to(weights.dtype)
            output = (weights.unsqueeze(1) @ values).squeeze(1)  # [H, D]
            pulls.append(pull(weights, values, output, self.zero_values, masks))
        return torch.stack(pulls).amax(dim=0)

    def reading(self) -> torch.Tensor | None:
        """[1, 2, T] as the function `reading`; None where the values are not known, or there are several sites."""
        values = self.call.sites[0].values
        return None if self.weights is None or values is None else reading(self.weights, values.norm(dim=-1))


class AlonePath(RowTrace):
    """Follows attention to the residual stream, and notes whether anything but attention is on the way there."""

    def __init__(self) -> None:
        super().__init__(rows=1)  # all copies are computed
        self.mixed = False  # another matrix, as of an MLP, came between the output projection and the residual stream
        self.places = 0

    def start(self, attention_output: torch.Tensor) -> None:
        self.places += 1
        super().start(attention_output)

    def _is_activation(self, other: Any, ours: torch.Tensor) -> bool:
        if not super()._is_activation(other, ours):
            return False
        axes = [axis for axis in range(other.ndim - 1) if other.shape[axis] > 1]
        return not axes or any(other.stride(axis) for axis in axes)  # else it is a bias, the same for all tokens

    def _follow(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.projected and name in PRODUCTS and any(is_weight(each) for each in tensors_in(args)):
            self.mixed = True
        return super()._follow(func, name, args, kwargs)


class RerunMeter(Meter):
    """Measures layers that were recorded whole."""

    way = "fallback"
    takes_several = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.copies: dict[type[nn.Module], bool] = {}  # whether a kind of layer takes several copies at once

    def attention(self, record: LayerRecord, query: QueryRecord) -> Any:
        assert isinstance(record, CalledLayer) and isinstance(query, WholeQuery)
        return SeenAttention(record, query, self.ablation)

    def rows_at_once(self, record: LayerRecord, query: QueryRecord) -> int:
        assert isinstance(record, CalledLayer) and isinstance(query, WholeQuery)
        assert record.call is not None
        hidden, rows = record.call.hidden, record.call.rows
        weights = 4 * sum(len(each) for each in query.weights) * rows * query.weights[0].shape[-1]
        size = max(hidden.element_size(), 4) * (hidden.numel() * VECTORS_PER_ROW + weights)
        return max(2, memory_budget(hidden.device) // size)

    def dtype(self, record: LayerRecord, query: QueryRecord) -> torch.dtype:
        return query.hidden.dtype

    def _rows(self, record: LayerRecord, query: QueryRecord, attention: Any, masks: Masks, rounding: Rounding) -> Rows:
        assert isinstance(record, CalledLayer) and isinstance(query, WholeQuery)
        with refusing(self.model, "it cannot be called again on its whole input", record.index):
            kind = type(record.layer)
            if kind not in self.copies:
                self.copies[kind] = self._takes_copies(record, query)
            if self.copies[kind]:
                return self._rerun(record, query, [[], *masks, []], rounding)
            each = [self._rerun(record, query, [mask]) for mask in ([], *masks)]
            return _stacked([*each, self._rerun(record, query, [[]], rounding)])

    def _move_the_unmoved(self, *_: Any) -> None:
        """What is below rounding stays 0 here: there is no attention output that could be magnified."""

    def _takes_copies(self, record: CalledLayer, query: WholeQuery) -> bool:
        """Whether the layer gives the same on several copies at once as on one after the other."""
        masks = [[], [int(query.weights[0].sum(dim=0).argmax())]]
        apart = torch.cat([self._rerun(record, query, [mask]).update for mask in masks])
        try:
            together = self._rerun(record, query, masks).update
        except Exception as error:
            if is_out_of_memory(error):
                raise
            return False
        return bool((together - apart).norm() <= ROUNDING[query.hidden.dtype] * (apart[0] - apart[1]).norm())

    def _rerun(self, record: CalledLayer, query: WholeQuery, masks: Masks, rounding: Rounding | None = None) -> Rows:
        """The layer on one copy of its input for each mask; with `rounding`, the last is rounded in another way."""
        call, count = record.call, len(masks)
        assert call is not None
        gone = {slots.place: slots.hidden(masks).to(call.hidden.device) for slots in query.slots}
        trace = AlonePath()
        width = torch.Size([max(slots.width for slots in query.slots)])
        factors = None if rounding is None else 1 + rounding.step * signs(width, call.hidden.device)
        masked = SoftmaxMasks(gone, self.ablation == "zero-value", trace.start, factors)
        args, kwargs = changed((call.args, call.kwargs), lambda tensor: copied(tensor, count), {})
        with trace, masked:
            output = call.at(call.of_output(record.layer(*args, **kwargs)), query.row)
        precise = torch.promote_types(output.dtype, torch.float32)
        clear = trace.places == 1 and trace.addend is not None and not trace.mixed
        return Rows(
            update=(output.to(precise) - query.hidden[0].to(precise)).unsqueeze(1),
            attention=at_row(call, trace.addend, query.row).unsqueeze(1) if clear else None,
            heads=self._heads_received(call, query, trace, masks),
            head_change=None,
            projection=trace.weight if trace.places == 1 else None,
        )

    def _heads_received(
        self, call: WholeCall, query: WholeQuery, trace: AlonePath, masks: Masks
    ) -> torch.Tensor | None:
        """[R, 1, H, D] what the output projection receives, where it is the heads' outputs side by side."""
        received, heads = trace.received, query.heads
        if trace.places != 1 or received is None or not heads.numel() or received.shape[-1] != heads.numel():
            return None
        found = at_row(call, received, query.row).reshape(len(masks), *heads.shape)
        unmasked = [copy for copy, mask in enumerate(masks) if not mask]
        limit = ROUNDING[heads.dtype] * heads.norm()
        if any((found[copy] - heads).norm() > limit for copy in unmasked):
            return None
        return found.to(torch.promote_types(found.dtype, torch.float32))


def at_row(call: WholeCall, states: torch.Tensor | None, row: int) -> torch.Tensor:
    """[B, C] one token of what is inside a layer: laid out as its input, or one stream of several."""
    assert states is not None
    if states.ndim == 2:  # GPT-1's Conv1D puts the tokens of all copies one after the other
        return states.unflatten(0, (-1, call.rows))[:, row]
    return call.at(states, row) if states.ndim == call.hidden.ndim else states[:, row].flatten(1)


def copied(tensor: torch.Tensor, count: int) -> torch.Tensor:
    """`count` copies of an argument along the axis of the one prompt, its first of length 1; always a tensor of its
    own, because a layer may write into it."""
    axes = [axis for axis, size in enumerate(tensor.shape[:-1]) if size == 1]
    if not axes:
        return tensor.clone()
    return tensor.repeat_interleave(count, dim=axes[0])


def _stacked(rows: Sequence[Rows]) -> Rows:
    """The rows of several calls as those of one."""

    def joined(parts: list[torch.Tensor | None]) -> torch.Tensor | None:
        known = [part for part in parts if part is not None]
        return torch.cat(known) if len(known) == len(parts) else None

    update = torch.cat([each.update for each in rows])
    attention, heads = joined([each.attention for each in rows]), joined([each.heads for each in rows])
    return Rows(update, attention, heads, None, rows[0].projection)
