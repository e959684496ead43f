"""Who may import whom: every import of the package, also inside functions and for type checkers, is in this table.

The table is that of docs/architecture.md. There are no exceptions; an import that is not allowed is to be moved.
"""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "mask_impact"
CONTRACTS = ("errors", "table", "distances")
BASE = (*CONTRACTS, "options")
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "errors": (),
    "table": (),
    "distances": (),
    "options": CONTRACTS,
    "prompt": BASE,
    "model": (*BASE, "prompt"),
    "impact": (*BASE, "prompt", "model"),
    "effects": (*BASE, "prompt", "model"),
    "files": (*BASE, "prompt.images"),
    "jobs": (*BASE, "prompt", "model", "impact", "effects", "files"),
    "commands": (*BASE, "prompt", "model", "impact", "effects", "files", "jobs"),
    "lens": (*BASE, "prompt", "model", "impact", "effects", "files", "jobs", "commands"),
}
AT_CALL_TIME = ("", "__main__", "results", "report")  # may import anything, but not when they are imported


def dotted(path: Path) -> str:
    """mask_impact/prompt/units.py -> "prompt.units"; a folder's __init__.py -> "prompt"."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").strip(".")


SOURCES = {dotted(path): path.read_text("utf-8") for path in sorted(PACKAGE.rglob("*.py"))}


def imports(tree: ast.AST) -> set[str]:
    """The modules of this package that are imported anywhere in `tree`, without the package's own name."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: write the whole name of what is imported"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    ours = {name.removeprefix("mask_impact").strip(".") for name in found if name.split(".")[0] == "mask_impact"}
    return {name if name in SOURCES else name.rpartition(".")[0] for name in ours - {"", "__version__"}}


IMPORTS = {name: imports(ast.parse(source)) for name, source in SOURCES.items()}


def within(module: str, places: tuple[str, ...]) -> bool:
    return any(module == place or module.startswith(f"{place}.") for place in places)


@pytest.mark.parametrize("place", MAY_IMPORT)
def test_imports_are_in_the_table(place: str) -> None:
    modules = [name for name in SOURCES if within(name, (place,))]
    assert modules, f"there is no mask_impact/{place}"
    allowed = (*MAY_IMPORT[place], place)
    wrong = [f"{name} imports {found}" for name in modules for found in IMPORTS[name] if not within(found, allowed)]
    assert wrong == []


def test_every_module_is_in_the_table() -> None:
    assert [name for name in SOURCES if name not in AT_CALL_TIME and not within(name, tuple(MAY_IMPORT))] == []


@pytest.mark.parametrize("name", [name for name in AT_CALL_TIME if name in SOURCES])
def test_the_outermost_modules_import_only_when_called(name: str) -> None:
    body = ast.parse(SOURCES[name]).body
    run_at_import = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert imports(ast.Module(run_at_import, [])) == set()


@pytest.mark.parametrize("place", MAY_IMPORT)
def test_no_circles_in_a_folder(place: str) -> None:
    inside = {name: IMPORTS[name] - {name} for name in SOURCES if within(name, (place,))}
    try:
        TopologicalSorter(inside).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_the_table_itself_has_no_circles() -> None:
    TopologicalSorter({place: [name.split(".")[0] for name in may] for place, may in MAY_IMPORT.items()}).prepare()


def test_the_table_is_the_documented_one() -> None:
    """docs/architecture.md: | `prompt/` | what it does | `errors` `table` ... |"""
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("| `")
    ]
    written = {row[0].strip("`").rstrip("/"): set(row[2].replace("`", "").split()) for row in rows if len(row) == 3}
    assert {place: set(may) - set(BASE) for place, may in MAY_IMPORT.items() if place not in BASE} == {
        place: may for place, may in written.items() if place in MAY_IMPORT
    }
