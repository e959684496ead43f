"""The heat map: its colours, the selection, and that nothing moves under the pointer."""

import csv
import io
import json
import re
from itertools import pairwise

import numpy as np
import pytest
from playwright.sync_api import expect
from test_results import make_block, save
from viewer_page import VIRIDIS, Scale, alike, shown_number
from viewer_runs import METRICS, ROOT, WIDTHS, assert_colours, by_token, compare, largest, pressed, read_copied

# --- colours ---------------------------------------------------------------------------------------------


def test_colours_are_those_of_the_values(talk, runs):
    run = runs["talk"]
    grid = talk.grid()
    for state in (
        {},
        {"metric": "cosine", "variant": "Head_3", "step": 2},
        {"curve": "sqrt"},
        {"first": True},
        {"range": "row"},
        {"range": "row", "curve": "sqrt", "first": True},
        {"theme": "dark", "metric": "cosine"},
    ):
        talk.go(**state)
        metric, variant, step = state.get("metric", "l2"), state.get("variant", "Full"), state.get("step", 0)
        cells = run.cells(metric, variant, step)
        first = state.get("first", False)
        of_all = largest(cells, first)
        of_row = {layer: largest({k: v for k, v in cells.items() if k[1] == layer}, first) for layer in run.layers}

        def scale(_: int, layer: int, state=state, of_all=of_all, of_row=of_row) -> Scale:
            end = of_row[layer] if state.get("range") == "row" else of_all
            return Scale(end, state.get("curve") == "sqrt", dark=state.get("theme") == "dark")

        assert_colours(talk, grid, cells, scale, run)
        said = talk.scale()
        assert f"{METRICS[metric]} of {variant.replace('_', ' ')}" in said
        if state.get("range") == "row":
            assert "each layer from 0 to its own largest value" in said
        else:
            assert f"from 0 to {shown_number(of_all)}" in said


def test_rows_can_be_tokens(talk, runs):
    run = runs["talk"]
    talk.choose("Rows", "tokens")
    grid = talk.grid()
    assert (grid.rows, grid.columns) == (len(run.tokens), len(run.layers))
    cells = run.cells()
    end = largest(cells)
    visible = {position for position in run.tokens if grid.y0 + (position + 1) * grid.height < grid.y1}
    assert len(visible) > 10
    assert_colours(talk, grid, cells, lambda *_: Scale(end), run)
    talk.choose("Scale", "row")
    assert "each token from 0 to its own largest value" in talk.scale()
    ends = {p: largest({k: v for k, v in cells.items() if k[0] == p}, True) for p, _ in cells} | {0: end}
    assert_colours(talk, grid, cells, lambda position, _: Scale(ends[position]), run)


def test_viridis_and_the_ends_of_the_scale(talk, runs):
    cells = runs["talk"].cells()
    grid = talk.grid()
    position, layer = max((key for key in cells if key[0]), key=lambda key: cells[key])
    place = (len(runs["talk"].layers) - 1 - layer, position)
    (blue_to_yellow,) = grid.colours([place])
    talk.choose("Palette", "viridis")
    (found,) = grid.colours([place])
    assert alike(found, VIRIDIS[1.0]) and found != blue_to_yellow


def test_controls_change_what_is_shown(talk):
    """Each by itself, with the mouse; and the address keeps it."""
    grid = talk.page.get_by_role("grid").locator("canvas")
    seen = [grid.screenshot()]
    for act, part in (
        (lambda: talk.choose("Metric", "Cosine"), "metric=cosine"),
        (lambda: talk.variant("Attn"), "variant=Attn"),
        (lambda: talk.variant("Head_5"), "variant=Head_5"),
        (lambda: talk.choose("Scale", "row"), "range=row"),
        (lambda: talk.choose("Curve", "√"), "curve=sqrt"),
        (lambda: talk.check("position 0"), "first=true"),
        (lambda: talk.choose("Palette", "viridis"), "palette=viridis"),
        (lambda: talk.page.get_by_role("button", name="Next step").click(), "step=1"),
        (lambda: talk.choose("Rows", "tokens"), "rows=tokens"),
    ):
        act()
        talk.settle(2)
        seen.append(grid.screenshot())
        talk.address(part)
    assert all(a != b for a, b in pairwise(seen))


def test_position_0_is_hatched_while_it_is_outside_of_the_scale(talk):
    """A cell of one colour is not hatched; nor is one with a number in it."""
    talk.page.set_viewport_size({"width": 700, "height": 900})
    talk.settle(2)
    grid = talk.grid()
    script = """(canvas, [x, y, w, h]) => {
      const { data } = canvas.getContext("2d").getImageData(x, y, w, h);
      return new Set(Array.from({ length: data.length / 4 }, (_, i) => data.slice(4 * i, 4 * i + 3).join())).size;
    }"""
    where = [grid.x0 - grid.left + 3, grid.y0 - grid.top + 3, grid.width - 6, grid.height - 6]
    assert grid.canvas.evaluate(script, where) > 1
    talk.check("position 0")
    talk.settle()
    assert grid.canvas.evaluate(script, where) == 1


def test_light_and_dark(talk):
    paper = "() => getComputedStyle(document.body).backgroundColor"
    light = talk.page.evaluate(paper)
    button = talk.page.get_by_role("button", name="Dark theme")
    button.click()
    talk.settle()
    dark = talk.page.evaluate(paper)
    bright = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (light, dark)]
    assert bright[0] > 600 and bright[1] < 150
    expect(button).to_have_attribute("aria-pressed", "true")
    talk.page.emulate_media(color_scheme="dark")
    button.click()
    talk.settle()
    assert talk.page.evaluate(paper) == light


# --- selection -------------------------------------------------------------------------------------------


def test_hover_previews_and_click_selects_everywhere(talk, runs):
    run = runs["talk"]
    cells = run.cells()
    talk.key("Escape")  # else the strongest cell is selected
    grid = talk.grid()
    layer, position = 2, 10
    row = len(run.layers) - 1 - layer
    value = str(cells[position, layer])
    assert f"Layer 2, token ␣cup at position 10 — L2 {value}" in grid.hover(row, position)
    assert talk.page.locator("[data-hovered]").count() >= 1
    grid.leave()
    assert "Point at a cell" in talk.readout() and talk.page.locator("[data-hovered]").count() == 0
    grid.click(row, position)
    grid.leave()
    assert value in talk.readout()
    assert pressed(talk.page, "Prompt") == ["␣cup"]
    ranking = talk.page.get_by_role("region", name="Most read tokens").locator("[aria-pressed=true]")
    assert any("␣cup" in text for text in ranking.all_inner_texts())
    selection = talk.page.get_by_role("region", name="Selection")
    for text in ("␣cup", "position 10", "layer 2", value):
        expect(selection).to_contain_text(text)
    expect(talk.page.get_by_role("region", name="Importance over layers")).to_contain_text("token ␣cup at position 10")
    expect(talk.page.get_by_role("region", name="Heads", exact=True)).to_contain_text("token ␣cup at position 10")
    talk.address("token=10", "layer=2")
    talk.open_numbers()
    chosen = talk.page.locator(".heatmap-numbers td.heatmap-chosen").all_inner_texts()
    assert value in chosen
    grid.click(row, position)  # again: none
    expect(selection).to_be_hidden()


def test_selecting_in_the_prompt_and_in_the_ranking(talk, runs):
    page = talk.page
    page.get_by_role("region", name="Prompt").get_by_role("button", name="␣cup").first.click()
    talk.settle()
    assert "token ␣cup at position 10" in talk.readout().lower()
    best = page.get_by_role("button", name=re.compile("select it in layer")).first
    name = best.get_attribute("aria-label") or ""
    best.click()
    talk.settle()
    token, layer = re.findall(r"(token .*): select it in layer (\d+)", name)[0]
    cells = runs["talk"].cells()
    position = int(token.rpartition(" ")[2])
    assert cells[position, int(layer)] == largest(cells)
    assert f"Layer {layer}, {token} — L2 {cells[position, int(layer)]!s}" in talk.readout()


def test_ranking_and_prompt_follow_pandas(talk, runs):
    run = runs["talk"]
    rows = read_copied(talk, "Ranking")
    full = run.df[(run.df.variant == "Full") & (run.df.generation_step == 0)]
    best = by_token(run).sort_values(ascending=False)
    assert rows.token_position.tolist() == best.index.tolist()
    assert rows.value.tolist() == pytest.approx(best.tolist(), rel=1e-5)
    assert set(rows.joined) == {"root"}
    title = talk.page.get_by_role("region", name="Most read tokens").get_by_role("heading", level=2)
    expect(title).to_have_text("Most read, by root sum square over layers")
    peaks = full.loc[full.groupby("token_position").l2_distance.idxmax()].set_index("token_position").layer
    assert rows.peak_layer.tolist() == peaks[best.index].tolist()
    talk.go(join="mean", **{"from": 1, "to": 2}, metric="cosine")
    rows = read_copied(talk, "Ranking")
    mean = full[full.layer.isin([1, 2])].groupby("token_position").cosine_distance.mean()
    assert rows.value.tolist() == pytest.approx(mean[rows.token_position].tolist(), rel=1e-5)
    talk.go(join="max")
    rows = read_copied(talk, "Ranking")
    most = full.groupby("token_position").l2_distance.max()
    assert rows.value.astype(np.float32).tolist() == most[rows.token_position].tolist()


def test_heads_and_lines_follow_pandas(talk, runs):
    run = runs["talk"]
    talk.go(token=9, metric="cosine", step=1, heads="[2,5]")
    here = run.df[(run.df.token_position == 9) & (run.df.generation_step == 1)]
    wide = here.pivot(index="layer", columns="variant", values="cosine_distance")
    lines = read_copied(talk, "Layers")
    assert set(lines.variant) == {"Full", "Attn", "Head_2", "Head_5"} and set(lines.layer) == set(run.layers)
    for row in lines.itertuples():
        assert np.float32(row.value) == wide.loc[row.layer, row.variant]
    talk.page.keyboard.press("Escape")
    heads = talk.page.get_by_role("region", name="Heads", exact=True)
    heads.get_by_text("Exact numbers").click()
    table = heads.get_by_role("region", name="Exact numbers, layers by heads").locator("table")
    expect(table).to_be_visible()
    names = table.locator("thead th").all_inner_texts()[1:]
    for tr in table.locator("tbody tr").all():
        layer, *values = tr.locator("th, td").all_inner_texts()
        for name, value in zip(names, values, strict=True):
            assert np.float32(value) == wide.loc[int(layer), name.replace(" ", "_")]


def test_strongest_token_of_each_head_while_none_is_selected(talk, runs):
    run = runs["talk"]
    here = run.df[(run.df.generation_step == 0) & run.df.variant.str.startswith("Head") & (run.df.token_position > 0)]
    best = here.groupby(["layer", "variant"]).l2_distance.max()
    talk.key("Escape")
    rows = list(csv.reader(io.StringIO(talk.copied("Heads"), newline="")))
    text = "\n".join(",".join(row) for row in rows)
    for value in best:
        assert str(np.float32(value)) in text


# --- the page stays where it is --------------------------------------------------------------------------
BOXES = """() => [...document.querySelectorAll("h2, h3, canvas, select, summary, .heatmap-scroll, ol")]
  .filter((each) => each.checkVisibility()).map((each) => {
    const { x, y, width, height } = each.getBoundingClientRect();
    const name = each.className || each.textContent.slice(0, 20) || each.tagName;
    return [name, x + scrollX, y + scrollY, width, height].join();
  })"""


@pytest.mark.parametrize(
    ("mode", "names", "width"),
    [
        ("side", ["talk"], "narrow"),
        ("side", ["both"], "wide"),
        ("side", ["both"], "narrow"),
        ("side", ["talk", "short", "text"], "wide"),
        ("side", ["both", "vision"], "narrow"),
        ("difference", ["both", "vision"], "wide"),
    ],
)
def test_nothing_moves_under_the_pointer(opened, runs, mode, names, width):
    viewer = opened(viewport=WIDTHS[width])
    compare(viewer, *(runs[name] for name in names))
    viewer.drop(ROOT / "testimg.png")
    viewer.go(runs=json.dumps([*range(len(names))]).replace(" ", ""), compare=mode)
    viewer.settle(4)
    page = viewer.page
    before = page.evaluate(BOXES)
    spots = [(".heatmap-scroll", 0.4, 0.7), (".heatmap-scroll", 0.8, 0.9), (".heatmap-scroll", 0.1, 0.6)]
    spots += [
        (".matrix__plot canvas", 0.5, 0.5),
        (".matrix__plot canvas", 0.9, 0.9),
        (".matrix__plot canvas", 0.5, 0.05),
    ]
    spots += [(".lines__plot canvas", 0.4, 0.5), (".prompt__image canvas", 0.6, 0.6), (".picture-frame", 0.6, 0.6)]
    spots += [(f".prompt__token >> nth={place}", 0.5, 0.5) for place in (0, 1, -3, -1)]
    spots += [(f".ranking li >> nth={place}", 0.5, 0.5) for place in (0, 3)]
    for selector, across, down in spots:
        found = page.locator(selector).first
        if not found.is_visible():
            continue
        box = found.bounding_box()
        found.hover(position={"x": box["width"] * across, "y": box["height"] * down})
        viewer.settle()
        assert page.evaluate(BOXES) == before, selector


def test_the_hint_about_keys_is_there_while_they_work(talk):
    """The arrow keys move the selection from the heat map alone, until something is selected."""
    hint = "() => getComputedStyle(document.querySelector('.heatmap-readout'), '::after').content"
    talk.key("Escape")
    assert "arrow" not in talk.readout() + talk.page.evaluate(hint)
    talk.page.get_by_role("grid").focus()
    assert "Arrow keys" in talk.page.evaluate(hint)
    talk.key("ArrowRight")
    assert "token=" in talk.address("token=")
    assert "Arrow" not in talk.page.evaluate(hint)


def test_tokens_in_the_prompt_stay_whole(viewer, tmp_path):
    """A line ends between tokens; a token is broken only where it is longer than a line."""
    words = [
        "well-known",
        " state-of-the-art",
        "一二三四五六",
        " a b c",
        "x/y/z",
        " http://a.b/c?d=e",
        "w" * 60,
        " end",
    ]
    tokens = [word for i in range(8) for word in (*words[i:], *words[:i])]
    save(tmp_path, [make_block(0, 0, tokens, ("Full",))], ("csv",), "words")
    viewer.drop(tmp_path / "words_results.csv")
    viewer.shows("words")
    for width in (1280, 390):
        viewer.page.set_viewport_size({"width": width, "height": 900})
        viewer.settle(2)
        found = viewer.page.locator(".prompt__token")
        pieces = found.evaluate_all("(all) => all.map((each) => [each.textContent, each.getClientRects().length])")
        assert len(pieces) == len(tokens)
        assert [each for each in pieces if each[1] > 1] == []
        box = viewer.page.locator(".prompt__text")
        assert box.evaluate("(each) => each.scrollWidth <= each.clientWidth")
