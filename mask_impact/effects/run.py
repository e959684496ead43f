"""All effects of a run: every unit, window and block at every generation step, as tables.

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
from mask_impact.model.untouched import check_untouched, is_checked
from mask_impact.options import Progress
from mask_impact.prompt.inputs import tokens_of
from mask_impact.prompt.prepared import Prepared
from mask_impact.prompt.units import Unit, paired
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
    inputs, tokenizer, request = prepared.inputs, prepared.tokenizer, prepared.request
    wanted: Asked = prepared.effects
    effects: list[Effect] = []
    traces: list[Trace] = []
    notes: list[str] = []
    noise: dict[str, float] = {}
    together = inputs.image_ranges() if request.vision_attention == "bidirectional" else []
    prompt = tensors = model_tensors(model, inputs)
    start = decoder_start(model)
    if start:
        tensors = tensors | {"decoder_input_ids": torch.tensor([start], device=prompt["input_ids"].device)}
    tokens = [*inputs.tokens, *tokens_of(tokenizer, [*start, *generated], first=len(inputs.tokens))]
    with torch.no_grad():
        for step, chosen in enumerate(generated):
            progress(f"effects step {step + 1}/{len(generated)}")
            found = Effects(model, tokenizer, tensors, step, together, request.ablation, wanted.contrast_ids, chosen)
            how = "while its forward is recorded for effects"
            if step == 0 and not together and not request.no_check and not is_checked(model, how):
                check_untouched(model, prompt, found.passage.logits, how)
            masked = prepared.units(tokens[: len(inputs.tokens) + len(start) + step])
            for window in wanted.windows:
                for block in wanted.blocks:
                    rows, traced = found.measure(masked, window, block, wanted.trace)
                    effects += rows
                    traces += traced
                    if wanted.pairs:
                        effects += pair_effects(found, masked, rows, window, block, wanted.pairs)
            notes += [note for note in found.notes if note not in notes]
            noise = {name: max(value, noise.get(name, 0.0)) for name, value in found.runner.noise.items()}
            tensors = longer(tensors, [chosen])
    tables = {"effects": columns(Effect, effects)} | ({"trace": columns(Trace, traces)} if wanted.trace else {})
    return tables, wanted.manifest | {"noise": noise, "notes": notes, "strongest": strongest(effects)}


def pair_effects(
    found: Effects, units: Sequence[Unit], rows: Sequence[Effect], window: Window, block: str, count: int
) -> list[Effect]:
    """The effects of all pairs among the `count` units with the largest change of log-probability, and how much more or
    less a pair does than its two units do alone."""
    ranked = sorted(range(len(units)), key=lambda place: -abs(rows[place].logprob_change))[:count]
    places = sorted(ranked)
    pairs = [(pair, places[a], places[b]) for pair, a, b in paired([units[place] for place in places])]
    measured, _ = found.measure([pair for pair, _, _ in pairs], window, block)
    return [
        replace(row, interaction=row.logprob_change - rows[a].logprob_change - rows[b].logprob_change)
        for row, (_, a, b) in zip(measured, pairs, strict=True)
    ]


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
