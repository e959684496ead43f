"""What comes with a model or a file, and would take hours or gigabytes: one line, at once."""

import gzip
import json
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from checkpoints import CHAT_TEMPLATE, tokenizer
from safetensors.numpy import save_file

from mask_impact import load
from mask_impact.errors import UserError, one_line, plain_words
from mask_impact.model.checkpoint_numbers import check_numbers
from mask_impact.prompt import bounds
from mask_impact.prompt.chat import rendered
from mask_impact.prompt.inputs import text_inputs

HELLO = [{"role": "user", "content": "Hello"}]
FOREVER = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (FOREVER, "chat template takes longer than 0.2 s"),
        ("{{ 9 ** (9 ** 9) }}", "chat template takes longer than 0.2 s"),
        ("{{ 'x' * 3000000000 }}", "chat template takes more than 1.1 GB of memory"),
        ("{{ 'x' * 3000000 }}", "makes of the prompt has 3,000,0.. characters; at most 2,097,152"),
    ],
)
def test_a_template_is_stopped(more, message, monkeypatch):
    monkeypatch.setattr(bounds, "PATIENCE", 0.2)
    words = tokenizer(CHAT_TEMPLATE + more)
    before, started = signal.getsignal(signal.SIGPROF), time.process_time()
    with pytest.raises(UserError, match=message.replace("..", r"\d\d")):
        rendered(words, HELLO)
    assert signal.getsignal(signal.SIGPROF) is before and time.process_time() - started < 5


def test_a_template_leaves_the_alarm_of_others():
    handler = signal.signal(signal.SIGPROF, lambda *args: None)
    left = signal.setitimer(signal.ITIMER_PROF, 500)
    try:
        assert "Hello" in rendered(tokenizer(), HELLO)
        assert 400 < signal.getitimer(signal.ITIMER_PROF)[0] <= 501
    finally:
        signal.setitimer(signal.ITIMER_PROF, *left)
        signal.signal(signal.SIGPROF, handler)


@pytest.mark.parametrize(("content", "most"), [("x" * 10**7, 10**7), ("", 1), ("ab", 2)])
def test_how_much_a_normalizer_can_make(content, most):
    words = tokenizer()
    state = json.loads(words.backend_tokenizer.to_str())
    replace = {"type": "Replace", "pattern": {"String": "T"}, "content": content}
    state["normalizer"] = {"type": "Sequence", "normalizers": [replace, {"type": "NFC"}]}
    words.backend_tokenizer.normalizer = type(words.backend_tokenizer).from_str(json.dumps(state)).normalizer
    assert bounds.growth(words) == most
    if most > 10**6:
        with pytest.raises(UserError, match="can make 30,000,000 characters of the prompt"):
            bounds.check_text(words, "Tom")


def test_a_prompt_that_is_too_long_is_not_tokenized():
    with pytest.raises(UserError, match="the prompt has 2,500,000 characters; at most 2,097,152 can be tokenized"):
        text_inputs(tokenizer(), "word " * 500_000)


# --- files ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["a_results.csv.gz", "a_results.json.gz", "a_effects.csv.gz"])
def test_a_packed_file_that_becomes_too_large_is_not_read(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(gzip.compress(bytes(3_000_000)))
    with pytest.raises(
        UserError, match=r"becomes larger than 1,000,000 bytes when it is unpacked; .* larger max_bytes"
    ):
        load(path, max_bytes=1_000_000)
    with pytest.raises(UserError, match="damaged"):
        load(path, max_bytes=5_000_000)


@pytest.mark.parametrize("given", ["x", "9", 0, -1, True, None, float("nan")])
def test_a_bound_that_is_no_number_is_not_the_files_fault(tmp_path, given):
    with pytest.raises(UserError, match=r"max_bytes is .*; give a number of bytes above 0"):
        load(tmp_path / "a_results.csv", max_bytes=given)


def test_a_parquet_file_of_many_rows_is_not_read(tmp_path):
    path = tmp_path / "a_results.parquet"
    pq.write_table(pa.table({"layer": pa.array(np.zeros(400_000, np.int64))}), path)
    assert path.stat().st_size < 10_000
    with pytest.raises(UserError, match="becomes larger than 1,000,000 bytes when it is read"):
        load(path, max_bytes=1_000_000)


# --- checkpoints ------------------------------------------------------------------------------------------------
def folder_of(tmp_path: Path, config: dict[str, Any], **others: Any) -> Path:
    save_file({"model.layers.0.mlp.weight": np.zeros((4, 30), np.float32)}, tmp_path / "model.safetensors")
    for name, content in {"config": config, **others}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return tmp_path


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"hidden_size": 10**9},
            "has hidden_size 1000000000, but no weight of the checkpoint has a side longer than 30",
        ),
        ({"text_config": {"num_hidden_layers": 10**9}}, "has num_hidden_layers 1000000000, but .* weights of 1"),
    ],
)
def test_a_config_that_does_not_fit_its_weights(tmp_path, config, message):
    with pytest.raises(UserError, match=message):
        check_numbers(folder_of(tmp_path, config), vision=False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patch_size": "x"}, "has patch_size 'x'; it must be a number above 0"),
        ({"merge_size": 1}, "has merge_size 1, but the model's vision_config has spatial_merge_size 2"),
        ({"image_std": [0, 1, 1]}, r"has image_std \[0, 1, 1\]; it must be a list of numbers, none of them 0"),
        ({"do_resize": "x"}, "has do_resize 'x'; it must be true or false"),
    ],
)
def test_settings_of_pictures_that_none_can_be_prepared_with(tmp_path, settings, message):
    config = {"hidden_size": 30, "vision_config": {"spatial_merge_size": 2, "patch_size": 14}}
    with pytest.raises(UserError, match=message):
        check_numbers(folder_of(tmp_path, config, preprocessor_config=settings), vision=True)


def test_a_checkpoint_that_fits_passes(tmp_path):
    config = {"hidden_size": 30, "vision_config": {"spatial_merge_size": 2, "depth": 20}}
    check_numbers(folder_of(tmp_path, config, preprocessor_config={"merge_size": 2}), vision=True)


# --- wording ----------------------------------------------------------------------------------------------------
def test_a_message_is_short_and_obeyed_by_no_terminal():
    said = one_line("name \x1b[31mred\u202e\n" + "9" * 5000 + " and words" * 1000)
    assert said.startswith("name \\x1b[31mred\\u202e 999") and len(said) <= 1500 and said.isprintable()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (KeyError("x"), "'x' is unknown or missing"), (OSError(22, "Invalid argument"), "Invalid argument"),
        (TypeError("got <class 'builtins.NoneType'>"), "got null"), (ValueError(""), "it does not say why"),
    ],
)  # fmt: skip
def test_what_a_library_says_names_no_class(error, words):
    assert plain_words(error) == words
