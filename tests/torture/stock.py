"""What bad inputs start from: a checkpoint, finished runs, a bank, an extraction; made once, copied for each case."""

import json
import os
import shutil
from pathlib import Path

import checkpoints
from PIL import Image

from torture.case import MAINS, ROOT

TEXTS = {"a": "Tom has a ball.", "b": "Ann has a cup."}
PICTURE = ["--image", "testimg.png", "--prompt", "Describe this image."]


def make(folder: Path) -> None:
    """Everything, in an empty folder; about 10 seconds."""
    folder.mkdir(parents=True)
    before = Path.cwd()
    os.chdir(folder)
    try:
        _make()
    finally:
        os.chdir(before)


def _make() -> None:
    checkpoints.qwen3(Path("model"))
    shutil.copytree(ROOT / "demo" / "vl", "vl")
    shutil.copy(ROOT / "testimg.png", "testimg.png")
    Image.new("RGB", (8, 8), "red").save("red.png")
    Path("captions.txt").write_text("\n".join((ROOT / "demo" / "captions.txt").read_text().splitlines()[:9]) + "\n")
    prompts = [{"name": name, "prompt": text} for name, text in TEXTS.items()]
    Path("night.yaml").write_text("model: model\nprompts: " + json.dumps(prompts))
    done("text", "--config", "night.yaml", "--format", "csv,json,parquet,html", "--layers", "0", "--output-dir", "runs")
    done("text", "--model", "model", "--prompt", TEXTS["a"], "--layers", "0", "--effects", "--mask-layers", "0",
         "--format", "csv,json,parquet", "--output", "e", "--output-dir", "effects")  # fmt: skip
    done("lens", "bank", "--model", "vl", "--captions", "captions.txt", "--output-dir", "bank")
    done("lens", "features", "--model", "vl", "--images", "testimg.png", "--layers", "1", "--save-features",
         "--output", "f", "--output-dir", "features")  # fmt: skip
    done("vl", "--model", "vl", *PICTURE, "--mask-mode", "vision", "--layers", "0", "--format", "csv", "--output", "m",
         "--output-dir", "seen")  # fmt: skip
    done("lens", "neighbors", "--model", "vl", "--bank", "bank", *PICTURE, "--output", "n", "--output-dir", "near",
         "--format", "csv,json,parquet,html")  # fmt: skip


def done(name: str, *argv: str) -> None:
    assert MAINS[name]([*argv, "--quiet"]) == 0, argv
