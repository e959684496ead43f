"""What a run leaves behind in the process and in a model that it was given: nothing, whether it ends well or fails."""

import logging
import os
import pickle
import random
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
import torch
import transformers
from huggingface_hub.utils import are_progress_bars_disabled
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.masking_utils import AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

import latent_lens
import mask_impact_analysis
import mask_impact_vl
from mask_impact import (
    run_effects_experiment,
    run_masking_experiment,
    run_vl_effects_experiment,
    run_vl_masking_experiment,
)
from mask_impact.impact.meter import Meter

ROOT = Path(__file__).resolve().parent.parent
PROMPT = "Tom has a red ball. Ann has"
EVERYTHING = ["--effects", "--pairs", "2", "--queries", "all", "--contrast", " red", " ball", "--num-tokens", "2"]
LOGGERS = ("", "transformers", "huggingface_hub", "accelerate")
COMMANDS = {
    "text": (mask_impact_analysis.main, ["--prompt", PROMPT, *EVERYTHING]),
    "vl": (mask_impact_vl.main, ["--prompt", "What color is it?", "--image", str(ROOT / "testimg.png"), "--effects"]),
    "inspect": (latent_lens.main, ["inspect", "--model", "demo", "--image", str(ROOT / "testimg.png")]),
    "features": (latent_lens.main, ["features", "--model", "demo", "--test-only", "--save-features"]),
    "bank": (latent_lens.main, ["bank", "--model", "demo", "--captions", "captions.txt", "--output-dir", "bank"]),
}


def of_process() -> dict[str, Any]:
    """What other code in the process would notice."""
    tables = {
        "attention": dict(AttentionInterface._global_mapping),
        "own attention": dict(ALL_ATTENTION_FUNCTIONS._local_mapping),
        "masks": dict(AttentionMaskInterface._global_mapping),
        "eager": {
            name: vars(module).get("eager_attention_forward")
            for name, module in list(sys.modules.items())
            if name.startswith("transformers.models.") and "modeling" in name
        },
    }
    return {
        **tables,
        "environment": dict(os.environ),
        "gradients": torch.is_grad_enabled(),
        "dtype": torch.get_default_dtype(),
        "random": (random.getstate(), pickle.dumps(np.random.get_state()), torch.get_rng_state().tolist()),
        "threads": torch.get_num_threads(),
        "running threads": {thread.name for thread in threading.enumerate()},
        "logging": {
            name: logging.getLogger(name).level for name in ("", "transformers", "huggingface_hub", "accelerate")
        },
        "bars": (transformers.utils.logging.is_progress_bar_enabled(), are_progress_bars_disabled()),
        "warnings": list(warnings.filters),
    }


def of_model(model: Any) -> dict[str, Any]:
    """What its owner would notice."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_forward_hooks_with_kwargs")
    modules = dict(model.named_modules())
    configs = [module.config for module in modules.values() if hasattr(module, "config")]
    weights = model.named_parameters()
    return {
        "config": model.config.to_dict(),
        "implementation": [vars(config).get("_attn_implementation_internal") for config in configs],
        "generation": (id(model.generation_config), model.generation_config.to_dict()),
        "forwards": {name: vars(module).get("forward") for name, module in modules.items()},
        "hooks": {name: [len(vars(module)[kind]) for kind in hooks] for name, module in modules.items()},
        "training": {name: module.training for name, module in modules.items()},
        "weights": {name: (id(each), each.requires_grad, each.grad, each._version) for name, each in weights},
        "attributes": {name: sorted(vars(module)) for name, module in modules.items()},
    }


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return [f"{name}: {before[name]} -> {after[name]}"[:600] for name in before if before[name] != after[name]]


def check_process(action: Callable[[], Any]) -> None:
    for _ in range(2):  # the first time, further modules are imported
        before = of_process()
        action()
        after = of_process()
        after["eager"] = {name: after["eager"][name] for name in before["eager"]}
        after["running threads"] |= before["running threads"]  # others may have ended
        before["running threads"] |= after["running threads"] & {"tqdm_monitor"}  # of what the test itself loads
        assert differences(before, after) == []


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.qwen3(tmp_path_factory.mktemp("model") / "qwen3")


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Makes the third replay fail, in the middle of everything."""

    def fail() -> None:
        measured, before = [], Meter._impacts

        def impacts(*given: Any) -> Any:
            measured.append(1)
            if len(measured) % 3 == 0:
                raise RuntimeError("a failure in the middle")
            return before(*given)

        monkeypatch.setattr(Meter, "_impacts", impacts)

    return fail


@pytest.mark.parametrize("name", COMMANDS)
def test_commands(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("captions.txt").write_text("a red circle\na blue square\n", "utf-8")
    main, argv = COMMANDS[name]
    check_process(lambda: main([*argv, *(["--overwrite"] if name in ("features", "bank") else [])]))


@pytest.mark.parametrize("name", ["text", "vl"])
def test_failing_commands(name: str, tmp_path: Path, failing: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    main, argv = COMMANDS[name]
    failing()
    check_process(lambda: main(argv))
    assert main(argv) != 0


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("function", [run_masking_experiment, run_effects_experiment])
def test_a_model_that_was_given(function: Any, training: bool, fails: bool, checkpoint: Path, failing: Any) -> None:
    model = AutoModelForCausalLM.from_pretrained(checkpoint).train(training)
    words = AutoTokenizer.from_pretrained(checkpoint)
    model.generation_config.repetition_penalty = 1.3
    if fails:
        failing()
    before = of_model(model)

    def action() -> None:
        if not fails:
            function(PROMPT, model=model, tokenizer=words)
            return
        with pytest.raises(Exception, match="failure in the middle"):
            function(PROMPT, model=model, tokenizer=words)

    check_process(action)
    assert differences(before, of_model(model)) == []


@pytest.mark.parametrize("function", [run_vl_masking_experiment, run_vl_effects_experiment])
def test_a_vision_language_model_that_was_given(function: Any) -> None:
    from mask_impact.jobs.session import Session
    from mask_impact.options import Settings

    session = Session(Settings("demo", vision=True, device="cpu"))
    before = of_model(session.model)
    check_process(
        lambda: function("What color is it?", ROOT / "testimg.png", model=session.model, processor=session.reader)
    )
    assert differences(before, of_model(session.model)) == []
