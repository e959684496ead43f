"""Masked forwards of a whole model whose attention is not called through transformers' interface.

In: a model, its inputs, and edits. Out: what `carry.Forwards` gives, found as `impact/rerun.py` finds it: keys are
taken out where the layers' own code takes the softmax of their attention.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from transformers import PreTrainedModel

from mask_impact.effects.carry import Forwards
from mask_impact.effects.edits import Edit, edited_positions
from mask_impact.effects.recorded_forward import Call, Passage
from mask_impact.impact.record import generate
from mask_impact.impact.whole_calls import CalledLayer, CallRecorder, WholeQuery
from mask_impact.model.layers import layer_output
from mask_impact.model.softmax import SoftmaxMasks
from mask_impact.model.watching import inside


class MaskedForwards(Forwards):
    """One forward of the whole model for each edit, without a cache."""

    def __init__(self, model: PreTrainedModel, inputs: Mapping[str, torch.Tensor], ablation: str) -> None:
        """Raises UnsupportedModel where no softmax of attention is found, or where a forward is not repeated."""
        length = inputs["input_ids"].shape[1]
        recorder = CallRecorder(model, length, (length - 1).__eq__, "decoder")
        with recorder.recording():
            *_, logits = generate(model, inputs, 1, [], lambda: None, use_cache=False)
        recorder.check_attends()
        self.records = recorder.records
        passage = Passage([_call(record, length) for record in self.records], logits)
        super().__init__(model, passage, inputs, ablation=ablation)
        last = len(self.records) - 1
        again = self.run(0, last, 0, [Edit((), False)])
        self.noise = again.check_against(model, passage.calls[last].output[0, -1], logits, "run a second time")

    def _one(self, first: int, last: int, edit: Edit) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
        unread = edited_positions([edit], 0, self.passage.length).to(self.passage.logits.device)
        states: dict[int, torch.Tensor] = {}
        passes = [0] * len(self.records)
        masking = ExitStack()

        def entering(index: int, *_: Any) -> None:
            record = self.records[index]
            passes[index] += 1
            if first <= index <= last and record.attends and passes[index] == record.passes:
                places = {site.place for site in record.sites}
                rows = unread[:, :, -len(record.seen) :]
                masking.enter_context(SoftmaxMasks(places, rows, self.ablation == "zero-value"))

        def leaving(index: int, output: Any) -> None:
            masking.close()
            states[index] = self.records[index].at(layer_output(output), -1)[0].clone()

        layers = [record.layer for record in self.records]
        with masking, inside(self.model, layers, entering=entering, leaving=leaving):
            *_, logits = generate(self.model, self.inputs, 1, [], lambda: None, use_cache=False)
        return logits, states


def _call(record: CalledLayer, length: int) -> Call:
    """What `Passage` needs of a layer: its last output, and who sees whom."""
    query = record.queries[length - 1]
    assert isinstance(query, WholeQuery)
    bias = query.hidden.new_zeros(1, 1, length, length)
    bias[:, :, length - len(record.seen) :].masked_fill_(~record.seen, float("-inf"))
    hidden = query.hidden.expand(1, length, -1)  # only its shape is used
    return Call(record.layer, hidden=hidden, output=query.output, bias=bias if record.attends else None)
