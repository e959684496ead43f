"""A model's layers: which they are, what a call of one takes and gives, and being there when one runs."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn


def layer_input(layer: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> torch.Tensor:
    """The hidden states [1, N, C] that `layer` is called with: its first parameter, whatever that is called."""
    return args[0] if args else kwargs[next(iter(inspect.signature(layer.forward).parameters))]


def layer_output(output: Any) -> torch.Tensor:
    """A decoder layer's hidden states [1, N, C]: older transformers return a tuple, newer ones the tensor."""
    return output[0] if isinstance(output, tuple) else output


@contextmanager
def watched(
    layers: Sequence[nn.Module],
    entering: Callable[[int, tuple[Any, ...], dict[str, Any]], None],
    leaving: Callable[[int, Any], None],
) -> Iterator[None]:
    """Until the block ends, call entering(index, args, kwargs) before each call of a layer and leaving(index, output)
    after it; `index` is the layer's place in `layers`.
    """

    def before(index: int) -> Callable[..., None]:
        return lambda _, args, kwargs: entering(index, args, kwargs)

    def after(index: int) -> Callable[..., None]:
        return lambda _, __, output: leaving(index, output)

    with ExitStack() as undo:
        for index, layer in enumerate(layers):
            undo.callback(layer.register_forward_pre_hook(before(index), with_kwargs=True).remove)
            undo.callback(layer.register_forward_hook(after(index)).remove)
        yield


@contextmanager
def replaced_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Call `forward` in place of the module's own until the block ends."""
    before = vars(module).get("forward")  # accelerate puts one there
    module.forward = forward
    try:
        yield
    finally:
        if before:
            module.forward = before
        else:
            del module.forward
