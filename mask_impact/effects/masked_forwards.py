"""Masked forwards of a whole model whose attention is not called through transformers' interface.

In: a model, its inputs, and edits. Out: what `carry.Forwards` gives: keys are taken out where the layers' own code
takes the softmax of their attention (`model/softmax.py`).
"""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from transformers import PreTrainedModel

from mask_impact.effects.carry import Forwards
from mask_impact.effects.edits import Edit, EditedLayers
from mask_impact.effects.recorded_forward import Call, Passage
from mask_impact.errors import UnsupportedModel
from mask_impact.model.forwards import last_logits
from mask_impact.model.layers import layer_output
from mask_impact.model.softmax import NOWHERE, SoftmaxMasks
from mask_impact.model.towers import decoder_layers, family
from mask_impact.model.whole_calls import WholeCall, whole_calls


class MaskedForwards(Forwards):
    """One forward of the whole model for each edit, without a cache."""

    def __init__(
        self, model: PreTrainedModel, inputs: Mapping[str, torch.Tensor], ablation: str, steps: int = 1
    ) -> None:
        """Raises UnsupportedModel where no softmax of attention is found, or where a forward is not repeated."""
        layers, length = decoder_layers(model), inputs["input_ids"].shape[1]
        calls = [Call(layer) for layer in layers]
        self.seen: list[WholeCall | None] = [None] * len(layers)

        def done(index: int, call: WholeCall) -> None:
            passed, last = calls[index], _ends(call, call.output, steps)[None]
            passed.passes += 1
            passed.output = last
            passed.hidden = last[:, :1].expand(1, length, -1)  # of the input, its shape alone is used
            if call.sites:
                passed.bias = last.new_zeros(1, 1, length, length)
                passed.bias[:, :, length - call.rows :].masked_fill_(~call.seen(), float("-inf"))
            self.seen[index] = call

        with whole_calls(model, layers, length, done):
            logits = last_logits(model, inputs, steps=steps)
        if all(call.bias is None for call in calls):
            raise UnsupportedModel(f"model family '{family(model)}' is not supported: {NOWHERE}")
        super().__init__(model, Passage(calls, logits), inputs, ablation=ablation)
        again = self.run(0, len(calls) - 1, 0, [Edit(())])
        self.noise = again.check_against(model, calls[-1].output[0], logits, "run a second time")

    def _one(self, first: int, last: int, edit: Edit) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
        unread = EditedLayers([edit], range(first, last + 1), self.heads, 0, self.passage.length)
        states: dict[int, torch.Tensor] = {}
        passes = [0] * len(self.seen)
        masking, steps = ExitStack(), self.passage.steps

        def entering(index: int, *_: Any) -> None:
            seen = self.seen[index]
            assert seen is not None
            passes[index] += 1
            edited = unread.of(index)
            if edited is not None and seen.sites and passes[index] == self.passage.calls[index].passes:
                hidden = dict.fromkeys((site.place for site in seen.sites), edited[:, :, -seen.rows :])
                masking.enter_context(SoftmaxMasks(hidden, self.ablation == "zero-value"))

        def leaving(index: int, output: Any) -> None:
            seen = self.seen[index]
            assert seen is not None
            masking.close()
            states[index] = _ends(seen, layer_output(output), steps)

        with masking:
            logits = last_logits(self.model, self.inputs, entering=entering, leaving=leaving, steps=steps)
        return logits, states


def _ends(call: WholeCall, states: torch.Tensor, steps: int) -> torch.Tensor:
    """[S, C] the last tokens' states."""
    return torch.cat([call.at(states, row) for row in range(-steps, 0)]).clone()
