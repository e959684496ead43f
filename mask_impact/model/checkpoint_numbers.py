"""Do the numbers in a checkpoint's files fit its weights and each other? A config that is wrong by a few zeros would
make gigabytes of random weights, or a list of a billion layers, before anything else notices.

In:  a checkpoint's folder. Out: nothing, or a UserError that names the file and the field. Only headers are read.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mask_impact.errors import UserError

SIDES = {  # fields of configs that some weight has as a side, or a longer one
    "hidden_size", "d_model", "n_embd", "vocab_size", "intermediate_size", "head_dim", "num_attention_heads",
    "num_key_value_heads", "num_heads", "n_head", "embed_dim",
}  # fmt: skip
LAYERS = {"num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers", "depth"}
TOO_LONG = 16  # times the longest side; packed weights are up to 8 times shorter
MANY_LAYERS = 1000  # no model has more; fewer may share their weights
SAME = {"merge_size": "spatial_merge_size", "patch_size": "patch_size", "temporal_patch_size": "temporal_patch_size"}
PICTURES = ("preprocessor_config.json", "video_preprocessor_config.json")
ABOVE_0 = (*SAME, "min_pixels", "max_pixels", "rescale_factor")  # numbers where they are given
SWITCHES = ("do_resize", "do_rescale", "do_normalize", "do_convert_rgb", "do_center_crop", "do_pad")


def check_numbers(folder: Path | None, vision: bool) -> None:
    """Raises UserError. None: there is no folder, and nothing is checked.

    Args:
        vision: the model is to take pictures. A part of its config that is missing would be another family's default.
    """
    if folder is None or not folder.is_dir():
        return
    config = _json(folder / "config.json")
    parts: list[str] = [name for name in ("vision_config", "text_config") if name in config or name == "vision_config"]
    for name in parts if vision and config.get("vision_config", {}) != {} else ():
        if not isinstance(config[name], dict):
            raise UserError(f"{str(folder / 'config.json')!r} has {name} {config[name]!r}; it must be a mapping")
    _check_against_weights(folder, config)
    for name in PICTURES:
        _check_pictures(folder / name, config.get("vision_config"))
    path = folder / "tokenizer_config.json"
    longest = _json(path).get("model_max_length")
    if longest is not None and not isinstance(longest, int | float):
        raise UserError(f"{str(path)!r} has model_max_length {longest!r}; it must be a number")


def _json(path: Path) -> dict[str, Any]:
    """What a file holds; nothing if it is not there or damaged: who reads it says more."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


# --- config and weights -------------------------------------------------------------------------------------
def _check_against_weights(folder: Path, config: Mapping[str, Any]) -> None:
    shapes = dict(each for path in folder.glob("*.safetensors") for each in _shapes(path))
    if not shapes:
        return
    longest = max((side for shape in shapes.values() for side in shape), default=0)
    layers = 1 + max((int(number) for name in shapes for number in re.findall(r"\.(\d{1,9})\.", name)), default=0)
    for name, value in _numbers(config):
        what = f"{str(folder / 'config.json')!r} has {name} {value}"
        if name in SIDES and value > TOO_LONG * longest:
            raise UserError(f"{what}, but no weight of the checkpoint has a side longer than {longest}; mend it")
        if name in LAYERS and value > max(layers, MANY_LAYERS):
            raise UserError(f"{what}, but the checkpoint has weights of {layers}; mend it")


def _shapes(path: Path) -> Iterator[tuple[str, list[int]]]:
    """Of each tensor, by the file's header: its length in 8 bytes, and JSON."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size)) if size < path.stat().st_size else {}
        yield from ((name, about["shape"]) for name, about in header.items() if name != "__metadata__")
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return  # damaged: loading says so


def _numbers(config: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """The whole numbers of a config and of its parts."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _numbers(value)
        elif isinstance(value, int):
            yield name, value


# --- how pictures are prepared ------------------------------------------------------------------------------
def _check_pictures(path: Path, vision: Any) -> None:
    """Raises UserError for settings that no picture can be prepared with, or that are not the model's."""
    settings = _json(path)
    for name in (each for each in ABOVE_0 if settings.get(each) is not None):
        value = settings[name]
        if not isinstance(value, dict | list) and not (isinstance(value, int | float) and value > 0):
            raise UserError(f"{str(path)!r} has {name} {value!r}; it must be a number above 0")
    for name in (each for each in SWITCHES if settings.get(each) is not None):
        if not isinstance(settings[name], bool):
            raise UserError(f"{str(path)!r} has {name} {settings[name]!r}; it must be true or false")
    for name in (each for each in ("image_mean", "image_std") if settings.get(each) is not None):
        value = settings[name] if isinstance(settings[name], list) else [settings[name]]
        if not all(isinstance(each, int | float) for each in value) or (name == "image_std" and not all(value)):
            raise UserError(
                f"{str(path)!r} has {name} {settings[name]!r}; it must be a list of numbers, none of them 0"
            )
    for name, other in SAME.items():
        given, own = settings.get(name), vision.get(other) if isinstance(vision, dict) else None
        if isinstance(given, int) and isinstance(own, int) and given != own:
            raise UserError(
                f"{str(path)!r} has {name} {given}, but the model's vision_config has {other} {own}; mend it"
            )
