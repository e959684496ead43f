"""The documentation names everything there is, and nothing that is not."""

import argparse
import re
from pathlib import Path

import pytest
import tested
import yaml

import mask_impact_analysis
import mask_impact_vl
from mask_impact.commands import main
from mask_impact.distances import METRICS
from mask_impact.files.results import COLUMNS, FORMATS
from mask_impact.options import MASK_MODES, VARIANTS, VISION_ATTENTION

ROOT = Path(__file__).resolve().parent.parent
COMMAND_LINE = (ROOT / "docs" / "command-line.md").read_text("utf-8")
PAGES = [*sorted((ROOT / "docs").glob("*.md")), *ROOT.glob("*.md")]
EVERYTHING = "\n".join(page.read_text("utf-8") for page in PAGES).replace("\\\n", " ")  # a command is one line

SCRIPTS = (mask_impact_analysis, mask_impact_vl)


@pytest.fixture(scope="module")
def flags() -> list[dict[str, argparse.Action]]:
    """Every flag of each command, by its long name."""
    found: list[argparse.ArgumentParser] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", lambda self, argv: found.append(self) or self.exit())
        for script in SCRIPTS:
            with pytest.raises(SystemExit):
                script.main([])
    return [{action.option_strings[-1]: action for action in parser._actions} for parser in found]


def documented_flags() -> dict[str, str]:
    """Flag -> default, from the tables."""
    rows = re.findall(r"^\| (`--.*?) \|(.*?)\| .* \|$", COMMAND_LINE, re.MULTILINE)
    return {re.findall(r"--[a-z-]+", names)[0]: default.replace("`", "").strip() for names, default in rows}


def test_every_flag_is_documented_and_every_documented_flag_exists(flags) -> None:
    assert sorted(documented_flags()) == sorted(set(flags[0]) | set(flags[1]))


def spoken_default(script, action: argparse.Action) -> str:
    """A flag's default as the documentation has it."""
    spoken = {"layers": "all", "prompt_file": main.PROMPT_FILE, "output": script.DEFAULT_NAME, "queries": "last"}
    if action.dest in spoken:
        return spoken[action.dest]
    if action.default is False:
        return "off"
    if isinstance(action.default, tuple):
        return ",".join(action.default)
    return "" if action.default in (None, argparse.SUPPRESS) else str(action.default)


def test_defaults_are_the_documented_ones(flags) -> None:
    for flag, written in documented_flags().items():
        pairs = zip(SCRIPTS, flags, strict=True)
        defaults = [spoken_default(script, known[flag]) for script, known in pairs if flag in known]
        assert written == " / ".join(dict.fromkeys(defaults)), flag


def test_flags_in_every_page_exist(flags) -> None:
    """Except those of other programs (pip, pytest, git), which stand on lines that name them."""
    for names, known in zip(
        (("mask_impact_analysis", "mask-impact "), ("mask_impact_vl", "mask-impact-vl ")), flags, strict=True
    ):
        lines = [line for line in EVERYTHING.splitlines() if any(name in line for name in names)]
        used = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+\b", "\n".join(lines)))
        assert used - set(known) == set(), names[0]


def test_nobody_is_told_to_get_this_program_from_an_index() -> None:
    """It comes as a checkout; `pip install mask-impact[gguf]` would look for another one on PyPI."""
    sources = [path.read_text("utf-8") for path in (ROOT / "mask_impact").rglob("*.py")]
    assert re.findall(r"pip install [^`\n]*mask-impact.*", "\n".join([EVERYTHING, *sources])) == []


@pytest.mark.parametrize("code", [0, 1, 2, 130])
def test_exit_codes(code: int) -> None:
    assert re.search(rf"^\| {code} \|", COMMAND_LINE, re.MULTILINE)


def test_columns_variants_and_formats() -> None:
    wanted = [*COLUMNS, "Full", "Attn", "Head_N", *VARIANTS, *FORMATS, *MASK_MODES, *VISION_ATTENTION]
    assert [word for word in wanted if f"`{word}`" not in EVERYTHING] == []


def test_links_lead_somewhere() -> None:
    broken = [
        f"{page.name}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text("utf-8"))
        if not target.startswith("http") and not (page.parent / target).exists()
    ]
    assert broken == []


def headings(page: Path) -> set[str]:
    """The anchors of a page, as GitHub makes them."""
    found = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def test_links_to_headings_lead_to_one() -> None:
    links = [
        (page, target, anchor)
        for page in PAGES
        for target, anchor in re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", page.read_text("utf-8"))
        if not target.startswith("http")
    ]
    broken = [
        f"{page.name}: {target}#{anchor}"
        for page, target, anchor in links
        if anchor not in headings(page.parent / target if target else page)
    ]
    assert len(links) > 20 and broken == []


def test_flags_of_the_other_scripts_exist() -> None:
    """The scripts that make the figures, by what their source adds to a parser."""
    scripts = re.findall(r"python ((?:benchmarks|demo|tools|docs)/\w+\.py|test_\w+\.py)([^`#\n]*)", EVERYTHING)
    assert len({script for script, _ in scripts}) >= 10
    for script, arguments in scripts:
        source = (ROOT / script).read_text("utf-8")
        assert [flag for flag in re.findall(r"--[a-z-]+", arguments) if f'"{flag}"' not in source] == [], script


# --- the page, which knows the metrics by itself where no manifest tells of them ------------------------------
def test_the_page_calls_the_metrics_what_the_program_does() -> None:
    source = (ROOT / "viewer" / "src" / "data" / "metrics.ts").read_text("utf-8")
    literal = re.search(r"^const KNOWN: Metric\[\] = (\[.*?^\]);", source, re.MULTILINE | re.DOTALL).group(1)
    known = yaml.safe_load(re.sub(r"(\w+):(?= )", r'"\1":', literal))
    assert known == [metric.described for metric in METRICS.values()]


# --- what was tested: tools/tested.py -------------------------------------------------------------------------
@pytest.fixture(scope="module")
def runs() -> dict[str, tested.Run]:
    return {name: tested.load(tested.KEPT, name) for name in tested.RUNS}


def test_the_page_of_families_and_the_readme_are_made_from_the_runs(runs) -> None:
    assert tested.PAGE.read_text("utf-8") == tested.families_page(runs)
    assert tested.readme_lines(runs) in tested.README.read_text("utf-8")


def test_the_runs_had_the_locked_and_the_oldest_versions(runs) -> None:
    lock = (ROOT / "requirements.lock").read_text("utf-8")
    for package in ("transformers", "torch"):
        assert f"\n{package}=={runs['locked']['versions'][package]}\n" in lock
    oldest = re.findall(r"transformers==([\d.]+)", (ROOT / "Makefile").read_text("utf-8"))
    assert oldest == [runs["oldest"]["versions"]["transformers"]]


def test_the_lock_is_for_every_system_and_index() -> None:
    lock = (ROOT / "requirements.lock").read_text("utf-8")
    assert not re.search(r"==[^;\n]*\+|nvidia|cuda|triton|://", lock)
    for line in (ROOT / "requirements.txt").read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            name = re.match(r"[\w-]+", line).group()
            assert re.search(rf"^{name}==", lock, re.MULTILINE), f"{name} is not in requirements.lock"
