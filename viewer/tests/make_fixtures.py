"""Write tests/fixtures: what the Python side writes, and what other tools write, for the tests of the data layer.

    .venv/bin/python viewer/tests/make_fixtures.py

grid_*     2 steps, 3 layers, 4 variants, up to 6 tokens, 4 of them image patches; in every form a table comes in
hostile_*  tokens that break careless parsers; 1 step, 1 layer, 2 variants
*_rows.json  the same rows as the tests expect them: [step, layer, token, position, variant, l2, cosine], float32 exact
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mask_impact.files.results import COLUMNS, Block, ResultFiles, to_dataframe

HERE = Path(__file__).parent / "fixtures"
HOSTILE = [
    "</script>",
    "<img src=x onerror=alert(1)>",
    '"',
    'a "quoted", word',
    "\n",
    "\r\n",
    " \t ",
    "<0x0A>",
    "\u202eright to left\u2069",
    "שלום",
    "\ud83d",  # half an emoji: U+FFFD in files
    "😀",
    "null",
    "NaN",
    "007",
    "=1+1",
    "",
    "\\u0041\\",
    "\x00\x1f\x7f",
    "\ufeff",
    "__proto__",
    "long " * 2000,
]


def distances(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Float32 of many sizes, as distances are: 1e-12 to 1e3, a few exact zeros."""
    values = np.exp(rng.uniform(np.log(1e-12), np.log(1e3), shape)).astype(np.float32)
    values[rng.random(shape) < 0.05] = 0
    return values


def grid_blocks() -> list[Block]:
    rng = np.random.default_rng(0)
    tokens = ["What", " is", "<image>", "<image>", "<image>", "<image>"]
    variants = ["Full", "Attn", "Head_0", "Head_1"]
    blocks = []
    for step in (0, 1):
        n = 5 + step
        for layer in (0, 2, 10):
            l2, cosine = distances(rng, n, 4), distances(rng, n, 4)
            blocks.append(Block.of_l2_and_cosine(step, layer, tokens[:n], np.arange(n), variants, l2, cosine))
    return blocks


def hostile_blocks() -> list[Block]:
    rng = np.random.default_rng(1)
    n = len(HOSTILE)
    return [
        Block.of_l2_and_cosine(
            0, 0, HOSTILE, np.arange(n), ["Full", "Head_0"], distances(rng, n, 2), distances(rng, n, 2)
        )
    ]


def write_run(name: str, blocks: list[Block], manifest: dict) -> pd.DataFrame:
    with ResultFiles(HERE, name, ["csv", "json", "parquet"]) as files:
        for block in blocks:
            files.write(block)
        files.commit({"name": name, **manifest})
    df = to_dataframe(blocks)
    rows = [[*row[:5], float(row[5]), float(row[6])] for row in df.itertuples(index=False)]
    (HERE / f"{name}_rows.json").write_text(json.dumps(rows) + "\n")
    return df


def grid_manifest() -> dict:
    def token(position: int, text: str, **more: object) -> dict:
        none = {"kind": "text", "image": None, "row": None, "col": None, "box": None}
        return {"position": position, "id": 100 + position, "text": text, **none, **more}

    patches = [
        token(
            2 + i,
            "<image>",
            kind="image",
            image=0,
            row=i // 2,
            col=i % 2,
            box=[i % 2 * 10, i // 2 * 8, i % 2 * 10 + 10, i // 2 * 8 + 8],
        )
        for i in range(4)
    ]
    return {
        "model": {"name": "tiny", "layers": 11, "heads": 2, "revision": None},
        "prompt": "What is",
        "tokens": [token(0, "What"), token(1, " is"), *patches],
        "images": [{"path": "pictures/cat.png", "size": [20, 16], "grid": [2, 2], "positions": [2, 5], "sha256": None}],
        "generated": [{"step": 0, "id": 7, "text": " a", "probability": 0.5}],
        "noise_floor": {"Full": {"l2": 1e-6, "relative": 1e-7}},
        "a_key_of_the_future": [1, 2],
    }


def write_others(df: pd.DataFrame) -> None:
    """The grid run as other tools write it."""
    table = pa.Table.from_pandas(df, preserve_index=False)
    mixed = df[[*reversed(COLUMNS)]].assign(model="tiny, small", seed=7)
    mixed.insert(3, "note", "a,b")
    mixed.to_csv(HERE / "reordered.csv", lineterminator="\r\n", encoding="utf-8-sig")
    df.to_csv(HERE / "semicolon.csv", sep=";", index=False)
    df.to_json(HERE / "index.json", double_precision=15)
    df.to_json(HERE / "split.json", orient="split")
    records = json.loads(df.to_json(orient="records", double_precision=15))
    extra = [{"seed": 1, "box": [{"a": "}]"}], **record, "note": None} for record in records]
    (HERE / "records.json").write_text(json.dumps(extra, indent=2))
    (HERE / "lines.jsonl").write_text("\n".join(json.dumps(record) for record in extra) + "\n")
    df.to_parquet(HERE / "pandas.parquet")
    types = {"l2_distance": "float64", "cosine_distance": "float64", "layer": "int32", "generation_step": "float64"}
    doubles = df.astype(types)
    others = doubles.assign(lists=[[1, 2]] * len(df), when=pd.Timestamp("2026-01-01"))
    others = others[["lists", *reversed(COLUMNS), "when"]]
    options = {"use_dictionary": False, "compression": "none", "data_page_version": "2.0", "row_group_size": 50}
    pq.write_table(pa.Table.from_pandas(others, preserve_index=False), HERE / "plain.parquet", **options)
    categories = df.astype({"variant": "category", "token_masked": "category"})
    pq.write_table(pa.Table.from_pandas(categories), HERE / "categories.parquet", row_group_size=20, data_page_size=64)
    gaps = doubles.astype({"l2_distance": object})
    gaps.loc[3, "l2_distance"] = None
    gaps.loc[5, "cosine_distance"] = float("inf")
    gaps.astype({"l2_distance": "Float32"}).to_parquet(HERE / "gaps.parquet")
    pq.write_table(table, HERE / "checksums.parquet", write_page_checksum=True)
    for name, version, text in (("delta", "1.0", "DELTA_BYTE_ARRAY"), ("delta_v2", "2.0", "DELTA_LENGTH_BYTE_ARRAY")):
        kinds = dict.fromkeys(COLUMNS, "DELTA_BINARY_PACKED") | dict.fromkeys(("token_masked", "variant"), text)
        encodings = kinds | dict.fromkeys(("l2_distance", "cosine_distance"), "BYTE_STREAM_SPLIT")
        options = {"use_dictionary": False, "column_encoding": encodings, "data_page_version": version}
        pq.write_table(table, HERE / f"{name}.parquet", **options)
    pq.write_table(table, HERE / "zstd.parquet", compression="zstd")
    pq.write_table(table, HERE / "zstd_v2.parquet", compression="zstd", data_page_version="2.0")
    pq.write_table(table, HERE / "brotli.parquet", compression="brotli")
    pq.write_table(table.drop_columns(["layer", "cosine_distance"]), HERE / "missing.parquet")
    pq.write_table(table.set_column(1, "layer", pa.array(["x"] * len(df))), HERE / "text_layer.parquet")


def main() -> None:
    HERE.mkdir(exist_ok=True)
    grid = write_run("grid", grid_blocks(), grid_manifest())
    write_others(grid)
    write_run("hostile", hostile_blocks(), {"prompt": "hostile", "tokens": [], "images": []})


if __name__ == "__main__":
    main()
