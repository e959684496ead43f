"""The pages a newcomer meets: the README's length, the index of documents, the citation, the picture of the folders."""

import re
import shlex
import tomllib
from pathlib import Path

import draw_architecture
import pytest
import yaml

import mask_impact
import mask_impact_analysis
import mask_impact_vl

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")
SCRIPTS = {"mask_impact_analysis.py": mask_impact_analysis.main, "mask_impact_vl.py": mask_impact_vl.main}
PYTHON = re.findall(r"^    python (\S+\.py .*)$", README, re.MULTILINE)
COMMANDS = [command for command in PYTHON if command.startswith("mask_impact") and "--model demo" in command]
FLAGS = ("--effects", "--span", "--region", "--queries", "--tower encoder", "--chat", "--config", "--mask-mode")


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 110


def test_the_table_of_what_was_tested_has_its_place_once() -> None:
    assert len(re.findall(r"^<!-- tested -->\n(?:\|.*\|\n){5}<!-- /tested -->$", README, re.MULTILINE)) == 1
    assert README.count("tested -->") == 2


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_of_the_readme_fit_the_bundled_models(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    script, *arguments = shlex.split(command)
    assert SCRIPTS[script]([*arguments, "--dry-run"]) == 0


def test_the_readme_has_a_command_for_each_question() -> None:
    assert [flag for flag in FLAGS if not any(flag in command for command in PYTHON)] == []
    assert any(command.startswith("latent_lens.py neighbors") for command in PYTHON)
    assert len(COMMANDS) >= 6


def test_the_picture_of_the_folders_is_current() -> None:
    assert (ROOT / "docs" / "architecture.svg").read_text("utf-8") == draw_architecture.draw(), (
        "run: python docs/draw_architecture.py"
    )


def test_the_picture_has_every_folder_a_prompt_passes() -> None:
    drawn = {name.split("/")[0] for name, _, _ in draw_architecture.STEPS}
    folders = {path.parent.name for path in (ROOT / "mask_impact").glob("*/__init__.py")}
    assert folders - drawn <= {"jobs", "lens"}  # jobs stands beside commands; lens is not on the way
    assert drawn <= folders


def test_the_index_lists_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text("utf-8")
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert [page for page in sorted(pages) if f"]({page})" not in index] == []


def test_citation_and_license_are_those_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert citation["version"] == mask_impact.__version__
    assert citation["license"] == project["license"] == "MIT"
    assert (
        (ROOT / "LICENSE").read_text("utf-8").startswith("MIT License\n\nCopyright (c) 2026 the mask-impact authors\n")
    )
