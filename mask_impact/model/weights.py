"""Is the checkpoint the model's? Every weight of the one must be in the other; constants may be left over.

In: what transformers tells about a loading. Out: notes for the manifest, of what the checkpoint has and the model has
no use for; or a UserError that names what is missing, or what would be lost.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel

from mask_impact.errors import UserError
from mask_impact.model.stored import Stored, same

Read = Callable[[str], torch.Tensor | None]

HIDING = -1e4  # numbers up to this one stand for minus infinity in masks


@contextmanager
def ignored_keys() -> Iterator[set[str]]:
    """In here, the keys that transformers found no use for, those included that it then leaves out without a word,
    because the family's class says so (`_keys_to_ignore_on_load_unexpected`)."""
    name, found = "_adjust_missing_and_unexpected_keys", set[str]()
    original = getattr(PreTrainedModel, name)

    def adjust(self: Any, *given: Any) -> Any:  # transformers 4 gives lists: missing, unexpected
        found.update(given[1] if len(given) > 1 else given[0].unexpected_keys)
        return original(self, *given)

    setattr(PreTrainedModel, name, adjust)
    try:
        yield found
    finally:
        setattr(PreTrainedModel, name, original)


def check_complete(
    name: str, model: Any, info: Mapping[str, Any], ignored: Collection[str], stored: Stored
) -> list[str]:
    """Notes on what of the checkpoint was left out. Raises UserError for a checkpoint that is not the model's.

    Args:
        info: what transformers tells about the loading.
        ignored: keys that `ignored_keys` found.
        stored: the checkpoint's tensors.
    """
    architecture = type(model).__name__
    for kind, what in (("mismatched_keys", "has weights of another shape"), ("missing_keys", "lacks weights")):
        keys = sorted(key if isinstance(key, str) else key[0] for key in info.get(kind) or ())
        if keys:
            raise UserError(
                f"the checkpoint {name!r} {what}: {counted(keys)}; use a complete checkpoint of {architecture}"
            )
    unexpected = sorted(info.get("unexpected_keys") or ())
    constants = {key for key in unexpected if is_constant(key, model, stored)}
    if weights := [key for key in unexpected if key not in constants]:
        raise UserError(
            f"the checkpoint {name!r} has weights for which {architecture} has no place: {counted(weights)}; without "
            "them another model would be measured; use the class they belong to, or take them out of the checkpoint"
        )
    computed = {name for name, _ in model.named_buffers()} - set(model.state_dict())  # which transformers 4 passes over
    constants |= {key for key in computed if any(same(key, name) for name in stored.names)}
    left_out = (
        (sorted(constants), "constants, no weights"),
        (sorted(set(ignored) - set(unexpected) - constants), f"{architecture} computes without them"),
    )
    return [f"left out of the checkpoint: {counted(keys)} ({why})" for keys, why in left_out if keys]


def check_finite(model: Any) -> None:
    """Raises UserError for weights that are no numbers. Asked where a check of the model has failed: attention may pass
    over them (sdpa gives 0 where all of a row is NaN), so that the logits are numbers, and the family would be blamed.
    """
    wrong = [name for name, weight in model.named_parameters() if not (weight.is_meta or weight.isfinite().all())]
    if wrong:
        raise UserError(
            f"the model has weights that are no numbers (NaN or infinite) in {dtype_name(model)}: {counted(wrong)}; "
            "take another `dtype`, or a checkpoint whose weights are all finite"
        )


def dtype_name(model: Any) -> str:
    return str(model.dtype).removeprefix("torch.")


def check_plain(name: str, model: Any, stored: Stored) -> None:
    """Raises UserError for numbers that need a scale, in a checkpoint whose config knows of no quantisation."""
    parameters = {key for key, _ in model.named_parameters()}
    for packed, kind in stored.packed().items():
        if any(same(key, packed) for key in parameters):
            raise UserError(
                f"the checkpoint {name!r} stores {packed} as {kind}, and its config.json has no quantization_config "
                "that says how to make weights of it; use the whole checkpoint, or one that is not quantised"
            )


def counted(keys: list[str]) -> str:
    """ "a.weight and 3 more"."""
    return keys[0] + (f" and {len(keys) - 1} more" if keys[1:] else "")


def is_constant(key: str, model: Any, read: Read) -> bool:
    """Whether the tensor is one that code computes and older versions saved: positions, masks, rotary frequencies.

    It is told by what the model has itself, and by what is in the tensor, since names differ between families.
    """
    value = read(key)
    if value is None:
        return False
    if value.dtype in (torch.bool, torch.int64):  # masks and indices; packed weights are narrower
        return True
    value = value.double()
    if value.numel() == 1:
        return bool(value <= HIDING)  # what a mask puts in hidden places
    return _is_causal_mask(value) or _is_rotation(key, value, read) or _is_in(model, value)


def _is_causal_mask(value: torch.Tensor) -> bool:
    square = value.ndim > 1 and value.shape[-1] == value.shape[-2] == value.numel() ** 0.5
    return square and torch.equal(value, torch.ones_like(value).tril())


def _is_rotation(key: str, value: torch.Tensor, read: Read) -> bool:
    """Cosines beside sines, or the other way round."""
    names = {key.replace("cos", "sin"), key.replace("sin", "cos")} - {key}
    others = [other.double() for name in names if (other := read(name)) is not None and other.shape == value.shape]
    return any(torch.allclose(value**2 + other**2, torch.ones_like(value), atol=2e-2) for other in others)


def _is_in(model: Any, value: torch.Tensor) -> bool:
    """Whether some buffer of the model has these numbers, to the digits of half precision."""
    own = (buffer for buffer in model.buffers() if buffer.shape == value.shape and not buffer.is_meta)
    return any(torch.allclose(value, buffer.detach().cpu().double(), rtol=1e-2, atol=1e-7) for buffer in own)
