"""All effects of a run: every unit, window and block at every generation step, as tables.

In:  a run that is finished (what was generated), and what is asked for.
Out: rows of `effects.Effect`, and of `effects.Trace` where they were asked for, as columns.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch

from mask_impact.capture import decoder_start
from mask_impact.effects import Effect, Effects, Trace, Window, contrast_ids, windows_of
from mask_impact.errors import UserError
from mask_impact.experiment import Options, Units, longer, model_tensors
from mask_impact.extra import Columns
from mask_impact.inputs import ModelInputs, tokens_of
from mask_impact.options import BLOCKS, Request
from mask_impact.pairs import paired
from mask_impact.units import Unit


@dataclass(frozen=True)
class Asked:
    """Which effects are measured."""

    mask_layers: str
    windows: tuple[Window, ...]
    blocks: tuple[str, ...]
    contrast: tuple[str, ...]  # two texts, or none
    contrast_ids: tuple[int, int] | None
    trace: bool
    pairs: int = 0  # of how many units, the strongest ones, all pairs are masked too

    @property
    def manifest(self) -> dict[str, Any]:
        contrast = list(self.contrast) or None
        return {
            "mask_layers": self.mask_layers, "blocks": list(self.blocks), "contrast": contrast, "pairs": self.pairs
        }  # fmt: skip


def asked(request: Request, tokenizer: Any, layers: int) -> Asked | None:
    """What a request asks for, None for no effects. Raises UserError."""
    if request.pairs == 1:
        raise UserError("pairs of 1 unit: there are none; give --pairs 2 or more")
    if not request.effects:
        plain = Request("")
        for name in ("mask_layers", "blocks", "contrast", "trace_layers"):
            if getattr(request, name) != getattr(plain, name):
                flag = "--block" if name == "blocks" else f"--{name.replace('_', '-')}"
                raise UserError(f"{flag} is about effects on the answer; add --effects, or leave it away")
        return None
    if len(request.contrast) not in (0, 2):
        raise UserError(f"contrast has {len(request.contrast)} tokens; give two, such as ' Paris' and ' Rome'")
    for block in request.blocks:
        if block not in BLOCKS:
            raise UserError(f"unknown block {block!r}; choose from {', '.join(BLOCKS)}")
    ids = contrast_ids(tokenizer, request.contrast) if request.contrast else None
    windows = tuple(windows_of(request.mask_layers, layers))
    return Asked(
        request.mask_layers, windows, request.blocks, request.contrast, ids, request.trace_layers, request.pairs
    )


def measure(
    model: Any,
    tokenizer: Any,
    inputs: ModelInputs,
    options: Options,
    wanted: Asked,
    generated: Sequence[int],
    units: Units,
    progress: Callable[[str], None] = lambda what: None,
) -> tuple[dict[str, Columns], dict[str, Any]]:
    """({"effects": columns} and with a trace {"trace": columns}, what the manifest says of them).

    Args:
        generated: the ids of the run's output tokens.
        units: from the tokens up to a position to what is masked together.

    Raises OutOfMemory when not even one mask fits the memory.
    """
    effects: list[Effect] = []
    traces: list[Trace] = []
    notes: list[str] = []
    noise: dict[str, float] = {}
    together = inputs.image_ranges() if options.vision_attention == "bidirectional" else []
    tensors = model_tensors(model, inputs)
    start = decoder_start(model)
    if start:
        tensors["decoder_input_ids"] = torch.tensor([start], device=tensors["input_ids"].device)
    tokens = [*inputs.tokens, *tokens_of(tokenizer, [*start, *generated], first=len(inputs.tokens))]
    with torch.no_grad():
        for step, chosen in enumerate(generated):
            progress(f"effects step {step + 1}/{len(generated)}")
            found = Effects(model, tokenizer, tensors, step, together, options.ablation, wanted.contrast_ids, chosen)
            masked = units(tokens[: len(inputs.tokens) + len(start) + step])
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
    less a pair does than its two units do by themselves."""
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
