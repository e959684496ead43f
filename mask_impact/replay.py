"""Replay one decoder layer on rows that differ only in which positions are masked.

Only the query row of one layer can change when a token is masked there, and its keys and values cannot, since they
come from the unmasked input. So the layer itself is called on R copies of the recorded row, and its attention call is
answered with the attention output of R different masks. Norms, MoE, gates, multipliers and parallel blocks are
the model's own code; no family is named here.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

from mask_impact.attention import eager_attention, family, implementation, routed_attention
from mask_impact.capture import Attention, Query, layer_output
from mask_impact.errors import UnsupportedModel

# One extra row's share of the memory that a replay may hold at once, in vectors of hidden size: MLP
# intermediates, copies made by norms, head outputs. Measured on Qwen3 (MLP 3 to 4 times hidden): about 30.
VECTORS_PER_ROW = 40
MEMORY_BUDGET = 192 * 2**20  # bytes

# Leave-one-out divides by 1 - p: at p = 0.5 it loses one bit, at 0.99999 all digits of float32.
LEAVE_OUT_LIMIT = 0.5

Masks = Sequence[Sequence[int]]  # R sets of masked positions; the empty set masks nothing


@dataclass
class Rows:
    """What the replayed layer did on each row."""

    update: torch.Tensor  # [R, C] layer output - layer input
    attention: torch.Tensor | None  # [R, C] what the attention sublayer adds to the residual stream
    heads: torch.Tensor  # [R, H, D] what the output projection receives, per query head
    head_change: torch.Tensor | None  # [R, H, D] its change by the mask, where known with all digits
    projection: nn.Parameter | torch.Tensor | None  # [C, H * D] the output projection's weight


class QueryAttention:
    """One query's attention in one layer, for any set of masked positions.

    The weights p come from one call of the family's own eager attention, in float32 or better. Masking a set M is then
    exact algebra (leave-one-out): z_M - z = (z * sum p_m - sum p_m v_m) / (1 - sum p_m), at a cost that does not grow
    with the number of keys, and with all digits however small the change. Rows with more than half of the weight
    masked, and families whose weights do not reproduce their output, are computed by the same function with -inf at
    the masked keys (`explicit`).
    """

    def __init__(self, recorded: Attention, query: Query) -> None:
        precise = torch.promote_types(query.query.dtype, torch.float32)
        length = query.bias.shape[-1]
        self.module = recorded.module
        self.options = query.options
        self.query = query.query.to(precise)
        self.keys = recorded.keys[:, :, :length].to(precise)
        self.values = recorded.values[:, :, :length].to(precise)
        self.bias = query.bias
        self.compute = eager_attention(recorded.module)
        output, weights = self._eager(self.bias)
        self.output = output[0]  # [H, D]
        self.weights = self._usable(weights)  # [H, T]

    def _eager(self, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The family's attention for R biases [R, 1 or H, 1, T]: [R, H, D] and the weights [R, H, 1, T].

        Rows are a batch and not one long query, because some families mask causally by the query's length besides.
        """
        query, keys, values = (item.expand(len(bias), -1, -1, -1) for item in (self.query, self.keys, self.values))
        output, weights = self.compute(self.module, query, keys, values, bias, **self.options)
        return output[:, 0], weights

    def _usable(self, weights: torch.Tensor | None) -> torch.Tensor | None:
        """The weights [H, T] if they are what the output was made with, else None."""
        heads, length = self.query.shape[1], self.keys.shape[2]
        if weights is None or weights.shape != (1, heads, 1, length):
            return None
        again = torch.einsum("ht,htd->hd", weights[0, :, 0], self._head_values())
        error = (again - self.output).abs().max() / self.output.abs().max().clamp_min(1e-30)
        return weights[0, :, 0] if error < 1e-4 else None

    def _head_values(self) -> torch.Tensor:
        """[H, T, D]: each query head's values (grouped-query attention shares them between neighbours)."""
        return self.values[0].repeat_interleave(self.query.shape[1] // self.values.shape[1], dim=0)

    def visible(self) -> torch.Tensor:
        """[T] bool: positions that at least one head can see."""
        return ~self.bias.isneginf().all(dim=1)[0, 0]

    def changes(self, masks: Masks) -> torch.Tensor:
        """[R, H, D] what each mask changes in the attention output `self.output`."""
        if self.weights is None:
            return self.explicit(masks) - self.output
        device = self.weights.device
        members = torch.tensor([position for mask in masks for position in mask], dtype=torch.int64, device=device)
        starts = torch.tensor([0] + [len(mask) for mask in masks[:-1]], device=device).cumsum(0)

        def removed(table: torch.Tensor) -> torch.Tensor:  # [T, X] -> [R, X]: sums over each mask's members
            return nn.functional.embedding_bag(members, table, starts, mode="sum")

        weights = self.weights.T.contiguous()  # [T, H]
        shares = weights.unsqueeze(-1) * self._head_values().transpose(0, 1)  # [T, H, D]
        mass = removed(weights)  # [R, H]
        left = (1 - mass).clamp_min(1 - LEAVE_OUT_LIMIT).unsqueeze(-1)
        removed_shares = removed(shares.flatten(1)).view(len(masks), *self.output.shape)
        change = (self.output * mass.unsqueeze(-1)).sub_(removed_shares).div_(left)
        for row in (mass > LEAVE_OUT_LIMIT).any(dim=1).nonzero().flatten().tolist():
            heavy = mass[row] > LEAVE_OUT_LIMIT
            change[row, heavy] = (self.explicit([masks[row]])[0] - self.output)[heavy]
        return change

    def explicit(self, masks: Masks) -> torch.Tensor:
        """[R, H, D] attention output under each mask, by the family's attention with -inf added at the masked keys.

        Where nothing is left to see, 0.
        """
        per_row = self.keys.shape[2] * self.query.numel() * self.query.element_size() * 2  # keys and values by head
        parts = []
        for part in chunks(masks, max(1, MEMORY_BUDGET // per_row)):
            bias = self.bias.repeat(len(part), 1, 1, 1)
            for row, mask in enumerate(part):
                bias[row, ..., list(mask)] = float("-inf")
            output, _ = self._eager(bias)
            blind = bias.isneginf().all(dim=-1)  # [R, 1 or H, 1]
            parts.append(output.masked_fill(blind, 0.0))
        return torch.cat(parts)


def chunks(masks: Masks, size: int) -> Iterator[Masks]:
    """`masks` in pieces of about `size`; a last one by itself joins the piece before."""
    start = 0
    while start < len(masks):
        stop = start + size if len(masks) - start - size > 1 else len(masks)
        yield masks[start:stop]
        start = stop


def rows_at_once(query: Query) -> int:
    """How many rows fit the memory budget."""
    width = max(query.hidden.shape[-1], query.heads.numel())
    return max(2, MEMORY_BUDGET // (width * max(query.hidden.element_size(), 4) * VECTORS_PER_ROW))


class Replay:
    """Replays recorded layers of one model."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.share_rows = True

    def rows(
        self, layer: nn.Module, attention: nn.Module, query: Query, base: torch.Tensor, change: torch.Tensor
    ) -> Rows:
        """Call the layer on R copies of the query's row.

        Args:
            attention: the layer's attention module.
            base: [H, D] the attention output without a mask.
            change: [R, H, D] what each mask changes in it.
        """
        try:
            return self._call(layer, attention, query, base, change)
        except RuntimeError as error:
            if not self.share_rows or "single memory location" not in str(error):
                raise
        self.share_rows = False  # the layer writes into its input; it then needs real copies
        return self._call(layer, attention, query, base, change)

    def _call(
        self, layer: nn.Module, attention: nn.Module, query: Query, base: torch.Tensor, change: torch.Tensor
    ) -> Rows:
        count = change.shape[0]
        hidden = query.hidden.expand(count, -1, -1)
        if not self.share_rows:
            hidden = hidden.contiguous()
        args = tuple(hidden if item is query.hidden else item for item in query.args)
        kwargs = {name: hidden if item is query.hidden else item for name, item in query.kwargs.items()}
        if "use_cache" in kwargs:
            kwargs["use_cache"] = False
        heads = base + change
        answer = heads.to(query.heads.dtype).unsqueeze(1)  # [R, 1, H, D]
        trace = RowTrace(count)

        def attend(module: nn.Module, *_: Any, **__: Any) -> tuple[torch.Tensor, None]:
            trace.start(answer)
            return answer, None

        landing = attention.register_forward_hook(lambda module, inputs, output: trace.land(output))
        try:
            with (
                routed_attention(attend, [attention.config], implementation(self.model)),
                answered_branches(layer, attention, query.branches, count),
                trace,
            ):
                output = layer_output(layer(*args, **kwargs))
        finally:
            landing.remove()
        received, weight = trace.received, trace.weight
        if received is not None and received.numel() != answer.numel():
            received, weight = None, None  # not a projection of all heads side by side
        unchanged = received is None or received.data_ptr() == answer.data_ptr()
        if received is None or unchanged:  # in full precision, where nothing came between
            seen, head_change = heads, change
        else:
            seen, head_change = received.reshape(heads.shape).to(heads.dtype), None
        return Rows(
            update=(output.to(heads.dtype) - query.hidden.to(heads.dtype)).flatten(1),
            attention=None if trace.addend is None else trace.addend.reshape(count, -1),
            heads=seen,
            head_change=head_change,
            projection=weight,
        )


@contextmanager
def answered_branches(layer: nn.Module, attention: nn.Module, branches: dict[str, Any], count: int) -> Iterator[None]:
    """Let the layer's submodules that do not depend on attention give what they gave in the record.

    A branch beside attention (Falcon-H1's Mamba) needs the whole prompt, which a replayed row does not have; its
    result at that row cannot change. A submodule is independent when its input is R copies of one row.
    """

    def answer(compute: Callable[..., Any], recorded: Any) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            tensors = [t for t in tensors_in([*args, *kwargs.values()]) if t.ndim > 1 and len(t) == count]
            copies = tensors and all(tensor.stride(0) == 0 for tensor in tensors)
            return expanded(recorded, count) if copies else compute(*args, **kwargs)

        return forward

    with ExitStack() as undo:
        for name, child in layer.named_children():
            recorded = branches.get(name)
            if recorded is None or any(module is attention for module in child.modules()):
                continue
            before = vars(child).get("forward")  # accelerate puts one there
            child.forward = answer(child.forward, recorded)
            undo.callback(setattr if before else delattr, child, "forward", *([before] if before else []))
        yield


def expanded(value: Any, count: int) -> Any:
    """Recorded rows [1, ...] as views of `count` equal rows."""
    if isinstance(value, torch.Tensor):
        return value.expand(count, *value.shape[1:])
    if isinstance(value, tuple | list):
        return type(value)(expanded(item, count) for item in value)
    return value


ADDITIONS = {"add", "add_", "__add__", "__radd__", "__iadd__"}

# Functions that treat every row by itself, so that equal rows need computing only once. A function missing
# here is computed on all rows: slower, never wrong.
ROW_WISE = ADDITIONS | {
    "addmm", "cat", "div", "exp", "float", "gelu", "layer_norm", "linear", "mean", "mul", "neg", "pow", "relu",
    "rms_norm", "rsqrt", "sigmoid", "silu", "softmax", "sqrt", "square", "sub", "tanh", "to", "type_as",
    "__mul__", "__neg__", "__pow__", "__rmul__", "__rsub__", "__rtruediv__", "__sub__", "__truediv__",
}  # fmt: skip


def tensors_in(value: Any) -> list[torch.Tensor]:
    """All tensors in nested tuples and lists."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, tuple | list):
        return [tensor for item in value for tensor in tensors_in(item)]
    return []


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
        self.made: dict[int, torch.Tensor] = {}  # made from the attention output, by id
        self.received: torch.Tensor | None = None  # input of the output projection
        self.weight: torch.Tensor | None = None  # [C, H * D]
        self.projected = False
        self.addend: torch.Tensor | None = None

    def start(self, attention_output: torch.Tensor) -> None:
        self.made = {id(attention_output): attention_output}

    def land(self, output: Any) -> None:
        """The attention module returned: its output is projected even if that went through a custom kernel."""
        landed = layer_output(output)
        self.made[id(landed)] = landed
        self.projected = True

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        tensors = tensors_in(args)
        if self.addend is None and any(id(tensor) in self.made for tensor in tensors):
            return self._follow(func, name, args, kwargs)
        if name in ROW_WISE and self.rows > 1:
            return self._once(func, args, kwargs)
        return func(*args, **kwargs)

    def _follow(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if name in ADDITIONS and self.projected:
            ours, other = args[:2] if id(args[0]) in self.made else (args[1], args[0])
            if self._is_activation(other, ours):
                self.addend = ours.clone() * kwargs.get("alpha", 1)
                return func(*args, **kwargs)
        if not self.projected and name in ("linear", "addmm", "matmul", "__matmul__"):
            self._note_projection(name, args)
        result = func(*args, **kwargs)
        for tensor in tensors_in(result):
            self.made[id(tensor)] = tensor
        return result

    def _is_activation(self, other: Any, ours: torch.Tensor) -> bool:
        return (
            isinstance(other, torch.Tensor)
            and not isinstance(other, nn.Parameter)
            and id(other) not in self.made
            and other.ndim > 1
            and other.shape[-1] == ours.shape[-1]
        )

    def _note_projection(self, name: str, args: tuple[Any, ...]) -> None:
        left, right = args[1:3] if name == "addmm" else args[:2]
        if id(left) in self.made and isinstance(right, nn.Parameter) and right.ndim == 2:
            self.received = left
            self.weight = right if name == "linear" else right.T
            self.projected = True

    def _once(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Compute on one row if all rows are equal, and give back a view of R rows."""
        batched = [t for t in tensors_in(args) if self._is_batch(t)]
        if not batched or any(tensor.stride(0) != 0 for tensor in batched):
            return func(*args, **kwargs)
        result = func(*self._first_row(args), **kwargs)
        if isinstance(result, torch.Tensor) and result.ndim > 1 and result.shape[0] == 1:
            return result.expand(self.rows, *result.shape[1:])
        return func(*args, **kwargs)

    def _is_batch(self, tensor: torch.Tensor) -> bool:
        return tensor.ndim > 1 and tensor.shape[0] == self.rows and not isinstance(tensor, nn.Parameter)

    def _first_row(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value[:1] if self._is_batch(value) else value
        if isinstance(value, tuple | list):
            return type(value)(self._first_row(item) for item in value)
        return value


def head_shares(heads: torch.Tensor, projection: torch.Tensor) -> torch.Tensor:
    """[R, H, D] heads through their slices of the output projection [C, H * D] -> [R, H, C].

    The shares of a row add up to the projection's output, without its bias.
    """
    slices = projection.to(heads.dtype).view(-1, *heads.shape[1:])  # [C, H, D]
    return torch.einsum("rhd,chd->rhc", heads, slices)


def unsupported(model: PreTrainedModel, layer: int, what: str) -> UnsupportedModel:
    """The refusal of a model whose replay is not truthful."""
    return UnsupportedModel(f"model family '{family(model)}' cannot be measured truthfully: layer {layer}: {what}")
