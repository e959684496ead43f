"""The pictures of a run, as they are embedded in its page."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mask_impact.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

    PictureSource = str | os.PathLike[str] | Image.Image


LONGEST_SIDE = 1024  # pixels of an embedded picture


PNG_BYTES = 200_000  # a picture that is larger as PNG (a photograph) is embedded as JPEG


def opened(manifest: dict[str, Any] | None, images: Sequence[PictureSource | None] | None) -> list[Image.Image | None]:
    """The pictures of a run, upright RGB; None for one that is not there. Raises UserError for a wrong number."""
    from mask_impact.prompt.images import open_picture

    described = (manifest or {}).get("images") or []
    if images is None:
        return _from_files(described, (manifest or {}).get("videos") or [])
    if manifest is not None and len(images) != len(described):
        raise UserError(
            f"{len(images)} images were given, but the manifest names {len(described)}; None stands for a missing one"
        )
    return [None if image is None else open_picture(image).image for image in images]


def _from_files(described: Sequence[dict[str, Any]], videos: Sequence[dict[str, Any]]) -> list[Image.Image | None]:
    """The pictures and frames the manifest tells of, as far as their files are still there."""
    found = [None if "frame" in each else _unchanged(each) for each in described]
    for number, video in enumerate(videos):
        places = [place for place, each in enumerate(described) if each.get("video") == number]
        for place, frame in zip(places, _frames(video, [described[place] for place in places]), strict=True):
            found[place] = frame
    return found


def _frames(video: dict[str, Any], described: Sequence[dict[str, Any]]) -> list[Image.Image | None]:
    """The first frame of each temporal patch of a video, if its file is still there."""
    from mask_impact.prompt.films import frames_at, video_sha256

    try:
        if video_sha256(video["path"]) == video["sha256"]:
            return frames_at(video["path"], [each["frames"][0] for each in described])
    except (UserError, KeyError, IndexError):
        pass
    return [None] * len(described)


def _unchanged(described: dict[str, Any]) -> Image.Image | None:
    """The picture the manifest tells of, if its file is still there."""
    from mask_impact.prompt.images import open_picture

    try:
        picture = open_picture(described["path"])
    except (UserError, KeyError):
        return None
    return picture.image if picture.sha256 == described.get("sha256") else None


def data_url(picture: Image.Image) -> str:
    """At most LONGEST_SIDE pixels a side; PNG keeps every pixel of a drawing, a photograph becomes JPEG."""
    from PIL import Image

    image = picture.convert("RGB")
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    kind, data = "png", _saved(image, "PNG")
    if len(data) > PNG_BYTES:
        kind, data = "jpeg", _saved(image, "JPEG", quality=90)
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _saved(image: Image.Image, fmt: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, fmt, icc_profile=None, **options)
    return out.getvalue()
