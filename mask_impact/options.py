"""What can be asked: the fields of `Settings` and `Request`, with the names under which each can be given.

A field carries its flag, help, parser, YAML key and scope as metadata. The flags of the scripts, the keys of a YAML
file, the keywords of the Python functions and the record in the manifest are derived from the fields, so that a new
option is one new field:

    @dataclass(frozen=True)
    class MyRequest(Request):
        temperature: float = option(1.0, "divide the logits by this", metavar="T", parse=float)

    mask_impact_analysis.main(argv, request=MyRequest)

No torch here: wrong input is reported before torch is imported.
"""

# ruff: noqa: RUF009 - `option` gives a dataclass field with an immutable default

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mask_impact.distances import DEFAULT_METRICS, METRICS
from mask_impact.errors import UserError
from mask_impact.parsers import (
    device_name,
    layer_list,
    memory_limits,
    one_of,
    one_of_list,
    path,
    path_from_python,
    paths_from_python,
    positive,
    query_list,
    rate,
    rate_from_python,
    whole,
)
from mask_impact.table import FORMAT_NAMES

if TYPE_CHECKING:
    import os

    from PIL import Image

VARIANTS = ("full", "attn", "head")  # in the table Full, Attn and Head_N
HEAD_SPACES = ("output", "residual")  # before the output projection, or each head's contribution to the residual stream
MASK_MODES = ("text", "vision", "both")
VISION_ATTENTION = ("model", "bidirectional")
ABLATIONS = ("neg-inf", "zero-value")  # take a token out of the softmax, or keep its weight and zero its value
UNITS = ("token", "word", "sentence", "span", "patch")  # what is masked together
TOWERS = ("decoder", "encoder", "vision")  # encoder: of an encoder-decoder; vision: of a model with pictures
ATTENTIONS = ("self", "cross")  # in an encoder-decoder's decoder: to its own tokens, to the encoder's
BLOCKS = ("last", "all")  # which positions stop reading a masked token: the predicting one, or every later one
DTYPES = ("auto", "float32", "bfloat16", "float16")
DEFAULT_FORMATS = ("csv", "json", "html")


class Progress(Protocol):
    """Called with what is being done, as a part of the work begins; a forward and a replayed layer are 1 each."""

    def __call__(self, what: str, work: float = 1.0, /) -> None: ...


def unseen(what: str, work: float = 1.0, /) -> None:
    """The progress of a run that shows none."""


# --- a field -----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Option:
    """How a field can be given."""

    help: str  # "{choices}" stands for the choices there are
    name: str = ""  # the field's, which is also its keyword in Python
    default: Any = None
    # "value", "list" (commas on the command line, also a list in YAML), "switch", "repeated" (a flag that can be
    # given several times, a list in YAML), or "pair" (a flag with two texts)
    kind: str = "value"
    flag: str = ""  # "": the name with dashes
    key: str = ""  # in a YAML file; "": the name
    metavar: str | tuple[str, str] | None = None
    parse: Callable[[str], Any] = str
    choices: Collection[str] = ()  # the parser accepts these; may be a registry that grows
    scope: str = "both"  # "text" or "vision": only for such models
    table: str = "both"  # which Python functions take it: those for "results", those for "effects", or "": none
    keyword_type: str = ""  # of the Python keyword, where it takes more than the field's own type
    from_python: Callable[[Any], Any] | None = None  # turns the keyword's value into the field's
    in_files: bool = True  # whether a YAML file may give it
    older_keys: tuple[str, ...] = ()
    older_values: tuple[tuple[str, str], ...] = ()  # (older, newer)

    @property
    def help_text(self) -> str:
        """The help, with the choices and the default as they are now."""
        default = ",".join(self.default) if isinstance(self.default, tuple) else self.default
        text = self.help.replace("{choices}", ", ".join(self.choices))
        spoken = default not in (None, "", False, MISSING) and "default" not in text
        return f"{text} (default: {default})" if spoken else text


def option(default: Any, help: str, **details: Any) -> Any:
    """A field of `Settings` or `Request` that can be given; `details` are those of `Option`."""
    return field(default=default, metadata={"option": Option(help, default=default, **details)})


def options_of(kind: type[Any]) -> dict[str, Option]:
    """Every field that can be given, by its name; flag, YAML key and parser are filled in from name and choices."""
    found = {}
    for each in fields(kind):
        if given := each.metadata.get("option"):
            flag = given.flag or "--" + each.name.replace("_", "-")
            found[each.name] = replace(given, name=each.name, flag=flag, key=given.key or each.name)
            if given.choices:
                parser = one_of_list if given.kind == "list" else one_of
                metavar = "LIST" if given.kind == "list" else "|".join(given.choices)
                found[each.name] = replace(
                    found[each.name], parse=parser(given.choices), metavar=given.metavar or metavar
                )
    return found


def named(message: str, names: Mapping[str, str]) -> str:
    """A message of the engine, where an option is its field's name in backticks, in the words of who asked."""
    return re.sub("`([a-z_]+)`", lambda found: names.get(found[1], found[0]), message)


def _written(value: str | Sequence[str | int]) -> str:
    """A keyword's value as it is written on the command line."""
    return value if isinstance(value, str) else ",".join(map(str, value))


def _heads_from_python(value: str | Sequence[str]) -> str:
    return value if isinstance(value, str) else ",".join(value)  # no numbers: 3.10 would be head 1


def _layers_from_python(value: str | Sequence[int] | None) -> tuple[tuple[int, int], ...]:
    return layer_list("all" if value is None else _written(value))


def _queries_from_python(value: Any) -> Any:
    if value is None or isinstance(value, str):
        return None if value is None else query_list(value)
    return tuple((whole(first), whole(last)) for first, last in value)


# --- the fields --------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Settings:
    """What all prompts of one command share: the model, and where results go."""

    model: str = option(
        MISSING, "a hub name, a checkpoint folder, a GGUF file, demo (the bundled model), smollm2 or smollm2-vl (from "
        "pip packages) (default: %(default)s)", metavar="NAME_OR_PATH",
    )  # fmt: skip
    revision: str | None = option(None, "of a model on the hub: a branch, a tag or a commit", metavar="REV")
    adapter: str | None = option(None, "a folder with an adapter (LoRA), to be merged into the weights", metavar="DIR")
    vision: bool = False  # a model that takes pictures
    device: str = option(
        "auto", "auto, cpu, cuda, cuda:N or mps; auto is CUDA, then MPS, then CPU (default: auto)",
        metavar="DEVICE", parse=device_name,
    )  # fmt: skip
    dtype: str = option("auto", "default: the checkpoint's own on an accelerator, float32 on the CPU", choices=DTYPES)
    device_map: str | None = option(None, "spread a large model over all devices and the disk", choices=("auto",))
    max_memory: "tuple[tuple[int | str, str], ...] | None" = option(
        None, "how much --device-map may use, for example 0=20GiB,cpu=60GiB (default: all)", kind="list",
        metavar="LIST", parse=memory_limits,
    )  # fmt: skip
    output_dir: Path = option(Path("output"), "default: output", metavar="DIR", parse=path)
    formats: tuple[str, ...] = option(
        DEFAULT_FORMATS, "comma-separated: {choices}", flag="--format", kind="list", choices=FORMAT_NAMES
    )
    trust_remote_code: bool = option(False, "let a model run its own Python code", kind="switch", in_files=False)
    allow_pickle: bool = option(
        False, "also load pickled weights; a pickle can run any code when loaded, so use only files you trust",
        kind="switch", in_files=False,
    )  # fmt: skip


@dataclass(frozen=True)
class Request:
    """One prompt, and what is to be measured for it."""

    prompt: str = option(MISSING, "the prompt", metavar="TEXT")
    num_tokens: int = option(1, "output tokens to analyse", metavar="N", parse=positive)
    answer: str | None = option(
        None, "measure this answer in place of what the model would generate; it stands directly after the prompt",
        metavar="TEXT",
    )  # fmt: skip
    layers: tuple[tuple[int, int], ...] = option(  # (first, last) of each range; (): all
        (), "for example 0,8,20-27 (default: all)", kind="list", metavar="LIST", parse=layer_list, table="results",
        keyword_type="str | Sequence[int] | None", from_python=_layers_from_python,
    )  # fmt: skip
    variants: tuple[str, ...] = option(
        VARIANTS, "comma-separated: full (the layer), attn (its attention), head (every head) (default: all)",
        kind="list", choices=VARIANTS, table="results",
    )  # fmt: skip
    metrics: tuple[str, ...] = option(
        DEFAULT_METRICS, "comma-separated distances between the update with and without a mask, and attention, the "
        "weight on what is masked: {choices}",
        kind="list", choices=METRICS, table="results",
    )  # fmt: skip
    head_space: str = option(
        "output", "compare heads before the output projection, or their shares of it", choices=HEAD_SPACES,
        table="results",
    )  # fmt: skip
    ablation: str = option(
        "neg-inf", "take a token out of the softmax (neg-inf), or only zero its value (zero-value)", choices=ABLATIONS
    )
    # "last", "all", or (first, last) of each range of positions; None: "last", for an encoder "all"
    queries: str | tuple[tuple[int, int], ...] | None = option(
        None, "where the change is measured: last (the predicting position; default), all, or positions such as 4,8-10",
        kind="list", metavar="last|all|LIST", parse=query_list, table="results",
        keyword_type="str | Sequence[tuple[int, int]] | None", from_python=_queries_from_python,
    )  # fmt: skip
    null_runs: Path | None = option(
        None, "a folder of runs of other prompts, of the same model and settings, or one such run: say how large the "
        "most important tokens' values are among theirs, as percentiles", metavar="PATH", parse=path, table="results",
        keyword_type="str | Path | None", from_python=path_from_python,
    )  # fmt: skip
    mask_unit: str | None = option(
        None, "what is masked together; patch is for --tower vision (default: token, or span with --span)",
        choices=UNITS,
    )  # fmt: skip
    spans: tuple[str, ...] = option(
        (), "mask this text of the prompt, or these positions, together; NAME=... names it; repeat it for more",
        kind="repeated", flag="--span", key="span", metavar="TEXT|/REGEX/|12-18",
    )  # fmt: skip
    effects: bool = option(
        False, "also measure what masks do to the answer, carried on to the logits", kind="switch", table=""
    )
    mask_layers: str = option(
        "all", "for --effects, where a mask holds: all, 0-5, window:3 (sliding) or from (each layer on) (default: all)",
        kind="list", metavar="LIST", table="effects", from_python=_written,
        keyword_type="str | Sequence[int | str]",
    )  # fmt: skip
    readers: tuple[str, ...] = option(
        (), "for --effects, who stops reading: later (every later position; default), last (the predicting one), or a "
        "set of positions such as question, image:0, frame:3, 12-18 or a span's name; repeat it for more. For --tower "
        "vision, the image tokens whose patches are compared (default: all of the picture)",
        kind="repeated", metavar="SET",
    )  # fmt: skip
    blocks: tuple[str, ...] | None = option(
        None, "an older spelling of --readers: last, or all for later", kind="list", flag="--block", key="block",
        choices=BLOCKS, table="effects", keyword_type="str | Sequence[str] | None",
    )  # fmt: skip
    routes: tuple[str, ...] = option(
        (), 'for --effects, mask all that one set of positions reads of another, such as "image -> question", in place '
        "of tokens; repeat it for more", kind="repeated", flag="--route", key="route", metavar="SET->SET",
        table="effects",
    )  # fmt: skip
    by_head: bool = option(
        False, "for --effects, mask in one head of one layer at a time", kind="switch", table="effects"
    )
    heads: str = option(
        "", 'for --effects, mask in these heads alone, such as 3.1,5.0 (layer.head); "not 3.1,5.0" are all others',
        kind="list", metavar="LIST", table="effects", from_python=_heads_from_python,
        keyword_type="str | Sequence[str]",
    )  # fmt: skip
    contrast: tuple[str, ...] = option(  # two texts, or none
        (), "for --effects, also report how much likelier the first text is than the second as the answer", kind="pair",
        metavar=("TEXT", "TEXT"), table="effects",
    )  # fmt: skip
    trace_layers: bool = option(
        False, "for --effects, also report how far the state has moved after every later layer", kind="switch", table=""
    )
    deepstack: bool = option(
        False, "for --effects, also report what the answer needs of the image features that are added between decoder "
        "layers (DeepStack)", kind="switch", scope="vision", table="",
    )  # fmt: skip
    pairs: int = option(
        0, "also mask all pairs among the K strongest units, and report how they interact", metavar="K",
        parse=positive, table="effects",
    )  # fmt: skip
    top: int = option(
        0, "for --effects, mask only the K units that single layers read most, by the results table", metavar="K",
        parse=positive, table="effects",
    )  # fmt: skip
    refine: int = option(
        0, "for --effects, go from coarse to fine: mask pictures and sentences, and split the K that change the answer "
        "most, and so on down to tokens", metavar="K", parse=positive, table="effects",
    )  # fmt: skip
    max_masks: int | None = option(
        None, "for --refine, stop splitting before there are more masks than this", metavar="N", parse=positive,
        table="effects",
    )  # fmt: skip
    no_check: bool = option(
        False, "do not compare the recorded forward of a model's first prompt with an untouched one", kind="switch"
    )
    chat: bool = option(False, "wrap the prompt in the model's chat template", kind="switch", scope="text")
    system: str | None = option(None, "a system message; implies the model's chat template", metavar="TEXT")
    messages: "tuple[dict[str, Any], ...]" = option(  # as prompt/messages.py gives them
        (), "a JSON file with a conversation, in place of a prompt and its images", metavar="FILE", parse=path,
        keyword_type="str | Sequence[Mapping[str, Any]]",
    )  # fmt: skip
    tower: str = option(
        "decoder", "which stack of layers is measured: the decoder, the encoder of an encoder-decoder, or the vision "
        "encoder, where patches read patches", choices=TOWERS,
    )  # fmt: skip
    attention: tuple[str, ...] = option(
        ATTENTIONS, "where masks act in an encoder-decoder's decoder: self, cross (encoder tokens) (default: both)",
        kind="list", choices=ATTENTIONS, scope="text", table="results",
    )  # fmt: skip
    images: "tuple[str | os.PathLike[str] | Image.Image, ...]" = option(
        (), "a picture; repeat it for more. They stand where the prompt says <image>, or before it", kind="repeated",
        flag="--image", key="image", older_keys=("image_path",), metavar="PATH", parse=path, scope="vision",
    )  # fmt: skip
    videos: tuple[str, ...] = option(
        (), "a video, an animated GIF, or a folder of frames; repeat it for more. They stand where the prompt says "
        "<video>, or before it", kind="repeated", flag="--video", key="video", metavar="PATH", parse=path,
        scope="vision", from_python=paths_from_python, keyword_type="str | Path | Sequence[str | Path]",
    )  # fmt: skip
    fps: float | None = option(
        None, "frames of a video that are taken for each second (default: the processor's, else 2)", metavar="F",
        parse=rate, scope="vision", from_python=rate_from_python,
    )  # fmt: skip
    max_frames: int | None = option(
        None, "frames of a video that are taken at most (default: the processor's)", metavar="N", parse=positive,
        scope="vision",
    )  # fmt: skip
    mask_mode: str = option(
        "text", "mask every token that is not an image token, every image token, or both", choices=MASK_MODES,
        scope="vision", older_values=(("all", "both"),),
    )  # fmt: skip
    vision_attention: str = option(
        "model", "the checkpoint's own mask, or one in which the tokens of a picture see each other",
        choices=VISION_ATTENTION, scope="vision",
    )  # fmt: skip
    max_pixels: int | None = option(
        None, "shrink pictures and frames to N pixels", metavar="N", parse=positive, scope="vision"
    )
    regions: tuple[str, ...] = option(
        (), "mask the patches of this rectangle of the grid together; 1:0,0,2,3 is in picture 1, "
        "video:0:0,0,2,3 in all frames of a video, frame:3:0,0,2,3 in one; repeat it for more",
        kind="repeated", flag="--region", key="region", metavar="ROW,COL,ROW,COL", scope="vision",
    )  # fmt: skip
    region_masks: tuple[str, ...] = option(
        (), "mask the patches that are white in this file together; 1:PNG applies to picture 1, "
        "video:0:PNG to all frames of a video; repeat it for more",
        kind="repeated", flag="--region-mask", key="region_mask", metavar="PNG", scope="vision",
    )  # fmt: skip


# --- values ------------------------------------------------------------------------------------------------
def merged(kind: type[Any], *found: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a dataclass's fields from several sources; a later source overrides an earlier one."""
    names = [each.name for each in fields(kind)]
    values = {name: source[name] for source in found for name in names if name in source}
    several = [name for name, each in options_of(kind).items() if each.kind in ("repeated", "pair")]
    return values | {name: tuple(values[name] or ()) for name in several if name in values}


def check_choices(request: Request) -> None:
    """Raises UserError for a value that is not among its field's choices."""
    for name, each in options_of(type(request)).items():
        value = getattr(request, name)
        if not each.choices or (value is None and each.default is None):
            continue
        what = name.replace("_", " ").removesuffix("s" if each.kind == "list" else "")
        choices = f"choose from {', '.join(each.choices)}"
        if each.kind == "list" and not value:
            raise UserError(f"no {what} was chosen; {choices}")
        for part in value if each.kind == "list" else [value]:
            if part not in each.choices:
                raise UserError(f"unknown {what} {part!r}; {choices}")


def check_extension(kind: type[Request], taken: Collection[str]) -> None:
    """Raises UserError for a field of an extension that clashes with another field, flag or YAML key.

    Args:
        taken: names that the command itself uses.
    """
    own = {name: each for name, each in options_of(kind).items() if name not in options_of(Request)}
    known = options_of(Settings) | options_of(Request)
    for name, each in own.items():
        keys = {*taken, *(one.key for one in known.values())}
        flagged = {f"--{word.replace('_', '-')}" for word in taken} | {one.flag for one in known.values()}
        places = ("name", name, {*taken, *known}), ("flag", each.flag, flagged), ("YAML key", each.key, keys)
        for what, value, others in places:
            if value in others:
                message = f"the field {name!r} of {kind.__name__} clashes: its {what} {value} is taken; choose another"
                raise UserError(message)
        known[name] = each


def chosen_layers(ranges: Sequence[tuple[int, int]] | None, count: int) -> tuple[int, ...] | None:
    """((0, 0), (20, 27)), as `parsers.layer_list` gives them -> (0, 20, ..., 27); none are all. Raises UserError."""
    if not ranges:
        return None
    last = max(last for _, last in ranges)
    if last >= count:
        raise UserError(f"there is no layer {last}; this model has layers 0 to {count - 1}")
    return tuple(sorted({layer for first, last in ranges for layer in range(first, last + 1)}))
