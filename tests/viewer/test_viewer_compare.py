"""Several runs next to each other, and their difference."""

import json
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import expect
from viewer_page import Scale, alike, shown_number
from viewer_runs import Run, assert_colours, by_token, compare, difference, largest, template


def common(first: Run, second: Run) -> int:
    """How many tokens both have in the same order: the longest common subsequence."""
    a, b = ([run.tokens[p] for p in sorted(run.tokens)] for run in (first, second))
    best = np.zeros((len(a) + 1, len(b) + 1), int)
    for i, j in np.ndindex(len(a), len(b)):
        best[i + 1, j + 1] = best[i, j] + 1 if a[i] == b[j] else max(best[i, j + 1], best[i + 1, j])
    return int(best[-1, -1])


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
    everywhere = len(first.tokens) + len(second.tokens) - common(first, second)
    lost = everywhere - common(first, second)
    assert lost
    assert f"By token: {lost} of {everywhere} tokens are in one run alone" in viewer.text(".heatmap-notes")
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
    for panel, masked in enumerate((True, False, True)):
        label = viewer.page.get_by_role("grid").nth(panel).get_by_role("gridcell").text_content()
        assert ("layer 2, token ␣circle at position 25" in label) == masked and "layer 2" in label
    viewer.page.set_viewport_size({"width": 500, "height": 900})
    viewer.settle(3)
    scroll = viewer.page.locator(".heatmap-scroll")
    scroll.nth(2).evaluate("(each) => each.scrollTo(120, 0)")
    viewer.settle(3)
    room = scroll.evaluate_all("(all) => all.map((each) => each.scrollWidth - each.clientWidth)")
    assert room[2] > 120  # the others have fewer tokens
    assert scroll.evaluate_all("(all) => all.map((each) => each.scrollLeft)") == [min(120, each) for each in room]


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


def shifted(run: Run, folder: Path) -> Run:
    """The same run with a word put in at position 3, and with other numbers."""
    df = run.df.copy()
    df["token_position"] += df.token_position >= 3
    df["l2_distance"] = (df.l2_distance * 1.5).astype(np.float32)
    new = df[df.token_position == 2].assign(token_position=3, token_masked=" big")
    df = pd.concat([df, new])
    tokens = [{**each, "position": each["position"] + (each["position"] >= 3)} for each in run.manifest["tokens"]]
    tokens.insert(3, {**tokens[2], "position": 3, "text": " big"})
    length = run.manifest["prompt_length"] + 1
    made = Run(folder, "shifted", df, {**run.manifest, "name": "shifted", "tokens": tokens, "prompt_length": length})
    df.to_csv(made.file("csv"), index=False)
    made.file("run").write_text(json.dumps(made.manifest))
    return made


def test_every_run_has_its_own_columns_prompt_ranking_and_heads(viewer, runs):
    pair = [runs["talk"], runs["short"]]
    compare(viewer, *pair)
    viewer.go(runs="[0,1]", token=4, step=1)
    end = max(by_token(run, step=1).drop(0).max() for run in pair)
    for place, run in enumerate(pair):
        grid = viewer.page.get_by_role("grid").nth(place)
        assert int(grid.get_attribute("aria-colcount")) == len(run.tokens)
        prompt = viewer.page.get_by_role("region", name="Prompt", exact=True).nth(place)
        words = prompt.locator(".prompt__token:visible").evaluate_all("(all) => all.map((each) => each.textContent)")
        texts = [each["text"] for each in run.manifest["tokens"]][: run.manifest["prompt_length"]]
        assert words[: len(texts)] == texts
        expect(prompt.locator(".prompt__legend")).to_contain_text(shown_number(end))  # one scale for both
        ranking = viewer.page.get_by_role("region", name="Most read tokens").nth(place)
        values = by_token(run, step=1).drop(0).drop(list(template(run)), errors="ignore")
        wanted = values.sort_values(ascending=False, kind="stable")
        rows = ranking.locator("ol").first.locator(".ranking__token:visible").all()
        for row, (position, value) in zip(rows, wanted.items(), strict=False):
            cells = row.locator("> *").all_text_contents()
            assert (cells[2], cells[4]) == (str(position), shown_number(value))
        heads = viewer.page.get_by_role("region", name="Heads", exact=True).nth(place)
        heads.get_by_text("Exact numbers").click()
        viewer.settle()
        own = run.df[(run.df.token_position == 4) & (run.df.generation_step == 1)]
        table = own[own.variant.str.startswith("Head")].pivot(index="layer", columns="variant", values="l2_distance")
        for tr in heads.locator("tbody tr").all():
            layer, *texts = tr.locator("th, td").all_inner_texts()
            assert [np.float32(text) for text in texts] == table.loc[int(layer)].tolist()


def test_tokens_are_matched_by_token_or_by_position(viewer, runs, tmp_path):
    first = runs["talk"]
    second = shifted(first, tmp_path)
    compare(viewer, first, second)
    viewer.choose("Compare", "difference")
    a, b = first.cells(), second.cells()
    by = {
        "token": {(p, layer): b[p + (p >= 3), layer] - v for (p, layer), v in a.items()},
        "position": {(p, layer): b[p, layer] - v for (p, layer), v in a.items() if (p, layer) in b},
    }
    for how, wanted in by.items():
        viewer.choose("Match by", how)
        found = viewer.numbers()[1]
        assert found.keys() == wanted.keys()
        assert all(np.isclose(found[key], value, rtol=1e-6) for key, value in wanted.items())
        expect(viewer.page.locator(".header-meaning")).to_contain_text(f"By {how}:")
    viewer.address("align=position")
    expect(viewer.page.locator(".heatmap-notes")).to_contain_text("3 ␣red → ␣big, 4 ␣ball → ␣red")
    ranking = viewer.page.get_by_role("region", name="Most read tokens")
    expect(ranking).to_contain_text("␣ball → ␣red")


def test_what_is_selected_in_one_run_is_selected_in_the_other(viewer, runs, tmp_path):
    first = runs["talk"]
    compare(viewer, first, shifted(first, tmp_path))
    viewer.go(runs="[0,1]")
    rankings = viewer.page.get_by_role("region", name="Most read tokens")
    chosen = rankings.locator(".ranking__token[aria-pressed=true]")
    rankings.nth(1).locator(".ranking__token").filter(has_text="␣is").first.click()
    viewer.address("of=1", "token=16")
    assert chosen.locator("> :nth-child(3)").all_text_contents() == ["15", "16"]
    expect(viewer.page.get_by_role("region", name="Importance over layers")).to_contain_text("at position 16")
    viewer.choose("Match by", "position")
    assert chosen.locator("> :nth-child(3)").all_text_contents() == ["16"]  # in the first run that is ␣blue, not ranked
    viewer.choose("Match by", "token")
    viewer.page.get_by_role("region", name="Prompt", exact=True).nth(1).get_by_role("button", name="␣big").click()
    viewer.settle(2)
    assert chosen.count() <= 1  # the word that was put in is in one run alone
    viewer.page.get_by_role("region", name="Prompt", exact=True).nth(0).get_by_role("button", name="␣ball").click()
    viewer.address("token=4")
    assert "of=" not in viewer.address()
    assert chosen.locator("> :nth-child(3)").all_text_contents() == ["4", "5"]


def test_three_runs_are_never_subtracted(viewer, runs):
    compare(viewer, runs["text"], runs["both"], runs["vision"])
    viewer.go(runs="[0,1,2]", compare="difference")
    viewer.shows("text", "both", "vision")
    assert viewer.page.get_by_role("grid").count() == 3
    expect(viewer.page.get_by_role("radio", name="difference")).to_be_disabled()
    assert viewer.page.get_by_role("region", name="Prompt", exact=True).count() == 3


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
