"""What messages call an option: the commands its flag, the Python functions their keyword; and flags that do not exist.

pytest tests/test_option_names.py
"""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
from test_batch import write_config

import latent_lens
import mask_impact_analysis
import mask_impact_vl
from mask_impact import run_effects_experiment, run_masking_experiment, run_vl_masking_experiment
from mask_impact.commands.flags import script_parser
from mask_impact.errors import OutOfMemory, UserError
from mask_impact.impact.meter import Meter
from mask_impact.jobs import from_python
from mask_impact.model.memory import ADVICE
from mask_impact.options import Request, Settings, named, options_of

ROOT = Path(__file__).resolve().parents[1]
ENGINE = ("prompt", "model", "impact", "effects", "files", "jobs")  # which know neither commands nor keywords
OF_COMMANDS = {"resume", "overwrite"}  # flags that are no field
PROMPT = "Tom has a red ball."
TEXT, VISION = mask_impact_analysis.main, mask_impact_vl.main


def messages() -> list[tuple[str, str]]:
    """(place, text) of every string in the engine that is no docstring."""
    found = []
    for path in sorted(path for folder in ENGINE for path in (ROOT / "mask_impact" / folder).glob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        said = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        found += [
            (f"{path.name}:{node.lineno}", node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said
        ]
    return found


def test_the_engine_names_no_flag() -> None:
    """Others' flags may stand in it: `pip install --no-deps`."""
    flags = set(script_parser("a\n\nb\n\nc", "demo", "x", Request, vision=True).flags.values())
    assert len(messages()) > 500 and {"--num-tokens", "--chat", "--resume"} <= flags
    assert [
        (where, flag) for where, text in messages() for flag in re.findall(r"--[a-z-]+", text) if flag in flags
    ] == []


def test_what_the_engine_puts_in_backticks_is_an_option() -> None:
    known = {*options_of(Settings), *options_of(Request), *OF_COMMANDS}
    own = [each for each in messages() if not each[0].startswith("from_python.py")]  # has the keywords
    assert [
        (where, word) for where, text in own for word in re.findall(r"`([a-z_]+)`", text) if word not in known
    ] == []


def test_other_backticks_stay() -> None:
    said = named("`num_tokens` of `these` are `more`; `num_tokens_`", {"num_tokens": "--num-tokens"})
    assert said == "--num-tokens of `these` are `more`; `num_tokens_`"


WRONG: list[tuple[Any, list[str], str, Any, dict[str, Any], str]] = [  # a command and its words, a function and its
    (TEXT, ["--num-tokens", "9999"], "or lower --num-tokens",
     run_masking_experiment, {"num_output_tokens": 9999}, "or lower `num_output_tokens`"),
    (TEXT, ["--span", "zz"], "--span 'zz' stands nowhere",
     run_masking_experiment, {"spans": "zz"}, "`spans` 'zz' stands nowhere"),
    (TEXT, ["--mask-unit", "span"], "give --span, --region or --region-mask",
     run_masking_experiment, {"mask_unit": "span"}, "give `spans`, `regions` or `region_masks`"),
    (TEXT, ["--tower", "encoder"], "--tower encoder was given",
     run_masking_experiment, {"tower": "encoder"}, "`tower` encoder was given"),
    (TEXT, ["--effects", "--block", "last", "--contrast", "", " x"], "--contrast '' has no tokens",
     run_effects_experiment, {"contrast": ["", " x"]}, "`contrast` '' has no tokens"),
    (TEXT, ["--block", "last"], "--block is about effects on the answer; add --effects, or leave it out",
     run_effects_experiment, {"pairs": 1}, "give `pairs` 2 or more"),
    (VISION, ["--mask-mode", "vision"], "--mask-mode vision needs an image, but none was given; add --image, or",
     run_vl_masking_experiment, {"mask_mode": "vision"}, "needs an image, but none was given; add `image_path`, or"),
]  # fmt: skip


@pytest.mark.parametrize(("command", "words", "flag", "function", "given", "keyword"), WRONG)
def test_a_command_names_the_flag_and_a_function_the_keyword(
    tmp_path, monkeypatch, capsys, command, words, flag, function, given, keyword
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(["--model", "demo", "--prompt", PROMPT, *words]) == 2
    err = capsys.readouterr().err
    assert flag in err and "`" not in err and err.count("\n") == 1
    with pytest.raises(UserError) as wrong:
        function(PROMPT, model_name="demo", **given)
    assert keyword in str(wrong.value) and "--" not in str(wrong.value)


def test_a_batch_names_the_flag_also_in_its_file(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    write_config(tmp_path / "night.yaml", {"long": {"prompt": PROMPT, "num_tokens": 9999}}, "formats: [csv]", "demo")
    assert TEXT(["--config", "night.yaml"]) == 1
    (found,) = json.loads((tmp_path / "output" / "night_batch.json").read_text("utf-8"))["prompts"]
    assert "lower --num-tokens" in found["error"] and "lower --num-tokens" in capsys.readouterr().err


def test_out_of_memory_and_notes_do_so_too(tmp_path, monkeypatch, capsys) -> None:
    flags = ["--model", "demo", "--prompt", PROMPT, "--output-dir", str(tmp_path), "--format", "csv"]
    with monkeypatch.context() as noted:
        noted.setattr(Meter, "memory_notes", lambda self: ["much; lower `num_tokens`"])
        assert TEXT(flags) == 0
        assert json.loads((tmp_path / "masking_run.json").read_text("utf-8"))["notes"] == ["much; lower --num-tokens"]
        assert "note       much; lower --num-tokens" in capsys.readouterr().out
        run = run_masking_experiment(PROMPT, "demo").attrs["run"]
        assert run["notes"] == ["much; lower `num_output_tokens`"]

    def full(*args: Any, **more: Any) -> Any:
        raise OutOfMemory(ADVICE)

    monkeypatch.setattr("mask_impact.impact.run.run", full)
    assert TEXT(flags) == 1
    assert "lower --num-tokens (with pictures --max-pixels), take a narrower --dtype" in capsys.readouterr().err
    with pytest.raises(OutOfMemory, match=r"lower `num_output_tokens` .* with the command's --device-map auto"):
        run_masking_experiment(PROMPT, "demo")


def test_every_name_of_the_functions_is_of_a_field() -> None:
    assert set(from_python.NAMES) <= {*options_of(Settings), *options_of(Request)}


@pytest.mark.parametrize(
    ("command", "words", "hint"),
    [
        (TEXT, ["--promt", "The"], "unknown flag --promt; did you mean --prompt?"),
        (TEXT, ["--num", "3"], "unknown flag --num; did you mean --num-tokens?"),
        (TEXT, ["--metric=l2"], "unknown flag --metric; did you mean --metrics?"),
        (TEXT, ["--mask-mode", "both"], "unknown flag --mask-mode; mask_impact_vl.py has it"),
        (VISION, ["--chat"], "unknown flag --chat; mask_impact_analysis.py has it"),
        (TEXT, ["--zzzz"], "unknown flag --zzzz (see"),
        (TEXT, ["-n", "3"], "unknown flag -n (see"),
        (TEXT, ["--prompt", "The", "capital"], "'capital' belongs to no flag; put a text with spaces in quotes"),
        (latent_lens.main, ["neighbors", "--bnak", "b"], "unknown flag --bnak; did you mean --bank?"),
        (
            latent_lens.main,
            ["features", "--span", "b"],
            "--span; mask_impact_analysis.py and mask_impact_vl.py have it",
        ),
    ],
)
def test_an_unknown_flag_is_told_the_nearest(capsys, command, words, hint) -> None:
    with pytest.raises(SystemExit) as stop:
        command(words)
    out, err = capsys.readouterr()
    assert (stop.value.code, out, err.count("\n")) == (2, "", 1) and hint in err, err


def test_a_text_that_looks_like_a_flag_is_a_text(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    for words in (["--prompt=--zzz"], ["--prompt", "--a text with spaces"]):
        assert TEXT(["--model", "demo", "--dry-run", *words]) == 0
    assert capsys.readouterr().err == ""
