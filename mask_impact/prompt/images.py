"""From an image file to the RGB picture that an image viewer would show, with a note on every change.

In:  the path of an image file, or a PIL image.
Out: a Picture: upright RGB pixels, the SHA-256 of the file, its format and mode, and the notes.

    picture = open_picture("cat.jpg")
    picture.image, picture.notes  # <PIL.Image.Image mode=RGB size=480x640>, ("EXIF rotation applied",)

A file that cannot be shown faithfully is refused with a UserError. Colour profiles (ICC) are not applied.
"""

import contextlib
import hashlib
import io
import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from mask_impact.errors import UserError
from mask_impact.prompt.text_files import check_regular

PIXEL_LIMIT = 100_000_000  # pixels, width x height; Pillow itself stops at 178,956,970
IN_MEMORY = "<PIL image>"  # the path of a picture that is not from a file
HEAD_BYTES = 1024  # enough to recognise the kind of a file

_VIDEO_NAMES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv")
# HEIC, AVIF and Canon's CR3 are pictures in an MP4 container; the four bytes after "ftyp" distinguish them
_VIDEO = re.compile(
    rb"....ftyp(?!he[iv]|mif1|msf1|avi[fs]|crx )|....(?:moov|mdat|wide)"  # MP4, QuickTime
    rb"|RIFF....AVI |\x1aE\xdf\xa3|\x00\x00\x01[\xb3\xba]|0&\xb2u\x8ef\xcf\x11",  # AVI, Matroska, MPEG, WMV
    re.DOTALL,
)
_NOT_READ = {
    "HEIC": rb"....ftyp(?:he[iv]|mif1|msf1)",
    "AVIF": rb"....ftypavi[fs]",
    "SVG": rb"(?:\xef\xbb\xbf)?\s*(?:<(?:\?xml|!--|!DOCTYPE svg).*)?<svg\b",
    "PDF": rb"%PDF-",
    "PostScript": rb"%!PS|\xc5\xd0\xd3\xc6",
    "JPEG XL": rb"\xff\x0a|\x00\x00\x00\x0cJXL ",
}


@dataclass(frozen=True)
class Picture:
    """An image as a viewer shows it, and where it came from."""

    path: str  # as given, or IN_MEMORY
    image: Image.Image  # RGB, upright, without the file's metadata
    sha256: str  # of the bytes of the file; for a picture in memory, of its RGB pixels
    format: str | None  # as Pillow names it: "PNG", "JPEG", ...; None for a picture made in memory
    mode: str  # of the pixels in the file, as Pillow names it: "RGB", "P", "CMYK", ...
    notes: tuple[str, ...]  # what was changed, a short phrase for each change

    @property
    def original_size(self) -> tuple[int, int]:
        """Width and height of the upright picture, before a model's processor resizes it."""
        return self.image.size


def open_picture(path: str | os.PathLike[str] | Image.Image, pixel_limit: int = PIXEL_LIMIT) -> Picture:
    """The picture in a file, or a PIL image, as upright RGB.

    Raises UserError for a file that is not an image, is damaged or a video, has no pixels, or more than `pixel_limit`.
    """
    if isinstance(path, Image.Image):
        with _one_line_errors(IN_MEMORY, pixel_limit):
            image, notes = _as_shown(path, IN_MEMORY, pixel_limit)
        return Picture(IN_MEMORY, image, hashlib.sha256(image.tobytes()).hexdigest(), path.format, path.mode, notes)
    name, shown = _names(path)
    with _open_file(name, shown) as file, _one_line_errors(shown, pixel_limit):
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        opened = _identified(file, shown)
        image, notes = _as_shown(opened, shown, pixel_limit)
        return Picture(name, image, sha256, opened.format, opened.mode, notes)


def file_sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of the bytes of a file; the picture is not decoded. Raises UserError for a file that cannot be read."""
    with _open_file(*_names(path)) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _names(path: str | os.PathLike[str]) -> tuple[str, str]:
    """A path as text, and the same for a message, without line breaks."""
    name = os.fsdecode(path)
    return name, name if name.isprintable() else repr(name)


def _open_file(path: str, name: str) -> io.BufferedReader:
    """Open the file. Raises UserError if it cannot hold a picture."""
    try:
        check_regular(Path(path), f"the image {name}", "the path of one image file")
        if path.lower().endswith(_VIDEO_NAMES):
            raise _video(name)
        if os.stat(path).st_size == 0:
            raise UserError(f"the image {name} is empty (0 bytes); give a PNG or JPEG file")
        return open(path, "rb")
    except FileNotFoundError as error:
        raise UserError(f"the image {name} does not exist; give the path of an image file on this machine") from error
    except (OSError, ValueError) as error:  # ValueError: the path has a null character
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"the image {name} cannot be read: {reason}; give an image file you can read") from error


def _video(name: str) -> UserError:
    return UserError(f"{name} is a video; give it as one of `videos`, or a frame of it as an image")


@contextlib.contextmanager
def _one_line_errors(name: str, pixel_limit: int) -> Iterator[None]:
    """Turn what Pillow raises into a UserError. Its warnings concern metadata, or sizes that are checked here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except UserError:
            raise
        except Image.DecompressionBombError as error:
            raise UserError(f"the image {name} is too large; at most {pixel_limit:,} pixels; scale it down") from error
        except Exception as error:  # a decoder can raise anything for a damaged file
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(
                f"the image {name} is damaged or of an unknown kind ({reason}); save it anew as PNG or JPEG"
            ) from error


def _identified(file: io.BufferedReader, name: str) -> Image.Image:
    """The file as a Pillow image, with only its header read."""
    file.seek(0)
    head = file.read(HEAD_BYTES)
    if _VIDEO.match(head):
        raise _video(name)
    with contextlib.suppress(UnidentifiedImageError):
        image = Image.open(file)
        if image.format != "EPS":  # EPS is a program, which Pillow would pass to Ghostscript
            return image
    for kind, pattern in _NOT_READ.items():
        if re.match(pattern, head, re.DOTALL | re.IGNORECASE):
            raise UserError(f"the image {name} is {kind}, which cannot be read here; convert it to PNG or JPEG")
    raise UserError(f"the image {name} is not an image, or a damaged one; give a PNG, JPEG, WebP, GIF or TIFF file")


def _as_shown(image: Image.Image, name: str, pixel_limit: int) -> tuple[Image.Image, tuple[str, ...]]:
    """An upright, opaque RGB copy of the image, and the notes."""
    width, height = image.size
    if width * height == 0:
        raise UserError(f"the image {name} has no pixels ({width} x {height}); give one of at least 1 x 1")
    if width * height > pixel_limit:  # known from the header; a tiny file can decode to gigabytes of pixels
        given = f"{width} x {height} = {width * height:,} pixels"
        raise UserError(f"the image {name} is too large: {given}, at most {pixel_limit:,}; scale it down")
    notes = []
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.tell() == 0:  # for a PIL image the caller may have chosen a frame
        notes.append(f"first of {frames} frames")
    image, rotation = _upright(image)
    image, change = _rgb(image, name)
    image.info = {}  # a saved copy must not tell where a photo was taken, or keep a colour profile
    return image, (*notes, *rotation, *change)


def _upright(image: Image.Image) -> tuple[Image.Image, list[str]]:
    """The decoded image, turned as its EXIF data says."""
    tag, rotations = ExifTags.Base.Orientation, range(2, 9)  # 1 is upright
    # read first, since Pillow turns a TIFF when it decodes it, and then drops the tag
    turned = getattr(image, "tag_v2", {}).get(tag) in rotations
    image.load()
    try:
        if image.getexif().get(tag) in rotations:
            image, turned = ImageOps.exif_transpose(image), True
    except Exception:  # image viewers show pictures with broken metadata too
        return image, ["EXIF data cannot be read, so no rotation applied"]
    return image, ["EXIF rotation applied"] if turned else []


def _rgb(image: Image.Image, name: str) -> tuple[Image.Image, list[str]]:
    """The image as opaque 8-bit RGB, and the notes."""
    notes = []
    if image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        return image.convert("RGB"), [f"{image.mode} converted"]
    if image.mode == "F" or image.mode.startswith("I"):
        image, note = _eight_bits(image, name)
        notes.append(note)
    if image.mode in ("RGB", "L", "1") and "transparency" not in image.info and not notes:  # a copy less
        return image.convert("RGB"), []
    rgba = image.convert("RGBA")
    if rgba.getchannel("A").getextrema() != (255, 255):
        rgba = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        notes.append("transparency shown on white")
    return rgba.convert("RGB"), notes


def _eight_bits(image: Image.Image, name: str) -> tuple[Image.Image, str]:
    """16-bit or floating-point greyscale scaled to 0-255, where Pillow would clip it, and the note."""
    values = np.asarray(image, np.float32)  # [height, width]
    low, high = values.min(), values.max()
    full = 65535 if image.mode != "F" else 1 if high <= 1 else 255
    if not 0 <= low <= high <= full:  # also false for NaN
        valid = "0-1 or 0-255" if image.mode == "F" else "0-65535"
        given = f"greyscale values from {low:g} to {high:g}"
        raise UserError(f"the image {name} has {given}; valid are {valid}; scale them and save it as an 8-bit PNG")
    grey = Image.fromarray(np.rint(values * np.float32(255 / full)).astype(np.uint8))
    if (key := image.info.get("transparency")) is not None:  # PNG: the one grey value that is transparent
        grey.putalpha(Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)))
    kind = "floating-point" if image.mode == "F" else "16-bit"
    return grey, f"{kind} greyscale scaled to 8 bits by its full range 0-{full}"
