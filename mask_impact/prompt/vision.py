"""From a prompt and pictures to model inputs, and tokens that know which patch of which picture they are.

The model's own processor applies the chat template, prepares the pictures and decides how many image tokens they
become. The engine then treats image tokens like any others: they only carry a kind and a place.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL import Image

from mask_impact.errors import UserError
from mask_impact.prompt.grids import Encoded, Layout, layout, side
from mask_impact.prompt.images import Picture, open_picture
from mask_impact.prompt.inputs import ModelInputs, check_prompt, tokens_of

MARKER = "<image>"  # where a picture stands in the user's prompt

ImageSource = str | os.PathLike[str] | Image.Image


def picture_list(paths: ImageSource | Sequence[ImageSource] | None) -> list[ImageSource]:
    """One picture, several or none as a list."""
    return [paths] if isinstance(paths, str | os.PathLike | Image.Image) else list(paths or ())


def open_pictures(paths: ImageSource | Sequence[ImageSource] | None) -> list[Picture]:
    """The pictures in order. Raises UserError."""
    return [open_picture(path) for path in picture_list(paths)]


def vision_inputs(
    processor: Any, config: Any, prompt: str, pictures: Sequence[Picture], max_pixels: int | None = None
) -> ModelInputs:
    """The prompt in the model's chat template with its pictures, as the model's processor makes it.

    Args:
        processor: as `processors.load_processor` gives it.
        config: of the model.
        prompt: has one `<image>` per picture, or none; then the pictures come first.
        max_pixels: larger pictures are shrunk to this many pixels.

    Raises UserError for a prompt or pictures that the processor rejects.
    """
    if max_pixels is not None and max_pixels < 1:
        raise UserError(f"max_pixels is {max_pixels}; it must be 1 or more")
    image_id = image_token_id(processor, config)
    image_token = processor.tokenizer.convert_ids_to_tokens(image_id)
    content = message(processor, prompt, len(pictures), image_token)
    text = rendered(processor, content)
    outputs = encoded(processor, text, pictures, max_pixels)
    ids = outputs["input_ids"][0].tolist()
    places = [position for position, found in enumerate(ids) if found == image_id]
    counts = tokens_per_picture(processor, len(places), pictures, max_pixels, image_id)
    layouts = [
        layout(Encoded(config, processor, outputs, index, count, picture.original_size))
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
    # PaliGemma's processor also returns labels, which are for training
    tensors = {name: found for name, found in outputs.items() if torch.is_tensor(found) and name != "labels"}
    shown = [picture.image for picture in pictures]
    return ModelInputs(tensors, tokens, prompt, chat=True, images=images, pictures=shown)


def image_token_id(processor: Any, config: Any) -> int:
    """The id of image tokens. Raises UserError if neither config nor processor has it."""
    for holder, name in ((config, "image_token_id"), (config, "image_token_index"), (processor, "image_token_id")):
        if isinstance(found := getattr(holder, name, None), int):
            return found
    raise UserError(
        f"neither the config nor the processor of model family '{config.model_type}' says which token stands for an "
        "image (image_token_id); complete the checkpoint's config.json"
    )


def message(processor: Any, prompt: str, count: int, image_token: str | None = None) -> list[dict[str, str]]:
    """The user's message as parts: text, and `count` pictures in their order. Raises UserError, also for a prompt that
    contains `image_token`, or the text that the processor replaces with a picture."""
    check_prompt(prompt.replace(MARKER, ""))
    pieces = prompt.split(MARKER)
    if len(pieces) - 1 not in (0, count):
        raise UserError(
            f"the prompt has {len(pieces) - 1} {MARKER}, but the number of images given is {count}; write one {MARKER} "
            "for every image, or none: then the images come first"
        )
    for own in (getattr(processor, "image_token", None), image_token):
        if own and any(own in piece for piece in pieces):
            raise UserError(f"the prompt holds the model's own token {own}; write {MARKER} where an image stands")
    picture = {"type": "image"}
    if len(pieces) == 1:
        return [picture] * count + [{"type": "text", "text": prompt}]
    parts = [part for piece in pieces for part in (picture, {"type": "text", "text": piece})][1:]
    return [part for part in parts if part.get("text") != ""]


def rendered(processor: Any, content: list[dict[str, str]]) -> str:
    """The message in the model's chat template; without one, its parts one after the other."""
    template = getattr(processor, "chat_template", None) or processor.tokenizer.chat_template
    if template is None:
        return "".join(part.get("text", processor.image_token) for part in content)
    messages = [{"role": "user", "content": content}]
    return str(
        processor.apply_chat_template(messages, chat_template=template, add_generation_prompt=True, tokenize=False)
    )


def encoded(
    processor: Any, text: str, pictures: Sequence[Picture], max_pixels: int | None
) -> Mapping[str, torch.Tensor]:
    """The processor's output for text and pictures. Raises UserError."""
    images = [picture.image for picture in pictures]
    settings: dict[str, Any] = {}
    if max_pixels and pictures:
        images, settings = within(processor, images, max_pixels)
    if pictures:  # transformers 4 takes the rows of a picture 1 or 3 pixels high for channels
        settings["input_data_format"] = "channels_last"
    bos = processor.tokenizer.bos_token
    if bos is not None and text.startswith(bos):  # the template has already added it
        settings["add_special_tokens"] = False
    try:
        return _taken(processor, text, images, settings)
    except (ValueError, ZeroDivisionError, IndexError) as error:
        sizes = ", ".join(f"{picture.image.width} x {picture.image.height}" for picture in pictures)
        raise UserError(
            f"the model's processor cannot take this prompt {f'with images of {sizes} pixels' if sizes else 'alone'} "
            f"({' '.join(str(error).split())[:200]}); give other images or another prompt"
        ) from error


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
    text = rendered(processor, message(processor, "two", 2))
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
    return {
        "path": picture.path.encode(errors="replace").decode(),  # a file name may have bytes that are not text
        "sha256": picture.sha256,
        "format": picture.format,
        "mode": picture.mode,
        "notes": list(picture.notes),
        "size": list(picture.original_size),
        "resized": list(found.resized) if found.resized else None,
        "grid": [found.rows, found.cols] if found.rows else None,
        "region": list(found.region) if found.region else None,
        "layout": str(found),
        "tokens": found.tokens,
        "positions": [first, last],
    }
