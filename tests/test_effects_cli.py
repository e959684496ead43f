"""Units, queries, ablation and effects as a user asks for them: flags, files, manifest, Python, batch, errors.

The numbers are held against brute force in test_effects.py, test_carry.py, test_ablation.py and test_queries.py.
"""

import itertools
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from test_cli import Ended

import mask_impact_analysis
import mask_impact_vl
from mask_impact.files.arrow import to_dataframe
from mask_impact.files.results import load
from mask_impact.impact import run as impact_run
from mask_impact.impact.pairs import COLUMNS
from mask_impact.jobs.session import Session
from mask_impact.options import Request, Settings
from mask_impact.prompt.units import Unit
from mask_impact.table import Block

torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parent.parent
PROMPT = "Tom has a red ball. Ann has a blue cup. Ann's cup is"
TOKENS = [
    "Tom",
    " has",
    " a",
    " red",
    " ball",
    ".",
    " Ann",
    " has",
    " a",
    " blue",
    " cup",
    ".",
    " Ann",
    "'s",
    " cup",
    " is",
]
EFFECTS = [
    "generation_step", "token_masked", "token_position", "first_layer", "last_layer", "block", "logprob",
    "logprob_change", "rank", "top_token", "kl", "final_l2", "final_cosine",
]  # fmt: skip


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> Callable:
    """run("--effects", vision=False) -> Ended: the command on the demo model, results under the name "it"."""
    monkeypatch.chdir(tmp_path)

    def call(*flags: Any, vision: bool = False, prompt: str = PROMPT) -> Ended:
        script = mask_impact_vl if vision else mask_impact_analysis
        common = ["--model", "demo", "--prompt", "What color is the circle?" if vision else prompt, "--output", "it"]
        common += ["--image", str(ROOT / "testimg.png")] if vision else []
        capfd.readouterr()
        try:
            code = script.main([*common, *map(str, flags)])
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Ended(code, *capfd.readouterr())

    return call


def manifest() -> dict[str, Any]:
    return json.loads(Path("output/it_run.json").read_text("utf-8"))


def effects(kind: str = "effects") -> pd.DataFrame:
    return pd.read_csv(f"output/it_{kind}.csv", keep_default_na=False)


def test_effects_files_hold_one_table(run):
    ended = run("--effects", "--format", "csv,json,parquet", "--contrast", " blue", " red", "--trace-layers")
    assert ended.code == 0, ended.err
    found = effects()
    assert list(found) == [*EFFECTS, "contrast", "contrast_change"]
    assert list(found.token_masked) == TOKENS and list(found.token_position) == list(range(16))
    assert set(found.first_layer) == {0} and set(found.last_layer) == {3} and set(found.block) == {"all"}
    parquet = pd.read_parquet("output/it_effects.parquet")
    columnar = pd.DataFrame(json.loads(Path("output/it_effects.json").read_text("utf-8")))
    numbers = found.select_dtypes("number").columns
    for other in (parquet, columnar):
        assert list(other) == list(found) and list(other.top_token) == list(found.top_token)
        for name in numbers:
            assert np.array_equal(other[name].to_numpy(np.float32), found[name].to_numpy(np.float32)), name
    trace = effects("trace")
    assert list(trace) == [*EFFECTS[:6], "layer", "l2_distance", "cosine_distance"] and len(trace) == 16 * 4
    last = trace[trace.layer == 3].l2_distance.to_numpy()
    assert np.array_equal(last, found.final_l2.to_numpy())
    assert manifest()["tables"] == [
        f"it_{kind}.{form}" for kind in ("effects", "trace") for form in ("csv", "json", "parquet")
    ]
    said = manifest()["effects"]
    assert (said["mask_layers"], said["blocks"], said["contrast"]) == ("all", ["all"], [" blue", " red"])
    assert "what costs the answer most" in ended.out and "output/it_effects.csv" in ended.out


def test_what_the_answer_needs(run):
    """The color word and its item, which single-layer masking at the last position ranks apart."""
    assert run("--effects", "--format", "csv").code == 0
    worst = effects().sort_values("logprob_change").head(3)
    assert set(worst.token_position) == {9, 10, 14}  # blue, cup, and the question's cup
    assert effects().set_index("token_position").logprob_change[15] == 0  # nothing reads the last token: exactly


def test_windows_and_blocks(run):
    assert (
        run("--effects", "--mask-layers", "from", "--block", "last,all", "--format", "csv", "--num-tokens", 2).code == 0
    )
    found = effects()
    assert set(zip(found.first_layer, found.last_layer, strict=True)) == {(layer, 3) for layer in range(4)}
    assert len(found) == (16 + 17 + 16) * 4 * 2 and set(found.block) == {"last", "all"}
    ended = run("--effects", "--mask-layers", "window:2", "--format", "csv", "--overwrite")
    assert ended.code == 0 and set(zip(effects().first_layer, effects().last_layer, strict=True)) == {
        (0, 1),
        (1, 2),
        (2, 3),
    }


def test_pairs(run):
    """Of the strongest units, against masking both as one span; and what they do more or less together."""
    assert run("--effects", "--pairs", 3, "--format", "csv,json,parquet,html").code == 0
    found = effects()
    assert list(found)[-1] == "interaction" and list(found.token_masked[16:]) == [
        " blue (9) +  cup (10)", " blue (9) +  cup (14)", " cup (10) +  cup (14)",
    ]  # fmt: skip
    change = dict(zip(found.token_position[:16], found.logprob_change, strict=False))
    for row, (a, b) in zip(found[16:].itertuples(), [(9, 10), (9, 14), (10, 14)], strict=True):
        assert float(row.interaction) == pytest.approx(row.logprob_change - change[a] - change[b], abs=1e-4)
    assert (
        set(found.interaction[:16]) == {""}
        and pd.read_parquet("output/it_effects.parquet").interaction[:16].isna().all()
    )
    assert json.loads(Path("output/it_effects.json").read_text("utf-8"))["interaction"][:16] == [None] * 16
    together = float(found.logprob_change[16])
    assert run("--effects", "--span", "9-10", "--format", "csv", "--overwrite").code == 0
    assert effects().logprob_change[0] == pytest.approx(together, rel=1e-4)


def test_pairs_of_single_layers(run):
    """Against masking both as one unit, and the two by themselves, in a table of their own."""
    assert run("--pairs", 3, "--num-tokens", 2, "--format", "csv,json,parquet").code == 0
    single, found = load("output/it_run.json"), pd.read_csv("output/it_pairs.csv", keep_default_na=False)
    assert list(found) == list(COLUMNS) and manifest()["tables"] == [
        f"it_pairs.{x}" for x in ("csv", "json", "parquet")
    ]
    full = single[single.variant == "Full"]
    squares = (full.l2_distance.astype(float) ** 2).groupby([full.generation_step, full.token_position]).sum()
    top = squares.groupby("token_position").max().nlargest(3).index
    pairs = sorted({(row.token_position, row.second_position) for row in found.itertuples()})
    assert pairs == list(itertools.combinations(sorted(top), 2))
    key = ["generation_step", "layer", "variant"]
    first, second = pairs[0]
    pair = found[(found.token_position == first) & (found.second_position == second)].set_index(key)
    alone = [single[single.token_position == place].set_index(key).l2_distance for place in pairs[0]]
    expected = pair.l2_distance - alone[0] - alone[1]
    assert len(pair) == len(expected) and np.allclose(pair.interaction, expected.loc[pair.index], atol=1e-5)
    session = Session(Settings("demo"))
    prepared = session.prepare(Request(PROMPT, num_tokens=2))
    blocks: list[Block] = []
    both = [Unit("both", (first, second))]
    impact_run.run(session.model, replace(prepared, units=lambda _: both, plain=False), blocks.append)
    together = to_dataframe(blocks).set_index(key)
    for name in ("l2_distance", "cosine_distance"):
        assert np.allclose(pair[name], together[name].loc[pair.index], rtol=1e-4, atol=1e-6)


def test_words_in_the_results_table_too(run):
    assert run("--mask-unit", "word", "--format", "csv").code == 0
    table = load("output/it_run.json")
    first = table[(table.layer == 0) & (table.variant == "Full")]
    assert list(first.token_masked)[-4:] == [".", "Ann's", "cup", "is"] and list(first.token_position)[-3:] == [
        12,
        14,
        15,
    ]
    units = {unit["label"]: unit["positions"] for unit in manifest()["units"]}
    assert units["Ann's"] == [12, 13] and manifest()["effects"] is None


def test_spans_and_regions(run):
    ended = run("--span", "asked=/Ann has .* cup\\./", "--span", "0-5", "--effects", "--format", "csv")
    assert ended.code == 0, ended.err
    assert list(effects().token_masked) == ["asked", "Tom has a red ball."] and list(effects().token_position) == [6, 0]
    assert effects().logprob_change[0] < -1 < effects().logprob_change[1]
    ended = run("--region", "circle=0,0,1,1", "--effects", "--format", "csv", "--overwrite", vision=True)
    assert ended.code == 0 and list(effects().token_masked) == ["circle"], ended.err


def test_ablation_and_queries(run):
    assert (
        run("--ablation", "zero-value", "--queries", "all", "--format", "csv,parquet", "--variants", "full").code == 0
    )
    table = load("output/it_results.csv")
    assert list(table)[-1] == "query_position" and set(table.query_position) == set(range(16))
    assert len(table) == 4 * 16 * 17 / 2 and (manifest()["ablation"], manifest()["queries"]) == ("zero-value", "all")
    say = re.search(r"it +run +16 +([\d,]+) ", run("--queries", "all", "--variants", "full", "--dry-run").out)
    assert say is not None and int(say[1].replace(",", "")) == len(table)


def test_the_same_command_gives_the_same_bytes_and_resume_keeps_them(run):
    flags = ("--effects", "--mask-unit", "sentence", "--format", "csv,json,parquet,html")
    assert run(*flags).code == 0
    before = {path.name: path.read_bytes() for path in Path("output").glob("it_[!r]*")}
    assert len(before) >= 3
    assert run(*flags, "--resume").out.startswith("kept ")
    assert run(*flags, "--overwrite").code == 0
    assert {path.name: path.read_bytes() for path in Path("output").glob("it_[!r]*")} == before
    Path("output/it_effects.json").unlink()
    assert "redone     it_effects.json is missing" in run(*flags, "--resume").out
    assert run("--format", "csv", "--overwrite").code == 0
    assert not list(Path("output").glob("it_effects*"))  # of the run before


def test_in_a_batch(run, tmp_path):
    prompt = {"name": "it", "prompt": PROMPT, "effects": True, "mask_layers": "0-1", "block": ["last"]}
    prompt |= {"contrast": [" blue", " red"], "span": ["asked=/Ann has .* cup\\./"]}
    config = {"model": "demo", "formats": "csv", "prompts": [prompt]}
    Path("b.yaml").write_text(json.dumps(config), "utf-8")
    assert mask_impact_analysis.main(["--config", "b.yaml", "--quiet"]) == 0
    assert effects().iloc[0][["token_masked", "last_layer", "block"]].tolist() == ["asked", 1, "last"]


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--mask-layers", "from"], "--mask-layers is about effects on the answer; add --effects"),
        (["--block", "last"], "--block is about effects"),
        (["--contrast", " a", " b"], "--contrast is about effects"),
        (["--trace-layers"], "--trace-layers is about effects"),
        (["--pairs", "1"], "give --pairs 2 or more"),
        (["--effects", "--mask-layers", "0-9"], "there is no layer 9; this model has 0 to 3"),
        (["--effects", "--mask-layers", "2-1"], "runs backwards; write 1-2"),
        (["--effects", "--mask-layers", "window:9"], "a window has at most 4"),
        (["--effects", "--mask-layers", "late"], "or all, from, window:3"),
        (["--effects", "--block", "first"], "unknown 'first'; choose from last, all"),
        (["--effects", "--contrast", "", " a"], "has no tokens for this model"),
        (["--span", "green"], "--span 'green'"),
        (["--span", "has"], "stands at 2 places"),
        (["--span", "10-20"], "--span '10-20'"),
        (["--mask-unit", "word", "--span", "0-3"], "leave one of them out"),
        (["--mask-unit", "span"], "but no span"),
        (["--mask-unit", "line"], "unknown 'line'"),
        (["--queries", "16"], "there is no query position 16"),
        (["--queries", "some"], "write last, all, or positions such as 4,8-10"),
        (["--ablation", "mean"], "unknown 'mean'; choose from neg-inf, zero-value"),
    ],
)
def test_bad_input_is_one_line_before_any_work(run, flags, part):
    ended = run(*flags)
    assert ended.code == 2 and part in ended.err and ended.err.count("\n") == 1, ended.err
    assert not Path("output").exists()


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--region", "0,0,9,9"], "goes beyond the 4 x 4 grid"),
        (["--region", "1:0,0,1,1"], "picture 1"),
        (["--region", "a"], "--region"),
        (["--region-mask", "none.png"], "does not exist"),
    ],
)
def test_bad_regions(run, flags, part):
    ended = run(*flags, vision=True)
    assert ended.code == 2 and part in ended.err and ended.err.count("\n") == 1, ended.err


def test_python_gives_the_same_effects(run):
    assert run("--effects", "--mask-layers", "from", "--block", "last,all", "--format", "csv").code == 0
    table = mask_impact_analysis.run_effects_experiment(PROMPT, "demo", mask_layers="from", blocks=("last", "all"))
    pd.testing.assert_frame_equal(pd.DataFrame(table), effects(), check_exact=False, rtol=1e-6)
    assert table.attrs["run"]["effects"]["mask_layers"] == "from"
    seen = mask_impact_vl.run_vl_effects_experiment(
        "What color is the circle?", ROOT / "testimg.png", "demo", regions=["circle=0,0,1,1"]
    )
    assert list(seen.token_masked) == ["circle"]
