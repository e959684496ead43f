"""The address and the keyboard."""

import re

from playwright.sync_api import expect
from viewer_page import Viewer
from viewer_runs import ROOT

# --- the address -----------------------------------------------------------------------------------------


def test_the_address_brings_the_same_state_back(opened, runs):
    files = [runs[name].file(kind) for name in ("both", "text") for kind in ("csv", "run")]
    first = opened()
    first.drop(*files, ROOT / "testimg.png")
    first.shows("both", "text")
    first.page.get_by_role("checkbox", name="Show both").uncheck()
    first.shows("text")
    first.page.get_by_role("checkbox", name="Show both").check()
    first.shows("text", "both")
    first.choose("Metric", "Cosine")
    first.variant("Head_2")
    first.choose("Curve", "√")
    first.choose("Rows", "tokens")
    first.choose("Palette", "viridis")
    first.check("position 0")
    first.check("fold images")
    first.page.get_by_role("button", name="Next step").first.click()
    first.page.get_by_role("region", name="Prompt").first.get_by_role("button", name="␣circle").click()
    first.page.get_by_label("Colour over picture").fill("35")
    first.choose("Joined by", "largest")
    address = first.address("curve=sqrt", "fold=true", "opacity=0.35", "join=max", "token=25", "step=1")
    second = opened(fragment=address.lstrip("#"))
    second.drop(*files, ROOT / "testimg.png")
    second.shows("text", "both")
    first.page.mouse.move(2, 2)
    first.settle(2)
    second.settle(2)
    assert second.address() == first.address()
    assert second.numbers() == first.numbers()
    for read in (Viewer.scale, Viewer.readout, lambda viewer: viewer.page.locator("main").inner_text()):
        assert read(second) == read(first)


NONSENSE = [
    "%", "&&&===", "runs=[99]&compare=difference", "runs=[]", "runs={}", "runs=[-1,1.5,null]", "variant=Nope&step=1e99",
    "token=-1&layer=x&step=-3", "heads=[999999999999,-1,%22a%22]", "opacity=7&fold=maybe", "token=" + "9" * 400,
    "metric=<img src=x onerror=alert(1)>", "__proto__=1&constructor=2&toString=3", "from=3&to=1", "x" * 20_000,
    "from=99&to=98&join=median", "theme=%FF&palette=%E0%A4%A", "rows=tokens&range=row&token=99999&layer=99999",
]  # fmt: skip


def test_nonsense_in_the_address_breaks_nothing(opened, runs):
    viewer = opened(fragment=NONSENSE[0])
    viewer.drop(runs["talk"].file("csv"), runs["talk"].file("run"))
    viewer.shows("talk")
    for text in NONSENSE:
        viewer.page.evaluate("(text) => { location.hash = text; }", text)
        viewer.settle(2)
        assert viewer.page.get_by_role("grid").is_visible()
        assert viewer.numbers()[1] == runs["talk"].cells(), text
    assert viewer.page.locator("h1:visible").inner_text() == "talk"


# --- keyboard --------------------------------------------------------------------------------------------
REACHABLE = """() => {
  const tabbable = "a[href], button, input, select, textarea, summary, [tabindex]";
  const all = [...document.querySelectorAll(tabbable)].filter((each) =>
    each.tabIndex >= 0 && !each.disabled && each.checkVisibility({ visibilityProperty: true }) &&
    !(each.type === "radio" && !each.checked) && !(each.closest("details:not([open])") && each.tagName !== "SUMMARY"));
  window.tabbed = new Set();
  document.activeElement?.blur();
  return all.length;
}"""
TABBED = """() => {
  const { activeElement } = document;
  if (activeElement === document.body) return null;
  const again = window.tabbed.has(activeElement);
  window.tabbed.add(activeElement);
  const around = [activeElement, activeElement.parentElement, activeElement.nextElementSibling].filter(Boolean);
  const ring = around.map((each) => getComputedStyle(each)).some(({ outlineStyle, outlineWidth, boxShadow }) =>
    (outlineStyle !== "none" && parseFloat(outlineWidth) > 0) || boxShadow !== "none");
  return { again, ring, html: activeElement.outerHTML.slice(0, 120) };
}"""


def test_everything_is_reached_by_tab_and_the_focus_is_seen(picture):
    page = picture.page
    count = page.evaluate(REACHABLE)
    assert count > 40
    found = 0
    for _ in range(count + 5):
        page.keyboard.press("Tab")
        state = page.evaluate(TABBED)
        if state is None or state["again"]:
            break
        assert state["ring"], f"no focus ring: {state['html']}"
        found += 1
    assert found == count


def test_keys_do_what_the_controls_do(talk, runs):
    run = runs["talk"]
    talk.page.locator("body").focus()
    for key, part in (
        ("m", "metric=cosine"), ("v", "variant=Attn"), ("s", "range=row"), ("l", "curve=sqrt"), ("0", "first=true"),
        ("r", "rows=tokens"), ("p", "palette=cividis"), ("]", "step=1"), ("t", "theme=dark"), ("f", "fold=true"),
    ):  # fmt: skip
        talk.key(key)
        talk.address(part)
    talk.key("V", "[", "r", "s", "l", "l", "0", "p", "t", "f", "m", "m")  # the third metric, and the third curve
    talk.settle()
    assert talk.numbers()[1] == run.cells()
    talk.key("e")
    expect(talk.page.locator("#exports")).to_be_visible()
    talk.key("Escape")
    expect(talk.page.locator("#exports")).to_be_hidden()
    with talk.page.expect_file_chooser():
        talk.settle()  # the browser has heard that its dialog is not to open
        talk.key("o")


def test_arrows_walk_through_the_heat_map(talk, runs):
    run = runs["talk"]
    cells = run.cells()
    grid = talk.page.get_by_role("grid")
    grid.focus()
    position, layer = max((key for key in cells if key[0]), key=lambda key: cells[key])
    cell = grid.get_by_role("gridcell")
    where = lambda: tuple(map(int, re.findall(r"layer (\d+).* at position (\d+)", cell.text_content() or "")[0]))  # noqa: E731
    assert where() == (layer, position)
    for key, (up, right) in {
        "ArrowUp": (1, 0), "ArrowRight": (0, 1), "ArrowDown": (-1, 0), "ArrowLeft": (0, -1),
        "Home": (0, -99), "End": (0, 99), "PageDown": (-99, 0), "PageUp": (99, 0),
    }.items():  # fmt: skip
        talk.key(key)
        layer = min(max(layer + up, min(run.layers)), max(run.layers))
        position = min(max(position + right, 0), max(run.tokens))
        assert where() == (layer, position)
    value = cells.get((position, layer))
    assert value is None or str(value) in talk.readout()
    talk.key("Escape")
    assert "Point at a cell" in talk.readout()
    assert "nothing selected" in (cell.text_content() or "")


def test_views_by_keyboard_alone(picture):
    page = picture.page
    page.get_by_role("region", name="Prompt").get_by_role("button", name="<|im_start|>").first.focus()
    picture.key("End", "ArrowLeft", "Home", "ArrowRight", "Enter")
    picture.address("token=1")
    page.locator(".picture-frame").focus()
    picture.key("ArrowRight", "ArrowDown", "Enter")
    assert "image token" in page.get_by_role("region", name="Selection").inner_text()
    page.get_by_role("region", name="Importance over layers").locator("canvas").focus()
    picture.key("End")
    picture.address("layer=3")
    picture.key("ArrowLeft")
    picture.address("layer=2")
    page.get_by_role("region", name="Heads", exact=True).locator("canvas").focus()
    picture.key("ArrowRight", "l", "Enter")
    picture.address("heads=[1]", "variant=Head_1")


def test_help_lists_the_keys_and_gives_the_focus_back(talk):
    page = talk.page
    page.get_by_role("radio", name="L2").focus()
    talk.key("?")
    dialog = page.get_by_role("dialog", name="Keys")
    expect(dialog).to_be_visible()
    for text in ("metric: L2 or cosine", "clear the selection", "open files"):
        expect(dialog).to_contain_text(text)
    for _ in range(6):
        page.keyboard.press("Tab")
        assert page.evaluate(
            "() => !!document.activeElement.closest('dialog') || document.activeElement === document.body"
        )
    before = talk.scale()
    talk.key("m")
    assert talk.scale() == before  # the page behind does not listen
    talk.key("Escape")
    expect(dialog).to_be_hidden()
    assert page.evaluate("() => document.activeElement.type") == "radio"
    page.get_by_role("button", name="Keys").click()
    dialog.get_by_role("button", name="Close").click()
    expect(dialog).to_be_hidden()
