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
from typing import TYPE_CHECKING, Any, Unpack

from mask_impact.commands import flags
from mask_impact.commands import main as commands
from mask_impact.options import Request

if TYPE_CHECKING:
    import pandas as pd

    from mask_impact.jobs.keywords import EffectsRequest, MaskingRequest

DEFAULT_MODEL = "Qwen/Qwen3-0.6B"
DEFAULT_NAME = "masking"


def run_masking_experiment(
    prompt: str = "",
    model_name: str = DEFAULT_MODEL,
    device: str = "auto",
    num_output_tokens: int = 1,
    *,
    model: Any = None,
    tokenizer: Any = None,
    dtype: str = "auto",
    request_type: type[Request] = Request,
    **request: "Unpack[MaskingRequest]",
) -> "pd.DataFrame":
    """Mask every token of `prompt`, one at a time and in one layer at a time; the table as a DataFrame.

    Args:
        model_name: hub name, checkpoint folder or "demo"; or give a loaded `model` and its `tokenizer`.
        request: what is measured and how, all keywords are in docs/python.md: layers, variants, metrics, ...
        request_type: a subclass of `Request` with further fields, which are keywords then.

    Returns the columns of docs/output-format.md; `df.attrs["run"]` is the manifest.
    Raises mask_impact.errors.UserError for bad input and UnsupportedModel for a model that cannot be measured.
    """
    from mask_impact.jobs.from_python import as_request, measured_table

    asked = as_request(
        request, request_type, vision=False, effects=False, prompt=prompt, num_tokens=num_output_tokens
    )  # fmt: skip
    return measured_table(asked, model_name, model, tokenizer, device=device, dtype=dtype, vision=False)


def run_effects_experiment(
    prompt: str = "",
    model_name: str = DEFAULT_MODEL,
    device: str = "auto",
    num_output_tokens: int = 1,
    *,
    model: Any = None,
    tokenizer: Any = None,
    dtype: str = "auto",
    request_type: type[Request] = Request,
    **request: "Unpack[EffectsRequest]",
) -> "pd.DataFrame":
    """What masks do to the answer, held over a range of layers and carried on to the logits (docs/effects.md).

    Args:
        model_name: hub name, checkpoint folder or "demo"; or give a loaded `model` and its `tokenizer`.
        request: what is measured and how, all keywords are in docs/python.md: mask_layers, blocks, contrast, ...
        request_type: a subclass of `Request` with further fields, which are keywords then.

    Returns the columns of NAME_effects; `df.attrs["run"]` is the manifest.
    Raises mask_impact.errors.UserError for bad input and UnsupportedModel for a model that cannot be measured.
    """
    from mask_impact.jobs.from_python import as_request, measured_table

    asked = as_request(
        request, request_type, vision=False, effects=True, prompt=prompt, num_tokens=num_output_tokens
    )  # fmt: skip
    return measured_table(asked, model_name, model, tokenizer, device=device, dtype=dtype, vision=False)


def main(argv: Sequence[str] | None = None, request: type[Request] = Request) -> int:
    """The command. `request` is a subclass with further fields where an extension adds flags."""
    parser = flags.script_parser(__doc__ or "", DEFAULT_MODEL, DEFAULT_NAME, request, vision=False)
    return commands.main(parser, argv)


if __name__ == "__main__":
    sys.exit(main())
