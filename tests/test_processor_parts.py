"""Processors with parts for videos and audio: pictures are read where those parts cannot be loaded."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoFeatureExtractor
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from vl_families import VL_FAMILIES, make_tokenizer

from mask_impact.errors import UserError
from mask_impact.model.find import Source
from mask_impact.model.processors import LeftOut, load_processor

pytestmark = pytest.mark.skipif("gemma4" not in CONFIG_MAPPING_NAMES, reason="needs Gemma 4, of transformers 5")
NAMED = {
    "image_token": "<|image|>", "boi_token": "<|image>", "eoi_token": "<image|>",
    "audio_token": "<|audio|>", "boa_token": "<|audio>", "eoa_token": "<audio|>",
}  # fmt: skip
SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", *NAMED.values(), "<|video|>", "<|think|>")
IMAGES = {
    "image_processor_type": "Gemma4ImageProcessor",
    "patch_size": 16,
    "pooling_kernel_size": 2,
    "max_soft_tokens": 70,
}
PARTS = {
    "image_processor": IMAGES,
    "feature_extractor": {"feature_extractor_type": "Gemma4AudioFeatureExtractor", "sampling_rate": 16000},
    "video_processor": {"video_processor_type": "Gemma4VideoProcessor", "patch_size": 16},
}


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """Gemma 4's processor: pictures, videos and audio."""
    files: dict[str, Any] = {
        "config.json": {"model_type": "gemma4", "architectures": ["Gemma4ForConditionalGeneration"]},
        "tokenizer_config.json": {"tokenizer_class": "GemmaTokenizer", "extra_special_tokens": NAMED, **NAMED},
        "preprocessor_config.json": IMAGES,
        "processor_config.json": {"processor_class": "Gemma4Processor", **PARTS},
    }
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    make_tokenizer(replace(VL_FAMILIES["gemma3"], special=SPECIAL)).save(str(tmp_path / "tokenizer.json"))
    return Source(str(tmp_path), str(tmp_path), AutoConfig.from_pretrained(tmp_path), vision=True)


def test_what_is_there_is_loaded_and_what_is_not_is_left_out(source: Source) -> None:
    processor = load_processor(source)
    assert type(processor).__name__ == "Gemma4Processor"
    assert type(processor.feature_extractor).__name__ == "Gemma4AudioFeatureExtractor"
    assert "Gemma4ImageProcessor" in type(processor.image_processor).__name__


@pytest.mark.parametrize("error", [ImportError, OSError])
def test_an_audio_part_that_needs_a_missing_package(
    source: Source, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a missing package is passed over: a file that cannot be read is an error as before."""

    def fails(*_: Any, **__: Any) -> None:
        raise error("librosa")

    monkeypatch.setattr(AutoFeatureExtractor, "from_pretrained", fails)
    if error is OSError:
        with pytest.raises(UserError, match="librosa"):
            load_processor(source)
        return
    processor = load_processor(source)
    assert isinstance(processor.feature_extractor, LeftOut)
    with pytest.raises(ImportError, match="the feature_extractor was left out"):
        processor.feature_extractor([0.0])
