"""What is wrong with the files of a checkpoint, by file and field: transformers names neither, or reads on without.

In: a folder, or what a JSON file holds beside what it could hold. Out: a part of a sentence, or None; or a UserError.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING
from transformers.activations import ACT2FN

from mask_impact.errors import UserError

LFS = b"version https://git-lfs"  # how a file begins that stands for one that was not fetched
OBJECTS = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "preprocessor_config.json", "video_preprocessor_config.json", "processor_config.json",
    "chat_template.json",
    "model.safetensors.index.json", "pytorch_model.bin.index.json",
)  # fmt: skip
MAPS_IN = {  # what a file is of no use without
    "tokenizer.json": "model", "model.safetensors.index.json": "weight_map",
    "pytorch_model.bin.index.json": "weight_map",
}  # fmt: skip
IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "forced_bos_token_id")
KINDS: dict[str, Any] = {  # of fields whose default is none
    "quantization_config": {}, "rope_scaling": {}, "rope_parameters": {}, "layer_types": [], "architectures": [],
    "auto_map": {}, "head_dim": 1, "sliding_window": 1,
}  # fmt: skip
ACTIVATION = re.compile(r"act|act_fn|activation|activation_function")
COUNT = re.compile(r"(num|n)_.*|.*_(size|dim|heads|layers)|d_model")


def check_ids(folder: Path | None) -> None:
    """Raises UserError for a generation_config.json that is none, which transformers leaves out, and for token ids that
    are no numbers."""
    for path in (folder / name for name in ("config.json", "generation_config.json") if folder is not None):
        if not path.is_file() or (path.name == "config.json" and _damage(path)):  # reading it says more
            continue
        if damage := _damage(path):
            raise UserError(f"{str(path)!r} {damage}; download it again, or take it away")
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(names := found.get("architectures") or [], list):
            raise UserError(f"{str(path)!r} has architectures {names!r}; it must be a list of names")
        for name in IDS:
            value = found.get(name)
            if not all(isinstance(each, int) for each in (value if isinstance(value, list) else [value or 0])):
                raise UserError(f"{str(path)!r} has {name} {value!r}; it must be a token's number, or a list of them")


def fault(folder: Path, said: str) -> str | None:
    """What makes the loading of this checkpoint fail, if it is one of its files.

    Args:
        said: by transformers; a value that it quotes is looked for in the config.
    """
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        if damage := _damage(path):
            return f"its {path.name} {damage}"
    path = folder / "config.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    wrong = wrong_field(found, _defaults(found.get("model_type"))) or _quoted(found, said)
    return f"its config.json has {wrong}" if wrong else None


def _quoted(found: Mapping[str, Any], said: str) -> str | None:
    """The field whose value is what `said` quotes."""
    for name, value in found.items():
        if isinstance(value, dict) and (inner := _quoted(value, said)):
            return f"{name}: {inner}"
        if isinstance(value, str) and name not in ("model_type", "transformers_version") and f"'{value}'" in said:
            return f"{name} {value!r} ({said})"
    return None


def not_fetched(path: Path) -> str | None:
    """What is said of a file that is Git LFS's pointer to the one that is meant."""
    with path.open("rb") as file:
        pointer = file.read(len(LFS)) == LFS
    return "is only a pointer of Git LFS; fetch the file itself with: git lfs pull" if pointer else None


def _damage(path: Path) -> str | None:
    if (pointer := not_fetched(path)) or path.suffix != ".json":
        return pointer
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return "is not JSON"
    if path.name in OBJECTS and not isinstance(found, dict):
        return f"holds {_kind(found)}, not a mapping"
    needed = MAPS_IN.get(path.name)
    return f"has no {needed}" if needed and not isinstance(found.get(needed), dict) else None


def _defaults(model_type: Any) -> dict[str, Any]:
    """What configs of this family hold."""
    try:
        return {**KINDS, **{k: v for k, v in CONFIG_MAPPING[model_type]().to_dict().items() if v is not None}}
    except Exception:  # no such family, or one that has no defaults
        return KINDS


def wrong_field(found: Mapping[str, Any], defaults: Mapping[str, Any]) -> str | None:
    """The first field of another kind than its default, or with a value that no model can have."""
    for name, value in found.items():
        usual = defaults.get(name)
        if isinstance(value, dict) and isinstance(usual, dict):
            if inner := wrong_field(value, usual):
                return f"{name}: {inner}"
        elif isinstance(value, str) and ACTIVATION.fullmatch(name.removeprefix("hidden_")) and value not in ACT2FN:
            return f"{name} {value!r}, which this version of transformers does not know"
        elif usual is None or value is None:
            continue
        elif _kind(value) != _kind(usual) and (_kind(usual), _kind(value)) != ("a number", "a list"):
            return f"{name} {value!r}, which is {_kind(value)} and must be {_kind(usual)}"
        elif isinstance(value, int) and COUNT.fullmatch(name) and value <= 0 < usual:
            return f"{name} {value}; it must be 1 or more"
    return None


def _kind(value: Any) -> str:
    names = {dict: "a mapping", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else "a list")
