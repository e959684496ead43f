"""One layer of a vision tower, called again on many pictures at once: one for each unit whose patches are masked.

In:  a recorded `LayerCall`, and units of rows. Out: how far the layer's update of the rows that read moves.

The layer is called once for all masks (`torch.vmap`), with its attention answered: what comes before attention is the
same for all masks, and is computed once; what comes after is computed for each. States without a batch axis
(Qwen-VL's) need nothing of their own that way.

Shapes: R masks, N rows of the tower, n rows that are compared, C hidden, H heads, D head width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from mask_impact.errors import UnsupportedModel
from mask_impact.impact.masking import Masked
from mask_impact.impact.meter import Wanted
from mask_impact.impact.trace import RowTrace
from mask_impact.impact.vectors import Rounding, Vectors, signs
from mask_impact.impact.vision_attention import TowerAttention
from mask_impact.model.attention import configs_of, renamed_attention
from mask_impact.model.layers import layer_output
from mask_impact.model.memory import memory_budget
from mask_impact.model.rounding import ROUNDING
from mask_impact.model.towers import refusing
from mask_impact.model.vision_tower import LayerCall, attention_calls, unsupported_tower

# A mask's share of the memory that a call may hold at once, in states of the tower: MLP intermediates, attention
# outputs, and the vectors that are compared.
STATES_PER_MASK = 20


@dataclass
class Called:
    """What a layer did under R masks."""

    update: torch.Tensor  # [R, N, C]
    attention: torch.Tensor | None  # [R, N, C] what it adds to the residual stream; None where that was not found
    heads: torch.Tensor  # [R, N, H, D]
    head_change: torch.Tensor  # [R, N, H, D] from no mask
    projection: torch.Tensor | None  # [C, H * D] where it is the heads side by side that are projected


class TowerLayer:
    """A layer, its attention, and what it does without a mask."""

    def __init__(self, model: PreTrainedModel, call: LayerCall, zero_values: bool = False) -> None:
        """Raises UnsupportedModel where the layer, called again, does not give what the model computed."""
        self.model, self.call, self.zero_values = model, call, zero_values
        self.attention = TowerAttention(attention_calls(model, call))
        self.rounding = Rounding(call.hidden.dtype)
        none = self.attention.output
        rounded = none * (1 + self.rounding.step * signs(none.shape[1:], none.device).to(none.dtype))
        with refusing(model, "it cannot be called again with other attention", call.index):
            self.base = self.called(Masked(torch.stack([none, rounded]), torch.stack([none - none, rounded - none])))
        self.noise = self._check()

    def called(self, masked: Masked) -> Called:
        """The layer with these attention outputs [R, N, H, D]."""
        call, parts = self.call, _Parts(self.attention)
        inner = list(call.layer.modules())

        def one(attended: torch.Tensor) -> tuple[torch.Tensor, ...]:
            trace = RowTrace(rows=1)
            parts.start(attended.to(call.hidden.dtype), trace)
            with trace:
                output = layer_output(call.layer(*call.args, **call.kwargs))
            self.trace = trace
            found = [output, trace.addend, trace.received]
            return tuple(call.by_row(each) for each in found if each is not None)

        with renamed_attention(parts.answer, inner, configs_of(inner)):
            found = list(torch.vmap(one)(masked.output))
        precise = torch.promote_types(call.hidden.dtype, torch.float32)
        update = found.pop(0).to(precise) - call.by_row(call.hidden).to(precise)
        attention = found.pop(0).to(precise) if self.trace.addend is not None else None
        heads, weight = masked.output.flatten(2).to(call.hidden.dtype), self.trace.weight
        received = found[0] if found else None
        if received is None or received.shape != heads.shape or not torch.equal(received, heads):
            weight = None
        return Called(update, attention, masked.output, masked.change, weight)

    def _check(self) -> dict[str, tuple[float, float]]:
        """Without a mask against the record: L2 and relative difference. Raises UnsupportedModel."""
        call, precise = self.call, self.base.update.dtype
        output = call.by_row(layer_output(call.output)).to(precise)
        theirs = output - call.by_row(call.hidden).to(precise)
        l2, length = (self.base.update[0] - theirs).norm().item(), theirs.norm().item()
        limit = ROUNDING[call.hidden.dtype]
        if not l2 <= limit * max(length, output.norm().item()):
            raise self._refusal(
                f"called again without a mask, its update differs from the model's own by {l2 / max(length, 1e-30):.2g}"
                f" of its length (rounding in {call.hidden.dtype} explains {limit:.2g} at most)"
            )
        return {"Full": (l2, l2 / max(length, 1e-30))}

    def _refusal(self, what: str) -> UnsupportedModel:
        return unsupported_tower(self.model.config, f"layer {self.call.index}: {what}")

    def at_once(self) -> int:
        """How many masks fit the memory budget."""
        size = self.base.update[0].nbytes * STATES_PER_MASK
        return max(1, memory_budget(self.call.hidden.device) // size)

    def without(self, units: Sequence[Sequence[int]]) -> Called:
        """The layer without each of R units."""
        changes = self.attention.changes(units, self.zero_values)
        return self.called(Masked(self.attention.output + changes, changes))

    def magnified(self, units: Sequence[Sequence[int]], rows: torch.Tensor, wanted: Wanted) -> list[Vectors]:
        """The vectors without each unit, of changes that rounding would swallow: they are made larger before the layer
        is called, and what comes out is made smaller by as much."""
        none = self.attention.output
        changes = self.attention.changes(units, self.zero_values)[:, rows]  # [R, n, H, D]; others may be much larger
        small, base = changes.flatten(1, 2), none[rows].flatten(0, 1)
        enlarged, factor = self.rounding.magnified(Masked(base + small, small), base)
        change = none.new_zeros(len(units), *none.shape)
        change[:, rows] = enlarged.change.view(changes.shape)
        larger = Masked(none + change, change)
        found = self.vectors(self.called(larger), rows, wanted)
        for each in found:
            each.change /= factor.view(-1, *[1] * each.base.ndim)
            each.masked = None
        return found

    def vectors(self, called: Called, rows: torch.Tensor, wanted: Wanted) -> list[Vectors]:
        """The update of `rows` [n] as one vector for each variant, under R masks and without."""
        found = []
        if wanted.full:
            found.append(_vectors(self.base.update, called.update, rows, sums=True))
        if wanted.attn:
            if called.attention is None or self.base.attention is None:
                raise self._refusal(
                    "no addition of attention alone to its states was found; measure it with `variants` full"
                )
            found.append(_vectors(self.base.attention, called.attention, rows))
        if wanted.heads:
            found.append(self._heads(called, rows, wanted.head_space))
        return found

    def _heads(self, called: Called, rows: torch.Tensor, space: str) -> Vectors:
        if called.projection is None:
            raise self._refusal("its heads cannot be told apart before an output projection; use `variants` full")
        inside = self._shares_as_short(called.projection) if space == "residual" else None

        def by_head(states: torch.Tensor) -> torch.Tensor:  # [R, N, H, D] -> [R, H, n * D]
            heads = states[:, rows].transpose(1, 2)
            return (heads if inside is None else heads @ inside).flatten(2)

        base = by_head(self.base.heads[:1])
        return Vectors(base, by_head(called.head_change).unsqueeze(1), by_head(called.heads).unsqueeze(1))

    def _shares_as_short(self, projection: torch.Tensor) -> torch.Tensor:
        """[H, D, D]: heads times this are as long, and at the same angles, as their shares of the projection's output.

        A share is W z, with a head's slice W [C, D] = Q R; Q keeps lengths and angles, so R z does for W z.
        """
        heads = self.base.heads
        slices = projection.cpu().to(torch.float64).view(-1, *heads.shape[2:]).transpose(0, 1)  # [H, C, D]
        return torch.linalg.qr(slices).R.transpose(1, 2).to(heads)

    def rounded(self, rows: torch.Tensor, wanted: Wanted) -> list[Vectors]:
        """The vectors of one more row, which is without a mask and rounded in another way: the noise floor."""
        base = self.base
        last = Called(
            base.update[1:],
            None if base.attention is None else base.attention[1:],
            base.heads[1:],
            base.head_change[1:],
            base.projection,
        )
        found = self.vectors(last, rows, wanted)
        if wanted.full:
            output = self.call.by_row(layer_output(self.call.output))[rows].flatten()
            self.rounding.of_stream(found[0], output.to(found[0].change))
        for each in found:
            self.rounding.widen(each)
        return found


def _vectors(base: torch.Tensor, under: torch.Tensor, rows: torch.Tensor, sums: bool = False) -> Vectors:
    """Of [R, N, C] under masks, and without one in the first of `base`: the chosen rows side by side, as one query."""
    one, many = base[:1, rows].flatten(1), under[:, None, rows].flatten(2)
    return Vectors(one, many - one, None if sums else many)


class _Parts:
    """Answers a layer's attention calls with its parts of an output, in the order of the calls."""

    def __init__(self, attention: TowerAttention) -> None:
        self.attention = attention

    def start(self, attended: torch.Tensor, trace: RowTrace) -> None:
        """A call of the layer begins, whose attention gives `attended` [N, H, D]."""
        self.attended, self.trace, self.done = attended, trace, 0

    def answer(self, module: nn.Module, query: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, None]:
        batch, length = query.shape[0], query.shape[2]
        part = self.attended[self.done : self.done + batch * length]
        self.done += batch * length
        output = part.reshape(batch, length, *part.shape[1:])  # [B, L, H, D]
        self.trace.made[id(output)] = output
        return output, None
