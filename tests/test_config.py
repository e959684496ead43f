"""The YAML file of a batch: what is read from it; what is said of malformed ones is in test_config_errors.py."""

import os
import random
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import pytest
from batch_files import FILE, GOOD, ROOT, errors, here, one, read  # noqa: F401

from mask_impact import options
from mask_impact.commands.batch_file import Config, Entry, read_config
from mask_impact.commands.yaml_nodes import MAX_NODES, ConfigError

# --- attacks ------------------------------------------------------------------------------------------------
BOMBS = {
    "aliases": "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)),
    "merges": "a0: &a0 {layers: all, num_tokens: 1}\n"
    + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 10)),
    "merge chain": "a0: &a0 {num_tokens: 1}\n" + "".join(f"a{n}: &a{n} {{<<: *a{n - 1}}}\n" for n in range(1, 2000)),
}


@pytest.mark.parametrize(
    ("bomb", "line"), [pytest.param(BOMBS[name], line, id=name) for name, line in zip(BOMBS, (5, 6, 315), strict=True)]
)
def test_bomb(bomb, line):
    """A few lines that stand for billions of values cost neither time nor memory."""
    tracemalloc.start()
    started = time.process_time()
    said = errors(bomb + GOOD)
    seconds = time.process_time() - started
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    repeated = f"more than {MAX_NODES:,} values, with those that aliases repeat; split the file"
    assert said == [f"prompts.yaml:{line}: {repeated}"]
    assert seconds < 1 and peak < 20e6


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.system [touch made]",
        "!!python/object/new:os.system [touch made]",
        "!!python/object/apply:subprocess.check_output {args: [[touch, made]]}",
        "!!python/object/apply:builtins.open [made, w]",
        "!!python/name:os.system",
        "!!python/module:this",
    ],
)
@pytest.mark.parametrize(
    "file",
    [
        "{}",
        "model: {}",
        "prompts: {}",
        "prompts: [{}]",
        "prompts: [{{name: {}, prompt: a}}]",
        "prompts: [{{name: a, prompt: {}}}]",
        "prompts: [{{name: a, prompt: b, layers: [{}]}}]",
        "prompts: [{{name: a, prompt: b, ? {} : c}}]",
        "prompts: [{{name: a, prompt: b, unknown: {}}}]",
        "prompts: [{{name: a, prompt: b, <<: {}}}]",
        "x: &x {}\nprompts: [{{name: a, prompt: *x}}]",
    ],
)
def test_tags_run_nothing(file, tag, capsys):
    before = sorted(os.listdir())
    assert errors(file.format(tag))
    assert sorted(os.listdir()) == sorted([*before, str(FILE)])
    assert capsys.readouterr().out == ""
    assert "this" not in sys.modules


# --- good files ---------------------------------------------------------------------------------------------
def test_everything_set():
    config = read(
        """\
model: Qwen/Qwen3-0.6B
device: cuda:1
dtype: bfloat16
device_map: auto
max_memory: [0=20GiB, cpu=60GiB]
output_dir: results/night
formats: [parquet, csv]
defaults:
  num_tokens: 2
prompts:
  - name: first
    prompt: "The capital of France is"
    chat: true
    layers: [0, 8, 20-27]
    variants: [head, full]
    head_space: residual
  - name: second
    enabled: false
    num_tokens: 5
    prompt_file: story.txt
"""
    )
    assert config.path == FILE
    assert config.settings == {
        "model": "Qwen/Qwen3-0.6B",
        "device": "cuda:1",
        "dtype": "bfloat16",
        "device_map": "auto",
        "max_memory": ((0, "20GiB"), ("cpu", "60GiB")),
        "output_dir": Path("results/night"),
        "formats": ("csv", "parquet"),
    }
    first = {
        "num_tokens": 2,
        "prompt": "The capital of France is",
        "chat": True,
        "layers": ((0, 0), (8, 8), (20, 27)),
        "variants": ("full", "head"),
        "head_space": "residual",
    }
    assert config.entries == (Entry("first", True, 11, first), Entry("second", False, 17, {"num_tokens": 5}))
    options.Settings(**config.settings)
    options.Request(**config.entries[0].values)


def test_everything_set_vision():
    config = read(
        """\
defaults: {image: a.png, mask_mode: both}
prompts:
  - {name: one, prompt: b, max_pixels: 500, vision_attention: bidirectional}
  - {name: several, prompt: b, image: [a.png, folder/../b.png], mask_mode: vision}
  - {name: none, prompt: b, image: [], mask_mode: text}
""",
        vision=True,
    )
    assert config.settings == {}
    assert [entry.values for entry in config.entries] == [
        {
            "prompt": "b",
            "images": (Path("a.png"),),
            "mask_mode": "both",
            "max_pixels": 500,
            "vision_attention": "bidirectional",
        },
        {"prompt": "b", "images": (Path("a.png"), Path("folder/../b.png")), "mask_mode": "vision"},
        {"prompt": "b", "images": (), "mask_mode": "text"},
    ]
    options.Request(**config.entries[0].values)


def test_only_what_is_given():
    config = read(GOOD)
    assert (config.settings, config.entries) == ({}, (Entry("a", True, 2, {"prompt": "b"}),))


def test_older_spellings():
    config = read(
        "model: {path: demo}\nprompts: [{name: a, prompt: b, image_path: a.png, mask_mode: all}]", vision=True
    )
    assert config.settings == {"model": "demo"}
    assert config.entries[0].values == {"prompt": "b", "images": (Path("a.png"),), "mask_mode": "both"}


def test_older_spelling_overrides_the_newer_of_defaults():
    config = read("defaults: {image: none.png}\nprompts: [{name: a, prompt: b, image_path: b.png}]", vision=True)
    assert config.entries[0].values["images"] == (Path("b.png"),)


def test_defaults_and_merge():
    """A prompt's own keys over those it merges, over the defaults; of several merged blocks the first counts."""
    config = read(
        """\
defaults: {num_tokens: 2, layers: 0, variants: full}
prompts:
  - &base
    name: one
    prompt: b
    layers: &some [1, 2]
    head_space: residual
  - <<: *base
    name: two
    num_tokens: 7
  - {name: three, prompt: c, layers: *some, <<: [{num_tokens: 3}, {num_tokens: 4, chat: yes}]}
  - {<<: {layers: 5}, <<: *base, name: four}
"""
    )
    base = {"prompt": "b", "variants": ("full",), "layers": ((1, 1), (2, 2)), "head_space": "residual"}
    assert [(entry.name, entry.line, entry.values) for entry in config.entries] == [
        ("one", 3, base | {"num_tokens": 2}),
        ("two", 8, base | {"num_tokens": 7}),
        (
            "three",
            11,
            {"prompt": "c", "layers": ((1, 1), (2, 2)), "variants": ("full",), "num_tokens": 3, "chat": True},
        ),
        ("four", 12, base | {"num_tokens": 2, "layers": ((5, 5),)}),
    ]


def test_paths_start_at_the_file(here, monkeypatch):  # noqa: F811
    """Prompt file and pictures; the output folder is the user's, as on the command line."""
    (here / "sub").mkdir()
    (here / "sub" / "p.yaml").write_text(
        f"output_dir: out\nprompts: [{{name: a, prompt_file: ../story.txt, image: [../a.png, '{here}/b.png']}}]"
    )
    monkeypatch.chdir("folder")
    config = read_config(Path("../sub/p.yaml"), vision=True)
    images = (Path("../sub/../a.png"), here / "b.png")
    assert config.settings == {"output_dir": Path("out")}
    assert config.entries[0].values == {"prompt": "Once upon", "images": images}


def test_home_folder(here, monkeypatch):  # noqa: F811
    monkeypatch.setenv("HOME", str(here / "folder"))
    (here / "folder" / "x.png").touch()
    config = read("model: ~/m\noutput_dir: ~/o\nprompts: [{name: a, prompt: b, image: ~/x.png}]", vision=True)
    assert config.settings == {"model": f"{here}/folder/m", "output_dir": here / "folder" / "o"}
    assert config.entries[0].values["images"] == (here / "folder" / "x.png",)


@pytest.mark.parametrize(
    "text", ["2024", "yes", "no", "1.0", "0x1F", "1_000", "2024-01-31", "1:30", "=", ".inf", "<<", "010", "'null'"]
)
def test_text_is_what_was_written(text):
    """Not what YAML 1.1 makes of it: a number, a truth value, a date, 90."""
    assert one(f"prompt: {text}")["prompt"] == text.strip("'")


def test_names_that_are_no_text_to_yaml():
    assert [entry.name for entry in read("prompts: [{name: 2024, prompt: a}, {name: yes, prompt: a}]").entries] == [
        "2024",
        "yes",
    ]


@pytest.mark.parametrize(
    ("written", "prompt"),
    [
        ("|\n    one\n    two\n", "one\ntwo"),  # as a prompt file: without the newline that ends the last line
        ("|-\n    one\n    two\n", "one\ntwo"),
        ("|+\n    one\n\n\n", "one\n\n"),
        (">\n    one\n    two\n", "one two"),
        ('"one\\n"\n', "one\n"),
        ('" one "\n', " one "),
        ("one # comment\n", "one"),
        ("one#two\n", "one#two"),
        ("'it''s'\n", "it's"),
        ('"caf\\u00e9 \\U0001F600"\n', "café 😀"),
        ("日本語: 'x'\n", None),
        ("'日本語: x'\n", "日本語: x"),
    ],
)
def test_prompt_texts(written, prompt):
    file = f"prompts:\n- name: a\n  prompt: {written}"
    if prompt is None:
        assert len(errors(file)) == 1
    else:
        assert read(file).entries[0].values["prompt"] == prompt


@pytest.mark.parametrize(
    ("content", "prompt"),
    [
        (b"one", "one"),
        (b"one\n\n", "one\n"),
        (b" one\r\ntwo\r\n", " one\ntwo"),
        (b"\xef\xbb\xbfcaf\xc3\xa9\n", "café"),
    ],
)
def test_prompt_file(content, prompt):
    """As --prompt-file reads it."""
    Path("p.txt").write_bytes(content)
    assert one("prompt_file: p.txt") == {"prompt": prompt}


@pytest.mark.parametrize("word", ["true", "True", "TRUE", "yes", "on", "'true'"])
def test_true(word):
    assert one(f"prompt: b, chat: {word}")["chat"] is True


@pytest.mark.parametrize("word", ["false", "False", "no", "off", "OFF"])
def test_false(word):
    assert not read(f"prompts: [{{name: a, prompt: b, enabled: {word}}}]").entries[0].enabled


@pytest.mark.parametrize(
    ("key", "written", "value"),
    [
        ("layers", "all", ()),
        ("layers", "3", ((3, 3),)),
        ("layers", '"0,8,20-27"', ((0, 0), (8, 8), (20, 27))),
        ("layers", "[0-3, '5']", ((0, 3), (5, 5))),
        ("variants", '"head,full"', ("full", "head")),
        ("variants", "attn", ("attn",)),
        ("num_tokens", "'12'", 12),
        ("num_tokens", "!!int 12", 12),
        ("num_tokens", "012", 12),
    ],
)
def test_values(key, written, value):
    assert one(f"prompt: b, {key}: {written}")[key] == value


def test_disabled_prompts_may_wait_for_their_files():
    config = read(
        "prompts:\n- {name: a, enabled: no, prompt_file: none.txt, image: none.png, mask_mode: both}\n", vision=True
    )
    assert config.entries == (Entry("a", False, 2, {"images": (Path("none.png"),), "mask_mode": "both"}),)


@pytest.mark.parametrize(
    "damage",
    [lambda data: b"\xef\xbb\xbf" + data, lambda data: data.replace(b"\n", b"\r\n"), lambda data: b"---\n" + data],
    ids=["BOM", "CRLF", "document start"],
)
def test_file_as_other_programs_write_it(damage):
    assert read(damage(b"prompts:\n- name: a\n  prompt: |\n    x\n    y\n")).entries[0].values == {"prompt": "x\ny"}


def test_lines_are_counted_in_crlf():
    assert errors(b"prompts:\r\n- name: a\r\n  prompt: b\r\n  layers: x\r\n")[0].startswith("prompts.yaml:4: ")


@pytest.mark.parametrize(("file", "vision"), [("prompts_config.yaml", False), ("prompts_config_vl.yaml", True)])
def test_examples(file, vision):
    """They are valid from any folder, and show every key."""
    config = read_config(ROOT / file, vision)
    assert config.settings["model"] == "demo"
    assert 4 <= len(config.entries) <= 8
    assert [entry.enabled for entry in config.entries].count(False) == 1
    assert any(entry.values["num_tokens"] > 1 for entry in config.entries if "num_tokens" in entry.values)
    text = (ROOT / file).read_text("utf-8")
    assert "prompt_file: prompt.txt" in text
    if vision:
        assert {entry.values["mask_mode"] for entry in config.entries} == set(options.MASK_MODES)
    both = (ROOT / "prompts_config.yaml").read_text("utf-8") + (ROOT / "prompts_config_vl.yaml").read_text("utf-8")
    fields = [*options.options_of(options.Settings).values(), *options.options_of(options.Request).values()]
    keys = {each.key for each in fields if each.in_files}
    assert not [key for key in sorted(keys) if f"{key}:" not in both]


def test_thousands_of_prompts():
    started = time.process_time()
    config = read("prompts:\n" + "".join(f"- name: n{n}\n  prompt: A text of some words\n" for n in range(2000)))
    assert len(config.entries) == 2000 and time.process_time() - started < 5


# --- any file -----------------------------------------------------------------------------------------------
WHOLE = """\
# comment
model: demo
formats: [csv, json]
max_memory: 0=20GiB,cpu=60GiB
defaults: &d
  num_tokens: 2
  layers: 0-3
prompts:
  - &one
    name: one
    prompt: "a \\u00e9 b"
  - <<: *one
    name: two
    prompt: |
      text: with
      lines
  - {name: three, prompt_file: story.txt, enabled: no, variants: [full, head]}
  - name: 'it''s'
    prompt: >-
      folded
"""
PIECES = [
    *"\t\n\r :-?[]{}&*!|>'\"%@`#,\\<~=.\0\a\ufeff\x85\u2028é😀",
    *(
        "<<: ",
        "*one",
        "&one ",
        "!!python/object/apply:os.system ",
        "!x ",
        "---\n",
        "...\n",
        "%YAML 1.1\n",
        "%TAG ! x\n",
    ),
    *("\\U", "\\ud800", "!<", "prompts:", "image: a.png", "chat: yes", "mask_mode: both", "- - - - ", "9" * 5000, "? "),
]


@pytest.mark.parametrize("seed", range(4))
def test_damaged_files(seed):
    """Whatever happened to a file: a Config, or one-line errors with a line, soon, and nothing else."""
    chance = random.Random(seed)
    assert read(WHOLE).entries
    for _ in range(150):
        damaged = damage(WHOLE, chance)
        started = time.process_time()
        try:
            assert isinstance(read(damaged, vision=chance.random() < 0.5), Config)
        except ConfigError as error:
            for line in error.errors:
                assert line.startswith("prompts.yaml:") and line.isprintable() and len(line) < 450, damaged
        assert time.process_time() - started < 2, damaged


def damage(text: str, chance: random.Random) -> bytes:
    """Inserts, deletes, moves, cuts off; now and then a byte."""
    for _ in range(chance.randint(1, 4)):
        at, other = chance.randrange(len(text) + 1), chance.randrange(len(text) + 1)
        what = chance.random()
        if what < 0.45:
            text = text[:at] + chance.choice(PIECES) + text[at:]
        elif what < 0.75:
            text = text[:at] + text[at + chance.randint(1, 8) :]
        elif what < 0.95:
            text = text[:at] + text[other : other + chance.randint(1, 40)] + text[at:]
        else:
            text = text[:at]
    data = bytearray(text.encode())
    if data and chance.random() < 0.1:
        data[chance.randrange(len(data))] = chance.randrange(256)
    return bytes(data)


def test_no_torch():
    """A wrong file is refused before the seconds that torch takes to load."""
    asked = "any(name in sys.modules for name in ('torch', 'transformers'))"
    code = f"import sys, mask_impact.commands.batch_file; sys.exit({asked})"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
