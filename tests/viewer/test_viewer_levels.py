"""Effects from coarse to fine (`--refine`), and in one head at a time (`--by-head`): what is shown, by pandas."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import expect
from viewer_page import Viewer
from viewer_runs import effect_table, effects_of, read_copied

HIGH, TOP = 20, 30  # pixels of the matrix: of a row, above the rows


def effects_table(folder: Path, name: str) -> pd.DataFrame:
    df = pd.read_csv(folder / f"{name}_effects.csv", keep_default_na=False)
    before = np.exp(df.logprob - df.logprob_change)
    return df.assign(fall=(before - np.exp(df.logprob)).abs(), size=df.logprob_change.abs())


def refined(folder: Path, name: str) -> pd.DataFrame:
    """Every unit with the place of its parent and how deep it is; in the order of the page, parts below wholes."""
    units = json.loads((folder / f"{name}_run.json").read_bytes())["effects"]["refine"]["units"]
    table = effects_table(folder, name)
    assert table.token_position.tolist() == [unit["positions"][0] for unit in units]
    parent = [-1 if unit["parent"] is None else unit["parent"] for unit in units]
    table = table.assign(parent=parent)
    place, depth = [], []

    def walk(whole: int, deep: int) -> None:
        for each in table[table.parent == whole].sort_values("size", ascending=False, kind="stable").index:
            place.append(each)
            depth.append(deep)
            walk(each, deep + 1)

    walk(-1, 0)
    return table.loc[place].assign(depth=depth)


def shown_rows(viewer: Viewer) -> int:
    return round((effects_of(viewer).locator("canvas").first.bounding_box()["height"] - TOP - 2) / HIGH)


@pytest.mark.parametrize("name", ["fine", "parts"])
def test_parts_are_below_what_they_are_parts_of(opened, reports, name):
    viewer = opened(reports / f"{name}_results.html")
    viewer.shows(name)
    wanted = refined(reports, name)
    table = effect_table(viewer)
    assert table.index.tolist() == wanted.token_position.tolist()
    for column in ("logprob", "logprob_change", "kl"):
        assert table[column].map(np.float32).tolist() == wanted[column].astype(np.float32).tolist()
    names = effects_of(viewer).locator("tbody th").all_inner_texts()
    assert [each.count("· ") for each in names] == wanted.depth.tolist()
    copied = read_copied(viewer, "Effects")
    assert copied.value.astype(np.float32).tolist() == wanted.logprob_change.astype(np.float32).tolist()
    assert copied.unit_level.tolist() == wanted.unit_level.tolist()


def visible_places(wanted: pd.DataFrame, opened: set[int], closed: set[int], fold: bool = True) -> list[int]:
    """Places of the rows on the screen: of a unit that was split its parts, if one of them changes the answer."""
    changes = wanted.fall >= 0.001

    def inside(place: int) -> bool:
        return any(changes[part] or inside(part) for part in wanted.index[wanted.parent == place])

    def rows(whole: int) -> list[int]:
        found = []
        for place in wanted.index[wanted.parent == whole]:
            if fold and not changes[place] and not inside(place):
                continue
            is_open = place in opened or (inside(place) and place not in closed)
            found += [place, *(rows(place) if is_open else [])]
        return found

    return rows(-1)


def test_parts_are_shown_and_hidden(opened, reports):
    viewer = opened(reports / "fine_results.html")
    viewer.shows("fine")
    wanted = refined(reports, "fine")
    first = visible_places(wanted, set(), set())
    assert len(wanted) > len(first) > 2
    assert shown_rows(viewer) == len(first)
    canvas = effects_of(viewer).locator("canvas").first
    canvas.click(position={"x": 60, "y": TOP + HIGH / 2})  # the name of the strongest one
    viewer.settle(2)
    assert shown_rows(viewer) == len(visible_places(wanted, set(), {first[0]})) < len(first)
    canvas.click(position={"x": 60, "y": TOP + HIGH / 2})
    viewer.settle(2)
    assert shown_rows(viewer) == len(first)
    canvas.click(position={"x": 300, "y": TOP + HIGH / 2})  # elsewhere it selects
    viewer.address(f"token={wanted.token_position[first[0]]}")
    assert shown_rows(viewer) == len(first)
    canvas.focus()
    viewer.key("Shift+Enter")
    viewer.settle(2)
    assert shown_rows(viewer) == len(visible_places(wanted, set(), {first[0]}))
    viewer.key("Shift+Enter")
    effects_of(viewer).get_by_role("button", name="p by less than 0.001").click()
    viewer.settle(2)
    assert shown_rows(viewer) == len(visible_places(wanted, set(), set(), fold=False)) > len(first)


def test_what_stands_for_its_parts_is_in_the_sentence(opened, reports):
    """No patch alone changes the answer, a quarter of the picture does: parts that can replace each other."""
    wanted = refined(reports, "parts")
    leaves = wanted[~wanted.index.isin(wanted.parent)]
    assert leaves.fall.max() < 0.001 < wanted.fall.max()
    size = wanted["size"]
    told = [place for place in wanted.index if size[place] > 3 * max(size[wanted.parent == place], default=0)]
    best = wanted.loc[told].sort_values("fall", ascending=False).iloc[0]
    viewer = opened(reports / "parts_results.html")
    viewer.shows("parts")
    expect(viewer.page.locator(".story")).to_contain_text(
        f"without {best.token_masked} ({best.token_position}) the answer is {best.top_token.strip()}"
    )


def test_without_the_manifest_what_was_split_is_left_out(viewer, reports):
    viewer.drop(reports / "fine_results.csv", reports / "fine_effects.csv")
    viewer.shows("fine")
    wanted = refined(reports, "fine")
    leaves = wanted[~wanted.index.isin(wanted.parent)].sort_values("size", ascending=False, kind="stable")
    assert sorted(effect_table(viewer).index) == sorted(leaves.token_position)
    expect(effects_of(viewer)).to_contain_text("larger units, which were split, are shown only with the manifest")


def test_heads_are_the_columns(opened, reports):
    df = effects_table(reports, "heads")
    viewer = opened(reports / "heads_results.html", fragment="order=position")
    viewer.shows("heads")
    table = effect_table(viewer)
    wide = df.pivot(index=["token_position", "first_layer"], columns="head", values="logprob_change")
    wide = wide.sort_index(level=["token_position", "first_layer"], ascending=[True, False])
    assert list(table.columns) == [f"head {head}" for head in wide.columns]
    assert table.index.tolist() == wide.index.get_level_values("token_position").tolist()
    assert table.map(np.float32).to_numpy().tolist() == wide.to_numpy(np.float32).tolist()
    layers = effects_of(viewer).locator("tbody tr").evaluate_all("(all) => all.map((row) => Number(row.dataset.layer))")
    assert layers == wide.index.get_level_values("first_layer").tolist()


def test_a_head_is_pointed_at_selected_and_named(opened, reports):
    df = effects_table(reports, "heads")
    best = df.loc[df.fall.idxmax()]
    viewer = opened(reports / "heads_results.html")
    viewer.shows("heads")
    name = f"head {best['head']} of layer {best.first_layer}"
    changed = df.groupby("token_position").fall.max() >= 0.001
    assert shown_rows(viewer) == df.first_layer.nunique() * int(changed.sum())
    expect(viewer.page.locator(".story")).to_contain_text(f"in {name} the answer is {best.top_token.strip()}")
    canvas = effects_of(viewer).locator("canvas").first
    width, layers = canvas.bounding_box()["width"], df.first_layer.nunique()
    left = min(230, width * 0.32)
    wide = min(84, (width - left - 2 - 210) / df["head"].nunique())
    row = layers - 1 - best.first_layer  # the last layer on top
    spot = {"x": left + (best["head"] + 0.5) * wide, "y": TOP + HIGH * (row + 0.5)}
    canvas.hover(position=spot)
    viewer.settle()
    said = effects_of(viewer).locator(".matrix__readout").inner_text()
    assert f"masked in {name}" in said
    change = float(f"{best['size']:.3g}")
    assert f"changed by −{change:g}" in said
    canvas.click(position=spot)
    viewer.address(f"token={best.token_position}")
    viewer.address(f"layer={best.first_layer}")
