"""The parts of a vision-language model, the tokens that an image becomes, and the norms of their hidden states.

In: the config and processor of a model; its weights only if an image is given. Out: a description, as text or JSON.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from mask_impact.commands.summary import noted
from mask_impact.commands.terminal import ProgressBar, show
from mask_impact.errors import UserError, one_line
from mask_impact.jobs.session import Session
from mask_impact.lens.feature_files import ranges
from mask_impact.lens.given import check_videos, inputs_of
from mask_impact.lens.norms import injection_table, statistics, table
from mask_impact.lens.ready import image_tokens
from mask_impact.lens.states import chosen, hidden_states
from mask_impact.model.generation import model_tensors
from mask_impact.model.memory import explained
from mask_impact.options import Settings, merged
from mask_impact.prompt.grids import MERGED
from mask_impact.prompt.images import PIXEL_LIMIT, open_picture
from mask_impact.prompt.inputs import ModelInputs
from mask_impact.prompt.vision import image_token_id, vision_inputs

SIZES = ((224, 224), (448, 448), (640, 480), (1024, 768), (1920, 1080))

# What is said about a part of the model: our word, and the names that configs have for it.
VISION: dict[str, tuple[str, ...]] = {
    "family": ("model_type",),
    "blocks": ("depth", "num_hidden_layers"),
    "hidden_size": ("embed_dim", "hidden_size"),  # Qwen2-VL: hidden_size is what the merger gives
    "heads": ("num_heads", "num_attention_heads"),
    "image_size": ("image_size",),
    "patch_size": ("patch_size",),
}
DECODER: dict[str, tuple[str, ...]] = {
    "family": ("model_type",),
    "blocks": ("num_hidden_layers",),
    "hidden_size": ("hidden_size",),
    "heads": ("num_attention_heads",),
    "key_value_heads": ("num_key_value_heads",),
    "head_width": ("head_dim",),
    "mlp_size": ("intermediate_size",),
    "vocabulary": ("vocab_size",),
    "positions": ("max_position_embeddings",),
    "sliding_window": ("sliding_window",),
    "tied_embeddings": ("tie_word_embeddings",),
}


def command(args: argparse.Namespace) -> None:
    for width, height in args.sizes or ():
        if width * height > PIXEL_LIMIT:
            raise UserError(f"--size {width}x{height} has more than {PIXEL_LIMIT:,} pixels, the most that are read")
    session = Session(Settings(**merged(Settings, vars(args))))
    layers = chosen(args.layers or (), session.source.num_layers)
    described: dict[str, Any] = {"model": session.source.manifest, **description(session.source.config)}
    described["image_token"] = image_token(session)
    described["sizes"] = [
        size_description(session, args.prompt, size, args.max_pixels)
        for size in args.sizes or (() if args.images or args.videos else SIZES)
    ]
    check_videos(session, args)
    if args.images or args.videos:
        inputs = inputs_of(session, args, args.images, args.videos)
        with ProgressBar(f"loading {session.source.name}", args.quiet or args.json):
            described["image"] = image_description(session, args.prompt, inputs, layers)
    show(json.dumps(described, indent=2, ensure_ascii=False) if args.json else text(described))


# --- config -------------------------------------------------------------------------------------------------
def description(config: Any) -> dict[str, Any]:
    """Vision tower, the step from patches to image tokens, and decoder, from the config."""
    decoder = stated(config.get_text_config(decoder=True), DECODER)
    if decoder.get("heads") and "head_width" not in decoder:
        decoder["head_width"] = decoder["hidden_size"] // decoder["heads"]
    blocks = decoder["blocks"]
    return {
        "family": config.model_type,
        "vision": stated(getattr(config, "vision_config", None), VISION),
        "merger": merger(config),
        "deepstack": deepstack(config),
        "decoder": decoder,
        "layers": {"0": "decoder input", f"1 to {blocks}": "residual stream after that many blocks"},
    }


def stated(config: Any, names: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The entries that a config has under one of several names; missing ones are left out."""
    found = {}
    for word, known in names.items():
        value = next((value for name in known if (value := getattr(config, name, None)) is not None), None)
        if value is not None:
            found[word] = value
    return found


def merger(config: Any) -> dict[str, Any] | None:
    """How many patches become one image token, and by which rule; None if the config does not say."""
    for holder in (getattr(config, "vision_config", None), config):
        if isinstance(side := getattr(holder, "spatial_merge_size", None), int):
            return {"patches_per_token": side * side, "rule": f"{side} x {side} patches are merged"}
    if isinstance(count := getattr(config, "mm_tokens_per_image", None), int):
        return {"patches_per_token": None, "rule": f"patches are pooled to {count} tokens"}
    if config.model_type in MERGED:
        side = int(MERGED[config.model_type](config))
        return {"patches_per_token": side * side, "rule": f"{side} x {side} patches of a tile are merged"}
    return None


def deepstack(config: Any) -> dict[str, Any] | None:
    """Vision blocks whose features are added to the image tokens between decoder blocks, and the layers that contain
    them; None if the family has none."""
    taken = getattr(getattr(config, "vision_config", None), "deepstack_visual_indexes", None)
    if not taken:
        return None
    return {"vision_blocks": list(taken), "added_in_layers": list(range(1, len(taken) + 1))}


def image_token(session: Session) -> dict[str, Any]:
    found = image_token_id(session.reader, session.source.config)
    return {"id": found, "text": session.reader.tokenizer.convert_ids_to_tokens(found)}


# --- images -------------------------------------------------------------------------------------------------
def size_description(session: Session, prompt: str, size: tuple[int, int], max_pixels: int | None) -> dict[str, Any]:
    """What an image of this size becomes; under "error" why the processor rejects it."""
    try:
        picture = open_picture(Image.new("RGB", size))
        inputs = vision_inputs(session.reader, session.source.config, prompt, [picture], max_pixels)
    except UserError as error:
        return {"size": list(size), "error": one_line(error)}
    return placed(inputs)[0] | {"prompt_length": len(inputs.tokens)}


def placed(inputs: ModelInputs) -> list[dict[str, Any]]:
    """For each picture its size, its grid, and the positions of its tokens."""
    found = []
    for index, picture in enumerate(inputs.images):
        positions = [token.position for token in inputs.tokens if token.image == index]
        about = {key: picture[key] for key in ("size", "resized", "grid", "layout")}
        found.append(about | {"tokens": len(positions), "positions": ranges(positions)})
    return found


def image_description(session: Session, prompt: str, inputs: ModelInputs, layers: Sequence[int]) -> dict[str, Any]:
    """Where the image tokens are in the prompt, and the norms of their hidden states at each layer."""
    model = session.model
    with explained(f"a forward over {len(inputs.tokens)} tokens"):
        added: dict[int, Any] = {}
        states = hidden_states(model, model_tensors(model, inputs), layers, image_tokens(inputs), added)
    found = placed(inputs)
    of_rows = [token.image for token in inputs.tokens if token.kind == "image"]
    for index, (picture, about) in enumerate(zip(inputs.images, found, strict=True)):
        rows = [row for row, image in enumerate(of_rows) if image == index]
        [about["norms"]] = statistics([states[layer][None, rows] for layer in layers])
        if added:
            [between] = statistics([added[layer][None, rows] for layer in sorted(added)])
            about["deepstack"] = {"layers": sorted(added), **between}
        about["path"] = picture["path"]
    return {
        "prompt": prompt,
        "prompt_length": len(inputs.tokens),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "layers": list(layers),
        "images": found,
        "notes": [*session.notes, *inputs.notes],
    }


# --- for people ---------------------------------------------------------------------------------------------
def text(described: Mapping[str, Any]) -> str:
    lines = [
        f"model      {described['model']['name']} ({described['family']})",
        f"vision     {listed(described['vision'])}",
        f"merger     {described['merger']['rule'] if described['merger'] else 'not said by the config'}",
    ]
    if deep := described["deepstack"]:
        lines.append(
            f"deepstack  vision blocks {numbers(deep['vision_blocks'])} are added to the image tokens in layers "
            f"{numbers(deep['added_in_layers'])}"
        )
    token = described["image_token"]
    lines += [
        f"decoder    {listed(described['decoder'])}",
        f"layers     0: the decoder's input, image features in; 1 to {described['decoder']['blocks']}: the residual "
        "stream after that many blocks, as the next block receives it",
        f"image      token {token['text']} (id {token['id']}), once per piece of an image",
    ]
    for found in described["sizes"]:
        lines.append(f"{'':<10} {becomes(found)}")
    if about := described.get("image"):
        lines.append(f"prompt     {about['prompt']!r}, with images {about['prompt_length']} tokens")
        for found in about["images"]:
            lines += [f"{found['path']}: {becomes(found)}", *table(about["layers"], found["norms"])]
            lines += injection_table(found)
        lines += noted(about["notes"])
    return "\n".join(lines)


def listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items())


def numbers(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))


def becomes(found: Mapping[str, Any]) -> str:
    width, height = found["size"]
    if "error" in found:
        return f"{width} x {height} pixels: {found['error']}"
    resized = f", resized to {found['resized'][0]} x {found['resized'][1]}" if found["resized"] else ""
    runs = found["positions"]
    where = ", ".join(f"{first} to {last}" for first, last in runs[:3]) + (", ..." if runs[3:] else "")
    return f"{width} x {height} pixels{resized}: {found['tokens']} tokens ({found['layout']}), positions {where}"
