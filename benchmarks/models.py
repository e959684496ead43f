"""The models that are measured: random weights in the shape of real ones, and prompts of random ids and pixels.

A shape is a row. `Setup` is a shape on a device; it has all that a part of the bench, or a separate process, needs to
make the model and its inputs.
"""

from dataclasses import dataclass
from math import isqrt
from typing import Any

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3VLConfig, Qwen3VLForConditionalGeneration

Inputs = dict[str, torch.Tensor]

# Qwen3's ids: <|im_start|>, <|im_end|>, <|vision_start|>, <|vision_end|>, <|image_pad|>
IM_START, IM_END, VISION_START, VISION_END, IMAGE_PAD = 151644, 151645, 151652, 151653, 151655
FIRST_SPECIAL = 151643
TEXT_TOKENS = 30  # of an image prompt, including these five
CPU = torch.device("cpu")
PATCH, FRAMES, MERGE = 16, 2, 2  # a patch is 16 x 16 pixels of 2 equal frames; 2 x 2 patches make a token


@dataclass(frozen=True)
class Tower:
    """A vision tower; `deepstack` are the blocks whose features are also added after the first decoder layers."""

    depth: int
    hidden: int
    mlp: int
    heads: int
    deepstack: tuple[int, ...]


@dataclass(frozen=True)
class Shape:
    """A decoder, with a vision tower or without; tied embeddings."""

    name: str
    layers: int
    hidden: int
    mlp: int
    heads: int
    kv_heads: int
    head_dim: int = 128
    vocabulary: int = 151936
    mrope: tuple[int, int, int] = (24, 20, 20)  # time, height, width: their sum is head_dim / 2
    tower: Tower | None = None

    def __str__(self) -> str:
        text = f"{self.name}: {self.layers} layers, hidden {self.hidden}, MLP {self.mlp}, {self.heads} query and "
        text += f"{self.kv_heads} key/value heads of {self.head_dim}, vocabulary {self.vocabulary}"
        if self.tower is None:
            return text
        tower = self.tower
        return f"{text}; vision tower: depth {tower.depth}, hidden {tower.hidden}, MLP {tower.mlp}, {tower.heads} heads"

    def layer_weights(self) -> int:
        """How many weights the matrices of one layer have."""
        return self.hidden * (2 * (self.heads + self.kv_heads) * self.head_dim + 3 * self.mlp)


TEXT = {
    "small": Shape("Qwen3-0.6B's shape", 28, 1024, 3072, 16, 8),
    "4b": Shape("Qwen3-4B's shape", 36, 2560, 9728, 32, 8),  # https://huggingface.co/Qwen/Qwen3-4B
}
VISION = {
    "small": Shape(
        "Qwen3-0.6B's shape with Qwen3-VL's vision",
        *(28, 1024, 3072, 16, 8),
        tower=Tower(3, 64, 256, 2, (0, 1, 2)),  # small, because it is on both sides of the ratios and pulls them to 1
    ),
    "4b": Shape(
        "Qwen3-VL-4B's shape", 36, 2560, 9728, 32, 8, tower=Tower(24, 1024, 4096, 16, (5, 11, 17))
    ),  # https://huggingface.co/Qwen/Qwen3-VL-4B-Instruct/blob/main/config.json
    "tiny": Shape("tiny", 3, 64, 96, 4, 2, 16, mrope=(4, 2, 2), tower=Tower(3, 32, 48, 2, (0, 1, 2))),  # for tests
}


@dataclass(frozen=True)
class Setup:
    """A shape with a number of layers, on a device, in a dtype."""

    shape: Shape
    layers: int
    device: torch.device = CPU
    dtype: torch.dtype = torch.float32

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.shape.name}, {self.layers} of {self.shape.layers} layers, {dtype} on {self.device}"

    def model(self) -> Any:
        """Random weights, the same every time."""
        shape, tower = self.shape, self.shape.tower
        decoder: dict[str, Any] = {
            "vocab_size": shape.vocabulary,
            "hidden_size": shape.hidden,
            "intermediate_size": shape.mlp,
            "num_hidden_layers": self.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads,
            "head_dim": shape.head_dim,
        }
        if tower is None:
            config, family = Qwen3Config(**decoder, tie_word_embeddings=True), Qwen3ForCausalLM
        else:
            rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": list(shape.mrope)}
            decoder |= {"rope_parameters": rope | {"mrope_interleaved": True}, "tie_word_embeddings": True}
            vision = {
                "depth": tower.depth,
                "hidden_size": tower.hidden,
                "intermediate_size": tower.mlp,
                "num_heads": tower.heads,
                "out_hidden_size": shape.hidden,
                "deepstack_visual_indexes": list(tower.deepstack),
            }
            config = Qwen3VLConfig(text_config=decoder, vision_config=vision, tie_word_embeddings=True)
            family = Qwen3VLForConditionalGeneration
        torch.manual_seed(0)
        with self.device:
            return family._from_config(config, dtype=self.dtype).eval()

    def inputs(self, size: int) -> Inputs:
        """A prompt: of `size` random ids, or in chat form with one square image of `size` tokens."""
        generator = torch.Generator().manual_seed(size)
        made = self._image_prompt(size, generator) if self.shape.tower else self._text_prompt(size, generator)
        made["attention_mask"] = torch.ones_like(made["input_ids"])
        return {
            name: tensor.to(self.device, self.dtype if tensor.is_floating_point() else None)
            for name, tensor in made.items()
        }

    def _text_prompt(self, length: int, generator: torch.Generator) -> Inputs:
        return {"input_ids": torch.randint(0, self.shape.vocabulary, (1, length), generator=generator)}

    def _image_prompt(self, size: int, generator: torch.Generator) -> Inputs:
        words = torch.randint(0, FIRST_SPECIAL, (TEXT_TOKENS,), generator=generator).tolist()
        image = [VISION_START, *[IMAGE_PAD] * size, VISION_END]
        ids = [IM_START, *words[:2], *image, *words[2:22], IM_END, words[22], IM_START, *words[23:25]]
        input_ids = torch.tensor([ids])
        side = isqrt(size) * MERGE  # in patches
        return {
            "input_ids": input_ids,
            "mm_token_type_ids": (input_ids == IMAGE_PAD).int(),
            "pixel_values": torch.randn(side * side, 3 * FRAMES * PATCH * PATCH, generator=generator),
            "image_grid_thw": torch.tensor([[1, side, side]]),
        }

    def kv_cache_bytes(self, positions: int) -> int:
        """Keys and values of all positions in all layers."""
        return 2 * self.layers * self.shape.kv_heads * self.shape.head_dim * positions * self.dtype.itemsize
