"""A request for `tower` vision on inputs that were read: what it allows, masks and compares.

In: a request and the model's inputs. Out: `Prepared`, or a UserError for what does not go with a vision tower.
"""

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import Any

from mask_impact.distances import METRICS
from mask_impact.effects import asked as asking
from mask_impact.effects.refine import check_refine
from mask_impact.effects.routes import Route, names_in, written
from mask_impact.effects.work import Sizes, tower_effects_work
from mask_impact.errors import UserError
from mask_impact.model.costs import NOMINAL, Costs
from mask_impact.model.towers import VISION
from mask_impact.model.towers import named as named_tower
from mask_impact.options import Request
from mask_impact.prompt.inputs import ModelInputs
from mask_impact.prompt.prepared import Prepared
from mask_impact.prompt.sets import PositionSet, Sets
from mask_impact.prompt.unit_syntax import LATER, Chosen, by_name
from mask_impact.prompt.units import Unit, units

FORWARDS_PER_UNIT = 0.8  # of the tower, measured: a masked layer is called without its queries, keys and values
LEFT_OUT = {  # fields that are about a decoder -> why
    "mask_mode": "in a vision tower patches are masked",
    "vision_attention": "it is about image tokens in the decoder",
    "queries": "all patches of a picture are compared at once, or those of `readers`",
    "pairs": "it ranks positions that a decoder reads",
    "top": "it ranks positions that a decoder reads",
    "blocks": "every patch that sees a unit stops reading it, or those of `readers`",
    "trace_layers": "it is about the decoder's layers",
    "deepstack": "it is about what the decoder is given",
}


def check_left_out(request: Request) -> None:
    """Raises UserError for patches as units of another tower, whose tokens they are not."""
    if request.mask_unit == "patch":
        raise UserError("`mask_unit` patch is for the vision encoder; add `tower` vision, or mask token or `regions`")


def fitted(
    tokenizer: Any,
    config: Any,
    inputs: ModelInputs,
    request: Request,
    size: tuple[Any, int],
    given: tuple[int, ...] = (),
    speed: float = NOMINAL,
) -> Prepared:
    """`request` on inputs with pictures. Raises UserError.

    Args:
        size: the chosen layers, and the heads.
        given: the ids of a given answer.
        speed: of the machine, see `model/costs.py`.
    """
    _check(inputs, request)
    request = replace(request, mask_mode="vision", queries="last")
    places = VISION.positions(len(inputs.tokens), 1)
    places_of = {"spans": request.spans, "regions": request.regions, "region_masks": request.region_masks}
    own, named = by_name(places_of, names_in(request) if request.effects else request.readers)
    asked = Chosen.of(request.mask_unit, **own)
    check_refine(request, asked.plain)
    masked = units(asked, tokenizer, inputs, inputs.tokens, "vision")
    _check_units(inputs, masked)
    spans: Mapping[str, tuple[int, ...]] = {}
    if any(named.values()):
        found = units(Chosen.of(None, **named), tokenizer, inputs, inputs.tokens, "vision")
        spans = {unit.label: unit.positions for unit in found}
    sets = Sets(tokenizer, inputs, places, spans)
    readers = _readers(request, sets)
    effects = asking.asked(request, tokenizer, VISION.size(config), sets, _routes(request, sets))
    count = patch_count(config, inputs) if asked.unit == "patch" else len(masked)
    layers, heads = size
    prepared = Prepared(
        request, tokenizer, inputs, places, layers, heads, lambda tokens: masked, asked.plain, count, effects,
        model_layers=VISION.size(config)[0], given=given, readers=readers, tower=VISION,
        tower_forwards=FORWARDS_PER_UNIT * count * len(layers) / VISION.size(config)[0],
    )  # fmt: skip
    return _with_costs(prepared, config, speed)


def _with_costs(prepared: Prepared, config: Any, speed: float) -> Prepared:
    """With how long it takes. Raises UserError for a contrast that does not fit the model."""
    text_config, inputs, effects = config.get_text_config(decoder=True), prepared.inputs, prepared.effects
    layers, length = named_tower(config, "decoder").size(config)[0], len(inputs.tokens)
    costs = Costs.of(text_config, speed)
    one = Costs.of(config.vision_config, speed).layer(patch_count(config, inputs)) / costs.layer(length)
    work = 0.0
    if effects:
        effects.check_fits(text_config)
        first = min(token.position for token in inputs.tokens if token.kind == "image")
        sizes = Sizes(length, prepared.request.num_tokens, layers, prepared.model_layers, one)
        work = tower_effects_work(effects, costs, [first] * prepared.unit_count, sizes)
    return replace(prepared, costs=costs, tower_layer=one, decoder_layers=layers, effects_forwards=work / layers)


def _routes(request: Request, sets: Sets) -> tuple[Route, ...]:
    """Who stops reading what. Raises UserError for sets of anything but image tokens, and for pictures that do not see
    each other."""
    found = []
    for what, source, readers in written(request) if request.effects else ():
        sides = [_image_tokens(what, name, sets) if name and name != LATER else None for name in (readers, source)]
        route = Route(*sides)
        if route.source and route.readers and not _pictures(route.source, sets) & _pictures(route.readers, sets):
            raise UserError(
                f"{what}: patches of one picture do not read those of another; name two sets of one picture"
            )
        found.append(route)
    return tuple(found)


def _pictures(tokens: PositionSet, sets: Sets) -> set[int | None]:
    return {sets.inputs.tokens[position].image for position in tokens.fixed}


def _image_tokens(what: str, name: str, sets: Sets) -> PositionSet:
    """A set of image tokens. Raises UserError."""
    if name in (LATER, "last", "generated"):
        raise UserError(
            f"{what}: {name} is of a decoder; with `tower` vision name image tokens, such as image:0 or 12-18"
        )
    found = sets.named(what, name)
    images = {token.position for token in sets.inputs.tokens if token.kind == "image"}
    if other := sorted(set(found.fixed) - images) or ([] if found.fixed else [len(sets.inputs.tokens)]):
        raise UserError(
            f"{what} holds position {other[0]}, which is no image token; with `tower` vision name image tokens, "
            f"such as image:0 or positions from {min(images)} to {max(images)}"
        )
    return found


def _check(inputs: ModelInputs, request: Request) -> None:
    """Raises UserError for options that have no meaning here, and where there is no picture."""
    if not inputs.images:
        raise UserError(
            "`tower` vision needs a picture, but none was given; give one with `images` (mask_impact_vl.py), or leave "
            "`tower` out"
        )
    if len({token.video is None for token in inputs.tokens if token.kind == "image"}) > 1:
        raise UserError(
            "`tower` vision measures pictures or videos, which the tower gets in separate calls; leave out `images` "
            "or `videos`"
        )
    if unknown := [name for name in request.metrics if METRICS[name].without_weights]:
        raise UserError(
            f"`metrics` {unknown[0]} does not go with `tower` vision, where all patches read a unit at once; leave "
            "one of the two out"
        )
    plain = Request("")
    for name, why in LEFT_OUT.items():
        value = getattr(request, name)
        if value != getattr(plain, name) and (name, value) != ("mask_mode", "vision"):
            raise UserError(f"`{name}` does not go with `tower` vision: {why}; leave one of the two out")
    if request.mask_unit in ("word", "sentence"):
        raise UserError(f"`mask_unit` {request.mask_unit} is of text; with `tower` vision choose token, patch or span")


def _check_units(inputs: ModelInputs, masked: list[Unit]) -> None:
    """Raises UserError for a unit that holds other than one picture's tokens."""
    for unit in masked:
        tokens = [inputs.tokens[position] for position in unit.positions]
        if other := next((token for token in tokens if token.kind != "image"), None):
            raise UserError(
                f"{unit.label!r} holds position {other.position} ({other.text!r}), which is no image token; with "
                "`tower` vision mask image tokens, such as `spans` image:0 or `regions`"
            )
        if (count := len({token.image for token in tokens})) < 2:
            continue
        if tokens[0].video is not None:
            raise UserError(
                f"{unit.label!r} holds tokens of {count} frames, which do not read each other in the vision tower; "
                "mask one frame at a time, as `spans` frame:0 or `regions` frame:0:ROW,COL,ROW,COL"
            )
        raise UserError(
            f"{unit.label!r} holds tokens of {count} pictures, which do not read each other; mask one at a time, as "
            "`spans` image:0"
        )


def _readers(request: Request, sets: Sets) -> frozenset[int] | None:
    """The image tokens whose patches are compared, None for all. Raises UserError."""
    if not request.readers:
        return None
    found = [_image_tokens(f"`readers` {name!r}", name, sets).fixed for name in request.readers]
    return frozenset(position for positions in found for position in positions)


def patch_count(config: Any, inputs: ModelInputs) -> int:
    """About how many patches the pictures have, before the model is loaded."""
    grids = [inputs.tensors[name] for name in ("image_grid_thw", "video_grid_thw") if name in inputs.tensors]
    if grids:
        return int(sum(grid.prod(dim=-1).sum() for grid in grids))
    pixels, patch = inputs.tensors.get("pixel_values"), getattr(config.vision_config, "patch_size", None)
    if pixels is None or patch is None or pixels.ndim < 4:  # already patches, or not known
        return prod(pixels.shape[:-1]) if pixels is not None else len(inputs.tokens)
    height, width = patch if isinstance(patch, list | tuple) else (patch, patch)
    return int(prod(pixels.shape[:-3]) * (pixels.shape[-2] // height) * (pixels.shape[-1] // width))
