"""Neighbours of the demo model's image tokens: the table against a search by hand, its files, the run joined to it."""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from test_vl_engine import folders, load  # noqa: F401
from vl_families import available, picture

import latent_lens
import mask_impact_vl
from mask_impact.lens.neighbors import open_bank
from mask_impact.lens.states import hidden_states, text_decoder

ROOT = Path(__file__).parent.parent
IMAGE = ROOT / "testimg.png"
PROMPT = "What color is the circle?"
LAYERS = (0, 2, 4)
COLUMNS = [
    "image", "layer", "token_position", "row", "col", "rank", "neighbor_token", "caption", "caption_position",
    "bank_layer", "similarity", "kind",
]  # fmt: skip


def lens(*flags):
    return latent_lens.main([*map(str, flags), "--quiet"])


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bank")
    flags = ("--captions", ROOT / "demo" / "captions.txt", "--num-captions", "400", "--layers", "1,3")
    assert lens("bank", "--model", "demo", *flags, "--output-dir", folder) == 0
    return folder


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    """A run that masks image tokens, two steps."""
    folder = tmp_path_factory.mktemp("masked")
    flags = ["--mask-mode", "vision", "--num-tokens", "2", "--format", "csv", "--output", "m", "--quiet"]
    where = ["--image", str(IMAGE), "--prompt", PROMPT, "--output-dir", str(folder)]
    assert mask_impact_vl.main(["--model", "demo", *where, *flags]) == 0
    return folder / "m_run.json"


def neighbors(bank, folder, *flags, image=IMAGE, prompt=PROMPT):
    where = ("--bank", bank, "--image", image, "--prompt", prompt, "--output-dir", folder)
    return lens("neighbors", "--model", "demo", *where, "--layers", ",".join(map(str, LAYERS)), *flags)


@pytest.fixture(scope="module")
def found(bank, masked, tmp_path_factory):
    folder = tmp_path_factory.mktemp("found")
    flags = ("--static", "--run", masked, "--output", "it", "--format", "csv,json,parquet", "--top-k", "4")
    assert neighbors(bank, folder, *flags) == 0
    return folder


def read(folder, name="it"):
    return pd.read_csv(folder / f"{name}_neighbors.csv", keep_default_na=False, na_values={"masking_impact": [""]})


@pytest.fixture(scope="module")
def states():
    """{layer: [16, C]} of the image tokens by the model's own output, and its embeddings, float64."""
    from mask_impact.model import find
    from mask_impact.model.load import load_model
    from mask_impact.model.processors import load_processor
    from mask_impact.prompt.vision import open_pictures, vision_inputs

    source = find.find_model("demo", vision=True)
    model = load_model(source, torch.device("cpu"), torch.float32)
    processor = load_processor(source)
    inputs = vision_inputs(processor, source.config, PROMPT, open_pictures([IMAGE]))
    blocks = model.model.language_model.layers
    seen = {}
    for layer, block in enumerate(blocks):
        block.register_forward_pre_hook(lambda module, given, named, layer=layer: seen.update(
            {layer: given[0] if given else named["hidden_states"]}), with_kwargs=True)  # fmt: skip
    blocks[-1].register_forward_hook(
        lambda module, given, out: seen.update({len(blocks): out[0] if isinstance(out, tuple) else out})
    )
    with torch.no_grad():
        model(**inputs.tensors)
    places = [token.position for token in inputs.tokens if token.kind == "image"]
    embedding = model.get_input_embeddings().weight.detach()[: len(processor.tokenizer)]
    return {layer: seen[layer].reshape(-1, 128)[places].double() for layer in LAYERS}, embedding.double(), processor


def best(queries, rows, k):
    similarity = torch.nn.functional.normalize(queries) @ torch.nn.functional.normalize(rows).T
    order = np.argsort(-similarity.numpy(), axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(similarity.numpy(), order, axis=1)


def check(rows, order, similarity, text):
    """Rows of one layer and kind: token after token, rank after rank."""
    assert np.abs(rows["similarity"].to_numpy().reshape(order.shape) - similarity).max() < 1e-5
    same = [a == b for a, b in zip(rows["neighbor_token"], (text(row) for row in order.ravel()), strict=True)]
    assert np.mean(same) > 0.97, "but for states whose last digits differ"


def test_the_table_is_a_search_by_hand(bank, found, states):
    hidden, embedding, processor = states
    df = read(found)
    assert list(df.columns) == [*COLUMNS, "masking_impact"]
    assert Counter(df["kind"]) == {"merged": 3 * 16 * 4, "layer": 2 * 3 * 16 * 4, "static": 3 * 16 * 4}
    tensors = load_file(bank / "shard_00000.safetensors")
    contexts = pd.read_parquet(bank / "contexts.parquet")
    rows = {layer: tensors[f"layer_{layer}"].double() for layer in (1, 3)}
    token = contexts["token"].tolist()
    for layer in LAYERS:
        own = df[df["layer"] == layer]
        for bank_layer in (1, 3):
            part = own[(own["kind"] == "layer") & (own["bank_layer"] == bank_layer)]
            check(part, *best(hidden[layer], rows[bank_layer], 4), token.__getitem__)
        part = own[own["kind"] == "merged"]
        check(part, *best(hidden[layer], torch.cat([rows[1], rows[3]]), 4), lambda row: token[row % len(token)])
        part = own[own["kind"] == "static"]
        check(part, *best(hidden[layer], embedding, 4), lambda row: processor.tokenizer.decode([row]))
        assert set(part["bank_layer"]) == set(part["caption_position"]) == {-1} and set(part["caption"]) == {""}


def test_a_neighbour_is_the_token_at_its_place_in_its_caption(found, states):
    tokenizer = states[2].tokenizer
    df = read(found)
    for _, row in df[df["kind"] != "static"].drop_duplicates(["caption", "caption_position"]).iterrows():
        ids = tokenizer(row["caption"])["input_ids"]
        assert tokenizer.decode([ids[row["caption_position"]]]) == row["neighbor_token"]


def test_every_format_holds_the_same(found):
    df = read(found)
    js = pd.DataFrame(json.loads((found / "it_neighbors.json").read_text()))
    pq = pd.read_parquet(found / "it_neighbors.parquet")
    for other in (js, pq):
        assert list(other.columns) == list(df.columns)
        for name in df.columns:
            if df[name].dtype.kind == "f":
                assert np.array_equal(df[name].astype("f4"), other[name].astype("f4"), equal_nan=True), name
            else:
                assert df[name].tolist() == other[name].tolist(), name
    assert pq["similarity"].dtype == np.float32 and pq["rank"].dtype == np.int64


def test_the_manifest_says_of_what_and_which_bank_layer_wins(bank, found):
    manifest = json.loads((found / "it_neighbors_run.json").read_text())
    df = read(found)
    assert manifest["rows"] == len(df) and manifest["files"] == []
    assert manifest["tables"] == ["it_neighbors.csv", "it_neighbors.json", "it_neighbors.parquet"]
    assert manifest["bank"]["rows"] == open_bank(bank).rows(1) and manifest["images"][0]["grid"] == [4, 4]
    first = df[df["rank"] == 1]
    for about in manifest["evolution"]:
        own = first[first["layer"] == about["layer"]]
        wins = Counter(own[own["kind"] == "merged"]["bank_layer"])
        assert about["wins"] == {"1": wins[1], "3": wins[3]} and sum(about["wins"].values()) == 16
        for layer, mean in about["mean_similarity"].items():
            expected = own[(own["kind"] == "layer") & (own["bank_layer"] == int(layer))]["similarity"].mean()
            assert mean == pytest.approx(expected, abs=1e-6)
        static = own[own["kind"] == "static"]["similarity"].mean()
        assert about["static_mean_similarity"] == pytest.approx(static, abs=1e-6)


def test_the_masking_impact_of_a_state_is_that_of_the_layer_that_reads_it(found, masked):
    df = read(found)
    run = pd.read_csv(masked.with_name("m_results.csv"), keep_default_na=False)
    run = run[run["variant"] == "Full"].groupby(["layer", "token_position"])["l2_distance"].max()
    for _, row in df[df["layer"] < 4].drop_duplicates(["layer", "token_position"]).iterrows():
        assert row["masking_impact"] == pytest.approx(run[row["layer"], row["token_position"]], rel=1e-6)
    assert df[df["layer"] == 4]["masking_impact"].isna().all(), "no layer reads what the last one gives"
    about = json.loads((found / "it_neighbors_run.json").read_text())["masking"]
    assert (about["variant"], about["steps"], len(about["largest"])) == ("Full", 2, 16)
    for each in about["largest"]:
        own = run[:, each["position"]]
        assert each["value"] == pytest.approx(own.max(), rel=1e-6) and each["layer"] == own.idxmax()


def test_results_are_kept_replaced_or_refused(bank, tmp_path, capsys):
    flags = ("--output", "a", "--format", "csv")
    assert neighbors(bank, tmp_path, *flags) == 0
    path = tmp_path / "a_neighbors_run.json"
    before = path.stat().st_mtime_ns
    assert neighbors(bank, tmp_path, *flags) == 2 and "exists already" in capsys.readouterr().err
    assert neighbors(bank, tmp_path, *flags, "--resume") == 0 and path.stat().st_mtime_ns == before
    assert f"kept       {path}: same model, bank, image" in "".join(capsys.readouterr())
    assert neighbors(bank, tmp_path, *flags, "--resume", "--top-k", "2") == 0 and path.stat().st_mtime_ns > before
    assert f"redo       {path}: not of the same model, bank, image" in "".join(capsys.readouterr())
    assert neighbors(bank, tmp_path, "--output", "a", "--format", "json", "--overwrite") == 0
    assert sorted(each.name for each in tmp_path.glob("a*")) == ["a_neighbors.json", path.name]


def test_the_approximate_search_of_a_small_bank_finds_the_same(bank, found, tmp_path):
    own = shutil.copytree(bank, tmp_path / "bank")
    flags = ("--search", "approximate", "--output", "it", "--format", "csv", "--top-k", "4")
    assert neighbors(own, tmp_path, *flags) == 0
    ours, exact = read(tmp_path), read(found)
    exact = exact[exact["kind"] != "static"].drop(columns="masking_impact")
    pd.testing.assert_frame_equal(ours, exact)


# --- bad input --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("flags", "say"),
    [
        (("--layers", "2,9"), "there is no layer 9; this model has layers 0 to 4"),
        (("--prompt", "What is it?"), "is of another prompt"),
        (("--image", IMAGE), "is of another image"),
        (("--max-pixels", "4096"), "is of another size of the image"),
    ],
)
def test_bad_input_is_one_line(bank, masked, tmp_path, capsys, flags, say):
    assert neighbors(bank, tmp_path / "no", "--run", masked, *flags) == 2
    error = capsys.readouterr().err
    assert say in error and error.count("\n") == 1 and not (tmp_path / "no").exists()


def test_a_run_that_does_not_fit_is_refused(bank, masked, tmp_path, capsys):
    changes = {
        "is of another model": {"request": {"model_fingerprint": "0"}},
        "masks regions": {"masks": "regions"},
        "--vision-attention bidirectional": {"vision_attention": "bidirectional"},
        "is no manifest of mask_impact_vl.py": {"request": None},
    }
    shutil.copy(masked.with_name("m_results.csv"), tmp_path)
    manifest = json.loads(masked.read_text())
    for say, change in changes.items():
        (tmp_path / "m_run.json").write_text(json.dumps(manifest | change))
        assert neighbors(bank, tmp_path / "no", "--run", tmp_path / "m_run.json") == 2
        assert say in capsys.readouterr().err
    assert neighbors(bank, tmp_path / "no", "--run", tmp_path / "m_results.csv") == 2
    assert "is not a manifest" in capsys.readouterr().err


def test_a_run_that_masks_text_is_refused(bank, tmp_path, capsys):
    where = ["--image", str(IMAGE), "--prompt", PROMPT, "--output-dir", str(tmp_path), "--output", "t"]
    assert mask_impact_vl.main(["--model", "demo", *where, "--format", "csv", "--layers", "0", "--quiet"]) == 0
    assert neighbors(bank, tmp_path / "no", "--run", tmp_path / "t_run.json") == 2
    assert "masks no image token; run mask_impact_vl.py with --mask-mode vision" in capsys.readouterr().err


def test_a_run_without_l2_is_refused(bank, tmp_path, capsys):
    where = ["--image", str(IMAGE), "--prompt", PROMPT, "--output-dir", str(tmp_path), "--output", "c"]
    flags = ["--format", "csv", "--layers", "0", "--quiet", "--mask-mode", "vision", "--metrics", "cosine"]
    assert mask_impact_vl.main(["--model", "demo", *where, *flags]) == 0
    assert neighbors(bank, tmp_path / "no", "--run", tmp_path / "c_run.json") == 2
    assert "has no l2_distance; run mask_impact_vl.py with --metrics l2" in capsys.readouterr().err


# --- every family -----------------------------------------------------------------------------------------
TEXTS = ["a cat on a mat", "a cat on a red mat", "What is this? a dog", "two"]


@pytest.mark.parametrize("name", available())
def test_bank_and_neighbors_of_every_family(name, folders, load, tmp_path):  # noqa: F811
    """A text's own states are found, each at its place: by forwards of the whole caption, one at a time, unpadded."""
    (tmp_path / "captions.txt").write_text("\n".join(TEXTS))
    picture(64, 48).save(tmp_path / "p.png")
    model = ("--model", folders(name))
    flags = ("--captions", tmp_path / "captions.txt", "--layers", "1-2", "--max-per-token", "1000")
    assert lens("bank", *model, *flags, "--output-dir", tmp_path / "bank") == 0
    flags = ("--bank", tmp_path / "bank", "--image", tmp_path / "p.png", "--static", "--layers", "0,2")
    assert lens("neighbors", *model, *flags, "--output-dir", tmp_path) == 0
    df = pd.read_csv(tmp_path / "p_neighbors.csv", keep_default_na=False)
    assert set(df["kind"]) == {"merged", "layer", "static"} and df["similarity"].abs().max() <= 1
    bank, loaded = open_bank(tmp_path / "bank"), load(name)
    rows = pd.read_parquet(tmp_path / "bank" / "contexts.parquet")
    for text, own in rows.groupby("caption"):
        ids = loaded.processor.tokenizer(text, return_tensors="pt")["input_ids"]
        whole = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        states = hidden_states(text_decoder(loaded.model), whole, bank.layers)
        for layer in bank.layers:
            expected = states[layer][0][own["caption_position"].tolist()]
            found = torch.cat(list(bank.parts(layer)))[own.index.tolist()]
            cosine = torch.cosine_similarity(found.double(), expected.double(), dim=1)
            assert cosine.min() > 1 - 1e-5, f"layer {layer} of {text!r}: {cosine.min():.6f}"
