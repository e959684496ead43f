"""From prompt and pictures to tokens with a place, with every family's own processor, and without a model's weights.

That a box is the right one is shown by painting it over, in test_vl_engine.py.
"""

from __future__ import annotations

import json
import shutil
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import checkpoints
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, ProcessorMixin
from transformers.utils import is_torchvision_available
from vl_families import VL_FAMILIES, available, make_vl_checkpoint, picture

from mask_impact.errors import UserError
from mask_impact.model import find
from mask_impact.model.processors import LeftOut, _Nothing, _pictures_only, load_processor
from mask_impact.prompt import vision
from mask_impact.prompt.grids import Encoded, Layout, layout, side
from mask_impact.prompt.inputs import ModelInputs
from mask_impact.prompt.vision import (
    image_token_id,
    open_pictures,
    tokens_per_picture,
    vision_inputs,
    within,
)
from mask_impact.prompt.wording import in_template, message, own_tokens

WITH_TEMPLATE = [name for name in available() if VL_FAMILIES[name].chat_template]
QWEN = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe"]
PICTURE = {"type": "image"}
no_torchvision = pytest.mark.skipif(is_torchvision_available(), reason="shows what happens without torchvision")


def words(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("vision")
    return cache(lambda name: find.find_model(str(make_vl_checkpoint(name, root / name)), vision=True))


@pytest.fixture(scope="session")
def processor(source: Any) -> Any:
    return cache(lambda name: load_processor(source(name)))


@pytest.fixture
def encode(source: Any, processor: Any) -> Any:
    """encode(family, prompt, picture, ...) -> ModelInputs"""

    def call(name: str, prompt: str, *pictures: Image.Image, **settings: Any) -> ModelInputs:
        opened = open_pictures(list(pictures))
        return vision_inputs(processor(name), source(name).config, prompt, opened, **settings)

    return call


def ids_of(inputs: ModelInputs) -> list[int]:
    return inputs.tensors["input_ids"][0].tolist()


# --- the message ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("prompt", "count", "parts"),
    [
        ("What?", 0, [words("What?")]),
        ("What?", 2, [PICTURE, PICTURE, words("What?")]),
        ("What is <image>", 1, [words("What is "), PICTURE]),
        ("<image> Why?", 1, [PICTURE, words(" Why?")]),
        ("Is <image> like <image>?", 2, [words("Is "), PICTURE, words(" like "), PICTURE, words("?")]),
        ("<image><image>x", 2, [PICTURE, PICTURE, words("x")]),
    ],
)
def test_pictures_stand_at_their_markers_or_first(prompt, count, parts):
    assert message(prompt, {"image": count}, ()) == parts


@pytest.mark.parametrize(("prompt", "count"), [("a <image>", 0), ("a <image>", 2), ("<image> a <image>", 1)])
def test_other_numbers_of_markers(prompt, count):
    with pytest.raises(UserError, match=f"given is {count}; write one <image> for every image"):
        message(prompt, {"image": count}, ())


def test_prompt_with_what_stands_for_a_picture():
    """For the processor, or for the model: in Gemma 3 and Aya these are two tokens."""
    for prompt in ("see <start>", "see <soft>", "<image><start>", "<image><soft>"):
        with pytest.raises(UserError, match=r"the model's own token <(start|soft)>; write <image>"):
            message(prompt, {"image": 1}, own_tokens(SimpleNamespace(image_token="<start>"), "<soft>"))
    assert message("a <image>", {"image": 1}, ("<image>", "<image>")) == [words("a "), PICTURE]


@pytest.mark.parametrize("name", available())
def test_every_family_refuses_its_own_image_token_in_a_prompt(name, source, processor, encode):
    token_id = image_token_id(processor(name), source(name).config)
    own = processor(name).tokenizer.convert_ids_to_tokens(token_id)
    with pytest.raises(UserError, match=r"own token|one <image> for every image"):  # for some it is <image>
        encode(name, f"see <image> {own}", picture(64, 64))


def test_rendered_without_a_template():
    plain = SimpleNamespace(chat_template=None, tokenizer=SimpleNamespace(chat_template=None), image_token="<pic>")
    assert in_template(plain, [words("Is "), PICTURE, words(" it?")]) == "Is <pic> it?"


@pytest.mark.parametrize("place", ["processor", "tokenizer"])
def test_rendered_with_a_template(source, monkeypatch, place):
    """The processor's is taken before the tokenizer's; some checkpoints have only this one."""
    fresh = load_processor(source("llava"))
    parts = "{% for part in messages[0]['content'] %}{{ part['type'] }} {{ part['text'] }}{% endfor %}"
    template = parts + " {{ add_generation_prompt }}"
    monkeypatch.setattr(fresh, "chat_template", template if place == "processor" else None)
    monkeypatch.setattr(fresh.tokenizer, "chat_template", template if place == "tokenizer" else "wrong")
    assert in_template(fresh, [PICTURE, words("Why?")]) == "image text Why? True"


# --- ids --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", WITH_TEMPLATE)
@pytest.mark.parametrize("count", [1, 2])
def test_ids_and_pixels_are_those_of_the_processors_own_chat(name, count, processor, encode):
    """As its model card calls it: with everything in one call, and so with one beginning of text."""
    pictures = [picture(84, 112), picture(112, 56, seed=1)][:count]
    inputs = encode(name, "Why?", *pictures)
    content = [{"type": "image", "image": each} for each in pictures] + [words("Why?")]
    theirs = processor(name).apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True,
        return_tensors="pt",
    )  # fmt: skip
    assert ids_of(inputs) == theirs["input_ids"][0].tolist()
    assert inputs.tensors.keys() == theirs.keys()
    for key, found in theirs.items():
        assert torch.equal(inputs.tensors[key], found), key


@pytest.mark.parametrize("name", available())
def test_one_beginning_of_text(name, processor, encode):
    bos = processor(name).tokenizer.bos_token_id
    for pictures in ([], [picture(84, 112)])[name in ("paligemma", "got_ocr2") :]:
        assert ids_of(encode(name, "Why?", *pictures)).count(bos) == (VL_FAMILIES[name].bos is not None)


def test_paligemma_without_a_template(processor, encode):
    shown = picture(84, 112)
    theirs = processor("paligemma")(text=["<image>Why?"], images=[shown], return_tensors="pt")
    assert ids_of(encode("paligemma", "Why?", shown)) == theirs["input_ids"][0].tolist()


def test_paligemma_takes_no_text_alone(encode):
    with pytest.raises(UserError, match=r"cannot take this prompt alone \(.*images.*\); give other images"):
        encode("paligemma", "Why?")


@pytest.mark.parametrize("name", ["qwen2_vl", "gemma3", "llava", "smolvlm", "internvl"])
def test_prompt_without_pictures(name, encode):
    inputs = encode(name, "Why?")
    assert inputs.images == [] and "pixel_values" not in inputs.tensors
    assert "Why?" in "".join(found.text for found in inputs.tokens)


def test_labels_are_not_passed_on(source, processor, monkeypatch):
    original = vision.encoded
    monkeypatch.setattr(
        vision, "encoded", lambda *args: (made := dict(original(*args))) | {"labels": made["input_ids"], "name": "x"}
    )
    shown = open_pictures(picture(56, 56))
    inputs = vision_inputs(processor("paligemma"), source("paligemma").config, "Why?", shown)
    assert {"input_ids", "pixel_values"} <= inputs.tensors.keys()
    assert not {"labels", "name"} & inputs.tensors.keys()


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen3_vl", "gemma3", "llava", "internvl", "paligemma", "mistral3"])
def test_rows_are_never_taken_for_colours(name, encode):
    """A picture of one colour, 3 or 1 pixels high, must give the values of that colour, whatever its height."""
    expected, low, one = (
        np.unique(encode(name, "Why?", Image.new("RGB", (30, height), (250, 120, 10))).tensors["pixel_values"].numpy())
        for height in (30, 3, 1)
    )
    assert len(expected) == 3
    np.testing.assert_allclose(low, expected, atol=1e-6)
    np.testing.assert_allclose(one, expected, atol=1e-6)


# --- which tokens are of which picture --------------------------------------------------------------------
@pytest.mark.parametrize("name", available())
def test_tokens_of_several_pictures(name, source, processor, encode):
    """Of different sizes: blocks in order, with the words between them that stand there."""
    sizes = [(200, 60), (30, 200), (64, 64)]
    if VL_FAMILIES[name].chat_template is None:  # PaliGemma puts all pictures first
        prompt, between = "left right?", ["", ""]
    else:
        prompt, between = "<image>left<image>right<image>?", ["left", "right"]
    inputs = encode(name, prompt, *(picture(*size, seed=seed) for seed, size in enumerate(sizes)))
    image_id = image_token_id(processor(name), source(name).config)
    expected = [position for position, found in enumerate(ids_of(inputs)) if found == image_id]
    assert [found.position for found in inputs.tokens if found.kind == "image"] == expected
    images = [found.image for found in inputs.tokens if found.kind == "image"]
    assert images == sorted(images) and set(images) == {0, 1, 2}
    spans = inputs.image_ranges()
    for index, described in enumerate(inputs.images):
        assert described["positions"] == [spans[index][0], spans[index][1] - 1]
        assert described["tokens"] == images.count(index)
        assert described["size"] == [sizes[index][1], sizes[index][0]]
        inside = "".join(found.text for found in inputs.tokens[slice(*spans[index])])
        assert "left" not in inside and "right" not in inside
    for word, (_, last), (first, _) in zip(between, spans, spans[1:], strict=False):
        assert word in "".join(found.text for found in inputs.tokens[last:first])


@pytest.mark.parametrize("name", ["qwen2_vl", "llava_next", "smolvlm", "internvl"])
def test_a_picture_has_as_many_tokens_beside_another(name, encode):
    """As alone."""
    pictures = [picture(200, 60), picture(84, 112, seed=1)]
    together = [described["tokens"] for described in encode(name, "Why?", *pictures).images]
    alone = [encode(name, "Why?", each).images[0]["tokens"] for each in pictures]
    assert together == alone and alone[0] != alone[1]


def test_llava_onevision_tiles_only_a_single_picture(encode):
    """As in its training; 4 x 4 patches and a newline are what is left of each of two."""
    pictures = [picture(200, 60), picture(84, 112, seed=1)]
    assert [described["tokens"] for described in encode("llava_onevision", "Why?", *pictures).images] == [17, 17]
    assert [encode("llava_onevision", "Why?", each).images[0]["tokens"] for each in pictures] == [40, 70]


def test_parts_that_are_not_the_whole(source, processor):
    one = processor("qwen2_vl")
    pictures = open_pictures([picture(84, 112), picture(56, 56)])
    image_id = image_token_id(one, source("qwen2_vl").config)
    assert tokens_per_picture(one, 16, pictures, None, image_id) == [12, 4]
    with pytest.raises(UserError, match=r"17 image tokens of 2 images, but 12 \+ 4 .* one image at a time"):
        tokens_per_picture(one, 17, pictures, None, image_id)


@pytest.mark.parametrize(
    ("config", "own", "found"),
    [
        ({"image_token_id": 7, "image_token_index": 8}, {"image_token_id": 9}, 7),
        ({"image_token_index": 8}, {"image_token_id": 9}, 8),
        ({}, {"image_token_id": 9}, 9),
        ({"image_token_id": None}, {"image_token_id": 9}, 9),
    ],
)
def test_image_token_id(config, own, found):
    assert image_token_id(SimpleNamespace(**own), SimpleNamespace(**config)) == found


def test_no_image_token_id():
    with pytest.raises(UserError, match=r"family 'klingon' .*image_token_id.*complete the checkpoint's config"):
        image_token_id(SimpleNamespace(), SimpleNamespace(model_type="klingon"))


# --- at most so many pixels -------------------------------------------------------------------------------
def told(least: int, most: int, image: Image.Image, max_pixels: int, **more: Any) -> tuple[Image.Image, Any]:
    """What `within` gives for one image and an image processor with these bounds."""
    settings = {"size": {"shortest_edge": least, "longest_edge": most}} | more
    (shown,), options = within(SimpleNamespace(image_processor=SimpleNamespace(**settings)), [image], max_pixels)
    return shown, options


def test_processors_that_count_pixels_are_told():
    """The maximum is never raised, and the minimum falls where pictures enlarged to it would be too large."""
    image, patches = picture(100, 100), {"patch_size": 14, "merge_size": 2}
    for max_pixels, least, most in ((20_000, 3136, 12_544), (8_000, 3136, 8_000), (7_000, 1, 7_000), (9, 1, 9)):
        shown, options = told(3136, 12_544, image, max_pixels, **patches)
        assert shown is image
        assert options == {"size": {"shortest_edge": least, "longest_edge": most}}, max_pixels


def test_for_others_the_picture_is_shrunk():
    """Also where the two edges are sides, not pixels, as in Idefics 2."""
    shown, options = told(378, 980, picture(100, 200), 5000)
    assert (shown.size, options) == ((100, 50), {})
    image = picture(100, 200)
    assert told(378, 980, image, 20_000)[0] is image
    assert told(378, 980, picture(1, 900), 10)[0].size == (94, 1)  # no side is 0


@pytest.mark.parametrize("name", [*QWEN, "glm4v"])
@pytest.mark.parametrize("size", [(300, 200), (60, 60), (40, 90)])
@pytest.mark.parametrize("most", [3600, 6500, 10_000])
def test_the_vision_tower_sees_no_more_pixels(name, size, most, encode):
    (described,) = encode(name, "Why?", picture(*size), max_pixels=most).images
    width, height = described["resized"]
    assert width * height <= most, described["layout"]
    assert described["region"] == [0, 0, size[1], size[0]]


# --- places -----------------------------------------------------------------------------------------------
def test_places_of_a_grid():
    places = list(Layout(6, (30, 20), 2, 3, (0.0, 0.0, 30.0, 20.0)).places())
    assert places == [
        (0, 0, (0, 0, 10, 10)), (0, 1, (10, 0, 20, 10)), (0, 2, (20, 0, 30, 10)),
        (1, 0, (0, 10, 10, 20)), (1, 1, (10, 10, 20, 20)), (1, 2, (20, 10, 30, 20)),
    ]  # fmt: skip


def test_places_without_a_grid():
    none = Layout(3, (30, 20))
    assert list(none.places()) == [(None, None, None)] * 3 and str(none) == "3 tokens, no simple grid"


def llava_encoded(size: tuple[int, int], **settings: Any) -> Encoded:
    config = SimpleNamespace(model_type="llava", vision_config=SimpleNamespace(patch_size=14))
    own = SimpleNamespace(image_processor=SimpleNamespace(size={"shortest_edge": 56}, **settings))
    return Encoded(config, own, {"pixel_values": torch.zeros(1, 3, 56, 56)}, 0, 16, size)


def test_padding_is_no_part_of_the_picture():
    """LlavaImageProcessor makes 100 x 60 a square of 100, with 20 rows of padding above and below."""
    found = layout(llava_encoded((100, 60), do_pad=True))
    assert (found.rows, found.cols, found.region) == (4, 4, (0, -20, 100, 80))
    boxes = [[box for row, _, box in found.places() if row == wanted] for wanted in range(4)]
    assert boxes[0] == [(left, 0, left + 25, 5) for left in (0, 25, 50, 75)]  # of -20 to 5
    assert boxes[1] == [(left, 5, left + 25, 30) for left in (0, 25, 50, 75)]
    assert boxes[3] == [(left, 55, left + 25, 60) for left in (0, 25, 50, 75)]
    outside = [box for row, _, box in layout(llava_encoded((200, 50), do_pad=True)).places() if row in (0, 3)]
    assert outside == [None] * 8
    places = list(layout(llava_encoded((50, 200), do_pad=True)).places())
    assert [(row, col) for row, col, box in places if box is None] == [(r, c) for r in range(4) for c in (0, 3)]


@pytest.mark.parametrize(("size", "region"), [((60, 120), (30, 0, 90, 60)), ((120, 60), (0, 30, 60, 90))])
def test_centre_crop_covers_the_middle_square(size, region, encode):
    """Height x width; CLIP's processor shortens the short side and cuts the long one."""
    inputs = encode("llava", "Why?", picture(*size))
    assert inputs.images[0]["region"] == list(region)
    boxes = [found.box for found in inputs.tokens if found.kind == "image"]
    assert boxes[0][:2] == region[:2] and boxes[-1][2:] == region[2:]
    assert all(box[2] - box[0] == box[3] - box[1] == 15 for box in boxes) and len(set(boxes)) == 16


NOT_KNOWN = "how the tokens of model family '{}' are arranged is not known"


def test_unknown_family_has_no_grid():
    unknown = Encoded(SimpleNamespace(model_type="klingon"), SimpleNamespace(), {}, 0, 16, (56, 56))
    assert layout(unknown) == Layout(16, (56, 56), instead=NOT_KNOWN.format("klingon"))


def test_grid_of_another_number_of_tokens_is_none():
    """Rather no place than a wrong one: 17 tokens do not lie in 4 x 4."""
    wrong = llava_encoded((56, 56))
    assert layout(wrong).rows == 4
    assert layout(Encoded(wrong.config, wrong.processor, wrong.outputs, 0, 17, (56, 56))) == Layout(
        17, (56, 56), instead=NOT_KNOWN.format("llava")
    )


# --- processors -------------------------------------------------------------------------------------------
PATCHED = ("_get_arguments_from_pretrained", "check_argument_for_proper_class")


@no_torchvision
@pytest.mark.parametrize("name", [*QWEN, "llava_onevision", "smolvlm", "internvl", "glm4v"])
def test_videos_are_refused(name, processor):
    own = processor(name)
    assert isinstance(own.video_processor, LeftOut)
    with pytest.raises(ImportError, match=r"video_processor was left out: .* torchvision"):
        own.video_processor([[picture(56, 56)] * 2])


@no_torchvision
def test_processor_mixin_is_put_back(source):
    before = {name: ProcessorMixin.__dict__[name] for name in PATCHED}
    with pytest.raises(ValueError, match="inside"), _pictures_only():
        assert all(ProcessorMixin.__dict__[name] is not before[name] for name in PATCHED)
        raise ValueError("inside")
    assert {name: ProcessorMixin.__dict__[name] for name in PATCHED} == before
    for name in ("qwen2_vl", "smolvlm", "mistral3"):
        load_processor(source(name))
    assert {name: ProcessorMixin.__dict__[name] for name in PATCHED} == before
    assert not [name for name, module in list(sys.modules.items()) if isinstance(module, _Nothing)]


def test_processor_mixin_is_put_back_after_a_checkpoint_that_cannot_be_read(source, tmp_path):
    before = {name: ProcessorMixin.__dict__[name] for name in PATCHED}
    folder = Path(shutil.copytree(source("qwen2_vl").path, tmp_path / "broken"))
    (folder / "preprocessor_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_processor(find.find_model(str(folder), vision=True))
    assert {name: ProcessorMixin.__dict__[name] for name in PATCHED} == before


@pytest.mark.parametrize("name", available())
def test_missing_image_processor_settings(name, source, tmp_path):
    """transformers 4 would take a default, of another size."""
    ignore = shutil.ignore_patterns("preprocessor_config.json")
    folder = shutil.copytree(source(name).path, tmp_path / "model", ignore=ignore)
    with pytest.raises(UserError, match=r"has no image processor settings \(preprocessor_config.json\); add the file"):
        load_processor(find.find_model(str(folder), vision=True))


def test_text_checkpoint_with_image_processor_settings(source, tmp_path):
    """AutoProcessor's choice may be no processor at all."""
    folder = checkpoints.qwen3(tmp_path / "text")
    (folder / "preprocessor_config.json").write_text("{}", encoding="utf-8")
    config = source("qwen2_vl").config
    with pytest.raises(UserError, match=r"no processor for images|cannot be loaded"):
        load_processor(find.Source(str(folder), str(folder), config, vision=True))


@pytest.mark.parametrize("name", ["gemma3", "llava", "idefics3", "paligemma"])
def test_same_as_auto_processor_where_that_needs_no_torchvision(name, source, processor):
    theirs = AutoProcessor.from_pretrained(source(name).path)
    assert type(theirs) is type(processor(name))
    given = {"text": [VL_FAMILIES[name].image_token + "Why?"], "images": [picture(84, 112)], "return_tensors": "pt"}
    own, other = processor(name)(**given), theirs(**given)
    assert own.keys() == other.keys() and "pixel_values" in own
    for key, found in other.items():
        assert torch.equal(own[key], found), key


@pytest.mark.parametrize("name", [*QWEN, "glm4v"])
def test_bounds_are_the_checkpoints(name, source, processor):
    """transformers 4 replaces Qwen3-VL's by Qwen2-VL's default."""
    written = json.loads((Path(source(name).path) / "preprocessor_config.json").read_text("utf-8"))
    expected = written.get("size") or {"shortest_edge": written["min_pixels"], "longest_edge": written["max_pixels"]}
    size = processor(name).image_processor.size
    assert {edge: side(size, edge) for edge in expected} == expected


def test_large_picture_has_as_many_tokens_as_the_checkpoint_allows(encode):
    """16 of 32 x 32 pixels in the tiny Qwen3-VL."""
    (described,) = encode("qwen3_vl", "Why?", picture(400, 600)).images
    assert (described["grid"], described["resized"]) == ([3, 4], [128, 96])
