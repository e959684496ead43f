"""The demo model's table for one prompt, as it was: a change of any number must be meant.

The file is made by:
    python mask_impact_analysis.py --model demo --prompt "The capital of France is" --num-tokens 2 --device cpu
        --format csv --output-dir tests/golden --output demo --overwrite && rm tests/golden/demo_run.json
"""

from pathlib import Path

import numpy as np

from mask_impact.results import read_csv
from mask_impact_analysis import run_masking_experiment

GOLDEN = Path(__file__).parent / "golden" / "demo_results.csv"


def test_the_table_is_what_it_was() -> None:
    assert GOLDEN.is_file(), f"{GOLDEN} is missing; the command that makes it is at the top of this file"
    golden = read_csv(GOLDEN)
    found = run_masking_experiment("The capital of France is", "demo", "cpu", 2)
    for column in golden.columns[:5]:
        assert found[column].tolist() == golden[column].tolist(), column
    scale = golden.groupby("variant")["l2_distance"].transform("max").to_numpy()
    apart = np.abs(found["l2_distance"].to_numpy() - golden["l2_distance"].to_numpy()) / scale
    assert apart.max() < 1e-4, f"largest difference {apart.max():.2g} of the variant's largest L2"
    np.testing.assert_allclose(found["cosine_distance"], golden["cosine_distance"], rtol=0.01, atol=1e-6)
