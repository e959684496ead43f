"""What a model answers, token by token, where only its answer is of interest: its layers are checked, not measured."""

from dataclasses import replace
from typing import Any

from mask_impact.impact.manifest import Findings
from mask_impact.impact.measurement import Measurement
from mask_impact.impact.recordings import recordings
from mask_impact.impact.self_check import check_unmasked
from mask_impact.options import Progress, unseen
from mask_impact.prompt.prepared import Prepared


def answer(model: Any, prepared: Prepared, progress: Progress = unseen) -> Findings:
    """What a run that masks layers finds besides its table: the same tokens and probabilities, and the noise floor.

    Raises UnsupportedModel where a layer, replayed without a mask, does not give what the model computed.
    """
    full = replace(prepared, request=replace(prepared.request, variants=("full",)))
    measurement = Measurement(model, full, lambda block: None, progress)
    for recording, queries in recordings(measurement):
        for _, position in queries:
            check_unmasked(measurement, recording, position)
    measurement.findings.layers = []  # none is measured
    return measurement.findings
