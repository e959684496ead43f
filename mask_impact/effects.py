"""What a mask does to the answer: held over a range of layers, carried on to the logits.

For every unit (what is masked together), every window (first and last layer in which it holds) and every block (who
stops reading it), one row: what becomes of the token the model chose, and of the last state.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from mask_impact.carry import Carried, Carrier, Edit, Forwards, Passage, record_passage
from mask_impact.distances import distances
from mask_impact.errors import UnsupportedModel, UserError
from mask_impact.masking import memory_budget
from mask_impact.memory import explained, free_memory, is_out_of_memory
from mask_impact.replay import VECTORS_PER_ROW

BLOCKS = ("last", "all")
WHOLE = "layers of this family cannot be carried on by rows: one forward of the whole model was run for every mask"


class Unit(Protocol):
    """What is masked together."""

    label: str
    positions: tuple[int, ...]


@dataclass(frozen=True)
class Window:
    """The layers in which a mask holds."""

    first: int
    last: int


@dataclass(frozen=True)
class Effect:
    """A mask, and what it does to the prediction of one output token. Logarithms are natural."""

    generation_step: int
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
    final_l2: float  # of the state after the last layer, before the final norm
    final_cosine: float
    contrast: float | None = None  # logit of the first contrast token minus that of the second, under the mask
    contrast_change: float | None = None


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


def windows_of(text: str, count: int) -> list[Window]:
    """`--mask-layers`: "all", "0-5,8" (a window each), "window:3" (sliding), "from" (each layer to the last).

    Raises UserError for what is none of these or names layers that a model of `count` layers does not have.
    """
    if text == "all":
        return [Window(0, count - 1)]
    if text == "from":
        return [Window(first, count - 1) for first in range(count)]
    kind, _, width = text.partition(":")
    if kind == "window" and width.isdecimal() and int(width) > 0:
        if int(width) > count:
            raise UserError(f"--mask-layers {text}: the model has {count} layers, so a window has at most {count}")
        return [Window(first, first + int(width) - 1) for first in range(count - int(width) + 1)]
    found = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise UserError(f"--mask-layers {text!r} is not known; write all, from, window:3, or layers such as 0-5,8")
        window = Window(int(first), int(last or first))
        if window.first > window.last:
            raise UserError(f"--mask-layers {text!r}: {part} runs backwards; write {last}-{first}")
        if window.last >= count:
            raise UserError(f"--mask-layers {text!r}: there is no layer {window.last}; this model has 0 to {count - 1}")
        found.append(window)
    return found


def contrast_ids(tokenizer: Any, texts: Sequence[str]) -> tuple[int, int]:
    """The two tokens of `--contrast`. Raises UserError for a text that is not one token."""
    found = []
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            pieces = ", ".join(repr(tokenizer.decode([each])) for each in ids)
            raise UserError(
                f"--contrast {text!r} is {len(ids)} tokens for this model ({pieces}); give texts of one token each, "
                "often with a space before the word"
            )
        found.append(ids[0])
    return found[0], found[1]


class Effects:
    """Measures the effects of masks on the prediction after one input."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        inputs: Mapping[str, torch.Tensor],
        step: int,
        together: Sequence[tuple[int, int]] = (),
        ablation: str = "neg-inf",
        contrast: tuple[int, int] | None = None,
        chosen: int | None = None,
    ) -> None:
        """
        Args:
            inputs: the model's, up to the position that predicts; "input_ids" [1, T].
            step: the generation step, for the table.
            chosen: the id of the output token; None: the likeliest.
        """
        self.tokenizer, self.step, self.contrast = tokenizer, step, contrast
        length = inputs["input_ids"].shape[1]
        with explained(f"a forward over {length} tokens"):
            self.passage: Passage = record_passage(model, inputs, together)
            whole = Forwards(model, self.passage, inputs, together, ablation)
            self.runner: Carrier | Forwards = whole
            self.notes: list[str] = []
            try:
                self.runner = Carrier(model, self.passage, whole)
            except UnsupportedModel:
                self.notes.append(WHOLE)
        self.base = _Prediction(self.passage.logits[None])
        self.chosen = int(self.base.top[0]) if chosen is None else chosen

    def measure(
        self,
        units: Sequence[Unit],
        window: Window,
        block: str,
        trace: bool = False,
        progress: Callable[[], None] = lambda: None,
    ) -> tuple[list[Effect], list[Trace]]:
        """One row for each unit, in order; with `trace` one for each unit and layer from the first masked one on, too."""
        last = self.passage.length - 1
        sees = self.passage.sees(window.first, window.last)
        jobs = []
        rows: dict[int, Effect] = {}
        traces: dict[int, list[Trace]] = {}
        for index, unit in enumerate(units):
            members = tuple(sorted(position for position in unit.positions if position <= last))
            if block == "last":
                readers, start = sees[last, list(members)], last
            else:
                later = torch.arange(last + 1)[:, None] > torch.tensor(members)
                readers = sees[:, list(members)] & later
                start = self.runner.first_changed(members) if members else last
            if members and readers.any():
                jobs.append((start, index, Edit(members, block == "last")))
            else:  # nothing reads it there: exactly as without the mask
                rows[index], traces[index] = self._unchanged(unit, window, block, trace)
        for piece in self._pieces(sorted(jobs, key=lambda job: -job[0])):
            for (_, index, _), carried in self._carried(piece, window):
                rows[index], found = self._row(units[index], window, block, carried)
                traces[index] = found if trace else []
            progress()
        return [rows[index] for index in range(len(units))], [
            each for index in range(len(units)) for each in traces[index]
        ]

    def _pieces(self, jobs: Sequence[tuple[int, int, Edit]]) -> Iterator[list[tuple[int, int, Edit]]]:
        """Jobs of about the same length, as many at once as the memory budget allows."""
        state = self.passage.calls[0].hidden
        budget = memory_budget(state.device)
        position = state.shape[-1] * max(state.element_size(), 4) * VECTORS_PER_ROW
        vocabulary = 6 * 4 * len(self.passage.logits)  # the logits, and what is computed from them
        piece: list[tuple[int, int, Edit]] = []
        for job in jobs:  # the latest start first
            rows = self.passage.length - job[0]
            if piece and (len(piece) + 1) * (rows * position + vocabulary) > budget:
                yield piece
                piece = []
            piece.append(job)
        if piece:
            yield piece

    def _carried(
        self, piece: list[tuple[int, int, Edit]], window: Window
    ) -> Iterator[tuple[tuple[int, int, Edit], tuple[torch.Tensor, dict[int, torch.Tensor]]]]:
        """Each job with its logits and states; in halves where memory runs out."""
        start = min(job[0] for job in piece)
        found: Carried | None = None
        with explained(f"a mask in layers {window.first} to {window.last}, from position {start} on"):
            try:
                found = self.runner.run(window.first, window.last, start, [job[2] for job in piece])
            except Exception as error:
                if len(piece) == 1 or not is_out_of_memory(error):
                    raise
        if found is None:
            free_memory()
            for half in (piece[: len(piece) // 2], piece[len(piece) // 2 :]):
                yield from self._carried(half, window)
            return
        for row, job in enumerate(piece):
            yield job, (found.logits[row], {layer: state[row] for layer, state in found.states.items()})

    def _row(
        self, unit: Unit, window: Window, block: str, carried: tuple[torch.Tensor, dict[int, torch.Tensor]]
    ) -> tuple[Effect, list[Trace]]:
        logits, states = carried
        where = (self.step, unit.label, unit.positions[0], window.first, window.last, block)
        moved = {layer: self._distance(layer, state) for layer, state in states.items()}
        final = moved[len(self.passage.calls) - 1]
        found = _Prediction(logits[None])
        logprob = float(found.logprobs[0, self.chosen])
        effect = Effect(
            *where,
            logprob=logprob,
            logprob_change=logprob - float(self.base.logprobs[0, self.chosen]),
            rank=int((found.logprobs[0] > found.logprobs[0, self.chosen]).sum()) + 1,
            top_token=self.tokenizer.decode([int(found.top[0])]),
            kl=max(0.0, float((self.base.logprobs.exp() * (self.base.logprobs - found.logprobs)).nansum())),
            final_l2=final[0],
            final_cosine=final[1],
            contrast=self._contrast(found),
            contrast_change=self._contrast_change(found),
        )
        return effect, [Trace(*where, layer, *moved[layer]) for layer in sorted(moved)]

    def _unchanged(self, unit: Unit, window: Window, block: str, trace: bool) -> tuple[Effect, list[Trace]]:
        base = {layer: call.output[0, -1] for layer, call in enumerate(self.passage.calls) if layer >= window.first}
        effect, traces = self._row(unit, window, block, (self.passage.logits, base))
        return effect, traces if trace else []

    def _distance(self, layer: int, state: torch.Tensor) -> tuple[float, float]:
        precise = torch.promote_types(state.dtype, torch.float32)
        base = self.passage.calls[layer].output[0, -1].to(precise)
        l2, cosine = distances(base, (state.to(precise) - base)[None])
        return float(l2), float(cosine)

    def _contrast(self, found: "_Prediction") -> float | None:
        if self.contrast is None:
            return None
        first, second = self.contrast
        return float(found.logprobs[0, first] - found.logprobs[0, second])

    def _contrast_change(self, found: "_Prediction") -> float | None:
        now, before = self._contrast(found), self._contrast(self.base)
        return None if now is None or before is None else now - before


class _Prediction:
    """Logits [B, V] as natural log-probabilities, in double precision: changes can be small."""

    def __init__(self, logits: torch.Tensor) -> None:
        self.logprobs = logits.double().log_softmax(dim=-1)
        self.top = logits.argmax(dim=-1)
