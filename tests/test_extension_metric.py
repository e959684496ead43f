"""Metrics that are added from outside: one entry in METRICS, and they are in every file, read back, and in the page.

pytest tests/test_extension_metric.py
"""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from test_report import embedded

import mask_impact_analysis
from mask_impact import distances, run_masking_experiment
from mask_impact.distances import METRICS, Metric
from mask_impact.errors import UserError
from mask_impact.files.results import Block, load, load_many, read_csv, to_dataframe
from mask_impact.jobs.session import Session
from mask_impact.options import Request, Settings, check_choices

BALLS = "Tom has a red ball. Ann has a blue cup. Ann's cup is"
ASKED = {"layers": ((0, 0), (3, 3)), "pairs": 2, "num_tokens": 2}


def length_ratio(base: torch.Tensor, change: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    return (base + change).norm(dim=-1) / base.norm(dim=-1)


def along(base: torch.Tensor, change: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    return (change * base).sum(dim=-1) / base.norm(dim=-1)


def removed_weight(base: torch.Tensor, change: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    assert weights is not None
    return weights if change.ndim == 3 else weights.mean(dim=1)


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two metrics of this file. A name and a column that say nothing of a distance."""
    for row in (
        Metric("ratio", "length_ratio", "length left", "", (0.0, None), length_ratio),
        Metric("weight", "removed_weight", "weight", "", (0.0, 1.0), removed_weight, needs_weights=True),
    ):
        monkeypatch.setitem(METRICS, row.name, row)


def measured(
    folder: Path,
    metrics: tuple[str, ...] | None,
    formats: tuple[str, ...] = ("csv", "json", "parquet", "html"),
    **more: Any,
) -> tuple[Any, dict[str, Path]]:
    """The run of the demo model with these metrics, and its files; None for the default."""
    session = Session(Settings("demo", device="cpu", output_dir=folder, formats=formats))
    chosen = {} if metrics is None else {"metrics": metrics}
    return session.run("run", session.prepare(Request(BALLS, **{**ASKED, **more, **chosen})))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    _, paths = measured(tmp_path_factory.mktemp("plain"), None, ("parquet",))
    return load(paths["run"])


def test_a_metric_is_in_every_file_and_comes_back(tmp_path: Path, plain: pd.DataFrame) -> None:
    chosen = ("cosine", "ratio", "l2", "weight")
    run, paths = measured(tmp_path, chosen)
    columns = ["l2_distance", "cosine_distance", "length_ratio", "removed_weight"]
    tables = {fmt: load(paths[fmt]) for fmt in ("csv", "json", "parquet", "html", "run")}
    for fmt, df in tables.items():
        assert list(df.columns[5:]) == columns and (df.dtypes[5:] == np.float32).all(), fmt
        pd.testing.assert_frame_equal(df, tables["csv"], check_exact=True)
    pd.testing.assert_frame_equal(tables["csv"][list(plain.columns)], plain, check_exact=True)
    pd.testing.assert_frame_equal(read_csv(paths["csv"]), tables["csv"], check_exact=True)
    assert paths["csv"].read_text("utf-8").splitlines()[0].endswith(",".join(columns))
    df = tables["csv"]
    assert (df.removed_weight[df.variant.str.startswith("Head")] > 0).any()
    described = [METRICS[name].described for name in ("l2", "cosine", "ratio", "weight")]
    assert json.loads(paths["run"].read_bytes())["metrics"] == described == run.manifest["metrics"]
    page = embedded(paths["html"].read_text("utf-8"))
    assert page["metrics"] == described and page["ratio"].shape == page["l2"].shape
    assert list(pd.read_csv(paths["pairs.csv"]).columns[6:]) == [*columns, "interaction"]
    both = load_many(tmp_path)
    assert list(both.columns[6:]) == columns


def test_weights_are_those_of_the_attention(tmp_path: Path) -> None:
    """All tokens up to the query together have weight 1 in every head, and Full has the mean of the heads."""
    _, paths = measured(tmp_path, ("weight",), ("parquet",), pairs=0)
    df = load(paths["parquet"])
    sums = df[df.variant.str.startswith("Head")].groupby(["generation_step", "layer", "variant"]).removed_weight.sum()
    np.testing.assert_allclose(sums, 1, rtol=1e-5)
    keys = ["generation_step", "layer", "token_position"]
    heads = df[df.variant.str.startswith("Head")].groupby(keys).removed_weight.mean()
    np.testing.assert_allclose(heads, df[df.variant == "Full"].set_index(keys).removed_weight, rtol=1e-5)


def test_only_the_chosen_metrics_are_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: pd.DataFrame
) -> None:
    """Without L2 and cosine: their columns are gone, and the ranking is by the first metric."""
    monkeypatch.setattr(distances, "distances", lambda base, change: pytest.fail("L2 and cosine were not chosen"))
    run, paths = measured(tmp_path, ("relative",), pairs=2)
    df = load(paths["run"])
    assert list(df.columns[5:]) == ["relative_distance"]
    full = df[(df.variant == "Full") & (df.token_position > 0)]
    squares = full.relative_distance.astype(float) ** 2
    largest = squares.groupby([full.generation_step, full.token_position]).sum().max() ** 0.5
    assert run.manifest["top_tokens"][0]["value"] == pytest.approx(largest)
    assert list(pd.read_csv(paths["pairs.csv"]).columns[6:]) == ["relative_distance", "interaction"]
    monkeypatch.undo()


def test_a_mask_that_is_not_seen_has_the_value_of_no_change(tmp_path: Path) -> None:
    """A ratio of 1, not 0: a later word is masked together with one that the query sees, or is not seen at all."""
    _, paths = measured(
        tmp_path,
        ("l2", "ratio", "weight"),
        ("parquet",),
        queries=((4, 4),),
        spans=("1-2", "8-9"),
        pairs=0,
        num_tokens=1,
    )
    df = load(paths["parquet"])
    unseen, seen = df[df.token_position == 8], df[df.token_position == 1]
    assert (
        len(unseen)
        and (unseen.length_ratio == 1).all()
        and not unseen[["l2_distance", "removed_weight"]].any(axis=None)
    )
    assert (seen.length_ratio != 1).any() and (seen.l2_distance > 0).any()


def test_a_metric_that_can_be_below_0_ranks_by_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the manifest, in the summary, and in which pairs are masked: by the table, whatever the sign of its values."""
    row = Metric("along", "change_along", "Change along", "model units", (None, None), along)
    monkeypatch.setitem(METRICS, "along", row)
    flags = ["--model", "demo", "--prompt", BALLS, "--metrics", "along", "--variants", "full", "--pairs", "3"]
    assert mask_impact_analysis.main([*flags, "--output-dir", str(tmp_path), "--format", "csv,html"]) == 0
    df = load(tmp_path / "masking_results.csv")
    df["square"] = df.change_along.astype(float) ** 2
    ranked = df.loc[df.groupby("token_position").square.idxmax()].set_index("token_position")
    ranked["value"] = df.groupby("token_position").square.sum() ** 0.5
    ranked = ranked.sort_values("value", ascending=False).reset_index()
    wanted = ranked[ranked.token_position > 0][["token_position", "value", "layer"]].head(5)
    top = df.attrs["run"]["top_tokens"]
    found = [(each["position"], pytest.approx(each["value"]), each["layer"]) for each in top if each["position"]]
    assert list(wanted.itertuples(index=False, name=None)) == found
    assert ranked.change_along.min() < 0 < ranked.change_along.max(), "else this shows nothing"
    assert df.attrs["run"]["metrics"][0]["range"] == [None, None]
    printed = capsys.readouterr().out.partition("most important tokens")[2].splitlines()[2:7]
    assert [int(re.search(r"(\d+) +-?[\d.]+ +\d+$", line)[1]) for line in printed] == wanted.token_position.tolist()
    pairs = load(tmp_path / "masking_pairs.csv")
    assert {*pairs.token_position, *pairs.second_position} == set(ranked.token_position.head(3))


# --- relative distance ------------------------------------------------------------------------------------
def test_relative_distance_of_known_vectors() -> None:
    base, zero = torch.tensor([3.0, 4.0]), torch.zeros(2)
    change = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, -10.0]])
    assert METRICS["relative"].function(base, change, None).tolist() == [0.0, 1.0, 2.0]
    assert METRICS["relative"].function(zero, change, None).tolist() == [0.0, np.inf, np.inf]  # 0/0 is 0; x/0 no number


def test_relative_distance_is_that_which_load_computes(tmp_path: Path) -> None:
    _, paths = measured(tmp_path / "a", ("l2", "cosine", "relative"))
    _, others = measured(tmp_path / "b", None)
    measured_one = load(paths["parquet"])
    for fmt in ("csv", "json", "parquet", "html", "run"):
        computed = load(others[fmt], relative=True)
        assert list(computed.columns) == list(measured_one.columns) and computed.relative_distance.dtype == np.float32
        np.testing.assert_allclose(computed.relative_distance, measured_one.relative_distance, rtol=3e-7)
        pd.testing.assert_frame_equal(computed.drop(columns="relative_distance"), load(others[fmt]), check_exact=True)
    pd.testing.assert_frame_equal(load(paths["csv"], relative=True), measured_one, check_exact=True)


def test_lengths_of_other_queries_are_a_table(tmp_path: Path) -> None:
    run, paths = measured(tmp_path, ("l2", "relative"), queries="all", pairs=0)
    lengths = pd.read_csv(paths["lengths.csv"])
    assert list(lengths.columns) == ["query_position", "layer", "variant", "unmasked_length"]
    df = load(paths["parquet"])
    assert len(lengths) == len(df[["query_position", "layer", "variant"]].drop_duplicates())
    assert (lengths.unmasked_length > 0).all()
    predicting = run.manifest["prompt_length"] - 1
    described = run.manifest["unmasked_length"]
    assert (described["layers"], described["variants"][:2]) == ([0, 3], ["Full", "Attn"])
    last = lengths[(lengths.query_position == predicting + 1) & (lengths.layer == 3)].unmasked_length.tolist()
    np.testing.assert_array_equal(np.float32(last), np.float32(described["values"][1][1]))
    computed = _loaded_without_relative(paths["csv"])
    np.testing.assert_allclose(computed.relative_distance, df.relative_distance, rtol=3e-7)
    for kind in ("csv", "json", "parquet"):
        paths[f"lengths.{kind}"].unlink()
    with pytest.raises(UserError, match="there is no run_lengths"):
        _loaded_without_relative(paths["csv"])


def _loaded_without_relative(path: Path) -> pd.DataFrame:
    """`load(path, relative=True)` of the run as if relative had not been measured, and sizes not been recorded."""
    text, beside = path.read_text("utf-8"), path.with_name("run_run.json")
    manifest = json.loads(beside.read_text("utf-8"))
    beside.write_text(json.dumps({key: each for key, each in manifest.items() if key not in ("bytes", "checksums")}))
    df = read_csv(path)
    df.drop(columns="relative_distance").to_csv(path, index=False)
    try:
        return load(path, relative=True)
    finally:
        path.write_text(text, "utf-8")


def test_a_run_of_an_older_version_has_no_lengths(tmp_path: Path) -> None:
    _, paths = measured(tmp_path, None, ("csv",), pairs=0)
    manifest = json.loads(paths["run"].read_bytes())
    del manifest["unmasked_length"], manifest["metrics"]
    paths["run"].write_text(json.dumps(manifest))
    assert len(load(paths["run"])) == manifest["rows"]
    with pytest.raises(UserError, match=r"has no lengths of the unmasked vectors .*older version"):
        load(paths["run"], relative=True)
    paths["run"].unlink()
    with pytest.raises(UserError, match="there is no manifest"):
        load(paths["csv"], relative=True)


def test_a_changed_zero_vector_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated: no model of ours has an update that is exactly 0 and changes."""
    row = METRICS["relative"]
    infinite = replace(row, function=lambda b, c, w: c.norm(dim=-1) / 0)
    monkeypatch.setitem(METRICS, "relative", infinite)
    with pytest.raises(UserError, match=r"layer 0 has no relative distance of Full .* zero vector"):
        measured(tmp_path, ("relative",), ("csv",), pairs=0)
    assert not list(tmp_path.glob("run*"))


def test_unknown_metrics_are_refused_with_the_choices() -> None:
    names = "l2, cosine, relative, attention, ratio, weight"
    with pytest.raises(UserError, match=f"unknown metric 'l3'; choose from {names}"):
        check_choices(Request("", metrics=("l3",)))
    with pytest.raises(UserError, match="no metric was chosen"):
        check_choices(Request("", metrics=()))


def test_metrics_of_one_column_are_refused_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METRICS, "twin", replace(METRICS["l2"], name="twin"))
    with pytest.raises(UserError, match="metrics 'l2' and 'twin' both have the column l2_distance; choose one"):
        run_masking_experiment("Tom", "demo", "cpu", metrics="twin,l2")


def test_a_table_with_another_metric_alone_is_a_table(tmp_path: Path) -> None:
    block = Block(0, 1, ["a", "b"], np.arange(2), ["Full"], ("ratio",), np.float32([[[1]], [[2]]]))
    df = to_dataframe([block])
    assert list(df.columns[5:]) == ["length_ratio"] and df.length_ratio.tolist() == [1, 2]
