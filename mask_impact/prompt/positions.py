"""Which positions a run has, and at which of them masks are read.

Positions count the tokens of the prompt, then those of the output: position prompt - 1 + k predicts output token k. In
an encoder-decoder the prompt's are the encoder's, and the decoder's follow: its start token, at position prompt, then
the output, so that position prompt + k predicts output token k.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mask_impact.errors import UserError


@dataclass(frozen=True)
class Places:
    """Positions of the query positions that a run can have."""

    prompt: int  # tokens of the prompt
    first: int  # the first position of the layers that are measured
    predicting: int  # where the first output token is predicted; the encoder's last
    end: int  # one after the last
    tower: str | None = None  # "encoder" or "decoder" of an encoder-decoder

    @classmethod
    def of(cls, prompt: int, num_tokens: int, tower: str | None = None) -> "Places":
        """`prompt` tokens in the prompt, and `num_tokens` to be generated."""
        if tower == "decoder":
            return cls(prompt, prompt, prompt, prompt + num_tokens, tower)
        end = prompt if tower == "encoder" else prompt + num_tokens - 1
        return cls(prompt, 0, prompt - 1, end, tower)

    def queries(self, chosen: Sequence[tuple[int, int]] | str) -> list[int]:
        """The positions that `Request.queries` names, rising. Raises UserError.

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
                having = f", the {self.tower} has" if self.tower else " have"
                hint = "; --tower encoder measures those before" if self.tower == "decoder" else ""
                raise UserError(
                    f"there is no query position {position}: {self.prompt} tokens in the prompt and "
                    f"{self.end - self.predicting} to be generated{having} query positions {self.first} to "
                    f"{self.end - 1}{hint}"
                )
        return sorted({position for first, last in chosen for position in range(first, last + 1)})
