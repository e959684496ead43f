"""NAME_results.html: the viewer with a run inside, read back out of the page.

pytest tests/test_report.py
pytest tests/test_report.py -k hostile         # nothing in a token can leave the data element
"""

import base64
import hashlib
import html
import io
import json
import re
import subprocess
import sys
import tracemalloc
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_results import HOSTILE, make_block, names, save

import mask_impact_vl
from mask_impact.errors import UserError
from mask_impact.files import page as pages
from mask_impact.files import results
from mask_impact.files.notebook import show, write_neighbors, write_report
from mask_impact.files.results import Block, ResultFiles, read_csv, to_dataframe
from mask_impact.lens.table_files import Files

ROOT = Path(__file__).resolve().parent.parent
DATA = "mask-impact-data"
NASTY = [
    *HOSTILE, "</script>", "</SCRIPT >", "<!--", "<!--<script>", "-->", "]]>", "<img src=x onerror=alert(1)>",
    "'\"`${}", "\u2028\u2029", "\ud83d", "\ude00\ud83d", "\\u003c", "&lt;", "&amp;quot;", "\0", "x" * 10_000,
]  # fmt: skip


class Scripts(HTMLParser):
    """[attributes, text] of every script of a page, as a browser divides it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[dict[str, str | None], str]] = []
        self.open = False
        self.tags: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.open = tag == "script"
        if self.open:
            self.found.append((dict(attrs), ""))

    def handle_data(self, data: str) -> None:
        if self.open:
            self.found[-1] = (self.found[-1][0], self.found[-1][1] + data)

    def handle_endtag(self, tag: str) -> None:
        self.open = False


def embedded(page: str) -> dict[str, Any]:
    """The data of a page, with each metric's values as an array [S, V, L, T] under the metric's name."""
    (text,) = [text for attrs, text in Scripts(page).found if attrs.get("id") == DATA]
    assert "<" not in text
    data = json.loads(text)
    shape = [len(data[axis]) for axis in ("steps", "variants", "layers", "positions")]
    for metric, values in zip(data["metrics"], data.pop("values"), strict=True):
        data[metric["name"]] = np.frombuffer(base64.b64decode(values, validate=True), "<f4").reshape(shape)
    return data


def table_of(data: dict[str, Any]) -> pd.DataFrame:
    """The rows of a cube, in the order of our tables."""
    s, v, layer, t = (place.ravel() for place in np.indices(data["l2"].shape))
    rows = pd.DataFrame(
        {
            "generation_step": np.array(data["steps"])[s],
            "layer": np.array(data["layers"])[layer],
            "token_masked": np.array(data["tokens"], object)[t],
            "token_position": np.array(data["positions"])[t],
            "variant": np.array(data["variants"], object)[v],
            "l2_distance": data["l2"].ravel(),
            "cosine_distance": data["cosine"].ravel(),
            "order": v,
        }
    )
    assert (np.isnan(rows.l2_distance) == np.isnan(rows.cosine_distance)).all()
    rows = rows[rows.l2_distance.notna()]
    return rows.sort_values(["generation_step", "layer", "token_position", "order"]).drop(columns="order")


def assert_same(data: dict[str, Any], table: pd.DataFrame) -> None:
    """Bit for bit."""
    assert data["rows"] == len(table)
    found = table_of(data)
    for column in results.COLUMNS:
        got, want = found[column].to_numpy(), table[column].to_numpy()
        if column.endswith("distance"):
            got, want = got.view(np.uint32), want.astype(np.float32).view(np.uint32)
        assert got.tolist() == want.tolist(), column


def growing_blocks(steps: int = 3, layers: tuple[int, ...] = (0, 4, 9), prompt: int = 5) -> list[Block]:
    """Each step has a token more than the one before."""
    return [
        make_block(
            step, layer, [f" t{i}" for i in range(prompt + step)], ("Full", "Attn", "Head_0", "Head_10", "Head_2")
        )
        for step in range(steps)
        for layer in layers
    ]


# --- what is in the page ----------------------------------------------------------------------------------
def test_a_run_comes_back_bit_for_bit(tmp_path):
    blocks = growing_blocks()
    paths = save(tmp_path, blocks, ("csv", "html"), name="cat", manifest={"name": "cat", "prompt": "é<"})
    data = embedded(paths["html"].read_text("utf-8"))
    assert (data["format"], data["name"]) == (2, "cat")
    assert [metric["column"] for metric in data["metrics"]] == ["l2_distance", "cosine_distance"]
    assert (data["steps"], data["layers"], data["positions"]) == ([0, 1, 2], [0, 4, 9], list(range(7)))
    assert data["variants"] == ["Full", "Attn", "Head_0", "Head_2", "Head_10"]
    beside = json.loads(paths["run"].read_bytes())
    assert beside.pop("bytes") and beside.pop("checksums") and data["manifest"] == beside and data["images"] == []
    assert data["manifest"]["files"] == ["cat_results.csv", "cat_results.html"]
    assert np.isnan(data["l2"]).sum() == 3 * 5 * (2 + 1)  # tokens that are not there yet
    in_order = read_csv(paths["csv"]).assign(order=lambda df: df.variant.map(data["variants"].index))
    in_order = in_order.sort_values(["generation_step", "layer", "token_position", "order"])
    assert_same(data, in_order)


def test_the_page_is_the_viewer_and_only_its_data_element_is_filled(tmp_path):
    page = pages.find_page().read_bytes()
    path = save(tmp_path, growing_blocks(), ("html",))["html"]
    start, end = page.split(pages.EMPTY_ELEMENT)
    found = path.read_bytes()
    assert found.startswith(start + b'<script type="text/plain" id="mask-impact-data">{')
    assert found.endswith(b"}</script>" + end)


def test_table_and_blocks_give_the_same_page(tmp_path):
    blocks = growing_blocks()
    table = to_dataframe(blocks)
    one = write_report(tmp_path / "a_results.html", iter(blocks), {"name": "x"})
    two = write_report(tmp_path / "b_results.html", table.sample(frac=1, random_state=0), {"name": "x"})
    texts = embedded(two.read_text("utf-8"))["tokens"]
    assert one.read_bytes() == two.read_bytes() and texts == [f" t{i}" for i in range(7)]
    assert embedded(write_report(tmp_path / "c_results.html", table).read_text("utf-8"))["name"] == "c"
    assert names(tmp_path) == ["a_results.html", "b_results.html", "c_results.html"]


def test_keys_that_vary_stay_out_of_the_page(tmp_path):
    table = to_dataframe(growing_blocks())
    pages = []
    for told in ({"created": "yesterday", "argv": ["/home/a"]}, {"seconds": {"total": 2.0}, "peak_memory_mb": 1.0}):
        path = write_report(tmp_path / "x.html", table, {"name": "x", "prompt": "p"} | told)
        pages.append(path.read_text("utf-8"))
    assert pages[0] == pages[1] and embedded(pages[0])["manifest"] == {"name": "x", "prompt": "p"}


def test_large_blocks_are_cut_and_small_ones_are_joined(tmp_path, monkeypatch):
    blocks = growing_blocks()
    whole = save(tmp_path / "a", blocks, ("html",))["html"].read_bytes()
    monkeypatch.setattr(results, "PART_ROWS", 7)
    assert save(tmp_path / "b", blocks, ("html",))["html"].read_bytes() == whole


def test_only_image_tokens_masked(tmp_path):
    block = make_block(tokens=["<img>"] * 4)
    block = Block.of_l2_and_cosine(0, 2, block.tokens, np.array([7, 8, 30, 31]), block.variants, block.l2, block.cosine)
    data = embedded(save(tmp_path, [block], ("html",))["html"].read_text("utf-8"))
    assert (data["positions"], data["layers"], data["tokens"]) == ([7, 8, 30, 31], [2], ["<img>"] * 4)
    assert_same(data, to_dataframe([block]))


def test_hostile_tokens_stay_in_the_data_element(tmp_path):
    block = make_block(tokens=NASTY)
    manifest = {"prompt": "".join(NASTY), "tokens": [{"text": text} for text in NASTY], "</script><script>": "<!--"}
    path = save(tmp_path, [block], ("html",), manifest=manifest)["html"]
    page, viewer = path.read_text("utf-8"), pages.find_page().read_text("utf-8")
    data = embedded(page)
    clean = [results.valid(text) for text in NASTY]
    assert data["tokens"] == clean and [each["text"] for each in data["manifest"]["tokens"]] == clean
    assert data["manifest"]["prompt"] == "".join(clean)
    assert data["manifest"]["</script><script>"] == "<!--"
    filled, empty = Scripts(page), Scripts(viewer)
    assert filled.tags == empty.tags
    assert [text for attrs, text in filled.found if attrs.get("id") != DATA] == [
        text for attrs, text in empty.found if attrs.get("id") != DATA
    ]
    part = page.split(' id="mask-impact-data">')[1].split("</script>")[0]
    assert part.endswith("}") and not re.search(r"[<\x00-\x1f]", part)


def test_a_table_from_elsewhere(tmp_path):
    """Extra columns, categories, duplicates, numbers as tokens, an odd variant, no manifest."""
    table = to_dataframe(growing_blocks(1)).astype({"variant": "category"}).assign(extra=1)
    table.attrs = {}
    twice = pd.concat([table, table.iloc[:1].assign(l2_distance=np.float32(9), variant="MLP", token_masked=7)])
    data = embedded(write_report(tmp_path / "x.html", twice).read_text("utf-8"))
    assert data["variants"][-1] == "MLP" and data["tokens"][0] == "7" and data["name"] == "x"
    assert data["l2"][0, -1, 0, 0] == 9 and np.isnan(data["l2"][0, -1, 0, 1:]).all()
    assert data["manifest"] is None and data["images"] == []
    again = pd.concat([table, table.iloc[:1].assign(l2_distance=np.float32(9))])
    assert embedded(write_report(tmp_path / "x.html", again).read_text("utf-8"))["l2"][0, 0, 0, 0] == 9


def test_what_is_no_result_table(tmp_path):
    with pytest.raises(UserError, match=r"no column 'layer'.*generation_step, layer"):
        write_report(tmp_path / "x.html", to_dataframe(growing_blocks(1)).drop(columns="layer"))
    for nothing in ([], to_dataframe([])):
        with pytest.raises(UserError, match="without rows"):
            write_report(tmp_path / "x.html", nothing)
    assert names(tmp_path) == []


# --- pictures ---------------------------------------------------------------------------------------------
def picture_of(data: dict[str, Any], index: int = 0) -> Image.Image:
    kind, text = re.fullmatch(r"data:image/(\w+);base64,(.*)", data["images"][index]["data"]).groups()
    image = Image.open(io.BytesIO(base64.b64decode(text)))
    assert image.format.lower() == kind and image.mode == "RGB" and not image.getexif()
    return image


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def described(*paths: Any) -> dict[str, Any]:
    return {"images": [{"path": str(path), "sha256": "?"} for path in paths]}


def test_a_small_picture_is_kept_pixel_by_pixel(tmp_path):
    image = noise(120, 80)
    with ResultFiles(tmp_path, "run", ["html"]) as files:
        files.write(make_block())
        path = files.commit(described("some/where/cat <1>.png"), [image])["html"]
    data = embedded(path.read_text("utf-8"))
    assert data["images"][0]["name"] == "cat <1>.png"
    assert picture_of(data).tobytes() == image.tobytes() and picture_of(data).format == "PNG"


@pytest.mark.parametrize(
    ("size", "want"), [((3000, 1500), (1024, 512)), ((900, 1024), (900, 1024)), ((1, 2048), (1, 1024))]
)
def test_a_large_picture_is_made_smaller(tmp_path, size, want):
    path = write_report(tmp_path / "x.html", [make_block()], described("a.png"), [noise(*size)])
    assert picture_of(embedded(path.read_text("utf-8"))).size == want
    assert path.stat().st_size < 3_000_000


def test_pictures_are_as_they_were_analysed(tmp_path):
    """Upright, in the order of the manifest; one that is missing leaves its place empty."""
    image = Image.new("RGB", (60, 40), "blue")
    image.paste("red", (0, 0, 30, 40))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    image.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    manifest = described("turned.jpg", "gone.png", "noise.png")
    path = write_report(tmp_path / "x.html", [make_block()], manifest, [tmp_path / "turned.jpg", None, noise(8, 8)])
    data = embedded(path.read_text("utf-8"))
    assert data["images"][1] is None and data["images"][2]["name"] == "noise.png"
    upright = picture_of(data)
    assert upright.size == (40, 60)
    (r, _, b), (red, _, blue) = upright.getpixel((20, 50)), upright.getpixel((20, 10))
    assert b > r and red > blue


def test_pictures_are_found_by_the_manifest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image = noise(16, 16)
    image.save("a.png")
    sha256 = hashlib.sha256(Path("a.png").read_bytes()).hexdigest()
    manifest = {"images": [{"path": "a.png", "sha256": sha256}, {"path": "b.png", "sha256": "?"}]}
    data = embedded(write_report("x.html", [make_block()], manifest).read_text("utf-8"))
    assert picture_of(data).tobytes() == image.tobytes() and data["images"][1] is None
    noise(17, 16).save("a.png")  # another picture under the name
    assert embedded(write_report("x.html", [make_block()], manifest).read_text("utf-8"))["images"] == [None, None]
    with pytest.raises(UserError, match="1 images were given, but the manifest names 2"):
        write_report("y.html", [make_block()], manifest, ["a.png"])
    assert names(tmp_path) == ["a.png", "x.html"]


def test_a_run_with_a_picture_has_it_in_its_report(tmp_path):
    """What the command line writes and what Python gives, with the bundled model."""
    picture = ROOT / "testimg.png"
    few = ["--variants", "full", "--layers", "1", "--mask-mode", "vision", "--quiet"]
    argv = ["--model", "demo", "--image", picture, "--prompt", "What color is the circle?", "--output-dir", tmp_path]
    assert mask_impact_vl.main([*map(str, argv), *few]) == 0
    data = embedded((tmp_path / "vl_masking_results.html").read_text("utf-8"))
    assert_same(data, read_csv(tmp_path / "vl_masking_results.csv"))
    assert data["positions"] == [token["position"] for token in data["manifest"]["tokens"] if token["kind"] == "image"]
    assert picture_of(data).tobytes() == Image.open(picture).convert("RGB").tobytes()
    assert data["images"][0]["name"] == "testimg.png"
    table = mask_impact_vl.run_vl_masking_experiment(
        "What color is the circle?", picture, "vision", "demo", layers=[1], variants=["full"]
    )
    shown = embedded(show(table).page)
    assert shown["images"] == data["images"] and shown["l2"].tobytes() == data["l2"].tobytes()


# --- limits -----------------------------------------------------------------------------------------------
def test_a_run_that_is_too_large_gets_every_other_format(tmp_path, monkeypatch):
    save(tmp_path, growing_blocks(1))
    assert "run_results.html" in names(tmp_path)
    monkeypatch.setattr(pages, "MAX_BASE64", 1000)
    with ResultFiles(tmp_path, "run", ["csv", "parquet", "html"]) as files:
        for block in growing_blocks():
            files.write(block)
        paths = files.commit({"notes": ["other"]})
    assert list(paths) == ["csv", "parquet", "run"]
    assert names(tmp_path) == ["run_results.csv", "run_results.parquet", "run_run.json"]  # the old report is gone, too
    manifest = json.loads(paths["run"].read_bytes())
    assert manifest["files"] == ["run_results.csv", "run_results.parquet"]
    assert manifest["notes"] == ["other", *files.notes] and files.notes == [
        "run_results.html was not written: the report would be 0 MB; a page holds at most 0 MB; "
        "open visualize_results.html and drop run_results.parquet instead"
    ]
    pd.testing.assert_frame_equal(pd.read_parquet(paths["parquet"]), to_dataframe(growing_blocks()), check_exact=True)


def test_the_limit_is_of_what_is_embedded(tmp_path, monkeypatch):
    blocks, image = growing_blocks(), noise(40, 40)
    manifest = described("a.png")
    page = write_report(tmp_path / "x.html", blocks, manifest, [image]).read_text("utf-8")
    data = json.loads(next(text for attrs, text in Scripts(page).found if attrs.get("id") == DATA))
    size = sum(map(len, data["values"])) + len(data["images"][0]["data"])
    monkeypatch.setattr(pages, "MAX_BASE64", size)
    write_report(tmp_path / "x.html", blocks, manifest, [image])
    monkeypatch.setattr(pages, "MAX_BASE64", size - 1)
    for table in (blocks, to_dataframe(blocks)):
        with pytest.raises(UserError, match=r"the report would be .* MB.*Parquet or CSV"):
            write_report(tmp_path / "y.html", table, manifest, [image])
    assert names(tmp_path) == ["x.html"]


# --- neighbours -------------------------------------------------------------------------------------------
def neighbours(texts: list[str], repeat: int = 1) -> dict[str, Any]:
    """Columns as mask_impact/lens/neighbors.py makes them; the last impact is missing."""
    count = len(texts) * repeat
    similarity = np.random.default_rng(0).random(count, np.float32)
    return {
        "layer": np.arange(count), "token_position": np.full(count, 3), "rank": np.ones(count, np.int64),
        "neighbor_token": texts * repeat, "caption": texts[::-1] * repeat, "caption_position": np.full(count, -1),
        "similarity": similarity, "masking_impact": [*[0.5] * (count - 1), None],
    }  # fmt: skip


def test_neighbours_come_back_as_their_table(tmp_path):
    columns = neighbours([*NASTY, "plain"])
    manifest = described("cat.png") | {"prompt": "</script>", "created": "now"}
    path = write_neighbors(tmp_path / "cat_neighbors.html", columns, manifest, [noise(20, 10)])
    page = path.read_text("utf-8")
    (text,) = [text for attrs, text in Scripts(page).found if attrs.get("id") == DATA]
    assert "<" not in text and Scripts(page).tags == Scripts(pages.find_page().read_text("utf-8")).tags
    data = json.loads(text)
    assert data["name"] == "cat_neighbors" and data["manifest"]["prompt"] == "</script>"
    assert "created" not in data["manifest"] and picture_of(data).size == (20, 10)
    found = json.loads(zlib.decompress(base64.b64decode(data["neighbors"], validate=True)))
    assert list(found) == list(columns)
    assert found["neighbor_token"] == [results.valid(text) for text in columns["neighbor_token"]]
    assert found["layer"] == list(range(len(NASTY) + 1)) and found["masking_impact"] == [0.5] * len(NASTY) + [None]
    assert np.float32(found["similarity"]).tobytes() == columns["similarity"].tobytes()


def test_a_page_of_neighbours_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    columns, path = neighbours(["a", "b"], 50), tmp_path / "x.html"
    path.write_text("before")
    with pytest.raises(UserError, match="without rows"):
        write_neighbors(path, {name: values[:0] for name, values in columns.items()})
    write_neighbors(path, columns)
    page = path.read_text()
    size = len(re.search(r'"neighbors":"([^"]+)"', page)[1])
    monkeypatch.setattr(pages, "MAX_BASE64", size)
    write_neighbors(path, columns)
    monkeypatch.setattr(pages, "MAX_BASE64", size - 1)
    with pytest.raises(UserError, match=r"the report would be .* MB.*Parquet or CSV.*_run.json"):
        write_neighbors(path, columns)
    assert path.read_text() == page and names(tmp_path) == ["x.html"]


def test_neighbours_too_many_for_a_page_are_in_the_tables(tmp_path, monkeypatch):
    files = Files(tmp_path, "x_neighbors", ["csv", "html"])
    request = {"layers": [1]}
    assert files.write(neighbours(["a"]), {"request": request}, [], write_neighbors) is None
    assert names(tmp_path) == ["x_neighbors.csv", "x_neighbors.html", "x_neighbors_run.json"] and files.is_of(request)
    files.paths[1].unlink()
    assert not files.is_of(request)
    monkeypatch.setattr(pages, "MAX_BASE64", 10)
    note = files.write(neighbours(["a"]), {"request": request}, [], write_neighbors)
    assert note and note.startswith("x_neighbors.html was not written: the report would be")
    assert names(tmp_path) == ["x_neighbors.csv", "x_neighbors_run.json"] and files.is_of(request)
    manifest = json.loads(files.manifest.read_bytes())
    assert manifest["tables"] == ["x_neighbors.csv"] and manifest["notes"] == [note]


def test_a_run_that_grows_too_large_stops_taking_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "MAX_BASE64", 200_000)
    tokens = [f"t{i}" for i in range(500)]
    with ResultFiles(tmp_path, "run", ["html"]) as files:
        for layer in range(40):
            files.write(make_block(0, layer, tokens))
        (folder,) = tmp_path.iterdir()
        assert sum(path.stat().st_size for path in folder.iterdir()) < 200_000
        assert list(files.commit({})) == ["run"]
    assert "was not written" in files.notes[0] and "drop" not in files.notes[0]


def test_memory_of_a_report_is_small(tmp_path):
    blocks = [
        make_block(0, layer, [f"t{i}" for i in range(1000)], [f"Head_{i}" for i in range(32)]) for layer in range(40)
    ]
    tracemalloc.start()
    path = save(tmp_path, blocks, ("html",))["html"]
    peak = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    assert path.stat().st_size > 13e6 and peak < 8, f"{peak:.1f} MB for {path.stat().st_size / 1e6:.1f} MB"


# --- the viewer's page ------------------------------------------------------------------------------------
def test_a_missing_page_is_found_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "PACKAGE", tmp_path / "nowhere")
    wanted = r"the viewer is missing: no visualize_results.html beside .*leave html out of `formats`"
    with pytest.raises(UserError, match=wanted), ResultFiles(tmp_path, "run", ["csv", "html"]):
        pytest.fail("it was opened")
    with pytest.raises(UserError, match=wanted):
        write_report(tmp_path / "x.html", growing_blocks())
    with pytest.raises(UserError, match=wanted):
        show(to_dataframe(growing_blocks()))
    assert names(tmp_path) == []
    with ResultFiles(tmp_path, "run", ["csv"]) as files:
        files.commit({})


def test_the_installed_package_has_the_page(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "mask_impact"
    package.mkdir(parents=True)
    (package / "visualize_results.html").write_bytes(b"<p>" + pages.EMPTY_ELEMENT)
    monkeypatch.setattr(pages, "PACKAGE", package)
    assert pages.find_page() == package / "visualize_results.html"
    path = save(tmp_path / "out", [make_block()], ("html",))["html"]
    assert path.read_bytes().startswith(b'<p><script type="text/plain" id="mask-impact-data">{"format":2')


@pytest.mark.parametrize("text", [b"<p>another page</p>", pages.EMPTY_ELEMENT * 2])
def test_another_page_is_refused(tmp_path, text):
    (tmp_path / "page.html").write_bytes(text)
    with pytest.raises(UserError, match=r"page.html is not the viewer"):
        write_report(tmp_path / "x.html", growing_blocks(), page=tmp_path / "page.html")


def test_a_report_is_no_page_to_fill_again(tmp_path):
    filled = write_report(tmp_path / "x.html", growing_blocks())
    with pytest.raises(UserError, match="no empty data element"):
        write_report(tmp_path / "y.html", growing_blocks(), page=filled)


# --- notebooks --------------------------------------------------------------------------------------------
class Frames(HTMLParser):
    """Attributes of every element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_a_notebook_shows_the_page_in_a_frame(tmp_path):
    table = to_dataframe([make_block(tokens=NASTY)])
    table.attrs["run"] = {"prompt": '"><script>alert(1)</script>&quot;', "images": []}
    shown = show(table, height=432)
    ((tag, attributes),) = Frames(shown._repr_html_()).found
    assert tag == "iframe" and attributes["srcdoc"] == shown.page
    assert html.unescape(re.search(r'srcdoc="([^"]*)"', shown._repr_html_())[1]) == shown.page
    assert attributes["sandbox"] == "allow-scripts allow-downloads" and "height: 432px" in attributes["style"]
    data = embedded(shown.page)
    assert data["manifest"] == table.attrs["run"] and data["name"] == "run"
    assert_same(data, table)
    assert write_report(tmp_path / "run_results.html", table).read_text("utf-8") == shown.page
    assert re.fullmatch(r"<mask impact viewer, \d\.\d MB>", repr(shown))


def test_a_notebook_shows_any_table():
    table = pd.DataFrame(to_dataframe(growing_blocks()))
    data = embedded(show(table).page)
    assert data["manifest"] is None and data["rows"] == len(table)


def test_importing_is_cheap():
    code = (
        "import sys, mask_impact.files.page; print(*sorted({'pandas', 'pyarrow', 'torch', 'PIL'} & set(sys.modules)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=pages.PACKAGE.parent, capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == []
