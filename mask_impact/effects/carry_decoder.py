"""Carry masks on to the logits in the decoder of an encoder-decoder.

In: a model and its inputs, edits, and the layers in which they hold. Out: as in `carry`.

The encoder runs once: its keys and values, and its output, are those of the record. The decoder has few tokens (a start
token and the output so far), so a masked run is one forward of the decoder over all of them, for B edits at once. The
encoder's positions are masked in cross-attention, the decoder's in self-attention; the encoder's are counted first
(`prompt/positions.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import nn
from transformers import EncoderDecoderCache, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from mask_impact.effects.carry import Begins, Carried, uncounted
from mask_impact.effects.edits import Edit, EditedBiases, EditedLayers, edited_attention, edited_positions
from mask_impact.effects.recorded_forward import Predictions, Reach
from mask_impact.errors import UnsupportedModel
from mask_impact.model.attention import Attention, add_encoded, implementation
from mask_impact.model.layers import layer_input, layer_output
from mask_impact.model.towers import decoder_layers, family, named, refusing
from mask_impact.model.watching import AttentionCall, AttentionResult, inside


@dataclass
class Read:
    """One attention of a layer, of M decoder positions over T of the decoder or the encoder."""

    keys: torch.Tensor  # [1, G, T, D]
    values: torch.Tensor
    bias: torch.Tensor  # [1, 1 or H, M, T] added to the logits; -inf: cannot be seen


@dataclass
class DecoderCall:
    """One decoder layer."""

    hidden: torch.Tensor = field(default_factory=lambda: torch.empty(0))  # [1, M, C]
    output: torch.Tensor = field(default_factory=lambda: torch.empty(0))  # [1, M, C]
    reads: dict[nn.Module, Read] = field(default_factory=dict)  # self-attention's, then cross-attention's


@dataclass
class Decoding(Predictions):
    """A recorded forward over N encoder and M decoder positions, of which the decoder's last predict."""

    calls: list[DecoderCall]
    encoded: torch.Tensor  # [1, N, C] what the encoder gave
    answer: torch.Tensor  # [1, M] the decoder's tokens

    @property
    def start(self) -> int:
        """The decoder's first position."""
        return self.encoded.shape[1]

    @property
    def length(self) -> int:
        return self.start + self.answer.shape[1]

    def cross_attentions(self) -> list[tuple[nn.Module, Read]]:
        return [list(call.reads.items())[1] for call in self.calls]


class DecoderCarrier:
    """Runs masked forwards of one recorded decoder."""

    def __init__(
        self, model: PreTrainedModel, inputs: Mapping[str, torch.Tensor], ablation: str = "neg-inf", steps: int = 1
    ) -> None:
        """
        Args:
            inputs: the model's, "decoder_input_ids" [1, M] with them.
            steps: how many of the last decoder positions predict a token.

        Raises UnsupportedModel where the decoder, run again without a mask, does not end as the model's own forward.
        """
        self.model, self.inputs, self.ablation = model, inputs, ablation
        self.name, self.begins = implementation(model), cast("Begins", uncounted)
        self.heads = named(model.config, "decoder").size(model.config)[1]
        self.passage = self._record(steps)
        self.noise = self._check()

    def _record(self, steps: int) -> Decoding:
        """The model's own forward."""
        layers = decoder_layers(self.model)
        calls = [DecoderCall() for _ in layers]

        def entering(index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            calls[index].hidden = layer_input(layers[index], args, kwargs)

        def attending(index: int, call: AttentionCall) -> None:
            reads = calls[index].reads
            bias = call.bias(causal=not reads)  # the first one reads the decoder's own tokens
            reads[call.module] = Read(call.key, call.value, bias)

        def leaving(index: int, output: Any) -> None:
            calls[index].output = layer_output(output).clone()

        with (
            torch.no_grad(),
            inside(self.model, layers, entering=entering, attending=attending, leaving=leaving),
        ):
            output = self.model(**self.inputs, use_cache=False)
        if any(len(call.reads) != 2 for call in calls):
            raise UnsupportedModel(
                f"model family '{family(self.model)}' is not supported: its decoder's layers do not have one "
                "self-attention and one cross-attention each"
            )
        return Decoding(
            calls, output.logits[0, -steps:].clone(), output.encoder_last_hidden_state, self.inputs["decoder_input_ids"]
        )

    def _check(self) -> dict[str, float]:
        """How far the decoder, run again without a mask, is from the record."""
        passage, last = self.passage, len(self.passage.calls) - 1
        with refusing(self.model, "its decoder cannot be run alone", layer=0):
            found = self.run(0, last, passage.start, [Edit(())])
        end = passage.ends[last], passage.logits
        return found.check_against(self.model, *end, "run again alone")

    def reach(self, first: int, last: int, edits: Sequence[Edit]) -> Reach:
        """Every decoder position sees all of the encoder's, and the decoder's up to itself."""
        start, length = self.passage.start, self.passage.length
        reads = edited_positions(edits, start, length).any(dim=-1)[:, 0].cumsum(dim=-1) > 0  # [B, M] from the first on
        layers = range(first, len(self.passage.calls))
        acts = torch.tensor([[layer <= last and edit.acts_in(layer) for layer in layers] for edit in edits])
        acts = acts.cumsum(dim=-1) > 0  # [B, layers]
        moved = reads[:, None, -self.passage.steps :] & acts[:, :, None]
        return Reach.of([start if move else length for move in moved.flatten(1).any(dim=-1).tolist()], moved)

    def attended(self, rows: int, by_head: bool = False) -> int:
        """About how many numbers one edit's attention takes: keys and values for each head, biases and weights."""
        self_read, _ = self.passage.calls[0].reads.values()
        heads, width = self_read.keys.shape[1], self_read.keys.shape[3]
        return self.passage.length * heads * (2 * width + 4 * rows)

    def run(self, first: int, last: int, start: int, edits: Sequence[Edit]) -> Carried:
        """Mask in layers `first` to `last`, and carry on to the end; all B edits in one forward of the decoder."""
        passage, count = self.passage, len(edits)
        unread = EditedLayers(edits, range(first, last + 1), self.heads, passage.start, passage.length)
        parts = slice(passage.start, None), slice(passage.start)  # what self-attention reads, and cross-attention
        cut: dict[tuple[int, int], torch.Tensor] = {}  # one tensor for all layers, whose biases are then one too
        biases = EditedBiases(self.ablation)  # T5's layers share theirs
        cross = [Attention(module, read.keys, read.values) for module, read in passage.cross_attentions()]
        states: dict[int, torch.Tensor] = {}

        def entering(index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if index >= first:
                self.begins(index)
            cache = next(item for item in (*args, *kwargs.values()) if isinstance(item, EncoderDecoderCache))
            add_encoded(cache, cross[index])

        def attending(index: int, call: AttentionCall) -> AttentionResult:
            reads, edited = passage.calls[index].reads, unread.of(index)
            if edited is not None:
                which = list(reads).index(call.module)
                edited = cut.setdefault((id(edited), which), edited[..., parts[which]])
            bias = biases.of(reads[call.module].bias, edited)
            keys, values = (each.expand(count, -1, -1, -1) for each in (call.key, call.value))
            return edited_attention(self.name, call.module, call.query, keys, values, bias, call.options)

        def leaving(index: int, output: Any) -> None:
            states[index] = layer_output(output)[:, -passage.steps :].clone()
            if index + 1 == len(layers):
                self.begins(len(layers))

        layers = decoder_layers(self.model)
        with (
            torch.no_grad(),
            inside(self.model, layers, entering=entering, attending=attending, leaving=leaving),
        ):
            output = self.model(
                encoder_outputs=BaseModelOutput(last_hidden_state=passage.encoded.expand(count, -1, -1)),
                attention_mask=self.inputs["attention_mask"].expand(count, -1),
                decoder_input_ids=passage.answer.expand(count, -1),
                use_cache=True,  # the model makes an empty one, and every layer finds the encoder's keys in it
            )
        return Carried(
            output.logits[:, -passage.steps :], {index: states[index] for index in range(first, len(passage.calls))}
        )
