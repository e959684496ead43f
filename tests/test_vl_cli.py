"""The command line of the vision-language script: what a user types, sees, gets as files and as exit code.

Only what pictures add; flags, files and failures that both scripts share are in test_cli.py. What a picture file
becomes is tested in test_images.py, the numbers in test_vl_engine.py.
"""

import hashlib
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import ExifTags, Image
from test_cli import ROOT, Ended, everything, refuses
from transformers import AutoConfig, AutoModelForImageTextToText
from vl_families import VL_FAMILIES, make_vl_checkpoint, picture

import mask_impact_analysis
import mask_impact_vl
from mask_impact.errors import UserError
from mask_impact.files import results
from mask_impact.model import find, load, processors
from mask_impact.options import MASK_MODES
from mask_impact.prompt.images import IN_MEMORY

SCRIPT = str(ROOT / "mask_impact_vl.py")
PROMPT = "What is on the left?"
VIDEO = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom"
FEW = ["--layers", "0", "--variants", "full"]  # where only inputs matter


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny checkpoint of each family, under its name."""
    folder = tmp_path_factory.mktemp("vl_cli")
    for family in ("qwen2_vl", "qwen3_vl", "mistral3"):
        make_vl_checkpoint(family, folder / family)
    return folder


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 x 150 pixels, which both Qwen families resize."""
    return saved(picture(150, 200), tmp_path_factory.mktemp("photo") / "photo.png")


@pytest.fixture
def run(tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> Callable:
    """run("--image", path) -> Ended: the command in an empty folder, by default on qwen2_vl and PROMPT."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def call(
        *arguments: Any, prompt: str | None = PROMPT, model: Any = "qwen2_vl", main: Callable = mask_impact_vl.main
    ) -> Ended:
        argv = [str(argument) for argument in arguments]
        argv += [] if prompt is None else ["--prompt", prompt]
        argv += ["--model", str(made / model)]
        capfd.readouterr()
        try:
            code = main(argv)
        except SystemExit as stop:  # argparse
            code = int(stop.code or 0)
        return Ended(code, *capfd.readouterr())

    return call


@pytest.fixture
def refused(run: Callable, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """refused(["--image", path], "part of the message", ...): as `refuses`, and before the weights are loaded."""
    monkeypatch.setattr(load, "load_model", lambda *args: pytest.fail("weights were loaded"))
    return lambda argv, *parts, **options: refuses(run(*argv, **options), *parts)


def saved(image: Image.Image, path: Path, **options: Any) -> Path:
    image.save(path, **options)
    return path


def succeeds(ended: Ended, name: str = "vl_masking") -> tuple[pd.DataFrame, dict[str, Any]]:
    """(table, manifest) of a run that went well and of which stderr says nothing."""
    assert (ended.code, ended.err.strip()) == (0, "")
    found = json.loads(Path(f"output/{name}_run.json").read_text("utf-8"))
    return results.read_csv(f"output/{name}_results.csv"), found


def image_tokens(found: dict[str, Any], index: int = 0) -> list[dict[str, Any]]:
    return [token for token in found["tokens"] if token["image"] == index]


def assert_tiles(found: dict[str, Any], index: int = 0) -> None:
    """The boxes of a picture's tokens, in the order of their positions, are its grid's cells, row by row; together
    they are the region, without gap or overlap."""
    described, tokens = found["images"][index], image_tokens(found, index)
    (rows, cols), (left, top, right, bottom) = described["grid"], described["region"]
    assert len(tokens) == rows * cols == described["tokens"] > 0
    assert [tokens[0]["position"], tokens[-1]["position"]] == described["positions"]
    assert [(token["row"], token["col"]) for token in tokens] == [(r, c) for r in range(rows) for c in range(cols)]
    boxes = {(token["row"], token["col"]): token["box"] for token in tokens}
    for (row, col), box in boxes.items():
        assert box[0] < box[2] and box[1] < box[3]
        if (row, col + 1) in boxes:
            assert boxes[row, col + 1][0] == box[2] and boxes[row, col + 1][1::2] == box[1::2]
        if (row + 1, col) in boxes:
            assert boxes[row + 1, col][1] == box[3] and boxes[row + 1, col][0::2] == box[0::2]
    assert boxes[0, 0][:2] == [left, top]
    assert boxes[rows - 1, cols - 1][2:] == pytest.approx([right, bottom])


# --- bad input: pictures ----------------------------------------------------------------------------------
def png(width: int, height: int) -> bytes:
    """A PNG whose header promises more pixels than there are."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(*part) for part in ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 10)), (b"IEND", b""))
    )


def cut(name: str) -> Callable[[Path], bytes]:
    return lambda folder: saved(picture(64, 64), folder / name).read_bytes()[:-200]


BAD_PICTURES: dict[str, tuple[bytes | Callable[[Path], bytes], list[str]]] = {  # name -> bytes, what the line says
    "empty.png": (b"", ["is empty (0 bytes)", "PNG or JPEG"]),
    "cut.png": (cut("whole.png"), ["is damaged", "save it anew"]),
    "cut.jpg": (cut("whole.jpg"), ["is damaged", "save it anew"]),
    "text.png": (b"Dear reader,\n", ["is not an image", "PNG, JPEG"]),
    "bomb.png": (png(50_000, 50_000), ["too large", "100,000,000 pixels", "scale it down"]),
    "large.png": (png(20_000, 6_000), ["20000 x 6000 = 120,000,000 pixels", "at most 100,000,000"]),
    "none.png": (png(0, 5), ["is not an image", "give a PNG"]),
    "film.png": (VIDEO, ["is a video; give it as one of --video", "a frame of it"]),
    "film.mp4": (VIDEO, ["is a video; give it as one of --video", "a frame of it"]),
}


@pytest.mark.parametrize("name", BAD_PICTURES)
def test_bad_picture(refused, tmp_path, name):
    content, parts = BAD_PICTURES[name]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content(tmp_path))
    refused(["--image", tmp_path / name], str(tmp_path / name), *parts)


def test_picture_that_is_not_there_or_a_folder(refused, tmp_path, photo):
    refused(["--image", "no.png"], "the image no.png does not exist", "give the path")
    refused(["--image", tmp_path], f"the image {tmp_path} is a folder", "one image file")
    refused(["--image", photo, "--image", "no.png"], "no.png does not exist")  # the second one too


@pytest.mark.parametrize("model", ["qwen2_vl", "qwen3_vl"])
def test_picture_that_the_processor_refuses(refused, tmp_path, model):
    """Qwen's takes no side more than 200 times the other."""
    thin = saved(picture(900, 3), tmp_path / "thin.png")
    refused(["--image", thin], "images of 3 x 900 pixels", "aspect ratio", "give other images", model=model)


@pytest.mark.parametrize("mode", ["vision", "both"])
def test_mask_mode_without_a_picture(refused, mode):
    refused(["--mask-mode", mode], f"--mask-mode {mode} needs an image", "--image")


def test_vision_attention_without_a_picture(refused):
    refused(["--vision-attention", "bidirectional"], "--vision-attention bidirectional needs an image", "--image")


# --- bad input: the prompt and flags ----------------------------------------------------------------------
@pytest.mark.parametrize(
    ("prompt", "images", "markers"),
    [("<image> and <image>?", 1, 2), ("What is <image>?", 0, 1), ("Is <image> like it?", 2, 1)],
)
def test_other_numbers_of_markers_and_pictures(refused, photo, prompt, images, markers):
    parts = [f"the prompt has {markers} <image>", f"images given is {images}", "one <image> for every image"]
    refused(["--image", photo] * images, *parts, prompt=prompt)


@pytest.mark.parametrize("prompt", ["", " \n", "<image>", "<image>\n<image> "])
def test_prompt_without_words(refused, photo, prompt):
    refused(["--image", photo] * prompt.count("<image>"), "the prompt is empty", "--prompt", prompt=prompt)


def test_prompt_that_holds_the_models_own_token(refused, photo):
    parts = ["the model's own token <|image_pad|>", "write <image> where an image stands"]
    refused(["--image", photo], *parts, prompt="What is <|image_pad|>?")
    refused([], *parts, prompt="What is <|image_pad|>?")


@pytest.mark.parametrize(
    ("flag", "value", "parts"),
    [
        ("--mask-mode", "image", ["'image'", "text, vision, both"]),
        ("--vision-attention", "causal", ["'causal'", "model, bidirectional"]),
        *(("--max-pixels", value, [f"{value!r} is not a whole number of 1 or more"]) for value in ("0", "-5", "abc")),
    ],
)
def test_choices(refused, photo, flag, value, parts):
    refused(["--image", photo, flag, value], flag, *parts)


# --- bad input: the model ---------------------------------------------------------------------------------
def test_each_script_names_the_other_for_the_others_models(refused, tmp_path, photo):
    text = checkpoints.qwen3(tmp_path / "text")
    refused(["--image", photo], "'qwen3'", "takes no images", "mask_impact_analysis.py", model=text)
    refused([], "'qwen2_vl'", "vision-language", "mask_impact_vl.py", main=mask_impact_analysis.main)


def test_a_model_without_a_vision_tower_is_refused_as_that(refused, tmp_path, photo):
    """Fuyu's pictures go into its decoder."""
    AutoConfig.for_model("fuyu").save_pretrained(tmp_path / "fuyu")
    refused(["--image", photo], "'fuyu'", "no vision tower", "on text alone", model=tmp_path / "fuyu")


@pytest.mark.parametrize(
    ("files", "part"),
    [
        ("config.json", "has no config.json"),
        ("preprocessor_config.json", "no image processor settings (preprocessor_config.json); add the file"),
        ("tokenizer*", ""),  # transformers 4 says it in other words
    ],
)
@pytest.mark.parametrize("model", ["qwen2_vl", "qwen3_vl"])
def test_model_without_a_file(refused, tmp_path, made, photo, files, part, model):
    folder = Path(shutil.copytree(made / model, tmp_path / "model", ignore=shutil.ignore_patterns(files)))
    refused(["--image", photo], part, str(folder), model=folder)


# --- good runs: what is masked ----------------------------------------------------------------------------
@pytest.mark.parametrize("model", ["qwen2_vl", "qwen3_vl"])
def test_three_mask_modes(run, photo, model):
    """Each masks the tokens it says, and the console counts them."""
    for mode in MASK_MODES:
        ended = run("--image", photo, "--mask-mode", mode, "--num-tokens", 2, model=model)
        table, found = succeeds(ended)
        assert (found["mask_mode"], found["vision_attention"]) == (mode, "model")
        places = {token["position"] for token in image_tokens(found)}
        everywhere = set(range(found["prompt_length"] + 1))
        expected = {"text": everywhere - places, "vision": places, "both": everywhere}[mode]
        assert set(table.token_position) == expected and len(places) == 12
        assert all((token["kind"] == "image") == (token["position"] in places) for token in found["tokens"])
        prompt = table.token_position[table.generation_step == 0].unique()
        text, pads = len(set(prompt) - places), len(set(prompt) & places)
        grid = "12 image tokens in 1 image (3 x 4 grid)"
        says = {
            "text": f"{text} text tokens, {grid} skipped",
            "vision": f"{grid}, {found['prompt_length'] - pads} text tokens skipped",
            "both": f"{text} text tokens and {grid}",
        }
        assert f"\nmask mode  {mode}: {says[mode]}\n" in ended.out


def test_the_picture_in_console_and_manifest(run, photo):
    ended = run("--image", photo, model="qwen3_vl")
    _, found = succeeds(ended)
    (described,) = found["images"]
    first, last = described["positions"]
    assert described == {
        "path": str(photo), "sha256": hashlib.sha256(photo.read_bytes()).hexdigest(), "format": "PNG", "mode": "RGB",
        "notes": [], "size": [200, 150], "resized": [128, 96], "grid": [3, 4], "region": [0, 0, 200, 150],
        "layout": "3 x 4 grid", "tokens": 12, "positions": [first, last],
    }  # fmt: skip
    assert_tiles(found)
    line = f"image 0    {photo}: 200 x 150 pixels, resized to 128 x 96, tokens {first} to {last} (3 x 4 grid)"
    assert ended.out.splitlines()[0] == line
    assert (found["chat"], found["prompt"]) == (True, PROMPT)
    none = {"image": None, "row": None, "col": None, "box": None}
    assert all(token | none == token for token in found["tokens"] if token["kind"] != "image")


def test_kinds_of_tokens(run, photo):
    """A row of mistral3's picture ends with a token that is no patch."""
    _, found = succeeds(run("--image", photo, *FEW, model="mistral3"))
    kinds = {token["text"]: token["kind"] for token in found["tokens"][: found["prompt_length"]]}
    assert (kinds["<s>"], kinds["[IMG]"], kinds[" left"]) == ("special", "image", "text")
    assert kinds["[IMG_BREAK]"] != "image" and kinds["[IMG_END]"] != "image"
    texts = [token["text"] for token in found["tokens"] if token["kind"] == "image"]
    assert set(texts) == {"[IMG]"} and len(texts) == found["images"][0]["tokens"]


def test_picture_that_is_not_resized_says_so_by_silence(run, tmp_path):
    path = saved(picture(84, 112), tmp_path / "fits.png")
    first = run("--image", path, *FEW).out.splitlines()[0]
    assert first == f"image 0    {path}: 112 x 84 pixels, tokens 4 to 15 (3 x 4 grid)"


def test_the_most_important_tokens_are_named_by_their_place(run, photo):
    ended = run("--image", photo, "--mask-mode", "vision")
    table, found = succeeds(ended)
    squares = table[table.variant == "Full"].set_index("token_position").l2_distance.astype(float) ** 2
    root = squares.groupby(level=0).sum().pow(0.5).sort_values(ascending=False)  # over layers
    places = {token["position"]: (token["row"], token["col"]) for token in image_tokens(found)}
    expected = [
        ("image 0 row {} col {}".format(*places[position]), str(position), f"{value:.4g}")
        for position, value in root.items()
    ]
    shown = [line for line in ended.out.splitlines() if line.startswith("image 0 row")]
    assert [tuple(re.split(r" {2,}", line)[:3]) for line in shown] == expected[:5]


def test_the_plan_leaves_nothing_on_stderr(run, photo):
    assert run("--image", photo, *FEW).err == ""


def test_quiet_prints_nothing(run, photo):
    assert run("--image", photo, "--quiet", *FEW) == Ended(0, "", "")


@pytest.mark.parametrize("prompt", ["Is <image> like <image>?", "Are they alike?"])
def test_two_pictures(run, tmp_path, photo, prompt):
    other = saved(picture(112, 56, seed=1), tmp_path / "other.png")
    ended = run("--image", photo, "--image", other, "--mask-mode", "vision", *FEW, prompt=prompt)
    table, found = succeeds(ended)
    assert [described["path"] for described in found["images"]] == [str(photo), str(other)]
    assert [described["grid"] for described in found["images"]] == [[3, 4], [4, 2]]
    for index in (0, 1):
        assert_tiles(found, index)
    (first, last), (second, end) = (described["positions"] for described in found["images"])
    text = "".join(token["text"] for token in found["tokens"][: found["prompt_length"]])
    text = re.sub(r"(<\|image_pad\|>)+", "*", text).replace("<|vision_start|>*<|vision_end|>", "<image>")
    asked = prompt if "<image>" in prompt else f"<image><image>{prompt}"
    assert text == f"<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n"
    assert sorted(set(table.token_position)) == [*range(first, last + 1), *range(second, end + 1)]
    text_count = found["prompt_length"] - 20
    assert f"mask mode  vision: 20 image tokens in 2 images, {text_count} text tokens skipped\n" in ended.out
    assert [line[:10].strip() for line in ended.out.splitlines()[:2]] == ["image 0", "image 1"]


def test_text_alone(run):
    ended = run()
    table, found = succeeds(ended)
    assert (found["images"], found["mask_mode"], found["vision_attention"]) == ([], "text", None)
    assert {token["kind"] for token in found["tokens"]} <= {"text", "special"}
    assert sorted(set(table.token_position)) == list(range(found["prompt_length"]))
    assert ended.out.startswith(f"mask mode  text: {found['prompt_length']} text tokens\n")


@pytest.mark.parametrize("model", ["qwen2_vl", "qwen3_vl"])
def test_bidirectional(run, photo, model):
    """What the last position reads in the first layer is the same; deeper, image tokens have seen each other."""
    command = ["--image", photo, "--mask-mode", "both", "--variants", "full,attn"]
    own, _ = succeeds(run(*command, "--output", "own", model=model), "own")
    other = run(*command, "--output", "other", "--vision-attention", "bidirectional", model=model)
    table, found = succeeds(other, "other")
    assert found["vision_attention"] == "bidirectional"
    keys = list(results.COLUMNS[:5])
    assert table[keys].equals(own[keys])
    for layer in range(3):
        one, two = (frame.l2_distance[frame.layer == layer].to_numpy() for frame in (own, table))
        apart = np.abs(one - two).max() / one.max()
        assert apart < 1e-5 if layer == 0 else apart > 0.01, f"layer {layer}: {apart:.3g}"


# --- good runs: pictures of every size and kind -----------------------------------------------------------
@pytest.mark.parametrize(("model", "most"), [("qwen2_vl", 3200), ("qwen3_vl", 5000), ("mistral3", 4000)])
def test_max_pixels(run, photo, model, most):
    """Fewer tokens, which still cover the whole picture. mistral3's processor knows no such bound and rounds up."""
    _, whole = succeeds(run("--image", photo, *FEW, model=model))
    _, found = succeeds(run("--image", photo, *FEW, "--max-pixels", most, model=model))
    (before,), (after,) = whole["images"], found["images"]
    assert 0 < after["tokens"] < before["tokens"]
    width, height = after["resized"]
    assert width * height <= most or (model == "mistral3" and (width - 28) * (height - 28) < most)
    assert (after["size"], after["region"]) == ([200, 150], [0, 0, 200, 150])
    assert_tiles(found)


@pytest.mark.parametrize("model", ["qwen2_vl", "qwen3_vl", "mistral3"])
def test_max_pixels_never_enlarges(run, photo, model):
    """A limit above what the model's own settings give changes nothing."""
    assert run("--image", photo, *FEW, model=model).code == 0
    before = Path("output/vl_masking_results.csv").read_bytes()
    assert run("--image", photo, *FEW, "--max-pixels", 10**9, model=model).code == 0
    assert Path("output/vl_masking_results.csv").read_bytes() == before


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (28, 28), (3, 40), (200, 30)])
@pytest.mark.parametrize("model", ["qwen2_vl", "qwen3_vl"])
@pytest.mark.parametrize("flags", [[], ["--max-pixels", "3300"]], ids=["", "max"])
def test_small_pictures(run, tmp_path, size, model, flags):
    """Height x width. A picture below the model's least size is enlarged, but not beyond --max-pixels."""
    path = saved(picture(*size), tmp_path / "small.png")
    _, found = succeeds(run("--image", path, "--mask-mode", "both", *FEW, *flags, model=model))
    (described,) = found["images"]
    assert described["size"] == [size[1], size[0]]
    assert described["region"] == [0, 0, size[1], size[0]]
    assert not flags or np.prod(described["resized"]) <= 3300 or min(described["resized"]) <= 32
    assert_tiles(found)


def test_pictures_three_pixels_high_keep_their_colours(run, tmp_path):
    """transformers 4 takes rows for colours where there are three of them: a picture of equal rows must give what the
    same picture twice as large gives, as both end up enlarged to the same size."""
    row = np.asarray(picture(1, 64))
    tables = []
    for rows in (3, 6):
        pixels = row.repeat(rows, axis=0).repeat(rows // 3, axis=1)
        path = saved(Image.fromarray(pixels), tmp_path / f"{rows}.png")
        tables.append(succeeds(run("--image", path, "--mask-mode", "vision", *FEW))[0])
    one, two = (table.l2_distance.to_numpy() for table in tables)
    assert one.shape == two.shape
    assert np.abs(one - two).max() < 0.2 * one.max(), f"{np.abs(one - two).max():.3g} of {one.max():.3g}"


def test_huge_picture(run, tmp_path):
    path = saved(Image.new("RGB", (4000, 3000), "navy"), tmp_path / "huge.png")
    ended = run("--image", path, "--max-pixels", 9500, *FEW)
    _, found = succeeds(ended)
    assert found["images"][0]["resized"] == [112, 84] and found["images"][0]["region"] == [0, 0, 4000, 3000]
    assert_tiles(found)
    assert ended.out.startswith(f"image 0    {path}: 4000 x 3000 pixels, resized to 112 x 84, tokens 4 to 15")


def transparent() -> Image.Image:
    image = picture(84, 112).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def palette() -> Image.Image:
    return picture(84, 112).quantize(16)


OTHER_FRAMES = [picture(84, 112, seed).quantize(16) for seed in (1, 2)]


# file name -> picture, how it is saved, its mode as read, the note on the console or None
KINDS: dict[str, tuple[Callable[[], Image.Image], dict[str, Any], str, str | None]] = {
    "rgba.png": (transparent, {}, "RGBA", "transparency shown on white"),
    "la.png": (lambda: transparent().convert("LA"), {}, "LA", "transparency shown on white"),
    "grey.png": (lambda: picture(84, 112).convert("L"), {}, "L", None),
    "bits.png": (lambda: picture(84, 112).convert("1"), {}, "1", None),
    "palette.png": (palette, {"transparency": 3}, "P", "transparency shown on white"),
    "sixteen.png": (lambda: Image.fromarray(np.arange(84 * 112, dtype=np.uint16).reshape(84, 112) * 6), {}, "I;16",
                    "16-bit greyscale scaled to 8 bits by its full range 0-65535"),
    "cmyk.jpg": (lambda: picture(84, 112).convert("CMYK"), {}, "CMYK", "CMYK converted"),
    "webp.webp": (lambda: picture(84, 112), {"lossless": True}, "RGB", None),
    "rotated.jpg": (lambda: picture(112, 84), {"exif": 6}, "RGB", "EXIF rotation applied"),
    "moving.gif": (palette, {"save_all": True, "append_images": OTHER_FRAMES}, "P",
                   "first of 3 frames"),
}  # fmt: skip


def with_orientation(options: dict[str, Any]) -> dict[str, Any]:
    if "exif" not in options:
        return options
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = options["exif"]
    return options | {"exif": exif}


@pytest.mark.parametrize("name", KINDS)
def test_kinds_of_pictures(run, tmp_path, name):
    """Each runs through to results, and what was changed is on the console and in the manifest."""
    draw, options, mode, note = KINDS[name]
    path = saved(draw(), tmp_path / name, **with_orientation(options))
    ended = run("--image", path, "--mask-mode", "vision", *FEW)
    table, found = succeeds(ended)
    (described,) = found["images"]
    assert described["notes"] == ([] if note is None else [note])
    assert (described["mode"], described["size"], described["tokens"]) == (mode, [112, 84], 12)
    assert described["format"] == {".jpg": "JPEG"}.get(path.suffix, path.suffix[1:].upper())
    second = ended.out.splitlines()[1]
    assert second == f"{'':<10} {note}" if note else second.startswith("mask mode  vision: ")
    assert len(table) == 12 and table.l2_distance.std() > 0


@pytest.mark.parametrize(
    ("name", "options"), [("r.png", {}), ("r.webp", {"lossless": True}), ("r.tif", {})], ids=["png", "webp", "tiff"]
)
@pytest.mark.parametrize(("orientation", "turn"), [(6, Image.Transpose.ROTATE_90), (3, Image.Transpose.ROTATE_180)])
def test_rotated_picture_gives_the_numbers_of_the_upright_one(run, tmp_path, name, options, orientation, turn):
    upright = picture(140, 84)
    lying = upright.transpose(turn)
    rotated = saved(lying, tmp_path / name, **options, **with_orientation({"exif": orientation}))
    csv = []
    for path in (rotated, saved(upright, tmp_path / "up.png"), saved(lying, tmp_path / "lying.png")):
        assert run("--image", path, "--mask-mode", "both", *FEW).code == 0
        csv.append(Path("output/vl_masking_results.csv").read_bytes())
    assert csv[0] == csv[1] != csv[2]


def test_moving_picture_gives_the_numbers_of_its_first_frame(run, tmp_path):
    frames = [picture(84, 112, seed).quantize(16) for seed in (0, 1)]
    moving = saved(frames[0], tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    stills = [saved(frame.convert("RGB"), tmp_path / f"{index}.png") for index, frame in enumerate(frames)]
    csv = []
    for path in (moving, *stills):
        assert run("--image", path, "--mask-mode", "both", *FEW).code == 0
        csv.append(Path("output/vl_masking_results.csv").read_bytes())
    assert csv[0] == csv[1] != csv[2]


# --- from Python ------------------------------------------------------------------------------------------
def test_python_gives_the_same_table_as_the_command(run, made, photo):
    command = ["--image", photo, "--mask-mode", "both", "--num-tokens", 2]
    table, found = succeeds(run(*command, model="qwen3_vl"))
    folder = str(made / "qwen3_vl")
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    processor = processors.load_processor(find.find_model(folder, vision=True))
    call = mask_impact_vl.run_vl_masking_experiment
    options: dict[str, Any] = {"mask_mode": "both", "num_output_tokens": 2}
    with Image.open(photo) as opened:
        frames = [
            call(PROMPT, photo, model_name=folder, device="cpu", **options),
            call(PROMPT, [str(photo)], model_name=folder, **options),
            call(PROMPT, opened, model=model, processor=processor, **options),
        ]
    for frame in frames:
        pd.testing.assert_frame_equal(pd.DataFrame(frame), table, check_exact=True)
        assert json.loads(json.dumps(frame.attrs["run"]["tokens"])) == found["tokens"]
    assert frames[0].attrs["run"]["images"] == frames[1].attrs["run"]["images"] == found["images"]
    assert frames[0].attrs["run"]["model"] == found["model"]
    in_memory = frames[2].attrs["run"]["images"][0]
    assert in_memory["path"] == IN_MEMORY and in_memory["sha256"] != found["images"][0]["sha256"]


def test_pythons_other_options(made, photo):
    call = mask_impact_vl.run_vl_masking_experiment
    options: dict[str, Any] = {"model_name": str(made / "qwen2_vl"), "layers": [1], "variants": ["full"]}
    pair = call("Is <image> like <image>?", [photo, picture(112, 56)], "vision", **options)
    assert [described["tokens"] for described in pair.attrs["run"]["images"]] == [12, 8]
    assert set(pair.layer) == {1} and len(pair) == 20
    small = call(PROMPT, photo, "vision", max_pixels=4000, **options)
    assert len(small) == 2  # 73 x 54 pixels, of which 28 x 28 make a token
    plain = call(PROMPT, photo, "vision", **options)
    together = call(PROMPT, photo, "vision", vision_attention="bidirectional", **options)
    assert together.attrs["run"]["vision_attention"] == "bidirectional"
    assert not np.allclose(plain.l2_distance, together.l2_distance)
    assert call(PROMPT, **options).attrs["run"]["images"] == []


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"model": object()}, "give both model and processor"),
        ({"processor": object()}, "give both model and processor"),
        ({"mask_mode": "image"}, "unknown mask mode 'image'; choose from text, vision, both"),
        ({"vision_attention": "causal"}, "unknown vision attention 'causal'; choose from model, bidirectional"),
        ({"image_path": "no.png"}, "no.png does not exist"),
        ({"image_path": None, "mask_mode": "vision"}, "needs an image"),
        ({"image_path": None, "mask_mode": "both"}, "needs an image"),
        ({"image_path": None, "vision_attention": "bidirectional"}, "needs an image"),
        ({"prompt": ""}, "prompt is empty"),
        ({"prompt": "<image> and <image>"}, "one <image> for every image"),
        ({"max_pixels": 0}, "max_pixels is 0; it must be a whole number of 1 or more"),
        ({"max_pixels": -5}, "max_pixels is -5; it must be a whole number of 1 or more"),
        ({"num_output_tokens": 0}, "must be a whole number of 1 or more"),
        ({"layers": [3]}, "no layer 3"),
    ],
)
def test_python_refuses_bad_input_before_the_weights_are_loaded(made, photo, monkeypatch, options, part):
    monkeypatch.setattr(load, "load_model", lambda *args: pytest.fail("weights were loaded"))
    arguments = {"prompt": PROMPT, "image_path": photo, "model_name": str(made / "qwen2_vl"), **options}
    with pytest.raises(UserError, match=re.escape(part)):
        mask_impact_vl.run_vl_masking_experiment(**arguments)


def test_create_vl_attention_mask() -> None:
    mask = mask_impact_vl.create_vl_attention_mask(4, [(1, 3)])
    assert (mask.shape, mask.dtype) == ((1, 1, 4, 4), torch.float32)
    assert (mask[0, 0] == 0).int().tolist() == [[1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    with pytest.raises(ValueError, match="2 to 5"):
        mask_impact_vl.create_vl_attention_mask(4, [(2, 5)])


# --- a real process ---------------------------------------------------------------------------------------
def test_real_process(tmp_path, made, photo):
    """On stderr at most progress, where the machine is slow, and nothing from transformers."""
    argv = ["--image", photo, "--mask-mode", "vision", "--model", made / "qwen3_vl", "--prompt", PROMPT]
    done = subprocess.run(
        [sys.executable, SCRIPT, *map(str, argv)], cwd=tmp_path, capture_output=True, text=True, encoding="utf-8",
        env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=300, check=False,
    )  # fmt: skip
    said = [line for line in re.split(r"[\r\n]+", done.stderr) if line.strip() and not re.search(r"\|.*\| +\d+%", line)]
    assert (done.returncode, said) == (0, [])
    assert "mask mode  vision: 12 image tokens in 1 image (3 x 4 grid)" in done.stdout
    names = [f"vl_masking_{name}" for name in ("results.csv", "results.html", "results.json", "run.json")]
    assert sorted(everything(tmp_path / "output")) == names


@pytest.mark.parametrize("family", [name for name in ("janus", "got_ocr2") if VL_FAMILIES[name].available])
def test_families_with_ways_of_their_own(
    family: str, run: Callable, photo: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Janus writes a `generate` of its own; GOT-OCR2's processor takes one flat list of pictures. The generated tokens
    are those that transformers' own processor and forwards of the whole model give."""
    folder = make_vl_checkpoint(family, tmp_path_factory.mktemp("own") / family)
    second = saved(picture(80, 40, seed=1), folder / "second.png")
    argv = ["--image", photo, "--image", second, "--mask-mode", "both", "--num-tokens", 3, *FEW]
    _, found = succeeds(run(*argv, model=folder))
    for index, described in enumerate(found["images"]):
        assert len(image_tokens(found, index)) == described["grid"][0] * described["grid"][1]
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    pictures = processors.load_processor(find.find_model(str(folder), vision=True)).image_processor
    pixels = pictures([Image.open(photo), Image.open(second)], return_tensors="pt")["pixel_values"]
    ids = [token["id"] for token in found["tokens"]][: found["prompt_length"]]
    for generated in found["generated"]:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids]), pixel_values=pixels, use_cache=False).logits
        ids.append(int(logits[0, -1].argmax()))
        assert ids[-1] == generated["id"]
