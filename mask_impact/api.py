"""What both scripts' Python functions share: from a model's name, or a loaded model, to the table as a DataFrame."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mask_impact import experiment, models, results
from mask_impact.errors import UserError
from mask_impact.inputs import ModelInputs

if TYPE_CHECKING:
    import pandas as pd


def measured_table(
    make_inputs: Callable[[Any, Any], tuple[Any, ModelInputs]],
    read: Callable[[models.Source], Any],
    *,
    model_name: str,
    model: Any,
    reader: Any,
    vision: bool,
    device: str,
    dtype: str,
    num_output_tokens: int,
    layers: str | Sequence[int] | None,
    **choices: Any,
) -> "pd.DataFrame":
    """Measure and return the table; what is wrong comes out before the weights are loaded.

    Args:
        make_inputs: (reader, config) -> the tokenizer, the model inputs.
        read: loads the reader of a model that was found: its tokenizer or its processor.
        choices: the other fields of `experiment.Options`.
    """
    if (model is None) != (reader is None):
        kind = "processor" if vision else "tokenizer"
        raise UserError(f"give both model and {kind}, or neither and a model_name")
    if num_output_tokens < 1:
        raise UserError(f"num_output_tokens is {num_output_tokens}; it must be 1 or more")
    if not isinstance(layers, str):
        layers = None if layers is None else ",".join(str(layer) for layer in layers)
    source = None if model is not None else models.find_model(model_name, vision=vision)
    config = source.config if source is not None else model.config
    text_config = config.get_text_config(decoder=True)
    chosen_layers = experiment.parse_layers(layers, text_config.num_hidden_layers)
    options = experiment.Options(num_output_tokens, chosen_layers, **choices)
    options.wanted()
    tokenizer, inputs = make_inputs(read(source) if source is not None else reader, config)
    experiment.check_masks(inputs, options)
    experiment.check_length(text_config, len(inputs.tokens), num_output_tokens)
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
