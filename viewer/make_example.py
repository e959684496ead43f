"""Makes src/example.json, the small real run inside the page: the demo model on a short prompt, in embed format.

python viewer/make_example.py        # from the repository root; needs mask_impact, takes seconds
"""

import base64
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

HERE = Path(__file__).parent
PROMPT = "The capital of France is"
KEPT = (
    "schema_version",
    "name",
    "prompt_length",
    "mask_mode",
    "rows",
)


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, HERE.parent / "mask_impact_analysis.py", "--model", "demo", "--prompt", PROMPT]
        subprocess.run(
            [*command, "--output", "example", "--output-dir", folder, "--format", "json", "--quiet"], check=True
        )
        table = pd.read_json(Path(folder) / "example_results.json", dtype={"token_masked": str})
        manifest = json.loads((Path(folder) / "example_run.json").read_text())
    (HERE / "src" / "example.json").write_text(
        json.dumps(embedded(table, manifest), separators=(",", ":")).replace("<", "\\u003c") + "\n"
    )
    return 0


def embedded(table: pd.DataFrame, manifest: dict) -> dict:
    """The run as src/data/embed.ts describes it, with what the page shows of the manifest."""
    steps, layers, positions = (
        sorted(int(each) for each in table[column].unique())
        for column in ("generation_step", "layer", "token_position")
    )
    variants = manifest["variants"]
    texts = dict(zip(table.token_position, table.token_masked, strict=True))
    cube = pd.MultiIndex.from_product([steps, variants, layers, positions])
    table = table.set_index(["generation_step", "variant", "layer", "token_position"]).reindex(cube)
    small = {key: manifest[key] for key in KEPT}
    small["model"] = {key: manifest["model"][key] for key in ("family", "layers", "heads", "name")}
    small["tokens"] = [{key: token[key] for key in ("position", "id", "text")} for token in manifest["tokens"]]
    small["generated"] = [{**each, "probability": round(each["probability"], 6)} for each in manifest["generated"]]
    small["noise_floor"] = {name: {"l2": float(f"{each['l2']:.3g}")} for name, each in manifest["noise_floor"].items()}
    return {
        "format": 1,
        "name": "example",
        "rows": manifest["rows"],
        "steps": steps,
        "layers": layers,
        "variants": variants,
        "positions": positions,
        "tokens": [texts[position] for position in positions],
        "l2": base64_of(table.l2_distance),
        "cosine": base64_of(table.cosine_distance),
        "manifest": small,
        "images": [],
    }


def base64_of(column: pd.Series) -> str:
    return base64.b64encode(column.to_numpy(dtype=np.dtype("<f4")).tobytes()).decode()


if __name__ == "__main__":
    sys.exit(main())
