"""SmolLM2-135M-Instruct, or the same architecture with random weights.

In:  a name, or the arguments of a measurement. Out: a model with its tokenizer, and the prompts of the measurement;
     whether it gets a prompt right.
"""

from __future__ import annotations

import argparse
import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from mask_impact import run_effects_experiment
from mask_impact.jobs import session
from mask_impact.model import find, load
from validation.prompts import Prompt

NAME = "smollm2"


@dataclass
class Real:
    """A model and its tokenizer."""

    name: str
    model: Any
    tokenizer: Any

    def ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text)["input_ids"])

    def positions(self, prompt: Prompt, part: str) -> list[int]:
        """The tokens of a part of the prompt: those that have a letter of it."""
        first, last = prompt.parts[part]
        offsets = self.tokenizer(prompt.text, return_offsets_mapping=True)["offset_mapping"]
        return [i for i, (a, b) in enumerate(offsets) if a < last and b > first and prompt.text[a:b].strip()]


@functools.cache
def loaded(untrained: bool = False, seed: int = 0) -> Real:
    """The model in float32 on the CPU; untrained: its architecture with weights drawn anew. Once in a process."""
    source = find.find_model(NAME)
    device = torch.device("cpu")
    model = load.load_model(source, device, load.choose_dtype("float32", device))
    if untrained:
        torch.manual_seed(seed)
        model = type(model)._from_config(model.config).eval()
    return Real("untrained" if untrained else NAME, model, session.load_reader(source))


def prepared(
    argv: Sequence[str] | None,
    about: str,
    count: int,
    right: Callable[[Real], Iterable[Prompt]],
    of: str = "",
    times: int = 1,
) -> tuple[Real, list[Prompt], str]:
    """The model that is asked for, its prompts, and the end of the names of its files.

    The prompts are always those of the trained model: random weights get none right.

    Args:
        about: the script's description.
        count: of prompts, unless another number is asked for; `times` as many are taken. `of` says of what.
        right: the prompts that a model gets right.
    """
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=count, help=of)
    parser.add_argument("--untrained", action="store_true", help="random weights")
    given = parser.parse_args(argv)
    trained = loaded()
    chosen = list(itertools.islice(right(trained), times * given.prompts))
    return (loaded(untrained=True), chosen, "_untrained") if given.untrained else (trained, chosen, "")


def effects(real: Real, prompt: Prompt, **asked: Any) -> pd.DataFrame:
    """`--effects` on the prompt's answer, its one token; `asked` are further keywords of `run_effects_experiment`."""
    table = run_effects_experiment(
        prompt.text, real.name, model=real.model, tokenizer=real.tokenizer, answer=prompt.answer, no_check=True, **asked
    )
    return table[table.generation_step == 0]  # the other rows are of the whole answer, the same here


def falls(real: Real, prompt: Prompt, column: str = "logprob_change", **asked: Any) -> np.ndarray:
    """[n] how far `column` of the effects falls when no later position reads a token; 0 of the last position."""
    found = -effects(real, prompt, **asked).set_index("token_position")[column]
    return found.reindex(range(len(real.ids(prompt.text))), fill_value=0.0).to_numpy()


@torch.inference_mode()
def is_right(real: Real, prompt: Prompt) -> str:
    """ "right", "wrong", or "several tokens" where the answer is not one token."""
    answer = real.tokenizer(prompt.answer, add_special_tokens=False)["input_ids"]
    if len(answer) != 1:
        return "several tokens"
    logits = real.model(torch.tensor([real.ids(prompt.text)]), logits_to_keep=1).logits[0, -1]
    return "right" if int(logits.argmax()) == answer[0] else "wrong"
