"""What a family's video processor does, without torchvision: which frames, of which size, and as which patches.

In:  the settings of the checkpoint's video processor.
Out: a VideoPart, which stands in a processor in the place of its own video part, with or without torchvision.

    part = video_part(processor, config)
    part.sampled(total=300, fps=30.0, rate=2.0)     # (0, 16, 31, ...)
    part.fitted(20, (640, 360))                     # (width, height) of every frame for the vision tower
    part([frames], video_metadata=[...])            # pixel_values_videos, video_grid_thw

The rules are those of transformers 5.24: models/qwen2_vl/video_processing_qwen2_vl.py and models/qwen3_vl/.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mask_impact.errors import UnsupportedModel
from mask_impact.prompt.grids import side

RATE = 2.0  # frames for each second where neither the user nor the checkpoint says how many
RESAMPLED = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
NARROWEST = 200  # times as long as high, or as high as long

CLIP = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
HALVES = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
SHARED = {
    "temporal_patch_size": 2, "merge_size": 2, "min_frames": 4, "max_frames": 768, "rescale_factor": 1 / 255,
    "resample": 3, "do_resize": True, "do_rescale": True, "do_normalize": True, "cap_pixels_per_frame": False,
}  # fmt: skip


@dataclass(frozen=True)
class VideoPart:
    """The video part of a processor."""

    rule: "Rule"
    settings: Mapping[str, Any]  # those of the checkpoint over the family's defaults

    def __getattr__(self, name: str) -> Any:
        """A setting, as the processor around it asks for one."""
        if name.startswith("_") or name not in self.settings:
            raise AttributeError(name)
        return self.settings[name]

    @property
    def model_input_names(self) -> list[str]:
        return ["pixel_values_videos", "video_grid_thw"]

    @property
    def rate(self) -> float:
        """Frames for each second, if the user does not say."""
        return float(self.settings.get("fps") or RATE)

    def sampled(self, total: int, fps: float, rate: float | None = None, most: int | None = None) -> tuple[int, ...]:
        """The frames that are taken of `total`, `rate` for each second and `most` at most; the last may come twice."""
        return self.rule.sampled(self, total, fps, rate or self.rate, most or self.max_frames)

    def fitted(self, frames: int, size: tuple[int, int], max_pixels: int | None = None) -> tuple[int, int]:
        """Width and height that every frame is resized to. Raises ValueError for a picture too long or too high."""
        if not self.do_resize:
            return size
        if max(size) > NARROWEST * min(size):
            raise ValueError(f"a frame may be at most {NARROWEST} times as long as high")
        return self.rule.fitted(self, frames, size, max_pixels)

    def resized(self, frame: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
        """[height, width, 3] uint8 as [3, height, width] uint8 of width and height `size`, as torchvision resizes."""
        pixels = torch.from_numpy(frame).permute(2, 0, 1)
        if pixels.shape[1:] == size[::-1]:
            return pixels
        mode = RESAMPLED[self.resample]
        return torch.nn.functional.interpolate(pixels[None], size[::-1], mode=mode, antialias=True)[0]

    def __call__(
        self,
        videos: Sequence[torch.Tensor],
        video_metadata: Sequence[Mapping[str, Any]],
        return_metadata: bool = False,
        **_: Any,
    ) -> dict[str, Any]:
        """The model's inputs of videos whose frames were sampled and resized: [T, 3, height, width] uint8 each."""
        from transformers.video_utils import VideoMetadata

        found = [self._patches(frames) for frames in videos]
        outputs = {
            "pixel_values_videos": torch.cat([patches for patches, _ in found]),
            "video_grid_thw": torch.tensor([grid for _, grid in found]),
        }
        about = [VideoMetadata(**each) for each in video_metadata]
        return {**outputs, "video_metadata": about} if return_metadata else outputs

    def _patches(self, frames: torch.Tensor) -> tuple[torch.Tensor, list[int]]:
        """Patches [T' * rows * cols, values] of a video, and [T', rows, cols]; an odd last frame is repeated."""
        if over := -len(frames) % self.temporal_patch_size:
            frames = torch.cat([frames, frames[-1:].expand(over, -1, -1, -1)])
        scale = self.rescale_factor if self.do_rescale else 1.0
        mean, std = (self.image_mean, self.image_std) if self.do_normalize else (0.0, 1.0)
        channels = [torch.tensor(each, dtype=torch.float32).view(-1, 1, 1) for each in (mean, std)]
        pixels = (frames.float() * scale - channels[0]) / channels[1]
        times, patch, merge = self.temporal_patch_size, self.patch_size, self.merge_size
        grid = [len(frames) // times, frames.shape[2] // patch, frames.shape[3] // patch]
        cut = pixels.view(
            grid[0], times, 3, grid[1] // merge, merge, patch, grid[2] // merge, merge, patch
        )  # [T', times, channel, block row, row in it, y, block column, column in it, x]
        return cut.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(math.prod(grid), -1), grid


# --- the rules of families ----------------------------------------------------------------------------------
@dataclass(frozen=True)
class Rule:
    """How a family's video processor samples frames and chooses their size."""

    defaults: Mapping[str, Any]
    sampled: Callable[[VideoPart, int, float, float, int], tuple[int, ...]]
    fitted: Callable[[VideoPart, int, tuple[int, int], int | None], tuple[int, int]]


def _in_whole_patches(part: VideoPart, total: int, fps: float, rate: float, most: int) -> tuple[int, ...]:
    """Qwen2-VL, Qwen2.5-VL: an even number of frames from the first on, equally far apart."""
    times = part.temporal_patch_size
    most = min(most, total) // times * times
    count = math.floor(min(max(total / fps * rate, part.min_frames), most, total) / times) * times
    return tuple(torch.arange(0, total, total / count).int().tolist()) if count else (0,)  # of one frame: itself


def _from_first_to_last(part: VideoPart, total: int, fps: float, rate: float, most: int) -> tuple[int, ...]:
    """Qwen3-VL: frames equally far apart, the first and the last among them."""
    count = min(max(int(total / fps * rate), part.min_frames), most, total)
    return tuple(np.linspace(0, total - 1, count).round().astype(int).tolist())


def _each_frame(part: VideoPart, frames: int, size: tuple[int, int], max_pixels: int | None) -> tuple[int, int]:
    """Qwen2-VL, Qwen2.5-VL: the limits are of one frame."""
    least, most = (side(part.size, name) or 0 for name in ("shortest_edge", "longest_edge"))
    if part.cap_pixels_per_frame:
        all_pixels = int(part.max_video_tokens * (part.patch_size * part.merge_size) ** 2 * 0.9)
        most = max(min(most, all_pixels * part.temporal_patch_size // frames), int(least * 1.05))
    return _between(part, 1, 1, size, (least, min(most, max_pixels or most)))


def _all_frames(part: VideoPart, frames: int, size: tuple[int, int], max_pixels: int | None) -> tuple[int, int]:
    """Qwen3-VL: the limits are of all frames together."""
    times, cell = part.temporal_patch_size, part.patch_size * part.merge_size
    least, most = (side(part.size, name) or 0 for name in ("shortest_edge", "longest_edge"))
    frames = max(frames, times)  # transformers refuses a single frame; it is repeated here
    if part.cap_pixels_per_frame:
        most = max(min(part.max_video_tokens * cell**2, most // frames), int(least * 1.05)) * frames
    if min(size) < cell:
        scale = cell / min(size)
        size = int(size[0] * scale), int(size[1] * scale)
    counted = round(frames / times) * times
    return _between(part, frames, counted, size, (least, min(most, (max_pixels or most) * frames)))


def _between(
    part: VideoPart, frames: int, counted: int, size: tuple[int, int], limits: tuple[int, int]
) -> tuple[int, int]:
    """The size in whole cells next to `size`, with which `frames` frames are between two numbers of pixels."""
    cell, (least, most) = part.patch_size * part.merge_size, limits
    width, height = (round(edge / cell) * cell for edge in size)
    pixels = frames * size[0] * size[1]
    if counted * width * height > most:
        shrink = math.sqrt(pixels / most)
        width, height = (max(cell, math.floor(edge / shrink / cell) * cell) for edge in size)
    elif counted * width * height < min(least, most):
        grow = math.sqrt(min(least, most) / pixels)
        width, height = (math.ceil(edge * grow / cell) * cell for edge in size)
    return width, height


QWEN2 = Rule(
    {**SHARED, **CLIP, "patch_size": 14, "max_video_tokens": 128_000,
     "size": {"shortest_edge": 128 * 28 * 28, "longest_edge": 28 * 28 * 768}},
    _in_whole_patches, _each_frame,
)  # fmt: skip
QWEN3 = Rule(
    {**SHARED, **HALVES, "patch_size": 16, "max_video_tokens": 768,
     "size": {"shortest_edge": 128 * 32 * 32, "longest_edge": 32 * 32 * 768}},
    _from_first_to_last, _all_frames,
)  # fmt: skip
FAMILIES = {"qwen2_vl": QWEN2, "qwen2_5_vl": QWEN2, "qwen3_vl": QWEN3, "qwen3_vl_moe": QWEN3}


def video_part(processor: Any, config: Any) -> VideoPart:
    """The video part of a processor, by its own settings. Raises UnsupportedModel for a family that has no rule."""
    family = getattr(config, "model_type", "")
    if family not in FAMILIES:
        raise UnsupportedModel(
            f"`videos` were given, but videos of model family '{family}' are not supported: how its processor samples "
            f"them is not known here; choose a model of {', '.join(FAMILIES)}, or give frames as `images`"
        )
    own = processor.video_processor
    given = {
        name: value for name, value in (getattr(own, "settings", None) or own.to_dict()).items() if value is not None
    }
    rule = FAMILIES[family]
    size = {**rule.defaults["size"]} | dict(given.get("size") or {})
    for name, edge in (("min_pixels", "shortest_edge"), ("max_pixels", "longest_edge")):
        if rule is QWEN2 and name in given:  # older names, which win
            size[edge] = given[name]
    return VideoPart(rule, {**rule.defaults, **given, "size": size})


@contextmanager
def taking_part(processor: Any, part: VideoPart | None) -> Iterator[None]:
    """In here `part` is the processor's video part."""
    if part is None:
        yield
        return
    before, processor.video_processor = processor.video_processor, part
    try:
        yield
    finally:
        processor.video_processor = before
