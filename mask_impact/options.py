"""What a user can ask for, on the command line or in a YAML file, as typed values.

One parser for each value, shared by both: it takes the text and raises argparse.ArgumentTypeError, whose message says
what was given and what is valid. No torch here: what is wrong is found before it is imported.
"""

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mask_impact.errors import UserError
from mask_impact.files.results import FORMATS

if TYPE_CHECKING:
    import os

    from PIL import Image

VARIANTS = ("full", "attn", "head")  # in the table Full, Attn and Head_N
HEAD_SPACES = ("output", "residual")  # before the output projection, or each head's share of what it gives
MASK_MODES = ("text", "vision", "both")
VISION_ATTENTION = ("model", "bidirectional")
ABLATIONS = ("neg-inf", "zero-value")  # take it out of the softmax, or keep its weight and take its value
UNITS = ("token", "word", "sentence", "span")  # what is masked together
TOWERS = ("decoder", "encoder")  # of an encoder-decoder
ATTENTIONS = ("self", "cross")  # of its decoder: to its own tokens, to the encoder's
BLOCKS = ("last", "all")  # who stops reading it: the predicting position, or every later one
DTYPES = ("auto", "float32", "bfloat16", "float16")
DEFAULT_FORMATS = ("csv", "json", "html")

MAX_NAME = 150  # bytes; file systems allow 255, and names of temporary folders are longer

# Names Windows keeps for devices: https://learn.microsoft.com/windows/win32/fileio/naming-a-file
RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in "123456789¹²³")}


@dataclass(frozen=True)
class Settings:
    """What all prompts of one command share: the model, and where results go."""

    model: str  # a hub name, a checkpoint folder, or "demo"
    vision: bool = False  # a model that takes pictures
    device: str = "auto"
    dtype: str = "auto"
    device_map: str | None = None  # "auto": spread over all devices
    max_memory: "tuple[tuple[int | str, str], ...] | None" = None  # (device, amount), for device_map
    output_dir: Path = Path("output")
    formats: tuple[str, ...] = DEFAULT_FORMATS
    trust_remote_code: bool = False
    allow_pickle: bool = False


@dataclass(frozen=True)
class Request:
    """One prompt, and what is to be measured of it."""

    prompt: str
    images: "tuple[str | os.PathLike[str] | Image.Image, ...]" = ()
    chat: bool = False  # text models: wrap the prompt in the chat template
    max_pixels: int | None = None  # shrink pictures to at most so many
    num_tokens: int = 1
    layers: tuple[tuple[int, int], ...] = ()  # (first, last) of each range; (): all
    variants: tuple[str, ...] = VARIANTS
    head_space: str = "output"
    mask_mode: str = "text"
    vision_attention: str = "model"
    ablation: str = "neg-inf"
    # "last", "all", or (first, last) of each range of positions; None: "last", of an encoder "all"
    queries: str | tuple[tuple[int, int], ...] | None = None
    tower: str = "decoder"  # one of TOWERS
    attention: tuple[str, ...] = ATTENTIONS
    mask_unit: str | None = None  # one of UNITS; None: tokens, or spans where any are given
    spans: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    region_masks: tuple[str, ...] = ()
    effects: bool = False  # also what a mask does to the answer
    mask_layers: str = "all"  # in which layers it then holds
    blocks: tuple[str, ...] = ("all",)
    contrast: tuple[str, ...] = ()  # two tokens' texts, or none
    trace_layers: bool = False
    pairs: int = 0  # also all pairs among so many of the strongest units


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def one_of(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in choices:
            raise argparse.ArgumentTypeError(f"unknown {text!r}; choose from {', '.join(choices)}")
        return text

    return parse


def one_of_list(*choices: str) -> Callable[[str], tuple[str, ...]]:
    """A comma-separated choice, in the order of `choices`."""

    def parse(text: str) -> tuple[str, ...]:
        chosen = [part.strip() for part in text.split(",") if part.strip()]
        for part in chosen:
            one_of(*choices)(part)
        if not chosen:
            raise argparse.ArgumentTypeError(f"nothing chosen; choose from {', '.join(choices)}")
        return tuple(choice for choice in choices if choice in chosen)

    return parse


def layer_list(text: str) -> tuple[tuple[int, int], ...]:
    """ "0,8,20-27" -> ((0, 0), (8, 8), (20, 27)), () for "all". Which layers there are only the model says."""
    if text == "all":
        return ()
    found = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise argparse.ArgumentTypeError(f"{text!r} is not a list of layers; write for example 0,8,20-27")
        found.append((int(first), int(last or first)))
        if found[-1][0] > found[-1][1]:
            raise argparse.ArgumentTypeError(f"{text!r}: the range {part.strip()} runs backwards; write {last}-{first}")
    return tuple(found)


def query_list(text: str) -> str | tuple[tuple[int, int], ...]:
    """ "last", "all", or positions as layers are given: "4,8-10"."""
    if text in ("last", "all"):
        return text
    try:
        return layer_list(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not known; write last, all, or positions such as 4,8-10"
        ) from error


def device_name(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"unknown {text!r}; choose auto, cpu, cuda, cuda:N or mps")
    return text


def memory_limits(text: str) -> tuple[tuple[int | str, str], ...]:
    """ "0=20GiB,cpu=60GiB" -> ((0, "20GiB"), ("cpu", "60GiB")): what `--device-map auto` may use of each device."""
    found = re.findall(r"(?:^|,)\s*(\d+|cpu)=(\d+(?:\.\d+)?[KMG]i?B)\s*(?=,|$)", text)
    if len(found) != text.count(",") + 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of limits; write for example 0=20GiB,cpu=60GiB")
    return tuple((int(device) if device.isdecimal() else device, amount) for device, amount in found)


def output_name(text: str) -> str:
    """A name that is a file name on every system."""
    if not text or text[0] in ". " or text[-1] in ". " or re.search(r'[/\\<>:"|?*\x00-\x1f\x7f\ud800-\udfff]', text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a plain file name; use letters, digits, - and _ (the folder goes into --output-dir)"
        )
    if len(text.encode()) > MAX_NAME:
        raise argparse.ArgumentTypeError(f"a name of {len(text.encode())} bytes is too long; at most {MAX_NAME}")
    if text.split(".")[0].rstrip().lower() in RESERVED:
        raise argparse.ArgumentTypeError(f"{text!r} is a name that Windows reserves; choose another")
    return text


# What a text becomes, for every value that a flag and a key of the same name give.
PARSERS: dict[str, Callable[[str], Any]] = {
    "device": device_name,
    "dtype": one_of(*DTYPES),
    "device_map": one_of("auto"),
    "max_memory": memory_limits,
    "formats": one_of_list(*FORMATS),
    "num_tokens": positive,
    "layers": layer_list,
    "variants": one_of_list(*VARIANTS),
    "head_space": one_of(*HEAD_SPACES),
    "mask_mode": one_of(*MASK_MODES),
    "vision_attention": one_of(*VISION_ATTENTION),
    "max_pixels": positive,
    "ablation": one_of(*ABLATIONS),
    "queries": query_list,
    "tower": one_of(*TOWERS),
    "attention": one_of_list(*ATTENTIONS),
    "mask_unit": one_of(*UNITS),
    "blocks": one_of_list(*BLOCKS),
    "pairs": positive,
}


REPEATED = ("images", "spans", "regions", "region_masks", "contrast")  # flags that can be given several times


def merged(kind: type[Any], *found: Mapping[str, Any]) -> dict[str, Any]:
    """What several sources say of a dataclass's fields, the last one first."""
    names = [field.name for field in fields(kind)]
    values = {name: source[name] for source in found for name in names if name in source}
    return values | {name: tuple(values[name] or ()) for name in REPEATED if name in values}


Progress = Callable[[str], None]  # called with what is being done, once per forward and per replayed layer


def chosen_layers(ranges: Sequence[tuple[int, int]] | None, count: int) -> tuple[int, ...] | None:
    """((0, 0), (20, 27)), as `options.layer_list` gives them -> (0, 20, ..., 27); none are all. Raises UserError."""
    if not ranges:
        return None
    last = max(last for _, last in ranges)
    if last >= count:
        raise UserError(f"there is no layer {last}; this model has layers 0 to {count - 1}")
    return tuple(sorted({layer for first, last in ranges for layer in range(first, last + 1)}))
