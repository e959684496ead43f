"""One command for a new GPU: are the numbers right there, and how fast is it? At most five minutes.

In: nothing; models with random weights. Out: one Markdown table on stdout, and FILE as JSON.
Right: tiny families in float32 and bfloat16 on the device against float64 on the CPU, the same weights. Fast: the text
shape of Qwen3-4B, and Qwen3-VL-4B's with 1,024 image tokens, in bfloat16, beside the rates of a matrix product and of a
copy that this card was measured at. A model that does not fit gets fewer layers; what no time is left for is left out.
Each is said in a line.

    python benchmarks/gpu.py --json gpu.json
    python benchmarks/gpu.py --seconds 120
    python benchmarks/gpu.py --device cpu --shape tiny      # tries the script itself, in some seconds
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import families
import torch
import transformers

from benchmarks.machine import PeakMemory, available_bytes, cpu_model, timed
from benchmarks.models import TEXT, VISION, Setup, Shape
from benchmarks.needs import Needs
from benchmarks.work import generate, measure_layers, plain_forward, record, run_experiment

TINY = ("llama", "qwen3", "gemma2", "olmo2", "phi", "cohere2", "starcoder2")  # no experts: torch has none in float64
# The largest difference of an L2 distance from float64, as a share of the vector's length, that rounding explains
LIMITS = {torch.float32: 1e-4, torch.bfloat16: 0.1}
REPETITIONS = 3
TEXT_LENGTHS, IMAGE_TOKENS = (128, 1024), (1024,)
TINY_SIZES = (16,)
# Whole runs, as a user waits for them after loading: (prompt or image tokens, output tokens)
TEXT_RUN, IMAGE_RUN = (10, 5), (1024, 3)
SPARE = 1.3  # of the bytes that are counted, for the allocator and the libraries


@dataclass(frozen=True)
class Line:
    """A row of the table."""

    what: str
    value: str
    remark: str = ""


def say(what: str) -> None:
    print(f"gpu: {what}", file=sys.stderr, flush=True)


def median_seconds(work: Callable[[], Any], repetitions: int = REPETITIONS) -> float:
    work()  # the first use of a kernel at a shape is slow
    return statistics.median(timed(work)[1] for _ in range(repetitions))


def rates(device: torch.device) -> Iterator[Line]:
    """What the card does at best: matrix products, and bytes read and written."""
    size = 8192 if device.type == "cuda" else 512
    for dtype in (torch.bfloat16, torch.float32):
        square = torch.ones(size, size, device=device, dtype=dtype)
        seconds = median_seconds(lambda: square @ square)  # noqa: B023
        name = str(dtype).removeprefix("torch.")
        yield Line(
            f"matrix product, {name}", f"{2 * size**3 / seconds / 1e12:.3g} x 10^12 operations/s", f"{size} x {size}"
        )
    source = torch.ones(2**28 if device.type == "cuda" else 2**22, device=device)
    target = torch.empty_like(source)
    seconds = median_seconds(lambda: target.copy_(source))
    yield Line(
        "copy on the device",
        f"{2 * source.nbytes / seconds / 1e9:.3g} GB/s",
        f"{source.nbytes / 1e6:.0f} MB, read and written",
    )


def l2_and_lengths(model: Any, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Every layer's L2 distances [L, P, V] and lengths of the unmasked vectors [L, V], in float64 on the CPU."""
    with torch.no_grad():
        there = ids.to(model.device)
        recording = record(model, {"input_ids": there, "attention_mask": torch.ones_like(there)}, 1)
        impacts = measure_layers(model, recording, ids.shape[1] - 1)
    l2, lengths = (
        torch.stack(found).cpu().double() for found in zip(*((one.l2, one.lengths) for one in impacts), strict=True)
    )
    return l2, lengths


def parity(device: torch.device, names: Sequence[str] = TINY) -> Iterator[Line]:
    """The largest difference of any family, by dtype. Raises RuntimeError where it is more than rounding."""
    ids = families.prompt()
    known = [name for name in names if name in families.available(families.FAMILIES)]
    for dtype, limit in LIMITS.items():
        worst = (0.0, "")
        for name in known:
            model = families.build(name, dtype)
            exact, lengths = l2_and_lengths(families.build(name, dtype).double(), ids)
            found, _ = l2_and_lengths(model.to(device), ids)
            apart = ((found - exact).abs() / lengths.unsqueeze(1)).max().item()
            worst = max(worst, (apart, name))
        if not worst[0] <= limit:
            raise RuntimeError(
                f"{worst[1]} in {dtype} on {device} differs from float64 by {worst[0]:.2g} (limit {limit:g})"
            )
        name = str(dtype).removeprefix("torch.")
        yield Line(
            f"largest difference from float64, {name}",
            f"{worst[0]:.2g} of a vector's length",
            f"{worst[1]}; {len(known)} families",
        )


def free_bytes(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_bytes()


def fitting(shape: Shape, length: int, images: int, free: float) -> int:
    """How many of the shape's layers fit so many bytes; 0 where not even one does."""
    for layers in range(shape.layers, 0, -1):
        needs = Needs(replace(shape, layers=layers), length, images)
        if SPARE * (needs.weights + needs.cache + needs.copy + needs.rows) < free:
            return layers
    return 0


def speed(setup: Setup, model: Any, size: int) -> Iterator[Line]:
    """Times of a plain forward, of the recorded one and of the replay; its share of the card's best; memory."""
    inputs = setup.inputs(size)
    length = inputs["input_ids"].shape[1]
    needs = Needs(replace(setup.shape, layers=setup.layers), length, size if setup.shape.tower else 0)
    peak = PeakMemory(setup.device)
    with torch.no_grad():
        plain = median_seconds(lambda: plain_forward(model, inputs))
        recorded = median_seconds(lambda: record(model, inputs, 1))
        recording = record(model, inputs, 1)
        replay = median_seconds(lambda: measure_layers(model, recording, length - 1))
    operations = needs.forward + needs.vision
    yield Line(
        f"{named(setup, size)}: plain forward",
        f"{plain:.3g} s",
        f"{operations / plain / 1e12:.3g} x 10^12 operations/s",
    )
    yield Line("  recorded forward", f"{recorded:.3g} s")
    yield Line(
        "  replay and distances",
        f"{replay:.3g} s",
        f"{needs.replay / replay / 1e12:.3g} x 10^12 operations/s, in float32",
    )
    yield Line("  analysis / plain forward", f"{(recorded + replay) / plain:.2f}")
    yield Line(
        "  peak above the weights",
        f"{peak.above() / 1e9:.3g} GB",
        f"of them keys and values {needs.cache / 1e9:.3g} GB",
    )


def whole_run(setup: Setup, model: Any, size: int, outputs: int) -> Iterator[Line]:
    """The program's own run on a loaded model, beside what generation alone takes."""
    inputs = setup.inputs(size)
    with torch.no_grad():
        alone = median_seconds(lambda: generate(model, inputs, outputs))
    seconds = median_seconds(lambda: run_experiment(model, inputs, outputs, lambda _: None))
    what = f"{named(setup, size)}: whole run, {outputs} output tokens"
    yield Line(what, f"{seconds:.3g} s", f"generation alone {alone:.3g} s")


def named(setup: Setup, size: int) -> str:
    kind = "image" if setup.shape.tower else "prompt"
    return f"{setup.shape.name}, {setup.layers} of {setup.shape.layers} layers, {size} {kind} tokens"


def cases(shape: str) -> list[tuple[Shape, tuple[int, ...], tuple[int, int]]]:
    """What is timed: at how many tokens, and the whole run."""
    if shape == "tiny":
        text = replace(VISION["tiny"], tower=None)
        return [(text, TINY_SIZES, (16, 2)), (VISION["tiny"], TINY_SIZES, (16, 2))]
    return [(TEXT[shape], TEXT_LENGTHS, TEXT_RUN), (VISION[shape], IMAGE_TOKENS, IMAGE_RUN)]


def lines(device: torch.device, shape: str, seconds: float) -> Iterator[Line]:
    """Everything, as long as there is time."""
    ends = time.perf_counter() + seconds
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_model()
    yield Line(
        "device",
        card,
        f"{free_bytes(device) / 1e9:.1f} GB free; torch {torch.__version__}, transformers {transformers.__version__}",
    )
    yield from rates(device)
    yield from parity(device)
    for each, sizes, (size, outputs) in cases(shape):
        longest = max(*sizes, size)
        length, images = (longest + 30, longest) if each.tower else (longest, 0)
        layers = fitting(each, length, images, free_bytes(device))
        if not layers:
            yield Line(each.name, "left out", "does not fit the free memory")
            continue
        if layers < each.layers:
            say(f"{each.name}: {layers} of {each.layers} layers, because more do not fit the free memory")
        setup = Setup(each, layers, device, torch.bfloat16)
        model = setup.model()
        work = [partial(speed, setup, model, size) for size in sizes] + [
            partial(whole_run, setup, model, size, outputs)
        ]
        for step in work:
            if time.perf_counter() > ends:
                yield Line(each.name, "left out", f"the {seconds:.0f} seconds are over")
                break
            yield from step()
        del model, work
        if device.type == "cuda":
            torch.cuda.empty_cache()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--shape", choices=("4b", "small", "tiny"), default="4b")
    parser.add_argument("--seconds", type=float, default=240, help="no new measurement begins after these")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there too")
    args = parser.parse_args(argv)
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device; --device cpu --shape tiny tries the script without one")
    done = []
    print("| what | value | remark |\n|---|---|---|")
    for line in lines(torch.device(args.device), args.shape, args.seconds):
        print(f"| {line.what} | {line.value} | {line.remark} |", flush=True)
        done.append(asdict(line))
    if args.json:
        args.json.write_text(json.dumps(done, indent=1) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
