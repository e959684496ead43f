"""Files and expressions that would never end, or fill the memory: one line, at once."""

import os
import time
from pathlib import Path

import pytest

import latent_lens
import mask_impact_analysis
import mask_impact_vl
from mask_impact.commands import yaml_values
from mask_impact.prompt import text_files, units

DEVICES = [name for name in ("/dev/zero", "fifo") if name == "fifo" or Path(name).exists()]
MODEL = ["--model", "demo", "--quiet"]
COMMANDS = {
    "prompt": ("--prompt-file {path}", "the prompt file {path} is no regular file; give a text file"),
    "messages": ("--messages {path}", "the messages file {path} is no regular file; give a text file"),
    "config": ("--config {path}", "{path}: it is no regular file; give a YAML file"),
    "captions": (
        "bank --captions {path} --output-dir bank",
        "the file of captions {path} is no regular file; give a text file",
    ),
    "bank": ("neighbors --bank {path} --image x.png", "there is no folder {path}; give one that the bank command"),
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    return tmp_path


def code_of(words: list[str]) -> int:
    main = latent_lens.main if words[0] in ("bank", "neighbors") else mask_impact_analysis.main
    return main([words[0], *MODEL, *words[1:]] if main is latent_lens.main else [*MODEL, *words])


@pytest.mark.timeout(60)
@pytest.mark.parametrize("path", DEVICES)
@pytest.mark.parametrize("command", COMMANDS)
def test_what_might_never_end_is_not_read(command, path, capsys):
    words, message = COMMANDS[command]
    assert code_of(words.format(path=path).split()) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {message.format(path=path)}") and said.count("\n") == 1


def test_a_prompt_file_of_a_batch_is_a_regular_file(capsys):
    Path("night.yaml").write_text("prompts:\n- {name: a, prompt_file: fifo}\n")
    assert code_of(["--config", "night.yaml"]) == 2
    assert "'fifo' is no regular file; give a file" in capsys.readouterr().err


def test_a_text_larger_than_any_model_reads_is_refused(monkeypatch, capsys):
    for module in (text_files, yaml_values):
        monkeypatch.setattr(module, "LARGEST", 100)
    Path("long.txt").write_text("word " * 30)
    Path("night.yaml").write_text("prompts:\n- {name: a, prompt_file: long.txt}\n")
    for words, message in (
        (["--prompt-file", "long.txt"], "the prompt file long.txt is larger than 100 bytes; give a shorter one"),
        (["--config", "night.yaml"], "prompt_file 'long.txt' is larger than 100 bytes; give a shorter text"),
    ):
        assert code_of(words) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--image", "--video", "--output-dir", "--messages"])
def test_an_empty_path_is_no_folder(flag, capsys):
    """As that of a variable that is not set: it would be the current folder."""
    with pytest.raises(SystemExit, match="2"):
        mask_impact_vl.main(["--model", "demo", "--prompt", "x", flag, ""])
    assert "the path is empty; give a file or folder" in capsys.readouterr().err


@pytest.mark.timeout(60)
def test_an_expression_that_would_search_for_ever_is_stopped(monkeypatch, capsys):
    monkeypatch.setattr(units, "PATIENCE", 0.2)
    started = time.perf_counter()
    assert code_of(["--prompt", "a" * 60 + "b", "--span", "/(a|aa)+$/"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: --span '/(a|aa)+$/' takes longer than 0.2 s") and time.perf_counter() - started < 30
