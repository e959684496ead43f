"""Load a model that was found: device, dtype, weights, tokenizer.

In: a `Source` from `find.py`, and what was asked for in words ("auto", "cuda:1", "bfloat16"). Out: the model in eval
mode, with every weight of the checkpoint where it belongs, or a UserError.
"""

import tempfile
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from accelerate.utils import convert_file_size_to_int, get_max_memory
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForSeq2SeqLM, AutoTokenizer

from mask_impact.errors import UserError
from mask_impact.model.find import Source, loading
from mask_impact.model.memory import explained
from mask_impact.model.quiet import environment

DTYPES = ("float32", "bfloat16", "float16")
FREE_TO_USE = 0.9  # of the free memory of each device, for weights; the rest is for what is computed with them


def load_tokenizer(source: Source) -> Any:
    """The model's tokenizer. Raises UserError."""
    with loading(source.name):
        tokenizer = AutoTokenizer.from_pretrained(
            source.path, trust_remote_code=source.trust_remote_code, local_files_only=source.offline
        )
    check_tokenizer(tokenizer, source)
    return tokenizer


def check_tokenizer(tokenizer: Any, source: Source) -> None:
    """Raises UserError for what transformers 5 makes of no tokenizer files: a tokenizer of special tokens alone."""
    if set(tokenizer.get_vocab().values()) <= set(tokenizer.all_special_ids):
        raise UserError(f"model {source.name!r} has no tokenizer files; add them to the checkpoint")


def choose_device(device: str) -> torch.device:
    """ "auto" is CUDA, then MPS, then CPU. Raises UserError for a device this machine does not have."""
    if device == "auto":
        best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(best)
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise UserError(f"unknown device {device!r}; choose auto, cpu, cuda, cuda:N or mps") from error
    if chosen.type == "cuda" and (not torch.cuda.is_available() or (chosen.index or 0) >= torch.cuda.device_count()):
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        raise UserError(
            f"device {device!r} was asked for, but torch finds {found} CUDA devices; use `device` cpu or auto"
        )
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("device 'mps' was asked for, but torch finds no MPS here; use `device` cpu or auto")
    return chosen


def choose_dtype(dtype: str, device: torch.device) -> torch.dtype | str:
    """ "auto" is the checkpoint's own dtype on an accelerator and float32 on the CPU. Raises UserError."""
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else "auto"
    if dtype not in DTYPES:
        raise UserError(f"unknown dtype {dtype!r}; choose auto, {', '.join(DTYPES)}")
    return getattr(torch, dtype)


def device_limits(device: torch.device, given: Mapping[int | str, int | str] | None) -> dict[int | str, int]:
    """How many bytes of each device `device_map="auto"` may fill with weights: as `given`, else most of what is free.

    Raises UserError.
    """
    if device.index is not None:
        raise UserError(f"`device` {device} is one device, and `device_map` auto takes all; leave one of the two out")
    free = {name: int(FREE_TO_USE * size) for name, size in get_max_memory().items()}
    if device.type == "cpu":
        free = {"cpu": free.get("cpu", max(free.values()))}  # a Mac's GPU shares it, and alone is named
    for name in given or ():
        if name not in free:
            known = ", ".join(str(name) for name in free)
            raise UserError(f"`max_memory` names device {name}, but with `device` {device} there are: {known}")
    try:
        return free | {name: convert_file_size_to_int(size) for name, size in (given or {}).items()}
    except ValueError as error:
        raise UserError(f"`max_memory`: {error}; write for example 0=20GiB,cpu=60GiB") from error


def load_model(
    source: Source,
    device: torch.device,
    dtype: torch.dtype | str,
    device_map: str | Mapping[str, Any] | None = None,
    max_memory: Mapping[int | str, int | str] | None = None,
) -> Any:
    """Load the model in eval mode, with every weight that it has and that the checkpoint has.

    Args:
        device: where the model goes; with `device_map`, "cpu" keeps it off all other devices.
        device_map: "auto" spreads the layers over all devices, then the CPU's memory, then the disk, as
            `transformers.PreTrainedModel.from_pretrained` takes it; or which part goes where.
        max_memory: how much of a device "auto" may fill with weights, {0: "20GiB", "cpu": "60GiB"}.

    Raises UserError for weights that are missing, unknown or of another shape, OutOfMemory.
    """
    if max_memory and device_map != "auto":
        raise UserError("`max_memory` says how `device_map` auto is to spread the model; add `device_map` auto")
    spread: dict[str, Any] = {}
    if device_map is not None:
        folder = tempfile.TemporaryDirectory(prefix="mask_impact_")  # for weights not stored as they are computed with
        spread = {"device_map": device_map, "offload_folder": folder.name}
    if device_map == "auto":
        spread["max_memory"] = device_limits(device, max_memory)
    # without the variable, transformers has the hub convert pickles
    with loading(source.name), environment("DISABLE_SAFETENSORS_CONVERSION", "1"):
        text = AutoModelForSeq2SeqLM if source.encoder_decoder else AutoModelForCausalLM
        auto_class = AutoModelForImageTextToText if source.vision else text
        model, info = auto_class.from_pretrained(
            source.path,
            dtype=dtype,
            trust_remote_code=source.trust_remote_code,
            local_files_only=source.offline,
            use_safetensors=None if source.allow_pickle else True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
            output_loading_info=True,
            **spread,
        )
    _check_complete(source, model, info)
    if spread:
        weakref.finalize(model, folder.cleanup)  # at the latest when the program ends
        return model.eval()
    with explained(f"moving {source.name} to {device}"):
        return aligned(model.eval().to(device))


def _check_complete(source: Source, model: Any, info: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that is not the model's; `info` is what transformers tells about the loading."""
    for kind, what in (
        ("mismatched_keys", "has weights of another shape"),
        ("missing_keys", "lacks weights"),
        ("unexpected_keys", "has weights the model does not know"),
    ):
        keys = sorted(key if isinstance(key, str) else key[0] for key in info.get(kind) or ())
        if keys:
            more = f" and {len(keys) - 1} more" if keys[1:] else ""
            raise UserError(
                f"the checkpoint {source.name!r} {what}: {keys[0]}{more}; "
                f"use a complete checkpoint of {type(model).__name__}"
            )


def aligned(model: Any) -> Any:
    """The model with every weight on the CPU at an address that is a multiple of 64.

    The address of a weight in a mapped file differs from one way of loading to another. The order of sums in matrix
    products depends on it (oneMKL developer guide, "Obtaining Numerically Reproducible Results"), so that without this
    the last digits would depend on whether one process was started or several.
    """
    for parameter in model.parameters():
        if parameter.device.type == "cpu" and parameter.data_ptr() % 64:
            parameter.data = parameter.data.clone()
    return model


def input_device(model: Any) -> torch.device:
    """The device that a model takes its inputs on, also when its weights are offloaded to the CPU or to disk."""
    device = next(model.parameters()).device
    if device.type != "meta":
        return device
    computing = [place for place in model.hf_device_map.values() if place not in ("cpu", "disk")]
    return torch.device(place_name(computing[0]) if computing else "cpu")


def place_name(place: Any) -> str:
    """One of `hf_device_map`'s places: a CUDA device is a number there."""
    return f"cuda:{place}" if isinstance(place, int) else str(place)
