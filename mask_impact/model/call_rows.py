"""A layer's recorded call cut down to some of its rows.

In: the arguments a layer was called with on all tokens. Out: the same for one token or a few, every tensor cut on its
sequence axis, the key/value cache replaced by a stand-in.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch


def at_row(value: Any, row: int, count: int, seen: dict[int, Any], rows: int = 1) -> Any:
    """`value` (an argument of a layer called on `count` tokens) cut down to token `row`, or to `rows` from there on.

    Tensors are cut on their sequence axis: the last one of ids ([1, N], [3, 1, N]), the one before it of
    activations, rotary tables and masks ([1, N, C], [3, 1, N, D], [1, 1, N, T]). Others pass through. A cache becomes
    CACHE, its place. `seen` makes one tensor of what is one tensor in several arguments.
    """
    return changed(value, lambda tensor: _tensor_row(tensor, row, count, rows), seen.setdefault(row, {}))


class _Place:
    """Where something stood among a layer's arguments."""


CACHE = _Place()  # of the key/value cache, which transformers passes under one name here and another there


def changed(
    value: Any, change: Callable[[torch.Tensor], torch.Tensor], seen: dict[int, Any], cache: Any = CACHE
) -> Any:
    """`value` with `change` made to each tensor in it, once to a tensor that is there several times.

    `cache` takes the place of every key/value cache in it.
    """
    if isinstance(value, torch.Tensor):
        if id(value) not in seen:
            seen[id(value)] = (change(value), value)  # the original is held, so that its id stays its own
        return seen[id(value)][0]
    if value is CACHE or hasattr(value, "get_seq_length"):
        return cache
    if isinstance(value, Mapping):
        return {name: changed(item, change, seen, cache) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(changed(item, change, seen, cache) for item in value)
    return value


def _tensor_row(tensor: torch.Tensor, row: int, count: int, rows: int) -> torch.Tensor:
    ids = tensor.ndim < 3 and not (tensor.is_floating_point() or tensor.is_complex())
    axis = -1 if ids or tensor.ndim < 2 or tensor.dtype == torch.int64 else -2
    if tensor.ndim >= -axis and tensor.shape[axis] == count:
        tensor = tensor.narrow(axis, row, rows)
    return tensor.clone()  # a later layer may write into the original
