"""What a mask does to the answer when it holds over a range of layers and is carried on to the logits.

In: a model, its inputs, units (what is masked together), a window (first and last layer in which the mask holds) and a
block (which positions stop reading it). Out: one row for each, and for each token of the answer: what happens to the
chosen token and the last state. Positions after a token do not change what predicts it, so one masked run over prompt
and answer gives the rows of all steps.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch

from mask_impact.distances import distances
from mask_impact.effects.asked import Window
from mask_impact.effects.carry import Begins, Carried, Carrier, Forwards, uncounted
from mask_impact.effects.carry_decoder import DecoderCall, DecoderCarrier, Decoding
from mask_impact.effects.edits import Edit
from mask_impact.effects.masked_forwards import MaskedForwards
from mask_impact.effects.predictions import Base, Prediction
from mask_impact.effects.recorded_forward import Call, Passage, Reach, record_passage
from mask_impact.effects.routes import Mask, Route, route_to
from mask_impact.effects.work import rows_work
from mask_impact.errors import UnsupportedModel
from mask_impact.model.costs import Costs
from mask_impact.model.layers import last_pass_only
from mask_impact.model.memory import VECTORS_PER_ROW, explained, free_memory, is_out_of_memory, memory_budget
from mask_impact.prompt.token_text import token_text
from mask_impact.prompt.units import Unit

# Edits that begin at different positions run together, from the first of these positions on. A matrix product needs
# this many rows to be fast; where there are more, at most a tenth of them may be rows in which nothing changes.
ENOUGH_ROWS, ENOUGH_GPU_ROWS = 64, 4096
WHOLE_ANSWER = -1  # the generation step of rows about all of them

WHOLE = "layers of this family cannot be carried on by rows: one forward of the whole model was run for every mask"


@dataclass(frozen=True)
class Effect:
    """A mask, and what it does to the prediction of one output token. Logarithms are natural."""

    generation_step: int  # WHOLE_ANSWER: all of them
    token_masked: str
    token_position: int  # the unit's first
    first_layer: int
    last_layer: int
    block: str
    logprob: float  # of the token that the model chose, under the mask
    logprob_change: float  # from what it was
    rank: int  # of that token under the mask, 1 the likeliest
    top_token: str  # the likeliest under the mask
    kl: float  # KL(without the mask || with it)
    final_l2: float | None  # of the state after the last layer, before the final norm; None for the whole answer
    final_cosine: float | None
    contrast: float | None = None  # log-probability of the first text minus that of the second, under the mask
    contrast_change: float | None = None
    interaction: float | None = None  # of a pair: its logprob_change minus those of its two units
    head: int | None = None  # the only one in which the mask held; None: several
    unit_level: int | None = None  # of units from coarse to fine, 0 the coarsest
    image_l2: float | None = None  # of a mask in a vision tower: how far it moves its picture's features
    image_cosine: float | None = None
    patch_row: int | None = None  # of a single patch
    patch_col: int | None = None


@dataclass(frozen=True)
class Trace:
    """How far a mask has moved the last position's state after one layer."""

    generation_step: int
    token_masked: str
    token_position: int
    first_layer: int
    last_layer: int
    block: str
    layer: int
    l2_distance: float
    cosine_distance: float
    head: int | None = None
    unit_level: int | None = None


class Runner(Protocol):
    """Runs edits of one recorded forward."""

    passage: Any  # Passage, or Decoding of an encoder-decoder
    noise: dict[str, float]
    begins: Begins

    def reach(self, first: int, last: int, edits: Sequence[Edit]) -> Reach: ...
    def attended(self, rows: int, by_head: bool = False) -> int: ...
    def run(self, first: int, last: int, start: int, edits: Sequence[Edit]) -> Carried: ...


class Effects:
    """The effects of masks on the tokens that are predicted at the end of one input."""

    unmoved: torch.Tensor | None = None  # [1, 2] of masks in a vision tower: the image features where nothing moves

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        inputs: Mapping[str, torch.Tensor],
        step: int,
        together: Sequence[tuple[int, int]] = (),
        ablation: str = "neg-inf",
        contrast: tuple[int, int] | None = None,
        chosen: Sequence[int] | None = None,
    ) -> None:
        """
        Args:
            inputs: the model's, up to the last position that predicts; "input_ids" [1, T], of an encoder-decoder also
                "decoder_input_ids" [1, M].
            step: the first generation step, for the table.
            chosen: the ids of the S tokens that the last positions predict; None: the likeliest, at the last one.
        """
        self.tokenizer, self.step = tokenizer, step
        self.progress: Callable[[float], None] = lambda work: None  # called with the work of masks as it begins
        self.costs: Costs | None = None  # for that; None: what comes after the last layer counts as nothing
        length, steps = inputs["input_ids"].shape[1], 1 if chosen is None else len(chosen)
        self.notes: list[str] = []
        self.runner: Runner
        with explained(f"a forward over {length} tokens"):
            if "decoder_input_ids" in inputs:
                self.runner = DecoderCarrier(model, inputs, ablation, steps)
            else:
                self.runner = self._runner(model, inputs, together, ablation, steps)
        self.passage: Passage | Decoding = self.runner.passage
        ids = [None] * steps if chosen is None else chosen
        self.bases = [Base(*each, contrast) for each in zip(self.passage.logits, ids, strict=True)]

    def _runner(
        self,
        model: Any,
        inputs: Mapping[str, torch.Tensor],
        together: Sequence[tuple[int, int]],
        ablation: str,
        steps: int,
    ) -> "Runner":
        """By rows where that is possible, else by forwards of the whole model, which a note then says."""
        try:
            passage = record_passage(model, inputs, together, steps)
        except UnsupportedModel:
            passage = None
        streams = passage is not None and any(call.hidden.ndim != 3 for call in passage.calls)
        if passage is None or streams or all(call.keys is None for call in passage.calls):
            self.notes.append(WHOLE)
            return MaskedForwards(model, inputs, ablation, steps)
        whole = Forwards(model, passage, inputs, together, ablation)
        looped = {layer: call.passes for layer, call in enumerate(passage.calls) if call.passes > 1}
        if looped:
            self.notes += [last_pass_only(looped), WHOLE]
            return whole
        try:
            return Carrier(model, passage, whole)
        except UnsupportedModel:
            self.notes.append(WHOLE)
            return whole

    def measure(
        self,
        units: Sequence[Unit],
        window: Window,
        block: str,
        trace: bool = False,
    ) -> tuple[list[Effect], list[Trace]]:
        """The rows of all units, which the last position (block "last") or every later one ("all") stops reading."""
        return self.measure_masks(self.masks(route_to(block), units), window, trace)

    def masks(self, route: Route, units: Sequence[Unit]) -> list[Mask]:
        """Those of a route, of what is measured here."""
        return route.masks(units, self.passage.length)

    def carried_from(self, window: Window) -> int:
        """The first layer of the decoder that masks in this window can change."""
        return window.first

    def measure_masks(
        self, masks: Sequence[Mask], window: Window, trace: bool = False
    ) -> tuple[list[Effect], list[Trace]]:
        """One row for each step and for each mask that begins at its position or before, in this order.

        With `trace` also one for each layer from the first masked on.
        """
        calls: Sequence[Call | DecoderCall] = self.passage.calls
        edits, lowest = [mask.edit for mask in masks], self.carried_from(window)
        reach = self.runner.reach(window.first, window.last, edits)
        jobs = [Job(*each) for each in zip(reach.starts, range(len(masks)), edits, reach.moved, strict=True)]
        jobs.sort(key=lambda job: -job.start)
        ends = {layer: end[None] for layer, end in enumerate(self.passage.ends)}
        without = Carried(self.passage.logits[None], ends, self.unmoved)
        still = torch.zeros(1, len(calls) - lowest, self.passage.steps, dtype=torch.bool)
        (unchanged,) = self._found(without, still, lowest, trace)
        found: dict[int, list[_Found]] = {job.mask: unchanged for job in jobs if not reach.acts[job.mask]}
        for piece in self._pieces([job for job in jobs if reach.acts[job.mask]]):
            self._count(piece, Window(lowest, window.last), masks[0].block)
            for part, carried in self._carried(piece, window):
                moved = torch.stack([job.moved for job in part])
                rows = self._found(carried, moved, lowest, trace)
                found |= {job.mask: row for job, row in zip(part, rows, strict=True)}
        effects: list[Effect] = []
        traces: list[Trace] = []
        for step, base in enumerate(self.bases):
            for index, mask in ((index, mask) for index, mask in enumerate(masks) if self.sees(mask, self.step + step)):
                where = (self.step + step, mask.label, mask.position, window.first, window.last, mask.block)
                one = found[index][step]
                effects.append(self._effect(base, where, one, mask))
                if trace:
                    more = mask.head, mask.level
                    traces += [Trace(*where, layer, l2, cosine, *more) for layer, (l2, cosine) in one.apart.items()]
        return effects, traces

    def sees(self, masked: Mask | Unit, step: int) -> bool:
        """Whether a mask, or a unit, begins at the position that predicts a generation step's token, or before."""
        begins = masked.begins if isinstance(masked, Mask) else masked.positions[0]
        return begins is not None and begins < self.passage.length - self.passage.steps + 1 + step - self.step

    def _pieces(self, jobs: Sequence["Job"]) -> Iterator[list["Job"]]:
        """Jobs of about the same length, as many at once as the memory budget allows.

        Args:
            jobs: the latest start first.
        """
        device = self.passage.logits.device
        enough = ENOUGH_GPU_ROWS if device.type == "cuda" else ENOUGH_ROWS
        piece: list[Job] = []
        changing = 0
        for job in jobs:
            rows = self.passage.length - job.start
            together = (len(piece) + 1) * rows
            too_large = (len(piece) + 1) * self._size(rows, job.edit) > memory_budget(device)
            # Rows of one position share their keys, and each looks at the others' own for nothing
            too_many = rows == 1 and len(piece) >= max(2 * enough, self.passage.length)
            if piece and (too_large or too_many or (together > enough and changing + rows < 0.9 * together)):
                yield piece
                piece, changing = [], 0
            piece.append(job)
            changing += rows
        if piece:
            yield piece

    def _count(self, piece: Sequence["Job"], window: Window, block: str) -> None:
        """Have the runner's next layers counted as the work of these masks, and what comes after the last one."""
        layers, length = len(self.passage.calls), self.passage.length
        one = rows_work((job.start for job in piece), window, layers, length, block) / (layers - window.first)
        end = self.costs.ends(len(piece), self.passage.steps, length) if self.costs else 0.0
        self.runner.begins = lambda layer: self.progress(one if layer < layers else end)

    def _size(self, rows: int, edit: Edit) -> int:
        """About how many bytes an edit takes: its rows, their attention over all positions, its logits."""
        state = self.passage.calls[0].hidden
        attended = self.runner.attended(rows, edit.heads is not None)
        numbers = rows * state.shape[-1] * VECTORS_PER_ROW + attended + 3 * self.passage.logits.numel()
        return max(state.element_size(), 4) * numbers

    def _carried(self, piece: list["Job"], window: Window) -> Iterator[tuple[list["Job"], Carried]]:
        """What each job leads to; in halves where memory runs out."""
        start = min(job.start for job in piece)
        found: Carried | None = None
        with explained(f"a mask in layers {window.first} to {window.last}, from position {start} on"):
            try:
                found = self.runner.run(window.first, window.last, start, [job.edit for job in piece])
            except Exception as error:
                if len(piece) == 1 or not is_out_of_memory(error):
                    raise
                self.runner.begins = uncounted  # it was, and is not done twice
        if found is None:
            free_memory()
            for half in (piece[: len(piece) // 2], piece[len(piece) // 2 :]):
                yield from self._carried(half, window)
            return
        yield piece, found

    def _found(self, carried: Carried, moved: torch.Tensor, lowest: int, trace: bool) -> list[list["_Found"]]:
        """Of each edit and step the prediction, and distances by layer: of all layers from the `lowest` that can change
        on, or of the last.

        Args:
            moved: [B, layers from `lowest` on, S] bool; where not, nothing changes, not even by rounding.
        """
        last = len(self.passage.calls) - 1
        apart = {}
        for layer in range(lowest if trace else last, last + 1):
            end = self.passage.ends[layer]
            precise = torch.promote_types(end.dtype, torch.float32)
            base, masked = end.to(precise), carried.states[layer].to(precise)  # [S, C], [B, S, C]
            pair = torch.stack(distances(base, masked - base, masked), dim=-1).cpu()  # [B, S, 2]
            apart[layer] = pair.masked_fill(~moved[:, layer - lowest, :, None], 0.0).tolist()
        predictions = [base.compared(carried.logits[:, step]) for step, base in enumerate(self.bases)]
        images = [None] * len(moved) if carried.image is None else carried.image.tolist()
        return [
            [
                _Found(
                    predictions[step][row] if can else base.prediction,
                    {layer: apart[layer][row][step] for layer in apart},
                    images[row],
                )
                for step, (base, can) in enumerate(zip(self.bases, changes, strict=True))
            ]
            for row, changes in enumerate(moved[:, -1].tolist())
        ]

    def _effect(self, step: Base, where: "_Where", found: "_Found", mask: Mask) -> Effect:
        base, prediction, contrast = step.prediction, found.prediction, step.contrast is not None
        l2, cosine = found.apart[len(self.passage.calls) - 1]
        image_l2, image_cosine = found.image or (None, None)
        row, col = mask.place or (None, None)
        return Effect(
            *where,
            logprob=prediction.logprob,
            logprob_change=prediction.logprob - base.logprob,
            rank=int(prediction.rank),
            top_token=token_text(self.tokenizer, int(prediction.top)),
            kl=prediction.kl,
            final_l2=l2,
            final_cosine=cosine,
            contrast=prediction.contrast if contrast else None,
            contrast_change=prediction.contrast - base.contrast if contrast else None,
            head=mask.head,
            unit_level=mask.level,
            image_l2=image_l2,
            image_cosine=image_cosine,
            patch_row=row,
            patch_col=col,
        )


class Job(NamedTuple):
    """A mask to carry on."""

    start: int  # the first position that changes
    mask: int  # its place among the masks
    edit: Edit
    moved: torch.Tensor  # [L, S] whether a predicting position changes, after each layer from the first masked one on


_Where = tuple[int, str, int, int, int, str]  # what Effect and Trace begin with


class _Found(NamedTuple):
    """What a mask does to one step's prediction."""

    prediction: Prediction
    apart: dict[int, list[float]]  # by layer: l2 and cosine distance
    image: list[float] | None = None  # l2 and cosine distance of the image features
