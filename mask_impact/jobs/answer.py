"""What a model answers, token by token, where only its answer is of interest; its layers are checked, not measured."""

import time
from typing import Any

from mask_impact.impact.manifest import Findings
from mask_impact.impact.measurement import skipped
from mask_impact.impact.meter import Meter, Wanted
from mask_impact.impact.record import Recording, record_generation
from mask_impact.model.generation import decoder_start, longer, model_tensors
from mask_impact.model.lengths import length_dependent_positions
from mask_impact.options import Progress
from mask_impact.prompt.inputs import stop_ids, tokens_of
from mask_impact.prompt.prepared import Prepared


def answer(model: Any, prepared: Prepared, progress: Progress = lambda what: None) -> Findings:
    """Generate as a run does: greedily, with the same tokens and probabilities.

    Where positions depend on the total length (dynamic NTK, long-rope), every step is a forward of its own. Every layer
    is replayed without a mask at the predicting positions, as a run does. Raises UnsupportedModel where that is not
    what the model computed.
    """
    request, inputs = prepared.request, prepared.inputs
    tensors = model_tensors(model, inputs)
    config = model.config.get_text_config(decoder=True)
    stops = stop_ids(prepared.tokenizer, model.generation_config, model.config, config)
    together = inputs.image_ranges() if request.vision_attention == "bidirectional" else []
    length = len(inputs.tokens) + request.num_tokens - 1
    fresh = not prepared.places.tower and request.num_tokens > 1 and length_dependent_positions(config, length)
    found = Findings(tokens=[*inputs.tokens, *tokens_of(prepared.tokenizer, decoder_start(model), len(inputs.tokens))])
    found.seconds = {"recorded_forward": 0.0, "decode": 0.0, "check": 0.0}
    meter = Meter(model, Wanted(attn=False), request.ablation, found.metrics)
    predicting = prepared.places.predicting - prepared.places.first
    for _ in range(request.num_tokens if fresh else 1):
        if length_dependent_positions(config, length + 1):
            model(input_ids=tensors["input_ids"][:, :1])  # transformers keeps the frequencies of the longest input
        count = 1 if fresh else request.num_tokens
        recording = record_generation(
            model, tensors, count, stops, predicting.__le__, together, lambda: progress("generate")
        )
        found.seconds["recorded_forward"] += recording.seconds[0]
        found.seconds["decode"] += sum(recording.seconds[1:])
        check_layers(meter, recording, found)
        new = tokens_of(prepared.tokenizer, recording.tokens, first=len(found.tokens))
        for token, probability in zip(new, recording.probabilities, strict=True):
            step = len(found.generated)
            found.generated.append({"step": step, "id": token.id, "text": token.text, "probability": probability})
        found.tokens += new
        if recording.tokens[-1] in stops:
            found.stop_reason = "end of text"
            break
        tensors = longer(tensors, recording.tokens)
    return found


def check_layers(meter: Meter, recording: Recording, found: Findings) -> None:
    """Replay every recorded layer without a mask; what differs is the noise floor, or a refusal."""
    started = time.perf_counter()
    for record in recording.measured():
        for view in [record] if record.other is None else [record, record.other]:
            for query in view.queries.values():
                found.noise(meter.impact(view, query, [[]]).noise)
    found.skipped_layers = [skipped(record) for record in recording.skipped()]
    found.seconds["check"] += time.perf_counter() - started
