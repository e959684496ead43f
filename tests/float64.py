"""Make a float64 model compute in float64.

Families cast to float32 on the way: RMS norms, softmax, rotary tables, routers, Mamba scans. A model in float64 then
still agrees with itself only to 1e-7. Inside `true_float64()` those casts go to float64, and two evaluations that are
equal on paper agree to about 1e-13: a difference above that is an error in the method, not rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

LOW = {torch.float32, torch.float16, torch.bfloat16}
TO_DOUBLE = {torch.Tensor.float, torch.Tensor.half, torch.Tensor.bfloat16}


class Float64Mode(TorchFunctionMode):
    """Every torch call that names a floating dtype gets float64 in its place (`.float()` becomes `.double()`)."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func in TO_DOUBLE:
            func = torch.Tensor.double
        args = tuple(widened(arg) for arg in args)
        return func(*args, **{name: widened(value) for name, value in (kwargs or {}).items()})


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
