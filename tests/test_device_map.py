"""Models spread over devices, by --device-map auto: the same numbers as in one piece.

Without a GPU, layers are on the CPU and on disk: those on disk have no weights except inside of their modules' calls,
which is how weights wait on the CPU for a GPU too.
"""

import gc
import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from accelerate.utils import OffloadedWeightsLoader
from asking import asked
from checkpoints import qwen3
from families import build, find
from prepared import PREPARED
from safetensors.torch import load_file
from test_experiment import Words, inputs
from torch import nn
from transformers import AutoConfig
from vl_families import make_vl_checkpoint, picture

from mask_impact.errors import UserError
from mask_impact.files.results import Block
from mask_impact.impact.manifest import device_map
from mask_impact.impact.run import Run, run
from mask_impact.model import find as finding
from mask_impact.model import load, loading
from mask_impact.model.call_rows import changed
from mask_impact.model.find import Source, find_model, fingerprint
from mask_impact.model.load import input_device, load_model
from mask_impact.model.processors import load_processor
from mask_impact.prompt.inputs import ModelInputs
from mask_impact.prompt.vision import open_pictures, vision_inputs

CPU = torch.device("cpu")
# Sinks, that attention reads outside of any module's call; experts, some stored in another form than they are computed
# in; a parallel block; tied embeddings; a branch beside attention.
TEXT = ["qwen3", "gpt_oss", "mixtral", "phi", "gpt2", "gemma2", "deepseek_v3", "falcon_h1"]
VISION = ["qwen2_5_vl", "qwen3_vl", "gemma3"]
READS_WEIGHTS_OF_OTHERS = {"falcon_h1"} if transformers.__version__ < "5" else set()  # its Mamba, the convolution's


def on_disk(model: nn.Module, layers: str) -> dict[str, str]:
    """A device map with every layer but the second on disk, and all else on the CPU."""
    places: dict[str, str] = {}

    def place(module: nn.Module, name: str) -> None:
        if not f"{layers}.".startswith(f"{name}." if name else ""):
            places[name] = "cpu"
        elif name == layers:
            places.update({f"{name}.{i}": "cpu" if i == 1 else "disk" for i, _ in enumerate(module.children())})
        else:
            for child, part in module.named_children():
                place(part, f"{name}.{child}" if name else child)
            places.update(
                {f"{name}.{own}" if name else own: "cpu" for own, _ in module.named_parameters(recurse=False)}
            )

    place(model, "")
    return places


def weight_bytes(model: nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


WAYS: dict[str, Callable[[Any, str], dict[str, Any]]] = {
    "by name": lambda plain, layers: {"device_map": on_disk(plain, layers)},
    "auto": lambda plain, layers: {"device_map": "auto", "max_memory": {"cpu": int(0.7 * weight_bytes(plain))}},
}


def measured(model: Any, tokenizer: Any, given: ModelInputs, **options: Any) -> tuple[list[Block], Run]:
    blocks: list[Block] = []
    model.generation_config.eos_token_id = model.config.eos_token_id = None
    return blocks, run(model, asked(model, tokenizer, given, num_tokens=2, **options), blocks.append)


def check_same(found: tuple[list[Block], Run], expected: tuple[list[Block], Run]) -> None:
    for here, there in zip(found[0], expected[0], strict=True):
        apart = float((abs(here.l2 - there.l2) / there.l2.max(axis=0)).max())
        assert apart < 2e-6, f"step {here.generation_step} layer {here.layer}: {apart:.3g}"
    here, there = found[1].manifest, expected[1].manifest
    assert "disk" in here["device_map"] and there["device_map"] is None
    assert here["device"] == there["device"] == "cpu"
    for same in ("model", "layers", "notes"):
        assert here[same] == there[same], same
    for ours, theirs in zip(here["generated"], there["generated"], strict=True):
        assert ours | {"probability": 0} == theirs | {"probability": 0}
        assert ours["probability"] == pytest.approx(theirs["probability"], rel=1e-5)
    for name in ("Full", "Head"):
        assert here["noise_floor"][name]["l2"] <= 2 * there["noise_floor"][name]["l2"] + 1e-6


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Source]:
    """name of a text family -> its tiny model as a folder."""

    @cache
    def saved(name: str) -> Source:
        folder = tmp_path_factory.mktemp(name)
        build(name).save_pretrained(folder)
        return Source(name, str(folder), AutoConfig.from_pretrained(folder))

    return saved


@pytest.mark.parametrize("space", ["output", "residual"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", TEXT)
def test_text_models(name: str, way: str, space: str, checkpoint: Callable[[str], Source]) -> None:
    source = checkpoint(name)
    plain = load_model(source, CPU, torch.float32)
    spread = load_model(source, CPU, torch.float32, **WAYS[way](plain, find(name).layers))
    expected = measured(plain, Words(), inputs(), head_space=space)
    found = measured(spread, Words(), inputs(), head_space=space)
    if name in READS_WEIGHTS_OF_OTHERS:  # so its layers are called as wholes, by the model itself, and a note says so
        assert found[1].manifest["replay"] == "fallback"
        assert "cannot be computed with weights off its device" in found[1].manifest["notes"].pop()
    check_same(found, expected)
    for layer in (0, 2):
        weights = spread.get_submodule(f"{find(name).layers}.{layer}").parameters()
        assert way == "auto" or all(weight.is_meta for weight in weights), "and the weights are on disk again"


@pytest.fixture(scope="module")
def vl_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Source]:
    return cache(lambda name: find_model(str(make_vl_checkpoint(name, tmp_path_factory.mktemp(name))), vision=True))


@pytest.mark.parametrize("attention", ["model", "bidirectional"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", VISION)
def test_vision_models(name: str, way: str, attention: str, vl_checkpoint: Callable[[str], Source]) -> None:
    """The vision tower, MRoPE and DeepStack too, with the heads as shares of the residual stream."""
    source = vl_checkpoint(name)
    processor = load_processor(source)
    given = vision_inputs(processor, source.config, "What is on the left?", open_pictures([picture(84, 112)]))
    options = {"mask_mode": "both", "head_space": "residual", "vision_attention": attention}
    plain = load_model(source, CPU, torch.float32)
    expected = measured(plain, processor.tokenizer, given, **options)
    spread = load_model(source, CPU, torch.float32, **WAYS[way](plain, "model.language_model.layers"))
    check_same(measured(spread, processor.tokenizer, given, **options), expected)


def test_weights_are_read_for_each_step_and_once_for_all_replays(
    checkpoint: Callable[[str], Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once in the recorded forward of each step, once in the replay of all steps, and of a model's first prompt once
    untouched; the check before the work reads one layer twice more."""
    source, read = checkpoint("qwen3"), []
    plain = load_model(source, CPU, torch.float32)
    spread = load_model(source, CPU, torch.float32, on_disk(plain, "model.layers"))
    honest = OffloadedWeightsLoader.__getitem__

    def counted(self: Any, name: str) -> Any:
        read.append(name)
        return honest(self, name)

    monkeypatch.setattr(OffloadedWeightsLoader, "__getitem__", counted)
    measured(spread, Words(), inputs())  # two steps
    counts = [read.count(f"model.layers.{layer}.mlp.up_proj.weight") for layer in range(3)]
    assert counts == [6, 0, 4]


def test_everything_on_disk(checkpoint: Callable[[str], Source]) -> None:
    """Where nothing fits: transformers 5 computes even so, 4 cannot, and says what to do."""
    source, nothing = checkpoint("gpt2"), {"cpu": "1KiB"}
    if transformers.__version__ < "5":
        with pytest.raises(UserError, match=r"'gpt2' would have to stay on disk as a whole.*raise `max_memory`"):
            load_model(source, CPU, torch.float32, "auto", nothing)
        return
    expected = measured(load_model(source, CPU, torch.float32), Words(), inputs())
    found = measured(load_model(source, CPU, torch.float32, "auto", nothing), Words(), inputs())
    check_same(found, expected)
    assert found[1].manifest["device_map"] == "layers 0-2: disk"


def test_a_model_that_fits_is_in_one_piece(checkpoint: Callable[[str], Source]) -> None:
    model = load_model(checkpoint("qwen3"), CPU, torch.float32, "auto")
    assert device_map(model) is None and not any(parameter.is_meta for parameter in model.parameters())


def test_weights_written_to_disk_go_with_the_model(
    checkpoint: Callable[[str], Source], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Experts are stored in another form than they are computed in, so that they are written anew."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    source = checkpoint("mixtral")
    plain = load_model(source, CPU, torch.float32)
    model = load_model(source, CPU, torch.float32, on_disk(plain, "model.layers"))
    (folder,) = tmp_path.glob("mask_impact_*")
    assert transformers.__version__ < "5" or list(folder.iterdir())
    del model
    gc.collect()
    assert not list(tmp_path.glob("mask_impact_*"))


LOAD_AND_END = """
import sys
import torch
from mask_impact.model import find, load
source = find.find_model(sys.argv[1])
model = load.load_model(source, torch.device("cpu"), torch.float32, "auto", {"cpu": int(sys.argv[2])})
"""


def test_weights_written_to_disk_are_gone_after_the_program(tmp_path: Path) -> None:
    folder, temporary = qwen3(tmp_path / "model"), tmp_path / "temporary"
    temporary.mkdir()
    size = sum(tensor.numel() * 4 for tensor in load_file(folder / "model.safetensors").values())
    command = [*PREPARED, "-c", LOAD_AND_END, str(folder), str(int(0.7 * size))]
    environment = os.environ | {"TMPDIR": str(temporary)}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert not list(temporary.glob("mask_impact_*"))


@pytest.mark.parametrize(
    ("device", "device_map", "limits", "message"),
    [
        ("cpu", None, {"cpu": "1GiB"}, "`max_memory` says how `device_map` auto is to spread.*add `device_map` auto"),
        ("cpu", "auto", {0: "1GiB"}, "`max_memory` names device 0, but with `device` cpu there are: cpu"),
        ("cpu", "auto", {"cpu": "much"}, "`max_memory`: .*much.*; write for example 0=20GiB,cpu=60GiB"),
        ("cuda:1", "auto", None, "`device` cuda:1 is one device, and `device_map` auto takes all"),
    ],
)
def test_combinations_that_make_no_sense(
    device: str, device_map: str | None, limits: Any, message: str, checkpoint: Callable[[str], Source]
) -> None:
    with pytest.raises(UserError, match=message) as raised:
        load_model(checkpoint("qwen3"), torch.device(device), torch.float32, device_map, limits)
    assert "\n" not in str(raised.value)


def test_limits_leave_a_part_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine with two GPUs: what was not limited may be used too, and --device cpu keeps off the GPUs."""
    monkeypatch.setattr(load, "get_max_memory", lambda: {0: 1000, 1: 2000, "cpu": 3000})
    cuda = torch.device("cuda")
    assert load.device_limits(cuda, None) == {0: 900, 1: 1800, "cpu": 2700}
    assert load.device_limits(cuda, {1: "1KB", "cpu": 5}) == {0: 900, 1: 1000, "cpu": 5}
    assert load.device_limits(CPU, None) == {"cpu": 2700}
    with pytest.raises(UserError, match="names device 2, but with `device` cuda there are: 0, 1, cpu"):
        load.device_limits(cuda, {2: "1GiB"})
    monkeypatch.setattr(load, "get_max_memory", lambda: {"mps": 1000})
    assert load.device_limits(CPU, None) == {"cpu": 900}


def spread_over(places: Mapping[str, int | str]) -> Any:
    model: Any = build("llama")
    model.hf_device_map = dict(places)
    return model


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ({"": 0}, None),
        ({"": "disk"}, "layers 0-2: disk"),
        ({"model.embed_tokens": 0, "model.layers": 1}, "layers 0-2: cuda:1"),
        ({"model": 0, "lm_head": "cpu"}, "layers 0-2: cuda:0"),
        ({"model.layers.0": 0, "model.layers.1": 0, "model.layers.2": "cpu"}, "layers 0-1: cuda:0, 2: cpu"),
        (
            {"model.layers.0": 0, "model.layers.1.self_attn": 0, "model.layers.1.mlp": 1, "model.layers.2": 1},
            "layers 0: cuda:0, 1: cuda:0 and cuda:1, 2: cuda:1",
        ),
    ],
)
def test_where_the_layers_are(places: dict[str, int | str], expected: str | None) -> None:
    assert device_map(spread_over(places)) == expected


def test_inputs_go_where_computing_begins() -> None:
    def model(weight: torch.device, places: dict[str, Any]) -> Any:
        parameters = iter([nn.Parameter(torch.empty(1, device=weight))])
        return SimpleNamespace(parameters=lambda: parameters, hf_device_map=places)

    assert input_device(model(CPU, {})) == CPU
    assert input_device(model(torch.device("meta"), {"a": "disk", "b": "cpu"})) == CPU
    assert input_device(model(torch.device("meta"), {"a": "cpu", "b": 1})) == torch.device("cuda:1")


def test_recorded_rows_move_together() -> None:
    """A layer's inputs are recorded before accelerate moves them to its device: what is one tensor stays one."""
    hidden, cosine = torch.ones(1, 1, 4), torch.ones(1, 1, 2)
    part = {"position": 3, "args": (hidden,), "kwargs": {"rope": (cosine, cosine)}, "hidden": hidden}
    moved = changed(part, lambda tensor: tensor.to("meta"), {})
    assert moved["position"] == 3 and moved["hidden"].is_meta and moved["args"][0] is moved["hidden"]
    assert moved["kwargs"]["rope"][0] is moved["kwargs"]["rope"][1]


# --- is it still the same model? ----------------------------------------------------------------------------------
def test_fingerprint_of_a_folder_changes_with_its_files(tmp_path: Path) -> None:
    folder = qwen3(tmp_path / "model")
    source = find_model(str(folder))
    before = fingerprint(source)
    assert len(before) == 16 and fingerprint(find_model(str(folder))) == before
    (folder / ".cache").mkdir()
    (folder / ".cache" / "lock").write_text("")
    assert fingerprint(source) == before, "hidden files are not the model's"
    (folder / "model.safetensors").touch()
    later = fingerprint(source)
    assert later != before
    (folder / "tokenizer.json").rename(folder / "tokenizer_old.json")
    assert fingerprint(source) != later


def test_fingerprint_of_the_demo_is_of_its_contents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, vision = fingerprint(find_model("demo")), fingerprint(find_model("demo", vision=True))
    assert text != vision
    for kind in ("text", "vl"):
        copy = tmp_path / "demo" / kind
        copy.mkdir(parents=True)
        for file in finding.demo_folder(kind).iterdir():
            if file.is_file():
                (copy / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr(finding, "PACKAGE", tmp_path / "mask_impact")
    assert fingerprint(find_model("demo")) == text, "another time of the same files"


def test_fingerprint_of_a_hub_model_is_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source("someone/model", "someone/model", AutoConfig.for_model("qwen3"))
    cached = "/cache/models--someone--model/snapshots/0123abc/config.json"
    monkeypatch.setattr(loading, "try_to_load_from_cache", lambda *_, **__: cached)
    assert fingerprint(source) == "0123abc"
