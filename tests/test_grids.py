"""Where image tokens are, for families whose own pictures cannot be made in this environment, or have no grid.

Llama 4's and Molmo 2's image processors need torchvision. Llama 4's steps are repeated here with PIL: which block of
the tile changes when one box of the picture is painted? `test_vl_engine.py` has the families that can be run.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Blip2Config, Llama4Config
from vl_families import picture

from mask_impact.prompt.grids import Encoded, Layout, layout
from mask_impact.prompt.vision import encoded

SIDE, CELLS = 64, 4
LLAMA4 = Llama4Config(vision_config={"image_size": SIDE, "patch_size": 8, "pixel_shuffle_ratio": 0.5})


def tile(image: Image.Image) -> np.ndarray:
    """As Llama4ImageProcessor makes one tile: shrunk or enlarged to fit, black to the right of it and below."""
    scale = SIDE / max(image.size)
    found = Image.new("RGB", (SIDE, SIDE))
    found.paste(image.resize([max(1, int(edge * scale)) for edge in image.size], Image.Resampling.BILINEAR))
    return np.array(found, dtype=float)


def of_llama4(size: tuple[int, int], views: int) -> Layout:
    outputs = {"pixel_values": torch.zeros(views, 3, SIDE, SIDE)}
    return layout(Encoded(LLAMA4, SimpleNamespace(), outputs, 0, views * CELLS**2, size))


@pytest.mark.parametrize("height, width", [(64, 64), (48, 64), (64, 30), (20, 60)])
def test_a_box_of_llama_4_is_its_block_of_the_tile(height: int, width: int) -> None:
    before = picture(height, width)
    places = list(of_llama4(before.size, 1).places())
    inside = [(index, box) for index, (_, _, box) in enumerate(places) if box is not None]
    assert len(inside) >= CELLS
    for index, box in inside:
        left, top, right, bottom = (round(edge) for edge in box)
        pixels = np.array(before)
        pixels[top:bottom, left:right] = 255 - pixels[top:bottom, left:right]
        changed = np.abs(tile(Image.fromarray(pixels)) - tile(before)).sum(-1)
        blocks = changed.reshape(CELLS, SIDE // CELLS, CELLS, SIDE // CELLS).sum((1, 3)).flatten()
        assert blocks.argmax() == index and blocks[index] > 0.8 * blocks.sum()


def of(config: Any, pixels: torch.Tensor, tokens: int) -> str:
    return str(layout(Encoded(config, SimpleNamespace(), {"pixel_values": pixels}, 0, tokens, (100, 100))))


def test_what_there_is_in_place_of_a_grid_is_named() -> None:
    molmo2, kimi = SimpleNamespace(model_type="molmo2"), SimpleNamespace(model_type="kimi_k25")
    assert str(of_llama4((100, 100), 5)).startswith("80 tokens, no simple grid: several views of the picture")
    assert "several views" in of(molmo2, torch.zeros(3, 16, 27), 12)
    assert "learned queries" in of(Blip2Config(), torch.zeros(1, 3, 28, 28), 32)
    assert "model family 'kimi_k25' are arranged is not known" in of(kimi, torch.zeros(16, 27), 4)


class TorchvisionProcessor:
    """Keeps what it is called with, in the place of a processor that needs torchvision."""

    def __init__(self, is_fast: bool) -> None:
        self.image_processor, self.tokenizer = SimpleNamespace(is_fast=is_fast), SimpleNamespace(bos_token=None)

    def __call__(self, **given: Any) -> dict[str, Any]:
        return given


@pytest.mark.parametrize("is_fast", [True, False])
def test_only_a_processor_without_torchvision_is_told_where_channels_are(is_fast: bool) -> None:
    """transformers 4's torchvision processors move an axis of a picture that they have already moved."""
    image = SimpleNamespace(image=picture(8, 8))
    assert ("input_data_format" in encoded(TorchvisionProcessor(is_fast), "a", [image], None)) != is_fast
