"""How much there is to do for effects, before anything is measured.

In: what is asked for, and the sizes of prompt, answer and model. Out: an amount of work, in passes of the whole prompt
through one layer, as the progress counts it: a replayed layer is about one, and a forward as many as there are layers.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mask_impact.effects.asked import Asked, Window
from mask_impact.model.costs import Costs

RECORDING = 6.0  # plain forwards that a recorded one and its checks take (docs/effects.md)


def rows_work(starts: Iterable[int], window: Window, layers: int, length: int, block: str) -> float:
    """In the layers, of masks that begin at these positions of a text of `length` tokens: each is carried from there to
    its end, from the first masked layer on."""
    rows = (1 if block == "last" else max(0, length - start) for start in starts)
    return sum(rows) * (layers - window.first) / length


def effects_work(asked: Asked, costs: Costs, starts: Sequence[int], prompt: int, tokens: int, layers: int) -> float:
    """Of the whole request, at most; with `refine` or `top`, of as many units as there will be about.

    Args:
        starts: the first position of each unit of the prompt.
        prompt, tokens: of the prompt and of the answer.
    """
    pairs = asked.pairs * (asked.pairs - 1) // 2
    rounds = asked.expected(starts)
    masked = [*itertools.chain.from_iterable(rounds), *[prompt // 2] * pairs]
    work = 0.0
    for count in (tokens, *map(len, asked.longer_contrast)):
        length = prompt + count - 1
        by_step = [route for route in asked.routes if route.by_step]
        work += RECORDING * layers * (len(by_step[:1]) * count * len(rounds) + (len(by_step) < len(asked.routes)))
        for route in asked.routes:
            times = (count if route.by_step else 1) * max(1, asked.by_head)
            begins = [each for each in route.begins(masked, length) if each < length]
            end = costs.ends(len(begins), 1 if route.by_step else count, length)
            for window in asked.windows:
                work += times * (rows_work(begins, window, layers, length, route.block) + end)
    return work


@dataclass(frozen=True)
class Sizes:
    """Of a run in a vision tower."""

    prompt: int  # its tokens
    tokens: int  # of the answer
    layers: int  # of the decoder
    tower_layers: int
    tower_layer: float  # the work of one pass through a layer of the tower


def tower_effects_work(asked: Asked, costs: Costs, starts: Sequence[int], sizes: Sizes) -> float:
    """The same of masks in a vision tower: each takes the tower from the first masked layer on, and the decoder from
    the first image token on."""
    masked = [*itertools.chain.from_iterable(asked.expected(starts))]
    work = 0.0
    for count in (sizes.tokens, *map(len, asked.longer_contrast)):
        length = sizes.prompt + count - 1
        work += RECORDING * sizes.layers
        for route, window in itertools.product(asked.routes, asked.windows):
            masks = (1 if route.source else len(masked)) * max(1, asked.by_head)
            work += masks * rows_work(starts[:1], Window(0, 0), sizes.layers, length, route.block)
            work += costs.ends(masks, count, length)
            work += masks * (sizes.tower_layers - window.first) * sizes.tower_layer
    return work
