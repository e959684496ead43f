"""Files dropped on the page: every number as pandas has it, files that belong together, and files that are none."""

import io
import re

import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import expect
from viewer_page import Viewer, most_frequent
from viewer_runs import METRICS, PAGE, ROOT, Run

from mask_impact.files.notebook import write_report

# --- numbers, in every format ----------------------------------------------------------------------------
FORMATS = ("csv", "json", "json.gz", "parquet")


def assert_all_numbers(viewer: Viewer, run: Run) -> None:
    """Every cell of every metric, variant and step, float32 for float32."""
    states = run.states()
    read = viewer.numbers_in([{"metric": m, "variant": v, "step": s, "runs": "[0,1]"} for m, v, s in states])
    for (metric, variant, step), (caption, cells) in zip(states, read, strict=True):
        assert f"step {step + 1}: {METRICS[metric]} of {variant.replace('_', ' ')};" in caption
        assert cells == run.cells(metric, variant, step), (metric, variant, step)


@pytest.mark.parametrize(
    ("name", "kind"), [*(("talk", kind) for kind in FORMATS), *(("both", kind) for kind in ("csv", "parquet", "html"))]
)
def test_every_number_is_that_of_pandas(viewer, runs, name, kind):
    run = runs[name]
    if (name == "talk") == (kind in ("csv", "parquet")):  # each format once in each way
        viewer.pick(run.file(kind))
    else:
        viewer.drop(run.file(kind))
    viewer.shows(name)
    assert_all_numbers(viewer, run)


def test_a_report_opens_by_itself(opened, runs, tmp_path):
    """As it is written beside the other formats, with its picture; the page has read nothing but itself."""
    run = runs["both"]
    report = run.file("html")
    if PAGE != ROOT / "visualize_results.html":
        report = write_report(tmp_path / "both_results.html", run.df, run.manifest, page=PAGE)
    viewer = opened(report)
    viewer.shows("both")
    assert_all_numbers(viewer, run)
    viewer.go(opacity=0)
    canvas = viewer.page.locator(".picture-frame canvas")
    assert len({*most_frequent(canvas, [(x, y, 2, 2) for x in (20, 150, 300) for y in (20, 150, 300)])}) > 1


def test_numbers_by_controls(talk, runs):
    """The same with the controls that a reader uses, once around."""
    run = runs["talk"]
    talk.open_numbers()
    for metric, button in (("cosine", "Cosine"), ("l2", "L2")):
        talk.choose("Metric", button)
        for variant in ("Head_7", "Attn"):
            talk.variant(variant)
            for step in (1, 0) if variant == "Attn" else (1, 2, 1, 0):
                buttons = talk.page.get_by_role("group", name="Generation step")
                name = "Previous step" if f"Step {step + 2}" in buttons.inner_text() else "Next step"
                buttons.get_by_role("button", name=name).click()
                talk.settle()
                assert f"Step {step + 1} of 3" in buttons.inner_text()
                assert talk.numbers()[1] == run.cells(metric, variant, step)


def test_words_around_the_numbers(talk, runs):
    manifest = runs["talk"].manifest
    header = talk.page.locator("header")
    expect(header).to_contain_text("demo")
    expect(header).to_contain_text("4 layers × 8 heads")
    first = manifest["generated"][0]
    chosen = talk.page.locator(".answer-chip[aria-pressed=true]")
    expect(chosen).to_have_text(first["text"].strip())
    expect(talk.page.locator(".story strong").first).to_have_text(first["text"].strip())
    talk.key("]")
    expect(chosen).to_have_text(manifest["generated"][1]["text"].strip())
    talk.page.get_by_role("button", name=f"Output token ␣{first['text'].strip()}").click()
    expect(chosen).to_have_text(first["text"].strip())
    assert "talk" in talk.page.title()


# --- files that belong together, and files that do not ---------------------------------------------------


def test_a_manifest_may_come_first_or_last(opened, runs):
    run = runs["both"]
    first, last = opened(), opened()
    first.drop(run.file("run"))
    first.message("both_run.json is the manifest of a run; its numbers are in")
    first.drop(run.file("csv"))
    last.drop(run.file("csv"))
    last.shows("both")
    expect(last.page.locator("header")).to_contain_text("no manifest")
    assert not last.page.get_by_role("heading", name="Picture").is_visible()
    last.drop(run.file("run"))
    for viewer in (first, last):
        viewer.shows("both")
        expect(viewer.page.locator("header")).to_contain_text("demo")
        expect(viewer.page.get_by_role("heading", name="Picture")).to_be_visible()
        assert not viewer.page.get_by_text("is the manifest of a run").is_visible()


def test_a_bare_table_shows_a_grid_and_takes_the_picture_later(viewer, runs):
    run = runs["both"]
    viewer.drop(run.file("csv"), run.file("run"))
    viewer.shows("both")
    canvas = viewer.page.locator(".picture-frame canvas")
    expect(viewer.page.get_by_text("The picture is not in these files: drop testimg.png")).to_be_visible()
    assert not viewer.page.get_by_label("Colour over picture").is_visible()
    before = canvas.screenshot()
    viewer.drop(ROOT / "testimg.png")
    expect(viewer.page.get_by_text("The picture is not in these files")).to_be_hidden()
    expect(viewer.page.get_by_label("Colour over picture")).to_be_visible()
    viewer.settle(2)
    assert canvas.screenshot() != before


def test_the_same_run_twice_is_shown_once(talk, runs):
    talk.drop(runs["talk"].file("json"))
    talk.message("talk_results.json holds the same run as talk_results.csv; it is shown once.")
    assert not talk.page.get_by_label("Loaded runs").is_visible()


def without_column(data: bytes) -> bytes:
    table = pd.read_csv(io.BytesIO(data), keep_default_na=False)
    return table.drop(columns="layer").to_csv(index=False).encode()


WRONG = {
    "notes.txt": (lambda run: b"just some words\n", "generation_step"),
    "empty_results.csv": (lambda run: b"", "the file is empty"),
    "cut_results.csv": (lambda run: run.file("csv").read_bytes()[:5000].rpartition(b",")[0], "line"),
    "cut_results.json": (lambda run: run.file("json").read_bytes()[:5000], "ends"),
    "cut_results.parquet": (lambda run: run.file("parquet").read_bytes()[:5000], "Parquet"),
    "tail_results.parquet": (lambda run: run.file("parquet").read_bytes()[5000:], ""),
    "less_results.csv": (lambda run: without_column(run.file("csv").read_bytes()), "column layer is missing"),
    "words_results.json": (lambda run: b'{"a": [1, 2]}', "missing"),
    "half_results.json.gz": (lambda run: run.file("json.gz").read_bytes()[:3000], ""),
    "number_results.csv": (lambda run: run.file("csv").read_bytes().replace(b",0,Full,", b",zero,Full,", 1), "line 2"),
    "page.html": (lambda run: b"<!doctype html><title>x</title>", "this page has no results inside"),
}


@pytest.fixture(scope="module")
def with_talk(opened_once, runs) -> Viewer:
    viewer = opened_once()
    viewer.drop(runs["talk"].file("csv"))
    viewer.shows("talk")
    return viewer


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_result_is_said_and_what_was_there_stays(with_talk, runs, name):
    make, words = WRONG[name]
    with_talk.drop((name, make(runs["talk"])))
    found = with_talk.message(re.compile(f"^{re.escape(name)}: "))
    assert words in found.inner_text()
    with_talk.shows("talk")
    assert with_talk.numbers()[1] == runs["talk"].cells()
    found.get_by_role("button", name="Dismiss").click()
    expect(found).to_be_hidden()


def test_good_and_wrong_files_together(viewer, runs):
    viewer.pick(
        {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no results\n"},
        *(
            {"name": runs[n].file("csv").name, "mimeType": "", "buffer": runs[n].file("csv").read_bytes()}
            for n in ("talk", "short")
        ),
    )
    viewer.message(re.compile("^notes.txt: "))
    viewer.shows("talk", "short")
    for name in ("short", "talk"):
        viewer.page.get_by_title(f"Show only {name}").click()
        viewer.shows(name)
        assert viewer.numbers()[1] == runs[name].cells()
    viewer.page.get_by_role("button", name="Remove short").click()
    expect(viewer.page.get_by_label("Loaded runs")).to_be_hidden()


def test_other_tools_tables(viewer, runs):
    """Extra and reordered columns, records, dictionary columns: as pandas and others write them."""
    run = runs["talk"]
    df = run.df[run.df.columns[::-1].tolist()].assign(extra="x", model=1.5)
    parquet = io.BytesIO()
    df.astype({"variant": "category", "token_masked": "category"}).to_parquet(parquet, index=False)
    files = {
        "a_results.csv": df.to_csv(index=False).encode(),
        "b_results.json": df.to_json(orient="records", double_precision=15).encode(),
        "c_results.parquet": parquet.getvalue(),
    }
    for name, data in files.items():
        viewer.drop((name, data))
        viewer.shows(name[0])
        _, cells, _ = viewer.numbers()
        wanted = run.cells()
        assert cells.keys() == wanted.keys()
        np.testing.assert_allclose([cells[key] for key in wanted], list(wanted.values()), rtol=0, atol=1e-14)
