"""The built viewer in Chromium, through file://: what a reader sees, compared with pandas.

pytest tests/viewer
VIEWER_PAGE=/tmp/dist/index.html pytest tests/viewer     # another build than visualize_results.html

Every test fails on a dialog, an error on the console, an error of the page or a request to a network.
"""

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from chromium import NoChromium, launch
from playwright.sync_api import Browser, sync_playwright
from test_report import NASTY
from test_results import make_block, save
from viewer_page import Viewer
from viewer_runs import EVERY, PAGE, REACH, ROOT, Open, Run, Said, opener

import latent_lens
import mask_impact_analysis
import mask_impact_vl
from mask_impact.files.notebook import write_report
from mask_impact.files.results import read_csv, to_dataframe

# Routes that are cut: a chain to the answer, and the four questions about a picture of docs/effects.md.
CHAIN = ("9 -> 10", "10 -> last", "14 -> last", "fact -> later")
QUESTIONS = ("image -> question", "question -> last", "image -> last", "last -> last")
ROUTES = ["--effects", "--span", "fact=blue cup", *(part for way in CHAIN for part in ("--route", way))]
WAYS = ["--effects", *(part for way in QUESTIONS for part in ("--route", way))]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        try:
            found = launch(playwright)
        except NoChromium as error:
            pytest.fail(str(error), pytrace=False)
        yield found
        found.close()


@pytest.fixture(scope="module")
def opened_once(browser) -> Iterator[Open]:
    """For pages that several tests share."""
    yield from opener(browser)


@pytest.fixture
def opened(browser) -> Iterator[Open]:
    """Opens the viewer, or another page; at the end no page may have done what it must not."""
    yield from opener(browser)


@pytest.fixture
def viewer(opened) -> Viewer:
    return opened()


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> dict[str, Run]:
    """Real runs of the demo models: a prompt, a shorter one, and a question about a picture in three mask modes."""
    folder = tmp_path_factory.mktemp("runs")

    def made(main: Callable[[list[str]], int], name: str, *options: str, formats: str) -> Run:
        common = ["--model", "demo", "--output-dir", str(folder), "--output", name, "--format", formats, "--quiet"]
        assert main([*common, *options]) == 0
        manifest = json.loads((folder / f"{name}_run.json").read_bytes())
        return Run(folder, name, read_csv(folder / f"{name}_results.csv"), manifest)

    text, picture = mask_impact_analysis.main, mask_impact_vl.main
    long = "Tom has a red ball. Ann has a blue cup. Ann's cup is"
    question = ["--image", str(ROOT / "testimg.png"), "--prompt", "What color is the circle?", "--num-tokens", "2"]
    every = "csv,json,parquet,html"
    found = [
        made(text, "talk", "--num-tokens", "3", "--prompt", long, formats=every),
        made(text, "short", "--num-tokens", "2", "--prompt", long[:27], formats="csv"),
        made(picture, "both", *question, "--mask-mode", "both", formats=every),
        made(picture, "text", *question, "--mask-mode", "text", formats="csv"),
        made(picture, "vision", *question, "--mask-mode", "vision", formats="csv"),
    ]
    for run in found:
        if run.file("json").exists():
            run.file("json.gz").write_bytes(gzip.compress(run.file("json").read_bytes()))
    return {run.name: run for run in found}


@pytest.fixture
def talk(runs, viewer) -> Viewer:
    """The text run, loaded."""
    viewer.drop(runs["talk"].file("csv"), runs["talk"].file("run"))
    viewer.shows("talk")
    return viewer


@pytest.fixture
def picture(runs, viewer) -> Viewer:
    """The run about a picture, with the picture."""
    viewer.drop(runs["both"].file("csv"), runs["both"].file("run"), ROOT / "testimg.png")
    viewer.shows("both")
    viewer.settle(2)
    return viewer


@pytest.fixture(scope="session")
def said(tmp_path_factory) -> Said:
    folder = tmp_path_factory.mktemp("said")
    flags = ["--model", "demo", "--output-dir", str(folder), "--quiet"]
    picture = ["--image", str(ROOT / "testimg.png"), "--prompt", "Describe this image.", "--output", "m"]
    captions = ["--captions", str(ROOT / "demo" / "captions.txt"), "--num-captions", "200"]
    assert latent_lens.main(["bank", *flags, *captions]) == 0
    assert mask_impact_vl.main([*flags, *picture, "--mask-mode", "vision", "--format", "csv"]) == 0
    more = ["--bank", str(folder), "--run", str(folder / "m_run.json"), "--static", "--format", "csv,json,html,parquet"]
    assert latent_lens.main(["neighbors", *flags, *picture, *more]) == 0
    table = pd.read_csv(folder / "m_neighbors.csv", keep_default_na=False, na_values={"masking_impact": [""]})
    return Said(folder, table, read_csv(folder / "m_results.csv"))


# --- effects on the answer -------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def effects() -> pd.DataFrame:
    return pd.read_csv(REACH[2], keep_default_na=False).astype({"logprob_change": np.float32, "kl": np.float32})


@pytest.fixture(scope="session")
def two_tokens(tmp_path_factory) -> list[Path]:
    """Effects on an answer of two tokens, with rows for all of it: the files to drop, the effects last."""
    folder = tmp_path_factory.mktemp("two_tokens")
    flags = ["--model", "demo", "--output-dir", str(folder), "--output", "two", "--format", "csv", "--quiet"]
    prompt = ["--prompt", "Ann has a blue cup. Ann's cup is", "--num-tokens", "2"]
    assert mask_impact_analysis.main([*flags, *prompt, "--effects", "--mask-layers", "0-3,1"]) == 0
    return [folder / f"two_{name}" for name in ("results.csv", "run.json", "effects.csv")]


@pytest.fixture(scope="session")
def reports(tmp_path_factory) -> Path:
    """Reports of the demo models: effects of all kinds, every position that reads, and a vision tower."""
    folder = tmp_path_factory.mktemp("reports")
    flags = ["--model", "demo", "--output-dir", str(folder), "--format", "csv,json,parquet,html", "--quiet"]
    text = [*flags, "--prompt", "Tom has a red ball. Ann has a blue cup. Ann's cup is"]
    picture = [*flags, "--image", str(ROOT / "testimg.png"), "--prompt", "What color is the circle?"]
    for name, options in {
        "fine": ["--effects", "--refine", "2"],
        "heads": ["--effects", "--by-head", "--readers", "last"],
        "needs": ["--effects", "--mask-layers", "from"],
        "asked": ["--queries", "all", "--num-tokens", "2"],
        "routes": [*ROUTES, "--mask-layers", "0,1,2,3", "--num-tokens", "2"],
        "by_head": [*ROUTES, "--by-head"],
    }.items():
        assert mask_impact_analysis.main([*text, "--output", name, *options]) == 0
    hat = ["--prompt", "Tom has a red ball. Ann has a green hat. Ann's hat is", "--queries", "all"]
    assert mask_impact_analysis.main([*flags, "--output", "hat", *hat]) == 0
    for name, options in {
        "parts": ["--mask-mode", "vision", "--effects", "--refine", "4"],
        "tower": ["--tower", "vision"],
        "deep": ["--mask-mode", "both", "--effects", "--deepstack"],
        "ways": ["--mask-mode", "both", *WAYS, "--mask-layers", "window:2"],
    }.items():
        assert mask_impact_vl.main([*picture, "--output", name, *options]) == 0
    video = ["--video", str(ROOT / "demo" / "clip.gif"), "--prompt", "What color is the circle?", "--mask-mode", "both"]
    assert mask_impact_vl.main([*flags, *video, "--output", "film"]) == 0
    return folder


# --- which position reads which --------------------------------------------------------------------------


@pytest.fixture(scope="session")
def every() -> pd.DataFrame:
    kinds = {"l2_distance": np.float32, "cosine_distance": np.float32}
    return pd.read_csv(EVERY[0], keep_default_na=False).astype(kinds)


# --- hostile tokens --------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def hostile(tmp_path_factory) -> Run:
    """Nasty tokens in every format. A run as every other: two layers, three variants."""
    folder = tmp_path_factory.mktemp("hostile")
    tokens = [
        *NASTY,
        "javascript:alert(1)",
        "<svg/onload=alert(1)>",
        "=cmd|' /C calc'!A0",
        "NULL",
        "None",
        "1e5",
        "-0",
        "true",
    ]
    blocks = [make_block(0, layer, tokens, ("Full", "Attn", "Head_0"), seed=layer) for layer in (0, 1)]
    texts = dict(zip((df := to_dataframe(blocks)).token_position.tolist(), df.token_masked, strict=True))
    manifest = {
        "model": {"name": "<img src=x onerror=alert(2)>"},
        "prompt": "</script><script>alert(3)</script>",
        "notes": ["<b onmouseover=alert(4)>note</b>"],
        "prompt_length": len(tokens),
        "tokens": [{"position": p, "id": p, "text": text, "kind": "text"} for p, text in texts.items()],
        "generated": [{"step": 0, "id": 1, "text": "<script>alert(5)</script>", "probability": 0.5}],
    }
    save(folder, blocks, ("csv", "json", "parquet"), "hostile", manifest)
    write_report(folder / "hostile_results.html", df, {"name": "hostile", **manifest}, page=PAGE)
    return Run(folder, "hostile", df, manifest)
