"""A layer's recorded call cut down to some of its rows.

In: the arguments a layer was called with on all N tokens. Out: the same for one token or a few: every tensor is cut on
its sequence axis, and a stand-in takes the place of the key/value cache.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch


class CacheStandIn:
    """In the place of a key/value cache: it says how many positions came before, and holds none of them.

    Whoever calls the layer again answers its attention, and adds the keys and values of those positions there.
    """

    def __init__(self, count: int = 0) -> None:
        self.count = count

    def get_seq_length(self, *_: Any, **__: Any) -> int:
        return self.count

    def update(self, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return key, value


EMPTY_CACHE = CacheStandIn()  # transformers passes a cache under one name here and another there; this marks the place


def at_row(value: Any, row: int, count: int, seen: dict[int, Any], rows: int = 1) -> Any:
    """`value` (an argument of a layer called on `count` tokens) cut down to token `row`, or to `rows` from there on.

    Tensors are cut on their sequence axis: the last one of ids ([1, N], [3, 1, N]), the one before it of
    activations, rotary tables and masks ([1, N, C], [3, 1, N, D], [1, 1, N, T]). Others pass through. A cache becomes
    EMPTY_CACHE. A tensor that is in several arguments is still one tensor afterwards: `seen` remembers those cut.
    """
    return changed(value, lambda tensor: _tensor_row(tensor, row, count, rows), seen.setdefault(row, {}))


def changed(
    value: Any, change: Callable[[torch.Tensor], torch.Tensor], seen: dict[int, Any], cache: Any = EMPTY_CACHE
) -> Any:
    """`value` with `change` made to each tensor in it; a tensor that is there several times is changed once.

    `cache` takes the place of every key/value cache in it, stand-ins included.
    """
    if isinstance(value, torch.Tensor):
        if id(value) not in seen:
            seen[id(value)] = (change(value), value)  # the original is held, so that its id stays its own
        return seen[id(value)][0]
    if hasattr(value, "get_seq_length"):
        return cache
    if isinstance(value, Mapping):
        return {name: changed(item, change, seen, cache) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(changed(item, change, seen, cache) for item in value)
    return value


def sequence_axis(tensor: torch.Tensor) -> int:
    """The axis of a layer's argument that its tokens are on, if it has one for each: see `at_row`."""
    ids = tensor.ndim < 3 and not (tensor.is_floating_point() or tensor.is_complex())
    return -1 if ids or tensor.ndim < 2 or tensor.dtype == torch.int64 else -2


def _tensor_row(tensor: torch.Tensor, row: int, count: int, rows: int) -> torch.Tensor:
    axis = sequence_axis(tensor)
    if tensor.ndim >= -axis and tensor.shape[axis] == count:
        tensor = tensor.narrow(axis, row, rows)
    return tensor.clone()  # a later layer may write into the original
