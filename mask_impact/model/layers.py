"""A call of one layer: its input, its output, and another function in place of its own.

In: a layer with the arguments or the output of its call. Out: the hidden states among them.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


def layer_input(layer: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> torch.Tensor:
    """The hidden states [1, N, C] that `layer` is called with: its first parameter, whatever that is called."""
    return args[0] if args else kwargs[next(iter(inspect.signature(layer.forward).parameters))]


def layer_output(output: Any) -> torch.Tensor:
    """A decoder layer's hidden states [1, N, C]: older transformers return a tuple, newer ones the tensor, GPT-1's a
    list."""
    return output[0] if isinstance(output, tuple | list) else output


def only_vectors(module: nn.Module) -> bool:
    """Whether it is a norm, a dropout, an activation: with no weights but vectors, it treats every token alone."""
    return not any(module.children()) and all(each.ndim <= 1 for each in module.parameters())


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


def last_pass_only(passes: Mapping[int, int]) -> str:
    """The note on layers that a model calls more than once in every forward, {layer: how often}."""
    said = ", ".join(f"{layer} ({count} times)" for layer, count in passes.items())
    return f"the model runs these layers more than once: {said}; masks act, and changes are measured, in the last pass"
