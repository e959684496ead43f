"""Accessibility, narrow screens, motion and print."""

from typing import Any

import pytest
from playwright.sync_api import expect
from viewer_page import Viewer
from viewer_runs import EVERY, LENS, REACH, ROOT, WIDTHS, Map, Run, compare, effect_table

# --- accessibility ---------------------------------------------------------------------------------------


def empty_page(viewer: Viewer, runs: dict[str, Run]) -> None:
    pass


def text_run(viewer: Viewer, runs: dict[str, Run]) -> None:
    viewer.drop(runs["talk"].file("csv"), runs["talk"].file("run"))
    viewer.shows("talk")
    viewer.go(token=9, layer=2, heads="[1,2]")
    viewer.open_numbers()


def picture_run(viewer: Viewer, runs: dict[str, Run]) -> None:
    viewer.drop(runs["both"].file("csv"), runs["both"].file("run"), ROOT / "testimg.png")
    viewer.shows("both")


def difference_of_runs(viewer: Viewer, runs: dict[str, Run]) -> None:
    compare(viewer, runs["both"], runs["text"])
    viewer.go(runs="[0,1]", compare="difference", token=25)


def help_dialog(viewer: Viewer, runs: dict[str, Run]) -> None:
    viewer.key("?")
    expect(viewer.page.get_by_role("dialog", name="Keys")).to_be_visible()


def export_menu(viewer: Viewer, runs: dict[str, Run]) -> None:
    text_run(viewer, runs)
    viewer.drop(("notes.txt", b"words"))
    viewer.message("notes.txt")
    viewer.export_menu()


def run_with_effects(viewer: Viewer, runs: dict[str, Run]) -> None:
    viewer.drop(*REACH)
    viewer.shows("reach")
    viewer.go(token=9, shade="effect")
    effect_table(viewer)


def run_with_queries(viewer: Viewer, runs: dict[str, Run]) -> None:
    viewer.drop(*EVERY)
    viewer.shows("every")
    viewer.go(token=2, query=4)
    Map(viewer).table()


def nested_effects(viewer: Viewer, runs: dict[str, Any]) -> None:
    viewer.drop(*(runs["reports"] / f"fine_{name}" for name in ("results.csv", "run.json", "effects.csv")))
    viewer.shows("fine")
    effect_table(viewer)


def effects_by_head(viewer: Viewer, runs: dict[str, Any]) -> None:
    viewer.drop(*(runs["reports"] / f"heads_{name}" for name in ("results.csv", "run.json", "effects.csv")))
    viewer.shows("heads")
    effect_table(viewer)


def routes(viewer: Viewer, runs: dict[str, Any]) -> None:
    viewer.drop(*(runs["reports"] / f"routes_{name}" for name in ("results.csv", "run.json", "effects.csv")))
    viewer.shows("routes")
    viewer.page.get_by_text("Routes as a table").click()


def deepstack(viewer: Viewer, runs: dict[str, Any]) -> None:
    viewer.drop(*(runs["reports"] / f"deep_{name}" for name in ("results.csv", "run.json", "deepstack.csv")))
    viewer.shows("deep")
    viewer.go(injection=1)


def neighbours(viewer: Viewer, runs: dict[str, Any]) -> None:
    said = runs["said"]
    viewer.drop(said.file("json"), said.file("run"), ROOT / "testimg.png")
    expect(viewer.page.get_by_role("region", name=LENS)).to_be_visible()
    viewer.go(find="red", tint="bank", patch=9)


STATES = [
    empty_page,
    text_run,
    picture_run,
    difference_of_runs,
    run_with_effects,
    run_with_queries,
    nested_effects,
    effects_by_head,
    routes,
    deepstack,
    neighbours,
    help_dialog,
    export_menu,
]


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_no_serious_accessibility_violation(opened, runs, said, reports, state):
    from axe_playwright_python.sync_playwright import Axe

    viewer = opened()
    state(viewer, {**runs, "said": said, "reports": reports})
    problems = []
    # The other rules ask for neither colours nor sizes.
    looks = {"runOnly": ["color-contrast", "target-size", "scrollable-region-focusable"]}
    for width, theme, options in (("wide", "light", {}), ("narrow", "dark", looks)):
        viewer.page.set_viewport_size(WIDTHS[width])
        viewer.page.emulate_media(color_scheme=theme)
        viewer.settle(3)
        found = Axe().run(viewer.page, options={"resultTypes": ["violations"], **options}).response["violations"]
        for each in found:
            if each["impact"] in ("serious", "critical"):
                nodes = [f"{node['html'][:100]} {node.get('failureSummary', '')[:200]}" for node in each["nodes"][:3]]
                problems.append(f"{width} {theme} {each['id']}: {nodes}")
        scroll, inner = viewer.page.evaluate("() => [document.documentElement.scrollWidth, innerWidth]")
        if scroll > inner:
            problems.append(f"{width}: the page scrolls sideways ({scroll} > {inner})")
    assert problems == []


# --- narrow ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["text_run", "difference_of_runs"])
def test_narrow_controls_leave_the_first_screen_to_the_first_view(opened, runs, state):
    viewer = opened(viewport=WIDTHS["narrow"])
    if state == "text_run":
        viewer.drop(runs["talk"].file("csv"), runs["talk"].file("run"))
        viewer.shows("talk")
        viewer.go(metric="cosine", variant="Head_3", step=1)
    else:
        difference_of_runs(viewer, runs)
    page = viewer.page
    expect(page.get_by_role("grid")).to_have_count(1)
    first = page.locator(".column-main > section:visible").first  # the picture, where there is one
    assert first.bounding_box()["y"] < WIDTHS["narrow"]["height"]
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    assert page.get_by_role("group", name="Metric").is_visible()
    summary = page.get_by_label("What is shown").locator("summary")
    assert not page.get_by_role("group", name="Scale").is_visible()
    summary.focus()
    viewer.key("Enter")
    menu = page.locator(".controls-menu").bounding_box()
    assert menu["x"] >= 0 and menu["x"] + menu["width"] <= WIDTHS["narrow"]["width"]
    viewer.key("Tab")
    assert page.evaluate("() => document.activeElement.matches('.controls-menu *')")
    viewer.key("Escape")
    assert not page.get_by_role("group", name="Scale").is_visible()
    assert page.evaluate("() => document.activeElement.matches('summary')")


def test_reduced_motion(opened, runs):
    viewer = opened(reduced_motion="reduce")
    picture_run(viewer, runs)
    moving = """() => [...document.querySelectorAll("*")].filter((each) => {
      const { transitionDuration, animationDuration, animationName } = getComputedStyle(each);
      const moves = animationName !== "none" && parseFloat(animationDuration) > 0.01;
      return moves || parseFloat(transitionDuration) > 0.01;
    }).map((each) => each.outerHTML.slice(0, 80))"""
    assert viewer.page.evaluate(moving) == []


@pytest.mark.parametrize("state", [text_run, picture_run], ids=lambda state: state.__name__)
def test_print(opened, runs, state):
    viewer = opened(color_scheme="dark")
    state(viewer, runs)
    paper = viewer.page.pdf()
    assert paper.startswith(b"%PDF") and len(paper) > 10_000
    viewer.page.emulate_media(media="print")
    viewer.settle(2)
    assert viewer.page.get_by_role("grid").is_visible()
    assert not viewer.page.get_by_role("button", name="Open files…").is_visible()
