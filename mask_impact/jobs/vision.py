"""A request for `tower` vision on inputs that were read: what it allows, masks and compares.

In: a request and the model's inputs. Out: `Prepared`, or a UserError for what does not go with a vision tower.
"""

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import Any

from mask_impact.distances import METRICS
from mask_impact.errors import UserError
from mask_impact.model.towers import VISION
from mask_impact.options import Request
from mask_impact.prompt.inputs import ModelInputs
from mask_impact.prompt.prepared import Prepared
from mask_impact.prompt.sets import Sets
from mask_impact.prompt.unit_syntax import LATER, Chosen, by_name
from mask_impact.prompt.units import Unit, units

FORWARDS_PER_UNIT = 0.8  # of the tower, measured: a masked layer is called without its queries, keys and values
LEFT_OUT = {  # fields that are about a decoder -> why
    "mask_mode": "in a vision tower patches are masked",
    "vision_attention": "it is about image tokens in the decoder",
    "queries": "all patches of a picture are compared at once, or those of `readers`",
    "pairs": "it ranks positions that a decoder reads",
}


def check_left_out(request: Request) -> None:
    """Raises UserError for patches as units of another tower, whose tokens they are not."""
    if request.mask_unit == "patch":
        raise UserError("`mask_unit` patch is for the vision encoder; add `tower` vision, or mask token or `regions`")


def fitted(tokenizer: Any, config: Any, inputs: ModelInputs, request: Request, size: tuple[Any, int]) -> Prepared:
    """`request` on inputs with pictures; `size` are the chosen layers, and the heads. Raises UserError."""
    _check(inputs, request)
    request = replace(request, mask_mode="vision", queries="last")
    places = VISION.positions(len(inputs.tokens), 1)
    written = {"spans": request.spans, "regions": request.regions, "region_masks": request.region_masks}
    own, named = by_name(written, request.readers)
    asked = Chosen.of(request.mask_unit, **own)
    masked = units(asked, tokenizer, inputs, inputs.tokens, "vision")
    _check_units(inputs, masked)
    spans: Mapping[str, tuple[int, ...]] = {}
    if any(named.values()):
        found = units(Chosen.of(None, **named), tokenizer, inputs, inputs.tokens, "vision")
        spans = {unit.label: unit.positions for unit in found}
    count = patch_count(config, inputs) if asked.unit == "patch" else len(masked)
    layers, heads = size
    return Prepared(
        request, tokenizer, inputs, places, layers, heads, lambda tokens: masked, asked.plain, count,
        model_layers=VISION.size(config)[0],
        readers=_readers(request, Sets(tokenizer, inputs, places, spans)),
        tower_forwards=FORWARDS_PER_UNIT * count * len(layers) / VISION.size(config)[0],
    )  # fmt: skip


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
        if len({token.image for token in tokens}) > 1:
            raise UserError(f"{unit.label!r} holds tokens of several pictures, which do not read each other; split it")


def _readers(request: Request, sets: Sets) -> frozenset[int] | None:
    """The image tokens whose patches are compared, None for all. Raises UserError."""
    if not request.readers:
        return None
    found: set[int] = set()
    for name in request.readers:
        if name in (LATER, "last"):
            raise UserError(
                f"`readers` {name} is of a decoder; with `tower` vision name image tokens, such as image:0 or 12-18"
            )
        found.update(sets.named(f"`readers` {name!r}", name).fixed)
    images = {token.position for token in sets.inputs.tokens if token.kind == "image"}
    if other := sorted(found - images):
        raise UserError(
            f"`readers` {', '.join(request.readers)} hold position {other[0]}, which is no image token; with `tower` "
            f"vision name image tokens, such as image:0 or positions from {min(images)} to {max(images)}"
        )
    return frozenset(found)


def patch_count(config: Any, inputs: ModelInputs) -> int:
    """About how many patches the pictures have, before the model is loaded."""
    if (grid := inputs.tensors.get("image_grid_thw")) is not None:
        return int(grid.prod(dim=-1).sum())
    pixels, patch = inputs.tensors.get("pixel_values"), getattr(config.vision_config, "patch_size", None)
    if pixels is None or patch is None or pixels.ndim < 4:  # already patches, or not known
        return prod(pixels.shape[:-1]) if pixels is not None else len(inputs.tokens)
    height, width = patch if isinstance(patch, list | tuple) else (patch, patch)
    return int(prod(pixels.shape[:-3]) * (pixels.shape[-2] // height) * (pixels.shape[-1] // width))
