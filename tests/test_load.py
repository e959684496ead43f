"""Result files read back: every format gives the same table, and what is no whole result is an error in one line.

pytest tests/test_load.py
pytest tests/test_load.py -k cut               # every format cut at every byte
"""

import dataclasses
import gzip
import json
import re
import shutil
import tracemalloc
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_results import ALL, HOSTILE, TABLES, float_bits, make_block, names, save

from mask_impact.distances import DEFAULT_METRICS, METRICS
from mask_impact.errors import UserError
from mask_impact.files.notebook import write_report
from mask_impact.files.page import EMPTY_ELEMENT, find_page
from mask_impact.files.results import COLUMNS, Block, load, load_many, read_csv, to_dataframe
from mask_impact.files.writers import VOLATILE, reproducible

ROOT = Path(__file__).resolve().parents[1]
MANIFEST = {
    "name": "run", "created": "now", "argv": ["--x"], "seconds": {"total": 1.0}, "peak_memory_mb": 2.5,
    "prompt": "é\n", "noise_floor": {"Full": {"l2": 0.1, "relative": 1e-7}},
}  # fmt: skip


def same(df: pd.DataFrame, want: pd.DataFrame) -> None:
    """Values, dtypes and order."""
    pd.testing.assert_frame_equal(df, want, check_exact=True)


def run_of(seed: int = 0, tokens=("007", "null", "NaN", "", "a\nb")) -> list[Block]:
    return [make_block(step, layer, tokens, seed=seed) for step in range(2) for layer in (0, 3)]


# --- one file ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("what", [*ALL, "run"])
def test_every_file_of_a_run_gives_the_table_and_its_manifest(tmp_path, what):
    blocks = run_of(tokens=HOSTILE)
    paths = save(tmp_path, blocks, manifest=MANIFEST)
    df, want = load(paths[what]), to_dataframe(blocks)
    same(df, want)
    assert df.token_masked.tolist() == want.token_masked.tolist()
    assert df.attrs["run"] == json.loads(paths["run"].read_bytes()) and df.attrs["run"]["argv"] == ["--x"]
    same(load(str(paths[what])), want)


@pytest.mark.parametrize("fmt", ALL)
def test_a_file_that_was_sent_alone(tmp_path, fmt):
    """Parquet and report bring their manifest, the others none."""
    blocks = run_of()
    paths = save(tmp_path, blocks, manifest=MANIFEST)
    whole = json.loads(paths["run"].read_bytes())
    alone = Path(shutil.move(paths[fmt], tmp_path / f"sent.{fmt}"))
    df = load(alone)
    same(df, to_dataframe(blocks))
    assert df.attrs == ({"run": reproducible(whole)} if fmt in ("parquet", "html") else {})
    assert not set(VOLATILE) & set(df.attrs.get("run", {}))


@pytest.mark.parametrize("fmt", ["csv", "json"])
def test_a_compressed_file(tmp_path, fmt):
    path = save(tmp_path, run_of(), [fmt], manifest=MANIFEST)[fmt]
    packed = path.with_name(f"{path.name}.gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    df = load(packed)
    same(df, to_dataframe(run_of()))
    assert df.attrs["run"]["prompt"] == "é\n"
    packed.write_bytes(packed.read_bytes()[:-9])
    refused(packed, "cut off, damaged or no result")


@pytest.mark.parametrize("fmt", ALL)
def test_distances_are_exact(tmp_path, fmt):
    """Among them 7.038531e-26, which comes back one step off when it is read as float64 and rounded."""
    values = np.concatenate([np.float32([7.038531e-26, 7.0385313e-26]), float_bits(100_000)]).reshape(-1, 2)
    block = Block.of_l2_and_cosine(
        0, 0, ["t"] * len(values), np.arange(len(values)), ["Full", "Attn"], values, values[::-1]
    )
    df = load(save(tmp_path, [block], [fmt])[fmt])
    for column, want in (("l2_distance", values), ("cosine_distance", values[::-1])):
        got = df[column].to_numpy()
        wrong = np.flatnonzero(got.view(np.uint32) != want.ravel().view(np.uint32))
        assert not wrong.size, f"{column}: {wrong.size} differ, first {want.ravel()[wrong[0]]!r}"


def test_a_text_between_two_float32_is_read_as_the_right_one(tmp_path):
    """What plain rounding does to it, so that the test above means something."""
    value = np.uint32(0x15AE43FD).view(np.float32)
    assert str(value) == "7.038531e-26" and np.float32(np.float64("7.038531e-26")) != value
    block = Block.of_l2_and_cosine(0, 0, ["t"], np.array([0]), ["Full"], np.array([[value]]), np.array([[value]]))
    for path in save(tmp_path, [block]).values():
        assert load(path).l2_distance[0] == value, path.name


@pytest.mark.parametrize("fmt", TABLES)
def test_a_run_without_rows(tmp_path, fmt):
    df = load(save(tmp_path, [], [fmt])[fmt])
    same(df, to_dataframe([]))
    assert list(df.columns) == list(COLUMNS)


def test_only_image_tokens_in_a_report(tmp_path):
    """Positions that do not begin at 0, steps with different tokens, a cell that is not there."""
    first, second = make_block(0, 2, ["<img>"] * 3), make_block(1, 2, ["<img>"] * 4)
    blocks = [
        Block.of_l2_and_cosine(
            b.generation_step, 2, b.tokens, np.array([7, 8, 30, 31][: len(b.tokens)]), b.variants, b.l2, b.cosine
        )
        for b in (first, second)
    ]
    same(load(save(tmp_path, blocks, ["html"])["html"]), to_dataframe(blocks))


def test_tables_that_others_have_written(tmp_path):
    """Other text types, other order of columns, further columns, rows left out: pandas's own files."""
    want = to_dataframe(run_of())
    other = want[list(reversed(COLUMNS))].assign(mine=range(len(want)), note="x")
    other.to_parquet(tmp_path / "a.parquet")
    other.to_csv(tmp_path / "a.csv", index=False)
    (tmp_path / "a.json").write_text(json.dumps({name: other[name].tolist() for name in other}))
    for path in sorted(tmp_path.iterdir()):
        df = load(path)
        assert list(df.columns) == [*COLUMNS, "note", "mine"] or list(df.columns) == [*COLUMNS, "mine", "note"]
        same(df[list(COLUMNS)], want)
        assert df.mine.tolist() == list(range(len(want))) and set(df.note) == {"x"}


def test_a_column_that_was_added_is_kept_and_one_that_was_renamed_is_damage(tmp_path):
    """One bit of a header makes another name of it: then the numbers of a metric are not there."""
    described = {"metrics": [METRICS[name].described for name in DEFAULT_METRICS]}
    blocks = run_of()
    for fmt in ("csv", "json"):
        path = save(tmp_path / fmt, blocks, [fmt], manifest=MANIFEST | described)[fmt]
        whole = path.read_text("utf-8")
        path.write_text(whole.replace("cosine_distance", "cosine_diqtance"), "utf-8")
        refused(path, "has been changed since it was written")
        with pytest.raises(UserError, match="has been changed since it was written"):
            load(path.with_name("run_run.json"))
        path.write_text(whole, "utf-8")
        same(load(path), to_dataframe(blocks))
    df = load(path).assign(mine=1)
    df.to_csv(tmp_path / "csv" / "run_results.csv", index=False)
    assert list(load(tmp_path / "csv" / "run_results.csv").columns) == [*COLUMNS, "mine"]


def test_a_part_of_a_run_as_a_report_and_as_parquet(tmp_path):
    """What a reader makes of a loaded run keeps its manifest, and is no cut off file."""
    df = load(save(tmp_path, run_of(), ["csv"], manifest=MANIFEST)["csv"])
    part = df[df.layer == 3]
    assert len(load(write_report(tmp_path / "part_results.html", part))) == len(part)
    write_report(tmp_path / "run_results.html", part)  # beside a manifest that says nothing of it
    assert load(tmp_path / "run_results.html").attrs["run"]["prompt"] == "é\n"


# --- what is no result ------------------------------------------------------------------------------------
def refused(path: Path, *wanted: str) -> str:
    with pytest.raises(UserError) as raised:
        load(path)
    text = str(raised.value)
    assert str(path) in text and "\n" not in text and len(text) < 400, text
    assert all(word in text for word in wanted), text
    return text


@pytest.mark.parametrize("name", ["x_results.csv", "x_results.parquet", "x_results.html", "x_run.json"])
def test_a_missing_file(tmp_path, name):
    refused(tmp_path / name, "there is no file", "NAME_results.csv, .json, .parquet or .html, or NAME_run.json")


def test_what_has_another_name(tmp_path):
    (tmp_path / "x_results.xlsx").write_bytes(b"x")
    (tmp_path / "y_results.csv").mkdir()
    refused(tmp_path / "x_results.xlsx", "is no result file", "NAME_run.json")
    refused(tmp_path / "y_results.csv", "is a folder", "load_many")
    refused(tmp_path, "load_many")


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("x.csv", b"", "cut off, damaged or no result"),
        ("x.csv", b"a,b\n1,2\n", "has no column 'generation_step'; a result table has generation_step, layer"),
        ("x.csv", b"\xff\xfe\x00", "no result"),
        ("x.json", b"[]", "array for each column"),
        ("x.json", b'{"a": [1]}', "has no column"),
        ("x.json", b'{"files": []}', "has no column"),
        ("x.json", b"7", "no result"),
        ("x.parquet", b"PAR1", "no result"),
        ("x.html", b"<p>hello</p>", "no run is in it"),
        ("x.html", EMPTY_ELEMENT, "no run is in it"),
        ("x.html", EMPTY_ELEMENT.replace(b"><", b">{}<"), "no result"),
        ("x_run.json", b"{", "damaged"),
        ("x_run.json", b"{}", "no manifest of a run"),
        ("x_run.json", b'{"files": [1]}', "no manifest of a run"),
        ("x_run.json", b'{"files": []}', "names no result file"),
        ("x_run.json", b'{"files": ["../x_results.csv"]}', "nothing of it is beside it"),
    ],
)
def test_what_is_no_result(tmp_path, name, text, wanted):
    (tmp_path / name).write_bytes(text)
    refused(tmp_path / name, wanted)


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("fmt", TABLES)
def test_values_that_do_not_fit_their_column(tmp_path, fmt, column):
    table = to_dataframe(run_of()).astype({column: object})
    table.loc[3, column] = None
    path = tmp_path / f"x.{fmt}"
    if fmt == "csv":
        if column in ("token_masked", "variant"):
            return  # CSV has nothing but text
        table.to_csv(path, index=False)
    elif fmt == "json":
        path.write_text(json.dumps({name: table[name].tolist() for name in table}))
    else:
        table.to_parquet(path)
    refused(path, "cut off, damaged or no result")


def test_the_viewer_itself_is_no_result(tmp_path):
    refused(Path(shutil.copy(find_page(), tmp_path / "page.html")), "no run is in it")


def test_what_may_not_be_read(tmp_path, monkeypatch):
    """Simulated, because root may read everything."""
    path = save(tmp_path, run_of(), ["json"])["json"]
    original = Path.read_bytes

    def read_bytes(asked: Path) -> bytes:
        if asked == path:
            raise PermissionError(13, "Permission denied")
        return original(asked)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    refused(path, "cannot be read (Permission denied)")


@pytest.mark.parametrize("fmt", TABLES)
def test_a_file_that_is_cut_anywhere(tmp_path, fmt):
    path = save(tmp_path, [make_block(tokens=["a", "b\nc", '"'])], [fmt], manifest=MANIFEST)[fmt]
    data = path.read_bytes()
    for size in range(len(data) - 1):
        path.write_bytes(data[:size])
        refused(path)
        refused_run(path)
    if fmt == "json":
        return  # its last byte is a line end
    path.write_bytes(data[:-1])
    refused(path)


def refused_run(path: Path) -> None:
    with pytest.raises(UserError, match=re.escape(str(path))):
        load(path.with_name("run_run.json"))


def test_a_report_that_is_cut(tmp_path):
    path = save(tmp_path, run_of(), ["html"])["html"]
    data = path.read_bytes()
    start = data.index(EMPTY_ELEMENT[:-9])
    for size in np.linspace(0, data.index(b"</script>", start), 300).astype(int):
        path.write_bytes(data[:size])
        refused(path, "cut off, damaged or no result")


def test_a_damaged_parquet_file(tmp_path):
    path = save(tmp_path, run_of(), ["parquet"])["parquet"]
    data = bytearray(path.read_bytes())
    at = data.index(to_dataframe(run_of()).l2_distance.to_numpy()[5:7].tobytes())
    data[at] ^= 1
    path.write_bytes(data)
    refused(path, "damaged")


# --- which manifest ---------------------------------------------------------------------------------------
def test_a_manifest_of_another_run_is_not_taken(tmp_path):
    """Files of one run over those of another: of text files the rows tell, others have a manifest of their own."""
    mine = save(tmp_path / "mine", run_of(), manifest=MANIFEST)
    other = save(tmp_path / "other", run_of()[:3], manifest=MANIFEST | {"prompt": "another"})
    for fmt in ALL:
        shutil.copy(mine[fmt], other[fmt])
    for fmt in ("parquet", "html"):
        assert load(other[fmt]).attrs["run"]["prompt"] == "é\n"
    for fmt in ("csv", "json"):
        refused(other[fmt], "of another run than run_run.json (60 rows, not 45)")
    with pytest.raises(UserError, match=r"of another run than run_run\.json"):
        load(other["run"])


def test_a_manifest_that_does_not_list_the_file(tmp_path):
    paths = save(tmp_path, run_of(), ["parquet"], manifest=MANIFEST)
    to_dataframe(run_of()[:1]).to_csv(tmp_path / "run_results.csv", index=False)
    df = load(tmp_path / "run_results.csv")
    assert len(df) == 15 and df.attrs == {}
    assert len(load(paths["run"])) == 60


def test_a_report_of_an_earlier_version_has_its_whole_manifest(tmp_path, monkeypatch):
    monkeypatch.setattr("mask_impact.files.page.reproducible", dict)
    paths = save(tmp_path, run_of(), ["html"], manifest=MANIFEST)
    monkeypatch.undo()
    assert load(paths["html"]).attrs["run"] == json.loads(paths["run"].read_bytes())
    paths["run"].unlink()
    assert load(paths["html"]).attrs["run"]["created"] == "now"


def test_a_report_of_a_version_with_two_metrics_alone(tmp_path):
    """Format 1 of the embedded data: `l2` and `cosine` in the place of a list of metrics."""
    path = save(tmp_path, run_of(), ["html"], manifest=MANIFEST)["html"]
    start, end = path.read_bytes().split(EMPTY_ELEMENT[:-10] + b">")
    text, closing, rest = end.partition(b"</script>")
    data = json.loads(text)
    data["l2"], data["cosine"] = data.pop("values")
    del data["metrics"]
    older = json.dumps(data | {"format": 1}).replace("<", "\\u003c").encode()
    alone = tmp_path / "sent.html"
    alone.write_bytes(start + EMPTY_ELEMENT[:-10] + b">" + older + closing + rest)
    same(load(alone), to_dataframe(run_of()))


def test_a_run_is_read_from_the_best_file_that_is_there(tmp_path, monkeypatch):
    paths = save(tmp_path, run_of(), manifest=MANIFEST)
    for fmt in ("parquet", "csv", "json", "html"):
        others = [path for other, path in paths.items() if other not in (fmt, "run")]
        for path in others:
            if path.exists():
                path.write_bytes(b"not looked at")
        same(load(paths["run"]), to_dataframe(run_of()))
        paths[fmt].unlink()
        save(tmp_path / "again", run_of(), manifest=MANIFEST)
        for path in others:
            if path.exists():
                shutil.copy(tmp_path / "again" / path.name, path)
    refused(paths["run"], "nothing of it is beside it")


# --- a folder of runs -------------------------------------------------------------------------------------
def test_all_runs_of_a_folder(tmp_path):
    formats = {"b": ["csv"], "a": ["parquet", "html"], "a-b": ["json"], "c": ["html"], "10": ALL, "9": ["csv", "json"]}
    wanted = {}
    for seed, (name, some) in enumerate(formats.items()):
        blocks = run_of(seed, tokens=["007", f"of {name}"])
        save(tmp_path, blocks, some, name, MANIFEST | {"name": name})
        wanted[name] = to_dataframe(blocks)
    (tmp_path / "c_results.csv").write_text("not of the run")
    (tmp_path / "incomplete_results.csv").write_text("no manifest")
    (tmp_path / "._a_run.json").write_bytes(b"\0of another system")
    df = load_many(tmp_path)
    assert list(df.columns) == ["name", *COLUMNS] and str(df.dtypes["name"]) == str(df.dtypes["variant"])
    assert list(df.attrs["runs"]) == list(df["name"].unique()) == sorted(formats) == ["10", "9", "a", "a-b", "b", "c"]
    assert df.attrs["runs"]["b"] == json.loads((tmp_path / "b_run.json").read_bytes())
    for name, want in wanted.items():
        same(df[df["name"] == name].drop(columns="name").reset_index(drop=True), want)
    same(load_many(str(tmp_path)), df)


def test_runs_of_which_some_have_further_columns(tmp_path):
    for name in "abc":
        paths = save(tmp_path, run_of(), ["parquet"], name)
        if name == "b":
            table = pq.read_table(paths["parquet"])
            more = {"entropy": pa.array(np.arange(60), pa.float32()), "note": pa.array(["x"] * 60)}
            for column, values in more.items():
                table = table.append_column(column, values)
            pq.write_table(table, paths["parquet"])
    df = load_many(tmp_path)
    assert list(df.columns) == ["name", *COLUMNS, "entropy", "note"]
    assert df.entropy[df["name"] == "b"].tolist() == list(range(60)) and df.entropy.dtype == np.float32
    assert df.entropy[df["name"] != "b"].isna().all() and df.note[df["name"] != "b"].isna().all()
    assert set(df.note.dropna()) == {"x"} and not df[list(COLUMNS)].isna().any(axis=None)


def test_folders_without_a_run(tmp_path):
    (tmp_path / "a_results.csv").write_text("no manifest")
    (tmp_path / "a_run.json").mkdir()
    (tmp_path / "empty").mkdir()
    for folder, wanted in ((tmp_path / "empty", "no complete run"), (tmp_path / "none", "there is no folder")):
        with pytest.raises(UserError, match=f"{wanted}.*{folder.name}"):
            load_many(folder)
    with pytest.raises(UserError, match=r"a_run\.json is a folder"):
        load_many(tmp_path)


def test_a_run_too_large_for_its_only_report_is_left_out(tmp_path, monkeypatch):
    save(tmp_path, run_of(), ["csv"], "a")
    monkeypatch.setattr("mask_impact.files.page.MAX_BASE64", 10)
    save(tmp_path, run_of(), ["html"], "b")
    assert list(load_many(tmp_path).attrs["runs"]) == ["a"] and "b_run.json" in names(tmp_path)


def test_a_damaged_run_among_others_is_named(tmp_path):
    for name in "ab":
        path = save(tmp_path, run_of(), ["csv"], name)["csv"]
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UserError, match=r"b_results\.csv is cut off"):
        load_many(tmp_path)
    path.unlink()
    with pytest.raises(UserError, match=r"b_run\.json names b_results\.csv, and nothing"):
        load_many(tmp_path)


def test_memory_of_many_runs(tmp_path):
    """The table itself and little more: text is coded until the end, and joined once."""
    tokens = [f"token {i % 300}" for i in range(1000)]
    block = make_block(0, 0, tokens, ["Full", "Attn", *(f"Head_{i}" for i in range(14))])
    for run in range(8):
        blocks = [dataclasses.replace(block, generation_step=step) for step in range(8)]
        save(tmp_path, blocks, ["parquet"], f"run{run}")  # 1 M rows together
    load_many(tmp_path)
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    df = load_many(tmp_path)
    python = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    size = df.memory_usage(deep=False).sum() if str(df.dtypes["name"]) == "object" else df.memory_usage().sum()
    print(f"{len(df):,} rows of {size / 1e6:.0f} MB; beside Arrow's memory {python / 1e6:.0f} MB at most")
    assert len(df) == 1_024_000 and python < 2 * size
    del df
    assert pa.total_allocated_bytes() - before < 1e6


# --- documented ways --------------------------------------------------------------------------------------
def test_duckdb_reads_a_folder_as_documented(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wanted = {}
    for seed, name in enumerate(("a", "b")):
        save("output", run_of(seed), ["parquet"], name)
        wanted |= {
            (f"output/{name}_results.parquet", variant): group.l2_distance.max()
            for variant, group in to_dataframe(run_of(seed)).groupby("variant")
        }
    text = (ROOT / "docs" / "output-format.md").read_text("utf-8")
    (query,) = re.findall(r"^SELECT filename.*?;", text, re.MULTILINE | re.DOTALL)
    found = {(file.replace("\\", "/"), variant): value for file, variant, value in duckdb.sql(query).fetchall()}
    assert found == wanted


def test_the_documented_python_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save("output", run_of(), ALL, "NAME", MANIFEST)
    text = (ROOT / "docs" / "output-format.md").read_text("utf-8")
    (code,) = [code for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "load_many" in code]
    scope: dict[str, object] = {}
    exec(code, scope)
    same(scope["df"], read_csv("output/NAME_results.csv"))
    assert list(scope["both"].columns) == ["name", *COLUMNS]
