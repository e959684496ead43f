"""Quantised weights: dequantised as they are loaded where transformers can, and measured; or refused by name."""

from pathlib import Path
from typing import Any

import checkpoints
import pytest
import torch
import transformers
from as_people_have_them import command, loaded, worst_difference
from packaging.version import Version
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM

from mask_impact.errors import UnsupportedModel, UserError
from mask_impact.files.results import load as load_results
from mask_impact.impact.trace import RowTrace
from mask_impact.model.load import notes_of

BLOCK = 64
FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [BLOCK, BLOCK], "fmt": "e4m3"}
DEQUANTISED = "the weights are quantised (fp8), and were dequantised as they were loaded"
needs_dequantising = pytest.mark.skipif(
    Version(transformers.__version__) < Version("5"), reason="transformers 4 computes with FP8 on a GPU alone"
)


def blocks(weight: torch.Tensor) -> torch.Tensor:
    rows, columns = weight.shape
    return weight.view(rows // BLOCK, BLOCK, columns // BLOCK, BLOCK)


def quantise(tensors: dict[str, torch.Tensor]) -> None:
    """Every projection in blocks with one scale each, as published FP8 checkpoints have them."""
    for name in [name for name in tensors if name.endswith("proj.weight")]:
        weight = blocks(tensors[name])
        scale = weight.abs().amax(dim=(1, 3)) / torch.finfo(torch.float8_e4m3fn).max
        tensors[name] = (weight / scale[:, None, :, None]).view(tensors[name].shape).to(torch.float8_e4m3fn)
        tensors[f"{name}_scale_inv"] = scale


@pytest.fixture(scope="module")
def fp8(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sizes = {"hidden_size": 128, "intermediate_size": 128, "head_dim": 32}
    folder = checkpoints.qwen3(tmp_path_factory.mktemp("quantized") / "fp8", **sizes)
    return checkpoints.change_config(checkpoints.change_weights(folder, quantise), quantization_config=FP8)


def by_hand(folder: Path) -> Any:
    """The model with the weights that the file stands for."""
    tensors = load_file(folder / checkpoints.WEIGHTS)
    scales = {name: tensors.pop(f"{name}_scale_inv") for name in list(tensors) if f"{name}_scale_inv" in tensors}
    for name, scale in scales.items():
        tensors[name] = (blocks(tensors[name].float()) * scale[:, None, :, None]).view(tensors[name].shape)
    config = transformers.AutoConfig.from_pretrained(folder)
    del config.quantization_config
    model = AutoModelForCausalLM.from_config(config).eval()
    model.load_state_dict(tensors)
    return model


@needs_dequantising
@pytest.mark.parametrize("head_space", ["output", "residual"])
def test_fp8_is_measured_as_what_the_file_stands_for(fp8: Path, tmp_path: Path, head_space: str) -> None:
    manifest = command(fp8, tmp_path / "out", "--head-space", head_space)
    assert manifest["notes"] == [DEQUANTISED] and manifest["dtype"] == "float32"
    assert worst_difference(load_results(tmp_path / "out" / "run_run.json"), by_hand(fp8), fp8, head_space) < 1e-5


@needs_dequantising
def test_fp8_weights_are_equal_to_those_dequantised_by_hand(fp8: Path) -> None:
    model = loaded(fp8)
    for name, weight in by_hand(fp8).named_parameters():
        assert torch.equal(model.get_parameter(name), weight), name
    assert notes_of(model) == (DEQUANTISED,)


@pytest.mark.skipif(Version(transformers.__version__) >= Version("5"), reason="transformers 5 dequantises")
@pytest.mark.skipif(torch.cuda.is_available(), reason="shows what happens without a GPU")
def test_fp8_without_a_gpu_is_refused_by_name(fp8: Path) -> None:
    with pytest.raises(UserError, match="FP8 quantization"):
        loaded(fp8)


@pytest.mark.parametrize("method", ["gptq", "awq", "hqq", "quanto", "compressed-tensors"])
def test_what_needs_another_package_is_refused_with_its_name(tmp_path: Path, method: str) -> None:
    folder = checkpoints.qwen3(tmp_path / "model")
    checkpoints.change_config(folder, quantization_config={"quant_method": method, "bits": 4, "weights": "int8"})
    with pytest.raises(
        UserError, match=rf"(cannot be loaded|needs the package).*; the weights are quantised \({method}\)$"
    ) as refused:
        loaded(folder)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("settings", [{"quant_method": "klingon"}, {"bits": 4}])
def test_a_method_that_transformers_does_not_know_is_refused(tmp_path: Path, settings: dict[str, Any]) -> None:
    """transformers would read the weights as if they were not quantised."""
    folder = checkpoints.change_config(checkpoints.qwen3(tmp_path / "model"), quantization_config=settings)
    with pytest.raises(UnsupportedModel, match=r"quantised by '(klingon|unnamed)', which transformers [\d.]+ does not"):
        loaded(folder)


def test_an_adapter_for_weights_that_stay_quantised(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    folder = checkpoints.qwen3(tmp_path / "model")
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(folder), LoraConfig(target_modules=["q_proj"]))
    adapted.save_pretrained(tmp_path / "lora")
    checkpoints.change_config(folder, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    with pytest.raises(UserError, match="cannot be merged into quantised weights"):
        loaded(folder, adapter=str(tmp_path / "lora"))


class Packed(torch.Tensor):
    """A weight that is stored in another form and multiplied by code of its own, as torchao's are."""

    rounding = 1e9  # of the activations

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func is nn.functional.linear:
            activations, weight = args[:2]
            rounded = (activations * args[1].rounding).round() / args[1].rounding
            return nn.functional.linear(rounded, weight.as_subclass(torch.Tensor) * 2)
        return super().__torch_function__(func, types, args, kwargs or {})

    def dequantize(self) -> torch.Tensor:
        return self.as_subclass(torch.Tensor) * 2


@pytest.mark.parametrize(("rounding", "exact"), [(1e9, True), (2.0, False)])
def test_the_matrix_of_a_packed_weight(rounding: float, exact: bool) -> None:
    """Where activations are rounded too, the product is none with a matrix, and heads have no shares of it."""
    torch.manual_seed(0)
    dense, heads = torch.rand(8, 6), torch.rand(2, 1, 6, dtype=torch.float64).float()
    weight = nn.Parameter(dense.as_subclass(Packed), requires_grad=False)
    weight.rounding = rounding
    trace = RowTrace(2)
    with trace:
        trace.start(heads)
        nn.functional.linear(heads, weight)
    assert trace.received is heads
    assert torch.equal(trace.weight, dense * 2) if exact else trace.weight is None
