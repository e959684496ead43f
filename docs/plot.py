"""Line plots, and the frame of other small pictures, as SVG text: the same numbers give the same bytes.

In: curves with their points, and intervals if there are any; or parts that are drawn already. Out: a picture as a text.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 800, 400, 70, 270, 40, 50
COLORS = ("#0969da", "#d1242f", "#1a7f37", "#8250df", "#bc4c00", "#59636e")
STYLE = "text{font:13px system-ui,sans-serif;fill:#1f2328}.title{font-weight:600;font-size:14px}.grid{stroke:#d1d9e0}"


@dataclass(frozen=True)
class Curve:
    name: str
    points: tuple[tuple[float, float], ...]
    intervals: tuple[tuple[float, float], ...] = ()  # lowest and highest, one for each point


def scale(low: float, high: float, start: float, end: float, log: bool) -> Callable[[float], float]:
    """From values to pixels."""
    to = math.log if log else float
    return lambda value: start + (to(value) - to(low)) / (to(high) - to(low)) * (end - start)


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1 or value == 0 else f"{value:g}"


def line(points: Sequence[tuple[float, float]], color: str) -> str:
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return f'<path d="M{path}" fill="none" stroke="{color}" stroke-width="2"/>'


def band(points: Sequence[tuple[float, float]], color: str) -> str:
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return f'<path d="M{path}Z" fill="{color}" fill-opacity="0.15" stroke="none"/>'


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>'


def name(words: str, color: str, y: float) -> str:
    """A line of the legend, beside the plot."""
    x = WIDTH - RIGHT + 16
    return line([(x, y), (x + 18, y)], color) + text(x + 26, y + 4, words)


def plot(
    title: str,
    labels: tuple[str, str],
    curves: Sequence[Curve],
    ticks: tuple[Sequence[float], Sequence[float]],
    log: tuple[bool, bool] = (False, False),
) -> str:
    """`labels`, `ticks` and `log` are of x and y; the first and the last tick are the ends of the axis."""
    across = scale(ticks[0][0], ticks[0][-1], LEFT, WIDTH - RIGHT, log[0])
    up = scale(ticks[1][0], ticks[1][-1], HEIGHT - BOTTOM, TOP, log[1])
    parts = [text(LEFT, 20, title, "title"), text(LEFT, TOP - 6, labels[1])]
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, labels[0], anchor="middle"))
    for x in ticks[0]:
        parts.append(text(across(x), HEIGHT - BOTTOM + 18, number(x), anchor="middle"))
    for y in ticks[1]:
        parts.append(f'<path class="grid" d="M{LEFT} {up(y):.1f}H{WIDTH - RIGHT}"/>')
        parts.append(text(LEFT - 8, up(y) + 4, number(y), anchor="end"))
    for place, (curve, color) in enumerate(zip(curves, COLORS, strict=False)):
        if curve.intervals:
            spread = list(zip(curve.points, curve.intervals, strict=True))
            below = [(across(x), up(low)) for (x, _), (low, _) in spread]
            parts.append(band(below + [(across(x), up(high)) for (x, _), (_, high) in reversed(spread)], color))
        parts.append(line([(across(x), up(y)) for x, y in curve.points], color))
        parts.append(name(curve.name, color, TOP + 20 * place))
    return svg(WIDTH, HEIGHT, title, parts)


def svg(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    """The parts on white paper."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
    paper = f'<rect width="{width}" height="{height}" fill="#fff"/>'
    return "\n".join([head, f"<title>{escape(title)}</title><style>{STYLE}</style>{paper}", *parts, "</svg>"]) + "\n"
