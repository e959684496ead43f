"""A video file as frames, one after the other: only what is asked for is kept in memory.

In:  the path of a video file (read with PyAV), of an animated GIF, WebP or PNG (Pillow), or of a folder of frames.
Out: a Film: how many frames, how many for each second, and an iterator over the frames with their times.

    film = open_film("clip.mp4")
    film.total, film.fps                   # 300, 30.0
    for image, second in film.frames():    # upright RGB, and when it is shown
"""

import contextlib
import hashlib
import os
import re
import sys
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from mask_impact.errors import UserError
from mask_impact.prompt.images import file_sha256, open_picture
from mask_impact.prompt.text_files import check_regular

UNTIMED = 24.0  # frames for each second of a video that does not say; transformers takes the same
SHOWN = 64  # temporal patches of a video whose first frame is a picture of the report
SHOWN_SIDE = 512  # pixels of such a picture, at most
GIVE = "give a video file, an animated GIF or WebP, or a folder of frames"
INSTALL = "pip install av"

# Of every frame the second at which it is shown, where that is known; of those that are wanted, upright RGB
Frames = Iterator[tuple[Image.Image | None, float | None]]
EVERY = range(sys.maxsize)


@dataclass(frozen=True)
class Film:
    """A video that can be read from its beginning, as often as needed."""

    name: str  # the path, for messages
    format: str  # "mov,mp4,m4a,3gp,3g2,mj2", "GIF", "folder", ...
    total: int  # frames
    fps: float | None  # frames for each second; None: of a folder, which has no times
    read: Callable[[Container[int]], Frames]
    notes: tuple[str, ...] = ()

    def frames(self, wanted: Container[int] = EVERY) -> Frames:
        """From the first on, with a picture of those whose numbers are wanted: the others cost less."""
        return self.read(wanted)


def open_film(path: str | os.PathLike[str]) -> Film:
    """Raises UserError for what is no video, and for one that cannot be read."""
    name = os.fsdecode(path)
    shown = name if name.isprintable() else repr(name)
    if not os.path.exists(path):
        raise UserError(f"the video {shown} does not exist; {GIVE}")
    if os.path.isdir(path):
        return _folder(Path(name), shown)
    check_regular(Path(name), f"the video {shown}", GIVE.removeprefix("give "))
    if not os.path.getsize(path):
        raise UserError(f"the video {shown} is empty (0 bytes); {GIVE}")
    try:
        with contextlib.suppress(UnidentifiedImageError), Image.open(name) as found:
            if (count := getattr(found, "n_frames", 1)) < 2:
                raise UserError(f"the video {shown} is a picture of one frame; give it as one of `images`")
            return _animation(name, shown, str(found.format), count)
        return _video(name, shown)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _damaged(shown, error) from error


def video_sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of the bytes of a file; of a folder, of the names and bytes of its frames. Raises UserError."""
    try:
        if not os.path.isdir(path):
            with open(path, "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        told = [f"{frame.name} {file_sha256(frame)}\n" for frame in _pictures_in(Path(path))]
    except OSError as error:
        raise _damaged(os.fsdecode(path), error) from error
    return hashlib.sha256("".join(told).encode(errors="surrogateescape")).hexdigest()


def _damaged(name: str, error: Exception) -> UserError:
    reason = " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__
    return UserError(f"the video {name} cannot be read ({reason[:200]}); {GIVE}")


# --- a folder ------------------------------------------------------------------------------------------------
def _pictures_in(folder: Path) -> list[Path]:
    """The pictures of a folder by name, frame2 before frame10."""
    known = Image.registered_extensions()
    found = [each for each in folder.iterdir() if each.suffix.lower() in known and not each.name.startswith(".")]
    return sorted(found, key=lambda each: _counted(each.name))


def _counted(name: str) -> list[tuple[str, int]]:
    """A key to sort by: texts by letters, the numbers between them by their values."""
    return [(text, int(number or -1)) for text, number in re.findall(r"(\D*)(\d*)", name)]


def _folder(folder: Path, name: str) -> Film:
    try:
        found = _pictures_in(folder)
    except OSError as error:
        raise _damaged(name, error) from error
    if not found:
        raise UserError(f"the video {name} is a folder without pictures; put its frames there as PNG or JPEG")

    def frames(wanted: Container[int]) -> Frames:
        for at, each in enumerate(found):
            yield open_picture(each).image if at in wanted else None, None

    return Film(name, "folder", len(found), None, frames)


# --- animated pictures ---------------------------------------------------------------------------------------
def _animation(path: str, name: str, kind: str, count: int) -> Film:
    def frames(wanted: Container[int]) -> Frames:
        second = 0.0
        with Image.open(path) as image:
            for at in range(count):
                image.seek(at)
                image.load()  # WebP has the duration of a frame only then
                yield open_picture(image.convert("RGBA")).image if at in wanted else None, second
                second += image.info.get("duration", 0) / 1000

    seconds = 0.0
    with Image.open(path) as image:
        for at in range(count):
            image.seek(at)
            image.load()
            seconds += image.info.get("duration", 0) / 1000
    if seconds > 0:
        return Film(name, kind, count, count / seconds, frames)
    return _untimed(Film(name, kind, count, UNTIMED, frames))


def _untimed(film: Film) -> Film:
    """A film whose file says nothing of times."""
    note = f"the file does not say how fast it is shown; taken as {UNTIMED:g} frames for each second"
    return replace(film, fps=UNTIMED, notes=(*film.notes, note))


# --- video files ---------------------------------------------------------------------------------------------
def _video(path: str, name: str) -> Film:
    try:
        import av  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise UserError(
            f"the video {name} needs PyAV to be read, which is not installed; install it with {INSTALL}, or give an "
            "animated GIF or WebP, or a folder of frames"
        ) from error

    def frames(wanted: Container[int]) -> Frames:
        with _errors_named(name), av.open(path) as container:
            for at, frame in enumerate(container.decode(container.streams.video[0])):
                image = frame.to_image() if at in wanted else None
                if image and frame.rotation:  # a phone's, held upright
                    image = image.rotate(frame.rotation, expand=True)
                yield image, frame.time

    notes = []
    with _errors_named(name), av.open(path) as container:
        if not container.streams.video:
            raise UserError(f"the video {name} has no video stream ({container.format.name}); {GIVE}")
        stream = container.streams.video[0]
        kind, rate = container.format.name, stream.average_rate or stream.guessed_rate
        total = sum(packet.size > 0 for packet in container.demux(stream))  # what the header says may be wrong
        container.seek(0)
        if getattr(next(container.decode(stream), None), "rotation", 0):
            notes.append("turned upright, as the file says")
    if not total:
        raise UserError(f"the video {name} has no frames; {GIVE}")
    film = Film(name, kind, total, float(rate or UNTIMED), frames, tuple(notes))
    return film if rate else _untimed(film)


@contextlib.contextmanager
def _errors_named(name: str) -> Iterator[None]:
    """What PyAV raises as a UserError."""
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, EOFError, RuntimeError, ArithmeticError) as error:  # PyAV's are all of these kinds
        raise _damaged(name, error) from error


def size_of(film: Film) -> tuple[int, int]:
    """Width and height of the first frame. Raises UserError if there is none."""
    first, _ = next(film.frames(range(1)), (None, None))
    if first is None:
        raise UserError(f"the video {film.name} has no frames that can be decoded; {GIVE}")
    return first.size


def small(image: Image.Image) -> Image.Image:
    """A frame as the report shows it."""
    shown = image.copy()
    shown.thumbnail((SHOWN_SIDE, SHOWN_SIDE), Image.Resampling.LANCZOS)
    return shown


def frames_at(path: str | os.PathLike[str], numbers: Sequence[int]) -> list[Image.Image | None]:
    """The frames of these numbers as the report shows them, None beyond those it shows. Raises UserError."""
    wanted = set(numbers[:SHOWN])
    found = {}
    for at, (image, _) in enumerate(open_film(path).frames(wanted)):
        if image is not None:
            found[at] = small(image)
        if at >= max(wanted):
            break
    return [found.get(number) for number in numbers]
