"""A model's layers: which they are, what a call of one takes and gives, and being there when one runs."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from mask_impact.errors import UnsupportedModel


def family(model: PreTrainedModel) -> str:
    """The model type transformers knows the model by, for messages: "qwen3"."""
    return str(getattr(getattr(model, "config", None), "model_type", type(model).__name__))


def unsupported(model: PreTrainedModel, layer: int, what: str) -> UnsupportedModel:
    """The refusal of a model whose replay is not truthful."""
    return UnsupportedModel(f"model family '{family(model)}' cannot be measured truthfully: layer {layer}: {what}")


def decoder_layers(model: PreTrainedModel) -> list[nn.Module]:
    """The decoder layers in order: the first ModuleList of the decoder that has `num_hidden_layers` entries.

    In a vision-language model the decoder is the part with a config of the text config's class, so that a vision tower
    of as many blocks is not taken for it. Raises UnsupportedModel when there is none; no family's names are guessed.
    """
    if model.config.is_encoder_decoder:
        return tower_layers(model, "decoder")
    config = model.config.get_text_config(decoder=True)
    count = config.num_hidden_layers
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    textual = [m for m in decoder.modules() if isinstance(getattr(m, "config", None), type(config))]
    for root in (*textual[:1], decoder, model):
        for module in root.modules():
            if isinstance(module, nn.ModuleList) and len(module) == count:
                return list(module)
    raise UnsupportedModel(
        f"model family '{family(model)}' is not supported: no list of {count} decoder layers was found in it"
    )


def tower_layers(model: PreTrainedModel, tower: str) -> list[nn.Module]:
    """The layers of one half of an encoder-decoder, "encoder" or "decoder": the first ModuleList in it."""
    half = model.get_encoder() if tower == "encoder" else model.get_decoder()
    return list(next(module for module in half.modules() if isinstance(module, nn.ModuleList)))


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
