"""Which package is missing when transformers cannot load a model.

In:  what transformers raised, and the checkpoint's folder. Out: the names of packages, as pip takes them.

transformers says it in many ways, and not always truly: version 4 asks for protobuf whenever a tokenizer cannot be
read, and both try tiktoken where SentencePiece is not installed. So the innermost error is asked first, and the
tokenizer's files tell what reads them.
"""

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

SAID = re.compile(
    r"requires the (\S+) library"
    r"|not found in your environment: ([\w., -]+?)\. "
    r"|need to install (\S+) to"
    r"|`(\S+?)` is required to"
    r"|you have `(\S+?)` installed"
    r"|have (sentencepiece) or tiktoken installed"
    r"|pip install (?!git\+)(?:-U |--upgrade )?[\"'`]?([\w.-]+)"
    r"|No module named '([\w.]+)'"
)
MODULES = {  # packages whose module has another name than theirs
    "protobuf": "google.protobuf", "pillow": "PIL", "pyyaml": "yaml", "opencv-python": "cv2", "autoawq": "awq",
}  # fmt: skip
READERS = {"sentencepiece": ("sentencepiece", "protobuf"), "tiktoken": ("tiktoken",)}  # of the two kinds of files
FILES = ("*.model", "*.spm", "*.tiktoken")


def missing_packages(error: BaseException, folder: Path | None) -> list[str]:
    """The packages that loading failed for; none if it failed for another reason."""
    found: list[str] = []
    for each in reversed(list(_chain(error))):
        found = [name for name in _named(str(each)) if not installed(name)]
        if found:
            break
    if not {name for names in READERS.values() for name in names} & set(found):
        return found
    kinds = {_kind(path) for pattern in FILES for path in (folder.glob(pattern) if folder else ())}
    return [name for kind in sorted(kinds) for name in READERS[kind] if not installed(name)]


def installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(MODULES.get(package, package.replace("-", "_"))) is not None
    except (ImportError, ValueError):  # a part of a package that is not there
        return False


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that it came from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _named(text: str) -> list[str]:
    """The packages that a message names."""
    found = [name.strip() for each in SAID.finditer(text) for name in (each[each.lastindex or 0]).split(",")]
    packages = {module: package for package, module in MODULES.items()}
    names = [packages.get(name, name.split(".")[0].lower() if "." in name else name) for name in found]
    return list(dict.fromkeys(name if name in MODULES else name.lower() for name in names if name))


def _kind(path: Path) -> str:
    """Of a tokenizer's file: SentencePiece's is a protocol buffer, tiktoken's has lines of base64 and a number."""
    with path.open("rb") as file:
        return "tiktoken" if re.match(rb"[A-Za-z0-9+/=]+ \d", file.read(512)) else "sentencepiece"
