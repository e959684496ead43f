"""What a mask does to the whole answer: rows that sum up those of its tokens.

In:  rows of `Effect`, one for each mask and step, in double precision. Out: one row for each mask of the prompt.

The log-probability of an answer is the sum of its tokens', each after the tokens before it, so its change under a mask
is the sum of theirs.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from mask_impact.effects.answer import WHOLE_ANSWER, Effect

Sums = Mapping[Effect, tuple[float, float]]  # by mask: an answer's log-probability under it, and its change


def mask_of(row: Effect) -> Effect:
    """What a row is about, without what was measured: the same for all steps."""
    return replace(
        row, generation_step=WHOLE_ANSWER, logprob=0, logprob_change=0, rank=0, top_token="", kl=0, final_l2=None,
        final_cosine=None, contrast=None, contrast_change=None, interaction=None, image_l2=None, image_cosine=None,
    )  # fmt: skip


def whole_answers(rows: Iterable[Effect], steps: int) -> dict[Effect, Effect]:
    """By mask the row for the whole answer; of masks that were measured at each of its steps.

    Log-probabilities and interactions are summed, `kl` is the mean, `rank` the worst. The likeliest token is that of
    the first step, and so is a contrast of two tokens, which stand in the place of the answer there.
    """
    by_mask: dict[Effect, dict[int, Effect]] = {}
    for row in rows:
        by_mask.setdefault(mask_of(row), {})[row.generation_step] = row
    return {mask: _whole(mask, found) for mask, found in by_mask.items() if len(found) == steps}


def _whole(mask: Effect, by_step: Mapping[int, Effect]) -> Effect:
    steps, first = list(by_step.values()), by_step[0]
    return replace(
        mask,
        logprob=math.fsum(row.logprob for row in steps),
        logprob_change=math.fsum(row.logprob_change for row in steps),
        rank=max(row.rank for row in steps),
        top_token=first.top_token,
        kl=math.fsum(row.kl for row in steps) / len(steps),
        contrast=first.contrast,
        contrast_change=first.contrast_change,
        image_l2=first.image_l2,
        image_cosine=first.image_cosine,
        interaction=None if first.interaction is None else math.fsum(row.interaction or 0.0 for row in steps),
    )


def contrasted(row: Effect, texts: Sequence[Sums]) -> Effect:
    """A row with the contrast of two texts in the place of the answer, under its mask; without one where the mask is
    another one at every step."""
    if any(mask_of(row) not in sums for sums in texts):
        return row
    (first, first_change), (second, second_change) = (sums[mask_of(row)] for sums in texts)
    return replace(row, contrast=first - second, contrast_change=first_change - second_change)
