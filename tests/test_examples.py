"""The code that the documents show: it runs, and gives what they say."""

import re
import shlex
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import mask_impact_analysis
from mask_impact.distances import METRICS

ROOT = Path(__file__).resolve().parent.parent
PROMPT = "Tom has a red ball. Ann has a blue cup. Ann's cup is"


def code(page: str, with_text: str) -> str:
    """The block of Python with this text in it."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text("utf-8"), re.DOTALL)
    (found,) = [block for block in blocks if with_text in block]
    return found


@pytest.fixture
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "output"


def run_script(page: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the script that a page shows with the command it gives."""
    text = (ROOT / page).read_text("utf-8")
    (command,) = re.findall(rf"^    python ({name} .*)$", text, re.MULTILINE)
    monkeypatch.setattr("sys.argv", shlex.split(command))
    with pytest.raises(SystemExit) as ended:
        exec(code(page, f'"{name.removesuffix(".py")}"' if name == "largest.py" else "note: str"), _main(name))
    assert ended.value.code == 0


def _main(name: str) -> dict[str, Any]:
    return {"__name__": "__main__", "__file__": name}


def test_the_metric_of_the_recipes(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METRICS, "largest", METRICS["l2"])  # so that it is taken out again
    del METRICS["largest"]
    run_script("docs/extending.md", "largest.py", monkeypatch)
    table = pd.read_csv(output / "masking_results.csv")
    assert list(table.columns[5:]) == ["l2_distance", "largest_change"]
    changed = table[table.l2_distance > 0]
    assert len(changed) and (changed.largest_change > 0).all() and (table.largest_change <= table.l2_distance).all()


def test_the_flag_of_the_recipes(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_script("docs/extending.md", "noted.py", monkeypatch)
    assert '"note": "first try"' in (output / "masking_run.json").read_text("utf-8")


def test_reading_effects(output: Path) -> None:
    flags = ["--model", "demo", "--prompt", PROMPT, "--effects", "--layers", "3", "--variants", "full", "--quiet"]
    assert mask_impact_analysis.main(flags) == 0
    scope: dict[str, Any] = {}
    exec(code("docs/effects.md", 'load("output/masking_effects'), scope)
    table = scope["effects"].sort_values("logprob_change")
    assert table.token_position.tolist()[:3] == [14, 10, 9] and table.top_token.map(type).eq(str).all()


def test_the_rows_of_the_readme_are_those_of_its_command(output: Path) -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert f'--model demo --prompt "{PROMPT}"\n' in text
    header, *rows = re.findall(r"^    (generation_step,.*|\d,\d,\" .*)$", text, re.MULTILINE)
    flags = ["--model", "demo", "--prompt", PROMPT, "--format", "csv", "--quiet"]
    assert mask_impact_analysis.main(flags) == 0
    table = pd.read_csv(output / "masking_results.csv", keep_default_na=False)
    assert header.split(",") == list(table.columns) and len(rows) == 3
    for row in rows:
        step, layer, token, position, variant, *numbers = row.split(",")
        (found,) = table[
            (table.generation_step == int(step))
            & (table.layer == int(layer))
            & (table.token_position == int(position))
            & (table.variant == variant)
        ].itertuples()
        assert f'"{found.token_masked}"' == token
        assert [float(number) for number in numbers] == pytest.approx(list(found)[-2:], rel=1e-3)
    full = table[(table.variant == "Full") & (table.token_position > 0)]
    most = {layer: rows.loc[rows.l2_distance.idxmax(), "token_position"] for layer, rows in full.groupby("layer")}
    assert (most[1], most[3]) == (14, 10) and 9 not in most.values()  # two cups; never the color


@pytest.mark.parametrize(("page", "part"), [("README.md", "load_many"), ("docs/python.md", "window:2")])
def test_python_of_the_documents(page: str, part: str, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert mask_impact_analysis.main(["--model", "demo", "--prompt", "Hello", "--output", "one", "--quiet"]) == 0
    (Path.cwd() / "testimg.png").write_bytes((ROOT / "testimg.png").read_bytes())
    scope: dict[str, Any] = {}
    exec(code(page, part), scope)
    tables = [scope[name] for name in ("df", "table", "effects", "seen") if name in scope]
    assert tables and all(len(table) for table in tables)
