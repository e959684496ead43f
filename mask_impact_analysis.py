#!/usr/bin/env python3
"""Which tokens does a text model use, at which layer, in which head?

In: a prompt and a transformers model. Out: NAME_results.csv and .json, one row per generation step, layer, masked token
and variant, with the L2 and cosine distance by which the layer's update moves (docs/output-format.md).

    python mask_impact_analysis.py --model demo --prompt "The capital of France is"
    python mask_impact_analysis.py --model demo --prompt "Tom has a red ball. Tom's ball is" --num-tokens 3
    python mask_impact_analysis.py --model Qwen/Qwen3-0.6B --prompt-file prompt.txt --layers 0,8,20-27 --output my_run
"""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mask_impact import cli
from mask_impact.results import VARIANTS

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
    chat: bool = False,
) -> "pd.DataFrame":
    """Mask every token of `prompt`, one at a time and in one layer at a time; the table as a DataFrame.

    Args:
        model_name: hub name, checkpoint folder or "demo"; or give a loaded `model` and its `tokenizer`.
        layers: "0,8,20-27", a list of ints, or None for all.
        variants: any of "full", "attn", "head".
        head_space: "output" compares heads before the output projection, "residual" their shares of it.
        chat: wrap the prompt in the model's chat template.

    Returns the columns of docs/output-format.md; `df.attrs["run"]` is the manifest.
    Raises mask_impact.errors.UserError for bad input and UnsupportedModel for a model that cannot be measured.
    """
    from mask_impact import experiment, models, results
    from mask_impact.errors import UserError
    from mask_impact.inputs import text_inputs

    if (model is None) != (tokenizer is None):
        raise UserError("give both model and tokenizer, or neither and a model_name")
    if num_output_tokens < 1:
        raise UserError(f"num_output_tokens is {num_output_tokens}; it must be 1 or more")
    if not isinstance(layers, str):
        layers = None if layers is None else ",".join(str(layer) for layer in layers)
    source = None if model is not None else models.find_model(model_name)
    if source is not None:
        tokenizer = models.load_tokenizer(source)
    config = source.text_config if source is not None else model.config.get_text_config(decoder=True)
    chosen_layers = experiment.parse_layers(layers, config.num_hidden_layers)
    options = experiment.Options(num_output_tokens, chosen_layers, tuple(variants), head_space)
    options.wanted()  # what is wrong comes out before the weights are loaded
    inputs = text_inputs(tokenizer, prompt, chat)
    experiment.check_length(config, len(inputs.tokens), num_output_tokens)
    if source is not None:
        chosen = models.choose_device(device)
        model = models.load_model(source, chosen, models.choose_dtype(dtype, chosen))
    blocks: list[results.Block] = []
    run = experiment.run(model, tokenizer, inputs, options, blocks.append)
    if source is not None:
        run.manifest["model"] |= source.manifest
    table = results.to_dataframe(blocks)
    table.attrs["run"] = run.manifest
    return table


def command(args: argparse.Namespace) -> None:
    prompt = cli.read_prompt(args)

    def prepare(source: Any, tokenizer: Any) -> Any:
        from mask_impact.inputs import text_inputs

        return text_inputs(tokenizer, prompt, args.chat)

    cli.analyse(args, DEFAULT_NAME, prepare, args.argv)


def main(argv: Sequence[str] | None = None) -> int:
    examples = (__doc__ or "").split("\n\n")[2]
    parser = cli.build_parser(
        "Which tokens does a text model use, at which layer, in which head?", examples, DEFAULT_MODEL
    )
    parser.add_argument("--chat", action="store_true", help="wrap the prompt in the model's chat template")
    args = parser.parse_args(argv)
    args.argv = list(sys.argv[1:] if argv is None else argv)
    return cli.guarded(command, args)


if __name__ == "__main__":
    sys.exit(main())
