"""The progress of effects: the share that is shown, and the share of what is really computed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from test_effects_cli import run  # noqa: F401
from test_whole_answer import demo, prepared
from transformers import AutoConfig, Qwen3Config
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from mask_impact.commands import telling
from mask_impact.commands.runner import Plan, Task
from mask_impact.effects.run import effect_tables
from mask_impact.model.costs import Costs
from mask_impact.options import Request, Settings

torch.set_num_threads(1)

LONG = "Tom has a red ball. Ann has a blue cup. Sue has a green hat. " * 4 + "Ann's cup is"


class Computed:
    """Counts the operations of a model's matrix products, which take the time of a wide model."""

    def __init__(self, model: Any) -> None:
        self.count = 0.0
        linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
        self.hooks = [module.register_forward_hook(self._called) for module in linear]

    def _called(self, module: Any, args: Any, output: torch.Tensor) -> None:
        self.count += 2.0 * output.numel() * module.in_features


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mask_layers": "from", "readers": ("last",)},
        {"by_head": True, "readers": ("last",)},
        {"refine": 3},
        {"top": 40},
    ],
    ids=str,
)
def test_the_shown_share_is_that_of_the_operations(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """As a wide model's, whose time these are, from a fifth on to 15 points; to 20 where it is not known before which
    units are split."""
    monkeypatch.setattr("mask_impact.model.costs.PASSES", 0.0)
    monkeypatch.setattr("mask_impact.model.costs.MASK_SECONDS", 0.0)
    model, tokenizer = demo()
    wanted = prepared(LONG, **options)
    computed, seen = Computed(model), list[tuple[float, float]]()
    shown = 0.0

    def progress(what: str, work: float = 1.0) -> None:
        nonlocal shown
        seen.append((shown, computed.count))
        shown += work

    ranked = [(position, 1.0, 0) for position in range(5, 60)]
    effect_tables(model, wanted, [tokenizer(" blue")["input_ids"][0]], progress, ranked)
    for hook in computed.hooks:
        hook.remove()
    expected = wanted.effects_forwards * wanted.model_layers
    apart = [abs(work / expected - count / computed.count) for work, count in seen if count > 0.2 * computed.count]
    assert max(apart) < (0.2 if "refine" in options else 0.15) and len(apart) > 10, max(apart)
    assert shown == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize("model_type", MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
def test_every_config_tells_costs(model_type: str) -> None:
    """Some have a value for each layer, and refuse to be asked for one of all."""
    try:
        config = AutoConfig.for_model(model_type).get_text_config(decoder=True)
    except Exception:
        pytest.skip("transformers makes no config of it")
    assert Costs.of(config).layer(10) > 0


def test_costs_of_a_config() -> None:
    """The head of a small model is as much as many of its layers."""
    config = Qwen3Config(
        vocab_size=151936, hidden_size=1024, intermediate_size=3072, num_attention_heads=16, num_key_value_heads=8,
        head_dim=128,
    )  # fmt: skip
    costs = Costs.of(config, speed=1e11)
    assert costs.head == 2 * 1024 * 151936
    assert 2 * 15_728_640 < costs.row < 1.3 * 2 * 15_728_640  # the weights of a layer
    assert costs.seconds(28, 128) == pytest.approx(28 * 128 * costs.row / 1e11, rel=0.1)


def plan(seconds: float) -> Plan:
    return Plan(Task("it", Request("a")), "run", tokens=4, forwards=10.0, seconds=seconds)


def test_a_dry_run_says_how_long_it_takes_and_what_is_shorter(run) -> None:  # noqa: F811
    ended = run("--effects", "--dry-run")
    assert ended.code == 0 and re.search(r"time: about \d+ s after loading, an estimate", ended.out)
    assert "shorter" not in ended.out and not Path("output/it_run.json").exists()
    assert "time:" not in run("--dry-run").out
    long = telling.preview([plan(2 * 3600)], Settings("demo"))
    assert "about 2.0 hours" in long and "--refine" in long and "--top" in long and "--region" not in long
    assert "--region" in telling.preview([plan(2 * 3600)], Settings("demo", vision=True))
