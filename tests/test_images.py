"""A file becomes the RGB picture that a viewer shows, with a note on every change, or one clear line.

pytest tests/test_images.py
pytest tests/test_images.py -k "refused or names"   # the messages
"""

import hashlib
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageFile, features

from mask_impact.errors import UserError
from mask_impact.prompt import images
from mask_impact.prompt.images import IN_MEMORY, open_picture

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 128, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)
ORIENTATION = ExifTags.Base.Orientation


def quadrants(size=(32, 16), colors=(RED, GREEN, BLUE, WHITE)) -> Image.Image:
    """Four colours: top left, top right, bottom left, bottom right. Blocks of 8 survive JPEG."""
    width, height = size
    image = Image.new("RGB", size)
    for i, color in enumerate(colors):
        x, y = i % 2 * width // 2, i // 2 * height // 2
        image.paste(color, (x, y, x + width // 2, y + height // 2))
    return image


def corners(image) -> list[tuple[int, int, int]]:
    """The colours in the middle of the four quadrants."""
    width, height = image.size
    return [image.getpixel((width * x // 4, height * y // 4)) for y in (1, 3) for x in (1, 3)]


def saved(tmp_path, image, name, **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


def written(tmp_path, name, data: bytes):
    (tmp_path / name).write_bytes(data)
    return tmp_path / name


def oriented(value) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = value
    return exif


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width, height, depth, color_type, rows, *chunks) -> bytes:
    """A PNG made by hand, for what Pillow does not write."""
    header = struct.pack(">2I5B", width, height, depth, color_type, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [chunk(b"IHDR", header), *chunks, chunk(b"IDAT", pixels), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def refusal(source, *words, **options) -> str:
    """The one line with which `source` is refused; it names the source and holds every word."""
    with pytest.raises(UserError) as caught:
        open_picture(source, **options)
    message = str(caught.value)
    named = IN_MEMORY if isinstance(source, Image.Image) else str(source)
    for word in (named, *words):
        assert word in message
    assert "\n" not in message and ";" in message, f"no single line with advice: {message}"
    return message


# --- what is true about a picture -------------------------------------------------------------------------
def test_plain_file_is_unchanged(tmp_path):
    path = saved(tmp_path, quadrants(), "plain.png")
    picture = open_picture(path)
    assert (picture.path, picture.format, picture.mode) == (str(path), "PNG", "RGB")
    assert picture.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert picture.original_size == (32, 16)
    assert picture.notes == ()
    assert picture.image.mode == "RGB" and picture.image.tobytes() == quadrants().tobytes()
    assert open_picture(str(path)) == picture


def test_image_in_memory_is_copied_not_changed():
    given = quadrants()
    given.getexif()[ORIENTATION] = 6
    picture = open_picture(given)
    assert (picture.path, picture.format, picture.mode) == (IN_MEMORY, None, "RGB")
    assert picture.sha256 == hashlib.sha256(picture.image.tobytes()).hexdigest()
    assert picture.notes == ("EXIF rotation applied",)
    assert given.size == (32, 16) and given.getexif()[ORIENTATION] == 6
    plain = open_picture(quadrants())
    assert plain.sha256 != picture.sha256 and plain.image.tobytes() == quadrants().tobytes()


def test_metadata_and_profile_are_left_behind(tmp_path):
    path = saved(tmp_path, quadrants(), "photo.jpg", exif=oriented(1), icc_profile=b"a profile", comment=b"at home")
    with Image.open(path) as image:
        assert {"exif", "icc_profile", "comment"} <= image.info.keys()
    picture = open_picture(path)
    assert picture.image.info == {} and not picture.image.getexif() and picture.notes == ()


@pytest.mark.parametrize("name", ["a.webp", "a.gif", "a.tif", "a.bmp", "a.ppm"])
def test_other_lossless_formats(tmp_path, name):
    options = {"lossless": True} if name == "a.webp" else {}
    picture = open_picture(saved(tmp_path, quadrants(), name, **options))
    assert corners(picture.image) == [RED, GREEN, BLUE, WHITE] and picture.notes == ()


def test_jpeg_colors(tmp_path):
    picture = open_picture(saved(tmp_path, quadrants(), "a.jpeg", quality=95, subsampling=0))
    assert np.abs(np.subtract(corners(picture.image), [RED, GREEN, BLUE, WHITE])).max() <= 4
    assert picture.format == "JPEG" and picture.notes == ()


# --- the right way up -------------------------------------------------------------------------------------
# Where the stored quadrants R G / B W (in reading order) are to be seen, from the EXIF standard
SEEN = {1: "RGBW", 2: "GRWB", 3: "WBGR", 4: "BWRG", 5: "RBGW", 6: "BRWG", 7: "WGBR", 8: "GWRB"}


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp"])
@pytest.mark.parametrize("orientation", SEEN)
def test_exif_orientation(tmp_path, orientation, name):
    lossless = {"quality": 100} if name == "a.jpg" else {"lossless": True} if name == "a.webp" else {}
    picture = open_picture(saved(tmp_path, quadrants(), name, exif=oriented(orientation), **lossless))
    colors = {"R": RED, "G": GREEN, "B": BLUE, "W": WHITE}
    expected = [colors[letter] for letter in SEEN[orientation]]
    assert np.abs(np.subtract(corners(picture.image), expected)).max() <= 4
    assert picture.original_size == ((16, 32) if orientation >= 5 else (32, 16))
    assert picture.notes == (("EXIF rotation applied",) if orientation > 1 else ())


@pytest.mark.parametrize("orientation", [0, 9])
def test_orientation_that_means_nothing(tmp_path, orientation):
    picture = open_picture(saved(tmp_path, quadrants(), "a.png", exif=oriented(orientation)))
    assert corners(picture.image) == [RED, GREEN, BLUE, WHITE] and picture.notes == ()


def test_broken_exif_does_not_hide_the_picture(tmp_path):
    picture = open_picture(saved(tmp_path, quadrants(), "a.png", exif=b"garbage"))
    assert corners(picture.image) == [RED, GREEN, BLUE, WHITE]
    assert picture.notes == ("EXIF data cannot be read, so no rotation applied",)


# --- transparency -----------------------------------------------------------------------------------------
ON_WHITE = ("transparency shown on white",)


def test_rgba_on_white(tmp_path):
    image = quadrants().convert("RGBA")
    image.putpixel((0, 0), (0, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 0, 102))  # 40 % black
    picture = open_picture(saved(tmp_path, image, "a.png"))
    assert picture.image.getpixel((0, 0)) == WHITE and picture.image.getpixel((1, 0)) == (153, 153, 153)
    assert corners(picture.image) == [RED, GREEN, BLUE, WHITE]
    assert picture.notes == ON_WHITE and picture.mode == "RGBA"


def test_opaque_alpha_needs_no_note(tmp_path):
    picture = open_picture(saved(tmp_path, quadrants().convert("RGBA"), "a.png"))
    assert corners(picture.image) == [RED, GREEN, BLUE, WHITE] and picture.notes == ()


def test_grey_with_alpha_on_white(tmp_path):
    image = Image.new("LA", (2, 1), (90, 255))
    image.putpixel((0, 0), (0, 0))
    picture = open_picture(saved(tmp_path, image, "a.png"))
    assert list(picture.image.tobytes()) == [255] * 3 + [90] * 3
    assert picture.notes == ON_WHITE and picture.mode == "LA"


@pytest.mark.parametrize(("name", "transparency"), [("a.png", 0), ("a.png", bytes([0, 255])), ("a.gif", 0)])
def test_palette_with_transparency_on_white(tmp_path, name, transparency):
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.putpixel((1, 0), 1)
    picture = open_picture(saved(tmp_path, image, name, transparency=transparency))
    assert [picture.image.getpixel((x, 0)) for x in (0, 1)] == [WHITE, RED]
    assert picture.notes == ON_WHITE and picture.mode == "P"


@pytest.mark.parametrize(("mode", "key", "rest"), [("RGB", BLACK, BLUE), ("L", 0, 7), ("1", 0, 1)])
def test_one_transparent_color_on_white(tmp_path, mode, key, rest):
    image = Image.new(mode, (2, 1), rest)
    image.putpixel((0, 0), key)
    picture = open_picture(saved(tmp_path, image, "a.png", transparency=key))
    second = {BLUE: BLUE, 7: (7, 7, 7), 1: WHITE}[rest]
    assert [picture.image.getpixel((x, 0)) for x in (0, 1)] == [WHITE, second]
    assert picture.notes == ON_WHITE


# --- grey, and colours other than RGB ---------------------------------------------------------------------
@pytest.mark.parametrize(("mode", "expected"), [("L", [0, 100, 255]), ("1", [0, 0, 255])])
def test_grey_and_one_bit(tmp_path, mode, expected):
    image = Image.frombytes("L", (3, 1), bytes([0, 100, 255])).convert(mode, dither=Image.Dither.NONE)
    picture = open_picture(saved(tmp_path, image, "a.png"))
    assert [picture.image.getpixel((x, 0)) for x in range(3)] == [(v, v, v) for v in expected]
    assert (picture.mode, picture.notes) == (mode, ())


SIXTEEN = (0, 128, 257, 32768, 65535)
SIXTEEN_NOTE = "16-bit greyscale scaled to 8 bits by its full range 0-65535"


def sixteen_bits(mode):
    """The five values as an image of `mode`."""
    if mode == "I":
        return Image.fromarray(np.array([SIXTEEN], np.int32))
    return Image.frombytes(mode, (5, 1), np.array(SIXTEEN, ">u2" if mode == "I;16B" else "<u2").tobytes())


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
def test_sixteen_bit_grey_is_scaled_not_clipped(mode):
    picture = open_picture(sixteen_bits(mode))
    assert [picture.image.getpixel((x, 0)) for x in range(5)] == [(v, v, v) for v in (0, 0, 1, 128, 255)]
    assert (picture.mode, picture.notes) == (mode, (SIXTEEN_NOTE,))


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_sixteen_bit_files(tmp_path, name):
    picture = open_picture(saved(tmp_path, sixteen_bits("I;16"), name))
    assert list(picture.image.getchannel(0).tobytes()) == [0, 0, 1, 128, 255]
    assert picture.notes == (SIXTEEN_NOTE,)


def test_sixteen_bit_grey_with_a_transparent_value(tmp_path):
    rows = [struct.pack(">3H", 0, 1, 32768)]  # 0 and 1 are the same in 8 bits; only 1 is transparent
    picture = open_picture(written(tmp_path, "a.png", png(3, 1, 16, 0, rows, chunk(b"tRNS", b"\0\1"))))
    assert list(picture.image.getchannel(0).tobytes()) == [0, 255, 128]
    assert picture.notes == (SIXTEEN_NOTE, *ON_WHITE)


def test_sixteen_bit_rgb(tmp_path):
    rows = [struct.pack(">3H", 65535, 32768, 0)]
    picture = open_picture(written(tmp_path, "a.png", png(1, 1, 16, 2, rows)))
    assert picture.image.getpixel((0, 0)) == (255, 128, 0)


def test_sixteen_bit_values_out_of_range_are_refused():
    refusal(Image.fromarray(np.array([[-5, 70000]], np.int32)), "from -5 to 70000", "valid are 0-65535")


@pytest.mark.parametrize(
    ("values", "expected", "full"), [([0, 0.5, 1], [0, 128, 255], "0-1"), ([0, 127.6, 255], [0, 128, 255], "0-255")]
)
def test_floating_point_grey(tmp_path, values, expected, full):
    picture = open_picture(saved(tmp_path, Image.fromarray(np.array([values], np.float32)), "a.tif"))
    assert list(picture.image.getchannel(2).tobytes()) == expected
    assert picture.mode == "F"
    assert picture.notes == (f"floating-point greyscale scaled to 8 bits by its full range {full}",)


@pytest.mark.parametrize("values", [[0, 300], [-0.5, 1], [0, float("nan")], [0, float("inf")]])
def test_floating_point_of_unknown_range_is_refused(tmp_path, values):
    path = saved(tmp_path, Image.fromarray(np.array([values], np.float32)), "a.tif")
    refusal(path, f"from {np.min(values):g} to {np.max(values):g}", "0-1 or 0-255", "8-bit PNG")


def test_cmyk_jpeg(tmp_path):
    image = quadrants(colors=(RED, BLACK, BLUE, WHITE)).convert("CMYK")
    picture = open_picture(saved(tmp_path, image, "a.jpg", quality=100))  # written inverted, as Adobe does
    assert np.abs(np.subtract(corners(picture.image), [RED, BLACK, BLUE, WHITE])).max() <= 4
    assert (picture.mode, picture.notes) == ("CMYK", ("CMYK converted",))


@pytest.mark.parametrize(("mode", "name"), [("CMYK", "a.tif"), ("YCbCr", "a.tif"), ("LAB", "a.tif"), ("HSV", None)])
def test_other_color_spaces(tmp_path, mode, name):
    # the same red, green, blue and white; LAB of sRGB from the CIE formulas: L 0-255, a and b plus 128
    lab = [(138, 209, 198), (118, 80, 177), (75, 196, 16), (255, 128, 128)]
    tolerance = 24 if mode == "LAB" else 3  # one step of b is 22 steps of red, close to pure blue
    image = quadrants().convert(mode) if mode != "LAB" else Image.new("LAB", (32, 16))
    for i, value in enumerate(lab if mode == "LAB" else []):
        image.paste(value, (i % 2 * 16, i // 2 * 8, i % 2 * 16 + 16, i // 2 * 8 + 8))
    picture = open_picture(saved(tmp_path, image, name) if name else image)
    assert np.abs(np.subtract(corners(picture.image), [RED, GREEN, BLUE, WHITE])).max() <= tolerance
    assert (picture.mode, picture.notes) == (mode, (f"{mode} converted",))


# --- more than one frame ----------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.tif"])
def test_first_frame_of_several(tmp_path, name):
    frames = [Image.new("RGB", (8, 8), color) for color in (RED, GREEN, BLUE)]
    lossless = {"lossless": True} if name == "a.webp" else {}
    path = saved(tmp_path, frames[0], name, save_all=True, append_images=frames[1:], **lossless)
    picture = open_picture(path)
    assert set(corners(picture.image)) == {RED}
    assert picture.notes == ("first of 3 frames",)


def test_frame_chosen_by_the_owner_of_a_pil_image(tmp_path):
    frames = [Image.new("RGB", (8, 8), color) for color in (RED, GREEN, BLUE)]
    with Image.open(saved(tmp_path, frames[0], "a.gif", save_all=True, append_images=frames[1:])) as image:
        image.seek(2)
        picture = open_picture(image)
    assert set(corners(picture.image)) == {BLUE} and picture.notes == ()


# --- what is refused --------------------------------------------------------------------------------------
def test_no_such_file_is_refused(tmp_path):
    refusal(tmp_path / "none.png", "does not exist")


@pytest.mark.parametrize("path", ["", "no\nsuch\nfile.png", b"bytes.png", "a/b/" + "c" * 300])
def test_odd_path_is_refused_in_one_line(path):
    with pytest.raises(UserError, match=r"\Athe image .*; give .*\Z"):
        open_picture(path)


def test_null_character_in_the_path_is_refused():
    with pytest.raises(UserError, match=r"\Athe image 'a\\x00b' cannot be read: embedded null byte; give .*\Z"):
        open_picture("a\0b")


def test_folder_is_refused(tmp_path):
    refusal(tmp_path, "is a folder")


def test_empty_file_is_refused(tmp_path):
    refusal(written(tmp_path, "a.png", b""), "is empty (0 bytes)")


def test_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    refusal(tmp_path / "pipe.png", "no regular file")


def test_file_without_permission_is_refused(tmp_path, monkeypatch):
    path = saved(tmp_path, quadrants(), "a.png")

    def denied(file, mode):
        raise PermissionError(13, "Permission denied", file)

    monkeypatch.setattr(images, "open", denied, raising=False)  # the tests may run as root, who may read everything
    refusal(path, "cannot be read: Permission denied")


def test_text_file_is_refused(tmp_path):
    refusal(written(tmp_path, "a.png", b"this is a text, whatever its name\n" * 9), "is not an image", "PNG, JPEG")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.gif", "a.webp", "a.tif", "a.bmp"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_truncated_file_is_refused(tmp_path, name, share):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    data = saved(tmp_path, noise, name).read_bytes()
    refusal(written(tmp_path, name, data[: int(len(data) * share)]), "damaged", "PNG")
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def test_broken_pixels_behind_a_good_header_are_refused(tmp_path):
    good = png(2, 2, 8, 2, [bytes(6)] * 2)
    start = good.index(b"IDAT") + 4
    path = written(tmp_path, "a.png", good[:start] + b"\xff" * 8 + good[start + 8 :])
    Image.open(path).close()  # the header alone is fine
    refusal(path, "is damaged")


@pytest.mark.parametrize("error", [OSError, SyntaxError, struct.error, ValueError, EOFError, zlib.error, IndexError])
def test_whatever_a_decoder_raises_is_one_line(tmp_path, monkeypatch, error):
    def fail(image):
        raise error("two\nlines")

    path = saved(tmp_path, quadrants(), "a.bmp")
    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    refusal(path, "is damaged or of an unknown kind (two lines)")


def test_closed_image_in_memory_is_refused(tmp_path):
    with Image.open(saved(tmp_path, quadrants(), "a.png")) as image:
        pass
    refusal(image, "damaged")


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
def test_picture_without_pixels_is_refused(size):
    refusal(Image.new("RGB", size), f"has no pixels ({size[0]} x {size[1]})")


def test_file_without_pixels_is_refused(tmp_path):
    refusal(written(tmp_path, "a.png", png(0, 1, 8, 0, [b""])), "not an image, or a damaged one")


def test_pixel_limit_is_the_last_allowed(tmp_path):
    path = saved(tmp_path, quadrants(), "a.png")
    assert open_picture(path, pixel_limit=32 * 16).original_size == (32, 16)
    refusal(path, "32 x 16 = 512 pixels, at most 511", pixel_limit=511)
    refusal(quadrants(), "32 x 16 = 512 pixels, at most 511", pixel_limit=511)


@pytest.mark.parametrize(
    ("side", "words"), [(10_001, "10001 x 10001 = 100,020,001 pixels, at most"), (60_000, "at most 100,000,000 pixels")]
)
def test_bomb_is_refused_from_its_header(tmp_path, monkeypatch, side, words):
    """10001 x 10001 is where Pillow only warns, and 60000 x 60000 where it stops."""
    limit = Image.MAX_IMAGE_PIXELS
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("pixels were decoded"))
    refusal(written(tmp_path, "a.png", png(side, side, 8, 0, [b""])), "too large", words)
    assert limit == Image.MAX_IMAGE_PIXELS


def test_large_picture_within_the_limit_is_read_without_a_warning(tmp_path, monkeypatch):
    path = saved(tmp_path, quadrants(), "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)  # Pillow warns from 500 pixels, and stops at 1000
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert corners(open_picture(path).image) == [RED, GREEN, BLUE, WHITE]
    assert not caught


# --- video, and kinds of picture that are not read --------------------------------------------------------
BOX = b"\0\0\0\x20"
VIDEOS = {
    "MP4": BOX + b"ftypisom\0\0\2\0isomiso2avc1mp41",
    "QuickTime": BOX + b"ftypqt  \0\0\2\0qt  ",
    "old QuickTime": BOX + b"moov\0\0\0\x6cmvhd",
    "AVI": b"RIFF\0\1\0\0AVI LIST",
    "Matroska": b"\x1aE\xdf\xa3\x01\0\0\0",
    "MPEG": b"\0\0\1\xba\x44\0",
    "WMV": bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"),
}


@pytest.mark.parametrize("kind", VIDEOS)
def test_video_is_known_by_its_bytes(tmp_path, kind):
    refusal(
        written(tmp_path, "a.png", VIDEOS[kind]), "is a video; give it as one of `videos`, or a frame of it as an image"
    )


@pytest.mark.parametrize("ending", ["mp4", "mov", "avi", "mkv", "webm", "m4v", "mpg", "mpeg", "wmv", "MP4"])
def test_video_is_known_by_its_name(tmp_path, ending):
    refusal(written(tmp_path, f"a.{ending}", b"anything"), "is a video; give it as one of `videos`, or a frame of it")


OTHERS = {
    "HEIC": BOX + b"ftypheic\0\0\0\0mif1heic",
    "HEIC ": BOX + b"ftypmif1\0\0\0\0mif1heic",
    "AVIF": BOX + b"ftypavif\0\0\0\0avifmif1",
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "SVG ": b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- drawn -->\n<svg viewBox='0 0 1 1'/>",
    "PDF": b"%PDF-1.7\n",
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n",
    "JPEG XL": b"\xff\x0a\0\0",
}


@pytest.mark.parametrize("kind", OTHERS)
def test_unread_kind_is_named(tmp_path, kind):
    refusal(
        written(tmp_path, "a.png", OTHERS[kind]), f"is {kind.strip()}, which cannot be read here; convert it to PNG"
    )


def test_web_page_is_not_called_svg(tmp_path):
    refusal(written(tmp_path, "a.png", b"<html><body><svg></svg></body></html>"), "is not an image")


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow is built without AVIF")
def test_avif_is_read(tmp_path):
    picture = open_picture(saved(tmp_path, quadrants(), "a.avif", quality=100))
    assert np.abs(np.subtract(corners(picture.image), [RED, GREEN, BLUE, WHITE])).max() <= 6
