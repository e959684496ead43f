#!/usr/bin/env python3
"""The keywords of the Python functions, from the fields of `Request`: types for editors, and a table for readers.

Out: mask_impact/jobs/keywords.py, and the table in docs/python.md. tests/test_keywords.py fails when they are stale.

    python tools/make_keywords.py
"""

import dataclasses
import sys
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from mask_impact.jobs.from_python import ARGUMENTS, keywords_of  # noqa: E402
from mask_impact.options import MISSING, Option, Request, options_of  # noqa: E402

MODULE = ROOT / "mask_impact" / "jobs" / "keywords.py"
PAGE = ROOT / "docs" / "python.md"
START, END = "<!-- keywords: made by tools/make_keywords.py -->\n", "<!-- end of keywords -->\n"
CLASSES = {  # name: function, vision, effects
    "MaskingRequest": ("run_masking_experiment", False, False),
    "EffectsRequest": ("run_effects_experiment", False, True),
    "VLMaskingRequest": ("run_vl_masking_experiment", True, False),
    "VLEffectsRequest": ("run_vl_effects_experiment", True, True),
}


def type_of(option: Option) -> str:
    """The type of a keyword. For a field that holds a tuple of strings, it takes any sequence of strings, or one."""
    if option.keyword_type:
        return option.keyword_type
    found = {each.name: each.type for each in dataclasses.fields(Request)}[option.name]
    if found == tuple[str, ...]:
        return "str | Sequence[str]"
    return str(found) if isinstance(found, types.UnionType) else getattr(found, "__name__", str(found))


def module() -> str:
    """The text of keywords.py."""
    lines = [
        '"""The keywords of the Python functions, as types. Made by tools/make_keywords.py from `options.Request`."""',
        "",
        "from collections.abc import Mapping, Sequence",
        "from pathlib import Path",
        "from typing import Any, TypedDict",
    ]
    for name, (function, vision, effects) in CLASSES.items():
        lines += ["", "", f"class {name}(TypedDict, total=False):", f'    """Of `{function}`."""', ""]
        known = keywords_of(Request, vision, effects)
        lines += [f"    {keyword}: {type_of(each)}" for keyword, each in known.items()]
    return "\n".join(lines) + "\n"


def table() -> str:
    """The table of docs/python.md."""
    known = {name: keywords_of(Request, vision, effects) for name, (_, vision, effects) in CLASSES.items()}
    heads = [f"`{function.removeprefix('run_').removesuffix('_experiment')}`" for function, _, _ in CLASSES.values()]
    lines = [
        f"| keyword | type | default | {' | '.join(heads)} | meaning |",
        "|---|---|---|" + "---|" * len(heads) + "---|",
    ]
    for name, each in options_of(Request).items():
        takes = ["x" if name in keywords else "" for keywords in known.values()]
        if any(takes) and name not in ARGUMENTS and each.default is not MISSING:
            cells = [f"`{name}`", f"`{type_of(each)}`", f"`{each.default!r}`", *takes, each.help_text]
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def page(text: str) -> str:
    """The page with the table as it is now."""
    before, rest = text.split(START)
    return before + START + table() + END + rest.split(END)[1]


def main() -> None:
    MODULE.write_text(module(), "utf-8")
    PAGE.write_text(page(PAGE.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
