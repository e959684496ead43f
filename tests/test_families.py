"""Which families' attention goes through AttentionInterface: what their source says is what a model does."""

from typing import Any

import pytest
import seq2seq_families as seq2seq
import torch
from families import FAMILIES, HYBRIDS, build, calls_interface, find, prompt
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel


@torch.no_grad()
def called(model: PreTrainedModel, **inputs: Tensor) -> set[nn.Module]:
    """The attention modules that ask the interface for the function that is set."""
    found: set[nn.Module] = set()

    def spy(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        found.add(module)
        return query.new_zeros(len(query), query.shape[2], query.shape[1], value.shape[-1]), None

    AttentionInterface.register("spy", spy)
    AttentionMaskInterface.register("spy", AttentionMaskInterface()["eager"])
    try:
        model.set_attn_implementation("spy")
    except ValueError:  # how some families without the interface refuse it
        return set()
    model(**inputs, use_cache=False)
    return found


@pytest.mark.parametrize("name", [name for name, row in (FAMILIES | HYBRIDS).items() if row.available])
def test_decoders(name: str) -> None:
    assert bool(called(build(name), input_ids=prompt(4))) == calls_interface(find(name).model_type)


@pytest.mark.parametrize("name", seq2seq.available())
def test_both_attentions_of_encoder_decoders(name: str) -> None:
    model, ids = seq2seq.build(name), seq2seq.prompt()
    layer = seq2seq.layers_of(model, name, "self")[0]
    both = {seq2seq.attention_of(layer, name, kind) for kind in ("self", "cross")}
    found = called(model, input_ids=ids, decoder_input_ids=ids)
    assert (both <= found) == calls_interface(seq2seq.FAMILIES[name].model_type)
