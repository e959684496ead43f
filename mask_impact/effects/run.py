"""All effects of a run: every unit, window and block at every generation step, as tables.

Masks that every later position stops reading are run once for the whole answer. The predicting position is another one
at every step, so masks that it alone stops reading are run step by step; and so is everything where positions depend on
the length of the text.

In:  a run that is finished (what was generated), and what is asked for.
Out: rows of `effects.Effect`, and of `effects.Trace` where they were asked for, as columns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

import torch

from mask_impact.effects.answer import Effect, Effects, Trace
from mask_impact.effects.asked import Asked, Window
from mask_impact.model.generation import decoder_start, longer, model_tensors
from mask_impact.model.lengths import length_dependent_positions
from mask_impact.model.untouched import check_untouched, is_checked
from mask_impact.options import Progress
from mask_impact.prompt.inputs import tokens_of
from mask_impact.prompt.prepared import Prepared
from mask_impact.prompt.units import MASKED, Unit, paired
from mask_impact.table import Columns


def effect_tables(
    model: Any, prepared: Prepared, generated: Sequence[int], progress: Progress = lambda what: None
) -> tuple[dict[str, Columns], dict[str, Any]]:
    """({"effects": columns} and with a trace {"trace": columns}, what the manifest says of them).

    Args:
        prepared: a request with effects.
        generated: the ids of the run's output tokens.

    Raises OutOfMemory when not even one mask fits the memory.
    """
    inputs, request = prepared.inputs, prepared.request
    wanted: Asked = prepared.effects
    together = inputs.image_ranges() if request.vision_attention == "bidirectional" else []
    prompt = tensors = model_tensors(model, inputs)
    start = decoder_start(model)
    if start:
        tensors = tensors | {"decoder_input_ids": torch.tensor([start], device=prompt["input_ids"].device)}
    masked = answer_units(prepared, start, generated)
    found = _Found(wanted)
    with torch.no_grad():
        for blocks, first, count in parts(model, prepared, len(generated)):
            progress(f"effects step {first + 1}/{len(generated)}")
            chosen = generated[first : first + count]
            given = longer(tensors, list(generated[: first + count - 1]))
            effects = Effects(
                model, prepared.tokenizer, given, first, together, request.ablation, wanted.contrast_ids, chosen
            )
            how = "while its forward is recorded for effects"
            if first == 0 and count == 1 and not together and not request.no_check and not is_checked(model, how):
                check_untouched(model, prompt, effects.passage.logits[0], how)
            found.add(effects, masked, blocks)
    return found.tables(), wanted.manifest | found.manifest()


def parts(model: Any, prepared: Prepared, count: int) -> list[tuple[list[str], int, int]]:
    """(blocks, first step, number of steps) of every recorded forward that `count` output tokens need."""
    blocks = list(prepared.effects.blocks)
    config = model.config.get_text_config(decoder=True)
    by_step = [(blocks, step, 1) for step in range(count)]
    if count == 1 or length_dependent_positions(config, len(prepared.inputs.tokens) + count - 1):
        return by_step
    at_once = [block for block in blocks if block != "last"]
    alone = [(["last"], step, 1) for step in range(count)] if "last" in blocks else []
    return ([(at_once, 0, count)] if at_once else []) + alone


def answer_units(prepared: Prepared, start: Sequence[int], generated: Sequence[int]) -> list[Unit]:
    """The units of the prompt, which are the same at every step, and every further token as a unit of its own.

    Args:
        start: of an encoder-decoder, the token that the answer begins with.
    """
    inputs = prepared.inputs
    units = list(prepared.units(inputs.tokens))
    if prepared.plain or prepared.request.mask_unit in ("word", "sentence"):
        more = tokens_of(prepared.tokenizer, [*start, *generated[:-1]], first=len(inputs.tokens))
        maskable = MASKED[prepared.request.mask_mode]
        units += [Unit(token.text, (token.position,)) for token in more if maskable(token)]
    return units


class _Found:
    """The rows of a run, which come by window and block, and are written by step."""

    def __init__(self, wanted: Asked) -> None:
        self.wanted = wanted
        self.effects: list[tuple[tuple[int, int, int], Effect]] = []  # step, window, block
        self.traces: list[tuple[tuple[int, int, int], Trace]] = []
        self.notes: list[str] = []
        self.noise: dict[str, float] = {}

    def add(self, effects: Effects, units: Sequence[Unit], blocks: Sequence[str]) -> None:
        """Measure all that is asked for on one recorded forward."""
        for place, window in enumerate(self.wanted.windows):
            for block in blocks:
                order = self.wanted.blocks.index(block)
                rows, traces = effects.measure(units, window, block, self.wanted.trace)
                if self.wanted.pairs:
                    rows += pair_effects(effects, units, rows, window, block, self.wanted.pairs)
                self.effects += [((row.generation_step, place, order), row) for row in rows]
                self.traces += [((row.generation_step, place, order), row) for row in traces]
        self.notes += [note for note in effects.notes if note not in self.notes]
        self.noise = {name: max(value, self.noise.get(name, 0.0)) for name, value in effects.runner.noise.items()}

    def tables(self) -> dict[str, Columns]:
        effects, traces = (
            [row for _, row in sorted(rows, key=lambda keyed: keyed[0])] for rows in (self.effects, self.traces)
        )
        return {"effects": columns(Effect, effects)} | ({"trace": columns(Trace, traces)} if self.wanted.trace else {})

    def manifest(self) -> dict[str, Any]:
        strong = strongest([row for _, row in sorted(self.effects, key=lambda keyed: keyed[0])])
        return {"noise": self.noise, "notes": self.notes, "strongest": strong}


def pair_effects(
    found: Effects, units: Sequence[Unit], rows: Sequence[Effect], window: Window, block: str, count: int
) -> list[Effect]:
    """The effects of all pairs among the `count` units that change each step's log-probability most, and how much more
    or less a pair does than its two units do alone."""
    interacting: list[Effect] = []
    for step in dict.fromkeys(row.generation_step for row in rows):
        alone = [row for row in rows if row.generation_step == step]
        seen = [unit for unit in units if found.sees(unit, step)]
        places = sorted(sorted(range(len(seen)), key=lambda place: -abs(alone[place].logprob_change))[:count])
        pairs = [(pair, places[a], places[b]) for pair, a, b in paired([seen[place] for place in places])]
        measured, _ = found.measure([pair for pair, _, _ in pairs], window, block)
        for row, (_, a, b) in zip((row for row in measured if row.generation_step == step), pairs, strict=True):
            apart = row.logprob_change - alone[a].logprob_change - alone[b].logprob_change
            interacting.append(replace(row, interaction=apart))
    return interacting


def strongest(effects: Sequence[Effect], count: int = 5) -> list[dict[str, Any]]:
    """The masks that cost the answer most, of each unit the worst."""
    worst: dict[tuple[str, int], Effect] = {}
    for row in sorted(effects, key=lambda row: row.logprob_change):
        worst.setdefault((row.token_masked, row.token_position), row)
    return [asdict(row) for row in list(worst.values())[:count]]


def columns(kind: type[Any], rows: Sequence[Any]) -> Columns:
    """The fields of dataclass rows, without those that no row has."""
    found: Mapping[str, list[Any]] = {each.name: [getattr(row, each.name) for row in rows] for each in fields(kind)}
    return {name: values for name, values in found.items() if not rows or any(value is not None for value in values)}
