"""Train the bundled demo text model from scratch on a CPU and save it as a checkpoint folder.

In:  nothing; the texts are made by text_data.py from a fixed seed.
Out: a folder (default demo/text) that AutoModelForCausalLM and AutoTokenizer load: Qwen3 architecture,
     bfloat16 weights, byte-level BPE tokenizer with a ChatML chat template. Progress, with the accuracy on
     held-out prompts, goes to stdout.

    python demo/train_text.py --steps 20 --output /tmp/run  # smoke run, seconds; the model knows nothing
    python demo/train_text.py                               # the checkpoint in this repository
    python demo/evaluate_text.py                            # measure it
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from evaluate_text import FOLDER, accuracy, chat_prompt
from text_data import Document, training_documents
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

SEED = 0
STEPS = 3600
BATCH = 48
LEARNING_RATE = 2e-3
WARM_UP = 100
DECAY = 0.25  # the last quarter of the steps, linearly to zero
GIVEN_WEIGHT = 0.1  # weight of a prompt token in the loss; an answer token has 1
REPORT_EVERY = 200
MAX_LENGTH = 2048
END, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TOKENIZER_CONFIG = {
    "eos_token": END,
    "pad_token": END,
    "additional_special_tokens": [IM_START, IM_END],
    "chat_template": CHAT_TEMPLATE,
    "clean_up_tokenization_spaces": False,
    "model_max_length": MAX_LENGTH,
    "model_input_names": ["input_ids", "attention_mask"],  # otherwise version 4 adds token_type_ids
}
# How Qwen's tokenizers cut text into words: "Ann's cup" is "Ann", "'s", " cup".
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def make_tokenizer(documents: Sequence[Document]) -> PreTrainedTokenizerFast:
    """Byte-level BPE over the training words. All 256 bytes are tokens and nothing is normalised, so any text
    survives encoding and decoding."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(WORDS), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1200,  # more than can be merged, so every word of the data becomes one token
        special_tokens=[END, IM_START, IM_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [f"user\n{d.prompt}\nassistant\n{d.text}" if d.chat else d.prompt + d.text for d in documents]
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, **TOKENIZER_CONFIG)


def make_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    end, im_end = tokenizer.convert_tokens_to_ids([END, IM_END])
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=MAX_LENGTH,
        initializer_range=0.05,
        tie_word_embeddings=True,
        # transformers 4 reads another key for this; its default is the same 1e4.
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
        eos_token_id=end,
        pad_token_id=end,
    )
    model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig(do_sample=False, eos_token_id=[end, im_end], pad_token_id=end)
    return model


def encode(tokenizer: PreTrainedTokenizerFast, document: Document) -> tuple[list[int], int]:
    """Token ids, and how many of them are given. Plain texts end with <|endoftext|>. Chats go through the template,
    where <|im_end|> ends the answer."""
    if document.chat:
        answer = {"role": "assistant", "content": document.text}
        turns = [{"role": "user", "content": document.prompt}, answer]
        given, whole = (
            chat_prompt(tokenizer, document.prompt),
            tokenizer.apply_chat_template(turns, tokenize=False),
        )
    else:
        given, whole = document.prompt, document.prompt + document.text + END
    return tokenizer(whole)["input_ids"], len(tokenizer(given)["input_ids"])


def loss_on(model: Qwen3ForCausalLM, batch: Sequence[tuple[list[int], int]]) -> torch.Tensor:
    """Weighted mean cross-entropy. The given words are random and cannot be learned, so they have a small weight.
    Padding has weight 0. It is on the right, where a causal model cannot see it, so it needs no attention mask."""
    inputs = pad_sequence([torch.tensor(ids) for ids, _ in batch], batch_first=True)  # [row, token]
    rows = [torch.tensor([GIVEN_WEIGHT] * given + [1.0] * (len(ids) - given)) for ids, given in batch]
    weights = pad_sequence(rows, batch_first=True)[:, 1:]
    logits = model(inputs).logits[:, :-1]  # [row, token, vocabulary]
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), inputs[:, 1:], reduction="none")
    return (losses * weights).sum() / weights.sum()


def rate_factor(step: int, steps: int) -> float:
    """Share of LEARNING_RATE to use at a step."""
    warm_up = min(1.0, (step + 1) / WARM_UP)
    return min(warm_up, (steps - step) / (DECAY * steps))


def report(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, line: str) -> None:
    """Print the progress, on held-out prompts other than those of evaluate_text.py."""
    model.eval()
    scores = [s for s in accuracy(model, tokenizer, count=90, seed=1) if "then" not in s.name]
    figures = "  ".join(f"{s.name} {s.share:.0%}" for s in scores)
    model.train()
    print(f"{line}  {figures}", flush=True)


def train(steps: int) -> tuple[Qwen3ForCausalLM, PreTrainedTokenizerFast]:
    torch.manual_seed(SEED)
    torch.set_num_threads(1)  # the same sums in the same order on every machine; two threads would save a third
    rng = random.Random(SEED)
    tokenizer = make_tokenizer(list(training_documents(random.Random(SEED), 20_000, 1.0)))
    model = make_model(tokenizer).train()
    print(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens", flush=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(step, steps))
    started = time.perf_counter()
    for step in range(steps):
        documents = training_documents(rng, BATCH, step / steps)
        loss = loss_on(model, [encode(tokenizer, document) for document in documents])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % REPORT_EVERY == 0 or step + 1 == steps:
            minutes = (time.perf_counter() - started) / 60
            report(model, tokenizer, f"step {step + 1:5}  {minutes:4.1f} min  loss {loss.item():.3f}")
    return model.eval(), tokenizer


def save(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the checkpoint so that transformers 4 loads it too: the tokenizer_config.json of version 5 names a class
    that version 4 does not have."""
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # safetensors makes it readable only for its owner
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **TOKENIZER_CONFIG}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=STEPS, help=f"optimizer steps (default: {STEPS})")
    parser.add_argument("--output", type=Path, default=FOLDER, help="checkpoint folder (default: demo/text)")
    args = parser.parse_args(argv)
    model, tokenizer = train(args.steps)
    save(model, tokenizer, args.output)
    print(f"saved to {args.output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
