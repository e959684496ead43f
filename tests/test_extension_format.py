"""A format that is added from outside: tab-separated text, from this file alone.

A command with --format tsv writes it, `load` reads it, the manifest lists it, and --overwrite removes it.

pytest tests/test_extension_format.py
"""

import csv
import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from prepared import PREPARED
from test_results import ALL, make_block, names, save

import mask_impact_analysis
from mask_impact.files.columns import columns_of
from mask_impact.files.formats import FORMATS, Format, bytes_needed, register
from mask_impact.files.results import existing_files, load, load_many, to_dataframe
from mask_impact.table import FORMAT_NAMES, Block

ROOT = Path(__file__).parents[1]


class TsvWriter:
    """Rows as Python's csv module writes them."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("w", encoding="utf-8", newline="")
        self.rows = csv.writer(self.file, delimiter="\t", lineterminator="\n")
        self.header: list[str] = []

    def write(self, block: Block) -> None:
        if not self.header:
            self.header = list(columns_of(block))
            self.rows.writerow(self.header)
        for token, position, values in zip(block.tokens, block.positions, block.values, strict=True):
            for variant, numbers in zip(block.variants, values, strict=True):
                where = [block.generation_step, block.layer, token, position, variant]
                self.rows.writerow([*where, *map(str, numbers)])

    def prepare(self, pictures: Any, others: Sequence[str], tables: Mapping[str, Any] | None = None) -> None:
        return None

    def finish(self, manifest: dict[str, Any]) -> None:
        self.file.flush()

    def close(self) -> None:
        self.file.close()


def read_tsv(path: Path) -> tuple[pa.Table, None]:
    df = pd.read_csv(path, sep="\t", keep_default_na=False, dtype={"token_masked": str})
    return pa.Table.from_pandas(df, preserve_index=False), None


def write_side_tsv(path: Path, columns: dict[str, Any], manifest: dict[str, Any]) -> None:
    pd.DataFrame(columns).to_csv(path, sep="\t", index=False)


TSV = Format("tsv", TsvWriter, read_tsv, bytes_per_row=80, bytes_per_file=7, side_tables=write_side_tsv)


@pytest.fixture
def tsv() -> Iterator[None]:
    """The format, for one test."""
    register(TSV)
    yield
    del FORMATS["tsv"]
    FORMAT_NAMES.remove("tsv")


@pytest.mark.usefixtures("tsv")
def test_it_is_written_listed_read_and_removed(tmp_path: Path) -> None:
    blocks = [make_block(step, layer, ["007", "a\tb", "null", ""]) for step in range(2) for layer in (0, 3)]
    paths = save(tmp_path, blocks, ["tsv"])
    assert json.loads(paths["run"].read_bytes())["files"] == ["run_results.tsv"]
    want = to_dataframe(blocks)
    for path in paths.values():
        pd.testing.assert_frame_equal(load(path), want, check_exact=True)
    assert load_many(tmp_path)["name"].unique().tolist() == ["run"]
    assert existing_files(tmp_path, "run") == [tmp_path / "run_run.json", tmp_path / "run_results.tsv"]
    save(tmp_path, blocks, ["csv"])
    assert names(tmp_path) == ["run_results.csv", "run_run.json"]


@pytest.mark.usefixtures("tsv")
def test_it_is_one_of_all_formats() -> None:
    assert FORMAT_NAMES == list(FORMATS) == [*ALL, "tsv"]
    assert bytes_needed(10, ["tsv"]) == 807 and bytes_needed(10, ["tsv"], metrics=4) == 1607
    assert bytes_needed(10, ["csv", "tsv"]) == 807 + bytes_needed(10, ["csv"])


def test_it_is_gone_after_the_test(tmp_path: Path) -> None:
    """What the tests above add does not stay; a file of an unknown format is never touched."""
    assert FORMAT_NAMES == list(FORMATS) == list(ALL)
    (tmp_path / "run_results.tsv").write_text("mine")
    save(tmp_path, [make_block()], ["csv"])
    assert (tmp_path / "run_results.tsv").read_text() == "mine"


COMMAND = """
import sys
sys.path[:0] = [{root!r}, {tests!r}]
from test_extension_format import TSV
from mask_impact.files.formats import register
register(TSV)
from mask_impact_analysis import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.usefixtures("tsv")
def test_a_command_takes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A script of one's own that registers the format and hands over to ours."""
    code = COMMAND.format(root=str(ROOT), tests=str(ROOT / "tests"))
    few = ["--model", "demo", "--device", "cpu", "--layers", "1", "--variants", "full", "--quiet"]
    flags = [*few, "--output-dir", str(tmp_path), "--output", "run", "--prompt", "The capital of France is"]
    command = [*PREPARED, "-c", code, *flags, "--format", "csv,tsv", "--pairs", "2"]
    first = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stderr
    found = json.loads((tmp_path / "run_run.json").read_bytes())
    assert found["files"] == ["run_results.csv", "run_results.tsv"] and "run_pairs.tsv" in found["tables"]
    pd.testing.assert_frame_equal(load(tmp_path / "run_results.tsv"), load(tmp_path / "run_results.csv"))
    pairs = [pd.read_csv(tmp_path / f"run_pairs.{end}", sep=sep) for end, sep in (("csv", ","), ("tsv", "\t"))]
    pd.testing.assert_frame_equal(*pairs)
    assert mask_impact_analysis.main([*flags, "--format", "csv", "--overwrite"]) == 0
    assert not list(tmp_path.glob("*.tsv"))
    with pytest.raises(SystemExit):
        mask_impact_analysis.main([*flags, "--format", "xlsx"])
    assert "tsv" in capsys.readouterr().err
