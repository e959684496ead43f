"""The bundled vision-language demo model: scenes drawn to the pixel, training code that equals the slow way, and
right answers on scenes it was not trained on."""

import json
import random
from collections import Counter
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from evaluate_text import Score
from evaluate_vl import FOLDER, accuracy, answers, load
from PIL import Image
from scenes import (
    COLORS,
    LITTLE,
    NOTHING,
    SHAPES,
    SIZES,
    TEST_IMAGE,
    TEST_SCENE,
    Scene,
    all_questions,
    draw,
    held_out_scenes,
    inside,
    is_held_out,
    make_scene,
    squares,
    training_questions,
    training_scenes,
)
from train_vl import (
    CHAT_TEMPLATE,
    VIDEO_PROCESSOR_CONFIG,
    answer_logits,
    encode,
    look,
    make_model,
    make_vl_tokenizer,
    to_patches,
    training_loss,
)

CARD = (FOLDER / "README.md").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@cache
def trained() -> tuple[Any, Any]:
    return load(FOLDER)


@cache
def untrained() -> tuple[Any, Any]:
    """A new model and tokenizer as training starts with."""
    torch.manual_seed(1)
    tokenizer = make_vl_tokenizer()
    return make_model(tokenizer), tokenizer


def some_scenes() -> list[Scene]:
    rng = random.Random(3)
    return [make_scene(rng, 1 + i % 3, held_out=i % 2 == 0) for i in range(60)]


def covered(scene: Scene) -> list[np.ndarray]:
    """The pixels of each object, [height, width]."""
    y, x = np.mgrid[: scene.height, : scene.width]
    return [inside(o.shape, o.radius, x + 0.5 - o.x, y + 0.5 - o.y) > 0 for o in scene.objects]


def test_a_seed_decides_the_picture() -> None:
    pictures = [draw(make_scene(random.Random(seed), 2, held_out=False)).tobytes() for seed in (0, 0, 1)]
    assert pictures[0] == pictures[1] != pictures[2]


def test_objects_lie_in_the_picture_and_apart() -> None:
    for scene in some_scenes():
        assert [o.x for o in scene.objects] == sorted(o.x for o in scene.objects)
        for o in scene.objects:
            left, top, right, bottom = o.box
            assert left >= 0 and top >= 0 and right <= scene.width and bottom <= scene.height, f"{o} in {scene}"
        for one, two in combinations(covered(scene), 2):
            assert not (one & two).any(), f"objects overlap in {scene}"


def test_the_box_is_where_the_object_is_drawn() -> None:
    for scene in some_scenes():
        for o, pixels in zip(scene.objects, covered(scene), strict=True):
            rows, columns = np.nonzero(pixels)
            drawn = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
            assert drawn == pytest.approx(o.box, abs=1), f"{o} in {scene}"


def test_objects_have_their_color_and_the_background_has_none() -> None:
    """Each object's middle is nearer to its own color than to another; no background pixel is near to any."""
    colors = np.array([*COLORS.values()], dtype=float)
    for scene in some_scenes():
        pixels = np.asarray(draw(scene), dtype=float)
        for o in scene.objects:
            distances = np.linalg.norm(colors - pixels[o.y, o.x], axis=1)
            assert [*COLORS][distances.argmin()] == o.color
        empty = pixels[~np.any(covered(scene), axis=0)]
        assert np.median(empty.max(1) - empty.min(1)) < 50, f"the background is too colorful in {scene}"


def test_squares_name_the_object_shown() -> None:
    assert squares(TEST_SCENE, 32)[5] == 0, "the circle"
    for scene in some_scenes():
        shown = squares(scene, 32)
        assert len(shown) == scene.width * scene.height // 32**2
        assert set(range(len(scene.objects))) <= set(shown) <= {*range(len(scene.objects)), NOTHING, LITTLE}
        occupied = np.any(covered(scene), axis=0)
        for i, index in enumerate(shown):
            top, left = 32 * (i // (scene.width // 32)), 32 * (i % (scene.width // 32))
            assert index != NOTHING or not occupied[top : top + 32, left : left + 32].any()


def test_held_out_scenes_are_never_trained_on() -> None:
    rng = random.Random(0)
    seen = [scene for i in range(60) for scene in training_scenes(rng, 32, i / 60)]
    assert not any(map(is_held_out, seen))
    assert all(map(is_held_out, held_out_scenes(random.Random(2), 30)))
    objects = Counter((o.shape, o.color) for scene in seen for o in scene.objects)
    assert len(objects) == len(SHAPES) * len(COLORS), "every colored shape is trained, in other scenes"


def test_a_question_has_one_answer() -> None:
    for scene in some_scenes():
        for question in all_questions(scene):
            if question.asked is not None:
                o = scene.objects[question.asked]
                assert question.answer == (o.color if question.kind == "color" else o.shape)
                assert (o.shape if question.kind == "color" else o.color) in question.text


def test_the_bundled_picture_is_the_scene() -> None:
    assert is_held_out(TEST_SCENE)
    with Image.open(TEST_IMAGE) as image:
        assert image.mode == "RGB" and image.size == (128, 128)
        assert np.array_equal(np.asarray(image), np.asarray(draw(TEST_SCENE)))


@pytest.mark.parametrize("size", SIZES)
def test_training_patches_are_the_image_processors(size: tuple[int, int]) -> None:
    image = draw(make_scene(random.Random(4), 2, held_out=True, size=size))
    ours = to_patches([image])[0].reshape(-1, 3, 1, 16 * 16)
    theirs = trained()[1].image_processor([image], return_tensors="pt")
    width, height = size
    assert theirs["image_grid_thw"].tolist() == [[1, height // 16, width // 16]], "a training size is not resized"
    both_frames = theirs["pixel_values"].reshape(-1, 3, 2, 16 * 16)
    assert torch.allclose(ours.expand_as(both_frames), both_frames, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_questions_in_one_row_equal_one_sequence_each(size: tuple[int, int]) -> None:
    """The training's fast way against the model's own forward: all pictures at once, and all questions of one."""
    model, tokenizer = untrained()
    rng = random.Random(5)
    scenes = [make_scene(rng, n, held_out=False, size=size) for n in (1, 3)]
    questions = [training_questions(rng, scene) for scene in scenes]
    images = [draw(scene) for scene in scenes]
    seen = look(model, images)
    fast, target = answer_logits(model, tokenizer, seen, questions)
    slow, wanted = [], []
    for image, asked in zip(images, questions, strict=True):
        pixels = trained()[1].image_processor([image], return_tensors="pt")
        for question in asked:
            start, rest, given = encode(tokenizer, question, seen.tokens.shape[1])
            ids = torch.tensor([start + rest])
            kinds = (ids == model.config.image_token_id).int()
            slow.append(model(input_ids=ids, mm_token_type_ids=kinds, **pixels).logits[0, len(start) + given - 1 : -1])
            wanted += rest[given:]
    assert target.tolist() == wanted
    difference = (fast - torch.cat(slow)).abs()
    assert difference.max() < 1e-4, f"largest {difference.max():.1e}, mean {difference.mean():.1e}"


def test_two_training_steps() -> None:
    """The loss is finite and falls on repetition, and every weight that answers depend on gets a gradient."""
    torch.manual_seed(2)
    tokenizer = untrained()[1]
    model = make_model(tokenizer)
    head = torch.nn.Linear(model.config.text_config.hidden_size, len(SHAPES) + 1 + len(COLORS))
    optimizer = torch.optim.AdamW([*model.parameters(), *head.parameters()], lr=1e-3)
    losses = []
    for _ in range(2):
        loss = training_loss(model, tokenizer, head, random.Random(0), progress=0.9)
        optimizer.zero_grad()
        loss.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, f"no gradient for {name}"
        optimizer.step()
        losses.append(loss.item())
    assert all(map(np.isfinite, losses)) and losses[1] < losses[0], str(losses)


def test_the_first_steps_train_the_vision_tower_alone() -> None:
    model, tokenizer = untrained()
    model.zero_grad()
    head = torch.nn.Linear(model.config.text_config.hidden_size, len(SHAPES) + 1 + len(COLORS))
    training_loss(model, tokenizer, head, random.Random(0), progress=None).backward()
    trains = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trains == {n for n, _ in model.named_parameters() if ".visual." in n and "deepstack" not in n}
    model.zero_grad()


def test_chat_template() -> None:
    """Text alone, a picture and text, and several pictures; tokenizer and processor agree."""
    _, processor = trained()
    image, text = {"type": "image"}, {"type": "text", "text": "How many shapes?"}
    pad = "<|vision_start|><|image_pad|><|vision_end|>"
    for content, user in ((text["text"], ""), ([image, text], pad), ([image, image, text], pad + pad)):
        messages = [{"role": "user", "content": content}]
        wanted = f"<|im_start|>user\n{user}How many shapes?<|im_end|>\n<|im_start|>assistant\n"
        for side in (processor, processor.tokenizer):
            assert side.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == wanted


@pytest.mark.parametrize("size", [(640, 480), (20, 20), (300, 900)])
def test_any_picture_becomes_as_large_as_those_of_the_training(size: tuple[int, int]) -> None:
    grid = trained()[1].image_processor([Image.new("RGB", size)], return_tensors="pt")["image_grid_thw"]
    assert 32 <= int(grid.prod()) <= 96 and not (grid[:, 1:] % 2).any(), f"{grid.tolist()}"


def test_weights_are_small_and_as_the_card_says() -> None:
    weights = FOLDER / "model.safetensors"
    assert weights.stat().st_size <= 8_000_000
    assert f"{weights.stat().st_size:,} bytes" in CARD
    assert f"{trained()[0].num_parameters():,} parameters" in CARD


@cache
def scores(count: int, seed: int) -> dict[str, Score]:
    model, processor = trained()
    return {s.name: s for s in accuracy(model, processor, held_out_scenes(random.Random(seed), count))}


def test_answers_are_right() -> None:
    """On scenes kept out of training, word for word; the card has the figures for more scenes."""
    found = scores(60, 7)
    assert found["all"].share >= 0.93, str(found["all"])
    assert found["all, 1 object"].share >= 0.95, str(found["all, 1 object"])
    for objects in (2, 3):
        assert found[f"color, {objects} objects"].share >= 0.9, str(found[f"color, {objects} objects"])


def test_the_accuracy_is_not_a_property_of_the_test() -> None:
    model, _ = untrained()
    found = accuracy(model.eval(), trained()[1], held_out_scenes(random.Random(7), 6))
    assert max(score.share for score in found) < 0.3


def test_the_bundled_picture_is_answered_rightly() -> None:
    model, processor = trained()
    for question in all_questions(TEST_SCENE):
        assert answers(model, processor, [draw(TEST_SCENE)], [question.text]) == [question.answer], question.text


def test_short_answers_start_with_the_answer_word() -> None:
    """One token says it, so an experiment can look at the first one."""
    tokenizer = trained()[1].tokenizer
    words = [*COLORS, *SHAPES, "one", "two", "three"]
    assert [len(tokenizer(word)["input_ids"]) for word in words] == [1] * len(words)


def test_the_folder_has_what_the_script_writes_for_videos() -> None:
    said = json.loads((FOLDER / "video_preprocessor_config.json").read_text("utf-8"))
    assert said == VIDEO_PROCESSOR_CONFIG
    assert (FOLDER / "chat_template.jinja").read_text("utf-8") == CHAT_TEMPLATE
