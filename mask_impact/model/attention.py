"""Route a model's attention through a handler of ours, and put everything back.

In: a handler, and the modules whose attention it is to compute. Out: until a block ends, their calls of attention go to
`handler(module, query, key, value, mask, **kwargs)`.

transformers models call their attention through `AttentionInterface`, a table from name to function
(https://huggingface.co/docs/transformers/attention_interface); with "eager", they call the `eager_attention_forward` of
their modeling file. `watching.py` routes a whole forward, and `impact/replay.py` one layer, whose attention it answers
with what was recorded. In a forward the entry is exchanged and not the name: some families compute something else where
they do not know the name (DeepSeek V3.2 leaves out its sparse mask). Other modules may call the same entry, a vision
tower for example; a handler passes on what it does not answer to `attention_function`.

Shapes, here and in all modules of the engine:
R rows (one per set of masked positions), N tokens of one forward, T keys, H query heads, G key/value heads,
D head width, C hidden size. The batch is always one prompt.
"""

import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import EncoderDecoderCache, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

from mask_impact.errors import UnsupportedModel
from mask_impact.model import t5
from mask_impact.model.layers import replaced_forward

AttentionFunction = Callable[..., tuple[torch.Tensor, torch.Tensor | None]]

ROUTE = "mask_impact"  # the name of a handler in the table
EAGER = "eager_attention_forward"  # what modeling files call their own attention


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


def _kind(module: nn.Module) -> Any:
    return type(module)


@functools.cache
def _scopes(kind: Any) -> tuple[dict[str, Any], ...]:
    """The global names of the files that define a class of modules and its forward."""
    return inspect.unwrap(kind.forward).__globals__, vars(sys.modules[kind.__module__])


def _own(function: AttentionFunction) -> AttentionFunction:
    """The model's function, also where a handler stands in its place."""
    return getattr(function, "in_place_of", function)


def eager_attention(module: nn.Module) -> AttentionFunction:
    """The family's own eager attention: the function its modeling file falls back to for `module`.

    It carries what is particular to the family (soft-capping, sinks, position bias). Raises UnsupportedModel.
    """
    for scope in _scopes(_kind(module)):
        if EAGER in scope:
            return _own(scope[EAGER])
    if t5.computes_itself(module):
        return t5.eager_attention
    raise UnsupportedModel(f"{type(module).__name__} is not supported: its modeling file has no eager attention")


def attention_function(name: str, module: nn.Module) -> AttentionFunction:
    """The function transformers would call for `module` with implementation `name`."""
    if name == "eager":
        return eager_attention(module)
    interfaces = [table for table in _interfaces(_kind(module)) if name in table]
    return _own((interfaces or [ALL_ATTENTION_FUNCTIONS])[0][name])


@functools.cache
def _interfaces(kind: Any) -> list[AttentionInterface]:
    """The tables that modules of a class may look their attention up in: a modeling file can have one of its own."""
    return [table for scope in _scopes(kind) for table in scope.values() if isinstance(table, AttentionInterface)]


def configs_of(modules: Iterable[nn.Module], *configs: Any) -> list[Any]:
    """The distinct config objects that these modules read their attention implementation from; `configs` are among
    them in any case.
    """
    found = {id(config): config for config in configs}
    for module in modules:
        config = getattr(module, "config", None)
        if hasattr(config, "_attn_implementation_internal"):
            found[id(config)] = config
    return list(found.values())


@contextmanager
def exchanged_attention(
    handler: AttentionFunction, modules: Sequence[nn.Module], name: str, *configs: Any
) -> Iterator[None]:
    """Send the attention calls of a forward to `handler`, until the block ends.

    Args:
        modules: those whose attention is wanted, and all in them; others that call the same function reach it too.
        name: the attention implementation that is measured; the modules' configs have it meanwhile, and `configs`.

    Everything is put back at the end, also after an exception.
    """
    inner = [module for outer in modules for module in outer.modules()]
    with ExitStack() as undo:
        for config in configs_of(inner, *configs):
            if config._attn_implementation_internal != name:
                undo.callback(setattr, config, "_attn_implementation_internal", config._attn_implementation_internal)
                config._attn_implementation_internal = name
        for table, key in _entries(inner, name):
            undo.callback(table.__setitem__, key, table[key])
            table[key] = _in_place_of(_own(table[key]), handler)
        _exchange_uncalled(undo, handler, inner)
        yield


@contextmanager
def renamed_attention(handler: AttentionFunction, modules: Sequence[nn.Module], configs: list[Any]) -> Iterator[None]:
    """The same for one layer whose attention `handler` answers with what is known, whatever the layer passes to it.

    Here the name is exchanged: with a name that they do not know, layers leave out what they do to the mask, which the
    single rows of a replay would not fit. What they compute is compared with the record.
    """
    with ExitStack() as undo:
        undo.callback(AttentionInterface._global_mapping.pop, ROUTE, None)
        AttentionInterface.register(ROUTE, handler)
        for config in configs:
            undo.callback(setattr, config, "_attn_implementation_internal", config._attn_implementation_internal)
            config._attn_implementation_internal = ROUTE
        _exchange_uncalled(undo, handler, modules)
        yield


def _entries(modules: Iterable[nn.Module], name: str) -> list[tuple[dict[str, Any], str]]:
    """The tables in which these modules find implementation `name`, and its key there."""
    kinds = dict.fromkeys(_kind(module) for module in modules)
    if name == "eager":
        scopes = {id(scope): scope for kind in kinds for scope in _scopes(kind) if EAGER in scope}
        return [(scope, EAGER) for scope in scopes.values()]
    own = {id(table): table._local_mapping for kind in kinds for table in _interfaces(kind)}
    return [(table, name) for table in (AttentionInterface._global_mapping, *own.values()) if name in table]


def _exchange_uncalled(undo: ExitStack, handler: AttentionFunction, modules: Iterable[nn.Module]) -> None:
    """Route those among `modules` that compute attention without the interface."""
    for module in modules:
        if t5.computes_itself(module):
            undo.enter_context(replaced_forward(module, t5.through(handler, module)))


def _in_place_of(function: AttentionFunction, handler: AttentionFunction) -> AttentionFunction:
    """`handler`, with the function that it replaces."""

    def routed(*args: Any, **kwargs: Any) -> Any:
        return handler(*args, **kwargs)

    routed.in_place_of = function  # type: ignore[attr-defined]
    return routed


def add_encoded(cache: EncoderDecoderCache, cross: Attention) -> None:
    """Put the encoder's keys and values for one cross-attention into `cache`, so that they are not projected again."""
    index = cross.module.layer_idx
    cache.cross_attention_cache.update(cross.keys, cross.values, index)
    cache.is_updated[index] = True
