"""Several runs next to each other, and their difference."""

import json
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import expect
from viewer_page import Scale, alike, shown_number
from viewer_runs import Run, assert_colours, by_token, compare, difference, largest, template


def mismatches(first: Run, second: Run) -> tuple[int, int]:
    everywhere = first.tokens.keys() | second.tokens.keys()
    return sum(first.tokens.get(p) != second.tokens.get(p) for p in everywhere), len(everywhere)


@pytest.mark.parametrize(("one", "other"), [("both", "text"), ("vision", "both"), ("talk", "short")])
def test_difference_is_that_of_pandas(viewer, runs, one, other):
    first, second = runs[one], runs[other]
    compare(viewer, first, second)
    viewer.choose("Compare", "difference")
    viewer.shows(one, other)
    for metric, variant, step in (("l2", "Full", 0), ("cosine", "Head_1", 1)):
        viewer.go(runs="[0,1]", compare="difference", metric=metric, variant=variant, step=step)
        caption, cells, _ = viewer.numbers()
        wanted = difference(first, second, metric, variant, step)
        assert f"{other} − {one}" in caption
        assert cells == wanted
        end = max((abs(float(value)) for (position, _), value in wanted.items() if position), default=0)
        assert f"from −{shown_number(end)} to {shown_number(end)}" in viewer.scale()
    lost, everywhere = mismatches(first, second)
    assert lost
    assert f"{lost} of {everywhere} positions do not match" in viewer.text(".heatmap-notes")
    viewer.page.get_by_role("button", name="swap").click()
    viewer.shows(other, one)
    assert viewer.numbers()[1] == difference(second, first, "cosine", "Head_1", 1)


def test_colours_of_a_difference(viewer, runs):
    first, second = runs["talk"], runs["short"]
    compare(viewer, first, second)
    viewer.go(runs="[0,1]", compare="difference")
    cells = difference(first, second)
    end = max(abs(float(value)) for (position, _), value in cells.items() if position)
    grid = viewer.grid()
    assert grid.columns == len(first.tokens)
    assert_colours(viewer, grid, cells, lambda *_: Scale(end, signed=True), first)
    assert any(value < 0 for value in cells.values()) and any(value > 0 for value in cells.values())


def test_runs_side_by_side_share_scale_selection_and_scrolling(viewer, runs):
    three = [runs[name] for name in ("text", "vision", "both")]
    compare(viewer, *three)
    viewer.shows("text", "vision", "both")
    assert viewer.page.get_by_role("grid").count() == 3
    end = max(largest(run.cells()) for run in three)
    assert f"to {shown_number(end)}" in viewer.scale()
    viewer.key("Escape")  # what is selected is read where no cell is pointed at
    grid = viewer.grid(2)
    grid.click(1, 25)
    assert "text: L2" in viewer.readout() and "both: L2" in viewer.readout() and "vision: " in viewer.readout()
    for panel in range(3):
        label = viewer.page.get_by_role("grid").nth(panel).get_by_role("gridcell").text_content()
        assert "layer 2, token ␣circle at position 25" in label
    viewer.page.set_viewport_size({"width": 500, "height": 900})
    viewer.settle(3)
    scroll = viewer.page.locator(".heatmap-scroll")
    scroll.nth(0).evaluate("(each) => each.scrollTo(120, 0)")
    viewer.settle(3)
    assert scroll.evaluate_all("(all) => all.map((each) => each.scrollLeft)") == [120, 120, 120]


def changed(run: Run, folder: Path) -> Run:
    """The same run with other numbers, a token less and another one in the place of one."""
    df = run.df[run.df.token_position != 21].copy()
    rng = np.random.default_rng(0)
    df["l2_distance"] = (df.l2_distance * rng.lognormal(0, 1, len(df))).astype(np.float32)
    df.loc[df.token_position == 25, "token_masked"] = " square"
    tokens = [{**each, "text": " square"} if each["position"] == 25 else each for each in run.manifest["tokens"]]
    made = Run(folder, "changed", df, {**run.manifest, "name": "changed", "tokens": tokens})
    df.to_csv(made.file("csv"), index=False)
    made.file("run").write_text(json.dumps(made.manifest))
    return made


@pytest.mark.parametrize(("one", "other"), [("talk", "short"), ("both", "changed"), ("both", "vision")])
def test_prompt_and_ranking_show_the_difference(viewer, runs, tmp_path, one, other):
    """Signed, on the diverging scale, by size, and the sign also in words; what does not match has no value."""
    first = runs[one]
    second = changed(first, tmp_path) if other == "changed" else runs[other]
    compare(viewer, first, second)
    viewer.choose("Compare", "difference")
    same = {p for p, text in first.tokens.items() if second.tokens.get(p) == text}
    wanted = (by_token(second) - by_token(first)).reindex(sorted(same)).dropna()
    by_size = wanted.drop(0, errors="ignore").abs().sort_values(ascending=False, kind="stable").index.tolist()
    ranking = viewer.page.get_by_role("region", name="Most read tokens")
    images = {p for p, kind in ((t["position"], t["kind"]) for t in first.manifest["tokens"]) if kind == "image"}
    kinds = {0: set(first.tokens) - images - template(first), 1: images, 2: template(first)}
    for place, kind in kinds.items():
        expected = [p for p in by_size if p in kind]
        buttons = ranking.locator("ol").nth(place).locator(".ranking__token:visible")
        assert buttons.count() == min(3 if place == 2 else 10, len(expected))
        for button, position in zip(buttons.all(), expected, strict=False):
            value = wanted[position]
            text = button.text_content()
            sign, words = (
                ("", "the same in both")
                if value == 0
                else ("+", f"more in {other}")
                if value > 0
                else ("−", f"less in {other}")
            )
            assert f"{sign}{shown_number(abs(value))}" in text and words in text
    expect(ranking).to_contain_text(f"{other} − {one}")
    prompt = viewer.page.get_by_role("region", name="Prompt", exact=True)
    ends = {kind: max([abs(wanted[p]) for p in by_size if (p in images) == kind], default=0) for kind in (True, False)}
    legend = prompt.locator(".prompt__legend")
    for end in filter(None, ends.values()):
        expect(legend).to_contain_text(f"−{shown_number(end)}")
        expect(legend).to_contain_text(f"+{shown_number(end)}")
    texts = [p for p in range(first.manifest["prompt_length"]) if p not in images]
    buttons = prompt.get_by_role("button").all()[: len(texts)]
    empty = set()
    for position, button in zip(texts, buttons, strict=True):
        found = button.evaluate("(each) => getComputedStyle(each).backgroundColor.match(/\\d+/g).map(Number)")[:3]
        if position == 0:
            assert found == [0, 0, 0], "outside of the scale"
        elif position in wanted:
            assert not ends[False] or alike(found, Scale(ends[False], signed=True).colour(wanted[position])), position
        else:
            empty.add(tuple(found))
    assert len(empty) <= 1
    if by_size[0] in texts:
        buttons[texts.index(by_size[0])].hover()
        expect(prompt.locator(".prompt__readout")).to_contain_text(re.compile(f": [+−].* in {other}"))


def test_heads_show_the_difference(viewer, runs):
    first, second = runs["talk"], runs["short"]
    compare(viewer, first, second)
    viewer.go(runs="[0,1]", compare="difference", token=3)
    heads = viewer.page.get_by_role("region", name="Heads", exact=True)
    heads.get_by_text("Exact numbers").click()
    a, b = (
        run.df[(run.df.token_position == 3) & (run.df.generation_step == 0) & run.df.variant.str.startswith("Head")]
        .pivot(index="layer", columns="variant", values="l2_distance")
        .astype(float)
        for run in (first, second)
    )
    wanted = (b - a).astype(np.float32)
    for tr in heads.locator("tbody tr").all():
        layer, *values = tr.locator("th, td").all_inner_texts()
        assert [np.float32(value) for value in values] == wanted.loc[int(layer)].tolist()
    end = shown_number(float(wanted.abs().to_numpy().max()))
    expect(heads.locator(".matrix__legend")).to_contain_text(f"−{end}")
    expect(heads.locator(".matrix__what")).to_contain_text("short − talk")
    viewer.go(runs="[0,1]", compare="difference")
    expect(heads.locator(".matrix__readout")).to_contain_text(re.compile("[+−]"))
    viewer.go(runs="[0,1]", compare="difference", token=12)  # not in the second run
    expect(heads.locator(".matrix__readout")).to_contain_text("No value was measured here")


def test_the_palette_rests_in_a_difference(viewer, runs):
    compare(viewer, runs["talk"], runs["short"])
    palette = viewer.page.locator("fieldset.choice-palette")
    tint = palette.locator("input[value=tint]")
    expect(tint).to_be_enabled()
    viewer.choose("Compare", "difference")
    expect(tint).to_be_disabled()
    assert "difference" in palette.get_attribute("title")
    viewer.page.locator("body").focus()
    viewer.key("p")
    viewer.choose("Compare", "side by side")
    expect(tint).to_be_enabled()
    expect(tint).to_be_checked()


def test_one_run_has_no_difference(talk):
    talk.page.locator("body").focus()
    talk.key("c", "m")
    assert "compare" not in talk.address("metric=cosine")


def test_layers_of_two_models_are_not_in_one_unit(viewer, runs):
    run = runs["talk"]
    viewer.drop(run.file("csv"), run.file("run"), ("other_results.csv", runs["short"].file("csv").read_bytes()))
    manifest = runs["short"].manifest
    manifest = {**manifest, "name": "other", "model": {**manifest["model"], "name": "else"}}
    viewer.drop(("other_run.json", json.dumps(manifest).encode()))
    viewer.go(runs="[0,1]", token=3)
    viewer.shows("talk", "other")
    lines = viewer.page.get_by_role("region", name="Importance over layers")
    expect(lines).to_contain_text("different units")
    marks = lines.locator(".lines__readout i").all()
    dashed = [each.evaluate("(each) => getComputedStyle(each).backgroundImage") != "none" for each in marks]
    assert dashed == [False, False, True, True]  # Full and Attn of the one run, then of the other
    viewer.choose("Metric", "Cosine")
    expect(lines).not_to_contain_text("different units")
    viewer.go(runs="[0,1]", rows="tokens")
    boxes = [each.bounding_box() for each in viewer.page.locator(".heatmap-panel").all()]
    assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]


@pytest.mark.parametrize("names", [("talk", "short"), ("talk", "short", "text")])
def test_sheets_next_to_each_other_do_not_overlap(viewer, runs, names):
    compare(viewer, *(runs[name] for name in names))
    viewer.choose("Rows", "tokens")
    viewer.settle(2)
    for inside in (".heatmap-scroll", ".heatmap-bar"):
        boxes = [each.bounding_box() for each in viewer.page.locator(f"{inside}:visible").all()]
        assert boxes and all(a["x"] + a["width"] <= b["x"] for a, b in pairwise(boxes))
    tops = {each.bounding_box()["y"] for each in viewer.page.get_by_role("grid").all()}
    assert len(tops) == 1
    for grid in viewer.page.get_by_role("grid").all():
        width, whole = grid.evaluate("(each) => [each.clientWidth, each.firstElementChild.offsetWidth]")
        assert whole <= width + 1  # all layers of a small model are seen


def test_mask_modes_are_explained(viewer, runs):
    for name, words in (("vision", "text tokens have no values"), ("text", "they have no values")):
        viewer.drop(runs[name].file("csv"), runs[name].file("run"))
        viewer.shows(name)
        expect(viewer.page.locator("header")).to_contain_text(words)
