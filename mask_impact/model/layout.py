"""Where a prompt's tokens are among the rows of a layer, in families that add rows of their own.

In: a model and its inputs. Out: a `Layout`: the rows of the tokens (CPM-Ant puts 32 of its own before them), and the
rows that predict (ProphetNet's and XLNet's are those of a second stream).

Both are found by trying, so that nothing of a family is needed. A token's row is the one that changes when the token
does. A predicting row is the one of the last layer's output that makes the logits NaN when it is NaN. Rows are not
tried one by one: each has a number, and in one forward all are marked whose number has a certain bit, in another all
others.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from mask_impact.errors import UnsupportedModel
from mask_impact.model.forwards import last_logits
from mask_impact.model.layers import layer_input
from mask_impact.model.towers import decoder_layers, unsupported

MIXED = "the model adds tokens of its own, or mixes them, and which rows are the prompt's was not found"


@dataclass(frozen=True)
class Layout:
    """Where tokens and predictions are in every layer."""

    axes: tuple[int, int]  # of the hidden states: that of the one prompt, that of its rows
    tokens: tuple[int, ...]  # the row of each token, in the first argument of a layer
    predicting: dict[int, int]  # the row of each position that predicts, in the stream that the logits are read from
    stream: int  # which of a layer's outputs that is
    argument: int | str | None  # the argument of a layer that it is; None: the first

    def hidden(self, layer: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> torch.Tensor:
        """The stream that predicts, among the arguments of a layer."""
        if self.argument is None:
            return layer_input(layer, args, kwargs)
        return args[self.argument] if isinstance(self.argument, int) else kwargs[self.argument]

    def output(self, output: Any) -> torch.Tensor:
        """The same in a layer's output."""
        return streams(output)[self.stream]


def streams(output: Any) -> list[torch.Tensor]:
    """The hidden states that a layer returns: one tensor, or the first of several, and others of as many axes."""
    found = list(output) if isinstance(output, tuple | list) else [output]
    return [each for each in found if isinstance(each, torch.Tensor) and each.ndim == found[0].ndim]


def marked_sets(count: int) -> list[torch.Tensor]:
    """[count] bool each: the numbers that have a bit, and those that have not, for each bit in turn."""
    numbers = torch.arange(count)
    bits = range(max(1, (count - 1).bit_length()))
    return [each for bit in bits for each in ((numbers >> bit) % 2 == 1, (numbers >> bit) % 2 == 0)]


def numbers_of(marks: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """Which number each item depends on, by whether it was marked with each of `marked_sets`; -1: on none. None where
    an item depends on several."""
    having, lacking = torch.stack(list(marks[::2])), torch.stack(list(marks[1::2]))
    none = ~(having | lacking).any(dim=0)
    if not ((having ^ lacking).all(dim=0) | none).all():
        return None
    bits = 2 ** torch.arange(len(having), device=having.device)
    return torch.einsum("b...,b->...", having.long(), bits).masked_fill(none, -1)


def find_layout(model: PreTrainedModel, inputs: Mapping[str, torch.Tensor], steps: int) -> Layout:
    """The layout of a forward over `inputs`, whose last `steps` positions predict. Raises UnsupportedModel."""
    layers = decoder_layers(model)
    axes, tokens = _token_rows(model, layers, inputs)
    stream, rows = _predicting_rows(model, layers, inputs, axes, steps)
    count = inputs["input_ids"].shape[1]
    predicting = {count - len(rows) + place: row for place, row in enumerate(rows)}
    return Layout(axes, tokens, predicting, stream, _argument(model, layers, inputs, stream))


def _token_rows(
    model: PreTrainedModel, layers: Sequence[nn.Module], inputs: Mapping[str, torch.Tensor]
) -> tuple[tuple[int, int], tuple[int, ...]]:
    """The axes of the first layer's input, and the row of each token in it."""
    ids, seen = inputs["input_ids"], list[torch.Tensor]()

    def entering(index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if index == 0:
            seen[:] = [layer_input(layers[0], args, kwargs).clone()]

    def entered(tried: torch.Tensor) -> torch.Tensor:
        last_logits(model, {**inputs, "input_ids": tried}, entering=entering)
        return seen[0]

    base = entered(ids)
    sizes = list(base.shape[:-1])
    if len(sizes) != 2 or 1 not in sizes:
        raise _not_found(model, base)
    axes = sizes.index(1), 1 - sizes.index(1)
    other = torch.where(ids == ids.max(), ids.max() - 1, ids.max())  # another token in the place of each
    changed = []
    for chosen in marked_sets(ids.shape[1]):
        states = entered(torch.where(chosen.to(ids.device), other, ids))
        if states.shape != base.shape:
            raise _not_found(model, base)
        changed.append((states != base).any(dim=-1).flatten())
    numbers = numbers_of(changed)
    if numbers is None or sorted(numbers[numbers >= 0].tolist()) != list(range(ids.shape[1])):
        raise _not_found(model, base)
    return axes, tuple(int((numbers == token).nonzero()) for token in range(ids.shape[1]))


def _predicting_rows(
    model: PreTrainedModel,
    layers: Sequence[nn.Module],
    inputs: Mapping[str, torch.Tensor],
    axes: tuple[int, int],
    steps: int,
) -> tuple[int, list[int]]:
    """Which of the last layer's outputs the logits are read from, and the row of each of the last `steps` logits."""
    sizes: list[int] = []

    def leaving(chosen: torch.Tensor | None) -> Callable[[int, Any], None]:
        def mark(index: int, output: Any) -> None:
            if index == len(layers) - 1:
                found = [each.movedim(axes, (0, 1))[0] for each in streams(output)]
                sizes[:] = [len(each) for each in found]
                for each, rows in zip(found, () if chosen is None else chosen.split(sizes), strict=chosen is not None):
                    each[rows.to(each.device)] = torch.nan

        return mark

    last_logits(model, inputs, leaving=leaving(None), steps=steps)
    marks = [
        last_logits(model, inputs, leaving=leaving(chosen), steps=steps).isnan().all(dim=-1)
        for chosen in marked_sets(sum(sizes))
    ]
    numbers = numbers_of(marks)
    found, end = [-1] if numbers is None else numbers.tolist(), 0
    for stream, size in enumerate(sizes):
        rows = [row - end for row in found]
        if all(0 <= row < size for row in rows):
            return stream, rows
        end += size
    raise unsupported(model, len(layers) - 1, "which of its rows predicts was not found")


def _argument(
    model: PreTrainedModel, layers: Sequence[nn.Module], inputs: Mapping[str, torch.Tensor], stream: int
) -> int | str | None:
    """The argument of a layer that is the output `stream` of the layer below. Raises UnsupportedModel where none is:
    what is called a layer here is then only a part of one (XLM's attentions), or the stream is changed in between."""
    below: list[torch.Tensor] = []
    passed: list[list[int | str]] = []

    def entering(index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        every: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
        if below:
            passed.append([name for name, value in every if _same(value, below[0])])

    def leaving(index: int, output: Any) -> None:
        below[:] = [streams(output)[stream].clone()]

    last_logits(model, inputs, entering=entering, leaving=leaving)
    if not passed and stream == 0:
        return None
    for name in passed[0] if passed else ():
        if all(name in names for names in passed):
            return name
    raise unsupported(
        model, 0, "what goes into a layer is not what comes out of the one below, so its layers are not modules"
    )


def _same(value: Any, states: torch.Tensor) -> bool:
    return isinstance(value, torch.Tensor) and value.shape == states.shape and torch.equal(value, states)


def _not_found(model: PreTrainedModel, states: torch.Tensor) -> UnsupportedModel:
    return unsupported(model, 0, f"its input has shape {list(states.shape)}: {MIXED}")
