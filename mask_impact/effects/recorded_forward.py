"""Record one whole forward, and find what an edit of its attention can reach.

In: a model and its inputs. Out: a `Passage`: what every decoder layer was called with on all T positions, its keys,
values and attention mask, and the logits at the positions that predict. `carry` runs parts of it again.

B edits, T positions, S predicted tokens, L layers, H query heads, G key/value heads, D head width, C hidden size,
V vocabulary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from mask_impact.effects.edits import Edit
from mask_impact.model.call_rows import CacheStandIn, at_row, changed
from mask_impact.model.forwards import last_logits
from mask_impact.model.layers import layer_input, layer_output
from mask_impact.model.masks import additive_mask
from mask_impact.model.towers import decoder_layers
from mask_impact.model.watching import AttentionCall


@dataclass
class Call:
    """One decoder layer's call on all T positions."""

    layer: nn.Module
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    hidden: torch.Tensor = field(default_factory=lambda: torch.empty(0))  # [1, T, C] input, one of the arguments
    output: torch.Tensor = field(default_factory=lambda: torch.empty(0))  # [1, T, C]
    rest: tuple[Any, ...] | None = None  # what older transformers return beside it
    keys: torch.Tensor | None = None  # [1, G, T, D]; None: the layer has no attention
    values: torch.Tensor | None = None
    bias: torch.Tensor | None = None  # [1, 1 or H, T, T] added to the logits; -inf: cannot be seen
    passes: int = 0  # how often the model calls the layer in a forward; all else is of the last

    def arguments(self, state: torch.Tensor, start: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The call for `state` [B, T - start, C] in place of its input from position `start` on."""
        length = self.hidden.shape[1]
        seen: dict[int, Any] = {}
        cut = at_row((self.args, self.kwargs), start, length, seen, length - start)
        old = seen[start][id(self.hidden)][0]
        return changed(cut, lambda tensor: state if tensor is old else tensor, {}, CacheStandIn(start))

    def returned(self, output: torch.Tensor) -> Any:
        """Hidden states in the form in which the layer returns them."""
        return output if self.rest is None else (output, *self.rest)

    def added_before(self, below: "Call") -> torch.Tensor | None:
        """[1, T, C] what the model adds between the layer below and this one; None for nothing."""
        return None if torch.equal(self.hidden, below.output) else self.hidden - below.output


@dataclass
class Reach:
    """What B edits can change; all else stays exactly as it is."""

    starts: list[int]  # the first position whose state can change in any layer; T where none can
    moved: torch.Tensor  # [B, carried layers, S] bool, whether a predicting position can change
    acts: list[bool]  # whether there is anything to measure

    @classmethod
    def of(cls, starts: list[int], moved: torch.Tensor) -> "Reach":
        """Of edits of which nothing but what is predicted is asked."""
        return cls(starts, moved, moved[:, -1].any(dim=-1).tolist())


@dataclass
class Predictions:
    """A recorded forward, by what its last S positions predict: a token of the answer each."""

    calls: list[Any]  # one for each layer, with its `output` [1, T, C]
    logits: torch.Tensor  # [S, V]

    @property
    def steps(self) -> int:
        """Predicted tokens S."""
        return len(self.logits)

    @cached_property
    def ends(self) -> list[torch.Tensor]:
        """[S, C] by layer: the states after it, at the positions that predict."""
        return [call.output[0, -self.steps :] for call in self.calls]


@dataclass
class Passage(Predictions):
    """A recorded forward over T positions."""

    calls: list[Call]

    @property
    def length(self) -> int:
        return self.calls[0].hidden.shape[1]

    def reach(
        self,
        first: int,
        last: int,
        edits: Sequence[Edit],
        stateful: bool = False,
        changed: torch.Tensor | None = None,
    ) -> Reach:
        """What edits that hold in layers `first` to `last` can change, by what every position can see.

        Args:
            stateful: layers may also carry a state from position to position (Mamba), or make masks of their input.
            changed: [B, T] bool, positions whose states are others before layer `first`; None: no position.
        """
        length = self.length
        later = torch.tensor([edit.readers is None for edit in edits], dtype=torch.bool).unsqueeze(1)
        reading = torch.zeros(len(edits), length, dtype=torch.bool)  # who stops reading, where readers are named
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        members = torch.zeros(len(edits), length)
        for row, edit in enumerate(edits):
            members[row, list(edit.positions)] = 1
            reading[row, list(edit.readers or ())] = True
        seen = {id(call.bias): _visible(call.bias, length) for call in self.calls[first:]}
        if changed is None:
            changed = torch.zeros(len(edits), length, dtype=torch.bool)  # the states that an edit can change
        done: set[tuple[int, bytes]] = set()  # what cannot change any more
        moved = []
        for index, call in enumerate(self.calls[first:], start=first):
            acts = torch.tensor([index <= last and edit.acts_in(index) for edit in edits]).unsqueeze(1)
            step = id(call.bias), acts.numpy().tobytes()
            if step not in done:
                sees = seen[id(call.bias)]
                further = _any(changed, sees | causal if stateful else sees)
                if acts.any():
                    named = _any(members, sees) & reading
                    further |= torch.where(later, _any(members, sees & causal.tril(-1)), named) & acts
                if (further & ~changed).any():
                    changed, done = changed | further, set()
                else:
                    done.add(step)
            moved.append(changed[:, -self.steps :])
        starts = torch.where(changed.any(dim=1), changed.int().argmax(dim=1), length)
        return Reach.of(starts.tolist(), torch.stack(moved, dim=1))


def _visible(bias: torch.Tensor | None, length: int) -> torch.Tensor:
    """[T, T] bool: whether a position (row) can see another (column), with any head."""
    if bias is None:
        return torch.zeros(length, length, dtype=torch.bool)
    return ~bias.isneginf().all(dim=1)[0].cpu()


def _any(positions: torch.Tensor, sees: torch.Tensor) -> torch.Tensor:
    """[B, T] bool: which positions see any of `positions` [B, T]."""
    return positions.float() @ sees.T.float() > 0


def record_passage(
    model: PreTrainedModel, inputs: Mapping[str, torch.Tensor], together: Sequence[tuple[int, int]] = (), steps: int = 1
) -> Passage:
    """One forward of the model over its whole input, recorded.

    Args:
        inputs: the model's inputs; "input_ids" [1, T], of which the last `steps` predict a token of the answer each.
        together: ranges [first, last) of positions that see each other, whatever the model's own mask says.
    """
    calls = [Call(layer) for layer in decoder_layers(model)]
    masks: dict[Any, tuple[Any, torch.Tensor]] = {}  # most layers share one mask

    def entering(index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        call = calls[index]
        call.passes += 1
        seen: dict[int, Any] = {}
        call.args, call.kwargs = (changed(each, torch.clone, seen) for each in (args, kwargs))
        call.hidden = layer_input(call.layer, call.args, call.kwargs)

    def attending(index: int, call: AttentionCall) -> None:
        shared = (id(call.mask), call.mask is None and call.causal, call.key.device)
        if shared not in masks:  # the mask is held, so that its id stays its own
            masks[shared] = call.mask, additive_mask(call.mask, call.query, call.key, call.causal)
        calls[index].keys, calls[index].values, calls[index].bias = call.key, call.value, masks[shared][1]

    def leaving(index: int, output: Any) -> None:
        calls[index].output = layer_output(output).clone()
        calls[index].rest = output[1:] if isinstance(output, tuple) else None

    return Passage(calls, last_logits(model, inputs, together, attending, leaving, entering, steps))
