"""Running out of memory: what allocators say is understood, rows are split until they fit, and what cannot be split is
named. With allocators that fail on purpose, and once with a real limit on the process."""

import subprocess
import sys
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import build, prompt
from float64 import true_float64
from prepared import PREPARED
from test_engine import impacts, record
from test_experiment import analyse

from mask_impact.errors import OutOfMemory, UnsupportedModel
from mask_impact.files.results import Block
from mask_impact.impact.masking import QueryAttention
from mask_impact.impact.replay import Replay
from mask_impact.model.find import loading
from mask_impact.model.memory import Portion, is_out_of_memory, readable, size_asked

CPU_MESSAGE = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "8000000000 bytes. Error code 12 (Cannot allocate memory)"
)
# As the allocators raise them, and the size they name.
RAISED: dict[str, tuple[Exception, int | None]] = {
    "cpu": (RuntimeError(CPU_MESSAGE), 8_000_000_000),
    "cpu, Windows": (
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:80] data. DefaultCPUAllocator: not enough memory: you tried to allocate "
            "1200 bytes."
        ),
        1200,
    ),
    "cuda": (
        torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which 5.12 "
            "GiB is free. Including non-PyTorch memory, this process has 73.98 GiB memory in use."
        ),
        20 * 2**30,
    ),
    "cuda, passed on as text": (RuntimeError("CUDA out of memory. Tried to allocate 512.00 MiB (GPU 0)"), 512 * 2**20),
    "cuda driver": (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later"), None),
    "cublas": (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), None),
    "mps": (
        RuntimeError(
            "MPS backend out of memory (MPS allocated: 8.92 GB, other allocations: 36.00 KB, max allowed: 9.07 GB). "
            "Tried to allocate 256.00 MB on private pool. Use PYTORCH_MPS_HIGH_WATERMARK_RATIO=0.0 to disable it"
        ),
        256 * 2**20,
    ),
    "mps, one buffer too large": (RuntimeError("Invalid buffer size: 20.00 GB"), 20 * 2**30),
    "numpy": (
        np._core._exceptions._ArrayMemoryError((800_000_000,), np.dtype("float32")),  # type: ignore[attr-defined]
        int(2.98 * 2**30),
    ),
    "python": (MemoryError(), None),
    "c++": (RuntimeError("std::bad_alloc"), None),
    "mapping a checkpoint": (
        RuntimeError("unable to mmap 4000000 bytes from file <model.safetensors>: Cannot allocate memory (12)"),
        4_000_000,
    ),
    "system": (OSError(12, "Cannot allocate memory"), None),
}  # fmt: skip

OTHER = [
    RuntimeError("mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6)"),
    RuntimeError("CUDA error: device-side assert triggered"),
    ValueError("can't allocate memory"),
    OSError(28, "No space left on device"),
    KeyError("memory"),
]


@pytest.mark.parametrize("name", RAISED)
def test_what_allocators_raise_is_understood(name: str) -> None:
    error, size = RAISED[name]
    assert is_out_of_memory(error) and size_asked(error) == size


@pytest.mark.parametrize("error", OTHER, ids=repr)
def test_other_errors_are_not_taken_for_it(error: Exception) -> None:
    assert not is_out_of_memory(error)


def test_torch_says_what_we_expect() -> None:
    with pytest.raises(Exception) as raised:
        torch.empty(2**46, dtype=torch.float32)
    assert is_out_of_memory(raised.value) and size_asked(raised.value) == 4 * 2**46
    with pytest.raises(Exception) as raised:
        np.empty(2**46, dtype=np.float32)
    assert is_out_of_memory(raised.value) and size_asked(raised.value) == 4 * 2**46


def test_sizes_are_readable() -> None:
    assert [readable(size) for size in (8_000_000_000, 12_400_000, 1200)] == ["8.0 GB", "12.4 MB", "0.0012 MB"]


def test_portions_shrink_until_they_fit_and_stay_small() -> None:
    portion, seen = Portion(), []

    def compute(piece: Sequence[int]) -> int:
        seen.append(len(piece))
        if len(piece) > 3:
            raise RuntimeError(CPU_MESSAGE)
        return sum(piece)

    assert sum(portion.pieces(range(20), 16, compute)) == sum(range(20))
    assert seen == [16, 8, 4, *[2] * 10]
    assert sum(portion.pieces(range(5), 16, compute)) == 10
    assert seen[13:] == [2, 2, 1], "the next layer begins with what fitted"
    assert (portion.most, portion.too_many) == (2, 16)


def test_what_a_failed_call_held_is_free_at_the_next_try() -> None:
    """The frames of a traceback hold their tensors; rows that do not fit beside them would fail at every size."""
    held: list[weakref.ref[torch.Tensor]] = []

    def compute(piece: Sequence[int]) -> int:
        assert not [tensor for tensor in held if tensor() is not None]
        rows = torch.zeros(len(piece))
        held.append(weakref.ref(rows))
        if len(rows) > 1:
            raise RuntimeError(CPU_MESSAGE)
        return len(rows)

    assert sum(Portion().pieces(range(9), 8, compute)) == 9


class Memory:
    """A stand-in for an allocator: rows beyond `most` do not fit; `asked` is what was asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> None:
        self.monkeypatch, self.error = monkeypatch, error or RuntimeError(CPU_MESSAGE)
        self.asked: list[int] = []

    def limit(self, owner: type, method: str, rows: Callable[..., int], most: int) -> None:
        honest = getattr(owner, method)

        def limited(*args: Any) -> Any:
            self.asked.append(rows(*args))
            if self.asked[-1] > most:
                raise self.error
            return honest(*args)

        self.monkeypatch.setattr(owner, method, limited)


def limit_replay(memory: Memory, most: int) -> None:
    """At most `most` masked rows in one call of a layer, besides its two rows without a mask."""
    memory.limit(Replay, "_call", lambda self, record, query, masked: len(masked.output) - 2, most)


def limit_attention(memory: Memory, most: int) -> None:
    """At most `most` rows in one call of the explicit attention, and all rows explicit: as where weights do not fit."""
    memory.limit(QueryAttention, "_eager", lambda self, bias, *_: len(bias), most)
    explicit_only(memory.monkeypatch)


def explicit_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(QueryAttention, "_usable", lambda self, weights: None)


def worst(found: list[Block], expected: list[Block]) -> float:
    """The largest difference of any l2, relative to the largest l2 of its variant."""
    return max(
        float((abs(here.l2 - there.l2) / there.l2.max(axis=0)).max())
        for here, there in zip(found, expected, strict=True)
    )


@pytest.mark.parametrize("most", [1, 3, 7])
@pytest.mark.parametrize("name", ["qwen3", "mixtral", "gpt2"])
def test_replay_in_smaller_calls_gives_the_same(name: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, _ = analyse(name, num_tokens=2)
    memory = Memory(monkeypatch)
    limit_replay(memory, most)
    found, run = analyse(name, num_tokens=2)
    apart = worst(found, expected)
    assert apart < 1e-5, f"{apart:.3g}"
    used = {1: 1, 3: 2, 7: 5}[most]
    assert run.manifest["notes"] == [f"memory ran out with 12 rows at once; {used + 2} were used"]
    assert len([rows for rows in memory.asked if rows > most]) == {1: 3, 3: 2, 7: 1}[most], "only the first layer fails"


@pytest.mark.parametrize("most", [1, 3, 7])
def test_attention_in_smaller_calls_gives_the_same(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as explicit:
        explicit_only(explicit)
        expected, _ = analyse("qwen3", num_tokens=2)
    limit_attention(Memory(monkeypatch), most)
    found, run = analyse("qwen3", num_tokens=2)
    apart = worst(found, expected)
    assert apart < 1e-5, f"{apart:.3g}"
    # the check before the work asks for three rows: without a mask, with one, and the one for rounding
    tried, used = {1: (3, 1), 3: (24, 3), 7: (24, 6)}[most]
    assert run.manifest["notes"] == [f"memory ran out with {tried} rows of attention at once; {used} were used"]


@pytest.mark.parametrize("name", ["mixtral", "gemma2"])
@pytest.mark.parametrize("limit", [limit_replay, limit_attention])
@pytest.mark.parametrize("most", [1, 3])
def test_smaller_calls_in_float64(name: str, limit: Any, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but rounding."""
    model = build(name, dtype=torch.float64)
    with true_float64():
        recording = record(model, prompt(9), 2)
        whole = impacts(model, recording)
        limit(Memory(monkeypatch), most)
        for expected, found in zip(whole, impacts(model, recording), strict=True):
            apart = (found - expected).abs().max() / expected.abs().max()
            assert apart < 1e-12, f"{apart:.3g}"


def test_never_enough_names_the_layer_and_the_size_and_leaves_the_model_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = build("qwen3")
    expected, _ = analyse("qwen3", model=model)
    with monkeypatch.context() as full:
        limit_replay(Memory(full), 0)
        with pytest.raises(
            OutOfMemory, match=r"layer 0 with one masked row of \d.*8\.0 GB.*`device_map` auto"
        ) as raised:
            analyse("qwen3", model=model)
    assert "\n" not in str(raised.value)
    for module in model.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks and "forward" not in vars(module)
    assert model.config._attn_implementation == "eager"
    found, run = analyse("qwen3", model=model)
    assert worst(found, expected) == 0 and not run.manifest["notes"]


def failing(monkeypatch: pytest.MonkeyPatch, model: Any, error: Exception, tokens: int) -> None:
    """The model's forward over `tokens` new tokens raises `error`."""
    honest = model.model.layers[1].mlp.forward

    def forward(hidden: torch.Tensor) -> torch.Tensor:
        if hidden.shape[1] == tokens:
            raise error
        return honest(hidden)

    monkeypatch.setattr(model.model.layers[1].mlp, "forward", forward)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (9, "memory ran out in the prompt's forward over 9 tokens, where 8.0 GB"),
        (1, "a generated token's forward over 10"),
    ],
)
def test_a_forward_cannot_be_split(tokens: int, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("qwen3")
    failing(monkeypatch, model, RuntimeError(CPU_MESSAGE), tokens)
    with pytest.raises(OutOfMemory, match=message):
        analyse("qwen3", model=model, num_tokens=2)


def test_loading_that_does_not_fit() -> None:
    with (
        pytest.raises(OutOfMemory, match=r"memory ran out in loading big, where 20\.5 GB more were asked for"),
        loading("big"),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 19.10 GiB.")


def test_other_errors_come_through(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        memory = Memory(broken, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
        limit_replay(memory, 3)
        with pytest.raises(UnsupportedModel, match=r"cannot be called on single rows \(mat1 and mat2"):
            analyse("qwen3")
        assert [rows for rows in memory.asked if rows > 3] == [9], "and nothing is tried again"
    model = build("qwen3")
    failing(monkeypatch, model, RuntimeError("mat1 and mat2"), 9)
    with pytest.raises(UnsupportedModel, match=r"'qwen3' .* its own code fails when it generates \(mat1 and mat2"):
        analyse("qwen3", model=model)


# A model whose rows are much larger than its forward: 32 heads, each with a share of 1024 numbers. 400 rows take about
# 50 MB for each of several tensors. The limit is set when the first layer is to be replayed a second time.
REAL = """
import resource, sys
from pathlib import Path
import torch
from transformers import AutoConfig, AutoModelForCausalLM
sys.path[:0] = sys.argv[1:]
from asking import asked
from mask_impact.impact.run import run
from test_experiment import Words, inputs
from test_memory import worst

torch.set_num_threads(1)
torch.manual_seed(0)
config = AutoConfig.for_model(
    "qwen3", vocab_size=97, hidden_size=1024, intermediate_size=64, num_hidden_layers=2, num_attention_heads=32,
    num_key_value_heads=2, head_dim=8, bos_token_id=None, eos_token_id=None, pad_token_id=None,
)
model = AutoModelForCausalLM.from_config(config)
model.generation_config.eos_token_id = None

def measured(progress):
    blocks = []
    return blocks, run(model, asked(model, Words(), inputs(400), head_space="residual"), blocks.append, progress)

def limit(what, work=1.0):
    if what.startswith("replay") and resource.getrlimit(resource.RLIMIT_AS)[0] < 0:
        in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (in_use + 150_000_000, resource.RLIM_INFINITY))

expected, plain = measured(lambda what, work=1.0: None)
found, limited = measured(limit)
print(plain.manifest["notes"], limited.manifest["notes"], worst(found, expected), sep="\\n")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_AS is not kept to elsewhere")
def test_a_real_limit() -> None:
    """A process with 150 MB left: the same numbers as without a limit, and a note."""
    tests = Path(__file__).resolve().parent
    command = [*PREPARED, "-c", REAL, str(tests.parent), str(tests)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    plain, limited, apart = done.stdout.splitlines()
    assert plain == "[]" and "memory ran out with 402 rows at once" in limited
    assert float(apart) < 1e-5
