"""The clock, the memory and the name of the machine, for CPU and CUDA alike."""

import gc
import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
import transformers

from benchmarks.tables import Cell, Table

T = TypeVar("T")

STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """The result of `work` and its seconds. A GPU in use is synchronised before and after."""
    synchronize()
    started = time.perf_counter()
    result = work()
    synchronize()
    return result, time.perf_counter() - started


def synchronize() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


class PeakMemory:
    """The peak memory since this object was made: what the GPU's allocator handed out, or the resident size."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.cuda = device, device.type == "cuda"
        gc.collect()
        if self.cuda:
            torch.cuda.reset_peak_memory_stats(device)
            self.start = torch.cuda.memory_allocated(device)
        else:
            if CLEAR_REFS.exists():
                CLEAR_REFS.write_text("5")  # making the model holds its tied embedding twice for a moment
            self.start = resident_bytes("VmRSS")

    def above(self) -> int:
        """Bytes above the memory at the start."""
        return (torch.cuda.max_memory_allocated(self.device) if self.cuda else resident_bytes("VmHWM")) - self.start

    @staticmethod
    def source(device: torch.device) -> str:
        if device.type == "cuda":
            return "torch's max_memory_allocated, reset at that moment"
        if CLEAR_REFS.exists():
            return "the kernel's VmHWM, reset at that moment"
        return "ru_maxrss of the whole process, so making the model is in it"


def resident_bytes(field: str = "VmRSS") -> int:
    """This process's resident memory: VmRSS now, VmHWM the largest (where there is no /proc: ever)."""
    if STATUS.exists():
        fields = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
        return int(fields[field].split()[0]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def total_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def available_bytes() -> int:
    """Memory that is available to new programs."""
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return total_bytes()
    fields = dict(line.split(":") for line in meminfo.read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) * 1024


def cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def machine_table() -> Table:
    rows: list[list[Cell]] = [
        ["CPU", cpu_model()],
        ["cores / threads used", f"{os.cpu_count()} / {torch.get_num_threads()}"],
        ["load average (1 minute)", f"{os.getloadavg()[0]:.1f}"],
        ["memory / available", f"{total_bytes() / 1e9:.1f} GB / {available_bytes() / 1e9:.1f} GB"],
        ["GPU", torch.cuda.get_device_name() if torch.cuda.is_available() else "none"],
        ["system", platform.platform()],
        ["python", platform.python_version()],
        ["torch / transformers", f"{torch.__version__} / {transformers.__version__}"],
    ]
    notes = ["other work on the machine shows in the load average, and distorts short prompts most"]
    return Table("Machine", ["what", "value"], rows, notes)
