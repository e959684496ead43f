"""The metric `attention`: the attention weight on what is masked, held against the eager model's own weights."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from families import build
from test_engine import LENGTH, prompt, record

import mask_impact_analysis
import mask_impact_vl
from mask_impact import load, run_masking_experiment
from mask_impact.errors import UnsupportedModel
from mask_impact.impact.masking import Masks
from mask_impact.impact.meter import Meter, Wanted
from mask_impact.impact.rerun import RerunMeter
from mask_impact.impact.whole_calls import record_calls

METRICS = ("l2", "attention")
MASKS: Masks = [[0], [3], [LENGTH - 1], [2, 5, 7], list(range(LENGTH))]
BALLS = "Tom has a red ball. Ann has a blue cup. Ann's cup is"


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_oss", "falcon"])  # shared keys, windows, sinks, whole calls
def test_it_is_the_weight_that_the_model_gives(name: str) -> None:
    """Of each head on the mask's positions together; of Full and Attn the mean of the heads."""
    model, ids = build(name), prompt()
    with torch.no_grad():
        own = model(ids, output_attentions=True).attentions
    whole = name == "falcon"
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    recording = record_calls(model, given, 1, [], {LENGTH - 1}.__contains__) if whole else record(model, ids)
    for layer in recording.with_attention():
        found = (RerunMeter if whole else Meter)(model, Wanted(), metrics=METRICS).impact(
            layer, layer.queries[LENGTH - 1], MASKS
        )
        weights = own[layer.index][0, :, -1]  # [H, T]
        wanted = torch.stack([weights[:, mask].sum(dim=1) for mask in MASKS])  # [P, H]
        given = found.values[..., METRICS.index("attention")]  # [P, V]
        torch.testing.assert_close(given[:, 2:], wanted, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(given[:, 0], wanted.mean(dim=1), atol=1e-6, rtol=1e-5)
        assert torch.equal(given[:, 0], given[:, 1]) and not found.floors[:, METRICS.index("attention")].any()


@pytest.mark.parametrize("ablation", ["neg-inf", "zero-value"])
def test_it_is_in_every_file(tmp_path: Path, ablation: str) -> None:
    flags = ["--model", "demo", "--prompt", BALLS, "--metrics", "l2,attention", "--format", "csv,json,parquet,html"]
    assert mask_impact_analysis.main([*flags, "--ablation", ablation, "--output-dir", str(tmp_path)]) == 0
    tables = [load(tmp_path / f"masking_results.{end}") for end in ("csv", "json", "parquet", "html")]
    assert list(tables[0].columns[5:]) == ["l2_distance", "attention_weight"]
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table, tables[0], check_exact=True)
    together = tables[0].groupby(["layer", "variant"]).attention_weight.sum()
    np.testing.assert_allclose(together, 1, rtol=1e-5)


def test_weights_that_are_not_known_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    model = build("llama")
    recording = record(model, prompt())
    layer = recording.with_attention()[0]
    meter = Meter(model, Wanted(), metrics=METRICS)
    original = meter.attention

    def unknown(*args: object) -> object:
        attention = original(*args)
        attention.weights = None
        return attention

    meter.attention = unknown
    with pytest.raises(UnsupportedModel, match="layer 0: its attention weights are not known; leave attention out of"):
        meter.impact(layer, layer.queries[LENGTH - 1], MASKS)
    vision = ["--model", "demo", "--image", "testimg.png", "--prompt", "Hi", "--tower", "vision"]
    given = [*vision, "--metrics", "l2,attention", "--output-dir", str(tmp_path)]
    assert mask_impact_vl.main(given) == 2
    assert "--metrics attention does not go with --tower vision" in capsys.readouterr().err


def test_changes_below_rounding_keep_their_weight() -> None:
    """A token beside an attention sink: its distance is replayed magnified, its weight is known as it is."""
    model = build("llama")
    recording = record(model, prompt())
    layer = recording.with_attention()[0]
    query = layer.queries[LENGTH - 1]
    meter = Meter(model, Wanted(heads=False), metrics=METRICS)
    meter.replay.rows = lambda *args, rows=meter.replay.rows: _still(rows(*args))
    weight = meter.impact(layer, query, [[3]]).values[0, 0, 1]
    assert weight == Meter(model, Wanted(heads=False), metrics=METRICS).impact(layer, query, [[3]]).values[0, 0, 1] > 0


def _still(rows):
    rows.update[:] = rows.update[0].clone()
    return rows


def test_it_is_a_keyword() -> None:
    table = run_masking_experiment(BALLS, "demo", metrics=["attention"], variants="attn", layers="0")
    assert list(table.columns[5:]) == ["attention_weight"] and table.attrs["run"]["metrics"][0]["range"] == [0.0, 1.0]
