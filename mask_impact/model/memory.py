"""When memory runs out: recognise it, try again with fewer rows, or say what did not fit. And give free memory back.

In: an error, a block of code, or rows to compute. Out: OutOfMemory with a reason, or the rows in pieces that fit.
"""

import ctypes
import gc
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch

from mask_impact.errors import OutOfMemory

Item = TypeVar("Item")
Result = TypeVar("Result")

# What allocators say in a plain RuntimeError: torch's for the CPU (c10/core/impl/alloc_cpu.cpp; on Windows the second),
# the system's own text for ENOMEM, C++'s, CUDA and its libraries, Metal.
SAID = re.compile(
    r"can't allocate memory|not enough memory|cannot allocate memory|bad_alloc|CUDA error: out of memory|"
    r"_STATUS_ALLOC_FAILED|CUDA out of memory|MPS backend out of memory|Invalid buffer size",
    re.IGNORECASE,
)
# "you tried to allocate 8000 bytes", "Tried to allocate 20.00 GiB", "Unable to allocate 3.2 GiB", "Invalid buffer size:
# 20.00 GB". All of them count in powers of 1024, with and without the "i".
SIZE = re.compile(r"(?:to allocate|buffer size:?|unable to mmap) ([\d.]+) ?(bytes|[KMGT]i?B)", re.IGNORECASE)
UNITS = {"b": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}

ADVICE = (
    "shorten the prompt, lower `num_tokens` (with pictures `max_pixels`), take a narrower `dtype`, another `device`, "
    "or spread the model over devices with `device_map` auto"
)

LOADING = (
    "take a narrower `dtype`, another `device`, or spread the model over devices with `device_map` auto; where the "
    "weights are far smaller, a size in its config.json is wrong"
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocator of torch, numpy or the system raised `error` because memory ran out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError | OSError) and SAID.search(str(error)) is not None


def size_asked(error: BaseException) -> int | None:
    """The bytes that `error` says were asked for, None where it does not say."""
    found = SIZE.search(str(error))
    return int(float(found[1]) * UNITS[found[2][0].lower()]) if found else None


def readable(size: int) -> str:
    """A number of bytes in MB or GB, powers of 1000 as in the manifest."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB"


@contextmanager
def explained(doing: str | Callable[[], str], advice: str = ADVICE) -> Iterator[None]:
    """Raise OutOfMemory where memory runs out; its message begins "memory ran out in" and continues with `doing`,
    which may be a function that is called only then, and ends with the advice."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        size = size_asked(error)
        asked = f", where {readable(size)} more were asked for" if size else ""
        where = doing if isinstance(doing, str) else doing()
        raise OutOfMemory(f"memory ran out in {where}{asked}; {advice}") from error


@dataclass
class Portion:
    """How many rows are computed at once: as many as planned; once memory has run out, fewer from then on."""

    most: int = sys.maxsize
    too_many: int | None = None  # the number of rows with which memory ran out first

    def pieces(self, items: Sequence[Item], planned: int, compute: Callable[[Sequence[Item]], Result]) -> list[Result]:
        """What `compute` gives for pieces of at most `planned` items, in order. Raises what it raises for one item."""
        results: list[Result] = []
        start = 0
        while start < len(items):
            piece = items[start : start + min(planned, self.most)]
            try:
                results.append(compute(piece))
            except Exception as error:
                if len(piece) == 1 or not is_out_of_memory(error):
                    raise
            else:
                start += len(piece)
                continue
            # only here, outside of the except block, is the traceback gone, whose frames hold the tensors
            self.too_many = self.too_many or len(piece)
            self.most = len(piece) // 2
            free_memory()
        return results


def free_memory() -> None:
    """Give back all memory that is not in use, the caches of devices included."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
    release_free_memory()


def release_free_memory() -> None:
    """Call glibc's malloc_trim; on other systems do nothing.

    A growing KV cache is allocated again with every token, a little larger each time. The freed pieces do not fit the
    next one and pile up: without this, 24 output tokens after a prompt of 1,024 held 1.1 GB beside model and cache.
    """
    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


# One row's share of the memory that a replay may hold at once, in vectors of hidden size: MLP intermediates, copies
# made by norms, head outputs. Measured on Qwen3 (MLP 3 to 4 times hidden): about 30.
VECTORS_PER_ROW = 40

# Bytes that rows computed at once may take. Many small calls would keep a GPU waiting, and it has memory of its own.
MEMORY_BUDGET = 192 * 2**20
GPU_MEMORY_BUDGET = 2 * 2**30


def memory_budget(device: torch.device) -> int:
    """Bytes that rows computed at once may take on `device`."""
    return GPU_MEMORY_BUDGET if device.type == "cuda" else MEMORY_BUDGET
