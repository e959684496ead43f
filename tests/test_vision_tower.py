"""Masks in the vision encoder against the real model with those edges at -inf, pixels in (brute_tower.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from asking import asked
from brute_tower import LAYERS, Reference, rows_of_tokens
from float64 import true_float64
from test_vl_engine import PROMPT, folders, load, tensors  # noqa: F401
from vl_families import available, picture

from mask_impact.impact.vision_run import VisionMeasurement
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
