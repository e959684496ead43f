"""Video files as frames: every kind of file, its times, and one clear line for what is no video."""

from __future__ import annotations

import dataclasses
import struct
import sys
import tracemalloc
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from vl_families import picture

from mask_impact.errors import UserError
from mask_impact.prompt import films
from mask_impact.prompt.clips import Sampling, open_clip
from mask_impact.prompt.films import frames_at, open_film, size_of, video_sha256
from mask_impact.prompt.video_part import QWEN2, QWEN3, VideoPart

PART = VideoPart(QWEN3, QWEN3.defaults)
COLORS = [(250, 20, 20), (20, 200, 20), (20, 20, 250), (240, 240, 20), (10, 10, 10), (250, 250, 250)]


def plain(count: int, size: tuple[int, int] = (64, 48)) -> list[Image.Image]:
    return [Image.new("RGB", size, COLORS[at % len(COLORS)]) for at in range(count)]


def colors(shown: Any) -> list[int]:
    """Which of COLORS each frame has most in the middle."""
    middles = [np.array(image)[image.height // 2, image.width // 2].astype(int) for image in shown]
    return [int(np.abs(np.array(COLORS) - middle).sum(axis=1).argmin()) for middle in middles]


def animation(path: Path, frames: list[Image.Image], duration: int | list[int] = 250) -> Path:
    extra = {"lossless": True} if path.suffix == ".webp" else {}
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=duration, **extra)
    return path


def folder(path: Path, frames: list[Image.Image]) -> Path:
    path.mkdir()
    for at, frame in enumerate(frames):
        frame.save(path / f"frame{at}.png")
    return path


def encoded(path: Path, frames: list[Image.Image], times: list[int] | None = None, rate: int = 4) -> Path:
    """A video file; `times` of frames in frame lengths, where they are not evenly spaced."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height = frames[0].size
        stream.pix_fmt, stream.time_base = "yuv420p", Fraction(1, rate)
        for at, image in enumerate(frames):
            frame = av.VideoFrame.from_image(image)
            frame.pts, frame.time_base = (times or range(len(frames)))[at], Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def made(kind: str, tmp_path: Path, frames: list[Image.Image]) -> Path:
    if kind == "folder":
        return folder(tmp_path / "frames", frames)
    path = tmp_path / f"clip.{kind}"
    return animation(path, frames) if kind in ("gif", "webp", "png") else encoded(path, frames)


@pytest.mark.parametrize("kind", ["gif", "webp", "png", "folder", "mp4", "mkv", "avi"])
def test_every_kind_has_its_frames_in_order(kind: str, tmp_path: Path) -> None:
    path = made(kind, tmp_path, plain(12))
    film = open_film(path)
    assert (film.total, size_of(film)) == (12, (64, 48))
    assert film.fps == (None if kind == "folder" else 4.0)
    read = list(film.frames())
    assert colors(image for image, _ in read) == [at % 6 for at in range(12)]
    if kind != "folder":
        assert [second for _, second in read] == pytest.approx([at / 4 for at in range(12)], abs=0.002)
    assert colors(frames_at(path, [0, 7, 9])) == [0, 1, 3]


@pytest.mark.parametrize("kind", ["gif", "folder", "mp4"])
def test_the_frames_that_are_sampled(kind: str, tmp_path: Path) -> None:
    """2 for each second of 5 s, the first and the last among them; a folder's frames are all taken."""
    clip = open_clip(made(kind, tmp_path, plain(20)), PART, Sampling())
    expected = list(range(20)) if kind == "folder" else [0, 2, 4, 6, 8, 11, 13, 15, 17, 19]
    assert list(clip.indices) == expected
    taken = [Image.fromarray(frame.permute(1, 2, 0).numpy()) for frame in clip.frames]
    assert colors(taken) == [at % 6 for at in expected]
    assert colors(clip.shown) == [at % 6 for at in expected[::2]]
    assert clip.seconds(clip.indices) == [at / (2 if kind == "folder" else 4) for at in expected]
    assert any("a folder has no times" in note for note in clip.notes) == (kind == "folder")


@pytest.mark.parametrize(
    ("asked", "count", "note"),
    [
        (Sampling(fps=1), 10, "10 of 40 frames are taken, 1 for each second"),
        (Sampling(fps=0.1), 4, "takes 4 frames or more"),
        (Sampling(max_frames=6), 6, "at most 6 frames are taken"),
        (Sampling(max_frames=1), 1, "at most 1 frames are taken"),
        (Sampling(fps=50), 40, "50 frames for each second were asked for, and the file has 4"),
    ],
)
@pytest.mark.parametrize("rule", [QWEN2, QWEN3], ids=["qwen2", "qwen3"])
def test_what_is_asked_for_and_what_is_noted(rule: Any, asked: Any, count: int, note: str, tmp_path: Path) -> None:
    clip = open_clip(animation(tmp_path / "clip.gif", plain(40)), VideoPart(rule, rule.defaults), asked)
    assert len(clip.indices) == count
    assert any(note in each for each in clip.notes)
    assert len(clip.patches) == -(-count // 2) and all(len(patch) == 2 for patch in clip.patches)


def test_pixels_are_limited(tmp_path: Path) -> None:
    path = animation(tmp_path / "clip.gif", [picture(480, 640, seed) for seed in range(4)])
    for rule in (QWEN2, QWEN3):
        large, small = (
            open_clip(path, VideoPart(rule, rule.defaults), Sampling(max_pixels=most)).frames for most in (None, 9000)
        )
        assert small.shape[2] * small.shape[3] <= 9000 < large.shape[2] * large.shape[3]


def test_a_video_of_too_many_tokens_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = animation(tmp_path / "clip.gif", plain(40))
    clip = open_clip(path, PART, Sampling())
    tokens = len(clip.patches) * (clip.frames.shape[2] // 32) * (clip.frames.shape[3] // 32)
    assert open_clip(path, PART, Sampling(positions=tokens)).indices == clip.indices
    film = open_film(path)
    read = []
    monkeypatch.setattr("mask_impact.prompt.clips.size_of", lambda film: (64, 48))
    shorter = dataclasses.replace(film, read=lambda wanted: read.append(1) or film.read(wanted))
    monkeypatch.setattr("mask_impact.prompt.clips.open_film", lambda path: shorter)
    with pytest.raises(
        UserError, match=rf"becomes {tokens:,} image tokens .* has {tokens - 1:,} positions; lower `fps`"
    ):
        open_clip(path, PART, Sampling(positions=tokens - 1))
    assert not read


def test_frames_that_are_not_evenly_spaced_are_noted(tmp_path: Path) -> None:
    uneven = [100] * 6 + [1000] * 6
    clip = open_clip(animation(tmp_path / "clip.gif", plain(12), uneven), PART, Sampling())
    assert any("not evenly spaced in time: the model is told times up to" in note for note in clip.notes)
    slow = open_clip(encoded(tmp_path / "clip.mkv", plain(6), [0, 1, 2, 3, 14, 15]), PART, Sampling())
    assert any("not evenly spaced" in note for note in slow.notes)


def test_a_phones_video_is_turned_upright(tmp_path: Path) -> None:
    """The file says that a player turns it clockwise by a quarter: its left edge is up, its upper left corner right."""
    image = Image.new("RGB", (64, 48), COLORS[1])
    image.paste(COLORS[0], (0, 0, 32, 24))
    path = encoded(tmp_path / "clip.mp4", [image] * 6)
    content = path.read_bytes()
    plainly = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    turned = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    start = content.index(plainly, content.index(b"tkhd"))
    path.write_bytes(content[:start] + turned + content[start + len(turned) :])
    film = open_film(path)
    assert size_of(film) == (48, 64) and film.notes == ("turned upright, as the file says",)
    shown = np.array(next(iter(film.frames()))[0]).astype(int)
    corners = [shown[16, 12], shown[16, 36], shown[48, 12], shown[48, 36]]
    assert [int(np.abs(np.array(COLORS[:2]) - corner).sum(axis=1).argmin()) for corner in corners] == [1, 0, 1, 1]


def test_a_file_without_times_is_noted(tmp_path: Path) -> None:
    clip = open_clip(animation(tmp_path / "clip.gif", plain(6), 0), PART, Sampling())
    assert clip.fps == 24 and any("does not say how fast" in note for note in clip.notes)


def test_frames_of_a_folder_by_number(tmp_path: Path) -> None:
    """frame2 before frame10; other files and hidden ones are left out."""
    path = folder(tmp_path / "frames", plain(12))
    (path / "notes.txt").write_text("no picture")
    (path / ".hidden.png").write_bytes(b"")
    assert colors(image for image, _ in open_film(path).frames()) == [at % 6 for at in range(12)]


def test_a_file_with_fewer_frames_than_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packets that hold no picture: the frames that can be decoded are sampled."""
    path = encoded(tmp_path / "clip.mp4", plain(12))
    real = open_film(path)
    longer = films.Film(real.name, real.format, 30, real.fps, real.read)
    monkeypatch.setattr("mask_impact.prompt.clips.open_film", lambda _: longer)
    clip = open_clip(path, PART, Sampling())
    assert clip.total == 12 and clip.indices[-1] == 11 and len(clip.frames) == len(clip.indices) == 6


def test_a_long_video_is_not_kept(tmp_path: Path) -> None:
    """Of 300 frames of 1.2 MB, decoded one by one, 4 small ones stay."""
    size = (800, 500)
    path = encoded(tmp_path / "clip.mp4", plain(300, size), rate=25)
    tracemalloc.start()
    clip = open_clip(path, PART, Sampling(max_frames=4))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(clip.frames) == 4 and clip.indices[-1] == 299
    assert peak < 20 * 3 * size[0] * size[1], f"{peak / 1e6:.0f} MB at the peak"


def test_the_hash_of_a_folder_is_that_of_its_frames(tmp_path: Path) -> None:
    path = folder(tmp_path / "frames", plain(3))
    before = video_sha256(path)
    assert video_sha256(folder(tmp_path / "same", plain(3))) == before
    Image.new("RGB", (64, 48), "pink").save(path / "frame1.png")
    assert video_sha256(path) != before


def bad(kind: str, tmp_path: Path) -> Path:
    path = tmp_path / kind
    if kind == "no pictures":
        path.mkdir()
    elif kind == "empty.mp4":
        path.write_bytes(b"")
    elif kind == "text.mp4":
        path.write_text("this is no video at all\n" * 50)
    elif kind == "cut.mp4":
        whole = encoded(tmp_path / "whole.mp4", plain(12)).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "sound.wav":
        sound(path)
    elif kind == "one.gif":
        plain(1)[0].save(path)
    elif kind == "sizes":
        folder(path, [*plain(2), *plain(1, (32, 32))])
    elif kind == "long.gif":
        animation(path, plain(4, (2010, 10)))
    return path


def sound(path: Path) -> None:
    import wave

    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(8000)
        out.writeframes(bytes(16000))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing.mp4", "does not exist; give a video file"),
        ("no pictures", "is a folder without pictures; put its frames there"),
        ("empty.mp4", "is empty"),
        ("text.mp4", "cannot be read"),
        ("cut.mp4", "has no video stream"),  # what is in the file is said at its end
        ("sound.wav", r"has no video stream \(wav\)"),
        ("one.gif", "is a picture of one frame; give it as one of `images`"),
        ("sizes", "has frames of 64 x 48 and of 32 x 32 pixels; make them one size"),
        ("long.gif", "is 2010 x 10 pixels; a frame may be at most 200 times as long as high"),
    ],
)
def test_what_is_no_video_gets_one_line(kind: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        open_clip(bad(kind, tmp_path), PART, Sampling())
    assert "\n" not in str(caught.value)


def test_without_pyav(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A video file names the package; what Pillow reads needs none."""
    path = encoded(tmp_path / "clip.mp4", plain(6))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"needs PyAV to be read, .* pip install av, or give"):
        open_film(path)
    assert open_film(animation(tmp_path / "clip.gif", plain(6))).total == 6
