"""What tests of checkpoints as people have them share: a run, a manifest, and the comparison with brute force."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from brute_force import brute_force_table
from families import FAMILIES
from transformers import AutoTokenizer

import mask_impact_analysis
from mask_impact.model import find
from mask_impact.model.load import load_model

PROMPT = "The capital of France"
CPU = torch.device("cpu")


def loaded(folder: Path | str, **asked: Any) -> Any:
    """The model as the command loads it, in float32."""
    return load_model(find.find_model(str(folder), **asked), CPU, torch.float32)


def logits(model: Any, folder: Path | str) -> torch.Tensor:
    with torch.no_grad():
        return model(**AutoTokenizer.from_pretrained(folder)(PROMPT, return_tensors="pt")).logits


def command(folder: Path, out: Path, *flags: str) -> dict[str, Any]:
    """The manifest of a run of the command."""
    given = ["--model", str(folder), "--prompt", PROMPT, "--output-dir", str(out), "--output", "run", "--quiet", *flags]
    assert mask_impact_analysis.main(given) == 0
    return json.loads((out / "run_run.json").read_text("utf-8"))


def table(model: Any, folder: Path, **asked: Any) -> Any:
    """The results of the Python function for a model that was handed over."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return mask_impact_analysis.run_masking_experiment(PROMPT, model=model, tokenizer=tokenizer, **asked)


def worst_difference(found: Any, model: Any, folder: Path, head_space: str = "output") -> float:
    """The largest difference of L2 distances from brute force through `model`, relative to the largest distance."""
    ids = AutoTokenizer.from_pretrained(folder)(PROMPT, return_tensors="pt")["input_ids"]
    layers = tuple(range(model.config.num_hidden_layers))
    family = replace(FAMILIES[model.config.model_type], attends=layers)
    expected = brute_force_table(model, family, ids, ids.shape[1] - 1, layers, head_space=head_space)
    keys = zip(found.layer, found.token_position, found.variant, found.l2_distance, strict=True)
    rows = {(layer, (position,), variant): l2 for layer, position, variant, l2 in keys}
    assert rows.keys() == expected.keys()
    return max(abs(rows[key] - l2) for key, (l2, _) in expected.items()) / max(l2 for l2, _ in expected.values())
