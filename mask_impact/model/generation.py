"""What generation needs of a model.

In: a model and its inputs. Out: the inputs on its device, or longer by generated tokens; how an answer begins; and a
model that generates greedily, without dropout, until a block ends.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from mask_impact.errors import UnsupportedModel
from mask_impact.model.load import input_device
from mask_impact.model.towers import family
from mask_impact.prompt.inputs import ModelInputs


def model_tensors(model: Any, inputs: ModelInputs) -> dict[str, torch.Tensor]:
    """The inputs on the model's device, with pixels in its dtype."""
    device = input_device(model)
    tensors = {name: tensor.to(device) for name, tensor in inputs.tensors.items()}
    return tensors | {name: tensor.to(model.dtype) for name, tensor in tensors.items() if tensor.is_floating_point()}


# What a token of the answer is in `token_type_ids`: in most families text is 0, but in PaliGemma 0 is the prompt, which
# sees itself both ways (`_update_model_kwargs_for_generation` in its modeling file)
ANSWER_TYPES = {"paligemma": 1}


def longer(model: Any, tensors: Mapping[str, torch.Tensor], generated: list[int]) -> dict[str, torch.Tensor]:
    """The model's inputs with the answer's ids at the end; each is visible, and has the type of an answer's token.

    In an encoder-decoder they go to the decoder's inputs, and the encoder's stay.
    """
    if "decoder_input_ids" in tensors:
        answer = tensors["decoder_input_ids"]
        return {**tensors, "decoder_input_ids": torch.cat([answer, torch.tensor([generated]).to(answer)], dim=1)}
    shape = tensors["input_ids"].shape
    new = {"input_ids": torch.tensor([generated]), "attention_mask": torch.ones(1, len(generated))}
    grown = dict(tensors)
    for name, tensor in tensors.items():
        if tensor.shape == shape:
            kind = ANSWER_TYPES.get(model.config.model_type, 0) if name == "token_type_ids" else 0
            ids = new.get(name, torch.full((1, len(generated)), kind))
            grown[name] = torch.cat([tensor, ids.to(tensor)], dim=1)
    return grown


class Following(LogitsProcessor):
    """Has the tokens of a given answer chosen, whatever the model predicts, and keeps what it predicts."""

    def __init__(self, given: Sequence[int]) -> None:
        self.given, self.scores = given, list[torch.Tensor]()  # [1, V] of each step

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        chosen = torch.tensor([self.given[len(self.scores)]], device=scores.device)
        self.scores.append(scores)
        return torch.full_like(scores, float("-inf")).index_fill(1, chosen, 0.0)

    def processors(self) -> dict[str, LogitsProcessorList]:
        """Of `generate`; none where no answer is given."""
        return {"logits_processor": LogitsProcessorList([self])} if self.given else {}


def decoder_start(model: PreTrainedModel) -> list[int]:
    """The token that an encoder-decoder's answer begins with; none for a decoder alone. Raises UnsupportedModel."""
    return [decoder_beginning(model)["decoder_start_token_id"]] if model.config.is_encoder_decoder else []


def decoder_beginning(model: PreTrainedModel) -> dict[str, int]:
    """How an encoder-decoder's answer begins, as its checkpoint says: a start token, and for some (mBART, NLLB) the
    token of the language it is to be in. Raises UnsupportedModel; empty for a decoder-only model.
    """
    if not model.config.is_encoder_decoder:
        return {}
    found = {}
    for name in ("decoder_start_token_id", "forced_bos_token_id", "bos_token_id"):
        value = getattr(model.generation_config, name, None)
        value = getattr(model.config, name, None) if value is None else value
        if isinstance(value, int):
            found[name] = value
    if "decoder_start_token_id" not in found:
        raise UnsupportedModel(f"model family '{family(model)}' is not supported: no decoder_start_token_id is known")
    return found


def all_rows(model: PreTrainedModel) -> dict[str, bool]:
    """What makes every layer compute all rows of a prompt.

    Layers that share the keys of earlier ones (Gemma 4 E2B and E4B) need only the last row to generate, and are given
    no other one unless all hidden states are asked for.
    """
    shared = getattr(model.config.get_text_config(decoder=True), "num_kv_shared_layers", 0)
    return {"output_hidden_states": True} if shared else {}


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Without dropout until the block ends, also for a model that was handed over in training."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def greedy(model: PreTrainedModel) -> Iterator[None]:
    """Set the checkpoint's own sampling settings (repetition penalties among them) aside until the block ends."""
    before = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = before
