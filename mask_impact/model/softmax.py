"""Find where a layer takes the softmax of its attention, and take keys out there, whatever module or function it is in.

In: a call of a layer. Out: the attention's weights, or a call in which chosen rows do not read chosen keys.

This is for families whose attention does not go through transformers' interface (Falcon, Bloom, MPT), or more than once
in a layer (DiffLlama): the torch functions that the layer calls are watched. An attention's softmax is one whose result
goes into a matrix product with another activation: the values. So a router's, which chooses experts, is none. One more
key than tokens, at the end, is a sink, whose weight is dropped before the product.

B prompts or copies of one, n query positions, T keys, H query heads, D head width; K columns of a softmax, which are
keys or others, and G its heads with all axes before them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

# A logit below this is that of a key that the model hides, with -inf, its dtype's minimum, or -1e4 as older families
# do; ALiBi takes no more than the distance from a true one.
INVISIBLE = -5e3
NOWHERE = "no softmax of attention to its tokens was found in its layers"
PRODUCTS = {"matmul", "__matmul__", "bmm", "einsum", "baddbmm"}
SDPA = "scaled_dot_product_attention"


@dataclass
class Slots:
    """Where a query's attention weights are in one softmax of a layer."""

    place: int  # of the softmax
    rows: torch.Tensor  # [1 or G, n] bool
    columns: torch.Tensor  # [T] of each token; -1: none
    width: int  # K

    def hidden(self, masks: Sequence[Sequence[int]]) -> torch.Tensor:
        """[B, 1 or G, n, K] bool: what the query no longer reads under each mask of tokens."""
        gone = torch.zeros(len(masks), self.width, dtype=torch.bool)
        for copy, mask in enumerate(masks):
            columns = self.columns[list(mask)]
            gone[copy, columns[columns >= 0]] = True
        return gone[:, None, None, :] & self.rows[None, :, :, None].to(gone.device)


@dataclass
class Reading:
    """What one query reads at a site."""

    slots: Slots
    weights: torch.Tensor  # [H, T]
    visible: torch.Tensor  # [H, T] bool


@dataclass
class Site:
    """A place in a layer where attention is computed, seen in one call on one prompt."""

    place: int  # its number among the layer's calls of softmax and attention
    weights: torch.Tensor  # [H, n, T]
    visible: torch.Tensor  # [H, n, T] bool
    values: torch.Tensor | None = None  # [H, T, D], where they could be read off
    output: torch.Tensor | None = None  # [H, n, D]

    def reading(self, row: int) -> Reading:
        """What one row reads."""
        rows, keys = self.weights.shape[-2:]
        slots = Slots(self.place, torch.arange(rows)[None] == row, torch.arange(keys), keys)
        return Reading(slots, self.weights[:, row].clone(), self.visible[:, row])


class Watching(TorchFunctionMode):
    """Counts the calls of softmax and attention in a layer; `_softmax` and `_attention` compute them."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        if name == "softmax":
            self.calls += 1
            return self._softmax(func, args, kwargs)
        if name == SDPA:
            self.calls += 1
            return self._attention(func, args, kwargs)
        return self._other(func, name, args, kwargs)

    def _softmax(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
        raise NotImplementedError

    def _attention(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
        raise NotImplementedError

    def _other(self, func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return func(*args, **kwargs)


class SoftmaxFinder(Watching):
    """Finds the attention of a layer that is called on one prompt; changes nothing."""

    def __init__(self, rows: int, keys: int) -> None:
        super().__init__()
        self.shape = (rows, keys)
        self.sites: list[Site] = []
        self.elsewhere = False  # attention that is not over the layer's tokens: compressed, in blocks
        self.followed: dict[int, tuple[torch.Tensor, int, torch.Tensor]] = {}  # by id: it, place, softmax's input

    def _softmax(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
        weights = func(*args, **kwargs)
        if weights.ndim > 2:
            self.followed[id(weights)] = weights, self.calls, argument(args, kwargs, 0, "input")
        return weights

    def _attention(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
        output = func(*args, **kwargs)
        logits, values = sdpa_logits(*args, **kwargs)
        if logits.shape[-2:] == self.shape:
            visible, weights = logits >= INVISIBLE, logits.softmax(dim=-1)
            self.sites.append(Site(self.calls, weights[0], visible[0], values[0], output[0]))
        else:
            self.elsewhere = True
        return output

    def _other(self, func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = func(*args, **kwargs)
        if name == "logsumexp" and argument(args, kwargs, 0, "input").shape[-2:] == self.shape:
            self.elsewhere = True  # a sink beside the softmax (Granite SWA): keys count there too
        flat = [item for arg in args for item in (arg if isinstance(arg, tuple | list) else (arg,))]
        ours = [item for item in flat if isinstance(item, torch.Tensor) and id(item) in self.followed]
        if ours and isinstance(result, torch.Tensor):
            tensor, place, logits = self.followed[id(ours[0])]
            others = [item for item in flat if isinstance(item, torch.Tensor) and item is not ours[0]]
            if name not in PRODUCTS:
                if name != "__getitem__" or result.storage_offset() == tensor.storage_offset():  # else other keys first
                    self.followed[id(result)] = result, place, logits
            elif (
                tensor.shape[:-1].numel() == logits.shape[:-1].numel()
                and others
                and not isinstance(others[-1], nn.Parameter)
            ):
                self._found(place, tensor, logits, others[-1] if name != "einsum" else None, result)
        return result

    def _found(
        self, place: int, weights: torch.Tensor, logits: torch.Tensor, values: torch.Tensor | None, output: torch.Tensor
    ) -> None:
        if place in {site.place for site in self.sites}:
            return
        rows = self.shape[0]
        if weights.shape[-2] != rows and rows in weights.shape[:-2]:
            return  # every token attends to something of its own, such as earlier layers' outputs (Inkling 2)
        if weights.shape[-2:] != self.shape or not 0 <= logits.shape[-1] - self.shape[1] <= 1:
            self.elsewhere = True
            return
        heads = logits[..., : self.shape[1]].reshape(-1, *self.shape)
        site = Site(place, weights.reshape(heads.shape), heads >= INVISIBLE)
        keys = self.shape[1]
        if values is not None and values.shape[-2] == keys and output.ndim == weights.ndim:
            values = values.expand(*weights.shape[:-2], *values.shape[-2:])  # multi-query heads share one
            site.values = values.reshape(len(heads), keys, -1)
            site.output = output.reshape(len(heads), rows, -1)
        self.sites.append(site)


class SoftmaxMasks(Watching):
    """Takes keys out of the attention of a layer that is called on B copies of one prompt."""

    def __init__(
        self,
        hidden: Mapping[int, torch.Tensor],
        zero_values: bool = False,
        made: Callable[[torch.Tensor], None] = lambda tensor: None,
        rounding: torch.Tensor | None = None,
    ) -> None:
        """
        Args:
            hidden: [B, 1 or G, n, K] bool by place of a `Site`, the keys that each row does not read there.
            zero_values: they keep their weight, and give nothing.
            made: called with each attention's weights, or with its output where the weights are not seen.
            rounding: factors for the last copy's weights, of as many keys, which tell what rounding does.
        """
        super().__init__()
        self.hidden, self.zero_values, self.made = hidden, zero_values, made
        self.rounding = rounding

    def _softmax(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
        if self.calls not in self.hidden:
            return func(*args, **kwargs)
        logits = argument(args, kwargs, 0, "input")
        by_copy = logits.reshape(len(self.hidden[self.calls]), -1, *logits.shape[-2:])
        dim = argument(args, kwargs, 1, "dim")
        dtype = argument(args, kwargs, 3 if func is nn.functional.softmax else 2, "dtype")
        assert dim in (-1, logits.ndim - 1), f"a softmax over axis {dim} of {logits.ndim}"
        weights = self._weights(by_copy, dtype).reshape(logits.shape)
        self.made(weights)
        return weights

    def _attention(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
        if self.calls not in self.hidden:
            return func(*args, **kwargs)
        logits, values = sdpa_logits(*args, **kwargs)
        by_copy = logits.reshape(len(self.hidden[self.calls]), -1, *logits.shape[-2:])
        output = self._weights(by_copy, None).reshape(logits.shape).to(values.dtype) @ values
        self.made(output)
        return output

    def _weights(self, logits: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
        """[B, H, n, T] for logits of that shape, or one more for a sink; 0 in a row that is left nothing to see."""
        hidden = self.hidden[self.calls].to(logits.device)
        hidden = nn.functional.pad(hidden, (0, logits.shape[-1] - hidden.shape[-1]))
        if self.zero_values:
            return self._rounded(logits.softmax(dim=-1, dtype=dtype).masked_fill(hidden, 0.0))
        changed = hidden.any(dim=-1, keepdim=True)
        gone = hidden | (changed & (logits < INVISIBLE))
        masked = logits.masked_fill(gone, float("-inf"))
        blind = changed & masked.isneginf().all(dim=-1, keepdim=True)
        return self._rounded(masked.softmax(dim=-1, dtype=dtype).masked_fill(blind, 0.0))

    def _rounded(self, weights: torch.Tensor) -> torch.Tensor:
        if self.rounding is not None:
            count = min(len(self.rounding), weights.shape[-1])
            weights[-1, ..., :count] *= self.rounding[:count].to(weights)
        return weights


def argument(args: tuple[Any, ...], kwargs: dict[str, Any], place: int, name: str) -> Any:
    return args[place] if len(args) > place else kwargs.get(name)


def sdpa_logits(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits [B, H, n, T] and values [B, H, T, D] of torch's attention with these arguments."""
    groups = query.shape[1] // key.shape[1] if enable_gqa else 1
    key, value = (each.repeat_interleave(groups, dim=1) if groups > 1 else each for each in (key, value))
    logits = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        seen = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).tril()
        logits = logits.masked_fill(~seen, float("-inf"))
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        logits = logits.masked_fill(~attn_mask, float("-inf"))
    elif attn_mask is not None:
        logits = logits + attn_mask
    return logits, value
