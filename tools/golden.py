#!/usr/bin/env python3
"""Write the tables of ten small runs that together cover what the programs do.

In: a folder to write to. Out: CSV and JSON files in it, without the manifests, because their times differ from run to
run. On one machine two versions of the code give the same files byte for byte (`diff -r`), unless a change is meant to
change a number. Between machines the last digits differ; tests/test_golden.py compares tests/golden with a tolerance.

    python tools/golden.py /tmp/before
    python tools/golden.py /tmp/after && diff -r /tmp/before /tmp/after
    python tools/golden.py tests/golden                  # after a change that is meant to change numbers
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

BALLS = "Tom has a red ball. Ann has a blue cup. Ann's cup is"
CIRCLE = "What color is the circle?"
TEXT = ["--model", "demo", "--prompt", BALLS]
PICTURE = ["--model", "demo", "--image", str(ROOT / "testimg.png"), "--prompt", CIRCLE]
BART = ["--model", "BART", "--prompt", "The capital of France is Paris."]
RUNS: dict[str, tuple[str, list[str]]] = {
    "text": ("mask_impact_analysis", [*TEXT, "--num-tokens", "2"]),
    "residual": (
        "mask_impact_analysis",
        [*TEXT, "--head-space", "residual", "--layers", "1,3", "--ablation", "zero-value"],
    ),
    "queries": ("mask_impact_analysis", [*TEXT, "--queries", "all", "--layers", "0,3", "--variants", "full,attn"]),
    "units": ("mask_impact_analysis", [*TEXT, "--mask-unit", "word", "--pairs", "3"]),
    "effects": (
        "mask_impact_analysis",
        [*TEXT, "--effects", "--mask-layers", "window:2", "--block", "last,all", "--contrast", " blue", " red",
         "--trace-layers", "--span", "start=/Tom.*ball/", "--span", "12-14"],
    ),
    "picture": ("mask_impact_vl", [*PICTURE, "--mask-mode", "both", "--num-tokens", "2"]),
    "regions": (
        "mask_impact_vl",
        [*PICTURE, "--mask-mode", "both", "--vision-attention", "bidirectional", "--region", "circle=0,0,1,1",
         "--region", "2,2,3,3", "--effects"],
    ),
    "decoder": ("mask_impact_analysis", [*BART, "--num-tokens", "2", "--effects"]),
    "encoder": ("mask_impact_analysis", [*BART, "--tower", "encoder", "--queries", "all", "--variants", "full,attn"]),
    "lens": (
        "latent_lens",
        ["neighbors", "--model", "demo", "--bank", "BANK", "--image", str(ROOT / "testimg.png"), "--static",
         "--prompt", "Describe this image.", "--top-k", "2"],
    ),
}  # fmt: skip
BANK = ["bank", "--model", "demo", "--captions", "CAPTIONS", "--output-dir", "BANK"]
CAPTIONS = 100  # of demo/captions.txt


def main(argv: Sequence[str]) -> int:
    import checkpoints

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the tables are written")
    folder = parser.parse_args(argv).folder
    with tempfile.TemporaryDirectory() as work:
        places = {name: str(Path(work) / name.lower()) for name in ("BART", "BANK", "CAPTIONS")}
        checkpoints.bart(Path(places["BART"]))
        captions = (ROOT / "demo" / "captions.txt").read_text("utf-8").splitlines()[:CAPTIONS]
        Path(places["CAPTIONS"]).write_text("\n".join(captions) + "\n", "utf-8")
        for name, (script, arguments) in {"bank": ("latent_lens", BANK), **RUNS}.items():
            flags = [] if name == "bank" else ["--output-dir", f"{work}/out", "--output", name, "--format", "csv,json"]
            command = [places.get(each, each) for each in arguments]
            code = import_module(script).main([*command, *flags, "--device", "cpu", "--quiet"])
            if code:
                return int(code)
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted((Path(work) / "out").iterdir()):
            if path.suffix in (".csv", ".json") and not path.name.endswith("_run.json"):
                (folder / path.name).write_bytes(path.read_bytes())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
