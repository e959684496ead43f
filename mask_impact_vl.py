#!/usr/bin/env python3
"""Which words and which image patches does a vision-language model use, at which layer, in which head?

In: a prompt, images and a transformers model. Out: NAME_results.csv, .json and .html: one row per generation step,
layer, masked token and variant, with the L2 and cosine distance by which the layer's update moves; which patch of the
picture each image token covers is in NAME_run.json (docs/vision-language.md).

    python mask_impact_vl.py --model demo --image testimg.png --prompt "What's in this image?" --mask-mode both
    python mask_impact_vl.py --model demo --image testimg.png --prompt "What color is the circle?" --mask-mode vision
    python mask_impact_vl.py --image a.jpg --image b.jpg --prompt "Is <image> the same place as <image>?"
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack

from mask_impact.commands import flags
from mask_impact.commands import main as commands
from mask_impact.options import Request

if TYPE_CHECKING:
    import os

    import pandas as pd
    import torch
    from PIL import Image

    from mask_impact.jobs.keywords import VLEffectsRequest, VLMaskingRequest

DEFAULT_MODEL = "Qwen/Qwen3-VL-4B-Instruct"
DEFAULT_NAME = "vl_masking"


def run_vl_masking_experiment(
    prompt: str = "",
    image_path: "str | os.PathLike[str] | Image.Image | Sequence[str | os.PathLike[str] | Image.Image] | None" = None,
    mask_mode: str = "text",
    model_name: str = DEFAULT_MODEL,
    device: str = "auto",
    num_output_tokens: int = 1,
    *,
    model: Any = None,
    processor: Any = None,
    dtype: str = "auto",
    request_type: type[Request] = Request,
    **request: "Unpack[VLMaskingRequest]",
) -> "pd.DataFrame":
    """Mask tokens of a prompt with images, one at a time and in one layer at a time; the table as a DataFrame.

    Args:
        prompt: what the user asks, put into the model's chat template; `<image>` says where a picture stands, without
            it the pictures come first.
        image_path: a file, a PIL image, several of them, or None for a prompt of text alone.
        mask_mode: "text" masks every token that is not an image token, "vision" every image token, "both" all.
        model_name: hub name, checkpoint folder or "demo"; or give a loaded `model` and its `processor`.
        request: what is measured and how, all keywords are in docs/python.md: layers, regions, max_pixels, ...
        request_type: a subclass of `Request` with further fields, which are keywords then.

    Returns the columns of docs/output-format.md; `df.attrs["run"]` is the manifest.
    Raises mask_impact.errors.UserError for bad input and UnsupportedModel for a model that cannot be measured.
    """
    from mask_impact.jobs.from_python import as_request, measured_table

    asked = as_request(
        request, request_type, vision=True, effects=False, prompt=prompt, images=image_path, mask_mode=mask_mode,
        num_tokens=num_output_tokens,
    )  # fmt: skip
    return measured_table(asked, model_name, model, processor, device=device, dtype=dtype, vision=True)


def run_vl_effects_experiment(
    prompt: str = "",
    image_path: "str | os.PathLike[str] | Image.Image | Sequence[str | os.PathLike[str] | Image.Image] | None" = None,
    model_name: str = DEFAULT_MODEL,
    device: str = "auto",
    num_output_tokens: int = 1,
    *,
    mask_mode: str = "text",
    model: Any = None,
    processor: Any = None,
    dtype: str = "auto",
    request_type: type[Request] = Request,
    **request: "Unpack[VLEffectsRequest]",
) -> "pd.DataFrame":
    """What masks do to the answer, held over a range of layers and carried on to the logits (docs/effects.md).

    Args:
        prompt, image_path, mask_mode, model_name: as for `run_vl_masking_experiment`.
        request: what is measured and how, all keywords are in docs/python.md: mask_layers, blocks, contrast, ...
        request_type: a subclass of `Request` with further fields, which are keywords then.

    Returns the columns of NAME_effects; `df.attrs["run"]` is the manifest.
    Raises mask_impact.errors.UserError for bad input and UnsupportedModel for a model that cannot be measured.
    """
    from mask_impact.jobs.from_python import as_request, measured_table

    asked = as_request(
        request, request_type, vision=True, effects=True, prompt=prompt, images=image_path, mask_mode=mask_mode,
        num_tokens=num_output_tokens,
    )  # fmt: skip
    return measured_table(asked, model_name, model, processor, device=device, dtype=dtype, vision=True)


def create_vl_attention_mask(
    seq_length: int, vision_ranges: "Sequence[tuple[int, int]]", device: "torch.device | str | None" = None
) -> "torch.Tensor":
    """[1, 1, N, N] float32 additive mask, causal except that the tokens of each range [first, last) see each other:
    what `--vision-attention bidirectional` measures, for use as `model(..., attention_mask=mask)`."""
    from mask_impact.model import masks

    return masks.create_vl_attention_mask(seq_length, vision_ranges, device)


def main(argv: Sequence[str] | None = None, request: type[Request] = Request) -> int:
    """The command. `request` is a subclass with further fields where an extension adds flags."""
    parser = flags.script_parser(__doc__ or "", DEFAULT_MODEL, DEFAULT_NAME, request, vision=True)
    return commands.main(parser, argv)


if __name__ == "__main__":
    sys.exit(main())
