"""What both scripts' Python functions share: from a model's name, or a loaded model, to the table as a DataFrame."""

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mask_impact.errors import UserError
from mask_impact.files import results
from mask_impact.jobs import session
from mask_impact.jobs.prepared import prepare
from mask_impact.model import find, load
from mask_impact.options import VARIANTS, Request, layer_list
from mask_impact.prompt.vision import picture_list

if TYPE_CHECKING:
    import pandas as pd


def measured_table(
    request: Mapping[str, Any], model_name: str, model: Any, reader: Any, *, device: str, dtype: str, vision: bool
) -> "pd.DataFrame":
    """Measure and return the table; what is wrong comes out before the weights are loaded.

    Args:
        request: the fields of `Request`, its layers and images in any form that the scripts' functions take. With
            `effects` the table is that of the effects, else that of the results.
        model, reader: a loaded model with its tokenizer or processor; None and None for `model_name`.
    """
    import pandas as pd

    if (model is None) != (reader is None):
        raise UserError(f"give both model and {'processor' if vision else 'tokenizer'}, or neither and a model_name")
    if request["num_tokens"] < 1:
        raise UserError(f"num_output_tokens is {request['num_tokens']}; it must be 1 or more")
    source = None if model is not None else find.find_model(model_name, vision=vision)
    prepared = prepare(
        session.load_reader(source) if source is not None else reader,
        source.config if source is not None else model.config,
        as_request(**request),
        vision,
    )
    if source is not None:
        chosen = load.choose_device(device)
        model = load.load_model(source, chosen, load.choose_dtype(dtype, chosen))
    blocks: list[results.Block] = []
    run, tables = session.measured(model, prepared, blocks.append)
    if source is not None:
        run.manifest["model"] |= source.manifest
    table = pd.DataFrame(tables["effects"]) if "effects" in tables else results.to_dataframe(blocks)
    table.attrs["run"] = run.manifest
    return table


def as_request(layers: Any = None, variants: Any = VARIANTS, images: Any = None, **others: Any) -> Request:
    """Raises UserError for layers that are no list of layers."""
    if layers is not None and not isinstance(layers, str):
        layers = ",".join(str(layer) for layer in layers)
    try:
        ranges = () if layers is None else layer_list(layers)
    except argparse.ArgumentTypeError as error:
        raise UserError(f"layers {error}") from error
    if others.get("queries") is not None and not isinstance(others["queries"], str):
        others["queries"] = tuple((int(first), int(last)) for first, last in others["queries"])
    return Request(layers=ranges, variants=tuple(variants), images=tuple(picture_list(images)), **others)
