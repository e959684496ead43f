"""The slow reference: rerun the whole model with key columns of one layer's attention mask at -inf.

In: a model from `families.py`, a prompt, a layer, a query position, the positions to mask. Out: the vectors of
docs "what is measured" with and without them, and the distances between the two. Plain forward hooks on the real model,
eager attention, no cache, no mask_impact: nothing is shared with the engine this is held against. Several masks go
through one forward, each on a copy of the prompt; test_reference.py holds that against one forward for each.

Shapes: S prompt positions, H query heads, D head width, C hidden, M masks.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from families import Family, decoder_layers, submodule
from torch import Tensor, nn
from transformers import PreTrainedModel

INVISIBLE = -1e4  # an additive mask below this hides the key; families write -inf or the dtype's minimum


@dataclass
class Rows:
    """What one forward did at one position, or at all of them (a leading S axis then, and an M axis before it)."""

    full: Tensor  # [C] layer output - layer input
    attn: Tensor  # [C] what attention adds to the residual stream
    heads: Tensor  # [H, D] each query head's slice of what o_proj receives
    head_shares: Tensor  # [H, C] each slice through its slice of o_proj's weight
    projected: Tensor  # [C] o_proj's output
    weights: Tensor | None  # [H, S] attention weights, where the attention module returns them (eager)

    def at(self, index: int | tuple[int | slice, ...]) -> Rows:
        """The rows of one position, or of one mask."""
        return Rows(**{name: None if rows is None else rows[index] for name, rows in vars(self).items()})


@dataclass
class Update:
    """The same query row without and with the mask."""

    base: Rows
    masked: Rows


def brute_force(
    model: PreTrainedModel,
    family: Family,
    input_ids: Tensor,
    layer: int,
    query: int,
    masked: Collection[int],
    attention: str = "eager",
) -> Update:
    """Run the model on `input_ids` [1, S] twice, the second time with `masked` removed from one layer's attention."""
    base = observe(model, family, input_ids, attention=attention)
    changed = observe(model, family, input_ids, layer, masked, attention)
    return Update(base[layer].at(query), changed[layer].at(query))


def brute_force_table(
    model: PreTrainedModel,
    family: Family,
    input_ids: Tensor,
    query: int,
    layers: Iterable[int] | None = None,
    masks: Iterable[Collection[int]] | None = None,
    head_space: str = "output",
    attention: str = "eager",
) -> dict[tuple[int, tuple[int, ...], str], tuple[float, float]]:
    """{(layer, masked positions, variant): (l2, cosine)} at `query`; each position up to it by default.

    `head_space` "output" compares heads before o_proj, "residual" their shares after it.
    """
    layers = family.attends if layers is None else tuple(layers)
    masks = [(m,) for m in range(query + 1)] if masks is None else [tuple(sorted(mask)) for mask in masks]
    base = observe(model, family, input_ids, attention=attention)
    table = {}
    for layer in layers:
        changed = observe_each(model, family, input_ids, layer, masks, attention, until=layer)[layer]
        for index, mask in enumerate(masks):
            for variant, before, after in variants(base[layer].at(query), changed.at((index, query)), head_space):
                table[layer, mask, variant] = distances(before, after)
    return table


def variants(base: Rows, masked: Rows, head_space: str = "output") -> Iterator[tuple[str, Tensor, Tensor]]:
    """(name, base vector, masked vector) of Full, Attn and each head; vectors [M, ...] of several masks."""
    yield "Full", base.full, masked.full
    yield "Attn", base.attn, masked.attn
    part = {"output": "heads", "residual": "head_shares"}[head_space]
    for head, before in enumerate(getattr(base, part)):
        yield f"Head_{head}", before, getattr(masked, part)[..., head, :]


def distances(base: Tensor, masked: Tensor) -> tuple[float, float]:
    """(||base - masked||, 1 - cos(base, masked)) in float64, by the definitions; cosine's rounding is 2e-16 absolute.

    A zero vector has no direction: its cosine distance is 0 from another zero vector and 1 from anything else.
    """
    base, masked = base.double().flatten(), masked.double().flatten()
    l2, lengths = (base - masked).norm().item(), (base.norm() * masked.norm()).item()
    if lengths == 0:
        return l2, float(l2 > 0)
    return l2, 1 - (base @ masked).item() / lengths


def observe(
    model: PreTrainedModel,
    family: Family,
    inputs: Tensor | Mapping[str, Tensor],
    layer: int | None = None,
    masked: Collection[int] = (),
    attention: str = "eager",
    until: int | None = None,
) -> dict[int, Rows]:
    """One full forward on input ids [1, S], or all inputs by name; {attention layer: its rows, [S, ...]}.

    `masked` key columns are removed from the attention of `layer`, for every query row. A row that is left with nothing
    to attend to has attention output 0. Where only one layer's rows are wanted, the forward may end `until` it.
    """
    seen = observe_each(model, family, inputs, layer, [masked], attention, until)
    return {index: rows.at(0) for index, rows in seen.items()}


@torch.no_grad()
def observe_each(
    model: PreTrainedModel,
    family: Family,
    inputs: Tensor | Mapping[str, Tensor],
    layer: int | None,
    masks: Sequence[Collection[int]],
    attention: str = "eager",
    until: int | None = None,
) -> dict[int, Rows]:
    """The same for several masks in one forward, on as many copies of the prompt: rows [M, S, ...]."""
    layers = decoder_layers(model, family)
    seen: dict[int, dict[str, Tensor]] = {i: {} for i in (family.attends if until is None else (until,))}
    with using_attention(model, attention), ExitStack() as hooks:
        for index, record in seen.items():
            columns = [sorted(mask) for mask in masks] if index == layer else []
            for handle in watch(layers[index], family, columns, record):
                hooks.callback(handle.remove)
        if until is not None:
            hooks.callback(layers[until].register_forward_hook(enough).remove)
        with suppress(Enough):
            model(**copies(model, inputs, len(masks)), use_cache=False, output_attentions=attention == "eager")
    return {i: rows_of(layers[i], family, record) for i, record in seen.items()}


def copies(model: PreTrainedModel, inputs: Tensor | Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """A prompt that many times in one batch; processors, too, put the pictures of all prompts one after the other."""
    named = {"input_ids": inputs} if isinstance(inputs, Tensor) else dict(inputs)
    axes = {"position_ids": 1} if "position_ids" in named and named["position_ids"].dim() == 3 else {}  # [3, M, S]
    if model.config.model_type == "minicpmv4_6":  # all patches of a batch are one wide picture
        axes["pixel_values"] = -1
    return {name: torch.cat([value] * count, axes.get(name, 0)) for name, value in named.items()}


class Enough(Exception):
    """All that was asked for has been seen."""


def enough(*_: Any) -> None:
    raise Enough


def watch(layer: nn.Module, family: Family, columns: list[list[int]], record: dict[str, Tensor]) -> list[Any]:
    """Hook one decoder layer: note its rows in `record`, and remove key `columns` of each prompt from its attention."""
    attention = submodule(layer, family.attention)
    o_proj = submodule(layer, family.o_proj) if family.o_proj else None
    addend = submodule(layer, family.attn_addend)
    blocked: list[Tensor] = []

    def layer_input(module: nn.Module, args: tuple, kwargs: dict) -> None:
        record["input"] = by_prompt(args[0] if args else kwargs["hidden_states"])

    def edit_mask(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        if not any(columns):
            return None
        hidden = args[0] if args else kwargs["hidden_states"]
        call = inspect.signature(module.forward).bind(*args, **kwargs)
        assert "attention_mask" in call.signature.parameters, type(module).__name__
        mask, *blocked[:] = hide(call.arguments.get("attention_mask"), hidden, columns)
        call.arguments["attention_mask"] = mask
        return call.args, call.kwargs

    def projection_input(module: nn.Module, args: tuple) -> tuple:
        record["received"] = args[0].clone()
        for rows in blocked:
            record["received"][rows] = 0
        return record["received"], *args[1:]

    def attention_weights(module: nn.Module, args: tuple, output: Any) -> None:
        if isinstance(output, tuple) and torch.is_tensor(output[1]) and output[1].dim() == 4:
            record["weights"] = output[1].transpose(1, 2)  # [M, S, H, S]

    def keep(name: str) -> Any:
        def hook(module: nn.Module, args: tuple, output: Any) -> None:
            record[name] = by_prompt(first(output))

        return hook

    projection = []
    if o_proj is not None:
        projection.append(o_proj.register_forward_pre_hook(projection_input))
        projection.append(o_proj.register_forward_hook(keep("projected")))
    return [
        layer.register_forward_pre_hook(layer_input, with_kwargs=True),
        attention.register_forward_pre_hook(edit_mask, with_kwargs=True),
        attention.register_forward_hook(attention_weights),
        *projection,
        addend.register_forward_hook(keep("addend")),
        layer.register_forward_hook(keep("output")),
    ]


def hide(mask: Tensor | None, hidden: Tensor, columns: list[list[int]]) -> tuple[Tensor, Tensor]:
    """The additive masks [M, 1, S, S] with key `columns` of each at -inf, and the rows [M, S] without a key left then.

    Those rows keep their mask (a softmax over nothing is NaN); the caller zeroes their attention output.
    """
    length = hidden.shape[1]
    if mask is None:  # sdpa's is_causal shortcut
        mask = torch.ones(1, 1, length, length, dtype=torch.bool, device=hidden.device).tril()
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=hidden.dtype).masked_fill(~mask, float("-inf"))
    mask = mask[..., :length]  # some older families make it one key too long and cut it later
    assert mask.dim() == 4 and mask.shape[-2:] == (length, length), f"unexpected mask {tuple(mask.shape)}"
    mask = mask.expand(len(columns), -1, -1, -1)
    edited = mask.clone()
    for index, unread in enumerate(columns):
        edited[index, ..., unread] = float("-inf")
    blocked = ((mask > INVISIBLE).any(-1) & ~(edited > INVISIBLE).any(-1)).any(1)
    return torch.where(blocked[:, None, :, None], mask, edited), blocked


def rows_of(layer: nn.Module, family: Family, record: dict[str, Tensor]) -> Rows:
    """The measured vectors of one layer, [M, S, ...] each."""
    scale = getattr(layer, family.attn_scale) if family.attn_scale else 1.0
    rows = {"full": record["output"] - record["input"], "attn": record["addend"] * scale}
    if not family.o_proj:
        none = record["output"].new_zeros(*record["output"].shape[:2], 0, 0)
        return Rows(**rows, heads=none, head_shares=none, projected=record["addend"], weights=record.get("weights"))
    received = record["received"]  # [M, S, H * D]
    heads = received.reshape(*received.shape[:2], family.heads, -1)  # [M, S, H, D]
    o_proj = submodule(layer, family.o_proj)
    weight = o_proj.weight if isinstance(o_proj, nn.Linear) else o_proj.weight.T  # Conv1D is [in, out]
    slices = weight.reshape(weight.shape[0], family.heads, -1)  # [C, H, D]
    return Rows(
        **rows,
        heads=heads,
        head_shares=torch.einsum("mshd,chd->mshc", heads, slices),
        projected=record["projected"],
        weights=record.get("weights"),
    )


def by_prompt(states: Tensor) -> Tensor:
    """[M, S, C]; of Gemma 3n's streams [4, M, S, C] all, side by side."""
    return states if states.dim() == 3 else states.movedim(0, 2).flatten(2)


def first(output: Any) -> Tensor:
    """A module's hidden states: its output, or the first of a tuple of outputs."""
    return output[0] if isinstance(output, tuple) else output


@contextmanager
def using_attention(model: PreTrainedModel, attention: str) -> Iterator[None]:
    """Run `model` with another of transformers' attention implementations, then put its own back."""
    before = model.config._attn_implementation
    if before == attention:
        yield
        return
    model.set_attn_implementation(attention)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
