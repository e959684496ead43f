#!/usr/bin/env python3
"""One layer of any text model against brute force: does the engine measure the real model?

In: a model and a layer. Out: the largest difference between the engine's distances and those of rerunning the whole
model with one key column of that layer's attention mask at -inf, for every token. Exit code 1 if they differ by
more than rounding. pytest collects this file too, on the bundled demo model.

    python test_single_layer.py
    python test_single_layer.py --model Qwen/Qwen3-0.6B --layer 14
    python test_single_layer.py --model path/to/checkpoint --prompt "Once upon a time"
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent / "tests"))

PROMPT = "Tom has a red ball. Ann has a blue cup. Ann's cup is"
TOLERANCE = 1e-4  # of the update's length: float32 rounding through a whole forward, twice


@dataclass
class Difference:
    """The worst disagreement over all tokens for one kind of variant."""

    variant: str  # "Full", "Attn" or "Head"
    largest: float  # |l2 - brute force l2|
    relative: float  # the same, relative to the length of the vector that is compared
    typical: float  # the median brute-force l2, to see what the difference is small against


def family_row(model: Any) -> Any:
    """Where the parts of a decoder layer are: the row of tests/families.py, else found by their usual names."""
    from families import FAMILIES, HYBRIDS, Family
    from torch import nn

    from mask_impact.model.towers import decoder_layers, family

    for row in (FAMILIES | HYBRIDS).values():
        if row.model_type == family(model) and row.available:
            found = row
            break
    else:
        found = Family(family(model), "not in tests/families.py; the usual names are tried")
    layers = decoder_layers(model)
    path = next(
        name for name, module in model.named_modules() if isinstance(module, nn.ModuleList) and list(module) == layers
    )
    config = model.config.get_text_config(decoder=True)
    attends = tuple(index for index, layer in enumerate(layers) if hasattr(layer, found.attention.split(".")[0]))
    from dataclasses import replace

    return replace(found, layers=path, heads=config.num_attention_heads, attends=attends)


def compare(model: Any, tokenizer: Any, layer: int, prompt: str = PROMPT) -> list[Difference]:
    """Every token of `prompt` masked in `layer`, by the engine and by brute force."""
    import torch
    from brute_force import distances, observe, variants

    from mask_impact.impact.meter import Meter, Wanted
    from mask_impact.impact.record import record_generation
    from mask_impact.prompt.inputs import text_inputs

    row = family_row(model)
    tensors = {name: tensor.to(model.device) for name, tensor in text_inputs(tokenizer, prompt).tensors.items()}
    ids = tensors["input_ids"]
    query = ids.shape[1] - 1
    recording = record_generation(model, tensors, 1, [])
    record = recording.layers[layer]
    with torch.no_grad():
        impact = Meter(model, Wanted()).impact(record, record.queries[query], [[m] for m in range(query + 1)])
    base = observe(model, row, ids)[layer].at(query)
    found: dict[str, list[tuple[float, float, float]]] = {}
    for masked in range(query + 1):
        changed = observe(model, row, ids, layer, [masked])[layer].at(query)
        for column, (variant, before, after) in enumerate(variants(base, changed)):
            expected, _ = distances(before, after)
            off = abs(impact.l2[masked, column].item() - expected)
            found.setdefault(variant.split("_")[0], []).append((off, off / before.norm().item(), expected))
    return [
        Difference(
            variant,
            max(off for off, _, _ in rows),
            max(relative for _, relative, _ in rows),
            sorted(expected for _, _, expected in rows)[len(rows) // 2],
        )
        for variant, rows in found.items()
    ]


def report(name: str, layer: int, differences: Sequence[Difference]) -> str:
    lines = [f"{name}, layer {layer}: engine against brute force, largest over all tokens"]
    lines.append(f"{'variant':<8} {'difference':>11} {'relative':>10} {'median L2':>10}")
    lines += [f"{d.variant:<8} {d.largest:>11.2e} {d.relative:>10.2e} {d.typical:>10.3g}" for d in differences]
    return "\n".join(lines)


def load(name: str) -> tuple[Any, Any]:
    import torch

    from mask_impact.model import find
    from mask_impact.model.load import load_model, load_tokenizer

    source = find.find_model(name)
    return load_model(source, torch.device("cpu"), torch.float32), load_tokenizer(source)


def test_every_layer_of_the_demo_model() -> None:
    model, tokenizer = load("demo")
    for layer in range(model.config.num_hidden_layers):
        differences = compare(model, tokenizer, layer)
        assert {d.variant for d in differences} == {"Full", "Attn", "Head"}
        for difference in differences:
            assert difference.relative < TOLERANCE, report("demo", layer, differences)
            assert difference.typical > 100 * difference.largest, "the differences drown what is measured"


def main(argv: Sequence[str] | None = None) -> int:
    from mask_impact.commands import exit_codes, flags

    parser = flags.Parser(description="One layer of any text model against brute force.")
    parser.add_argument("--model", metavar="NAME_OR_PATH", default="demo", help="default: demo")
    parser.add_argument("--layer", metavar="N", type=int, help="default: the middle one")
    parser.add_argument("--prompt", metavar="TEXT", default=PROMPT, help="default: %(default)r")
    parser.add_argument("--verbose", action="store_true", help="print tracebacks of errors")
    args = parser.parse_args(argv)
    args.exit_code = 0

    def command(args: argparse.Namespace) -> None:
        from mask_impact.errors import UserError

        model, tokenizer = load(args.model)
        count = model.config.get_text_config(decoder=True).num_hidden_layers
        layer = count // 2 if args.layer is None else args.layer
        if not 0 <= layer < count:
            raise UserError(f"there is no layer {layer}; this model has layers 0 to {count - 1}")
        differences = compare(model, tokenizer, layer, args.prompt)
        print(report(args.model, layer, differences))
        equal = all(difference.relative < TOLERANCE for difference in differences)
        print("equal up to rounding" if equal else f"NOT EQUAL: more than {TOLERANCE} of the vector's length")
        args.exit_code = 0 if equal else 1

    return exit_codes.guarded(command, args) or args.exit_code


if __name__ == "__main__":
    sys.exit(main())
