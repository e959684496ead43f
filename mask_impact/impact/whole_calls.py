"""Record whole calls of layers, for families whose layers cannot be replayed on single rows.

In: a model, its inputs, and which positions are query positions. Out: a `Recording`, as `record.py` makes it, whose
layers are `CalledLayer`s: what each was called with on all tokens, and where in it attention is computed.

Every forward runs without a cache over its whole input, so that a layer can be called again as it was called here.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedModel

from mask_impact.errors import UnsupportedModel
from mask_impact.impact.record import LayerRecord, QueryRecord, Recording, generate
from mask_impact.model.call_rows import changed
from mask_impact.model.layers import layer_input, layer_output
from mask_impact.model.softmax import Site, SoftmaxFinder
from mask_impact.model.towers import family, named, unsupported
from mask_impact.model.watching import inside


@dataclass
class WholeQuery(QueryRecord):
    """One layer at one query position; `hidden` and `output` are the streams of that position, side by side."""

    row: int = 0  # among those of the call
    weights: list[torch.Tensor] = field(default_factory=list)  # [H, T] of each site


@dataclass
class CalledLayer(LayerRecord):
    """One layer and its call on all tokens."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    axes: tuple[int, int] = (0, 1)  # of the hidden states: that of the one prompt, that of its tokens
    sites: list[Site] = field(default_factory=list)
    seen: torch.Tensor = field(default_factory=lambda: torch.empty(0))  # [n, T] bool: the keys that each row sees

    @property
    def attends(self) -> bool:
        return bool(self.sites)

    def at(self, states: torch.Tensor, row: int) -> torch.Tensor:
        """[B, C] one token of B copies of the prompt; of a family with several streams, all of them side by side."""
        copies, tokens = self.axes
        return states.movedim((copies, tokens), (0, 1))[:, row].flatten(1)


class CallRecorder:
    """Fills one CalledLayer per layer while the model runs over `count` tokens."""

    def __init__(self, model: PreTrainedModel, count: int, wanted: Callable[[int], bool], tower: str) -> None:
        chosen = named(model.config, tower)
        if chosen.reads_encoder:
            raise UnsupportedModel(
                f"model family '{family(model)}' is not supported: its decoder does not call its attentions to its own "
                "tokens and to the encoder through transformers' AttentionInterface"
            )
        self.model, self.count, self.wanted = model, count, wanted
        self.records: list[CalledLayer] = [
            CalledLayer(index, layer) for index, layer in enumerate(chosen.layers(model))
        ]
        self.hidden = torch.empty(0)  # of the running layer
        self.finding = ExitStack()

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record until the block ends; the model is then as it was."""
        layers = [record.layer for record in self.records]
        with self.finding, inside(self.model, layers, entering=self._entering, leaving=self._leaving):
            yield

    def check_attends(self) -> None:
        """Raises UnsupportedModel where no layer was found to have softmax attention."""
        if not any(record.attends for record in self.records):
            raise UnsupportedModel(
                f"model family '{family(self.model)}' is not supported: no softmax of attention to its tokens was "
                "found in its layers"
            )

    def _entering(self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        record = self.records[index]
        record.passes += 1
        seen: dict[int, Any] = {}
        record.args, record.kwargs = (changed(each, torch.clone, seen) for each in (args, kwargs))
        self.hidden = layer_input(record.layer, record.args, record.kwargs)
        record.axes = self._axes(index, self.hidden)
        self.finder = SoftmaxFinder(self.hidden.shape[record.axes[1]], self.count)
        self.finding.enter_context(self.finder)

    def _axes(self, index: int, hidden: torch.Tensor) -> tuple[int, int]:
        """The axis of the one prompt, and that of its tokens: the next one, as a rule. A layer may be called with the
        last token alone."""
        sizes = list(hidden.shape)
        if 1 in sizes[:-1]:
            copies = sizes.index(1)
            others = [axis for axis in (copies + 1, *range(len(sizes) - 1)) if axis not in (copies, len(sizes) - 1)]
            for count in (self.count, 1):
                for axis in others:
                    if sizes[axis] == count:
                        return copies, axis
        what = (
            f"its input has shape {sizes} where there are {self.count} tokens: it adds tokens of its own, or mixes them"
        )
        raise unsupported(self.model, index, what)

    def _leaving(self, index: int, output: Any) -> None:
        self.finding.close()
        record, sites = self.records[index], self.finder.sites
        if self.finder.elsewhere:
            what = "it attends to something other than its tokens one by one (blocks, compressed or added keys)"
            raise unsupported(self.model, index, what)
        rows = self.hidden.shape[record.axes[1]]
        record.seen = torch.ones(rows, self.count, dtype=torch.bool, device=self.hidden.device)
        if sites:
            record.seen = torch.cat([site.visible for site in sites]).any(dim=0)
        for position in range(self.count - rows, self.count):
            if self.wanted(position):
                row = position - (self.count - rows)
                record.queries[position] = self._query(record, position, row, layer_output(output))
        for site in sites:  # only some rows of these are needed
            site.weights = site.visible = site.weights[:0]
            site.output = None
        record.sites = sites

    def _query(self, record: CalledLayer, position: int, row: int, output: torch.Tensor) -> WholeQuery:
        sites = self.finder.sites
        heads = [site.visible[:, row] for site in sites] or [record.seen[row : row + 1]]
        visible = torch.cat(heads)[None, :, None]  # [1, H, 1, T]
        bias = torch.zeros_like(visible, dtype=self.hidden.dtype).masked_fill_(~visible, float("-inf"))
        if bias[..., position + 1 :].isneginf().all():
            bias = bias[..., : position + 1]
        alone = sites[0].output if len(sites) == 1 else None
        return WholeQuery(
            position=position,
            args=(),
            kwargs={},
            hidden=record.at(self.hidden, row)[None].clone(),
            query=bias.new_empty(0),
            bias=bias.clone(),
            options={},
            heads=bias.new_empty(0, 0) if alone is None else alone[:, row].clone(),
            output=record.at(output, row)[None].clone(),
            branches={},
            row=row,
            weights=[site.weights[:, row].clone() for site in sites],
        )


def record_calls(
    model: PreTrainedModel,
    inputs: Mapping[str, torch.Tensor],
    num_tokens: int,
    stop_ids: list[int],
    queries: Callable[[int], bool],
    together: Sequence[tuple[int, int]] = (),
    progress: Callable[[], None] = lambda: None,
    tower: str = "decoder",
) -> Recording:
    """As `record_generation`, of one generated token. Raises UnsupportedModel where no layer has softmax attention."""
    assert num_tokens == 1, "every step has a forward of its own"
    if together:
        raise UnsupportedModel(
            f"model family '{family(model)}' computes attention in its own way, and its image tokens cannot be made to "
            "see each other; choose `vision_attention` model"
        )
    recorder = CallRecorder(model, inputs["input_ids"].shape[1], queries, tower)
    with recorder.recording():
        generated = generate(model, inputs, 1, stop_ids, progress, use_cache=False)
    recorder.check_attends()
    return Recording(list(recorder.records), *generated)
