"""How many positions a model has, and whether their encoding depends on the length of the input.

In: a config, and numbers of tokens. Out: a limit, a yes or no, or a UserError for an input that is too long.
"""

from typing import Any

from mask_impact.errors import UserError


def check_length(config: Any, prompt_length: int, num_tokens: int, given: str = "") -> None:
    """Raises UserError when the prompt and the answer's tokens need more positions than the text config allows.

    Args:
        given: the option that gives the answer, if it is not generated.
    """
    needed = {"decoder": prompt_length + num_tokens - 1}
    if getattr(config, "is_encoder_decoder", False):
        needed = {"encoder": prompt_length, "decoder": num_tokens}  # the decoder counts its positions anew
    for half, positions in needed.items():
        limit = max_positions(config, half)
        if limit is not None and positions > limit:
            answer = f"`{given}` has {num_tokens}" if given else f"{num_tokens} are to be generated"
            remedy = f"`{given}`" if given else "lower `num_tokens`"
            raise UserError(
                f"the prompt has {prompt_length} tokens and {answer}: {positions} positions, but this model has "
                f"{limit}; shorten the prompt or {remedy}"
            )


def rope_settings(config: Any) -> list[dict[str, Any]]:
    """The rotary settings of a text config, one per layer type where the family has several."""
    settings = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    nested = [item for item in settings.values() if isinstance(item, dict)]
    return nested or [settings]


def max_positions(config: Any, half: str = "decoder") -> int | None:
    """The longest input the text config allows, None if it sets no limit.

    Args:
        half: of an encoder-decoder. LED's have limits of their own.
    """
    names = (
        "max_position_embeddings", "n_positions", f"max_{half}_position_embeddings",
        "max_seq_len",  # of MPT
    )  # fmt: skip
    limit = next((found for name in names if (found := getattr(config, name, None))), None)
    if hasattr(config, "relative_attention_num_buckets"):  # T5's n_positions is the length it was trained on
        return None
    if not isinstance(limit, int) or limit < 0:  # XLNet's is -1
        return None
    stretched = [
        int(float(item["factor"]) * (item.get("original_max_position_embeddings") or limit))
        for item in rope_settings(config)
        if item.get("factor")
    ]
    return max([limit, *stretched])


def length_dependent_positions(config: Any, length: int) -> bool:
    """Whether, at `length` tokens, a position's encoding depends on the total length.

    It does with dynamic NTK beyond the trained length, and with long-rope, which switches its factors there.
    """
    limit = getattr(config, "max_position_embeddings", None) or 0
    for item in rope_settings(config):
        kind = item.get("rope_type") or item.get("type")
        original = item.get("original_max_position_embeddings") or getattr(
            config, "original_max_position_embeddings", None
        )
        if kind in ("dynamic", "longrope") and length > (original or limit):
            return True
    return False
