"""Generate once and record what every layer of a tower saw at the query positions.

In: a model, its inputs, and which positions are query positions. Out: a `Recording`: for each layer its attention's
keys and values, and for each query position the layer's call cut down to that row; and the generated tokens.

The recorded forwards are the model's own generation: the prompt's forward, then one cached forward per further token.
Each generation step is measured on exactly what the model computed for it, and no forward is run twice. The layers are
watched inside the real forward, so image features, rotary positions, masks and whatever a model adds between layers are
in place by construction.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig, PreTrainedModel

from mask_impact.errors import UnsupportedModel
from mask_impact.model.attention import Attention
from mask_impact.model.call_rows import at_row, changed
from mask_impact.model.generation import Following, all_rows, decoder_beginning, greedy
from mask_impact.model.layers import layer_input, layer_output, only_vectors
from mask_impact.model.load import input_device
from mask_impact.model.masks import seeing_each_other
from mask_impact.model.memory import explained, release_free_memory
from mask_impact.model.towers import family, named, refusing
from mask_impact.model.watching import AttentionCall, AttentionResult, inside


@dataclass
class QueryRecord:
    """One layer at one query position, or at Q of them (`together.py`): its call cut down to their rows, and what came
    out."""

    position: int
    args: tuple[Any, ...]  # the layer's arguments, every tensor cut to this row
    kwargs: dict[str, Any]
    hidden: torch.Tensor  # [1, Q, C] layer input, one of the arguments
    query: torch.Tensor  # [Q, H, 1, D] after position embedding
    bias: torch.Tensor  # [Q, 1 or H, 1, T] added to the logits; -inf: cannot be seen
    options: dict[str, Any]  # further arguments of the attention call
    heads: torch.Tensor  # [Q, H, D] attention output, before the output projection
    output: torch.Tensor  # [1, Q, C] layer output
    branches: list[dict[str, Any]]  # for each row what each direct submodule of the layer gave
    options_by_query: tuple[str, ...] = ()  # the options that have an entry for each of Q rows


@dataclass
class LayerRecord:
    """One layer, and one attention in it."""

    index: int
    layer: nn.Module
    attention: Attention | None = None  # None: the layer never called the attention interface
    queries: dict[int, QueryRecord] = field(default_factory=dict)  # by position
    # In an encoder-decoder's decoder: the same layer with its cross-attention; of that one, with its self-attention.
    other: "LayerRecord | None" = None
    is_cross: bool = False  # the attention is to the encoder
    passes: int = 0  # in the last forward; of a layer that runs more than once, the last pass is recorded

    @property
    def attends(self) -> bool:
        """Whether it has softmax attention."""
        return self.attention is not None


@dataclass
class Recording:
    """A finished generation: the layers' records and the generated tokens."""

    layers: list[LayerRecord]
    tokens: list[int]  # generated ids, or those of a given answer
    probabilities: list[float]  # of each of them, 0 to 1
    seconds: list[float]  # of each forward: the prompt's, then one per further token
    logits: torch.Tensor  # [V] after the prompt
    own: list[tuple[int, float]]  # what the model itself would have chosen at each of them, and its probability

    def with_attention(self) -> list[LayerRecord]:
        """The layers with softmax attention."""
        return [record for record in self.layers if record.attends]

    def without_attention(self) -> list[LayerRecord]:
        """The layers without softmax attention: state space, linear attention, convolution."""
        return [record for record in self.layers if not record.attends]


class Recorder:
    """Fills one LayerRecord per layer while the model runs."""

    def __init__(
        self,
        model: PreTrainedModel,
        wanted: Callable[[int], bool],
        together: Sequence[tuple[int, int]] = (),
        tower: str = "decoder",
    ) -> None:
        chosen = named(model.config, tower)
        self.model = model
        self.together = together  # ranges of positions whose tokens are made to see each other
        self.wanted = wanted  # which positions are query positions
        self.layers = chosen.layers(model)
        self.reads_encoder = chosen.reads_encoder
        self.records = [LayerRecord(index, layer) for index, layer in enumerate(self.layers)]
        self.ended = True  # the last forward; the next layer called begins one
        self.position = 0  # of the running forward's first token
        self.count = 0  # tokens in the running forward
        self.rows: list[int] = []  # which of them are at query positions
        self.parts: dict[int, dict[str, Any]] = {}  # what is known of each QueryRecord of the running layer
        self.cross_parts: dict[int, dict[str, Any]] = {}  # what is different in its cross-attention
        self.cut: dict[int, Any] = {}  # rows already cut for the running layer
        self.attended = False  # whether the running layer has called its attention

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record until the block ends; the model is then as it was."""
        with ExitStack() as undo:
            for index, layer in enumerate(self.layers):
                for name, child in layer.named_children():
                    undo.callback(child.register_forward_hook(self._branch(index, name, child)).remove)
            undo.callback(self.model.register_forward_hook(self._end).remove)
            undo.enter_context(
                inside(
                    self.model,
                    self.layers,
                    entering=self._entering,
                    attending=self._attending,
                    leaving=self._leaving,
                )
            )
            yield

    def _end(self, *_: Any) -> None:
        self.ended = True

    def _entering(self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = layer_input(self.layers[index], args, kwargs)
        if hidden.ndim != 3:
            raise self._unsupported(f"the input of layer {index} is not one vector for every token")
        if self.ended:
            self.ended = False
            for record in self.records:
                record.passes = 0
            self.position += self.count
            self.count = hidden.shape[-2]
            self.rows = [row for row in range(self.count) if self.wanted(self.position + row)]
        self.records[index].passes += 1
        self.parts, self.cross_parts, self.cut, self.attended = {}, {}, {}, False
        for row in self.rows:
            position = self.position + row
            self.parts[position] = {
                "position": position,
                "args": at_row(args, row, self.count, self.cut),
                "kwargs": at_row(kwargs, row, self.count, self.cut),
                "hidden": at_row(hidden, row, self.count, self.cut),
                "branches": [{}],
            }

    def _branch(self, index: int, name: str, child: nn.Module) -> Callable[..., None]:
        """Keeps what a submodule of a layer gave, where a replay can use it: not if its attention is in it, which is
        answered; and of a norm, a dropout or an activation only if it comes before attention."""
        within: list[bool] = []  # whether the attention is; found out once, after the first call
        alone = only_vectors(child)

        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if not within:
                attention = self.records[index].attention
                within.append(attention is not None and any(each is attention.module for each in module.modules()))
            if within[0] or (alone and self.attended):
                return
            for position, part in self.parts.items():
                (branches,) = part["branches"]
                row = at_row(output, position - self.position, self.count, {})
                branches[name] = None if name in branches else row

        return hook

    def _leaving(self, index: int, output: Any) -> None:
        record = self.records[index]
        if self.reads_encoder and record.attention and record.other is None:  # T5Gemma 2 reads both in one attention
            raise self._unsupported(
                f"layer {index} of its decoder does not have one attention to its own tokens and one to the encoder's"
            )
        for row in self.rows if record.attention else ():
            position = self.position + row
            rows = layer_output(output).narrow(-2, row, 1).clone()
            part = self.parts[position]
            if part["hidden"].device != rows.device:  # accelerate moves a layer's inputs only after our first hook
                part = changed(part, partial(torch.Tensor.to, device=rows.device), {})
            record.queries[position] = QueryRecord(**part, output=rows)
            if record.other is not None:
                record.other.queries[position] = QueryRecord(**part | self.cross_parts[position], output=rows)
        self.parts, self.cross_parts, self.cut = {}, {}, {}

    def _attending(self, index: int, call: AttentionCall) -> AttentionResult:
        if self.together and self.position == 0:
            call.mask = seeing_each_other(call.mask, call.query, self.together)
        result = call.compute()
        self.attended = True
        record = self.records[index]
        site = None if call.positional else self._site(record, call.module)
        if site is None:
            raise self._unsupported(
                f"layer {index} computes attention more than once, or not with the arguments of transformers' "
                "attention interface"
            )
        if not site.is_cross and self.position == 0 and call.key.shape[2] != self.count:  # Mllama's read the picture
            raise self._unsupported(f"layer {index} attends to something other than the tokens of its input")
        self._keep_keys(site, call)
        parts = self.cross_parts if site.is_cross else self.parts
        for row in self.rows:
            parts.setdefault(self.position + row, {}).update(
                query=call.query[:, :, row : row + 1].clone(),
                bias=self._bias(site, call, row),
                options=at_row(call.options, row, self.count, self.cut),
                heads=result[0][:, row].clone(),
            )
        return result

    def _site(self, record: LayerRecord, module: nn.Module) -> LayerRecord | None:
        """Where the running layer's call of `module` is recorded; None for a call that is one too many."""
        if record.attention is None or record.attention.module is module:
            return record
        if self.reads_encoder and record.other is None:
            record.other = LayerRecord(record.index, record.layer, other=record, is_cross=True)
        cross = record.other
        return cross if cross and (cross.attention is None or cross.attention.module is module) else None

    def _keep_keys(self, site: LayerRecord, call: AttentionCall) -> None:
        """Keys and values of all positions so far; those of the encoder stay as they were first seen."""
        if site.attention is None:
            site.attention = Attention(call.module, call.key, call.value)
        elif not site.is_cross:
            total = self.position + self.count
            site.attention.keys = _extended(site.attention.keys, call.key, self.count, total)
            site.attention.values = _extended(site.attention.values, call.value, self.count, total)

    def _bias(self, site: LayerRecord, call: AttentionCall, row: int) -> torch.Tensor:
        """What is added to the logits of `row`: [1, 1 or H, 1, T] over the encoder's positions, or over positions 0 to
        T - 1 of the layer's own, later ones only where the row sees any of them.
        """
        if site.is_cross:
            return call.bias(causal=False, rows=slice(row, row + 1))
        bias = call.bias(causal=call.causal, rows=slice(row, row + 1))
        dropped = self.position + self.count - call.key.shape[2]  # the oldest positions, by a sliding cache
        bias = nn.functional.pad(bias, (dropped, 0), value=float("-inf"))
        end = self.position + row + 1
        later = bias[..., end:]
        return bias[..., :end].clone() if not later.numel() or later.isneginf().all() else bias

    def _unsupported(self, what: str) -> UnsupportedModel:
        return UnsupportedModel(f"model family '{family(self.model)}' is not supported: {what}")


def _extended(recorded: torch.Tensor, seen: torch.Tensor, count: int, total: int) -> torch.Tensor:
    """Keys or values of all positions so far; `seen` is what the attention got: all, or a sliding cache's last."""
    if seen.shape[2] == total:
        return seen
    return torch.cat([recorded, seen[:, :, -count:]], dim=2)


@contextmanager
def _timed(
    model: nn.Module, seconds: list[float], logits: list[torch.Tensor], progress: Callable[[], None]
) -> Iterator[None]:
    """Append the duration of each forward of `model`, and of the first its last logits [V]. The first begins here,
    since `generate` may compute image features before it."""
    devices = {
        device for device in (input_device(model), *(p.device for p in model.parameters())) if device.type == "cuda"
    }

    def now() -> float:
        for device in devices:
            torch.cuda.synchronize(device)
        return time.perf_counter()

    def after(module: nn.Module, args: Any, output: Any) -> None:
        seconds.append(now() - started.pop())
        if not logits:
            logits.append(output.logits[0, -1].clone())
        release_free_memory()
        progress()

    def before(*_: Any) -> None:
        if not started:
            started.append(now())

    started = [now()]
    handles = [
        model.register_forward_pre_hook(before),
        model.register_forward_hook(after),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _offloaded_weights_found(model: PreTrainedModel) -> Iterator[None]:
    """Refuse a model whose code reads offloaded weights outside of their module's call, where they are not there."""
    try:
        yield
    except RuntimeError as error:
        if "meta" not in str(error) or not any(parameter.is_meta for parameter in model.parameters()):
            raise
        raise UnsupportedModel(
            f"model family '{family(model)}' cannot be computed with weights off its device ({error}); raise "
            "`max_memory` until all of it fits, or leave out `device_map`"
        ) from error


def record_generation(
    model: PreTrainedModel,
    inputs: Mapping[str, torch.Tensor],
    answer: int | Sequence[int],
    stop_ids: list[int],
    queries: Callable[[int], bool] | None = None,
    together: Sequence[tuple[int, int]] = (),
    progress: Callable[[], None] = lambda: None,
    tower: str = "decoder",
) -> Recording:
    """Generate greedily with the KV cache, or follow a given answer, recording every layer of the decoder.

    Args:
        inputs: the model's inputs; "input_ids" [1, N].
        answer: how many tokens to generate at most, or the ids of the given answer.
        stop_ids: generation ends after one of these ids.
        queries: which positions are recorded; by default those that predict an output token.
        together: ranges [first, last) of prompt positions that see each other, whatever the model's own mask says.
        progress: called after each forward.
        tower: of an encoder-decoder, "encoder" records the encoder's layers instead.

    Raises UnsupportedModel when no layer calls transformers' attention interface or the model's own code fails,
    OutOfMemory when a forward does not fit: it cannot be split.
    """
    predicting = 0 if model.config.is_encoder_decoder else inputs["input_ids"].shape[1] - 1
    recorder = Recorder(model, queries or (lambda position: position >= predicting), together, tower)
    with recorder.recording():
        generated = generate(model, inputs, answer, stop_ids, progress)
    recording = Recording(recorder.records, *generated)
    if not recording.with_attention():
        raise UnsupportedModel(
            f"model family '{family(model)}' is not supported: it does not compute its attention through "
            "transformers' AttentionInterface, so its layers cannot be replayed"
        )
    return recording


def generate(
    model: PreTrainedModel,
    inputs: Mapping[str, torch.Tensor],
    answer: int | Sequence[int],
    stop_ids: list[int],
    progress: Callable[[], None],
    use_cache: bool = True,
) -> tuple[list[int], list[float], list[float], torch.Tensor, list[tuple[int, float]]]:
    """The fields of a `Recording` after its layers: of what the model generates greedily, or of the given answer.

    Raises as `record_generation`.
    """
    following = Following([] if isinstance(answer, int) else answer)
    prompt_length = inputs["input_ids"].shape[1]
    seconds: list[float] = []
    logits: list[torch.Tensor] = []
    settings = GenerationConfig(
        max_new_tokens=answer if isinstance(answer, int) else len(answer),
        do_sample=False,
        use_cache=use_cache,
        eos_token_id=stop_ids or None,
        pad_token_id=stop_ids[0] if stop_ids else 0,
        return_dict_in_generate=True,
        output_scores=True,
        **decoder_beginning(model),
        **all_rows(model),
    )

    def forward() -> str:
        whose = "a generated token's" if seconds else "the prompt's"
        return f"{whose} forward over {prompt_length + len(seconds)} tokens"

    with (
        explained(forward),
        refusing(model, "its own code fails when it generates"),
        _offloaded_weights_found(model),
        torch.no_grad(),
        greedy(model),
        _timed(model, seconds, logits, progress),
    ):
        found = model.generate(**inputs, generation_config=settings, **following.processors())
    predicted = [scores[0].float().softmax(dim=-1) for scores in following.scores or found.scores]  # [V] each
    tokens = found.sequences[0, -len(predicted) :].tolist()
    probabilities = [each[token].item() for each, token in zip(predicted, tokens, strict=True)]
    own = [(int(each.argmax()), each.max().item()) for each in predicted]
    return tokens, probabilities, seconds, logits[0], own
