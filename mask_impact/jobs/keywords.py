"""The keywords of the Python functions, as types. Made by tools/make_keywords.py from `options.Request`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict


class MaskingRequest(TypedDict, total=False):
    """Of `run_masking_experiment`."""

    answer: str | None
    layers: str | Sequence[int] | None
    variants: str | Sequence[str]
    metrics: str | Sequence[str]
    head_space: str
    ablation: str
    queries: str | Sequence[tuple[int, int]] | None
    null_runs: str | Path | None
    mask_unit: str | None
    spans: str | Sequence[str]
    readers: str | Sequence[str]
    no_check: bool
    chat: bool
    system: str | None
    messages: str | Sequence[Mapping[str, Any]]
    tower: str
    attention: str | Sequence[str]


class EffectsRequest(TypedDict, total=False):
    """Of `run_effects_experiment`."""

    answer: str | None
    ablation: str
    mask_unit: str | None
    spans: str | Sequence[str]
    mask_layers: str | Sequence[int | str]
    readers: str | Sequence[str]
    blocks: str | Sequence[str] | None
    routes: str | Sequence[str]
    by_head: bool
    heads: str | Sequence[str]
    contrast: str | Sequence[str]
    pairs: int
    top: int
    refine: int
    max_masks: int | None
    no_check: bool
    chat: bool
    system: str | None
    messages: str | Sequence[Mapping[str, Any]]
    tower: str


class VLMaskingRequest(TypedDict, total=False):
    """Of `run_vl_masking_experiment`."""

    answer: str | None
    layers: str | Sequence[int] | None
    variants: str | Sequence[str]
    metrics: str | Sequence[str]
    head_space: str
    ablation: str
    queries: str | Sequence[tuple[int, int]] | None
    null_runs: str | Path | None
    mask_unit: str | None
    spans: str | Sequence[str]
    readers: str | Sequence[str]
    no_check: bool
    system: str | None
    messages: str | Sequence[Mapping[str, Any]]
    tower: str
    videos: str | Path | Sequence[str | Path]
    fps: float | None
    max_frames: int | None
    vision_attention: str
    max_pixels: int | None
    regions: str | Sequence[str]
    region_masks: str | Sequence[str]


class VLEffectsRequest(TypedDict, total=False):
    """Of `run_vl_effects_experiment`."""

    answer: str | None
    ablation: str
    mask_unit: str | None
    spans: str | Sequence[str]
    mask_layers: str | Sequence[int | str]
    readers: str | Sequence[str]
    blocks: str | Sequence[str] | None
    routes: str | Sequence[str]
    by_head: bool
    heads: str | Sequence[str]
    contrast: str | Sequence[str]
    pairs: int
    top: int
    refine: int
    max_masks: int | None
    no_check: bool
    system: str | None
    messages: str | Sequence[Mapping[str, Any]]
    tower: str
    videos: str | Path | Sequence[str | Path]
    fps: float | None
    max_frames: int | None
    vision_attention: str
    max_pixels: int | None
    regions: str | Sequence[str]
    region_masks: str | Sequence[str]
