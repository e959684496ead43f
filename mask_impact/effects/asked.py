"""What is asked about the answer: windows of layers, who stops reading, a contrast of two tokens."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mask_impact.errors import UserError
from mask_impact.options import BLOCKS, Request
from mask_impact.parsers import layer_list
from mask_impact.prompt.token_text import ids_of_text, token_text


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
    if kind == "window" and width.isdecimal() and int(width) > 0:
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


def contrast_ids(tokenizer: Any, texts: Sequence[str]) -> tuple[int, int]:
    """The two tokens of `contrast`: those with exactly these texts. Raises UserError for a text that is none's."""
    first, second = (contrast_id(tokenizer, text) for text in texts)
    if first == second:
        raise UserError(f"`contrast` names the token {texts[0]!r} twice, which is no contrast; give two tokens")
    return first, second


def contrast_id(tokenizer: Any, text: str) -> int:
    """The token with this text. Raises UserError if there is none, or several."""
    found = ids_of_text(tokenizer, text)
    if len(found) == 1:
        return found[0]
    if found:
        pieces = tokenizer.convert_ids_to_tokens(found)
        listed = ", ".join(f"{piece!r} ({token_id})" for piece, token_id in zip(pieces, found, strict=True))
        raise UserError(
            f"`contrast` {text!r} is the text of {len(found)} tokens of this model: {listed}; give another token"
        )
    cut = [token_text(tokenizer, each) for each in tokenizer(text, add_special_tokens=False)["input_ids"]]
    pieces = f" ({', '.join(map(repr, cut))})" if cut else ""
    count = f"{len(cut)} tokens" if len(cut) != 1 else "another token"
    raise UserError(
        f"`contrast` {text!r} is {count} for this model{pieces}; give texts of one token each, as the tables show "
        "them, often with a space before the word"
    )


@dataclass(frozen=True)
class Asked:
    """Which effects are measured."""

    mask_layers: str
    windows: tuple[Window, ...]
    blocks: tuple[str, ...]
    contrast: tuple[str, ...]  # two texts, or none
    contrast_ids: tuple[int, int] | None
    trace: bool
    pairs: int = 0  # of how many units, the strongest ones, all pairs are masked too

    @property
    def manifest(self) -> dict[str, Any]:
        contrast = list(self.contrast) or None
        return {
            "mask_layers": self.mask_layers, "blocks": list(self.blocks), "contrast": contrast, "pairs": self.pairs
        }  # fmt: skip


def asked(request: Request, tokenizer: Any, layers: int) -> Asked | None:
    """What a request asks for, None for no effects. Raises UserError."""
    if request.pairs == 1:
        raise UserError("pairs of 1 unit: there are none; give `pairs` 2 or more")
    if not request.effects:
        plain = Request("")
        for name in ("mask_layers", "blocks", "contrast", "trace_layers"):
            if getattr(request, name) != getattr(plain, name):
                raise UserError(f"`{name}` is about effects on the answer; add `effects`, or leave it out")
        return None
    if len(request.contrast) not in (0, 2):
        raise UserError(f"contrast has {len(request.contrast)} tokens; give two, such as ' Paris' and ' Rome'")
    for block in request.blocks:
        if block not in BLOCKS:
            raise UserError(f"unknown block {block!r}; choose from {', '.join(BLOCKS)}")
    ids = contrast_ids(tokenizer, request.contrast) if request.contrast else None
    windows = tuple(windows_of(request.mask_layers, layers))
    return Asked(
        request.mask_layers, windows, request.blocks, request.contrast, ids, request.trace_layers, request.pairs
    )
