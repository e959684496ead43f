"""A tiny random model of any type that transformers can build from its config, and what masks do to it by brute force.

In: a model type. Out: a seeded model with about three layers, in eval mode, and the update of one of its layers at the
last position, without and with tokens taken from the last position's attention there. The tokens are taken out where
the softmax is computed, in a forward of the whole model, so that no family's modules are named. No mask_impact import
here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from families import COMMON, TABLES, redraw
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel

LAYERS = 3
MOST_WEIGHTS = 60_000_000
INVISIBLE = -5e3  # a logit below this is that of a key that the model hides: -inf, the dtype's minimum, or -1e4
OLDER_NAMES: dict[str, Any] = {  # what older families call the sizes in COMMON
    **dict.fromkeys(("d_model", "n_embd", "embedding_size", "emb_dim", "cross_attention_hidden_size"), 48),
    **dict.fromkeys(("d_ff", "dff", "ffn_dim", "d_inner", "encoder_ffn_dim", "decoder_ffn_dim", "dim_ff"), 64),
    **dict.fromkeys(("n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers"), LAYERS),
    **dict.fromkeys(("n_head", "n_heads", "num_heads", "encoder_attention_heads", "decoder_attention_heads"), 4),
    "attention_heads": 4, "dim_head": 12, "moe_intermediate_size": 32, "num_experts_per_tok": 2,
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts"), 4),
    "is_decoder": True, "is_encoder_decoder": False,
}  # fmt: skip
NESTED = {"text_config": COMMON | {"head_dim": 12}}
SETTINGS: dict[str, dict[str, Any]] = {}  # of types that need more than sizes, beside the rows of families.py


def settings_of(model_type: str) -> Iterator[dict[str, Any]]:
    """Settings to try, the most particular first."""
    rows = [row.config for table in TABLES for row in table.values() if row.model_type == model_type]
    if model_type in SETTINGS:
        yield SETTINGS[model_type]
    if rows:
        yield COMMON | rows[0]
    yield COMMON | OLDER_NAMES
    yield COMMON | {"is_decoder": True, "is_encoder_decoder": False}
    yield NESTED


def build(model_type: str, vocabulary: int, dtype: torch.dtype = torch.float64) -> PreTrainedModel:
    """The tiny model. Raises ValueError, which says why, where none can be built."""
    reasons = []
    for settings in settings_of(model_type):
        try:
            config = AutoConfig.for_model(model_type, **settings)
            for part in {id(each): each for each in (config, config.get_text_config(decoder=True))}.values():
                part.vocab_size = vocabulary
                part._experts_implementation = "eager"  # the grouped matrix product has no float64
            with torch.device("meta"):
                weights = AutoModelForCausalLM.from_config(config, attn_implementation="eager").num_parameters()
            if weights > MOST_WEIGHTS:
                raise ValueError(f"{weights:,} weights with these settings")
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
        except Exception as error:  # of many classes, from every family's own checks
            reasons.append(" ".join(str(error).split())[:160])
            continue
        redraw(model, gain=1.5, seed=0)
        return model.to(dtype).eval()
    raise ValueError(min(reasons, key=len))


class WithoutKeys(TorchFunctionMode):
    """Every softmax over all T tokens, at the last of its rows, without some keys; with `zero_values`, the keys keep
    their weight and give nothing."""

    def __init__(self, length: int, keys: Collection[int], zero_values: bool = False) -> None:
        super().__init__()
        self.length, self.keys, self.zero_values = length, sorted(keys), zero_values

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        if name == "scaled_dot_product_attention":
            raise AssertionError("the reference is for eager attention")
        if name != "softmax" or args[0].ndim < 3 or not self._over_tokens(args[0].shape):
            return func(*args, **kwargs)
        if self.zero_values:
            weights = func(*args, **kwargs).clone()
            weights[..., -1, self.keys] = 0
            return weights
        logits = args[0].clone()
        logits[..., -1, :] = logits[..., -1, :].masked_fill(logits[..., -1, :] < INVISIBLE, float("-inf"))
        logits[..., -1, self.keys] = float("-inf")
        blind = logits.isneginf().all(-1, keepdim=True)
        return func(logits, *args[1:], **kwargs).masked_fill(blind, 0.0)

    def _over_tokens(self, shape: Sequence[int]) -> bool:
        return shape[-1] == self.length and shape[-2] in (1, self.length)


@contextmanager
def without(layer: nn.Module, length: int, keys: Collection[int], zero_values: bool) -> Iterator[None]:
    """`layer` runs without the keys until the block ends."""
    modes: list[ExitStack] = []

    def enter(*_: Any) -> None:
        modes.append(ExitStack())
        modes[-1].enter_context(WithoutKeys(length, keys, zero_values))

    with ExitStack() as undo:
        undo.callback(layer.register_forward_pre_hook(enter).remove)
        undo.callback(layer.register_forward_hook(lambda *_: modes.pop().close()).remove)
        yield


@torch.no_grad()
def update(
    model: PreTrainedModel, layer: nn.Module, ids: Tensor, keys: Collection[int] = (), zero_values: bool = False
) -> Tensor:
    """[C] what `layer` adds at the last position of `ids` [1, T]; of several streams, all of them."""
    length, seen = ids.shape[1], {}

    def last(states: Tensor) -> Tensor:  # the axis of tokens is the one after the batch's
        batch = states.shape.index(1)
        tokens = batch + 1 if states.shape[batch + 1] in (1, length) else states.shape.index(length)
        return states.select(tokens, -1).flatten()

    def before(_: nn.Module, args: tuple, kwargs: dict) -> None:
        seen["input"] = last(args[0] if args else kwargs["hidden_states"]).clone()

    def after(_: nn.Module, __: tuple, output: Any) -> None:
        seen["output"] = last(output[0] if isinstance(output, tuple) else output).clone()

    settings = GenerationConfig(max_new_tokens=1, do_sample=False, use_cache=False, pad_token_id=0)
    with ExitStack() as undo:
        undo.callback(layer.register_forward_pre_hook(before, with_kwargs=True).remove)
        undo.callback(layer.register_forward_hook(after).remove)
        if keys:
            undo.enter_context(without(layer, length, keys, zero_values))
        model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=settings)
    return seen["output"] - seen["input"]
