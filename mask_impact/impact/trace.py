"""Follow the attention output through a layer's call, and compute equal rows once.

In: a layer's call on R rows, and the attention output in it. Out: what the output projection received and its weight,
and what the attention sublayer added to the residual stream.

Where attention joins the residual stream, and which matrix is the output projection, is read off the tensor operations
that the layer performs, so that no table of module names is needed.
"""

from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from mask_impact.model.rounding import ROUNDING

ADDITIONS = {"add", "add_", "__add__", "__radd__", "__iadd__"}

# Functions that treat every row alone, so that equal rows need computing only once. A function missing
# here is computed on all rows: slower, never wrong.
ROW_WISE = ADDITIONS | {
    "addmm", "cat", "div", "exp", "float", "gelu", "layer_norm", "linear", "mean", "mul", "neg", "pow", "relu",
    "rms_norm", "rsqrt", "sigmoid", "silu", "softmax", "sqrt", "square", "sub", "tanh", "to", "type_as",
    "__mul__", "__neg__", "__pow__", "__rmul__", "__rsub__", "__rtruediv__", "__sub__", "__truediv__",
}  # fmt: skip


SEQUENCES = (tuple, list)
PRODUCTS = {"linear", "addmm", "matmul", "__matmul__"}


def tensors_in(value: Any) -> list[torch.Tensor]:
    """All tensors in nested tuples and lists."""
    if isinstance(value, torch.Tensor):
        return [value]
    found: list[torch.Tensor] = []
    for item in value if isinstance(value, SEQUENCES) else ():
        if isinstance(item, torch.Tensor):  # here, and not in a call of its own: every operation of a layer comes here
            found.append(item)
        elif isinstance(item, SEQUENCES):
            found += tensors_in(item)
    return found


def is_weight(value: Any) -> bool:
    """Whether `value` is a weight of the model, or a view of one: Falcon multiplies with its transpose."""
    return isinstance(value, nn.Parameter) or (
        isinstance(value, torch.Tensor) and isinstance(value._base, nn.Parameter)
    )


def _dequantised(name: str, args: tuple[Any, ...], result: torch.Tensor) -> torch.Tensor | None:
    """The weight of a product with quantised weights (torchao's tensors), None where activations are quantised too: the
    result is then no product with a matrix."""
    place = 2 if name == "addmm" else 1
    weight = args[place].dequantize()
    multiply: Any = nn.functional.linear if name == "linear" else getattr(torch, name.strip("_"))
    again = multiply(*args[:place], weight, *args[place + 1 :])
    return weight if (again - result).norm() <= ROUNDING[result.dtype] * result.norm() else None


class RowTrace(TorchFunctionMode):
    """Follows the attention output through the layer call, and computes equal rows once.

    From the attention output on, it follows the tensors made from it: the first matrix product with a weight is the
    output projection; the first addition after it to an activation not made from it is the residual addition (in a
    parallel block, the addition to the MLP's output), and what is added there is the sublayer's update, whatever norm
    or multiplier came between. Rows whose tensor has stride 0 along the batch are copies of one row.
    """

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = rows
        self.made: dict[int, torch.Tensor] = {}  # made from the attention output, by id; empty where none is followed
        self.received: torch.Tensor | None = None  # input of the output projection
        self.weight: torch.Tensor | None = None  # [C, H * D]
        self.projected = False
        self.addend: torch.Tensor | None = None

    def start(self, attention_output: torch.Tensor) -> None:
        self.made = {id(attention_output): attention_output}

    def land(self, landed: torch.Tensor) -> None:
        """The attention module returned: its output is projected even if that went through a custom kernel."""
        if self.addend is None:
            self.made[id(landed)] = landed
        self.projected = True

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.made and any(id(tensor) in self.made for tensor in tensors_in(args)):
            return self._follow(func, getattr(func, "__name__", ""), args, kwargs)
        if self.rows > 1 and getattr(func, "__name__", "") in ROW_WISE:
            return self._once(func, args, kwargs)
        return func(*args, **kwargs)

    def _follow(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if name in ADDITIONS and self.projected:
            ours, other = args[:2] if id(args[0]) in self.made else (args[1], args[0])
            if self._is_activation(other, ours):
                self.addend = ours.clone() * kwargs.get("alpha", 1)
                self.made = {}
                self.rows = 1  # from here on all rows differ: no more looking for equal ones
                return func(*args, **kwargs)
        result = func(*args, **kwargs)
        if name in PRODUCTS:
            self._note_projection(name, args, result)
        for tensor in tensors_in(result):
            self.made[id(tensor)] = tensor
        return result

    def _is_activation(self, other: Any, ours: torch.Tensor) -> bool:
        return (
            isinstance(other, torch.Tensor)
            and not is_weight(other)
            and id(other) not in self.made
            and other.ndim > 1
            and other.shape[-1] == ours.shape[-1]
        )

    def _note_projection(self, name: str, args: tuple[Any, ...], result: torch.Tensor) -> None:
        left, right = args[1:3] if name == "addmm" else args[:2]
        if id(left) not in self.made or not is_weight(right) or right.ndim != 2:
            return
        if self.projected:
            self.weight = None  # there are more matrices on the way, such as an adapter's
        else:
            self.received = left
            quantised = isinstance(right, nn.Parameter) and type(right) is not nn.Parameter
            weight = _dequantised(name, args, result) if quantised else right
            self.weight = weight if weight is None or name == "linear" else weight.T
            self.projected = True

    def _once(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Compute on one row if all rows are equal, and give back a view of R rows."""
        equal = False
        for tensor in tensors_in(args):
            if tensor.ndim > 1 and tensor.shape[0] == self.rows:
                if tensor.stride(0) == 0:
                    equal = True
                elif not isinstance(tensor, nn.Parameter):
                    return func(*args, **kwargs)
        if not equal:
            return func(*args, **kwargs)
        result = func(*self._first_row(args), **kwargs)
        if isinstance(result, torch.Tensor) and result.ndim > 1 and result.shape[0] == 1:
            return result.expand(self.rows, *result.shape[1:])
        return func(*args, **kwargs)

    def _first_row(self, value: Any) -> Any:
        """`value`, an argument or all of them, with one row in place of R equal ones."""
        if isinstance(value, torch.Tensor):
            equal = value.ndim > 1 and value.shape[0] == self.rows and value.stride(0) == 0
            return value[:1] if equal else value
        if isinstance(value, SEQUENCES):
            return type(value)([self._first_row(item) for item in value])
        return value
