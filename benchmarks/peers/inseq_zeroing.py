"""inseq's value zeroing (Sarti et al. 2023), in its own environment: time, and the scores of two prompts.

.venv-peers/inseq/bin/python -m benchmarks.peers.inseq_zeroing FOLDER 16=3,64=3
"""

import sys
from typing import Any

import inseq
import torch
from inseq.attr.feat.ops.value_zeroing import ValueZeroing

from benchmarks.peers import timed


def precise_cosine(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return torch.cosine_similarity(one.double(), other.double(), dim=-1)


def scores(model: Any, prompt: str) -> list[list[float]]:
    """[tokens of the prompt, layers] what the position that predicts reads; each layer's numbers add up to 1."""
    (attribution,) = model.attribute(prompt, prompt + timed.ANSWER, show_progress=False)
    found: list[list[float]] = attribution.target_attributions[:-1, 0].tolist()  # the last row is the answer's
    return found


def main() -> int:
    folder, lengths = timed.asked()
    model = inseq.load_model(
        str(folder), "value_zeroing", device="cpu", model_kwargs={"torch_dtype": torch.float32}
    )  # loads eager attention
    plain, tokenizer = timed.loaded(folder)

    def zeroing(prompt: str) -> float:
        return timed.seconds(lambda: scores(model, prompt))

    times = timed.ratios(plain, tokenizer, {"inseq value zeroing": zeroing}, lengths)
    found = {"scores": {prompt: scores(model, prompt) for prompt in timed.PROMPTS}}
    ValueZeroing.SIMILARITY_METRICS["cosine"] = precise_cosine  # its own takes 1 - cos in float32: errors of 1e-7
    found["precise scores"] = {prompt: scores(model, prompt) for prompt in timed.PROMPTS}
    return timed.tell({"times": times, **found})


if __name__ == "__main__":
    sys.exit(main())
