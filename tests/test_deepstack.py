"""What the answer needs of DeepStack, against the model with these features zeroed; and the side table."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import pytest
import torch
from asking import asked
from float64 import true_float64
from test_vl_engine import PROMPT, folders, load, longer, tensors  # noqa: F401
from vl_families import picture

import mask_impact_vl
from mask_impact import load as load_table
from mask_impact.errors import UserError
from mask_impact.jobs.session import run_prepared

ROOT = Path(__file__).resolve().parents[1]


def logits_without(model: Any, given: dict[str, torch.Tensor], removed: dict[int, list[int]]) -> torch.Tensor:
    """[2, V] of the model whose list of features has zeros; `removed`: by entry, which of its vectors."""
    decoder, entry = model.model.language_model, iter(range(100))
    own = decoder._deepstack_process

    def zeroed(hidden: torch.Tensor, mask: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        features = features.clone()
        features[removed.get(next(entry), [])] = 0.0
        return own(hidden, mask, features)

    with torch.no_grad(), mock.patch.object(decoder, "_deepstack_process", zeroed):
        return model(**given, use_cache=False).logits[0, -2:].log_softmax(dim=-1)


@pytest.mark.parametrize("name", ["qwen3_vl", "qwen3_vl_moe"])
def test_injections_equal_brute_force(name: str, load: Any) -> None:  # noqa: F811
    loaded = load(name, torch.float64)
    inputs = loaded.inputs(PROMPT, picture(56, 84), picture(56, 56, 1))
    first, last = inputs.images[0]["positions"][0], inputs.images[1]["positions"][1]
    images = [token.position for token in inputs.tokens if token.kind == "image"]
    with true_float64():
        request = {
            "effects": True,
            "deepstack": True,
            "num_tokens": 2,
            "spans": (f"{first + 1}-{first + 2}", f"{last}"),
        }
        run, tables = run_prepared(
            loaded.model,
            asked(loaded.model, loaded.processor.tokenizer, inputs, variants=("full",), **request),
            lambda block: None,
        )
        generated = [each["id"] for each in run.manifest["generated"]]
        given = longer(name, tensors(inputs, torch.float64), generated[:-1])
        base = logits_without(loaded.model, given, {})
        table = pd.DataFrame(tables["deepstack"])
        steps = table[table.generation_step >= 0]
        units = {unit["positions"][0]: unit["positions"] for unit in run.manifest["units"]}
        assert len(steps) == 2 * (3 + 2 + 2 * 2) and len(table) == 3 * len(steps) // 2
        for row in steps.itertuples():
            named = [int(each) for each in row.injection.split("+")]
            gone = named if row.action == "removed" else [each for each in (0, 1) if each not in named]
            every = row.unit == "all image tokens"
            rows = [images.index(position) for position in (images if every else units[row.token_position])]
            under = logits_without(loaded.model, given, dict.fromkeys(gone, rows))
            token, step = generated[row.generation_step], row.generation_step
            change = float(under[step, token] - base[step, token])
            assert row.logprob_change == pytest.approx(change, rel=1e-9, abs=1e-13), row
    assert run.manifest["effects"]["deepstack"]["injections"][1] == {
        "injection": 1, "vision_layer": 1, "decoder_layer": 1
    }  # fmt: skip


def test_a_family_without_it_is_refused(load: Any) -> None:  # noqa: F811
    loaded = load("qwen2_vl")
    inputs = loaded.inputs(PROMPT, picture(56, 84))
    with pytest.raises(UserError, match="`deepstack` was given, but model family 'qwen2_vl' adds no image features"):
        asked(loaded.model, loaded.processor.tokenizer, inputs, effects=True, deepstack=True)


def test_the_side_table_is_written_and_read(tmp_path: Path) -> None:
    flags = ["--model", "demo", "--image", str(ROOT / "testimg.png"), "--prompt", "What color is the circle?"]
    more = ["--effects", "--deepstack", "--layers", "0", "--region", "left=0,0,3,1", "--format", "csv,json,parquet"]
    assert mask_impact_vl.main([*flags, *more, "--output-dir", str(tmp_path), "--output", "d", "--quiet"]) == 0
    tables = [load_table(tmp_path / f"d_deepstack.{form}") for form in ("csv", "json", "parquet")]
    assert all(table.equals(tables[0]) for table in tables)
    assert list(tables[0].columns[:6]) == [
        "injection", "vision_layer", "decoder_layer", "action", "unit", "generation_step"
    ]  # fmt: skip
    assert tables[0].injection.tolist() == ["0", "1", "0+1", "0", "1", "0", "1"]
    assert tables[0].unit.tolist()[-2:] == ["left", "left"]
    assert "d_deepstack.csv" in tables[0].attrs["run"]["tables"]
