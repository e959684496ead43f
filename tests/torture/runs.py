"""Earlier runs in the output folder that are odd, and what may not be overwritten."""

import os
import shutil
from pathlib import Path
from typing import Any

from torture.case import Case, all_of, cut, file_of, json_with

BATCH = "text --config night.yaml --format csv,json,parquet,html --layers 0 --output-dir runs"
RESUME = f"{BATCH} --resume --dry-run"
NEEDS = ("model", "night.yaml", "runs")
RUN = "runs/a_run.json"
NEAR = "lens neighbors --model vl --bank bank --image testimg.png --prompt Describe --output n --format csv"
NEAR += " --output-dir near"
LENS = ("vl", "bank", "testimg.png", "near", "seen", "captions.txt", "features")
BANK = "lens bank --model vl --captions captions.txt --output-dir bank"
FEATURES = "lens features --model vl --images testimg.png --layers 1 --save-features --output f --output-dir features"
DEEP = "[" * 200_000
ODD: dict[str, Any] = {
    "request": None, "files": [1], "generated": ..., "prompt_length": "x", "top_tokens": None, "bytes": {}, "rows": -1,
    "model": 3, "tokens": [{}], "units": [1], "notes": [1], "schema_version": 99, "checksums": {},
}  # fmt: skip
MORE: dict[str, Any] = {
    "request": [],
    "tables": 1,
    "generated": 3,
    "bytes": {"a_results.csv": 3},
    "prompt_length": -1,
    "tokens": [],
}
BANKS: dict[str, Any] = {
    "shards": 1,
    "layers": [10**9],
    "hidden_size": "x",
    "model": 3,
    "captions": 3,
    "rows": -1,
    "contexts": {},
    "request": 3,
    "schema_version": 9,
    "seed": "x",
    "max_per_token": "x",
}
MORE_BANKS: dict[str, Any] = {
    "shards": [{"file": "../x", "bytes": 1, "sha256": "x"}],
    "hidden_size": 3,
    "layers": [],
    "layers ": 0,
    "rows": 10**12,
    "hidden_size ": 1,
}
MASKED: dict[str, Any] = {
    "images": 1,
    "tokens": [1],
    "request": 3,
    "prompt_length": "x",
    "files": [],
    "model": 1,
    "prompt": 3,
    "rows": -1,
}


def gone(*paths: str) -> object:
    def make() -> None:
        for path in paths:
            shutil.rmtree(path) if Path(path).is_dir() else Path(path).unlink()

    return make


def folder(path: str) -> object:
    return all_of(lambda: Path(path).unlink(missing_ok=True), lambda: Path(path, "mine").mkdir(parents=True))


CASES = [
    *(
        Case(f"resume: manifest {k} {str(v)[:20]}", RESUME, json_with(RUN, {k: v}), NEEDS)
        for k, v in (*ODD.items(), *MORE.items())
    ),
    *(
        Case(f"resume: manifest {t[:5]!r}", RESUME, file_of(RUN, t), NEEDS)
        for t in ("", DEEP, "null", "3", '"x"', "{}", "\xff", "[]")
    ),
    Case("resume: CSV emptied", RESUME, file_of("runs/a_results.csv", ""), NEEDS),
    Case(
        "resume: CSV with a digit changed",
        RESUME,
        lambda: Path("runs/a_results.csv").write_text(Path("runs/a_results.csv").read_text().replace("1", "2")),
        NEEDS,
    ),
    Case(
        "resume: HTML with a byte changed",
        RESUME,
        lambda: Path("runs/a_results.html").write_text(Path("runs/a_results.html").read_text().replace("Tom", "Tim")),
        NEEDS,
    ),
    Case("resume: CSV cut off", RESUME, cut("runs/a_results.csv", -5), NEEDS),
    Case("resume: CSV gone", RESUME, gone("runs/a_results.csv"), NEEDS),
    Case("batch: results exist", BATCH, needs=NEEDS),
    Case("overwrite: batch table is a folder", f"{BATCH} --overwrite", folder("runs/night_batch.json"), NEEDS),
    Case("overwrite: manifest is a folder", f"{BATCH} --overwrite", folder(RUN), NEEDS),
    Case("overwrite: CSV is a folder", f"{BATCH} --overwrite", folder("runs/a_results.csv"), NEEDS),
    Case(
        "overwrite: neighbours' page is a folder",
        f"{NEAR} --overwrite --format csv,html",
        folder("near/n_neighbors.html"),
        LENS,
    ),
    Case("overwrite: neighbours' table is a folder", f"{NEAR} --overwrite", folder("near/n_neighbors.csv"), LENS),
    Case("overwrite: bank.json is a folder", f"{BANK} --overwrite", folder("bank/bank.json"), LENS),
    Case("overwrite: shard is a folder", f"{BANK} --overwrite", folder("bank/shard_00000.safetensors"), LENS),
    Case("overwrite: contexts is a folder", f"{BANK} --overwrite", folder("bank/contexts.parquet"), LENS),
    Case(
        "overwrite: features' summary is a folder",
        f"{FEATURES} --overwrite",
        folder("features/extraction_summary_f.json"),
        LENS,
    ),
    Case(
        "overwrite: features' layer is a folder",
        f"{FEATURES} --overwrite",
        folder("features/features_f_layer_1.safetensors"),
        LENS,
    ),
    Case(
        "overwrite: features' index is a folder",
        f"{FEATURES} --overwrite",
        folder("features/features_f_index.json"),
        LENS,
    ),
    Case(
        "overwrite: features' journal is a folder",
        f"{FEATURES} --overwrite",
        folder("features/extraction_f.journal"),
        LENS,
    ),
    Case(
        "overwrite: features' part is a folder",
        f"{FEATURES} --overwrite",
        folder("features/features_f_layer_1.part"),
        LENS,
    ),
    Case("output folder is a file", "text --model model --prompt Tom --output-dir x", file_of("x", ""), ("model",)),
    Case(
        "output folder below a file", "text --model model --prompt Tom --output-dir x/y", file_of("x", ""), ("model",)
    ),
    Case("output folder is stdout", "text --model model --prompt Tom --output-dir /dev/stdout", needs=("model",)),
    Case("output folder is a device", "text --model model --prompt Tom --output-dir /dev/full", needs=("model",)),
    Case("output folder in /proc", "text --model model --prompt Tom --output-dir /proc/x", needs=("model",)),
    Case(
        "output folder is a broken link",
        "text --model model --prompt Tom --output-dir x",
        lambda: os.symlink("nowhere/y", "x"),
        ("model",),
    ),
    Case(
        "output folder is a link to itself",
        "text --model model --prompt Tom --output-dir x",
        lambda: os.symlink("x", "x"),
        ("model",),
    ),
    Case("output folder of 300 letters", "text --model model --prompt Tom --output-dir " + "x" * 300, needs=("model",)),
    Case(
        "output folder with NUL",
        ["text", "--model", "model", "--prompt", "Tom", "--output-dir", "a\0b"],
        needs=("model",),
    ),
    Case(
        "output folder of 5000 letters", "text --model model --prompt Tom --output-dir " + "x/" * 2500, needs=("model",)
    ),
    Case("bank folder is stdout", "lens bank --model vl --captions captions.txt --output-dir /dev/stdout", needs=LENS),
    Case(
        "bank folder with NUL",
        ["lens", "bank", "--model", "vl", "--captions", "captions.txt", "--output-dir", "a\0b"],
        needs=LENS,
    ),
    Case(
        "bank folder empty",
        ["lens", "bank", "--model", "vl", "--captions", "captions.txt", "--output-dir", ""],
        needs=LENS,
    ),
    *(
        Case(f"bank.json: {k} {str(v)[:20]}", f"{NEAR} --overwrite", json_with("bank/bank.json", {k.strip(): v}), LENS)
        for k, v in (*BANKS.items(), *MORE_BANKS.items())
    ),
    *(
        Case(
            f"bank --resume: bank.json {k} {str(v)[:20]}", f"{BANK} --resume", json_with("bank/bank.json", {k: v}), LENS
        )
        for k, v in BANKS.items()
    ),
    *(
        Case(f"bank.json: {t[:5]!r}", f"{NEAR} --overwrite", file_of("bank/bank.json", t), LENS)
        for t in ("", DEEP, "null", "[]")
    ),
    Case("bank shard cut off", f"{NEAR} --overwrite", cut("bank/shard_00000.safetensors", -9), LENS),
    Case(
        "bank shard with a byte changed",
        f"{NEAR} --overwrite",
        lambda: Path("bank/shard_00000.safetensors").write_bytes(
            Path("bank/shard_00000.safetensors").read_bytes()[:-1] + b"\x01"
        ),
        LENS,
    ),
    Case(
        "bank contexts with a byte changed",
        f"{NEAR} --overwrite",
        lambda: Path("bank/contexts.parquet").write_bytes(b"x" + Path("bank/contexts.parquet").read_bytes()[1:]),
        LENS,
    ),
    Case("bank: exists", BANK, needs=LENS),
    *(
        Case(
            f"--run: {k} {str(v)[:20]}",
            f"{NEAR} --overwrite --run seen/m_run.json",
            json_with("seen/m_run.json", {k: v}),
            LENS,
        )
        for k, v in MASKED.items()
    ),
    *(
        Case(f"--run: {t[:5]!r}", f"{NEAR} --overwrite --run seen/m_run.json", file_of("seen/m_run.json", t), LENS)
        for t in ("", DEEP, "null", "[]")
    ),
    Case("--run: not a manifest", f"{NEAR} --overwrite --run seen/m_results.csv", needs=LENS),
    Case("--run: nothing there", f"{NEAR} --overwrite --run seen/x_run.json", needs=LENS),
    Case("--run: results gone", f"{NEAR} --overwrite --run seen/m_run.json", gone("seen/m_results.csv"), LENS),
    Case(
        "--run: a device", f"{NEAR} --overwrite --run x_run.json", lambda: os.symlink("/dev/zero", "x_run.json"), LENS
    ),
    *(
        Case(
            f"features --resume: summary {k}",
            f"{FEATURES} --resume",
            json_with("features/extraction_summary_f.json", {k: v}),
            LENS,
        )
        for k, v in {"request": None, "images": 1}.items()
    ),
    Case(
        "features --resume: images of {}",
        f"{FEATURES} --resume",
        json_with("features/extraction_summary_f.json", {"images": [{}]}),
        LENS,
    ),
    Case(
        "features --resume: rows -1",
        f"{FEATURES} --resume",
        json_with("features/extraction_summary_f.json", {"rows": [-1, 5]}, "images", 0),
        LENS,
    ),  # type: ignore[arg-type]
    Case(
        "features --resume: layer gone", f"{FEATURES} --resume", gone("features/features_f_layer_1.safetensors"), LENS
    ),
    Case(
        "features --resume: layer cut off",
        f"{FEATURES} --resume",
        cut("features/features_f_layer_1.safetensors", 5000),
        LENS,
    ),
    Case("features --resume: deep", f"{FEATURES} --resume", file_of("features/extraction_summary_f.json", DEEP), LENS),
    Case("features: exists", FEATURES, needs=LENS),
    Case("neighbors: exists", NEAR, needs=LENS),
]
