"""What the model answers when tokens are removed from the attention of all layers: exact, and cheap.

A token that no other position reads in any layer is as good as not there, as long as the others keep their positions.
So a forward without it, with the position numbers of the rest, is the forward of `--effects` (mask layers all, readers
later); `tests/test_validation.py` holds the two against each other.

Shapes: B sets of kept positions, L kept positions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence

import torch

AT_ONCE = 64  # forwards in a batch


@torch.inference_mode()
def log_probabilities(
    model: torch.nn.Module, ids: Sequence[int], answer: int, kept: Collection[tuple[int, ...]]
) -> dict[tuple[int, ...], float]:
    """Of each set of kept positions (ascending, the last one among them): ln p(answer) when only these are there."""
    by_length = defaultdict(list)
    for positions in set(kept):
        by_length[len(positions)].append(positions)
    found = {}
    for sets in by_length.values():
        for start in range(0, len(sets), AT_ONCE):
            part = sets[start : start + AT_ONCE]
            places = torch.tensor(part)  # [B, L]
            logits = model(
                input_ids=torch.tensor(ids)[places],
                position_ids=places,
                attention_mask=torch.ones_like(places),
                logits_to_keep=1,
            ).logits[:, -1]
            found |= dict(zip(part, logits.double().log_softmax(dim=-1)[:, answer].tolist(), strict=True))
    return found
