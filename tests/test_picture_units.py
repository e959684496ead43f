"""What is masked together in prompts with pictures: words around them, regions of their grids, masks that are drawn."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from unit_checks import check_parts, spelt
from vl_families import make_vl_checkpoint, picture

from mask_impact.errors import UserError
from mask_impact.model.find import find_model
from mask_impact.model.processors import load_processor
from mask_impact.prompt.grids import Layout
from mask_impact.prompt.inputs import ModelInputs, Token, tokens_of
from mask_impact.prompt.unit_syntax import Chosen, RegionMask, Visual
from mask_impact.prompt.units import MASKED, Unit, _region_mask, units
from mask_impact.prompt.vision import open_pictures, vision_inputs
from mask_impact.prompt.words import _by_offsets

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def vl_source(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("units")

    @cache
    def load(name: str) -> tuple[Any, Any]:
        path = "demo" if name == "demo" else str(make_vl_checkpoint(name, root / name))
        source = find_model(path, vision=True)
        return load_processor(source), source.config

    return load


@pytest.fixture
def encode(vl_source: Any) -> Any:
    def call(name: str, prompt: str, *pictures: Any) -> tuple[Any, ModelInputs]:
        processor, config = vl_source(name)
        return processor.tokenizer, vision_inputs(processor, config, prompt, open_pictures(list(pictures)))

    return call


TESTIMG = str(ROOT / "testimg.png")
QUESTION = "What color is the circle? Or is it 😀?"
AROUND = {  # what stands beside the picture, and what is generated
    "word": ["Look", ":", "What", "color", "is", "the", "circle", "?", "Or", "it", "😀", "red", "."],
    "sentence": ["What color is the circle?", "Or is it 😀?", "red."],
}
FAMILIES = {"demo": TESTIMG, "qwen2_vl": picture(112, 84), "gemma3": picture(80, 80), "llava_pixtral": picture(64, 48)}


@pytest.mark.parametrize("mode", MASKED)
@pytest.mark.parametrize("name", FAMILIES)
def test_words_and_sentences_around_pictures(name, mode, encode):
    tokenizer, inputs = encode(name, f"Look: <image> {QUESTION}", FAMILIES[name])
    generated = spelt(tokenizer, "red.") if name != "gemma3" else tokenizer("red.")["input_ids"][1:]
    tokens = [*inputs.tokens, *tokens_of(tokenizer, generated, first=len(inputs.tokens))]
    for unit in ("word", "sentence"):
        got = units(Chosen(unit), tokenizer, inputs, tokens, mode)
        check_parts(got, tokens, mode)
        shown = [each.label for each in got if tokens[each.positions[0]].kind == "text"]
        assert all(label in shown for label in AROUND[unit]) if mode != "vision" else not shown
        patches = [each for each in got if tokens[each.positions[0]].kind == "image"]
        assert len(patches) == (inputs.images[0]["tokens"] if mode != "text" else 0)


@pytest.mark.parametrize("name", FAMILIES)
def test_text_of_the_processors_prompt_is_exact(name, encode):
    tokenizer, inputs = encode(name, QUESTION, FAMILIES[name])
    assert _by_offsets(tokenizer, inputs.tokens) is not None


@pytest.mark.parametrize("mode", MASKED)
@pytest.mark.parametrize("name", FAMILIES)
def test_spans_with_a_picture(name, mode, encode):
    tokenizer, inputs = encode(name, QUESTION, FAMILIES[name])
    spans = ["image:0", "it=image:0", "the circle", "q=/What.*circle/"]
    got = units(Chosen.of(spans=spans), tokenizer, inputs, inputs.tokens, mode)
    own = tuple(token.position for token in inputs.tokens if token.image == 0)
    assert got[0] == Unit("image:0", own) and got[1] == Unit("it", own)
    assert [unit.label for unit in got[2:]] == ["the circle", "q"]
    assert set(got[2].positions) < set(got[3].positions)


def test_positions_over_a_picture_write_its_token_once(encode):
    tokenizer, inputs = encode("demo", QUESTION, TESTIMG)
    first, last = inputs.images[0]["positions"]
    spans = f"{first - 1}-{last + 1}"
    (unit,) = units(Chosen.of(spans=spans), tokenizer, inputs, inputs.tokens, "text")
    assert unit.label == "<|vision_start|><|image_pad|><|vision_end|>"
    assert unit.positions == tuple(range(first - 1, last + 2))


def test_image_is_no_text_of_an_image_token(encode):
    tokenizer, inputs = encode("demo", "What is in this image?", TESTIMG)
    (unit,) = units(Chosen.of(spans="image"), tokenizer, inputs, inputs.tokens, "text")
    assert unit.label == "image"
    with pytest.raises(UserError, match=r"`spans` '<\|image_pad\|>' stands at 16 places: .*, and 12 more; "):
        units(Chosen.of(spans="<|image_pad|>"), tokenizer, inputs, inputs.tokens, "text")


def test_regions(encode):
    tokenizer, inputs = encode("qwen2_vl", "Compare.", picture(112, 84), picture(56, 112, seed=1))
    assert [image["grid"] for image in inputs.images] == [[4, 3], [2, 4]]
    (first, _), (second, _) = (image["positions"] for image in inputs.images)
    chosen = Chosen.of(regions=["0,0,3,2", "1,1,2,1", "corner=1:1,3,1,3", "1:0,2,1,3"])
    got = units(chosen, tokenizer, inputs, inputs.tokens, "text")  # whatever the mask mode
    assert got == [
        Unit("region 0,0,3,2", tuple(range(first, first + 12))),
        Unit("region 1,1,2,1", (first + 4, first + 7)),
        Unit("corner", (second + 7,)),
        Unit("region 1:0,2,1,3", (second + 2, second + 3, second + 6, second + 7)),
    ]


def test_regions_and_spans_together(encode):
    tokenizer, inputs = encode("demo", QUESTION, TESTIMG)
    chosen = Chosen.of(spans="circle", regions="0,0,1,1")
    got = units(chosen, tokenizer, inputs, inputs.tokens, "vision")
    assert [unit.label for unit in got] == ["circle", "region 0,0,1,1"]
    for position in got[1].positions:
        token = inputs.tokens[position]
        assert token.kind == "image" and token.row in (0, 1) and token.col in (0, 1)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (
            Chosen(regions=("0,0,4,1",)),
            "`regions` '0,0,4,1' goes beyond the 4 x 3 grid of picture 0; give rows from 0 to 3 and columns from 0 to "
            "2",
        ),
        (
            Chosen(regions=("sky=0,0,0,3",)),
            "`regions` 'sky=0,0,0,3' goes beyond the 4 x 3 grid of picture 0; give rows from 0 to 3 and columns from 0 "
            "to 2",
        ),
        (
            Chosen(regions=("1:0,0,0,0",)),
            "`regions` '1:0,0,0,0': there is no picture 1; only picture 0 is there (the first is picture 0)",
        ),
        (
            Chosen(spans=("image:7",)),
            "`spans` 'image:7': there is no picture 7; only picture 0 is there (the first is picture 0)",
        ),
        (
            Chosen(region_masks=("nowhere.png",)),
            "the image nowhere.png does not exist; give the path of an image file on this machine",
        ),
    ],
)
def test_regions_that_are_not_there(chosen, message, encode):
    tokenizer, inputs = encode("qwen2_vl", "Why?", picture(112, 84))
    with pytest.raises(UserError) as error:
        units(chosen, tokenizer, inputs, inputs.tokens, "both")
    assert str(error.value) == message


def test_picture_that_is_not_among_several(encode):
    tokenizer, inputs = encode("qwen2_vl", "Why?", picture(112, 84), picture(56, 56))
    with pytest.raises(UserError, match=r"there is no picture 2; pictures 0 to 1 are there \(the first is picture 0\)"):
        units(Chosen.of(spans="image:2"), tokenizer, inputs, inputs.tokens, "both")


def test_region_without_a_grid(encode):
    tokenizer, inputs = encode("llava_next", "Why?", picture(112, 84))
    first, last = inputs.images[0]["positions"]
    for more in ({"regions": "0,0,1,1"}, {"region_masks": TESTIMG}):
        chosen = Chosen.of(**more)
        with pytest.raises(UserError) as error:
            units(chosen, tokenizer, inputs, inputs.tokens, "both")
        field, text = chosen.given[0]
        assert str(error.value) == (
            f"`{field}` {text!r}: this model's tokens of picture 0 lie in no grid ({inputs.images[0]['layout']}); give "
            f"`spans` image:0, or positions from {first} to {last}"
        )
    (whole,) = units(Chosen.of(spans="image:0"), tokenizer, inputs, inputs.tokens, "both")
    assert len(whole.positions) == inputs.images[0]["tokens"]


# --- masks that are drawn ---------------------------------------------------------------------------------
def masked(encode: Any, path: Path, white: np.ndarray, name: str = "qwen2_vl", shown: Any = None) -> Unit:
    """The unit of a mask with these white pixels."""
    Image.fromarray(np.where(white, 255, 0).astype(np.uint8)).save(path)
    tokenizer, inputs = encode(name, "Why?", shown or picture(112, 84))
    (unit,) = units(Chosen.of(region_masks=str(path)), tokenizer, inputs, inputs.tokens, "text")
    return unit


def more_than_half(white: np.ndarray, rows: int, cols: int) -> np.ndarray:
    """[rows, cols] exact: every pixel of the mask cut into rows x cols pieces, counted by patch."""
    height, width = white.shape
    pieces = white.repeat(rows, axis=0).repeat(cols, axis=1).reshape(rows, height, cols, width)
    return pieces.sum(axis=(1, 3)) * 2 > height * width


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 5), (4, 3), (7, 4), (8, 6), (5, 64), (112, 84), (100, 333)])
def test_masks_of_any_size(size, encode, tmp_path):
    draw = np.random.default_rng(size[0])
    for chance in (0.4, 0.5, 0.7, 1.0):
        white = draw.random(size) < chance
        expected = more_than_half(white, 4, 3)
        if not expected.any():
            continue
        unit = masked(encode, tmp_path / "m.png", white)
        first = unit.positions[0] - int(np.flatnonzero(expected)[0])
        assert [position - first for position in unit.positions] == np.flatnonzero(expected).tolist()


def test_masks_over_grids_of_any_size(tmp_path):
    """Also where a half is a little more in floating point."""
    draw = np.random.default_rng(2)
    for _ in range(100):
        rows, cols, height, width = (int(number) for number in draw.integers(1, 30, 4))
        size = int(draw.integers(20, 400)), int(draw.integers(20, 400))
        box = (0.0, 0.0, float(size[0]), float(size[1]))
        places = Layout(rows * cols, size, rows, cols, box).places()
        tokens = [Token(at, 0, "", "image", 0, *place) for at, place in enumerate(places)]
        images = [{"grid": [rows, cols], "size": list(size)}]
        left = draw.random((height, width)) < 0.5
        white = np.stack([left, ~left], axis=2).reshape(height, 2 * width)  # so that many patches are half white
        expected = more_than_half(white, rows, cols).ravel()
        Image.fromarray(np.where(white, 255, 0).astype(np.uint8)).save(tmp_path / "m.png")
        inputs = ModelInputs({}, tokens, "", False, images)
        mask = RegionMask("", Visual(0), str(tmp_path / "m.png"))
        if expected.any():
            assert _region_mask("", mask, inputs) == tuple(np.flatnonzero(expected).tolist())
        else:
            with pytest.raises(UserError, match="covers no more than half"):
                _region_mask("", mask, inputs)


def test_half_is_not_more_than_half(encode, tmp_path):
    """A column of this grid is 28 pixels wide."""
    shown = picture(84, 112)
    first, _ = encode("qwen2_vl", "Why?", shown)[1].images[0]["positions"]
    for edge, cols in ((15, 1), (42, 1), (43, 2), (56, 2), (84, 3)):
        white = np.zeros((84, 112), bool)
        white[:, :edge] = True
        unit = masked(encode, tmp_path / "m.png", white, shown=shown)
        assert unit.positions == tuple(first + 4 * row + col for row in range(3) for col in range(cols)), edge


def test_masks_where_the_grid_covers_the_middle(encode, tmp_path):
    """LLaVA's is cut to a square: what a mask has beside it counts for nothing."""
    shown = picture(56, 112)
    inputs = encode("llava", "Why?", shown)[1]
    first = inputs.images[0]["positions"][0]
    white = np.zeros((56, 112), bool)
    white[:28, :56] = True
    unit = masked(encode, tmp_path / "m.png", white, "llava", shown)
    expected = [token.position for token in inputs.tokens if token.box and token.box[2] <= 56 and token.box[3] <= 28]
    assert unit.positions == tuple(expected) == (first, first + 1, first + 4, first + 5)
    white[:] = False
    white[:, :28] = True
    with pytest.raises(UserError, match="covers no more than half of any patch"):
        masked(encode, tmp_path / "m.png", white, "llava", shown)


def test_masks_of_other_kinds(encode, tmp_path):
    """Grey above 127 is white; palettes, bits and 16 bits are as they look; rotated as a viewer shows it."""
    tokenizer, inputs = encode("qwen2_vl", "Why?", picture(112, 84))
    first = inputs.images[0]["positions"][0]
    grey = np.array([[127, 128, 0]], np.uint8)  # columns
    column = tuple(first + 3 * row + 1 for row in range(4))
    image = Image.fromarray(grey)
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    kinds = {
        "grey.png": (image, {}),
        "rgb.png": (image.convert("RGB"), {}),
        "palette.png": (image.convert("P"), {}),
        "bits.png": (image.point(lambda value: 255 * (value > 127)).convert("1"), {}),
        "deep.png": (Image.fromarray(grey.astype(np.uint16) * 257), {}),
        "turned.png": (Image.fromarray(grey[:, ::-1]), {"exif": exif}),
    }
    for name, (drawn, settings) in kinds.items():
        drawn.save(tmp_path / name, **settings)
        chosen = Chosen.of(region_masks=f"{name.split('.')[0]}={tmp_path / name}")
        assert units(chosen, tokenizer, inputs, inputs.tokens, "text") == [Unit(name.split(".")[0], column)], name


def test_mask_of_another_picture(encode, tmp_path):
    path = tmp_path / "m.png"
    Image.new("L", (3, 3), 255).save(path)
    tokenizer, inputs = encode("qwen2_vl", "Why?", picture(112, 84), picture(56, 112, seed=1))
    (unit,) = units(Chosen.of(region_masks=f"1:{path}"), tokenizer, inputs, inputs.tokens, "text")
    assert unit.label == f"1:{path}"
    assert unit.positions == tuple(token.position for token in inputs.tokens if token.image == 1)


def test_masks_that_mask_nothing(encode, tmp_path):
    path = tmp_path / "m.png"
    tokenizer, inputs = encode("qwen2_vl", "Why?", picture(112, 84))
    dot = Image.new("L", (400, 300), 0)
    dot.putpixel((3, 3), 255)
    for drawn, message in (
        (Image.new("L", (9, 9), 127), "is black all over; paint white what is to be masked"),
        (dot, "covers no more than half of any patch of picture 0 (4 x 3 grid); paint more of it white"),
        (
            Image.new("RGBA", (9, 9), (255, 255, 255, 10)),
            "has transparent parts; save it without transparency, white where to mask, else black",
        ),
    ):
        drawn.save(path)
        with pytest.raises(UserError) as error:
            units(Chosen.of(region_masks=str(path)), tokenizer, inputs, inputs.tokens, "text")
        assert str(error.value) == f"`region_masks` {str(path)!r} {message}"
