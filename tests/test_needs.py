"""What benchmarks/needs.py counts, against torch's counter of operations and the sizes of tensors in real runs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import gpu, scaling
from benchmarks.models import VISION, Setup
from benchmarks.needs import Needs
from benchmarks.peers import run as peers
from benchmarks.work import measure_layers, plain_forward, record

IMAGE_TOKENS = 16


def operations(work: Callable[[], Any]) -> tuple[Any, int]:
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        result = work()
    return result, counter.get_total_flops()


@pytest.fixture(scope="module")
def setup() -> Setup:
    return Setup(VISION["tiny"], VISION["tiny"].layers)


def test_operations_and_bytes_are_those_of_a_real_run(setup: Setup) -> None:
    model, inputs = setup.model(), setup.inputs(IMAGE_TOKENS)
    model.set_attn_implementation("eager")  # torch does not count the operations of sdpa's kernel on a CPU
    needs = Needs(setup.shape, inputs["input_ids"].shape[1], IMAGE_TOKENS)
    _, forward = operations(lambda: plain_forward(model, inputs))
    assert forward == pytest.approx(needs.forward + needs.vision, rel=0.001)  # without rotary angles
    recording = record(model, inputs, 1)
    _, replay = operations(lambda: measure_layers(model, recording, needs.length - 1))
    assert replay == pytest.approx(needs.replay, rel=0.001)
    layer = model.model.language_model.layers[0]
    in_float32 = sum(4 * weight.numel() for name, weight in layer.named_parameters() if "norm" not in name)
    assert needs.copy == in_float32
    kept = [(each.attention.keys, each.attention.values) for each in recording.with_attention()]
    assert needs.cache * 2 == sum(tensor.nbytes for pair in kept for tensor in pair)  # here in float32
    assert needs.weights == pytest.approx(2 * sum(weight.numel() for weight in model.parameters()), rel=0.05)


def test_the_gpu_script_runs_without_a_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """It compares with float64, times both kinds of models, and leaves out what does not fit."""
    monkeypatch.setattr(gpu, "TINY", ("llama",))
    monkeypatch.setattr(gpu, "REPETITIONS", 1)
    assert gpu.main(["--device", "cpu", "--shape", "tiny", "--json", str(tmp_path / "gpu.json")]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[1] == "|---|---|---|" and sum("analysis / plain forward" in line for line in printed) == 2
    assert sum("whole run, 2 output tokens" in line for line in printed) == 2
    told = json.loads((tmp_path / "gpu.json").read_text("utf-8"))
    assert [f"| {line['what']} | {line['value']} | {line['remark']} |" for line in told] == printed[2:]
    monkeypatch.setattr(gpu, "free_bytes", lambda device: 1)
    monkeypatch.setattr(gpu, "parity", lambda device: iter(()))
    gpu.main(["--device", "cpu", "--shape", "tiny"])
    assert capsys.readouterr().out.count("left out | does not fit the free memory") == 2


def test_wrong_numbers_on_a_device_stop_the_script(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "LIMITS", {torch.float32: 1e-12})
    with pytest.raises(RuntimeError, match=r"llama in torch.float32 on cpu differs from float64 by"):
        list(gpu.parity(torch.device("cpu"), ["llama"]))


def test_exponents_are_those_of_powers() -> None:
    sizes = np.array([16, 64, 256])
    slope, low, high = scaling.exponents(sizes, np.stack([sizes**1.5, 1.01 * sizes**1.5], axis=1))
    assert slope == pytest.approx(1.5) and 1.49 < low <= 1.5 <= high < 1.51


def test_tables_of_peers_are_ratios_of_medians() -> None:
    cells = {"ours": {"times": {peers.OURS: {"16": {"ratio": [1.0, 2.0, 4.0]}}}, "scores": {"p": [[0.5, 0.5]]}}}
    theirs = {"16": {"ratio": [30.0, 50.0, 40.0]}, "64": {"ratio": [200.0]}}
    cells["inseq"] = {"times": {"inseq": theirs}, "scores": {"p": [[0.5, 0.4]]}, "precise scores": {"p": [[0.5, 0.5]]}}
    found = peers.report(cells)
    assert "| inseq | 40 (30 to 50) | 200 |" in found and "| inseq | 20 |  |" in found
    assert "inseq as it is: 0.1" in found and "its cosine in float64: 0" in found
