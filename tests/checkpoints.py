"""Checkpoint folders on disk: tiny, seeded, with a real tokenizer, made without a download.

In: a folder to make, and which kind. Out: that folder, as `--model` takes it: config, weights, and for decoders a
byte-level BPE tokenizer with Qwen's special tokens and a ChatML chat template. `qwen3` is a whole and good one, in well
under a second; every other function makes one that must be refused, or one that needs a flag.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedTokenizerFast

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
END, IM_END = 0, 2  # their ids
MAX_POSITIONS = 64
LAYERS, HEADS = 2, 4
TEXTS = [
    "The capital of France is Paris. The capital of Italy is Rome.",
    "Tom has a red ball. Ann has a blue cup. Ann's cup is blue.",
    "system user assistant You are a helpful assistant.",
]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
COMMON: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": 2,
    "max_position_embeddings": MAX_POSITIONS,
    "bos_token_id": None,
    "eos_token_id": END,
    "pad_token_id": END,
}
WEIGHTS = "model.safetensors"


def tokenizer(chat_template: str | None = CHAT_TEMPLATE) -> PreTrainedTokenizerFast:
    """Every byte is a token, and " capital", " red" and the like are one each."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(TEXTS * 2, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=SPECIAL[0],
        pad_token=SPECIAL[0],
        additional_special_tokens=SPECIAL[1:],
        chat_template=chat_template,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def decoder(folder: Path, model_type: str, seed: int = 0, **settings: Any) -> Path:
    """A causal language model of any family with COMMON's config names, and `settings` on top."""
    chat_template = settings.pop("chat_template", CHAT_TEMPLATE)
    words = tokenizer(chat_template)
    torch.manual_seed(seed)
    config = AutoConfig.for_model(model_type, **{"vocab_size": len(words), **COMMON, **settings})
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:  # far from uniform attention, or every token would matter the same
                parameter.mul_(5)
        if not config.tie_word_embeddings:  # nothing stops by chance, see `stopping`
            model.get_output_embeddings().weight[: len(SPECIAL)] = 0
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def qwen3(folder: Path, **settings: Any) -> Path:
    """Grouped heads, normed queries and keys, rotary positions; float32, safetensors."""
    return decoder(folder, "qwen3", **{"head_dim": 16, "tie_word_embeddings": False, **settings})


def bart(folder: Path, **settings: Any) -> Path:
    """A whole encoder-decoder; its encoder has one layer more than its decoder, and fewer heads."""
    words = tokenizer(None)
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "bart", vocab_size=len(words), d_model=32, encoder_layers=LAYERS + 1, decoder_layers=LAYERS,
        encoder_attention_heads=2, decoder_attention_heads=HEADS, encoder_ffn_dim=48, decoder_ffn_dim=48,
        max_position_embeddings=MAX_POSITIONS, pad_token_id=END, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=2, forced_eos_token_id=None, init_std=0.2, **settings,
    )  # fmt: skip
    model = AutoModelForSeq2SeqLM.from_config(config)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def stopping(folder: Path, good: Path, prompt: str, step: int, token_id: int = IM_END) -> Path:
    """`good` with two rows of its output matrix exchanged, so that step `step` after `prompt` generates `token_id`."""
    shutil.copytree(good, folder)
    model, words = AutoModelForCausalLM.from_pretrained(good), AutoTokenizer.from_pretrained(good)
    ids = words(prompt, return_tensors="pt")["input_ids"]
    for _ in range(step + 1):
        with torch.no_grad():
            ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
    generated = ids[0, -step - 1 :].tolist()
    assert generated.count(generated[-1]) == 1, f"{generated}: the last one must be new; take another prompt or step"

    def exchange(tensors: dict[str, torch.Tensor]) -> None:
        rows = [generated[-1], token_id]
        tensors["lm_head.weight"][rows] = tensors["lm_head.weight"][rows[::-1]]

    return change_weights(folder, exchange)


# --- broken, or in need of a flag -------------------------------------------------------------------------
def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    return folder


def change_config(folder: Path, **settings: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return folder


def pickled(folder: Path, good: Path) -> Path:
    """Only pytorch_model.bin, as checkpoints before safetensors have it."""
    shutil.copytree(good, folder)
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    return folder


def missing_weight(folder: Path, good: Path) -> Path:
    return change_weights(Path(shutil.copytree(good, folder)), lambda t: t.pop("model.layers.1.mlp.up_proj.weight"))


def unexpected_weight(folder: Path, good: Path) -> Path:
    extra = {"model.layers.1.self_attn.gate.weight": torch.zeros(4, 4)}
    return change_weights(Path(shutil.copytree(good, folder)), lambda tensors: tensors.update(extra))


def misfitting_weight(folder: Path, good: Path) -> Path:
    wrong = {"model.layers.1.mlp.up_proj.weight": torch.zeros(40, 32)}
    return change_weights(Path(shutil.copytree(good, folder)), lambda tensors: tensors.update(wrong))


def damaged(folder: Path, good: Path) -> Path:
    """The weights cut in half, as by a broken download."""
    shutil.copytree(good, folder)
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])
    return folder


def without_weights(folder: Path, good: Path) -> Path:
    shutil.copytree(good, folder)
    (folder / WEIGHTS).unlink()
    return folder


def without_tokenizer(folder: Path, good: Path) -> Path:
    shutil.copytree(good, folder, ignore=shutil.ignore_patterns("tokenizer*", "chat_template*", "special_tokens*"))
    return folder


def without_config(folder: Path, good: Path) -> Path:
    shutil.copytree(good, folder, ignore=shutil.ignore_patterns("config.json"))
    return folder


def with_broken_config(folder: Path, good: Path) -> Path:
    shutil.copytree(good, folder)
    (folder / "config.json").write_text('{"model_type": "qwen3", ')
    return folder


def with_nonsense_config(folder: Path, good: Path) -> Path:
    return change_config(Path(shutil.copytree(good, folder)), num_hidden_layers="two")


def of_unknown_family(folder: Path, good: Path) -> Path:
    return change_config(
        Path(shutil.copytree(good, folder)), model_type="klingon", architectures=["KlingonForCausalLM"]
    )


def with_own_code(folder: Path, good: Path, marker: Path) -> Path:
    """A model that comes with Python code; running it makes the file `marker`. The code itself is Qwen3's."""
    shutil.copytree(good, folder)
    code = f"""
from pathlib import Path
from transformers import Qwen3Config, Qwen3ForCausalLM
Path({str(marker)!r}).touch()
class OwnConfig(Qwen3Config):
    model_type = "own"
class OwnForCausalLM(Qwen3ForCausalLM):
    config_class = OwnConfig
"""
    (folder / "own.py").write_text(code)
    auto_map = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"}
    return change_config(folder, model_type="own", architectures=["OwnForCausalLM"], auto_map=auto_map)


# --- families that cannot be measured; refused by their config, so most have no weights -------------------
def config_only(folder: Path, model_type: str, architecture: str, **settings: Any) -> Path:
    """The config as a downloaded checkpoint has it, and a tokenizer."""
    tokenizer().save_pretrained(folder)
    config = {"model_type": model_type, "architectures": [architecture], **settings}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def bert(folder: Path) -> Path:
    return config_only(folder, "bert", "BertForMaskedLM", **COMMON)


def whisper(folder: Path) -> Path:
    """An encoder-decoder, but from speech."""
    return config_only(folder, "whisper", "WhisperForConditionalGeneration", is_encoder_decoder=True)


def qwen2_5_vl(folder: Path) -> Path:
    return config_only(folder, "qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration", **COMMON, vocab_size=300)


def mamba(folder: Path) -> Path:
    """A decoder without attention."""
    return decoder(folder, "mamba", state_size=8, time_step_rank=4)


def gptj(folder: Path) -> Path:
    """A decoder whose attention does not go through AttentionInterface in older transformers."""
    return decoder(folder, "gptj", n_embd=32, n_layer=LAYERS, n_head=HEADS, n_positions=MAX_POSITIONS, rotary_dim=8)
