"""The older place of `mask_impact.files.results`: `from mask_impact.results import load_many` still works."""

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    return getattr(import_module("mask_impact.files.results"), name)
