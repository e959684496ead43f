"""What ends a command from outside, and what must not: signals, a closed or full stream, a panic of a library."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkpoints import qwen3
from test_batch import write_config

import mask_impact_analysis
from mask_impact.commands import signals
from mask_impact.commands.signals import stopped_by_signals

SIGNALS = [getattr(signal, name) for name in signals.NAMES if hasattr(signal, name)]
PROMPTS = {"a": {"prompt": "The capital of France is"}, "b": {"prompt": "Tom has a ball"}}


@pytest.fixture
def heard() -> Iterator[None]:
    """As where a command is started by hand; a suite in the background ignores Ctrl-C."""
    usual = {signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, usual.get(number, signal.SIG_DFL)) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_interrupts_and_a_second_one_does_not_disturb_the_tidying(number):
    before = [signal.getsignal(each) for each in SIGNALS]
    tidied = False
    with pytest.raises(KeyboardInterrupt), stopped_by_signals():
        try:
            os.kill(os.getpid(), number)
        finally:
            for each in SIGNALS:
                os.kill(os.getpid(), each)
            tidied = True
    assert tidied and [signal.getsignal(each) for each in SIGNALS] == before


@pytest.mark.usefixtures("heard")
def test_a_later_signal_is_heard_again(monkeypatch):
    monkeypatch.setattr(signals, "TIDYING", 0.0)
    with pytest.raises(KeyboardInterrupt), stopped_by_signals():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:  # swallowed by other code
            os.kill(os.getpid(), signal.SIGTERM)


def test_nohup_keeps_a_command_running(monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopped_by_signals():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return qwen3(tmp_path / "model")


@pytest.fixture
def batch(tmp_path: Path, model: Path) -> list[str]:
    write_config(tmp_path / "night.yaml", PROMPTS, "formats: [csv]", model)
    return ["--config", str(tmp_path / "night.yaml"), "--output-dir", str(tmp_path / "output")]


def statuses(tmp_path: Path) -> dict[str, str]:
    found = json.loads((tmp_path / "output" / "night_batch.json").read_text())
    return {each["name"]: each["status"] for each in found["prompts"]}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full on this system")
def test_a_full_stdout_stops_nothing(tmp_path, batch, capfd, monkeypatch):
    kept = os.dup(1)
    with open("/dev/full", "w") as full, monkeypatch.context() as patch:
        patch.setattr("sys.stdout", full)
        code = mask_impact_analysis.main(batch)
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())  # what is left in its buffer
    os.close(kept)
    said = capfd.readouterr().err
    assert code == 1 and statuses(tmp_path) == {"a": "done", "b": "done"}
    assert said == ("error: the output cannot be printed (No space left on device); files are written all the same\n")


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_closed_stream_is_no_terminal(tmp_path, batch, monkeypatch, stream):
    with monkeypatch.context() as patch:
        patch.setattr(f"sys.{stream}", None)
        assert mask_impact_analysis.main(batch) == 0
        with pytest.raises(SystemExit, match="2"):
            mask_impact_analysis.main([*batch, "--num-tokens", "0"])
    assert statuses(tmp_path) == {"a": "done", "b": "done"}


def test_a_panic_of_the_tokenizer_fails_its_prompt_by_name(tmp_path, batch, model, capsys):
    """A regular expression on which Onigmo gives up, which tokenizers does not catch."""
    path = model / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["pre_tokenizer"] = {
        "type": "Split", "pattern": {"Regex": "^(a+)+$"}, "behavior": "Isolated", "invert": False,
    }  # fmt: skip
    path.write_text(json.dumps(tokenizer))
    write_config(tmp_path / "night.yaml", PROMPTS | {"c": {"prompt": "a" * 40 + "b"}}, "formats: [csv]", model)
    assert mask_impact_analysis.main(batch) == 1
    assert statuses(tmp_path) == {"a": "done", "b": "done", "c": "failed"}
    assert "cannot run c: " in capsys.readouterr().err
    single = ["--model", str(model), "--prompt", "a" * 40 + "b", "--output-dir", str(tmp_path / "other")]
    assert mask_impact_analysis.main(single) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: ") and "retry-limit-in-match" in said and "Error:" not in said
