"""Small SVG pictures of what was found: lines with bands over layers, and a map of heads."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "docs"))

from plot import Curve, plot, svg, text


def lines(title: str, series: Mapping[str, np.ndarray], below: str, beside: str) -> str:
    """Lines by layer. Each of `series` is [3, layers]: the mean, and the ends of its interval, drawn as a band."""
    curves = [
        Curve(name, tuple(enumerate(mean.tolist())), tuple(zip(low.tolist(), high.tolist(), strict=True)))
        for name, (mean, low, high) in series.items()
    ]
    everything = np.concatenate([each.ravel() for each in series.values()])
    up = range(math.floor(min(0.0, everything.min())), math.ceil(everything.max()) + 1)
    last = max(each.shape[1] for each in series.values()) - 1
    return plot(title, (below, beside), curves, ([*range(0, last, 5), last], up))


def heads(values: np.ndarray, title: str) -> str:
    """[layers, heads] as a map: red where the answer loses, blue where it gains."""
    side, left, top = 15, 70, 34
    largest = float(np.abs(values).max()) or 1.0
    parts = [text(4, 18, title)]
    for layer, head in np.ndindex(*values.shape):
        share = float(values[layer, head]) / largest
        red, blue = (255, int(255 * (1 - share))), (int(255 * (1 + share)), 255)
        colour = f"rgb({red[0]},{red[1]},{red[1]})" if share >= 0 else f"rgb({blue[0]},{blue[0]},{blue[1]})"
        x, y = left + layer * side, top + head * side
        parts.append(f'<rect x="{x}" y="{y}" width="{side - 1}" height="{side - 1}" fill="{colour}"/>')
    parts += [text(left - 6, top + head * side + 11, f"head {head}", anchor="end") for head in range(values.shape[1])]
    bottom = top + values.shape[1] * side + 14
    parts += [text(left + layer * side + 7, bottom, str(layer), anchor="middle") for layer in range(0, len(values), 5)]
    parts.append(text(left + len(values) * side / 2, bottom + 16, "layer", anchor="middle"))
    return svg(left + len(values) * side + 10, bottom + 24, title, parts)
