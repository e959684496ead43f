"""An option of an extension: one more field in a subclass of `Request`, and no other change of the package."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import mask_impact_analysis
import mask_impact_vl
from mask_impact.errors import UserError
from mask_impact.impact import run as impact_run
from mask_impact.options import Request, option
from mask_impact.parsers import positive

PROMPT = "The capital of France is"
MOODS = ["calm", "wild"]
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Extended(Request):
    budget: int = option(7, "how much may be spent", metavar="N", parse=positive)
    mood: tuple[str, ...] = option(("calm",), "any of {choices}", kind="list", choices=MOODS, key="humour")
    only_text: bool = option(False, "for text models", kind="switch", scope="text")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """The requests that reach the engine."""
    found: list[Request] = []
    original = impact_run.run

    def run(model: Any, prepared: Any, *more: Any) -> Any:
        found.append(prepared.request)
        return original(model, prepared, *more)

    monkeypatch.setattr(impact_run, "run", run)
    return found


def main(*flags: str) -> int:
    argv = ["--model", "demo", "--prompt", PROMPT, "--variants", "full", "--format", "csv", "--quiet", *flags]
    return mask_impact_analysis.main(argv, request=Extended)


def asked(name: str = "masking") -> dict[str, Any]:
    return json.loads(Path(f"output/{name}_run.json").read_text("utf-8"))["request"]


def test_help_shows_it(capsys: pytest.CaptureFixture) -> None:
    for script, shows in ((mask_impact_analysis, True), (mask_impact_vl, False)):
        with pytest.raises(SystemExit):
            script.main(["--help"], request=Extended)
        text = " ".join(capsys.readouterr().out.split())
        assert "--budget N how much may be spent (default: 7)" in text
        assert "--mood LIST any of calm, wild (default: calm)" in text
        assert ("--only-text for text models" in text) == shows
    with pytest.raises(SystemExit):
        mask_impact_analysis.main(["--help"])
    assert "--budget" not in capsys.readouterr().out


def test_flag_manifest_and_engine(measured: list[Request], capsys: pytest.CaptureFixture) -> None:
    assert main("--budget", "3", "--mood", "wild,calm") == 0
    assert measured[0].budget == 3 and measured[0].mood == ("calm", "wild")
    assert (asked()["budget"], asked()["mood"], asked()["only_text"]) == (3, ["calm", "wild"], False)
    with pytest.raises(SystemExit):
        main("--mood", "grim")
    assert "--mood: unknown 'grim'; choose from calm, wild" in capsys.readouterr().err


def test_choices_may_grow(measured: list[Request]) -> None:
    MOODS.append("new")
    try:
        assert main("--mood", "new") == 0
    finally:
        MOODS.remove("new")
    assert measured[0].mood == ("new",)


def test_resume(measured: list[Request]) -> None:
    """Another value is another request; results from before there was the option are those of its default."""
    assert main("--budget", "3") == main("--budget", "3", "--resume") == 0 and len(measured) == 1
    assert main("--budget", "4", "--resume") == 0 and len(measured) == 2
    old = ["--model", "demo", "--prompt", PROMPT, "--variants", "full", "--format", "csv", "--quiet"]
    assert mask_impact_analysis.main([*old, "--output", "old"]) == 0 and "budget" not in asked("old")
    assert main("--output", "old", "--resume") == 0 and len(measured) == 3
    assert main("--output", "old", "--resume", "--budget", "1") == 0 and len(measured) == 4


def test_yaml(measured: list[Request], capsys: pytest.CaptureFixture) -> None:
    prompt = {"name": "one", "prompt": PROMPT, "budget": 5, "humour": ["wild"], "variants": "full"}
    Path("b.yaml").write_text(json.dumps({"model": "demo", "formats": "csv", "prompts": [prompt]}), "utf-8")
    assert mask_impact_analysis.main(["--config", "b.yaml", "--quiet"], request=Extended) == 0
    assert (asked("one")["budget"], asked("one")["mood"]) == (5, ["wild"]) and measured[0].budget == 5
    assert mask_impact_analysis.main(["--config", "b.yaml"]) == 2
    assert "unknown key 'budget'" in capsys.readouterr().err
    prompt |= {"only_text": True}
    Path("b.yaml").write_text(json.dumps({"model": "demo", "prompts": [prompt]}), "utf-8")
    assert mask_impact_vl.main(["--config", "b.yaml"], request=Extended) == 2
    assert "'only_text' belongs to mask_impact_analysis.py" in capsys.readouterr().err


def test_python(measured: list[Request]) -> None:
    run = mask_impact_analysis.run_masking_experiment
    run(PROMPT, "demo", variants="full", request_type=Extended, budget=2, mood=["wild"])
    assert isinstance(measured[0], Extended) and (measured[0].budget, measured[0].mood) == (2, ("wild",))
    with pytest.raises(UserError, match="unknown mood 'grim'; choose from calm, wild"):
        run(PROMPT, "demo", request_type=Extended, mood=["grim"])
    with pytest.raises(UserError, match="unknown keyword 'budget'"):
        run(PROMPT, "demo", budget=2)
