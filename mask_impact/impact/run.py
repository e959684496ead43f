"""One run, from model inputs to the table and its manifest: generate -> capture -> replay -> distances -> table."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from mask_impact.errors import UserError
from mask_impact.impact.manifest import Findings, manifest
from mask_impact.impact.meter import Impact, Meter, Wanted
from mask_impact.impact.record import LayerRecord, Query, Recording, record_generation
from mask_impact.model.call_rows import changed
from mask_impact.model.generation import decoder_start, longer, model_tensors
from mask_impact.model.lengths import length_dependent_positions
from mask_impact.model.memory import explained, memory_budget, release_free_memory
from mask_impact.model.towers import unsupported
from mask_impact.options import VARIANTS, Progress
from mask_impact.prompt.inputs import Token, stop_ids, tokens_of
from mask_impact.prompt.prepared import Prepared
from mask_impact.prompt.units import MASKED, Unit
from mask_impact.table import CROSS, Block

REAL_PULL = 0.01  # of a head's output: more than rounding in any dtype


@dataclass
class TopTokens:
    """Each position's largest value of the first variant, over layers and steps, and the layer where it is."""

    best: dict[int, tuple[float, int]] = field(default_factory=dict)

    def add(self, layer: int, positions: Sequence[int], values: Sequence[float]) -> None:
        for position, value in zip(positions, values, strict=True):
            if position not in self.best or value > self.best[position][0]:
                self.best[position] = (value, layer)

    def ranked(self) -> list[tuple[int, float, int]]:
        """(position, value, layer), largest first."""
        return sorted(((p, v, layer) for p, (v, layer) in self.best.items()), key=lambda row: -row[1])


@dataclass
class Run:
    """A finished run: its manifest (docs/output-format.md) and what the summary shows."""

    manifest: dict[str, Any]
    top: TopTokens


def run(model: Any, prepared: Prepared, write: Callable[[Block], None], progress: Progress = lambda what: None) -> Run:
    """Measure every mask of `prepared` at every query position.

    Args:
        write: takes each Block as it is measured, in the order step, query position, layer.

    Positions of a unit that the query cannot see are left out; a unit of which it sees none has distance 0.

    Raises UnsupportedModel when the model cannot be measured truthfully, UserError when generation ends before the
    query positions or no chosen layer has softmax attention, OutOfMemory when not even one row at a time fits.
    """
    started = time.perf_counter()
    measurement = _Measurement(model, prepared, write, progress)
    with explained(f"measuring {len(prepared.inputs.tokens)} tokens"), torch.no_grad(), evaluating(model):
        for recording, queries in _recordings(model, prepared, progress, measurement):
            for step, position in queries:
                measurement.measure(recording, step, position)
                release_free_memory()
            measurement.check_masks_acted(recording, [position for _, position in queries])
            del recording  # before the next one is made
    measurement.check_reached()
    for note in measurement.meter.memory_notes():
        measurement.findings.note(note)
    measurement.findings.seconds["measure_total"] = time.perf_counter() - started
    chosen = chosen_of(prepared)
    if not prepared.plain:
        last = [{"label": unit.label, "positions": list(unit.positions)} for unit in measurement.masked]
        chosen |= {"masks": "the tokens of each unit together", "units": last}
    return Run(manifest(model, prepared.inputs, chosen, measurement.findings), measurement.top)


def chosen_of(prepared: Prepared) -> dict[str, Any]:
    """What the manifest says of the request."""
    request, tower = prepared.request, prepared.places.tower
    return {
        "head_space": request.head_space,
        "mask_mode": request.mask_mode,
        "vision_attention": request.vision_attention if prepared.inputs.images else None,
        "ablation": request.ablation,
        "queries": request.queries,
        "units": None,
        "tower": tower,
        "decoder_start": len(prepared.inputs.tokens) if tower else None,
    }


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Without dropout, also for a model that was handed over in training."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _recordings(
    model: Any, prepared: Prepared, progress: Progress, measurement: "_Measurement"
) -> Iterator[tuple[Recording, list[tuple[int, int]]]]:
    """Recordings and the (generation step, query position) pairs to measure in each, in the table's order.

    One recorded generation serves all steps, except where positions depend on the total length (dynamic NTK, long-rope
    across its switch): there the cached keys of an earlier step are not those of a fresh run, and every step gets a
    recorded forward of its own over its whole prefix. Positions before the prompt's last are recorded apart, in as many
    forwards over the prompt as keep the record within the memory budget.
    """
    inputs, options = prepared.inputs, prepared.request
    tensors = model_tensors(model, inputs)
    config = model.config.get_text_config(decoder=True)
    stops = stop_ids(prepared.tokenizer, model.generation_config, model.config, config)
    length = len(inputs.tokens) + options.num_tokens - 1
    together = inputs.image_ranges() if options.vision_attention == "bidirectional" else []
    first, predicting = measurement.places.first, measurement.places.predicting
    fresh = not measurement.places.tower and options.num_tokens > 1 and length_dependent_positions(config, length)
    if fresh:
        measurement.findings.note(
            "positions depend on the total length: every generation step was recorded in a forward of its own"
        )

    def recorded(count: int, wanted: Callable[[int], bool] = (predicting - first).__le__) -> Recording:
        if length_dependent_positions(config, length + 1):
            # transformers keeps the frequencies of the longest input so far; a short one resets them
            model(input_ids=tensors["input_ids"][:, :1])
        recording = record_generation(
            model, tensors, count, stops, wanted, together, lambda: progress("generate and record"), options.tower
        )
        measurement.findings.seconds["recorded_forward"] += recording.seconds[0]
        measurement.findings.seconds["decode"] += sum(recording.seconds[1:])
        return recording

    for start in range(options.num_tokens if fresh else 1):
        recording = recorded(1 if fresh else options.num_tokens)
        measurement.add_generated(recording, stops)
        if start == 0:
            measurement.check_before_work(recording)
            earlier = [position for position in measurement.positions if position < predicting]
            at_once = _queries_at_once(recording, predicting - first)
            for done in range(0, len(earlier), at_once):
                part = earlier[done : done + at_once]
                wanted = {position - first for position in part}
                yield recorded(1, wanted.__contains__), [(0, position) for position in part]
        steps = range(start, start + len(recording.tokens))
        yield recording, [(step, predicting + step) for step in steps if predicting + step in measurement.positions]
        if recording.tokens[-1] in stops:
            return
        tensors = longer(tensors, recording.tokens)


def _queries_at_once(recording: Recording, position: int) -> int:
    """How many query positions may be recorded in one forward; the one at `position` tells what one takes."""
    sizes: list[int] = []

    def counted(tensor: torch.Tensor) -> torch.Tensor:
        sizes.append(tensor.nbytes)
        return tensor

    queries: list[Query] = [record.queries[position] for record in recording.measured()]
    for query in queries:
        changed(vars(query), counted, {})
    return max(1, memory_budget(queries[0].hidden.device) // sum(sizes))


class _Measurement:
    """A run in progress: measures one query position after the other and keeps what it finds."""

    def __init__(self, model: Any, prepared: Prepared, write: Callable[[Block], None], progress: Progress) -> None:
        self.model, self.prepared, self.options = model, prepared, prepared.request
        self.write, self.progress = write, progress
        self.tokenizer, inputs = prepared.tokenizer, prepared.inputs
        self.units = self._each_alone if prepared.plain else prepared.units
        self.places = prepared.places
        self.positions = prepared.queries
        full, attn, heads = (variant in self.options.variants for variant in VARIANTS)
        self.meter = Meter(model, Wanted(full, attn, heads, self.options.head_space), self.options.ablation)
        start = tokens_of(self.tokenizer, decoder_start(model), len(inputs.tokens))
        self.findings = Findings(tokens=[*inputs.tokens, *start])
        self.findings.seconds = dict.fromkeys(("recorded_forward", "decode", "check", "replay", "write"), 0.0)
        self.top = TopTokens()
        predicting = self.places.predicting
        self.top_from = predicting if self.positions[-1] >= predicting else 0  # the first query that counts for it
        self.masked: Sequence[Unit] = []  # at the query measured last
        self.names: dict[str, list[str]] = {}  # of the variants, by their prefix
        self.moved: dict[tuple[int, ...], float] = {}  # a unit's positions -> largest l2 of any variant, layer and step

    def add_generated(self, recording: Recording, stops: list[int]) -> None:
        """Take over the generated tokens, and check the recording."""
        new = tokens_of(self.tokenizer, recording.tokens, first=len(self.findings.tokens))
        for step, (found, probability) in enumerate(
            zip(new, recording.probabilities, strict=True), len(self.findings.generated)
        ):
            self.findings.generated.append(
                {"step": step, "id": found.id, "text": found.text, "probability": probability}
            )
        self.findings.tokens += new
        self.findings.stop_reason = "end of text" if recording.tokens[-1] in stops else "length"
        chosen = set(self.prepared.layers)
        self.findings.layers = [record.index for record in recording.measured() if record.index in chosen]
        self.findings.skipped_layers = [_skipped(record) for record in recording.skipped() if record.index in chosen]
        if not self.findings.layers:
            raise UserError(
                f"none of the chosen layers has softmax attention; this model has it in layers "
                f"{', '.join(str(record.index) for record in recording.measured())}"
            )

    def check_before_work(self, recording: Recording) -> None:
        """Replay two rows of one layer of each kind: without a mask, and without the token that bears on it most.

        The first must give the model's own update (`Meter.impact` refuses otherwise), the second another one.
        """
        started = time.perf_counter()
        kinds = getattr(self.model.config.get_text_config(decoder=True), "layer_types", None) or {}
        first: dict[Any, LayerRecord] = {}
        for record in recording.measured():
            if record.index in self.findings.layers:
                first.setdefault((type(record.layer), kinds[record.index] if kinds else None), record)
        for record, _, _ in (view for each in first.values() for view in self._views(each)):
            query = record.queries[self.places.predicting - self.places.first]
            pull = self.meter.attention(record, query).pull()
            if pull is None or pull.max() < REAL_PULL:
                continue
            impact = self.meter.impact(record, query, [[int(pull.argmax())]])
            if not impact.l2.any():
                raise unsupported(self.model, record.index, "masking the token that bears on it most changes nothing")
        self.findings.seconds["check"] += time.perf_counter() - started

    def measure(self, recording: Recording, step: int, position: int) -> None:
        """Replay every layer at one query position and write its rows."""
        self.masked = self.units(self._seen(recording, position))
        for record in recording.measured():
            if record.index not in self.findings.layers:
                continue
            self.progress(f"replay {self._where(step, position)} layer {record.index}")
            for view, prefix, seen in self._views(record):
                masked = [unit for unit in self.masked if unit.positions[0] in seen]
                if masked:
                    self._measure(view, prefix, seen.start, masked, step, position)

    def _views(self, record: LayerRecord) -> Iterator[tuple[LayerRecord, str, range]]:
        """The attentions of a layer that are masked, the prefix of their variants, and the positions that they see."""
        start = self.places.first
        if record.other is None or "self" in self.options.attention:
            yield record, "", range(start, len(self.findings.tokens))
        if record.other is not None and "cross" in self.options.attention:
            yield record.other, CROSS, range(start)

    def _measure(
        self, record: LayerRecord, prefix: str, first: int, masked: Sequence[Unit], step: int, position: int
    ) -> None:
        started = time.perf_counter()
        query = record.queries[position - self.places.first]
        masks = [[member - first for member in unit.positions] for unit in masked]
        impact = self.meter.impact(record, query, masks)
        block = self._block(record, prefix, masked, step, position, impact)
        self.findings.seconds["replay"] += time.perf_counter() - started
        self._gather(block, masked, position)
        self._note(impact)
        started = time.perf_counter()
        self.write(block)
        self.findings.seconds["write"] += time.perf_counter() - started

    def _where(self, step: int, position: int) -> str:
        if self.options.queries == "last":
            return f"step {step + 1}/{len(self.findings.generated)}"
        return f"query position {position}"

    def _each_alone(self, tokens: Sequence[Token]) -> list[Unit]:
        maskable = MASKED[self.options.mask_mode]
        return [Unit(found.text, (found.position,)) for found in tokens if maskable(found)]

    def _seen(self, recording: Recording, position: int) -> list[Token]:
        """The tokens up to the query position, and later ones that it can see: of its picture, where attention among
        image tokens goes both ways.
        """
        later: set[int] = set()
        place = position - self.places.first
        for record in recording.measured():
            hidden = record.queries[place].bias[0, :, 0, place + 1 :].isneginf()
            if hidden.numel():  # only where there are such
                later.update((~hidden.all(dim=0)).nonzero().flatten().tolist())
        tokens = self.findings.tokens
        return tokens[: position + 1] + [tokens[position + 1 + place] for place in sorted(later)]

    def _block(
        self, record: LayerRecord, prefix: str, masked: Sequence[Unit], step: int, position: int, impact: Impact
    ) -> Block:
        names = self.names.setdefault(prefix, [prefix + name for name in self.meter.wanted.names(impact.heads)])
        self.findings.variants = [name for found in self.names.values() for name in found]
        return Block(
            generation_step=step,
            layer=record.index,
            tokens=[unit.label for unit in masked],
            positions=torch.tensor([unit.positions[0] for unit in masked], dtype=torch.int64).numpy(),
            variants=names,
            l2=impact.l2.float().cpu().numpy(),
            cosine=impact.cosine.float().cpu().numpy(),
            query_position=None if self.options.queries == "last" else position,
        )

    def _gather(self, block: Block, masked: Sequence[Unit], position: int) -> None:
        if position >= self.top_from:
            self.top.add(block.layer, block.positions.tolist(), block.l2[:, 0].tolist())
        for unit, moved in zip(masked, block.l2.max(axis=1).tolist(), strict=True):
            self.moved[unit.positions] = max(moved, self.moved.get(unit.positions, 0.0))

    def _note(self, impact: Impact) -> None:
        self.findings.noise(impact.noise)
        if impact.blind:
            self.findings.note(
                "a mask left the query nothing to attend to (a one-token prompt or window); its attention output is 0"
            )

    def check_masks_acted(self, recording: Recording, positions: Sequence[int]) -> None:
        """A unit that bears on some head's output must move something in some layer, or its mask did not act."""
        still = [unit for unit, moved in self.moved.items() if moved == 0]
        views = [view for record in recording.measured() if still for view in self._views(record)]
        for record, _, seen in views:
            masked = [unit for unit in still if unit[0] in seen]
            for query in (record.queries[position - self.places.first] for position in positions if masked):
                length = query.bias.shape[-1]
                masks = [[member - seen.start for member in unit if member - seen.start < length] for unit in masked]
                pull = self.meter.attention(record, query).pull(masks)
                if pull is not None and pull.max() > REAL_PULL:
                    where = ", ".join(map(str, masked[int(pull.argmax())]))
                    what = f"position {where} bears on its attention, but masking it changed nothing anywhere"
                    raise unsupported(self.model, record.index, what)

    def check_reached(self) -> None:
        """Generation may have ended before some of the query positions: say so where they were named one by one."""
        end = min(self.places.end, self.places.predicting + len(self.findings.generated))
        missing = [position for position in self.positions if position >= end]
        what = f"generation ended after {len(self.findings.generated)} tokens, before query position"
        if missing == self.positions:
            raise UserError(f"{what} {missing[0]}: there is nothing to measure; choose query positions below {end}")
        if missing and not isinstance(self.options.queries, str):
            self.findings.note(f"{what}s {missing[0]} to {missing[-1]}")


def _skipped(record: LayerRecord) -> dict[str, Any]:
    mixers = [
        type(module).__name__
        for name, module in record.layer.named_children()
        if not any(part in name for part in ("norm", "mlp", "feed_forward", "moe", "drop"))
    ]
    return {
        "layer": record.index,
        "reason": f"no softmax attention ({', '.join(mixers) or type(record.layer).__name__})",
    }
