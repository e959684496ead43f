"""How many digits a distance has: float32, bfloat16 and float16 against float64, by variant and metric.

In: nothing; a small model of Llama's kind with random weights and sharp attention, with and without an attention sink
at position 0, on random prompts.
Out: a Markdown table on stdout: quantiles of the relative error of the distances above their noise floor, and how many
are below it. The exact value is the engine's in float64 on the same weights and recorded inputs; tests/test_engine.py
holds that engine against brute force.

    python benchmarks/accuracy.py                          # about a minute of CPU time
    python benchmarks/accuracy.py --lengths 64
    python benchmarks/accuracy.py --lengths 64 --whole     # with the rounding of the model's own forward
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch
from float64 import doubled, true_float64
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.work import record
from mask_impact.impact import meter as meter_module
from mask_impact.impact.meter import Impact, Meter, Wanted
from mask_impact.impact.record import Recording
from mask_impact.model.rounding import ROUNDING

METRICS = ("l2", "cosine", "relative")
QUANTILES = (0.5, 0.99, 1.0)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
VARIANTS = {"Full": slice(0, 1), "Attn": slice(1, 2), "heads": slice(2, None)}
SHARP = 5.0  # what queries and keys are multiplied by
LONG, DRAWN = 20.0, 2.0  # of the first token's embedding; by how much queries look for it


def add_sink(layer: Any) -> None:
    """Every query looks for number 1 of the residual stream, which only the first token has, and no layer changes."""
    attention = layer.self_attn
    slowest = attention.head_dim // 2 - 1  # of the numbers that turn with the position
    for projection, number in ((attention.q_proj, 0), (attention.k_proj, 1)):
        rows = projection.weight.view(-1, attention.head_dim, projection.in_features)[:, slowest]
        rows.zero_()[:, number] = DRAWN
    attention.v_proj.weight[:, 1] = 0  # the value of the first token is short
    for projection in (attention.o_proj, layer.mlp.down_proj):
        projection.weight[:2] = 0


def model_with(sink: bool, dtype: torch.dtype) -> Any:
    """Three layers of four heads. With a sink, heads give most of their weight to position 0, whose value is short."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1000, hidden_size=128, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=8192,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        embeddings = model.model.embed_tokens.weight
        embeddings *= 50
        for layer in model.model.layers:
            for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj):
                projection.weight *= SHARP
        if sink:
            embeddings[:, 0], embeddings[1:, 1], embeddings[0, 1] = 1, 0, LONG
            for layer in model.model.layers:
                add_sink(layer)
    return model.to(dtype)


def prompt(length: int) -> torch.Tensor:
    """[1, N] the sink's token, which comes nowhere else, and random ids."""
    rest = torch.randint(1, 1000, (length - 1,), generator=torch.Generator().manual_seed(length))
    return torch.cat([torch.zeros(1, dtype=torch.int64), rest])[None]


def impacts(model: Any, recording: Recording, length: int) -> list[Impact]:
    meter = Meter(model, Wanted(), metrics=METRICS)
    masks = [[masked] for masked in range(length)]
    return [meter.impact(layer, layer.queries[length - 1], masks) for layer in recording.with_attention()]


def found_and_exact(
    dtype: torch.dtype, sink: bool, length: int, whole: bool
) -> tuple[list[Impact], list[Impact], float]:
    """In `dtype`, and in float64 from the same record, or of a `whole` run in float64 with the same weights; and the
    weight of position 0, mean over layers and heads.
    """
    model = model_with(sink, dtype)
    with torch.no_grad():
        ids = prompt(length)
        recording = record(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, 1)
        found = impacts(model, recording, length)
        meter = Meter(model, Wanted())
        first = [meter.attention(layer, layer.queries[length - 1]).weights for layer in recording.with_attention()]
        weight = torch.stack([each[..., 0] for each in first if each is not None]).mean().item()
        every_rounding = mock.patch.object(meter_module, "ROUNDING", dict.fromkeys(ROUNDING, 1e9))
        with true_float64(), every_rounding:  # the record is in another precision
            model.double()
            exact = record(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, 1) if whole else None
            return found, impacts(model, exact or doubled(recording), length), weight


def rows(dtype: str, sink: bool, length: int, whole: bool) -> Iterator[str]:
    """A line for each variant."""
    found, exact, weight = found_and_exact(DTYPES[dtype], sink, length, whole)
    told = f"{dtype} | {length:,} | {weight:.2f}"
    for variant, columns in VARIANTS.items():
        cells = []
        for place in range(len(METRICS)):
            ours = torch.stack([each.values[:, columns, place] for each in found]).double()  # [L, P, V]
            true = torch.stack([each.values[:, columns, place] for each in exact]).double()
            floors = torch.stack([each.floors[columns, place] for each in found]).double().unsqueeze(1)
            above = ours > floors
            errors = ((ours - true).abs() / true)[above]
            quantiles = (
                torch.quantile(errors, torch.tensor(QUANTILES, dtype=errors.dtype)).tolist() if above.any() else []
            )
            below = 1 - above.double().mean().item()
            cells.append(f"{' / '.join(f'{value:.0e}' for value in quantiles)} ({100 * below:.0f} %)")
        yield f"| {told} | {variant} | {' | '.join(cells)} |"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--lengths", default="64,1024,4096", help="prompt tokens")
    parser.add_argument("--dtypes", default=",".join(DTYPES), help="comma-separated")
    parser.add_argument("--whole", action="store_true", help="against a whole run in float64, not its own record")
    args = parser.parse_args(argv)
    if unknown := set(args.dtypes.split(",")) - set(DTYPES):
        parser.error(f"--dtypes {','.join(sorted(unknown))}: choose from {', '.join(DTYPES)}")
    print("| dtype | tokens | mean weight of position 0 | variant | " + " | ".join(METRICS) + " |")
    print("|---" * (4 + len(METRICS)) + "|")
    for length in map(int, args.lengths.split(",")):
        for dtype in args.dtypes.split(","):
            for sink in (False, True):
                for row in rows(dtype, sink, length, args.whole):
                    print(row, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
