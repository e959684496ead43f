"""Effects of masks inside the vision tower: the same run as in the decoder, with the patches of image tokens as units.

In:  a request for `tower` vision with effects. Out: what `run.py` takes in place of its own.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mask_impact.effects.answer import WHOLE, Effects, Job, Runner
from mask_impact.effects.asked import Asked, Window
from mask_impact.effects.carry import Carrier
from mask_impact.effects.edits import Edit
from mask_impact.effects.routes import Mask, Route
from mask_impact.effects.run import Passages
from mask_impact.effects.tower import Seen, TowerCarrier, TowerForwards
from mask_impact.effects.tower_attention import segments
from mask_impact.errors import UnsupportedModel, UserError
from mask_impact.model.memory import explained
from mask_impact.model.vision_patches import positions_of_rows, until_decoder
from mask_impact.model.vision_tower import TowerCalls, attention_calls
from mask_impact.model.vision_units import Pictures
from mask_impact.options import Progress
from mask_impact.prompt.inputs import Token
from mask_impact.prompt.prepared import Prepared
from mask_impact.prompt.units import Unit


class TowerEffects(Effects):
    """The effects of masks in the vision tower on the tokens that are predicted at the end of one input."""

    unmoved = torch.zeros(1, 2)

    def __init__(self, seen: Seen, layer_work: float, *arguments: Any) -> None:
        """
        Args:
            layer_work: of a pass through a layer of the tower.
            arguments: those of `Effects`.
        """
        self.seen, self.layer_work = seen, layer_work
        super().__init__(*arguments)

    def _runner(self, model: Any, inputs: Mapping[str, torch.Tensor], *more: Any) -> Runner:
        decoder = super()._runner(model, inputs, *more)
        whole = TowerForwards(model, decoder.passage, inputs, self.seen)
        if not isinstance(decoder, Carrier):
            return whole.checked()
        try:
            return TowerCarrier(decoder, whole, inputs)
        except UnsupportedModel:
            self.notes.append(WHOLE)
            return whole.checked()

    def masks(self, route: Route, units: Sequence[Unit]) -> list[Mask]:
        """Those of a route, of rows of the tower. Raises UserError where no patch becomes the tokens of the route."""
        pictures = self.seen.pictures
        readers = None if route.readers is None else pictures.rows_at(route.readers.fixed)
        if route.source is None:
            return [
                Mask(unit.label, unit.position, route.block, Edit(unit.rows, readers), None, unit.level, unit.place)
                for unit in pictures.units(units)
            ]
        rows = pictures.rows_at(route.source.fixed)
        if not rows or readers == ():
            raise UserError(f"`routes` {route.name}: no patch of the vision tower becomes any of these image tokens")
        return [Mask(route.source.name, route.source.fixed[0], route.block, Edit(rows, readers))]

    def carried_from(self, window: Window) -> int:
        return 0

    def _count(self, piece: Sequence[Job], window: Window, block: str) -> None:
        super()._count(piece, window, block)
        layers = len(self.seen.calls)
        assert isinstance(self.runner, TowerCarrier | TowerForwards)
        self.runner.pass_begins = lambda first: self.progress((layers - first) * self.layer_work)

    def sees(self, masked: Mask | Unit, step: int) -> bool:
        """Pictures come before everything that is predicted."""
        return True


def seen_by_tower(
    model: Any, inputs: dict[str, torch.Tensor], tokens: Sequence[Token], zero_values: bool = False
) -> Seen:
    """The tower on the pictures of a prompt.

    Args:
        inputs: the model's, of the prompt; tokens: its image tokens.
        zero_values: whether masked patches keep their weight and give nothing.

    Raises UnsupportedModel where the tower's patches cannot be followed.
    """
    calls = TowerCalls(model)
    with explained("the vision tower"), torch.no_grad(), calls.recording(), until_decoder(model):
        model(**inputs, use_cache=False)
    parts = [segments(attention_calls(model, call)) for call in calls.calls]
    positions = positions_of_rows(model, inputs, calls.calls, [token.position for token in tokens])
    hidden = calls.calls[0].hidden
    pictures = Pictures(positions, tokens, hidden.shape[0] if hidden.ndim == 3 else 1)
    return Seen(calls.calls, parts, pictures, zero_values)


class TowerPassages(Passages):
    """Recorded forwards over the prompt, with its pictures, and an answer."""

    def __init__(self, model: Any, prepared: Prepared, progress: Progress) -> None:
        """Raises UnsupportedModel where the tower's patches cannot be followed."""
        super().__init__(model, prepared, progress)
        tokens = [token for token in prepared.inputs.tokens if token.kind == "image"]
        self.seen = seen_by_tower(model, self.prompt, tokens, prepared.request.ablation == "zero-value")

    def effects(
        self, given: Mapping[str, torch.Tensor], first: int, contrast: tuple[int, int] | None, chosen: Sequence[int]
    ) -> TowerEffects:
        found, work = (self.model, self.prepared.tokenizer, given, first), self.prepared.tower_layer
        return TowerEffects(self.seen, work, *found, [], "neg-inf", contrast, chosen)

    def units(self, generated: Sequence[int]) -> tuple[list[Unit], list[Unit]]:
        return list(self.seen.pictures.of_request(self.prepared)), []

    def expect(self, starts: Sequence[int], units: Sequence[Unit]) -> None:
        """Every mask is about as much work as any other."""
        wanted: Asked = self.prepared.effects
        self.scale = len(starts) / len(units) if wanted.refine and starts and units else 1.0
