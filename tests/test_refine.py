"""From coarse to fine, and the units that are read most: every number is that of the same unit in an ordinary run."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import checkpoints
import pandas as pd
import pytest
import torch
import transformers
from brute_effects import carried
from float64 import true_float64
from test_effects_cli import PROMPT, ROOT, manifest, run  # noqa: F401
from test_whole_answer import QWEN, demo

import mask_impact_analysis
import mask_impact_vl
from mask_impact import load
from mask_impact.effects.refine import Refinement
from mask_impact.model.find import demo_folder, find_model
from mask_impact.model.processors import load_processor
from mask_impact.prompt.inputs import text_inputs
from mask_impact.prompt.levels import Part, parts_of_prompt
from mask_impact.prompt.units import Unit

torch.set_num_threads(1)

NUMBERS = ["logprob", "logprob_change", "rank", "kl"]
Table = Callable[..., pd.DataFrame]


@pytest.fixture(scope="module")
def functions_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Table, Table]]:
    """The effects and the results of a model in double precision, each by keywords."""

    @cache
    def made(kind: str) -> tuple[Table, Table]:
        if kind == "vision":
            model = transformers.AutoModelForImageTextToText.from_pretrained(demo_folder("vl"), dtype=torch.float64)
            reader = load_processor(find_model("demo", vision=True))
            given = {"prompt": "What color is the circle?", "image_path": ROOT / "testimg.png", "mask_mode": "both"}
            given |= {"model": model.eval(), "processor": reader}
            both = mask_impact_vl.run_vl_effects_experiment, mask_impact_vl.run_vl_masking_experiment
        else:
            model, reader = demo() if kind == "text" else bart()
            prompt = PROMPT if kind == "text" else "Tom has a ball. Ann has a cup."
            given = {"prompt": prompt, "model": model, "tokenizer": reader}
            both = mask_impact_analysis.run_effects_experiment, mask_impact_analysis.run_masking_experiment
        effects, results = (partial(function, **given) for function in both)
        return effects, results

    def bart() -> tuple[Any, Any]:
        folder = checkpoints.bart(tmp_path_factory.mktemp("refine") / "bart")
        model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float64).eval()
        return model, transformers.AutoTokenizer.from_pretrained(folder)

    return made


@pytest.fixture
def effects_of(functions_of: Any) -> Callable[[str], Table]:
    return lambda kind: functions_of(kind)[0]


def ordinary(place: int, unit: dict[str, Any]) -> tuple[str, str]:
    """The keyword under which an ordinary run masks this unit, and its value."""
    if found := re.fullmatch(r"region ([\d,]+)", unit["label"]):
        return "regions", f"u{place}={found[1]}"
    first, last = unit["positions"][0], unit["positions"][-1]
    assert unit["positions"] == list(range(first, last + 1))
    return "spans", f"u{place}={first}-{last}"


def test_a_video_is_cut_into_frames_and_each_part_can_be_masked_alone(tmp_path: Path) -> None:
    flags = ["--model", "demo", "--video", str(ROOT / "demo" / "clip.gif"), "--prompt", "What color is the circle?"]
    more = ["--effects", "--mask-mode", "vision", "--format", "csv", "--layers", "0", "--quiet", "--output-dir"]
    assert mask_impact_vl.main([*flags, *more, str(tmp_path), "--output", "coarse", "--refine", "2"]) == 0
    found = load(tmp_path / "coarse_effects.csv")
    labels = found[found.unit_level < 3].token_masked.tolist()
    frames = [label for label in labels if re.fullmatch(r"frame:\d", label)]
    assert labels[0] == "video:0" and len(frames) > 2 and any(each.startswith("region frame:") for each in labels)
    told = json.loads((tmp_path / "coarse_run.json").read_text())["effects"]
    assert told["strongest"][0]["token_masked"] == "video:0"  # four frames that can replace each other
    assert any(re.match("video:0 changes the answer's .* they can replace each other", note) for note in told["notes"])
    wanted = ["video:0", frames[0], next(each for each in labels if each.startswith("region"))]
    alone = [f"--region={each.removeprefix('region ')}" if " " in each else f"--span={each}" for each in wanted]
    assert mask_impact_vl.main([*flags, *more, str(tmp_path), "--output", "alone", *alone]) == 0
    again = load(tmp_path / "alone_effects.csv")
    for label, change in zip(wanted, again.sort_values("token_position", kind="stable").logprob_change, strict=True):
        assert any(abs(found[found.token_masked == label].logprob_change - change) < 1e-4), label


@pytest.mark.parametrize("kind", ["text", "vision", "encoder-decoder"])
@pytest.mark.parametrize("readers", ["later", "last"])
def test_every_number_is_that_of_the_unit_alone(kind: str, readers: str, effects_of: Any) -> None:
    """The same units, named one by one in a run that knows nothing of levels."""
    more: dict[str, Any] = {"readers": [readers], "num_output_tokens": 2}
    with true_float64():
        found = effects_of(kind)(refine=2, **more)
        units = found.attrs["run"]["effects"]["refine"]["units"]
        length = found.attrs["run"]["prompt_length"]
        named: dict[str, list[str]] = {"spans": [], "regions": []}
        of_prompt = {place: unit for place, unit in enumerate(units) if unit["positions"][0] < length}
        for place, unit in of_prompt.items():
            keyword, value = ordinary(place, unit)
            named[keyword].append(value)
        alone = effects_of(kind)(**{name: values for name, values in named.items() if values}, **more)
        by_name = alone.set_index(["token_masked", "generation_step"])
        found = found[found.token_position < length].set_index(["unit_level", "token_position", "generation_step"])
        assert len(found) == len(alone) and set(found.index.get_level_values("generation_step")) == {-1, 0, 1}
        for place, unit in of_prompt.items():
            for step in (-1, 0, 1):
                row = found.loc[unit["level"], unit["positions"][0], step]
                assert row.token_masked == unit["label"]
                expected = by_name.loc[f"u{place}", step]
                assert list(row[NUMBERS]) == pytest.approx(list(expected[NUMBERS]), rel=1e-9, abs=1e-9), unit


def test_brute_force() -> None:
    model, tokenizer = demo()
    with true_float64():
        found = mask_impact_analysis.run_effects_experiment(PROMPT, model=model, tokenizer=tokenizer, refine=2)
        units = found.attrs["run"]["effects"]["refine"]["units"]
        ids = torch.tensor([tokenizer(PROMPT)["input_ids"]])
        answer = found.attrs["run"]["generated"][0]["id"]
        assert len(units) == len(found) > 8
        for unit, row in zip(units, found.sort_values(["unit_level"], kind="stable").itertuples(), strict=True):
            logits, _ = carried(model, QWEN, ids, (0, 3), unit["positions"])
            assert row.logprob == pytest.approx(logits.log_softmax(-1)[answer].item(), rel=1e-9), unit


def at(unit: dict[str, Any]) -> tuple[int, int]:
    return unit["level"], unit["positions"][0]


@pytest.mark.parametrize("kind", ["text", "vision", "encoder-decoder"])
def test_parts_are_those_of_the_strongest_and_nothing_is_lost(kind: str, effects_of: Any) -> None:
    found = effects_of(kind)(refine=2)
    units = found.attrs["run"]["effects"]["refine"]["units"]
    change = {(row.unit_level, row.token_position): abs(row.logprob_change) for row in found.itertuples()}
    children: dict[int, list[dict[str, Any]]] = {}
    for unit in units:
        if unit["parent"] is not None:
            children.setdefault(unit["parent"], []).append(unit)
    for parent, parts in children.items():
        assert sorted(position for part in parts for position in part["positions"]) == units[parent]["positions"]
        assert {part["level"] for part in parts} == {units[parent]["level"] + 1} and len(parts) > 1
    deepest = max(unit["level"] for unit in units)
    assert deepest >= (1 if kind == "encoder-decoder" else 2)
    for level in range(deepest):
        here = [place for place, unit in enumerate(units) if unit["level"] == level and len(unit["positions"]) > 1]
        ranked = sorted(here, key=lambda place: -change[level, units[place]["positions"][0]])
        assert set(ranked[:2]) == set(children) & set(here), level
    leaves = [unit for place, unit in enumerate(units) if place not in children]
    masked = sorted(position for unit in leaves for position in unit["positions"])
    assert masked == sorted(position for unit in units if unit["level"] == 0 for position in unit["positions"])
    strongest = found.attrs["run"]["effects"]["strongest"]
    together = [  # split, and three times what any part does
        units[place]
        for place, parts in children.items()
        if change[at(units[place])] > max(0.1, 3 * max(change[at(part)] for part in parts))
    ]
    whole = {(unit["label"], *reversed(at(unit))) for unit in leaves + together}
    assert {(row["token_masked"], row["token_position"], row["unit_level"]) for row in strongest} <= whole


def test_units_of_a_text_and_of_pictures() -> None:
    _, tokenizer = demo()
    inputs = text_inputs(tokenizer, PROMPT)
    parts = parts_of_prompt(tokenizer, inputs, "text")
    assert [part.unit.label for part in parts] == ["Tom has a red ball.", "Ann has a blue cup.", "Ann's cup is"]
    words = parts[2].parts
    assert [word.unit.label for word in words] == ["Ann's", " cup", " is"]
    assert [token.unit.label for token in words[0].parts] == [" Ann", "'s"] and not words[1].parts
    for part in parts:
        for each in part.below():
            inside = [position for below in each.parts for position in below.unit.positions]
            assert not each.parts or tuple(sorted(inside)) == each.unit.positions


@pytest.mark.parametrize("grid", [(16, 16), (3, 5), (1, 7), (6, 1)])
def test_quarters_of_a_grid(grid: tuple[int, int]) -> None:
    """Rectangles inside one another; their labels are what `--region` takes."""
    rows, cols = grid
    inputs = text_inputs(demo()[1], "Tom has a red ball. " * 50)
    tokens = inputs.tokens[: rows * cols]
    for place, token in enumerate(tokens):
        row, col = divmod(place, cols)
        inputs.tokens[place] = type(token)(place, 0, "<image>", "image", 0, row, col)
    (picture,) = parts_of_prompt(demo()[1], inputs, "vision")
    assert (picture.unit.label, picture.unit.positions) == ("image:0", tuple(range(rows * cols)))
    for part in picture.below():
        if part.unit.label.startswith("region"):
            row0, col0, row1, col1 = map(int, part.unit.label.split()[1].split(","))
            inside = [row * cols + col for row in range(row0, row1 + 1) for col in range(col0, col1 + 1)]
            assert list(part.unit.positions) == inside
        sizes = [len(each.unit.positions) for each in part.parts]
        assert not sizes or (len(sizes) <= 4 and sum(sizes) == len(part.unit.positions))
    assert sum(not part.parts for part in picture.below()) == rows * cols


def test_a_picture_without_a_grid_is_cut_into_runs() -> None:
    inputs = text_inputs(demo()[1], "Tom has a red ball. " * 5)
    inputs.tokens[3:13] = [type(token)(token.position, 0, "<image>", "image", 0) for token in inputs.tokens[3:13]]
    (picture,) = parts_of_prompt(demo()[1], inputs, "vision")
    assert [part.unit.positions for part in picture.parts] == [(3, 4, 5), (6, 7, 8), (9, 10, 11), (12,)]
    assert picture.parts[0].unit.label == "image:0 3-5"


def test_the_number_of_masks_is_bounded_and_said() -> None:
    parts = [Part(Unit(name, (at, at + 1), 0), tuple(Part(Unit(name, (at + i,), 1)) for i in (0, 1)))
             for at, name in ((0, "a"), (2, "b"), (4, "c"))]  # fmt: skip
    found = Refinement(3, 7, parts)
    assert found.split({(0, 0): 0.5, (0, 2): -3.0, (0, 4): 1.0})
    assert [(unit.label, unit.positions) for unit in found.masked] == [
        ("b", (2,)),
        ("b", (3,)),
        ("c", (4,)),
        ("c", (5,)),
    ]
    assert len(found.units) == 7 and not found.split({(1, at): 1.0 for at in (2, 3, 4, 5)})
    assert found.notes == [
        "`max_masks` 7: one of the strongest units was not split, after 7 masks; larger units stand for their "
        "tokens there"
    ]
    assert found.leaves == {(0, 0), (1, 2), (1, 3), (1, 4), (1, 5)}


# --- the units that are read most -----------------------------------------------------------------------------
CHOICES: list[dict[str, Any]] = [
    {"num_output_tokens": 2},
    {"readers": ["last", "later"], "mask_layers": "from"},
    {"readers": ["last"], "by_head": True},
    {"mask_unit": "word"},
]


@pytest.mark.parametrize("kind", ["text", "vision", "encoder-decoder"])
@pytest.mark.parametrize("more", CHOICES, ids=str)
def test_top_rows_are_those_of_the_whole_table(kind: str, more: dict[str, Any], effects_of: Any) -> None:
    with true_float64():
        every, few = effects_of(kind)(**more), effects_of(kind)(top=3, **more)
    key = ["generation_step", "token_masked", "token_position", "first_layer", "last_layer", "block"]
    key += ["head"] if "by_head" in more else []
    assert list(every) == list(few) and len(set(few.token_position)) == 3 < len(set(every.token_position))
    joined = few.merge(every, on=key, suffixes=("", "_all"))
    kept = every[every.token_position.isin(set(few.token_position))]
    assert len(joined) == len(few) == len(kept) and few[key].values.tolist() == kept[key].values.tolist()
    for name in NUMBERS:
        assert list(joined[name]) == pytest.approx(list(joined[f"{name}_all"]), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("kind", ["text", "vision", "encoder-decoder"])
def test_top_are_those_of_the_results_table(kind: str, functions_of: Any) -> None:
    """By its rows' root of the sum of squares over layers: Full, L2, at the step where it is largest."""
    options: dict[str, Any] = {"num_output_tokens": 2}
    with true_float64():
        effects_of, results_of = functions_of(kind)
        found, results = effects_of(top=4, **options), results_of(**options)
    full = results[results.variant.isin(["Full", "CrossFull"])]
    squares = full.l2_distance.astype(float) ** 2
    steps = squares.groupby([full.generation_step, full.token_position]).sum() ** 0.5
    largest = steps.groupby("token_position").max().sort_values(ascending=False)
    said = found.attrs["run"]["effects"]["top"]
    assert [unit["positions"][0] for unit in said["units"]] == list(largest.index[:4])
    assert [unit["value"] for unit in said["units"]] == pytest.approx(list(largest[:4]), rel=1e-5)
    assert (said["ranked_by"]["metric"], said["ranked_by"]["variant"], said["count"]) == ("l2", "Full", 4)
    assert set(found.token_position) == set(largest.index[:4])


# --- as a user asks for them ----------------------------------------------------------------------------------
def test_files_page_resume_and_batch(run):  # noqa: F811
    flags = ("--effects", "--refine", "2", "--format", "csv,json,parquet,html")
    assert run(*flags).code == 0
    tables = [load(f"output/it_effects.{kind}") for kind in ("csv", "json", "parquet")]
    for table in tables:
        assert list(table)[-1] == "unit_level" and str(table.unit_level.dtype) == "int64"
        pd.testing.assert_frame_equal(table, tables[0])
    assert set(tables[0].unit_level) == {0, 1, 2}
    units = tables[0].attrs["run"]["effects"]["refine"]["units"]
    assert len(units) == len(tables[0]) and units[0]["parent"] is None
    assert "unit_level" in Path("output/it_results.html").read_text("utf-8")
    assert "kept" in run(*flags, "--resume").out
    assert "refine was 2, is 1" in run("--effects", "--refine", "1", *flags[3:], "--resume").out
    prompt = {"name": "it", "prompt": PROMPT, "effects": True, "refine": 2, "max_masks": 9}
    Path("b.yaml").write_text(json.dumps({"model": "demo", "formats": "csv", "prompts": [prompt]}))
    assert mask_impact_analysis.main(["--config", "b.yaml", "--quiet", "--overwrite"]) == 0
    bounded = load("output/it_effects.csv")
    assert len(bounded) == 8 and any("--max-masks 9" in note for note in manifest()["effects"]["notes"])
    with_python = mask_impact_analysis.run_effects_experiment(PROMPT, "demo", refine=2, max_masks=9)
    pd.testing.assert_frame_equal(pd.DataFrame(with_python), bounded, check_dtype=False, rtol=1e-5, atol=1e-7)


def test_top_leaves_the_results_as_they_are_and_is_said(run):  # noqa: F811
    assert run("--effects", "--format", "csv").code == 0
    before, every = load("output/it_results.csv"), load("output/it_effects.csv")
    ended = run("--effects", "--top", "3", "--format", "csv", "--overwrite")
    assert ended.code == 0 and "--top 3: effects are of the 3 of 16 units that single layers read most" in ended.out
    pd.testing.assert_frame_equal(load("output/it_results.csv"), before)
    found = load("output/it_effects.csv")
    assert "unit_level" not in found and len(found) == 3 < len(every)
    shown = manifest()["top_tokens"]
    assert [unit["positions"][0] for unit in manifest()["effects"]["top"]["units"]] == [
        row["position"] for row in shown[:3]
    ]
    assert run("--effects", "--top", "99", "--format", "csv", "--overwrite").code == 0
    pd.testing.assert_frame_equal(load("output/it_effects.csv"), every)


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--effects", "--refine", "0"], "--refine"),
        (["--effects", "--refine", "many"], "--refine"),
        (["--refine", "2"], "--refine is about effects on the answer; add --effects"),
        (["--top", "2"], "--top is about effects on the answer"),
        (["--effects", "--max-masks", "9"], "--max-masks bounds the masks of --refine; add --refine"),
        (["--effects", "--refine", "2", "--max-masks", "2"], "--max-masks 2: the coarsest units alone are 3; give 3"),
        (["--effects", "--refine", "2", "--max-masks", "4", "--num-tokens", "3"], "the coarsest units alone are 5"),
        (["--effects", "--refine", "2", "--mask-layers", "from"], "--mask-layers gives 4 windows of layers"),
        (["--effects", "--refine", "2", "--readers", "last", "--readers", "later"], "--readers gives 2 sets"),
        (["--effects", "--refine", "2", "--block", "last,all"], "--readers gives 2 sets"),
        (["--effects", "--refine", "2", "--pairs", "2"], "leave out --pairs or --refine"),
        (["--effects", "--refine", "2", "--top", "2"], "leave out --top or --refine"),
        (["--effects", "--refine", "2", "--by-head"], "leave out --by-head or --refine"),
        (["--effects", "--refine", "2", "--route", "first -> last"], "leave out --refine or --route"),
        (["--effects", "--top", "2", "--route", "first -> last"], "leave out --top or --route"),
        (["--effects", "--refine", "2", "--span", "9"], "--refine makes its own units"),
        (["--effects", "--refine", "2", "--mask-unit", "word"], "--refine makes its own units"),
    ],
)
def test_what_does_not_go_together_is_one_line(run, flags: list[str], part: str) -> None:  # noqa: F811
    ended = run(*flags)
    assert ended.code == 2 and part in ended.err and ended.err.count("\n") == 1, ended.err
    assert not Path("output/it_run.json").exists()


def test_heads_and_sets_of_readers_go_together_with_refine(run):  # noqa: F811
    flags = ("--refine", "1", "--heads", "3.5", "--mask-layers", "0-3", "--readers", "asked", "--span", "asked=14-15")
    assert run("--effects", *flags, "--format", "csv").code == 0
    found = load("output/it_effects.csv")
    assert set(found.block) == {"asked"} and set(found.unit_level) >= {0, 1}
