"""Watch a model's forward from inside: which layer runs, its input and output, and its calls of attention.

In:  a model, the layers to watch, and up to three functions.
Out: nothing; while the block is open, every call of a layer goes entering(index, args, kwargs), then
     attending(index, call) for each call of attention in it, then leaving(index, output). `index` is the layer's place
     among the watched ones.

    states = {}
    with inside(model, decoder_layers(model), leaving=lambda index, output: states.update({index: output})):
        model(input_ids)

The recorder, recorded forwards, whole masked forwards and carried runs are all built on this.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mask_impact.model.attention import attention_function, exchanged_attention, implementation
from mask_impact.model.masks import ALL_ROWS, additive_mask, rows_of

AttentionResult = tuple[torch.Tensor, torch.Tensor | None]  # output [B, n, H, D]; weights, where there are any
Entering = Callable[[int, tuple[Any, ...], dict[str, Any]], None]
Leaving = Callable[[int, Any], None]


@dataclass
class AttentionCall:
    """A layer's call of attention: B prompts, n query positions, T keys."""

    module: nn.Module
    query: torch.Tensor  # [B, H, n, D] after position embedding
    key: torch.Tensor  # [B, G, T, D]
    value: torch.Tensor  # [B, G, T, D]
    mask: torch.Tensor | None  # as the model passes it; None: as `causal` says
    positional: tuple[Any, ...]  # further arguments without a name, which the interface does not know
    named: dict[str, Any]  # further arguments with one
    name: str  # the attention implementation

    @property
    def options(self) -> dict[str, Any]:
        """The further arguments, without what is part of the logits' bias."""
        return {name: value for name, value in self.named.items() if name != "position_bias"}

    @property
    def causal(self) -> bool:
        """Whether, without a mask, a row sees no later position: so with sdpa; eager attention sees all."""
        given = self.named.get("is_causal")
        return self.name == "sdpa" and bool(getattr(self.module, "is_causal", True) if given is None else given)

    def bias(self, causal: bool, rows: slice = ALL_ROWS) -> torch.Tensor:
        """[1, 1 or H, n, T] all that is added to the logits: `additive_mask`, and T5's position bias beside it."""
        added = additive_mask(self.mask, self.query, self.key, causal, rows)
        position_bias = self.named.get("position_bias")
        return added if position_bias is None else added + rows_of(position_bias, rows)[..., : added.shape[-1]]

    def compute(self) -> AttentionResult:
        """What the model itself computes."""
        function = attention_function(self.name, self.module)
        return function(self.module, self.query, self.key, self.value, self.mask, *self.positional, **self.named)


Attending = Callable[[int, AttentionCall], AttentionResult | None]


@contextmanager
def inside(
    model: Any,
    layers: Sequence[nn.Module],
    *,
    entering: Entering | None = None,
    attending: Attending | None = None,
    leaving: Leaving | None = None,
    routed: tuple[str, Any] | None = None,
) -> Iterator[None]:
    """Be inside every forward of `model` until the block ends; then it is as it was, also after an exception.

    Args:
        layers: of the model, those to watch. Calls of attention outside of them go on as they would have.
        attending: returns the attention's result, or None for the model's own. Without it, attention is left alone.
        routed: the attention implementation and the config of the layers, where they are not the decoder's.

    Raises UnsupportedModel, where attention is computed, for a family without an attention function.
    """
    running: list[int] = []

    def before(index: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            running[:] = [index]
            if entering is not None:
                entering(index, args, kwargs)

        return hook

    def after(index: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            running.clear()
            if leaving is not None:
                leaving(index, output)

        return hook

    with ExitStack() as undo:
        for index, layer in enumerate(layers):
            undo.callback(layer.register_forward_pre_hook(before(index), with_kwargs=True).remove)
            undo.callback(layer.register_forward_hook(after(index)).remove)
        if attending is not None:
            name, config = routed or (implementation(model), model.config.get_text_config(decoder=True))
            handler = handler_of(name, running, attending)
            undo.enter_context(exchanged_attention(handler, layers, name, config))
        yield


def handler_of(name: str, running: Sequence[int], attending: Attending) -> Callable[..., AttentionResult]:
    """What transformers calls in place of its attention function; `running`: the running layer's index, or nothing,
    as where a vision tower calls the same function."""

    def handler(
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *positional: Any,
        **named: Any,
    ) -> AttentionResult:
        call = AttentionCall(module, query, key, value, attention_mask, positional, named, name)
        found = attending(running[0], call) if running else None
        return call.compute() if found is None else found

    return handler
