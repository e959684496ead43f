"""The commands and Python calls that the README showed before the house was rebuilt still work, and write their files.

They are kept here as they were printed there; those that load the bundled models, because tests use no network.
"""

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import latent_lens
import mask_impact_analysis
import mask_impact_vl

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS: dict[str, Callable[[list[str]], int]] = {
    "mask_impact_analysis.py": mask_impact_analysis.main,
    "mask_impact_vl.py": mask_impact_vl.main,
    "latent_lens.py": latent_lens.main,
}
RESULTS = ("results.csv", "results.json", "results.html", "run.json")

# The command, and the files it leaves under output/. They run in this order: some need what an earlier one wrote.
COMMANDS = {
    'mask_impact_analysis.py --model demo --prompt "The capital of France is"': [
        f"masking_{end}" for end in RESULTS
    ],
    'mask_impact_analysis.py --model demo --num-tokens 2 --prompt "Tom has a red ball. Ann has a blue cup. Ann\'s cup '
    'is" --output demo --overwrite': [f"demo_{end}" for end in RESULTS],
    'mask_impact_vl.py --model demo --image testimg.png --prompt "What color is the circle?" --mask-mode both': [
        f"vl_masking_{end}" for end in RESULTS
    ],
    'mask_impact_analysis.py --model demo --prompt "Tom has a red ball. Ann has a blue cup. Ann\'s cup is" --effects': [
        "masking_effects.csv", "masking_effects.json", *(f"masking_{end}" for end in RESULTS),
    ],
    "mask_impact_analysis.py --config prompts_config.yaml": ["prompts_config_batch.json"],
    "mask_impact_analysis.py --config prompts_config.yaml --resume": ["prompts_config_batch.json"],
    "latent_lens.py inspect --model demo --image testimg.png": [],
    "latent_lens.py features --model demo --num-images 8 --save-features": [
        "extraction_summary_demo.json", "features_demo_layer_0.safetensors", "features_demo_layer_4.safetensors",
    ],
    "latent_lens.py bank --model demo --captions demo/captions.txt --output-dir output/bank_demo": [
        "bank_demo/bank.json", "bank_demo/contexts.parquet", "bank_demo/shard_00000.safetensors",
    ],
    "latent_lens.py neighbors --model demo --bank output/bank_demo --image testimg.png --static": [
        "testimg_neighbors.csv", "testimg_neighbors.json", "testimg_neighbors.html", "testimg_neighbors_run.json",
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a checkout has beside the scripts, with fewer captions."""
    made = tmp_path_factory.mktemp("checkout")
    for name in ("testimg.png", "prompt.txt", "prompts_config.yaml"):
        shutil.copy(ROOT / name, made)
    captions = (ROOT / "demo" / "captions.txt").read_text("utf-8").splitlines(keepends=True)
    (made / "demo").mkdir()
    (made / "demo" / "captions.txt").write_text("".join(captions[:300]), "utf-8")
    return made


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


def test_commands(here: Path) -> None:
    for command, files in COMMANDS.items():
        script, *arguments = shlex.split(command)
        for name in files:  # an earlier command may have written one of this name
            (here / "output" / name).unlink(missing_ok=True) if "--resume" not in command else None
        assert SCRIPTS[script]([*arguments]) == 0, command
        assert [name for name in files if not (here / "output" / name).is_file()] == [], command
    batch = json.loads((here / "output" / "prompts_config_batch.json").read_text("utf-8"))
    states = {each["status"] for each in batch["prompts"]}
    assert "kept" in states and states <= {"kept", "disabled"}  # the last batch is the resumed one


def test_results_are_read_back(here: Path) -> None:
    assert mask_impact_analysis.main(["--model", "demo", "--output", "again", "--overwrite", "--quiet"]) == 0
    from mask_impact.results import load, load_many

    df = load("output/again_run.json")
    assert df.attrs["run"]["prompt"] == (here / "prompt.txt").read_text("utf-8").removesuffix("\n")
    df = load_many("output")
    assert "again" in set(df["name"])


def test_functions(here: Path) -> None:
    from mask_impact.report import show
    from mask_impact_analysis import run_effects_experiment, run_masking_experiment
    from mask_impact_vl import run_vl_masking_experiment

    df = run_masking_experiment(prompt="The capital of France is", model_name="demo", device="cpu", num_output_tokens=3)
    assert df.attrs["run"]["prompt_length"] == 5
    assert sorted(set(df["generation_step"])) == [0, 1, 2][: len(df.attrs["run"]["generated"])]
    assert "<iframe" in show(df)._repr_html_()
    df = run_effects_experiment("Tom has a red ball. Ann has a blue cup. Ann's cup is", "demo", mask_layers="from")
    assert set(df.attrs["run"]["effects"]) >= {"mask_layers", "noise"}
    df = run_vl_masking_experiment("What's in this image?", "testimg.png", mask_mode="vision", model_name="demo")
    assert df.attrs["run"]["images"][0]["grid"] == [4, 4]


@pytest.mark.parametrize(
    "names",
    [
        "mask_impact_analysis: run_masking_experiment run_effects_experiment",
        "mask_impact_vl: run_vl_masking_experiment run_vl_effects_experiment create_vl_attention_mask",
        "mask_impact.results: load load_many read_csv",
        "mask_impact.report: show write_report write_neighbors",
        "mask_impact.errors: UserError UnsupportedModel",
        "mask_impact.lens.feature_files: read_features",
    ],
)
def test_names_are_where_they_were(names: str) -> None:
    module, _, functions = names.partition(": ")
    found = __import__(module, fromlist=["*"])
    assert all(callable(getattr(found, name)) for name in functions.split())
