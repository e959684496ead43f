"""What is asked about the answer: windows of layers, heads, who stops reading, a contrast of two texts."""

import argparse
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from mask_impact.effects.refine import Refinement, check_rounds, rounds_of, spread
from mask_impact.effects.routes import Mask, Route
from mask_impact.effects.some_heads import Heads, check_layers_for_heads, head_by_head, heads_of, in_heads
from mask_impact.errors import UserError
from mask_impact.model.lengths import check_length
from mask_impact.options import Request
from mask_impact.parsers import is_whole, layer_list
from mask_impact.prompt.given import given_ids, read_as
from mask_impact.prompt.inputs import ModelInputs
from mask_impact.prompt.levels import Part, parts_of_prompt
from mask_impact.prompt.sets import Sets
from mask_impact.prompt.token_text import ids_of_text
from mask_impact.prompt.units import Unit


@dataclass(frozen=True)
class Window:
    """The layers in which a mask holds."""

    first: int
    last: int


def windows_of(text: str, count: int) -> list[Window]:
    """`mask_layers`: "all", "0-5,8" (a window each), "window:3" (sliding), "from" (each layer to the last).

    Raises UserError for what is none of these or names layers that a model of `count` layers does not have.
    """
    if text == "all":
        return [Window(0, count - 1)]
    if text == "from":
        return [Window(first, count - 1) for first in range(count)]
    kind, _, width = text.partition(":")
    if kind == "window" and is_whole(width) and int(width) > 0:
        if int(width) > count:
            raise UserError(f"`mask_layers` {text}: the model has {count} layers, so a window has at most {count}")
        return [Window(first, first + int(width) - 1) for first in range(count - int(width) + 1)]
    try:
        ranges = layer_list(text)
    except argparse.ArgumentTypeError as error:
        raise UserError(f"`mask_layers` {error}, or all, from, window:3") from error
    for _, last in ranges:
        if last >= count:
            raise UserError(f"`mask_layers` {text!r}: there is no layer {last}; this model has 0 to {count - 1}")
    return [Window(first, last) for first, last in ranges]


def contrast_ids(tokenizer: Any, texts: Sequence[str], inputs: ModelInputs, apart: bool) -> tuple[tuple[int, ...], ...]:
    """The tokens of each text of `contrast`: the one that has exactly this text, if there is one for each of the texts;
    else the texts' tokens in the place of an answer. Raises UserError, also for the same tokens twice.

    Args:
        apart: as in `given_ids`.
    """
    alone = [contrast_id(tokenizer, text) for text in texts]
    if len(set(texts)) < len(texts) or (None not in alone and len(set(alone)) < len(alone)):
        raise UserError(f"`contrast` names {texts[0]!r} twice, which is no contrast; give two different texts")
    if None not in alone:
        return tuple((each,) for each in alone if each is not None)
    found = [tuple(given_ids("contrast", text, tokenizer, inputs, apart)) for text in texts]
    for text, ids in zip(texts, found, strict=True):
        if said := read_as(tokenizer, ids, text):
            raise UserError(
                f"`contrast` {text!r} is {said!r} for this model; give texts as the tables show them, often with a "
                "space before the word"
            )
    return tuple(found)


def contrast_id(tokenizer: Any, text: str) -> int | None:
    """The token with this text, None if there is none. Raises UserError if there are several."""
    found = ids_of_text(tokenizer, text)
    if len(found) == 1:
        return found[0]
    if found:
        pieces = tokenizer.convert_ids_to_tokens(found)
        listed = ", ".join(f"{piece!r} ({token_id})" for piece, token_id in zip(pieces, found, strict=True))
        raise UserError(
            f"`contrast` {text!r} is the text of {len(found)} tokens of this model: {listed}; give another token"
        )
    return None


@dataclass(frozen=True)
class Asked:
    """Which effects are measured."""

    mask_layers: str
    windows: tuple[Window, ...]
    routes: tuple[Route, ...]
    contrast: tuple[str, ...]  # two texts, or none
    contrast_ids: tuple[tuple[int, ...], ...]  # of each of the texts
    trace: bool
    pairs: int = 0  # of how many units, the strongest ones, all pairs are masked too
    by_head: int = 0  # query heads of a layer, each of which is masked by itself; 0: they are masked together
    heads: Heads | None = None  # where masks hold; None: all
    top: int = 0  # how many units are masked, those that single layers read most; 0: all
    refine: int = 0  # how many units of a round are split; 0: units are masked as they are
    max_masks: int | None = None  # of all rounds
    prompt: int = 0  # its tokens
    coarsest: tuple[Part, ...] = ()  # with `refine`, the prompt's units of the first round
    notes: tuple[str, ...] = ()

    def in_heads(self, masks: list[Mask], window: Window) -> list[Mask]:
        """The masks, each in the heads that are asked for."""
        if self.by_head:
            return head_by_head(masks, window.first, self.by_head)
        return masks if self.heads is None else in_heads(masks, self.heads)

    def refinement(self, more: Sequence[Unit]) -> Refinement:
        """Its first round; `more` are units after the prompt."""
        first = [*self.coarsest, *(Part(replace(unit, level=0)) for unit in more)]
        return Refinement(self.refine, self.max_masks, first)

    def expected(self, starts: Sequence[int]) -> list[list[int]]:
        """About where the masks of each round begin, if `starts` are the first positions of all units."""
        if not self.refine:
            return [list(spread(starts, self.top) if self.top else starts)]
        first = min(starts) if len(set(starts)) == 1 else 0  # an encoder's are all masked from its decoder on
        rounds = rounds_of(self.coarsest, self.refine)
        found = [[max(first, part.unit.positions[0]) for part in newest] for newest in rounds]
        before = [0, *itertools.accumulate(map(len, found))]
        left = [max(0, (self.max_masks or before[-1]) - masks) for masks in before]
        return [each[:most] for each, most in zip(found, left, strict=False)]

    def weight(self, starts: Sequence[int], length: int) -> float:
        """How much work these masks are, beside others of the same run: rows, if every later position is one."""
        later = all(route.readers is None for route in self.routes)
        return sum(length - start for start in starts) if later else len(starts)

    def check_fits(self, text_config: Any) -> None:
        """Raises UserError where a text of the contrast does not fit the model's positions after the prompt."""
        for ids in self.contrast_ids:
            check_length(text_config, self.prompt, len(ids), "contrast")

    @property
    def two_tokens(self) -> tuple[int, int] | None:
        """The contrast, if each of its texts is one token: their logits are compared at every step."""
        if [len(ids) for ids in self.contrast_ids] != [1, 1]:
            return None
        (first,), (second,) = self.contrast_ids
        return first, second

    @property
    def longer_contrast(self) -> tuple[tuple[int, ...], ...]:
        """The texts of a contrast of which one has several tokens: each is put in the place of the answer."""
        return () if self.two_tokens else self.contrast_ids

    @property
    def manifest(self) -> dict[str, Any]:
        return {
            "mask_layers": self.mask_layers,
            "blocks": list(dict.fromkeys(route.block for route in self.routes)),
            "routes": [route.manifest for route in self.routes],
            "contrast": list(self.contrast) or None,
            "contrast_ids": [list(ids) for ids in self.contrast_ids] or None,
            "pairs": self.pairs,
            "by_head": bool(self.by_head),
            "heads": None if self.heads is None else {str(layer): list(found) for layer, found in self.heads.items()},
        }


ABOUT_EFFECTS = (
    "mask_layers", "readers", "blocks", "routes", "by_head", "heads", "top", "refine", "max_masks", "contrast",
    "trace_layers", "deepstack",
)  # fmt: skip


def check_needed(request: Request) -> None:
    """Raises UserError for options about effects where no effects are asked for."""
    if request.pairs == 1:
        raise UserError("pairs of 1 unit: there are none; give `pairs` 2 or more")
    plain = Request("")
    for name in ABOUT_EFFECTS if not request.effects else ():
        if getattr(request, name) != getattr(plain, name):
            raise UserError(f"`{name}` is about effects on the answer; add `effects`, or leave it out")


def asked(
    request: Request,
    tokenizer: Any,
    size: tuple[int, int],
    sets: Sets,
    routes: tuple[Route, ...],
    notes: Sequence[str] = (),
) -> Asked | None:
    """What a request asks for, None for no effects. Raises UserError.

    Args:
        size: layers and query heads of the tower.
        routes: those of the request, and what is to be said of them.
    """
    if not request.effects:
        return None
    if len(request.contrast) not in (0, 2):
        raise UserError(f"contrast has {len(request.contrast)} texts; give two, such as ' Paris' and ' Rome'")
    layers, heads = size
    apart = bool(sets.places.first)  # in an encoder-decoder the answer is a text of its own
    ids = contrast_ids(tokenizer, request.contrast, sets.inputs, apart) if request.contrast else ()
    if request.by_head:
        _check_by_head(request)
    windows = windows_of(request.mask_layers, layers)
    masked = sorted({layer for window in windows for layer in range(window.first, window.last + 1)})
    coarsest = parts_of_prompt(tokenizer, sets.inputs, request.mask_mode) if request.refine else []
    later = 0 if request.mask_mode == "vision" else sets.places.end - len(sets.inputs.tokens)  # of the answer
    check_rounds(request, len(windows), len(routes), len(coarsest) + later)
    return Asked(
        request.mask_layers,
        tuple(Window(layer, layer) for layer in masked) if request.by_head else tuple(windows),
        routes,
        request.contrast,
        ids,
        request.trace_layers,
        request.pairs,
        heads if request.by_head else 0,
        heads_of(request.heads, masked, layers, heads),
        request.top,
        request.refine,
        request.max_masks,
        len(sets.inputs.tokens),
        tuple(coarsest),
        (*notes, *_unused(request)),
    )


def _check_by_head(request: Request) -> None:
    """Raises UserError for what does not go together with it."""
    check_layers_for_heads(request.mask_layers)
    for name in ("heads", "pairs"):
        if getattr(request, name):
            raise UserError(f"`by_head` masks each head by itself; leave out `{name}` or `by_head`")


def _unused(request: Request) -> list[str]:
    """What says what is masked in the results table alone."""
    given = [name for name in ("mask_unit", "spans", "regions", "region_masks") if getattr(request, name)]
    if not request.routes or not given:
        return []
    return [f"effects are of the routes; {', '.join(f'`{name}`' for name in given)} say what the results table masks"]
