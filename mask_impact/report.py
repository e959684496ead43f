"""The older place of the page's functions: `mask_impact.report.show(df)` still works."""

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    for place in ("notebook", "page", "pictures", "page_writer"):
        module = import_module(f"mask_impact.files.{place}")
        if hasattr(module, name):
            return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
