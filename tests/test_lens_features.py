"""`latent_lens.py features`: what is in its files, and that they are whole whatever happens.

The reference for the numbers is the model's own `generate` with plain hooks, and NumPy in float64.
"""

import json
import random
import shutil
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from test_cli import ROOT, Ended, everything, refuses
from test_lens_states import generated
from test_vl_engine import folders, load, tensors  # noqa: F401
from vl_families import picture

import latent_lens
from mask_impact.lens import feature_files, features, norms
from mask_impact.lens.feature_files import positions, ranges, read_features
from mask_impact.lens.features import batches
from mask_impact.lens.ready import Ready

PROMPT = "What is on the left?"
# height, width: 12, 4, 12, 12 and 4 tokens in qwen2_vl
SIZES = [(84, 112), (56, 56), (84, 112), (112, 84), (56, 56)]
SAVED = ("--save-features", "--feature-dtype", "float32")


class Killed(BaseException):
    """As a kill ends a program: nothing catches it."""


@pytest.fixture
def run(tmp_path: Path, folders: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> Callable:  # noqa: F811
    """run("--layers", 0) -> Ended: the command in an empty folder, on qwen2_vl."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def call(*arguments: Any, model: Any = None) -> Ended:
        argv = ["features", *map(str, arguments), "--model", str(model or folders("qwen2_vl"))]
        argv += [] if "--prompt" in argv else ["--prompt", PROMPT]
        argv += [] if "--output" in argv else ["--output", "run"]
        capfd.readouterr()
        try:
            code = latent_lens.main(argv)
        except SystemExit as stop:  # argparse
            code = int(stop.code or 0)
        return Ended(code, *capfd.readouterr())

    return call


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a picture of each of SIZES."""
    folder = tmp_path_factory.mktemp("images")
    for seed, size in enumerate(SIZES):
        picture(*size, seed=seed).save(folder / f"{seed}.png")
    return folder


def summary(name: str = "run", folder: str = "output") -> dict[str, Any]:
    return json.loads(Path(f"{folder}/extraction_summary_{name}.json").read_text("utf-8"))


def index(name: str = "run") -> dict[str, Any]:
    return json.loads(Path(f"output/features_{name}_index.json").read_text("utf-8"))


def files(folder: Path = Path("output")) -> dict[str, bytes | None]:
    """What an extraction leaves, without the seconds that it took."""
    found = everything(folder)
    found["extraction_summary_run.json"] = json.dumps(summary(folder=str(folder)) | {"seconds": None}).encode()
    return found


def brute(load: Any, name: str, path: Path) -> tuple[list[torch.Tensor], list[int]]:  # noqa: F811
    """[P, C] of the image's tokens at every layer, and their positions."""
    loaded = load(name)
    inputs = loaded.inputs(PROMPT, Image.open(path))
    given, gave = generated(loaded, name, tensors(inputs))
    places = [token.position for token in inputs.tokens if token.kind == "image"]
    return [state[0, places] for state in (*given, gave[-1])], places


# --- what is in the files -----------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["qwen2_vl", "qwen3_vl", "mistral3"])
def test_features_are_the_models_own(name: str, run: Callable, images: Path, load: Any, folders: Any) -> None:  # noqa: F811
    """Every row of every layer's file, for images of several sizes in batches; the index says whose rows they are."""
    ended = run("--images", images, *SAVED, "--batch-size", 2, model=folders(name))
    assert (ended.code, ended.err) == (0, "")
    found, about = index(), summary()
    assert found["images"] == [{key: each[key] for key in found["images"][0]} for each in about["images"]]
    assert sorted(each["path"] for each in found["images"]) == [str(images / f"{seed}.png") for seed in range(5)]
    stored = {layer: load_file(f"output/{file}")["features"] for layer, file in found["files"].items()}
    assert [*stored] == ["0", "1", "2", "3"]
    end = 0
    for image in found["images"]:
        wanted, places = brute(load, name, Path(image["path"]))
        first, last = image["rows"]
        assert first == end
        end = last
        assert positions(image["token_ranges"]) == places
        for layer, states in enumerate(wanted):
            torch.testing.assert_close(stored[str(layer)][first:last], states, rtol=1e-5, atol=1e-4)
    assert all(rows.shape == (end, 64) and rows.dtype == torch.float32 for rows in stored.values())


def test_one_image_at_a_time_is_exact(run: Callable, images: Path, load: Any) -> None:  # noqa: F811
    run("--images", images / "0.png", *SAVED, "--layers", "1,3")
    wanted, _ = brute(load, "qwen2_vl", images / "0.png")
    for layer in (1, 3):
        assert torch.equal(read_features(f"output/features_run_layer_{layer}.safetensors"), wanted[layer])
    assert sorted(index()["files"]) == ["1", "3"]


@pytest.mark.parametrize(
    ("dtype", "form"), [("float16", "safetensors"), ("bfloat16", "safetensors"), ("bfloat16", "pt")]
)
def test_other_dtypes_and_formats(dtype: str, form: str, run: Callable, images: Path) -> None:
    run("--images", images, *SAVED, "--output", "exact")
    ended = run("--images", images, "--save-features", "--feature-dtype", dtype, "--feature-format", form)
    assert ended.code == 0
    for layer, file in index()["files"].items():
        found = read_features(f"output/{file}")
        assert torch.equal(found, read_features(f"output/features_exact_layer_{layer}.safetensors").to(found.dtype))
        assert (found.dtype, Path(file).suffix) == (getattr(torch, dtype), f".{form}")
    assert not list(Path("output").glob("*.part*"))


def test_statistics_equal_float64(run: Callable, images: Path, load: Any) -> None:  # noqa: F811
    run("--images", images, "--batch-size", 2)
    about = summary()
    assert [each["grid"] for each in about["images"] if each["path"].endswith("3.png")] == [[4, 3]]
    lengths: list[list[np.ndarray]] = [[], [], [], []]
    cosines: list[list[float]] = [[], [], [], []]
    for image in about["images"]:
        for layer, states in enumerate(brute(load, "qwen2_vl", Path(image["path"]))[0]):
            exact = states.double().numpy()
            length = np.linalg.norm(exact, axis=1)
            pairs = (exact @ exact.T / np.outer(length, length))[~np.eye(len(exact), dtype=bool)]
            wanted = [length.mean(), length.std(), length.min(), length.max(), pairs.mean()]
            np.testing.assert_allclose([image[key][layer] for key in norms.STATISTICS], wanted, rtol=1e-5, atol=1e-6)
            lengths[layer].append(length)
            cosines[layer].append(pairs.mean())
    for layer in range(4):
        every = np.concatenate(lengths[layer])
        wanted = [every.mean(), every.std(), every.min(), every.max(), np.mean(cosines[layer])]
        found = [about["over_all_images"][key][layer] for key in norms.STATISTICS]
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_injections_are_what_the_model_adds(run: Callable, images: Path, load: Any, folders: Any) -> None:  # noqa: F811
    """Of each image, of all of them, and as a table; kept with --resume."""
    ended = run("--images", images, "--batch-size", 2, model=folders("qwen3_vl"))
    about, loaded = summary(), load("qwen3_vl")
    assert "added to the image tokens (deepstack)" in ended.out
    means = []
    for image in about["images"]:
        inputs = loaded.inputs(PROMPT, Image.open(image["path"]))
        given, gave = generated(loaded, "qwen3_vl", tensors(inputs))
        places = [token.position for token in inputs.tokens if token.kind == "image"]
        wanted = [(given[layer] - gave[layer - 1])[0, places].double().norm(dim=-1) for layer in (1, 2)]
        np.testing.assert_allclose(image["deepstack"]["norm_mean"], [each.mean() for each in wanted], rtol=1e-5)
        means.append([float(each.sum()) for each in wanted])
    tokens = sum(image["token_count"] for image in about["images"])
    every = about["over_all_images"]["deepstack"]
    assert every["layers"] == [1, 2]
    np.testing.assert_allclose(every["norm_mean"], np.sum(means, axis=0) / tokens, rtol=1e-5)


def test_one_token_has_no_pairs() -> None:
    [found] = norms.statistics([torch.tensor([[[3.0, 4.0]]]), torch.tensor([[[0.0, 1.0]]])])
    assert found == {
        "norm_mean": [5.0, 1.0], "norm_std": [0.0, 0.0], "norm_min": [5.0, 1.0], "norm_max": [5.0, 1.0],
        "mean_cosine": [None, None],
    }  # fmt: skip


def test_opposite_and_zero_states() -> None:
    one, other = norms.statistics([torch.tensor([[[1.0, 0.0], [-1.0, 0.0]], [[0.0, 0.0], [2.0, 0.0]]])])
    assert (one["mean_cosine"], other["mean_cosine"]) == ([-1.0], [-0.5])  # zero has no direction: |sum u|^2 is 1
    assert (one["norm_min"], other["norm_min"]) == ([1.0], [0.0])


# --- which images -------------------------------------------------------------------------------------------
def test_the_test_image(run: Callable) -> None:
    assert run("--test-only", "--layers", "0", model="demo").code == 0
    [image] = summary()["images"]
    assert np.array_equal(Image.open(image["path"]), Image.open(ROOT / "testimg.png"))


def test_scenes_are_drawn_for_the_demo_model(run: Callable) -> None:
    ended = run("--num-images", 4, "--layers", "0,4", "--prompt", "Describe this image.", model="demo")
    assert ended.code == 0 and "4 images, " in ended.out and "images/s" in ended.out
    paths = [image["path"] for image in summary()["images"]]
    assert sorted(paths) == [f"output/scenes/scene_{number:04d}.png" for number in range(4)]


def test_the_first_of_a_folder_and_those_below_it(run: Callable, images: Path, tmp_path: Path) -> None:
    shutil.copytree(images, tmp_path / "many" / "below")
    for name in ("notes.txt", "paper.pdf", "data.h5"):
        (tmp_path / "many" / name).write_text("no image")
    run("--images", tmp_path / "many", images / "0.png", images / "0.png", "--num-images", 3)
    found = sorted(image["path"] for image in summary()["images"])
    assert found == [str(tmp_path / "many" / "below" / f"{number}.png") for number in range(3)]
    run("--images", tmp_path / "many", images / "0.png", images / "0.png", "--overwrite")
    assert len(summary()["images"]) == 6


def test_a_prompt_of_the_users_own(run: Callable, images: Path) -> None:
    run("--images", images / "0.png", "--prompt", "Look: <image> There.")
    longer = summary()["images"][0]["token_ranges"]
    run("--images", images / "0.png", "--overwrite")
    assert longer[0][0] > summary()["images"][0]["token_ranges"][0][0]


# --- bad input ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "no images were given"),
        (["--num-images", 2], "draws scenes for --model demo alone"),
        (["--images", "{images}", "--layers", "4"], "there is no layer 4; this model has layers 0 to 3"),
        (["--images", "nowhere"], "there is no file or folder nowhere"),
        (["--images", "{empty}"], "there are no images in the folder"),
        (["--images", "{images}", "--test-only"], "leave out --images"),
        (["--images", "{images}", "--prompt", "<|image_pad|>"], "the model's own token <|image_pad|>"),
        (["--images", "{images}", "--prompt", "Is <image> <image>?"], "the prompt has 2 <image>"),
        (["--images", "{broken}"], "none of 1 image can be read"),
    ],
)
def test_bad_input(arguments: list[Any], says: str, run: Callable, images: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"no picture")
    places = {"images": images, "empty": tmp_path / "empty", "broken": tmp_path / "broken"}
    refuses(run(*(str(each).format(**places) for each in arguments)), says)


def test_an_unreadable_image_among_many(run: Callable, images: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(images, tmp_path / "mixed")
    (folder / "2.png").write_bytes((folder / "2.png").read_bytes()[:100])
    (folder / "a.jpg").write_bytes(b"")
    ended = run("--images", folder)
    assert ended.code == 1
    about = summary()
    assert sorted(each["path"][-5:] for each in about["images"]) == ["0.png", "1.png", "3.png", "4.png"]
    assert [each["path"] for each in about["skipped"]] == [str(folder / "2.png"), str(folder / "a.jpg")]
    assert "is empty" in about["skipped"][1]["reason"]
    assert f"skipped: {folder / '2.png'}: " in ended.err and "2 images of 6 skipped" in ended.err
    shutil.copy(images / "2.png", folder / "2.png")
    (folder / "a.jpg").unlink()
    ended = run("--images", folder, "--resume")
    assert (ended.code, ended.err) == (0, "") and "5 images, 44 image tokens, 4 of them kept" in ended.out
    assert summary()["skipped"] == []


def test_numbers_that_float16_cannot_hold(run: Callable, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = features.states_of
    monkeypatch.setattr(
        features, "states_of", lambda *given: {layer: 1e4 * state for layer, state in real(*given).items()}
    )
    ended = run("--images", images, "--save-features", "--layers", "3")
    assert ended.code == 2 and "which float16 cannot hold; choose --feature-dtype" in ended.err
    assert (
        run("--images", images, "--save-features", "--layers", "3", "--feature-dtype", "bfloat16", "--overwrite").code
        == 0
    )


# --- going on -----------------------------------------------------------------------------------------------
def kill(monkeypatch: pytest.MonkeyPatch, holder: Any, name: str, call: int) -> None:
    """The program ends in the `call`th call of a function, when that has done its work."""
    real, calls = getattr(holder, name), iter(range(1, 1000))

    def killed(*args: Any, **kwargs: Any) -> Any:
        result = real(*args, **kwargs)
        if next(calls) == call:
            raise Killed
        return result

    monkeypatch.setattr(holder, name, killed)


@pytest.mark.parametrize(
    ("form", "holder", "name", "call"),
    [
        ("safetensors", features, "states_of", 1),  # nothing was written yet
        ("safetensors", feature_files, "_bytes", 6),  # two layers of four have the rows of the second image
        ("safetensors", feature_files, "_line", 4),  # all layers have the rows, and the journal does not know
        ("safetensors", feature_files.FeatureFiles, "_header", 3),  # two layers have become files
        ("pt", feature_files.FeatureFiles, "_header", 3),
        (
            "pt",
            feature_files.os,
            "replace",
            3,
        ),  # the journal's own is the first, so two layers; the part is still there
        ("safetensors", feature_files.FeatureFiles, "_index", 1),  # all layers have become files
        ("safetensors", feature_files, "_json", 2),  # the index is there, the summary is not
    ],
)
def test_a_crash_loses_what_was_being_written(
    form: str, holder: Any, name: str, call: int, run: Callable, images: Path, tmp_path: Path
) -> None:
    """Killed anywhere, then --resume: the same files, byte for byte, as without the kill."""
    arguments = ["--images", images, *SAVED, "--feature-format", form, "--batch-size", 1]
    run(*arguments)
    whole = files()
    Path("output").rename("whole")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        kill(patch, holder, name, call)
        run(*arguments)
    if name == "_bytes":  # what a kill can leave: half a row, half a line
        with (
            Path("output/features_run_layer_3.part").open("ab") as part,
            Path("output/extraction_run.journal").open("ab") as journal,
        ):
            part.write(b"half a row")
            journal.write(b'{"path": "half a li')
    ended = run(*arguments, "--resume")
    assert (ended.code, ended.err) == (0, "")
    assert files() == whole


def test_an_interrupt_keeps_what_is_finished(run: Callable, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--images", images, *SAVED, "--batch-size", 1]
    real, calls = features.states_of, iter(range(1, 100))

    def interrupted(*given: Any) -> Any:
        if next(calls) == 3:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(features, "states_of", interrupted)
    ended = run(*arguments)
    assert (ended.code, ended.err) == (130, "interrupted: 2 images finished; go on with --resume\n")
    refused = run(*arguments)
    assert refused.code == 2 and "extraction_run.journal exists already" in refused.err
    ended = run(*arguments, "--resume")
    assert "5 images, 44 image tokens, 2 of them kept" in ended.out
    assert next(calls) == 7  # the 3 that were left, computed once


@pytest.mark.parametrize("form", ["safetensors", "pt"])
def test_a_finished_extraction_goes_on_with_more_images(form: str, run: Callable, images: Path) -> None:
    arguments = [*SAVED, "--feature-format", form, "--batch-size", 1]
    run("--images", images, *arguments)
    whole = files()
    shutil.rmtree("output")
    run("--images", images / "0.png", images / "1.png", *arguments)
    before = everything(Path("output"))
    assert "2 of them kept" in run("--images", images / "1.png", images / "0.png", *arguments, "--resume").out
    assert {**everything(Path("output")), "extraction_summary_run.json": None} == {
        **before, "extraction_summary_run.json": None
    }  # fmt: skip
    assert "5 images, 44 image tokens, 2 of them kept" in run("--images", images, *arguments, "--resume").out
    assert files() == whole


def test_what_is_there_is_not_replaced_unasked(run: Callable, images: Path) -> None:
    run("--images", images / "0.png", *SAVED)
    before = everything(Path("output"))
    for more, says in (
        ([], "extraction_summary_run.json exists already; choose another --output"),
        (["--resume", "--layers", "0"], "layers was [0, 1, 2, 3], is [0]"),
        (["--resume", "--prompt", "Else?"], "prompt was What is on the left?, is Else?"),
    ):
        ended = run("--images", images / "0.png", *SAVED, *more)
        assert (ended.code, ended.out) == (2, "") and says in ended.err
    assert everything(Path("output")) == before
    assert run("--images", images / "1.png", "--overwrite", "--layers", "0", "--save-features").code == 0
    names = sorted(path.name for path in Path("output").iterdir() if path.suffix in (".json", ".safetensors"))
    assert names == ["extraction_summary_run.json", "features_run_index.json", "features_run_layer_0.safetensors"]


# --- batches ------------------------------------------------------------------------------------------------
def waiting(tokens: int, numbers: int) -> Ready:
    given = {"input_ids": torch.zeros(1, tokens, dtype=torch.int64), "pixel_values": torch.zeros(1, numbers)}
    return Ready({}, given, torch.ones(1, tokens, dtype=torch.bool))


def test_batches_have_all_images_of_one_size_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "WAITING_BYTES", 20_000)
    rng = random.Random(0)
    images = [waiting(tokens, 4 * tokens) for tokens in rng.choices([10, 20, 30, 40, 50], k=200)]
    held: list[Ready] = []

    def read() -> Iterator[Ready]:
        for image in images:
            assert sum(each.bytes for each in held) <= 20_000
            held.append(image)
            yield image

    found = []
    for batch in batches(read(), 8):
        assert len({image.tokens.shape for image in batch}) == 1 and len(batch) <= 8
        found += batch
        held[:] = [image for image in held if all(image is not each for each in batch)]
    assert sorted(map(id, found)) == sorted(map(id, images))


def test_features_do_not_pile_up(run: Callable, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each forward, the states of the one before are all that is left of earlier ones."""
    real, made = features.states_of, []

    def counted(*given: Any) -> Any:
        assert sum(state() is not None for state in made) <= 4
        states = real(*given)
        made.extend(map(weakref.ref, states.values()))
        return states

    monkeypatch.setattr(features, "states_of", counted)
    assert run("--images", images, *SAVED, "--batch-size", 1).code == 0
    assert len(made) == 5 * 4


def test_too_large_a_batch_is_split(run: Callable, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, sizes = features.states_of, []

    def small(stack: Any, model: Any, part: Any, *more: Any) -> Any:
        sizes.append(len(part))
        if len(part) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return real(stack, model, part, *more)

    monkeypatch.setattr(features, "states_of", small)
    assert run("--images", images, *SAVED).code == 0
    assert sizes[0] == 3 and len(summary()["images"]) == 5


def test_ranges() -> None:
    assert ranges([4, 5, 6, 9, 11, 12]) == [[4, 6], [9, 9], [11, 12]]
    assert positions(ranges([4, 5, 6, 9, 11, 12])) == [4, 5, 6, 9, 11, 12]
