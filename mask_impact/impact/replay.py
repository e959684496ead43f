"""Replay one decoder layer on rows that differ only in which positions are masked.

In: a recorded layer, one of its queries or several together, and what each mask changes in the attention output. Out:
what the layer then adds to the residual stream, row by row.

Only the query row of one layer can change when a token is masked there, and its keys and values cannot, since they
come from the unmasked input. So the layer itself is called on R copies of the recorded row, and its attention call is
answered with the attention output of R different masks. Q queries are R copies of a sequence of Q tokens. Norms, MoE,
gates, multipliers and parallel blocks are the model's own code; no family is named here.

A layer in bfloat16 or float16 is replayed in float32: rounding in its own dtype would be most of a small change.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel

from mask_impact.impact import masking
from mask_impact.impact.masking import Masked
from mask_impact.impact.record import LayerRecord, QueryRecord
from mask_impact.impact.together import side_by_side
from mask_impact.impact.trace import RowTrace, tensors_in
from mask_impact.model import memory
from mask_impact.model.attention import add_encoded, configs_of, renamed_attention
from mask_impact.model.call_rows import changed
from mask_impact.model.layers import layer_output, replaced_forward
from mask_impact.model.memory import VECTORS_PER_ROW
from mask_impact.model.precision import LOW, in_float32, why_not, widened

# A product of two dtypes, as torch says it: the layer's code cast one of them itself.
MIXED = re.compile(r"same dtype|scalar type|dtypes? (?:do not match|mismatch)", re.IGNORECASE)


@dataclass
class Rows:
    """What the replayed layer did on each of R rows, at each of Q queries."""

    update: torch.Tensor  # [R, Q, C] layer output - layer input
    attention: torch.Tensor | None  # [R, Q, C] what the attention sublayer adds to the residual stream
    heads: torch.Tensor | None  # [R, Q, H, D] what the output projection receives, per query head; None: not known
    head_change: torch.Tensor | None  # [R, Q, H, D] its change by the mask, where known with all digits
    projection: nn.Parameter | torch.Tensor | None  # [C, H * D] the output projection's weight


def rows_at_once(query: QueryRecord) -> int:
    """How many rows fit the memory budget, of all queries together."""
    width = max(query.hidden.numel(), query.heads.numel())
    budget = memory.memory_budget(query.hidden.device)
    return max(2, budget // (width * max(query.hidden.element_size(), 4) * VECTORS_PER_ROW))


@dataclass
class LayerParts:
    """What a replay changes in a layer while it runs; the same for every query."""

    attentions: list[nn.Module]
    configs: list[Any]  # where they read their attention implementation from
    branches: dict[str, nn.Module]  # the layer's direct submodules without the attention that masks change

    @classmethod
    def of(cls, record: LayerRecord) -> "LayerParts":
        assert record.attention is not None
        attention = record.attention.module
        attentions = [each.attention.module for each in (record, record.other) if each and each.attention]
        beside = {
            name: child
            for name, child in record.layer.named_children()
            if not any(module is attention for module in child.modules())
        }
        inner = [module for outer in attentions for module in outer.modules()]
        return cls(attentions, configs_of(inner), beside)


class Replay:
    """Replays recorded layers of one model."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.share_rows = True
        self.parts: dict[nn.Module, LayerParts] = {}  # by the attention that masks change
        self.copies: list[torch.Tensor] = []  # in float32, of the weights of the layer that was replayed last
        self.as_it_is: dict[nn.Module, str | None] = {}  # layers, and why their own dtype is kept (None: it is not)

    def rows(self, record: LayerRecord, query: QueryRecord, masked: Masked) -> Rows:
        """Call the layer on R copies of the query's row, or of the rows of several queries.

        Args:
            query: of `record`, whose attention is the one that masks change.
            masked: the attention output of each row.
        """
        if self.dtype(record, query) == query.hidden.dtype:
            return self._rows(record, query, masked)
        try:
            with in_float32(record.layer, self.copies):
                return self._rows(record, query, masked)
        except RuntimeError as error:
            if not MIXED.search(str(error)):
                raise
        self.as_it_is[record.layer] = "the family's code asks for that dtype"
        return self._rows(record, query, masked)

    def dtype(self, record: LayerRecord, query: QueryRecord) -> torch.dtype:
        """What the layer is replayed in."""
        own = query.hidden.dtype
        if own in LOW and record.layer not in self.as_it_is:
            self.as_it_is[record.layer] = why_not(self.model, record.layer)
        return torch.float32 if own in LOW and not self.as_it_is[record.layer] else own

    def notes(self) -> list[str]:
        """What to say where layers were replayed in low precision."""
        return [
            f"layers were replayed in the model's own dtype, where small distances are rounding: {why}"
            for why in dict.fromkeys(self.as_it_is.values())
            if why
        ]

    def _rows(self, record: LayerRecord, query: QueryRecord, masked: Masked) -> Rows:
        try:
            return self._call(record, query, masked)
        except RuntimeError as error:
            if not self.share_rows or "single memory location" not in str(error):
                raise
        self.share_rows = False  # the layer writes into its input; it then needs real copies
        return self._call(record, query, masked)

    def _call(self, record: LayerRecord, query: QueryRecord, masked: Masked) -> Rows:
        assert record.attention is not None
        layer, attention, count = record.layer, record.attention.module, len(masked.output)
        if attention not in self.parts:
            self.parts[attention] = LayerParts.of(record)
        parts, dtype = self.parts[attention], self.dtype(record, query)
        args, kwargs, branches = self._arguments(record, query, count, dtype)
        heads = masked.output
        answer = heads.to(dtype)  # [R, Q, H, D]
        trace = RowTrace(count)

        def attend(module: nn.Module, row: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, None]:
            if module is not attention:
                return self._other(record, query, row), None
            trace.start(answer)
            return answer, None

        landing = attention.register_forward_hook(lambda module, inputs, output: trace.land(layer_output(output)))
        try:
            with (
                renamed_attention(attend, parts.attentions, parts.configs),
                answered_branches(parts.branches, branches, count),
                trace,
            ):
                output = layer_output(layer(*args, **kwargs))
        finally:
            landing.remove()
        received, weight = trace.received, trace.weight
        if received is not None and received.numel() != answer.numel():
            received, weight = None, None  # not a projection of all heads side by side
        if weight is not None and weight.shape[0] != query.hidden.shape[-1]:
            weight = None  # not one into the residual stream: the first half of an adapter beside quantised weights
        unchanged = received is None or received.data_ptr() == answer.data_ptr()
        if received is None or unchanged:  # in full precision, where nothing came between
            seen, head_change = heads, masked.change
        else:
            seen, head_change = received.reshape(heads.shape).to(heads.dtype), None
        return Rows(
            update=(output.to(heads.dtype) - query.hidden.to(heads.dtype)).view(count, *query.hidden.shape[1:]),
            attention=None if trace.addend is None else trace.addend.reshape(count, *query.hidden.shape[1:]),
            heads=seen,
            head_change=head_change,
            projection=weight,
        )

    def _arguments(self, record: LayerRecord, query: QueryRecord, count: int, dtype: torch.dtype) -> tuple[Any, ...]:
        """The layer's recorded arguments, by place and by name, for `count` rows, and what its branches gave."""
        hidden = query.hidden.to(dtype).expand(count, -1, -1)
        if not self.share_rows:
            hidden = hidden.contiguous()
        cache = None  # the replay has the keys already; a cross-attention looks for the encoder's in a cache
        if record.other is not None:
            cross = record if record.is_cross else record.other
            assert cross.attention is not None
            cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
            add_encoded(cache, cross.attention)

        def given(tensor: torch.Tensor) -> torch.Tensor:
            if tensor is query.hidden:
                return hidden
            return tensor if dtype == query.hidden.dtype else widened(tensor)

        args, kwargs = changed((query.args, query.kwargs), given, {}, cache)
        if "use_cache" in kwargs:
            kwargs["use_cache"] = False
        return args, kwargs, [changed(branches, given, {}, cache) for branches in query.branches]

    def _other(self, record: LayerRecord, query: QueryRecord, rows: torch.Tensor) -> torch.Tensor:
        """[R, 1, H, D] what the layer's other attention gives queries [R, H, 1, D]. Masks do not act there."""
        assert record.other is not None and record.other.attention is not None
        seen = record.other.queries[query.position]
        if record.is_cross:  # self-attention comes first, and does not change
            return seen.heads[None].to(rows.dtype).expand(len(rows), -1, -1, -1)
        return masking.read(record.other.attention, seen, rows)


@contextmanager
def answered_branches(
    branches: Mapping[str, nn.Module], recorded: Sequence[Mapping[str, Any]], count: int
) -> Iterator[None]:
    """Let the layer's submodules that do not depend on attention give what they gave in the record.

    Args:
        branches: the submodules in question, by name; recorded: for each query what each gave, None for several calls.
        count: rows.

    A branch beside attention (Falcon-H1's Mamba) needs the whole prompt, which a replayed row does not have; its
    result at that row cannot change. A submodule is independent when its input is R copies of one row.
    """

    def answer(compute: Callable[..., Any], given: Any) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            tensors = [t for t in tensors_in([*args, *kwargs.values()]) if t.ndim > 1 and len(t) == count]
            copies = tensors and all(tensor.stride(0) == 0 for tensor in tensors)
            return expanded(side_by_side(given, {}), count) if copies else compute(*args, **kwargs)

        return forward

    with ExitStack() as undo:
        for name, child in branches.items():
            given = [each.get(name) for each in recorded]
            if all(each is not None for each in given):
                undo.enter_context(replaced_forward(child, answer(child.forward, given)))
        yield


def expanded(value: Any, count: int) -> Any:
    """Recorded rows [1, ...] as views of `count` equal rows."""
    if isinstance(value, torch.Tensor):
        return value.expand(count, *value.shape[1:])
    if isinstance(value, tuple | list):
        return type(value)(expanded(item, count) for item in value)
    return value


def head_shares(heads: torch.Tensor, projection: torch.Tensor) -> torch.Tensor:
    """[..., H, D] heads through their slices of the output projection [C, H * D] -> [..., H, C].

    The shares of a row add up to the projection's output, without its bias.
    """
    slices = projection.to(heads.dtype).view(-1, *heads.shape[-2:])  # [C, H, D]
    return torch.einsum("...hd,chd->...hc", heads, slices)
