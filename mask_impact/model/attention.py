"""Route a model's attention through a handler of ours, and put everything back.

In: a handler, and the modules or configs whose attention it is to compute. Out: while `routed_attention` is open, their
calls of attention go to `handler(module, query, key, value, mask, **kwargs)`.

transformers models call their attention through `AttentionInterface`, a table from name to function
(https://huggingface.co/docs/transformers/attention_interface). `watching.py` routes a whole forward, `impact/replay.py`
one layer, whose attention it answers with what was recorded. The vision tower of a vision-language model has its own
config and is left alone.

Shapes, here and in all modules of the engine:
R rows (one per set of masked positions), N tokens of one forward, T keys, H query heads, G key/value heads,
D head width, C hidden size. The batch is always one prompt.
"""

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import EncoderDecoderCache, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

from mask_impact.errors import UnsupportedModel
from mask_impact.model import t5
from mask_impact.model.layers import replaced_forward

AttentionFunction = Callable[..., tuple[torch.Tensor, torch.Tensor | None]]

ROUTE = "mask_impact"  # the name under which the handler is registered


@dataclass
class Attention:
    """A layer's attention module with the keys and values of all positions (of the encoder's, in cross-attention)."""

    module: nn.Module
    keys: torch.Tensor  # [1, G, T, D]
    values: torch.Tensor  # [1, G, T, D]


def implementation(model: PreTrainedModel) -> str:
    """The attention implementation that is measured: the model's own when it is "sdpa" or "eager".

    Other kernels (flash, flex) describe windows and padding in other ways than a mask, so a model loaded with
    one of them is measured with sdpa, or eager where the family has no sdpa. Soft-capped models are measured with
    eager: torch's sdpa has no soft cap, and older transformers leave it out silently (Gemma 2 in 4.57).
    """
    config = model.config.get_text_config(decoder=True)
    current = config._attn_implementation
    if getattr(config, "attn_logit_softcapping", None) is not None:
        return "eager"
    if current in ("sdpa", "eager"):
        return str(current)
    return "sdpa" if getattr(model, "_supports_sdpa", False) else "eager"


def eager_attention(module: nn.Module) -> AttentionFunction:
    """The family's own eager attention: the function its modeling file falls back to for `module`.

    It carries what is particular to the family (soft-capping, sinks, position bias). Raises UnsupportedModel.
    """
    for scope in (
        inspect.unwrap(type(module).forward).__globals__,
        vars(sys.modules[type(module).__module__]),
    ):
        if "eager_attention_forward" in scope:
            return scope["eager_attention_forward"]
    if t5.computes_itself(module):
        return t5.eager_attention
    raise UnsupportedModel(f"{type(module).__name__} is not supported: its modeling file has no eager attention")


def attention_function(name: str, module: nn.Module) -> AttentionFunction:
    """The function transformers would call for `module` with implementation `name`."""
    return eager_attention(module) if name == "eager" else ALL_ATTENTION_FUNCTIONS[name]


def configs_of(modules: Iterable[nn.Module], *configs: Any) -> list[Any]:
    """The distinct config objects that these modules, and all in them, read their attention implementation from;
    `configs` are among them in any case.
    """
    found = {id(config): config for config in configs}
    for module in (inner for outer in modules for inner in outer.modules()):
        config = getattr(module, "config", None)
        if hasattr(config, "_attn_implementation_internal"):
            found[id(config)] = config
    return list(found.values())


@contextmanager
def routed_attention(
    handler: AttentionFunction, configs: list[Any], masks_of: str, modules: Iterable[nn.Module] = ()
) -> Iterator[None]:
    """Send the attention calls of all modules with one of `configs` to `handler`, until the block ends.

    Args:
        masks_of: the implementation whose masks the model then makes.
        modules: those among them, and in them, that compute attention without the interface (`t5`) are routed as well.

    Everything is put back at the end, also after an exception.
    """
    before = [config._attn_implementation_internal for config in configs]
    AttentionMaskInterface.register(ROUTE, ALL_MASK_ATTENTION_FUNCTIONS[masks_of])
    AttentionInterface.register(ROUTE, handler)
    with ExitStack() as undo:
        undo.callback(AttentionInterface._global_mapping.pop, ROUTE, None)
        undo.callback(AttentionMaskInterface._global_mapping.pop, ROUTE, None)
        for config, name in zip(configs, before, strict=True):
            undo.callback(setattr, config, "_attn_implementation_internal", name)
            config._attn_implementation_internal = ROUTE
        for module in (inner for outer in modules for inner in outer.modules()):
            if t5.computes_itself(module):
                undo.enter_context(replaced_forward(module, t5.through(handler, module)))
        yield


def add_encoded(cache: EncoderDecoderCache, cross: Attention) -> None:
    """Put the encoder's keys and values for one cross-attention into `cache`, so that they are not projected again."""
    index = cross.module.layer_idx
    cache.cross_attention_cache.update(cross.keys, cross.values, index)
    cache.is_updated[index] = True
