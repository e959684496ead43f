"""Several kinds of files about one picture: tabs, and what they tell of one patch side by side."""

import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import expect
from viewer_page import Viewer
from viewer_runs import LENS, ROOT

from mask_impact.files.results import read_csv

PARTS = ("results.csv", "run.json", "effects.csv")


@pytest.fixture
def three(viewer, reports, said) -> Viewer:
    """A masking run with effects, one of the vision tower, and neighbours of image tokens."""
    tower = [reports / f"tower_{name}" for name in PARTS[:2]]
    viewer.drop(*tower, *(reports / f"parts_{name}" for name in PARTS), ROOT / "testimg.png")
    viewer.shows("parts")
    viewer.drop(said.file("json"), said.file("run"))
    expect(viewer.page.get_by_role("region", name=LENS)).to_be_visible()
    return viewer


def tabs(viewer: Viewer) -> dict[str, bool]:
    found = viewer.page.get_by_role("navigation", name="What is shown of this prompt").get_by_role("button")
    return dict(found.evaluate_all("(all) => all.map((each) => [each.textContent, each.ariaCurrent === 'true'])"))


def test_a_tab_for_each_kind(three):
    page, lens = three.page, three.page.get_by_role("region", name=LENS)
    prompt, grid = page.get_by_role("region", name="Prompt"), page.get_by_role("grid").first
    assert tabs(three) == {
        "All": True, "Impact and effects": False, "Vision tower": False, "What image tokens say": False
    }  # fmt: skip
    expect(grid).to_be_visible()
    for name, title, part, shown, gone in (
        ("What image tokens say", "m: what image tokens say", "tab=lens", lens, grid),
        ("Vision tower", "tower", "tab=runs", prompt, lens),
        ("Impact and effects", "parts", "tab=runs", grid, lens),
    ):
        page.get_by_role("button", name=name, exact=True).click()
        three.address(part)
        three.shows(title)
        expect(shown).to_be_visible()
        expect(gone).not_to_be_visible()
        assert [each for each, chosen in tabs(three).items() if chosen] == [name]
        assert page.get_by_role("button", name="Open files…").count() == 1
    page.get_by_role("button", name="All", exact=True).click()
    expect(lens).to_be_visible()
    expect(grid).to_be_visible()


def test_one_kind_has_no_tabs(picture, opened, said):
    assert not picture.page.get_by_role("navigation").is_visible()
    alone = opened(said.folder / "m_neighbors.html")
    expect(alone.page.get_by_role("region", name=LENS)).to_be_visible()
    assert not alone.page.get_by_role("navigation").is_visible()


def test_a_patch_has_its_neighbours_beside_its_impact_and_effect(three, reports, said):
    position, layer = 9, 2
    three.page.get_by_role("button", name="Impact and effects", exact=True).click()
    three.go(tab="runs", runs="[1]", token=position, layer=layer)
    box = three.page.get_by_role("region", name="Selection")
    terms = box.locator("dt").all_inner_texts()
    facts = dict(zip(terms, box.locator("dd").all_inner_texts(), strict=True))

    near = said.df[(said.df.token_position == position) & (said.df.layer == layer) & (said.df.kind == "merged")]
    words = [f"{row.neighbor_token.strip()} ({float(f'{row.similarity:.3g}'):g})" for row in near.head(3).itertuples()]
    assert facts[f"Nearest text in layer {layer}, all bank layers"] == ", ".join(words)

    tower = read_csv(reports / "tower_results.csv").query("variant == 'Full' and token_position == @position")
    root = np.sqrt((tower.l2_distance.astype(float) ** 2).sum())
    peak = tower.layer[tower.l2_distance.idxmax()]
    assert facts["Read in the vision tower"] == f"L2 distance {float(f'{root:.3g}'):g}, most in layer {peak}"

    effects = pd.read_csv(reports / "parts_effects.csv", keep_default_na=False)
    unit = effects[effects.token_position == position].sort_values("unit_level").iloc[-1]
    assert facts["Answer without it"].endswith(f", then {unit.top_token.strip()}")
    full = read_csv(reports / "parts_results.csv").query(
        "variant == 'Full' and token_position == @position and layer == @layer"
    )
    assert np.float32(facts["L2 distance, Full"]) == full.l2_distance.iloc[0]
