"""A model's towers, the stacks of layers that can be measured: a decoder alone, either half of an encoder-decoder, or a
vision encoder.

In: a model, or only its config. Out: a `Tower`, which knows its layers in a model, its sizes in a config and where its
query positions are. What differs between towers is a row of this module. It also has the refusals that name the family.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from mask_impact.errors import OutOfMemory, UnsupportedModel, UserError, plain_words
from mask_impact.model.memory import is_out_of_memory
from mask_impact.model.vision_tower import vision_layers, vision_size
from mask_impact.options import ATTENTIONS, TOWERS
from mask_impact.prompt.positions import QueryRange, after_encoder, in_encoder, in_pictures, in_text


def family(model: PreTrainedModel) -> str:
    """The model type transformers knows the model by, for messages: "qwen3"."""
    return str(getattr(getattr(model, "config", None), "model_type", type(model).__name__))


def unsupported(model: PreTrainedModel, layer: int, what: str) -> UnsupportedModel:
    """The refusal of a model whose replay is not truthful."""
    return UnsupportedModel(f"model family '{family(model)}' cannot be measured truthfully: layer {layer}: {what}")


def reason(refusal: UnsupportedModel) -> str:
    """Why, without the family's name."""
    return re.sub(r"^model family '[^']*' (is not supported|cannot be measured truthfully): ", "", str(refusal))


@contextmanager
def refusing(model: PreTrainedModel, what: str, layer: int | None = None) -> Iterator[None]:
    """Raise UnsupportedModel with `what`, and why, where the model's own code fails in the block.

    What fails there is of any class: families check their input with assertions, or look up what they lack. Memory that
    runs out is not the family's fault, and passes.
    """
    try:
        yield
    except (UserError, OutOfMemory):
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        why = f"{what} ({plain_words(error)[:200]})"
        if layer is None:
            raise UnsupportedModel(f"model family '{family(model)}' is not supported: {why}") from error
        raise unsupported(model, layer, why) from error


def layer_count(config: Any) -> int:
    """The decoder layers of a text config. LongCat's `num_hidden_layers` counts the attentions, of which a layer has
    two, and HRM's the passes of two stacks. Raises UnsupportedModel."""
    if isinstance(stack := getattr(config, "num_layers_per_stack", None), int):
        return 2 * stack
    for name in ("num_layers", "num_hidden_layers"):
        count = getattr(config, name, None)
        if isinstance(count, int):
            return count
    raise UnsupportedModel(
        f"model family '{getattr(config, 'model_type', '?')}' is not supported: its config tells no number of layers"
    )


def _layers_of_decoder_alone(model: PreTrainedModel) -> list[nn.Module]:
    """The first ModuleList of the decoder that has as many entries as the config has layers; or, where they are in
    several lists, all layers of the class that transformers keeps together on a device.

    In a vision-language model the decoder is the part with a config of the text config's class, so that a vision tower
    with the same number of blocks is not mistaken for it. Raises UnsupportedModel when there is none; no family's names
    are guessed.
    """
    config = model.config.get_text_config(decoder=True)
    count = layer_count(config)
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    textual = [m for m in decoder.modules() if isinstance(getattr(m, "config", None), type(config))]
    for root in (*textual[:1], decoder, model):
        for module in root.modules():
            if isinstance(module, nn.ModuleList) and len(module) == count:
                return list(module)
    kinds = set(getattr(model, "_no_split_modules", None) or ())
    several = [module for module in decoder.modules() if type(module).__name__ in kinds]
    if len(several) == count and len({type(module) for module in several}) == 1:
        return several
    raise UnsupportedModel(
        f"model family '{family(model)}' is not supported: no list of {count} decoder layers was found in it"
    )


def _layers_of_half(half: nn.Module) -> list[nn.Module]:
    """The first ModuleList in one half of an encoder-decoder."""
    return list(next(module for module in half.modules() if isinstance(module, nn.ModuleList)))


@dataclass(frozen=True)
class Tower:
    """One stack of layers, and where its query positions are."""

    name: str  # one of options.TOWERS
    half: str | None  # the same, of an encoder-decoder; None: of another model
    reads_encoder: bool  # its layers have a cross-attention
    layers: Callable[[PreTrainedModel], list[nn.Module]]  # in order; raises UnsupportedModel
    positions: Callable[[int, int], QueryRange]  # of `prompt` tokens and `num_tokens` to be generated
    only_reads: bool = False  # it sees the prompt at once, and nothing is generated in it
    of_patches: bool = False  # its rows are patches of pictures, not tokens of the prompt
    carried: bool = True  # masks in it can be carried on to the answer
    ignored: tuple[str, ...] = ()  # options that may be given and say nothing of it
    layer_count: str = "num_hidden_layers"  # where a config that counts for both halves has it (T5's names)
    head_count: str = "num_attention_heads"
    sizes: Callable[[Any], tuple[int, int]] | None = None  # in place of those names

    def size(self, config: Any) -> tuple[int, int]:
        """Layers and query heads, as the model's config has them."""
        if self.sizes is not None:
            return self.sizes(config)
        half = self.half
        nested: Any = config.get_text_config(decoder=True) if half is None else getattr(config, half, None)
        if half is None or hasattr(nested, "num_hidden_layers"):  # some encoder-decoders nest a config for each half
            return layer_count(nested), nested.num_attention_heads
        if hasattr(config, f"{half}_layers"):  # BART and its kind
            return getattr(config, f"{half}_layers"), getattr(config, f"{half}_attention_heads")
        return getattr(config, self.layer_count), getattr(config, self.head_count)


DECODER_ALONE = Tower("decoder", None, False, _layers_of_decoder_alone, in_text)
ENCODER = Tower(
    "encoder",
    "encoder",
    False,
    lambda model: _layers_of_half(model.get_encoder()),
    in_encoder,
    only_reads=True,
    carried=False,
    layer_count="num_layers",
    head_count="num_heads",
)
DECODER = Tower(
    "decoder",
    "decoder",
    True,
    lambda model: _layers_of_half(model.get_decoder()),
    after_encoder,
    layer_count="num_decoder_layers",
    head_count="num_heads",
)


VISION = Tower(
    "vision",
    None,
    False,
    vision_layers,
    in_pictures,
    only_reads=True,
    of_patches=True,
    ignored=("mask_mode",),
    sizes=vision_size,
)


def ignored_options(tower: str) -> tuple[str, ...]:
    """Fields of a request that may be given and say nothing of this tower."""
    return VISION.ignored if tower == VISION.name else ()


def towers(config: Any) -> dict[str, Tower]:
    """The towers of the model with `config`, by name."""
    if getattr(config, "is_encoder_decoder", False):
        return {"decoder": DECODER, "encoder": ENCODER}
    seeing = {"vision": VISION} if getattr(config, "vision_config", None) is not None else {}
    return {"decoder": DECODER_ALONE, **seeing}


def named(config: Any, name: str) -> Tower:
    """The tower that is called so. Raises UserError."""
    if name not in TOWERS:
        raise UserError(f"unknown tower {name!r}; choose from {', '.join(TOWERS)}")
    if name not in towers(config):
        part = "vision tower" if name == "vision" else name
        raise UserError(f"`tower` {name} was given, but this model has no {part}; leave it out")
    return towers(config)[name]


def tower_of(config: Any, tower: str, attention: Sequence[str], num_tokens: int = 1, effects: bool = False) -> Tower:
    """The tower to measure, of the model with `config`.

    Args:
        effects: whether masks in it are to be carried on to the answer.

    Raises UserError for an unknown name, for an attention that the tower does not have, and where tokens are to be
    generated by an encoder, which only reads the prompt.
    """
    chosen = named(config, tower)
    if not attention or not set(attention) <= set(ATTENTIONS):
        raise UserError(f"unknown attention {', '.join(attention)!r}; choose from {', '.join(ATTENTIONS)}")
    if not chosen.reads_encoder and "self" not in attention:
        lacking = "this model has no cross-attention" if chosen.half is None else f"an {chosen.half} has none"
        raise UserError(f"`attention` cross was given, but {lacking}; choose self")
    if effects and not chosen.carried:
        raise UserError(f"`effects` are on the decoder's answer; leave out `tower` {tower} or `effects`")
    if chosen.only_reads and num_tokens > 1 and not effects:
        part = "vision tower" if chosen.of_patches else tower
        way = "; add `effects`, or leave" if chosen.carried else "; leave"
        raise UserError(
            f"`num_tokens` {num_tokens} was given, but the {part} only reads the prompt{way} out `num_tokens` or "
            f"`tower` {tower}"
        )
    return chosen


def decoder_layers(model: PreTrainedModel) -> list[nn.Module]:
    """The decoder layers in order. Raises UnsupportedModel when no list of them is found."""
    return named(model.config, "decoder").layers(model)
