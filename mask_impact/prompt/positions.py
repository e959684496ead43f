"""Which positions a run has, and at which of them changes are measured.

In: how many tokens the prompt has and how many are to be generated. Out: a `QueryRange`, and the query positions that
were asked for.

Positions count the tokens of the prompt, then those of the output: position prompt - 1 + k predicts output token k. In
an encoder-decoder the prompt's are the encoder's, and the decoder's follow: its start token, at position prompt, then
the output, so that position prompt + k predicts output token k.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mask_impact.errors import UserError


@dataclass(frozen=True)
class QueryRange:
    """The query positions that a run can have."""

    prompt: int  # tokens of the prompt
    first: int  # the first position of the layers that are measured
    predicting: int  # where the first output token is predicted; the encoder's last
    end: int  # one after the last
    tower: str | None = None  # "encoder" or "decoder" of an encoder-decoder, for messages
    sees_all: bool = False  # a query sees the later positions too
    before: str | None = None  # what measures the positions before `first`, for messages

    def queries(self, chosen: Sequence[tuple[int, int]] | str) -> list[int]:
        """The positions that are asked for, rising: "last" (those that predict an output token), "all", or (first,
        last) of each range. Raises UserError.

        The last output token is not among them: the model was never called on it.
        """
        if chosen == "last":
            return list(range(self.predicting, self.end))
        if chosen == "all":
            return list(range(self.first, self.end))
        if isinstance(chosen, str):
            raise UserError(f"unknown queries {chosen!r}; choose last, all, or positions")
        if not chosen or any(first > last for first, last in chosen):
            raise UserError(f"queries {chosen!r} name no position; choose last, all, or (first, last) of each range")
        for position in (position for ends in chosen for position in ends):
            if not self.first <= position < self.end:
                raise UserError(self._no_position(position))
        return sorted({position for first, last in chosen for position in range(first, last + 1)})

    def _no_position(self, position: int) -> str:
        having = f", the {self.tower} has" if self.tower else " have"
        hint = f"; {self.before} measures those before" if self.before else ""
        return (
            f"there is no query position {position}: {self.prompt} tokens in the prompt and "
            f"{self.end - self.predicting} to be generated{having} query positions {self.first} to {self.end - 1}{hint}"
        )


def in_text(prompt: int, num_tokens: int) -> QueryRange:
    """The query positions of a decoder, which reads the prompt and continues it."""
    return QueryRange(prompt, 0, prompt - 1, prompt + num_tokens - 1)


def in_encoder(prompt: int, num_tokens: int) -> QueryRange:
    """The query positions of an encoder: those of the prompt, whatever the decoder generates."""
    return QueryRange(prompt, 0, prompt - 1, prompt, "encoder", sees_all=True)


def in_pictures(prompt: int, num_tokens: int) -> QueryRange:
    """A vision encoder has no query positions: its patches read each other, and all of them are compared at once."""
    return QueryRange(prompt, 0, prompt - 1, prompt, "vision", sees_all=True)


def after_encoder(prompt: int, num_tokens: int) -> QueryRange:
    """The query positions of an encoder-decoder's decoder: its start token and the output, counted after the prompt."""
    return QueryRange(prompt, prompt, prompt, prompt + num_tokens, "decoder", before="`tower` encoder")
