"""Whether a recorded forward computes what the model computes untouched.

In: a model, its inputs, and the logits that a recorded forward gave. Out: nothing, or UnsupportedModel.

While a forward is recorded, the model's attention calls go through a handler of ours. A family that takes this for
another kind of attention would compute another model, and no check inside of the recording could tell. So the first
prompt of every loaded model is also run without any of it.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers import GenerationConfig, PreTrainedModel

from mask_impact.errors import UnsupportedModel, UserError
from mask_impact.model.attention import implementation
from mask_impact.model.generation import decoder_beginning, greedy
from mask_impact.model.memory import explained
from mask_impact.model.rounding import ROUNDING
from mask_impact.model.towers import family
from mask_impact.model.weights import check_finite, dtype_name


@dataclass
class _Untouched:
    """What is known of one model."""

    ids: torch.Tensor | None = None  # of the prompt that was run last
    logits: torch.Tensor | None = None  # [V] after it
    checked: set[tuple[str, ...]] = field(default_factory=set)  # ways of recording that agree with the model


_MODELS: WeakKeyDictionary[Any, _Untouched] = WeakKeyDictionary()


def is_checked(model: PreTrainedModel, how: str) -> bool:
    """Whether an earlier prompt has shown that recording the model in this way does not change it."""
    return _key(model, how) in _MODELS.setdefault(model, _Untouched()).checked


def check_untouched(
    model: PreTrainedModel, inputs: Mapping[str, torch.Tensor], logits: torch.Tensor, how: str
) -> float:
    """Compare `logits` [V] with those after the prompt in a forward of the untouched model; the seconds it took.

    Args:
        inputs: of the prompt alone.
        how: the way of recording, for messages; each is checked once for a model.

    Raises UnsupportedModel where they differ by more than rounding, UserError where the model's own are no numbers.
    """
    started = time.perf_counter()
    known = _MODELS.setdefault(model, _Untouched())
    if known.ids is None or not torch.equal(known.ids, inputs["input_ids"]):
        known.ids, known.logits = inputs["input_ids"], untouched_logits(model, inputs)
    assert known.logits is not None
    if known.logits.isnan().any() or (known.logits == torch.inf).any():  # minus infinity is a token that is ruled out
        check_finite(model)
        raise UserError(
            f"the model's own logits are not numbers (NaN or infinite) in {dtype_name(model)}; take another `dtype`, "
            "or a checkpoint whose weights are all finite"
        )
    difference = relative_difference(logits, known.logits)
    limit = ROUNDING[model.dtype]
    if not difference <= limit:
        check_finite(model)
        raise UnsupportedModel(
            f"model family '{family(model)}' cannot be measured truthfully: {how}, it computes other logits than "
            f"untouched, {difference:.2g} of their spread apart (rounding in {dtype_name(model)} explains {limit:.2g})"
        )
    known.checked.add(_key(model, how))
    return time.perf_counter() - started


def untouched_logits(model: PreTrainedModel, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """[V] the logits after the prompt, in the model's own generation of one token. Raises OutOfMemory."""
    settings = GenerationConfig(
        max_new_tokens=1,
        do_sample=False,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
        **decoder_beginning(model),
    )
    with explained(f"the untouched forward over {inputs['input_ids'].shape[1]} tokens"), torch.no_grad(), greedy(model):
        found = model.generate(**inputs, generation_config=settings)
    return found.logits[0][0]


def relative_difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """How far logits [V] are apart, relative to the spread of the expected ones. Their mean changes no probability."""
    expected = expected.to("cpu", torch.float64)
    spread = (expected - expected.mean()).norm().clamp_min(1e-30)
    return float((found.to("cpu", torch.float64) - expected).norm() / spread)


def _key(model: PreTrainedModel, how: str) -> tuple[str, ...]:
    return how, implementation(model), str(model.dtype)
