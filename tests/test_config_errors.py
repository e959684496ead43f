"""Malformed YAML files of a batch, with all that is said about each, word for word: a change of any message shows."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from batch_files import FILE, GOOD, PLAIN, TOP, VALID, cut, errors, here, read  # noqa: F401

from mask_impact.commands.batch_file import read_config
from mask_impact.commands.yaml_nodes import MAX_ERRORS, ConfigError

# --- malformed files ----------------------------------------------------------------------------------------
SYNTAX = [
    pytest.param("", ["1: the file is empty; write 'prompts:', and below it '- name: ...'"], id="empty"),
    pytest.param("# nothing\n\n---\n", ["4: the file is empty"], id="an empty document"),
    pytest.param(
        "# nothing\n\n", ["1: the file is empty; write 'prompts:', and below it '- name: ...'"], id="only comments"
    ),
    pytest.param("~", ["1: the file is empty"], id="null"),
    pytest.param("hello", ["1: the file must be a mapping, but is text"], id="text"),
    pytest.param("- name: a\n  prompt: b\n", ["1: the file must be a mapping, but is a list"], id="list"),
    pytest.param(
        "model: demo\n", ["1: the file has no prompts; write 'prompts:', and below it '- name: ...'"], id="no prompts"
    ),
    pytest.param(
        "\n{}", ["2: the file has no prompts; write 'prompts:', and below it '- name: ...'"], id="empty mapping"
    ),
    pytest.param(
        GOOD + "---\n" + GOOD,
        ["3: not valid YAML at column 1: a second document ('---'); a file holds one"],
        id="two documents",
    ),
    pytest.param("prompts:\n\t- name: a\n", ["2: not valid YAML at column 1: a tab; use spaces"], id="tab"),
    pytest.param(
        "prompts:\n- name:\ta\n  layers:\t[\t1]\n  prompt: b\n\tx\n",
        ["2: not valid YAML at column 8: a tab; use spaces"],
        id="tab after key",
    ),
    pytest.param(
        "prompts:\n- name: a\n  prompt: The answer: 3\n",
        ["3: not valid YAML at column 21: a ':' where no key can be; quote a text with ': ', or check the indent"],
        id="colon in text",
    ),
    pytest.param(
        "prompts:\n- name: a\n   prompt: b\n",
        ["3: not valid YAML at column 10: a ':' where no key can be; quote a text with ': ', or check the indent"],
        id="indentation",
    ),
    pytest.param(
        "prompts:\n  - name: a\n prompt: b\n",
        ["3: not valid YAML at column 2: does not continue what stands above; check indentation and quotes"],
        id="indentation back",
    ),
    pytest.param(
        "prompts: - name: a\n",
        ["1: not valid YAML at column 10: a '- ' where no list can be; quote a text, or start a new line"],
        id="list in a line",
    ),
    pytest.param(
        "prompts:\n- name: a\n  prompt: 'b\n- name: c\n",
        ["3: not valid YAML at column 11: a quote that is not closed"],
        id="open quote",
    ),
    pytest.param(
        "prompts:\n- name: a\n  prompt: 'it's'\n",
        ["3: not valid YAML at column 15: does not continue what stands above; check indentation and quotes"],
        id="apostrophe",
    ),
    pytest.param(
        "prompts:\n- name: a\n  layers: [1, 2\n  prompt: b\n",
        ["3: not valid YAML at column 11: a bracket that is not closed, or a missing comma"],
        id="open bracket",
    ),
    pytest.param(
        "prompts: [{name: a, prompt: b]\n",
        ["1: not valid YAML at column 11: a bracket that is not closed, or a missing comma"],
        id="open brace",
    ),
    pytest.param(
        "prompts:\n- name: a\n  prompt\n  num_tokens: 1\n",
        ["3: not valid YAML at column 3: neither 'key: value' nor part of the text above; check the indentation"],
        id="no colon",
    ),
    pytest.param(
        "prompts:\n- name: @a\n",
        ["2: not valid YAML at column 9: an unquoted text cannot start with this character; put it in quotes"],
        id="at",
    ),
    pytest.param(
        "prompts:\n- name: a\n  prompt: *word\n",
        ["3: not valid YAML at column 11: an alias (*name) without its anchor (&name); quote text that starts with *"],
        id="star",
    ),
    pytest.param(
        "prompts:\n- name: a\n  prompt: * b\n",
        ["3: not valid YAML at column 12: a name must follow & and *; quote text that starts with them"],
        id="star alone",
    ),
    pytest.param(
        "prompts:\n- name: &x a\n  prompt: &x b\n",
        ["3: not valid YAML at column 11: an anchor (&name) of the same name stands above"],
        id="anchor twice",
    ),
    pytest.param(
        'prompts:\n- name: a\n  prompt_file: "C:\\stories\\a.txt"\n',
        ["3: not valid YAML at column 20: in double quotes a backslash starts a code; use single quotes"],
        id="backslash",
    ),
    pytest.param(
        'prompts:\n- name: a\n  prompt: "\\UFFFFFFFF"\n',
        ["3: not valid YAML: a code that no character has"],
        id="big code",
    ),
    pytest.param(
        "prompts:\n- name: a\n  prompt: b\x07\n",
        ["3: a character that YAML does not allow, '\\x07'; remove it"],
        id="control",
    ),
    pytest.param(
        "prompts:\n- name: a\n  prompt: |x\n",
        ["3: not valid YAML at column 12: expected chomping or indentation indicators, but found 'x'"],
        id="block",
    ),
    pytest.param(
        "%YAML 2.0\n---\nprompts:\n",
        ["1: not valid YAML at column 1: found incompatible YAML document (version 1.* is required)"],
        id="yaml 2",
    ),
    pytest.param(
        "prompts:\n- name: café\n".encode("latin-1"), ["2: not UTF-8 text (byte 20); save it as UTF-8"], id="latin 1"
    ),
    pytest.param(GOOD.encode("utf-16"), ["1: not UTF-8 text (byte 0); save it as UTF-8"], id="utf-16"),
    pytest.param(
        b"prompts:\n\x00\x00", ["2: a character that YAML does not allow, '\\x00'; remove it"], id="nul bytes"
    ),
    pytest.param("prompts: " + "[" * 10_000, ["1: nested more than 50 levels deep"], id="deep"),
    pytest.param(
        "prompts:\n" + "".join(f"{' ' * n}-\n" for n in range(60)),
        ["51: nested more than 50 levels deep"],
        id="deep block",
    ),
    pytest.param(
        "prompts: &p\n- name: a\n  prompt: *p\n",
        ["3: the alias '*p' stands inside what it is an alias of"],
        id="recursive",
    ),
    pytest.param(
        "prompts:\n- &p\n  name: a\n  prompt: b\n  <<: *p\n",
        ["5: the alias '*p' stands inside what it is an alias of"],
        id="recursive merge",
    ),
    pytest.param(
        "# " + "x" * 4_000_000, [" larger than 4,000,000 bytes; put long texts into a prompt_file"], id="large"
    ),
]

CONTENT = [
    pytest.param(
        "prompts:\n- name: a\n  promt: b\n", ["3: unknown key 'promt'; did you mean 'prompt'?"], id="unknown key"
    ),
    pytest.param(
        "prompts:\n- name: a\n  prompt: b\n  num-tokens: 3\n",
        ["4: unknown key 'num-tokens'; did you mean 'num_tokens'?"],
        id="unknown key hyphen",
    ),
    pytest.param(
        "Model: demo\nprompts:\n- name: a\n  PROMPT: b\n",
        ["1: unknown key 'Model'; did you mean 'model'?", "4: unknown key 'PROMPT'; did you mean 'prompt'?"],
        id="unknown key upper case",
    ),
    pytest.param(
        "prompts:\n- name: a\n  prompt: b\n  zzz: 1\n",
        [f"4: unknown key 'zzz'; valid keys: {VALID}"],
        id="unknown key nothing near",
    ),
    pytest.param("zzz: 1\n" + GOOD, [f"1: unknown key 'zzz'; valid keys: {TOP}"], id="unknown key top"),
    pytest.param(
        "prompts:\n- name: a\n  prompt: b\n  '<<': 1\n  'a\"b': 2\n",
        [f"4: unknown key '<<'; valid keys: {VALID}", f"5: unknown key 'a\"b'; valid keys: {VALID}"],
        id="unknown key in quotes",
    ),
    pytest.param(
        f"? {'x' * 5000}\n: 1\n" + GOOD, [f"1: unknown key '{cut('x')}'; valid keys: {TOP}"], id="long unknown key"
    ),
    pytest.param(
        "trust_remote_code: true\nallow_pickle: true\n" + GOOD,
        ["1: 'trust_remote_code' belongs to the command line", "2: 'allow_pickle' belongs to the command line"],
        id="dangerous flags",
    ),
    pytest.param(
        "model: a\nmodel: b\nprompts:\n- name: a\n  prompt: b\n  prompt: c\n",
        [
            "2: 'model' is given twice, first in line 1; keep one",
            "6: 'prompt' is given twice, first in line 5; keep one",
        ],
        id="twice",
    ),
    pytest.param(
        "num_tokens: 3\nname: a\nprompts:\n- name: a\n  prompt: b\n  device: cpu\n",
        [
            "1: 'num_tokens' belongs to a prompt or to defaults",
            "2: 'name' belongs to a prompt",
            "6: 'device' belongs to the top level",
        ],
        id="misplaced",
    ),
    pytest.param(
        ("defaults:\n  name: a\n  prompt: b\n  enabled: true\n  prompt_file: c\n  model: d\n") + GOOD,
        [
            "2: 'name' belongs to a prompt",
            "3: 'prompt' belongs to a prompt",
            "4: 'enabled' belongs to a prompt",
            "5: 'prompt_file' belongs to a prompt",
            "6: 'model' belongs to the top level",
        ],
        id="misplaced in defaults",
    ),
    pytest.param(
        "prompts:\n- {name: a, prompt: e, [b]: c, ~: d, {e: f}: g}\n",
        ["2: a key must be text, but is a list", "2: a key is empty", "2: a key must be text, but is a mapping"],
        id="no text keys",
    ),
    pytest.param(
        "defaults: {image: a.png}\n"
        "prompts:\n"
        "- name: a\n"
        "  prompt: b\n"
        "  image_path: a.png\n"
        "  mask_mode: both\n"
        "  vision_attention: model\n"
        "  max_pixels: 3\n",
        [
            "1: 'image' belongs to mask_impact_vl.py",
            "5: 'image_path' belongs to mask_impact_vl.py",
            "6: 'mask_mode' belongs to mask_impact_vl.py",
            "7: 'vision_attention' belongs to mask_impact_vl.py",
            "8: 'max_pixels' belongs to mask_impact_vl.py",
        ],
        id="vision keys",
    ),
    pytest.param(
        ("model:\ndevice: gpu\ndtype: float64\ndevice_map: balanced\nmax_memory: 20\noutput_dir: []\nformats: xlsx\n")
        + GOOD,
        [
            "1: model is empty",
            "2: device: unknown 'gpu'; choose auto, cpu, cuda, cuda:N or mps",
            "3: dtype: unknown 'float64'; choose from auto, float32, bfloat16, float16",
            "4: device_map: unknown 'balanced'; choose from auto",
            "5: max_memory: '20' is not a list of limits; write for example 0=20GiB,cpu=60GiB",
            "6: output_dir must be a path, but is a list",
            "7: formats: unknown 'xlsx'; choose from csv, json, parquet, html",
        ],
        id="settings",
    ),
    pytest.param(
        ("model: []\ndevice: [cpu]\ndtype: {a: b}\nformats: []\noutput_dir: ''\nmax_memory: [0=20GiB, cpu]\n") + GOOD,
        [
            "1: model must be text, but is a list",
            "2: device must be one value, but is a list",
            "3: dtype must be one value, but is a mapping",
            "4: formats: nothing chosen; choose from csv, json, parquet, html",
            "5: output_dir is empty",
            "6: max_memory: '0=20GiB,cpu' is not a list of limits; write for example 0=20GiB,cpu=60GiB",
        ],
        id="settings types",
    ),
    pytest.param("model: {name: demo}\n" + GOOD, ["1: model must be text, but is a mapping"], id="model mapping"),
    pytest.param(
        "model: {path: demo, dtype: auto}\n" + GOOD,
        ["1: model must be text, but is a mapping"],
        id="model mapping with more",
    ),
    pytest.param(
        "model: {path: [demo]}\n" + GOOD, ["1: model must be text, but is a list"], id="model mapping of a list"
    ),
    pytest.param(
        "formats: [csv, [json]]\n" + GOOD,
        ["1: formats must be text or a list, but has an item that is a list"],
        id="formats nested",
    ),
    pytest.param("defaults: 3\n" + GOOD, ["1: defaults must be a mapping, but is text"], id="defaults type"),
    pytest.param("defaults:\n" + GOOD, ["1: defaults is empty"], id="defaults empty"),
    pytest.param(
        "defaults:\n"
        "  num_tokens: 0\n"
        "  variants: all\n"
        "prompts:\n"
        "- {name: a, prompt: b}\n"
        "- {name: c, prompt: d, num_tokens: 2}\n",
        [
            "2: num_tokens: '0' is not a whole number of 1 or more",
            "3: variants: unknown 'all'; choose from full, attn, head",
        ],
        id="defaults wrong",
    ),
    pytest.param("prompts: {name: a, prompt: b}\n", ["1: prompts must be a list, but is a mapping"], id="prompts type"),
    pytest.param("prompts: []\n", ["1: prompts is empty; give at least one prompt"], id="prompts empty"),
    pytest.param("prompts:\n", ["1: prompts is empty"], id="prompts null"),
    pytest.param(
        "prompts:\n- The capital\n- [a]\n-\n- {}\n",
        [
            "2: a prompt must be a mapping, but is text",
            "3: a prompt must be a mapping, but is a list",
            "4: a prompt is empty",
            "5: name is missing",
            "5: prompt is missing; give prompt, prompt_file or messages",
        ],
        id="prompt types",
    ),
    pytest.param(
        "prompts:\n- prompt: b\n- name: c\n- enabled: false\n",
        [
            "2: name is missing",
            "3: prompt is missing; give prompt, prompt_file or messages",
            "4: name is missing",
            "4: prompt is missing; give prompt, prompt_file or messages",
        ],
        id="missing",
    ),
    pytest.param(
        "prompts:\n- name: a\n  prompt: b\n  prompt_file: story.txt\n",
        ["2: prompt and prompt_file are both given; keep one"],
        id="both",
    ),
    pytest.param(
        "prompts:\n"
        "- name: [a]\n"
        "  prompt: [b]\n"
        "  num_tokens: [1]\n"
        "  head_space: {a: b}\n"
        "  enabled: [true]\n"
        "  layers: {0: 1}\n"
        "  chat: {}\n",
        [
            "2: name must be text, but is a list",
            "3: prompt must be text, but is a list",
            "4: num_tokens must be one value, but is a list",
            "5: head_space must be one value, but is a mapping",
            "6: enabled must be true or false, but is a list",
            "7: layers must be text or a list, but is a mapping",
            "8: chat must be true or false, but is a mapping",
        ],
        id="types",
    ),
    pytest.param(
        "prompts:\n"
        "- name:\n"
        "  prompt: ~\n"
        "  num_tokens: null\n"
        "  layers:\n"
        "  enabled: ''\n"
        "  chat: ' '\n"
        "- name: ''\n"
        '  prompt: "\\n"\n',
        [
            "2: name is empty",
            "3: prompt is empty",
            "4: num_tokens is empty",
            "5: layers is empty",
            "6: enabled is empty",
            "7: chat is empty",
            "8: name is empty",
            "9: prompt is empty",
        ],
        id="empties",
    ),
    pytest.param("prompts:\n- name: a\n  prompt: |\n\n\n", ["3: prompt is empty"], id="block of nothing"),
    pytest.param(
        "prompts:\n- name: a\n  prompt: b\n  enabled: maybe\n  chat: 1\n",
        ["4: enabled must be true or false, but is 'maybe'", "5: chat must be true or false, but is '1'"],
        id="flags",
    ),
    pytest.param(
        "prompts:\n"
        "- {name: a, prompt: b, num_tokens: 0}\n"
        "- {name: c, prompt: b, num_tokens: -1}\n"
        "- {name: d, prompt: b, num_tokens: 1.5}\n"
        "- {name: e, prompt: b, num_tokens: 0x10}\n"
        "- {name: f, prompt: b, num_tokens: 1_000}\n"
        "- {name: g, prompt: b, num_tokens: true}\n",
        [
            "2: num_tokens: '0' is not a whole number of 1 or more",
            "3: num_tokens: '-1' is not a whole number of 1 or more",
            "4: num_tokens: '1.5' is not a whole number of 1 or more",
            "5: num_tokens: '0x10' is not a whole number of 1 or more",
            "6: num_tokens: '1_000' is not a whole number of 1 or more",
            "7: num_tokens: 'true' is not a whole number of 1 or more",
        ],
        id="numbers",
    ),
    pytest.param(
        f"prompts:\n- {{name: a, prompt: b, num_tokens: {'9' * 5000}}}\n",
        [f"2: num_tokens: '{cut('9')}' is not a whole number of 1 or more, at most 18 digits"],
        id="long number",
    ),
    pytest.param(
        "prompts:\n"
        "- {name: a, prompt: b, layers: 3-1}\n"
        "- {name: c, prompt: b, layers: 1;2}\n"
        "- {name: d, prompt: b, layers: [0, [1]]}\n"
        "- {name: e, prompt: b, layers: []}\n"
        "- {name: f, prompt: b, layers: [0, ~]}\n",
        [
            "2: layers: '3-1': the range 3-1 runs backwards; write 1-3",
            "3: layers: '1;2' is not a list of layers; write for example 0,8,20-27",
            "4: layers must be text or a list, but has an item that is a list",
            "5: layers: '' is not a list of layers; write for example 0,8,20-27",
            "6: layers has an item that is empty",
        ],
        id="layers",
    ),
    pytest.param(
        "prompts:\n"
        "- {name: a, prompt: b, variants: [full, heads]}\n"
        "- {name: c, prompt: b, variants: []}\n"
        "- {name: d, prompt: b, head_space: both}\n",
        [
            "2: variants: unknown 'heads'; choose from full, attn, head",
            "3: variants: nothing chosen; choose from full, attn, head",
            "4: head_space: unknown 'both'; choose from output, residual",
        ],
        id="variants",
    ),
    pytest.param(
        "prompts:\n"
        "- {name: a/b, prompt: c}\n"
        "- {name: .a, prompt: c}\n"
        "- {name: NUL, prompt: c}\n"
        "- {name: 'a: b', prompt: c}\n",
        [
            f"2: name: 'a/b' {PLAIN}",
            f"3: name: '.a' {PLAIN}",
            "4: name: 'NUL' is a name that Windows reserves; choose another",
            f"5: name: 'a: b' {PLAIN}",
        ],
        id="names",
    ),
    pytest.param(
        f"prompts:\n- {{name: {'n' * 200}, prompt: c}}\n- {{name: '{'/' * 5000}', prompt: c}}\n",
        ["2: name: a name of 200 bytes is too long; at most 150", f"3: name: '{cut('/')}' {PLAIN}"],
        id="long names",
    ),
    pytest.param(
        "prompts:\n"
        "- {name: a, prompt: b}\n"
        "- {name: b, prompt: c}\n"
        "- {name: a, prompt: c}\n"
        "- {name: a, prompt: c, enabled: false}\n",
        [
            "4: the name 'a' is taken by line 2; give every prompt its own",
            "5: the name 'a' is taken by line 2; give every prompt its own",
        ],
        id="same name",
    ),
    pytest.param(
        "prompts:\n"
        "- {name: Cup, prompt: c}\n"
        "- {name: cUP, prompt: c}\n"
        "- {name: café, prompt: c}\n"
        "- {name: café, prompt: c}\n",
        [
            "3: the name 'cUP' is taken by line 2 ('Cup', the same to some file systems); give every prompt its own",
            "5: the name 'café' is taken by line 4 ('café', the same to some file systems); give every prompt its own",
        ],
        id="same name but for case",
    ),
    pytest.param(
        'prompts:\n- name: "a\\ud800"\n  prompt: "\\ude00"\n',
        [
            "2: name is no valid text: half a character, '\\ud800'",
            "3: prompt is no valid text: half a character, '\\ude00'",
        ],
        id="half characters",
    ),
    pytest.param(
        "prompts:\n"
        "- {name: a, prompt_file: none.txt}\n"
        "- {name: b, prompt_file: folder}\n"
        "- {name: c, prompt_file: a.png}\n"
        "- {name: d, prompt_file: story.txt/x}\n"
        '- {name: e, prompt_file: "a\\0b"}\n'
        f"- {{name: f, prompt_file: {'x' * 300}}}\n"
        "- {name: g, prompt_file: [story.txt]}\n"
        "- {name: h, prompt_file: latin.txt}\n",
        [
            "2: prompt_file 'none.txt' cannot be read: No such file or directory",
            "3: prompt_file 'folder' is a folder; give a file",
            "4: prompt_file 'a.png' is empty; write the prompt into it",
            "5: prompt_file 'story.txt/x' cannot be read: Not a directory",
            "6: prompt_file 'a\\x00b' cannot be read: no file can have this name",
            f"7: prompt_file '{cut('x')}' cannot be read: File name too long",
            "8: prompt_file must be a path, but is a list",
            "9: prompt_file 'latin.txt' is not UTF-8 text (byte 3); save it as UTF-8",
        ],
        id="files",
    ),
    pytest.param(
        "prompts:\n- {name: a/b, prompt: [], enabled: false, num_tokens: x, zzz: 1}\n- {enabled: no}\n",
        [
            f"2: unknown key 'zzz'; valid keys: {VALID}",
            f"2: name: 'a/b' {PLAIN}",
            "2: prompt must be text, but is a list",
            "2: num_tokens: 'x' is not a whole number of 1 or more",
            "3: name is missing",
            "3: prompt is missing; give prompt, prompt_file or messages",
        ],
        id="disabled",
    ),
    pytest.param(
        "model: !!python/name:os.system\n"
        "prompts:\n"
        "- name: a\n"
        "  prompt: !!python/object/apply:os.system ['touch made']\n"
        "- !!python/object:pathlib.Path {name: b}\n"
        "- name: c\n"
        "  prompt: d\n"
        "  !!python/name:os.system : e\n",
        [
            "1: model is tagged '!!python/name:os.system'; tags are not read, remove it",
            "4: prompt is tagged '!!python/object/apply:os.system'; tags are not read, remove it",
            "5: a prompt is tagged '!!python/object:pathlib.Path'; tags are not read, remove it",
            "8: a key is tagged '!!python/name:os.system'; tags are not read, remove it",
        ],
        id="python tags",
    ),
    pytest.param(
        "prompts:\n"
        "- name: !foo a\n"
        "  prompt: !!binary aGk=\n"
        "  variants: !!set {full}\n"
        "  layers: [!bar 1]\n"
        "  chat: !<tag:x.org,2000:y> true\n",
        [
            "2: name is tagged '!foo'; tags are not read, remove it",
            "3: prompt is tagged '!!binary'; tags are not read, remove it",
            "4: variants is tagged '!!set'; tags are not read, remove it",
            "5: layers has an item that is tagged '!bar'; tags are not read, remove it",
            "6: chat is tagged 'tag:x.org,2000:y'; tags are not read, remove it",
        ],
        id="other tags",
    ),
    pytest.param(
        "%TAG ! tag:yaml.org,2002:python/\n---\nprompts: !object/apply:os.system [touch made]\n",
        ["3: prompts is tagged '!!python/object/apply:os.system'; tags are not read, remove it"],
        id="tag handle",
    ),
    pytest.param(
        "!!python/dict\n" + GOOD, ["1: the file is tagged '!!python/dict'; tags are not read, remove it"], id="root tag"
    ),
    pytest.param(
        "prompts:\n- name: a\n  prompt: b\n  <<: c\n- {name: d, prompt: e, <<: [{chat: true}, [f]]}\n",
        ["4: << must be a mapping, but is text", "5: << must be a mapping, but is a list"],
        id="merge no mapping",
    ),
    pytest.param(
        "prompts:\n- &base\n  name: a\n  prompt: b\n  layers: x\n- {<<: *base, name: c}\n- {<<: *base, name: d}\n",
        ["5: layers: 'x' is not a list of layers; write for example 0,8,20-27"],
        id="merged errors are said once",
    ),
    pytest.param(
        "prompts:\n- &base\n  name: a\n  prompt: b\n- <<: *base\n- *base\n",
        [
            "5: the name 'a' is taken by line 2; give every prompt its own",
            "6: the name 'a' is taken by line 2; give every prompt its own",
        ],
        id="merged name",
    ),
    pytest.param(
        "prompts:\n- &base\n  name: a\n  prompt: b\n- <<: *base\n  name: c\n  prompt_file: story.txt\n",
        ["5: prompt and prompt_file are both given; keep one"],
        id="merged prompt and own file",
    ),
    pytest.param(
        'prompts:\n- name: "a\\e[31m"\n  prompt: b\n  "x\\ny\\u202e": 1\n  layers: "1\\x7f"\n',
        [
            f"2: name: 'a\\x1b[31m' {PLAIN}",
            f"4: unknown key 'x\\ny\\u202e'; valid keys: {VALID}",
            "5: layers: '1\\x7f' is not a list of layers; write for example 0,8,20-27",
        ],
        id="escaped",
    ),
    pytest.param(
        "prompts:\n"
        "- name: a\n"
        "  prompt: b\n"
        "  layers: x\n"
        "  zzz: 1\n"
        "- name: A\n"
        "  prompt_file: none\n"
        "formats: [pdf]\n"
        "device: tpu\n",
        [
            "4: layers: 'x' is not a list of layers; write for example 0,8,20-27",
            f"5: unknown key 'zzz'; valid keys: {VALID}",
            "6: the name 'A' is taken by line 2 ('a', the same to some file systems); give every prompt its own",
            "7: prompt_file 'none' cannot be read: No such file or directory",
            "8: formats: unknown 'pdf'; choose from csv, json, parquet, html",
            "9: device: unknown 'tpu'; choose auto, cpu, cuda, cuda:N or mps",
        ],
        id="line order",
    ),
]

VISION = [
    pytest.param(
        "defaults: {chat: true}\nprompts:\n- name: a\n  prompt: b\n  chat: true\n",
        ["1: 'chat' belongs to mask_impact_analysis.py", "5: 'chat' belongs to mask_impact_analysis.py"],
        id="chat",
    ),
    pytest.param(
        "prompts:\n"
        "- {name: a, prompt: b, image: none.png}\n"
        "- {name: c, prompt: b, image: [a.png, none.png, folder]}\n"
        "- {name: d, prompt: b, image: {path: a.png}}\n"
        "- {name: e, prompt: b, image: [[a.png]]}\n"
        "- {name: f, prompt: b, image: }\n",
        [
            "2: image 'none.png' cannot be read: No such file or directory",
            "3: image 'none.png' cannot be read: No such file or directory",
            "3: image 'folder' is a folder; give a file",
            "4: image must be a path or a list of paths, but is a mapping",
            "5: image must be a path or a list of paths, but has an item that is a list",
            "6: image is empty",
        ],
        id="images",
    ),
    pytest.param(
        "prompts:\n"
        "- name: a\n"
        "  prompt: b\n"
        "  image: a.png\n"
        "  image_path: b.png\n"
        "- {name: c, prompt: b, image_path: a.png, image: b.png}\n",
        [
            "5: 'image_path' is the same as 'image' in line 4; keep one",
            "6: 'image' is the same as 'image_path' in line 6; keep one",
        ],
        id="both spellings",
    ),
    pytest.param(
        "prompts:\n"
        "- {name: a, prompt: b, mask_mode: vision}\n"
        "- {name: c, prompt: b, mask_mode: all}\n"
        "- {name: d, prompt: b, mask_mode: both, image: []}\n"
        "- {name: e, prompt: b, enabled: false, mask_mode: both}\n",
        [
            "2: mask_mode vision needs an image; give one, or choose text",
            "3: mask_mode both needs an image; give one, or choose text",
            "4: mask_mode both needs an image; give one, or choose text",
            "5: mask_mode both needs an image; give one, or choose text",
        ],
        id="mode without image",
    ),
    pytest.param(
        "defaults: {mask_mode: both}\nprompts:\n- {name: a, prompt: b}\n- {name: c, prompt: b, image: a.png}\n",
        ["3: mask_mode both needs an image; give one, or choose text"],
        id="default mode without image",
    ),
    pytest.param(
        "prompts:\n"
        "- {name: a, prompt: b, image: a.png, mask_mode: image}\n"
        "- {name: c, prompt: b, image: a.png, vision_attention: full, max_pixels: 0}\n",
        [
            "2: mask_mode: unknown 'image'; choose from text, vision, both",
            "3: vision_attention: unknown 'full'; choose from model, bidirectional",
            "3: max_pixels: '0' is not a whole number of 1 or more",
        ],
        id="modes",
    ),
    pytest.param(
        "defaults:\n  image: none.png\nprompts:\n- {name: a, prompt: b}\n- {name: c, prompt: b}\n",
        ["2: image 'none.png' cannot be read: No such file or directory"],
        id="default image is said once",
    ),
    pytest.param(
        "prompts:\n- {name: a, prompt: b, mask_mode: both, image: {a: b}}\n",
        ["2: image must be a path or a list of paths, but is a mapping"],
        id="wrong image is said once",
    ),
]

ALL = [*((case, False) for case in SYNTAX + CONTENT), *((case, True) for case in VISION)]


@pytest.mark.parametrize(
    ("content", "expected", "vision"), [pytest.param(*case.values, vision, id=case.id) for case, vision in ALL]
)
def test_malformed(content, expected, vision):
    said = errors(content, vision)
    assert said == [f"prompts.yaml:{line}" for line in expected]
    assert all(line.isprintable() and len(line) < 500 for line in said)
    assert not Path("made").exists()  # which the tags would make


def test_malformed_count():
    assert len(ALL) >= 45 and sum(len(case.values[1]) > 1 for case, _ in ALL) >= 20


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("none.yaml", "none.yaml: cannot be read: No such file or directory"),
        ("folder", "folder: it is a folder; give a YAML file"),
        ("story.txt/x", "story.txt/x: cannot be read: Not a directory"),
        ("a\0b\n.yaml", "a\\x00b\\n.yaml: cannot be read: no file can have this name"),
    ],
)
def test_file_that_cannot_be_read(path, expected):
    with pytest.raises(ConfigError) as caught:
        read_config(Path(path), vision=False)
    assert caught.value.errors == [expected]


@pytest.mark.parametrize(
    ("locked", "expected"),
    [
        ("prompts.yaml", "prompts.yaml: cannot be read: Permission denied"),
        ("story.txt", "prompts.yaml:1: prompt_file 'story.txt' cannot be read: Permission denied"),
    ],
)
def test_files_without_permission(monkeypatch, locked, expected):
    """As for a user who is not root."""
    FILE.write_text("prompts: [{name: a, prompt_file: story.txt}]")
    opened = Path.open

    def open_unlocked(path: Path, *args: Any, **options: Any) -> Any:
        if path.name == locked:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return opened(path, *args, **options)

    monkeypatch.setattr(Path, "open", open_unlocked)
    with pytest.raises(ConfigError) as caught:
        read_config(FILE, vision=False)
    assert caught.value.errors == [expected]


def test_a_pipe_is_not_waited_for():
    os.mkfifo("pipe")
    message = "prompts.yaml:1: prompt_file 'pipe' is no regular file; give a file"
    assert errors("prompts: [{name: a, prompt_file: pipe}]") == [message]


def test_many_errors_are_cut():
    said = errors("prompts:\n" + "".join(f"- {{name: a{n}, prompt: b, layers: x}}\n" for n in range(MAX_ERRORS + 3)))
    assert len(said) == MAX_ERRORS + 1
    assert said[0].startswith("prompts.yaml:2: ") and said[-2].startswith(f"prompts.yaml:{MAX_ERRORS + 1}: ")
    assert said[-1] == "... and 3 more"
