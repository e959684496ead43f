"""Load the processor of a vision-language checkpoint, for pictures only where packages for other inputs are missing.

In: a model that was found. Out: the processor that transformers chooses for it: text and pictures in, model inputs
out. transformers' video processors need torchvision, some audio parts other packages, and its processors need all of
their parts, also for pictures: a stand-in that refuses its input takes the place of a part that cannot be loaded.
"""

import importlib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from transformers import AutoProcessor, ImageProcessingMixin, ProcessorMixin
from transformers.utils import cached_file, is_torchvision_available

from mask_impact.errors import UserError
from mask_impact.model.find import Source
from mask_impact.model.load import check_tokenizer
from mask_impact.model.loading import loading
from mask_impact.prompt.video_part import FAMILIES

# Processors whose module imports one that needs torchvision, for what has nothing to do with pictures: (package,
# module, class) -> the module they would import.
IMPORTED_IN_VAIN = {
    ("pixtral", "processing_pixtral", "PixtralProcessor"): "image_processing_pixtral",  # transformers 5; mistral3 too
    ("smolvlm", "processing_smolvlm", "SmolVLMProcessor"): "video_processing_smolvlm",  # transformers 4
}

# What of transformers' ProcessorMixin is replaced while a processor without its video part is loaded.
LOAD_PARTS, CHECK_PART = "_get_arguments_from_pretrained", "check_argument_for_proper_class"


def load_processor(source: Source) -> Any:
    """AutoProcessor's choice; without torchvision one that takes pictures but no video. Raises UserError."""
    with loading(source.name):
        has_settings = _has_picture_settings(source)
    if not has_settings:  # transformers 4 would take the default of some family
        raise UserError(
            f"model {source.name!r} has no image processor settings (preprocessor_config.json); add the file to the "
            "checkpoint"
        )
    with loading(source.name), _pictures_only():
        processor = AutoProcessor.from_pretrained(source.path, **source.place_and_trust)
    if not hasattr(processor, "image_processor"):  # AutoProcessor falls back to a tokenizer
        raise UserError(f"model {source.name!r} has no processor for images, only a {type(processor).__name__}")
    check_tokenizer(processor.tokenizer, source)
    left_out = getattr(processor, "video_processor", None)
    if isinstance(left_out, LeftOut) and source.config.model_type in FAMILIES:
        with loading(source.name):
            left_out.settings = _video_settings(source)
    with loading(source.name):
        _keep_size(processor.image_processor, source)
    return processor


def _keep_size(image_processor: Any, source: Source) -> None:
    """Give transformers 4's Qwen2VLImageProcessor, also Qwen3-VL's, the checkpoint's `size`, which it replaces by its
    default (4.57.1, image_processing_qwen2_vl.py, __init__)."""
    settings, _ = image_processor.get_image_processor_dict(source.path, **source.place)
    size = settings.get("size") or {}
    if type(image_processor).__name__ != "Qwen2VLImageProcessor" or not isinstance(image_processor.size, dict):
        return
    for edge, name in (("shortest_edge", "min_pixels"), ("longest_edge", "max_pixels")):
        if edge in size and settings.get(name) is None:
            image_processor.size[edge] = size[edge]
            setattr(image_processor, name, size[edge])


def _has_picture_settings(source: Source) -> bool:
    """Whether the checkpoint says how pictures are prepared, in a file of its own or in the processor's."""
    return bool(_file(source, "preprocessor_config.json")) or "image_processor" in _json(
        source, "processor_config.json"
    )


def _video_settings(source: Source) -> dict[str, Any]:
    """How the checkpoint says that videos are prepared; where it does not, as its pictures are. transformers looks in
    the same places (video_processing_utils.py, get_video_processor_dict)."""
    within: dict[str, Any] = _json(source, "processor_config.json").get("video_processor", {})
    return within or _json(source, "video_preprocessor_config.json") or _json(source, "preprocessor_config.json")


def _json(source: Source, name: str) -> dict[str, Any]:
    """What a file of the checkpoint holds; nothing if it has none of this name."""
    path = _file(source, name)
    return json.loads(Path(path).read_text(encoding="utf-8")) if path else {}


def _file(source: Source, name: str) -> str | None:
    found: str | None = cached_file(
        source.path,
        name,
        **source.place,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return found


@contextmanager
def _pictures_only() -> Iterator[None]:
    """In here a processor gets a `LeftOut` in the place of a part not for text or pictures that cannot be loaded,
    and accepts it. Class, chat template and all other settings still come from where `AutoProcessor` finds them."""
    for (package, module, name), needed in () if is_torchvision_available() else IMPORTED_IN_VAIN.items():
        _import_without(f"transformers.models.{package}", module, name, needed)
    before = {name: ProcessorMixin.__dict__[name] for name in (LOAD_PARTS, CHECK_PART)}
    load_all, of_right_class = before[LOAD_PARTS].__func__, before[CHECK_PART]

    def load_parts(cls: Any, path: str, *settings: Any, **options: Any) -> list[Any]:  # 4 passes no settings
        names = cls.get_attributes() if hasattr(cls, "get_attributes") else cls.attributes
        return [part(cls, name, path, *settings, **options) for name in names]

    def part(cls: Any, name: str, path: str, *settings: Any, **options: Any) -> Any:
        if "video" in name and not is_torchvision_available():
            return LeftOut(name)
        one = {"attributes": [name], "get_attributes": classmethod(lambda own: [name])}
        try:
            (loaded,) = load_all(type(cls.__name__, (cls,), one), path, *settings, **options)  # as if it had no other
        except ImportError:
            if "image" in name or "tokenizer" in name:
                raise
            return LeftOut(name)
        return loaded

    def check(self: Any, name: str, part: Any) -> Any:
        return LeftOut if isinstance(part, LeftOut) else of_right_class(self, name, part)

    try:
        setattr(ProcessorMixin, LOAD_PARTS, classmethod(load_parts))
        setattr(ProcessorMixin, CHECK_PART, check)
        yield
    finally:
        for name, original in before.items():
            setattr(ProcessorMixin, name, original)


class LeftOut(ImageProcessingMixin):
    """In the place of a processor's part for videos or audio."""

    model_input_names: ClassVar[list[str]] = []

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.settings: dict[str, Any] = {}  # the checkpoint's for this part

    def __getattr__(self, setting: str) -> None:
        """None for any setting: processors and chat templates ask for them, used or not (SmolVLM, Gemma, MiniCPM-V)."""
        if setting.startswith("_"):
            raise AttributeError(setting)

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        raise ImportError(f"the {self.name} was left out: what it needs (for videos torchvision) is not installed")


class _Nothing(ModuleType):
    """A module in which every name is None."""

    def __getattr__(self, name: str) -> None:
        return None


def _import_without(package: str, module: str, name: str, needed: str) -> None:
    """Make `name` importable from `package` although `module` imports `needed`, where that cannot be imported."""
    try:
        found = importlib.import_module(f"{package}.{module}")
    except ImportError:
        sys.modules[f"{package}.{needed}"] = _Nothing(needed)
        try:
            found = importlib.import_module(f"{package}.{module}")
        finally:
            del sys.modules[f"{package}.{needed}"]
    if getattr(found, "num2words", str) is None:  # SmolVLM's, for the number of frames of a video
        setattr(found, "num2words", str)  # noqa: B010
    setattr(importlib.import_module(package), name, getattr(found, name))
