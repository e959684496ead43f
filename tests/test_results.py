"""The files of a run: exact, streamed, and whole or not there.

pytest tests/test_results.py
pytest tests/test_results.py -k hostile        # odd tokens through every reader
pytest tests/test_results.py -k speed -s       # rows per second on this machine
"""

import csv
import json
import os
import re
import resource
import subprocess
import sys
import textwrap
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prepared import PREPARED

from mask_impact.distances import METRICS
from mask_impact.errors import UserError
from mask_impact.files import results, temporaries
from mask_impact.files.folder import LOCK_NAME, output_folder
from mask_impact.files.results import (
    COLUMNS,
    FORMATS,
    Block,
    ResultFiles,
    existing_files,
    read_csv,
    to_dataframe,
    write_text,
)
from mask_impact.files.writers import VOLATILE

ROOT = Path(__file__).parents[1]
ALL = tuple(FORMATS)
TABLES = ("csv", "json", "parquet")  # those that other programs read; the report has tests of its own
VARIANTS = ("Full", "Attn", "Head_0")
MANIFEST_KEYS = re.findall(
    r"\w+",
    """
    schema_version name created argv config request model path_or_id revision family architecture layers heads
    hidden_size parameters dtype attention_implementation device device_map versions mask_impact torch
    transformers python git_commit prompt chat prompt_length tokens position id text kind image row col box images
    generated step probability stop_reason variants head_space masks mask_mode vision_attention noise_floor relative
    skipped_layers reason notes seconds load prepare recorded_forward replay decode check write total peak_memory_mb
    top_tokens rows files metrics name column title unit range unmasked_length values tables
""",
)

# fmt: off
HOSTILE = [
    "null", "NA", "N/A", "nan", "NaN", "None", "", "true", "inf", "-", "#", "1", "007", "1e5", "2020-01-01",
    " ", "  both sides  ", " Paris", "a,b", ";", 'say "hi"', '"', '""', '","', "'", "],[", "[a,b]",
    "\n", "\r", "\r\n", "\n\n", "a\nb", "a\rb", "\t", "\x00", "a\x00b", "\x01", "\x1b", "\x7f", "\x85",
    "\u2028", "\u2029", "\ufeff", "\u200b", "\U0001f600", "\U0001f469\u200d\U0001f467", "é", "e\u0301",
    "\\", "\\n", '\\"', "\\u0041", "</script>", "=1+1", "Ġthe", "▁the", "\ufffd", "\uffff",
]
# fmt: on


def make_block(step=0, layer=0, tokens=("a", "b"), variants=VARIANTS, seed=0) -> Block:
    rng = np.random.default_rng((seed, step, layer))
    l2, cosine = (rng.lognormal(m, s, (len(tokens), len(variants))).astype(np.float32) for m, s in ((0, 2), (-9, 4)))
    return Block.of_l2_and_cosine(step, layer, tokens, np.arange(len(tokens)), variants, l2, cosine)


def save(folder, blocks, formats=ALL, name="run", manifest=None):
    with ResultFiles(folder, name, formats) as files:
        for block in blocks:
            files.write(block)
        return files.commit(manifest or {})


def names(folder) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


# --- what is in the files ---------------------------------------------------------------------------------
def test_text_of_csv_and_json(tmp_path):
    numbers = np.array([[0.0, 1e-10], [0.1, 16777216.0]], np.float32)
    first = Block.of_l2_and_cosine(0, 3, [' "q"', "null"], np.array([0, 7]), ["Full", "Head_1"], numbers, numbers * 2)
    second = Block.of_l2_and_cosine(1, 4, ["é\n"], np.array([9]), ["Full", "Head_1"], numbers[:1], numbers[:1])
    paths = save(tmp_path, [first, second])
    assert paths["csv"].read_bytes().decode() == (
        "generation_step,layer,token_masked,token_position,variant,l2_distance,cosine_distance\n"
        '0,3," ""q""",0,Full,0.0,0.0\n0,3," ""q""",0,Head_1,1e-10,2e-10\n'
        '0,3,"null",7,Full,0.1,0.2\n0,3,"null",7,Head_1,16777216.0,33554432.0\n'
        '1,4,"é\n",9,Full,0.0,0.0\n1,4,"é\n",9,Head_1,1e-10,1e-10\n'
    )
    assert paths["json"].read_bytes().decode() == (
        '{"generation_step":[0,0,0,0,1,1],"layer":[3,3,3,3,4,4],'
        '"token_masked":[" \\"q\\""," \\"q\\"","null","null","é\\n","é\\n"],"token_position":[0,0,7,7,9,9],'
        '"variant":["Full","Head_1","Full","Head_1","Full","Head_1"],'
        '"l2_distance":[0.0,1e-10,0.1,16777216.0,0.0,1e-10],'
        '"cosine_distance":[0.0,2e-10,0.2,33554432.0,0.0,1e-10]}\n'
    )


READERS = {
    "read_csv": ("csv", read_csv),
    "pandas csv": ("csv", lambda path: pd.read_csv(path, keep_default_na=False)),
    "csv module": ("csv", lambda path: pd.DataFrame(csv.DictReader(path.open(encoding="utf-8", newline="")))),
    "json module": ("json", lambda path: pd.DataFrame(json.loads(path.read_bytes()))),
    "pandas json": ("json", pd.read_json),
    "pandas parquet": ("parquet", pd.read_parquet),
    "pyarrow": ("parquet", lambda path: pq.read_table(path).to_pandas()),
}


@pytest.mark.parametrize("reader", READERS)
def test_hostile_tokens_come_back(tmp_path, reader):
    fmt, read = READERS[reader]
    block = make_block(tokens=HOSTILE, variants=("Full", 'odd, "name"\n'))
    table = read(save(tmp_path, [block])[fmt])
    assert list(table.columns) == list(COLUMNS)
    assert table.token_masked.tolist() == [token for token in HOSTILE for _ in range(2)]
    assert table.variant.tolist() == list(block.variants) * len(HOSTILE)
    assert table.token_position.astype(int).tolist() == [p for p in range(len(HOSTILE)) for _ in range(2)]
    assert np.array_equal(table.l2_distance.astype(np.float32), block.l2.ravel())
    assert np.array_equal(table.cosine_distance.astype(np.float32), block.cosine.ravel())


def test_our_readers_give_the_same_table_and_dtypes(tmp_path):
    blocks = [make_block(step, layer, ["1", "007", ""]) for step in range(2) for layer in range(3)]
    paths, table = save(tmp_path, blocks), to_dataframe(blocks)
    kinds = [str(table[column].dtype) for column in COLUMNS]
    text = str(pd.Series(["x"]).dtype)  # "str" or, before pandas 3, "object"
    assert kinds == ["int64", "int64", text, "int64", text, "float32", "float32"]
    assert table.token_masked.tolist()[:9] == ["1"] * 3 + ["007"] * 3 + [""] * 3
    assert table.layer.tolist() == [0] * 9 + [1] * 9 + [2] * 9 + [0] * 9 + [1] * 9 + [2] * 9
    pd.testing.assert_frame_equal(read_csv(paths["csv"]), table, check_exact=True)
    pd.testing.assert_frame_equal(pd.read_parquet(paths["parquet"]), table, check_exact=True)


@pytest.mark.parametrize("fmt", TABLES)
def test_half_a_surrogate_pair_becomes_the_replacement_character(tmp_path, fmt):
    path = save(tmp_path, [make_block(tokens=["a\ud83d", "\ude00"])], [fmt], manifest={"prompt": "x\ud83d"})[fmt]
    read = {"csv": read_csv, "json": pd.read_json, "parquet": pd.read_parquet}[fmt]
    assert read(path).token_masked.unique().tolist() == ["a\ufffd", "\ufffd"]
    assert json.loads((tmp_path / "run_run.json").read_bytes())["prompt"] == "x\ufffd"


def test_a_run_without_rows_has_every_column(tmp_path):
    paths = save(tmp_path, [make_block(tokens=[], variants=VARIANTS)])
    assert [len(read_csv(paths["csv"])), len(pd.read_parquet(paths["parquet"])), len(to_dataframe([]))] == [
        0,
        0,
        0,
    ]
    assert json.loads(paths["json"].read_bytes()) == {column: [] for column in COLUMNS}
    assert list(read_csv(paths["csv"]).columns) == list(to_dataframe([]).columns) == list(COLUMNS)


# --- numbers ----------------------------------------------------------------------------------------------
def float_bits(count: int) -> np.ndarray:
    """[count] finite float32: random bit patterns, every power of two and its neighbours, and the limits."""
    powers = np.ldexp(np.float32(1), np.arange(-149, 128)).astype(np.float32)
    edges = np.concatenate([np.nextafter(powers, np.float32(0)), powers, np.nextafter(powers, np.float32(np.inf))])
    known = np.float32([0.0, 1.0, 0.1, 1e-10, 1e-45, 1.1754942e-38, 3.4028235e38, 16777216, 9.999999e-8])
    bits = np.random.default_rng(0).integers(0, 0x7F800000, count, dtype=np.uint32).view(np.float32)
    return np.concatenate([known, edges[np.isfinite(edges)], bits])[:count]


def test_float_bits_survive_every_format(tmp_path):
    values = float_bits(200_000).reshape(-1, 2)
    tokens = ['line\nbreak, "and" comma'] * len(values)  # so that readers that cut a file into blocks cut a token
    block = Block.of_l2_and_cosine(0, 0, tokens, np.arange(len(values)), ["Full", "Attn"], values, values[::-1])
    paths = save(tmp_path, [block])
    tables = {
        "csv": read_csv(paths["csv"]),
        "csv by pandas": pd.read_csv(paths["csv"]),
        "json by pandas": pd.read_json(paths["json"]),
        "json": pd.DataFrame(json.loads(paths["json"].read_bytes())),
        "parquet": pd.read_parquet(paths["parquet"]),
        "memory": to_dataframe([block]),
    }
    for name, table in tables.items():
        for column, want in (("l2_distance", values), ("cosine_distance", values[::-1])):
            got = table[column].to_numpy().astype(np.float32)
            wrong = np.flatnonzero(got.view(np.uint32) != want.ravel().view(np.uint32))
            assert not wrong.size, f"{name} {column}: {wrong.size} differ, first {want.ravel()[wrong[0]]!r}"


def test_numbers_are_the_shortest_text(tmp_path):
    values = float_bits(20_000).reshape(-1, 1)
    block = Block.of_l2_and_cosine(0, 0, ["t"] * len(values), np.arange(len(values)), ["Full"], values, values)
    paths = save(tmp_path, [block], ["csv", "json"])
    in_csv = [line.split(",")[5] for line in paths["csv"].read_text().splitlines()[1:]]
    in_json = re.search(r'"l2_distance":\[(.*?)\]', paths["json"].read_text())[1].split(",")
    assert in_csv == in_json
    for text, value in zip(in_csv, values.ravel(), strict=True):
        shortest = np.format_float_scientific(value, unique=True)
        assert digits(text) == digits(shortest), (text, shortest)


def digits(number: str) -> str:
    return number.split("e")[0].replace(".", "").strip("0")


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("which", ["l2", "cosine"])
def test_nan_and_infinity_are_never_written(tmp_path, wrong, which):
    save(tmp_path, [make_block(seed=1)])
    before = contents(tmp_path)
    bad = make_block(step=2, layer=5, tokens=["a", "odd"])
    getattr(bad, which)[1, 2] = wrong
    with (
        pytest.raises(ValueError, match=rf"step 2, layer 5: the {which} .* Head_0 .*'odd' at position 1"),
        ResultFiles(tmp_path, "run", ALL) as files,
    ):
        files.write(make_block())
        files.write(bad)
    with pytest.raises(ValueError, match="step 2, layer 5"):
        to_dataframe([bad])
    assert contents(tmp_path) == before


def test_nothing_can_be_committed_after_a_failed_write(tmp_path):
    bad = make_block()
    bad.l2[0, 0] = np.nan
    with ResultFiles(tmp_path, "run", ALL) as files:
        with pytest.raises(ValueError, match="nan"):
            files.write(bad)
        for use in (lambda: files.write(make_block()), lambda: files.commit({})):
            with pytest.raises(RuntimeError, match="earlier write failed"):
                use()
    assert names(tmp_path) == []


@pytest.mark.parametrize("field", ["positions", "values"])
def test_shapes_must_fit(tmp_path, field):
    block = make_block()
    object.__setattr__(block, field, getattr(block, field)[:1])
    with (
        ResultFiles(tmp_path, "run", ALL) as files,
        pytest.raises(ValueError, match=r"step 0, layer 0.*\(1,"),
    ):
        files.write(block)


@pytest.mark.parametrize("fmt", TABLES)
def test_the_engine_may_use_its_arrays_again(tmp_path, fmt):
    block = make_block()
    want = to_dataframe([block])
    with ResultFiles(tmp_path, "run", [fmt]) as files:
        files.write(block)
        block.l2[:], block.cosine[:], block.positions[:] = -1, -1, -1
        path = files.commit({})[fmt]
    read = {"csv": read_csv, "json": pd.read_json, "parquet": pd.read_parquet}[fmt]
    pd.testing.assert_frame_equal(read(path).astype(want.dtypes), want, check_exact=True)


# --- format details ---------------------------------------------------------------------------------------
def test_same_rows_give_the_same_bytes_however_they_are_cut(tmp_path, monkeypatch):
    blocks = [make_block(0, layer, [*HOSTILE, "\ud800"]) for layer in range(4)]
    first, second = (save(tmp_path / folder, blocks, manifest={"created": folder}) for folder in "ab")
    monkeypatch.setattr(results, "PART_ROWS", 7)
    third = save(tmp_path / "c", blocks)
    for fmt in ("csv", "json"):
        assert first[fmt].read_bytes() == second[fmt].read_bytes() == third[fmt].read_bytes()
    assert pq.read_table(first["parquet"]).equals(pq.read_table(third["parquet"]))


REPEATED = [  # one run, and the same again later, from elsewhere, on a busy machine
    {"created": "2025-01-01T00:00:00+00:00", "argv": ["--model", "/home/a"], "seconds": {"total": 1.5}},
    {"created": "2026-02-02T00:00:00+00:00", "config": "b.yaml", "seconds": {"total": 9.25}, "peak_memory_mb": 7.0},
]


@pytest.mark.parametrize("fmt", ALL)
def test_the_same_run_gives_the_same_bytes_again(tmp_path, fmt):
    blocks = [make_block(step, layer, HOSTILE) for step in range(2) for layer in range(3)]
    inputs = {"name": "run", "prompt": "é", "tokens": [{"position": 0, "text": "null"}]}
    first, second = (
        save(tmp_path / folder, blocks, manifest=inputs | told) for folder, told in zip("ab", REPEATED, strict=True)
    )
    assert first[fmt].read_bytes() == second[fmt].read_bytes()
    assert first["run"].read_bytes() != second["run"].read_bytes()


def test_only_the_manifest_has_the_keys_that_vary(tmp_path):
    whole = dict.fromkeys(VOLATILE, "told") | {"prompt": "p"}
    paths = save(tmp_path, [make_block()], manifest=whole)
    complete = json.loads(paths["run"].read_bytes())
    embedded = json.loads(pq.read_metadata(paths["parquet"]).metadata[b"mask_impact"])
    assert set(complete) - set(embedded) == set(VOLATILE) and embedded.items() <= complete.items()
    assert all(b"told" not in paths[fmt].read_bytes() for fmt in TABLES)


def test_parquet_is_compact_and_carries_the_manifest(tmp_path):
    tokens = [f"token {i % 50}" for i in range(500)]
    blocks = [make_block(0, layer, tokens, ["Full", "Attn", *map("Head_{}".format, range(14))]) for layer in range(40)]
    path = save(tmp_path, blocks, ["parquet"], manifest={"prompt": "é"})["parquet"]
    file = pq.ParquetFile(path)
    groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
    assert sum(group.num_rows for group in groups) == 320_000
    assert all(group.num_rows >= 100_000 for group in groups[:-1])
    columns = [groups[0].column(i) for i in range(len(COLUMNS))]
    assert {column.compression for column in columns} == {"SNAPPY"}
    assert [column.has_dictionary_page for column in columns] == [True] * 5 + [False] * 2
    assert file.schema_arrow.types == [pa.int64()] * 2 + [pa.string(), pa.int64(), pa.string()] + [pa.float32()] * 2
    manifest = json.loads(file.metadata.metadata[b"mask_impact"])
    beside = json.loads((tmp_path / "run_run.json").read_bytes())
    assert beside.pop("bytes") and beside.pop("checksums") and manifest == beside
    pd.testing.assert_frame_equal(pd.read_parquet(path), to_dataframe(blocks), check_exact=True)


def test_manifest_is_readable_and_true(tmp_path):
    given = {"rows": -1, "schema_version": 99, "prompt": "été\n", "peak": np.float32(0.5), "path": tmp_path}
    paths = save(tmp_path, [make_block()], ["json", "csv", "csv"], manifest=given)
    text = paths["run"].read_text("utf-8")
    manifest = json.loads(text)
    assert text.startswith('{\n  "schema_version": 1,\n') and '"été\\n"' in text
    assert (manifest["rows"], manifest["files"]) == (6, ["run_results.json", "run_results.csv"])
    assert (manifest["peak"], manifest["path"]) == (0.5, str(tmp_path))
    assert list(paths) == ["json", "csv", "run"] and names(tmp_path) == sorted(p.name for p in paths.values())


@pytest.mark.parametrize(("value", "error"), [(float("nan"), ValueError), (object(), TypeError)])
def test_a_manifest_that_is_not_json_replaces_nothing(tmp_path, value, error):
    save(tmp_path, [make_block(seed=1)])
    before = contents(tmp_path)
    with pytest.raises(error):
        save(tmp_path, [make_block(seed=2)], manifest={"noise_floor": value})
    assert contents(tmp_path) == before


# --- whole or not at all ----------------------------------------------------------------------------------
def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def save_seeded(folder, seed, formats):
    return save(folder, [make_block(0, layer, seed=seed) for layer in range(3)], formats, manifest={"seed": seed})


OLD, NEW = (1, ALL), (2, ("csv", "json"))
STEPS = 1 + len(OLD[1]) + 1 + len(NEW[1]) + 1  # old manifest, old results; all are away; new results, new manifest


def assert_one_run(folder, reference):
    """Every visible file is of one run; a manifest means that this run is complete."""
    found, old, new = contents_visible(folder), contents(reference / "old"), contents(reference / "new")
    is_old, is_new = (all(run.get(name) == data for name, data in found.items()) for run in (old, new))
    assert is_old or is_new, f"a mix of two runs: {sorted(found)}"
    if "run_run.json" in found:
        assert found in (old, new), f"a manifest beside an incomplete run: {sorted(found)}"


def contents_visible(folder) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in Path(folder).iterdir() if not p.name.startswith(".")}


@pytest.fixture
def reference(tmp_path):
    save_seeded(tmp_path / "old", *OLD)
    save_seeded(tmp_path / "new", *NEW)
    assert not set(contents(tmp_path / "old").values()) & set(contents(tmp_path / "new").values())
    return tmp_path


@pytest.mark.parametrize("stop", range(STEPS))
def test_a_failure_between_two_steps_puts_the_earlier_run_back(tmp_path, reference, stop):
    folder = tmp_path / "folder"
    save_seeded(folder, *OLD)
    calls = [os.replace, os.unlink]

    def stopped():
        raise OSError("stopped here")

    with pytest.raises(OSError, match="stopped here"):
        try:
            stop_before_step(stop, stopped)
            save_seeded(folder, *NEW)
        finally:
            os.replace, os.unlink = calls
    assert contents(folder) == contents(reference / "old")


def stop_before_step(stop: int, action) -> None:
    """Run `action` instead of the stop-th removal or renaming of a result file (clean-up has a dir_fd)."""
    steps = []

    def interposed(call):
        def step(*args, **kwargs):
            steps.append(kwargs)
            if sum("dir_fd" not in each for each in steps) == stop + 1 and "dir_fd" not in kwargs:
                action()
            return call(*args, **kwargs)

        return step

    os.replace, os.unlink = interposed(os.replace), interposed(os.unlink)


KILLED = """
    import os, sys
    sys.path[:0] = [{root!r}, {tests!r}]
    from test_results import NEW, save_seeded, stop_before_step
    stop_before_step({stop}, lambda: os._exit(9))
    save_seeded({folder!r}, *NEW)
"""


@pytest.mark.parametrize("stop", range(STEPS))
def test_a_killed_run_leaves_no_mix_and_the_next_run_puts_the_earlier_one_back(tmp_path, reference, stop):
    folder = tmp_path / "folder"
    save_seeded(folder, *OLD)
    code = KILLED.format(root=str(ROOT), tests=str(ROOT / "tests"), stop=stop, folder=str(folder))
    assert subprocess.run([*PREPARED, "-c", textwrap.dedent(code)], check=False).returncode == 9
    assert_one_run(folder, reference)
    assert ("run_run.json" in names(folder)) == (stop == 0)
    assert [name for name in names(folder) if name.startswith(".run_results.")]
    with output_folder(folder):
        assert contents(folder) == contents(reference / "old") | {LOCK_NAME: b""}
        save_seeded(folder, *NEW)
    assert contents(folder) == contents(reference / "new") | {LOCK_NAME: b""}


def test_leaving_without_commit_changes_nothing(tmp_path):
    save(tmp_path, [make_block(seed=1)])
    before = contents(tmp_path)
    with ResultFiles(tmp_path, "run", ALL) as files:
        files.write(make_block(seed=2))
        assert contents_visible(tmp_path) == before
    assert contents(tmp_path) == before
    with pytest.raises(KeyboardInterrupt), ResultFiles(tmp_path, "run", ALL) as files:
        raise KeyboardInterrupt
    assert contents(tmp_path) == before


def test_a_power_failure_cannot_reorder_the_steps(tmp_path, monkeypatch):
    save(tmp_path, [make_block()], ["json"])
    events, fsync, replace = [], os.fsync, os.replace

    def synced(file):
        events.append({os.fstat(file).st_ino})
        fsync(file)

    def moved(path, target):
        events.append((Path(path).name, path.stat().st_ino, {path.parent.stat().st_ino, target.parent.stat().st_ino}))
        replace(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", moved)
    save(tmp_path, [make_block()], ["csv", "json"])
    moves = [(place, *event) for place, event in enumerate(events) if isinstance(event, tuple)]
    out, into = ["run_run.json", "run_results.json", "leaving"], ["run_results.csv", "run_results.json", "run_run.json"]
    assert [name for _, name, _, _ in moves] == out + into
    for place, name, inode, folders in moves:
        after = events[place + 1 : place + 1 + len(folders)]
        assert set().union(*after) == folders, f"{name}: the folders are not synced before the next move"
        assert {inode} in events[:place] or name in out, f"{name} is moved before it is synced"


def test_a_single_text_is_whole_or_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "all_batch.json"
    write_text(path, "one\ud83d\n")
    assert path.read_bytes() == "one\ufffd\n".encode()
    monkeypatch.setattr(temporaries, "sync_file", lambda path: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        write_text(path, "two")
    assert contents(tmp_path) == {"all_batch.json": "one\ufffd\n".encode()}


@pytest.mark.parametrize("fmt", ALL)
def test_a_full_disk_is_an_error_and_leaves_the_old_run(tmp_path, fmt):
    save(tmp_path, [make_block(seed=1)])
    before = contents(tmp_path)
    blocks = [make_block(0, layer, ["t"] * 2000, ["Full"] * 20) for layer in range(5)]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))  # no file may grow larger: writing it fails
    try:
        with pytest.raises(OSError, match="File too large"):
            save(tmp_path, blocks, [fmt])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert contents(tmp_path) == before


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="file"):
        save(tmp_path / "file" / "output", [make_block()])
    assert names(tmp_path) == ["file"]


def test_only_results_of_this_name_are_found_and_replaced(tmp_path):
    save(tmp_path, [make_block()], ["parquet"], name="a")
    neighbours = [
        "a_results.xlsx",
        "a_results.csv.bak",
        "ab_results.csv",
        "a_b_run.json",
        "b_results.csv",
        "a.csv",
    ]
    for name in [*neighbours, "a_results.html"]:
        (tmp_path / name).write_text(name)
    assert [path.name for path in existing_files(tmp_path, "a")] == [
        *("a_run.json", "a_results.html", "a_results.parquet"),
    ]
    assert existing_files(tmp_path / "missing", "a") == existing_files(tmp_path, "c") == []
    save(tmp_path, [make_block()], ["csv"], name="a")
    assert names(tmp_path) == sorted([*neighbours, "a_results.csv", "a_run.json"])
    assert all((tmp_path / name).read_text() == name for name in neighbours)


@pytest.mark.parametrize("name", ["", ".", "a/b", "/a", "a/"])
def test_a_name_with_a_folder_is_refused(tmp_path, name):
    with pytest.raises(UserError, match="plain file name"):
        ResultFiles(tmp_path, name, ALL)


def test_an_unknown_format_is_refused_with_the_choices(tmp_path):
    with pytest.raises(UserError, match=r"'xlsx'.*csv, json, parquet"):
        ResultFiles(tmp_path, "run", ["csv", "xlsx"])


# --- size and speed ---------------------------------------------------------------------------------------
def large_blocks(count: int):
    tokens = [f"token {i % 300}" for i in range(1010)]
    block = make_block(0, 0, tokens, ["Full", "Attn", *(f"Head_{i}" for i in range(16))])
    for i in range(count):
        yield Block.of_l2_and_cosine(i // 28, i % 28, tokens, block.positions, block.variants, block.l2, block.cosine)


@pytest.mark.parametrize("fmt", ALL)
def test_memory_does_not_grow_with_the_number_of_blocks(tmp_path, fmt):
    save(tmp_path, large_blocks(1), [fmt])  # imports and caches
    peaks = []
    for count in (15, 60):
        tracemalloc.start()
        save(tmp_path, large_blocks(count), [fmt])
        peaks.append(tracemalloc.get_traced_memory()[1] / 1e6)
        tracemalloc.stop()
    print(f"{fmt}: peak {peaks[0]:.1f} MB for 0.3 M rows, {peaks[1]:.1f} MB for 1.1 M rows")
    assert peaks[1] < 30 and peaks[1] < peaks[0] + 5, peaks


def test_one_large_block_is_written_in_parts(tmp_path):
    tokens = [f"t{i}" for i in range(5000)]
    block = make_block(0, 0, tokens, [f"Head_{i}" for i in range(200)])  # 1 M rows, 54 MB of text
    tracemalloc.start()
    save(tmp_path, [block], ["csv", "json"])
    peak = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    assert peak < 50, f"{peak:.0f} MB"


def test_speed(tmp_path):
    rows = sum(block.rows for block in large_blocks(55))
    start = time.process_time()
    save(tmp_path, large_blocks(55), ["csv", "json"])
    seconds = time.process_time() - start
    print(f"{rows:,} rows to CSV and JSON: {seconds:.2f} s, {rows / seconds / 1e6:.1f} M rows/s")
    assert seconds < 6, f"{seconds:.1f} s for {rows:,} rows"


def test_importing_the_module_is_cheap():
    code = "import sys, mask_impact.files.results; print(*sorted({'pandas', 'pyarrow', 'torch'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


# --- documentation ----------------------------------------------------------------------------------------
def test_every_column_format_and_manifest_key_is_documented():
    text = (ROOT / "docs" / "output-format.md").read_text("utf-8")
    wanted = [*COLUMNS, *MANIFEST_KEYS, *(f"NAME_results.{fmt}" for fmt in FORMATS), "NAME_run.json"]
    wanted += [word for metric in METRICS.values() for word in (metric.name, metric.column)]
    assert [word for word in wanted if f"`{word}`" not in text] == []
