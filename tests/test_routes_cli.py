"""Readers, routes and heads as a user asks for them: flags, files, manifest, Python, batch, errors."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
import torch
from test_effects_cli import PROMPT, effects, manifest, run  # noqa: F401

import mask_impact_analysis

torch.set_num_threads(1)


def test_a_route_to_later_is_block_all_to_the_last_digit(run):  # noqa: F811
    assert run("--effects", "--span", "cup=9-10", "--mask-layers", "from", "--format", "csv").code == 0
    expected = Path("output/it_effects.csv").read_bytes()
    flags = ("--effects", "--mask-layers", "from", "--format", "csv", "--overwrite", "--span", "cup=9-10")
    assert run(*flags, "--route", "cup -> later").code == 0
    assert Path("output/it_effects.csv").read_bytes() == expected
    assert run(*flags, "--readers", "later").code == 0
    assert Path("output/it_effects.csv").read_bytes() == expected


def test_readers_last_are_block_last(run):  # noqa: F811
    assert run("--effects", "--block", "last,all", "--num-tokens", 2, "--format", "csv").code == 0
    expected = Path("output/it_effects.csv").read_bytes()
    flags = ("--readers", "last", "--readers", "later", "--num-tokens", 2, "--format", "csv", "--overwrite")
    assert run("--effects", *flags).code == 0 and Path("output/it_effects.csv").read_bytes() == expected


def test_rows_and_manifest_of_routes(run):  # noqa: F811
    flags = ("--route", "blue->14-15", "--route", "generated -> last", "--route", "text -> last")
    ended = run("--effects", *flags, "--span", "blue=/blue/", "--num-tokens", 2, "--format", "csv,json,parquet,html")
    assert ended.code == 0, ended.err
    found = effects()
    assert list(zip(found.generation_step, found.token_masked, found.token_position, found.block, strict=True)) == [
        (0, "blue", 9, "14-15"),
        (0, "text", 0, "last"),
        (1, "blue", 9, "14-15"),
        (1, "generated", 16, "last"),
        (1, "text", 0, "last"),
        (-1, "blue", 9, "14-15"),
        (-1, "text", 0, "last"),
    ]
    said = manifest()["effects"]
    assert said["routes"][0] == {
        "route": "blue -> 14-15",
        "block": "14-15",
        "source": {"name": "blue", "positions": [9]},
        "readers": {"name": "14-15", "positions": [14, 15]},
    }
    assert said["routes"][1]["source"] == {"name": "generated", "positions": [], "and": "every position from 16 on"}
    assert "nothing left to attend to" in said["notes"][0] and "nothing left to attend to" in ended.out
    assert said["notes"][-1].startswith("generated -> last: another mask at every step")
    assert manifest()["units"] is None  # the span is a set, and the results table masks tokens


def test_readers_of_tokens_by_a_span_name_and_in_a_batch(run):  # noqa: F811
    assert run("--effects", "--readers", "asked", "--span", "asked=/Ann's cup/", "--format", "csv").code == 0
    found = effects()
    assert len(found) == 16 and set(found.block) == {"asked"} and found.logprob_change[15] == 0
    prompt = {"name": "it", "prompt": PROMPT, "effects": True, "readers": ["question", "last"]}
    Path("b.yaml").write_text(
        json.dumps({"model": "demo", "formats": "csv", "prompts": [prompt | {"by_head": True, "mask_layers": [1, 3]}]})
    )
    assert mask_impact_analysis.main(["--config", "b.yaml", "--quiet", "--overwrite"]) == 0
    rows = effects()
    assert list(dict.fromkeys(rows.block)) == ["question", "last"] and len(rows) == 2 * 2 * 16 * 8
    assert set(zip(rows.first_layer, rows.last_layer, strict=True)) == {(1, 1), (3, 3)}
    table = mask_impact_analysis.run_effects_experiment(
        PROMPT, "demo", readers=["question", "last"], by_head=True, mask_layers=[1, 3]
    )
    pd.testing.assert_frame_equal(pd.DataFrame(table), rows, check_exact=False, rtol=1e-6)


def test_which_heads_carry_the_color(run):  # noqa: F811
    """The figures of docs/effects.md: one head of layer 0 and one of layer 3; without them the answer is lost."""
    done = run("--effects", "--by-head", "--readers", "last", "--format", "csv")
    assert done.code == 0 and re.search(r"' cup' +10 +3, head 5 +last", done.out), done.out
    found = effects()
    assert list(found)[-1] == "head" and len(found) == 16 * 4 * 8
    worst = found.sort_values("logprob_change").iloc[0]
    assert (worst.token_masked, worst.token_position, worst.first_layer, worst["head"]) == (" cup", 10, 3, 5)
    assert round(worst.logprob_change, 2) == -8.27
    name = f"{worst.first_layer}.{worst['head']}"
    alone = worst.logprob_change
    flags = ("--effects", "--readers", "last", "--span", "10", "--format", "csv", "--overwrite")
    assert run(*flags, "--mask-layers", "3", "--heads", name).code == 0
    assert effects().logprob_change[0] == pytest.approx(alone, rel=1e-4)
    assert run(*flags, "--mask-layers", "3", "--heads", f"not {name}").code == 0
    assert abs(effects().logprob_change[0]) < 0.0001


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--readers", "last"], "--readers is about effects on the answer; add --effects"),
        (["--route", "first -> last"], "--route is about effects on the answer"),
        (["--by-head"], "--by-head is about effects"),
        (["--heads", "1.0"], "--heads is about effects"),
        (["--effects", "--readers", "nobody"], "there is no set 'nobody'; choose from first, last, text"),
        (["--effects", "--route", "nobody -> last"], "there is no set 'nobody'"),
        (["--effects", "--route", "first"], "is no route; write SOURCE -> READERS"),
        (["--effects", "--route", "first -> 3 -> last"], "is no route"),
        (["--effects", "--route", "-> last"], "is no route"),
        (["--effects", "--route", "later -> last"], "later is who reads"),
        (["--effects", "--route", "first->last", "--route", "first -> last"], "was given twice"),
        (["--effects", "--route", "9-10 -> 3-4"], "comes before what is masked (from position 9 on)"),
        (["--effects", "--route", "15 -> later"], "no position is later than 15"),
        (["--effects", "--readers", "12-40"], "there is no position 40"),
        (["--effects", "--readers", "9-4"], "the positions run backwards; write 4-9"),
        (["--effects", "--readers", "image"], "this prompt has no picture"),
        (["--effects", "--readers", "system"], "no system message"),
        (["--effects", "--readers", "template"], "no token is in the set 'template'"),
        (["--effects", "--readers", "generated"], "give --num-tokens 2 or more"),
        (["--effects", "--route", "first -> last", "--readers", "last"], "leave out --readers or --route"),
        (["--effects", "--route", "first -> last", "--block", "last"], "leave out --block or --route"),
        (["--effects", "--route", "first -> last", "--pairs", "2"], "leave out --pairs or --route"),
        (["--effects", "--by-head", "--mask-layers", "from"], "--mask-layers from is of several layers"),
        (["--effects", "--by-head", "--mask-layers", "window:2"], "--mask-layers window:2 is of several layers"),
        (["--effects", "--by-head", "--heads", "1.0"], "leave out --heads or --by-head"),
        (["--effects", "--by-head", "--pairs", "2"], "leave out --pairs or --by-head"),
        (["--effects", "--heads", "3"], "is no list of heads"),
        (["--effects", "--heads", "4.0"], "there is no head 4.0; this model has layers 0 to 3 with heads 0 to 7"),
        (["--effects", "--heads", "3.8"], "there is no head 3.8"),
        (["--effects", "--heads", "3.1", "--mask-layers", "0-2"], "layer 3 is not among --mask-layers"),
        (["--effects", "--heads", "not"], "is no list of heads"),
        (["--effects", "--span", "question=/blue/", "--route", "question -> last"], "also that of a set of positions"),
        (["--effects", "--span", "first=/blue/", "--readers", "first"], "also that of a set of positions"),
    ],
)
def test_bad_input_is_one_line_before_any_work(run, flags, part):  # noqa: F811
    ended = run(*flags)
    assert ended.code == 2 and part in ended.err and ended.err.count("\n") == 1, ended.err
    assert not Path("output").exists()


def test_picture_sets(run):  # noqa: F811
    ended = run("--effects", "--route", "image:1 -> last", vision=True)
    assert ended.code == 2 and "only picture 0 is there" in ended.err, ended.err
    ended = run("--effects", "--route", "question -> image", vision=True)
    assert ended.code == 2 and "comes before what is masked" in ended.err, ended.err
    four = ("image -> question", "question -> last", "image -> last", "last -> last")
    flags = [flag for route in four for flag in ("--route", route)]
    assert run("--effects", *flags, "--mask-layers", "window:2", "--format", "csv", vision=True).code == 0
    found = effects().pivot(index="first_layer", columns=["token_masked", "block"], values="logprob_change")
    assert list(zip(*found.columns, strict=True)) == [
        ("image", "question", "image", "last"),
        ("question", "last", "last", "last"),
    ]
    assert found["image", "last"].min() < -2 and found["image", "question"].min() > -0.001  # docs/effects.md
    assert found["question", "last"][0] < -2 and found["last", "last"].min() > -0.001
