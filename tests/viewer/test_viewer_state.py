"""No view is stale: after a change of any key of the state the page is as if it had been opened like that."""

import difflib
import re

import pytest
from viewer_page import Viewer, fragment
from viewer_runs import EVERY, PAGE, REACH, ROOT

# Nothing has to scroll here: where a matrix is scrolled to is not part of the state.
WIDE = {"viewport": {"width": 2400, "height": 1500}}
OPEN = "() => { for (const each of document.querySelectorAll('main details')) each.open = true; }"
# All that is to be seen: pixels, texts and attributes, and what controls are set to.
LOOK = """() => {
 const pixels = (canvas) => {
  const { width, height } = canvas;
  if (!width || !height) return "";
  const words = new Uint32Array(canvas.getContext("2d").getImageData(0, 0, width, height).data.buffer);
  let hash = 17; // FNV-1a over whole pixels
  for (let i = 0; i < words.length; i++) hash = Math.imul(hash ^ words[i], 0x01000193);
  return `${width} x ${height} ${hash}`;
 };
 return [...document.querySelectorAll("main *")].filter((each) => each.checkVisibility()).map((each) => {
  const own = [...each.childNodes].filter((node) => node.nodeType === 3).map((node) => node.data).join("|");
  const told = [...each.attributes].filter(({ value }) => value).map(({ name, value }) => `${name}=${value}`);
  const attributes = told.sort().join(" ");
  const set = each.matches("input, select") ? `${each.value} ${each.checked} ${each.disabled}` : "";
  return [each.tagName, attributes, own, set, each.tagName === "CANVAS" ? pixels(each) : ""].join(" ; ");
 });
}"""

PICTURE = {"token": 20, "layer": 1}
PATIENCE = 20
# Of each library, per key: the state before, and the key's other value. Each key of the state is in one of them.
CHANGES = {
    "effects": {
        "metric": ({}, "cosine"), "rows": ({}, "tokens"), "range": ({}, "row"),
        "curve": ({}, "sqrt"), "first": ({}, True), "palette": ({}, "viridis"), "token": ({}, 5),
        "layer": ({"token": 5}, 2), "from": ({}, 2), "to": ({}, 1), "join": ({}, "mean"), "effect": ({}, "kl"),
        "block": ({}, "last"), "mask": ({}, "1-3"), "order": ({}, "position"), "shade": ({}, "effect"),
        "theme": ({}, "dark"), "also": ({"token": 5}, "[3,4]"), "least": ({}, 0.3),
    },
    "whole": {"answer": ({}, "whole")},
    "reads": {
        "query": ({"token": 2}, 5), "metric": ({"layer": 1}, "cosine"), "variant": ({}, "Attn"), "layer": ({}, 3),
        "from": ({}, 3), "join": ({}, "mean"), "range": ({"query": 5}, "row"), "token": ({}, 3),
        "palette": ({}, "viridis"), "theme": ({}, "dark"), "edges": ({}, 0.1),
    },
    "many": {"large": ({}, True)},
    "picture": {
        "opacity": ({}, 0.2), "fold": ({}, True), "metric": (PICTURE, "cosine"), "step": ({}, 1), "near": ({}, "2"),
        "wash": ({}, 0.6),
        "tint": ({}, "bank"), "ranks": ({}, True), "find": ({}, "red"), "layer": ({}, 2), "token": ({}, 12),
        "region": ({}, "[0,0,0,1,2]"), "tab": ({}, "lens"),
        "palette": ({}, "viridis"), "theme": ({}, "dark"),
    },
    "injections": {"injection": ({}, 1)},
    "video": {"frame": ({}, 1)},
    "routes": {"routes": ({}, 0.6), "theme": ({}, "dark")},
    "neighbours": {"patch": ({}, 9), "near": ({}, "static")},
    "tables": {"lens": ({"lens": 0}, 1)},
    "two": {
        "runs": ({}, "[1,0]"), "compare": ({}, "difference"), "metric": ({"compare": "difference"}, "cosine"),
        "variant": ({"compare": "difference"}, "Head_2"), "step": ({}, 1), "heads": ({}, "[1,3]"), "token": ({}, 3),
        "curve": ({}, "rank"), "align": ({"compare": "difference"}, "position"), "of": ({"token": 10}, 1),
    },
}  # fmt: skip
TWO = {"runs": "[0,1]"}


def files(name: str, runs, said, two_tokens, reports, tmp_path) -> list:
    """Of a library, in the order in which they are dropped."""
    picture = [runs["both"].file("csv"), runs["both"].file("run"), ROOT / "testimg.png"]
    if name == "tables":
        other = tmp_path / "other_neighbors.csv"
        other.write_bytes(re.sub(rb" red\b", b" RED", said.file("csv").read_bytes()))
        return [said.file("csv"), other]
    if name == "many":  # tokens, and a few positions that read them
        reads = [f"0,0,t{token},{token},Full,{query},{token + 1},0.5" for query in (287, 288) for token in range(query)]
        table = tmp_path / "many_results.csv"
        keys = "generation_step,layer,token_masked,token_position,variant,query_position,l2_distance,cosine_distance"
        table.write_text("\n".join([keys, *reads, ""]))
        return [table]
    return {
        "effects": REACH,
        "whole": two_tokens,
        "reads": EVERY,
        "injections": [reports / "deep_results.html"],
        "video": [reports / "film_results.html"],
        "routes": [reports / "routes_results.html"],
        "neighbours": [said.file("csv")],
        "picture": [*picture, said.file("csv"), said.file("run")],
        "two": [runs[run].file(kind) for run in ("talk", "short") for kind in ("csv", "run")],
    }[name]


def given(viewer: Viewer, paths: list, state: dict) -> Viewer:
    viewer.open(f"{PAGE.as_uri()}#{fragment(state)}")
    viewer.drop(*paths)
    return viewer


def loaded(viewer: Viewer, wait_ms: int = 0) -> Viewer:
    viewer.page.locator("h1:visible").first.wait_for()
    viewer.page.wait_for_timeout(wait_ms)
    viewer.page.evaluate(OPEN)
    return viewer


def look(viewer: Viewer) -> list[str]:
    viewer.settle(3)
    viewer.page.evaluate("() => document.activeElement.blur()")
    # Elements of a grid that was made anew have another number.
    return [re.sub(r"heatmap-cell-\d+", "cell", each) for each in viewer.page.evaluate(LOOK)]


def test_every_key_of_the_state_is_changed(viewer):
    """The keys as the page writes them into its address."""
    text = (ROOT / "viewer" / "src" / "core" / "state.ts").read_text()
    keys = re.findall(r"^  (\w+):", text.partition("DEFAULTS: Readonly<State> = {")[2].partition("};")[0], re.MULTILINE)
    assert len(keys) > 30
    assert sorted(keys) == sorted({key for changes in CHANGES.values() for key in changes})


@pytest.mark.parametrize("library", CHANGES)
def test_no_view_is_stale(opened, runs, said, two_tokens, reports, tmp_path, library):
    paths, always = files(library, runs, said, two_tokens, reports, tmp_path), TWO if library == "two" else {}
    one, fresh = opened(**WIDE), opened(**WIDE)
    loaded(given(one, paths, always), 300)  # the last file, too
    looks: dict[str, list[str]] = {}  # before a change
    for key, (base, value) in CHANGES[library].items():
        after = always | base | {key: value}
        # Alone, the second table is the first one. It loads while the other page is looked at.
        given(fresh, *((paths[1:], {}) if key == "lens" else (paths, after)))
        one.go(**always | base)
        if str(base) not in looks:
            looks[str(base)] = look(one)
        one.go(**after)
        changed = look(one)
        assert changed != looks[str(base)], f"{key} changes nothing, so this shows nothing"
        loaded(fresh)
        for _ in range(PATIENCE):  # its last file may not be there yet
            wanted = look(fresh)
            if key == "lens":
                changed, wanted = (within(each, "section.lens .lens-columns") for each in (one, fresh))
            if changed == wanted:
                break
            fresh.page.wait_for_timeout(100)
        apart = [line for line in difflib.ndiff(wanted, changed) if line[0] in "+-"] if changed != wanted else []
        assert apart[:2] == [], (key, value)


def within(viewer: Viewer, selector: str) -> list[str]:
    return viewer.page.evaluate(LOOK.replace('"main *"', f'"{selector} *"'))
