"""The pieces of an analysis that are timed, for any model inputs, and the whole run as the program does it."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import torch
from transformers import GenerationConfig

from benchmarks.machine import timed
from benchmarks.models import IMAGE_PAD, Inputs
from mask_impact.files.results import Block, ResultFiles
from mask_impact.impact import meter as metering
from mask_impact.impact import run, vectors
from mask_impact.impact.record import Recording, record_generation
from mask_impact.jobs.prepared import fitted
from mask_impact.options import Request
from mask_impact.prompt.inputs import ModelInputs, tokens_of


def plain_forward(model: Any, inputs: Inputs) -> None:
    """The forward that generation starts with: logits of the last position only."""
    model(**inputs, use_cache=False, logits_to_keep=1)


def generate(model: Any, inputs: Inputs, tokens: int) -> None:
    settings = GenerationConfig(max_new_tokens=tokens, do_sample=False, use_cache=True, pad_token_id=0)
    model.generate(**inputs, generation_config=settings)


def record(model: Any, inputs: Inputs, tokens: int) -> Recording:
    return record_generation(model, inputs, tokens, [])


@contextmanager
def timed_distances() -> Iterator[list[float]]:
    """The seconds of each comparison (`distances.compare`) that the replay makes until the block ends."""
    spent: list[float] = []
    original = vectors.compare

    def compare(*args: Any) -> torch.Tensor:
        result, seconds = timed(lambda: original(*args))
        spent.append(seconds)
        return result

    with mock.patch.object(vectors, "compare", compare):
        yield spent


def measure_layers(model: Any, recording: Recording, position: int) -> list[metering.Impact]:
    """Every layer's distances at one query position, each token up to it masked alone."""
    return [found for (found,) in measure_queries(model, recording, [position])]


def measure_queries(model: Any, recording: Recording, positions: Sequence[int]) -> list[list[metering.Impact]]:
    """The same at several query positions, measured together; for each layer a list of them."""
    meter = metering.Meter(model, metering.Wanted())
    masks = [[[masked] for masked in range(position + 1)] for position in positions]
    layers = recording.with_attention()
    return [meter.impacts(layer, [layer.queries[position] for position in positions], masks) for layer in layers]


def as_block(step: int, layer: int, l2: np.ndarray, cosine: np.ndarray) -> Block:
    """Distances [P, V] of P masked tokens as the engine hands them to the files."""
    masks, variants = l2.shape
    names = ["Full", "Attn", *(f"Head_{head}" for head in range(variants - 2))]
    return Block.of_l2_and_cosine(step, layer, [f" word{i}" for i in range(masks)], np.arange(masks), names, l2, cosine)


def write_files(blocks: Sequence[Block]) -> None:
    """CSV and JSON, complete and moved into place."""
    with tempfile.TemporaryDirectory() as folder, ResultFiles(folder, "bench", ["csv", "json"]) as files:
        for block in blocks:
            files.write(block)
        files.commit({})


class StandInTokenizer:
    """What the engine asks of a tokenizer, for a model whose tokens are random ids. No token ends a generation."""

    all_special_ids: Sequence[int] = ()
    eos_token_id: int | None = None

    def __len__(self) -> int:
        return 0  # none of its words is a letter to decode others beside

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        return " ".join(f"word{each}" for each in ids)

    def convert_ids_to_tokens(self, token_id: int) -> str:
        return f"word{token_id}"

    def get_vocab(self) -> dict[str, int]:
        return {}


def run_experiment(model: Any, inputs: Inputs, tokens: int, write: Callable[[Block], None]) -> run.Run:
    """The program's own run, from inputs to blocks; every token is masked, of an image too."""
    tokenizer = StandInTokenizer()
    ids = inputs["input_ids"][0].tolist()
    listed = tokens_of(tokenizer, ids)
    request = Request("random ids", num_tokens=tokens)
    images: list[dict[str, Any]] = []
    if "pixel_values" in inputs:
        listed = [replace(each, kind="image", image=0) if each.id == IMAGE_PAD else each for each in listed]
        request, images = replace(request, mask_mode="both"), [{}]
    given = ModelInputs(inputs, listed, "random ids", False, images)
    return run.run(model, fitted(tokenizer, model.config, given, request), write)
