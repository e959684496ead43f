"""Adapters (LoRA and its kind): found where they should not be, and merged into the weights where they are asked for.

In: a folder as peft saves it, adapter_config.json and adapter_model.safetensors, and a loaded model. Out: the model
with the adapter merged into its weights, as peft's `merge_and_unload` does it, so that it is measured as any other; or
a UserError that says in one line what does not fit.
"""

import importlib.util
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers.utils import cached_file

from mask_impact.errors import UserError
from mask_impact.model.checkpoint_files import not_fetched, wrong_field
from mask_impact.model.memory import is_out_of_memory

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
INSTALL = "pip install peft"
PREFIX = "base_model.model."  # what peft puts before the model's own names


def check_none_beside(name: str, path: str, **place: Any) -> None:
    """Raises UserError for a folder, or a repository of the hub, with an adapter in it: with peft, transformers would
    add it to the weights, and without peft leave it out."""

    def file(wanted: str) -> str | None:
        quiet = {f"_raise_exceptions_for_{what}": False for what in ("missing_entries", "connection_errors")}
        return cached_file(path, wanted, **quiet, **place)

    found = file(CONFIG)
    if not found:
        return
    if not file("config.json"):
        base = _read(Path(found)).get("base_model_name_or_path") or "its base model"
        raise UserError(
            f"{name!r} is not a model but an adapter ({CONFIG}) for {base}; give the base model as `model` and the "
            "folder of the adapter as `adapter`"
        )
    raise UserError(
        f"{name!r} has an adapter ({CONFIG}) beside its weights, and it is not said which of the two is meant; "
        "merge it into the weights, or move its files to a folder of their own, which can be given as `adapter`"
    )


def check(folder: str) -> None:
    """Raises UserError where `folder` is no adapter that can be merged into weights."""
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise UserError(f"`adapter` {folder!r} has no {CONFIG}; give the folder that peft saved an adapter in")
    if not path.with_name(WEIGHTS).is_file():
        raise UserError(f"`adapter` {folder!r} has no {WEIGHTS}; save the adapter with peft as safetensors")
    if importlib.util.find_spec("peft") is None:
        raise UserError(f"`adapter` {folder!r} needs the package peft, which is not installed; {INSTALL}")
    kind = _read(path).get("peft_type")
    if kind not in MERGED:
        raise UserError(f"`adapter` {folder!r} is of kind {kind}; {', '.join(MERGED)} can be merged into weights")


# Those of which peft merges every one into dense weights, whatever the prompt is.
MERGED = ("LORA", "LOHA", "LOKR", "IA3", "ADALORA", "VERA", "OFT", "BOFT", "HRA", "FOURIERFT")


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{str(path)!r} is not JSON as peft saves it; save the adapter again")
    return found


def _wrong_value(config: dict[str, Any]) -> str | None:
    """The first field of `config` of another kind than peft's default."""
    from peft import get_peft_config

    usual = get_peft_config({"peft_type": config["peft_type"]}).to_dict()
    return wrong_field(config, {name: value for name, value in usual.items() if isinstance(value, int | float | dict)})


def _weights(folder: str) -> dict[str, torch.Tensor]:
    """The adapter's weights. Raises UserError for a file that cannot be read, or holds what are no numbers."""
    path = Path(folder) / WEIGHTS
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        why = not_fetched(path) or f"cannot be read ({' '.join(str(error).split())}); save the adapter again"
        raise UserError(f"`adapter` {folder!r}: its {WEIGHTS} {why}") from error
    for name, weight in found.items():
        if not weight.isfinite().all():
            raise UserError(f"`adapter` {folder!r}: its weight {name} has values that are no numbers (NaN or infinite)")
    return found


def merged(model: Any, folder: str) -> tuple[Any, str]:
    """The model with the adapter in `folder` merged into its weights, and a note for the manifest.

    Raises UserError for an adapter of another model: one whose parts the model lacks, or has in another shape.
    """
    from peft import PeftModel, get_peft_model_state_dict

    config = _read(Path(folder) / CONFIG)
    base = config.get("base_model_name_or_path") or "an unnamed model"
    own = set(model.state_dict())  # peft also saves embeddings beside their adapters, under the model's own names
    names = _weights(folder)
    saved = {name for name in names if name.removeprefix(PREFIX).replace(".base_layer.", ".") not in own}
    problem = ""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            adapted = PeftModel.from_pretrained(model, folder, torch_device=str(model.device))
        except Exception as error:  # of any class: no such modules, weights of another shape, a wrong value in CONFIG
            if is_out_of_memory(error):
                raise
            if not isinstance(error, ValueError | RuntimeError | KeyError) or _wrong_value(config):
                said = _wrong_value(config) or f"a value that cannot be used ({' '.join(str(error).split())[:200]})"
                raise UserError(f"`adapter` {folder!r}: its {CONFIG} has {said}; save the adapter again") from error
            problem = " ".join(str(error).split())[:200]
    if not problem and len(used := get_peft_model_state_dict(adapted, save_embedding_layers=False)) != len(saved):
        problem = f"it has {len(saved)} weights, and the model has a place for {len(used)}"
    lacking = [str(warning.message) for warning in warned if "missing adapter keys" in str(warning.message)]
    if problem or lacking:
        raise UserError(
            f"`adapter` {folder!r} does not fit the model; it was trained for {base} ({problem or lacking[0][:200]})"
        )
    tied = [name for name, module in adapted.named_modules() if is_adapted(module) and is_tied(module, adapted)]
    if tied:
        raise UserError(
            f"`adapter` {folder!r} changes {tied[0].removeprefix(PREFIX)}, whose weights the model also uses elsewhere "
            "and would change there too; hand the adapted model over in Python"
        )
    rank = f", rank {config['r']}" if config.get("r") else ""
    kind = f"{config['peft_type']}{rank}, trained for {base}"
    return adapted.merge_and_unload(), f"the adapter {folder} ({kind}) is merged into the weights"


def is_adapted(module: Any) -> bool:
    """Whether peft put `module` in the place of one of the model's."""
    peft = sys.modules.get("peft")
    return peft is not None and isinstance(module, peft.tuners.tuners_utils.BaseTunerLayer)


def is_tied(module: Any, model: Any) -> bool:
    """Whether the weight that an adapter is for is also another module's, as of embeddings that are the output's."""
    weight = getattr(module.get_base_layer(), "weight", None)
    return sum(weight is other for _, other in model.named_parameters(remove_duplicate=False)) > 1
