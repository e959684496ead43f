"""Find a model and check, from its config alone, that it can be measured; the bundled demo models.

In: a name, which is a folder, a GGUF file, a name on the hub, "demo", "smollm2" or "smollm2-vl". Out: a `Source`, from
which `load.py` reads the weights; or a UserError that says in one line why there is none.
"""

import hashlib
import inspect
import json
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import constants
from huggingface_hub.utils import get_session
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

from mask_impact.errors import UnsupportedModel, UserError
from mask_impact.model import adapters, gguf, joined
from mask_impact.model.checkpoint_files import check_ids
from mask_impact.model.checkpoint_numbers import check_numbers
from mask_impact.model.loading import checkpoint_folder, loading
from mask_impact.model.towers import layer_count

PACKAGE = Path(__file__).resolve().parents[1]
BUNDLED = ("demo", gguf.SMOLLM2, joined.NAME)
NAMES = "a checkpoint folder, a GGUF file, a hub name such as Qwen/Qwen3-0.6B, or demo"


@dataclass(frozen=True)
class Source:
    """A model that was found and can be loaded; its weights are not read yet."""

    name: str  # as the user gave it
    path: str  # local folder (of a GGUF file, the one it is in) or hub id
    config: Any
    trust_remote_code: bool = False
    allow_pickle: bool = False
    offline: bool = False  # the hub does not answer: only what was downloaded before
    vision: bool = False  # to be loaded with its vision tower, for pictures
    revision: str | None = None  # of a model on the hub, as asked for: a branch, a tag or a commit
    gguf_file: str | None = None  # its name, in the folder `path`
    adapter: str | None = None  # a folder with what is added to the weights

    @property
    def manifest(self) -> dict[str, Any]:
        """Where the model came from, for the run's manifest."""
        file = [self.path, self.gguf_file] if self.gguf_file else [self.path]
        return {
            "name": self.name,
            "path_or_id": self.name if self.name in BUNDLED else "/".join(file),
            "revision": self.commit,
            "requested_revision": self.revision,
            "adapter": self.adapter,
        }

    @property
    def folder(self) -> Path | None:
        """Where its files are on this machine; of a model from the hub, once they were downloaded."""
        return checkpoint_folder(self.path, self.revision)

    @property
    def commit(self) -> str | None:
        """The commit of a model from the hub: the folder of the cache it is in; transformers 5 does not tell."""
        folder = self.folder
        return None if folder is None or Path(self.path).is_dir() else folder.name

    @property
    def place(self) -> dict[str, Any]:
        """Where files of the model are, for functions of transformers that read one, with `path`."""
        return {"local_files_only": self.offline, **({"revision": self.revision} if self.revision else {})}

    @property
    def place_and_trust(self) -> dict[str, Any]:
        """The same for `from_pretrained`."""
        file = {"gguf_file": self.gguf_file} if self.gguf_file else {}
        return {"trust_remote_code": self.trust_remote_code, **self.place, **file}

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
    """The bundled demo model `name` ("text", "vl", or joined.FOLDER), in a checkout or in the installed package."""
    for root in (PACKAGE.parent, PACKAGE):
        if (root / "demo" / name / "config.json").is_file():
            return root / "demo" / name
    raise UserError(f"the bundled demo model is missing: no demo/{name} folder beside {PACKAGE}")


def find_model(
    name: str,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    vision: bool = False,
    revision: str | None = None,
    adapter: str | None = None,
) -> Source:
    """Read a model's config from a local folder, a GGUF file, the hub, or a bundled model. Raises UserError.

    `vision` asks for a vision-language model; without it, one is refused.
    """
    path = _path(name, vision)
    file, offline = gguf.file_at(path), False
    if file:
        path = str(file.parent)
    elif not Path(path).exists():
        offline = not hub_answers()
    if revision and Path(path).exists():
        raise UserError(
            f"`revision` {revision} was given, but {name!r} is on this machine; it is for models of the hub"
        )
    source = Source(
        name,
        path,
        None,
        trust_remote_code,
        allow_pickle,
        offline,
        vision,
        revision,
        file.name if file else None,
        adapter,
    )
    if not file:
        with loading(name):
            adapters.check_none_beside(name, path, **source.place)
    if Path(path).is_dir() and not file and not (Path(path) / "config.json").is_file():
        raise UserError(f"the folder {name!r} has no config.json, so it is not a transformers checkpoint")
    if adapter is not None:
        adapters.check(adapter)
    if not file:
        check_ids(source.folder)
        check_numbers(source.folder, vision)
    with loading(name), gguf.read_once(source.gguf_file):
        config = AutoConfig.from_pretrained(path, **source.place_and_trust)
    source = replace(source, config=config)
    if vision:
        check_sees_images(source)
    else:
        _check_is_text_model(source)
    return source


def _path(name: str, vision: bool) -> str:
    """The folder, the file or the hub name that `name` stands for. Raises UserError."""
    if not name:
        raise UserError(f"the model's name is empty; give {NAMES}")
    if name == "demo":
        return str(demo_folder("vl" if vision else "text"))
    if name == gguf.SMOLLM2:
        return str(gguf.smollm2_file())
    if name == joined.NAME:
        return str(joined.joined_folder(demo_folder(joined.FOLDER)))
    path = Path(name)
    try:
        path.exists()
    except OSError as error:
        raise UserError(f"no folder {name!r} ({error.strerror}); give {NAMES}") from error
    if path.exists() and not path.is_dir() and path.suffix != gguf.SUFFIX:
        raise UserError(f"{name!r} is a file; give {NAMES}")
    if not path.exists() and (
        not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name[0] == "." or path.suffix == gguf.SUFFIX
    ):
        what = "file" if path.suffix == gguf.SUFFIX else "folder"
        raise UserError(f"no {what} {name!r}; give {NAMES}")
    return name


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


def check_sees_images(source: Source) -> None:
    """Refuse, by name, what is not a vision-language model with a decoder."""
    model_type, what = _described(source)
    if getattr(source.config, "is_encoder_decoder", False):
        raise UnsupportedModel(f"{what}, an encoder-decoder; only decoder-only models can be measured")
    if not _sees_images(source.config) and not source.trust_remote_code:
        if model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES and hasattr(source.config, "patch_size"):  # Fuyu
            raise UnsupportedModel(f"{what}, which has no vision tower; models without one are measured on text alone")
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
    them. An adapter's folder is covered in the same way.
    """
    model = _files_hash(Path(source.path), source.name == "demo", source.gguf_file or "*")
    model = model or source.commit or _short_hash([source.config.to_json_string()])
    return _short_hash([model, _files_hash(Path(source.adapter))]) if source.adapter else model


def _files_hash(folder: Path, contents: bool = False, pattern: str = "*") -> str | None:
    """Of the files of a folder; None where there is no such folder."""
    if not folder.is_dir():
        return None
    files = sorted(path for path in folder.rglob(pattern) if path.is_file())
    names = [path.relative_to(folder).as_posix() for path in files]
    seen = [
        (name, path) for name, path in zip(names, files, strict=True) if not re.search(r"(^|/)(\.|__pycache__/)", name)
    ]
    if contents:
        return _short_hash([name, hashlib.sha256(path.read_bytes()).hexdigest()] for name, path in seen)
    return _short_hash([name, path.stat().st_size, path.stat().st_mtime_ns] for name, path in seen)


def _short_hash(parts: Iterable[Any]) -> str:
    return hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest()[:16]
