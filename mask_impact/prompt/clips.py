"""From a video to the frames that the model gets, with what the manifest says of them.

In:  the path of a video, the model's VideoPart, and how densely frames are to be sampled.
Out: a Clip: the sampled frames, resized, and pictures of some of them to be shown.

Two frames become one temporal patch; an odd last one is repeated. Frames are decoded one after the other, and only the
sampled ones are kept, resized: memory does not grow with the length of the video.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image

from mask_impact.errors import UserError
from mask_impact.prompt.films import SHOWN, Film, open_film, size_of, small, video_sha256
from mask_impact.prompt.video_part import VideoPart


@dataclass(frozen=True)
class Sampling:
    """What the user asks of every video; None: as the model's processor does."""

    fps: float | None = None
    max_frames: int | None = None
    max_pixels: int | None = None  # of a frame
    positions: int | None = None  # of the model; a video of more tokens is refused before it is decoded


@dataclass(frozen=True)
class Clip:
    """A video as the model gets it."""

    path: str
    sha256: str
    format: str
    size: tuple[int, int]  # width and height of its frames, as a player shows them
    total: int  # frames in the file
    fps: float  # of the file
    indices: tuple[int, ...]  # the sampled frames
    frames: torch.Tensor = field(repr=False)  # [T, 3, height, width] uint8, resized
    shown: tuple[Image.Image | None, ...] = field(repr=False)  # the first frame of each temporal patch
    notes: tuple[str, ...]
    times: int  # frames in a temporal patch

    @property
    def rate(self) -> float:
        """Sampled frames for each second."""
        return len(self.indices) / self.total * self.fps

    @property
    def metadata(self) -> dict[str, Any]:
        """As transformers' processors take it; they change the list."""
        return {"total_num_frames": self.total, "fps": self.fps, "frames_indices": list(self.indices)}

    @property
    def patches(self) -> list[tuple[int, ...]]:
        """The numbers of the frames in each temporal patch."""
        filled = [*self.indices, *[self.indices[-1]] * (-len(self.indices) % self.times)]
        return [tuple(filled[at : at + self.times]) for at in range(0, len(filled), self.times)]

    def seconds(self, frames: Sequence[int]) -> list[float]:
        """When frames are shown, as the model is told."""
        return [round(frame / self.fps, 6) for frame in frames]

    @property
    def described(self) -> dict[str, Any]:
        """What the manifest says about the video."""
        return {
            "path": self.path.encode(errors="replace").decode(),
            "sha256": self.sha256,
            "format": self.format,
            "notes": list(self.notes),
            "size": list(self.size),
            "resized": [self.frames.shape[3], self.frames.shape[2]],
            "frames": self.total,
            "fps": self.fps,
            "sampled": list(self.indices),
            "sampled_fps": self.rate,
            "seconds": self.seconds(self.indices),
        }


def open_clips(paths: Sequence[str | os.PathLike[str]], part: VideoPart, sampling: Sampling) -> list[Clip]:
    """The videos in order. Raises UserError."""
    return [open_clip(path, part, sampling) for path in paths]


def open_clip(path: str | os.PathLike[str], part: VideoPart, sampling: Sampling) -> Clip:
    """Raises UserError for a video that cannot be read, or that the model cannot take."""
    film = open_film(path)
    sampler = _Sampler(film, part, sampling)
    read = sampler.read(film.total)
    while read.seen <= sampler.indices[-1]:  # fewer frames can be decoded than the file has packets
        read = sampler.read(read.seen)
    return Clip(
        os.fsdecode(path), video_sha256(path), film.format, sampler.size, sampler.total, sampler.fps, sampler.indices,
        torch.stack(read.frames), tuple(read.shown), (*film.notes, *sampler.notes(), *read.notes),
        part.temporal_patch_size,
    )  # fmt: skip


@dataclass
class _Read:
    """What one passage through a film gives."""

    seen: int = 0
    frames: list[torch.Tensor] = field(default_factory=list)
    shown: list[Image.Image | None] = field(default_factory=list)
    late: float = 0.0  # seconds between when a frame is shown and what the model is told, at most

    @property
    def notes(self) -> list[str]:
        if not self.late:
            return []
        return [f"frames are not evenly spaced in time: the model is told times up to {self.late:.2g} s off"]


class _Sampler:
    """Takes frames from a film."""

    def __init__(self, film: Film, part: VideoPart, sampling: Sampling) -> None:
        self.film, self.part, self.sampling = film, part, sampling
        self.rate = sampling.fps or part.rate
        self.fps = film.fps or self.rate  # a folder's frames are sampled already
        self.size = size_of(film)
        self.total = film.total
        self.indices: tuple[int, ...] = ()

    def read(self, total: int) -> _Read:
        """The frames that are sampled of the first `total`."""
        self.total = total
        self.indices = self.part.sampled(total, self.fps, self.rate, self.sampling.max_frames)
        try:
            fitted = self.part.fitted(len(self.indices), self.size, self.sampling.max_pixels)
        except ValueError as error:
            raise UserError(f"the video {self.film.name} is {self.size[0]} x {self.size[1]} pixels; {error}") from error
        self._check_tokens(fitted)
        read, start = _Read(), None
        for image, second in self.film.frames(set(self.indices)):
            start = second if start is None else start
            if second is not None and start is not None:
                off = abs(second - start - read.seen / self.fps)
                read.late = max(read.late, off if off > 0.5 / self.fps else 0.0)
            if image is not None:
                self._keep(read, image, fitted)
            read.seen += 1
            if read.seen > self.indices[-1]:
                break
        return read

    def _check_tokens(self, fitted: tuple[int, int]) -> None:
        cell, frames = self.part.patch_size * self.part.merge_size, len(self.indices)
        tokens = -(-frames // self.part.temporal_patch_size) * (fitted[0] // cell) * (fitted[1] // cell)
        if self.sampling.positions is not None and tokens > self.sampling.positions:
            raise UserError(
                f"the video {self.film.name} becomes {tokens:,} image tokens ({frames} frames of {fitted[0]} x "
                f"{fitted[1]} pixels), and this model has {self.sampling.positions:,} positions; lower `fps`, "
                "`max_frames` or `max_pixels`"
            )

    def _keep(self, read: _Read, image: Image.Image, fitted: tuple[int, int]) -> None:
        if image.size != self.size:
            raise UserError(
                f"the video {self.film.name} has frames of {self.size[0]} x {self.size[1]} and of "
                f"{image.size[0]} x {image.size[1]} pixels; make them one size"
            )
        pixels = self.part.resized(np.array(image.convert("RGB")), fitted)
        for _ in range(self.indices.count(read.seen)):
            patch, place = divmod(len(read.frames), self.part.temporal_patch_size)
            if place == 0:
                read.shown.append(small(image) if patch < SHOWN else None)
            read.frames.append(pixels)

    def notes(self) -> list[str]:
        """What was chosen that was not asked for."""
        taken, rate = len(self.indices), len(self.indices) / self.total * self.fps
        found = []
        if self.film.fps is None:
            found.append(f"a folder has no times: its frames count as {self.fps:g} for each second")
        if taken > SHOWN * self.part.temporal_patch_size:
            found.append(f"the report shows the first {SHOWN} temporal patches alone")
        if taken < self.total:
            found.append(f"{taken} of {self.total} frames are taken, {rate:.3g} for each second")
        if self.rate > self.fps * 1.001:  # files round their rates
            found.append(f"{self.rate:g} frames for each second were asked for, and the file has {self.fps:.4g}")
        wanted = self.total / self.fps * self.rate
        if taken > wanted + 1:
            found.append(f"the model's processor takes {self.part.min_frames} frames or more where there are as many")
        elif taken < min(wanted, self.total) - self.part.temporal_patch_size:
            found.append(f"at most {self.sampling.max_frames or self.part.max_frames} frames are taken")
        return found
