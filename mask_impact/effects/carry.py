"""Carry what a mask changes on through the layers above it, to the logits.

In: a recorded forward, edits (what is masked together), and the layers in which they hold. Out: for each edit the
logits at the positions that predict, and their states after every layer.

A carried run begins at the first masked layer and at the first position that can change, for B edits at once. Layers
below and positions before are those of the record. The layers, the final norm and the head are the model's own code,
called in the model's own forward; its layers take the carried states in place of their input.

What a model adds between two layers (DeepStack's image features) is the difference between the record's input of a
layer and its output of the layer before, and is added to every row; or a run is given other states to begin with and to
add (`given.py`), where masks act before the decoder.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, cast

import torch
from transformers import PreTrainedModel

from mask_impact.effects.edits import (
    Bias,
    Edit,
    EditedBiases,
    EditedLayers,
    attend_with_shared_keys,
    edited_attention,
)
from mask_impact.effects.given import Given
from mask_impact.effects.recorded_forward import Passage, Reach
from mask_impact.model.attention import implementation
from mask_impact.model.forwards import last_logits, takes_logits_to_keep
from mask_impact.model.layers import layer_output, replaced_forward
from mask_impact.model.masks import additive_mask
from mask_impact.model.rounding import ROUNDING
from mask_impact.model.towers import refusing, unsupported
from mask_impact.model.watching import AttentionCall, AttentionResult, inside

Begins = Callable[[int], None]  # called with a layer as its work begins


def uncounted(layer: int) -> None:
    """Who does not ask when layers begin."""


@dataclass
class Carried:
    """What B edits lead to at the S positions that predict."""

    logits: torch.Tensor  # [B, S, V]
    states: dict[int, torch.Tensor]  # after each layer from the first carried one on: [B, S, C]
    image: torch.Tensor | None = None  # [B, 2] how far masks in a vision tower move the image features

    def check_against(
        self, model: PreTrainedModel, state: torch.Tensor, logits: torch.Tensor, how: str
    ) -> dict[str, float]:
        """How far the first edit's last states and logits are from the model's own, `state` [S, C] and `logits` [S, V].

        Raises UnsupportedModel if the states differ by more than rounding; `how` it was carried begins the message.
        """
        last = max(self.states)
        expected = state.cpu().double()  # Metal has no float64
        l2 = (self.states[last][0].cpu().double() - expected).norm().item()
        relative = l2 / max(expected.norm().item(), 1e-30)
        if not relative <= ROUNDING[state.dtype]:
            raise unsupported(model, last, f"{how}, its last state differs from the model's own by {relative:.2g}")
        return {"final_l2": l2, "relative": relative, "logit": (self.logits[0] - logits).abs().max().item()}


class Carrier:
    """Carries edits of one recorded forward on, by rows."""

    def __init__(self, model: PreTrainedModel, passage: Passage, whole: "Forwards") -> None:
        """Raises UnsupportedModel where a carried run does not end as the record, or as `whole`, does."""
        self.model, self.passage, self.ablation, self.heads = model, passage, whole.ablation, whole.heads
        self.name, self.begins = implementation(model), cast("Begins", uncounted)
        self.keeps = takes_logits_to_keep(model)
        calls = passage.calls
        with refusing(model, "it cannot be carried on by rows", layer=0):  # its streams can have changing shapes
            self.between: Given = [None, *(above.added_before(below) for below, above in itertools.pairwise(calls))]
        self.noise = self._check(whole)

    def _check(self, whole: "Forwards") -> dict[str, float]:
        """How far carried runs are from the model's own: without a mask, and without one token in the middle."""
        length, last = self.passage.length, len(self.passage.calls) - 1
        middle = (length - 1) // 2
        nothing, gone, unread = Edit(()), Edit((middle,)), Edit((middle,), readers=(length - 1,))
        recorded = self.passage.ends[last]
        noise = {"final_l2": 0.0, "relative": 0.0, "logit": 0.0}
        for start, edit, expected in (
            (0, nothing, (recorded, self.passage.logits)),
            (length - 1, nothing, (recorded, self.passage.logits)),
            (min(*self.reach(0, last, [gone]).starts, length - 1), gone, whole.end(gone)),
            (length - 1, unread, whole.end(unread)),
        ):
            with refusing(self.model, "it cannot be carried on by rows", layer=0):
                found = self.run(0, last, start, [edit])
            apart = found.check_against(self.model, *expected, "carried on by rows")
            noise = {name: max(value, apart[name]) for name, value in noise.items()}
        return noise

    def reach(self, first: int, last: int, edits: Sequence[Edit]) -> Reach:
        return self.passage.reach(first, last, edits)

    def shares_keys(self, rows: int) -> bool:
        """Whether the edits of a run of `rows` rows share their keys, and need no copies of them."""
        return rows == 1 and self.name == "sdpa" and self.ablation == "neg-inf"

    def attended(self, rows: int, by_head: bool = False) -> int:
        """About how many numbers one edit's attention takes: keys, values, and copies of them for each query head;
        biases, or weights. `by_head`: biases are another one in each head.
        """
        keys = next(call.keys for call in self.passage.calls if call.keys is not None)
        biases_alone = self.name == "sdpa" and self.ablation == "neg-inf"
        weights = (2 if biases_alone else 4) * (1 if biases_alone and not by_head else self.heads)
        copies = 0 if self.shares_keys(rows) else 2 * (keys.shape[1] + self.heads) * keys.shape[3]
        return self.passage.length * (copies + rows * weights)

    def run(self, first: int, last: int, start: int, edits: Sequence[Edit], given: Given | None = None) -> Carried:
        """Mask in layers `first` to `last` on rows from position `start` on, and carry on to the end.

        `start` must not be after the first position that changes. All B edits are run in one forward.

        Args:
            given: what layer `first` gets, and what is added before each later one; None: what was recorded.
        """
        if given is None:
            given = [*self.between[:first], self.passage.calls[first].hidden, *self.between[first + 1 :]]
        calls, count, rows = self.passage.calls, len(edits), self.passage.length - start
        unread = EditedLayers(edits, range(first, last + 1), self.heads, start, self.passage.length)
        shared = self.shares_keys(rows)
        biases = EditedBiases(self.ablation, count if shared else None)
        states: dict[int, torch.Tensor] = {}
        steps = min(rows, self.passage.steps)  # the earlier ones stay as they are

        def attending(index: int, call: AttentionCall) -> AttentionResult:
            recorded = calls[index]
            assert recorded.keys is not None and recorded.values is not None and recorded.bias is not None
            bias = biases.of(recorded.bias, unread.of(index), start)
            before = [each[:, :, :start] for each in (recorded.keys, recorded.values)]  # [1, G, start, D]
            own = [call.key, call.value]
            if shared:
                return attend_with_shared_keys(self.name, call.module, call.query, before, own, bias, call.named)
            keys, values = (
                torch.cat([each.expand(count, -1, -1, -1), mine], dim=2) for each, mine in zip(before, own, strict=True)
            )
            return edited_attention(self.name, call.module, call.query, keys, values, bias, call.named)

        def leaving(index: int, output: Any) -> None:
            if index + 1 == len(calls):
                self.begins(len(calls))
            if index >= first:
                carried = layer_output(output)[:, -steps:].clone()  # the next layer may write into it
                states[index] = self._with_earlier(self.passage.ends[index], carried)

        ids = torch.zeros(count, rows, dtype=torch.int64, device=calls[0].hidden.device)
        with torch.no_grad(), ExitStack() as undo:
            for index, call in enumerate(calls):
                forward = self._carrying(index, first, start, count, given[index])
                undo.enter_context(replaced_forward(call.layer, forward))
            layers = [call.layer for call in calls]
            undo.enter_context(inside(self.model, layers, attending=attending, leaving=leaving))
            kept = {"logits_to_keep": steps} if self.keeps else {}  # the head is the largest matrix of a small model
            output = self.model(input_ids=ids, use_cache=False, **kept)
        return Carried(self._with_earlier(self.passage.logits, output.logits[:, -steps:]), states)

    @staticmethod
    def _with_earlier(recorded: torch.Tensor, carried: torch.Tensor) -> torch.Tensor:
        """[B, S, X] `carried` [B, s, X] of the last steps, after those of the record [S, X] before them."""
        earlier = recorded[: len(recorded) - carried.shape[1]]
        if not len(earlier):
            return carried  # no copy: logits are the largest of all
        return torch.cat([earlier.expand(len(carried), -1, -1), carried], dim=1)

    def _carrying(
        self, index: int, first: int, start: int, count: int, given: torch.Tensor | None
    ) -> Callable[..., Any]:
        """A function in place of a layer's own forward. Below layer `first` it returns its input. Layer `first` runs on
        what it is `given`, once for each of `count` edits. Above, a layer runs on what the layer below gave, to which
        what it is given is added. All other arguments are those of the record.
        """
        call = self.passage.calls[index]
        compute = call.layer.forward

        def carried(hidden: torch.Tensor | None = None, *_: Any, **named: Any) -> Any:
            passed = named["hidden_states"] if hidden is None else hidden  # what the layer below gave
            if index < first:
                return call.returned(passed)
            self.begins(index)
            state = passed if given is None else given[:, start:]
            if index == first:
                state = state.repeat(count // len(state), 1, 1)  # copies: a layer may write into its input
            elif given is not None:
                state = passed + state
            args, kwargs = call.arguments(state, start)
            return call.returned(layer_output(compute(*args, **kwargs)))

        return carried


class Forwards:
    """Masked forwards of the whole model, one for each edit: for families whose layers cannot be carried on by rows.

    A layer that keeps a state over the whole text (Mamba, linear attention) cannot begin in the middle of it.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        passage: Passage,
        inputs: Mapping[str, torch.Tensor],
        together: Sequence[tuple[int, int]] = (),
        ablation: str = "neg-inf",
    ) -> None:
        self.model, self.passage, self.inputs, self.together = model, passage, inputs, together
        self.ablation, self.name, self.begins = ablation, implementation(model), cast("Begins", uncounted)
        self.heads = model.config.get_text_config(decoder=True).num_attention_heads
        self.noise = {"final_l2": 0.0, "relative": 0.0, "logit": 0.0}

    def reach(self, first: int, last: int, edits: Sequence[Edit]) -> Reach:
        return self.passage.reach(first, last, edits, stateful=True)

    def attended(self, rows: int, by_head: bool = False) -> int:
        """Edits are run one at a time, so that none adds to another."""
        return 0

    def run(self, first: int, last: int, start: int, edits: Sequence[Edit]) -> Carried:
        """As Carrier.run; `start` only says where changes can begin."""
        begin = range(first, len(self.passage.calls) + 1)  # each mask stands for its share of them
        found = []
        for place, edit in enumerate(edits):
            for layer in begin[place * len(begin) // len(edits) : (place + 1) * len(begin) // len(edits)]:
                self.begins(layer)
            found.append(self._one(first, last, edit))
        states = {
            index: torch.stack([states[index] for _, states in found]) for index in range(first, len(found[0][1]))
        }
        return Carried(torch.stack([logits for logits, _ in found]), states)

    def end(self, edit: Edit) -> tuple[torch.Tensor, torch.Tensor]:
        """[S, C] last states and [S, V] logits where `edit` holds in every layer."""
        logits, states = self._one(0, len(self.passage.calls) - 1, edit)
        return states[len(states) - 1], logits

    def _one(self, first: int, last: int, edit: Edit) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
        unread = EditedLayers([edit], range(first, last + 1), self.heads, 0, self.passage.length)
        states: dict[int, torch.Tensor] = {}
        passes = [0] * len(self.passage.calls)

        def entering(index: int, *_: Any) -> None:
            passes[index] += 1

        def attending(index: int, call: AttentionCall) -> AttentionResult | None:
            edited = unread.of(index)
            if edited is None or passes[index] < self.passage.calls[index].passes:
                return None
            recorded = additive_mask(call.mask, call.query, call.key, call.causal)
            bias = Bias.of(recorded, edited.to(call.key.device), self.ablation)
            return edited_attention(self.name, call.module, call.query, call.key, call.value, bias, call.named)

        def leaving(index: int, output: Any) -> None:
            states[index] = layer_output(output)[0, -steps:].clone()

        steps = self.passage.steps
        return last_logits(self.model, self.inputs, self.together, attending, leaving, entering, steps), states
