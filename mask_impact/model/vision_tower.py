"""The vision encoder of a vision-language model: its layers, what each is called with, and its attention calls.

In:  a model with a `vision_config`. Out: its layers in order, their `LayerCall`s in one forward, and the attention
     calls of a layer.

Layers are found as a decoder's are: by the class of the config and the number of layers in it. Nothing of a family is
named here. States are [rows, C] (Qwen-VL, GLM-4V) or [B, L, C] (CLIP, SigLIP, Pixtral); a row is a patch, or what a
family adds to them, such as CLIP's first. Rows count through the whole of it, B * L.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from mask_impact.errors import UnsupportedModel
from mask_impact.model.attention import exchanged_attention
from mask_impact.model.layers import layer_input, layer_output
from mask_impact.model.watching import AttentionCall, handler_of, inside

COUNTS = ("num_hidden_layers", "depth")  # what vision configs call the number of layers, and of heads
HEADS = ("num_attention_heads", "num_heads")
WIDTHS = ("embed_dim", "hidden_size")  # and a state's numbers; Qwen2-VL's hidden_size is what its merger gives


def vision_size(config: Any) -> tuple[int, int]:
    """Layers and heads, as the model's config has them. Raises UnsupportedModel where it does not tell."""
    found = [
        next((n for name in names if isinstance(n := getattr(config.vision_config, name, None), int)), None)
        for names in (COUNTS, HEADS)
    ]
    if found[0] is None or found[1] is None:
        raise unsupported_tower(config, "its vision config tells no number of layers and heads")
    return found[0], found[1]


def vision_width(config: Any) -> int:
    """C, the numbers of a patch's state between two layers. Raises UnsupportedModel where the config does not tell."""
    width = next((n for name in WIDTHS if isinstance(n := getattr(config.vision_config, name, None), int)), None)
    if width is None:
        raise unsupported_tower(config, "its vision config tells no width of its states")
    return width


def unsupported_tower(config: Any, why: str) -> UnsupportedModel:
    """The refusal of a family whose vision tower cannot be measured."""
    kind = getattr(config, "model_type", "?")
    return UnsupportedModel(f"the vision tower of model family '{kind}' cannot be measured truthfully: {why}")


def vision_layers(model: PreTrainedModel) -> list[nn.Module]:
    """The layers of the tower in order: the first list of as many modules as its config has layers."""
    config = model.config.vision_config
    count, _ = vision_size(model.config)
    for tower in model.modules():
        if isinstance(getattr(tower, "config", None), type(config)):
            for module in tower.modules():
                if isinstance(module, nn.ModuleList) and len(module) == count:
                    return list(module)
    raise unsupported_tower(model.config, f"no list of {count} layers was found in it")


def vision_implementation(model: PreTrainedModel) -> str:
    """The attention with which its layers are called again: the tower's own when that is "sdpa" or "eager"."""
    current = model.config.vision_config._attn_implementation
    return current if current in ("sdpa", "eager") else "sdpa"


@dataclass
class LayerCall:
    """One layer, and what it was called with in a forward."""

    index: int
    layer: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any = None

    @property
    def hidden(self) -> torch.Tensor:
        """[rows, C] or [B, L, C] its input."""
        return layer_input(self.layer, self.args, self.kwargs)

    def returned(self, states: torch.Tensor) -> Any:
        """Other states in the form of the layer's output: older transformers return tuples."""
        return (states, *self.output[1:]) if isinstance(self.output, tuple) else states

    def again(self, *_: Any, **__: Any) -> Any:
        """What the layer gave, in place of its forward."""
        return self.returned(layer_output(self.output).clone())

    @property
    def rows(self) -> int:
        return math.prod(self.hidden.shape[:-1])

    def by_row(self, states: torch.Tensor) -> torch.Tensor:
        """[rows, C] of states laid out as the input."""
        return states.reshape(self.rows, -1)


class TowerCalls:
    """Keeps what every layer of the tower is called with, while `recording` is open."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, self.layers = model, vision_layers(model)
        self.calls: list[LayerCall] = []

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Raises UnsupportedModel at its end, unless every layer was called once."""

        def entering(index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.calls.append(LayerCall(index, self.layers[index], args, dict(kwargs)))

        def leaving(index: int, output: Any) -> None:
            self.calls[-1].output = output

        self.calls.clear()
        with inside(self.model, self.layers, entering=entering, leaving=leaving):
            yield
        self._check()

    def _check(self) -> None:
        indices = [call.index for call in self.calls]
        if indices != list(range(len(self.layers))):
            what = f"its {len(self.layers)} layers were called {len(indices)} times, not one after the other"
            raise unsupported_tower(self.model.config, what)
        shapes = {tuple(layer_output(call.output).shape) for call in self.calls}
        if shapes != {tuple(self.calls[0].hidden.shape)}:
            what = "its layers do not all have the same patches (some are merged or taken out on the way)"
            raise unsupported_tower(self.model.config, what)


def attention_calls(model: PreTrainedModel, call: LayerCall) -> list[AttentionCall]:
    """The attention calls of a layer that is called again.

    Raises UnsupportedModel where they do not cover its rows, each once and in order.
    """
    found: list[AttentionCall] = []
    name = vision_implementation(model)
    handler = handler_of(name, [call.index], lambda index, attending: found.append(attending))
    with exchanged_attention(handler, [call.layer], name, model.config.vision_config):
        call.layer(*call.args, **call.kwargs)
    _check_covered(model, call, found)
    return found


def _check_covered(model: PreTrainedModel, call: LayerCall, found: Sequence[AttentionCall]) -> None:
    """One call with the batch of the states, or calls of parts of one sequence, one after the other."""
    if not found:
        what = "its layers do not call their attention through transformers' interface"
        raise unsupported_tower(model.config, f"layer {call.index}: {what}")
    batch = call.hidden.shape[0] if call.hidden.ndim == 3 else 1
    shapes = [each.query.shape for each in found]
    whole = len(found) == 1 or batch == 1
    covered = sum(shape[0] * shape[2] for shape in shapes) == call.rows
    within = all(each.key.shape[2] == each.query.shape[2] for each in found)
    if not (whole and covered and within and all(shape[0] == batch for shape in shapes)):
        what = f"its attention is not over its {call.rows} patches one by one: {[list(shape) for shape in shapes]}"
        raise unsupported_tower(model.config, f"layer {call.index}: {what}")
