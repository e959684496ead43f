"""Which part of a picture each state is of.

In:  what the manifest says of a picture, and rows and columns of its tokens or patches. Out: [P, 4] boxes, left, top,
     right and bottom in pixels of the picture, row by row; NaN for what is of padding alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mask_impact.prompt.grids import Layout

NOWHERE = (np.nan,) * 4


def boxes(image: Mapping[str, Any], grid: Sequence[int]) -> np.ndarray:
    """[P, 4] float64 of `grid`, rows and columns that divide what the picture's own grid covers."""
    rows, cols = grid
    layout = Layout(rows * cols, tuple(image["size"]), rows, cols, tuple(image["region"]))
    return np.array([box or NOWHERE for _, _, box in layout.places()])


def overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """[B, T] the area that each of `boxes` [B, 4] shares with each of `others` [T, 4], in pixels; 0 with NaN."""
    first, last = np.maximum(boxes[:, None, :2], others[:, :2]), np.minimum(boxes[:, None, 2:], others[:, 2:])
    return np.nan_to_num(last - first).clip(min=0).prod(axis=-1)
