"""Many prompts from a YAML file: what is run, kept, redone and reported, whatever happens meanwhile.

What a file may say is in test_config.py. Here `main` is called in this process, on a tiny checkpoint; processes that
are killed, started twice or in pairs are in test_batch_processes.py.
"""

import errno
import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import pytest
import torch
from test_cli import Ended

import mask_impact_analysis
import mask_impact_vl
from mask_impact.errors import OutOfMemory
from mask_impact.files import results
from mask_impact.impact import run as impact_run
from mask_impact.model import load

torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "mask_impact_analysis.py"
PROMPTS = {
    "france": "The capital of France is",
    "tom": "Tom has a red ball.",
    "ann": "Ann has a blue cup. Ann's cup is",
}
CHANGING = ("created", "argv", "seconds", "peak_memory_mb", "config")  # from run to run, in the manifest


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.qwen3(tmp_path_factory.mktemp("batch") / "good")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def batch(here: Path, good: Path, capfd: pytest.CaptureFixture) -> Callable:
    """batch(flags..., prompts={name: prompt or {key: value}}, more="top: level") -> Ended."""

    def call(*flags: Any, prompts: dict[str, Any] = PROMPTS, more: str = "", model: Any = good) -> Ended:
        write_config(here / "night.yaml", prompts, more, model)
        capfd.readouterr()
        try:
            code = mask_impact_analysis.main(["--config", "night.yaml", *map(str, flags)])
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Ended(code, *capfd.readouterr())

    return call


def write_config(path: Path, prompts: dict[str, Any], more: str, model: Any) -> None:
    entries = [
        {"name": name, **(found if isinstance(found, dict) else {"prompt": found})} for name, found in prompts.items()
    ]
    lines = [f"model: {json.dumps(str(model))}", more, "prompts:", *(f"  - {json.dumps(entry)}" for entry in entries)]
    path.write_text("\n".join(lines), "utf-8")


def outcomes(name: str = "night") -> dict[str, dict[str, Any]]:
    """What NAME_batch.json says of each prompt."""
    written = json.loads(Path(f"output/{name}_batch.json").read_text("utf-8"))
    return {found["name"]: found for found in written["prompts"]}


def statuses(name: str = "night") -> dict[str, str]:
    return {name: found["status"] for name, found in outcomes(name).items()}


def tables(folder: Path = Path("output")) -> dict[str, bytes]:
    """The result files; the manifests without what changes from run to run."""
    found = {path.name: path.read_bytes() for path in folder.glob("*_results.*")}
    for path in folder.glob("*_run.json"):
        manifest = json.loads(path.read_text("utf-8"))
        found[path.name] = json.dumps({k: v for k, v in manifest.items() if k not in CHANGING}).encode()
    return found


def hidden() -> list[str]:
    return sorted(path.name for path in Path("output").glob(".*") if path.name != ".mask_impact.lock")


# --- a batch that goes well -------------------------------------------------------------------------------
def test_every_prompt_has_its_files_from_one_model(batch, monkeypatch):
    loaded = []
    original = load.load_model
    monkeypatch.setattr(load, "load_model", lambda *args, **more: loaded.append(args) or original(*args, **more))
    ended = batch("--format", "csv,parquet", prompts=PROMPTS | {"later": {"prompt": "The", "enabled": False}})
    assert ended.code == 0 and len(loaded) == 1
    names = {f"{name}_{end}" for name in PROMPTS for end in ("results.csv", "results.parquet", "run.json")}
    beside = {"night_batch.json", "index.html", ".mask_impact.lock"}
    assert {path.name for path in Path("output").iterdir()} == names | beside
    assert statuses() == dict.fromkeys(PROMPTS, "done") | {"later": "disabled"}
    for name, prompt in PROMPTS.items():
        found = outcomes()[name]
        manifest = json.loads(Path(found["output"]).read_text("utf-8"))
        assert manifest["prompt"] == prompt and manifest["argv"][0] == "--config"
        assert found["tokens"] == len(manifest["tokens"]) and found["seconds"] > 0 and found["error"] is None
        top = manifest["top_tokens"][0]
        assert found["top_token"] == repr(manifest["tokens"][top["position"]]["text"])
    lines = ended.out.splitlines()
    assert [line.split()[0] for line in lines[3:]] == ["name", *PROMPTS, "later", "3", "open"]
    assert lines[-2].startswith("3 done, 1 disabled; ") and lines[-2].endswith("output/night_batch.json")
    assert lines[-1] == "open output/index.html"


def test_a_batch_gives_the_same_tables_as_single_runs(batch, good):
    assert batch(more="formats: csv\ndefaults: {num_tokens: 2}").code == 0
    for name, prompt in PROMPTS.items():
        single = ["--model", str(good), "--prompt", prompt, "--num-tokens", "2", "--output", name]
        assert mask_impact_analysis.main([*single, "--output-dir", "single", "--format", "csv", "--quiet"]) == 0
        file = f"{name}_results.csv"
        assert (Path("output") / file).read_bytes() == (Path("single") / file).read_bytes()


def test_flags_override_the_file_and_the_summary_says_so(batch):
    ended = batch(
        "--num-tokens", 1, "--format", "csv", "--output", "mine", more="formats: [json]\ndefaults: {num_tokens: 3}"
    )
    assert ended.code == 0 and "from the command line, whatever night.yaml says: --format, --num-tokens\n" in ended.out
    assert {path.suffix for path in Path("output").glob("*_results.*")} == {".csv"}
    assert set(results.read_csv("output/tom_results.csv").generation_step) == {0}
    assert json.loads(Path("output/mine_batch.json").read_text("utf-8"))["overriding"] == ["--format", "--num-tokens"]
    assert "from the command line" not in batch("--overwrite").out


def test_quiet_prints_nothing(batch):
    assert batch("--quiet") == Ended(0, "", "")


def test_the_shipped_examples_run(monkeypatch, tmp_path, capfd):
    """On the demo models, from the folder they are in."""
    monkeypatch.chdir(ROOT)
    for main, file in (
        (mask_impact_analysis.main, "prompts_config.yaml"),
        (mask_impact_vl.main, "prompts_config_vl.yaml"),
    ):
        assert main(["--config", file, "--output-dir", str(tmp_path)]) == 0, capfd.readouterr().err
    assert len(list(tmp_path.glob("*_run.json"))) >= 6


# --- failures ---------------------------------------------------------------------------------------------
def test_one_bad_prompt_does_not_stop_the_rest(batch):
    bad = {
        "long": "a" + " is" * 80,
        "layers": {"prompt": "The", "layers": "0-9"},
        "chat": {"prompt": "The", "chat": True},
    }
    ended = batch(prompts={**bad, **PROMPTS})
    assert ended.code == 1
    assert statuses() == {"long": "failed", "layers": "failed", "chat": "done"} | dict.fromkeys(PROMPTS, "done")
    assert "the prompt has 81 tokens" in outcomes()["long"]["error"]
    assert "cannot run layers: there is no layer 9; this model has layers 0 to 1\n" in ended.err  # in the first seconds
    assert "2 failed, 4 done" in ended.out
    assert not list(Path("output").glob("long*"))


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (ValueError("a nan\nin two lines"), "unexpected failure: a nan in two lines"),
        (OutOfMemory("memory ran out in x"), "memory ran out in x"),
        (OSError(errno.ENOSPC, "No space left"), "the disk of the output folder output is full"),
        (OSError(errno.EROFS, "Read-only file system"), "the output folder output cannot be written"),
    ],
)
def test_a_prompt_that_fails_while_running_leaves_the_others_whole(batch, monkeypatch, error, part):
    original = impact_run.run

    def fails(model: Any, prepared: Any, *more: Any) -> Any:
        if prepared.inputs.prompt == PROMPTS["tom"]:
            raise error
        return original(model, prepared, *more)

    monkeypatch.setattr(impact_run, "run", fails)
    ended = batch()
    assert ended.code == 1 and statuses() == {"france": "done", "tom": "failed", "ann": "done"}
    assert part in outcomes()["tom"]["error"] and part in ended.out and hidden() == []
    assert ended.err == f"failed 2/3 tom: {outcomes()['tom']['error']}\n"
    assert not list(Path("output").glob("tom*"))


def test_a_model_that_cannot_be_loaded_is_bad_input(batch, tmp_path, good):
    broken = shutil.copytree(good, tmp_path / "broken")
    (broken / checkpoints.WEIGHTS).write_bytes(b"no weights")
    ended = batch(model=broken)
    assert ended.code == 2 and ended.err.count("\n") == 1 and not Path("output").exists()


def test_existing_results_are_kept_unless_told(batch):
    assert batch(prompts={"tom": PROMPTS["tom"]}).code == 0
    before = tables()
    ended = batch()
    assert ended.code == 2 and tables() == before
    kept = (
        "error: output/tom_run.json exists already; choose another name, keep what is done with --resume, or replace it"
    )
    assert ended.err == f"{kept} with --overwrite\n"
    assert batch("--overwrite").code == 0 and len(tables()) > len(before)
    assert "output/france_run.json and results of 2 more exist already" in batch().err


def test_a_disk_that_is_too_small_for_all_of_it(batch, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 500, 500))
    ended = batch()
    assert ended.code == 2 and "the results need about" in ended.err and not Path("output").exists()


@pytest.mark.parametrize("how", [KeyboardInterrupt, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_in_the_middle(batch, monkeypatch, how):
    original = impact_run.run

    def stops(model: Any, prepared: Any, *more: Any) -> Any:
        if prepared.inputs.prompt == PROMPTS["tom"]:
            if how is KeyboardInterrupt:
                raise KeyboardInterrupt
            os.kill(os.getpid(), how)
        return original(model, prepared, *more)

    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored, and stays so
    with monkeypatch.context() as patch:
        patch.setattr(impact_run, "run", stops)
        ended = batch()
    assert ended.code == 130 and ended.err.count("\n") == 1
    assert statuses() == {"france": "done", "tom": "not run", "ann": "not run"} and hidden() == []
    assert "1 done, 2 not run" in ended.out
    again = batch("--resume")
    assert again.code == 0 and statuses() == {"france": "kept", "tom": "done", "ann": "done"}
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


# --- dry run ----------------------------------------------------------------------------------------------
def test_dry_run_prints_what_would_run_and_writes_nothing(batch, monkeypatch, here):
    monkeypatch.setattr(load, "load_model", lambda *args, **more: pytest.fail("weights were loaded"))
    ended = batch("--dry-run", prompts=PROMPTS | {"later": {"prompt": "The", "enabled": False}}, more="formats: csv")
    assert ended.code == 0 and [path.name for path in here.iterdir()] == ["night.yaml"]
    rows = {line.split()[0]: line.split() for line in ended.out.splitlines()}
    assert rows["france"][1:4] == ["run", "5", str(5 * 2 * 6)] and rows["later"][1] == "disabled"
    assert "nothing was run" in ended.out
    ended = batch("--dry-run", prompts={**PROMPTS, "long": "a" + " is" * 80})
    assert ended.code == 1 and re.search(r"long +failed +the prompt has 81 tokens", ended.out)


def test_dry_run_says_exactly_how_many_rows(batch):
    say = re.search(r"tom +run +\d+ +([\d,]+) ", batch("--dry-run", "--num-tokens", 4).out)
    assert batch("--num-tokens", 4).code == 0
    assert say is not None and int(say[1]) == json.loads(Path("output/tom_run.json").read_text("utf-8"))["rows"]


def test_dry_run_of_a_single_prompt(here, good, capfd):
    code = mask_impact_analysis.main(["--model", str(good), "--prompt", PROMPTS["tom"], "--dry-run"])
    assert code == 0 and re.search(r"masking +run +\d+ +[\d,]+ ", capfd.readouterr().out) and list(here.iterdir()) == []


# --- resume -----------------------------------------------------------------------------------------------
def test_resume_keeps_what_is_the_same(batch, monkeypatch):
    assert batch().code == 0
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in Path("output").glob("*_r*")}
    monkeypatch.setattr(load, "load_model", lambda *args, **more: pytest.fail("weights were loaded"))
    ended = batch("--resume")
    assert ended.code == 0 and set(statuses().values()) == {"kept"} and "3 kept" in ended.out
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in Path("output").glob("*_r*")} == before
    assert outcomes()["tom"]["top_token"] and outcomes()["tom"]["tokens"]


def drop(file: str) -> Callable[[], None]:
    return lambda: Path(f"output/{file}").unlink()


@pytest.mark.parametrize(
    ("change", "flags", "reason"),
    [
        (None, ["--num-tokens", 2], "num_tokens was 1, is 2"),
        (None, ["--layers", 0], "layers was [], is [[0, 0]]"),
        (None, ["--dtype", "bfloat16"], "dtype was float32, is bfloat16"),
        (None, ["--format", "csv,json,html,parquet"], "tom_results.parquet is missing"),
        (drop("tom_results.csv"), [], "tom_results.csv is missing"),
        (drop("tom_run.json"), [], "no tom_run.json, so it was not finished"),
        (lambda: Path("output/tom_run.json").write_text("{"), [], "tom_run.json cannot be read ("),
        (lambda: Path("output/tom_run.json").write_text("[]"), [], "tom_run.json cannot be read ("),
    ],
)
def test_resume_redoes_what_changed_and_says_why(batch, change, flags, reason):
    assert batch().code == 0
    if change:
        change()
    ended = batch("--resume", *flags)
    assert ended.code == 0 and f"redo tom: {reason}" in ended.out
    assert statuses()["tom"] == "done" and set(statuses().values()) <= {"done", "kept"}
    assert set(statuses().values()) == ({"done"} if flags else {"done", "kept"})
    assert batch("--resume", *flags).code == 0 and set(statuses().values()) == {"kept"}


def test_resume_redoes_a_changed_prompt_and_a_changed_model(batch, good, tmp_path):
    model = shutil.copytree(good, tmp_path / "model")
    assert batch(model=model).code == 0
    ended = batch("--resume", model=model, prompts=PROMPTS | {"tom": "Tom has a blue cup."})
    assert "redo tom: the prompt has changed\n" in ended.out and statuses()["ann"] == "kept"
    os.utime(model / checkpoints.WEIGHTS, ns=(1, 1))
    ended = batch("--resume", model=model)
    assert ended.out.count(": the model has changed\n") == 3 and set(statuses().values()) == {"done"}


def test_resume_of_a_single_run(here, good, capfd):
    def run(*flags: str) -> tuple[int, str]:
        code = mask_impact_analysis.main(["--model", str(good), "--prompt", "The", "--output", "one", *flags])
        return code, capfd.readouterr().out

    assert run()[0] == 0
    before = Path("output/one_run.json").stat().st_mtime_ns
    code, out = run("--resume")
    assert (code, out) == (0, "kept       output/one_run.json: same model, prompt and options\n")
    assert Path("output/one_run.json").stat().st_mtime_ns == before
    code, out = run("--resume", "--num-tokens", "2")
    assert code == 0 and out.startswith("redone     num_tokens was 1, is 2\n")


def test_resume_with_a_report_that_was_too_large(batch, monkeypatch):
    from mask_impact.files import page

    monkeypatch.setattr(page, "MAX_BASE64", 100)
    assert batch().code == 0 and [path.name for path in Path("output").glob("*.html")] == ["index.html"]
    assert batch("--resume").code == 0 and set(statuses().values()) == {"kept"}


@pytest.mark.parametrize("make", [lambda path: path.write_text("<p>mine</p>"), lambda path: path.mkdir()])
def test_no_index_in_the_place_of_another_page_is_said_before_and_after(batch, make):
    Path("output").mkdir()
    make(Path("output/index.html"))
    lines = batch().out.splitlines()
    why = "output/index.html is a page of something else and is kept; move it, or choose another --output-dir"
    assert lines[0] == f"note  there will be no index: {why}" and lines[-1] == f"no index: {why}"


def test_a_changed_picture_is_redone(here, capfd):
    from PIL import Image

    Image.new("RGB", (56, 56), "red").save("a.png")
    config = 'model: demo\nprompts:\n- {name: a, image: a.png, prompt: "What color is the circle?", mask_mode: both}\n'
    Path("night.yaml").write_text(config)
    run = lambda: mask_impact_vl.main(["--config", "night.yaml", "--resume", "--format", "csv"])  # noqa: E731
    assert run() == 0 and statuses() == {"a": "done"}
    assert run() == 0 and statuses() == {"a": "kept"}
    Image.new("RGB", (56, 56), "blue").save("a.png")
    assert run() == 0 and "redo a: an image has changed\n" in capfd.readouterr().out and statuses() == {"a": "done"}
