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
from mask_impact.effects.edits import Edit, edited_positions
from mask_impact.effects.recorded_forward import Call, Passage, last_logits
from mask_impact.errors import UnsupportedModel
from mask_impact.model.layers import layer_output
from mask_impact.model.softmax import NOWHERE, SoftmaxMasks
from mask_impact.model.towers import decoder_layers, family
from mask_impact.model.whole_calls import WholeCall, whole_calls


class MaskedForwards(Forwards):
    """One forward of the whole model for each edit, without a cache."""

    def __init__(self, model: PreTrainedModel, inputs: Mapping[str, torch.Tensor], ablation: str) -> None:
        """Raises UnsupportedModel where no softmax of attention is found, or where a forward is not repeated."""
        layers, length = decoder_layers(model), inputs["input_ids"].shape[1]
        calls = [Call(layer) for layer in layers]
        self.seen: list[WholeCall | None] = [None] * len(layers)

        def done(index: int, call: WholeCall) -> None:
            passed, last = calls[index], call.at(call.output, -1)[None].clone()
            passed.passes += 1
            passed.output, passed.hidden = last, last.expand(1, length, -1)  # of the input, its shape alone is used
            if call.sites:
                passed.bias = last.new_zeros(1, 1, length, length)
                passed.bias[:, :, length - call.rows :].masked_fill_(~call.seen(), float("-inf"))
            self.seen[index] = call

        with whole_calls(model, layers, length, done):
            logits = last_logits(model, inputs)
        if all(call.bias is None for call in calls):
            raise UnsupportedModel(f"model family '{family(model)}' is not supported: {NOWHERE}")
        super().__init__(model, Passage(calls, logits), inputs, ablation=ablation)
        again = self.run(0, len(calls) - 1, 0, [Edit((), False)])
        self.noise = again.check_against(model, calls[-1].output[0, -1], logits, "run a second time")

    def _one(self, first: int, last: int, edit: Edit) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
        unread = edited_positions([edit], 0, self.passage.length).to(self.passage.logits.device)
        states: dict[int, torch.Tensor] = {}
        passes = [0] * len(self.seen)
        masking = ExitStack()

        def entering(index: int, *_: Any) -> None:
            seen = self.seen[index]
            assert seen is not None
            passes[index] += 1
            if first <= index <= last and seen.sites and passes[index] == self.passage.calls[index].passes:
                places, rows = {site.place for site in seen.sites}, unread[:, :, -seen.rows :]
                masking.enter_context(SoftmaxMasks(places, rows, self.ablation == "zero-value"))

        def leaving(index: int, output: Any) -> None:
            seen = self.seen[index]
            assert seen is not None
            masking.close()
            states[index] = seen.at(layer_output(output), -1)[0].clone()

        with masking:
            logits = last_logits(self.model, self.inputs, entering=entering, leaving=leaving)
        return logits, states
