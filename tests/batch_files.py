"""Helpers for the tests of batch files: write one to an empty folder, read it, and collect the errors."""

from pathlib import Path
from typing import Any

import pytest

from mask_impact.commands.batch_file import Config, read_config
from mask_impact.commands.yaml_nodes import ConfigError

ROOT = Path(__file__).resolve().parent.parent
FILE = Path("prompts.yaml")
GOOD = "prompts:\n- {name: a, prompt: b}\n"
# What many messages end with.
VALID = (
    "name, enabled, prompt, prompt_file, messages, num_tokens, answer, layers, variants, metrics, head_space, "
    "ablation, queries, null_runs, mask_unit, span, effects, mask_layers, readers, block, route, by_head, heads, "
    "contrast, trace_layers, pairs, top, refine, max_masks, no_check, system, tower, chat, attention"
)
TOP = "model, revision, adapter, device, dtype, device_map, max_memory, output_dir, formats, defaults, prompts"
PLAIN = "is not a plain file name; use letters, digits, - and _ (the folder goes into --output-dir)"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with a text and pictures (whose content is not looked at)."""
    monkeypatch.chdir(tmp_path)
    Path("story.txt").write_text("Once upon\n")
    Path("latin.txt").write_bytes(b"caf\xe9")
    Path("a.png").touch()
    Path("b.png").touch()
    Path("folder").mkdir()
    return tmp_path


def read(content: str | bytes, vision: bool = False) -> Config:
    FILE.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return read_config(FILE, vision)


def errors(content: str | bytes, vision: bool = False) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(content, vision)
    assert str(caught.value) == "\n".join(caught.value.errors)
    return caught.value.errors


def one(prompt: str, vision: bool = False) -> dict[str, Any]:
    """The values of a file with one prompt, given in flow style without braces."""
    return read(f"prompts: [{{name: a, {prompt}}}]", vision).entries[0].values


def cut(character: str) -> str:
    """A long value of equal characters, as a message has it."""
    return f"{character * 30}...{character * 27}"
