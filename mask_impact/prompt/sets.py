"""Named sets of positions: whose attention is taken away, and from whom.

In:  a name ("question", "image:0", "12-18", a span's name), the model inputs, and the spans that have a name.
Out: a `PositionSet`, which gives its positions in a text of any length: the answer grows by a token with every step.

    sets = Sets(tokenizer, inputs, places, {"cup": (9, 10)})
    sets.named("`readers`", "question").at(length=20)       # (3, 4, 5, 6)
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mask_impact.errors import UserError
from mask_impact.prompt.inputs import ModelInputs
from mask_impact.prompt.positions import QueryRange
from mask_impact.prompt.turn_tokens import positions_of
from mask_impact.prompt.unit_syntax import LATER, SETS, VISUAL
from mask_impact.prompt.unit_syntax import visual as parsed_visual
from mask_impact.prompt.units import visual_tokens


@dataclass(frozen=True)
class PositionSet:
    """Positions with a name."""

    name: str
    fixed: tuple[int, ...] = ()  # sorted
    grows_from: int | None = None  # every position from here on belongs to it too
    is_last: bool = False  # it is the predicting position, another one at every step

    def at(self, length: int) -> tuple[int, ...]:
        """The positions in a text of `length` tokens, rising; none where the set is still empty."""
        if self.is_last:
            return (length - 1,)
        more = range(length if self.grows_from is None else self.grows_from, length)
        return (*(each for each in self.fixed if each < length), *more)

    @property
    def manifest(self) -> dict[str, Any]:
        """As the manifest has it: positions of the prompt, and what else belongs to it."""
        more = "the predicting position" if self.is_last else None
        more = f"every position from {self.grows_from} on" if self.grows_from is not None else more
        return {"name": self.name, "positions": list(self.fixed)} | ({"and": more} if more else {})


class Sets:
    """The sets of one prompt."""

    def __init__(
        self,
        tokenizer: Any,
        inputs: ModelInputs,
        places: QueryRange,
        spans: Mapping[str, tuple[int, ...]],
        sees_ahead: bool = False,
    ) -> None:
        """
        Args:
            spans: the positions of each span and region that has a name.
            sees_ahead: tokens of a picture see each other.
        """
        self.tokenizer, self.inputs, self.places, self.spans = tokenizer, inputs, places, spans
        # A family whose mask lets pictures, or the whole prompt, see what is later is told which tokens these are
        self.sees_ahead = sees_ahead or (bool(inputs.images) and "token_type_ids" in inputs.tensors)

    def named(self, what: str, name: str) -> PositionSet:
        """The set with this name. Raises UserError, which begins with `what` was given, for none and an empty one."""
        makers: dict[str, Callable[[str], PositionSet]] = {
            "first": lambda what: PositionSet("first", (0,)),
            "last": lambda what: PositionSet("last", is_last=True),
            "text": lambda what: PositionSet("text", self._of_kind("text", "special"), len(self.inputs.tokens)),
            "image": lambda what: PositionSet("image", self._all(what, "picture")),
            "video": lambda what: PositionSet("video", self._all(what, "video")),
            "system": lambda what: PositionSet("system", self._told(what, "system")),
            "question": lambda what: PositionSet("question", self._told(what, "question")),
            "template": lambda what: PositionSet("template", self._template(what)),
            "generated": self._generated,
        }
        if name in makers:
            return makers[name](what)
        if name in self.spans:
            return PositionSet(name, self.spans[name])
        if (found := re.fullmatch(VISUAL, name)) and (visual := parsed_visual(found.groups())):
            self._all(what, "video" if visual.video else "picture")
            return PositionSet(name, tuple(each.position for each in visual_tokens(what, visual, self.inputs)))
        if found := re.fullmatch(r"([0-9]{1,18})(?:-([0-9]{1,18}))?", name):
            return PositionSet(name, self._range(what, int(found[1]), int(found[2] or found[1])))
        spans = f"; spans and regions with a name: {', '.join(self.spans)}" if self.spans else ""
        raise UserError(
            f"{what}: there is no set {name!r}; choose from {', '.join(each for each in SETS if each != LATER)}, "
            "image:0, video:0, frame:3, positions such as 12-18, or the name of a span or region, given as "
            f"NAME=...{spans}"
        )

    def _of_kind(self, *kinds: str) -> tuple[int, ...]:
        return tuple(token.position for token in self.inputs.tokens if token.kind in kinds)

    def _all(self, what: str, kind: str) -> tuple[int, ...]:
        """The tokens of all pictures, or of all videos; a frame of a video is no picture here."""
        tokens = (each for each in self.inputs.tokens if each.kind == "image")
        found = tuple(each.position for each in tokens if (each.video is not None) == (kind == "video"))
        if not found:
            raise UserError(f"{what}: the set is of a {kind}'s tokens, and this prompt has no {kind}; give another")
        return found

    def _range(self, what: str, first: int, last: int) -> tuple[int, ...]:
        if first > last:
            raise UserError(f"{what}: the positions run backwards; write {last}-{first}")
        if last >= self.places.end:
            raise UserError(
                f"{what}: there is no position {last}; {self.places.prompt} tokens in the prompt and those to be "
                f"generated have positions 0 to {self.places.end - 1}"
            )
        return tuple(range(first, last + 1))

    def _generated(self, what: str) -> PositionSet:
        first = self.places.predicting + 1
        if first >= self.places.end:
            raise UserError(
                f"{what}: nothing is generated before the one token that is asked about; give `num_tokens` 2 or more"
            )
        return PositionSet("generated", grows_from=first)

    # --- by the chat template -----------------------------------------------------------------------------
    def _told(self, what: str, name: str) -> tuple[int, ...]:
        """The tokens of the system message, or of the last user message without its pictures."""
        said = self.inputs.said
        if said is None:
            if name == "question":
                return self._some(what, name, self._of_kind("text"))
            raise UserError(f"{what}: the prompt is in no chat template, so it has no system message; add `system`")
        self._check_known(what, name)
        roles = ("system", "developer") if name == "system" else ("user",)
        turns = [turn for turn in said.turns if turn.role in roles]
        if name == "question":
            turns = [turn for turn in turns if turn.message == turns[-1].message]
        if not turns:
            hint = "add `system` (a text that the template adds by itself is in the set template)"
            raise UserError(f"{what}: no {name if name == 'system' else 'user'} message was given; {hint}")
        found = dict(zip(said.turns, positions_of(self.tokenizer, self.inputs, said), strict=True))
        return self._some(what, name, tuple(sorted({at for turn in turns for at in found[turn]})))

    def _template(self, what: str) -> tuple[int, ...]:
        """Special and role tokens: all but pictures and what messages say."""
        said = self.inputs.said
        if said is None:
            return self._some(what, "template", self._of_kind("special"))
        self._check_known(what, "template")
        told = positions_of(self.tokenizer, self.inputs, said)
        if not all(told):
            raise UserError(f"{what}: {self._unclear('template')}")
        of_messages = {at for positions in told for at in positions}
        return tuple(at for at in self._of_kind("text", "special") if at not in of_messages)

    def _check_known(self, what: str, name: str) -> None:
        said = self.inputs.said
        if said is None or (said.turns and (said.whole or name == "question")):
            return
        raise UserError(f"{what}: {self._unclear(name)}")

    def _unclear(self, name: str) -> str:
        return (
            f"it is not known which tokens are the set {name!r}: the model's chat template does not show it in this "
            "prompt; give positions such as 12-18, or a span with a name"
        )

    def _some(self, what: str, name: str, found: tuple[int, ...]) -> tuple[int, ...]:
        """`found`. Raises UserError if it is empty."""
        if not found:
            plain = self.inputs.said is None
            why = f"no token is in the set {name!r}; give another" if plain else self._unclear(name)
            raise UserError(f"{what}: {why}")
        return found
