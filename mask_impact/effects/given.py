"""What the layers of a decoder are given: the first one's input, and what the model adds between two layers, such as
DeepStack's image features.

In:  a model with its inputs, pixels among them, and a recorded forward. Out: for each decoder layer [1, T, C], or None
     where the model adds nothing before it.

The model's own forward runs with layers that return zeros: what then reaches a layer is what was added before it, free
of rounding. No decoder layer is computed.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any

import torch
from transformers import PreTrainedModel

from mask_impact.effects.recorded_forward import Call
from mask_impact.model.layers import replaced_forward

Given = list[torch.Tensor | None]  # by decoder layer: [B or 1, T, C]


class _Reached(Exception):
    """The forward has come to the last layer; the rest of it is not needed."""


def given_to_layers(model: PreTrainedModel, inputs: Mapping[str, Any], calls: Sequence[Call]) -> Given:
    """
    Args:
        calls: of the decoder's layers in a recorded forward; layers return zeros in the form of theirs.
    """
    given: list[torch.Tensor] = []

    def returning_zeros(call: Call) -> Callable[..., Any]:
        def stand_in(hidden: torch.Tensor | None = None, *_: Any, **named: Any) -> Any:
            states = named["hidden_states"] if hidden is None else hidden
            given.append(states.clone())
            if len(given) == len(calls):
                raise _Reached
            return call.returned(torch.zeros_like(states))

        return stand_in

    with torch.no_grad(), ExitStack() as undo:
        for call in calls:
            undo.enter_context(replaced_forward(call.layer, returning_zeros(call)))
        undo.enter_context(suppress(_Reached))
        model(**inputs, use_cache=False)
    return [given[0], *(each if each.any() else None for each in given[1:])]


def stacked(given: Sequence[Given]) -> Given:
    """Of B masks [1, T, C] each, as [B, T, C]."""
    together: Given = []
    for parts in zip(*given, strict=True):
        like = next((each for each in parts if each is not None), None)
        some = [torch.zeros_like(like) if each is None else each for each in parts] if like is not None else []
        together.append(torch.cat(some) if some else None)
    return together
