"""Pictures and videos that are none, damaged, or far too large."""

import os
import struct
import zlib
from pathlib import Path

from PIL import Image

from torture.case import Case, all_of, cut, file_of

SEEN = "vl --model vl --prompt what? --layers 0 --format csv --image"
VL = ("vl", "testimg.png", "red.png")


def png(width: int, height: int, rows: int = 0) -> bytes:
    """A PNG that claims a size, with the data of so many rows."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    data = zlib.compress(b"\0" * ((width + 7) // 8 + 1) * rows, 9)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
        + chunk(b"IDAT", data)
        + chunk(b"IEND", b"")
    )


def image(path: str, size: tuple[int, int], mode: str = "1") -> object:
    return lambda: Image.new(mode, size).save(path)


FILES: dict[str, bytes] = {
    "empty": b"",
    "text": b"hello",
    "a PNG's beginning": b"\x89PNG\r\n\x1a\n",
    "claims 60000 x 60000": png(60000, 60000),
    "claims 9000 x 9000, no data": png(9000, 9000),
    "0 x 0": png(0, 0),
    "video": b"\0\0\0\x18ftypmp42",
    "SVG": b"<svg xmlns='x'/>",
    "PDF": b"%PDF-1.4",
    "HEIC": b"\0\0\0\x18ftypheic",
    "zip": b"PK\3\4" + b"\0" * 100,
    "4 GB claimed": png(2**31 - 1, 1),
}
CASES = [
    *(Case(f"picture: {name}", f"{SEEN} x.png", file_of("x.png", data), VL) for name, data in FILES.items()),
    Case("picture: cut off", f"{SEEN} testimg.png", cut("testimg.png", 300), VL),
    Case("picture: gone", f"{SEEN} nowhere.png", needs=VL),
    Case("picture: folder", f"{SEEN} vl", needs=VL),
    Case("picture: zero", f"{SEEN} /dev/zero", needs=VL),
    Case("picture: FIFO", f"{SEEN} f", lambda: os.mkfifo("f"), VL),
    Case("picture: NUL", [*SEEN.split(), "a\0b"], needs=VL),
    Case("picture: escape", [*SEEN.split(), "a\x1b[31mb.png"], needs=VL),
    Case("picture: 300 letters", f"{SEEN} {'x' * 300}", needs=VL),
    Case("picture: url", f"{SEEN} https://example.org/x.png", needs=VL),
    Case("picture: 10001 x 10000", f"{SEEN} x.png", image("x.png", (10001, 10000)), VL),
    Case("picture: 9000 x 9000, cut off", f"{SEEN} x.png", all_of(image("x.png", (9000, 9000)), cut("x.png", 900)), VL),
    Case("picture: 50000 x 10", f"{SEEN} x.png", image("x.png", (50000, 10)), VL),
    Case("picture: none for a mark", "vl --model vl --prompt <image>", needs=VL),
    Case(
        "picture: token in the prompt",
        ["vl", "--model", "vl", "--prompt", "<|image_pad|>", "--image", "red.png"],
        needs=VL,
    ),
    Case("picture: max_pixels 0", f"{SEEN} red.png --max-pixels 0", needs=VL),
    Case("picture: mask_mode x", f"{SEEN} red.png --mask-mode x", needs=VL),
    Case("picture: mask_mode without", "vl --model vl --prompt a --mask-mode vision", needs=VL),
    Case("picture: region x", f"{SEEN} red.png --region x", needs=VL),
    Case("picture: region beyond", f"{SEEN} red.png --region 0,0,99,99", needs=VL),
    Case("picture: region of picture 9", f"{SEEN} red.png --region 9:0,0,0,0", needs=VL),
    Case("picture: region mask gone", f"{SEEN} red.png --region-mask nowhere.png", needs=VL),
    Case("picture: region mask zero", f"{SEEN} red.png --region-mask /dev/zero", needs=VL),
    Case("picture: region mask black", f"{SEEN} red.png --region-mask b.png", image("b.png", (8, 8)), VL),
    Case("video: gone", "vl --model vl --prompt a --video nowhere.mp4", needs=VL),
    Case("video: empty", "vl --model vl --prompt a --video x.mp4", file_of("x.mp4", b""), VL),
    Case("video: text", "vl --model vl --prompt a --video x.mp4", file_of("x.mp4", b"hello"), VL),
    Case("video: zero", "vl --model vl --prompt a --video /dev/zero", needs=VL),
    Case("video: empty folder", "vl --model vl --prompt a --video d", lambda: Path("d").mkdir(), VL),
    Case("video: folder of texts", "vl --model vl --prompt a --video vl", needs=VL),
    Case("video: fps 0", "vl --model vl --prompt a --image red.png --fps 0", needs=VL),
    Case("video: fps without", "vl --model vl --prompt a --image red.png --fps 2", needs=VL),
    Case(
        "video: fps 1e300",
        "vl --model vl --prompt a --video x.gif --fps 1e300",
        lambda: Image.new("P", (50, 50)).save(
            "x.gif", save_all=True, append_images=[Image.new("P", (50, 50), i) for i in range(9)]
        ),
        VL,
    ),
    Case(
        "video: cut off",
        "vl --model vl --prompt a --video x.gif",
        lambda: (
            Image.new("P", (50, 50)).save(
                "x.gif", save_all=True, append_images=[Image.new("P", (50, 50), i) for i in range(9)]
            ),
            Path("x.gif").write_bytes(Path("x.gif").read_bytes()[:200]),
        ),
        VL,
    ),
    Case("vl: text model", "vl --model model --prompt a --image red.png", needs=("model", "red.png")),
    Case("vl: as text", "text --model vl --prompt a", needs=VL),
]
