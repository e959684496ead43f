"""The stacks whose hidden states can be read: the decoder, with a row for each image token, and the vision encoder,
with a row for each patch, or the mean of the patches of each image token.

In:  a model's config; a model and pictures that go together. Out: a stack's layers and width, and the rows of each
     picture at each layer: [P, C], one picture after the other.

Layer 0 of a vision encoder is what its first layer gets: patch embeddings with what the family adds to them. Layer k is
what its k-th layer gives, before the last norm and whatever merges or projects patches. Rows of patches are in the
order of the picture, row by row, whatever the order inside of the encoder is.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any

import torch

from mask_impact.lens.feature_files import Record
from mask_impact.lens.ready import Ready, on_device, together
from mask_impact.lens.states import hidden_states, states_between
from mask_impact.model.towers import DECODER_ALONE, VISION, named
from mask_impact.model.vision_patches import NO_TOKEN, followed
from mask_impact.model.vision_tower import unsupported_tower, vision_layers, vision_width


class Decoder:
    """Image tokens in the decoder."""

    name, unit = "decoder", "token"

    def __init__(self, config: Any) -> None:
        self.blocks: int = DECODER_ALONE.size(config)[0]
        self.width: int = config.get_text_config(decoder=True).hidden_size

    def about(self, model: Any, image: Ready) -> Record:
        """What the summary says of the rows besides: there is one for each image token."""
        return {}

    def states(
        self, model: Any, images: Sequence[Ready], layers: Sequence[int], added: dict[int, torch.Tensor] | None = None
    ) -> dict[int, torch.Tensor]:
        """{layer: [P, C]} of pictures that go together, their rows one after the other; `added` as in
        `hidden_states`."""
        tokens = torch.cat([image.tokens for image in images])
        tensors = on_device(model, together([image.tensors for image in images]))
        return hidden_states(model, tensors, layers, tokens, added)


@dataclass(frozen=True)
class Patches:
    """The rows of a forward of the encoder over one picture, in the picture's order."""

    total: int  # rows of the forward
    of_units: list[list[int]]  # the rows of each patch, or of each image token
    grid: list[int] | None  # rows and columns of patches; None: they form no grid
    without_token: int  # rows that become no image token


class VisionEncoder:
    """Patches in the vision encoder."""

    name = "vision"

    def __init__(self, config: Any, unit: str) -> None:
        """Raises UserError for a model without a vision encoder that can be read."""
        self.unit = unit
        self.blocks = named(config, "vision").size(config)[0]
        self.width = vision_width(config)
        self.known: dict[bytes, Patches] = {}  # by all that they depend on

    def about(self, model: Any, image: Ready) -> Record:
        """How many rows the picture has, its grid of patches, and how many rows of the encoder are left out."""
        found = self.patches(model, image)
        return {
            "row_count": len(found.of_units),
            "patch_grid": found.grid,
            "rows_without_token": found.without_token,
        }

    def states(
        self, model: Any, images: Sequence[Ready], layers: Sequence[int], added: dict[int, torch.Tensor] | None = None
    ) -> dict[int, torch.Tensor]:
        """{layer: [P, C]} of pictures that go together, their rows one after the other. Nothing is `added` between the
        layers of an encoder."""
        units: list[list[int]] = []
        first = 0
        for image in images:
            found = self.patches(model, image)
            units += [[first + row for row in rows] for rows in found.of_units]
            first += found.total
        rows = torch.tensor(units)  # [P, patches of each]

        def kept(hidden: torch.Tensor) -> torch.Tensor:
            flat = hidden.flatten(0, -2)
            if flat.shape != (first, self.width):
                what = f"it has {flat.shape[0]} states of {flat.shape[1]} numbers, not {first} of {self.width}"
                raise unsupported_tower(model.config, what)
            chosen = flat[rows.to(flat.device)]  # [P, patches of each, C]
            return chosen[:, 0] if self.unit == "patch" else chosen.mean(dim=1)

        tensors = on_device(model, together([image.tensors for image in images]))
        return states_between(model, vision_layers(model), tensors, layers, kept)

    def patches(self, model: Any, image: Ready) -> Patches:
        """Raises UnsupportedModel for an encoder whose patches cannot be followed to image tokens."""
        digest = hashlib.sha256()
        for name, tensor in sorted(image.tensors.items()):
            digest.update(repr((name, tuple(tensor.shape))).encode())
            if not tensor.is_floating_point():  # grids, sizes and what is padding
                digest.update(tensor.numpy().tobytes())
        key = digest.digest()
        if key not in self.known:
            found = followed(model, on_device(model, image.tensors), image.positions)
            self.known[key] = in_order(found, image.record["grid"], self.unit)
            self._check(model, self.known[key])
        return self.known[key]

    def _check(self, model: Any, found: Patches) -> None:
        if len({len(rows) for rows in found.of_units}) > 1:
            raise unsupported_tower(model.config, "its image tokens are made of unequal numbers of patches")


def in_order(positions: Sequence[int], grid: Sequence[int] | None, unit: str) -> Patches:
    """The rows of patches, or of image tokens, as they lie in the picture.

    Args:
        positions: [N] the image token of each row of the encoder.
        grid: rows and columns of the picture's image tokens, or of those of each frame.
    """
    of_token: dict[int, list[int]] = {}
    for row, position in enumerate(positions):
        of_token.setdefault(position, []).append(row)
    without = len(of_token.pop(NO_TOKEN, ()))
    tokens = [of_token[position] for position in sorted(of_token)]
    each = len(tokens[0])
    side = isqrt(each)
    patch_grid = None
    if grid and side * side == each and len(tokens) % (grid[0] * grid[1]) == 0:
        patch_grid = [grid[0] * side, grid[1] * side]
    if unit == "token":
        units = tokens
    elif patch_grid and grid:
        square = torch.tensor(tokens).view(-1, *grid, side, side)  # [frames, rows, columns, row and column in a token]
        units = [[row] for row in square.transpose(2, 3).flatten().tolist()]
    else:
        units = [[row] for rows in tokens for row in rows]
    return Patches(len(positions), units, patch_grid, without)


Stack = Decoder | VisionEncoder


def stack_of(config: Any, tower: str, unit: str = "patch") -> Stack:
    """Raises UserError for a tower that the model does not have."""
    return VisionEncoder(config, unit) if tower == VISION.name else Decoder(config)
