"""A run in progress: measures one query position after the other, and gathers what it finds.

In:  recordings, one query position at a time.
Out: a Block for every layer, and the Findings that become the manifest.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mask_impact.distances import METRICS
from mask_impact.errors import UserError
from mask_impact.impact.manifest import Findings
from mask_impact.impact.meter import Impact, Meter, Wanted
from mask_impact.impact.reads import Reads
from mask_impact.impact.record import LayerRecord, Recording
from mask_impact.impact.sinks import Sinks
from mask_impact.impact.sums import Largest
from mask_impact.impact.top_tokens import TopTokens
from mask_impact.model.generation import decoder_start
from mask_impact.model.layers import last_pass_only
from mask_impact.model.memory import release_free_memory
from mask_impact.model.weights import check_finite, dtype_name
from mask_impact.options import VARIANTS, Progress
from mask_impact.prompt.inputs import Token, tokens_of
from mask_impact.prompt.prepared import Prepared
from mask_impact.prompt.units import MASKED, Unit
from mask_impact.table import CROSS, Block

# Queries that are measured together keep the blocks of all layers until these are written: at most so many numbers.
MOST_NUMBERS = 16 * 2**20
# The last of them has at most so many times the masks of the first, and a few more.
MORE, FEW = 1.25, 8


class Seen:
    """The units masked at a query that an attention sees, whose positions are `seen`; the same in all layers."""

    def __init__(self, units: Sequence[Unit], seen: range) -> None:
        masked = [unit for unit in units if unit.positions[0] in seen]
        self.units = [unit.positions for unit in masked]
        self.labels = [unit.label for unit in masked]
        self.positions = np.array([positions[0] for positions in self.units], np.int64)
        self.masks = [[member - seen.start for member in positions] for positions in self.units]
        self.first = seen.start


@dataclass
class Query:
    """A query position, the generation step that it predicts, and the units that are masked there."""

    step: int
    position: int
    units: Sequence[Unit]
    by_attention: dict[range, Seen] = field(default_factory=dict)

    def of(self, seen: range) -> Seen:
        if seen not in self.by_attention:
            self.by_attention[seen] = Seen(self.units, seen)
        return self.by_attention[seen]


@dataclass(frozen=True)
class Found:
    """What one attention of one layer gave at one query position."""

    block: Block
    masked: Seen
    impact: Impact


class Measurement:
    """A run in progress."""

    def __init__(self, model: Any, prepared: Prepared, write: Callable[[Block], None], progress: Progress) -> None:
        self.model, self.prepared, self.request = model, prepared, prepared.request
        self.write, self.progress = write, progress
        self.tokenizer = prepared.tokenizer
        self.units = self._every_token if prepared.plain else prepared.units
        self.places = prepared.places
        self.positions = prepared.queries
        self.metrics = self.request.metrics
        predicting = self.places.predicting
        self.top_from = predicting if self.positions[-1] >= predicting else 0  # the first query that counts for it
        self.start(Meter)

    def start(self, meter: type[Meter]) -> None:
        """Begin, or begin anew, with nothing found and this kind of meter."""
        full, attn, heads = (variant in self.request.variants for variant in VARIANTS)
        wanted = Wanted(full, attn, heads, self.request.head_space)
        self.meter = meter(self.model, wanted, self.request.ablation, self.metrics)
        tokens = self.prepared.inputs.tokens
        start = tokens_of(self.tokenizer, decoder_start(self.model), len(tokens))
        self.findings = Findings(tokens=[*tokens, *start], metrics=self.metrics, replay=meter.way)
        self.findings.notes = list(self.prepared.inputs.notes)
        self.findings.seconds = dict.fromkeys(("recorded_forward", "decode", "check", "replay", "write"), 0.0)
        self.top, self.reads, self.sinks = TopTokens(), Reads(self.prepared.plain), Sinks()
        self.masked: Sequence[Unit] = []  # at the query measured last
        self.names: dict[str, list[str]] = {}  # of the variants, by their prefix
        self.moved: Largest[tuple[int, ...]] = Largest()  # by a unit's positions, l2 of any variant, layer and step

    def add_generated(self, recording: Recording, stops: list[int]) -> None:
        """Take over the generated tokens, and check the recording."""
        found = recording.tokens, recording.probabilities, recording.own
        self.findings.add_answer(self.tokenizer, *found, stops, bool(self.prepared.given))
        chosen = set(self.prepared.layers)
        self.findings.layers = [record.index for record in recording.with_attention() if record.index in chosen]
        self.findings.skipped_layers = [
            _skipped(record) for record in recording.without_attention() if record.index in chosen
        ]
        if looped := [record for record in recording.with_attention() if record.passes > 1]:
            self.findings.note(last_pass_only({record.index: record.passes for record in looped}))
        if not self.findings.layers:
            raise UserError(
                f"none of the chosen layers has softmax attention; this model has it in layers "
                f"{', '.join(str(record.index) for record in recording.with_attention())}"
            )

    def measure(self, recording: Recording, queries: Sequence[tuple[int, int]]) -> None:
        """Replay every layer at these query positions, given as (generation step, position), and write their rows."""
        every = [Query(step, position, self.units(self._seen(recording, position))) for step, position in queries]
        for part in self._together(recording, every):
            self.masked = part[-1].units
            found: list[list[Found]] = [[] for _ in part]
            for record in recording.with_attention():
                if record.index in self.findings.layers:
                    self.progress(f"replay {self._where(part)} layer {record.index}", len(part))
                    for view, prefix, seen in self.views(record):
                        self._measure(view, prefix, seen, part, found)
            for query, blocks in zip(part, found, strict=True):
                for each in blocks:
                    self._take(query, each)
            release_free_memory()

    def _together(self, recording: Recording, queries: Sequence[Query]) -> Iterator[Sequence[Query]]:
        """The queries in parts that are measured together, whose rows and results fit the memory budget.

        Every mask is replayed for all queries of a part. So one with many more masks than the first begins a new part.
        """
        layers = [record for record in recording.with_attention() if record.index in self.findings.layers]
        start = 0
        for end in range(1, len(queries) + 1):
            if end < len(queries) and self.meter.takes_several:
                part, count = queries[start : end + 1], len(queries[end].units)
                record = layers[0].queries[queries[end].position - self.places.first]
                blocks = count * len(self.meter.wanted.names(record.query.shape[1])) * len(self.metrics) * len(layers)
                fit = min(self.meter.rows_at_once(layers[0], record) // (count + 2), MOST_NUMBERS // max(blocks, 1))
                if len(part) <= fit and count <= MORE * len(part[0].units) + FEW:
                    continue
            yield queries[start:end]
            start = end

    def views(self, record: LayerRecord) -> Iterator[tuple[LayerRecord, str, range]]:
        """The attentions of a layer that are masked, the prefix of their variants, and the positions that they see."""
        start = self.places.first
        if record.other is None or "self" in self.request.attention:
            yield record, "", range(start, len(self.findings.tokens))
        if record.other is not None and "cross" in self.request.attention:
            yield record.other, CROSS, range(start)

    def _measure(
        self, record: LayerRecord, prefix: str, seen: range, part: Sequence[Query], found: Sequence[list[Found]]
    ) -> None:
        """Add to `found` of each query what one attention of a layer gives, whose positions are `seen`."""
        started = time.perf_counter()
        places = [place for place, query in enumerate(part) if query.of(seen).units]
        if not places:
            return
        queries = [record.queries[part[place].position - self.places.first] for place in places]
        impacts = self.meter.impacts(record, queries, [part[place].of(seen).masks for place in places])
        for place, impact in zip(places, impacts, strict=True):
            largest = max(float(impact.l2.amax()), float(impact.lengths.amax()))
            if not math.isfinite(largest):
                raise too_large(self.model, record.index, largest)
            masked = part[place].of(seen)
            block = self._block(record.index, self._names(prefix, impact), masked, part[place], impact)
            found[place].append(Found(block, masked, impact))
        self.findings.seconds["replay"] += time.perf_counter() - started

    def _take(self, query: Query, found: Found) -> None:
        """Gather what the manifest says of a block, and write it."""
        self._gather(found.block, found.masked, query.position, found.impact)
        if query.position >= self.top_from and found.impact.reading is not None:
            self.sinks.add(found.masked.first, found.impact.reading.float().numpy())
        started = time.perf_counter()
        self.write(found.block)
        self.findings.seconds["write"] += time.perf_counter() - started

    def _where(self, part: Sequence[Query]) -> str:
        first, last = part[0], part[-1]
        if self.request.queries == "last":
            steps = f"{first.step + 1}" if len(part) == 1 else f"{first.step + 1}-{last.step + 1}"
            return f"step {steps}/{len(self.findings.generated)}"
        if len(part) == 1:
            return f"query position {first.position}"
        return f"query positions {first.position}-{last.position}"

    def _every_token(self, tokens: Sequence[Token]) -> list[Unit]:
        maskable = MASKED[self.request.mask_mode]
        return [Unit(found.text, (found.position,)) for found in tokens if maskable(found)]

    def _seen(self, recording: Recording, position: int) -> list[Token]:
        """The tokens up to the query position, and later ones that it can see: of its picture, where attention among
        image tokens goes both ways.
        """
        later: set[int] = set()
        place = position - self.places.first
        for record in recording.with_attention():
            hidden = record.queries[place].bias[0, :, 0, place + 1 :].isneginf()
            if hidden.numel():  # only where there are such
                later.update((~hidden.all(dim=0)).nonzero().flatten().tolist())
        tokens = self.findings.tokens
        return tokens[: position + 1] + [tokens[position + 1 + place] for place in sorted(later)]

    def _names(self, prefix: str, impact: Impact) -> list[str]:
        names = self.names.setdefault(prefix, [prefix + name for name in self.meter.wanted.names(impact.heads)])
        self.findings.variants = [name for found in self.names.values() for name in found]
        return names

    def _block(self, layer: int, variants: list[str], masked: Seen, query: Query, impact: Impact) -> Block:
        """The rows of one layer. Raises UserError for a metric that says when its values are infinite, where one is."""
        block = Block(
            generation_step=query.step,
            layer=layer,
            tokens=masked.labels,
            positions=masked.positions,
            variants=variants,
            metrics=self.metrics,
            values=impact.values[..., : len(self.metrics)].float().numpy(),
            query_position=None if self.request.queries == "last" else query.position,
        )
        for metric in (METRICS[name] for name in self.metrics if METRICS[name].infinite):
            infinite = np.isinf(block.of(metric.name)).any(axis=0)  # [V]
            if infinite.any():
                raise UserError(
                    f"layer {layer} has no {metric.in_text} of {variants[int(infinite.argmax())]} at position "
                    f"{query.position}: {metric.infinite}; choose metrics other than {metric.name}"
                )
        return block

    def _gather(self, block: Block, masked: Seen, position: int, impact: Impact) -> None:
        if position >= self.top_from:
            self.top.add(position, block.layer, block.positions.tolist(), block.values[:, 0, 0])
            self.reads.add(block)
        l2 = block.l2 if "l2" in block.metrics else impact.l2.float().numpy()
        self.moved.add(masked.units, l2.max(axis=1))
        lengths = impact.lengths.float().numpy()
        self.findings.lengths.add(position, block.layer, block.variants, lengths)
        self.findings.noise(impact.noise)
        floors = impact.floors[..., : len(self.metrics)].float().numpy()
        self.findings.floors.add(block.layer, block.variants, floors, block.values)
        if impact.blind:
            self.findings.note(
                "a mask left the query nothing to attend to (a one-token prompt or window); its attention output is 0"
            )
        elif "cosine" in self.metrics and _emptied(block.of("cosine"), l2, lengths):
            self.findings.note(
                "a mask left nothing of a vector, or no more than rounding (1e-5 of it); its cosine distance is 1"
            )


def _emptied(cosine: np.ndarray, l2: np.ndarray, lengths: np.ndarray) -> bool:
    """Whether a mask takes all of a vector: its change is as long as the vector was, and it has no direction left."""
    return bool(((cosine == 1) & (l2 > 0) & (np.abs(l2 - lengths) <= 1e-5 * lengths)).any())


def too_large(model: Any, layer: int, length: float) -> UserError:
    """What is said where the model's own vectors overflow: most often, weights that were damaged or badly converted.

    Raises UserError for weights that are no numbers.
    """
    check_finite(model)
    return UserError(
        f"the model's own numbers are too large in {dtype_name(model)}: a vector of layer {layer} has the length "
        f"{length}; take another `dtype`, or a checkpoint whose weights are of a usual size"
    )


def _skipped(record: LayerRecord) -> dict[str, Any]:
    """What the manifest says of a layer without softmax attention."""
    mixers = [
        type(module).__name__
        for name, module in record.layer.named_children()
        if not any(part in name for part in ("norm", "mlp", "feed_forward", "moe", "drop"))
    ]
    return {
        "layer": record.index,
        "reason": f"no softmax attention ({', '.join(mixers) or type(record.layer).__name__})",
    }
