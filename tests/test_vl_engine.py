"""Vision-language models against brute force, through real checkpoints with pixels in, and what must be true of them.

Every family's checkpoint folder goes through the same `find_model`, `load_processor` and `load_model` as a user's. The
reference reruns the whole model, vision tower included, with plain hooks (`brute_force.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from agreement import singles, worst_error
from asking import asked
from families import Family, submodule
from float64 import true_float64
from outcomes import Record, measured_or_refused
from PIL import Image
from vl_families import VL_FAMILIES, available, make_vl_checkpoint, picture

from mask_impact.files.results import Block, to_dataframe
from mask_impact.impact.record import record_generation
from mask_impact.impact.run import run
from mask_impact.model import find
from mask_impact.model.load import load_model
from mask_impact.model.masks import create_vl_attention_mask
from mask_impact.model.processors import load_processor
from mask_impact.model.towers import decoder_layers
from mask_impact.options import MASK_MODES
from mask_impact.prompt.inputs import ModelInputs
from mask_impact.prompt.vision import open_pictures, vision_inputs
from test_vl_phase1 import expected_ids

STEPS = 2
PROMPT = "What is on the left?"
QWEN = [name for name in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "glm4v") if name in available()]
# Where a layer's parts are, for the reference only; read in each family's modeling file.
PLACES: dict[str, dict[str, Any]] = {
    "gemma3": {"attn_addend": "post_attention_layernorm"},
    "gemma4": {"attn_addend": "post_attention_layernorm"},
    "glm4v": {"attn_addend": "post_self_attn_layernorm"},
    "minicpmv4_6": {"attends": (1, 2), "before_o_proj": "sigmoid gate"},
    "smolvlm": {"layers": "model.text_model.layers"},
    "idefics3": {"layers": "model.text_model.layers"},
}


def row(name: str) -> Family:
    return Family(name, VL_FAMILIES[name].note, **({"layers": "model.language_model.layers"} | PLACES.get(name, {})))


@dataclass(frozen=True)
class Loaded:
    model: Any
    processor: Any

    def inputs(self, prompt: str = PROMPT, *pictures: Image.Image, **settings: Any) -> ModelInputs:
        return vision_inputs(self.processor, self.model.config, prompt, open_pictures(list(pictures)), **settings)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("vl")
    return cache(lambda name: make_vl_checkpoint(name, root / name))


@pytest.fixture(scope="session")
def load(folders: Any) -> Any:
    """(family, dtype) -> its tiny checkpoint as a user's is loaded."""

    @cache
    def loaded(name: str, dtype: torch.dtype = torch.float32) -> Loaded:
        source = find.find_model(str(folders(name)), vision=True)
        if dtype == torch.float64:
            source.text_config._experts_implementation = "eager"  # the grouped matrix product has no float64
        model = load_model(source, torch.device("cpu"), torch.float32)
        if dtype == torch.float64:
            model.set_experts_implementation("eager") if hasattr(model, "set_experts_implementation") else None
        return Loaded(model.to(dtype), load_processor(source))

    return loaded


def tensors(inputs: ModelInputs, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """The model's inputs with pixels in `dtype`."""
    return {name: found.to(dtype) if found.is_floating_point() else found for name, found in inputs.tensors.items()}


# What a generated token is in `token_type_ids`: 0 is text in Gemma 3, but in PaliGemma the prefix that sees itself.
GENERATED_TYPE = {"paligemma": 1}
# 4.57's PaliGemma has no such ids: a fresh run on a longer prompt is not what a cached step sees.
FIRST_STEP_ONLY = {"paligemma"} if transformers.__version__ < "5" else set()


def longer(name: str, given: Mapping[str, torch.Tensor], generated: list[int]) -> dict[str, torch.Tensor]:
    """The inputs with text tokens at the end."""
    count, grown = len(generated), dict(given)
    types = [GENERATED_TYPE.get(name, 0)] * count
    for key, tensor in given.items():
        if tensor.shape == given["input_ids"].shape:
            new = {"input_ids": generated, "attention_mask": [1] * count}.get(key, types)
            grown[key] = torch.cat([tensor, torch.tensor([new]).to(tensor)], dim=1)
    return grown


def some(masks: list[tuple[int, ...]], most: int) -> list[tuple[int, ...]]:
    """At most about `most` of the masks, from everywhere, the last ones among them."""
    return [mask for mask in masks if (len(masks) - 1 - mask[0]) % max(1, len(masks) // most) == 0]


def images() -> list[Image.Image]:
    return [picture(84, 112)]


@pytest.mark.parametrize("name", available())
def test_equals_brute_force_or_refused_by_name(name: str, load: Any, record_property: Record) -> None:
    """Every layer and variant, text and image tokens, at two generation steps, each against a fresh run.

    Every token at the first step for the Qwen families, a part of them elsewhere: a rerun takes the vision tower too.
    """
    loaded = load(name, torch.float64)
    inputs = loaded.inputs(PROMPT, *images())
    given = tensors(inputs, torch.float64)
    family = VL_FAMILIES[name].config["model_type"]
    with true_float64(), measured_or_refused(record_property, "picture", name, family):
        recording = record_generation(loaded.model, given, STEPS, [])
        for step in range(1 if name in FIRST_STEP_ONLY else STEPS):
            query = len(inputs.tokens) - 1 + step
            masks = singles(query) if name in QWEN and step == 0 else some(singles(query), 16)
            error, where = worst_error(
                row(name), loaded.model, longer(name, given, recording.tokens[:step]), recording, query, masks,
                relative=1e-9, rounding=3e-14,
            )  # fmt: skip
            assert error < 1, f"step {step}: {error:.3g} times the allowed error at {where}"


@pytest.mark.parametrize("name", available())
def test_float32_equals_brute_force(name: str, load: Any) -> None:
    loaded = load(name)
    inputs = loaded.inputs(PROMPT, *images())
    given = tensors(inputs)
    recording = record_generation(loaded.model, given, 1, [])
    query = len(inputs.tokens) - 1
    masks = some(singles(query), 16)
    error, where = worst_error(row(name), loaded.model, given, recording, query, masks, relative=1e-5, rounding=1e-5)
    assert error < 1, f"{error:.3g} times the allowed error at {where}"


def measure(loaded: Loaded, inputs: ModelInputs, **options: Any) -> tuple[Any, dict[str, Any]]:
    """(table, manifest) of a run."""
    blocks: list[Block] = []
    found = run(loaded.model, asked(loaded.model, loaded.processor.tokenizer, inputs, **options), blocks.append)
    return to_dataframe(blocks), found.manifest


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen3_vl", "gemma3", "smolvlm", "mistral3"])
def test_modes_are_disjoint_and_together_both(name: str, load: Any) -> None:
    """By token id, and with the same numbers, at two generation steps."""
    loaded = load(name)
    inputs = loaded.inputs("Is <image> like <image>?", picture(84, 112), picture(112, 56, seed=1))
    keys = ["generation_step", "layer", "variant", "token_position"]
    tables = {mode: measure(loaded, inputs, num_tokens=2, mask_mode=mode)[0] for mode in MASK_MODES}
    image_id = loaded.model.config.image_token_id
    ids = inputs.tensors["input_ids"][0]
    assert {"text", "vision", "both"} == set(tables)
    vision = set(tables["vision"].token_position)
    assert vision == set((ids == image_id).nonzero().flatten().tolist())
    assert set(tables["text"].token_position) == set(range(len(ids) + 1)) - vision
    parts = pd.concat([tables["text"], tables["vision"]]).sort_values(keys).reset_index(drop=True)
    whole = tables["both"].sort_values(keys).reset_index(drop=True)
    assert parts[keys].equals(whole[keys])
    np.testing.assert_allclose(parts.l2_distance, whole.l2_distance, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", available())
def test_another_image_changes_the_numbers(name: str, load: Any) -> None:
    """The pixels reach what is measured: `Full` rows of image tokens move by far more than the noise floor."""
    loaded = load(name)
    found, noise = [], 0.0
    for seed in (0, 1):
        inputs = loaded.inputs(PROMPT, picture(84, 112, seed))
        table, manifest = measure(loaded, inputs, mask_mode="vision", variants=("full",))
        found.append(table.l2_distance.to_numpy())
        noise = max(noise, manifest["noise_floor"]["Full"]["l2"])
    seen = found[0] > 0  # outside a window nothing is
    moved = np.abs(found[0] - found[1])[seen]
    assert seen.any() and np.median(moved) > 20 * noise, f"median {np.median(moved):.3g}, noise floor {noise:.3g}"


@pytest.mark.parametrize("name", ["qwen3_vl", "qwen3_vl_moe"])
def test_deepstack_is_in_the_recorded_inputs(name: str, load: Any) -> None:
    """Input of layer i + 1 minus output of layer i: the injected features at image positions, nothing elsewhere."""
    loaded = load(name)
    inputs = loaded.inputs(PROMPT, *images())
    features: list[torch.Tensor] = []
    mergers = loaded.model.model.visual.deepstack_merger_list
    handles = [merger.register_forward_hook(lambda module, args, out: features.append(out)) for merger in mergers]
    everywhere = range(len(inputs.tokens))
    try:
        recording = record_generation(loaded.model, tensors(inputs), 1, [], everywhere.__contains__)
    finally:
        for handle in handles:
            handle.remove()
    assert len(features) == len(mergers) > 0
    is_image = torch.tensor([found.kind == "image" for found in inputs.tokens])
    for index, (lower, upper) in enumerate(pairwise(recording.layers)):
        added = torch.stack([(upper.queries[q].hidden - lower.queries[q].output)[0, 0] for q in everywhere])
        assert (added[~is_image] == 0).all(), f"after layer {index} something was added to text tokens"
        expected = features[index] if index < len(features) else torch.zeros_like(added[is_image])
        apart = (added[is_image] - expected).abs().max()
        assert apart < 1e-5, f"after layer {index}: {apart:.3g} from the injected features"
    assert features[0].abs().max() > 0.01, "nothing was injected, so nothing was tested"


@pytest.mark.parametrize("name", QWEN)
def test_mrope_positions_are_the_models_own(name: str, load: Any) -> None:
    """The rotary tables in the record are those of time, height and width ids made here from the token grid."""
    loaded = load(name)
    inputs = loaded.inputs("Is <image> like <image>?", picture(84, 112), picture(112, 56, seed=1))
    everywhere = range(len(inputs.tokens))
    recording = record_generation(loaded.model, tensors(inputs), 1, [], everywhere.__contains__)
    rotary = loaded.model.model.language_model.rotary_emb
    expected = expected_ids(inputs.tokens, like=torch.empty(3, 1, len(everywhere)))
    cos, sin = rotary(torch.zeros(1, len(everywhere), 1), expected)
    plain, _ = rotary(torch.zeros(1, len(everywhere), 1), torch.arange(len(everywhere)).expand(3, 1, -1))
    axis = cos.ndim - 2
    for position in everywhere:
        theirs = recording.layers[1].queries[position].kwargs["position_embeddings"]
        for ours, recorded in zip((cos, sin), theirs, strict=True):
            apart = (ours.narrow(axis, position, 1) - recorded).abs().max()
            assert apart < 1e-6, f"position {position}: {apart:.3g}"
    assert (cos - plain).abs().max() > 0.1, "one-dimensional positions would have passed too"


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llava", "internvl"])
def test_bidirectional_equals_that_mask_given_to_the_model(name: str, load: Any) -> None:
    """The whole model with the 4D mask, rerun for every token, is what `bidirectional` measures; `model` is not."""
    loaded = load(name, torch.float64)
    inputs = loaded.inputs("Is <image> like <image>?", picture(84, 56), picture(56, 84, seed=1))
    given = tensors(inputs, torch.float64)
    length = len(inputs.tokens)
    mask = create_vl_attention_mask(length, inputs.image_ranges(), dtype=torch.float64)
    with true_float64():
        recording = record_generation(loaded.model, given, 1, [], together=inputs.image_ranges())
        masked = given | {"attention_mask": mask} | own_positions(loaded.model, given)
        error, where = worst_error(
            row(name), loaded.model, masked, recording, length - 1, some(singles(length - 1), 12),
            relative=1e-9, rounding=3e-14,
        )  # fmt: skip
        assert error < 1, f"{error:.3g} times the allowed error at {where}"
        plain = record_generation(loaded.model, given, 1, [])
        for together, alone in list(zip(recording.layers, plain.layers, strict=True))[2:]:  # after two attentions
            apart = (together.queries[length - 1].hidden - alone.queries[length - 1].hidden).norm()
            assert apart > 1e-3 * alone.queries[length - 1].hidden.norm(), "the mask has changed nothing"


def own_positions(model: Any, given: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Qwen's models make their three-part positions with a 2D mask, so beside a 4D one they must be given."""
    seen: list[torch.Tensor] = []

    def keep(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        seen.append(kwargs["position_ids"] if "position_ids" in kwargs else args[1])

    handle = model.model.language_model.rotary_emb.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        model(**given, use_cache=False)
    finally:
        handle.remove()
    return {"position_ids": seen[0]}


def test_the_mask_lets_a_picture_see_itself_and_nothing_else_of_the_future() -> None:
    mask = create_vl_attention_mask(7, [(1, 4), (5, 7)])[0, 0]
    visible = [[column for column in range(7) if mask[line, column] == 0] for line in range(7)]
    assert visible == [[0], [0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3, 4], list(range(7)), list(range(7))]
    assert (mask[mask != 0] == torch.finfo(torch.float32).min).all()
    with pytest.raises(ValueError, match="5 to 9"):
        create_vl_attention_mask(7, [(5, 9)])


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen3_vl"])
def test_model_is_causal_over_image_tokens(name: str, load: Any) -> None:
    """Qwen's decoder is causal for all tokens: a later patch changes nothing at an earlier one in the decoder."""
    loaded = load(name)
    inputs = loaded.inputs(PROMPT, *images())
    places = [found.position for found in inputs.tokens if found.kind == "image"]
    recording = record_generation(loaded.model, tensors(inputs), 1, [], set(places).__contains__)
    for position in places:
        bias = recording.layers[0].queries[position].bias
        assert bias.shape[-1] == position + 1, "an image token sees a later one"


TILED = ("llava_next", "llava_onevision", "smolvlm", "idefics3", "internvl", "aya_vision")
GRIDS = {name: (150, 200) for name in available() if name not in TILED}
GRIDS |= {"internvl": (64, 64), "aya_vision": (64, 64)}  # one tile
if "minicpmv4_6" in GRIDS:
    GRIDS |= {"minicpmv4_6": (84, 112)}  # one slice
GRIDS |= {"smolvlm": (150, 200), "idefics3": (150, 200)}  # told not to split


@pytest.mark.parametrize("name", GRIDS)
def test_a_changed_cell_changes_its_token_most(name: str, load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The box of a token, painted over in the original picture, moves that token's embedding more than any other's.

    The tiny vision towers mix patches at random, so a few tokens may be beaten by a neighbour. Those that are tried lie
    on a diagonal: convolutions with a step see less of what is at the edge.
    """
    loaded = load(name)
    monkeypatch.setattr(loaded.processor.image_processor, "do_image_splitting", False, raising=False)
    height, width = GRIDS[name]
    before = picture(height, width)
    inputs = loaded.inputs(PROMPT, before)
    places = [found for found in inputs.tokens if found.kind == "image"]
    plain = embeddings(loaded, inputs)
    hits, painted = 0, places[:: len(places) // 16 + 1]
    for found in painted:
        assert found.box is not None
        left, top, right, bottom = (round(edge) for edge in found.box)
        pixels = np.array(before)
        pixels[top:bottom, left:right] = 255 - pixels[top:bottom, left:right]
        changed = embeddings(loaded, loaded.inputs(PROMPT, Image.fromarray(pixels)))
        moved = (changed - plain).norm(dim=-1)[[place.position for place in places]]
        hits += places[int(moved.argmax())] == found
    assert hits >= 0.7 * len(painted), f"{hits} of {len(painted)}"


def embeddings(loaded: Loaded, inputs: ModelInputs) -> torch.Tensor:
    """[N, C] what enters the decoder."""
    seen: list[torch.Tensor] = []

    def keep(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        seen.append(args[0] if args else kwargs["hidden_states"])

    handle = decoder_layers(loaded.model)[0].register_forward_pre_hook(keep, with_kwargs=True)
    try:
        with torch.no_grad():
            loaded.model(**tensors(inputs), use_cache=False)
    finally:
        handle.remove()
    return seen[0][0]


@pytest.mark.parametrize("name", TILED)
def test_tiles_get_no_invented_place(name: str, load: Any) -> None:
    inputs = load(name).inputs(PROMPT, picture(150, 200))
    places = [found for found in inputs.tokens if found.kind == "image"]
    assert places and all((found.image, found.row, found.col, found.box) == (0, None, None, None) for found in places)
    (described,) = inputs.images
    assert described["grid"] is None and "no simple grid" in described["layout"]
    assert described["tokens"] == len(places)


@pytest.mark.parametrize("name", available())
def test_the_decoder_is_not_the_vision_tower(name: str, load: Any) -> None:
    """Also where both have as many blocks."""
    model = load(name).model
    assert decoder_layers(model) == list(submodule(model, row(name).layers))
