"""tools/tested.py: what it reads from pytest's reports, and that `make test` fails on what is not documented."""

import json
from pathlib import Path
from xml.sax.saxutils import quoteattr

import pytest
import tested
from outcomes import measured_or_refused

from mask_impact.errors import UnsupportedModel

REFUSAL = "model family 'qwen3' cannot be measured truthfully: layer 0: it differs"


@pytest.fixture
def found(tmp_path: Path) -> dict[str, tested.Run]:
    """What the tests of both runs find, equal to what is documented; `save` writes it to the folder."""
    return {made: tested.load(tested.KEPT, name) for name, made in (("locked", "here"), ("oldest", "oldest"))}


def check(folder: Path, found: dict[str, tested.Run]) -> int:
    for name, run in found.items():
        (folder / f"{name}.json").write_text(json.dumps(run), "utf-8")
    return tested.main(["check", str(folder)])


def test_what_is_documented_passes(tmp_path: Path, found: dict[str, tested.Run]) -> None:
    assert check(tmp_path, found) == 0


@pytest.mark.parametrize(("made", "written"), [("here", "locked"), ("oldest", "oldest")])
def test_a_measured_family_that_is_refused_fails(
    made: str, written: str, tmp_path: Path, found: dict[str, tested.Run], capsys: pytest.CaptureFixture[str]
) -> None:
    found[made]["families"]["text"]["qwen3"]["outcome"] = REFUSAL
    assert check(tmp_path, found) == 1
    said = capsys.readouterr().err
    assert f"{written}: text: qwen3 is documented as measured, and was found refused" in said
    assert said.count("is documented as") == 1 and "run: make tested" in said


def test_other_differences_fail(tmp_path: Path, found: dict[str, tested.Run]) -> None:
    families = found["here"]["families"]["text"]
    row = families.pop("qwen3")
    assert check(tmp_path, found) == 1  # its test failed, or is gone
    families["qwen3"] = row
    families["another"] = row
    assert check(tmp_path, found) == 1
    del families["another"]
    families["mamba"]["outcome"] = tested.MEASURED
    assert check(tmp_path, found) == 1
    families["mamba"]["outcome"] = REFUSAL
    assert check(tmp_path, found) == 0
    found["here"]["versions"]["transformers"] = "0"
    assert check(tmp_path, found) == 1


def report(folder: Path, *outcomes: str, also: str = "") -> tested.Run:
    """The run that is read from a report in which qwen3 had these outcomes, one for each test."""
    cases = []
    for outcome in outcomes:
        value = {"kind": "text", "name": "qwen3", "model_type": "qwen3", "outcome": outcome}
        line = f'<property name="family" value={quoteattr(json.dumps(value))}/>'
        cases.append(f'<testcase classname="tests.a" name="b"><properties>{line}</properties></testcase>')
    text = f"<testsuites><testsuite>{''.join(cases)}{also}</testsuite></testsuites>"
    (folder / "here.xml").write_text(text, "utf-8")
    return tested.read_report(folder / "here.xml")


def test_a_report_is_read(tmp_path: Path) -> None:
    also = (
        '<testcase classname="c" name="d"><failure/></testcase><testcase classname="c" name="e"><skipped/></testcase>'
    )
    run = report(tmp_path, tested.MEASURED, also=also)
    assert run["tests"] == {"passed": 1, "failed": 1, "skipped": 1} and run["failed"] == ["c.d"]
    assert tested.outcomes(run) == {"text: qwen3": "measured"}


@pytest.mark.parametrize("outcomes", [(tested.MEASURED, REFUSAL), (REFUSAL, tested.MEASURED)])
def test_one_refusal_among_several_tests_counts(outcomes: tuple[str, str], tmp_path: Path) -> None:
    assert tested.outcomes(report(tmp_path, *outcomes)) == {"text: qwen3": "refused"}


def test_only_a_refusal_that_names_the_family_passes() -> None:
    kept: list[object] = []

    def outcome(error: Exception | None) -> dict[str, str]:
        with measured_or_refused(lambda name, value: kept.append(value), "text", "row", "qwen3"):
            if error:
                raise error
        return json.loads(str(kept[-1]))

    assert outcome(None)["outcome"] == tested.MEASURED
    assert outcome(UnsupportedModel(REFUSAL))["outcome"] == REFUSAL and len(kept) == 2
    for error in (UnsupportedModel("model family 'llama' is refused"), AssertionError("a number"), RuntimeError("x")):
        with pytest.raises((AssertionError, RuntimeError)):
            outcome(error)
    assert len(kept) == 2
