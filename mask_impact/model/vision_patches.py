"""Which image token each patch of a vision tower becomes.

In:  a model, its inputs, and the recorded calls of its tower. Out: for each row of the tower the position of its image
     token in the prompt, or NO_TOKEN for a row that no image token is made of (a CLS token, registers, padding).

The model itself is asked, not a table of families: its layers are left out, so that every row stays alone, and what
then arrives at the decoder is differentiated by the rows. A gradient that is not 0 is a way. Each image token has a
number, and two backward passes for each binary digit tell which of them a row leads to: a row that leads to tokens with
a 1 and to others with a 0 there leads to several. Merging, pooling, shuffling, windows, tiles and the order of pictures
are thus the model's own.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from mask_impact.model.layers import layer_input, replaced_forward
from mask_impact.model.towers import decoder_layers, refusing
from mask_impact.model.vision_tower import LayerCall, TowerCalls, unsupported_tower

NO_TOKEN = -1  # the position of a row that becomes no image token


class _AtDecoder(Exception):
    """The forward has come to the decoder; the rest of it is not needed."""


def followed(model: PreTrainedModel, tensors: dict[str, torch.Tensor], positions: Sequence[int]) -> list[int]:
    """[rows] as `positions_of_rows`, with the calls of a forward that ends at the decoder. Raises UnsupportedModel."""
    tower = TowerCalls(model)
    with torch.no_grad(), tower.recording(), until_decoder(model):
        model(**tensors, use_cache=False)
    return positions_of_rows(model, tensors, tower.calls, positions)


def positions_of_rows(
    model: PreTrainedModel, tensors: dict[str, torch.Tensor], calls: Sequence[LayerCall], positions: Sequence[int]
) -> list[int]:
    """[rows] the image token of each, among `positions`. Raises UnsupportedModel where a row leads to several."""
    with refusing(model, "its vision tower cannot be followed to its image tokens"):
        leads = _leads(model, tensors, calls, positions)
    some = leads(torch.ones(len(positions), dtype=torch.bool))
    numbers = torch.arange(len(positions))
    found, several = torch.zeros(len(some), dtype=torch.int64), torch.zeros_like(some)
    for digit in range(max(1, (len(positions) - 1).bit_length())):
        ones = (numbers >> digit) % 2 == 1
        to_one, to_zero = leads(ones), leads(~ones)
        found += to_one.long() << digit
        several |= to_one & to_zero
    if several.any():
        what = "a patch is a part of several image tokens (learned queries, or overlapping pools)"
        raise unsupported_tower(model.config, what)
    if not some.any():
        raise unsupported_tower(model.config, "none of its patches becomes an image token of the prompt")
    given = torch.tensor(positions)
    return torch.where(some, given[found.clamp_max(len(positions) - 1)], NO_TOKEN).tolist()


@torch.enable_grad()
def _leads(
    model: PreTrainedModel, tensors: dict[str, torch.Tensor], calls: Sequence[LayerCall], positions: Sequence[int]
) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function from chosen positions [T] bool to the rows [rows] bool that lead to any of them."""
    rows = calls[0].hidden.detach().clone().requires_grad_()
    arrived = _at_decoder(model, tensors, calls, rows)[0, list(positions)]  # [T, C]
    generator = torch.Generator().manual_seed(0)  # a direction in which no gradient is 0 by symmetry
    direction = torch.randn(arrived.shape[-1], generator=generator).to(arrived)
    reached = arrived @ direction  # [T]

    def leads(chosen: torch.Tensor) -> torch.Tensor:
        if not chosen.any():
            return torch.zeros(calls[0].rows, dtype=torch.bool)
        (gradient,) = torch.autograd.grad(
            reached, rows, chosen.to(reached), retain_graph=True, allow_unused=True, materialize_grads=True
        )
        return (calls[0].by_row(gradient) != 0).any(dim=-1).cpu()

    return leads


def _at_decoder(
    model: PreTrainedModel, tensors: dict[str, torch.Tensor], calls: Sequence[LayerCall], rows: torch.Tensor
) -> torch.Tensor:
    """[1, S, C] what the first decoder layer gets, with `rows` in place of what the tower's layers compute."""

    def as_given(call: LayerCall) -> Callable[..., Any]:
        return lambda *_, **__: call.returned(rows)

    with ExitStack() as undo:
        for call in calls:
            undo.enter_context(replaced_forward(call.layer, as_given(call)))
        reached = undo.enter_context(until_decoder(model))
        model(**tensors, use_cache=False)
    return reached[0]


@contextmanager
def until_decoder(model: PreTrainedModel) -> Iterator[list[torch.Tensor]]:
    """A forward inside of this ends at the decoder; what its first layer gets is in the list."""
    reached: list[torch.Tensor] = []
    first = decoder_layers(model)[0]

    def stop(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        reached.append(layer_input(first, args, kwargs))
        raise _AtDecoder

    handle = first.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        with suppress(_AtDecoder):
            yield reached
    finally:
        handle.remove()
