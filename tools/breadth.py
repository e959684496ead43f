#!/usr/bin/env python3
"""Which of transformers' model types are measured: right by brute force, or refused by name.

In: the types in transformers' mapping of causal language models. Out: docs/tested/breadth.json, which
`tools/tested.py write` puts into docs/families.md. Every type that can be built from its config is built tiny and
random, measured in float64, and compared with forwards of the whole model (`tests/every_type.py`).

    python tools/breadth.py bloom falcon     # these types, without writing
    python tools/breadth.py                  # all of them, and write
"""

import json
import os
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
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
from transformers import AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from mask_impact.errors import UnsupportedModel, UserError
from mask_impact.impact.run import run
from mask_impact.jobs.prepared import fitted
from mask_impact.model.find import check_attends
from mask_impact.model.towers import decoder_layers
from mask_impact.options import Request
from mask_impact.prompt.inputs import text_inputs
from mask_impact.table import Block

PAGE = ROOT / "docs" / "tested" / "breadth.json"
PROMPT = "Tom has a red ball. Ann has"
STEPS, SECONDS = 2, 120  # SECONDS: for one type at most
RELATIVE, ROUNDING = 1e-6, 1e-7  # of the distance, and of the update's length: some families compute parts in float32


@contextmanager
def within(seconds: int) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TimeoutError(f"not finished after {seconds} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


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


def outcome(model_type: str, words: Any) -> dict[str, Any]:
    """What is found of one type."""
    try:
        with within(SECONDS), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return {"outcome": _measured(model_type, words)}
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


def _measured(model_type: str, words: Any) -> str:
    try:
        model = every_type.build(model_type, len(words))
    except ValueError as error:
        raise NotBuilt(str(error)) from error
    check_attends(model.config, AutoModelForCausalLM)
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
    words = tokenizer()
    found = {}
    for model_type in argv or MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        found[model_type] = outcome(model_type, words)
        print(model_type, *found[model_type].values(), sep=" | ", flush=True)
    print(Counter(each["outcome"] for each in found.values()))
    if not argv:
        page = {"transformers": transformers.__version__, "text": found}
        PAGE.write_text(json.dumps(page, indent=1) + "\n", "utf-8")
    return 0 if not {each["outcome"] for each in found.values()} & {"WRONG", "CRASHED"} else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
