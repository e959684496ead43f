"""Ten runs of the demo models and a tiny encoder-decoder, as they were: a change of any number must be meant.

The files and the command that makes them: tools/golden.py.
"""

import json
from pathlib import Path

import golden
import numpy as np
import pandas as pd
import pytest

GOLDEN = Path(__file__).parent / "golden"
NAMES = sorted(path.name for path in GOLDEN.iterdir())
# How far a value may be off, because processors round differently: a share of the value, plus a share of the largest
# value of its column and variant. With another instruction set the runs need less than half of this.
OF_THE_VALUE, OF_THE_LARGEST = 8e-5, 2e-5


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("golden")
    assert golden.main([str(folder)]) == 0
    return folder


def read(path: Path) -> pd.DataFrame:
    if path.suffix == ".csv":
        return pd.read_csv(path, keep_default_na=False, na_values=[""])
    return pd.DataFrame(json.loads(path.read_text("utf-8")))


def test_the_same_tables_are_written(made: Path) -> None:
    assert sorted(path.name for path in made.iterdir()) == NAMES and len(NAMES) == 34


@pytest.mark.parametrize("name", NAMES)
def test_the_table_is_what_it_was(name: str, made: Path) -> None:
    before, after = read(GOLDEN / name), read(made / name)
    assert list(after.columns) == list(before.columns) and len(after) == len(before)
    variants = before["variant"] if "variant" in before else pd.Series("", index=before.index)
    for column in before.columns:
        if before[column].dtype != np.float64:
            assert after[column].tolist() == before[column].tolist(), column
            continue
        scale = before[column].abs().groupby(variants).transform("max").clip(lower=1e-3)
        allowed = OF_THE_VALUE * before[column].abs() + OF_THE_LARGEST * scale
        apart = ((after[column] - before[column]).abs() / allowed).max()
        assert after[column].isna().equals(before[column].isna()), column
        assert not apart > 1, f"{column}: a value is off by {apart:.2g} times what rounding may make"
