"""Write the effects fixtures: what masks over layers do to the answer of the demo model, beside the run's results.

    PYTHONPATH=. .venv/bin/python viewer/tests/make_effects.py

reach_*        "Tom has a red ball. Ann has a blue cup. Ann's cup is", 16 tokens, masks from each layer on, both blocks
one_effects.*  the same run with masks in all layers only, some words beside the tokens, and pairs with an interaction
reach_numbers.json  Spearman's correlation of every block and window with the ranking of the results table, by numpy
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import mask_impact_analysis
from mask_impact.effects.answer import Effects
from mask_impact.effects.asked import contrast_ids, windows_of
from mask_impact.model.find import demo_folder
from mask_impact.options import BLOCKS
from mask_impact.prompt.inputs import text_inputs
from mask_impact.prompt.units import Unit

HERE = Path(__file__).parent / "fixtures"
PROMPT = "Tom has a red ball. Ann has a blue cup. Ann's cup is"
FLOATS = ("logprob", "logprob_change", "kl", "final_l2", "final_cosine", "contrast", "contrast_change", "interaction")


def table(rows: list[dict]) -> pd.DataFrame:
    df = pd.DataFrame(rows).dropna(axis="columns", how="all")
    return df.astype({name: "float32" for name in FLOATS if name in df})


def plain(value: object) -> object:
    """As JSON has it: floats with the digits of a float32, null where there is none."""
    if isinstance(value, float | np.floating):
        return None if np.isnan(value) else float(str(np.float32(value)))
    return int(value) if isinstance(value, np.integer) else value


def write(name: str, df: pd.DataFrame) -> None:
    df.to_csv(HERE / f"{name}_effects.csv", index=False, lineterminator="\n")
    lists = {column: [plain(value) for value in df[column]] for column in df}
    (HERE / f"{name}_effects.json").write_text(json.dumps(lists) + "\n")
    df.to_parquet(HERE / f"{name}_effects.parquet", index=False)


def ranks(values: np.ndarray) -> np.ndarray:
    """From 1; ties get the mean of their ranks."""
    order = np.sort(values)
    return (np.searchsorted(order, values, "left") + np.searchsorted(order, values, "right") + 1) / 2


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    options = ["--variants", "full", "--format", "csv", "--output-dir", str(HERE), "--output", "reach", "--overwrite"]
    assert mask_impact_analysis.main(["--model", "demo", "--prompt", PROMPT, "--quiet", *options]) == 0
    folder = demo_folder("text")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = text_inputs(tokenizer, PROMPT)
    units = [Unit(token.text, (token.position,)) for token in inputs.tokens]
    effects = Effects(model, tokenizer, inputs.tensors, 0, contrast=contrast_ids(tokenizer, [" blue", " red"]))
    count = model.config.num_hidden_layers
    rows = [
        asdict(row)
        for window in windows_of("from", count)
        for block in BLOCKS
        for row in effects.measure(units, window, block)[0]
    ]
    df = table(rows)
    write("reach", df)

    words = [Unit(" blue cup", (9, 10)), Unit(" red ball", (3, 4))]
    pairs = [Unit(f"{a.label} +{b.label}", (*a.positions, *b.positions)) for a, b in ((units[9], units[10]), words)]
    (window,) = windows_of("all", count)
    single = [asdict(row) for row in effects.measure([*units, *words], window, "all")[0]]
    change = {row["token_masked"]: row["logprob_change"] for row in single}
    joint = [asdict(row) for row in effects.measure(pairs, window, "all")[0]]
    parts = [(units[9].label, units[10].label), tuple(word.label for word in words)]
    for row, (a, b) in zip(joint, parts, strict=True):
        row["interaction"] = row["logprob_change"] - change[a] - change[b]
    write("one", table([*single, *joint]))

    manifest = json.loads((HERE / "reach_run.json").read_text())
    manifest["effects"] = {"mask_layers": "from", "blocks": list(BLOCKS), "contrast": [" blue", " red"]}
    kept = ("schema_version", "name", "model", "prompt", "prompt_length", "tokens", "generated", "noise_floor", "rows")
    manifest = {key: manifest[key] for key in (*kept, "effects")}
    (HERE / "reach_run.json").write_text(json.dumps(manifest) + "\n")

    (HERE / ".mask_impact.lock").unlink(missing_ok=True)
    full = pd.read_csv(HERE / "reach_results.csv", keep_default_na=False)
    ranked = full[(full.variant == "Full") & (full.token_position > 0)]
    strongest = (ranked.l2_distance.astype(float) ** 2).groupby(ranked.token_position).sum() ** 0.5
    found: dict[str, object] = {}
    for (block, first), part in df[df.token_position > 0].groupby(["block", "first_layer"]):
        size = part.set_index("token_position").logprob_change.abs()
        found[f"{block} {first}"] = spearman(strongest.to_numpy(np.float32), size[strongest.index].to_numpy())
    ties = [[3.0, 1.0, 1.0, 2.0, 2.0, 2.0, 7.0], [1.0, 5.0, 2.0, 2.0, 0.0, 9.0, 9.0]]
    found["ties"] = {"a": ties[0], "b": ties[1], "rho": spearman(*map(np.array, ties))}
    (HERE / "reach_numbers.json").write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
