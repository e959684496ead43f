"""The index of a folder of runs, and what the page says first about one of them."""

import json
import re

import numpy as np
import pytest
from playwright.sync_api import expect

from mask_impact.files.index_page import write_index

UNITS = {"subject": [-3.0, -2.0, -4.0], "relation": [-0.5, 0.25, -0.125]}  # changes of the log-probability


def row(name: str, place: int, **more) -> dict:
    units = [{"name": unit, "read": 10.0 * (place + 1), "effect": all_[place]} for unit, all_ in UNITS.items()]
    return {
        "name": name, "report": f"{name}_results.html", "prompt": f"The capital of <b>{name}</b> is",
        "answer": f" {name}", "probability": 0.5, "model": "demo", "metric": "L2 distance", "units": units,
        "by_layer": [1.0, 3.0, 2.0],
        "top": {"text": "' capital'@1", "layer": place, "value": 5.0},
        "effect": {"text": "'subject'@3", "before": 0.9, "after": 0.1 * place, "then": " no", "least": 0.001}, **more,
    }  # fmt: skip


ROWS = [row("Rome", 0), row("Paris", 1, effect=None), row("Oslo", 2, effect={"text": None, "least": 0.001})]


@pytest.fixture
def index(opened, tmp_path):
    write_index(tmp_path / "index.html", "runs", ROWS)
    return opened(tmp_path / "index.html")


def names(viewer) -> list[str]:
    return viewer.page.locator(".index-runs tbody th").all_inner_texts()


def test_every_run_is_a_row_that_is_searched_and_sorted(index):
    page = index.page
    expect(page.locator("h1:visible")).to_have_text("runs")
    assert names(index) == ["Rome", "Paris", "Oslo"]
    cells = page.locator(".index-runs tbody tr").first.locator("td").all_inner_texts()
    wanted = ["The capital of <b>Rome</b> is", "Rome", "capital (1) layer 0", "subject (3) 90 % → 0 % then no", ""]
    assert cells[1:] == wanted
    effects = [each.locator("td").nth(4).inner_text() for each in page.locator(".index-runs tbody tr").all()]
    assert effects[1:] == ["not measured", "no unit changes p by 0.001"]
    assert page.get_by_role("link", name="Paris").get_attribute("href") == "Paris_results.html"
    page.get_by_role("button", name="name").click()
    assert names(index) == ["Oslo", "Paris", "Rome"]
    page.get_by_role("button", name="name").click()
    assert names(index) == ["Rome", "Paris", "Oslo"]
    page.get_by_role("searchbox", name="Search runs").fill("capital osl")
    assert names(index) == ["Oslo"]
    expect(page.get_by_text("1 of 3 runs")).to_be_visible()


def test_means_over_prompts_have_intervals(index):
    found = index.page.locator(".index-means tbody tr").all_inner_texts()
    for line, (unit, values) in zip(found, UNITS.items(), strict=True):
        half = 4.303 * np.std(values, ddof=1) / np.sqrt(3)  # Student's t, two degrees of freedom
        numbers = [float(each) for each in re.findall(r"[\d.]+", line.replace("−", "-"))]
        assert line.startswith(unit)
        assert numbers[:3] == [pytest.approx(abs(np.mean(values)), rel=0.01), pytest.approx(half, rel=0.01), 3]
        assert numbers[3] == 20  # what is read: 10, 20, 30


def test_two_are_chosen_to_be_compared(index):
    page = index.page
    button = page.get_by_role("button", name="Compare two")
    for name in ("Rome", "Oslo"):
        assert button.is_disabled()
        page.get_by_role("checkbox", name=f"Compare {name}").check()
    with page.expect_file_chooser() as chooser:
        button.click()
    assert chooser.value.is_multiple()
    expect(page.get_by_text("Choose the folder of these runs")).to_be_visible()


def test_a_batch_dropped_on_the_page_is_the_same_table(viewer):
    batch = {"schema_version": 1, "prompts": [], "processes": 1, "index": ROWS}
    viewer.drop(("few_batch.json", json.dumps(batch).encode()))
    expect(viewer.page.locator("h1:visible")).to_have_text("few")
    assert names(viewer) == ["Rome", "Paris", "Oslo"]
    assert viewer.page.get_by_role("link").count() == 0  # the page does not lie beside the reports
    viewer.drop(("old_batch.json", json.dumps({"prompts": [], "processes": 1, "seconds": 1}).encode()))
    viewer.message("old_batch.json: this batch was written before batches had an index")


def test_the_first_sentence_says_what_is_read(talk, runs):
    """The two tokens that are read most, each in the layer where it is largest: of pandas."""
    full = runs["talk"].df.query("variant == 'Full' and generation_step == 0 and token_position > 0")
    root = full.l2_distance.astype(float).pow(2).groupby(full.token_position).sum().pow(0.5)
    best = root[root >= root.max() / 3].nlargest(3).index
    peaks = full.loc[full[full.token_position.isin(best)].groupby("token_position").l2_distance.idxmax()]
    said = talk.page.locator(".story").inner_text()
    wanted = [
        f"layer {p.layer} reads {p.token_masked.strip()} ({p.token_position})"
        for p in peaks.sort_values("layer").itertuples()
    ]
    assert said == f"To say blue: {', '.join(wanted)}."
    selected = peaks[peaks.token_position == root.idxmax()].iloc[0]
    assert f"Layer {selected.layer}, token" in talk.readout()  # it is selected from the start
    assert f"at position {selected.token_position}" in talk.readout()


def test_the_numbers_are_beside_the_pointer(talk):
    grid = talk.grid()
    said = grid.hover(1, 4)
    tip = talk.page.locator(".tip")
    expect(tip).to_have_text(said)
    box = tip.bounding_box()
    x, y = grid.centre(1, 4)
    assert abs(box["x"] - x) < 40 and abs(box["y"] - y) < 40
    grid.leave()
    expect(tip).to_be_hidden()
