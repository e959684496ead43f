"""`load` of the tables beside the results: NAME_effects, _trace, _pairs, _lengths and the lens's _neighbors.

pytest tests/test_load_beside.py
"""

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_load import run_of
from test_results import HOSTILE

import latent_lens
from mask_impact import load, load_many
from mask_impact.errors import UserError
from mask_impact.files.results import ResultFiles, to_dataframe

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = sorted(
    path for path in (ROOT / "tests" / "golden").glob("*.csv") if not path.name.endswith("_results.csv")
)  # fmt: skip
# Between two float32: read as float64 and then rounded, the nearer one would be the other.
HALFWAY = float(np.float32(7.038531e-26))


def saved(folder: Path, count: int = len(HOSTILE)) -> dict[str, Path]:
    """A run with two tables whose texts look like numbers and missing values, and whose numbers are hard to read."""
    rng = np.random.default_rng(0)
    numbers = [HALFWAY, *rng.normal(size=len(HOSTILE) - 1).astype(np.float32).tolist()][:count]
    effects = {
        "generation_step": list(range(count)), "token_masked": list(HOSTILE)[:count],
        "top_token": ["7"] * count, "kl": numbers, "interaction": [None, 2.0, *[0.5] * count][:count],
    }  # fmt: skip
    with ResultFiles(folder, "run", ["csv", "json", "parquet"]) as files:
        for block in run_of():
            files.write(block)
        files.add_table("effects", effects)
        files.add_table("lengths", {"layer": [0, 3], "variant": ["Full", "Full"], "unmasked_length": [1.5, None]})
        return files.commit({"name": "run", "prompt": "x"})


def test_every_format_gives_the_table_that_was_written(tmp_path: Path) -> None:
    paths = saved(tmp_path)
    for fmt in ("csv", "json", "parquet"):
        (tmp_path / f"run_effects.{fmt}.gz").write_bytes(gzip.compress(paths[f"effects.{fmt}"].read_bytes()))
    for end in ("csv", "json", "parquet", "csv.gz", "json.gz"):
        df = load(tmp_path / f"run_effects.{end}")
        assert df.token_masked.tolist() == list(HOSTILE) and set(df.top_token) == {"7"}, end
        assert [str(kind) for kind in df.dtypes[3:]] == ["float32"] * 2 and df.generation_step.dtype == np.int64
        assert df.interaction.isna().tolist() == [True, *[False] * (len(df) - 1)]
        assert df.kl[0] == np.float32(HALFWAY), end
        pd.testing.assert_frame_equal(df, load(paths["effects.parquet"]), check_exact=True)
        assert df.attrs["run"] == json.loads(paths["run"].read_bytes())
    assert load(paths["lengths.json"]).unmasked_length.isna().tolist() == [False, True]


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_real_tables_are_those_of_pandas(path: Path) -> None:
    """Tables that commands have written, read by pandas as documented, with every text kept a text."""
    found = load(path)
    texts = {name: str for name, kind in found.dtypes.items() if not pd.api.types.is_numeric_dtype(kind)}
    missing = {name: [""] for name in found if name not in texts}
    wanted = pd.read_csv(path, keep_default_na=False, dtype=texts, na_values=missing)
    assert list(found.columns) == list(wanted.columns) and len(found) == len(wanted) > 0
    for name in found:
        if found[name].dtype == np.float32:
            np.testing.assert_array_equal(found[name], wanted[name].astype(np.float32))
        else:
            assert found[name].tolist() == wanted[name].tolist(), name
    pd.testing.assert_frame_equal(found, load(path.with_suffix(".json")), check_exact=True)


def test_a_folder_with_them_gives_the_results(tmp_path: Path) -> None:
    saved(tmp_path)
    both = load_many(tmp_path)
    pd.testing.assert_frame_equal(both.drop(columns="name"), to_dataframe(run_of()), check_exact=True)
    assert list(both.attrs["runs"]) == ["run"]


def test_a_table_sent_alone(tmp_path: Path) -> None:
    """Parquet has the manifest inside; CSV has none, and a manifest of another run is not taken."""
    paths = saved(tmp_path)
    paths["run"].unlink()
    assert "run" not in load(paths["effects.csv"]).attrs
    assert load(paths["effects.parquet"]).attrs["run"]["prompt"] == "x"
    (tmp_path / "run_run.json").write_text(json.dumps({"files": [], "tables": []}))
    assert "run" not in load(paths["effects.csv"]).attrs


def test_without_rows(tmp_path: Path) -> None:
    paths = saved(tmp_path, count=0)
    for fmt in ("csv", "json", "parquet"):
        assert load(paths[f"effects.{fmt}"]).shape == (0, 5), fmt


def test_neighbors_and_their_manifest(tmp_path: Path) -> None:
    flags = ["--model", "demo", "--output-dir", str(tmp_path), "--quiet"]
    captions = ["--captions", str(ROOT / "demo" / "captions.txt"), "--num-captions", "20", "--layers", "2"]
    assert latent_lens.main(["bank", *flags, *captions]) == 0
    picture = ["--image", str(ROOT / "testimg.png"), "--bank", str(tmp_path), "--layers", "2", "--top-k", "1"]
    assert latent_lens.main(["neighbors", *flags, *picture, "--output", "m", "--format", "csv,json,html"]) == 0
    found = load(tmp_path / "m_neighbors.csv")
    assert found.attrs["run"] == json.loads((tmp_path / "m_neighbors_run.json").read_bytes())
    assert len(found) == found.attrs["run"]["rows"] and found.similarity.dtype == np.float32
    with pytest.raises(
        UserError, match=r"without result files; give one of its tables: m_neighbors\.csv, m_neighbors\.json, "
    ):
        load(tmp_path / "m_neighbors_run.json")
    with pytest.raises(UserError, match=r"is a page to look at; give m_neighbors\.csv, \.json or \.parquet"):
        load(tmp_path / "m_neighbors.html")


def test_what_cannot_be_read(tmp_path: Path) -> None:
    paths = saved(tmp_path)
    with pytest.raises(UserError, match=r"a table of effects; relative=True is for the results"):
        load(paths["effects.csv"], relative=True)
    with pytest.raises(UserError, match="there is no file"):
        load(tmp_path / "none_effects.csv")
    for fmt in ("csv", "json", "parquet"):
        path = paths[f"effects.{fmt}"]
        path.write_bytes(path.read_bytes()[:-40])
        with pytest.raises(UserError, match="is cut off, damaged or no result file"):
            load(path)
