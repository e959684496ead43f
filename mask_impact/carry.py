"""Carry what a mask changes on through the layers above it, to the logits.

One forward is recorded whole: what every decoder layer was called with on all T positions, its keys and values and its
attention mask. A masked run then begins at the first masked layer, at the first position that can change, for B masks
at once: layers below, and positions before, are those of the record. The layers, the final norm and the head are the
model's own code, inside of the model's own forward, whose layers take the carried states in place of their input.

What a model adds between two layers (DeepStack's image features) is the difference between the record's input of a
layer and its output of the layer before, and is added to every row.
"""

import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig, PreTrainedModel

from mask_impact.attention import (
    attention_function,
    decoder_configs,
    decoder_layers,
    eager_attention,
    implementation,
    replaced_forward,
    routed_attention,
    unsupported,
)
from mask_impact.capture import additive, at_row, changed, greedy, layer_output
from mask_impact.memory import is_out_of_memory
from mask_impact.vision_mask import seeing_each_other

# A run without a mask, carried from the first layer, may differ from the record by rounding only: the largest distance
# of the final states, relative to their length. As `impact.ROUNDING`, and for the same reason.
ROUNDING = {torch.float64: 1e-5, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}


@dataclass
class Call:
    """One decoder layer's call on all T positions."""

    layer: nn.Module
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    hidden: torch.Tensor = field(default_factory=lambda: torch.empty(0))  # [1, T, C] input, one of the arguments
    output: torch.Tensor = field(default_factory=lambda: torch.empty(0))  # [1, T, C]
    rest: tuple[Any, ...] | None = None  # what older transformers return beside it
    caches: tuple[int | str, ...] = ()  # where in the arguments the key/value cache stood
    keys: torch.Tensor | None = None  # [1, G, T, D]; None: the layer has no attention
    values: torch.Tensor | None = None
    bias: torch.Tensor | None = None  # [1, 1 or H, T, T] added to the logits; -inf: cannot be seen

    def arguments(self, state: torch.Tensor, start: int) -> tuple[list[Any], dict[str, Any]]:
        """The call for `state` [B, T - start, C] in place of its input from position `start` on."""
        length = self.hidden.shape[1]
        seen: dict[int, Any] = {}
        cut = [at_row(each, start, length, seen, length - start) for each in (self.args, self.kwargs)]
        old = seen[start][id(self.hidden)][0]
        args = [state if item is old else item for item in cut[0]]
        kwargs = {name: state if item is old else item for name, item in cut[1].items()}
        for place in self.caches:
            holder: Any = args if isinstance(place, int) else kwargs
            holder[place] = Before(start)
        return args, kwargs

    def added_before(self, below: "Call") -> torch.Tensor | None:
        """[1, T, C] what the model adds between the layer below and this one; None for nothing."""
        return None if torch.equal(self.hidden, below.output) else self.hidden - below.output


class Before:
    """In the place of a key/value cache: so many positions came before. `attend` adds their keys."""

    def __init__(self, count: int) -> None:
        self.count = count

    def get_seq_length(self, *_: Any, **__: Any) -> int:
        return self.count

    def update(self, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return key, value


@dataclass
class Passage:
    """A recorded forward over T positions."""

    calls: list[Call]
    logits: torch.Tensor  # [V] at the last position

    @property
    def length(self) -> int:
        return self.calls[0].hidden.shape[1]

    def reach(self, first: int, last: int, edits: Sequence["Edit"], stateful: bool = False) -> "Reach":
        """What edits that hold in layers `first` to `last` can change, by what every position can see.

        Args:
            stateful: layers may also carry a state from position to position (Mamba), or make masks of their input.
        """
        length = self.length
        last_only = torch.tensor([edit.last_only for edit in edits], dtype=torch.bool).unsqueeze(1)
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        members = torch.zeros(len(edits), length)
        for row, edit in enumerate(edits):
            members[row, list(edit.positions)] = 1
        seen = {id(call.bias): _visible(call.bias, length) for call in self.calls[first:]}
        changed = torch.zeros(len(edits), length, dtype=torch.bool)  # the states that an edit can change
        done: set[tuple[int, bool]] = set()  # what cannot change any more
        moved = []
        for index, call in enumerate(self.calls[first:], start=first):
            step = (id(call.bias), index <= last)
            if step not in done:
                sees = seen[id(call.bias)]
                further = _any(changed, sees | causal if stateful else sees)
                if index <= last:
                    reads = _any(members, sees)
                    reads[:, :-1] = False
                    further |= torch.where(last_only, reads, _any(members, sees & causal.tril(-1)))
                if (further & ~changed).any():
                    changed, done = changed | further, set()
                else:
                    done.add(step)
            moved.append(changed[:, -1])
        starts = torch.where(changed.any(dim=1), changed.int().argmax(dim=1), length)
        return Reach(starts.tolist(), torch.stack(moved, dim=1))


def _visible(bias: torch.Tensor | None, length: int) -> torch.Tensor:
    """[T, T] bool: whether a position (row) can see another (column), with any head."""
    if bias is None:
        return torch.zeros(length, length, dtype=torch.bool)
    return ~bias.isneginf().all(dim=1)[0].cpu()


def _any(positions: torch.Tensor, sees: torch.Tensor) -> torch.Tensor:
    """[B, T] bool: which positions see any of `positions` [B, T]."""
    return positions.float() @ sees.T.float() > 0


@dataclass(frozen=True)
class Edit:
    """What one row of a carried run does not read."""

    positions: tuple[int, ...]  # sorted
    last_only: bool  # only the last position stops reading them; else every later one


@dataclass
class Reach:
    """What B edits can change; all else stays exactly as it is."""

    starts: list[int]  # the first position whose state can change in any layer; T where none can
    moved: torch.Tensor  # [B, L] bool: whether the last position's can, after each of L layers from the first masked on


@dataclass
class Carried:
    """What B edits lead to at the last position."""

    logits: torch.Tensor  # [B, V]
    states: dict[int, torch.Tensor]  # after each layer from the first masked one on: [B, C]


def record_passage(
    model: PreTrainedModel, inputs: Mapping[str, torch.Tensor], together: Sequence[tuple[int, int]] = ()
) -> Passage:
    """One forward of the model over its whole input, recorded.

    Args:
        inputs: the model's inputs; "input_ids" [1, T].
        together: ranges [first, last) of positions that see each other, whatever the model's own mask says.
    """
    calls = [Call(layer) for layer in decoder_layers(model)]
    inside: list[Call] = []
    masks: dict[Any, tuple[Any, torch.Tensor]] = {}  # most layers share one mask
    name = implementation(model)

    def before(call: Call) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            seen: dict[int, Any] = {}
            call.args, call.kwargs = (changed(each, torch.clone, seen) for each in (args, kwargs))
            given: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
            call.caches = tuple(place for place, item in given if hasattr(item, "get_seq_length"))
            call.hidden = call.args[0] if args else call.kwargs["hidden_states"]
            inside[:] = [call]

        return hook

    def after(call: Call) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            call.output = layer_output(output).clone()
            call.rest = output[1:] if isinstance(output, tuple) else None
            inside.clear()

        return hook

    def attend(
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: Any,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        mask = attention_mask
        if inside and together:
            mask = seeing_each_other(mask, query, together)
        if inside:
            causal = _is_causal(module, name, kwargs) if mask is None else None
            shared = (id(mask), causal, key.device)
            if shared not in masks:  # the mask is held, so that its id stays its own
                masks[shared] = mask, whole_bias(query, key, mask, causal)
            inside[0].keys, inside[0].values, inside[0].bias = key, value, masks[shared][1]
        return attention_function(name, module)(module, query, key, value, mask, **kwargs)

    with ExitStack() as undo:
        for call in calls:
            undo.callback(call.layer.register_forward_pre_hook(before(call), with_kwargs=True).remove)
            undo.callback(call.layer.register_forward_hook(after(call)).remove)
        logits = _forward(model, inputs, attend)
    return Passage(calls, logits)


def _forward(model: PreTrainedModel, inputs: Mapping[str, torch.Tensor], attend: Callable[..., Any]) -> torch.Tensor:
    """[V] the model's own logits at the last position, its decoder's attention computed by `attend`."""
    logits: list[torch.Tensor] = []
    settings = GenerationConfig(max_new_tokens=1, do_sample=False, use_cache=True, pad_token_id=0)
    with torch.no_grad(), ExitStack() as undo:
        undo.callback(model.register_forward_hook(lambda _, __, out: logits.append(out.logits[0, -1].clone())).remove)
        undo.enter_context(routed_attention(attend, decoder_configs(model), implementation(model)))
        undo.enter_context(greedy(model))
        model.generate(**inputs, generation_config=settings)
    return logits[0]


def _is_causal(module: nn.Module, name: str, kwargs: Mapping[str, Any]) -> bool:
    """Whether a call without a mask over all positions is causal: sdpa then is by itself, eager sees everything."""
    given = kwargs.get("is_causal")
    return name == "sdpa" and (getattr(module, "is_causal", True) if given is None else given)


def whole_bias(query: torch.Tensor, key: torch.Tensor, mask: Any, causal: bool | None) -> torch.Tensor:
    """What a forward of n queries over all T keys adds to its logits: [1, 1 or H, n, T], as `capture.Recorder` reads
    it."""
    if mask is not None:
        return additive(mask[:1, :, :, : key.shape[2]], query.dtype)
    visible = torch.ones(1, 1, query.shape[2], key.shape[2], dtype=torch.bool, device=key.device)
    return additive(visible.tril() if causal else visible, query.dtype)


class Carrier:
    """Runs masked passages of one recorded forward."""

    def __init__(self, model: PreTrainedModel, passage: Passage, whole: "Forwards") -> None:
        """Raises UnsupportedModel where it does not give what the record, or `whole`, gives."""
        self.model, self.passage, self.ablation = model, passage, whole.ablation
        self.name = implementation(model)
        kept = "logits_to_keep" in inspect.signature(model.forward).parameters
        self.one_row = {"logits_to_keep": 1} if kept else {}  # the head is the largest matrix of a small model
        calls = passage.calls
        self.between = [None, *(above.added_before(below) for below, above in itertools.pairwise(calls))]
        self.noise = self._check(whole)

    def _check(self, whole: "Forwards") -> dict[str, float]:
        """How far this is from the model's own: without a mask, and without one token in the middle."""
        length, last = self.passage.length, len(self.passage.calls) - 1
        middle = (length - 1) // 2
        nothing, gone, unread = Edit((), False), Edit((middle,), False), Edit((middle,), True)
        recorded = self.passage.calls[last].output[0, -1]
        noise = {"final_l2": 0.0, "relative": 0.0, "logit": 0.0}
        for start, edit, expected in (
            (0, nothing, (recorded, self.passage.logits)),
            (length - 1, nothing, (recorded, self.passage.logits)),
            (min(*self.reach(0, last, [gone]).starts, length - 1), gone, whole.end(gone)),
            (length - 1, unread, whole.end(unread)),
        ):
            try:
                found = self.run(0, last, start, [edit])
            except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
                if is_out_of_memory(error):
                    raise
                what = f"it cannot be carried on by rows ({' '.join(str(error).split())[:200]})"
                raise unsupported(self.model, 0, what) from error
            apart = held_against(self.model, found, *expected, "carried on by rows")
            noise = {name: max(value, apart[name]) for name, value in noise.items()}
        return noise

    def reach(self, first: int, last: int, edits: Sequence[Edit]) -> Reach:
        return self.passage.reach(first, last, edits)

    def abreast(self, rows: int) -> bool:
        """Whether the edits of a run share their keys, and need no copies of them."""
        return rows == 1 and self.name == "sdpa" and self.ablation == "neg-inf"

    def attended(self, rows: int) -> int:
        """About how many numbers one edit's attention takes: keys, values, and copies of them for each query head;
        biases, or weights.
        """
        keys = next(call.keys for call in self.passage.calls if call.keys is not None)
        heads = self.model.config.get_text_config(decoder=True).num_attention_heads
        weights = 2 if self.name == "sdpa" and self.ablation == "neg-inf" else 4 * heads
        copies = 0 if self.abreast(rows) else 2 * (keys.shape[1] + heads) * keys.shape[3]
        return self.passage.length * (copies + rows * weights)

    def run(self, first: int, last: int, start: int, edits: Sequence[Edit]) -> Carried:
        """Mask in layers `first` to `last` on rows from position `start` on, and carry on to the end.

        `start` must not be after the first position that changes. All B edits are run in one forward.
        """
        calls, count = self.passage.calls, len(edits)
        length = self.passage.length
        rows = length - start
        unread = edited_positions(edits, start, length)  # [B, 1, n, T]
        abreast = self.abreast(rows)
        biases: dict[tuple[int, bool], Bias] = {}  # most layers share one
        states: dict[int, torch.Tensor] = {}
        inside: list[int] = []

        def forward(index: int, compute: Callable[..., Any]) -> Callable[..., Any]:
            call = calls[index]

            def carried(hidden: torch.Tensor | None = None, *_: Any, **given: Any) -> Any:
                passed = given["hidden_states"] if hidden is None else hidden  # what the layer below gave
                if index < first:
                    return self._as_returned(call, passed)
                if index == first:
                    state = call.hidden[:, start:].repeat(count, 1, 1)  # copies: a layer may write into its input
                else:
                    added = self.between[index]
                    state = passed if added is None else passed + added[:, start:]
                args, kwargs = call.arguments(state, start)
                inside[:] = [index]
                output = layer_output(compute(*args, **kwargs))
                inside.clear()
                states[index] = output[:, -1].clone()  # without all other rows
                return self._as_returned(call, output)

            return carried

        def bias_of(index: int) -> Bias:
            recorded, edited = calls[index].bias, first <= index <= last
            assert recorded is not None
            if (id(recorded), edited) not in biases:
                cut = recorded[:, :, start:]
                hidden = unread.to(cut.device) if edited else None
                made = Bias.of(cut, hidden, self.ablation)
                biases[id(recorded), edited] = made.abreast(count) if abreast else made
            return biases[id(recorded), edited]

        def attend(
            module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **kwargs: Any
        ) -> tuple[torch.Tensor, torch.Tensor | None]:
            kwargs.pop("attention_mask", None)
            call, bias = calls[inside[0]], bias_of(inside[0])
            assert call.keys is not None and call.values is not None
            before = [recorded[:, :, :start] for recorded in (call.keys, call.values)]  # [1, G, start, D]
            if abreast:
                return attend_abreast(self.name, module, query, before, [key, value], bias, kwargs)
            keys, values = (
                torch.cat([recorded.expand(count, -1, -1, -1), own], dim=2)
                for recorded, own in zip(before, (key, value), strict=True)
            )
            return edited_attention(self.name, module, query, keys, values, bias, kwargs)

        ids = torch.zeros(count, rows, dtype=torch.int64, device=calls[0].hidden.device)
        with torch.no_grad(), ExitStack() as undo:
            for index, call in enumerate(calls):
                undo.enter_context(replaced_forward(call.layer, forward(index, call.layer.forward)))
            undo.enter_context(routed_attention(attend, decoder_configs(self.model), self.name))
            output = self.model(input_ids=ids, use_cache=False, **self.one_row)
        return Carried(output.logits[:, -1], states)

    @staticmethod
    def _as_returned(call: Call, output: torch.Tensor) -> Any:
        return output if call.rest is None else (output, *call.rest)


@dataclass
class Bias:
    """What is added to the logits of n rows, with what an edit takes out of them."""

    added: torch.Tensor  # [B or 1, 1 or H, n, T]
    blind: torch.Tensor | None  # [B or 1, n, 1 or H, 1] bool, rows that see nothing; None: every row sees something
    zeroed: torch.Tensor | None = None  # [B, 1, n, T] bool, what keeps its weight and gives nothing

    @classmethod
    def of(cls, bias: torch.Tensor, edited: torch.Tensor | None, ablation: str) -> "Bias":
        """`bias` [1, 1 or H, n, T] without what is `edited` [B, 1, n, T]."""
        if ablation == "zero-value" and edited is not None:
            return cls(bias, None, edited)
        bias = bias if edited is None else bias.masked_fill(edited, float("-inf"))
        blind = bias.isneginf().all(dim=-1).transpose(1, 2).unsqueeze(-1)
        return cls(bias, blind if blind.any() else None)

    def abreast(self, count: int) -> "Bias":
        """Of B times one row, for B rows over the same keys, each with a key of its own at the end."""
        added = self.added.expand(count, -1, -1, -1).permute(2, 1, 0, 3)  # [1, 1 or H, B, T]
        own = torch.eye(count, dtype=torch.bool, device=added.device)
        own_added = torch.where(own, added[..., -1:], float("-inf"))  # [1, 1 or H, B, B]
        blind = None if self.blind is None else self.blind.expand(count, -1, -1, -1).transpose(0, 1)
        return Bias(torch.cat([added[..., :-1], own_added], dim=-1), blind)


def edited_attention(
    name: str,
    module: nn.Module,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    bias: Bias,
    kwargs: dict[str, Any],
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The family's attention with what is edited out of it: output [B, n, H, D].

    Args:
        query: [B, H, n, D]; keys, values: [B, G, T, D].
        kwargs: further arguments of the attention call.
    """
    if "is_causal" in kwargs:
        kwargs = kwargs | {"is_causal": False}  # the bias says what can be seen
    added = bias.added.to(query.dtype)
    if bias.zeroed is not None:
        output, weights = eager_attention(module)(module, query, keys, values, added, **kwargs)
        assert weights is not None
        values = values.repeat_interleave(query.shape[1] // values.shape[1], dim=1)
        return output - torch.einsum("bhnt,bhtd->bnhd", weights.masked_fill(~bias.zeroed, 0), values), None
    output, _ = attention_function(name, module)(module, query, keys, values, added, **kwargs)
    return output if bias.blind is None else output.masked_fill(bias.blind, 0.0), None


def attend_abreast(
    name: str,
    module: nn.Module,
    query: torch.Tensor,
    before: Sequence[torch.Tensor],
    own: Sequence[torch.Tensor],
    bias: Bias,
    kwargs: dict[str, Any],
) -> tuple[torch.Tensor, None]:
    """B rows of one position as B queries over the same keys: copies for every row would take most of the time.

    Args:
        query: [B, H, 1, D].
        before: keys and values [1, G, T - 1, D] of the positions before; own: of each row [B, G, 1, D].
        bias: made for this by `Bias.abreast`.
    """
    keys, values = (torch.cat([all_of, mine.transpose(0, 2)], dim=2) for all_of, mine in zip(before, own, strict=True))
    output, _ = edited_attention(name, module, query.transpose(0, 2), keys, values, bias, kwargs)
    return output.transpose(0, 1), None


def held_against(
    model: PreTrainedModel, found: Carried, state: torch.Tensor, logits: torch.Tensor, how: str
) -> dict[str, float]:
    """How far one carried run is from the model's own last state [C] and logits [V].

    `how` it was carried begins the message of the UnsupportedModel that is raised beyond rounding.
    """
    last = max(found.states)
    expected = state.cpu().double()  # Metal has no float64
    l2 = (found.states[last][0].cpu().double() - expected).norm().item()
    relative = l2 / max(expected.norm().item(), 1e-30)
    if not relative <= ROUNDING[state.dtype]:
        raise unsupported(model, last, f"{how}, its last state differs from the model's own by {relative:.2g}")
    return {"final_l2": l2, "relative": relative, "logit": (found.logits[0] - logits).abs().max().item()}


class Forwards:
    """Masked forwards of the whole model, one for each edit: for families whose layers cannot be carried on by rows.

    A layer that keeps a state over the whole text (Mamba, linear attention) does not fit in rows.
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
        self.ablation, self.name = ablation, implementation(model)
        self.noise = {"final_l2": 0.0, "relative": 0.0, "logit": 0.0}

    def reach(self, first: int, last: int, edits: Sequence[Edit]) -> Reach:
        return self.passage.reach(first, last, edits, stateful=True)

    def attended(self, rows: int) -> int:
        """Nothing that adds up: one edit is run at a time."""
        return 0

    def run(self, first: int, last: int, start: int, edits: Sequence[Edit]) -> Carried:
        """As Carrier.run; `start` only says where changes can begin."""
        found = [self._one(first, last, edit) for edit in edits]
        states = {
            index: torch.stack([states[index] for _, states in found]) for index in range(first, len(found[0][1]))
        }
        return Carried(torch.stack([logits for logits, _ in found]), states)

    def end(self, edit: Edit) -> tuple[torch.Tensor, torch.Tensor]:
        """[C] last state and [V] logits where `edit` holds in every layer."""
        logits, states = self._one(0, len(self.passage.calls) - 1, edit)
        return states[len(states) - 1], logits

    def _one(self, first: int, last: int, edit: Edit) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
        length = self.passage.length
        unread = edited_positions([edit], 0, length)
        states: dict[int, torch.Tensor] = {}
        inside: list[int] = []

        def attend(
            module: nn.Module,
            query: torch.Tensor,
            key: torch.Tensor,
            value: torch.Tensor,
            attention_mask: Any,
            **kwargs: Any,
        ) -> tuple[torch.Tensor, torch.Tensor | None]:
            mask = attention_mask
            if inside and self.together:
                mask = seeing_each_other(mask, query, self.together)
            if inside and first <= inside[0] <= last:
                recorded = whole_bias(query, key, mask, _is_causal(module, self.name, kwargs))
                bias = Bias.of(recorded, unread.to(key.device), self.ablation)
                return edited_attention(self.name, module, query, key, value, bias, kwargs)
            return attention_function(self.name, module)(module, query, key, value, mask, **kwargs)

        with ExitStack() as undo:
            for index, call in enumerate(self.passage.calls):

                def before(*_: Any, index: int = index) -> None:
                    inside[:] = [index]

                def after(_: nn.Module, __: Any, output: Any, index: int = index) -> None:
                    states[index] = layer_output(output)[0, -1].clone()
                    inside.clear()

                undo.callback(call.layer.register_forward_pre_hook(before).remove)
                undo.callback(call.layer.register_forward_hook(after).remove)
            return _forward(self.model, self.inputs, attend), states


def edited_positions(edits: Sequence[Edit], start: int, length: int) -> torch.Tensor:
    """[B, 1, n, T] bool: which positions (last axis) each row from `start` on does not read."""
    edited = torch.zeros(len(edits), 1, length - start, length, dtype=torch.bool)
    for row, edit in enumerate(edits):
        members = list(edit.positions)
        if edit.last_only:
            edited[row, 0, -1, members] = True
        else:
            edited[row, 0, :, members] = torch.arange(start, length)[:, None] > torch.tensor(members)
    return edited
