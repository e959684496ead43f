"""The pages a newcomer meets: the README's length, the index of documents, the citation, the picture of the folders."""

import re
import shlex
import tomllib
from pathlib import Path
from types import ModuleType

import draw_architecture
import draw_peers
import draw_tutorial
import plot
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


@pytest.mark.parametrize(
    ("picture", "script"), [("architecture", draw_architecture), ("peers", draw_peers), ("tutorial", draw_tutorial)]
)
def test_pictures_are_what_their_scripts_draw(picture: str, script: ModuleType) -> None:
    drawn = script.draw()
    assert (ROOT / "docs" / f"{picture}.svg").read_text("utf-8") == drawn, f"run: python docs/draw_{picture}.py"


def test_the_tutorial_has_the_figures_that_its_script_prints(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert draw_tutorial.main(["--output", str(tmp_path / "picture.svg")]) == 0
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) == 11 and printed in (ROOT / "docs" / "tutorial.md").read_text("utf-8")


def test_a_plot_has_its_points_where_its_axes_say() -> None:
    curve = plot.Curve("a < b", ((1.0, 1.0), (3.0, 100.0)), ((1.0, 10.0), (10.0, 100.0)))
    drawn = plot.plot("t", ("x", "y"), [curve], ((1, 2, 3), (1, 10, 100)), log=(False, True))
    left, right, low, high = plot.LEFT, plot.WIDTH - plot.RIGHT, plot.HEIGHT - plot.BOTTOM, plot.TOP
    assert f"M{left}.0 {low}.0L{right}.0 {high}.0" in drawn and "a &lt; b" in drawn
    middle = (low + high) / 2
    assert f"M{left}.0 {low}.0L{right}.0 {middle:.1f}L{right}.0 {high}.0L{left}.0 {middle:.1f}Z" in drawn


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
