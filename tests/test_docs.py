"""The documentation names everything there is, and nothing that is not."""

import argparse
import re
from pathlib import Path

import pytest

import mask_impact_analysis
from mask_impact import cli
from mask_impact.results import COLUMNS, FORMATS

ROOT = Path(__file__).resolve().parent.parent
COMMAND_LINE = (ROOT / "docs" / "command-line.md").read_text("utf-8")
PAGES = [*sorted((ROOT / "docs").glob("*.md")), *ROOT.glob("README.md")]
EVERYTHING = "\n".join(page.read_text("utf-8") for page in PAGES)


@pytest.fixture(scope="module")
def flags() -> dict[str, argparse.Action]:
    """Every flag of the command, by its long name."""
    found: list[argparse.ArgumentParser] = []
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(argparse.ArgumentParser, "parse_args", lambda self, argv: found.append(self) or self.exit())
        mask_impact_analysis.main([])
    return {action.option_strings[-1]: action for action in found[0]._actions}


def documented_flags() -> dict[str, str]:
    """Flag -> default, from the table."""
    rows = re.findall(r"^\| (`--.*?) \|(.*?)\| .* \|$", COMMAND_LINE, re.MULTILINE)
    return {re.findall(r"--[a-z-]+", names)[0]: default.strip(" `") for names, default in rows}


def test_every_flag_is_documented_and_every_documented_flag_exists(flags) -> None:
    assert sorted(documented_flags()) == sorted(flags)


def test_defaults_are_the_documented_ones(flags) -> None:
    spoken = {"--layers": "all", "--prompt-file": cli.PROMPT_FILE, "--output": mask_impact_analysis.DEFAULT_NAME}
    for flag, written in documented_flags().items():
        default = flags[flag].default
        if flag in spoken:
            expected = spoken[flag]
        elif default is False:
            expected = "off"
        else:
            expected = "" if default in (None, argparse.SUPPRESS) else str(default)
        assert written == expected, flag


def test_flags_in_every_page_exist(flags) -> None:
    """Except those of other programs (pip, pytest, git), which stand on lines that name them."""
    lines = [line for line in EVERYTHING.splitlines() if "mask_impact_analysis" in line or "mask-impact " in line]
    used = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", "\n".join(lines)))
    assert used - set(flags) == set()


@pytest.mark.parametrize("code", [0, 1, 2, 130])
def test_exit_codes(code: int) -> None:
    assert re.search(rf"^\| {code} \|", COMMAND_LINE, re.MULTILINE)


def test_columns_variants_and_formats() -> None:
    wanted = [*COLUMNS, "Full", "Attn", "Head_N", *cli.VARIANTS, *FORMATS]
    assert [word for word in wanted if f"`{word}`" not in EVERYTHING] == []


def test_links_lead_somewhere() -> None:
    broken = [
        f"{page.name}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text("utf-8"))
        if not target.startswith("http") and not (page.parent / target).exists()
    ]
    assert broken == []
