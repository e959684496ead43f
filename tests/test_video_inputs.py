"""Videos as the model gets them, against transformers' own processors with their real video parts.

The real ones need torchvision, which lies in a folder of its own (`make tests`); `real_video.py` runs them there.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from brute_tower import windows
from real_video import positions
from transformers import AutoConfig, AutoModelForImageTextToText
from vl_families import make_vl_checkpoint, picture

from mask_impact.lens.ready import ready
from mask_impact.lens.stacks import Decoder, VisionEncoder
from mask_impact.model.find import find_model
from mask_impact.model.load import load_model
from mask_impact.model.processors import load_processor
from mask_impact.prompt import clips
from mask_impact.prompt.clips import Clip, Sampling, open_clips
from mask_impact.prompt.films import open_film
from mask_impact.prompt.video_part import video_part
from mask_impact.prompt.vision import open_pictures, vision_inputs
from mask_impact.prompt.wording import wording

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
TORCHVISION = Path(os.environ.get("TORCHVISION", Path(sys.prefix, "torchvision")))
RATE = 4.0  # frames for each second of the clips here


@dataclasses.dataclass(frozen=True)
class Case:
    """A prompt: videos of (frames, height, width), and pictures; what the processor is asked for."""

    videos: tuple[tuple[int, int, int], ...]
    prompt: str = "What is on the left?"
    pictures: int = 0
    fps: float = 2.0
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)  # of the checkpoint's video part


CASES = {
    "even": Case(((8, 84, 112),)),
    "odd": Case(((5, 100, 60),), "a <video> is it red?"),
    "an odd number is sampled": Case(((9, 84, 112),), fps=2.5),
    "large": Case(((9, 200, 300),)),
    "long": Case(((24, 84, 112),)),
    "two frames": Case(((2, 64, 64),)),
    "denser than the file": Case(((6, 64, 64),), fps=30.0),
    "two videos and a picture": Case(((7, 40, 60), (12, 56, 56)), "<video> or <image> or <video>?", 1, 3.0),
    "a picture, and fewer frames than are taken at least": Case(((9, 84, 112),), pictures=1, fps=1.0),
    "capped": Case(((12, 240, 320),), settings={"cap_pixels_per_frame": True, "max_video_tokens": 24}),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("videos")


def checkpoint(name: str, case: Case, root: Path) -> Path:
    """A family's; with the case's settings in the file that has those of videos."""
    folder = root / (name if not case.settings else f"{name}-{'-'.join(case.settings)}")
    if not folder.exists():
        make_vl_checkpoint(name, folder)
        if case.settings:
            said = [folder / file for file in ("video_preprocessor_config.json", "preprocessor_config.json")]
            settings = json.loads(next(file for file in said if file.exists()).read_text())
            said[0].write_text(json.dumps({**settings, **case.settings}))
    return folder


def frames(count: int, height: int, width: int) -> np.ndarray:
    """[count, 3, height, width] uint8"""
    return np.stack([np.array(picture(height, width, seed=seed)).transpose(2, 0, 1) for seed in range(count)])


def opened(case: Case, part: Any, root: Path, monkeypatch: pytest.MonkeyPatch) -> list[Clip]:
    """The case's videos, from folders of frames which are said to have `RATE`."""
    paths = []
    for shape in case.videos:
        paths.append(root / "x".join(map(str, shape)))
        paths[-1].mkdir(exist_ok=True)
        for at in range(shape[0]):
            picture(*shape[1:], seed=at).save(paths[-1] / f"{at}.png")
    monkeypatch.setattr(clips, "open_film", lambda path: dataclasses.replace(open_film(path), fps=RATE))
    return open_clips(paths, part, Sampling(case.fps))


@pytest.fixture(scope="module")
def found(root: Path) -> dict[tuple[str, str], tuple[dict[str, Any], dict[str, Any]]]:
    """(ours, theirs) of every family and case."""
    assert TORCHVISION.is_dir(), f"no torchvision in {TORCHVISION}; run: make tests, which puts it there"
    ours, cases = {}, []
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name in FAMILIES:
            for label, case in CASES.items():
                folder = checkpoint(name, case, root)
                source = find_model(str(folder), vision=True)
                processor = load_processor(source)
                model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder))
                videos = opened(case, video_part(processor, source.config), root, monkeypatch)
                images = [picture(84, 112, seed=40 + at) for at in range(case.pictures)]
                inputs = vision_inputs(processor, source.config, case.prompt, open_pictures(images), clips=videos)
                counts = {"image": case.pictures, "video": len(case.videos)}
                part = video_part(processor, source.config)
                ours[name, label] = {
                    **inputs.tensors,
                    "positions": positions(model, dict(inputs.tensors)),
                    "part": part,
                    **({"ready": ready(inputs)} if label == "odd" else {}),
                }
                cases.append({
                    "checkpoint": str(folder), "text": wording(processor, case.prompt, counts, None, ())[0],
                    "videos": [torch.from_numpy(frames(*shape)) for shape in case.videos], "images": images,
                    "metadata": [{"total_num_frames": shape[0], "fps": RATE} for shape in case.videos],
                    "options": {"fps": case.fps}, "states": label == "odd",
                })  # fmt: skip
    torch.save(cases, root / "case.pt")
    script = Path(__file__).with_name("real_video.py")
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(TORCHVISION)]))
    run = subprocess.run(
        [sys.executable, script, root],
        check=False,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    theirs = torch.load(root / "found.pt", weights_only=False)
    return {key: (mine, other) for (key, mine), other in zip(ours.items(), theirs, strict=True)}


@pytest.mark.parametrize("label", CASES)
@pytest.mark.parametrize("name", FAMILIES)
def test_inputs_are_those_of_the_real_processor(name: str, label: str, found: Any) -> None:
    ours, theirs = (dict(each) for each in found[name, label])
    part, settings = ours.pop("part"), theirs.pop("settings")
    ours.pop("ready", None), theirs.pop("states", None)
    with_torchvision = SimpleNamespace(video_processor=SimpleNamespace(to_dict=lambda: settings))
    same = video_part(with_torchvision, SimpleNamespace(model_type=name))
    one, other = (json.dumps({key: each.settings[key] for key in part.rule.defaults}) for each in (part, same))
    assert one == other, "with torchvision, the part would have other settings"
    assert set(ours) == set(theirs)
    for key, other in theirs.items():
        assert ours[key].shape == other.shape, f"{key}: {ours[key].shape}, not {other.shape}"
        largest = (ours[key].double() - other.double()).abs().max().item()
        assert largest <= (1e-5 if "pixel" in key else 0.0), f"{key}: up to {largest} apart"


@pytest.mark.parametrize("name", FAMILIES)
def test_the_lens_has_the_states_of_the_real_model(name: str, found: Any, root: Path) -> None:
    """Of a video's tokens, frame by frame, in the decoder; of its patches, as they lie in each frame, in the vision
    encoder. 5 frames are 3 temporal patches of 3 or 4 x 2 tokens."""
    ours, theirs = found[name, "odd"]
    source = find_model(str(root / name), vision=True)
    model, image = load_model(source, torch.device("cpu"), torch.float32), ours["ready"]
    places = image.positions
    for layer, state in Decoder(source.config).states(model, [image], range(3)).items():
        torch.testing.assert_close(state, theirs["states"]["decoder"][layer][0, places], rtol=1e-3, atol=1e-3)
    grid = theirs["video_grid_thw"][0].tolist()
    order = [[4 * token + each for each in range(4)] for token in range(len(places))]
    if name == "qwen2_5_vl":
        place = {group: at for at, group in enumerate(windows(source.config.vision_config, frames_apart(grid)))}
        order = [order[place[token]] for token in range(len(places))]
    rows = [
        order[(time * grid[1] + y) // 2 * (grid[2] // 2) + x // 2][y % 2 * 2 + x % 2]
        for time in range(grid[0]) for y in range(grid[1]) for x in range(grid[2])
    ]  # fmt: skip
    for layer, state in VisionEncoder(source.config, "patch").states(model, [image], range(2)).items():
        torch.testing.assert_close(state, theirs["states"]["vision"][layer][rows], rtol=1e-3, atol=1e-3)


def frames_apart(grid: list[int]) -> list[list[int]]:
    """The grid of each temporal patch: windows lie in one."""
    return [[1, *grid[1:]]] * grid[0]


@pytest.mark.skipif(transformers.__version__ < "5", reason="4.57's processor has no limit for each frame")
def test_the_cases_are_of_several_kinds(found: Any) -> None:
    """Or the comparison would say less than its names do."""
    grids = {(name, label): mine["video_grid_thw"].tolist() for (name, label), (mine, _) in found.items()}
    assert grids["qwen3_vl", "an odd number is sampled"][0][0] == 3  # of 5 frames
    assert len(grids["qwen3_vl", "two videos and a picture"]) == 2
    for name in FAMILIES:
        assert len({tuple(grid) for (of, _), found in grids.items() if of == name for grid in found}) > 4
