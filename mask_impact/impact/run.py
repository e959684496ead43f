"""One run, from model inputs to the table and its manifest: generate -> capture -> replay -> distances -> table."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from mask_impact.impact.manifest import manifest
from mask_impact.impact.measurement import Measurement
from mask_impact.impact.recordings import recordings
from mask_impact.impact.self_check import check_masks_acted, check_reached
from mask_impact.impact.top_tokens import TopTokens
from mask_impact.model.generation import evaluating
from mask_impact.model.memory import explained
from mask_impact.options import Progress, unseen
from mask_impact.prompt.prepared import Prepared
from mask_impact.prompt.units import Unit
from mask_impact.table import Block, Columns


@dataclass
class Run:
    """A finished run: its manifest (docs/output-format.md), what the summary shows, and tables beside its own."""

    manifest: dict[str, Any]
    top: TopTokens
    reads: list[dict[str, Any]] = field(default_factory=list)  # of each token of the output; none of a vision tower
    tables: dict[str, Columns] = field(default_factory=dict)  # "lengths", with other queries than "last"


def run(model: Any, prepared: Prepared, write: Callable[[Block], None], progress: Progress = unseen) -> Run:
    """Measure every mask of `prepared` at every query position.

    Args:
        write: takes each Block as it is measured, in the order step, query position, layer.

    Positions of a unit that the query cannot see are left out; a unit of which it sees none has distance 0.

    Raises UnsupportedModel when the model cannot be measured truthfully, UserError when generation ends before the
    query positions or no chosen layer has softmax attention, OutOfMemory when not even one row at a time fits.
    """
    started = time.perf_counter()
    measurement = Measurement(model, prepared, write, progress)
    with explained(f"measuring {len(prepared.inputs.tokens)} tokens"), torch.no_grad(), evaluating(model):
        for recording, queries in recordings(measurement):
            measurement.measure(recording, queries)
            check_masks_acted(measurement, recording, [position for _, position in queries])
            del recording  # before the next one is made
    check_reached(measurement)
    found = measurement.findings
    meter = measurement.meter
    for note in (*meter.memory_notes(), *meter.replay.notes(), found.floors.note()):
        if note:
            found.note(note)
    found.sinks = measurement.sinks.described()
    found.seconds["measure_total"] = time.perf_counter() - started
    chosen = chosen_of(prepared, measurement.masked)
    tables = {} if prepared.request.queries == "last" else {"lengths": found.lengths.table()}
    predicting = [prepared.places.predicting + step for step in range(len(found.generated))]
    described = manifest(model, prepared.inputs, chosen, found, predicting)
    return Run(described, measurement.top, measurement.reads.described(), tables)


def chosen_of(prepared: Prepared, masked: Sequence[Unit]) -> dict[str, Any]:
    """What the manifest says of the request; `masked` are the units at the last query."""
    request, tower = prepared.request, prepared.places.tower
    together = [{"label": unit.label, "positions": list(unit.positions)} for unit in masked]
    units = {"units": None} if prepared.plain else {"masks": "the tokens of each unit together", "units": together}
    return {
        "head_space": request.head_space,
        "mask_mode": request.mask_mode,
        "vision_attention": request.vision_attention if prepared.inputs.images else None,
        "ablation": request.ablation,
        "queries": request.queries,
        "tower": tower,
        "vision": None,  # of a vision tower
        "decoder_start": len(prepared.inputs.tokens) if tower else None,
        **units,
    }
