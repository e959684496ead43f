"""One picture or video in a prompt, ready for a forward, alone or together with others that become the same tokens.

In: the model's inputs. Out: a `Ready`: the tensors, which tokens are image tokens, and what a summary says of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mask_impact.lens.feature_files import Record, ranges
from mask_impact.model.generation import model_tensors
from mask_impact.prompt.inputs import ModelInputs


@dataclass(frozen=True)
class Ready:
    """A picture or video that is ready to be computed."""

    record: Record
    tensors: dict[str, torch.Tensor]
    tokens: torch.Tensor  # [1, N] bool: its image tokens

    @property
    def bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def positions(self) -> list[int]:
        """Of its image tokens."""
        return self.tokens[0].nonzero().flatten().tolist()

    def goes_with(self, other: "Ready") -> bool:
        """Whether one forward can take both: the same text around equally many patches."""
        return (
            self.tensors.keys() == other.tensors.keys()
            and all(tensor.shape == other.tensors[name].shape for name, tensor in self.tensors.items())
            and torch.equal(self.tensors["input_ids"], other.tensors["input_ids"])
        )


def ready(inputs: ModelInputs) -> Ready:
    return Ready(record(inputs), dict(inputs.tensors), image_tokens(inputs))


def image_tokens(inputs: ModelInputs) -> torch.Tensor:
    """[1, N] bool: which tokens are image tokens."""
    return torch.tensor([[token.kind == "image" for token in inputs.tokens]])


def record(inputs: ModelInputs) -> Record:
    """What the summary says about the picture or video of `inputs`; a video's frames are pictures of one size."""
    first, source = inputs.images[0], (inputs.videos or inputs.images)[0]
    about = {key: source[key] for key in ("path", "sha256", "notes")}
    about |= {key: first[key] for key in ("size", "resized", "grid", "layout")}
    if inputs.videos:
        about |= {key: [image[key] for image in inputs.images] for key in ("frames", "seconds")}
    positions = [token.position for token in inputs.tokens if token.kind == "image"]
    return about | {
        "token_count": len(positions), "token_ranges": ranges(positions), "prompt_length": len(inputs.tokens)
    }  # fmt: skip


def together(each: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The model's inputs for several images in one forward. Images follow each other along the first axis; MiniCPM-V's
    pixels, which `target_sizes` tells apart, along the last."""
    packed = "pixel_values" if "target_sizes" in each[0] else ""
    return {name: torch.cat([one[name] for one in each], dim=-1 if name == packed else 0) for name in each[0]}


def on_device(model: Any, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The model's inputs where it wants them, with pixels in its dtype."""
    return model_tensors(model, ModelInputs(tensors, [], "", chat=True))
