"""Carry what a mask in the vision tower changes on through the tower, its mergers and the decoder, to the logits.

In:  a recorded forward, edits of rows of the tower, and the layers of the tower in which they hold. Out: as in `carry`,
     and how far the image features move.

For each edit the tower runs from the first masked layer on, in the model's own forward, with the states of the record
below that layer. What the decoder's layers are then given (`given.py`) is carried on for many edits at once.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from transformers import PreTrainedModel

from mask_impact.distances import distances
from mask_impact.effects.carry import Begins, Carried, Carrier, uncounted
from mask_impact.effects.edits import Edit
from mask_impact.effects.given import Given, given_to_layers, stacked
from mask_impact.effects.recorded_forward import Passage, Reach
from mask_impact.effects.tower_attention import Segment, attend_without
from mask_impact.model.forwards import last_logits
from mask_impact.model.layers import layer_input, layer_output, replaced_forward
from mask_impact.model.towers import decoder_layers
from mask_impact.model.vision_tower import LayerCall, vision_implementation
from mask_impact.model.vision_units import Pictures
from mask_impact.model.watching import AttentionCall, AttentionResult, inside

HOW = "carried on through the vision tower"


@dataclass(frozen=True)
class Seen:
    """A vision tower on the pictures of one prompt."""

    calls: Sequence[LayerCall]  # of all layers
    segments: Sequence[Sequence[Segment]]  # by layer
    pictures: Pictures
    zero_values: bool  # the ablation

    def positions(self, edit: Edit) -> list[int]:
        """The image tokens of the pictures in which an edit takes edges out: all of them can change."""
        chosen = {self.pictures.picture[row] for row in edit.positions}
        return [at for at, token in self.pictures.tokens.items() if (token.image or 0) in chosen]

    @contextmanager
    def without(self, model: PreTrainedModel, first: int, last: int, edit: Edit) -> Iterator[None]:
        """Take the edges of `edit` out of layers `first` to `last` in every forward, until the block ends. Layers below
        return what was recorded."""
        at_row = 0

        def entering(*_: Any) -> None:
            nonlocal at_row
            at_row = 0

        def attending(index: int, call: AttentionCall) -> AttentionResult | None:
            nonlocal at_row
            start, layer = at_row, first + index
            at_row += call.query.shape[0] * call.query.shape[2]
            heads = None if edit.heads is None else edit.heads.get(layer, ())
            if heads == ():
                return None
            return attend_without(call, start, edit, self.zero_values, heads)

        layers = [call.layer for call in self.calls]
        with ExitStack() as undo:
            for call in self.calls[:first]:
                undo.enter_context(replaced_forward(call.layer, call.again))
            routed = vision_implementation(model), model.config.vision_config
            masked = layers[first : last + 1]
            undo.enter_context(inside(model, masked, entering=entering, attending=attending, routed=routed))
            yield

    def moved(self, edit: Edit, base: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
        """[2] L2 and cosine distance between the edited pictures' features in [1, T, C] what the decoder gets."""
        precise = torch.promote_types(base.dtype, torch.float32)
        at = self.positions(edit) if edit.positions else []
        one, other = (each[0, at].flatten().to(precise) for each in (base, masked))
        return torch.stack(distances(one, other - one, other))

    def acts(self, first: int, last: int, edit: Edit) -> bool:
        """Whether an edit takes any edge out of layers `first` to `last`."""
        layers = [layer for layer in range(first, last + 1) if edit.acts_in(layer)]
        return any(segment.has(edit) for layer in layers for segment in self.segments[layer])

    def reach(self, passage: Passage, window: tuple[int, int], edits: Sequence[Edit], stateful: bool) -> Reach:
        """The features of a picture can all change, and what sees them. They are measured also where nothing that is
        predicted sees them."""
        acts = [self.acts(*window, edit) for edit in edits]
        changed = torch.zeros(len(edits), passage.length, dtype=torch.bool)
        for row, edit in enumerate(edits):
            changed[row, self.positions(edit)] = acts[row]
        reach = passage.reach(0, -1, [Edit(())] * len(edits), stateful, changed)
        return Reach(reach.starts, reach.moved, acts)


class TowerForwards:
    """Forwards of the whole model, pixels in, one for each edit: for decoders that cannot be carried on by rows."""

    def __init__(
        self, model: PreTrainedModel, passage: Passage, inputs: Mapping[str, torch.Tensor], seen: Seen
    ) -> None:
        self.model, self.passage, self.inputs, self.seen = model, passage, inputs, seen
        self.begins, self.pass_begins = cast("Begins", uncounted), cast("Begins", uncounted)
        self.noise = {"final_l2": 0.0, "relative": 0.0, "logit": 0.0}

    def reach(self, first: int, last: int, edits: Sequence[Edit]) -> Reach:
        return self.seen.reach(self.passage, (first, last), edits, stateful=True)

    def attended(self, rows: int, by_head: bool = False) -> int:
        """Edits are run one at a time, so that none adds to another."""
        return 0

    def run(self, first: int, last: int, start: int, edits: Sequence[Edit]) -> Carried:
        """As TowerCarrier.run; `start` only says where changes can begin."""
        base, found = self.base, [self._one(first, last, edit) for edit in edits]
        states = {layer: torch.stack([each[layer] for _, each, _ in found]) for layer in found[0][1]}
        moved = [self.seen.moved(edit, base, arrived) for edit, (arrived, _, _) in zip(edits, found, strict=True)]
        return Carried(torch.stack([logits for _, _, logits in found]), states, torch.stack(moved))

    @cached_property
    def base(self) -> torch.Tensor:
        """[1, T, C] what the decoder gets without a mask."""
        return self._one(0, -1, Edit(()))[0]

    def checked(self) -> "TowerForwards":
        """Itself. Raises UnsupportedModel where a forward without a mask does not end as the record."""
        found = self.run(0, -1, 0, [Edit(())])
        self.noise = found.check_against(self.model, self.passage.ends[-1], self.passage.logits, HOW)
        return self

    def end(self, edit: Edit) -> tuple[torch.Tensor, torch.Tensor]:
        """[S, C] last states and [S, V] logits where `edit` holds in every layer of the tower."""
        _, states, logits = self._one(0, len(self.seen.calls) - 1, edit)
        return states[len(states) - 1], logits

    def _one(self, first: int, last: int, edit: Edit) -> tuple[torch.Tensor, dict[int, torch.Tensor], torch.Tensor]:
        """[1, T, C] what the decoder gets, the states after each layer at the S positions that predict, and logits."""
        layers, steps = decoder_layers(self.model), self.passage.steps
        arrived: list[torch.Tensor] = []
        states: dict[int, torch.Tensor] = {}

        def entering(index: int, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            if not arrived:
                arrived.append(layer_input(layers[0], args, named).clone())

        def leaving(index: int, output: Any) -> None:
            states[index] = layer_output(output)[0, -steps:].clone()

        self.pass_begins(first)
        with self.seen.without(self.model, first, last, edit):
            logits = last_logits(self.model, self.inputs, leaving=leaving, entering=entering, steps=steps)
        for layer in range(len(layers) + 1):
            self.begins(layer)
        return arrived[0], states, logits


class TowerCarrier:
    """Carries edits of the vision tower on, by rows of the decoder."""

    def __init__(self, decoder: Carrier, whole: "TowerForwards", inputs: Mapping[str, torch.Tensor]) -> None:
        """Raises UnsupportedModel where carried runs do not end as the record, or as whole forwards, do."""
        self.decoder, self.seen, self.inputs, self.model = decoder, whole.seen, inputs, decoder.model
        self.passage = decoder.passage
        self.begins, self.pass_begins = cast("Begins", uncounted), cast("Begins", uncounted)
        self.base = self._given(0, -1, Edit(()))
        self.noise = self._check(whole)

    def _check(self, whole: "TowerForwards") -> dict[str, float]:
        """How far carried runs are from the model's own: without a mask, and without one image token's patches."""
        passage, last = self.passage, len(self.seen.calls) - 1
        gone = Edit(self.seen.pictures.rows_at([max(self.seen.pictures.rows_of)]))  # of the last image token
        noise = dict(self.decoder.noise)
        end = passage.ends[-1], passage.logits
        (start,) = self.reach(0, last, [gone]).starts
        for edit, expected in ((Edit(()), end), (gone, whole.end(gone))):
            apart = self.run(0, last, start, [edit]).check_against(self.model, *expected, HOW)
            noise = {name: max(value, apart[name]) for name, value in noise.items()}
        return noise

    def reach(self, first: int, last: int, edits: Sequence[Edit]) -> Reach:
        return self.seen.reach(self.passage, (first, last), edits, stateful=False)

    def attended(self, rows: int, by_head: bool = False) -> int:
        """As Carrier.attended, with what the layers are given."""
        given = sum(each is not None for each in self.base)
        return self.decoder.attended(rows) + given * self.passage.calls[0].hidden.numel()

    def run(self, first: int, last: int, start: int, edits: Sequence[Edit]) -> Carried:
        """As Carrier.run; the layers are the tower's."""
        given = [self._given(first, last, edit) for edit in edits]
        self.decoder.begins = self.begins
        carried = self.decoder.run(0, -1, start, [Edit(())] * len(edits), stacked(given))
        moved = [self.seen.moved(edit, *self._features(each)) for edit, each in zip(edits, given, strict=True)]
        return Carried(carried.logits, carried.states, torch.stack(moved))

    def _features(self, given: Given) -> tuple[torch.Tensor, torch.Tensor]:
        """[1, T, C] what the first layer gets, without a mask and with it."""
        assert self.base[0] is not None and given[0] is not None
        return self.base[0], given[0]

    def _given(self, first: int, last: int, edit: Edit) -> Given:
        self.pass_begins(first)
        with self.seen.without(self.model, first, last, edit):
            return given_to_layers(self.model, self.inputs, self.passage.calls)
