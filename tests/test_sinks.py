"""The label of attention sinks, held against attention weights and values of the model's own forward.

pytest tests/test_sinks.py
"""

import numpy as np
import pytest
import torch
from families import build
from test_engine import LENGTH, prompt, record

import mask_impact_analysis
from mask_impact import load
from mask_impact.commands.summary import top_table
from mask_impact.impact.meter import Meter, Wanted
from mask_impact.impact.rerun import RerunMeter
from mask_impact.impact.sinks import Sinks
from mask_impact.impact.whole_calls import record_calls

BALLS = "Tom has a red ball. Ann has a blue cup. Ann's cup is"


@pytest.mark.parametrize("whole", [False, True], ids=["rows", "fallback"])
def test_what_is_read_is_weight_times_length_of_the_value(whole: bool) -> None:
    model, ids = build("llama"), prompt()
    groups, width = model.config.num_key_value_heads, model.model.layers[0].self_attn.head_dim
    values: list[torch.Tensor] = []
    hooks = [
        layer.self_attn.v_proj.register_forward_hook(lambda _, args, output: values.append(output))
        for layer in model.model.layers
    ]
    with torch.no_grad():
        own = model(ids, output_attentions=True).attentions
    for hook in hooks:
        hook.remove()
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    recording = record_calls(model, given, 1, [], {LENGTH - 1}.__contains__) if whole else record(model, ids)
    for layer in recording.with_attention():
        meter = (RerunMeter if whole else Meter)(model, Wanted(heads=False), metrics=("l2", "attention"))
        found = meter.impact(layer, layer.queries[LENGTH - 1], [[3]]).reading
        weights = own[layer.index][0, :, -1]  # [H, T]
        lengths = values[layer.index][0].view(LENGTH, groups, width).norm(dim=-1).T  # [G, T]
        heads_of_a_group = len(weights) // groups
        read = sum(weights[head] * lengths[head // heads_of_a_group] for head in range(len(weights))) / len(weights)
        torch.testing.assert_close(found, torch.stack([weights.mean(dim=0), read]), atol=1e-6, rtol=1e-4)
        without = Meter(model, Wanted(heads=False)) if not whole else meter
        assert whole or without.impact(layer, layer.queries[LENGTH - 1], [[3]]).reading is None, "not asked for"


def test_much_weight_and_short_values_are_both_needed() -> None:
    """Four positions from 10 on: weights 0.4, 0.4, 0.1, 0.1; a hidden one after them. The second has short values."""
    weight = np.array([0.4, 0.4, 0.1, 0.1, 0.0])
    sinks = Sinks()
    for length in (0.1, 0.3):  # two layers
        sinks.add(10, np.stack([weight, weight * np.array([1.0, length, 0.1, 1.0, 1.0])]))
    (only,) = sinks.described() or []
    shares = [0.04 / (0.4 + 0.04 + 0.01 + 0.1), 0.12 / (0.4 + 0.12 + 0.01 + 0.1)]
    assert only == {"position": 11, "weight": pytest.approx(0.4), "value_length": pytest.approx(np.mean(shares) / 0.4)}
    even = Sinks()
    even.add(0, np.stack([np.full(4, 0.25), 0.25 * np.array([0.1, 1.0, 1.0, 1.0])]))
    assert even.described() == [], "an even share is not much"
    assert Sinks().described() is None, "nothing is known"


def test_they_are_in_the_manifest_and_the_summary(tmp_path, capsys) -> None:
    flags = ["--model", "demo", "--prompt", BALLS, "--output-dir", str(tmp_path)]
    assert mask_impact_analysis.main(flags) == 0
    manifest = load(tmp_path / "masking_run.json").attrs["run"]
    assert manifest["sinks"] is None
    assert mask_impact_analysis.main([*flags, "--metrics", "l2,attention"]) == 0
    manifest = load(tmp_path / "masking_run.json").attrs["run"]
    assert manifest["sinks"] == [], "the demo model has none"
    capsys.readouterr()
    first = manifest["top_tokens"][0]["position"]
    manifest["sinks"] = [{"position": at, "weight": 0.484, "value_length": 0.36} for at in (0, first)]
    said = "\n".join(top_table(manifest))
    assert "(apart: a sink, 48% of the attention, values 0.36 as long)" in said and "just absorbs" not in said
    assert "  (a sink, 48% of the attention, values 0.36 as long)" in said
