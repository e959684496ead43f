"""The vectors of one replay, each with and without masks, and how far rounding alone moves them.

Shapes: R masks, Q queries, H heads, C hidden, D head width, M metrics.

In:  what a replayed layer did on its rows: without a mask, under each mask, and once more without a mask, with an
     attention output that differs by one step of rounding in every number.
Out: the metrics of each row, and those of rounding: the noise floors.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch

from mask_impact.distances import DISTANCES, compare
from mask_impact.impact.masking import Masked

# How far an error can be, in distances between two rows that differ by rounding. Measured in tests/test_floors.py.
MARGIN = 4.0


@dataclass
class Vectors:
    """One variant, or the heads, under R masks; the last row is for rounding."""

    base: torch.Tensor  # [Q, C] or [Q, H, D], without a mask
    change: torch.Tensor  # [R, ...] masked minus base
    masked: torch.Tensor | None = None  # [R, ...] where it has digits that the sum of the two has not

    @classmethod
    def of(cls, rows: torch.Tensor, sums: bool = False) -> "Vectors":
        """From all rows of a replay, the first without a mask. `sums`: they have no digits beside those of a sum."""
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
        return cls(rows[0], rows[1:] - rows[0], None if sums else rows[1:])

    def metrics(self, names: Sequence[str], weights: torch.Tensor | None) -> torch.Tensor:
        """[R, Q, 1, M], or [R, Q, H, M] for heads. `weights` [R, Q, H]: as in `distances.compare`, of each query."""
        if set(names) <= DISTANCES:
            found = compare(names, self.base, self.change, None, self.masked)
        else:  # what metrics are promised is one vector, or one for each head
            found = torch.stack([self._metrics(names, weights, query) for query in range(len(self.base))], dim=1)
        return found if self.base.ndim == 3 else found.unsqueeze(2)

    def _metrics(self, names: Sequence[str], weights: torch.Tensor | None, query: int) -> torch.Tensor:
        weights, masked = (None if each is None else each[:, query] for each in (weights, self.masked))
        return compare(names, self.base[query], self.change[:, query], weights, masked)


class Rounding:
    """What rounding in one dtype does to a replay."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.step = torch.finfo(dtype).eps

    def into_last(self, masked: Masked) -> Masked:
        """`masked` with its last row, which is without a mask as the first, rounded in another way. In place."""
        output = masked.output[0]
        masked.output[-1] = output * (1 + self.step * signs(output.shape[-2:], output.device).to(output.dtype))
        masked.change[-1] = masked.output[-1] - output
        return masked

    def of_stream(self, full: Vectors, output: torch.Tensor) -> None:
        """Add to the last row of `full` that updates are differences from the layer's output [Q, C], and are rounded as
        it is: with a long residual stream that is more than what the update itself brings.
        """
        full.change[-1] += output.abs() * signs(output.shape[-1:], output.device).to(output.dtype) * (self.step / 2)

    @staticmethod
    def widen(vectors: Vectors) -> None:
        """Multiply the last row's change, so that errors stay below its metrics."""
        vectors.change[-1] *= MARGIN
        if vectors.masked is not None:
            vectors.masked[-1] = vectors.base + vectors.change[-1]

    def magnified(self, masked: Masked, base: torch.Tensor) -> tuple[Masked, torch.Tensor]:
        """Changes [R, ..., H, D] of `base` [..., H, D] that rounding would swallow, made as large as the square root of
        its step, and [R, ...] the factors.

        There the error of rounding and that of taking the layer as linear are both small. Changes of 0 stay.
        """
        size = masked.change.flatten(-2).norm(dim=-1) / base.flatten(-2).norm(dim=-1).clamp_min(1e-30)
        factor = torch.where(size > 0, self.step**0.5 / size, 1.0).clamp_max(1e30)
        change = masked.change * factor[..., None, None]
        return Masked(base + change, change), factor


@cache
def signs(shape: torch.Size, device: torch.device) -> torch.Tensor:
    """1 or -1 in no order, always the same."""
    generator = torch.Generator().manual_seed(0)
    return (torch.randint(0, 2, shape, generator=generator) * 2 - 1).to(device, torch.int8)  # kept: a byte each
