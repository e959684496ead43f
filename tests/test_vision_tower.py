"""Masks in the vision encoder against the real model with those edges at -inf, pixels in (brute_tower.py)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from asking import asked
from brute_tower import LAYERS, Reference, rows_of_tokens
from float64 import true_float64
from PIL import Image
from test_vl_engine import PROMPT, folders, load, tensors  # noqa: F401
from vl_families import available, picture

from mask_impact.errors import UnsupportedModel
from mask_impact.impact.vision_run import VisionMeasurement, run
from mask_impact.model.vision_tower import TowerCalls
from mask_impact.options import unseen

FAMILIES = [name for name in LAYERS if name in available()]
SEVERAL = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "glm4v")  # pictures of different size stand one after the other
METRICS = ("l2", "cosine")


def pictures(name: str) -> list[Any]:
    """Of Qwen2.5-VL, one whose 3 x 5 tokens are no multiple of its windows of 2 x 2."""
    return [picture(84, 140), picture(56, 84, 1)] if name in SEVERAL else [picture(84, 112)]


class Both:
    """The engine and the reference on the same model and pictures."""

    def __init__(self, name: str, loaded: Any, dtype: torch.dtype, **options: Any) -> None:
        self.inputs = loaded.inputs(PROMPT, *pictures(name))
        self.given, self.options = tensors(self.inputs, dtype), options
        prepared = asked(loaded.model, loaded.processor.tokenizer, self.inputs, tower="vision", **options)
        self.ours = VisionMeasurement(loaded.model, prepared, lambda block: None, unseen)
        with torch.no_grad():
            self.ours.record()
        self.reference = Reference(name, loaded.model, self.given)
        self.rows = rows_of_tokens(name, loaded.model, self.given)

    def values(self, layer: int) -> tuple[list[str], np.ndarray]:
        with torch.no_grad():
            return self.ours.layer_values(self.ours.calls[layer])

    def picture_rows(self, unit: int) -> list[int]:
        """All rows of a unit's picture, by the reference's own count: pictures follow each other."""
        total, pictures = len(self.ours.pictures.picture), len(self.inputs.images)
        if pictures == 1:
            return list(range(total))
        ends = np.cumsum([4 * image["tokens"] for image in self.inputs.images]).tolist()
        starts = [0, *ends[:-1]]
        first = self.ours.units[unit].rows[0]
        return next(list(range(a, b)) for a, b in zip(starts, ends, strict=True) if a <= first < b)


def distances(base: torch.Tensor, masked: torch.Tensor) -> np.ndarray:
    """L2 and cosine distance in float64."""
    base, masked = base.double(), masked.double()
    units = base / base.norm(), masked / masked.norm()
    return np.array([(masked - base).norm(), (units[0] - units[1]).square().sum() / 2])


def worst(both: Both, layer: int, units: Sequence[int], exact: float, rounding: float) -> tuple[float, str]:
    """The largest error as a part of the allowed one: `exact` of the value, and `rounding` of the vector."""
    names, values = both.values(layer)
    base = both.reference.run(layer)
    found, residual = (0.0, ""), both.options.get("head_space") == "residual"
    for unit in units:
        rows = both.picture_rows(unit)
        zero = both.options.get("ablation") == "zero-value"
        masked = both.reference.run(layer, both.ours.units[unit].rows, zero)
        for at, name in enumerate(names):
            before, after = (each.chosen(name, rows, residual) for each in (base, masked))
            expected = distances(before, after)
            allowed = exact * expected + rounding * np.array([float(before.norm()), 1.0])
            error = np.abs(values[unit, at] - expected) / allowed
            for metric, each in zip(METRICS, error, strict=True):
                if not each <= found[0]:
                    found = float(each), f"layer {layer} unit {unit} {name} {metric}"
    return found


def some(count: int, most: int = 8) -> list[int]:
    return list(range(0, count, max(1, count // most)))


@pytest.mark.parametrize("name", FAMILIES)
def test_equals_brute_force_in_float64(name: str, load: Any) -> None:  # noqa: F811
    """Every layer and variant; units are those of the modeling file, in the prompt's order."""
    loaded = load(name, torch.float64)
    with true_float64():
        both = Both(name, loaded, torch.float64)
        tokens = [unit for unit in both.ours.units if unit.position >= 0]
        assert [sorted(unit.rows) for unit in tokens] == [sorted(rows) for rows in both.rows]
        for layer in range(2):
            error, where = worst(both, layer, some(len(both.ours.units)), 1e-9, 3e-14)
            assert error < 1, f"{error:.3g} times the allowed error at {where}"


@pytest.mark.parametrize("name", FAMILIES)
def test_equals_brute_force_in_float32(name: str, load: Any) -> None:  # noqa: F811
    both = Both(name, load(name), torch.float32)
    for layer in range(2):
        error, where = worst(both, layer, some(len(both.ours.units), 4), 1e-5, 1e-5)
        assert error < 1, f"{error:.3g} times the allowed error at {where}"


@pytest.mark.parametrize("options", [{"head_space": "residual"}, {"ablation": "zero-value"}, {"mask_unit": "patch"}])
@pytest.mark.parametrize("name", ["qwen2_5_vl", "llava", "internvl"])
def test_options_equal_brute_force(name: str, options: dict[str, str], load: Any) -> None:  # noqa: F811
    loaded = load(name, torch.float64)
    with true_float64():
        both = Both(name, loaded, torch.float64, **options)
        error, where = worst(both, 0, some(len(both.ours.units)), 1e-9, 3e-14)
    assert error < 1, f"{error:.3g} times the allowed error at {where}"


def run_on(loaded: Any, shown: Sequence[Any], **options: Any) -> tuple[list[Any], dict[str, Any]]:
    """The blocks and the manifest of a run."""
    inputs = loaded.inputs(PROMPT, *shown)
    blocks: list[Any] = []
    prepared = asked(loaded.model, loaded.processor.tokenizer, inputs, tower="vision", **options)
    return blocks, run(loaded.model, prepared, blocks.append).manifest


def test_what_a_reader_cannot_see_has_distance_0(load: Any) -> None:  # noqa: F811
    """3 x 5 tokens in windows of 2 x 2: layer 0 of Qwen2.5-VL reads inside a window, layer 1 the whole picture, and
    none of them another picture."""
    loaded = load("qwen2_5_vl")
    shown = pictures("qwen2_5_vl")
    first = loaded.inputs(PROMPT, *shown).images[0]["positions"][0]
    for row, col in ((0, 0), (2, 4), (1, 2)):
        blocks, _ = run_on(loaded, shown, readers=(str(first + 5 * row + col),))
        tokens = [(at // 5, at % 5) for at in range(15)]
        own = [(r // 2, c // 2) == (row // 2, col // 2) for r, c in tokens]
        assert [bool(each) for each in blocks[0].l2[:15, 0] > 0] == own
        assert (blocks[1].l2[:15] > 0).all()
        assert not any(block.l2[15:].any() or block.cosine[15:].any() for block in blocks)


def test_another_picture_changes_the_numbers(load: Any) -> None:  # noqa: F811
    """Of a picture that stands beside another, nothing changes."""
    one, two = ([picture(84, 112), picture(56, 84, seed)] for seed in (1, 2))
    (a, _), (b, _) = (run_on(load("qwen3_vl"), shown) for shown in (one, two))
    apart = np.abs(a[1].l2 - b[1].l2) / a[1].l2
    assert apart[:12].max() < 1e-5 and apart[12:, 0].min() > 1e-3


def test_readers_are_compared_alone(load: Any) -> None:  # noqa: F811
    """L2 distances of disjoint readers add up, as squares, to those of all patches."""
    loaded, shown = load("gemma3"), [picture(84, 112)]
    first, last = loaded.inputs(PROMPT, *shown).images[0]["positions"]
    every, _ = run_on(loaded, shown)
    parts = [run_on(loaded, shown, readers=(f"{a}-{b}",)) for a, b in ((first, first + 4), (first + 5, last))]
    for layer in range(2):
        squares = sum(blocks[layer].l2.astype(float) ** 2 for blocks, _ in parts)
        np.testing.assert_allclose(squares**0.5, every[layer].l2, rtol=1e-4)
    assert parts[0][1]["vision"]["readers"] == list(range(first, first + 5))


def test_what_becomes_no_token_is_at_minus_1(load: Any) -> None:  # noqa: F811
    blocks, manifest = run_on(load("llava"), [picture(84, 112)])
    assert (blocks[0].tokens[-1], blocks[0].positions[-1], manifest["vision"]["patches"]) == ("extra row 0", -1, 17)
    assert (blocks[0].l2[-1] > 0).all() and manifest["vision"]["patches_without_token"] == [0]
    assert any("become no image token" in note for note in manifest["notes"])


def test_patches_have_their_places(load: Any) -> None:  # noqa: F811
    """In Qwen's order, 2 x 2 patches of a token follow each other; in Gemma 3's, the rows of the whole picture."""
    for name, rows, cols in (("qwen3_vl", 6, 8), ("gemma3", 8, 8)):
        loaded = load(name)
        blocks, _ = run_on(loaded, [picture(84, 112)], mask_unit="patch")
        places = [tuple(place) for place in blocks[0].places.tolist()]
        assert sorted(places) == [(row, col) for row in range(rows) for col in range(cols)]
        tokens = {token.position: token for token in loaded.inputs(PROMPT, picture(84, 112)).tokens}
        for position, (row, col) in zip(blocks[0].positions.tolist(), places, strict=True):
            assert (tokens[position].row, tokens[position].col) == (row // 2, col // 2)


def test_a_patch_is_where_its_pixels_are(load: Any) -> None:  # noqa: F811
    """The patch whose state moves most when pixels of one place change, before any layer mixes them, has that place."""
    for name, side in (("qwen3_vl", 14), ("gemma3", 14), ("llava_pixtral", 16)):
        loaded = load(name)
        prepared = asked(
            loaded.model, loaded.processor.tokenizer, loaded.inputs(PROMPT, blank()), tower="vision", mask_unit="patch"
        )
        measured = VisionMeasurement(loaded.model, prepared, lambda block: None, unseen)
        states = []
        for shown in (blank(), blank(spot=True)):
            given = tensors(loaded.inputs(PROMPT, shown))
            tower = TowerCalls(loaded.model)
            with torch.no_grad(), tower.recording():
                loaded.model(**given, use_cache=False)
            states.append(tower.calls[0].by_row(tower.calls[0].hidden))
        with torch.no_grad():
            measured.record()
        moved = int((states[0] - states[1]).norm(dim=-1).argmax())
        places = {unit.rows[0]: unit.place for unit in measured.units}
        grid = max(places.values())
        expected = tuple(int(part * (most + 1)) for part, most in zip(SPOT, grid, strict=True))
        assert places[moved] == expected, f"{name}: {places[moved]} of {grid}, patches of {side} pixels"


SPOT = (0.7, 0.3)  # rows and columns, as parts of the picture


def blank(spot: bool = False) -> Any:
    """A grey square picture, with a white dot."""
    shown = Image.new("RGB", (112, 112), (90, 90, 90))
    if spot:
        middle = [int(112 * part) for part in SPOT]
        shown.paste((255, 255, 255), (middle[1] - 2, middle[0] - 2, middle[1] + 2, middle[0] + 2))
    return shown


def test_the_manifest_says_what_was_measured(load: Any) -> None:  # noqa: F811
    blocks, manifest = run_on(load("qwen2_vl"), [picture(84, 112)])
    layers, variants = manifest["layers"], manifest["variants"]
    assert (manifest["tower"], layers, variants) == (
        "vision",
        [0, 1],
        ["Full", "Attn", *(f"Head_{n}" for n in range(4))],
    )
    assert manifest["model"]["layers"] == 2 and manifest["attention_implementation"] == "sdpa"
    (lengths,) = manifest["unmasked_length"]["values"]
    assert np.array(lengths).shape == (2, 6) and np.min(lengths) > 0
    assert all(floor > 0 for row in manifest["noise_floor"]["by_layer"]["values"] for each in row for floor in each)
    assert manifest["mask_mode"] == "vision" and manifest["decoder_start"] is None
    assert [block.l2.shape for block in blocks] == [(12, 6)] * 2


@pytest.mark.parametrize(
    ("name", "why"),
    [("minicpmv4_6", "do not all have the same patches"), ("got_ocr2", "a part of several image tokens")],
)
def test_refused_by_name_with_the_reason(name: str, why: str, load: Any) -> None:  # noqa: F811
    if name not in available():
        pytest.skip(f"transformers {transformers.__version__} cannot build {name}")
    with pytest.raises(UnsupportedModel, match=f"'{name}'.*{why}"):
        run_on(load(name), [picture(84, 112)])


def test_a_layer_that_is_not_called_again_as_it_was_is_refused(load: Any) -> None:  # noqa: F811
    """Something that changes between two calls: the replay without a mask would not be the model's own."""
    loaded = load("qwen2_vl")
    calls = iter(range(1, 1000))
    layer = loaded.model.model.visual.blocks[1]
    hook = layer.register_forward_hook(lambda module, args, output: output * (1 + 0.1 * next(calls)))
    with pytest.raises(UnsupportedModel, match=r"'qwen2_vl'.*layer 1: called again without a mask"):
        try:
            run_on(loaded, [picture(84, 112)], no_check=True)
        finally:
            hook.remove()


def test_the_model_is_as_it_was(load: Any) -> None:  # noqa: F811
    loaded = load("qwen2_5_vl")
    given = tensors(loaded.inputs(PROMPT, picture(84, 112)))
    before = loaded.model(**given, use_cache=False).logits
    run_on(loaded, [picture(84, 112)])
    assert torch.equal(loaded.model(**given, use_cache=False).logits, before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in loaded.model.modules())
    assert not any("forward" in vars(module) for module in loaded.model.modules())


def test_changes_below_rounding_are_not_0(load: Any) -> None:  # noqa: F811
    """Of one token's patches, sharp attention hardly reads most units: bfloat16 swallows what they change."""
    loaded, seen = load("qwen2_vl"), []
    first = str(loaded.inputs(PROMPT, picture(84, 112)).images[0]["positions"][0])
    for dtype in (torch.float64, torch.bfloat16):
        model = copy.deepcopy(loaded.model).to(dtype)
        for block in model.model.visual.blocks:
            block.attn.qkv.weight.data[:64].mul_(5.0)  # queries and keys
        shown = type(loaded)(model, loaded.processor)
        blocks, manifest = run_on(shown, [picture(84, 112)], variants=("full", "attn"), readers=(first,))
        seen.append(blocks[0].l2[:, 0].astype(float))
    exact, found = seen
    floor = manifest["noise_floor"]["by_layer"]["values"][0][0][0]
    assert exact.min() < floor / 1000, "the test has no small change"
    assert (found > 0).all() and (found[exact < floor / 1000] < floor).all()
    assert np.corrcoef(np.log(exact), np.log(found))[0, 1] > 0.9
