"""Load the processor of a vision-language checkpoint, for pictures only where torchvision is not installed.

In: a checkpoint folder or hub name. Out: the processor that transformers chooses for it (text and pictures in, the
model's inputs out). Whatever is wrong with the checkpoint's files comes out as the exception transformers raised.
"""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import ModuleType
from typing import Any
from unittest.mock import patch

from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer, ImageProcessingMixin, ProcessorMixin
from transformers.utils import is_torchvision_available

from mask_impact.errors import UserError
from mask_impact.models import Source, loading

# Processors that are for pictures too, but whose module imports one that needs torchvision, for a constant or a
# function that only counts tokens or words videos: (package, module, class) -> the module they would import.
IMPORTED_IN_VAIN = {
    ("pixtral", "processing_pixtral", "PixtralProcessor"): "image_processing_pixtral",  # transformers 5; mistral3 too
    ("smolvlm", "processing_smolvlm", "SmolVLMProcessor"): "video_processing_smolvlm",  # transformers 4
}


def load_processor(source: Source) -> Any:
    """AutoProcessor's choice; without torchvision one that takes pictures but no video. Raises UserError."""
    with loading(source.name), nullcontext() if is_torchvision_available() else _pictures_only():
        processor = AutoProcessor.from_pretrained(
            source.path, local_files_only=source.offline, trust_remote_code=source.trust_remote_code
        )
    if not hasattr(processor, "image_processor"):  # AutoProcessor falls back to a tokenizer
        raise UserError(
            f"model {source.name!r} has no image processor files (preprocessor_config.json); add them to the checkpoint"
        )
    return processor


@contextmanager
def _pictures_only() -> Iterator[None]:
    """transformers has no video processors without torchvision, and refuses a processor that misses its own, even for
    pictures. In here a processor's parts are loaded without that one, and None is accepted in its place. Class, chat
    template and all other settings still come from where `ProcessorMixin.from_pretrained` finds them."""
    of_right_class = ProcessorMixin.check_argument_for_proper_class

    def check(self: Any, name: str, part: Any) -> Any:
        return NoVideos if isinstance(part, NoVideos) else of_right_class(self, name, part)

    def load_parts(cls: Any, path: str, processor_dict: Any = None, **options: Any) -> list[Any]:  # 4 has no dict
        names = cls.get_attributes() if hasattr(cls, "get_attributes") else cls.attributes
        return [PARTS[name].from_pretrained(path, **options) for name in names]

    for (package, module, name), needed in IMPORTED_IN_VAIN.items():
        _import_without(f"transformers.models.{package}", module, name, needed)
    with patch.multiple(
        ProcessorMixin, check_argument_for_proper_class=check, _get_arguments_from_pretrained=classmethod(load_parts)
    ):
        yield


class NoVideos(ImageProcessingMixin):
    """In the place of a video processor."""

    model_input_names: list[str] = []
    num_frames = fps = None  # SmolVLM's chat template asks for them, video or not

    @classmethod
    def from_pretrained(cls, path: str, **options: Any) -> "NoVideos":
        return cls()

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        raise ImportError("videos cannot be read without torchvision")


PARTS = {"image_processor": AutoImageProcessor, "tokenizer": AutoTokenizer, "video_processor": NoVideos}


class _Nothing(ModuleType):
    """A module in which every name is None."""

    def __getattr__(self, name: str) -> None:
        return None


def _import_without(package: str, module: str, name: str, needed: str) -> None:
    """Make `name` importable from `package` although `module` imports `needed`, which cannot be imported here."""
    parent = importlib.import_module(package)
    with patch.dict(sys.modules, {f"{package}.{needed}": _Nothing(needed)}):
        found = importlib.import_module(f"{package}.{module}")
    found.num2words = getattr(found, "num2words", None) or str  # SmolVLM's, for the frames of a video
    setattr(parent, name, getattr(found, name))
