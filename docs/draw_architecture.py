"""Draw docs/architecture.svg: the path of a prompt through the folders of mask_impact/.

python docs/draw_architecture.py
python docs/draw_architecture.py --output /tmp/picture.svg

The picture is text made from the rows below, so that the same rows give the same bytes.
"""

import argparse
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path

WIDTH, LEFT, HEIGHT, GAP, TOP = 860, 20, 58, 26, 20
BOX_WIDTH, SIDE = 420, 470  # of a folder; where the notes beside the arrows stand

# (folder, what happens there, what it hands to the next one)
STEPS = (
    ("commands/, or jobs/ from Python", "flags, YAML or keywords become one Request", "Settings, Request"),
    ("prompt/", "text and pictures become inputs, tokens and units", "ModelInputs, Token, Unit"),
    ("model/", "the model is found, checked and loaded", "layers, attention calls"),
    ("impact/", "record the forward, mask, replay each layer", "Blocks of distances"),
    ("effects/, with --effects", "carry masks over several layers to the logits", "columns of effects"),
    ("files/", "tables, manifest and page; all of them or none", "NAME_results.*, NAME_run.json"),
)
STYLE = (
    "text{font:14px system-ui,sans-serif;fill:#1f2328}.name{font-weight:600}.note{fill:#59636e;font-size:13px}"
    "rect{fill:#f6f8fa;stroke:#59636e}line,path{stroke:#59636e;fill:none}"
)


def text(x: int, y: int, words: str, kind: str = "") -> str:
    chosen = f' class="{kind}"' if kind else ""
    return f'<text x="{x}" y="{y}"{chosen}>{escape(words)}</text>'


def box(top: int, name: str, what: str) -> list[str]:
    frame = f'<rect x="{LEFT}" y="{top}" width="{BOX_WIDTH}" height="{HEIGHT}" rx="6"/>'
    return [frame, text(LEFT + 14, top + 24, name, "name"), text(LEFT + 14, top + 45, what)]


def arrow(top: int) -> str:
    x, end = LEFT + BOX_WIDTH // 2, top + GAP
    return f'<path d="M{x} {top}V{end - 1}M{x - 5} {end - 8}L{x} {end - 1}L{x + 5} {end - 8}"/>'


def draw() -> str:
    """The whole picture as SVG."""
    parts = []
    for index, (name, what, handed) in enumerate(STEPS):
        top = TOP + index * (HEIGHT + GAP)
        parts += box(top, name, what)
        parts.append(text(SIDE, top + HEIGHT // 2 + 5, f"gives {handed}", "note"))
        if index + 1 < len(STEPS):
            parts.append(arrow(top + HEIGHT))
    height = TOP * 2 + len(STEPS) * (HEIGHT + GAP) - GAP
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">'
    paper = f'<rect width="{WIDTH}" height="{height}" style="fill:#fff;stroke:none"/>'
    title = "<title>The path of a prompt through the folders of mask_impact</title>"
    return "\n".join([head, title, f"<style>{STYLE}</style>", paper, *parts, "</svg>"]) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).resolve().parent / "architecture.svg")
    args = parser.parse_args(argv)
    args.output.write_text(draw(), "utf-8")
    print(f"wrote {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
