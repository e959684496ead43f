"""Write the fixture of other query positions: what every position of a short prompt reads in the demo model.

    PYTHONPATH=. .venv/bin/python viewer/tests/make_queries.py

every_*  "Tom has a red ball." and one token more, every query position, in the three formats and as a list of records
"""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import torch

import mask_impact_analysis

HERE = Path(__file__).parent / "fixtures"
KEPT = (
    "schema_version",
    "name",
    "model",
    "prompt",
    "prompt_length",
    "tokens",
    "generated",
    "noise_floor",
    "queries",
    "rows",
)


def main() -> None:
    torch.set_num_threads(1)
    options = ["--variants", "full,attn", "--layers", "0,3", "--format", "csv,json,parquet", "--output", "every"]
    options += ["--queries", "all", "--num-tokens", "2", "--output-dir", str(HERE), "--overwrite", "--quiet"]
    assert mask_impact_analysis.main(["--model", "demo", "--prompt", "Tom has a red ball.", *options]) == 0
    df = pd.read_csv(HERE / "every_results.csv", keep_default_na=False)
    df.to_json(HERE / "every_records.json", orient="records", double_precision=15)
    manifest = json.loads((HERE / "every_run.json").read_text())
    short = json.dumps({key: manifest[key] for key in KEPT})
    (HERE / "every_run.json").write_text(short + "\n")
    table = pq.read_table(HERE / "every_results.parquet")
    pq.write_table(table.replace_schema_metadata({"mask_impact": short}), HERE / "every_results.parquet")
    (HERE / ".mask_impact.lock").unlink(missing_ok=True)


if __name__ == "__main__":
    main()
