"""What a stranger can say after ten seconds, without scrolling on a screen of 1280 x 800: the table in docs/viewer.md.

Each test opens a report of the demo models, looks for what the sentence needs, and holds it against the tables.
"""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from playwright.sync_api import Locator, expect
from viewer_page import Viewer
from viewer_runs import LENS, ROOT, effects_of

import mask_impact_analysis
from mask_impact.files.results import read_csv

SCREEN = {"width": 1280, "height": 800}
BATCH = """
model: demo
defaults: {effects: true, variants: [full, attn]}
prompts:
  - name: blue_cup
    prompt: Tom has a red ball. Ann has a blue cup. Ann's cup is
    span: [fact=Ann has a blue cup., other=Tom has a red ball., asked=Ann's cup]
  - name: red_ball
    prompt: Tom has a red ball. Ann has a blue cup. Tom's ball is
    span: [fact=Tom has a red ball., other=Ann has a blue cup., asked=Tom's ball]
  - name: white_car
    prompt: Max has a black pen. Sue has a white car. Sue's car is
    span: [fact=Sue has a white car., other=Max has a black pen., asked=Sue's car]
"""


def seen(viewer: Viewer, *wanted: Locator) -> None:
    """All of each is on the screen."""
    viewer.settle(3)
    for each in wanted:
        expect(each).to_be_visible()
        box = each.bounding_box()
        assert box["y"] >= 0 and box["x"] >= 0, (each, box)
        assert box["y"] + box["height"] <= SCREEN["height"], (each, box)
        assert box["x"] + box["width"] <= SCREEN["width"], (each, box)
    assert viewer.page.evaluate("() => scrollY") == 0


def first_look(opened, page: Path) -> Viewer:
    return opened(page, viewport=SCREEN)


def most_read(df: pd.DataFrame, positions=None) -> pd.DataFrame:
    """By the root of the sum of squares over layers, the most read token first; each with its largest value's layer."""
    full = df.query("variant == 'Full' and generation_step == 0 and token_position > 0")
    full = full if positions is None else full[full.token_position.isin(positions)]
    root = full.l2_distance.astype(float).pow(2).groupby(full.token_position).sum().sort_values(ascending=False)
    peaks = full.loc[full.groupby("token_position").l2_distance.idxmax()].set_index("token_position")
    return peaks.loc[root.index]


def test_text(opened, runs):
    """to say blue, layer 1 reads the second cup and layer 3 the first one"""
    first, second = most_read(runs["talk"].df).head(2).itertuples()
    assert (first.layer, first.Index, second.layer, second.Index) == (1, 14, 3, 10)
    viewer = first_look(opened, runs["talk"].file("html"))
    viewer.shows("talk")
    story = viewer.page.locator(".story")
    expect(story).to_have_text("To say blue: layer 1 reads cup (14), layer 3 reads cup (10).")
    seen(viewer, story, viewer.page.get_by_role("grid"), viewer.page.get_by_role("region", name="Prompt"))


def test_picture(opened, runs):
    """to say red, layer 0 reads circle, and in the picture it is the middle of the circle that is read most"""
    run = runs["both"]
    tokens = {token["position"]: token for token in run.manifest["tokens"]}
    words = [position for position, token in tokens.items() if token["kind"] == "text"]
    word = most_read(run.df, words).iloc[0]
    image = [position for position, token in tokens.items() if token["kind"] == "image"]
    patch = tokens[most_read(run.df, image).index[0]]
    pixels = np.asarray(Image.open(ROOT / "testimg.png").convert("RGB")).astype(int)
    y, x = np.nonzero((pixels[..., 0] > 150) & (pixels[..., 1] < 80) & (pixels[..., 2] < 80))
    left, top, right, bottom = patch["box"]
    assert left <= x.mean() < right and top <= y.mean() < bottom  # the middle of the circle
    viewer = first_look(opened, run.file("html"))
    viewer.shows("both")
    story = viewer.page.locator(".story")
    expect(story).to_contain_text(f"To say red: layer {word.layer} reads {word.token_masked.strip()} (")
    expect(story).to_contain_text(f"reads most at row {patch['row']}, column {patch['col']}")
    seen(viewer, story, viewer.page.locator(".picture-frame canvas"), viewer.page.locator(".picture-beside"))


def test_effects(opened, reports):
    """without the cup of the question the answer is ball; two more tokens change it, all others do not"""
    df = pd.read_csv(reports / "needs_effects.csv", keep_default_na=False)
    changed = df[df.top_token != " blue"]
    assert set(changed.token_position) == {9, 10, 14}
    viewer = first_look(opened, reports / "needs_results.html")
    viewer.shows("needs")
    story = viewer.page.locator(".story")
    expect(story).to_contain_text("without cup (14) the answer is ball")
    others = effects_of(viewer).get_by_role("button", name="p by less than 0.001")
    seen(viewer, story, effects_of(viewer).locator("canvas").first, others)


@pytest.fixture(scope="module")
def batch(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cups")
    (folder / "cups.yaml").write_text(BATCH)
    assert (
        mask_impact_analysis.main(["--config", str(folder / "cups.yaml"), "--output-dir", str(folder), "--quiet"]) == 0
    )
    return folder


def test_index_of_a_folder(opened, batch):
    """which prompts were run, what each answer is and what it needs; the fact costs most over all prompts"""
    names = ["blue_cup", "red_ball", "white_car"]
    tables = [pd.read_csv(batch / f"{name}_effects.csv", keep_default_na=False) for name in names]
    costs = pd.concat(tables).groupby("token_masked").logprob_change.mean().sort_values()
    assert costs.index[0] == "fact"
    viewer = first_look(opened, batch / "index.html")
    rows = viewer.page.locator(".index-runs tbody tr")
    expect(rows).to_have_count(3)
    for row, name, df in zip(rows.all(), names, tables, strict=True):
        manifest = json.loads((batch / f"{name}_run.json").read_bytes())
        worst = df.loc[df.logprob_change.idxmin()]
        for text in (name, manifest["prompt"], manifest["generated"][0]["text"].strip()):
            expect(row).to_contain_text(text)
        expect(row).to_contain_text(f"{worst.token_masked} ({worst.token_position})")
    means = viewer.page.locator(".index-means tbody tr")
    assert [each.split()[0] for each in means.all_inner_texts()] == list(costs.index)
    seen(viewer, *rows.all(), viewer.page.locator(".index-means table"))


def test_vision_tower(opened, reports):
    """which patches the others read most, in which layers"""
    manifest = json.loads((reports / "tower_run.json").read_bytes())
    tokens = {token["position"]: token for token in manifest["tokens"]}
    best = most_read(read_csv(reports / "tower_results.csv")).head(3)
    said = [
        f"row {tokens[position]['row']}, column {tokens[position]['col']} (layer {each.layer})"
        for position, each in best.iterrows()
    ]
    viewer = first_look(opened, reports / "tower_results.html")
    viewer.shows("tower")
    story = viewer.page.locator(".story")
    expect(story).to_have_text(f"In the vision tower, the other patches read most {', '.join(said)}.")
    seen(viewer, story, viewer.page.locator(".picture-frame canvas"))


def test_latent_lens(opened, said):
    """which words the patches of the picture are nearest to, in the chosen layer"""
    viewer = first_look(opened, said.folder / "m_neighbors.html")
    region = viewer.page.get_by_role("region", name=LENS)
    expect(region).to_be_visible()
    what = region.get_by_text(re.compile(r"In each patch: .* layer \d+"))
    layer = re.search(r"layer \d+", what.inner_text())[0]
    seen(viewer, what, region.locator("canvas").first, region.locator("output").get_by_text(layer, exact=True))


def test_the_table_has_these_sentences():
    """docs/viewer.md promises what is tested here, and nothing else."""
    lines = (ROOT / "docs" / "viewer.md").read_text("utf-8").split("| report | what to say |")[1].split("\n\n")[0]
    promised = [line.split("|")[2].strip().replace("*", "") for line in lines.splitlines() if line.count("|") == 3][1:]
    tests = (test_text, test_picture, test_effects, test_index_of_a_folder, test_vision_tower, test_latent_lens)
    assert promised == [test.__doc__ for test in tests]


def test_an_index_of_1000_runs_opens_in_a_second(opened, tmp_path):
    """In seconds that the page's thread works, whatever else runs on this computer."""
    from mask_impact.files.index_page import write_index

    effect = {"text": "'fact'@6", "before": 0.9, "after": 0.1, "then": " no"}
    units = [{"name": name, "read": 2.0, "effect": -1.0} for name in ("fact", "asked")]
    row = {"prompt": "Tom has a red ball. " * 3, "answer": " blue", "effect": effect, "units": units}
    rows = [
        {
            **row,
            "name": f"run_{i}",
            "report": f"run_{i}_results.html",
            "by_layer": [float(i * j % 7) for j in range(30)],
        }
        for i in range(1000)
    ]
    write_index(tmp_path / "index.html", "thousand", rows)
    viewer = opened(tmp_path / "index.html", viewport=SCREEN)
    session = viewer.page.context.new_cdp_session(viewer.page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    viewer.page.reload()
    expect(viewer.page.get_by_text("1000 runs")).to_be_visible(timeout=30_000)
    viewer.settle(2)
    metrics = {each["name"]: each["value"] for each in session.send("Performance.getMetrics")["metrics"]}
    assert 0 < metrics["TaskDuration"] <= 1, metrics
    viewer.page.get_by_role("searchbox", name="Search runs").fill("run_77")
    expect(viewer.page.locator(".index-runs tbody tr")).to_have_count(11)
