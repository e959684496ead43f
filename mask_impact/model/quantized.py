"""Checkpoints with quantised weights: dequantised as they are loaded, where transformers can do that.

In: a config. Out: the config to load with, whether the weights stay quantised, and a note for the manifest; or
UnsupportedModel for a method that this transformers does not know and would leave out.
"""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import transformers
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

from mask_impact.errors import UnsupportedModel, UserError


def dequantising(config: Any) -> tuple[bool, list[str]]:
    """Whether weights stay quantised, and notes; `config` is changed so that transformers dequantises if it can.

    Dequantised weights give the same numbers on every machine. What stays quantised is computed by the kernels of the
    package for it, and every run checks whether its rows can be replayed through them.
    """
    given = getattr(config, "quantization_config", None)
    if given is None:
        return False, []
    settings = dict(given if isinstance(given, dict) else given.to_dict())
    method = str(getattr(settings.get("quant_method"), "value", settings.get("quant_method", "unnamed")))
    names = [name for name in AUTO_QUANTIZATION_CONFIG_MAPPING if name == method or name.startswith(f"{method}_")]
    if not names:
        raise UnsupportedModel(
            f"the weights are quantised by {method!r}, which transformers {transformers.__version__} does not know; it "
            "would read them as if they were not"
        )
    if "dequantize" in inspect.signature(AUTO_QUANTIZATION_CONFIG_MAPPING[names[0]]).parameters:
        config.quantization_config = settings | {"dequantize": True}
        return False, [f"the weights are quantised ({method}), and were dequantised as they were loaded"]
    return True, [f"the weights are quantised ({method}), and were computed with as they are"]


@contextmanager
def named(notes: Sequence[str]) -> Iterator[None]:
    """Errors in here also say how the weights are quantised: a missing package's name does not always tell."""
    try:
        yield
    except UserError as error:
        if notes:
            error.args = (f"{error}; {notes[0].partition(',')[0]}",)
        raise
