"""One run, from model inputs to the table and its manifest: generate -> capture -> replay -> distances -> table."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from mask_impact.errors import UserError
from mask_impact.impact.manifest import manifest
from mask_impact.impact.measurement import Measurement
from mask_impact.impact.meter import Wanted
from mask_impact.impact.recordings import recordings
from mask_impact.impact.self_check import check_masks_acted, check_reached
from mask_impact.impact.top_tokens import TopTokens
from mask_impact.model.lengths import check_length
from mask_impact.model.memory import explained, release_free_memory
from mask_impact.model.towers import tower_of, tower_size
from mask_impact.options import (
    ABLATIONS,
    ATTENTIONS,
    HEAD_SPACES,
    MASK_MODES,
    VARIANTS,
    VISION_ATTENTION,
    Progress,
    chosen_layers,
)
from mask_impact.prompt.inputs import ModelInputs
from mask_impact.prompt.positions import Places
from mask_impact.prompt.units import Units
from mask_impact.table import Block, Columns


@dataclass(frozen=True)
class Options:
    """What is measured."""

    num_tokens: int = 1
    layers: tuple[int, ...] | None = None  # None: all
    variants: tuple[str, ...] = VARIANTS
    head_space: str = "output"
    mask_mode: str = "text"
    vision_attention: str = "model"
    ablation: str = "neg-inf"  # one of options.ABLATIONS
    queries: tuple[tuple[int, int], ...] | str = "last"  # or "all", or (first, last) of each range of positions
    tower: str = "decoder"  # of an encoder-decoder, one of options.TOWERS
    attention: tuple[str, ...] = ATTENTIONS  # of its decoder, which are masked

    def wanted(self) -> Wanted:
        """Raises UserError for an unknown variant, head space, mask mode, vision attention or ablation."""
        for name, value, known in (
            ("mask mode", self.mask_mode, MASK_MODES),
            ("vision attention", self.vision_attention, VISION_ATTENTION),
            ("head space", self.head_space, HEAD_SPACES),
            ("ablation", self.ablation, ABLATIONS),
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
class Run:
    """A finished run: its manifest (docs/output-format.md) and what the summary shows."""

    manifest: dict[str, Any]
    top: TopTokens
    tables: dict[str, Columns] = field(default_factory=dict)  # "lengths", with other queries than "last"


def run(
    model: Any,
    tokenizer: Any,
    inputs: ModelInputs,
    options: Options,
    write: Callable[[Block], None],
    progress: Progress = lambda what: None,
    units: Units | None = None,
) -> Run:
    """Measure every token of the mask mode at every query position.

    Args:
        write: takes each Block as it is measured, in the order step, query position, layer.
        units: gives what is masked together at a query, from all tokens up to it; by default every token of the
            mask mode alone. Positions of a unit that the query cannot see are left out; a unit of which it sees none
            has distance 0.

    Raises UnsupportedModel when the model cannot be measured truthfully, UserError for options that do not fit it or
    its inputs, OutOfMemory when not even one row at a time fits the memory.
    """
    started = time.perf_counter()
    config = model.config.get_text_config(decoder=True)
    check_length(config, len(inputs.tokens), options.num_tokens)
    tower = tower_of(model.config, options.tower, options.attention, options.num_tokens)
    chosen_layers([(layer, layer) for layer in options.layers or ()], tower_size(model.config, tower)[0])
    check_masks(inputs, options)
    places = Places.of(len(inputs.tokens), options.num_tokens, tower)
    measurement = Measurement(model, tokenizer, inputs, options, write, progress, units, places)
    with explained(f"measuring {len(inputs.tokens)} tokens"), torch.no_grad(), _evaluating(model):
        for recording, queries in recordings(measurement):
            for step, position in queries:
                measurement.measure(recording, step, position)
                release_free_memory()
            check_masks_acted(measurement, recording, [position for _, position in queries])
            del recording  # before the next one is made
    check_reached(measurement)
    for note in measurement.meter.memory_notes():
        measurement.findings.note(note)
    measurement.findings.seconds["measure_total"] = time.perf_counter() - started
    chosen: dict[str, Any] = {
        "head_space": options.head_space,
        "mask_mode": options.mask_mode,
        "vision_attention": options.vision_attention if inputs.images else None,
        "ablation": options.ablation,
        "queries": options.queries,
        "units": None,
        "tower": tower,
        "decoder_start": len(inputs.tokens) if tower else None,
    }
    if units is not None:
        last = [{"label": unit.label, "positions": list(unit.positions)} for unit in measurement.masked]
        chosen |= {"masks": "the tokens of each unit together", "units": last}
    found = measurement.findings
    tables = {} if options.queries == "last" else {"lengths": found.lengths.table()}
    predicting = [places.predicting + step for step in range(len(found.generated))]
    return Run(manifest(model, inputs, chosen, found, predicting), measurement.top, tables)


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
