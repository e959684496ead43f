#!/usr/bin/env python3
"""Which tokens does a text model use, at which layer, in which head?

In: a prompt and a transformers model. Out: NAME_results.csv, .json and .html: one row per generation step, layer,
masked token and variant, with the L2 and cosine distance by which the layer's update moves (docs/output-format.md).

    python mask_impact_analysis.py --model demo --prompt "The capital of France is"
    python mask_impact_analysis.py --model demo --prompt "Tom has a red ball. Tom's ball is" --num-tokens 3
    python mask_impact_analysis.py --model Qwen/Qwen3-0.6B --prompt-file prompt.txt --layers 0,8,20-27 --output my_run
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mask_impact.commands import flags
from mask_impact.commands import main as commands
from mask_impact.options import ATTENTIONS, TOWERS, VARIANTS

if TYPE_CHECKING:
    import pandas as pd

DEFAULT_MODEL = "Qwen/Qwen3-0.6B"
DEFAULT_NAME = "masking"


def run_masking_experiment(
    prompt: str,
    model_name: str = DEFAULT_MODEL,
    device: str = "auto",
    num_output_tokens: int = 1,
    *,
    model: Any = None,
    tokenizer: Any = None,
    layers: str | Sequence[int] | None = None,
    variants: Sequence[str] = VARIANTS,
    dtype: str = "auto",
    head_space: str = "output",
    ablation: str = "neg-inf",
    queries: str | Sequence[tuple[int, int]] | None = None,
    tower: str = "decoder",
    attention: Sequence[str] = ATTENTIONS,
    mask_unit: str | None = None,
    spans: Sequence[str] = (),
    chat: bool = False,
) -> "pd.DataFrame":
    """Mask every token of `prompt`, one at a time and in one layer at a time; the table as a DataFrame.

    Args:
        model_name: hub name, checkpoint folder or "demo"; or give a loaded `model` and its `tokenizer`.
        layers: "0,8,20-27", a list of ints, or None for all.
        variants: any of "full", "attn", "head".
        head_space: "output" compares heads before the output projection, "residual" their shares of it.
        ablation: "neg-inf" takes a token out of the softmax, "zero-value" keeps its weight and zeroes its value.
        queries: "last" (the predicting position; the default), "all" (of an encoder the default), or (first, last) of
            ranges of positions.
        tower: of an encoder-decoder, "decoder" or "encoder".
        attention: of its decoder, which attention is masked: "self", "cross".
        mask_unit: "token", "word" or "sentence"; with `spans`, those are masked.
        chat: wrap the prompt in the model's chat template.

    Returns the columns of docs/output-format.md; `df.attrs["run"]` is the manifest.
    Raises mask_impact.errors.UserError for bad input and UnsupportedModel for a model that cannot be measured.
    """
    from mask_impact.jobs.from_python import measured_table

    request = {
        "prompt": prompt, "num_tokens": num_output_tokens, "layers": layers, "variants": variants,
        "head_space": head_space, "ablation": ablation, "queries": queries, "tower": tower,
        "attention": tuple(attention), "mask_unit": mask_unit, "spans": tuple(spans), "chat": chat,
    }  # fmt: skip
    return measured_table(request, model_name, model, tokenizer, device=device, dtype=dtype, vision=False)


def run_effects_experiment(
    prompt: str,
    model_name: str = DEFAULT_MODEL,
    device: str = "auto",
    num_output_tokens: int = 1,
    *,
    model: Any = None,
    tokenizer: Any = None,
    mask_layers: str = "all",
    blocks: Sequence[str] = ("all",),
    mask_unit: str | None = None,
    spans: Sequence[str] = (),
    contrast: Sequence[str] = (),
    pairs: int = 0,
    ablation: str = "neg-inf",
    dtype: str = "auto",
    chat: bool = False,
) -> "pd.DataFrame":
    """What masks do to the answer, held over a range of layers and carried on to the logits (docs/effects.md).

    Args:
        mask_layers: "all", "0-5,8" (a window each), "window:3" (sliding) or "from" (each layer to the last).
        blocks: "last": the predicting position stops reading what is masked; "all": every later position does.
        mask_unit: "token" (default), "word" or "sentence"; with `spans`, those are masked.
        contrast: two tokens, such as (" Paris", " Rome"), for the difference of their logits.
        pairs: also all pairs among so many of the strongest units, and how they interact.
        ablation: "neg-inf" or "zero-value".

    Returns the columns of NAME_effects; `df.attrs["run"]` is the manifest.
    Raises mask_impact.errors.UserError for bad input and UnsupportedModel for a model that cannot be measured.
    """
    from mask_impact.jobs.from_python import measured_table

    request = {
        "prompt": prompt, "num_tokens": num_output_tokens, "variants": ("full",), "effects": True,
        "mask_layers": mask_layers, "blocks": tuple(blocks), "mask_unit": mask_unit, "spans": tuple(spans),
        "contrast": tuple(contrast), "pairs": pairs, "ablation": ablation, "chat": chat,
    }  # fmt: skip
    return measured_table(request, model_name, model, tokenizer, device=device, dtype=dtype, vision=False)


def main(argv: Sequence[str] | None = None) -> int:
    description, _, examples = (__doc__ or "").split("\n\n")
    parser = flags.build_parser(description, examples, DEFAULT_MODEL, DEFAULT_NAME)
    parser.add_argument("--chat", action="store_true", help="wrap the prompt in the model's chat template")
    parser.add_option(
        "--tower", metavar="|".join(TOWERS), default="decoder",
        help="of an encoder-decoder, which half is measured (default: decoder)",
    )  # fmt: skip
    parser.add_option(
        "--attention", metavar="LIST", default=",".join(ATTENTIONS),
        help="of its decoder, where masks act: self (its own tokens), cross (the encoder's) (default: both)",
    )  # fmt: skip
    return commands.main(parser, argv)


if __name__ == "__main__":
    sys.exit(main())
