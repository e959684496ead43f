#!/usr/bin/env python3
"""How long functions, modules and test files are, and how many files know of one metric, format and flag.

In: the sources of this checkout. Out: the figures, and with --all everything that is over a limit.

    python tools/house.py
    python tools/house.py --all

Lengths are in lines of the file, docstrings and comments included, without decorators. tests/test_house.py holds the
limits.
"""

import ast
import re
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ("mask_impact_analysis.py", "mask_impact_vl.py", "latent_lens.py")

MEDIAN_LINES = 8  # of a function
FUNCTION_LINES = 60
MODULE_LINES = 400
TEST_LINES = 800
PARAMETERS = 8  # of a function; the public functions, which people call with keywords, may have more
PUBLIC = {
    "run_masking_experiment",
    "run_effects_experiment",
    "run_vl_masking_experiment",
    "run_vl_effects_experiment",
}

# A built-in row of each kind, and how code names it. The files that name it are those that a row like it touches.
ROWS = {
    "metric (cosine)": r"(?<![a-z])cosine(?![a-z])",
    "format (parquet)": r"(?<![a-z.])parquet'",
    "flag (--trace-layers)": r"trace[_-]layers",
}


class Function(NamedTuple):
    where: str  # mask_impact/options.py:42 positive
    name: str
    lines: int
    parameters: int


def python_files() -> list[Path]:
    """The package and the scripts, which are installed."""
    return [*sorted((ROOT / "mask_impact").rglob("*.py")), *(ROOT / name for name in SCRIPTS)]


def test_files() -> list[Path]:
    return sorted([*(ROOT / "tests").glob("*.py"), *ROOT.glob("test_*.py")])


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def functions(path: Path) -> Iterator[Function]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            given = node.args
            names = [argument.arg for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
            count = len(names) - (names[:1] in (["self"], ["cls"]))
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            yield Function(f"{named(path)}:{node.lineno} {node.name}", node.name, lines, count)


def all_functions() -> list[Function]:
    return [function for path in python_files() for function in functions(path)]


def line_counts(paths: Sequence[Path]) -> list[tuple[int, str]]:
    """(lines, file), the longest first."""
    return sorted(((len(path.read_text("utf-8").splitlines()), named(path)) for path in paths), reverse=True)


def code(path: Path) -> str:
    """The file's code without comments and docstrings."""
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree):
        for part in getattr(node, "body", []) if not isinstance(node, ast.Lambda | ast.IfExp) else []:
            if isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant):
                part.value = ast.Constant(0)
    return ast.unparse(tree)


def files_that_name(pattern: str) -> list[str]:
    """The files of the package and the scripts whose code, not its comments and docstrings, matches."""
    return [named(path) for path in python_files() if re.search(pattern, code(path))]


def too_long(functions: Sequence[Function]) -> list[str]:
    return [f"{found.where}: {found.lines} lines" for found in functions if found.lines > FUNCTION_LINES]


def too_many_parameters(functions: Sequence[Function]) -> list[str]:
    return [
        f"{found.where}: {found.parameters} parameters"
        for found in functions
        if found.parameters > PARAMETERS and found.name not in PUBLIC
    ]


def too_large(counts: Sequence[tuple[int, str]], limit: int) -> list[str]:
    return [f"{name}: {lines} lines" for lines, name in counts if lines > limit]


def main(argv: Sequence[str]) -> int:
    found = sorted(all_functions(), key=lambda function: function.lines, reverse=True)
    modules, tests = line_counts(python_files()), line_counts(test_files())
    over = {
        f"functions of more than {FUNCTION_LINES} lines": too_long(found),
        f"functions with more than {PARAMETERS} parameters": too_many_parameters(found),
        f"modules of more than {MODULE_LINES} lines": too_large(modules, MODULE_LINES),
        f"test files of more than {TEST_LINES} lines": too_large(tests, TEST_LINES),
    }
    lines = statistics.median(function.lines for function in found)
    print(f"functions   {len(found)}, median {lines:g} lines, longest {found[0].lines} ({found[0].where})")
    for kind, counts in (("modules", modules), ("test files", tests)):
        median = statistics.median(count for count, _ in counts)
        print(f"{kind:11} {len(counts)}, median {median:g} lines, longest {counts[0][0]} ({counts[0][1]})")
    for title, rows in over.items():
        print(f"{len(rows):11} {title}")
        for row in rows if "--all" in argv else []:
            print(f"{'':14}{row}")
    for kind, pattern in ROWS.items():
        files = files_that_name(pattern)
        print(f"{len(files):11} files name one {kind}: {', '.join(files)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
