"""Watched forwards of a whole model: its logits at the positions that predict, from the model's own generation.

In: a model, its inputs, and functions that are called as its layers run. Out: the logits at the last S positions.
"""

import inspect
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig, PreTrainedModel

from mask_impact.model.generation import all_rows, greedy
from mask_impact.model.masks import seeing_each_other
from mask_impact.model.towers import decoder_layers, refusing
from mask_impact.model.watching import Attending, AttentionCall, AttentionResult, Entering, Leaving, inside


def takes_logits_to_keep(model: PreTrainedModel) -> bool:
    """Whether the model can be told at how many positions its logits are wanted."""
    return "logits_to_keep" in inspect.signature(model.forward).parameters


def last_logits(
    model: PreTrainedModel,
    inputs: Mapping[str, torch.Tensor],
    together: Sequence[tuple[int, int]] = (),
    attending: Attending | None = None,
    leaving: Leaving | None = None,
    entering: Entering | None = None,
    steps: int = 1,
) -> torch.Tensor:
    """[S, V] the model's own logits at the last S = `steps` positions, from a forward that is watched in every layer of
    its decoder.

    Args:
        together: as in `record_passage`; `attending` is given the calls with such a mask.
        attending, leaving, entering: as in `watching.inside`; without the first, the forward has no cache.
    """
    logits: list[torch.Tensor] = []
    settings = GenerationConfig(
        max_new_tokens=1, do_sample=False, use_cache=attending is not None, pad_token_id=0, **all_rows(model)
    )

    def attend(index: int, call: AttentionCall) -> AttentionResult | None:
        if together:
            call.mask = seeing_each_other(call.mask, call.query, together)
        return attending(index, call) if attending is not None else None

    def keeping(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, kwargs | {"logits_to_keep": steps}  # some families write a number of their own into it

    routed = None if attending is None else attend
    with torch.no_grad(), ExitStack() as undo:
        if takes_logits_to_keep(model):
            undo.callback(model.register_forward_pre_hook(keeping, with_kwargs=True).remove)
        undo.enter_context(inside(model, decoder_layers(model), entering=entering, attending=routed, leaving=leaving))
        undo.callback(
            model.register_forward_hook(lambda _, __, out: logits.append(out.logits[0, -steps:].clone())).remove
        )
        undo.enter_context(greedy(model))
        undo.enter_context(refusing(model, "its own code fails when it generates"))
        model.generate(**inputs, generation_config=settings)
    return logits[0]
