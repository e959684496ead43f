"""Load a model that was found: device, dtype, weights, tokenizer.

In: a `Source` from `find.py`, and what was asked for in words ("auto", "cuda:1", "bfloat16"). Out: the model in eval
mode, with every weight of the checkpoint where it belongs, or a UserError. What was chosen on the way is in `notes_of`.
"""

import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate.utils import convert_file_size_to_int, get_max_memory
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForSeq2SeqLM, AutoTokenizer

from mask_impact.errors import UserError
from mask_impact.model import adapters, gguf, joined, quantized, weights
from mask_impact.model.checkpoint_files import check_ids
from mask_impact.model.find import Source
from mask_impact.model.implementations import without_kernels
from mask_impact.model.loading import loading
from mask_impact.model.memory import LOADING, explained
from mask_impact.model.quiet import environment
from mask_impact.model.stored import Stored

DTYPES = ("float32", "bfloat16", "float16")
OTHER_TOKENIZER_FILES = ("tokenizer.*json", "tekken.json", "*.tiktoken", "*.gguf")
FREE_TO_USE = 0.9  # of the free memory of each device, for weights; the rest is for what is computed with them


def load_tokenizer(source: Source) -> Any:
    """The model's tokenizer. Raises UserError."""
    with loading(source.name), gguf.read_once(source.gguf_file):
        tokenizer = AutoTokenizer.from_pretrained(source.path, **source.place_and_trust)
    check_tokenizer(tokenizer, source)
    return tokenizer


def check_tokenizer(tokenizer: Any, source: Source) -> None:
    """Raises UserError for what transformers 5 makes of files that it does not find or read: a tokenizer of special
    tokens alone, or (T5, XGLM) with a few pieces beside them."""
    if isinstance(tokenizer, bool):  # False, of transformers 4 for a damaged SentencePiece file
        raise UserError(f"the tokenizer files of model {source.name!r} cannot be read; download them again")
    names = set(getattr(type(tokenizer), "vocab_files_names", {}).values())
    folder = Path(source.path)
    files = [path for pattern in (*names, *OTHER_TOKENIZER_FILES) for path in folder.glob(pattern)]
    if names and folder.is_dir() and not files and not source.trust_remote_code:
        raise UserError(
            f"model {source.name!r} has no tokenizer files that transformers {transformers.__version__} reads for it; "
            f"add {' or '.join(sorted(names))} to the checkpoint"
        )
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
    config, notes = without_kernels(source.config)
    stay_quantised, more = quantized.dequantising(config)
    if stay_quantised and source.adapter:
        raise UserError(
            f"`adapter` {source.adapter!r} cannot be merged into quantised weights without rounding them anew; give "
            "the `model` that is not quantised"
        )
    if stay_quantised and not spread:
        spread = {"device_map": {"": device}}  # some of them cannot be moved
    with quantized.named(more):
        model, found = _read(source, config, dtype, spread)
    for part in model.modules():
        if isinstance(part, transformers.PreTrainedModel):
            part.config.return_dict = True  # outputs are read by name; old checkpoints may ask for tuples
    _NOTES[model] = (*notes, *more, *found)
    if device_map is not None:
        weakref.finalize(model, folder.cleanup)  # at the latest when the program ends
    if spread:
        return model.eval()
    with explained(f"moving {source.name} to {device}", LOADING):
        return aligned(model.eval().to(device))


def _read(source: Source, config: Any, dtype: torch.dtype | str, spread: Mapping[str, Any]) -> tuple[Any, list[str]]:
    """The model with the weights of the checkpoint, and of its adapter if there is one; and notes."""
    with (
        loading(source.name),
        environment("DISABLE_SAFETENSORS_CONVERSION", "1"),  # else transformers has the hub convert pickles
        gguf.read_once(source.gguf_file),
        weights.ignored_keys() as ignored,
    ):
        model, info = _auto_class(source).from_pretrained(
            source.path,
            config=config,
            dtype=dtype,
            use_safetensors=None if source.allow_pickle else True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
            output_loading_info=True,
            **source.place_and_trust,
            **(gguf.dense() if source.gguf_file else {}),
            **spread,
        )
    if not source.gguf_file:
        check_ids(source.folder)  # of a model from the hub, they have come only now
    notes = [gguf.note(source.gguf_file)] if source.gguf_file else []
    notes += [joined.note(source.path)] if source.name == joined.NAME else []
    stored = Stored(None if source.gguf_file else source.folder)
    notes += weights.check_complete(source.name, model, info, ignored, stored)
    if getattr(source.config, "quantization_config", None) is None:
        weights.check_plain(source.name, model, stored)
    if source.adapter:
        model, note = adapters.merged(model, source.adapter)
        notes.append(note)
    return model, notes


def _auto_class(source: Source) -> Any:
    if source.vision:
        return AutoModelForImageTextToText
    return AutoModelForSeq2SeqLM if source.encoder_decoder else AutoModelForCausalLM


_NOTES: weakref.WeakKeyDictionary[Any, tuple[str, ...]] = weakref.WeakKeyDictionary()


def notes_of(model: Any) -> tuple[str, ...]:
    """What was left out, added or chosen as `model` was loaded, for the manifest."""
    return _NOTES.get(model, ())


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
