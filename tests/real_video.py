"""What transformers' own processor makes of videos, with its real video part, which needs torchvision.

Run as a script with torchvision on the path (`make tests` puts it into .venv/torchvision; in the environment itself it
would change every picture test). In: a folder with case.pt, {"checkpoint", "text", "videos" [T, 3, H, W] uint8,
"metadata", "images", "options"} each, and "states" where those are wanted. Out: found.pt, of each case the processor's
tensors, its video part's settings, the model's positions, and what the layers of its decoder and of its vision encoder
are given.
"""

import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

import torch


def import_torchvision() -> None:
    """torchvision is built for torch with CUDA; beside a torch for the CPU its operators are missing, but it can be
    imported once two of them have a name. The image and video processors need none of them."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        for name in ("nms", "qnms"):
            LIBRARY.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        importlib.import_module("torchvision")


def positions(model: Any, tensors: dict[str, Any]) -> torch.Tensor:
    """Of the model's own rule, with the arguments that this transformers takes."""
    rule = model.model.get_rope_index
    taken = {name: tensors[name] for name in inspect.signature(rule).parameters if name in tensors}
    return rule(**taken)[0]


def states(model: Any, tensors: dict[str, Any]) -> dict[str, list[torch.Tensor]]:
    """What each layer is given in a forward, by the name of the stack."""
    given: dict[str, list[torch.Tensor]] = {"decoder": [], "vision": []}
    for stack, layers in (("decoder", model.model.language_model.layers), ("vision", model.model.visual.blocks)):
        for layer in layers:
            layer.register_forward_pre_hook(
                lambda _, args, kwargs, stack=stack: given[stack].append(args[0] if args else kwargs["hidden_states"]),
                with_kwargs=True,
            )
    with torch.no_grad():
        model(**tensors)
    return given


def main(folder: Path) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    found = []
    loaded: dict[str, Any] = {}
    for case in torch.load(folder / "case.pt", weights_only=False):
        checkpoint = case["checkpoint"]
        if checkpoint not in loaded:
            processor = AutoProcessor.from_pretrained(checkpoint)
            loaded[checkpoint] = processor, AutoModelForImageTextToText.from_pretrained(checkpoint)
        processor, model = loaded[checkpoint]
        outputs = processor(
            text=[case["text"]], images=case["images"] or None, videos=case["videos"], return_tensors="pt",
            videos_kwargs={"video_metadata": case["metadata"], "do_sample_frames": True, **case["options"]},
        )  # fmt: skip
        settings = processor.video_processor.to_dict()
        wanted = {"states": states(model, dict(outputs))} if case["states"] else {}
        found.append({**wanted, **outputs, "positions": positions(model, outputs), "settings": settings})
    torch.save(found, folder / "found.pt")


if __name__ == "__main__":
    LIBRARY = torch.library.Library("torchvision", "FRAGMENT")
    import_torchvision()
    main(Path(sys.argv[1]))
