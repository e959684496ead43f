"""What a row of logits predicts, and how a mask changes that.

In:  the logits of a predicted token, without a mask and under each. Out: log-probability, rank, likeliest token, KL.
"""

from typing import NamedTuple

import torch

# Logits in double precision at once: 4 MB, which stay in a core's cache; a GPU takes many, to have enough to do
PREDICTION_NUMBERS, GPU_PREDICTION_NUMBERS = 2**19, 2**26


class Prediction(NamedTuple):
    """What one row of logits says, in double precision, because changes can be small."""

    logprob: float
    rank: float
    top: float
    kl: float
    contrast: float


class Base:
    """The prediction without a mask, and how others compare with it."""

    def __init__(self, logits: torch.Tensor, chosen: int | None, contrast: tuple[int, int] | None) -> None:
        """`logits` [V]; `chosen`: as in `Effects`."""
        self.contrast = contrast
        logits = _where_float64_is(logits)
        self.chosen = int(logits.argmax()) if chosen is None else chosen
        self.probabilities = logits.softmax(dim=-1, dtype=torch.float64)
        self.mean = float(self._means(logits[None])[2])
        (self.prediction,) = self.compared(logits[None])

    def compared(self, logits: torch.Tensor) -> list[Prediction]:
        """Of each row of logits [B, V]."""
        logits = _where_float64_is(logits)
        at_once = GPU_PREDICTION_NUMBERS if logits.device.type == "cuda" else PREDICTION_NUMBERS
        parts = logits.split(max(1, at_once // logits.shape[-1]))
        return [Prediction(*row) for part in parts for row in self._compared(part).tolist()]

    def _compared(self, logits: torch.Tensor) -> torch.Tensor:
        """[B, 5] the fields of Prediction."""
        peaks, log_sums, means = self._means(logits)
        chosen, first, second = (logits[:, at].to(torch.float64) for at in (self.chosen, *(self.contrast or (0, 0))))
        columns = [
            chosen - peaks - log_sums,
            *self._ranks(logits, peaks),
            (self.mean - means).clamp_min(0.0),  # KL(without the mask || with it)
            first - second,
        ]
        return torch.stack([column.to(torch.float64) for column in columns], dim=1)

    def _means(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """[B] each: the largest logit; the logarithm of the sum of all exponentials, above it; and the mean
        log-probability, by the probabilities without a mask."""
        peaks = logits.amax(dim=-1).to(torch.float64)
        shifted = logits - peaks[:, None]  # [B, V]
        means = shifted @ self.probabilities
        if means.isnan().any():  # tokens that the model rules out: 0 times infinity
            means = (shifted * self.probabilities).masked_fill(self.probabilities == 0, 0.0).sum(dim=-1)
        log_sums = shifted.exp_().sum(dim=-1).log()
        return peaks, log_sums, means - log_sums

    def _ranks(self, logits: torch.Tensor, peaks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[B] each: the rank of the chosen token, and the likeliest. Most masks leave the chosen one the likeliest, so
        that no others have to be looked at."""
        chosen = logits[:, self.chosen]
        ranks, likeliest = (torch.full(chosen.shape, each, device=logits.device) for each in (1, self.chosen))
        beaten = chosen < peaks
        ranks[beaten] += (logits[beaten] > chosen[beaten, None]).sum(dim=-1)
        likeliest[beaten] = logits[beaten].argmax(dim=-1)
        return ranks, likeliest


def _where_float64_is(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor on a device that has float64; Metal has none."""
    return tensor.cpu() if tensor.device.type == "mps" else tensor
