"""From a prompt, pictures and videos to model inputs, and tokens that know which patch of which picture they are.

The model's own processor applies the chat template, prepares the pictures and decides how many image tokens they
become. The engine then treats image tokens like any others: they only carry a kind and a place. A temporal patch of a
video is a picture among the others, which also knows its video and its times.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL import Image

from mask_impact.errors import UserError
from mask_impact.prompt.bounds import check_text, refused
from mask_impact.prompt.clips import Clip
from mask_impact.prompt.grids import Encoded, Layout, layout, side
from mask_impact.prompt.images import Picture, open_picture
from mask_impact.prompt.inputs import ModelInputs, Token, added_ends, begins_as_texts_do, ends_note, tokens_of
from mask_impact.prompt.messages import as_recorded, last_text
from mask_impact.prompt.video_part import FAMILIES, taking_part, video_part
from mask_impact.prompt.wording import (
    check_no_token,
    check_there,
    conversation,
    in_template,
    message,
    own_tokens,
    wording,
)

ImageSource = str | os.PathLike[str] | Image.Image


def picture_list(paths: ImageSource | Sequence[ImageSource] | None) -> list[ImageSource]:
    """One picture, several or none as a list."""
    return [paths] if isinstance(paths, str | os.PathLike | Image.Image) else list(paths or ())


def open_pictures(paths: ImageSource | Sequence[ImageSource] | None) -> list[Picture]:
    """The pictures in order. Raises UserError."""
    return [open_picture(path) for path in picture_list(paths)]


def vision_inputs(
    processor: Any,
    config: Any,
    prompt: str,
    pictures: Sequence[Picture],
    max_pixels: int | None = None,
    system: str | None = None,
    messages: Sequence[dict[str, Any]] = (),
    clips: Sequence[Clip] = (),
) -> ModelInputs:
    """The prompt in the model's chat template with its pictures and videos, as the model's processor makes it.

    Args:
        processor: as `processors.load_processor` gives it.
        config: of the model.
        prompt: has one `<image>` per picture, or none; then the pictures come first; the same for `<video>`.
        max_pixels: larger pictures are shrunk to this many pixels.
        system: a message before the prompt.
        messages: a conversation in place of the prompt; it has a part for each picture and video.
        clips: the videos, sampled and resized.

    Raises UserError for a prompt or pictures that the processor rejects.
    """
    if max_pixels is not None and max_pixels < 1:
        raise UserError(f"max_pixels is {max_pixels}; it must be 1 or more")
    image_id = image_token_id(processor, config)
    own = own_tokens(processor, processor.tokenizer.convert_ids_to_tokens(image_id), config.model_type in FAMILIES)
    if messages:
        text, notes, said = conversation(processor, messages, system, own)
    else:
        counts = {"image": len(pictures), "video": len(clips)}
        text, notes, said = wording(processor, prompt, counts, system, own)

    def tensors_of(text: str) -> tuple[Mapping[str, Any], list[str]]:
        with taking_part(processor, video_part(processor, config) if clips else None):
            return without_ends(processor.tokenizer, text, encoded(processor, text, pictures, max_pixels, clips))

    outputs, ends = tensors_of(text)
    tokens, images = placed(processor, config, outputs, pictures, max_pixels, image_id)
    images += place_clips(processor, tokens, outputs, clips, len(pictures))
    # PaliGemma's processor also returns labels, which are for training
    tensors = {name: found for name, found in outputs.items() if torch.is_tensor(found) and name != "labels"}

    def followed_by(more: str) -> list[int]:
        check_no_token(more, own, "the answer holds", "an answer has no images")
        return list(tensors_of(text + more)[0]["input_ids"][0].tolist())

    return ModelInputs(
        tensors,
        tokens,
        last_text(messages) if messages else prompt,
        chat=True,
        images=images,
        pictures=[*(picture.image for picture in pictures), *(shown for clip in clips for shown in clip.shown)],
        videos=[clip.described for clip in clips],
        messages=as_recorded(messages) if messages else None,
        notes=[*notes, *ends, *(f"video {at}: {note}" for at, clip in enumerate(clips) for note in clip.notes)],
        said=said,
        followed_by=followed_by,
    )


def placed(
    processor: Any,
    config: Any,
    outputs: Mapping[str, Any],
    pictures: Sequence[Picture],
    max_pixels: int | None,
    image_id: int,
) -> tuple[list[Token], list[dict[str, Any]]]:
    """The tokens, those of pictures with their places, and what the manifest says of each picture."""
    ids = outputs["input_ids"][0].tolist()
    places = [position for position, found in enumerate(ids) if found == image_id]
    if pictures:
        check_there(processor, "image", len(places))
        if not places:
            token = processor.tokenizer.convert_ids_to_tokens(image_id)
            raise UserError(
                f"the model's config has image_token_id {image_id} ({token!r}), and the processor makes no such token "
                "of an image; mend it in the checkpoint's config.json"
            )
    counts = tokens_per_picture(processor, len(places), pictures, max_pixels, image_id)
    layouts = [
        layout(Encoded(config, processor, outputs, index, count, picture.original_size, len(pictures)))
        for index, (picture, count) in enumerate(zip(pictures, counts, strict=True))
    ]
    tokens = tokens_of(processor.tokenizer, ids)
    images = []
    taken = iter(places)
    for index, (picture, found) in enumerate(zip(pictures, layouts, strict=True)):
        own = [(next(taken), *place) for place in found.places()]
        for position, row, col, box in own:
            tokens[position] = replace(tokens[position], kind="image", image=index, row=row, col=col, box=box)
        images.append(described(picture, found, own[0][0], own[-1][0]))
    return tokens, images


def place_clips(
    processor: Any, tokens: list[Token], outputs: Mapping[str, Any], clips: Sequence[Clip], first: int
) -> list[dict[str, Any]]:
    """Give the tokens of videos their places, and describe each temporal patch as a picture, the first of number
    `first`. Raises UserError if the template leaves videos out."""
    if not clips:
        return []
    taken = [token.position for token in tokens if token.id == processor.video_token_id]
    check_there(processor, "video", len(taken))
    merge, patch = (getattr(processor.image_processor, name) for name in ("merge_size", "patch_size"))
    grids = outputs["video_grid_thw"].tolist()
    assert len(taken) * merge**2 == sum(times * rows * cols for times, rows, cols in grids), "tokens and grids differ"
    images: list[dict[str, Any]] = []
    for video, (clip, (_, rows, cols)) in enumerate(zip(clips, grids, strict=True)):
        width, height = clip.size
        found = Layout(
            rows // merge * (cols // merge), clip.size, rows // merge, cols // merge,
            (0.0, 0.0, float(width), float(height)), (cols * patch, rows * patch),
        )  # fmt: skip
        for frame, numbers in enumerate(clip.patches):
            own, taken = taken[: found.tokens], taken[found.tokens :]
            image, when = first + len(images), clip.seconds(numbers)
            for position, (row, col, box) in zip(own, found.places(), strict=True):
                of_frame = {"image": image, "video": video, "frame": frame, "seconds": tuple(when)}
                at_place = {"kind": "image", "row": row, "col": col, "box": box}
                tokens[position] = replace(tokens[position], **of_frame, **at_place)  # type: ignore[arg-type]
            which = {"video": video, "frame": frame, "frames": list(numbers), "seconds": when}
            images.append(described_frames(clip, found, (own[0], own[-1]), which))
    return images


def described_frames(clip: Clip, found: Layout, ends: tuple[int, int], which: dict[str, Any]) -> dict[str, Any]:
    """What the manifest says about a temporal patch, as of a picture, and of which frames it is. It has no path: the
    video's file, opened as a picture, would be its first frame."""
    when = " and ".join(f"{second:g}" for second in dict.fromkeys(which["seconds"]))
    name = f"<{os.path.basename(clip.described['path'])}, frame {which['frame']}, {when} s>"
    about = {"path": name, "sha256": clip.sha256, "format": clip.format, "mode": "RGB", "notes": []}
    return about_layout(about, clip.size, found, *ends) | which


def without_ends(tokenizer: Any, text: str, outputs: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[str]]:
    """The processor's output without an end of text that the tokenizer added, and what is to be noted."""
    ids = outputs["input_ids"]
    count = added_ends(tokenizer, ids[0].tolist(), text)
    if not count:
        return outputs, []
    shorter = {
        name: found[:, :-count] if torch.is_tensor(found) and found.shape == ids.shape else found
        for name, found in outputs.items()
    }
    return shorter, [ends_note(tokenizer, ids[0].tolist(), count)]


def image_token_id(processor: Any, config: Any) -> int:
    """The id of image tokens. Raises UserError if neither config nor processor has it."""
    for holder, name in ((config, "image_token_id"), (config, "image_token_index"), (processor, "image_token_id")):
        if isinstance(found := getattr(holder, name, None), int):
            return found
    raise UserError(
        f"neither the config nor the processor of model family '{config.model_type}' says which token stands for an "
        "image (image_token_id); complete the checkpoint's config.json"
    )


def encoded(
    processor: Any, text: str, pictures: Sequence[Picture], max_pixels: int | None, clips: Sequence[Clip] = ()
) -> Mapping[str, torch.Tensor]:
    """The processor's output for text, pictures and videos. Raises UserError."""
    check_text(processor.tokenizer, text)
    images = [picture.image for picture in pictures]
    settings: dict[str, Any] = {}
    if max_pixels and pictures:
        images, settings = within(processor, images, max_pixels)
    # transformers 4 takes the rows of a picture 1 or 3 pixels high for channels; its torchvision processors do not
    if pictures and not getattr(processor.image_processor, "is_fast", False):
        settings["input_data_format"] = "channels_last"
    if begins_as_texts_do(processor.tokenizer, text):  # the template has already added it
        settings["add_special_tokens"] = False
    if clips:
        settings |= {"videos": [clip.frames for clip in clips], "video_metadata": [clip.metadata for clip in clips]}
    sizes = ", ".join(f"{picture.image.width} x {picture.image.height}" for picture in pictures)
    what = f"the model's processor cannot take this prompt {f'with images of {sizes} pixels' if sizes else 'alone'}"
    given = [kind for kind, found in (("image", pictures), ("video", clips)) if found]
    with refused(what, lambda: _other_input(processor, given)):
        outputs = _taken(processor, text, images, settings)
        if "second_per_grid_ts" in outputs:  # transformers 4 would take 2 frames a second for granted
            outputs = {**outputs, "second_per_grid_ts": torch.tensor([clip.times / clip.rate for clip in clips])}
        return outputs


def _other_input(processor: Any, given: Sequence[str]) -> str:
    """What to do where the processor refuses its input. Raises UserError if the chat template is the reason."""
    for kind in given:
        check_there(processor, kind)
    return "give other images or another prompt"


def _taken(
    processor: Any, text: str, images: list[Image.Image], settings: Mapping[str, Any]
) -> Mapping[str, torch.Tensor]:
    """The processor's output. Images go in one list per text: LLaVA-OneVision tiles a picture only if it is the only
    one of its text; GOT-OCR2 takes such a list for pages of one document."""
    try:
        return processor(text=[text], images=[images] if images else None, return_tensors="pt", **settings)
    except ValueError as error:
        if not images or "nested images" not in str(error).lower():
            raise
        return processor(text=[text], images=images, return_tensors="pt", **settings)


def within(processor: Any, images: list[Image.Image], max_pixels: int) -> tuple[list[Image.Image], dict[str, Any]]:
    """The images and the processor's settings that keep them within `max_pixels`.

    Processors that fit a picture between two numbers of pixels (Qwen-VL) get a setting; for others it is shrunk here.
    """
    image_processor = processor.image_processor
    least, most = (side(image_processor.size, name) for name in ("shortest_edge", "longest_edge"))
    if not (
        least and most and hasattr(image_processor, "merge_size")
    ):  # without it, these are sides, not areas (Idefics 2)
        return [_shrunk(image, max_pixels) for image in images], {}
    cell = image_processor.patch_size * image_processor.merge_size
    most = min(most, max_pixels)
    fits = all(_enlarged(image, least, cell) <= most for image in images)
    return images, {"size": {"shortest_edge": least if fits else 1, "longest_edge": most}}


def _enlarged(image: Image.Image, least: int, cell: int) -> float:
    """An upper bound of the pixels of the image, enlarged to `least` pixels and then to whole cells."""
    scale = (least / (image.width * image.height)) ** 0.5
    return (image.width * scale + cell) * (image.height * scale + cell)


def _shrunk(image: Image.Image, max_pixels: int) -> Image.Image:
    scale = min(1.0, (max_pixels / (image.width * image.height)) ** 0.5)
    size = max(1, int(image.width * scale)), max(1, int(image.height * scale))
    return image if size == image.size else image.resize(size, Image.Resampling.BICUBIC)


def tokens_per_picture(
    processor: Any, total: int, pictures: Sequence[Picture], max_pixels: int | None, image_id: int
) -> list[int]:
    """How many of the image tokens belong to each picture.

    They are counted by giving every picture to the processor twice, because some processors tile a picture that comes
    alone. Raises UserError if the counts do not add up to `total`.
    """
    if len(pictures) < 2:
        return [total] * len(pictures)
    text = in_template(processor, message("two", {"image": 2}, ()))
    counts = [
        int((encoded(processor, text, [picture] * 2, max_pixels)["input_ids"] == image_id).sum()) // 2
        for picture in pictures
    ]
    if sum(counts) != total:
        raise UserError(
            f"the processor makes {total} image tokens of {len(pictures)} images, but {' + '.join(map(str, counts))} "
            "of each alone, so it is not known which belongs to which; give one image at a time"
        )
    return counts


def described(picture: Picture, found: Layout, first: int, last: int) -> dict[str, Any]:
    """What the manifest says about a picture."""
    about = {
        "path": picture.path.encode(errors="replace").decode(),  # a file name may have bytes that are not text
        "sha256": picture.sha256,
        "format": picture.format,
        "mode": picture.mode,
        "notes": list(picture.notes),
    }
    return about_layout(about, picture.original_size, found, first, last)


def about_layout(about: dict[str, Any], size: tuple[int, int], found: Layout, first: int, last: int) -> dict[str, Any]:
    """`about` with what the manifest says of where the tokens of a picture lie."""
    return about | {
        "size": list(size),
        "resized": list(found.resized) if found.resized else None,
        "grid": [found.rows, found.cols] if found.rows else None,
        "region": list(found.region) if found.region else None,
        "layout": str(found),
        "tokens": found.tokens,
        "positions": [first, last],
    }
