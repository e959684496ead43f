"""The page as a file: small, whole, in a notebook, with large tables; runs of encoder-decoders."""

import base64
import re
import zlib

import numpy as np
import pytest
from checkpoints import bart
from playwright.sync_api import expect
from test_results import save
from viewer_page import cells_of, most_frequent
from viewer_runs import LARGEST_PAGE, PAGE, ROOT, Run, assert_as_in, read_copied

import mask_impact_analysis
from mask_impact.files.results import Block, ResultFiles, read_csv, to_dataframe

# --- the page --------------------------------------------------------------------------------------------


def test_the_page_is_small_and_complete():
    page = PAGE.read_bytes()
    assert len(page) <= LARGEST_PAGE, f"{PAGE.name} has {len(page):,} bytes; agreed on: {LARGEST_PAGE:,}"
    text = page.decode()
    assert "default-src 'none'" in text
    assert not re.search(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=", text)
    packed = dict(re.findall(r'<script type="text/plain" data-packed="(\w+)">([^<]+)</script>', text))
    assert list(packed) == ["style", "script"]
    script = zlib.decompress(base64.b64decode(packed["script"])).decode()
    assert re.search(r"^\tfunction startPage\(\) \{$", script, re.MULTILINE), "the developer tools show readable code"


def test_a_browser_that_cannot_unpack_the_page_is_told(browser):
    context = browser.new_context()
    context.add_init_script("delete window.DecompressionStream")
    page = context.new_page()
    page.goto(PAGE.as_uri())
    assert page.locator("body").inner_text() == (
        "This browser is too old for this page, which needs DecompressionStream: "
        "Chrome 123, Firefox 120, Safari 17.5 or newer has it."
    )
    context.close()


def test_the_empty_page_says_what_to_drop_and_has_an_example(viewer):
    for text in ("Drop the files of a run", "NAME_results.csv", "NAME_run.json"):
        expect(viewer.page.get_by_text(text, exact=False).first).to_be_visible()
    viewer.page.get_by_role("button", name="Show an example").click()
    expect(viewer.page.get_by_role("grid")).to_be_visible()
    _, cells, names = viewer.numbers()
    assert len(cells) >= 20 and len(names) >= 5
    viewer.page.get_by_text("1 note about this run").click()
    expect(viewer.page.get_by_text("This is the example inside of the page").locator("visible=true")).to_be_visible()


# --- cross-attention -------------------------------------------------------------------------------------


def test_a_run_with_cross_attention_opens_on_it(opened, tmp_path):
    flags = ["--model", str(bart(tmp_path / "model")), "--prompt", "the cat sat on the mat", "--num-tokens", "2"]
    assert mask_impact_analysis.main([*flags, "--output", "bart", "--output-dir", str(tmp_path), "--quiet"]) == 0
    df = read_csv(tmp_path / "bart_results.csv")
    viewer = opened(tmp_path / "bart_results.html")
    viewer.shows("bart")
    length = int(df.token_position[df.variant == "CrossFull"].max()) + 1
    expect(viewer.page.get_by_text(f"{length} prompt tokens + start token + 2 generated").first).to_be_visible()
    assert viewer.numbers()[1] == cells_of(df, "l2", "CrossFull", 0)
    viewer.address("variant=CrossFull")
    expect(viewer.page.locator(".prompt__divider").first).to_have_text("decoder begins")
    viewer.go(variant="CrossFull", token=2)
    heads = viewer.page.get_by_role("region", name="Heads")
    expect(heads).to_contain_text("Heads of cross-attention. For token")
    for cross in ("Cross", ""):
        viewer.go(variant=f"{cross}Full", token=2 if cross else int(df.token_position.max() - 1))
        found = read_copied(viewer, "Heads")
        assert set(found.variant) == {name for name in df.variant if name.startswith(f"{cross}Head_")}
        assert_as_in(found, Run(tmp_path, "bart", df, {}), "l2")
        assert set(read_copied(viewer, "Layers").variant) == {f"{cross}Full", f"{cross}Attn"}
    viewer.address("variant=Full")  # said, since without it the page would open on the other
    opened(tmp_path / "bart_results.html", "variant=Full").address("variant=Full")


# --- notebook --------------------------------------------------------------------------------------------


def test_a_notebook_shows_the_page(opened, runs, tmp_path, monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    run = runs["both"]
    cell = f"""
from mask_impact.report import show
from mask_impact.results import read_csv
import json, pathlib
df = read_csv({str(run.file("csv"))!r})
df.attrs["run"] = json.loads(pathlib.Path({str(run.file("run"))!r}).read_text())
show(df, page={str(PAGE)!r})
"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    (output,) = [each for each in notebook.cells[0].outputs if each.output_type == "execute_result"]
    page = tmp_path / "notebook.html"
    page.write_text(f"<!doctype html><meta charset=utf-8><p>Out[1]</p>{output['data']['text/html']}")
    viewer = opened(page)
    inside = viewer.page.frame_locator("iframe")
    expect(inside.locator("h1:visible")).to_have_text("both")
    inside.get_by_role("grid").scroll_into_view_if_needed()
    expect(inside.get_by_role("grid")).to_be_visible()
    inside.get_by_text("Numbers as a table").click()
    row = inside.locator(".heatmap-numbers tr[data-position='25'] td[data-layer='0']")
    expect(row).to_have_text(str(run.cells()[25, 0]))
    colours = most_frequent(inside.locator(".heatmap-scroll canvas"), [(60 + 14 * i, 200, 6, 6) for i in range(20)])
    assert len(set(colours)) > 3


# --- speed -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["csv", "json", "parquet"])
def test_a_large_table_is_there_at_once(opened, tmp_path, kind):
    """165,240 rows. The bounds are generous; `make bench-viewer` prints what it takes."""
    rng = np.random.default_rng(0)
    variants = ["Full", "Attn", *(f"Head_{head}" for head in range(32))]
    texts = [f" token{i}" for i in range(27)]
    with ResultFiles(tmp_path, "large", [kind]) as files:
        for step in range(5):
            for layer in range(36):
                l2, cosine = rng.lognormal(0, 2, (2, 27, 34)).astype(np.float32)
                files.write(Block.of_l2_and_cosine(step, layer, texts, np.arange(27), variants, l2, cosine))
        files.commit({"name": "large"})
    viewer = opened(metered=True)
    viewer.settle(10)  # the worker has started
    viewer.page.evaluate("() => meter.reset()")
    viewer.page.locator("input[type=file]").first.set_input_files(tmp_path / f"large_results.{kind}")
    took = viewer.page.evaluate("() => meter.loaded('large')")
    assert took["first"] < 2000
    assert took["gap"] < 500


def test_thousands_of_tokens_and_many_layers(opened, tmp_path):
    """1,500 tokens, 80 layers: readable cells that scroll, a minimap, all numbers in pages."""
    rng = np.random.default_rng(0)
    blocks = [
        Block.of_l2_and_cosine(
            0,
            layer,
            [f" t{i}" for i in range(1500)],
            np.arange(1500),
            ["Full"],
            *rng.lognormal(0, 2, (2, 1500, 1)).astype(np.float32),
        )
        for layer in range(80)
    ]
    save(tmp_path, blocks, ("parquet",), "wide")
    viewer = opened()
    viewer.drop(tmp_path / "wide_results.parquet")
    viewer.shows("wide")
    expect(viewer.page.locator(".minimap")).to_be_visible()
    grid = viewer.page.get_by_role("grid")
    canvas = grid.locator("canvas").bounding_box()
    assert canvas["width"] <= 1280 and canvas["height"] <= 900
    viewer.go(token=1400, layer=70)
    assert grid.evaluate("(each) => each.scrollLeft") > 1000
    found = viewer.page.locator(".heatmap-numbers")
    viewer.open_numbers()
    wanted = cells_of(to_dataframe(blocks), "l2", "Full", 0)
    expect(found.locator("tr[data-position='1400'] td[data-layer='70']")).to_have_text(str(wanted[1400, 70]))
