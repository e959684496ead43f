"""The slow reference for carried effects: the whole model with attention masks edited in several layers.

In: a model from `families.py`, a prompt, layers, positions, and who stops reading them. Out: the logits and, after each
layer, the state at the last position. Plain hooks on the real model's attention modules, eager attention, no cache, no
mask_impact. Shapes as in brute_force.py; V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from brute_force import INVISIBLE, first, using_attention
from families import Family, decoder_layers, submodule
from torch import Tensor, nn
from transformers import PreTrainedModel


@torch.no_grad()
def carried(
    model: PreTrainedModel,
    family: Family,
    inputs: Tensor | Mapping[str, Tensor],
    window: tuple[int, int] = (0, -1),
    positions: Collection[int] = (),
    readers: Collection[int] | None = None,
    ablation: str = "neg-inf",
    heads: Mapping[int, Collection[int]] | None = None,
) -> tuple[Tensor, dict[int, Tensor]]:
    """Logits [V] and states [C] by layer at the last position; in layers `window` `positions` are not read.

    By `readers`, or by every position after them; in these `heads` of each layer, or in all. A head with nothing left
    to attend to in a row gives 0. With `ablation` "zero-value" the positions keep their attention weight and have value
    vectors of 0.
    """
    edit = {"neg-inf": hide_in, "zero-value": zero_in}[ablation]
    last = int((inputs if isinstance(inputs, Tensor) else inputs["input_ids"]).shape[1]) - 1
    unread = {row: unread_by(row, positions, readers) for row in range(last + 1)}
    states: dict[int, Tensor] = {}
    with using_attention(model, "eager"), ExitStack() as hooks:
        for index, layer in enumerate(decoder_layers(model, family)):
            hooks.callback(layer.register_forward_hook(keep(states, index)).remove)
            if window[0] <= index <= window[1] and index in family.attends:
                chosen = None if heads is None else sorted(heads.get(index, ()))
                for handle in edit(layer, family, unread, chosen):
                    hooks.callback(handle.remove)
        named = {"input_ids": inputs} if isinstance(inputs, Tensor) else inputs
        logits = model(**named, use_cache=False).logits[0, -1]
    return logits, states


def keep(states: dict[int, Tensor], index: int) -> Any:
    def hook(module: nn.Module, args: tuple, output: Any) -> None:
        states[index] = first(output)[0, -1].clone()

    return hook


def unread_by(row: int, positions: Collection[int], readers: Collection[int] | None) -> list[int]:
    """Of `positions`, those that a row does not read."""
    if readers is None:
        return sorted(m for m in positions if m < row)
    return sorted(positions) if row in readers else []


def hide_in(layer: nn.Module, family: Family, unread: Mapping[int, list[int]], heads: list[int] | None) -> list[Any]:
    attention, o_proj = submodule(layer, family.attention), submodule(layer, family.o_proj)
    blocked: list[tuple[int, Tensor]] = []  # rows, and their heads [H]

    def edit_mask(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        hidden = args[0] if args else kwargs["hidden_states"]
        length = hidden.shape[1]
        call = inspect.signature(module.forward).bind(*args, **kwargs)
        mask = call.arguments["attention_mask"]
        if mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=hidden.dtype).masked_fill(~mask, float("-inf"))
        count = module.config.num_attention_heads
        mask = mask[..., :length].expand(-1, count, -1, -1).clone() if heads is not None else mask[..., :length].clone()
        blocked.clear()
        for row in (row for row, columns in unread.items() if columns):
            before = mask[:, :, row, :].clone()
            for head in range(mask.shape[1]) if heads is None else heads:
                mask[:, head, row, unread[row]] = float("-inf")
            gone = (before > INVISIBLE).any(dim=-1) & ~(mask[:, :, row, :] > INVISIBLE).any(dim=-1)
            if gone.any():
                mask[:, :, row, :] = torch.where(gone.unsqueeze(-1), before, mask[:, :, row, :])
                blocked.append((row, gone[0].expand(count)))
        call.arguments["attention_mask"] = mask
        return call.args, call.kwargs

    def projection_input(module: nn.Module, args: tuple) -> tuple:
        received = args[0].clone()
        for row, gone in blocked:
            received[:, row] = received[:, row].unflatten(-1, (len(gone), -1)).masked_fill(gone[:, None], 0).flatten(-2)
        return received, *args[1:]

    return [
        attention.register_forward_pre_hook(edit_mask, with_kwargs=True),
        o_proj.register_forward_pre_hook(projection_input),
    ]


def zero_in(layer: nn.Module, family: Family, unread: Mapping[int, list[int]], heads: list[int] | None) -> list[Any]:
    """The attention module once for each set of positions that some row does not read, their values 0; its own rows and
    heads of what comes before the output projection."""
    attention, v_proj = submodule(layer, family.attention), submodule(layer, f"{family.attention}.v_proj")
    o_proj, own = submodule(layer, family.o_proj), attention.forward

    def read(args: Any, kwargs: Any, zeroed: Collection[int]) -> Tensor:
        """What comes before the output projection, [1, T, H, D]."""
        seen: list[Tensor] = []
        with ExitStack() as hooks:
            hooks.callback(v_proj.register_forward_hook(lambda _, __, values: without(values, zeroed)).remove)
            hooks.callback(o_proj.register_forward_pre_hook(lambda _, given: seen.append(given[0])).remove)
            own(*args, **kwargs)
        return seen[0].unflatten(-1, (attention.config.num_attention_heads, -1)).clone()

    def forward(*args: Any, **kwargs: Any) -> Any:
        mixed = read(args, kwargs, ())
        for row, zeroed in unread.items():
            chosen = slice(None) if heads is None else heads
            mixed[:, row, chosen] = read(args, kwargs, zeroed)[:, row, chosen]
        handle = o_proj.register_forward_pre_hook(lambda _, given: (mixed.flatten(-2), *given[1:]))
        try:
            return own(*args, **kwargs)
        finally:
            handle.remove()

    attention.forward = forward
    return [Undo(attention)]


def without(values: Tensor, positions: Collection[int]) -> Tensor:
    values = values.clone()
    values[:, list(positions)] = 0
    return values


class Undo:
    """Takes a module's replaced forward away again."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def remove(self) -> None:
        del self.module.forward
