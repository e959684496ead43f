"""The demo models' tables for one prompt each, as they were: a change of any number must be meant.

The files are made by:
    python mask_impact_analysis.py --model demo --prompt "The capital of France is" --num-tokens 2 --device cpu
        --format csv --output-dir tests/golden --output demo --overwrite
    python mask_impact_vl.py --model demo --image testimg.png --prompt "What color is the circle?" --mask-mode both
        --device cpu --format csv --output-dir tests/golden --output demo_vl --overwrite
    rm tests/golden/*_run.json
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mask_impact.results import read_csv
from mask_impact_analysis import run_masking_experiment
from mask_impact_vl import run_vl_masking_experiment

ROOT = Path(__file__).parent.parent
GOLDEN = Path(__file__).parent / "golden"


def text_table() -> pd.DataFrame:
    return run_masking_experiment("The capital of France is", "demo", "cpu", 2)


def vision_table() -> pd.DataFrame:
    return run_vl_masking_experiment("What color is the circle?", ROOT / "testimg.png", "both", "demo", "cpu")


@pytest.mark.parametrize(("name", "measure"), [("demo", text_table), ("demo_vl", vision_table)])
def test_the_table_is_what_it_was(name: str, measure) -> None:
    path = GOLDEN / f"{name}_results.csv"
    assert path.is_file(), f"{path} is missing; the command that makes it is at the top of this file"
    golden, found = read_csv(path), measure()
    for column in golden.columns[:5]:
        assert found[column].tolist() == golden[column].tolist(), column
    scale = golden.groupby("variant")["l2_distance"].transform("max").to_numpy()
    apart = np.abs(found["l2_distance"].to_numpy() - golden["l2_distance"].to_numpy()) / scale
    assert apart.max() < 1e-4, f"largest difference {apart.max():.2g} of the variant's largest L2"
    np.testing.assert_allclose(found["cosine_distance"], golden["cosine_distance"], rtol=0.01, atol=1e-6)
