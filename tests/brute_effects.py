"""The slow reference for carried effects: the whole model with attention masks edited in several layers.

In: a model from `families.py`, a prompt, layers, positions, and who stops reading them. Out: the logits and, after each
layer, the state at the last position. Plain hooks on the real model's attention modules, eager attention, no cache, no
mask_impact. Shapes as in brute_force.py, where M edits go through one forward, too; V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple, Protocol

import torch
from brute_force import INVISIBLE, copies, first, using_attention
from families import Family, decoder_layers, submodule
from torch import Tensor, nn
from transformers import PreTrainedModel

Unread = Sequence[Mapping[int, list[int]]]  # of each edit, {row: the positions that it does not read}
Heads = Sequence[Collection[int] | None]  # of each edit; None: all


class Cut(Protocol):
    """`positions` are not read by `readers`, or by every position after them; in these `heads` of each layer, or in
    all."""

    positions: Collection[int]
    readers: Collection[int] | None
    heads: Mapping[int, Collection[int]] | None


class One(NamedTuple):
    positions: Collection[int] = ()
    readers: Collection[int] | None = None
    heads: Mapping[int, Collection[int]] | None = None


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
    """Logits [V] and states [C] by layer at the last position; in layers `window` `positions` are not read."""
    logits, states = carried_each(model, family, inputs, window, [One(positions, readers, heads)], ablation)
    return logits[0], {layer: state[0] for layer, state in states.items()}


@torch.no_grad()
def carried_each(
    model: PreTrainedModel,
    family: Family,
    inputs: Tensor | Mapping[str, Tensor],
    window: tuple[int, int],
    cuts: Sequence[Cut],
    ablation: str = "neg-inf",
) -> tuple[Tensor, dict[int, Tensor]]:
    """Logits [M, V] and states [M, C] by layer at the last position, of each cut by itself, in layers `window`.

    A head with nothing left to attend to in a row gives 0. With `ablation` "zero-value" the positions keep their
    attention weight and have value vectors of 0.
    """
    edit = {"neg-inf": hide_in, "zero-value": zero_in}[ablation]
    length = int((inputs if isinstance(inputs, Tensor) else inputs["input_ids"]).shape[1])
    unread = [{row: unread_by(row, cut.positions, cut.readers) for row in range(length)} for cut in cuts]
    states: dict[int, Tensor] = {}
    with using_attention(model, "eager"), ExitStack() as hooks:
        for index, layer in enumerate(decoder_layers(model, family)):
            hooks.callback(layer.register_forward_hook(keep(states, index)).remove)
            if window[0] <= index <= window[1] and index in family.attends:
                heads = [None if cut.heads is None else sorted(cut.heads.get(index, ())) for cut in cuts]
                for handle in edit(layer, family, unread, heads):
                    hooks.callback(handle.remove)
        logits = model(**copies(model, inputs, len(cuts)), use_cache=False).logits[:, -1]
    return logits, states


def keep(states: dict[int, Tensor], index: int) -> Any:
    def hook(module: nn.Module, args: tuple, output: Any) -> None:
        states[index] = first(output)[:, -1].clone()

    return hook


def unread_by(row: int, positions: Collection[int], readers: Collection[int] | None) -> list[int]:
    """Of `positions`, those that a row does not read."""
    if readers is None:
        return sorted(m for m in positions if m < row)
    return sorted(positions) if row in readers else []


def hide_in(layer: nn.Module, family: Family, unread: Unread, heads: Heads) -> list[Any]:
    attention, o_proj = submodule(layer, family.attention), submodule(layer, family.o_proj)
    blocked: list[Tensor] = []

    def edit_mask(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        call = inspect.signature(module.forward).bind(*args, **kwargs)
        length = len(unread[0])
        mask = call.arguments["attention_mask"][..., :length]
        if mask.dtype == torch.bool:
            hidden = args[0] if args else kwargs["hidden_states"]
            mask = torch.zeros_like(mask, dtype=hidden.dtype).masked_fill(~mask, float("-inf"))
        count = mask.shape[1] if all(chosen is None for chosen in heads) else module.config.num_attention_heads
        mask = mask.expand(len(unread), count, -1, -1)
        edited = mask.masked_fill(taken(unread, heads, count, length), float("-inf"))
        blocked[:] = [(mask > INVISIBLE).any(-1) & ~(edited > INVISIBLE).any(-1)]  # [M, H, S]
        call.arguments["attention_mask"] = torch.where(blocked[0].unsqueeze(-1), mask, edited)
        return call.args, call.kwargs

    def projection_input(module: nn.Module, args: tuple) -> tuple:
        gone = blocked[0].expand(-1, attention.config.num_attention_heads, -1).transpose(1, 2)  # [M, S, H]
        by_head = args[0].unflatten(-1, (gone.shape[-1], -1))
        return by_head.masked_fill(gone.unsqueeze(-1), 0).flatten(-2), *args[1:]

    return [
        attention.register_forward_pre_hook(edit_mask, with_kwargs=True),
        o_proj.register_forward_pre_hook(projection_input),
    ]


def taken(unread: Unread, heads: Heads, count: int, length: int) -> Tensor:
    """[M, H, S, S] bool: which row of which head does not read which column."""
    cut = torch.zeros(len(unread), count, length, length, dtype=torch.bool)
    for each, rows, chosen in zip(cut, unread, heads, strict=True):
        for row, columns in rows.items():
            for head in range(count) if chosen is None else chosen:
                each[head, row, columns] = True
    return cut


def zero_in(layer: nn.Module, family: Family, unread: Unread, heads: Heads) -> list[Any]:
    """The attention module once for each set of positions that some row does not read, their values 0; its own rows and
    heads of what comes before the output projection."""
    attention, v_proj = submodule(layer, family.attention), submodule(layer, f"{family.attention}.v_proj")
    o_proj, own, count = submodule(layer, family.o_proj), attention.forward, attention.config.num_attention_heads
    rows_of: dict[tuple[tuple[int, ...], ...], list[int]] = {}  # {the sets of all edits: rows}
    for row in unread[0]:
        rows_of.setdefault(tuple(tuple(each[row]) for each in unread), []).append(row)

    def read(args: Any, kwargs: Any, zeroed: Sequence[Collection[int]]) -> Tensor:
        """What comes before the output projection, [M, S, H, D]."""
        seen: list[Tensor] = []
        with ExitStack() as hooks:
            hooks.callback(v_proj.register_forward_hook(lambda _, __, values: without(values, zeroed)).remove)
            hooks.callback(o_proj.register_forward_pre_hook(lambda _, given: seen.append(given[0])).remove)
            own(*args, **kwargs)
        return seen[0].unflatten(-1, (count, -1)).clone()

    def forward(*args: Any, **kwargs: Any) -> Any:
        mixed = read(args, kwargs, [()] * len(unread))
        for zeroed, rows in rows_of.items():
            found = read(args, kwargs, zeroed) if any(zeroed) else mixed
            for index, chosen in enumerate(heads):
                for head in range(count) if chosen is None else chosen:
                    mixed[index, rows, head] = found[index, rows, head]
        handle = o_proj.register_forward_pre_hook(lambda _, given: (mixed.flatten(-2), *given[1:]))
        try:
            return own(*args, **kwargs)
        finally:
            handle.remove()

    attention.forward = forward
    return [Undo(attention)]


def without(values: Tensor, zeroed: Sequence[Collection[int]]) -> Tensor:
    values = values.clone()
    for each, positions in zip(values, zeroed, strict=True):
        each[list(positions)] = 0
    return values


class Undo:
    """Takes a module's replaced forward away again."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def remove(self) -> None:
        del self.module.forward
