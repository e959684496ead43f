"""One tool's time as a multiple of one plain forward, measured in turn in one process.

Imported in every tool's own environment: torch and transformers (4.53 or newer), and nothing of this repository.

In:  a model and tokenizer, and what each tool does with a prompt.
Out: JSON on stdout: for every tool and prompt length the ratios of its CPU time to that of a plain forward.
"""

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

SENTENCES = (
    "The old captain wrote three letters before the storm reached the harbour.",
    "One of them was for his daughter, who kept a small shop near the station.",
    "She opened it on a Tuesday, while the baker's cat slept on the counter.",
    "Nobody in the town knew that the ship had already left for the north.",
    "The second letter asked the mayor to repair the lamp at the end of the pier.",
    "In the last one he explained where the blue key was hidden, and why.",
)
PROMPTS = ("The capital of France is", "When Mary and John went to the store, John gave a drink to")  # for scores
ANSWER = " The"  # what is given as the answer where a tool wants one: one token

Work = Callable[[str], float]  # does what a tool does with a prompt; returns its CPU seconds


def prompt_of(tokenizer: Any, tokens: int) -> str:
    """A text of exactly so many tokens. Raises ValueError where the tokenizer reads it as another number."""
    text = " ".join(SENTENCES * (1 + tokens // 60))
    prompt = tokenizer.decode(tokenizer(text)["input_ids"][:tokens])
    if len(tokenizer(prompt)["input_ids"]) != tokens:
        raise ValueError(f"{prompt!r} is not {tokens} tokens")
    return str(prompt)


def seconds(work: Callable[[], Any]) -> float:
    """CPU seconds of this process."""
    gc.collect()
    started = time.process_time()
    work()
    return time.process_time() - started


def plain_forward(model: Any, tokenizer: Any, prompt: str) -> None:
    """One forward over the prompt, logits of its last position, with the model's own attention (sdpa)."""
    with torch.no_grad():
        model(**tokenizer(prompt, return_tensors="pt"), use_cache=False, logits_to_keep=1)


def ratios(
    model: Any, tokenizer: Any, tools: Mapping[str, Work], lengths: Mapping[int, int]
) -> dict[str, dict[int, dict[str, list[float]]]]:
    """tool -> prompt tokens -> "ratio" and "plain" (CPU seconds of a plain forward), one for each repetition.

    Args:
        lengths: prompt tokens -> repetitions.
    """
    found: dict[str, dict[int, dict[str, list[float]]]] = {name: {} for name in tools}
    warm_up = prompt_of(tokenizer, min(lengths))
    for work in tools.values():
        work(warm_up)
    for tokens, repetitions in lengths.items():
        prompt = prompt_of(tokenizer, tokens)
        plain_forward(model, tokenizer, prompt)
        for repetition in range(repetitions):
            for name, work in tools.items():
                print(f"{name}, {tokens} tokens, {repetition + 1} of {repetitions}", file=sys.stderr, flush=True)
                before = seconds(lambda: plain_forward(model, tokenizer, prompt))  # noqa: B023
                spent = work(prompt)
                after = seconds(lambda: plain_forward(model, tokenizer, prompt))  # noqa: B023
                plain = (before + after) / 2
                cell = found[name].setdefault(tokens, {"ratio": [], "plain": []})
                cell["ratio"].append(spent / plain)
                cell["plain"].append(plain)
    return found


def loaded(folder: Path, **how: Any) -> tuple[Any, Any]:
    """The checkpoint in float32 on the CPU, and its tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32, **how).eval()
    return model, AutoTokenizer.from_pretrained(folder)


def asked() -> tuple[Path, dict[int, int]]:
    """The model's folder, and prompt tokens -> repetitions, from the command line: FOLDER 16=3,64=3"""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("lengths")
    args = parser.parse_args()
    torch.set_num_threads(1)
    pairs = (pair.split("=") for pair in args.lengths.split(","))
    return args.folder, {int(tokens): int(repetitions) for tokens, repetitions in pairs}


def tell(found: Any) -> int:
    """The results, as the last line of stdout."""
    print(json.dumps(found))
    return 0
