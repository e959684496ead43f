"""Build a request for inputs that a test has made, ready for `impact.run.run`."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from mask_impact.jobs.prepared import Prepared, fitted
from mask_impact.options import Request
from mask_impact.prompt.inputs import ModelInputs


def asked(
    model: Any,
    tokenizer: Any,
    inputs: ModelInputs,
    units: Callable[..., Any] | None = None,
    layers: Sequence[int] = (),
    **options: Any,
) -> Prepared:
    """
    Args:
        units: what is masked together, instead of what the request says.
        layers: by number.
        options: further fields of `Request`.
    """
    request = Request(inputs.prompt, layers=tuple((layer, layer) for layer in layers), **options)
    found = fitted(tokenizer, model.config, inputs, request)
    return found if units is None else replace(found, units=units, plain=False)
