"""One run, from model inputs to the table and its manifest: generate -> capture -> replay -> distances -> table."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from mask_impact.attention import decoder_layers, unsupported
from mask_impact.capture import LayerRecord, Recording, record_generation
from mask_impact.errors import UserError
from mask_impact.impact import Impact, Meter, Wanted
from mask_impact.inputs import ModelInputs, Token, stop_ids, tokens_of
from mask_impact.manifest import Findings, manifest
from mask_impact.memory import explained, release_free_memory
from mask_impact.models import input_device, length_dependent_positions, max_positions
from mask_impact.options import HEAD_SPACES, MASK_MODES, VARIANTS, VISION_ATTENTION
from mask_impact.results import Block

REAL_PULL = 0.01  # of a head's output: more than rounding in any dtype

Progress = Callable[[str], None]  # called with what is being done, once per forward and per replayed layer


# Which tokens each of MASK_MODES masks, one at a time: the first two share none, and together they are the third.
MASKED: dict[str, Callable[[Token], bool]] = {
    "text": lambda token: token.kind != "image",
    "vision": lambda token: token.kind == "image",
    "both": lambda token: True,
}


@dataclass(frozen=True)
class Options:
    """What is measured."""

    num_tokens: int = 1
    layers: tuple[int, ...] | None = None  # None: all
    variants: tuple[str, ...] = VARIANTS
    head_space: str = "output"
    mask_mode: str = "text"
    vision_attention: str = "model"

    def wanted(self) -> Wanted:
        """Raises UserError for an unknown variant, head space, mask mode or vision attention."""
        for name, value, known in (
            ("mask mode", self.mask_mode, MASK_MODES),
            ("vision attention", self.vision_attention, VISION_ATTENTION),
            ("head space", self.head_space, HEAD_SPACES),
        ):
            if value not in known:
                raise UserError(f"unknown {name} {value!r}; choose from {', '.join(known)}")
        for variant in self.variants:
            if variant not in VARIANTS:
                raise UserError(f"unknown variant {variant!r}; choose from {', '.join(VARIANTS)}")
        if not self.variants:
            raise UserError(f"no variant was chosen; choose from {', '.join(VARIANTS)}")
        full, attn, heads = (variant in self.variants for variant in VARIANTS)
        return Wanted(full, attn, heads, self.head_space)


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


def chosen_layers(ranges: Sequence[tuple[int, int]] | None, count: int) -> tuple[int, ...] | None:
    """((0, 0), (20, 27)), as `options.layer_list` gives them -> (0, 20, ..., 27); none are all. Raises UserError."""
    if not ranges:
        return None
    last = max(last for _, last in ranges)
    if last >= count:
        raise UserError(f"there is no layer {last}; this model has layers 0 to {count - 1}")
    return tuple(sorted({layer for first, last in ranges for layer in range(first, last + 1)}))


def check_length(config: Any, prompt_length: int, num_tokens: int) -> None:
    """Raises UserError when the prompt and the generated tokens need more positions than the model has."""
    limit, needed = max_positions(config), prompt_length + num_tokens - 1
    if limit is not None and needed > limit:
        raise UserError(
            f"the prompt has {prompt_length} tokens and {num_tokens} are to be generated: {needed} positions, but this "
            f"model has {limit}; shorten the prompt or lower --num-tokens"
        )


def run(
    model: Any,
    tokenizer: Any,
    inputs: ModelInputs,
    options: Options,
    write: Callable[[Block], None],
    progress: Progress = lambda what: None,
) -> Run:
    """Measure every token of the mask mode at every generation step.

    `write` takes each Block as it is measured, in the order step, layer. Raises UnsupportedModel when the model cannot
    be measured truthfully, UserError for options that do not fit it or its inputs, OutOfMemory when not even one row
    at a time fits the memory.
    """
    started = time.perf_counter()
    config = model.config.get_text_config(decoder=True)
    check_length(config, len(inputs.tokens), options.num_tokens)
    chosen_layers([(layer, layer) for layer in options.layers or ()], len(decoder_layers(model)))
    check_masks(inputs, options)
    measurement = _Measurement(model, tokenizer, inputs, options, write, progress)
    with explained(f"measuring {len(inputs.tokens)} tokens"), torch.no_grad(), _evaluating(model):
        for recording, step in _recordings(model, tokenizer, inputs, options, progress, measurement):
            if step == 0:
                measurement.check_before_work(recording)
            measurement.measure(recording, step)
            release_free_memory()
        measurement.check_masks_acted(recording)
    for note in measurement.meter.memory_notes():
        measurement.findings.note(note)
    measurement.findings.seconds["measure_total"] = time.perf_counter() - started
    chosen = {
        "head_space": options.head_space,
        "mask_mode": options.mask_mode,
        "vision_attention": options.vision_attention if inputs.images else None,
    }
    return Run(manifest(model, inputs, chosen, measurement.findings), measurement.top)


def check_masks(inputs: ModelInputs, options: Options) -> None:
    """Raises UserError for options about images when there is none."""
    for name, value, plain in (
        ("mask mode", options.mask_mode, "text"),
        ("vision attention", options.vision_attention, "model"),
    ):
        if value != plain and not inputs.images:
            raise UserError(f"{name} {value!r} needs an image, but none was given; add --image, or use {plain}")


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Without dropout, also for a model that was handed over in training."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _recordings(
    model: Any, tokenizer: Any, inputs: ModelInputs, options: Options, progress: Progress, measurement: "_Measurement"
) -> Iterator[tuple[Recording, int]]:
    """(recording, generation step) for every step.

    One recorded generation serves all steps, except where positions depend on the total length (dynamic NTK, long-rope
    across its switch): there the cached keys of an earlier step are not those of a fresh run, and every step gets a
    recorded forward of its own over its whole prefix.
    """
    device = input_device(model)
    tensors = {name: tensor.to(device) for name, tensor in inputs.tensors.items()}
    tensors |= {name: tensor.to(model.dtype) for name, tensor in tensors.items() if tensor.is_floating_point()}
    config = model.config.get_text_config(decoder=True)
    stops = stop_ids(tokenizer, model.generation_config, model.config, config)
    length = len(inputs.tokens) + options.num_tokens - 1
    together = inputs.image_ranges() if options.vision_attention == "bidirectional" else []
    fresh = options.num_tokens > 1 and length_dependent_positions(config, length)
    if fresh:
        measurement.findings.note(
            "positions depend on the total length: every generation step was recorded in a forward of its own"
        )
    for start in range(options.num_tokens if fresh else 1):
        if length_dependent_positions(config, length + 1):
            # transformers keeps the frequencies of the longest input so far; a short one resets them
            model(input_ids=tensors["input_ids"][:, :1])
        count = 1 if fresh else options.num_tokens
        recording = record_generation(
            model, tensors, count, stops, together=together, progress=lambda: progress("generate and record")
        )
        measurement.add_generated(recording, stops)
        for offset in range(len(recording.tokens)):
            yield recording, start + offset
        if recording.tokens[-1] in stops:
            return
        tensors = _longer(tensors, recording.tokens)


def _longer(tensors: Mapping[str, torch.Tensor], generated: list[int]) -> dict[str, torch.Tensor]:
    """The model's inputs with the generated ids at the end: visible, and of type 0, text, where tokens have types."""
    shape = tensors["input_ids"].shape
    new = {"input_ids": torch.tensor([generated]), "attention_mask": torch.ones(1, len(generated))}
    grown = dict(tensors)
    for name, tensor in tensors.items():
        if tensor.shape == shape:
            ids = new.get(name, torch.zeros(1, len(generated)))
            grown[name] = torch.cat([tensor, ids.to(tensor)], dim=1)
    return grown


class _Measurement:
    """A run in progress: measures one generation step after the other and keeps what it finds."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        inputs: ModelInputs,
        options: Options,
        write: Callable[[Block], None],
        progress: Progress,
    ) -> None:
        self.model, self.tokenizer, self.inputs, self.options = model, tokenizer, inputs, options
        self.write, self.progress = write, progress
        self.maskable = MASKED[options.mask_mode]
        self.meter = Meter(model, options.wanted())
        self.findings = Findings(tokens=list(inputs.tokens))
        self.findings.seconds = dict.fromkeys(("recorded_forward", "decode", "check", "replay", "write"), 0.0)
        self.top = TopTokens()
        self.moved: dict[int, float] = {}  # position -> largest l2 of any variant, layer and step

    def add_generated(self, recording: Recording, stops: list[int]) -> None:
        """Take over the generated tokens and the time of their forwards, and check the recording."""
        self.findings.seconds["recorded_forward"] += recording.seconds[0]
        self.findings.seconds["decode"] += sum(recording.seconds[1:])
        new = tokens_of(self.tokenizer, recording.tokens, first=len(self.findings.tokens))
        for step, (found, probability) in enumerate(
            zip(new, recording.probabilities, strict=True), len(self.findings.generated)
        ):
            self.findings.generated.append(
                {"step": step, "id": found.id, "text": found.text, "probability": probability}
            )
        self.findings.tokens += new
        self.findings.stop_reason = "end of text" if recording.tokens[-1] in stops else "length"
        chosen = set(self.options.layers or range(len(recording.layers)))
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
        for record in first.values():
            query = record.queries[len(self.inputs.tokens) - 1]
            pull = self.meter.attention(record, query).pull()
            if pull is None or pull.max() < REAL_PULL:
                continue
            impact = self.meter.impact(record, query, [[int(pull.argmax())]])
            if not impact.l2.any():
                raise unsupported(self.model, record.index, "masking the token that bears on it most changes nothing")
        self.findings.seconds["check"] += time.perf_counter() - started

    def measure(self, recording: Recording, step: int) -> None:
        """Replay every layer at one generation step and write its rows."""
        position = len(self.inputs.tokens) - 1 + step
        masked = [found for found in self.findings.tokens[: position + 1] if self.maskable(found)]
        for record in recording.measured():
            if record.index not in self.findings.layers:
                continue
            self.progress(f"replay step {step + 1}/{len(self.findings.generated)} layer {record.index}")
            started = time.perf_counter()
            impact = self.meter.impact(record, record.queries[position], [[found.position] for found in masked])
            block = self._block(record, step, masked, impact)
            self.findings.seconds["replay"] += time.perf_counter() - started
            self._gather(block)
            self._note(impact)
            started = time.perf_counter()
            self.write(block)
            self.findings.seconds["write"] += time.perf_counter() - started

    def _block(self, record: LayerRecord, step: int, masked: list[Token], impact: Impact) -> Block:
        self.findings.variants = self.meter.wanted.names(impact.heads)
        return Block(
            generation_step=step,
            layer=record.index,
            tokens=[found.text for found in masked],
            positions=torch.tensor([found.position for found in masked]).numpy(),
            variants=self.findings.variants,
            l2=impact.l2.float().cpu().numpy(),
            cosine=impact.cosine.float().cpu().numpy(),
        )

    def _gather(self, block: Block) -> None:
        positions = block.positions.tolist()
        self.top.add(block.layer, positions, block.l2[:, 0].tolist())
        for position, moved in zip(positions, block.l2.max(axis=1).tolist(), strict=True):
            self.moved[position] = max(moved, self.moved.get(position, 0.0))

    def _note(self, impact: Impact) -> None:
        self.findings.noise(impact.noise)
        if impact.blind:
            self.findings.note(
                "a mask left the query nothing to attend to (a one-token prompt or window); its attention output is 0"
            )

    def check_masks_acted(self, recording: Recording) -> None:
        """A token that bears on some head's output must move something in some layer, or its mask did not act."""
        still = [position for position, moved in self.moved.items() if moved == 0]
        for record in recording.measured() if still else ():
            for query in record.queries.values():
                pull = self.meter.attention(record, query).pull()
                for position in still:
                    if pull is not None and position < len(pull) and pull[position] > REAL_PULL:
                        what = f"position {position} bears on its attention, but masking it changed nothing anywhere"
                        raise unsupported(self.model, record.index, what)


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
