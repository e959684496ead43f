"""What benchmarks/needs.py counts, against torch's counter of operations and the sizes of tensors in real runs."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.models import VISION, Setup
from benchmarks.needs import Needs
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
