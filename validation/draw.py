"""Small SVG pictures of what was found: lines with bands over layers, and a map of heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 520, 250, 48, 26, 150, 36
COLOURS = ("#1f77b4", "#d95f02", "#7f7f7f", "#7570b3")
FONT = 'font-family="sans-serif" font-size="11"'


def svg(width: int, height: int, parts: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" {FONT}>'
    return "\n".join([head, f'<rect width="{width}" height="{height}" fill="#fff"/>', *parts, "</svg>"]) + "\n"


def text(x: float, y: float, words: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="#222">{escape(words)}</text>'


def lines(series: Mapping[str, np.ndarray], below: str, beside: str) -> str:
    """Lines by layer. Each of `series` is [3, layers]: the mean, and the ends of its interval, drawn as a band."""
    low, high = min(0.0, *(each.min() for each in series.values())), max(each.max() for each in series.values())
    layers = max(each.shape[1] for each in series.values())

    def place(layer: float, value: float) -> tuple[float, float]:
        x = LEFT + layer * (WIDTH - LEFT - RIGHT) / max(1, layers - 1)
        return x, TOP + (high - value) * (HEIGHT - TOP - BOTTOM) / (high - low)

    def path(layers: Sequence[int], values: np.ndarray) -> str:
        return " ".join("{:.1f},{:.1f}".format(*place(*each)) for each in zip(layers, values, strict=True))

    parts = [text(LEFT - 6, place(0, value)[1] + 4, f"{value:.1f}", "end") for value in (low, 0, high)]
    parts.append(
        '<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" stroke="#bbb"/>'.format(
            *place(0, 0), *place(layers - 1, 0)
        )
    )
    for number, (name, each) in enumerate(series.items()):
        colour, along = COLOURS[number % len(COLOURS)], list(range(each.shape[1]))
        band = path([*along, *along[::-1]], np.concatenate([each[1], each[2][::-1]]))
        parts.append(f'<polygon points="{band}" fill="{colour}" opacity="0.18"/>')
        parts.append(f'<polyline points="{path(along, each[0])}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        y = TOP + 12 + 16 * number
        parts.append(f'<rect x="{WIDTH - RIGHT + 12}" y="{y - 8}" width="12" height="8" fill="{colour}"/>')
        parts.append(text(WIDTH - RIGHT + 30, y, name))
    parts += [text(place(layer, low)[0], HEIGHT - BOTTOM + 16, str(layer), "middle") for layer in range(0, layers, 5)]
    parts += [text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, below, "middle"), text(4, 11, beside)]
    return svg(WIDTH, HEIGHT, parts)


def heads(values: np.ndarray, title: str) -> str:
    """[layers, heads] as a map: red where the answer loses, blue where it gains."""
    side, left, top = 15, 70, 34
    largest = float(np.abs(values).max()) or 1.0
    parts = [text(4, 14, title)]
    for layer, head in np.ndindex(*values.shape):
        share = float(values[layer, head]) / largest
        red, blue = (255, int(255 * (1 - share))), (int(255 * (1 + share)), 255)
        colour = f"rgb({red[0]},{red[1]},{red[1]})" if share >= 0 else f"rgb({blue[0]},{blue[0]},{blue[1]})"
        x, y = left + layer * side, top + head * side
        parts.append(f'<rect x="{x}" y="{y}" width="{side - 1}" height="{side - 1}" fill="{colour}"/>')
    parts += [text(left - 6, top + head * side + 11, f"head {head}", "end") for head in range(values.shape[1])]
    bottom = top + values.shape[1] * side + 14
    parts += [text(left + layer * side + 7, bottom, str(layer), "middle") for layer in range(0, len(values), 5)]
    parts.append(text(left + len(values) * side / 2, bottom + 16, "layer", "middle"))
    return svg(left + len(values) * side + 10, bottom + 24, parts)
