"""How well the bundled demo model answers: prints accuracy with 95 % Wilson intervals.

In:  a checkpoint folder (default demo/text), loaded in float32 as the command line tool does on a CPU.
Out: one line per skill on stdout: retrieval from contexts held out of training, and the memorised facts, both as
     plain text and as chat, and whether the text stops where it should.

    python demo/evaluate_text.py --count 50        # seconds
    python demo/evaluate_text.py                   # 1,000 held-out contexts per line
    python demo/evaluate_text.py --model /tmp/run  # a checkpoint of your own
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from text_data import FactPrompt, RetrievalPrompt, fact_prompts, held_out_prompts
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

FOLDER = Path(__file__).parent / "text"
SEED = 2025  # training reports its progress on another seed, so these prompts influenced no choice
Prompt = RetrievalPrompt | FactPrompt


@dataclass(frozen=True)
class Score:
    name: str
    hits: int
    total: int

    @property
    def share(self) -> float:
        return self.hits / self.total

    def __str__(self) -> str:
        low, high = wilson_interval(self.hits, self.total)
        return f"{self.name:38} {self.share:7.1%}  n={self.total:<5} 95 % interval {low:.1%} to {high:.1%}"


def wilson_interval(hits: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson score interval of a share. Unlike the normal interval it has a width at 100 %."""
    share = hits / total
    center = share + z * z / (2 * total)
    spread = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return max(0.0, (center - spread) / scale), min(1.0, (center + spread) / scale)


def chat_prompt(tokenizer: PreTrainedTokenizerBase, user: str) -> str:
    messages = [{"role": "user", "content": user}]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


@torch.no_grad()
def greedy_hits(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], texts: Sequence[str]
) -> int:
    """For how many prompts greedy decoding gives exactly the wanted text.

    One forward over prompt + text: decoding gives the text if and only if each of its tokens is the most likely
    one after those before it. Padding is on the right, where a causal model cannot see it.
    """
    hits = 0
    for start in range(0, len(prompts), 100):
        heads = [tokenizer(p)["input_ids"] for p in prompts[start : start + 100]]
        tails = [tokenizer(t)["input_ids"] for t in texts[start : start + 100]]
        rows = [torch.tensor(head + tail) for head, tail in zip(heads, tails, strict=True)]
        best = model(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)).logits.argmax(-1)  # [row, token]
        for row, head, tail in zip(best.tolist(), heads, tails, strict=True):
            hits += row[len(head) - 1 : len(head) - 1 + len(tail)] == tail
    return hits


def score(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    prompts: Sequence[Prompt],
    chat: bool,
    end: str = "",
) -> Score:
    """Share of prompts that are answered correctly; with `end`, the answer must also be followed by it."""
    if chat:
        texts = [chat_prompt(tokenizer, p.prompt) for p in prompts]
        answers = [p.answer.strip() + end for p in prompts]
    else:
        texts, answers = [p.prompt for p in prompts], [p.answer + end for p in prompts]
    return Score(name, greedy_hits(model, tokenizer, texts, answers), len(prompts))


def accuracy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, count: int, seed: int) -> list[Score]:
    """Every skill in every form. Plain prompts are completions; chat takes completions and questions."""
    scores = []
    for skill in ("retrieval", "facts"):
        for question in (False, True):
            if skill == "facts":
                prompts: Sequence[Prompt] = fact_prompts(question)
            else:
                prompts = held_out_prompts(random.Random(seed), count, question)
            form = "question" if question else "completion"
            if not question:
                scores.append(score(model, tokenizer, f"{skill}, plain", prompts, chat=False))
                scores.append(score(model, tokenizer, f"{skill}, plain, then .", prompts, chat=False, end="."))
            scores.append(score(model, tokenizer, f"{skill}, chat {form}", prompts, chat=True))
            end = "<|im_end|>"
            scores.append(score(model, tokenizer, f"{skill}, chat {form}, then stops", prompts, chat=True, end=end))
    return scores


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=FOLDER, help="checkpoint folder (default: demo/text)")
    parser.add_argument("--count", type=int, default=1000, help="held-out contexts per line (default: 1000)")
    parser.add_argument("--seed", type=int, default=SEED, help=f"draws the held-out contexts (default: {SEED})")
    args = parser.parse_args(argv)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    for line in accuracy(model, tokenizer, args.count, args.seed):
        print(line)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
