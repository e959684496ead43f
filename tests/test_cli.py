"""The command line: what a user types, sees, gets as files and as exit code.

Most tests call `main` in this process; a few start a real process, for what only that shows.
"""

import errno
import fcntl
import json
import os
import pty
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import termios
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import checkpoints
import numpy as np
import pandas as pd
import pytest
import torch
from prepared import PREPARED
from started import started, wait_until
from transformers import AutoModelForCausalLM, AutoTokenizer

import mask_impact_analysis
from mask_impact.errors import UserError
from mask_impact.files import page as pages
from mask_impact.files import results, temporaries
from mask_impact.files.folder import LOCK_NAME
from mask_impact.model import find, load

torch.set_num_threads(1)  # tiny models: threads would only wait for each other

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = str(ROOT / "mask_impact_analysis.py")
PROMPT = "The capital of France is"
TOKENS = ["The", " capital", " of", " France", " is"]
VARIANTS = ["Full", "Attn", *(f"Head_{head}" for head in range(checkpoints.HEADS))]


class Ended(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.qwen3(tmp_path_factory.mktemp("cli") / "good")


@pytest.fixture
def run(tmp_path: Path, good: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> Callable:
    """run("--layers", 0) -> Ended: the command in an empty folder, by default on the good checkpoint and PROMPT."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def call(*arguments: Any, prompt: str | None = PROMPT, model: Any = good) -> Ended:
        argv = [str(argument) for argument in arguments]
        argv += [] if prompt is None else ["--prompt", prompt]
        argv += [] if model is None else ["--model", str(model)]
        capfd.readouterr()
        try:
            code = mask_impact_analysis.main(argv)
        except SystemExit as stop:  # argparse
            code = int(stop.code or 0)
        return Ended(code, *capfd.readouterr())

    return call


def refuses(ended: Ended, *parts: str) -> None:
    """Exit code 2, one line on stderr that says `parts`, and nothing else, neither printed nor written."""
    assert (ended.code, ended.out) == (2, "")
    assert re.fullmatch(r"error: [^\n]+\n", ended.err), ended.err
    for part in parts:
        assert part in ended.err
    assert everything(Path.cwd()) == {}


def everything(folder: Path) -> dict[str, bytes | None]:
    """Every file below with its content, hidden ones too, but for the folder's lock; every folder with None."""
    found = [path for path in sorted(folder.rglob("*")) if path.name != LOCK_NAME]
    return {str(p.relative_to(folder)): None if p.is_dir() else p.read_bytes() for p in found}


def manifest(name: str = "masking") -> dict[str, Any]:
    return json.loads(Path(f"output/{name}_run.json").read_text("utf-8"))


# --- bad input: the prompt --------------------------------------------------------------------------------
@pytest.mark.parametrize("prompt", ["", "  \n"])
def test_empty_prompt(run, prompt):
    refuses(run(prompt=prompt), "the prompt is empty", "with --prompt")


def test_prompt_that_is_no_text(run):
    refuses(run(prompt="caf\udce9"), "not valid text", "UTF-8")  # Latin-1 bytes in a UTF-8 terminal


@pytest.mark.parametrize(
    ("content", "part"),
    [(None, "cannot be read: No such file"), (b"", "is empty"), (b" \n", "is empty"), (b"caf\xe9", "not UTF-8")],
)
def test_bad_prompt_file(run, tmp_path, content, part):
    file = tmp_path / "prompt"
    if content is not None:
        file.write_bytes(content)
    refuses(run("--prompt-file", file, prompt=None), part, str(file))


def test_prompt_file_that_is_a_folder(run, tmp_path):
    refuses(run("--prompt-file", tmp_path, prompt=None), "is a folder; give a text file")


def test_no_prompt_at_all(run):
    refuses(run(prompt=None), "prompt.txt cannot be read", "no --prompt was given")


def test_two_prompts(run):
    refuses(run("--prompt-file", "p.txt"), "--prompt", "not allowed with argument")


@pytest.mark.parametrize("flag", ["--colour", "--num", "--output-d"])
def test_unknown_and_shortened_flags(run, flag):
    refuses(run(flag, "1"), f"unknown flag {flag}", "--help")


def test_unknown_flag_with_a_line_break_is_still_one_line(run):
    refuses(run("--a\nb"), "unknown flag --a b")


# --- bad input: the model ---------------------------------------------------------------------------------
def test_unknown_model(run, monkeypatch):
    monkeypatch.setattr(find, "hub_answers", lambda: False)
    refuses(run(model="org/name"), "no folder 'org/name' here", "hub cannot be reached", "--model demo")
    refuses(run(model="./nowhere"), "no folder './nowhere'", "demo")


def test_no_bundled_model(run, monkeypatch, tmp_path):
    monkeypatch.setattr(find, "PACKAGE", tmp_path / "mask_impact")
    refuses(run(model="demo"), "the bundled demo model is missing")


BROKEN = {
    "missing_weight": "lacks weights: model.layers.1.mlp.up_proj.weight",
    "unexpected_weight": "has no place: model.layers.1.self_attn.gate.weight",
    "damaged": "cannot be loaded",
    "pickled": "--allow-pickle",
    "without_config": "no config.json",
    "without_tokenizer": "",
    "of_unknown_family": "does not know; update it",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_checkpoint(run, tmp_path, good, kind):
    folder = getattr(checkpoints, kind)(tmp_path / kind, good)
    refuses(run(model=folder), BROKEN[kind], str(folder))


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        ("bert", ["'bert'", "does not generate text"]),
        ("whisper", ["'whisper'", "an encoder-decoder, but none from text to text"]),
        ("qwen2_5_vl", ["'qwen2_5_vl'", "vision-language", "mask_impact_vl.py"]),
        ("mamba", ["'mamba'", "it has no attention"]),
    ],
)
def test_model_of_another_kind(run, tmp_path, kind, parts):
    refuses(run(model=getattr(checkpoints, kind)(tmp_path / kind)), *parts)


def test_own_code_is_refused(run, tmp_path, good):
    folder = checkpoints.with_own_code(tmp_path / "own", good, tmp_path / "it ran")
    refuses(run(model=folder), "runs its own Python code", "--trust-remote-code")
    assert not (tmp_path / "it ran").exists()


def test_own_code_with_trust_remote_code(run, tmp_path, good, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    folder = checkpoints.with_own_code(tmp_path / "own", good, tmp_path / "it ran")
    assert run("--trust-remote-code", model=folder).code == 0
    assert (tmp_path / "it ran").exists() and manifest()["model"]["family"] == "own"


def test_pickled_weights_with_allow_pickle(run, tmp_path, good):
    assert run("--output", "safe").code == 0
    assert run("--output", "pickle", "--allow-pickle", model=checkpoints.pickled(tmp_path / "old", good)).code == 0
    assert Path("output/safe_results.csv").read_bytes() == Path("output/pickle_results.csv").read_bytes()


def test_help_says_what_a_pickle_can_do(run):
    text = " ".join(run("--help").out.split())
    assert "--allow-pickle also load pickled weights; a pickle can run any code" in text


@pytest.mark.parametrize(("words", "tokens"), [(65, 1), (60, 6)])
def test_too_long(run, words, tokens):
    prompt = "a" + " is" * (words - 1)
    refuses(run("--num-tokens", tokens, prompt=prompt), f"has {words} tokens", "65 positions", "has 64")


def test_just_not_too_long(run):
    assert run("--num-tokens", 5, "--layers", 0, prompt="a" + " is" * 59).code == 0


def test_chat_without_a_template(run, tmp_path):
    folder = checkpoints.qwen3(tmp_path / "plain", chat_template=None)
    refuses(run("--chat", model=folder), "no chat template", "leave --chat out")


# --- bad input: other flags -------------------------------------------------------------------------------
@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "", "1e3", "²"])
def test_num_tokens(run, value):
    refuses(run("--num-tokens", value), f"--num-tokens: {value!r} is not a whole number of 1 or more")


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ("2", "no layer 2; this model has layers 0 to 1"),
        ("0-99999999999", "no layer 99999999999"),
        ("1-0", "runs backwards; write 0-1"),
        ("", "not a list of layers"),
        ("0,,1", "not a list of layers"),
        ("0-", "not a list of layers"),
        ("last", "for example 0,8,20-27"),
        ("0-1-2", "not a list of layers"),
        ("1.0", "not a list of layers"),
    ],
)
def test_layers(run, value, part):
    refuses(run("--layers", value), part)


@pytest.mark.parametrize(
    ("flag", "value", "parts"),
    [
        ("--variants", "full,mlp", ["unknown 'mlp'", "choose from full, attn, head"]),
        ("--variants", ",", ["nothing chosen"]),
        ("--format", "xlsx", ["unknown 'xlsx'", "choose from csv, json, parquet, html"]),
        ("--format", "", ["nothing chosen"]),
        ("--head-space", "input", ["'input'", "residual"]),
        ("--dtype", "float64", ["'float64'", "bfloat16"]),
        ("--device", "gpu", ["'gpu'", "cuda:N"]),
        ("--device", "cuda:-1", ["'cuda:-1'"]),
        ("--device", "cuda:99999999999999999999", ["cuda:99999999999999999999"]),
    ],
)
def test_choices(run, flag, value, parts):
    refuses(run(flag, value), *parts)


@pytest.mark.parametrize("device", ["cuda", "cuda:7"])
def test_cuda_that_is_not_there(run, monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refuses(run("--device", device), f"device {device!r} was asked for, but torch finds 0", "--device cpu or auto")


def test_cuda_device_beyond_the_last(run, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    refuses(run("--device", "cuda:7"), "'cuda:7'", "finds 2 CUDA devices")


# --- bad input: where the results go ----------------------------------------------------------------------
@pytest.mark.parametrize(
    "name",
    [
        *("a/b", "a\\b", "/tmp/x", "..", ".", ".hidden", "", " a", "a ", "a.", "a:b", "a*", "a\nb", "a\x7f", "a\udcff"),
        *("con", "NUL.txt", "com1", "LPT9.x", "aux .txt", "com²"),
        *("x" * 151, "é" * 76),
    ],
)
def test_output_name(run, name):
    refuses(run("--output", name), "--output")


def test_longest_output_name(run):
    assert run("--output", "é" * 75, "--layers", 0, "--quiet") == Ended(0, "", "")


def test_output_folder_that_is_a_file(run, tmp_path):
    (tmp_path / "file").write_text("mine")
    refuses(run("--output-dir", tmp_path / "file"), "not a folder", "choose another --output-dir")
    refuses(run("--output-dir", tmp_path / "file" / "below"), "not a folder")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_output_folder_where_nothing_can_be_made(run):
    refuses(run("--output-dir", "/proc/results"), "output folder /proc/results cannot be written", "--output-dir")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EPERM])
def test_output_folder_that_may_not_be_written(run, monkeypatch, number):
    def refuse(*args: object, **kwargs: object) -> str:
        raise OSError(number, os.strerror(number), "output/x")

    monkeypatch.setattr(temporaries.tempfile, "mkdtemp", refuse)
    refuses(run(), "output folder output cannot be written", os.strerror(number), "--output-dir")


def test_disk_that_is_too_small(run, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 500, 500))
    refuses(run(), "the results need about", "0 MB free", "--output-dir")


def test_estimate_of_the_space_is_what_the_files_take(run, monkeypatch):
    """Not too little, and not so much more that a run is refused that would have fitted."""
    command = ["--format", "csv,json,parquet,html", "--num-tokens", 4, "--prompt", "a" + " is" * 50]
    assert run(*command, prompt=None).code == 0
    sizes, rows = (
        {path.suffix[1:]: path.stat().st_size for path in Path("output").glob("*_results.*")},
        manifest()["rows"],
    )
    page = pages.find_page().stat().st_size
    formats = results.FORMATS
    needed = sum(rows * formats[form].bytes_per_row + formats[form].bytes_per_file for form in sizes)
    assert sum(sizes.values()) < needed < 2 * sum(sizes.values()) and page < formats["html"].bytes_per_file
    tables = [form for form in sizes if form != "html"]
    assert rows * sum(formats[form].bytes_per_row for form in tables) < 2 * sum(sizes[form] for form in tables)
    assert sizes["html"] - page < rows * formats["html"].bytes_per_row
    for free, code in ((needed - 1, 2), (needed, 0)):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: shutil._ntuple_diskusage(0, 0, free))
        assert run(*command, prompt=None).code == code


@pytest.mark.parametrize("forms", ["csv", "json", "csv,json,parquet,html"])
def test_a_dry_run_says_at_most_twice_what_the_demo_takes(run, forms):
    flags = ["--format", forms, "--num-tokens", 3]
    said = re.search(r"at most [\d,]+ rows, ([\d.]+) MB", run(*flags, "--dry-run", model="demo").out)
    assert run(*flags, model="demo").code == 0
    real = sum(path.stat().st_size for path in Path("output").glob("*_results.*")) / 1e6
    assert real - 0.05 <= float(said[1]) <= 2 * real + 0.05  # it has one decimal


def test_a_report_that_is_too_large(run, monkeypatch):
    """Nothing is measured for it alone; among other formats it is left out, and the summary says so."""
    monkeypatch.setattr(pages, "MAX_BASE64", 100)
    refuses(run("--format", "html"), "the report would be 0 MB", "choose --format parquet")
    ended = run("--format", "parquet,html")
    assert ended.code == 0 and set(everything(Path("output"))) == {"masking_results.parquet", "masking_run.json"}
    (note,) = manifest()["notes"]
    assert "note       masking_results.html was not written: the report would be" in ended.out and note in ended.out


def fails_on_call(number: int, error: BaseException) -> Callable:
    """A CsvWriter.write that works until its call `number`."""
    calls, original = [], results.CsvWriter.write

    def write(self: results.CsvWriter, block: results.Block) -> None:
        calls.append(block)
        if len(calls) == number:
            raise error
        original(self, block)

    return write


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_disk_that_is_full_in_the_middle(run, monkeypatch, number):
    full = OSError(number, os.strerror(number))
    monkeypatch.setattr(results.CsvWriter, "write", fails_on_call(2, full))
    refuses(run(), "the disk of the output folder output is full", "nothing was written", "--output-dir")


def test_disk_that_is_full_at_the_end(run, monkeypatch):
    def refuse(path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(temporaries, "sync_file", refuse)
    refuses(run(), "disk of the output folder output is full")


def test_a_failed_run_removes_only_folders_it_made(run, monkeypatch):
    monkeypatch.setattr(results.CsvWriter, "write", fails_on_call(1, ValueError("broken")))
    (Path("mine")).mkdir()
    assert run("--output-dir", "mine/a/b").code == 1
    assert everything(Path.cwd()) == {"mine": None}
    monkeypatch.setattr(results.CsvWriter, "write", fails_on_call(1, ValueError("broken")))
    assert run("--output-dir", "mine").code == 1
    assert everything(Path.cwd()) == {"mine": None}


def test_results_under_a_given_name_are_kept(run):
    assert run("--output", "mine", "--layers", 0).code == 0
    before = everything(Path.cwd())
    ended = run("--output", "mine")
    assert (ended.code, ended.out) == (2, "") and everything(Path.cwd()) == before
    exists = "error: output/mine_run.json exists already; choose another name, keep what is done with --resume, or "
    assert ended.err == f"{exists}replace it with --overwrite\n"
    assert run("--output", "other", "--layers", 0).code == 0  # one name does not stand in another's way
    assert run("--output", "mine", "--overwrite", "--format", "parquet").code == 0
    names = {path.name for path in Path("output").iterdir() if path.name.startswith("mine")}
    assert names == {"mine_results.parquet", "mine_run.json"} and manifest("mine")["layers"] == [0, 1]


def test_the_default_name_is_scratch(run):
    assert run("--layers", 0).code == 0
    assert run("--layers", 1, "--format", "csv").code == 0
    assert sorted(everything(Path("output"))) == ["masking_results.csv", "masking_run.json"]
    assert manifest()["layers"] == [1]
    assert set(results.read_csv("output/masking_results.csv").layer) == {1}


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), ValueError("a nan"), KeyboardInterrupt()])
def test_a_failed_run_leaves_the_old_results_as_they_were(run, monkeypatch, error):
    assert run().code == 0
    before = everything(Path.cwd())
    monkeypatch.setattr(results.CsvWriter, "write", fails_on_call(2, error))
    ended = run("--num-tokens", 2)
    assert ended.code == {OSError: 2, ValueError: 1, KeyboardInterrupt: 130}[type(error)]
    assert everything(Path.cwd()) == before
    assert ended.out == "" and len(ended.err.splitlines()) == 1


# --- failures while running -------------------------------------------------------------------------------
def test_an_unforeseen_error_is_one_line_and_verbose_shows_the_traceback(run, monkeypatch):
    monkeypatch.setattr(results.CsvWriter, "write", fails_on_call(2, ValueError("two\nlines")))
    ended = run()
    assert (ended.code, ended.err) == (1, "error: unexpected failure: two lines (--verbose shows where)\n")
    monkeypatch.setattr(results.CsvWriter, "write", fails_on_call(2, ValueError("two\nlines")))
    ended = run("--verbose")
    assert ended.code == 1 and "Traceback (most recent call last)" in ended.err
    assert ended.err.splitlines()[-1] == "error: unexpected failure: two lines"
    assert everything(Path.cwd()) == {}


def test_verbose_shows_the_traceback_of_bad_input_too(run, tmp_path, good):
    ended = run("--verbose", model=checkpoints.damaged(tmp_path / "damaged", good))
    assert ended.code == 2 and "SafetensorError" in ended.err and "Traceback" in ended.err
    assert ended.err.splitlines()[-1].startswith("error: model ")


def test_warnings_of_libraries_only_with_verbose(run, monkeypatch):
    original = load.load_model

    def noisy(*args: Any) -> Any:
        warnings.warn("some library says something", stacklevel=2)
        return original(*args)

    monkeypatch.setattr(load, "load_model", noisy)
    with warnings.catch_warnings(record=True) as seen:  # pytest keeps warnings away from stderr
        warnings.simplefilter("always")
        assert run().code == 0
    assert seen == []
    with pytest.warns(UserWarning, match="some library says something"):
        assert run("--verbose").code == 0


# --- good runs --------------------------------------------------------------------------------------------
def test_files_of_the_three_formats_hold_the_same_table(run):
    assert run("--format", "parquet,csv,json", "--output", "mine", "--num-tokens", 2).code == 0
    files = [f"mine_results.{form}" for form in ("csv", "json", "parquet")]
    assert sorted(everything(Path("output"))) == [*files, "mine_run.json"]
    assert manifest("mine")["files"] == files and manifest("mine")["name"] == "mine"
    table = results.read_csv(f"output/{files[0]}")
    pd.testing.assert_frame_equal(table, pd.read_parquet(f"output/{files[2]}"), check_exact=True)
    read = pd.read_json(f"output/{files[1]}", dtype={"token_masked": str})
    assert read.token_masked.tolist() == table.token_masked.tolist()
    assert (read.l2_distance.astype("float32") == table.l2_distance).all()
    made = [(s, layer, p, v) for s in (0, 1) for layer in (0, 1) for p in range(5 + s) for v in VARIANTS]
    found = table[["generation_step", "layer", "token_position", "variant"]].itertuples(index=False, name=None)
    assert list(found) == made
    assert table.token_masked[table.generation_step == 0].unique().tolist() == TOKENS
    assert (table.l2_distance > 0).all() and manifest("mine")["rows"] == len(made)


def test_default_formats_and_folder(run):
    assert run().code == 0
    assert sorted(everything(Path.cwd())) == [
        "output", "output/masking_results.csv", "output/masking_results.html", "output/masking_results.json",
        "output/masking_run.json",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "layers", "variants"),
    [
        (["--layers", "1"], [1], VARIANTS),
        (["--layers", "1,0-1"], [0, 1], VARIANTS),
        (["--layers", "all"], [0, 1], VARIANTS),
        (["--variants", "full"], [0, 1], ["Full"]),
        (["--variants", "head, attn"], [0, 1], VARIANTS[1:]),
    ],
)
def test_choosing_layers_and_variants_changes_no_number(run, flags, layers, variants):
    assert run("--output", "all").code == 0 and run("--output", "some", *flags).code == 0
    every, some = (results.read_csv(f"output/{name}_results.csv") for name in ("all", "some"))
    expected = every[every.layer.isin(layers) & every.variant.isin(variants)].reset_index(drop=True)
    keys = results.COLUMNS[:5]
    assert some[list(keys)].equals(expected[list(keys)])
    for column in results.COLUMNS[5:]:  # batches of another size round differently
        np.testing.assert_allclose(some[column], expected[column], rtol=1e-3, atol=1e-6)
    assert manifest("some")["layers"] == layers and manifest("some")["variants"] == variants


def test_head_space(run):
    assert run("--output", "o").code == 0 and run("--output", "r", "--head-space", "residual").code == 0
    output, residual = (results.read_csv(f"output/{name}_results.csv") for name in "or")
    heads = output.variant.str.startswith("Head")
    assert (output.l2_distance[~heads] == residual.l2_distance[~heads]).all()
    assert (output.l2_distance[heads] != residual.l2_distance[heads]).all()
    assert (manifest("o")["head_space"], manifest("r")["head_space"]) == ("output", "residual")


def test_generation_stops_at_im_end(run, tmp_path, good):
    folder = checkpoints.stopping(tmp_path / "stopping", good, PROMPT, step=2)
    ended = run("--num-tokens", 9, model=folder)
    assert ended.code == 0 and "3 generated (stopped at the end of the text)" in ended.out
    found = manifest()
    assert [each["id"] for each in found["generated"]][-1] == checkpoints.IM_END
    assert (len(found["generated"]), found["stop_reason"]) == (3, "end of text")
    assert set(results.read_csv("output/masking_results.csv").generation_step) == {0, 1, 2}
    assert run("--num-tokens", 2, model=folder).code == 0
    assert manifest()["stop_reason"] == "length"


def test_chat(run):
    assert run("--chat", prompt="Hi").code == 0
    found = manifest()
    assert (found["chat"], found["prompt"]) == (True, "Hi")
    prompt = "".join(each["text"] for each in found["tokens"][: found["prompt_length"]])
    assert prompt == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert run(prompt="Hi").code == 0
    assert (manifest()["chat"], manifest()["prompt_length"]) == (False, 2)


@pytest.mark.parametrize(
    ("content", "prompt"),
    [
        (b"The capital of France is\n", PROMPT),
        (b"\xef\xbb\xbfThe capital of France is", PROMPT),  # as Windows editors save UTF-8
        (b"a\r\nb\r\n", "a\nb"),
        (b" a \n\n", " a \n"),
    ],
)
def test_prompt_file(run, content, prompt):
    Path("prompt.txt").write_bytes(content)
    assert run(prompt=None).code == 0
    assert manifest()["prompt"] == prompt
    Path("prompt.txt").rename("other.txt")
    assert run("--prompt-file", "other.txt", prompt=None).code == 0
    assert manifest()["prompt"] == prompt


def test_the_same_command_gives_the_same_bytes(run):
    for name in ("one", "two"):
        assert run("--output", name, "--num-tokens", 3).code == 0
    for form in ("csv", "json"):
        one, two = (Path(f"output/{name}_results.{form}").read_bytes() for name in ("one", "two"))
        assert one == two and len(one) > 1000


def test_dtype_and_device(run):
    assert run("--dtype", "bfloat16", "--device", "cpu").code == 0
    assert (manifest()["dtype"], manifest()["device"]) == ("bfloat16", "cpu")


def ranked(full: pd.DataFrame) -> pd.DataFrame:
    """The row of each token's peak layer, at the step where the root of the sum of squares over layers is largest."""
    keys = ["generation_step", "token_position"]
    root = full.l2_distance.astype(float).pow(2).groupby([full[key] for key in keys]).sum().pow(0.5)
    peaks = full.loc[full.groupby(keys).l2_distance.idxmax()].set_index(keys).assign(root=root).reset_index()
    return peaks.loc[peaks.groupby("token_position").root.idxmax()].sort_values("root", ascending=False)


def test_the_summary_says_what_matters(run, good):
    ended = run("--num-tokens", 2)
    assert ended.code == 0 and ended.err == ""
    found, table = manifest(), results.read_csv("output/masking_results.csv")
    lines = {line.split(" ")[0]: line for line in ended.out.splitlines() if line}
    assert str(good) in lines["model"] and "qwen3, 2 layers, 4 heads" in lines["model"]
    assert "float32, cpu" in lines["model"]
    assert lines["tokens"].split() == ["tokens", "5", "in", "the", "prompt,", "2", "generated"]
    assert repr("".join(each["text"] for each in found["generated"])) in lines["generated"]
    total = float(re.search(r"total ([\d.]+)$", lines["seconds"])[1])  # with the moment it takes to finish the files
    assert found["seconds"]["total"] - 0.01 <= total < found["seconds"]["total"] + 5
    for name in ("masking_results.csv", "masking_results.json", "masking_results.html", "masking_run.json"):
        assert f" {Path('output') / name}\n" in ended.out
    full = table[(table.variant == "Full") & (table.token_position > 0)]
    rows = [
        (repr(r.token_masked), str(r.token_position), f"{r.root:.4g}", str(r.layer)) for r in ranked(full).itertuples()
    ]
    shown = [line for line in ended.out.splitlines() if re.match(r"['\"]", line) and "  reads " not in line]
    assert [tuple(re.split(r" {2,}", line)[:4]) for line in shown[:-1]] == rows[:5] and len(rows) == 5
    assert shown[-1].startswith("'The'") and "apart" in shown[-1]


def test_quiet_prints_nothing(run):
    assert run("--quiet") == Ended(0, "", "")
    assert manifest()["rows"] == 5 * 2 * 6
    refuses_quietly = run("--quiet", "--layers", "9")
    assert refuses_quietly.code == 2 and refuses_quietly.err.startswith("error: ")


def test_manifest_has_the_documented_keys_and_no_others(run):
    assert run("--num-tokens", 2).code == 0
    text = (ROOT / "docs" / "output-format.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", text.split("## The manifest")[1], re.MULTILINE)
    documented = dict(rows)
    found = manifest()
    assert next(iter(found)) == "schema_version" and set(found) == set(documented)
    nested = {
        "model": found["model"],
        "versions": found["versions"],
        "seconds": found["seconds"],
        "tokens": found["tokens"][0] | dict.fromkeys(("video", "frame", "seconds")),  # of a video
        "generated": found["generated"][0] | {"given": True, "own_choice": {}},  # of a given answer
        "noise_floor": found["noise_floor"] | found["noise_floor"]["Full"],
    }
    for key, value in nested.items():
        named = set(re.findall(r"`(\w+)`", documented[key]))
        assert set(value) == named, f"{key}: written {sorted(set(value) - named)}, only documented {named - set(value)}"
    assert found["argv"][:2] == ["--num-tokens", "2"]
    assert [each["text"] for each in found["tokens"]][:5] == TOKENS and len(found["tokens"]) == 7
    assert all(0 < each["probability"] <= 1 for each in found["generated"])


# --- from Python ------------------------------------------------------------------------------------------
def test_python_gives_the_same_table_as_the_command(run, good):
    assert run("--num-tokens", 2).code == 0
    table, found = results.read_csv("output/masking_results.csv"), manifest()
    model = AutoModelForCausalLM.from_pretrained(good, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(good)
    call = mask_impact_analysis.run_masking_experiment
    by_name = call(prompt=PROMPT, model_name=str(good), device="cpu", num_output_tokens=2)
    loaded = call(PROMPT, num_output_tokens=2, model=model, tokenizer=tokenizer)
    for frame in (by_name, loaded):
        assert frame.attrs["run"]["tokens"] == found["tokens"]
    pd.testing.assert_frame_equal(pd.DataFrame(by_name), table, check_exact=True)
    # Its weights lie elsewhere in memory: other last digits, see `models.aligned`.
    pd.testing.assert_frame_equal(pd.DataFrame(loaded), table, rtol=1e-4, atol=1e-6)
    assert by_name.attrs["run"]["model"] == found["model"]
    some = call(PROMPT, str(good), layers=[1], variants=["attn"], head_space="residual", chat=True, dtype="bfloat16")
    assert (set(some.layer), set(some.variant)) == ({1}, {"Attn"})
    assert (some.attrs["run"]["dtype"], some.attrs["run"]["chat"]) == ("bfloat16", True)
    assert call(PROMPT, str(good), layers="0-1").equals(call(PROMPT, str(good)))


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"prompt": ""}, "prompt is empty"),
        ({"num_output_tokens": 0}, "must be a whole number of 1 or more"),
        ({"num_output_tokens": 99}, "positions"),
        ({"layers": [2]}, "no layer 2"),
        ({"layers": []}, "not a list of layers"),
        ({"layers": [-1]}, "not a list of layers"),
        ({"variants": ["mlp"]}, "unknown variant 'mlp'"),
        ({"variants": []}, "no variant"),
        ({"head_space": "input"}, "unknown head space"),
        ({"dtype": "float8"}, "unknown dtype"),
        ({"device": "tpu"}, "unknown device"),
        ({"tokenizer": object()}, "give both model and tokenizer"),
    ],
)
def test_python_refuses_bad_input_before_the_weights_are_loaded(good, monkeypatch, options, part):
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *a, **k: pytest.fail("weights were loaded"))
    arguments = {"prompt": PROMPT, "model_name": str(good), **options}
    with pytest.raises(UserError, match=part):
        mask_impact_analysis.run_masking_experiment(**arguments)


# --- real processes ---------------------------------------------------------------------------------------
def process(*argv: Any, python: Sequence[str] = PREPARED, **options: Any) -> AbstractContextManager[subprocess.Popen]:
    command = [*python, SCRIPT, *map(str, argv)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "encoding": "utf-8"}
    one_thread = {"env": os.environ | {"OMP_NUM_THREADS": "1"}}
    return started(command, **(pipes | one_thread | options))


def without_progress(err: str) -> str:
    """stderr without the bar that runs of more than ten seconds show; a busy machine makes one of any run."""
    lines = err.splitlines(keepends=True)
    return "".join(line for line in lines if line.strip() and not re.search(r"\d<[\d?:]+", line))


def test_help_answers_at_once_and_without_torch(tmp_path):
    code = (
        "import sys, mask_impact_analysis\n"
        "try: mask_impact_analysis.main(['--help'])\n"
        "finally: print(*{'torch', 'transformers', 'pandas', 'pyarrow'} & set(sys.modules), file=sys.stderr)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stderr.split() == []
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1  # of CPU
    for flag in ("--model", "--num-tokens", "--chat", "mask_impact_analysis.py --model demo"):
        assert flag in done.stdout


def test_error_in_a_real_process_is_exactly_one_line(tmp_path, good):
    """Also nothing from transformers, whose report of the missing weight would be a page."""
    folder = checkpoints.missing_weight(tmp_path / "model", good)
    with process("--model", folder, "--prompt", PROMPT, cwd=tmp_path, python=[sys.executable]) as running:
        out, err = running.communicate(timeout=300)
    assert (running.returncode, out) == (2, "")
    assert re.fullmatch(r"error: the checkpoint [^\n]+ lacks weights[^\n]+\n", without_progress(err)), err
    assert not (tmp_path / "output").exists()


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo terminal")
def test_on_a_terminal_progress_is_one_line_that_goes_away(tmp_path, good):
    """stderr is a terminal, stdout a console that can only print ASCII."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    env = os.environ | {"PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1"}
    prompt = "é" + PROMPT
    with process("--model", good, "--prompt", prompt, cwd=tmp_path, stderr=follower, env=env) as running:
        os.close(follower)
        shown = b""
        try:
            while part := os.read(leader, 4096):
                shown += part
        except OSError:  # the other end is closed
            pass
        os.close(leader)
        out = running.communicate(timeout=300)[0]
    text = shown.decode()
    assert running.returncode == 0, text
    assert "\n" not in text and f"loading {good}" in text and "generate and record" in text
    assert text.rstrip("\r").rpartition("\r")[2].strip() == ""  # wiped at the end
    assert "model      " in out and out.isascii()


def test_a_reader_that_goes_away_is_no_failure(tmp_path, good):
    reading, writing = os.pipe()
    os.close(reading)
    with process("--model", good, "--prompt", PROMPT, cwd=tmp_path, stdout=writing) as running:
        os.close(writing)
        err = running.communicate(timeout=300)[1]
    assert (running.returncode, without_progress(err)) == (0, "")
    assert (tmp_path / "output" / "masking_run.json").exists()


def test_ctrl_c_in_the_middle_of_a_run(tmp_path):
    """SIGINT while rows are being written: 130, one line, the old results as they were, no temporary files."""
    large = checkpoints.qwen3(tmp_path / "model", num_hidden_layers=16, max_position_embeddings=4000)
    here = tmp_path / "here"
    (here / "output").mkdir(parents=True)
    (here / "output" / "masking_run.json").write_text("{}")
    before = everything(here)
    with process("--model", large, "--prompt", "a" + " is" * 600, "--num-tokens", 8, cwd=here) as running:
        wait_until(lambda: any(path.stat().st_size > 1000 for path in here.glob("output/.masking*/*.csv")), running)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=20)
    assert (running.returncode, out) == (130, "")
    # On a busy machine the run may be long enough to show progress before.
    assert err.splitlines()[-1] == "interrupted: nothing of the unfinished run was written" and "Trace" not in err, err
    assert everything(here) == before
