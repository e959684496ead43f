"""`latent_lens.py inspect`: what it says is what config, processor and model say."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_cli import Ended, refuses
from test_lens_states import generated
from test_vl_engine import folders, load, tensors  # noqa: F401
from vl_families import VL_FAMILIES, available, picture

import latent_lens
from mask_impact.lens.norms import STATISTICS

PROMPT = "What is on the left?"


@pytest.fixture
def run(tmp_path: Path, folders: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> Callable:  # noqa: F811
    """run("--size", "64x48") -> Ended: the command in an empty folder, on qwen3_vl."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def call(*arguments: Any, model: str = "qwen3_vl") -> Ended:
        argv = ["inspect", *map(str, arguments), "--model", str(folders(model)), "--prompt", PROMPT]
        capfd.readouterr()
        try:
            code = latent_lens.main(argv)
        except SystemExit as stop:  # argparse
            code = int(stop.code or 0)
        return Ended(code, *capfd.readouterr())

    return call


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    picture(84, 112).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_the_parts_of_a_model(run: Callable) -> None:
    ended = run("--json", "--size", "128x96", "--size", "64x64")
    assert (ended.code, ended.err) == (0, "")
    found = json.loads(ended.out)
    wanted = VL_FAMILIES["qwen3_vl"].config["vision_config"], VL_FAMILIES["qwen3_vl"].config["text_config"]
    assert {key: found["vision"][key] for key in ("blocks", "hidden_size", "heads", "patch_size")} == {
        "blocks": wanted[0]["depth"], "hidden_size": wanted[0]["hidden_size"], "heads": wanted[0]["num_heads"],
        "patch_size": wanted[0]["patch_size"],
    }  # fmt: skip
    assert found["merger"]["patches_per_token"] == wanted[0]["spatial_merge_size"] ** 2
    assert found["deepstack"] == {"vision_blocks": [0, 1], "added_in_layers": [1, 2]}
    names = ("blocks", "hidden_size", "heads", "key_value_heads", "head_width")
    assert {key: found["decoder"][key] for key in names} == {
        "blocks": wanted[1]["num_hidden_layers"], "hidden_size": wanted[1]["hidden_size"],
        "heads": wanted[1]["num_attention_heads"], "key_value_heads": wanted[1]["num_key_value_heads"],
        "head_width": wanted[1]["head_dim"],
    }  # fmt: skip
    assert found["image_token"]["text"] == "<|image_pad|>"
    sizes = [(each["size"], each["grid"], each["tokens"]) for each in found["sizes"]]
    assert sizes == [([128, 96], [3, 4], 12), ([64, 64], [2, 2], 4)]
    assert "image" not in found


@pytest.mark.parametrize("name", available())
def test_tokens_are_the_processors(name: str, run: Callable, load: Any, photo: Path) -> None:  # noqa: F811
    """How many tokens an image becomes and which positions they take, in every family, for people and for programs."""
    found = json.loads(run("--json", "--size", "112x84", model=name).out)
    loaded = load(name)
    inputs = loaded.inputs(PROMPT, picture(84, 112))
    places = (inputs.tensors["input_ids"][0] == found["image_token"]["id"]).nonzero().flatten().tolist()
    [size] = found["sizes"]
    covered = [position for first, last in size["positions"] for position in range(first, last + 1)]
    assert (covered, size["tokens"], size["prompt_length"]) == (places, len(places), len(inputs.tokens))
    assert found["decoder"]["blocks"] == 3 and found["vision"]["patch_size"]
    shown = run("--size", "112x84", model=name)
    assert shown.code == 0 and "112 x 84 pixels" in shown.out and f": {len(places)} tokens (" in shown.out


def test_norms_of_the_image_tokens(run: Callable, load: Any, photo: Path) -> None:  # noqa: F811
    """Of two pictures in one prompt, each its own, against the model's generation in float64."""
    ended = run("--json", "--image", photo, "--image", photo, "--layers", "0,3")
    about = json.loads(ended.out)["image"]
    loaded = load("qwen3_vl")
    inputs = loaded.inputs(PROMPT, picture(84, 112), picture(84, 112))
    given, gave = generated(loaded, "qwen3_vl", tensors(inputs))
    assert [about["layers"], len(about["images"])] == [[0, 3], 2]
    for index, image in enumerate(about["images"]):
        places = [token.position for token in inputs.tokens if token.image == index]
        for row, state in enumerate((given[0], gave[2])):
            exact = state[0, places].double().numpy()
            length = np.linalg.norm(exact, axis=1)
            pairs = (exact @ exact.T / np.outer(length, length))[~np.eye(len(exact), dtype=bool)]
            wanted = [length.mean(), length.std(), length.min(), length.max(), pairs.mean()]
            np.testing.assert_allclose([image["norms"][key][row] for key in STATISTICS], wanted, rtol=1e-5, atol=1e-6)
        assert image["deepstack"]["layers"] == [1, 2]
        for layer in (1, 2):
            added = (given[layer] - gave[layer - 1])[0, places].double().norm(dim=-1)
            found = image["deepstack"]["norm_mean"][layer - 1], image["deepstack"]["norm_max"][layer - 1]
            np.testing.assert_allclose(found, (added.mean(), added.max()), rtol=1e-5)
    assert about["parameters"] == sum(parameter.numel() for parameter in loaded.model.parameters())


def test_for_people(run: Callable, photo: Path) -> None:
    ended = run("--image", photo)
    assert (ended.code, ended.err) == (0, "")
    for says in (
        "deepstack  vision blocks 0, 1 are added to the image tokens in layers 1, 2",
        "merger     2 x 2 patches are merged",
        "key value heads 2",
        "token <|image_pad|>",
        "112 x 84 pixels, resized to 128 x 96: 12 tokens (3 x 4 grid), positions ",
        "layer   norm mean",
    ):
        assert says in ended.out
    assert "deepstack" not in run(model="qwen2_vl").out


def test_weights_are_read_only_for_an_image(run: Callable, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn.Module, "__call__", None)
    monkeypatch.setattr("mask_impact.model.load.load_model", lambda *given: pytest.fail("the model was loaded"))
    assert run().code == 0


def test_a_size_that_the_processor_does_not_take(run: Callable) -> None:
    found = json.loads(run("--json", "--size", "6000x20", "--size", "64x64").out)
    assert "cannot take this prompt" in found["sizes"][0]["error"] and found["sizes"][1]["tokens"] == 4
    assert "6000 x 20 pixels: the model's processor cannot take" in run("--size", "6000x20").out


def test_max_pixels(run: Callable) -> None:
    counts = [
        json.loads(run("--json", "--size", "256x256", *more).out)["sizes"][0]["tokens"]
        for more in ([], ["--max-pixels", 64 * 64])
    ]
    assert counts == [16, 4]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--layers", "4"], "there is no layer 4; this model has layers 0 to 3"),
        (["--image", "nowhere.png"], "the image nowhere.png does not exist"),
        (["--size", "64"], "'64' is not a size in pixels"),
    ],
)
def test_bad_input(arguments: list[str], says: str, run: Callable) -> None:
    refuses(run(*arguments), says)
