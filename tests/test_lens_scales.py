"""`latent_lens.py scales`: one picture at several sizes, held against loops in float64 over the model's own states."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_cli import Ended, refuses
from test_lens_states import generated
from test_vl_engine import Loaded, folders, load, tensors  # noqa: F401
from vl_families import picture

import latent_lens
from mask_impact.files.reading import load as read
from mask_impact.lens.boxes import boxes, overlaps
from mask_impact.lens.ready import ready
from mask_impact.lens.scales import Seen, compared
from mask_impact.lens.stacks import VisionEncoder

PROMPT = "What is on the left?"
SIZES = (84 * 112, 56 * 84)  # of qwen2_vl: 3 x 4 and 2 x 2 image tokens, which do not divide each other


@pytest.fixture
def run(tmp_path: Path, folders: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> Callable:  # noqa: F811
    """run("--max-pixels", "64,128") -> Ended: the command on a picture of 112 x 84, in an empty folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    picture(84, 112).save(tmp_path / "photo.png")

    def call(*words: Any, model: str = "qwen2_vl") -> Ended:
        argv = ["scales", "--model", str(folders(model)), "--prompt", PROMPT, "--image", str(tmp_path / "photo.png")]
        capfd.readouterr()
        try:
            code = latent_lens.main([*argv, *map(str, words)])
        except SystemExit as stop:  # argparse
            code = int(stop.code or 0)
        return Ended(code, *capfd.readouterr())

    return call


def states_and_boxes(loaded: Loaded, image: Image.Image, size: int) -> tuple[list[np.ndarray], list[Any]]:
    """[T, C] of the image tokens at every layer, by hooks on the decoder, and their boxes."""
    inputs = loaded.inputs(PROMPT, image, max_pixels=size)
    given, gave = generated(loaded, "qwen2_vl", tensors(inputs))
    tokens = [token for token in inputs.tokens if token.kind == "image"]
    places = [token.position for token in tokens]
    return [state[0, places].double().numpy() for state in (*given, gave[-1])], [token.box for token in tokens]


def shared(one: Any, other: Any) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0.0) * max(height, 0.0)


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def test_it_equals_loops_in_float64(run: Callable[..., Ended], load: Any) -> None:  # noqa: F811
    """Grids that do not divide each other: every box takes of each finer token as much as it overlaps."""
    ended = run("--max-pixels", ",".join(map(str, SIZES)), "--format", "csv,parquet")
    assert (ended.code, ended.err) == (0, "")
    table, loaded = read("output/photo_scales.csv"), load("qwen2_vl")
    assert table.drop(columns=[]).equals(read("output/photo_scales.parquet"))
    (fine, fine_boxes), (coarse, coarse_boxes) = (states_and_boxes(loaded, picture(84, 112), size) for size in SIZES)
    assert (len(fine_boxes), len(coarse_boxes)) == (12, 4)
    assert table.layer.tolist() == np.repeat(range(4), 4).tolist() and set(table.max_pixels) == {SIZES[0]}
    for layer in range(4):
        weights = [[shared(box, other) for other in fine_boxes] for box in coarse_boxes]
        means = [sum(w * state for w, state in zip(row, fine[layer], strict=True)) / sum(row) for row in weights]
        for at, own in enumerate(coarse[layer]):
            cosines = [cosine(own, mean) for mean in means]
            found = table[(table.layer == layer) & (table.row == at // 2) & (table.col == at % 2)].iloc[0]
            others = [value for other, value in enumerate(cosines) if other != at]
            wanted = [cosines[at], np.mean(others), np.linalg.norm(own - means[at]), np.linalg.norm(own)]
            names = ["cosine", "cosine_others", "l2_distance", "norm"]
            np.testing.assert_allclose(found[names].astype(float), wanted, rtol=2e-5, atol=2e-6)
            assert found["rank"] == 1 + sum(value > cosines[at] for value in others)
            assert found["states"] == sum(weight > 0 for weight in weights[at])
    manifest = json.loads(Path("output/photo_scales_run.json").read_text("utf-8"))
    assert [scale["grid"] for scale in manifest["scales"]] == [[2, 2], [3, 4]] and manifest["grid"] == [2, 2]
    last = manifest["summary"][3]
    assert last["first"] == (table[table.layer == 3]["rank"] == 1).mean() and last["boxes"] == 4
    assert last["mean_cosine"] == pytest.approx(table[table.layer == 3].cosine.mean(), rel=1e-6)
    assert f"{last['mean_cosine']:.3f}" in ended.out.splitlines()[-2]


def test_patches_of_the_vision_encoder(run: Callable[..., Ended], load: Any) -> None:  # noqa: F811
    ended = run("--max-pixels", ",".join(map(str, SIZES)), "--tower", "vision", "--layers", "0,2", "--format", "json")
    assert (ended.code, ended.err) == (0, "")
    table, loaded = json.loads(Path("output/photo_scales.json").read_text("utf-8")), load("qwen2_vl")
    stack, seen = VisionEncoder(loaded.model.config, "patch"), []
    for size, grid in zip(SIZES, ((6, 8), (4, 4)), strict=True):
        inputs = loaded.inputs(PROMPT, picture(84, 112), max_pixels=size)
        places = [(112 * x / grid[1], 84 * y / grid[0], 112 * (x + 1) / grid[1], 84 * (y + 1) / grid[0])
                  for y in range(grid[0]) for x in range(grid[1])]  # fmt: skip
        seen.append((places, stack.states(loaded.model, [ready(inputs)], [2])[2].double().numpy()))
    (fine_places, fine), (places, coarse) = seen
    weights = np.array([[shared(box, other) for other in fine_places] for box in places])
    means = weights @ fine / weights.sum(axis=1, keepdims=True)
    wanted = [cosine(own, mean) for own, mean in zip(coarse, means, strict=True)]
    assert len(table["rank"]) == 2 * 16
    np.testing.assert_allclose(table["cosine"][16:], wanted, rtol=2e-5, atol=2e-6)


def test_a_picture_with_itself(load: Any) -> None:  # noqa: F811
    """The same states in the same boxes: as alike as can be, at no distance, and nearer than all others."""
    loaded = load("qwen2_vl")
    image = ready(inputs := loaded.inputs(PROMPT, picture(84, 112)))
    places = boxes(inputs.images[0], (6, 8))
    assert overlaps(places, places).sum() == pytest.approx(84 * 112)
    states = VisionEncoder(loaded.model.config, "patch").states(loaded.model, [image], [1])
    [block] = compared(Seen(places, (6, 8), states), Seen(places, (6, 8), states), 1)
    np.testing.assert_allclose(block["cosine"], 1, atol=1e-6)
    assert not block["l2_distance"].any() and (block["rank"] == 1).all() and (block["states"] == 1).all()


def test_what_is_of_padding_alone_is_left_out() -> None:
    image = {"size": [100, 50], "region": [0.0, -25.0, 100.0, 75.0]}  # padded to a square
    places = boxes(image, (4, 2))
    assert np.isnan(places[:2]).all() and np.isnan(places[6:]).all()
    assert overlaps(places, places)[:2].sum() == 0 and overlaps(places, places).sum() == 100 * 50


@pytest.mark.parametrize(
    ("words", "model", "says"),
    [
        (["--max-pixels", "9408,12000"], "qwen2_vl", "at 9408 and at 12000 pixels this picture of 112 x 84 becomes"),
        (["--max-pixels", "4704,9408"], "llava", "becomes the same 4 x 4 grid"),
        (["--max-pixels", "4704,9408"], "smolvlm", "this picture has no grid whose boxes could be compared"),
        (["--max-pixels", "784,9408"], "qwen2_vl", "at 784 pixels this picture is one image token"),
        (["--max-pixels", "4704,9408", "--image", "b.png"], "qwen2_vl", "2 pictures were given"),
        (["--max-pixels", "4704,9408", "--layers", "9"], "qwen2_vl", "this model has layers 0 to 3"),
    ],
)  # fmt: skip
def test_bad_input(
    words: list[str], model: str, says: str, run: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mask_impact.model.load.load_model", lambda *given: pytest.fail("the model was loaded"))
    refuses(run(*words, model=model), says)


def test_resume_and_overwrite(run: Callable[..., Ended]) -> None:
    words = ("--max-pixels", "4704,9408", "--layers", "0", "--format", "csv", "--output", "it")
    assert run(*words).code == 0
    again = run(*words)
    assert again.code == 2 and "it_scales_run.json exists already; choose another --output" in again.err
    assert "kept       output/it_scales_run.json: same model" in run(*words, "--resume").out
    other = run(*words, "--tower", "vision", "--resume")
    assert "kept" not in other.out and "of 16" in other.out
