"""Which positions a run has, and at which of them masks are read.

Positions count the tokens of the prompt, then those of the output: position prompt - 1 + k predicts output token k. In
an encoder-decoder the prompt's are the encoder's, and the decoder's follow: its start token, at position prompt, then
the output, so that position prompt + k predicts output token k.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mask_impact.errors import UserError
from mask_impact.options import ATTENTIONS, TOWERS


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
        """The positions that `Options.queries` names, rising. Raises UserError.

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


def tower_of(config: Any, tower: str, attention: Sequence[str], num_tokens: int = 1) -> str | None:
    """Which half of the model with `config` is measured, None for a decoder-only one. Raises UserError."""
    if tower not in TOWERS:
        raise UserError(f"unknown tower {tower!r}; choose from {', '.join(TOWERS)}")
    if not attention or not set(attention) <= set(ATTENTIONS):
        raise UserError(f"unknown attention {', '.join(attention)!r}; choose from {', '.join(ATTENTIONS)}")
    if not getattr(config, "is_encoder_decoder", False):
        if tower == "encoder":
            raise UserError("--tower encoder was given, but this model has no encoder; leave it away")
        if "self" not in attention:
            raise UserError("--attention cross was given, but this model has no cross-attention; leave it away")
        return None
    if tower == "encoder" and "self" not in attention:
        raise UserError("--attention cross was given, but an encoder has none; leave it or --tower encoder away")
    if tower == "encoder" and num_tokens > 1:
        raise UserError(
            f"--num-tokens {num_tokens} was given, but the encoder only reads the prompt; leave it or --tower encoder "
            "away"
        )
    return tower


def tower_size(config: Any, tower: str | None) -> tuple[int, int]:
    """Layers and query heads of the decoder, or of one half of an encoder-decoder, as the config has them."""
    if tower is None:
        text = config.get_text_config(decoder=True)
        return text.num_hidden_layers, text.num_attention_heads
    half: Any = getattr(config, tower, None)  # some nest a config for each half
    if hasattr(half, "num_hidden_layers"):
        return half.num_hidden_layers, half.num_attention_heads
    if hasattr(config, f"{tower}_layers"):  # BART and its kind
        return getattr(config, f"{tower}_layers"), getattr(config, f"{tower}_attention_heads")
    layers = config.num_layers if tower == "encoder" else config.num_decoder_layers  # T5 and its kind
    return layers, config.num_heads
