"""The peak memory of whole runs at 1,024 image tokens, each in a fresh process, beside what --dry-run says of them.

In: nothing; a random Qwen3-VL of width 512 with 6 layers and a vision tower of 8 is made, a picture of 1024 x 1024
pixels and a video of 8 frames of 512 x 512. Out: a line for each run, in MB (10^6 bytes) above the loaded model.

    python tests/peak_memory.py                 # pictures and videos, in the tower, with effects: minutes
    python tests/peak_memory.py picture
"""

import dataclasses
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from vl_families import VL_FAMILIES, make_vl_checkpoint, picture  # noqa: E402

from benchmarks.machine import PeakMemory  # noqa: E402
from mask_impact.jobs.footprint import peak_bytes  # noqa: E402
from mask_impact.jobs.session import Session  # noqa: E402
from mask_impact.options import Request, Settings  # noqa: E402

WIDTH, FRAMES = 512, 8
FIRST_ROW = {"picture": "0,0,0,3", "video": "frame:0:0,0,0,3"}
CASES = (
    "picture",
    "picture-effects",
    "picture-tower",
    "picture-tower-effects",
    "video",
    "video-tower",
    "video-tower-effects",
)


def made(root: Path) -> None:
    """The model, the picture and the video."""
    row = VL_FAMILIES["qwen3_vl"]
    rope = {"type": "mrope", "rope_type": "default", "mrope_section": [12, 10, 10], "mrope_interleaved": True}
    text = {
        "hidden_size": WIDTH, "intermediate_size": 3 * WIDTH, "num_hidden_layers": 6, "num_attention_heads": 8,
        "num_key_value_heads": 4, "head_dim": 64, "max_position_embeddings": 8192, "rope_scaling": rope,
    }  # fmt: skip
    tower = {
        "hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "depth": 8, "num_heads": 8, "out_hidden_size": WIDTH,
        "deepstack_visual_indexes": [0, 1],
    }  # fmt: skip
    config = dict(row.config)
    config |= {"text_config": config["text_config"] | text, "vision_config": config["vision_config"] | tower}
    sizes = {"size": {"shortest_edge": 1024, "longest_edge": 2**26}}
    VL_FAMILIES["large"] = dataclasses.replace(
        row, config=config, image_processor=row.image_processor | sizes,
        video_processor=(row.video_processor or {}) | sizes,
    )  # fmt: skip
    make_vl_checkpoint("large", root / "model")
    picture(1024, 1024).save(root / "picture.png")
    (root / "video").mkdir()
    for frame in range(FRAMES):
        picture(512, 512, seed=frame).save(root / "video" / f"{frame}.png")


def request(case: str, root: Path) -> Request:
    kind, *asked = case.split("-")
    given: dict[str, Any] = {"images": (root / "picture.png",)} if kind == "picture" else {}
    given |= {"videos": (str(root / "video"),)} if kind == "video" else {}
    given |= {"effects": True, "regions": (FIRST_ROW[kind],)} if "effects" in asked else {}
    if "tower" in asked:
        return Request("What?", tower="vision", **{"layers": ((0, 1),), "regions": (FIRST_ROW[kind],)} | given)
    return Request("What?", mask_mode="vision", **given)


def measure(case: str, root: Path) -> None:
    settings = Settings(str(root / "model"), vision=True, device="cpu", formats=("csv",), output_dir=root)
    session = Session(settings)
    session.model  # noqa: B018
    peak = PeakMemory(torch.device("cpu"))
    prepared = session.prepare(request(case, root))
    said = peak_bytes(prepared, session.source.config, session.dtype, session.device)
    session.run(case, prepared)
    print(f"{case}: peak {peak.above() / 1e6:.0f} MB, --dry-run says {said / 1e6:.0f} MB", flush=True)


def main(cases: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        made(Path(folder))
        for case in cases or CASES:
            subprocess.run([sys.executable, __file__, "--in", folder, case], check=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--in"]:
        measure(sys.argv[3], Path(sys.argv[2]))
    else:
        main(sys.argv[1:])
