"""Masks in some heads: those that are named, all others, or each head of each layer by itself.

In:  `heads` and `by_head` as they were given, and the layers in which masks hold. Out: query heads by layer.
"""

import re
from collections.abc import Sequence
from dataclasses import replace

from mask_impact.effects.edits import Edit
from mask_impact.effects.routes import Mask
from mask_impact.errors import UserError

Heads = dict[int, tuple[int, ...]]  # query heads by layer

EXAMPLE = '3.1,5.0 (layer.head), or "not 3.1,5.0"'


def heads_of(text: str, masked: Sequence[int], layers: int, count: int) -> Heads | None:
    """ "3.1,5.0" -> {3: (1,), 5: (0,)}; "not 3.1,5.0": all other heads of the masked layers; "": None, all heads.

    Args:
        masked: the layers in which masks hold.
        layers, count: of the model, and query heads in a layer.

    Raises UserError.
    """
    if not text:
        return None
    negated = re.fullmatch(r"\s*not\s+(.*)", text)
    named: dict[int, set[int]] = {}
    for part in (negated[1] if negated else text).split(","):
        found = re.fullmatch(r"\s*([0-9]{1,9})\.([0-9]{1,9})\s*", part)
        if not found:
            raise UserError(f"`heads` {text!r} is no list of heads; write {EXAMPLE}")
        layer, head = int(found[1]), int(found[2])
        if layer >= layers or head >= count:
            raise UserError(
                f"`heads` {text!r}: there is no head {layer}.{head}; this model has layers 0 to {layers - 1} with "
                f"heads 0 to {count - 1}"
            )
        if layer not in masked:
            raise UserError(
                f"`heads` {text!r}: layer {layer} is not among `mask_layers`; add it there, or leave {layer}.{head} out"
            )
        named.setdefault(layer, set()).add(head)
    if negated:
        named = {layer: {*range(count)} - named.get(layer, set()) for layer in masked}
        if not any(named.values()):
            raise UserError(f"`heads` {text!r}: no other head is left in `mask_layers`; name fewer heads")
    return {layer: tuple(sorted(found)) for layer, found in sorted(named.items()) if found}


def check_layers_for_heads(mask_layers: str) -> None:
    """Raises UserError where `by_head` cannot go through `mask_layers` layer by layer."""
    if mask_layers == "from" or mask_layers.startswith("window"):
        raise UserError(
            f"`by_head` masks one head of one layer, and `mask_layers` {mask_layers} is of several layers; give a list "
            "such as 0-5 or all, or leave out `by_head`"
        )


def in_heads(masks: Sequence[Mask], heads: Heads) -> list[Mask]:
    return [mask._replace(edit=replace(mask.edit, heads=heads)) for mask in masks]


def head_by_head(masks: Sequence[Mask], layer: int, count: int) -> list[Mask]:
    """Each mask in each of the layer's heads by itself."""

    def alone(edit: Edit, head: int) -> Edit:
        return replace(edit, heads={layer: (head,)})

    return [mask._replace(edit=alone(mask.edit, head), head=head) for mask in masks for head in range(count)]
