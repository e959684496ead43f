"""Which part of a picture each image token covers.

In:  the processor's output for one picture, and how many image tokens the picture became.
Out: a Layout: rows and columns of the token grid and the part of the picture it covers, or no grid.

Every rule takes its numbers from the processor's output and the model's config. There is no grid where the tokens of a
family do not form one: tiles beside a thumbnail (LLaVA-NeXT, LLaVA-OneVision, InternVL and Idefics 3 with tiling,
Gemma 3 with pan and scan), queries that were learned, or a family that no rule fits. Then the Layout says which.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels of the picture


@dataclass(frozen=True)
class Layout:
    """How the tokens of one picture are arranged."""

    tokens: int
    size: tuple[int, int]  # width, height of the picture
    rows: int | None = None
    cols: int | None = None
    region: Box | None = None  # what the grid covers; it extends beyond the picture if the processor pads
    resized: tuple[int, int] | None = None  # width and height of what the vision tower gets
    instead: str = ""  # what there is in place of a grid

    def __str__(self) -> str:
        return f"{self.rows} x {self.cols} grid" if self.rows else f"{self.tokens} tokens, no simple grid{self._why}"

    @property
    def _why(self) -> str:
        return f": {self.instead}" if self.instead else ""

    def places(self) -> Iterator[tuple[int | None, int | None, Box | None]]:
        """(row, column, box) of each token in order; the box is None in padding, all three where there is no grid."""
        if self.rows is None or self.cols is None or self.region is None:
            yield from [(None, None, None)] * self.tokens
            return
        left, top, right, bottom = self.region
        width, height = (right - left) / self.cols, (bottom - top) / self.rows
        for index in range(self.tokens):
            row, col = divmod(index, self.cols)
            box = (left + col * width, top + row * height, left + (col + 1) * width, top + (row + 1) * height)
            yield row, col, _within(box, self.size)


def _within(box: Box, size: tuple[int, int]) -> Box | None:
    """The part of `box` inside a picture of `size`."""
    left, top = max(box[0], 0.0), max(box[1], 0.0)
    right, bottom = min(box[2], float(size[0])), min(box[3], float(size[1]))
    return (left, top, right, bottom) if left < right and top < bottom else None


@dataclass(frozen=True)
class Encoded:
    """What a rule may use."""

    config: Any  # of the model
    processor: Any
    outputs: Mapping[str, Any]  # of the processor
    index: int  # which picture
    tokens: int  # how many image tokens the picture became
    size: tuple[int, int]  # width and height of the picture in pixels
    pictures: int = 1  # how many there are

    @property
    def pixels(self) -> tuple[int, int]:
        """Width and height of one tile, as the vision tower gets it."""
        height, width = self.outputs["pixel_values"].shape[-2:]
        return int(width), int(height)


def layout(encoded: Encoded) -> Layout:
    """Where the tokens of a picture are: by the processor's grid if it gives one, else by the family's rule."""
    rule = next((found for key, found in GIVEN.items() if key in encoded.outputs), None)
    if getattr(encoded.processor, "image_break_token", None):
        rule = pixtral_rows
    rule = rule or RULES.get(getattr(encoded.config, "model_type", ""))
    found = rule(encoded) if rule else None
    if found is None or (found.rows or 0) * (found.cols or 0) != encoded.tokens:
        return Layout(encoded.tokens, encoded.size, instead=_instead(encoded, found))
    return found


def _instead(encoded: Encoded, one: Layout | None) -> str:
    """What the tokens are where they are not `one` grid."""
    cells = (one.rows or 0) * (one.cols or 0) if one else 0
    if any(hasattr(encoded.config, part) for part in LEARNED):
        return "learned queries, each of which reads the whole picture"
    if _views(encoded.outputs) > encoded.pictures or (cells and encoded.tokens % cells == 0):
        return "several views of the picture (tiles, crops, a small copy of the whole)"
    return f"how the tokens of model family '{getattr(encoded.config, 'model_type', '')}' are arranged is not known"


def _views(outputs: Mapping[str, Any]) -> int:
    """How many all pictures have: in `target_sizes`, or in pixels [..., 3, H, W] or [views, patches, values]."""
    if "target_sizes" in outputs:
        return len(outputs["target_sizes"])
    pixels = outputs.get("pixel_values")
    return 1 if pixels is None or pixels.ndim < 3 else pixels.shape[: max(1, pixels.ndim - 3)].numel()


# What configs of families with such queries have: BLIP-2 and its like, Idefics, Kosmos-2, Aria.
LEARNED = ("qformer_config", "perceiver_config", "latent_query_num", "projector_patch_to_query_dict")


def _whole(encoded: Encoded, rows: int, cols: int, resized: tuple[int, int]) -> Layout:
    """A grid over the whole picture."""
    width, height = encoded.size
    return Layout(encoded.tokens, encoded.size, rows, cols, (0.0, 0.0, float(width), float(height)), resized)


def merged_patches(encoded: Encoded) -> Layout:
    """Qwen-VL and its like: `image_grid_thw` counts patches, of which merge_size x merge_size make one token."""
    processor = encoded.processor.image_processor
    frames, rows, cols = encoded.outputs["image_grid_thw"][encoded.index].tolist()
    merge, patch = processor.merge_size, processor.patch_size
    assert frames == 1, "one picture is one frame"
    return _whole(encoded, rows // merge, cols // merge, (cols * patch, rows * patch))


def pixtral_rows(encoded: Encoded) -> Layout:
    """Pixtral's processor: `image_sizes` is the resized picture. A break token, not an image token, ends each row."""
    height, width = (int(side) for side in encoded.outputs["image_sizes"][encoded.index])
    cell = encoded.processor.patch_size * getattr(encoded.processor, "spatial_merge_size", 1)
    return _whole(encoded, height // cell, width // cell, (width, height))


def positions_of_patches(encoded: Encoded) -> Layout | None:
    """Gemma 4: `image_position_ids` has the column and row of each patch, -1 in padding."""
    places = encoded.outputs["image_position_ids"][encoded.index]
    cols, rows = (int(most) + 1 for most in places.max(dim=0).values)
    return _pooled(encoded, rows, cols)


def sizes_in_patches(encoded: Encoded) -> Layout | None:
    """MiniCPM-V: `target_sizes` has the rows and columns of patches of every view of every picture."""
    views = encoded.outputs["target_sizes"]
    return _pooled(encoded, *views[encoded.index].tolist()) if len(views) == encoded.pictures else None


def _pooled(encoded: Encoded, rows: int, cols: int) -> Layout | None:
    """A grid over the whole picture, of square blocks of its rows x cols patches."""
    side = math.isqrt(rows * cols // encoded.tokens)  # of a block; `layout` checks it against the tokens
    patch = encoded.processor.image_processor.patch_size
    return _whole(encoded, rows // side, cols // side, (cols * patch, rows * patch)) if side else None


def gemma3(encoded: Encoded) -> Layout:
    """The picture squashed to a square, with its patches pooled to mm_tokens_per_image (Gemma3MultiModalProjector)."""
    across = int(encoded.config.mm_tokens_per_image**0.5)
    return _whole(encoded, across, across, encoded.pixels)


def one_tile(encoded: Encoded) -> Layout:
    """The picture fills a square or is padded to one; blocks of patches become a token each. Several tiles: no grid."""
    config = encoded.config
    width, height = encoded.pixels
    patch = config.vision_config.patch_size
    patch_width, patch_height = patch if isinstance(patch, list | tuple) else (patch, patch)
    merge = MERGED[config.model_type](config)  # patches on each side of a block
    found = _whole(encoded, int(height / patch_height / merge), int(width / patch_width / merge), (width, height))
    region = PADDED.get(config.model_type)
    return replace(found, region=region(encoded)) if region else found


# The side of a block in patches, under the name each family has for it. If the family tiles pictures: of one tile.
MERGED: dict[str, Callable[[Any], float]] = {
    **dict.fromkeys(("paligemma", "deepseek_vl", "deepseek_vl_hybrid", "janus"), lambda config: 1),
    "internvl": lambda config: 1 / config.downsample_ratio,
    **dict.fromkeys(("aya_vision", "cohere2_vision"), lambda config: config.downsample_factor),
    **dict.fromkeys(("idefics3", "smolvlm"), lambda config: config.scale_factor),
    "llama4": lambda config: 1 / config.vision_config.pixel_shuffle_ratio,
    "ovis2": lambda config: config.vision_config.hidden_stride,
    "got_ocr2": lambda config: 4,  # GotOcr2MultiModalProjector: two convolutions that halve each side
}


def _middle(encoded: Encoded) -> Box:
    """The square around a picture that was shrunk into its middle. DeepSeek-VL's larger tower shrinks first."""
    square = encoded.outputs.get("high_res_pixel_values", encoded.outputs["pixel_values"]).shape[-1]
    least = encoded.processor.image_processor.min_size
    inner = [max(round(edge * square / max(encoded.size)), least) for edge in encoded.size]
    return _around(encoded.size, inner, square, [(square - edge) // 2 for edge in inner])


def _corner(encoded: Encoded) -> Box:
    """The square around a picture that was shrunk into its upper left corner (Llama 4's pad_to_best_fit)."""
    square = encoded.pixels[0]
    inner = [max(edge * square // max(encoded.size), 1) for edge in encoded.size]
    return _around(encoded.size, inner, square, [0, 0])


def _around(size: tuple[int, int], inner: list[int], square: int, offset: list[int]) -> Box:
    """A square in pixels of the picture of `size`, which became `inner` at `offset` in it."""
    across, down = size[0] / inner[0], size[1] / inner[1]  # pixels of the picture per resized pixel
    left, top = -offset[0] * across, -offset[1] * down
    return (left, top, left + square * across, top + square * down)


PADDED: dict[str, Callable[[Encoded], Box]] = {
    **dict.fromkeys(("deepseek_vl", "deepseek_vl_hybrid", "janus"), _middle),
    "llama4": _corner,
}


def llava(encoded: Encoded) -> Layout:
    """One token per patch of the picture, which is cut to its middle square (CLIP) or padded to a square."""
    width, height = encoded.pixels
    processor, patch = encoded.processor.image_processor, encoded.config.vision_config.patch_size
    picture_width, picture_height = encoded.size
    shortest = side(processor.size, "shortest_edge")
    region = (0.0, 0.0, float(picture_width), float(picture_height))
    if getattr(processor, "do_pad", False):  # LlavaImageProcessor pads before it resizes
        longest = max(encoded.size)
        region = _centred(encoded.size, longest, longest)
    elif getattr(processor, "do_center_crop", False) and shortest:
        scale = min(encoded.size) / shortest  # pixels of the picture per resized pixel
        region = _centred(encoded.size, width * scale, height * scale)
    return Layout(encoded.tokens, encoded.size, height // patch, width // patch, region, (width, height))


def _centred(size: tuple[int, int], width: float, height: float) -> Box:
    left, top = (size[0] - width) / 2, (size[1] - height) / 2
    return (left, top, left + width, top + height)


def side(size: Any, name: str) -> int | None:
    """An entry of an image processor's `size`, which is a dictionary or, in transformers 5, an object."""
    return size.get(name) if isinstance(size, Mapping) else getattr(size, name, None)


GIVEN: dict[str, Callable[[Encoded], Layout | None]] = {  # what a processor may give
    "image_grid_thw": merged_patches,
    "image_position_ids": positions_of_patches,
    "target_sizes": sizes_in_patches,
}
RULES: dict[str, Callable[[Encoded], Layout | None]] = {
    "gemma3": gemma3,
    "llava": llava,
    **dict.fromkeys(MERGED, one_tile),
}
