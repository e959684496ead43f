"""All effects of a run: every unit, window and block at every generation step, as tables.

Masks are run once for the whole answer, but for those of the predicting position, which is another one at every step:
they are run step by step; and so is everything where positions depend on the length of the text.

In:  a run that is finished (what was generated), and what is asked for.
Out: rows of `effects.Effect`, and of `effects.Trace` where they were asked for, as columns.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from typing import Any

import torch

from mask_impact.effects.answer import WHOLE_ANSWER, Effect, Effects, Trace
from mask_impact.effects.asked import Asked, Window
from mask_impact.effects.carry_decoder import Decoding
from mask_impact.effects.most_read import MostRead, Ranked
from mask_impact.effects.recorded_forward import Passage
from mask_impact.effects.refine import Key, Refinement
from mask_impact.effects.routes import Route
from mask_impact.effects.whole import Sums, contrasted, whole_answers
from mask_impact.effects.work import RECORDING
from mask_impact.model.generation import decoder_start, longer, model_tensors
from mask_impact.model.lengths import length_dependent_positions
from mask_impact.model.rounding import ROUNDING
from mask_impact.model.towers import decoder_layers, unsupported
from mask_impact.model.untouched import check_untouched, is_checked
from mask_impact.options import Progress, unseen
from mask_impact.prompt.inputs import tokens_of
from mask_impact.prompt.prepared import Prepared
from mask_impact.prompt.units import MASKED, Unit, paired
from mask_impact.table import Columns

OF_EACH_STEP = "another mask at every step, so there is no row for the whole answer, and no contrast of several tokens"
NOT_AT_EVERY_STEP = "pairs that are not among the strongest units at every step have no row for the whole answer"


def effect_tables(
    model: Any,
    prepared: Prepared,
    generated: Sequence[int],
    progress: Progress = unseen,
    ranked: Sequence[Ranked] = (),
    kind: "type[Passages] | None" = None,
) -> tuple[dict[str, Columns], dict[str, Any]]:
    """({"effects": columns} and with a trace {"trace": columns}, what the manifest says of them).

    Args:
        prepared: a request with effects.
        generated: the ids of the run's output tokens.
        ranked: what single layers read, the most read first; needed where the request has `top`.
        kind: how the tower is recorded that is masked; None: as a decoder.

    Raises OutOfMemory when not even one mask fits the memory.
    """
    passages = (kind or Passages)(model, prepared, progress)
    wanted: Asked = prepared.effects
    masked, more = passages.units(generated)
    refinement = wanted.refinement(more) if wanted.refine else None
    most_read = MostRead.of([*masked, *more], ranked, wanted.top) if wanted.top else None
    found = _Found(wanted, refinement, most_read)
    with torch.no_grad():
        expected = wanted.expected([unit.positions[0] for unit in masked])
        for place, units in enumerate(found.rounds([*masked, *more])):
            passages.expect(expected[place] if place < len(expected) else [], units)
            for routes, effects in passages.over(generated, wanted.two_tokens):
                found.add(effects, units, routes)
        texts = [found.text_sums(passages, ids) for ids in wanted.longer_contrast]
    found.complete(texts, len(generated), bool(prepared.given), len(prepared.inputs.tokens))
    return found.tables(), wanted.manifest | found.manifest()


class Passages:
    """Recorded forwards of the model over the prompt and an answer."""

    kind = Effects

    def __init__(self, model: Any, prepared: Prepared, progress: Progress) -> None:
        self.model, self.prepared, self.progress = model, prepared, progress
        inputs, bidirectional = prepared.inputs, prepared.request.vision_attention == "bidirectional"
        self.together = inputs.image_ranges() if bidirectional else []
        self.start = decoder_start(model)
        self.prompt = self.tensors = model_tensors(model, inputs)
        if self.start:
            device = self.prompt["input_ids"].device
            self.tensors = self.tensors | {"decoder_input_ids": torch.tensor([self.start], device=device)}
        self.changes_with_length = False  # where an answer comes after it
        self.prompt_end: torch.Tensor | None = None  # [C] the last state of the prompt, in the passage before
        self.scale = 1.0
        self.kept: tuple[Sequence[int], list[Route], Effects] | None = None  # the answer's, for the next round

    def expect(self, starts: Sequence[int], units: Sequence[Unit]) -> None:
        """Count masks of the `units` that were chosen as the work that was expected of others, which begin at `starts`:
        what is counted in all stays what the progress was told."""
        wanted: Asked = self.prepared.effects
        length = len(self.prepared.inputs.tokens) + 1
        found = wanted.weight([unit.positions[0] for unit in units if unit.positions[0] < length], length)
        choosing = (wanted.refine or wanted.top) and starts and found > 0
        self.scale = wanted.weight(starts, length) / found if choosing else 1.0

    def over(
        self, answer: Sequence[int], contrast: tuple[int, int] | None = None
    ) -> Iterator[tuple[list[Route], Effects]]:
        """(routes that are measured on it, a recorded forward), until every route has every token of `answer`."""
        request = self.prepared.request
        if self.kept is not None and self.kept[0] is answer:
            yield self.kept[1:]
            return
        self.changes_with_length = changes_with_length(self.model, self.prepared, len(answer))
        needed = parts(self.model, self.prepared, len(answer))
        for routes, first, count in needed:
            what = f"effects step {first + 1}/{len(answer)}"
            given = longer(self.model, self.tensors, list(answer[: first + count - 1]))
            chosen = answer[first : first + count]
            with self._counted(what, given["input_ids"].shape[1]):
                effects = self.effects(given, first, contrast, chosen)
                self._check(effects.passage, first, count)
            effects.progress, effects.costs = functools.partial(self._masked, what), self.prepared.costs
            if request.refine and len(needed) == 1:  # of several, one at a time fits the memory
                self.kept = answer, routes, effects
            yield routes, effects

    def effects(
        self, given: Mapping[str, torch.Tensor], first: int, contrast: tuple[int, int] | None, chosen: Sequence[int]
    ) -> Effects:
        """On one recorded forward; the arguments are those of `Effects`."""
        prepared, how = self.prepared, self.prepared.request.ablation
        return self.kind(self.model, prepared.tokenizer, given, first, self.together, how, contrast, chosen)

    def units(self, generated: Sequence[int]) -> tuple[list[Unit], list[Unit]]:
        """What is masked: of the prompt, and of the answer."""
        return answer_units(self.prepared, self.start, generated)

    @contextmanager
    def _counted(self, what: str, length: int) -> Iterator[None]:
        """The forwards of a recording and its checks are `RECORDING` for the progress, however many there are. Each
        counts by its share of the `length` positions.
        """
        layers, left = len(decoder_layers(self.model)), RECORDING

        def begins(_: Any, __: Any, given: Mapping[str, Any]) -> None:
            nonlocal left
            ids = given.get("input_ids")
            share = min(left, 1.0 if ids is None else ids.shape[1] / length)
            self.progress(what, share * layers)
            left -= share

        hook = self.model.register_forward_pre_hook(begins, with_kwargs=True)
        try:
            yield
        finally:
            hook.remove()
        self.progress(what, left * layers)

    def _masked(self, what: str, work: float) -> None:
        self.progress(what, work * self.scale)

    def _check(self, passage: Passage | Decoding, first: int, count: int) -> None:
        """That neither recording nor an answer after the prompt changes what follows the prompt: there are models whose
        prompt reads what comes after it. Raises UnsupportedModel.
        """
        how = "while its forward is recorded for effects" + (", with the answer after the prompt" if count > 1 else "")
        if first == 0 and not (self.together or self.prepared.request.no_check or is_checked(self.model, how)):
            check_untouched(self.model, self.prompt, passage.logits[0], how)
        last = passage.calls[-1].output[0]  # [T, C], or fewer rows where layers are not carried on
        if isinstance(passage, Passage) and len(last) == passage.length and not self.changes_with_length:
            end = last[len(self.prepared.inputs.tokens) - 1].to("cpu", torch.float64)
            before, self.prompt_end = end if self.prompt_end is None else self.prompt_end, end
            if not (end - before).norm() <= ROUNDING[self.model.dtype] * before.norm():
                raise unsupported(self.model, len(passage.calls) - 1, "the prompt reads the answer that comes after it")


def parts(model: Any, prepared: Prepared, count: int) -> list[tuple[list[Route], int, int]]:
    """(routes, first step, number of steps) of every recorded forward that `count` output tokens need."""
    routes = list(prepared.effects.routes)
    if count == 1 or changes_with_length(model, prepared, count):
        return [(routes, step, 1) for step in range(count)]
    at_once = [route for route in routes if not route.by_step]
    others = [route for route in routes if route.by_step]
    alone = [(others, step, 1) for step in range(count)] if others else []
    return ([(at_once, 0, count)] if at_once else []) + alone


def changes_with_length(model: Any, prepared: Prepared, count: int) -> bool:
    """Whether the positions of a prompt with `count` tokens after it depend on how long the text is."""
    config = model.config.get_text_config(decoder=True)
    return length_dependent_positions(config, len(prepared.inputs.tokens) + count - 1)


def answer_units(prepared: Prepared, start: Sequence[int], generated: Sequence[int]) -> tuple[list[Unit], list[Unit]]:
    """The units of the prompt, which are the same at every step; and every further token as a unit of its own.

    Args:
        start: of an encoder-decoder, the token that the answer begins with.
    """
    inputs = prepared.inputs
    units, later = list(prepared.units(inputs.tokens)), list[Unit]()
    if prepared.plain or prepared.request.mask_unit in ("word", "sentence"):
        more = tokens_of(prepared.tokenizer, [*start, *generated[:-1]], first=len(inputs.tokens))
        maskable = MASKED[prepared.request.mask_mode]
        later = [Unit(token.text, (token.position,)) for token in more if maskable(token)]
    return units, later


class _Found:
    """The rows of a run, which come by window and block, and are written by step."""

    def __init__(self, wanted: Asked, refinement: Refinement | None = None, top: MostRead | None = None) -> None:
        self.wanted, self.refinement, self.top = wanted, refinement, top
        self.effects: list[tuple[tuple[int, int, int], Effect]] = []  # step, window, block
        self.traces: list[tuple[tuple[int, int, int], Trace]] = []
        self.rows: list[Effect] = []  # all of them in the table's order, when complete
        self.at_first: dict[tuple[Window, Route], list[Unit]] = {}  # what was masked at the first step
        self.notes: list[str] = []
        self.noise: dict[str, float] = {}

    def rounds(self, units: Sequence[Unit]) -> Iterator[Sequence[Unit]]:
        """What is masked; when that is added, from coarse to fine, what is masked next. One round, if all is known."""
        if self.refinement is None:
            yield units if self.top is None else self.top.units
            return
        yield self.refinement.masked
        while self.refinement.split(self._changes()):
            yield self.refinement.masked

    def _changes(self) -> dict[Key, float]:
        """How much each unit changes the log-probability of the whole answer."""
        changes: dict[Key, float] = {}
        for _, row in self.effects:
            key = row.unit_level or 0, row.token_position
            changes[key] = changes.get(key, 0.0) + row.logprob_change
        return changes

    def add(self, effects: Effects, units: Sequence[Unit], routes: Sequence[Route]) -> None:
        """Measure all that is asked for on one recorded forward."""
        wanted = self.wanted
        for place, window in enumerate(wanted.windows):
            for route in routes:
                order = wanted.routes.index(route)
                masks = wanted.in_heads(effects.masks(route, units), window)
                rows, traces = effects.measure_masks(masks, window, wanted.trace)
                pairs = pair_effects(effects, units, rows, window, route, wanted)
                rows += [row for row, _ in pairs]
                self.effects += [((row.generation_step, place, order), row) for row in rows]
                self.traces += [((row.generation_step, place, order), row) for row in traces]
                if effects.step == 0:
                    seen = [unit for unit in units if effects.sees(unit, 0)]
                    seen += [unit for row, unit in pairs if row.generation_step == 0]
                    self.at_first.setdefault((window, route), []).extend(seen)
        self._hear(effects)

    def _hear(self, effects: Effects) -> None:
        self.notes += [note for note in effects.notes if note not in self.notes]
        self.noise = {name: max(value, self.noise.get(name, 0.0)) for name, value in effects.runner.noise.items()}

    def text_sums(self, passages: Passages, ids: Sequence[int]) -> Sums:
        """The log-probability of these tokens in the place of the answer, under every mask of its first step."""
        rows: list[Effect] = []
        for routes, effects in passages.over(ids):
            for (window, route), units in self.at_first.items():
                masks = self.wanted.in_heads(effects.masks(route, units), window) if route in routes else []
                rows += effects.measure_masks(masks, window)[0]
            self._hear(effects)
        whole = whole_answers(rows, len(ids))
        return {mask: (row.logprob, row.logprob_change) for mask, row in whole.items()}

    def complete(self, texts: Sequence[Sums], steps: int, given: bool, prompt: int) -> None:
        """Put the rows in order, and those for the whole answer after them, where it is more than one generated token.

        Args:
            texts: of a contrast of several tokens, for its two texts.
            steps: tokens of the answer; whether it was `given`.
            prompt: tokens of the prompt.
        """
        self.rows = [row for _, row in sorted(self.effects, key=lambda keyed: keyed[0])]
        whole = []
        if given or steps > 1:
            whole = list(whole_answers((row for row in self.rows if row.token_position < prompt), steps).values())
            pairs = [sum(row.interaction is not None for row in rows) for rows in (self.rows, whole)]
            if pairs[0] > steps * pairs[1]:
                self.notes.append(NOT_AT_EVERY_STEP)
        others = [route.name for route in self.wanted.routes if not route.at_every_step]
        if others and (texts or whole or steps > 1):
            self.notes.append(f"{', '.join(others)}: {OF_EACH_STEP}")
        if texts:
            self.rows = [contrasted(row, texts) if row.generation_step == 0 else row for row in self.rows]
            whole = [contrasted(row, texts) for row in whole]
        self.rows += whole

    def tables(self) -> dict[str, Columns]:
        traces = [row for _, row in sorted(self.traces, key=lambda keyed: keyed[0])]
        trace = {"trace": columns(Trace, traces)} if self.wanted.trace else {}
        return {"effects": columns(Effect, self.rows)} | trace

    def manifest(self) -> dict[str, Any]:
        notes, more = [*self.wanted.notes, *self.notes], dict[str, Any]()
        for name, choice in (("refine", self.refinement), ("top", self.top)):
            more[name] = choice and choice.manifest
            notes += choice.notes if choice else []
        told = None
        if self.refinement:
            together = self.refinement.more_than_parts(self._changes())
            told = self.refinement.leaves | set(together)
            notes += together.values()
        return {"noise": self.noise, "notes": notes, "strongest": strongest(self.rows, told)} | more


def pair_effects(
    found: Effects, units: Sequence[Unit], rows: Sequence[Effect], window: Window, route: Route, wanted: Asked
) -> list[tuple[Effect, Unit]]:
    """The effects of all pairs among the `wanted.pairs` units that change each step's log-probability most, and how
    much more or less a pair does than its two units do alone."""
    interacting: list[tuple[Effect, Unit]] = []
    for step in dict.fromkeys(row.generation_step for row in rows) if wanted.pairs else ():
        alone = [row for row in rows if row.generation_step == step]
        seen = [unit for unit in units if found.sees(unit, step)]
        places = sorted(sorted(range(len(seen)), key=lambda place: -abs(alone[place].logprob_change))[: wanted.pairs])
        pairs = [(pair, places[a], places[b]) for pair, a, b in paired([seen[place] for place in places])]
        masks = wanted.in_heads(found.masks(route, [pair for pair, _, _ in pairs]), window)
        measured, _ = found.measure_masks(masks, window)
        for row, (pair, a, b) in zip((row for row in measured if row.generation_step == step), pairs, strict=True):
            apart = row.logprob_change - alone[a].logprob_change - alone[b].logprob_change
            interacting.append((replace(row, interaction=apart), pair))
    return interacting


def strongest(effects: Sequence[Effect], told: set[Key] | None = None, count: int = 5) -> list[dict[str, Any]]:
    """The masks that cost the answer most, of each unit the worst: the whole answer, where there are rows for it.

    `told`: from coarse to fine, the units that stand for the others.
    """
    effects = [row for row in effects if told is None or (row.unit_level or 0, row.token_position) in told]
    whole = [row for row in effects if row.generation_step == WHOLE_ANSWER]
    worst: dict[tuple[str, int], Effect] = {}
    for row in sorted(whole or effects, key=lambda row: row.logprob_change):
        worst.setdefault((row.token_masked, row.token_position), row)
    return [asdict(row) for row in list(worst.values())[:count]]


def columns(kind: type[Any], rows: Sequence[Any]) -> Columns:
    """The fields of dataclass rows, without those that no row has."""
    found: Mapping[str, list[Any]] = {each.name: [getattr(row, each.name) for row in rows] for each in fields(kind)}
    return {name: values for name, values in found.items() if not rows or any(value is not None for value in values)}
