"""Hidden states of one forward of the model itself, at chosen layers and positions.

In: a model, the tensors it is called with, layers, and which tokens. Out: one tensor per layer.

    layers = chosen(((0, 0), (4, 4)), blocks=4)  # (0, 4)
    states = hidden_states(model, {"input_ids": ids, "attention_mask": mask}, layers, mask.bool())
    states[4]  # [P, C]

Layer 0 is the decoder's input, image features merged in. Layer k is the residual stream after k blocks as the next
block receives it, including what a family adds between its blocks (Qwen3-VL's DeepStack). The last layer has the number
of blocks as its number: it is the output of the last block, before the final norm. The layers of a vision encoder are
counted in the same way (`stacks.py`). Hooks read the states inside the model's own forward, which ends at the last
requested layer: blocks above it, the final norm and the head are not run.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from mask_impact.errors import UnsupportedModel
from mask_impact.model.layers import layer_input, layer_output
from mask_impact.model.towers import decoder_layers, family
from mask_impact.model.watching import inside
from mask_impact.options import chosen_layers


def chosen(ranges: Sequence[tuple[int, int]], blocks: int) -> tuple[int, ...]:
    """((0, 0), (20, 27)), as `parsers.layer_list` gives them -> (0, 20, ..., 27), rising; none are all, 0 to `blocks`.

    Raises UserError for a layer the model does not have.
    """
    return chosen_layers(ranges, blocks + 1) or tuple(range(blocks + 1))


def text_decoder(model: PreTrainedModel) -> nn.Module:
    """The language model in a vision-language model, to be called on texts without a picture, as `hidden_states` does.

    Called alone, it numbers positions from 0. The whole model of Qwen-VL or GLM-4V would keep an offset from an earlier
    picture. Pass an "attention_mask" even without padding: GLM-4V in transformers 4.57 fails without one.
    """
    kind = type(model.config.get_text_config(decoder=True))
    return next((part for part in model.modules() if isinstance(getattr(part, "config", None), kind)), model)


def sees_ahead(model: PreTrainedModel) -> bool:
    """Whether text tokens also read later ones, so that equal prefixes have different states (PaliGemma)."""
    config = model.config.get_text_config(decoder=True)
    return getattr(config, "use_bidirectional_attention", None) in (True, "all")


class _Enough(Exception):
    """The last layer that was asked for has been read."""


def hidden_states(
    model: nn.Module,
    tensors: Mapping[str, torch.Tensor],
    layers: Sequence[int],
    tokens: torch.Tensor | None = None,
    added: dict[int, torch.Tensor] | None = None,
) -> dict[int, torch.Tensor]:
    """The hidden states of one forward without a cache, {layer: [P, C]}, on the layer's device and in its dtype.

    Args:
        model: the model, or for texts its `text_decoder`.
        tensors: the model's inputs, "input_ids" [B, N] and what goes with them (`generation.model_tensors`); texts of
            different lengths are padded on the right, with an "attention_mask" [B, N].
        layers: which, as `chosen` gives them.
        tokens: [B, N] bool, the P tokens whose states are kept, row by row; None: all, as [B, N, C].
        added: is filled with what the model adds between two blocks (DeepStack), up to the last of `layers`: by the
            first layer that contains it [P, C].

    The model must be in eval mode. Raises UnsupportedModel for a model whose forward passes by its decoder's blocks.
    Where memory runs out, what torch raises comes through, for `memory.Portion` and `memory.explained`.
    """
    places = None if tokens is None else tokens.nonzero(as_tuple=True)  # once, since it waits for the device

    def kept(hidden: torch.Tensor) -> torch.Tensor:
        if places is None:
            return hidden.clone()  # a block may write into its input
        return hidden[tuple(place.to(hidden.device) for place in places)]  # a copy

    return states_between(model, decoder_layers(model), tensors, layers, kept, added)


def states_between(
    model: nn.Module,
    blocks: Sequence[nn.Module],
    tensors: Mapping[str, torch.Tensor],
    layers: Sequence[int],
    kept: Callable[[torch.Tensor], torch.Tensor],
    added: dict[int, torch.Tensor] | None = None,
) -> dict[int, torch.Tensor]:
    """What `kept` copies of the states between `blocks` of a stack, by layer; the forward ends at the last of them.
    `added` is filled as in `hidden_states`."""
    last = max(layers)
    found: dict[int, torch.Tensor] = {}
    below: dict[int, torch.Tensor] = {}  # by layer, what the block before it gave; of one layer at a time

    def keep(layer: int, hidden: torch.Tensor) -> None:
        found[layer] = kept(hidden)
        if layer == last:
            raise _Enough

    def entering(index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = layer_input(blocks[index], args, kwargs)
        if added is not None and index in below:
            between = kept(hidden) - below.pop(index)
            if between.any():
                added[index] = between
        if index in layers:
            keep(index, hidden)

    def leaving(index: int, output: Any) -> None:
        if added is not None:
            below[index + 1] = kept(layer_output(output))
        if index + 1 == len(blocks):  # before that, the next block's input
            keep(len(blocks), layer_output(output))

    with torch.no_grad(), inside(model, blocks, entering=entering, leaving=leaving):
        try:
            model(**tensors, use_cache=False)
        except _Enough:
            return found
    raise UnsupportedModel(f"model family '{family(model)}' is not supported: its forward does not reach layer {last}")
