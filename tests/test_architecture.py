"""Who may import whom: every import of the package, also inside functions and for type checkers, is in this table.

The table is that of docs/architecture.md. There are no exceptions; an import that is not allowed is to be moved.
"""

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "mask_impact"
CONTRACTS = ("errors", "table", "distances", "parsers")
BASE = (*CONTRACTS, "options")
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "errors": (),
    "table": (),
    "distances": (),
    "parsers": (),
    "options": CONTRACTS,
    "prompt": BASE,
    "model": (*BASE, "prompt"),
    "impact": (*BASE, "prompt", "model"),
    "effects": (*BASE, "prompt", "model"),
    "files": (*BASE, "prompt.images", "prompt.films", "prompt.text_files"),
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
    """The modules of this package that are imported anywhere in `tree`, without the package's own name.

    A text that names one counts: `import_module("mask_impact.jobs.session")`. A public name of the whole package counts
    as "": it leads anywhere.
    """
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= set(re.findall(r"^mask_impact\.[\w.]+$", node.value))
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "mask_impact":
            found.add(f"mask_impact.{node.attr}")
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: write the whole name of what is imported"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    ours = {name.removeprefix("mask_impact").strip(".") for name in found if name.split(".")[0] == "mask_impact"}
    return {name if name in SOURCES else name.rpartition(".")[0] for name in ours - {"", "__version__", "__file__"}}


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


def test_libraries_of_tables_are_imported_where_they_are_used() -> None:
    """A run that writes CSV and JSON needs neither, and importing pandas is a sixth of a short run."""
    early = [
        (name, alias)
        for name, source in SOURCES.items()
        for node in ast.parse(source).body
        for alias in [each.name for each in getattr(node, "names", [])] + [getattr(node, "module", None) or ""]
        if alias.split(".")[0] in {"pandas", "pyarrow"}
    ]
    assert early == []


def test_every_module_is_in_the_table() -> None:
    assert [name for name in SOURCES if name not in AT_CALL_TIME and not within(name, tuple(MAY_IMPORT))] == []


@pytest.mark.parametrize("name", [name for name in AT_CALL_TIME if name in SOURCES])
def test_the_outermost_modules_import_only_when_called(name: str) -> None:
    left_out = (ast.FunctionDef, ast.Assign, ast.AnnAssign)  # functions, and the table of public names
    run_at_import = [node for node in ast.parse(SOURCES[name]).body if not isinstance(node, left_out)]
    run_at_import = [node for node in run_at_import if not for_type_checkers(node)]
    assert imports(ast.Module(run_at_import, [])) == set()


def for_type_checkers(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


@pytest.mark.parametrize(
    "line",
    [
        "from mask_impact.jobs.session import Session",
        "from mask_impact.jobs import session",
        "import mask_impact.jobs.session",
        "import mask_impact.jobs.session as session",
        "session = import_module('mask_impact.jobs.session')",
    ],
)
@pytest.mark.parametrize("place", ["{}", "def f():\n    {}", "if TYPE_CHECKING:\n    {}", "try:\n    {}\nfinally: 0"])
def test_an_upward_import_is_found_wherever_it_stands(place: str, line: str) -> None:
    found = imports(ast.parse(place.format(line)))
    assert found == {"jobs.session"} and not within("jobs.session", (*MAY_IMPORT["model"], "model"))


def test_the_public_names_are_no_way_around() -> None:
    for line in ("import mask_impact\nmask_impact.load('x')", "from mask_impact import load"):
        assert imports(ast.parse(line)) == {""}
    assert imports(ast.parse("import mask_impact\nprint(mask_impact.__version__)")) == set()


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
    cells = {row[0].strip("`").rstrip("/"): row[2] for row in rows if len(row) == 3}
    written = {place: set(cell.replace("nothing else", "").replace("`", "").split()) for place, cell in cells.items()}
    assert {place: set(may) - set(BASE) for place, may in MAY_IMPORT.items() if place not in BASE} == {
        place: may for place, may in written.items() if place in MAY_IMPORT
    }
