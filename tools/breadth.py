#!/usr/bin/env python3
"""Which of transformers' model types are measured: right by brute force, or refused by name.

In: the types in transformers' mappings of causal language models and of models that read pictures and text. Out:
docs/tested/breadth.json, which `tools/tested.py write` puts into docs/families.md. Every type that can be built from
its config is built tiny and random, given text alone, measured in float64, and compared with forwards of the whole
model (`tests/every_type.py`).

    python tools/breadth.py text bloom falcon      # these types, without writing
    python tools/breadth.py image_text llama4
    python tools/breadth.py update text bloom      # the same, written in place of what was found of them before
    python tools/breadth.py                        # all of them, and write
"""

import json
import os
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ["HF_HUB_OFFLINE"] = "1"

import every_type
import torch
import transformers
from checkpoints import tokenizer
from float64 import true_float64
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from mask_impact.errors import UnsupportedModel, UserError
from mask_impact.impact.run import run
from mask_impact.jobs.prepared import fitted
from mask_impact.model.find import Source, check_attends, check_sees_images
from mask_impact.model.towers import decoder_layers
from mask_impact.options import Request
from mask_impact.prompt.inputs import text_inputs
from mask_impact.table import Block

PAGE = ROOT / "docs" / "tested" / "breadth.json"
PROMPT = "Tom has a red ball. Ann has"
KINDS: dict[str, tuple[Any, dict[str, str]]] = {  # how each kind is built, and the class of each type
    "text": (AutoModelForCausalLM, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
    "image_text": (AutoModelForImageTextToText, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES),
}
STEPS, SECONDS = 2, 120  # SECONDS: for one type at most
RELATIVE, ROUNDING = 1e-6, 1e-7  # of the distance, and of the update's length: some families compute parts in float32


@contextmanager
def within(seconds: int) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TimeoutError(f"not finished after {seconds} s")

    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)  # of this process: a busy machine changes no outcome
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def measured(model: Any, words: Any, request: Request) -> tuple[dict[str, Any], list[Block]]:
    blocks: list[Block] = []
    prepared = fitted(words, model.config, text_inputs(words, request.prompt), request)
    return run(model, prepared, blocks.append).manifest, blocks


def worst_error(model: Any, manifest: dict[str, Any], blocks: Sequence[Block], ablation: str) -> float:
    """The largest |l2 - brute force| of Full, in units of what is allowed."""
    ids = torch.tensor([[token["id"] for token in manifest["tokens"]]])
    layers = decoder_layers(model)
    worst = 0.0
    for block in blocks:
        upto = ids[:, : manifest["prompt_length"] + block.generation_step]
        base = every_type.update(model, layers[block.layer], upto)
        passes = every_type.passes_of(model, layers[block.layer])
        for position, found in zip(block.positions.tolist(), block.l2[:, 0].tolist(), strict=True):
            zero_values = ablation == "zero-value"
            changed = every_type.update(model, layers[block.layer], upto, [position], zero_values, passes)
            expected = (base - changed).norm().item()
            worst = max(worst, abs(found - expected) / (RELATIVE * expected + ROUNDING * base.norm().item()))
    return worst


def outcome(model_type: str, words: Any, auto_class: Any) -> dict[str, Any]:
    """What is found of one type."""
    try:
        with within(SECONDS), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return {"outcome": _measured(model_type, words, auto_class)}
    except UnsupportedModel as error:
        named = f"'{model_type}'" in str(error) or "family '" in str(error)
        return {"outcome": "refused" if named else "WRONG", "reason": str(error)}
    except UserError as error:
        return {"outcome": "refused", "reason": str(error)}
    except NotBuilt as error:
        return {"outcome": "not built", "reason": str(error)}
    except Exception as error:
        return {"outcome": "CRASHED", "reason": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}


class NotBuilt(Exception):
    """transformers makes no tiny model of this type from its config alone."""


def _measured(model_type: str, words: Any, auto_class: Any) -> str:
    of_pictures = auto_class is AutoModelForImageTextToText
    if of_pictures and getattr(AutoConfig.for_model(model_type), "is_encoder_decoder", False):
        check_sees_images(Source(model_type, model_type, AutoConfig.for_model(model_type)))
    try:
        model = every_type.build(model_type, len(words), auto_class)
    except ValueError as error:
        raise NotBuilt(str(error)) from error
    if of_pictures:  # as the command asks before it loads a model
        check_sees_images(Source(model_type, model_type, model.config))
    check_attends(model.config, auto_class)
    replay = ""
    with true_float64():
        for ablation in ("neg-inf", "zero-value"):
            request = Request(PROMPT, num_tokens=STEPS, variants=("full",), ablation=ablation)
            manifest, blocks = measured(model, words, request)
            worst = worst_error(model, manifest, blocks, ablation)
            assert worst < 1, f"{ablation}: {worst:.3g} times the allowed error"
            replay = manifest.get("replay", "rows")
    return f"measured, {replay}"


def main(argv: Sequence[str]) -> int:
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    words, update = tokenizer(), argv[:1] == ["update"]
    asked = argv[update:]
    found = {kind: outcomes(kind, asked[1:] or KINDS[kind][1], words) for kind in asked[:1] or KINDS}
    if update or not argv:
        save(found, json.loads(PAGE.read_text("utf-8")) if update else {})
    every = Counter(row["outcome"] for rows in found.values() for row in rows.values())
    print(every)
    return 0 if not every.keys() & {"WRONG", "CRASHED"} else 1


def save(found: dict[str, dict[str, Any]], page: dict[str, Any]) -> None:
    """Write what was found, and what stood on the page of the same transformers of other types."""
    release = transformers.__version__
    if page and page["transformers"] != release:
        sys.exit(f"{PAGE} is of transformers {page['transformers']}, and this is {release}; run it on all types")
    known = {kind: page.get(kind, {}) | rows for kind, rows in found.items()}
    PAGE.write_text(json.dumps({**page, "transformers": release, **known}, indent=1) + "\n", "utf-8")


def outcomes(kind: str, types: Iterable[str], words: Any) -> dict[str, dict[str, Any]]:
    """What is found of each type."""
    found = {}
    for model_type in types:
        found[model_type] = outcome(model_type, words, KINDS[kind][0])
        print(kind, model_type, *found[model_type].values(), sep=" | ", flush=True)
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
