"""Pointer and keyboard beyond one cell: several tokens, layers, a threshold, a box; the command and the figure."""

import re
import shlex
import xml.etree.ElementTree as ET
import zlib
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import expect
from viewer_page import Scale, alike, shown_number
from viewer_runs import by_token, compare, largest, patches


def gone(viewer: Any, key: str) -> None:
    """The address has the key no more."""
    viewer.page.wait_for_function("(key) => !new URLSearchParams(location.hash.slice(1)).has(key)", arg=key)


def test_shift_adds_tokens_to_the_selection(talk, runs):
    run = runs["talk"]
    page = talk.page
    prompt = page.get_by_role("region", name="Prompt", exact=True)
    prompt.get_by_role("button", name="␣blue").first.click()
    prompt.get_by_role("button", name="␣ball").click(modifiers=["Shift"])
    page.get_by_role("region", name="Most read tokens").locator("li", has_text="␣is").first.locator(
        "button"
    ).first.click(modifiers=["Shift"])
    talk.address("token=9", "also=[4,15]")
    assert prompt.locator("[aria-pressed=true]").all_text_contents() == [" ball", " blue", " is"]
    talk.go(token=9, also="[4,15]")
    joined = by_token(run)
    table = page.get_by_role("region", name="Selection").locator(".selection-also tr")
    found = {int(tr.get_attribute("data-position")): tr.locator("td").last.inner_text() for tr in table.all()}
    assert found == {p: shown_number(joined[p]) for p in (9, 4, 15)}
    lines = page.get_by_role("region", name="Importance over layers").locator(".lines__readout")
    cells = run.cells()
    for position, name in ((9, "␣blue"), (4, "␣ball"), (15, "␣is")):
        layer = max(run.layers, key=lambda each: cells[9, each])  # where the first one peaks
        expect(lines).to_contain_text(f"{name} {shown_number(cells[position, layer])}")
    prompt.get_by_role("button", name="␣ball").click(modifiers=["Shift"])
    talk.address("also=[15]")
    prompt.get_by_role("button", name="Tom").click()
    gone(talk, "also")


def test_arrows_go_through_layers_and_output_tokens_from_the_start(talk, runs):
    run = runs["talk"]
    talk.page.locator("body").focus()
    cells = run.cells()
    layer = max((key for key in cells if key[0]), key=lambda key: cells[key])[1]
    talk.key("ArrowRight")
    talk.address(f"layer={layer + 1}")
    talk.key("ArrowLeft", "ArrowLeft")
    talk.address(f"layer={layer - 1}")
    talk.key(*["ArrowLeft"] * 4)
    gone(talk, "layer")  # before the first one all of them together
    talk.key("ArrowDown")
    talk.address("step=1")
    expect(talk.page.locator(".answer-chip[aria-pressed=true]")).to_have_text(".")
    assert talk.numbers()[1] == run.cells(step=1)
    talk.key("ArrowUp")
    gone(talk, "step")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_under_the_threshold_nothing_is_coloured(talk, runs, theme):
    run = runs["talk"]
    cells = run.cells()
    end = largest(cells)
    talk.go(least=0.1, theme=theme)
    grid = talk.grid()
    scale = Scale(end, dark=theme == "dark")
    places = {(p, layer): (len(run.layers) - 1 - layer, p) for p, layer in cells if p}
    for (key, _), colour in zip(places.items(), grid.colours(places.values()), strict=True):
        value = float(cells[key])
        assert alike(colour, scale.colour(value if value >= 0.1 * end else 0)), (key, value, colour)
    joined = by_token(run)
    most = joined.drop(0).max()
    tokens = talk.page.locator(".prompt__token").all()
    for position in range(1, run.manifest["prompt_length"]):
        found = tokens[position].evaluate("(each) => getComputedStyle(each).backgroundColor.match(/\\d+/g).map(Number)")
        wanted = Scale(most, dark=theme == "dark").colour(joined[position] if joined[position] >= 0.1 * most else 0)
        assert alike(found[:3], wanted), position
    expect(talk.page.locator(".heatmap-bar")).to_be_visible()
    slider = talk.page.get_by_label("Colour from")
    with talk.menu_for(slider):
        slider.fill("0")
    gone(talk, "least")


def test_a_percentile_scale_shows_the_rank(talk, runs):
    run = runs["talk"]
    cells = run.cells()
    talk.go(curve="rank")
    sizes = np.sort([value for (p, _), value in cells.items() if p])
    places = {(p, layer): (len(run.layers) - 1 - layer, p) for p, layer in cells if p}
    for (key, _), colour in zip(places.items(), talk.grid().colours(places.values()), strict=True):
        place = np.searchsorted(sizes, cells[key]) / (len(sizes) - 1)
        assert alike(colour, Scale(1).colour(place)), key


FOLLOW = """(legend) => {
  window.told = new Set([legend.textContent]);
  new MutationObserver(() => told.add(legend.textContent)).observe(legend, { childList: true, subtree: true });
}"""


def test_prompt_and_ranking_follow_the_layers_that_play(picture, runs):
    run = runs["both"]
    cells, text = run.cells(), set(run.tokens) - {0} - patches(run).keys()
    legend = picture.page.get_by_role("region", name="Prompt", exact=True).locator(".prompt__legend")
    legend.evaluate(FOLLOW)
    button = picture.page.get_by_role("button", name="Play layers")
    button.first.click()
    expect(picture.page.get_by_role("button", name="Pause")).to_be_hidden(timeout=15_000)  # at its end
    expect(legend).to_contain_text("over all 4 layers")
    told = picture.page.evaluate("() => [...told]")
    for layer in run.layers:
        end = shown_number(max(float(cells[p, layer]) for p in text if (p, layer) in cells))
        assert any(f"in layer {layer}0{end} text" in each for each in told), (layer, end, told)


def command(viewer: Any) -> list[str]:
    menu = viewer.export_menu()
    viewer.page.evaluate("() => navigator.clipboard.writeText('')")
    menu.get_by_role("button", name="Copy command").first.click()
    expect(menu.get_by_role("status")).to_contain_text("copied")
    text = viewer.page.evaluate("() => navigator.clipboard.readText()")
    viewer.key("Escape")
    return shlex.split(text)


def test_a_box_on_the_picture_becomes_a_region_of_the_command(picture, runs):
    run = runs["both"]
    frame = picture.page.locator(".picture-frame")
    box = frame.bounding_box()
    side = box["width"] / 4
    picture.page.mouse.move(box["x"] + 1.5 * side, box["y"] + 0.5 * side)
    picture.page.mouse.down()
    picture.page.mouse.move(box["x"] + 3.5 * side, box["y"] + 1.5 * side, steps=5)
    picture.page.mouse.up()
    picture.address("region=[0,0,1,1,3]")
    inside = [t["position"] for t in run.manifest["tokens"] if t["kind"] == "image" and t["row"] < 2 and t["col"] > 0]
    mean = by_token(run)[inside].mean()
    expect(picture.page.get_by_role("region", name="Picture")).to_contain_text(
        f"rows 0 to 1, columns 1 to 3; 6 values, mean {shown_number(mean)}"
    )
    words = command(picture)
    assert words[:2] == ["python", "mask_impact_vl.py"]
    assert words[words.index("--region") + 1] == "0,1,1,3"
    assert words[words.index("--prompt") + 1] == "What color is the circle?"
    assert words[-2:] == ["--output", "both_view"] and words.count("--output") == 1
    frame.focus()
    picture.key("Shift+ArrowDown")
    picture.address("region=[0,0,1,2,3]")
    frame.click(position={"x": 5, "y": 5})
    gone(picture, "region")
    picture.go(layer=2, variant="Head_1")
    assert " ".join(command(picture)).endswith("--layers 2 --variants head --output both_view")


def streams(pdf: bytes) -> list[bytes]:
    found = re.finditer(rb"/Filter/FlateDecode/Length (\d+)>>stream\n", pdf)
    return [zlib.decompress(pdf[each.end() : each.end() + int(each[1])]) for each in found]


@pytest.mark.parametrize(("names", "once"), [(["both"], 1), (["talk", "short"], 2)])
def test_the_figure_says_each_thing_once(viewer, runs, names, once):
    """Model, prompt, step and next token above its panels; in a panel the run's name where there are several."""
    compare(viewer, *(runs[name] for name in names))
    drawn = ET.fromstring(viewer.download("Figure", "SVG").path().read_text())
    said = [each.text or "" for each in drawn.iter() if each.tag.endswith("}text")]
    for text in ("step 1 of", "next token", "· demo"):
        assert sum(text in line.lower() for line in said) == once, text
    assert sum("how far a layer" in line for line in said) == 1
    for run in (runs[name] for name in names):
        assert said.count(run.manifest["prompt"]) == 1
        assert said.count(run.name) == (0 if once == 1 else 2)  # of the prompt and the heat map


@pytest.mark.parametrize("state", [{}, {"theme": "dark", "curve": "rank"}])
def test_the_figure_has_prompt_model_and_scale_in_every_format(picture, runs, tmp_path, state):
    picture.go(**state)
    svg = picture.download("Figure", "SVG").path().read_text()
    end = shown_number(largest(runs["both"].cells()))
    for text in ("What color is the circle?", "both · demo", "L2 distance of Full", "Heat map", end, "Prompt, shaded"):
        assert text in svg
    png = picture.download("Figure", "PNG").path().read_bytes()
    assert png.startswith(b"\x89PNG")
    pdf = picture.download("Figure", "PDF").path().read_bytes()
    start = int(re.findall(rb"startxref\n(\d+)", pdf)[-1])
    places = [int(each) for each in re.findall(rb"(\d{10}) 00000 n ", pdf[start:])]
    assert [int(re.match(rb"(\d+) 0 obj\n", pdf[at : at + 20])[1]) for at in places] == list(range(1, len(places) + 1))
    content = streams(pdf)[-1].decode()
    said = b"".join(bytes.fromhex(each) + b"\n" for each in re.findall(r"<([0-9a-f]+)> Tj", content)).decode("cp1252")
    for text in ("What color is the circle?", "both", "L2 distance of Full", "Heat map", end, "circle"):
        assert text in said
    assert content.count("q") and len(re.findall(r"(?<![\w.])q(?![\w.])", content)) == len(
        re.findall(r"(?<![\w.])Q(?![\w.])", content)
    )
    assert pdf.count(b"/Subtype/Image") > 4 and pdf.endswith(b"%%EOF\n")
