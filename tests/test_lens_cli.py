"""The command line of latent_lens.py: its flags, its documentation, the demo's captions and its Makefile target."""

import argparse
import re
import shlex
import subprocess
import sys
from pathlib import Path

import captions
import pytest
from scenes import COLORS, SHAPES
from test_cli import ROOT
from transformers import AutoTokenizer

import latent_lens
from mask_impact.lens import cli
from mask_impact.model import find

COMMANDS = ("inspect", "features", "bank", "neighbors", "scales")
PAGE = (ROOT / "docs" / "latent-lens.md").read_text("utf-8")


def subparsers() -> dict[str, argparse.ArgumentParser]:
    [found] = [action for action in cli.build_parser("", "")._actions if isinstance(action.choices, dict)]
    return found.choices


def flags(command: str) -> set[str]:
    return {action.option_strings[-1] for action in subparsers()[command]._actions}


# --- flags --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_is_documented(command: str) -> None:
    assert [flag for flag in flags(command) - {"--help", "--version"} if f"`{flag}" not in PAGE] == []


def test_documented_flags_exist() -> None:
    known = set().union(*map(flags, COMMANDS))
    of_others = re.compile(r"mask_impact_|benchmarks/|accelerate launch")
    lines = [line for line in PAGE.splitlines() if not of_others.search(line)]
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+\b", "\n".join(lines))) - known == set()


def test_help_does_not_wait_for_torch() -> None:
    code = (
        "import sys, latent_lens\n"
        "try:\n    latent_lens.main(['features', '--help'])\n"
        "except SystemExit:\n    print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.endswith("[]\n") and "--save-features" in found.stdout


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "COMMAND"),
        (["look"], "invalid choice: 'look'"),
        (["features", "--layers", "a"], "'a' is not a list of layers"),
        (["features", "--layers", "8-4"], "runs backwards"),
        (["features", "--feature-dtype", "int8"], "choose from float16, bfloat16, float32"),
        (["features", "--num-images", "0"], "'0' is not a whole number of 1 or more"),
        (["features", "--resume", "--overwrite"], "not allowed with"),
        (["features", "--save"], "unknown flag --save; did you mean --save-features?"),
        (["bank"], "the following arguments are required: --captions"),
        (["neighbors", "--image", "a.png"], "the following arguments are required: --bank"),
        (["scales", "--image", "a.png", "--max-pixels", "4096"], "'4096' is one size; give two or more to compare"),
        (["scales", "--image", "a.png", "--max-pixels", "64,4096,64"], "has 64 twice; give each size once"),
        (["scales", "--image", "a.png", "--max-pixels", "64,0"], "'0' is not a whole number of 1 or more"),
        (["inspect", "--size", "12"], "write for example 640x480"),
        (["inspect", "--device", "tpu"], "choose auto, cpu, cuda, cuda:N or mps"),
    ],
)
def test_a_wrong_flag_is_one_line(argv: list[str], says: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        latent_lens.main(argv)
    printed = capsys.readouterr()
    assert (stop.value.code, printed.out) == (2, "")
    assert re.fullmatch(r"error: [^\n]+\n", printed.err) and says in printed.err


@pytest.mark.parametrize(
    ("model", "says"),
    [("nowhere/at/all", "no folder 'nowhere/at/all'"), (str(ROOT / "demo" / "text"), "which takes no images")],
)
def test_a_model_that_cannot_be_had(model: str, says: str, capsys: pytest.CaptureFixture) -> None:
    assert latent_lens.main(["inspect", "--model", model]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and re.fullmatch(r"error: [^\n]+\n", printed.err) and says in printed.err


# --- the demo -----------------------------------------------------------------------------------------------
def test_the_captions_are_what_the_script_draws() -> None:
    written = captions.CAPTIONS.read_text("utf-8")
    assert captions.text() == written, "run: python demo/captions.py"
    lines = written.splitlines()
    assert len(set(lines)) == len(lines) == captions.COUNT


def test_the_captions_are_in_the_demo_models_words() -> None:
    """Every word is one token, as in training, and every color and shape is there often, after many beginnings."""
    tokenizer = AutoTokenizer.from_pretrained(find.demo_folder("vl"))
    lines = captions.CAPTIONS.read_text("utf-8").splitlines()
    words = {word for line in lines for word in re.findall(r" ?\w+", line)} - {"s"}
    assert [word for word in words if len(tokenizer(word)["input_ids"]) > 1] == []
    for word in (*COLORS, *SHAPES):
        assert len({line[: line.index(word)] for line in lines if word in line}) >= 40, word


def test_the_makefile_runs_the_four_commands() -> None:
    target = re.search(r"^demo-lens:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert target is not None
    lines = [shlex.split(line) for line in target[1].splitlines()]
    used = [line[2:] for line in lines if line[1] == "latent_lens.py"]
    assert [line[0] for line in used] == ["features", "bank", "neighbors"]
    for line in used:
        args = cli.build_parser("", "").parse_args(line)
        assert args.model == "demo" and args.output_dir.parts[0] == "output" and args.overwrite
    assert Path(ROOT / "demo" / "captions.txt").is_file() and lines[-1][0] == "@echo"


def test_the_scripts_examples_parse() -> None:
    examples = re.findall(r"^    python latent_lens.py (.+)$", latent_lens.__doc__ or "", re.MULTILINE)
    assert [shlex.split(example)[0] for example in examples] == list(COMMANDS)
    for example in examples:
        cli.build_parser("", "").parse_args(shlex.split(example))
