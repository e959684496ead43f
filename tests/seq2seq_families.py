"""Tiny random encoder-decoders, one row per family, and what masks do to them by brute force.

In: a row's name. Out: a seeded model in eval mode, built from its config; the update of one of its layers without and
with key columns taken out of one attention. Paths are relative to a layer and were read in that family's modeling file.
The columns go where the softmax is computed, whatever the family makes of masks and position biases. No mask_impact
import here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from brute_force import first, using_attention
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import AutoConfig, AutoModelForSeq2SeqLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

VOCABULARY = 97
BART = {
    "d_model": 48, "encoder_layers": 3, "decoder_layers": 3, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 64,
}  # fmt: skip
T5 = {"d_model": 48, "d_kv": 10, "d_ff": 64, "num_layers": 3, "num_decoder_layers": 3, "num_heads": 4}
GEMMA = {
    "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "head_dim": 12,
    "num_key_value_heads": 2, "sliding_window": 4, "query_pre_attn_scalar": 12, "vocab_size": VOCABULARY,
}  # fmt: skip
GATED = {"feed_forward_proj": "gated-gelu"}
BART_PATHS = {"self": "self_attn", "cross": "encoder_attn", "encoder": "self_attn"}
T5_PATHS = {"self": "layer.0.SelfAttention", "cross": "layer.1.EncDecAttention", "encoder": "layer.0.SelfAttention"}


@dataclass(frozen=True)
class Seq2Seq:
    """One row: a config and where in a layer each kind of attention is."""

    model_type: str
    config: dict[str, Any]
    attention: dict[str, str]
    o_proj: str
    layers: str
    heads: int = 4
    decoder_heads: int = 4
    addend: dict[str, str] = field(default_factory=dict)  # what is added to the residual stream, if not the attention

    @property
    def available(self) -> bool:
        return self.model_type in CONFIG_MAPPING_NAMES


def bart(model_type: str, **config: Any) -> Seq2Seq:
    return Seq2Seq(model_type, BART | config, BART_PATHS, "out_proj", "layers")


def t5(model_type: str, **config: Any) -> Seq2Seq:
    return Seq2Seq(model_type, T5 | config, T5_PATHS, "o", "block")


FAMILIES = {
    "bart": Seq2Seq(
        "bart", BART | {"encoder_layers": 2, "encoder_attention_heads": 3}, BART_PATHS, "out_proj", "layers", heads=3
    ),
    "mbart": bart("mbart"),
    "marian": bart("marian", pad_token_id=96, decoder_start_token_id=96),
    "pegasus": bart("pegasus"),
    "m2m_100": bart("m2m_100", decoder_start_token_id=2),  # positions do not count padding, so it is not the start
    "blenderbot": bart("blenderbot"),
    "blenderbot_small": bart("blenderbot-small"),
    "plbart": bart("plbart"),
    "t5": t5("t5"),
    "t5_gated": t5("t5", **GATED, tie_word_embeddings=False),
    "mt5": t5("mt5", **GATED),
    "umt5": t5("umt5", **GATED),
    "switch_transformers": t5("switch_transformers", num_sparse_encoder_layers=1, num_sparse_decoder_layers=1,
                              num_experts=4, expert_capacity=64),
    "longt5": t5("longt5", encoder_attention_type="local", local_radius=4),
    "pegasus_x": bart("pegasus_x", block_size=4, num_global_tokens=2),
    "bigbird_pegasus": bart("bigbird_pegasus", attention_type="original_full"),
    "t5gemma": Seq2Seq(
        "t5gemma",
        {"encoder": GEMMA, "decoder": GEMMA | {"is_decoder": True, "cross_attention_hidden_size": 48},
         "decoder_start_token_id": 2},  # it masks padding by itself, so that is not the start
        {"self": "self_attn", "cross": "cross_attn", "encoder": "self_attn"},
        "o_proj",
        "layers",
        addend={"self": "post_self_attn_layernorm", "cross": "post_cross_attn_layernorm",
                "encoder": "post_self_attn_layernorm"},
    ),
}  # fmt: skip


def available() -> list[str]:
    return [name for name, family in FAMILIES.items() if family.available]


def build(name: str, dtype: torch.dtype = torch.float32, gain: float = 1.5) -> PreTrainedModel:
    """The model of a row, with weights large enough for its attention to be far from uniform."""
    row = FAMILIES[name]
    settings: dict[str, Any] = {"vocab_size": VOCABULARY, "decoder_start_token_id": 0, "pad_token_id": 0} | row.config
    config = AutoConfig.for_model(row.model_type, **settings)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForSeq2SeqLM.from_config(config, attn_implementation="eager")
        for module in model.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=gain * module.in_features**-0.5)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=1.0)
    return model.to(dtype).eval()


def prompt(length: int = 9) -> Tensor:
    return torch.randint(3, VOCABULARY, (1, length), generator=torch.Generator().manual_seed(1))


class WithoutColumns(TorchFunctionMode):
    """Every softmax without some keys; with `zero_values`, they keep their weight and give nothing."""

    def __init__(self, hidden: Tensor, zero_values: bool) -> None:
        """`hidden` [..., queries or 1, keys] bool: which key is taken from which query."""
        super().__init__()
        self.hidden, self.zero_values = hidden, zero_values

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if getattr(func, "__name__", "") != "softmax":
            return func(*args, **kwargs or {})
        if self.zero_values:
            return func(*args, **kwargs or {}).masked_fill(self.hidden, 0.0)
        logits = args[0]
        lost = (logits > -1e4).any(-1)
        logits = logits.masked_fill(self.hidden, float("-inf"))
        lost &= ~(logits > -1e4).any(-1)  # a query with nothing left to see reads 0
        return func(logits, *args[1:], **kwargs or {}).masked_fill(lost.unsqueeze(-1), 0.0)


@contextmanager
def without(module: nn.Module, hidden: Tensor, zero_values: bool = False) -> Iterator[None]:
    """`module` computes its attention without the hidden keys until the block ends."""
    modes: list[ExitStack] = []

    def enter(*_: Any) -> None:
        modes.append(ExitStack())
        modes[-1].enter_context(WithoutColumns(hidden, zero_values))

    handles = [
        module.register_forward_pre_hook(enter),
        module.register_forward_hook(lambda *_: modes.pop().close()),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def columns_of(length: int, masks: Sequence[Collection[int]]) -> Tensor:
    """[M, 1, 1, length] bool: the columns of each mask that there are."""
    hidden = torch.zeros(len(masks), 1, 1, length, dtype=torch.bool)
    for each, columns in zip(hidden, masks, strict=True):
        each[..., [column for column in columns if column < length]] = True
    return hidden


@torch.no_grad()
def answer(
    model: PreTrainedModel,
    name: str,
    ids: Tensor,
    start: Tensor,
    layers: Collection[int],
    positions: Collection[int],
    block: str | Collection[int],
    zero_values: bool = False,
    heads: Collection[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """[V] log-probabilities and [C] last layer's output after the decoder's tokens `start` [1, M].

    In these layers the last decoder position (`block` "last"), every later one ("all"), or exactly these do not read
    `positions`, which count the encoder's tokens first; in these `heads`, or in all.
    """  # fmt: skip
    length, count, seen = ids.shape[1], start.shape[1], {}
    rows = torch.arange(count)[:, None]
    hidden = {
        "self": torch.zeros(count, count, dtype=torch.bool),
        "cross": torch.zeros(count, length, dtype=torch.bool),
    }
    for position in positions:
        kind, place = ("cross", position) if position < length else ("self", position - length)
        read = rows == count - 1 if block == "last" else (rows > place if kind == "self" else rows >= 0)
        if not isinstance(block, str):
            read = torch.tensor([[row + length in block] for row in range(count)])
        hidden[kind][:, place] |= read[:, 0]
    if heads is not None:
        chosen = torch.tensor([head in heads for head in range(FAMILIES[name].decoder_heads)])[:, None, None]
        hidden = {kind: each & chosen for kind, each in hidden.items()}
    decoder = layers_of(model, name, "self")
    with using_attention(model, "eager"), ExitStack() as hooks:
        hooks.callback(
            decoder[-1].register_forward_hook(lambda _, __, out: seen.update(state=first(out)[0, -1])).remove
        )
        for layer in layers:
            for kind, what in hidden.items():
                hooks.enter_context(without(attention_of(decoder[layer], name, kind), what, zero_values))
        output = model(input_ids=ids, attention_mask=torch.ones_like(ids), decoder_input_ids=start, use_cache=False)
    return output.logits[0, -1].log_softmax(-1), seen["state"]


def layers_of(model: PreTrainedModel, name: str, kind: str) -> list[nn.Module]:
    half = model.get_encoder() if kind == "encoder" else model.get_decoder()
    return list(getattr(half, FAMILIES[name].layers))


def attention_of(layer: nn.Module, name: str, kind: str) -> nn.Module:
    return layer.get_submodule(FAMILIES[name].attention[kind])


@torch.no_grad()
def update(
    model: PreTrainedModel,
    name: str,
    ids: Tensor,
    answer: Tensor,
    kind: str,
    layer: int,
    masks: Sequence[Collection[int]] = ((),),
    zero_values: bool = False,
) -> dict[str, Tensor]:
    """What one layer adds without each mask: Full [M, T, C], Attn [M, T, C], Head_N [M, T, D], at all of its positions.

    Of its attention of `kind`: self, cross, encoder. The whole model runs on `ids` [1, N] and the decoder's tokens
    `answer` [1, T], without a cache, on a copy of the prompt for each mask.
    """  # fmt: skip
    row = FAMILIES[name]
    module = layers_of(model, name, kind)[layer]
    attention, seen = attention_of(module, name, kind), {}
    addend = module.get_submodule(row.addend.get(kind, row.attention[kind]))
    length = answer.shape[1] if kind == "self" else ids.shape[1]
    ids, answer = ids.repeat(len(masks), 1), answer.repeat(len(masks), 1)

    def before(_: nn.Module, args: tuple, kwargs: dict) -> None:
        seen["input"] = args[0] if args else kwargs["hidden_states"]

    with using_attention(model, "eager"), ExitStack() as hooks:
        for handle in (
            module.register_forward_pre_hook(before, with_kwargs=True),
            module.register_forward_hook(lambda _, __, out: seen.update(output=first(out))),
            addend.register_forward_hook(lambda _, __, out: seen.update(attn=first(out))),
            attention.get_submodule(row.o_proj).register_forward_pre_hook(
                lambda _, args: seen.update(received=args[0])
            ),
        ):
            hooks.callback(handle.remove)
        if any(masks):
            hooks.enter_context(without(attention, columns_of(length, masks), zero_values))
        model(input_ids=ids, attention_mask=torch.ones_like(ids), decoder_input_ids=answer, use_cache=False)
    heads = seen["received"].unflatten(-1, (row.heads if kind == "encoder" else row.decoder_heads, -1))
    return {"Full": seen["output"] - seen["input"], "Attn": seen["attn"]} | {
        f"Head_{index}": head for index, head in enumerate(heads.unbind(-2))
    }
