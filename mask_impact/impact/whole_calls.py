"""Record whole calls of layers, for families whose layers cannot be replayed on single rows.

In: a model, its inputs, and which positions are query positions. Out: a `Recording`, as `record.py` makes it, whose
layers are `CalledLayer`s. Every forward runs without a cache over its whole input.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedModel

from mask_impact.errors import UnsupportedModel
from mask_impact.impact.record import LayerRecord, QueryRecord, Recording, generate
from mask_impact.model.layout import Layout, find_layout
from mask_impact.model.marked import marked_sites
from mask_impact.model.softmax import NOWHERE, Slots
from mask_impact.model.towers import family, named, unsupported
from mask_impact.model.whole_calls import OtherRows, WholeCall, whole_calls


@dataclass
class WholeQuery(QueryRecord):
    """One layer at one query position; `hidden` and `output` are the streams of that position, side by side."""

    row: int = 0  # among those of the call
    weights: list[torch.Tensor] = field(default_factory=list)  # [H, T] of each site
    slots: list[Slots] = field(default_factory=list)  # where these are in the layer


@dataclass
class CalledLayer(LayerRecord):
    """One layer and its call on all tokens."""

    call: WholeCall | None = None  # in the last of its passes

    @property
    def attends(self) -> bool:
        return self.call is not None and bool(self.call.sites)


def record_calls(
    model: PreTrainedModel,
    inputs: Mapping[str, torch.Tensor],
    answer: int | Sequence[int],
    stop_ids: list[int],
    queries: Callable[[int], bool],
    together: Sequence[tuple[int, int]] = (),
    progress: Callable[[], None] = lambda: None,
    tower: str = "decoder",
) -> Recording:
    """As `record_generation`, of one generated token. Raises UnsupportedModel where no layer has softmax attention."""
    assert answer == 1 or (not isinstance(answer, int) and len(answer) == 1), "every step has a forward of its own"
    chosen, count = named(model.config, tower), inputs["input_ids"].shape[1]
    if together:
        raise UnsupportedModel(
            f"model family '{family(model)}' computes attention in its own way, and its image tokens cannot be made to "
            "see each other; choose `vision_attention` model"
        )
    records = [CalledLayer(index, layer) for index, layer in enumerate(chosen.layers(model))]
    wanted = [position for position in range(count) if queries(position)]

    def done(index: int, call: WholeCall) -> None:
        record = records[index]
        record.call = call
        record.passes += 1
        record.queries.clear()
        rows = _rows(call, count, wanted)
        if call.layout is not None:
            call.sites = list(marked_sites(model, index, record.layer, call, call.layout, rows.values()))
        for position, row in rows.items() if call.sites else ():
            record.queries[position] = _query(call, position, row)
        call.output = call.output.new_empty(0)
        for site in call.sites:  # of which only the rows above are needed
            site.weights = site.visible = site.weights[:0]
            site.output = None

    def generated(layout: Layout | None = None) -> tuple[Any, ...]:
        for record in records:
            record.passes = 0
        with whole_calls(model, [record.layer for record in records], count, done, layout):
            return generate(model, inputs, answer, stop_ids, progress, use_cache=False)

    try:
        found = generated()
    except OtherRows:
        if chosen.half is not None:
            raise
        found = generated(_layout(model, inputs, wanted))
    if not any(record.attends for record in records):
        raise UnsupportedModel(f"model family '{family(model)}' is not supported: {NOWHERE}")
    return Recording(list(records), *found)


def _layout(model: PreTrainedModel, inputs: Mapping[str, torch.Tensor], wanted: Sequence[int]) -> Layout:
    """Where tokens and the wanted positions are. Raises UnsupportedModel where none of them predicts anything."""
    layout = find_layout(model, inputs, inputs["input_ids"].shape[1] - min(wanted))
    if not set(wanted) & layout.predicting.keys():
        what = f"position {wanted[0]} predicts nothing: it predicts at the end of its input alone"
        raise unsupported(model, 0, f"{what}; leave out `queries`")
    return layout


def has_own_rows(recording: Recording) -> bool:
    """Whether the layers have other rows than the prompt's tokens."""
    calls = [record.call for record in recording.layers if isinstance(record, CalledLayer)]
    return any(call is not None and call.layout is not None for call in calls)


def _rows(call: WholeCall, count: int, wanted: Sequence[int]) -> dict[int, int]:
    """The row of each wanted position in a layer's call: that of its token, or the one that predicts the next."""
    if call.layout is None:
        first = count - call.rows
        return {position: position - first for position in wanted if position >= first}
    return {position: row for position, row in call.layout.predicting.items() if position in wanted}


def _query(call: WholeCall, position: int, row: int) -> WholeQuery:
    readings = [site.reading(row) for site in call.sites]
    visible = torch.cat([reading.visible for reading in readings])[None, :, None]  # [1, H, 1, T]
    bias = torch.zeros_like(visible, dtype=call.hidden.dtype).masked_fill_(~visible, float("-inf"))
    if bias[..., position + 1 :].isneginf().all():
        bias = bias[..., : position + 1]
    alone = call.sites[0].output if len(call.sites) == 1 else None
    return WholeQuery(
        position=position,
        args=(),
        kwargs={},
        hidden=call.at(call.hidden, row)[None].clone(),
        query=bias.new_empty(0),
        bias=bias.clone(),
        options={},
        heads=bias.new_empty(1, 0, 0) if alone is None else alone[None, :, row].clone(),
        output=call.at(call.output, row)[None].clone(),
        branches=[],
        row=row,
        weights=[reading.weights for reading in readings],
        slots=[reading.slots for reading in readings],
    )
