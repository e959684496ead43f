"""The checks that a run makes of itself: before it measures, that masks act; afterwards, that every mask did.

In:  a run in progress and a recording.
Out: nothing, or UnsupportedModel (the numbers would not be true), or UserError (there is nothing to measure).
"""

import time
from collections.abc import Sequence
from typing import Any

import torch

from mask_impact.errors import UserError
from mask_impact.impact.measurement import Measurement, too_large
from mask_impact.impact.record import LayerRecord, Recording
from mask_impact.model.towers import unsupported

REAL_PULL = 0.01  # of a head's output: more than rounding in any dtype


def check_before_work(measurement: Measurement, recording: Recording) -> None:
    """Replay one layer of each kind at the first and the last recorded query, on two rows: without a mask, and without
    the token with the largest effect on it.

    The first must give the model's own update (`Meter.impact` refuses otherwise), the second a different one. (A cached
    step can differ from the prompt's forward: MiniMax's does.)
    """
    started = time.perf_counter()
    model, places, findings = measurement.model, measurement.places, measurement.findings
    check_sizes(measurement, recording)
    kinds = getattr(model.config.get_text_config(decoder=True), "layer_types", None) or {}
    first: dict[Any, LayerRecord] = {}
    for record in recording.with_attention():
        if record.index in findings.layers:
            first.setdefault((type(record.layer), kinds[record.index] if kinds else None), record)
    for record, _, _ in (view for each in first.values() for view in measurement.views(each)):
        for position in sorted({places.predicting - places.first, max(record.queries)}):
            query = record.queries[position]
            pull = measurement.meter.attention(record, query).pull()
            if pull is None or pull.max() < REAL_PULL:
                measurement.meter.impact(record, query, [[]])
                continue
            impact = measurement.meter.impact(record, query, [[int(pull.argmax())]])
            if not impact.l2.any():
                what = "masking the token with the largest effect on its attention changes nothing"
                raise unsupported(model, record.index, what)
    findings.seconds["check"] += time.perf_counter() - started


def check_sizes(measurement: Measurement, recording: Recording) -> None:
    """Raises UserError where a layer's own numbers are too large to be compared, or none."""
    for record in recording.with_attention():
        precise = torch.promote_types(next(iter(record.queries.values())).output.dtype, torch.float32)
        for query in record.queries.values():
            if not (length := query.output.to(precise).norm()).isfinite():
                raise too_large(measurement.model, record.index, float(length))


def check_unmasked(measurement: Measurement, recording: Recording, position: int) -> None:
    """Replay every layer at one query position without a mask: the noise floor, or a refusal."""
    started = time.perf_counter()
    for record in recording.with_attention():
        for view, _, _ in measurement.views(record):
            query = view.queries[position - measurement.places.first]
            measurement.findings.noise(measurement.meter.impact(view, query, [[]]).noise)
    measurement.findings.seconds["check"] += time.perf_counter() - started


def check_masks_acted(measurement: Measurement, recording: Recording, positions: Sequence[int]) -> None:
    """A unit with an effect on some head's output must move something in some measured layer, or its mask did not act.

    Only in those: what a sliding window hides in the chosen layers can be read in all others.
    """
    still = [unit for unit, moved in measurement.moved.items() if moved == 0]
    measured = [record for record in recording.with_attention() if record.index in measurement.findings.layers]
    views = [view for record in measured if still for view in measurement.views(record)]
    for record, _, seen in views:
        masked = [unit for unit in still if unit[0] in seen]
        for query in (record.queries[position - measurement.places.first] for position in positions if masked):
            length = query.bias.shape[-1]
            masks = [[member - seen.start for member in unit if member - seen.start < length] for unit in masked]
            pull = measurement.meter.attention(record, query).pull(masks)
            if pull is not None and pull.max() > REAL_PULL:
                where = ", ".join(map(str, masked[int(pull.argmax())]))
                what = f"position {where} bears on its attention, but masking it changed nothing anywhere"
                raise unsupported(measurement.model, record.index, what)


def check_reached(measurement: Measurement) -> None:
    """Generation may end before some query positions: say so where they were chosen by number."""
    places, findings, positions = measurement.places, measurement.findings, measurement.positions
    end = min(places.end, places.predicting + len(findings.generated))
    missing = [position for position in positions if position >= end]
    what = f"generation ended after {len(findings.generated)} tokens, before query position"
    if missing == positions:
        raise UserError(f"{what} {missing[0]}: there is nothing to measure; choose query positions below {end}")
    if missing and not isinstance(measurement.request.queries, str):
        findings.note(f"{what}s {missing[0]} to {missing[-1]}")
