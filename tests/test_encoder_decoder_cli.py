"""mask_impact_analysis.py on an encoder-decoder checkpoint: flags, table, manifest, refusals, Python, batch."""

from __future__ import annotations

import json
from pathlib import Path

import checkpoints
import pytest

import mask_impact_analysis
from mask_impact.errors import UserError
from mask_impact.files import results

PROMPT = "Tom has a red ball."


@pytest.fixture(scope="module")
def bart(tmp_path_factory):
    return checkpoints.bart(tmp_path_factory.mktemp("seq2seq") / "bart")


@pytest.fixture
def run(bart, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)

    def call(*flags, model=bart, prompt=PROMPT):
        capfd.readouterr()
        argv = [str(flag) for flag in flags] + ["--model", str(model)] + (["--prompt", prompt] if prompt else [])
        return mask_impact_analysis.main(argv), capfd.readouterr().err

    return call


def manifest(name="masking"):
    return json.loads(Path(f"output/{name}_run.json").read_text("utf-8"))


def test_decoder(run):
    """The encoder's tokens under Cross variants, the decoder's under the others, one numbering for both."""
    assert run("--num-tokens", 2, "--format", "csv,json,parquet,html") == (0, "")
    found = manifest()
    length = found["prompt_length"]
    assert (found["tower"], found["decoder_start"], found["model"]["layers"]) == ("decoder", length, 2)
    assert [token["position"] for token in found["tokens"]] == list(range(length + 3))  # start, and two of output
    heads = [f"Head_{head}" for head in range(checkpoints.HEADS)]
    plain = ["Full", "Attn", *heads]
    assert found["variants"] == [*plain, *(f"Cross{name}" for name in plain)]
    tables = [results.load(Path(f"output/masking_results.{form}")) for form in ("csv", "json", "parquet", "html")]
    key = ["generation_step", "layer", "token_position", "variant"]
    for table in tables:
        cross = table[table.variant.str.startswith("Cross")]
        own = table[~table.variant.str.startswith("Cross")]
        assert set(cross.token_position) == set(range(length)) and set(own.token_position) == {length, length + 1}
        assert len(table) == found["rows"] == 2 * len(plain) * (2 * length + 1 + 2)
        same = table.sort_values(key, ignore_index=True)[[*key, "l2_distance"]]
        assert same.equals(tables[0].sort_values(key, ignore_index=True)[[*key, "l2_distance"]])
    step = tables[0][(tables[0].generation_step == 0) & ~tables[0].variant.str.startswith("Cross")]
    assert set(step.token_position) == {length}  # only the start token is there


def test_encoder(run):
    """Every position reads every other; three layers of two heads, unlike the decoder's."""
    assert run("--tower", "encoder") == (0, "")
    table, found = results.load(Path("output/masking_results.csv")), manifest()
    length = found["prompt_length"]
    assert (found["tower"], found["queries"], found["model"]["layers"]) == ("encoder", "all", 3)
    assert set(table.variant) == {"Full", "Attn", "Head_0", "Head_1"} and set(table.layer) == {0, 1, 2}
    assert len(table) == found["rows"] == 3 * 4 * length**2
    assert (table[table.variant == "Full"].l2_distance > 0).all()


def test_one_attention_and_chosen_queries(run):
    assert run("--attention", "cross", "--format", "csv") == (0, "")
    assert results.load(Path("output/masking_results.csv")).variant.str.startswith("Cross").all()
    assert run("--tower", "encoder", "--queries", "1-2", "--format", "csv") == (0, "")
    assert set(results.load(Path("output/masking_results.csv")).query_position) == {1, 2}


def test_effects_of_words(run):
    assert run("--effects", "--mask-unit", "word", "--mask-layers", "from", "--num-tokens", 2) == (0, "")
    rows = Path("output/masking_effects.csv").read_text("utf-8").splitlines()
    found = manifest()
    words = len(found["units"])
    steps, whole = words + words - 1, words - 2  # one word less at the first step; the whole answer: the prompt's
    assert len(rows) == 1 + 2 * (steps + whole)  # two windows
    assert found["effects"]["noise"]["relative"] < 1e-5 and found["effects"]["strongest"]


def test_span_and_zero_value(run):
    assert run("--span", "red ball", "--ablation", "zero-value", "--format", "csv") == (0, "")
    table = results.load(Path("output/masking_results.csv"))
    assert set(table.token_masked) == {"red ball"} and table.variant.str.startswith("Cross").all()


def test_pairs_stay_on_one_side(run):
    """No attention sees the encoder's and the decoder's tokens together."""
    assert run("--pairs", 8, "--num-tokens", 3, "--format", "csv") == (0, "")
    start = manifest()["decoder_start"]
    rows = [line.rsplit(",", 6)[1:3] for line in Path("output/masking_pairs.csv").read_text("utf-8").splitlines()[1:]]
    sides = {(int(first) < start, int(second) < start) for first, second in rows}
    assert sides == {(True, True), (False, False)}


def test_python_and_batch(run, bart, tmp_path):
    table = mask_impact_analysis.run_masking_experiment(PROMPT, str(bart), "cpu", tower="encoder", variants=("full",))
    assert set(table.variant) == {"Full"} and "query_position" in table
    config = {"model": str(bart), "formats": ["csv"], "prompts": [
        {"name": "a", "prompt": PROMPT, "attention": "cross"}, {"name": "b", "prompt": PROMPT, "tower": "encoder"},
    ]}  # fmt: skip
    (tmp_path / "night.yaml").write_text(json.dumps(config))
    assert mask_impact_analysis.main(["--config", "night.yaml", "--quiet"]) == 0
    assert (manifest("a")["tower"], manifest("b")["tower"]) == ("decoder", "encoder")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--queries", "2"], "there is no query position 2: "),
        (["--queries", "2"], "--tower encoder measures those before"),
        (["--tower", "encoder", "--num-tokens", "2"], "the encoder only reads the prompt"),
        (["--tower", "encoder", "--attention", "cross"], "an encoder has none"),
        (["--tower", "encoder", "--effects"], "--effects are on the decoder's answer"),
        (["--tower", "encoder", "--layers", "3"], "there is no layer 3; this model has layers 0 to 2"),
        (["--layers", "2"], "there is no layer 2; this model has layers 0 to 1"),
    ],
)
def test_refused(run, flags, message):
    code, err = run(*flags)
    assert code == 2 and err.count("\n") == 1 and message in err and not list(Path().glob("output/*"))


@pytest.mark.parametrize("flags", [["--tower", "encoder"], ["--attention", "cross"]])
def test_cross_attention_flags_for_a_decoder_only_model(run, flags):
    code, err = run(*flags, model="demo")
    assert code == 2 and err.count("\n") == 1 and f"{' '.join(flags)} was given, but this model has no" in err


def test_python_refuses_unknown_towers(bart):
    with pytest.raises(UserError, match="unknown tower 'middle'; choose from decoder, encoder"):
        mask_impact_analysis.run_masking_experiment(PROMPT, str(bart), "cpu", tower="middle")
