"""Which recorded forwards a run needs, and which query positions are measured in each."""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

from mask_impact.errors import UnsupportedModel, UserError
from mask_impact.impact.measurement import Measurement
from mask_impact.impact.record import QueryRecord, Recording, record_generation
from mask_impact.impact.rerun import RerunMeter
from mask_impact.impact.self_check import check_before_work
from mask_impact.impact.whole_calls import has_own_rows, record_calls
from mask_impact.model.call_rows import changed
from mask_impact.model.generation import decoder_beginning, longer, model_tensors
from mask_impact.model.lengths import length_dependent_positions
from mask_impact.model.memory import memory_budget
from mask_impact.model.towers import named, reason
from mask_impact.model.untouched import check_untouched, is_checked
from mask_impact.prompt.inputs import stop_ids
from mask_impact.prompt.token_text import token_text

ANEW = (
    "the model's layers have rows of its own beside the tokens: every step was computed anew on the prompt and the "
    "answer so far, and generation with a cache may choose other tokens"
)
Recorded = Iterator[tuple[Recording, list[tuple[int, int]]]]


def recordings(measurement: Measurement) -> Recorded:
    """Recordings and the (generation step, query position) pairs to measure in each, in the table's order.

    A family whose layers cannot be replayed on rows is recorded and measured by whole calls of its layers, if that is
    found out before the first recording is given away. Raises UnsupportedModel where that cannot be done either.
    """
    begun = False
    try:
        for each in _recordings(measurement):
            begun = True
            yield each
    except UnsupportedModel as refusal:
        if begun or refusal.final or named(measurement.model.config, measurement.request.tower).reads_encoder:
            raise
        measurement.start(RerunMeter)
        measurement.findings.note(
            f"layers could not be replayed on single rows ({reason(refusal)}): each was called again on its whole "
            "input, with masks set where it takes the softmax of its attention"
        )
        yield from _recordings(measurement)


def _recordings(measurement: Measurement) -> Recorded:
    """Recordings and the (generation step, query position) pairs to measure in each, in the table's order.

    One recorded generation serves all steps, except where positions depend on the total length (dynamic NTK, long-rope
    across its switch): there the cached keys of an earlier step are not those of a fresh run, and every step gets a
    recorded forward of its own over its whole prefix. Positions before the prompt's last are recorded apart, in as many
    forwards over the prompt as keep the record within the memory budget.
    """
    model, inputs, options = measurement.model, measurement.prepared.inputs, measurement.request
    findings = measurement.findings
    tensors = model_tensors(model, inputs)
    config = model.config.get_text_config(decoder=True)
    given = measurement.prepared.given  # to its end, whatever it holds
    stops = [] if given else stop_ids(measurement.tokenizer, model.generation_config, model.config, config)
    check_beginning(measurement)
    length = len(inputs.tokens) + options.num_tokens - 1
    together = inputs.image_ranges() if options.vision_attention == "bidirectional" else []
    first, predicting = measurement.places.first, measurement.places.predicting
    whole = measurement.meter.way == RerunMeter.way
    record = record_calls if whole else record_generation
    fresh = _each_step_anew(measurement, whole or length_dependent_positions(config, length))
    if fresh and not whole:
        findings.note(
            "positions depend on the total length: every generation step was recorded in a forward of its own"
        )

    def recorded(
        answer: int | Sequence[int],
        wanted: Callable[[int], bool] = (predicting - first).__le__,
        together: Sequence[tuple[int, int]] = together,
    ) -> Recording:
        if length_dependent_positions(config, length + 1):
            # transformers keeps the frequencies of the longest input so far; a short one resets them
            model(input_ids=tensors["input_ids"][:, :1])
        recording = record(model, tensors, answer, stops, wanted, together, _begins(measurement), options.tower)
        findings.seconds["recorded_forward"] += recording.seconds[0]
        findings.seconds["decode"] += sum(recording.seconds[1:])
        return recording

    for start, answer in enumerate(_answers(given, options.num_tokens, fresh)):
        recording = recorded(answer)
        measurement.add_generated(recording, stops)
        if fresh and has_own_rows(recording):
            findings.note(ANEW)
        if start == 0:
            again = functools.partial(recorded, 1, together=()) if together else None
            _check_untouched(measurement, tensors, recording, again)
            check_before_work(measurement, recording)
            earlier = [position for position in measurement.positions if position < predicting]
            at_once = queries_at_once(recording, predicting - first)
            for done in range(0, len(earlier), at_once):
                part = earlier[done : done + at_once]
                wanted = {position - first for position in part}
                yield recorded(1, wanted.__contains__), [(0, position) for position in part]
        steps = range(start, start + len(recording.tokens))
        yield recording, [(step, predicting + step) for step in steps if predicting + step in measurement.positions]
        if recording.tokens[-1] in stops:
            return
        tensors = longer(model, tensors, recording.tokens)


def _begins(measurement: Measurement) -> Callable[[], None]:
    """What is called as each step of a recorded generation begins."""
    steps = itertools.count()
    return lambda: measurement.progress("generate and record", measurement.prepared.generation(next(steps)))


def _answers(given: Sequence[int], count: int, fresh: bool) -> list[int | Sequence[int]]:
    """What each recorded generation follows: the given ids or a number of tokens; all of them, or one in each."""
    return [given[start : start + 1] or 1 for start in range(count)] if fresh else [given or count]


def check_beginning(measurement: Measurement) -> None:
    """Raises UserError where a given answer does not begin with the token that the model puts before every answer."""
    given, begins = measurement.prepared.given, decoder_beginning(measurement.model).get("forced_bos_token_id")
    if given and begins not in (None, given[0]):
        first, needed = (token_text(measurement.tokenizer, each) for each in (given[0], begins))
        raise UserError(
            f"`answer` begins with {first!r} as this tokenizer writes it, but the model begins every answer with "
            f"{needed!r} (forced_bos_token_id); mend the tokenizer's target language or the checkpoint's config"
        )


def _each_step_anew(measurement: Measurement, needed: bool) -> bool:
    """Whether every generation step gets a recorded forward of its own. An encoder-decoder's are cached."""
    return needed and not measurement.places.tower and measurement.request.num_tokens > 1


def _check_untouched(
    measurement: Measurement,
    tensors: Mapping[str, torch.Tensor],
    recording: Recording,
    again: Callable[[], Recording] | None,
) -> None:
    """Compare what was recorded with the untouched model, once for a model; `again` records it under the model's own
    mask, where `recording` has another. Raises UnsupportedModel."""
    model, request = measurement.model, measurement.request
    how = f"while its {request.tower} is recorded"
    if measurement.meter.way == RerunMeter.way:
        how += " by whole calls of layers"
    if not request.no_check and not is_checked(model, how):
        plain = again() if again is not None else recording
        measurement.findings.seconds["untouched"] = check_untouched(model, tensors, plain.logits, how)


def queries_at_once(recording: Recording, position: int) -> int:
    """How many query positions one forward may record. The record of the one at `position` says how much each takes."""
    sizes: list[int] = []

    def counted(tensor: torch.Tensor) -> torch.Tensor:
        sizes.append(tensor.nbytes)
        return tensor

    queries: list[QueryRecord] = [record.queries[position] for record in recording.with_attention()]
    for query in queries:
        changed(vars(query), counted, {})
    return max(1, memory_budget(queries[0].hidden.device) // sum(sizes))
