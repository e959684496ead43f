"""Effects on the answer."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from playwright.sync_api import Locator, expect
from test_results import make_block, save
from viewer_page import Scale, Viewer, alike, most_frequent
from viewer_runs import FIXTURES, REACH, effect_table, effects_of, pressed, read_copied

from mask_impact.files.results import read_csv

EFFECTS = {"logprob_change": "change of log-probability", "kl": "KL divergence", "contrast_change": "change of the"}


@pytest.fixture
def reach(viewer) -> Viewer:
    viewer.drop(*REACH)
    viewer.shows("reach")
    return viewer


def test_effects_are_those_of_pandas(reach, effects):
    for measure in EFFECTS:
        for block in ("last", "all"):
            reach.go(effect=measure, block=block, order="position")
            table = effect_table(reach).map(np.float32)
            wide = effects[effects.block == block].pivot(index="token_position", columns="first_layer", values=measure)
            assert list(table.columns) == ["layers 0 to 3", "layers 1 to 3", "layers 2 to 3", "layer 3"]
            assert table.index.tolist() == list(range(16))
            assert table.to_numpy().tolist() == wide.to_numpy(np.float32).tolist(), (measure, block)
            caption = effects_of(reach).locator("caption").inner_text()
            assert EFFECTS[measure][1:] in caption
            assert ("log-probability of ␣blue minus that of ␣red" in caption) == (measure == "contrast_change")
    reach.go(order="strength", mask="1-3")
    size = (
        effects[(effects.block == "all") & (effects.first_layer == 1)].set_index("token_position").logprob_change.abs()
    )
    assert effect_table(reach).index.tolist() == size.sort_values(ascending=False, kind="stable").index.tolist()


def test_effects_on_the_whole_answer_are_those_of_pandas(viewer, two_tokens):
    effects = pd.read_csv(two_tokens[2], keep_default_na=False).astype({"logprob_change": np.float32})
    viewer.drop(*two_tokens)
    viewer.shows("two")
    for answer, step, of_what in (("step", 0, ""), ("whole", -1, " of the whole answer")):
        viewer.go(answer=answer, order="position")
        table = effect_table(viewer).map(np.float32)
        wide = effects[effects.generation_step == step].pivot(
            index="token_position", columns=["first_layer", "last_layer"], values="logprob_change"
        )
        assert list(table.columns) == ["layers 0 to 3", "layer 1"]
        assert table.index.tolist() == wide.index.tolist()
        assert table.to_numpy().tolist() == wide.to_numpy(np.float32).tolist()
        assert f"hange of log-probability{of_what} with the unit" in effects_of(viewer).locator("caption").inner_text()


def test_effects_by_controls(reach):
    box = effects_of(reach)
    for label, choice, part in (
        ("show", "KL divergence", "effect=kl"),
        ("hidden from", "the predicting position", "block=last"),
        ("one value from", "layers 2 to 3", "mask=2-3"),
        ("sorted by", "position", "order=position"),
        ("sorted by", "strength", "order=strength"),
    ):
        box.get_by_label(label).select_option(label=choice)
        reach.address(part)
    assert "predicting position" in box.locator(".matrix__what").first.inner_text()
    assert effect_table(reach).index[0] == 10
    reach.choose("Shade prompt and picture by", "effect")
    reach.address("shade=effect")


TOP, HIGH, OUTCOME = 30, 20, 210  # pixels of the matrix: above the rows, of a row, right of the cells


def unfolded(viewer: Viewer) -> tuple[Locator, float, float]:
    """The matrix with all units by position; where its cells begin, and how wide they are."""
    viewer.go(order="position")
    effects_of(viewer).get_by_role("button", name="p by less than 0.001").click()
    viewer.settle(2)
    canvas = effects_of(viewer).locator("canvas").first
    canvas.scroll_into_view_if_needed()
    width = canvas.bounding_box()["width"]
    left = min(170, width * 0.32)
    return canvas, left, min(84, (width - left - 2 - OUTCOME) / 4)


def test_units_that_change_nothing_are_folded(reach, effects):
    here = effects[effects.block == "all"]
    before = np.exp(here.logprob - here.logprob_change)
    falls = (before - np.exp(here.logprob)).abs().groupby(here.token_position).max()
    kept = int((falls >= 0.001).sum())
    assert 0 < kept < 16
    button = effects_of(reach).get_by_role("button", name="p by less than 0.001")
    expect(button).to_have_text(f"{16 - kept} others change p by less than 0.001")
    canvas = effects_of(reach).locator("canvas").first
    assert canvas.bounding_box()["height"] == TOP + HIGH * kept + 2
    button.click()
    reach.settle(2)
    assert canvas.bounding_box()["height"] == TOP + HIGH * 16 + 2  # and nothing scrolls inside
    strongest = here.groupby("token_position").logprob_change.agg(lambda values: values.abs().max()).idxmax()
    assert effect_table(reach).index[0] == strongest


def test_colours_of_effects(reach, effects):
    canvas, left, wide = unfolded(reach)
    for measure, state in (
        ("logprob_change", {}),
        ("logprob_change", {"curve": "sqrt"}),
        ("kl", {"theme": "dark"}),
        ("logprob_change", {"theme": "dark"}),
    ):
        reach.go(effect=measure, order="position", **state)
        here = effects[effects.block == "all"]
        end = here[here.token_position > 0][measure].abs().max()
        scale = Scale(end, state.get("curve") == "sqrt", signed=measure != "kl", dark="theme" in state)
        places = [
            (left + first * wide + 2, TOP + HIGH * position + 2, 4, 14)
            for position in range(1, 16)
            for first in range(4)
        ]
        values = here.set_index(["token_position", "first_layer"])[measure]
        found = most_frequent(canvas, places)
        for (position, first), rgb in zip([(p, f) for p in range(1, 16) for f in range(4)], found, strict=True):
            assert alike(rgb, scale.colour(values[position, first])), (measure, position, first)


def test_effects_are_pointed_at_and_selected(reach, effects):
    box = effects_of(reach)
    reach.key("Escape")
    canvas, left, wide = unfolded(reach)
    row = effects[(effects.block == "all") & (effects.token_position == 9) & (effects.first_layer == 1)].iloc[0]
    spot = {"x": left + 1.5 * wide, "y": TOP + HIGH * 9 + 10}
    canvas.hover(position=spot)
    reach.settle()
    said = box.locator(".matrix__readout").inner_text().replace("−", "-")
    for text in (
        "token ␣blue at position 9, masked in layers 1 to 3",
        f"changed by {float(f'{row.logprob_change:.3g}'):g}",
        f"rank {row['rank']}",
        f"likeliest {row.top_token.replace(' ', '␣')}",
        f"KL {float(f'{row.kl:.3g}'):g}",
    ):
        assert text in said, said
    assert (
        reach.page.get_by_role("region", name="Prompt").locator("[data-hovered]").get_attribute("aria-label") == "␣blue"
    )
    canvas.click(position=spot)
    reach.address("token=9")
    assert pressed(reach.page, "Prompt") == ["␣blue"]
    canvas.click(position=spot)
    canvas.focus()
    reach.key("ArrowDown", "ArrowRight", "ArrowRight", "Enter")  # from the cell of the click
    reach.address("token=10")
    assert "masked in layer 3" in box.locator(".matrix__readout").inner_text()


def test_few_units_that_change_the_answer_have_no_rank_correlation(reach):
    assert "Spearman" not in effects_of(reach).inner_text()
    assert not effects_of(reach).get_by_role("img").is_visible()


def test_effects_beside_impact(viewer, effects, tmp_path):
    """Of effects that are large enough, every unit counts; ranks and values by pandas."""
    change = effects.logprob_change.astype(float) - 0.01 * (effects.token_position * 7 % 16 + 1)
    changed = effects.assign(logprob=np.log(0.9) + change, logprob_change=change)
    viewer.drop(*REACH[:2], ("reach_effects.csv", changed.to_csv(index=False).encode()))
    viewer.shows("reach")
    full = read_csv(REACH[0]).query("variant == 'Full' and token_position > 0")
    impact = full.l2_distance.astype(float).pow(2).groupby(full.token_position).sum()
    box = effects_of(viewer)
    for first in (0, 3):
        viewer.go(mask=f"{first}-3")
        here = changed[(changed.block == "all") & (changed.first_layer == first)].set_index("token_position")
        rho = here.logprob_change.abs().rank().corr(impact.rank())
        text = box.locator(".matrix__what").nth(1).inner_text().replace("−", "-")
        found = re.search(r"in layers? (\d)(?: to 3)? .* ρ = (-?[\d.]+), n = 15 units .*, position 0 left out", text)
        assert found and int(found[1]) == first
        assert float(found[2]) == pytest.approx(rho, abs=0.0051)
    viewer.go(first=True)
    expect(box).to_contain_text("n = 16")
    scatter = box.get_by_role("img")
    scatter.scroll_into_view_if_needed()
    box_ = scatter.bounding_box()
    scatter.click(position={"x": box_["width"] - 48, "y": 26})  # the strongest of both
    viewer.address("token=14")


def test_the_prompt_is_shaded_by_effects(reach, effects):
    reach.go(shade="effect", mask="1-3")
    prompt = reach.page.get_by_role("region", name="Prompt")
    here = effects[(effects.block == "all") & (effects.first_layer == 1)].set_index("token_position").logprob_change
    scale = Scale(here[1:].abs().max(), signed=True)
    shades = prompt.locator(".prompt__token").evaluate_all(
        "(all) => all.map((each) => getComputedStyle(each).backgroundColor)"
    )
    for position in range(1, 16):
        rgb = tuple(int(part) for part in re.findall(r"\d+", shades[position])[:3])
        assert alike(rgb, scale.colour(here[position])), position
    expect(prompt.locator(".prompt__legend")).to_contain_text("hidden from every later position in layers 1 to 3")
    assert not prompt.get_by_label("First layer that counts").is_visible()
    table = read_copied(reach, "Prompt")
    assert table.value[:16].astype(np.float32).tolist() == here.astype(np.float32).tolist()
    assert set(table.metric) == {"logprob_change"} and set(table.layers) == {"1-3"} and set(table.block) == {"all"}


def test_effects_leave_the_page(reach, effects, tmp_path):
    table = read_copied(reach, "Effects")
    here = effects[effects.block == "all"]
    keys = [
        "token_position",
        "token_masked",
        "first_layer",
        "last_layer",
        "block",
        "rank",
        "top_token",
        "generation_step",
    ]
    found = table.merge(here, on=keys, suffixes=("", "_file"))
    assert len(found) == len(table) == len(here)
    assert found.value.astype(np.float32).tolist() == found.logprob_change_file.tolist()
    assert set(table.metric) == {"logprob_change"} and set(table.run) == {"reach"}
    root = ET.fromstring(reach.download("Effects", "SVG").path().read_text())
    texts = "".join(root.itertext())
    assert "p of the answer" in texts and "␣blue" in texts
    with Image.open(reach.download("Effects", "PNG").path()) as image:
        assert len(image.convert("RGB").resize((64, 64)).getcolors(9999) or []) > 5


def test_effects_come_back_by_their_address(opened):
    state = {"effect": "kl", "block": "last", "mask": "2-3", "order": "strength", "shade": "effect", "token": 9}
    first, second = opened(), opened(fragment="&".join(f"{key}={value}" for key, value in state.items()))
    for viewer in (first, second):
        viewer.drop(*REACH)
        viewer.shows("reach")
    first.go(**state)
    first.settle(2)
    assert first.page.locator("main").inner_text() == second.page.locator("main").inner_text()


def test_effects_wait_for_their_results(viewer, effects):
    viewer.drop(REACH[2])
    viewer.message("reach_effects.csv holds effects on the answer; the results of their run are in reach_results.csv")
    viewer.drop(("bad_effects.csv", effects.drop(columns="kl").to_csv(index=False).encode()))
    viewer.message("bad_effects.csv: not a table of effects: the column kl is missing")
    viewer.drop(*REACH[:2])
    viewer.shows("reach")
    expect(effects_of(viewer)).to_be_visible()
    assert not viewer.page.get_by_text("holds effects on the answer").is_visible()


def test_without_effects_nothing_of_them_is_shown(talk):
    assert not effects_of(talk).is_visible()
    assert not talk.page.get_by_label("shade by").is_visible()
    assert talk.export_menu().get_by_text("Effects").count() == 0


def test_one_range_of_layers_is_a_list(viewer, tmp_path):
    for kind in ("results.csv", "run.json"):
        (tmp_path / f"one_{kind}").write_bytes((FIXTURES / f"reach_{kind}").read_bytes())
    viewer.drop(*(tmp_path / f"one_{kind}" for kind in ("results.csv", "run.json")), FIXTURES / "one_effects.parquet")
    viewer.shows("one")
    df = pd.read_csv(FIXTURES / "one_effects.csv", keep_default_na=False)
    single = df[df.interaction == ""].set_index("token_position")
    table = effect_table(viewer)
    assert (
        table.index.tolist() == single.logprob_change.abs().sort_values(ascending=False, kind="stable").index.tolist()
    )
    for column in ("logprob", "kl", "final_l2", "contrast"):
        assert sorted(table[column].map(np.float32)) == sorted(single[column].astype(np.float32))
    viewer.go(effect="interaction")
    assert len(effect_table(viewer)) == 2


def test_hostile_units_are_text(viewer, hostile):
    tokens = hostile.tokens
    df = pd.DataFrame({"token_position": list(tokens), "token_masked": list(tokens.values())})
    numbers = dict.fromkeys(("logprob", "logprob_change", "kl", "final_l2", "final_cosine", "contrast_change"), -0.5)
    df = df.assign(
        generation_step=0, first_layer=0, last_layer=1, block="all", rank=1, top_token=df.token_masked, **numbers
    )
    viewer.drop(
        hostile.file("csv"), hostile.file("run"), ("hostile_effects.json", df.to_json(orient="records").encode())
    )
    viewer.shows("hostile")
    assert len(effect_table(viewer)) == len(tokens)
    viewer.go(shade="effect", effect="contrast_change", token=3)
    assert viewer.page.locator("img, main script, main svg, iframe, b").count() == 0
    ET.fromstring(viewer.download("Effects", "SVG").path().read_bytes())


def test_many_units_and_layers_scroll(viewer, tmp_path):
    """3,000 units in 36 ranges of layers: drawn at once, and the last one is reached."""
    rows = [(position, first) for first in range(36) for position in range(3000)]
    df = pd.DataFrame(rows, columns=["token_position", "first_layer"])
    df = df.assign(
        token_masked="t" + df.token_position.astype(str), generation_step=0, last_layer=35, block="all", rank=2
    )
    df = df.assign(
        top_token="x", logprob=-1.5, logprob_change=-df.token_position / 3000, kl=0.1, final_l2=1.0, final_cosine=0.1
    )
    block = make_block(0, 0, [f"t{position}" for position in range(3000)], ("Full",))
    save(tmp_path, [block], ("csv",), "many")
    df.to_parquet(tmp_path / "many_effects.parquet")
    viewer.drop(tmp_path / "many_results.csv", tmp_path / "many_effects.parquet")
    viewer.shows("many")
    box = effects_of(viewer)
    expect(box).to_be_visible()
    viewer.go(order="position")
    viewer.settle(3)
    box.locator("canvas").first.focus()
    viewer.key("PageDown", "End")
    assert "t2999 at position 2999, masked in layer 35" in box.locator(".matrix__readout").inner_text()
    canvas = box.locator("canvas").first.bounding_box()
    assert canvas["height"] <= TOP + 60 * HIGH + 2
    assert viewer.page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
