"""What the answer needs of the image features that are added between decoder layers: what is shown, by pandas."""

import re

import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import expect
from viewer_page import Viewer
from viewer_runs import read_copied

ALL = "all image tokens"


@pytest.fixture(scope="module")
def added(reports) -> pd.DataFrame:
    kinds = {"injection": str, "vision_layer": str, "decoder_layer": str, "logprob_change": np.float32}
    return pd.read_csv(reports / "deep_deepstack.csv", keep_default_na=False, dtype=kinds)


def shown_sets(viewer: Viewer) -> list[tuple[str, str, str, str, np.float32, str]]:
    rows = viewer.page.get_by_role("region", name="DeepStack").locator("tbody tr")
    return [
        (injection, action, cells[0], cells[1], np.float32(exact), cells[-1])
        for injection, action, cells, exact in rows.evaluate_all(
            "(all) => all.map((row) => [row.dataset.injection, row.dataset.action, "
            "[...row.cells].slice(1).map((each) => each.textContent), row.querySelector('[title]').title])"
        )
    ]


@pytest.mark.parametrize("kind", ["html", "csv", "json", "parquet"])
def test_sets_of_injections_are_those_of_the_table(opened, reports, added, kind):
    if kind == "html":
        viewer = opened(reports / "deep_results.html")
    else:
        viewer = opened()
        viewer.drop(reports / f"deep_deepstack.{kind}")
        viewer.message(
            f"deep_deepstack.{kind} holds effects on the answer; the results of their run are in deep_results"
        )
        viewer.drop(reports / "deep_results.csv", reports / "deep_run.json", reports / "deep_effects.csv")
    viewer.shows("deep")
    whole = added[added.token_masked == ALL]
    columns = ["injection", "action", "vision_layer", "decoder_layer", "logprob_change", "top_token"]
    assert shown_sets(viewer) == list(whole[columns].itertuples(index=False, name=None))
    strongest = whole[whole.action == "removed"].set_index("injection").logprob_change.abs().idxmax()
    expect(viewer.page.get_by_role("region", name="DeepStack")).to_contain_text(f"Most without {strongest}:")


def test_small_maps_are_of_every_injection_and_one_colours_the_picture(opened, reports, added):
    viewer = opened(reports / "deep_results.html", fragment="token=25")
    viewer.shows("deep")
    viewer.settle(3)
    box = viewer.page.get_by_role("region", name="DeepStack")
    levels = sorted(set(added[added.token_masked != ALL].injection))
    label = box.get_by_role("img").get_attribute("aria-label")
    assert label.endswith(": " + ", ".join(f"{each} (vision layer {each})" for each in levels))
    single = added[added.token_masked != ALL]
    copied = read_copied(viewer, "DeepStack")
    assert copied.injection.astype(str).tolist() == single.injection.tolist()
    assert copied.token_position.tolist() == single.token_position.tolist()
    assert copied.value.astype(np.float32).tolist() == single.logprob_change.tolist()
    for place, level in enumerate(levels):
        if place:
            box.get_by_role("slider", name="Injection").fill(str(place + 1))
        else:
            box.get_by_role("img").click(position={"x": 20, "y": 20})  # the first map
        viewer.address(f"injection={place}")
        here = single[single.injection == level].set_index("token_position").logprob_change
        picture = read_copied(viewer, "Picture").set_index("token_position").value.astype(np.float32)
        assert picture.to_dict() == here.to_dict()
        expect(viewer.page.get_by_role("region", name="Picture")).to_contain_text(
            f"log-probability without DeepStack injection {level} (vision layer {level}, added after decoder layer"
        )
    viewer.page.get_by_label("Colour by").select_option(label="single-layer impact")
    expect(viewer.page).not_to_have_url(re.compile("injection"))


def test_injections_are_played(opened, reports):
    viewer = opened(reports / "deep_results.html")
    viewer.shows("deep")
    viewer.page.get_by_role("button", name="Play injections").click()
    viewer.address("injection=1")  # the last one
    expect(viewer.page.get_by_role("button", name="Play injections")).to_be_visible()


def test_without_injections_nothing_of_them_is_shown(picture):
    assert not picture.page.get_by_role("region", name="DeepStack").is_visible()
    assert picture.export_menu().get_by_text("DeepStack").count() == 0
