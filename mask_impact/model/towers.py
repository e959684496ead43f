"""A model's towers: which layers it has, and how many layers and heads, for the decoder and either half of an
encoder-decoder; refusals that name the family.
"""

from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from mask_impact.errors import UnsupportedModel, UserError
from mask_impact.options import ATTENTIONS, TOWERS


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


def tower_of(config: Any, tower: str, attention: Sequence[str], num_tokens: int = 1) -> str | None:
    """Which half of the model with `config` is measured, None for a decoder-only one. Raises UserError."""
    if tower not in TOWERS:
        raise UserError(f"unknown tower {tower!r}; choose from {', '.join(TOWERS)}")
    if not attention or not set(attention) <= set(ATTENTIONS):
        raise UserError(f"unknown attention {', '.join(attention)!r}; choose from {', '.join(ATTENTIONS)}")
    if not getattr(config, "is_encoder_decoder", False):
        if tower == "encoder":
            raise UserError("--tower encoder was given, but this model has no encoder; leave it away")
        if "self" not in attention:
            raise UserError("--attention cross was given, but this model has no cross-attention; leave it away")
        return None
    if tower == "encoder" and "self" not in attention:
        raise UserError("--attention cross was given, but an encoder has none; leave it or --tower encoder away")
    if tower == "encoder" and num_tokens > 1:
        raise UserError(
            f"--num-tokens {num_tokens} was given, but the encoder only reads the prompt; leave it or --tower encoder "
            "away"
        )
    return tower


def tower_size(config: Any, tower: str | None) -> tuple[int, int]:
    """Layers and query heads of the decoder, or of one half of an encoder-decoder, as the config has them."""
    if tower is None:
        text = config.get_text_config(decoder=True)
        return text.num_hidden_layers, text.num_attention_heads
    half: Any = getattr(config, tower, None)  # some nest a config for each half
    if hasattr(half, "num_hidden_layers"):
        return half.num_hidden_layers, half.num_attention_heads
    if hasattr(config, f"{tower}_layers"):  # BART and its kind
        return getattr(config, f"{tower}_layers"), getattr(config, f"{tower}_attention_heads")
    layers = config.num_layers if tower == "encoder" else config.num_decoder_layers  # T5 and its kind
    return layers, config.num_heads
