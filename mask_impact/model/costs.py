"""About how long parts of the work take, before a model is loaded: from its config's shapes and this machine's speed.

In:  a config, and matrix products timed for a moment. Out: `Costs`, for the progress and for --dry-run.

A unit of work is a pass of the whole prompt through one layer.
"""

import time
from dataclasses import dataclass
from typing import Any

import torch

NOMINAL = 5e10  # operations a second of a CPU core, where none were timed
MASK_SECONDS = 1.2e-4  # what a mask takes besides matrix products, mostly in Python
PASSES = 1000.0  # norms, products and copies, as operations for each number; most of a narrow model's time
ROWS = {"cuda": 4096, "mps": 1024}  # of the timed product; elsewhere 64, as masks are carried on a CPU
WIDEST = 4096


@dataclass(frozen=True)
class Costs:
    """In floating-point operations."""

    row: float = 1.0  # one position in one layer, without its attention
    key: float = 0.0  # its attention to one position
    head: float = 0.0  # the logits of one position
    speed: float = NOMINAL  # operations a second

    @classmethod
    def of(cls, config: Any, speed: float = NOMINAL) -> "Costs":
        """`config`: of the text part of a model, or of its vision tower."""
        hidden = number(config, 1, "embed_dim", "hidden_size")  # Qwen2-VL's tower calls the decoder's width hidden_size
        heads = number(config, 1, "num_attention_heads", "num_heads")
        width, shared = number(config, hidden / heads, "head_dim"), number(config, heads, "num_key_value_heads")
        inner = number(config, 4 * hidden, "moe_intermediate_size", "intermediate_size", "d_ff")
        inner *= number(config, 1, "num_experts_per_tok")
        weights = hidden * width * 2 * (heads + shared) + 3 * hidden * inner
        row = 2.0 * weights + PASSES * (hidden + inner + heads * width)
        return cls(row, 8.0 * heads * width, 2.0 * hidden * number(config, 1, "vocab_size"), speed)

    def layer(self, length: int) -> float:
        """A unit of work: all positions of a prompt of this length through one layer."""
        return length * (self.row + length * self.key)

    def ends(self, masks: int, steps: int, length: int) -> float:
        """What `masks` take after the last layer, in units: the logits at the positions that predict, and a row."""
        return masks * (steps * self.head + MASK_SECONDS * self.speed) / self.layer(length)

    def seconds(self, work: float, length: int) -> float:
        """About how long so many units take."""
        return work * self.layer(length) / self.speed


def number(config: Any, default: float, *names: str) -> float:
    """The first of these that the config tells; of one for each layer, the mean."""
    for name in names:
        try:
            value = getattr(config, name, None)
        except Exception:  # some refuse to be asked for what differs between their layers
            continue
        values = value if isinstance(value, list | tuple) else [value]
        if values and all(isinstance(each, int) and each > 0 for each in values):
            return float(sum(values) / len(values))
    return default


def speed_of(device: torch.device, dtype: torch.dtype | str, config: Any, repetitions: int = 20) -> float:
    """Operations a second in a matrix product of a model that is as wide as this one: the fastest of a few.

    `dtype`: or "auto" for the checkpoint's own, which is not known before it is loaded; bfloat16 stands for it.
    """
    dtype = dtype if isinstance(dtype, torch.dtype) else torch.bfloat16
    width, rows = min(int(number(config, WIDEST, "hidden_size")), WIDEST), ROWS.get(device.type, 64)
    states, weights = (torch.ones(shape, device=device, dtype=dtype) for shape in ((rows, width), (width, 4 * width)))
    times = []
    for _ in range(1 + repetitions):
        started = time.perf_counter()
        states @ weights
        (states[0, 0] + 0).item()  # waits until a GPU has done it
        times.append(time.perf_counter() - started)
    return 2.0 * rows * width * 4 * width / max(min(times[1:]), 1e-9)
