"""Find, check and load a model; the bundled demo models; where positions depend on the length."""

import hashlib
import json
import os
import re
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate.utils import convert_file_size_to_int, get_max_memory
from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.utils import get_session
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

from mask_impact.errors import UnsupportedModel, UserError
from mask_impact.memory import explained, is_out_of_memory

PACKAGE = Path(__file__).resolve().parent
DTYPES = ("float32", "bfloat16", "float16")
FREE_TO_USE = 0.9  # of the free memory of each device, for weights; the rest is for what is computed with them


@dataclass(frozen=True)
class Source:
    """A model that was found and can be loaded; its weights are not read yet."""

    name: str  # as the user gave it
    path: str  # local folder or hub id
    config: Any
    trust_remote_code: bool = False
    allow_pickle: bool = False
    offline: bool = False  # the hub does not answer: only what was downloaded before
    vision: bool = False  # to be loaded with its vision tower, for pictures

    @property
    def manifest(self) -> dict[str, Any]:
        """Where the model came from, for the run's manifest."""
        return {
            "name": self.name,
            "path_or_id": "demo" if self.name == "demo" else self.path,
            "revision": self.revision,
        }

    @property
    def revision(self) -> str | None:
        """The commit of a model from the hub: the folder of the cache it is in; transformers 5 does not tell."""
        config = None if Path(self.path).is_dir() else try_to_load_from_cache(self.path, "config.json")
        return Path(config).parent.name if isinstance(config, str) else None

    @property
    def text_config(self) -> Any:
        return self.config.get_text_config(decoder=True)

    @property
    def num_layers(self) -> int:
        return int(self.text_config.num_hidden_layers)

    @property
    def encoder_decoder(self) -> bool:
        return bool(getattr(self.config, "is_encoder_decoder", False))


def demo_folder(name: str) -> Path:
    """The bundled demo model `name` ("text" or "vl"), in a checkout or in the installed package."""
    for root in (PACKAGE.parent, PACKAGE):
        if (root / "demo" / name / "config.json").is_file():
            return root / "demo" / name
    raise UserError(f"the bundled demo model is missing: no demo/{name} folder beside {PACKAGE}")


def find_model(name: str, trust_remote_code: bool = False, allow_pickle: bool = False, vision: bool = False) -> Source:
    """Read a model's config from a local folder, the hub, or the bundled demo. Raises UserError.

    `vision` asks for a vision-language model; without it, one is refused.
    """
    path = str(demo_folder("vl" if vision else "text")) if name == "demo" else name
    folder, offline = Path(path), False
    if not name:
        raise UserError("the model's name is empty; give a checkpoint folder, a hub name, or demo")
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UserError(f"the folder {name!r} has no config.json, so it is not a transformers checkpoint")
    elif folder.exists():
        raise UserError(f"{name!r} is a file; give the folder of a checkpoint, a hub name, or demo")
    elif not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", path) or name.startswith("."):
        raise UserError(f"no folder {name!r}; give a checkpoint folder, a hub name such as Qwen/Qwen3-0.6B, or demo")
    else:
        offline = not hub_answers()
    with loading(name):
        config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code, local_files_only=offline)
    source = Source(name, path, config, trust_remote_code, allow_pickle, offline, vision)
    if vision:
        _check_sees_images(source)
    else:
        _check_is_text_model(source)
    return source


def hub_answers(timeout: float = 5) -> bool:
    """Ask once: without this, every file of a model is asked for six times, over half a minute, before transformers
    gives up and takes what was downloaded before."""
    try:
        get_session().head(constants.ENDPOINT, timeout=timeout)
    except Exception:  # of httpx or requests, by the version of huggingface_hub; also HF_HUB_OFFLINE
        return False
    return True


def _described(source: Source) -> tuple[str, str]:
    """The model type, and the beginning of a sentence about it."""
    model_type = getattr(source.config, "model_type", "?")
    return model_type, f"model {source.name!r} is of family '{model_type}'"


def _sees_images(config: Any) -> bool:
    """Whether the config is a vision-language model's: some families' text models share its model type."""
    known = getattr(config, "model_type", "?") in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    return known and getattr(config, "vision_config", None) is not None


def _check_sees_images(source: Source) -> None:
    """Refuse, by name, what is not a vision-language model with a decoder."""
    _, what = _described(source)
    if getattr(source.config, "is_encoder_decoder", False):
        raise UnsupportedModel(f"{what}, an encoder-decoder; only decoder-only models can be measured")
    if not _sees_images(source.config) and not source.trust_remote_code:
        raise UnsupportedModel(f"{what}, which takes no images; use mask_impact_analysis.py for a text model")


def _check_is_text_model(source: Source) -> None:
    """Refuse, by name, what is no language model that generates text from text."""
    config = source.config
    model_type, what = _described(source)
    architectures = list(getattr(config, "architectures", None) or [])
    if _sees_images(config):
        raise UnsupportedModel(f"{what}, a vision-language model; use mask_impact_vl.py for it")
    apart = source.encoder_decoder
    names = MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES if apart else MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    known = names.get(model_type)
    if known is None and not source.trust_remote_code:
        kind = "an encoder-decoder, but none from text to text" if apart else "which is not a language model"
        raise UnsupportedModel(f"{what}, {kind}; choose a causal one, or an encoder-decoder from text to text")
    classes = {known} if isinstance(known, str) else set(known or ())
    other_task = architectures and not any(
        name in classes or re.search("CausalLM|LMHead|ConditionalGeneration", name) for name in architectures
    )
    if other_task and not source.trust_remote_code:
        raise UnsupportedModel(
            f"{what} with architecture {architectures[0]}, which does not generate text; choose one that does"
        )


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
            f"device {device!r} was asked for, but torch finds {found} CUDA devices; use --device cpu or auto"
        )
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("device 'mps' was asked for, but torch finds no MPS here; use --device cpu or auto")
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
        raise UserError(f"--device {device} is one device, and --device-map auto takes all; leave one of the two out")
    free = {name: int(FREE_TO_USE * size) for name, size in get_max_memory().items()}
    if device.type == "cpu":
        free = {"cpu": free.get("cpu", max(free.values()))}  # a Mac's GPU shares it, and alone is named
    for name in given or ():
        if name not in free:
            known = ", ".join(str(name) for name in free)
            raise UserError(f"--max-memory names device {name}, but with --device {device} there are: {known}")
    try:
        return free | {name: convert_file_size_to_int(size) for name, size in (given or {}).items()}
    except ValueError as error:
        raise UserError(f"--max-memory: {error}; write for example 0=20GiB,cpu=60GiB") from error


def load_model(
    source: Source,
    device: torch.device,
    dtype: torch.dtype | str,
    device_map: str | Mapping[str, Any] | None = None,
    max_memory: Mapping[int | str, int | str] | None = None,
) -> Any:
    """Load the weights, every one of them and none besides, in eval mode.

    Args:
        device: where the model goes; with `device_map`, "cpu" keeps it off all other devices.
        device_map: "auto" spreads the layers over all devices, then the CPU's memory, then the disk, as
            `transformers.PreTrainedModel.from_pretrained` takes it; or which part goes where.
        max_memory: how much of a device "auto" may fill with weights, {0: "20GiB", "cpu": "60GiB"}.

    Raises UserError, and OutOfMemory.
    """
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")  # else transformers has the hub convert pickles
    if max_memory and device_map != "auto":
        raise UserError("--max-memory says how --device-map auto is to spread the model; add --device-map auto")
    spread: dict[str, Any] = {}
    if device_map is not None:
        folder = tempfile.TemporaryDirectory(prefix="mask_impact_")  # for weights not stored as they are computed with
        spread = {"device_map": device_map, "offload_folder": folder.name}
    if device_map == "auto":
        spread["max_memory"] = device_limits(device, max_memory)
    with loading(source.name):
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
    if spread:
        weakref.finalize(model, folder.cleanup)  # at the latest when the program ends
        return model.eval()
    with explained(f"moving {source.name} to {device}"):
        return aligned(model.eval().to(device))


def aligned(model: Any) -> Any:
    """The model with every weight on the CPU at an address that is a multiple of 64.

    Where weights lie in a mapped file differs from one way of loading to another, and so does the order of sums in
    matrix products (oneMKL developer guide, "Obtaining Numerically Reproducible Results"): without this the last digits
    depend on whether one process was started or several.
    """
    for parameter in model.parameters():
        if parameter.device.type == "cpu" and parameter.data_ptr() % 64:
            parameter.data = parameter.data.clone()
    return model


def input_device(model: Any) -> torch.device:
    """Where a model's inputs go, also where its weights are offloaded and wait on the CPU or on disk."""
    device = next(model.parameters()).device
    if device.type != "meta":
        return device
    computing = [place for place in model.hf_device_map.values() if place not in ("cpu", "disk")]
    return torch.device(place_name(computing[0]) if computing else "cpu")


def place_name(place: Any) -> str:
    """One of `hf_device_map`'s places: a CUDA device is a number there."""
    return f"cuda:{place}" if isinstance(place, int) else str(place)


def fingerprint(source: Source) -> str:
    """A short hash that changes when the model does: to tell whether results are still those of this model.

    Of a model from the hub, its commit. Of a folder, the names, sizes and times of its files, and not what is in them:
    hashing the gigabytes of a checkpoint can take longer than a run. Of the small bundled model, the contents.
    """
    if not Path(source.path).is_dir():
        return source.revision or _short_hash([source.config.to_json_string()])
    folder = Path(source.path)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [path.relative_to(folder).as_posix() for path in files]
    seen = [
        (name, path) for name, path in zip(names, files, strict=True) if not re.search(r"(^|/)(\.|__pycache__/)", name)
    ]
    if source.name == "demo":
        return _short_hash([name, hashlib.sha256(path.read_bytes()).hexdigest()] for name, path in seen)
    return _short_hash([name, path.stat().st_size, path.stat().st_mtime_ns] for name, path in seen)


def _short_hash(parts: Iterable[Any]) -> str:
    return hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest()[:16]


@contextmanager
def loading(name: str) -> Iterator[None]:
    """Turn what transformers raises for a model that cannot be had into one line."""
    with explained(f"loading {name}"):
        try:
            yield
        except Exception as error:  # of many classes: OSError, ValueError, SafetensorError, validation errors, ...
            if is_out_of_memory(error):
                raise
            raise UserError(_loading_message(name, error)) from error


def _loading_message(name: str, error: Exception) -> str:
    text = " ".join(str(error).split())
    low = text.lower()
    if not Path(name).exists() and ("connect" in low or "offline" in low):
        return (
            f"there is no folder {name!r} here, and the model hub cannot be reached; use a local checkpoint folder or "
            "--model demo"
        )
    if "trust_remote_code" in low:
        return f"model {name!r} runs its own Python code; read that code first, then allow it with --trust-remote-code"
    if "safetensors" in low and ("no file named" in low or "does not appear" in low):
        return (
            f"model {name!r} has no safetensors weights; convert it, or pass --allow-pickle if you trust its author (a "
            "pickle can run any code when it is loaded)"
        )
    if "not a local folder" in low or "not a valid model identifier" in low:
        return f"no model {name!r}, neither a folder here nor on the hub; give a checkpoint folder, a hub name, or demo"
    if "protobuf library" in low or "sentencepiece library" in low:  # what transformers 4 makes of no tokenizer files
        return f"model {name!r} has no tokenizer files; add them to the checkpoint"
    if "device disk is invalid" in low:  # what transformers 4 says where not even one part fits in memory
        return (
            f"model {name!r} would have to stay on disk as a whole, which transformers {transformers.__version__} "
            "cannot do; raise --max-memory to twice its largest part (a layer, or the embeddings) or more"
        )
    if "does not recognize this architecture" in low:
        return f"model {name!r} is of a family that transformers {transformers.__version__} does not know; update it"
    return f"model {name!r} cannot be loaded: {text[:300]}"


def rope_settings(config: Any) -> list[dict[str, Any]]:
    """The rotary settings of a text config, one per layer type where the family has several."""
    settings = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    nested = [item for item in settings.values() if isinstance(item, dict)]
    return nested or [settings]


def max_positions(config: Any) -> int | None:
    """The longest input the text config allows, None if it sets no limit."""
    limit = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    if hasattr(config, "relative_attention_num_buckets"):  # T5's n_positions is the length it was trained on
        return None
    if not isinstance(limit, int):
        return None
    stretched = [
        int(float(item["factor"]) * (item.get("original_max_position_embeddings") or limit))
        for item in rope_settings(config)
        if item.get("factor")
    ]
    return max([limit, *stretched])


def length_dependent_positions(config: Any, length: int) -> bool:
    """Whether a position's encoding depends on the total length, at `length` tokens: dynamic NTK beyond the trained
    length, and long-rope, which switches its factors there."""
    limit = getattr(config, "max_position_embeddings", None) or 0
    for item in rope_settings(config):
        kind = item.get("rope_type") or item.get("type")
        original = item.get("original_max_position_embeddings") or getattr(
            config, "original_max_position_embeddings", None
        )
        if kind in ("dynamic", "longrope") and length > (original or limit):
            return True
    return False
