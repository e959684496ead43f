"""The slow reference for a vision tower: the real model, pixels in, with edges between patches at -inf in one layer.

In: a model, its inputs, a layer, rows to mask. Out: what the layer adds to every row: with its MLP, by its attention
alone, by each head. No mask_impact: torch's `scaled_dot_product_attention` is replaced by a few lines that know which
layer runs and at which row its next call begins, and plain hooks read the vectors.

Which rows an image token is made of is written down here for each family, from its modeling file.

Shapes: N rows, C hidden, H heads, D head width.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

LAYERS = {  # where the layers are
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "glm4v"), "model.visual.blocks"),
    **dict.fromkeys(("llava", "gemma3", "paligemma"), "model.vision_tower.vision_model.encoder.layers"),
    **dict.fromkeys(("smolvlm", "idefics3"), "model.vision_model.encoder.layers"),
    **dict.fromkeys(("mistral3", "llava_pixtral"), "model.vision_tower.transformer.layers"),
    "internvl": "model.vision_tower.encoder.layer",
}
ATTENTION = ("attn", "self_attn", "attention")  # what a layer calls its attention
MERGE = {"llava": 1, "paligemma": 1, "llava_pixtral": 1}  # patches on each side of a token; else 2
FIRST_ROWS = {"llava": 1, "internvl": 1}  # CLS tokens at the start of each tile


def part(module: nn.Module, path: str) -> nn.Module:
    for name in path.split("."):
        # transformers 5 has no `vision_model` inside a tower
        module = getattr(module, name) if hasattr(module, name) or name != "vision_model" else module
    return module


def layers_of(name: str, model: nn.Module) -> list[nn.Module]:
    return list(part(model, LAYERS[name]))


@dataclass
class Vectors:
    """What one layer did to every row."""

    full: Tensor  # [N, C] output - input
    attn: Tensor  # [N, C] what attention adds
    heads: Tensor  # [N, H, D]
    shares: Tensor  # [N, H, C] through each head's slice of the output projection

    def chosen(self, variant: str, rows: Sequence[int], residual: bool = False) -> Tensor:
        if variant in ("Full", "Attn"):
            return (self.full if variant == "Full" else self.attn)[list(rows)].flatten()
        states = self.shares if residual else self.heads
        return states[list(rows), int(variant.removeprefix("Head_"))].flatten()


class Reference:
    """The model with rows of one layer masked."""

    def __init__(self, name: str, model: nn.Module, inputs: Mapping[str, Tensor]) -> None:
        self.name, self.model, self.inputs = name, model, inputs
        self.layers = layers_of(name, model)

    def run(self, layer: int, masked: Collection[int] = (), zero_values: bool = False) -> Vectors:
        """All other rows stop reading `masked` in `layer`; each keeps itself."""
        self.layer, self.masked, self.zero_values = layer, sorted(masked), zero_values
        self.window, self.readers = range(layer, layer + 1), None
        self.running, self.found = -1, {}
        self.heads: list[Tensor] = []
        with torch.no_grad(), self._watched(), mock.patch(
            "torch.nn.functional.scaled_dot_product_attention", self._attend
        ):  # fmt: skip
            self.model(**self.inputs, use_cache=False)
        flat = {key: found.reshape(-1, found.shape[-1]) for key, found in self.found.items()}
        attn, heads = flat["attn"], torch.cat(self.heads)
        if self.name == "internvl":
            attn = attn * self.layers[layer].lambda_1.detach()
        weight = flat_projection(self.layers[layer])
        shares = torch.einsum("nhd,chd->nhc", heads, weight.view(len(weight), *heads.shape[1:]))
        return Vectors(flat["out"] - flat["in"], attn, heads, shares)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        with ExitStack() as undo:
            for index, module in enumerate(self.layers):
                undo.callback(module.register_forward_pre_hook(self._begin(index), with_kwargs=True).remove)
                undo.callback(module.register_forward_hook(self._end).remove)
            attention = attention_of(self.layers[self.layer])
            undo.callback(attention.register_forward_hook(self._attended).remove)
            yield

    def _begin(self, index: int) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            self.running, self.row = index, 0
            if index == self.layer:
                self.found["in"] = args[0] if args else kwargs["hidden_states"]

        return hook

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        if self.running == self.layer:
            self.found["out"] = output[0] if isinstance(output, tuple) else output
        self.running = -1

    def _attended(self, module: nn.Module, args: Any, output: Any) -> None:
        self.found["attn"] = output[0] if isinstance(output, tuple) else output

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        if enable_gqa:
            key, value = (each.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for each in (key, value))
        logits = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
        if is_causal:
            logits = logits.masked_fill(torch.ones(logits.shape[-2:]).tril() == 0, float("-inf"))
        if attn_mask is not None:
            hidden = ~attn_mask if attn_mask.dtype == torch.bool else attn_mask < -1e4
            logits = (logits if attn_mask.dtype == torch.bool else logits + attn_mask).masked_fill(hidden, -torch.inf)
        if self.running not in self.window:
            return logits.softmax(dim=-1) @ value
        gone = self._gone(logits)
        if self.zero_values:
            output = logits.softmax(dim=-1).masked_fill(gone, 0.0) @ value
        else:
            output = logits.masked_fill(gone, float("-inf")).softmax(dim=-1) @ value
        self.heads.append(output.transpose(1, 2).flatten(0, 1))
        return output

    def _gone(self, logits: Tensor) -> Tensor:
        """[B, 1, L, L] the edges that are taken out of the next rows."""
        batch, length = logits.shape[0], logits.shape[-1]
        gone = torch.zeros(batch, 1, length, length, dtype=torch.bool)
        for entry in range(batch):
            for row in self.masked:
                if 0 <= (column := row - self.row) < length:
                    readers = range(length) if self.readers is None else [each - self.row for each in self.readers]
                    gone[entry, 0, [each for each in readers if 0 <= each < length], column] = True
                    gone[entry, 0, column, column] = False
            self.row += length
        return gone


def attention_of(layer: nn.Module) -> nn.Module:
    return next(getattr(layer, name) for name in ATTENTION if hasattr(layer, name))


def flat_projection(layer: nn.Module) -> Tensor:
    attention = attention_of(layer)
    names = ("proj", "out_proj", "o_proj", "projection_layer")
    return next(getattr(attention, name) for name in names if hasattr(attention, name)).weight.detach()


@dataclass
class Answer:
    """What a masked forward ends with, at its last positions."""

    logits: Tensor  # [S, V]
    state: Tensor  # [S, C] of the last decoder layer
    image: Tensor  # [T, C] what the first decoder layer gets


class AnswerReference(Reference):
    """The model with rows masked in a range of layers, to its logits."""

    def answer(
        self,
        decoder: Sequence[nn.Module],
        window: range,
        masked: Collection[int],
        readers: Collection[int] | None = None,
        zero_values: bool = False,
        steps: int = 1,
    ) -> Answer:
        """
        Args:
            decoder: its layers.
            readers: rows that stop reading; None: all. Each keeps itself.
        """
        self.layer, self.window, self.masked, self.readers = window.start, window, sorted(masked), readers
        self.zero_values, self.running, self.found, self.heads = zero_values, -1, {}, []
        kept: dict[str, Tensor] = {}

        def ended(module: nn.Module, args: Any, output: Any) -> None:
            kept["state"] = (output[0] if isinstance(output, tuple) else output)[0, -steps:].clone()

        def begun(module: nn.Module, args: Any, named: Any) -> None:
            kept["image"] = (args[0] if args else named["hidden_states"])[0].clone()

        hooks = [
            decoder[0].register_forward_pre_hook(begun, with_kwargs=True),
            decoder[-1].register_forward_hook(ended),
        ]
        with torch.no_grad(), self._watched(), mock.patch(
            "torch.nn.functional.scaled_dot_product_attention", self._attend
        ):  # fmt: skip
            logits = self.model(**self.inputs, use_cache=False).logits[0, -steps:]
        for hook in hooks:
            hook.remove()
        return Answer(logits, kept["state"], kept["image"])


# --- which rows a token is made of --------------------------------------------------------------------------
def rows_of_tokens(name: str, model: Any, inputs: Mapping[str, Tensor]) -> list[list[int]]:
    """Of each image token in the prompt's order."""
    if "image_grid_thw" in inputs:
        count = int(inputs["image_grid_thw"].prod(dim=-1).sum()) // 4
        order = list(range(count))
        if name == "qwen2_5_vl":  # groups of 4 rows, sorted by windows
            order = windows(model.config.vision_config, inputs["image_grid_thw"].tolist())
        place = {group: at for at, group in enumerate(order)}
        return [[4 * place[token] + each for each in range(4)] for token in range(count)]
    merge, first, patch = MERGE.get(name, 2), FIRST_ROWS.get(name, 0), model.config.vision_config.patch_size
    patch = patch if isinstance(patch, int) else patch[0]
    pixels = inputs["pixel_values"]
    height, width = (int(side) // patch for side in inputs.get("image_sizes", [pixels.shape[-2:]])[0])
    found = []
    for tile in range(pixels.shape[:-3].numel()):
        start = tile * (first + height * width) + first
        for row in range(height // merge):
            for col in range(width // merge):
                at = [(row * merge + y) * width + col * merge + x for y in range(merge) for x in range(merge)]
                found.append([start + each for each in at])
    return found


def windows(config: Any, grids: list[list[int]]) -> list[int]:
    """Qwen2.5-VL's order of tokens inside the tower: window after window, row by row in each."""
    side, order, first = config.window_size // config.patch_size // config.spatial_merge_size, [], 0
    for _, height, width in grids:
        rows, cols = height // 2, width // 2
        for top in range(0, rows, side):
            for left in range(0, cols, side):
                for row in range(top, min(top + side, rows)):
                    order += [first + row * cols + col for col in range(left, min(left + side, cols))]
        first += rows * cols
    return order
