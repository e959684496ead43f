"""Make a float64 model compute in float64.

Families cast to float32 on the way: RMS norms, softmax, rotary tables, routers, Mamba scans. A model in float64 then
still agrees with itself only to 1e-7. Inside `true_float64()` those casts go to float64, and two evaluations that are
equal on paper agree to about 1e-13: a difference above that is an error in the method, not rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from mask_impact.impact.record import Recording
from mask_impact.model.call_rows import changed

LOW = {torch.float32, torch.float16, torch.bfloat16}
TO_DOUBLE = {torch.Tensor.float, torch.Tensor.half, torch.Tensor.bfloat16}


class Float64Mode(TorchFunctionMode):
    """Every torch call that names a floating dtype gets float64 in its place (`.float()` becomes `.double()`)."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func in TO_DOUBLE:
            func = torch.Tensor.double
        if torch.dtype in map(type, args):  # most calls name none, and there are hundreds of thousands
            args = tuple(widened(arg) for arg in args)
        if not kwargs:
            return func(*args)
        return func(*args, **{name: widened(value) for name, value in kwargs.items()})


def widened(value: Any) -> Any:
    """float64 for a narrower floating dtype, anything else as it is."""
    return torch.float64 if isinstance(value, torch.dtype) and value in LOW else value


@contextmanager
def true_float64() -> Iterator[None]:
    """Run a model built in (or moved to) float64 without the float32 casts inside its families' code.

    Other TorchFunctionModes may be entered outside or inside. Buffers keep the values they had in float32.
    """
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with Float64Mode():
            yield
    finally:
        torch.set_default_dtype(default)


def doubled(recording: Recording) -> Recording:
    """The same recording with every number in float64. Its layers are those of the model, and stay what they are."""
    seen: dict[int, Any] = {}

    def double(value: Any) -> Any:
        if is_dataclass(value) and not isinstance(value, nn.Module | type):
            if id(value) not in seen:
                seen[id(value)] = replace(value)
                for each in fields(value):
                    setattr(seen[id(value)], each.name, double(getattr(value, each.name)))
            return seen[id(value)]
        if isinstance(value, dict):
            return {key: double(item) for key, item in value.items()}
        if isinstance(value, list | tuple) and any(is_dataclass(item) for item in value):
            return type(value)(double(item) for item in value)
        return changed(value, lambda each: each.double() if each.is_floating_point() else each, tensors)

    tensors: dict[int, Any] = {}
    return double(recording)
