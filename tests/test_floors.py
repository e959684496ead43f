"""Where layers are replayed in float32 and what that leaves behind, and what a run says of its noise floors."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from agreement import singles
from families import build, decoder_layers, find
from test_engine import LENGTH, prompt, record
from test_load import MANIFEST, run_of
from test_numbers import LONG, in_float64
from test_results import save
from torch import nn

from mask_impact.commands.summary import top_table
from mask_impact.errors import UserError
from mask_impact.files.reading import load
from mask_impact.impact import meter as metering
from mask_impact.impact.meter import Impact, Meter, Wanted
from mask_impact.impact.noise_floors import NoiseFloors, floor_of
from mask_impact.impact.record import Recording
from mask_impact.model.precision import in_float32


def measured(meter: Meter, recording: Recording, query: int = LENGTH - 1) -> list[Impact]:
    return [meter.impact(layer, layer.queries[query], singles(query)) for layer in recording.with_attention()]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral"])
def test_a_replay_leaves_the_weights_as_they_were(name: str, dtype: torch.dtype) -> None:
    """The same memory, also after an error; and the copies are those of one layer."""
    model = build(name, dtype=dtype)
    before = {key: (value.data_ptr(), value.dtype) for key, value in model.state_dict().items()}
    meter = Meter(model, Wanted())
    measured(meter, record(model, prompt()))
    layer = decoder_layers(model, find(name))[-1]
    with pytest.raises(KeyError), in_float32(layer, []):
        assert {weight.dtype for weight in layer.parameters()} == {torch.float32}
        raise KeyError
    assert {key: (value.data_ptr(), value.dtype) for key, value in model.state_dict().items()} == before
    assert sum(copy.numel() for copy in meter.replay.copies) <= sum(
        each.numel() for each in (*layer.parameters(), *layer.buffers())
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2"])
def test_quantised_layers_keep_their_dtype_and_have_its_noise_floors(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metering, "ROUNDING", metering.ROUNDING | {torch.float64: 1.0})
    model = build(name, dtype=dtype)
    recording, meter = record(model, prompt(LONG)), Meter(model, Wanted())
    model.hf_quantizer = object()  # what transformers leaves in a quantised model
    found = measured(meter, recording, LONG - 1)
    assert meter.replay.notes() == [
        "layers were replayed in the model's own dtype, where small distances are rounding: quantised weights stay as "
        "they are"
    ]
    for impact, truth in zip(found, in_float64(model, recording, Wanted(), singles(LONG - 1)), strict=True):
        within = (impact.l2 - truth.l2).abs() <= impact.floors[:, 0]
        assert within[:, :2].double().mean() >= 0.95, within[:, :2].double().mean(dim=0)
        assert ((impact.l2 == 0) == (truth.l2 == 0)).all()


def test_code_that_asks_for_its_dtype_gets_it() -> None:
    """A layer that casts to its own dtype cannot be called with float32 weights."""
    model = build("llama", dtype=torch.bfloat16)
    for layer in decoder_layers(model, find("llama")):
        layer.mlp.forward = casting(layer.mlp)
    meter = Meter(model, Wanted())
    assert all(impact.l2[1:, 0].all() for impact in measured(meter, record(model, prompt())))
    (note,) = meter.replay.notes()
    assert note.endswith("the family's code asks for that dtype")


def casting(mlp: nn.Module) -> Any:
    compute = mlp.forward
    return lambda hidden: compute(hidden.to(torch.bfloat16))


def test_float32_layers_have_no_copies() -> None:
    model = build("llama")
    meter = Meter(model, Wanted())
    measured(meter, record(model, prompt()))
    assert not meter.replay.copies and not meter.replay.notes()


# --- what a run says ----------------------------------------------------------------------------------------
def gathered() -> NoiseFloors:
    """Two layers, one of them at two query positions; L2 and cosine of one variant."""
    floors = NoiseFloors(("l2", "cosine"))
    values = np.array([[[0.0, 0.0]], [[0.5, 0.5]], [[2.0, 1.0]]], np.float32)  # [P, V, M]
    floors.add(0, ["Full"], np.array([[1.0, 0.1]], np.float32), values)
    floors.add(0, ["Full"], np.array([[0.3, 0.6]], np.float32), values)
    floors.add(3, ["Full"], np.array([[0.1, 1e-10]], np.float32), values)
    return floors


def test_floors_are_the_largest_and_what_is_below_is_counted() -> None:
    """0 is exact and does not count."""
    assert gathered().described([0, 3], ["Full", "CrossFull"]) == {
        "layers": [0, 3],
        "variants": ["Full", "CrossFull"],
        "metrics": ["l2", "cosine"],
        "values": [[[1.0, 0.6], None], [[0.1, 1e-10], None]],
        "below": [[[2, 1], None], [[0, 0], None]],
    }
    assert gathered().note() == (
        "below the noise floor, where a value can be rounding: 2 of 9 L2 values, 1 of 9 cosine values"
    )
    assert NoiseFloors(("l2",)).note() is None


def described() -> dict[str, Any]:
    columns = [{"name": "l2", "column": "l2_distance"}, {"name": "cosine", "column": "cosine_distance"}]
    return MANIFEST | {"metrics": columns, "noise_floor": {"by_layer": gathered().described([0, 3], ["Full"])}}


@pytest.mark.parametrize("what", ["run", "csv", "parquet"])
def test_load_gives_the_floor_beside_each_value(tmp_path: Path, what: str) -> None:
    paths = save(tmp_path, run_of(), manifest=described())
    df = load(paths[what], floors=True)
    full = df[df.variant == "Full"]
    for layer, l2, cosine in ((0, 1, 0.6), (3, 0.1, 1e-10)):
        rows = full[full.layer == layer]
        assert (rows.l2_distance_floor == np.float32(l2)).all()
        assert (rows.cosine_distance_floor == np.float32(cosine)).all()
    assert df[df.variant != "Full"].l2_distance_floor.isna().all()
    assert list(load(paths[what]).columns) == [name for name in df.columns if not name.endswith("_floor")]


def test_runs_without_floors_are_refused_in_one_line(tmp_path: Path) -> None:
    paths = save(tmp_path, run_of(), manifest=MANIFEST)
    with pytest.raises(UserError, match=r"has no noise floors by layer and variant .* or load without floors=True"):
        load(paths["run"], floors=True)


def test_the_summary_marks_what_is_below() -> None:
    token = {"kind": "text", "text": "a"}
    manifest = described() | {
        "variants": ["Full"],
        "units": None,
        "generated": [{}],
        "tokens": [token | {"position": 1}, token | {"position": 2}],
        "vision": None,
        "top_tokens": [{"position": 1, "value": 1.5, "layer": 0}, {"position": 2, "value": 0.5, "layer": 0}],
    }
    _, _, above, below = top_table(manifest)
    assert "floor" not in above and below.endswith("(below the noise floor)")
    assert floor_of(manifest, 0, "Full", "cosine") == 0.6 and floor_of(manifest, 1, "Full", "l2") == 0
