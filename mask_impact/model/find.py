"""Find a model and check, from its config alone, that it can be measured; the bundled demo models.

In: a name, which is a folder, a name on the hub, or "demo". Out: a `Source`, from which `load.py` reads the weights; or
a UserError that says in one line why there is none.
"""

import hashlib
import inspect
import json
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.utils import get_session
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

from mask_impact.errors import UnsupportedModel, UserError
from mask_impact.model.memory import explained, is_out_of_memory
from mask_impact.model.towers import layer_count

PACKAGE = Path(__file__).resolve().parents[1]


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
        return layer_count(self.text_config)

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
    """Whether the hub can be reached. Without this question, transformers asks for every file six times, over half a
    minute, before it takes what was downloaded before."""
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
    check_attends(config, AutoModelForSeq2SeqLM if apart else AutoModelForCausalLM)


def check_attends(config: Any, auto_class: Any) -> None:
    """Raises UnsupportedModel where the file with the model's code computes no softmax attention anywhere: Mamba's and
    RWKV's kind would else be found out only after the weights were loaded.
    """
    model_class = auto_class._model_mapping.get(type(config), None)
    if model_class is None or config.get_text_config(decoder=True) is not config:  # a part of it may be in another file
        return
    code = inspect.getsource(sys.modules[model_class.__module__])
    if not re.search(
        r"softmax\(|logsumexp\(|scaled_dot_product_attention|AttentionInterface|ALL_ATTENTION_FUNCTIONS", code
    ):
        raise UnsupportedModel(f"model family '{config.model_type}' is not supported: it has no attention")


def fingerprint(source: Source) -> str:
    """A short hash that changes when the model does, so that results of another model are recognised.

    For a model from the hub it is the commit. For a folder it covers the names, sizes and times of the files, because
    hashing the gigabytes of a checkpoint can take longer than a run. For the small bundled model it covers what is in
    them.
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
    """Turn what transformers raises for a model that cannot be loaded into a UserError of one line."""
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
