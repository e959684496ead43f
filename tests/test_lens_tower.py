"""`latent_lens.py features --tower vision`: the states of patches are the real tower's, in the order of the picture.

The reference is the model with plain hooks on the tower's layers (brute_tower.py), transformers' own
`output_hidden_states`, and pictures with one patch painted over.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from brute_tower import LAYERS, layers_of, part, rows_of_tokens
from PIL import Image
from test_cli import Ended, refuses
from test_lens_features import index, run, summary  # noqa: F401
from test_vl_engine import Loaded, folders, load, tensors  # noqa: F401
from vl_families import available, picture

from mask_impact.errors import UnsupportedModel
from mask_impact.lens.boxes import boxes
from mask_impact.lens.feature_files import read_features
from mask_impact.lens.ready import ready
from mask_impact.lens.stacks import VisionEncoder

FAMILIES = [name for name in LAYERS if name in available()]
PROMPT = "What is on the left?"
REFUSED = {"minicpmv4_6": "do not all have the same patches", "got_ocr2": "a part of several image tokens"}
OTHERS = [name for name in available() if name not in FAMILIES and name not in REFUSED]


def hooked(loaded: Loaded, name: str, inputs: Any) -> list[torch.Tensor]:
    """[N, C] what each layer of the tower is given, and what the last one gives, in the tower's order."""
    found: list[torch.Tensor] = []
    layers = layers_of(name, loaded.model)
    keep = lambda state: found.append(state.flatten(0, -2).clone())  # noqa: E731
    handles = [
        layer.register_forward_pre_hook(lambda _, args, kwargs: keep(args[0] if args else kwargs["hidden_states"]),
                                        with_kwargs=True)
        for layer in layers
    ]  # fmt: skip
    handles.append(layers[-1].register_forward_hook(lambda _, __, out: keep(out[0] if isinstance(out, tuple) else out)))
    try:
        with torch.no_grad():
            loaded.model(**tensors(inputs, loaded.model.dtype), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return found


def as_they_lie(tokens: Sequence[Sequence[int]], grid: Sequence[int] | None) -> list[int]:
    """The tower's rows of a picture's patches, row by row of the picture; without a grid token by token."""
    if not grid:
        return [row for rows in tokens for row in rows]
    side = int(len(tokens[0]) ** 0.5)
    return [
        tokens[y // side * grid[1] + x // side][y % side * side + x % side]
        for y in range(grid[0] * side)
        for x in range(grid[1] * side)
    ]


@pytest.mark.parametrize("name", FAMILIES)
def test_states_are_those_of_the_real_tower(name: str, load: Any) -> None:  # noqa: F811
    loaded = load(name, torch.float64)
    shape = (84, 140) if name == "qwen2_5_vl" else (84, 112)  # 3 x 5 tokens are no multiple of windows of 2 x 2
    inputs = loaded.inputs(PROMPT, picture(*shape))
    image = ready(inputs)
    wanted = hooked(loaded, name, inputs)
    tokens = rows_of_tokens(name, loaded.model, tensors(inputs))
    order = as_they_lie(tokens, image.record["grid"])
    layers = range(len(wanted))
    found = VisionEncoder(loaded.model.config, "patch").states(loaded.model, [image], layers)
    means = VisionEncoder(loaded.model.config, "token").states(loaded.model, [image], layers)
    for layer, state in enumerate(wanted):
        torch.testing.assert_close(found[layer], state[order], rtol=1e-9, atol=0)
        torch.testing.assert_close(means[layer], state[torch.tensor(tokens)].mean(dim=1), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["llava", "paligemma"])
def test_states_are_the_hidden_states_of_transformers(name: str, load: Any) -> None:  # noqa: F811
    loaded = load(name, torch.float64)
    inputs = loaded.inputs(PROMPT, picture(84, 112))
    tower = part(loaded.model, "model.vision_tower")
    with torch.no_grad():
        wanted = tower(tensors(inputs, torch.float64)["pixel_values"], output_hidden_states=True).hidden_states
    stack = VisionEncoder(loaded.model.config, "patch")
    found = stack.states(loaded.model, [ready(inputs)], range(stack.blocks + 1))
    first = int(name == "llava")  # CLIP's CLS
    for layer, state in enumerate(wanted[:-1]):  # the last of transformers may come after the last norm
        torch.testing.assert_close(found[layer], state[0, first:], rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "gemma3", *OTHERS])
def test_a_painted_patch_moves_its_own_row_most(name: str, load: Any) -> None:  # noqa: F811
    loaded = load(name)
    plain = picture(112, 112)
    inputs, stack = loaded.inputs(PROMPT, plain), VisionEncoder(loaded.model.config, "patch")
    [before] = stack.states(loaded.model, [ready(inputs)], [0]).values()
    grid = stack.about(loaded.model, ready(inputs))["patch_grid"]
    if grid is None:
        assert len(before) == stack.about(loaded.model, ready(inputs))["row_count"]
        return
    places = boxes(inputs.images[0], grid)
    hits, painted = 0, [at for at in range(len(places)) if np.isfinite(places[at]).all()][:: len(places) // 6 + 1]
    for at in painted:
        left, top, right, bottom = places[at].round().astype(int)
        pixels = np.array(plain)
        pixels[top:bottom, left:right] = 255 - pixels[top:bottom, left:right]
        changed = ready(loaded.inputs(PROMPT, Image.fromarray(pixels)))
        [after] = stack.states(loaded.model, [changed], [0]).values()
        hits += int((after - before).norm(dim=-1).argmax()) == at
    assert hits == len(painted) > 4


@pytest.mark.parametrize("name", ["qwen2_5_vl", "llava", "internvl", "mistral3", "smolvlm"])
def test_pictures_in_one_forward(name: str, load: Any) -> None:  # noqa: F811
    """Each has the rows that it has alone, in its own order: one lies across, the other upright."""
    loaded = load(name)
    each = [ready(loaded.inputs(PROMPT, picture(*size, seed=at))) for at, size in enumerate([(84, 112), (112, 84)])]
    if not each[0].goes_with(each[1]):
        each[1] = ready(loaded.inputs(PROMPT, picture(84, 112, seed=1)))
    stack = VisionEncoder(loaded.model.config, "patch")
    found = stack.states(loaded.model, each, (0, 2))
    for layer in (0, 2):
        wanted = torch.cat([stack.states(loaded.model, [image], (0, 2))[layer] for image in each])
        torch.testing.assert_close(found[layer], wanted, rtol=1e-5, atol=1e-4)


def test_a_tower_whose_patches_are_no_parts_of_tokens(load: Any) -> None:  # noqa: F811
    there = {name: says for name, says in REFUSED.items() if name in available()}
    assert there or transformers.__version__ < "5"
    for name, says in there.items():
        loaded = load(name)
        image = ready(loaded.inputs(PROMPT, picture(84, 84)))
        with pytest.raises(UnsupportedModel, match=says):
            VisionEncoder(loaded.model.config, "patch").patches(loaded.model, image)


def test_the_files(run: Callable[..., Ended], tmp_path: Path, load: Any, folders: Any) -> None:  # noqa: F811
    """Two pictures of different size, in batches; rows and grids of patches are in summary and index."""
    for at, size in enumerate([(84, 112), (112, 84), (56, 56)]):
        picture(*size, seed=at).save(tmp_path / f"{at}.png")
    words = ("--images", *tmp_path.glob("?.png"), "--tower", "vision", "--save-features", "--feature-dtype", "float32")
    ended = run(*words)
    assert (ended.code, ended.err) == (0, "")
    assert "3 images, 112 patches" in ended.out
    about, found = summary(), index()
    assert (about["request"]["tower"], about["request"]["unit"], about["model"]["blocks"]) == ("vision", "patch", 2)
    assert about["request"]["layers"] == [0, 1, 2] and found["hidden_size"] == 32
    stack = VisionEncoder(load("qwen2_vl").model.config, "patch")
    for image in found["images"]:
        loaded = load("qwen2_vl")
        alone = ready(loaded.inputs(PROMPT, Image.open(image["path"])))
        states = stack.states(loaded.model, [alone], (0, 1, 2))
        first, last = image["rows"]
        assert image["patch_grid"] == [2 * side for side in image["grid"]]
        assert last - first == np.prod(image["patch_grid"])
        for layer, state in states.items():
            rows = read_features(f"output/features_run_layer_{layer}.safetensors")[first:last]
            torch.testing.assert_close(rows, state, rtol=1e-5, atol=1e-4)
    norms = torch.cat([read_features("output/features_run_layer_2.safetensors")]).double().norm(dim=-1)
    assert about["over_all_images"]["norm_mean"][2] == pytest.approx(norms.mean().item(), rel=1e-6)
    other = run(*words, "--unit", "token", "--resume")
    assert other.code == 2 and "is of another extraction: unit was patch, is token" in other.err
    ended = run(*words, "--unit", "token", "--overwrite", "--layers", "2")
    assert "3 images, 28 image tokens" in ended.out


def test_names_and_refusals(run: Callable[..., Ended], tmp_path: Path) -> None:  # noqa: F811
    picture(56, 56).save(tmp_path / "a.png")
    refuses(run("--images", tmp_path / "a.png", "--unit", "patch"), "add --tower vision")
    refuses(run("--images", tmp_path / "a.png", "--tower", "vision", "--layers", "3"), "model has layers 0 to 2")
