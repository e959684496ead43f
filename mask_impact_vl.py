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
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mask_impact.commands import flags
from mask_impact.commands import main as commands
from mask_impact.options import MASK_MODES, VARIANTS, VISION_ATTENTION

if TYPE_CHECKING:
    import os

    import pandas as pd
    import torch
    from PIL import Image

DEFAULT_MODEL = "Qwen/Qwen3-VL-4B-Instruct"
DEFAULT_NAME = "vl_masking"


def run_vl_masking_experiment(
    prompt: str,
    image_path: "str | os.PathLike[str] | Image.Image | Sequence[str | os.PathLike[str] | Image.Image] | None" = None,
    mask_mode: str = "text",
    model_name: str = DEFAULT_MODEL,
    device: str = "auto",
    num_output_tokens: int = 1,
    *,
    model: Any = None,
    processor: Any = None,
    layers: str | Sequence[int] | None = None,
    variants: Sequence[str] = VARIANTS,
    dtype: str = "auto",
    head_space: str = "output",
    ablation: str = "neg-inf",
    queries: str | Sequence[tuple[int, int]] = "last",
    mask_unit: str | None = None,
    spans: Sequence[str] = (),
    regions: Sequence[str] = (),
    region_masks: Sequence[str] = (),
    vision_attention: str = "model",
    max_pixels: int | None = None,
) -> "pd.DataFrame":
    """Mask tokens of a prompt with images, one at a time and in one layer at a time; the table as a DataFrame.

    Args:
        prompt: what the user asks, put into the model's chat template; `<image>` says where a picture stands, without
            it the pictures come first.
        image_path: a file, a PIL image, several of them, or None for a prompt of text alone.
        mask_mode: "text" masks every token that is no image token, "vision" every image token, "both" all.
        model_name: hub name, checkpoint folder or "demo"; or give a loaded `model` and its `processor`.
        layers: "0,8,20-27", a list of ints, or None for all.
        variants: any of "full", "attn", "head".
        head_space: "output" compares heads before the output projection, "residual" their shares of it.
        ablation: "neg-inf" takes a token out of the softmax, "zero-value" keeps its weight and zeroes its value.
        queries: "last" (the predicting position), "all", or (first, last) of ranges of positions.
        mask_unit: "token", "word" or "sentence"; with `spans`, `regions` or `region_masks`, those are masked.
        vision_attention: "model" is the checkpoint's own mask; with "bidirectional" a picture's tokens see each other.
        max_pixels: pictures are shrunk to at most so many pixels.

    Returns the columns of docs/output-format.md; `df.attrs["run"]` is the manifest.
    Raises mask_impact.errors.UserError for bad input and UnsupportedModel for a model that cannot be measured.
    """
    from mask_impact.jobs.from_python import measured_table

    request = {
        "prompt": prompt, "images": image_path, "num_tokens": num_output_tokens, "layers": layers, "variants": variants,
        "head_space": head_space, "mask_mode": mask_mode, "vision_attention": vision_attention,
        "max_pixels": max_pixels, "ablation": ablation, "queries": queries, "mask_unit": mask_unit,
        "spans": tuple(spans), "regions": tuple(regions), "region_masks": tuple(region_masks),
    }  # fmt: skip
    return measured_table(request, model_name, model, processor, device=device, dtype=dtype, vision=True)


def run_vl_effects_experiment(
    prompt: str,
    image_path: "str | os.PathLike[str] | Image.Image | Sequence[str | os.PathLike[str] | Image.Image] | None" = None,
    model_name: str = DEFAULT_MODEL,
    device: str = "auto",
    num_output_tokens: int = 1,
    *,
    model: Any = None,
    processor: Any = None,
    mask_layers: str = "all",
    blocks: Sequence[str] = ("all",),
    mask_unit: str | None = None,
    spans: Sequence[str] = (),
    contrast: Sequence[str] = (),
    pairs: int = 0,
    ablation: str = "neg-inf",
    dtype: str = "auto",
    mask_mode: str = "text",
    vision_attention: str = "model",
    max_pixels: int | None = None,
    regions: Sequence[str] = (),
    region_masks: Sequence[str] = (),
) -> "pd.DataFrame":
    """What masks do to the answer, held over a range of layers and carried on to the logits (docs/effects.md).

    Args:
        mask_layers: "all", "0-5,8" (a window each), "window:3" (sliding) or "from" (each layer to the last).
        blocks: "last": the predicting position stops reading what is masked; "all": every later position does.
        mask_unit: "token" (default), "word" or "sentence"; with `spans`, those are masked.
        contrast: two tokens, such as (" Paris", " Rome"), for the difference of their logits.
        pairs: also all pairs among so many of the strongest units, and how they interact.
        ablation: "neg-inf" or "zero-value".

    Returns the columns of NAME_effects; `df.attrs["run"]` is the manifest.
    Raises mask_impact.errors.UserError for bad input and UnsupportedModel for a model that cannot be measured.
    """
    from mask_impact.jobs.from_python import measured_table

    request = {
        "prompt": prompt, "num_tokens": num_output_tokens, "variants": ("full",), "effects": True,
        "mask_layers": mask_layers, "blocks": tuple(blocks), "mask_unit": mask_unit, "spans": tuple(spans),
        "contrast": tuple(contrast), "pairs": pairs, "ablation": ablation, "images": image_path, "mask_mode": mask_mode,
        "vision_attention": vision_attention, "max_pixels": max_pixels, "regions": tuple(regions),
        "region_masks": tuple(region_masks),
    }  # fmt: skip
    return measured_table(request, model_name, model, processor, device=device, dtype=dtype, vision=True)


def create_vl_attention_mask(
    seq_length: int, vision_ranges: "Sequence[tuple[int, int]]", device: "torch.device | str | None" = None
) -> "torch.Tensor":
    """[1, 1, N, N] float32 additive mask, causal except that the tokens of each range [first, last) see each other:
    what `--vision-attention bidirectional` measures, for use as `model(..., attention_mask=mask)`."""
    from mask_impact.model import masks

    return masks.create_vl_attention_mask(seq_length, vision_ranges, device)


def main(argv: Sequence[str] | None = None) -> int:
    description, _, examples = (__doc__ or "").split("\n\n")
    parser = flags.build_parser(description, examples, DEFAULT_MODEL, DEFAULT_NAME)
    parser.set_defaults(vision=True)
    parser.add_argument(
        "--image", metavar="PATH", dest="images", type=Path, action="append",
        help="a picture; repeat it for more. They stand where the prompt says <image>, or before it",
    )  # fmt: skip
    parser.add_option(
        "--mask-mode", metavar="|".join(MASK_MODES), default="text",
        help="mask every token that is no image token, every image token, or both (default: text)",
    )  # fmt: skip
    parser.add_option(
        "--vision-attention", metavar="|".join(VISION_ATTENTION), default="model",
        help="the checkpoint's own mask, or one in which the tokens of a picture see each other (default: model)",
    )  # fmt: skip
    parser.add_argument(
        "--region", metavar="ROW,COL,ROW,COL", dest="regions", action="append",
        help="mask the patches of this rectangle of the grid together; 1:0,0,2,3 is of picture 1; repeat it for more",
    )  # fmt: skip
    parser.add_argument(
        "--region-mask", metavar="PNG", dest="region_masks", action="append",
        help="mask the patches that are white in this picture together; 1:PNG is of picture 1; repeat it for more",
    )  # fmt: skip
    parser.add_option("--max-pixels", metavar="N", help="shrink pictures to at most so many pixels")
    return commands.main(parser, argv)


if __name__ == "__main__":
    sys.exit(main())
