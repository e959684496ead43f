"""One picture at several sizes: do its image tokens say the same of the same place?

In:  a model, a picture, and several numbers of pixels. Out: NAME_scales.csv / .json / .parquet, with one row for each
     layer, finer size and box of the coarsest grid; the manifest NAME_scales_run.json; a summary by layer.

The states of the finer image tokens in a box are averaged, each as much as it overlaps the box, and compared with the
state of the coarse token. The control is the same mean of the other boxes. For users: docs/latent-lens.md.

Shapes: B boxes of the coarsest grid, T states at a finer size, C hidden.
"""

import argparse
import datetime
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

import mask_impact
from mask_impact.commands.summary import noted
from mask_impact.commands.terminal import ProgressBar, show
from mask_impact.errors import UserError
from mask_impact.files.folder import output_folder
from mask_impact.jobs.session import Session
from mask_impact.lens.boxes import boxes, overlaps
from mask_impact.lens.ready import Ready, ready
from mask_impact.lens.stacks import Stack, stack_of
from mask_impact.lens.states import chosen
from mask_impact.lens.table_files import Files
from mask_impact.model.lengths import check_length
from mask_impact.model.memory import explained
from mask_impact.options import Settings, merged
from mask_impact.prompt.images import Picture, open_picture
from mask_impact.prompt.vision import vision_inputs
from mask_impact.table import Columns


@dataclass(frozen=True)
class Scale:
    """The picture at one size."""

    max_pixels: int
    ready: Ready
    image: dict[str, Any]  # what the manifest says of it

    @property
    def grid(self) -> tuple[int, int]:
        rows, cols = self.image["grid"]
        return rows, cols

    @property
    def described(self) -> dict[str, Any]:
        return {"max_pixels": self.max_pixels, **self.image, "prompt_length": self.ready.record["prompt_length"]}


@dataclass(frozen=True)
class Seen:
    """The states of the picture at one size."""

    places: np.ndarray  # [P, 4] their boxes, in pixels of the picture
    grid: tuple[int, int]
    states: dict[int, torch.Tensor]  # by layer [P, C]


def command(args: argparse.Namespace) -> int | None:
    started = time.perf_counter()
    session = Session(Settings(**merged(Settings, vars(args))))
    source, folder = session.source, session.settings.output_dir
    if len(args.images) > 1:
        raise UserError(
            f"{len(args.images)} pictures were given; scales compares one with itself, so give one `images`"
        )
    stack = stack_of(source.config, args.tower)
    layers = chosen(args.layers or (), stack.blocks)
    picture = open_picture(args.images[0])
    scales = scales_of(session, args.prompt, picture, args.scales)
    request = identity(session, args, stack, picture, layers)
    with output_folder(folder), ProgressBar(f"loading {source.name}", args.quiet) as progress:
        files = Files(folder, f"{args.output or args.images[0].stem}_scales", args.formats)
        if args.resume and files.keep(request, "model, picture, sizes, prompt and options", progress.say):
            return None
        files.check_writable(keeping=args.output and not (args.overwrite or args.resume))
        parts, summary = [], []
        coarse = seen(session.model, stack, scales[0], layers)
        for scale in scales[1:]:
            progress(f"{scale.max_pixels} pixels")
            for block in compared(coarse, seen(session.model, stack, scale, layers), scale.max_pixels):
                parts.append(block)
                summary.append(summed(block, len(coarse.places)))
        columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        manifest = {
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "argv": args.argv,
            "request": request,
            "model": source.manifest | {"blocks": stack.blocks, "hidden_size": stack.width},
            "notes": session.notes,
            "prompt": args.prompt,
            "layers": list(layers),
            "scales": [scale.described for scale in scales],
            "grid": list(coarse.grid),
            "summary": summary,
            "seconds": {"total": time.perf_counter() - started},
        }
        files.write(columns, manifest)
    if not args.quiet:
        show("\n".join([*report(scales, summary), f"written {files.paths[-1]}", *noted(session.notes)]))
    return None


def identity(
    session: Session, args: argparse.Namespace, stack: Stack, picture: Picture, layers: Sequence[int]
) -> dict[str, Any]:
    """Everything the table depends on, as plain JSON; --resume compares it with the manifest."""
    made_from = {
        "mask_impact": mask_impact.__version__,
        **session.identity,
        "tower": stack.name,
        "image_sha256": picture.sha256,
        "prompt": args.prompt,
        "max_pixels": args.scales,
        "layers": layers,
    }
    return json.loads(json.dumps(made_from))  # tuples become lists, as when it is read back


# --- the sizes ----------------------------------------------------------------------------------------------
def scales_of(session: Session, prompt: str, picture: Picture, sizes: Sequence[int]) -> list[Scale]:
    """The picture at each size, the one with the fewest image tokens first.

    Raises UserError for a picture that has no grid at one of the sizes, and for two sizes with the same grid.
    """
    found: list[Scale] = []
    for size in sizes:
        inputs = vision_inputs(session.reader, session.source.config, prompt, [picture], size)
        check_length(session.source.text_config, len(inputs.tokens), 1)
        [image] = inputs.images
        if image["grid"] is None:
            raise UserError(
                f"at {size} pixels this picture has no grid whose boxes could be compared ({image['layout']}); choose "
                "other sizes, or a model whose image tokens form one grid"
            )
        if image["grid"] == [1, 1]:
            raise UserError(
                f"at {size} pixels this picture is one image token, which has no other boxes beside it; "
                "choose larger sizes"
            )
        found.append(Scale(size, ready(inputs), image))
        if same := next((each for each in found[:-1] if each.grid == found[-1].grid), None):
            raise UserError(
                f"at {same.max_pixels} and at {size} pixels this picture of {picture.image.width} x "
                f"{picture.image.height} becomes the same {image['layout']}; choose sizes further apart, or smaller "
                "ones (a model with one fixed grid cannot be compared)"
            )
    return sorted(found, key=lambda scale: scale.grid[0] * scale.grid[1])


def seen(model: Any, stack: Stack, scale: Scale, layers: Sequence[int]) -> Seen:
    """Raises UserError where the patches of the vision encoder form no grid."""
    with explained(f"a forward over {scale.ready.record['prompt_length']} tokens"):
        grid = stack.about(model, scale.ready).get("patch_grid", scale.grid)
        if grid is None:
            raise UserError("the patches of this vision encoder form no grid; leave out --tower vision")
        states = stack.states(model, [scale.ready], layers)
    return Seen(boxes(scale.image, grid), tuple(grid), states)


# --- comparing ----------------------------------------------------------------------------------------------
def compared(coarse: Seen, fine: Seen, max_pixels: int) -> list[Columns]:
    """The rows of each layer: one for each box of the coarse grid that has finer states in it."""
    weights = overlaps(coarse.places, fine.places)  # [B, T]
    kept = np.flatnonzero(weights.sum(axis=1))  # not what is of padding alone
    shares = torch.from_numpy(weights[kept] / weights[kept].sum(axis=1, keepdims=True))
    rows, cols = np.divmod(kept, coarse.grid[1])
    blocks = []
    for layer, states in coarse.states.items():
        own = states.cpu().double()[kept]  # [B, C]
        means = shares @ fine.states[layer].cpu().double()
        blocks.append(
            {
                "layer": np.full(len(kept), layer, np.int64),
                "max_pixels": np.full(len(kept), max_pixels, np.int64),
                "row": rows.astype(np.int64),
                "col": cols.astype(np.int64),
                "states": (weights[kept] > 0).sum(axis=1),
                **{name: found.numpy() for name, found in likeness(own, means).items()},
            }
        )
    return blocks


def likeness(own: torch.Tensor, means: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of the state [B, C] of each box and the mean [B, C] of its finer states: how alike they are, and how alike the
    state is to the means of other boxes."""
    units = [states / states.norm(dim=-1, keepdim=True).clamp_min(1e-300) for states in (own, means)]
    cosines = units[0] @ units[1].T  # [B, B]
    matching = cosines.diagonal()
    return {
        "cosine": matching.float(),
        "cosine_others": ((cosines.sum(dim=1) - matching) / max(1, len(own) - 1)).float(),
        "rank": 1 + (cosines > matching[:, None]).sum(dim=1),
        "l2_distance": (own - means).norm(dim=-1).float(),
        "norm": own.norm(dim=-1).float(),
    }


def summed(block: Columns, boxes: int) -> dict[str, Any]:
    """The means of a layer's boxes; `first` is the part of them whose own mean is the most alike of all."""
    names = ("cosine", "cosine_others", "l2_distance", "norm", "rank")
    return {
        "layer": int(block["layer"][0]),
        "max_pixels": int(block["max_pixels"][0]),
        "boxes": len(block["rank"]),
        **{f"mean_{name}": float(np.mean(block[name], dtype=np.float64)) for name in names},
        "first": float(np.mean(block["rank"] == 1)),
    }


# --- for people ---------------------------------------------------------------------------------------------
def report(scales: Sequence[Scale], summary: Sequence[dict[str, Any]]) -> list[str]:
    lines = [
        f"{scale.max_pixels} pixels: {scale.image['tokens']} image tokens ({scale.image['layout']})" for scale in scales
    ]
    lines.append(f"compared with {scales[0].max_pixels} pixels, box by box of its grid:")
    lines.append("layer  max pixels  cosine  other boxes  own box is the nearest   by chance  L2 / norm")
    for each in summary:
        first = f"{round(each['first'] * each['boxes'])} of {each['boxes']}"
        lines.append(
            f"{each['layer']:5} {each['max_pixels']:11} {each['mean_cosine']:7.3f} {each['mean_cosine_others']:12.3f}"
            f" {first:>23} {1 / each['boxes']:11.1%} {each['mean_l2_distance'] / each['mean_norm']:10.3f}"
        )
    return lines
