"""What the answer needs of DeepStack: image features from inside the vision tower that are added after the first
decoder layers.

In:  a request with effects and `deepstack`. Out: the side table NAME_deepstack, made by the same run as NAME_effects.

An injection is a list of vectors, one for each image token, that the model adds to the output of one decoder layer.
Taking it away adds zeros there. Everything else is as in the model, and is carried on as masks are (`carry.py`).
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch

from mask_impact.effects.answer import Effects, Runner
from mask_impact.effects.asked import Asked, Window
from mask_impact.effects.carry import Begins, Carried, Carrier, uncounted
from mask_impact.effects.edits import Edit
from mask_impact.effects.given import Given, given_to_layers, stacked
from mask_impact.effects.recorded_forward import Reach
from mask_impact.effects.routes import Mask, Route
from mask_impact.effects.run import Passages, effect_tables
from mask_impact.effects.work import RECORDING, rows_work
from mask_impact.errors import UnsupportedModel, UserError
from mask_impact.model.towers import family
from mask_impact.options import Progress
from mask_impact.prompt.prepared import Prepared
from mask_impact.prompt.units import Unit
from mask_impact.table import Columns

REMOVED, ALONE = "removed", "alone"
EVERY = "all image tokens"
MOST = 6  # injections of which every subset is measured


def tapped_layers(config: Any) -> tuple[int, ...]:
    """The layers of the vision tower whose states are injected, in the order of the injections. Raises UserError."""
    found = tuple(getattr(getattr(config, "vision_config", None), "deepstack_visual_indexes", None) or ())
    if not found:
        raise UserError(
            f"`deepstack` was given, but model family '{getattr(config, 'model_type', '?')}' adds no image features "
            "between its decoder layers; leave it out"
        )
    return found


@dataclass(frozen=True)
class Removal(Edit):
    """Injections that are taken away from the image tokens at `positions`."""

    injections: tuple[int, ...] = ()


@dataclass(frozen=True)
class Injected(Unit):
    """Injections that are removed from image tokens, or the only ones that these keep."""

    injections: tuple[int, ...] = ()
    action: str = REMOVED

    @property
    def key(self) -> str:
        """Its name among all others."""
        return f"{self.written(self.injections)} {self.action}: {self.label}"

    @staticmethod
    def written(numbers: Iterable[int]) -> str:
        return "+".join(map(str, numbers))

    def mask(self, block: str, count: int) -> Mask:
        """`count`: of the model's injections."""
        others = tuple(each for each in range(count) if each not in self.injections)
        removed = self.injections if self.action == REMOVED else others
        return Mask(self.key, self.positions[0], block, Removal(self.positions, injections=removed))


def injected_units(prepared: Prepared, count: int) -> list[Injected]:
    """Every set of injections of all image tokens, removed and kept alone; of many, each by itself and all. Then every
    injection of every unit of image tokens."""
    images = {token.position for token in prepared.inputs.tokens if token.kind == "image"}
    sizes = range(1, count + 1) if count <= MOST else (1, count)
    sets = [chosen for size in sizes for chosen in itertools.combinations(range(count), size)]
    every = tuple(sorted(images))
    found = [Injected(EVERY, every, injections=chosen) for chosen in sets]
    found += [Injected(EVERY, every, injections=chosen, action=ALONE) for chosen in sets if len(chosen) < count]
    units = [unit for unit in prepared.units(prepared.inputs.tokens) if images.issuperset(unit.positions)]
    if prepared.plain or not units:
        units = [Unit(token.text, (token.position,)) for token in prepared.inputs.tokens if token.kind == "image"]
    return found + [Injected(unit.label, unit.positions, injections=(each,)) for each in range(count) for unit in units]


class InjectionCarrier:
    """Carries on what the removal of injections changes."""

    def __init__(self, decoder: Carrier, given: Given) -> None:
        self.decoder, self.given, self.passage, self.noise = decoder, given, decoder.passage, decoder.noise
        self.begins = cast("Begins", uncounted)
        self.layers = [layer for layer, added in enumerate(given) if layer and added is not None]  # before these

    def reach(self, first: int, last: int, edits: Sequence[Edit]) -> Reach:
        changed = torch.zeros(len(edits), self.passage.length, dtype=torch.bool)
        for row, edit in enumerate(edits):
            changed[row, list(edit.positions)] = True
        return self.passage.reach(0, -1, [Edit(())] * len(edits), changed=changed)

    def attended(self, rows: int, by_head: bool = False) -> int:
        """As Carrier.attended, with what the layers are given."""
        return self.decoder.attended(rows) + (1 + len(self.layers)) * self.passage.calls[0].hidden.numel()

    def run(self, first: int, last: int, start: int, edits: Sequence[Edit]) -> Carried:
        """As Carrier.run; every edit is a Removal."""
        self.decoder.begins = self.begins
        given = stacked([self._without(edit) for edit in edits if isinstance(edit, Removal)])
        return self.decoder.run(0, -1, start, [Edit(())] * len(edits), given)

    def _without(self, removal: Removal) -> Given:
        given = list(self.given)
        for layer in (self.layers[each] for each in removal.injections):
            added = given[layer]
            assert added is not None
            given[layer] = added.index_fill(1, torch.tensor(removal.positions, device=added.device), 0.0)
        return given


class InjectionEffects(Effects):
    """The effects of injections on the tokens that are predicted at the end of one input."""

    def _runner(self, model: Any, inputs: Mapping[str, torch.Tensor], *more: Any) -> Runner:
        decoder = super()._runner(model, inputs, *more)
        if not isinstance(decoder, Carrier):
            raise UnsupportedModel(
                f"`deepstack` of model family '{family(model)}' cannot be measured truthfully: its decoder cannot be "
                "carried on by rows"
            )
        self.injections = InjectionCarrier(decoder, given_to_layers(model, inputs, decoder.passage.calls))
        found, expected = len(self.injections.layers), len(tapped_layers(model.config))
        if self.injections.layers != list(range(1, expected + 1)):
            raise UnsupportedModel(
                f"`deepstack` of model family '{family(model)}' cannot be measured truthfully: {expected} features are "
                f"taken from its tower, and {found} are added after its first layers"
            )
        return self.injections

    def carried_from(self, window: Window) -> int:
        return 0

    def masks(self, route: Route, units: Sequence[Unit]) -> list[Mask]:
        count = len(self.injections.layers)
        return [unit.mask(route.block, count) for unit in units if isinstance(unit, Injected)]


class InjectionPassages(Passages):
    """Recorded forwards over the prompt, with its pictures, and an answer."""

    kind = InjectionEffects

    def units(self, generated: Sequence[int]) -> tuple[list[Unit], list[Unit]]:
        return list(injected_units(self.prepared, len(tapped_layers(self.model.config)))), []


def injection_table(model: Any, prepared: Prepared, generated: Sequence[int], progress: Progress) -> Columns:
    """The side table.

    Raises UnsupportedModel where the model does not add as many features as its config says.
    """
    tapped = tapped_layers(model.config)
    plain = replace(prepared, effects=without_choices(prepared.effects), request=replace(prepared.request, refine=0))
    tables, _ = effect_tables(model, plain, generated, progress, kind=InjectionPassages)
    table, units = tables["effects"], {unit.key: unit for unit in injected_units(prepared, len(tapped))}
    rows = [units[label] for label in table["token_masked"]]
    said = {
        "injection": [unit.written(unit.injections) for unit in rows],
        "vision_layer": [unit.written(tapped[each] for each in unit.injections) for unit in rows],
        "decoder_layer": [unit.written(unit.injections) for unit in rows],
        "action": [unit.action for unit in rows],
        "unit": [unit.label for unit in rows],
    }
    ends = {"first_layer": [unit.injections[0] for unit in rows], "last_layer": [unit.injections[-1] for unit in rows]}
    return said | table | {"token_masked": said["unit"]} | ends


def described(config: Any) -> dict[str, Any]:
    """What the manifest says of the injections."""
    tapped = tapped_layers(config)
    found = [{"injection": each, "vision_layer": layer, "decoder_layer": each} for each, layer in enumerate(tapped)]
    few = len(tapped) <= MOST
    return {"injections": found, "subsets": "every one" if few else "each by itself, and all of them"}


def with_injections(prepared: Prepared, config: Any) -> Prepared:
    """With the work of the side table."""
    units, length = injected_units(prepared, len(tapped_layers(config))), len(prepared.inputs.tokens)
    count, layers = prepared.request.num_tokens, prepared.model_layers
    work = RECORDING * layers + prepared.costs.ends(len(units), count, length)
    work += rows_work((unit.positions[0] for unit in units), Window(0, 0), layers, length + count - 1, "all")
    return replace(prepared, effects_forwards=prepared.effects_forwards + work / layers)


def without_choices(asked: Asked) -> Asked:
    """The same question about the answer, of all units as they are."""
    routes, windows = (Route(),), (Window(0, 0),)
    return replace(asked, routes=routes, windows=windows, trace=False, pairs=0, by_head=0, heads=None, top=0, refine=0)
