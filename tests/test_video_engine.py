"""Prompts with videos against brute force, and what must be true of their tokens, sets and regions."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from agreement import singles, worst_error
from asking import asked
from float64 import true_float64
from PIL import Image
from test_vl_engine import longer, row, some, tensors
from transformers import GenerationConfig
from vl_families import make_vl_checkpoint, picture

from mask_impact.errors import UserError
from mask_impact.impact.record import record_generation
from mask_impact.model.find import find_model
from mask_impact.model.load import load_model
from mask_impact.model.processors import load_processor
from mask_impact.options import MASK_MODES
from mask_impact.prompt.clips import Sampling, open_clips
from mask_impact.prompt.inputs import ModelInputs
from mask_impact.prompt.positions import in_text
from mask_impact.prompt.sets import Sets
from mask_impact.prompt.unit_syntax import Chosen
from mask_impact.prompt.units import units
from mask_impact.prompt.video_part import video_part
from mask_impact.prompt.vision import open_pictures, vision_inputs

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")
STEPS = 2


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("video-models")

    @cache
    def loaded(name: str) -> tuple[Any, Any]:
        source = find_model(str(make_vl_checkpoint(name, root / name)), vision=True)
        source.text_config._experts_implementation = "eager"  # the grouped matrix product has no float64
        model = load_model(source, torch.device("cpu"), torch.float32)
        if hasattr(model, "set_experts_implementation"):
            model.set_experts_implementation("eager")
        return model.to(torch.float64), load_processor(source)

    return loaded


def gif(path: Path, pictures: list[Image.Image]) -> Path:
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=250)
    return path


@pytest.fixture
def inputs_of(load: Any, tmp_path: Path) -> Any:
    """inputs_of(family, prompt, [frames of a video, ...], pictures) -> ModelInputs"""

    def call(name: str, prompt: str, videos: list[list[Image.Image]], *pictures: Image.Image) -> ModelInputs:
        model, processor = load(name)
        paths = [gif(tmp_path / f"{at}.gif", frames) for at, frames in enumerate(videos)]
        clips = open_clips(paths, video_part(processor, model.config), Sampling())
        return vision_inputs(processor, model.config, prompt, open_pictures(list(pictures)), clips=clips)

    return call


def clip(count: int, height: int = 56, width: int = 84, seed: int = 0) -> list[Image.Image]:
    return [picture(height, width, seed=seed + at) for at in range(count)]


@pytest.mark.parametrize("name", FAMILIES)
def test_equals_brute_force(name: str, load: Any, inputs_of: Any) -> None:
    """Every layer and variant, text and video tokens, at two generation steps, each against a fresh run."""
    model, _ = load(name)
    inputs = inputs_of(name, "Is <video> like <image>?", [clip(6)], picture(56, 56, seed=9))
    given = tensors(inputs, torch.float64)
    videos = [token.position for token in inputs.tokens if token.video is not None]
    with true_float64():
        recording = record_generation(model, given, STEPS, [])
        for step in range(STEPS):
            query = len(inputs.tokens) - 1 + step
            masks = [*some(singles(query), 16), *[(at,) for at in videos[::3]], tuple(videos)]
            error, where = worst_error(
                row(name), model, longer(name, given, recording.tokens[:step]), recording, query, masks,
                relative=1e-9, rounding=3e-14,
            )  # fmt: skip
            assert error < 1, f"step {step}: {error:.3g} times the allowed error at {where}"


@pytest.mark.parametrize("name", FAMILIES)
def test_the_answer_is_that_of_generate(name: str, load: Any, inputs_of: Any) -> None:
    model, _ = load(name)
    inputs = inputs_of(name, "What?", [clip(5)])
    given = tensors(inputs, torch.float64)
    settings = GenerationConfig(max_new_tokens=3, do_sample=False)
    answer = model.generate(**given, generation_config=settings)[0, len(inputs.tokens) :].tolist()
    with true_float64():
        assert record_generation(model, given, 3, []).tokens == answer


@pytest.mark.parametrize("name", FAMILIES)
def test_a_cell_that_changes_in_one_frame_changes_its_token_most(name: str, load: Any, inputs_of: Any) -> None:
    """The box of a token, painted over in the frames of its temporal patch, moves this token's embedding most."""
    frames = clip(8, 112, 112)
    plain = inputs_of(name, "What?", [frames])
    before = embeddings(load(name)[0], plain)
    seen = [token for token in plain.tokens if token.video is not None]
    hits, painted = 0, seen[:: len(seen) // 8 + 1]
    for token in painted:
        left, top, right, bottom = (round(edge) for edge in token.box)
        changed = list(frames)
        for at in plain.images[token.image]["frames"]:
            pixels = np.array(frames[at])
            pixels[top:bottom, left:right] = 255 - pixels[top:bottom, left:right]
            changed[at] = Image.fromarray(pixels)
        moved = (embeddings(load(name)[0], inputs_of(name, "What?", [changed])) - before).norm(dim=-1)
        hits += seen[int(moved[[each.position for each in seen]].argmax())] == token
    assert hits >= 0.7 * len(painted), f"{hits} of {len(painted)}"


def embeddings(model: Any, inputs: ModelInputs) -> torch.Tensor:
    """[N, C] what goes into the first layer."""
    recording = record_generation(model, tensors(inputs, torch.float64), 1, [], range(len(inputs.tokens)).__contains__)
    return torch.stack([recording.layers[0].queries[at].hidden[0, 0] for at in range(len(inputs.tokens))])


def of(inputs: ModelInputs, **wanted: Any) -> tuple[int, ...]:
    """The positions of the tokens that have these values."""
    tokens = (each for each in inputs.tokens if all(getattr(each, key) == value for key, value in wanted.items()))
    return tuple(each.position for each in tokens)


@pytest.mark.parametrize("name", FAMILIES)
def test_sets_and_units(name: str, load: Any, inputs_of: Any) -> None:
    tokenizer = load(name)[1].tokenizer
    inputs = inputs_of(name, "<video> or <image> or <video>?", [clip(4), clip(6, 84, 56, 20)], picture(56, 84, 7))
    video_id, image_id = (load(name)[0].config.to_dict()[f"{kind}_token_id"] for kind in ("video", "image"))
    sets = Sets(tokenizer, inputs, in_text(len(inputs.tokens), 1), {})
    expected = {
        "video": of(inputs, id=video_id), "image": of(inputs, id=image_id), "image:0": of(inputs, id=image_id),
        "video:0": of(inputs, video=0), "video:1": of(inputs, video=1), "frame:1": of(inputs, video=0, frame=1),
        "frame:1:0": of(inputs, video=1, frame=0),
    }  # fmt: skip
    for text, positions in expected.items():
        assert sets.named("it", text).fixed == positions and positions, text
        if text not in ("video", "image"):
            (unit,) = units(Chosen.of(spans=[text]), tokenizer, inputs, inputs.tokens, "text")
            assert (unit.label, unit.positions) == (text, positions)
    assert set(expected["video:0"]) | set(expected["video:1"]) == set(expected["video"])
    regions = {
        "0,0,0,1": of(inputs, image=0, row=0, col=0) + of(inputs, image=0, row=0, col=1),
        "video:1:1,1,1,1": of(inputs, video=1, row=1, col=1),
        "frame:1:0,0,0,0": of(inputs, video=0, frame=1, row=0, col=0),
        "frame:1:0:1,0,1,0": of(inputs, video=1, frame=0, row=1, col=0),
    }
    for text, positions in regions.items():
        (unit,) = units(Chosen.of(regions=[text]), tokenizer, inputs, inputs.tokens, "text")
        assert unit.positions == positions and positions, text
    seen = set(expected["video"]) | set(expected["image"])
    for mode, wanted in zip(MASK_MODES, (set(range(len(inputs.tokens))) - seen, seen), strict=False):
        found = units(Chosen(), tokenizer, inputs, inputs.tokens, mode)
        assert {unit.positions[0] for unit in found} == wanted


def test_without_pictures_a_regions_number_is_a_videos(inputs_of: Any, load: Any) -> None:
    inputs = inputs_of("qwen2_vl", "What?", [clip(4), clip(4, seed=9)])
    tokenizer = load("qwen2_vl")[1].tokenizer
    for text, video in (("0,0,0,0", 0), ("1:0,0,0,0", 1)):
        (unit,) = units(Chosen.of(regions=[text]), tokenizer, inputs, inputs.tokens, "text")
        assert unit.positions == of(inputs, video=video, row=0, col=0) and len(unit.positions) == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"spans": ["image:0"]}, "needs an image, but none was given; add `images`"),
        ({"spans": ["video:1"]}, "there is no video 1; only video 0 is there"),
        ({"spans": ["frame:2"]}, "there is no frame 2; frames 0 to 1 are there"),
        ({"spans": ["frame:1:0"]}, "there is no video 1"),
        ({"regions": ["video:0:0,0,9,9"]}, "goes beyond the 2 x 3 grid of video 0"),
    ],
)
def test_what_is_not_there(given: Any, message: str, inputs_of: Any, load: Any) -> None:
    inputs = inputs_of("qwen2_vl", "What?", [clip(4)])
    with pytest.raises(UserError, match=message):
        units(Chosen.of(**given), load("qwen2_vl")[1].tokenizer, inputs, inputs.tokens, "text")


def test_frames_have_the_times_that_the_model_is_told(inputs_of: Any, load: Any) -> None:
    """Qwen3-VL writes them before every temporal patch."""
    inputs = inputs_of("qwen3_vl", "What?", [clip(13)])
    said = "".join(token.text for token in inputs.tokens)
    for described in inputs.images:
        assert f"<{np.mean(described['seconds']):.1f} seconds>" in said
        assert [at / 4 for at in described["frames"]] == described["seconds"]  # 250 ms each
    assert len(inputs.images) > 2
    told = inputs.videos[0]
    assert told["frames"] == 13 and told["fps"] == 4 and told["sampled"][0] == 0 and told["sampled"][-1] == 12
    assert any("of 13 frames are taken" in note for note in inputs.notes)


def test_whole_run_has_frames_in_its_manifest(inputs_of: Any, load: Any) -> None:
    from mask_impact.impact.run import run

    model, processor = load("qwen2_5_vl")
    inputs = inputs_of("qwen2_5_vl", "What?", [clip(4)], picture(56, 56))
    found = run(model, asked(model, processor.tokenizer, inputs, mask_mode="vision"), lambda block: None).manifest
    seen = [token for token in found["tokens"] if "video" in token]
    assert [token["position"] for token in seen] == list(of(inputs, video=0))
    assert seen[0]["frame"] == 0 and seen[-1]["seconds"] == (0.5, 0.75)
    assert not {"video", "frame", "seconds"} & {*found["tokens"][0]}
    assert found["videos"] == inputs.videos and [each.get("frame") for each in found["images"]] == [None, 0, 1]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_prompt_that_is_in_the_template_already(name: str, inputs_of: Any) -> None:
    """With a mark, without one, and with the model's own token: the ids of the plain prompt."""
    own = "<|vision_start|><|video_pad|><|vision_end|>"
    expected = inputs_of(name, "<video>Why?", [clip(4)]).tensors["input_ids"].tolist()
    for said in ("<video>Why?", "Why?", f"{own}Why?"):
        prompt = f"<|im_start|>user\n{said}<|im_end|>\n<|im_start|>assistant\n"
        inputs = inputs_of(name, prompt, [clip(4)])
        assert inputs.tensors["input_ids"].tolist() == expected, said
        assert "already" in inputs.notes[0]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_question_is_without_what_stands_around_frames(name: str, load: Any, inputs_of: Any) -> None:
    """Qwen3-VL's times are of the template, as its start and end tokens are."""
    inputs = inputs_of(name, "Is <video> red?", [clip(6)])
    sets = Sets(load(name)[1].tokenizer, inputs, in_text(len(inputs.tokens), 1), {})
    question, template = (sets.named("it", which).fixed for which in ("question", "template"))
    assert "".join(inputs.tokens[at].text for at in question).replace(" ", "") == "Isred?"
    seen = [token.position for token in inputs.tokens if token.video is not None]
    assert sorted([*question, *template, *seen]) == [token.position for token in inputs.tokens]
    assert ("seconds" in "".join(inputs.tokens[at].text for at in template)) == name.startswith("qwen3")


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
def test_bidirectional_is_within_a_frame(name: str, load: Any, inputs_of: Any) -> None:
    inputs = inputs_of(name, "What?", [clip(6)])
    ranges = inputs.image_ranges()
    expected = [of(inputs, frame=frame) for frame in range(len(inputs.images))]
    assert [tuple(range(*ends)) for ends in ranges] == expected and len(expected) > 1
