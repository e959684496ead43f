"""The comparison: rerun a layer on its cached input, over the whole prompt, for every masked token."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from benchmarks.machine import timed
from benchmarks.models import Inputs
from benchmarks.work import plain_forward
from mask_impact.impact import meter
from mask_impact.model.layers import layer_output
from mask_impact.model.towers import decoder_layers


@dataclass
class LayerCall:
    """The cached input of one layer, from a forward over the whole prompt."""

    index: int
    layer: nn.Module
    hidden: torch.Tensor  # [1, N, C]
    kwargs: dict[str, Any]  # position embeddings among them

    def update(self, bias: torch.Tensor) -> torch.Tensor:
        """[C] what the layer adds at the last position under an additive mask [1, 1, N, N]."""
        output = layer_output(self.layer(self.hidden, **(self.kwargs | {"attention_mask": bias})))
        precise = torch.promote_types(output.dtype, torch.float32)
        return output[0, -1].to(precise) - self.hidden[0, -1].to(precise)


def cached_calls(model: Any, inputs: Inputs, indices: Sequence[int]) -> list[LayerCall]:
    """The calls of the layers `indices` in one forward."""
    calls: list[LayerCall] = []

    def keep(index: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            kwargs = dict(kwargs)
            calls.append(LayerCall(index, module, args[0] if args else kwargs.pop("hidden_states"), kwargs))

        return hook

    layers = decoder_layers(model)
    handles = [layers[index].register_forward_pre_hook(keep(index), with_kwargs=True) for index in indices]
    try:
        plain_forward(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def causal_bias(hidden: torch.Tensor, masked: int | None = None) -> torch.Tensor:
    """[1, 1, N, N] additive causal mask for a layer's input [1, N, C], the column of `masked` at -inf."""
    length = hidden.shape[1]
    bias = torch.full((length, length), float("-inf"), dtype=hidden.dtype, device=hidden.device).triu(1)
    if masked is not None:
        bias[:, masked] = float("-inf")
    return bias[None, None]


@dataclass
class Baseline:
    """Reruns for a few masked tokens in a few layers; the total time is scaled up from their mean."""

    calls: list[LayerCall]
    masked: list[int]
    biases: list[torch.Tensor]

    @classmethod
    def prepare(cls, model: Any, inputs: Inputs) -> "Baseline":
        length, layers = inputs["input_ids"].shape[1], len(decoder_layers(model))
        masked = sorted({length // 4, length // 2, length - 2})
        calls = cached_calls(model, inputs, sorted({0, layers // 2}))
        return cls(calls, masked, [causal_bias(calls[0].hidden, position) for position in masked])

    def seconds(self) -> list[float]:
        """The time of each rerun of one layer for one masked token."""
        return [timed(lambda: call.update(bias))[1] for call in self.calls for bias in self.biases]  # noqa: B023

    def differences(self, impacts: Sequence[meter.Impact]) -> dict[str, float]:
        """The largest difference between the L2 of Full from the engine and from the reruns, relative to the latter and
        to the length of the update.

        Raises RuntimeError if it is more than rounding, because then the two do not compute the same.
        """
        to_l2 = to_update = 0.0
        for call in self.calls:
            base = call.update(causal_bias(call.hidden))
            for masked, bias in zip(self.masked, self.biases, strict=True):
                l2 = (call.update(bias) - base).norm().item()
                difference = abs(impacts[call.index].l2[masked, 0].item() - l2)
                to_l2, to_update = max(to_l2, difference / l2), max(to_update, difference / base.norm().item())
        limit = meter.ROUNDING[self.calls[0].hidden.dtype]
        if not to_update <= limit:
            raise RuntimeError(f"engine and reruns differ by {to_update:.2g} of an update's length (limit {limit:.2g})")
        return {"difference": to_l2, "difference of update": to_update}
