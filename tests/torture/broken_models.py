"""Checkpoints that are wrong: config, tokenizer, weights, templates; of a text model and of one with pictures."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from torture.case import Case, all_of, cut, file_of, json_with

TEXT = "text --model model --prompt Tom --layers 0 --format csv"
SEEN = "vl --model vl --prompt what? --image red.png --layers 0 --format csv"
CHAT = f"{TEXT} --chat"
CONFIG, WORDS, TEMPLATE = "model/config.json", "model/tokenizer.json", "model/chat_template.jinja"
WEIGHTS = "model/model.safetensors"
HOLDS_ALL = "{% for m in messages %}{{ m.content }}{% endfor %}"

CONFIGS: dict[str, Any] = {
    "eos_token_id": "x", "bos_token_id": [None], "pad_token_id": 10**30, "vocab_size": 10**9, "hidden_size": 10**9,
    "num_hidden_layers": 10**9, "num_attention_heads": 10**9, "num_key_value_heads": 3, "head_dim": 10**9,
    "intermediate_size": 10**12, "max_position_embeddings": "x", "rms_norm_eps": "x",
    "hidden_act": "x", "model_type": 3, "architectures": 3, "dtype": "x", "layer_types": ["x", "y"],
    "rope_parameters": {"rope_type": "x"}, "quantization_config": {"quant_method": "x"}, "sliding_window": "x",
    "tie_word_embeddings": "x", "attention_bias": "x", "auto_map": 3, "attention_dropout": "x", "use_cache": "x",
}  # fmt: skip
MORE_CONFIGS: dict[str, Any] = {
    "num_hidden_layers": 0, "num_attention_heads": 0, "hidden_size": -1, "vocab_size": 3, "head_dim": 3,
    "num_key_value_heads": 0, "quantization_config": 3,
    "intermediate_size": 1, "model_type": "x" * 5000, "layer_types": "x", "rope_parameters": 3,
}  # fmt: skip
VISION: dict[str, Any] = {
    "patch_size": "x",
    "spatial_merge_size": 1,
    "hidden_size": 10**9,
    "depth": 10**9,
    "temporal_patch_size": 0,
    "num_heads": 0,
    "in_channels": 0,
}
PICTURES: dict[str, Any] = {
    "patch_size": "x",
    "merge_size": 1,
    "min_pixels": "x",
    "max_pixels": 0,
    "image_mean": "x",
    "image_std": [0, 0, 0],
    "size": "x",
    "temporal_patch_size": 0,
    "image_processor_type": "x",
    "resample": 99,
    "do_resize": "x",
    "rescale_factor": "x",
}


def weights(change: Callable[[dict[str, torch.Tensor]], object], path: str = WEIGHTS) -> Callable[[], None]:
    def make() -> None:
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, {"format": "pt"})

    return make


def nan(name: str, value: float = float("nan")) -> Callable[[], None]:
    return weights(lambda tensors: tensors[name].fill_(value))


def own(path: str) -> Path:
    return Path(path)


def words(**change: Any) -> Callable[[], None]:
    return json_with(WORDS, change)


def to_10_mb() -> None:
    """A normalizer that replaces a letter by ten million."""
    json_with(WORDS, {"normalizer": {"type": "Replace", "pattern": {"String": "T"}, "content": "x" * 10**7}})()


MODEL, VL = ("model",), ("vl", "red.png")
CASES = [
    *(Case(f"config.json: {k} {str(v)[:20]}", TEXT, json_with(CONFIG, {k: v}), MODEL) for k, v in CONFIGS.items()),
    *(Case(f"config.json: {k} {str(v)[:20]}", TEXT, json_with(CONFIG, {k: v}), MODEL) for k, v in MORE_CONFIGS.items()),
    *(
        Case(f"vl config.json: vision {k} {v}", SEEN, json_with("vl/config.json", {k: v}, "vision_config"), VL)
        for k, v in VISION.items()
    ),
    *(
        Case(f"preprocessor_config.json: {k} {v}", SEEN, json_with("vl/preprocessor_config.json", {k: v}), VL)
        for k, v in PICTURES.items()
    ),
    *(
        Case(f"vl config.json: {k} {v}", SEEN, json_with("vl/config.json", {k: v}), VL)
        for k, v in {
            "image_token_id": 3,
            "vision_start_token_id": "x",
            "vision_config": None,
            "text_config": None,
        }.items()
    ),
    Case(
        "vl config.json: image_token_id beyond the vocabulary",
        SEEN,
        json_with("vl/config.json", {"image_token_id": 10**6}),
        VL,
    ),
    Case("vl config.json: image_token_id text", SEEN, json_with("vl/config.json", {"image_token_id": "x"}), VL),
    Case("config.json empty", TEXT, file_of(CONFIG, ""), MODEL),
    Case("config.json cut off", TEXT, cut(CONFIG, 100), MODEL),
    Case("config.json list", TEXT, file_of(CONFIG, "[]"), MODEL),
    Case("config.json deep", TEXT, file_of(CONFIG, "[" * 200_000), MODEL),
    Case("config.json not UTF-8", TEXT, file_of(CONFIG, b"\xff\xfe{}"), MODEL),
    Case("config.json gone", TEXT, lambda: Path(CONFIG).unlink(), MODEL),
    Case("config.json folder", TEXT, lambda: (Path(CONFIG).unlink(), Path(CONFIG).mkdir()), MODEL),
    Case("generation_config.json list", TEXT, file_of("model/generation_config.json", "[]"), MODEL),
    Case("generation_config.json eos x", TEXT, file_of("model/generation_config.json", '{"eos_token_id": "x"}'), MODEL),
    Case(
        "tokenizer_config.json: model_max_length x",
        TEXT,
        json_with("model/tokenizer_config.json", {"model_max_length": "x"}),
        MODEL,
    ),
    Case(
        "tokenizer_config.json: padding_side x",
        TEXT,
        json_with("model/tokenizer_config.json", {"padding_side": "x"}),
        MODEL,
    ),
    Case("tokenizer_config.json: eos_token 3", TEXT, json_with("model/tokenizer_config.json", {"eos_token": 3}), MODEL),
    Case(
        "tokenizer_config.json: added_tokens_decoder x",
        TEXT,
        json_with("model/tokenizer_config.json", {"added_tokens_decoder": "x"}),
        MODEL,
    ),
    Case("tokenizer_config.json list", TEXT, file_of("model/tokenizer_config.json", "[]"), MODEL),
    Case(
        "tokenizer_config.json: chat_template 3",
        CHAT,
        all_of(lambda: Path(TEMPLATE).unlink(), json_with("model/tokenizer_config.json", {"chat_template": 3})),
        MODEL,
    ),
    Case("tokenizer.json gone", TEXT, lambda: Path(WORDS).unlink(), MODEL),
    Case("tokenizer.json cut off", TEXT, cut(WORDS, 3000), MODEL),
    Case("tokenizer.json: model 3", TEXT, words(model=3), MODEL),
    Case(
        "tokenizer.json: ids beyond the vocabulary",
        TEXT.replace("Tom", "Q"),
        json_with(WORDS, {"Q": 5000}, "model", "vocab"),
        MODEL,
    ),
    Case("tokenizer.json: negative ids", TEXT, json_with(WORDS, {"T": -5}, "model", "vocab"), MODEL),
    Case("tokenizer.json: decoder x", TEXT, words(decoder={"type": "x"}), MODEL),
    Case(
        "tokenizer.json: normalizer that makes nothing",
        TEXT,
        words(normalizer={"type": "Replace", "pattern": {"Regex": ".*"}, "content": ""}),
        MODEL,
    ),
    Case("tokenizer.json: normalizer to 10 MB", TEXT, to_10_mb, MODEL),
    Case(
        "tokenizer.json: normalizer with a bad expression",
        TEXT,
        words(normalizer={"type": "Replace", "pattern": {"Regex": "(("}, "content": ""}),
        MODEL,
    ),
    Case("chat template that fails", CHAT, file_of(TEMPLATE, "{{ 1/0 }}"), MODEL),
    Case("chat template with a syntax error", CHAT, file_of(TEMPLATE, "{% for %}"), MODEL),
    Case("chat template that drops the prompt", CHAT, file_of(TEMPLATE, "Hello."), MODEL),
    Case("chat template that is empty", CHAT, file_of(TEMPLATE, ""), MODEL),
    Case(
        "chat template that loops",
        CHAT,
        file_of(
            TEMPLATE,
            "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}x{% endfor %}{% endfor %}"
            "{% endfor %}" + HOLDS_ALL,
        ),
        MODEL,
    ),
    Case(
        "chat template that loops silently",
        CHAT,
        file_of(TEMPLATE, "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}" + HOLDS_ALL),
        MODEL,
    ),
    Case("chat template that multiplies", CHAT, file_of(TEMPLATE, HOLDS_ALL + "{{ 'x' * 3000000000 }}"), MODEL),
    Case("chat template that multiplies a little", CHAT, file_of(TEMPLATE, HOLDS_ALL + "{{ 'xy' * 50000000 }}"), MODEL),
    Case("chat template that powers", CHAT, file_of(TEMPLATE, HOLDS_ALL + "{{ 9**(9**9) }}"), MODEL),
    Case(
        "chat template that reaches out",
        CHAT,
        file_of(TEMPLATE, HOLDS_ALL + "{{ ''.__class__.__mro__[1].__subclasses__() }}"),
        MODEL,
    ),
    Case(
        "chat template that says who is wrong",
        CHAT,
        file_of(TEMPLATE, "{{ raise_exception('no\\x1b[31m way\\n' * 400) }}"),
        MODEL,
    ),
    Case("chat template cut off", CHAT, cut(TEMPLATE, 60), MODEL),
    Case("weights NaN", TEXT, nan("model.layers.1.mlp.up_proj.weight"), MODEL),
    Case("weights NaN in attention", TEXT, nan("model.layers.0.self_attn.q_proj.weight"), MODEL),
    Case("weights inf in the norm", TEXT, nan("model.norm.weight", float("inf")), MODEL),
    Case("weights NaN in the embedding", TEXT, nan("model.embed_tokens.weight"), MODEL),
    Case("weights NaN in the head", TEXT, nan("lm_head.weight"), MODEL),
    Case("weights huge", TEXT, nan("model.layers.0.mlp.down_proj.weight", 1e38), MODEL),
    Case("weights NaN, effects", TEXT + " --effects", nan("lm_head.weight"), MODEL),
    Case("weights cut off", TEXT, cut(WEIGHTS, -100), MODEL),
    Case("weights empty", TEXT, file_of(WEIGHTS, ""), MODEL),
    Case("weights of another kind", TEXT, file_of(WEIGHTS, b"\x80\x02}q\x00." * 100), MODEL),
    Case("weights with a huge header", TEXT, file_of(WEIGHTS, (2**62).to_bytes(8, "little") + b"{}"), MODEL),
    Case("weights lfs pointer", TEXT, file_of(WEIGHTS, "version https://git-lfs.github.com/spec/v1\n"), MODEL),
    Case("weights missing one", TEXT, weights(lambda t: t.pop("model.norm.weight")), MODEL),
    Case(
        "weights with one more",
        TEXT,
        weights(lambda t: t.update({"model.layers.7.mlp.up_proj.weight": torch.zeros(3, 3)})),
        MODEL,
    ),
    Case("weights of another shape", TEXT, weights(lambda t: t.update({"model.norm.weight": torch.zeros(7)})), MODEL),
    Case("weights gone", TEXT, lambda: Path(WEIGHTS).unlink(), MODEL),
    Case(
        "weights index to nowhere",
        TEXT,
        all_of(
            lambda: Path(WEIGHTS).unlink(),
            file_of(
                "model/model.safetensors.index.json",
                json.dumps({"metadata": {}, "weight_map": {"model.norm.weight": "x.safetensors"}}),
            ),
        ),
        MODEL,
    ),
    Case("weights a folder", TEXT, all_of(lambda: Path(WEIGHTS).unlink(), lambda: Path(WEIGHTS).mkdir()), MODEL),
    Case(
        "weights that nobody may read",
        TEXT,
        all_of(lambda: Path(WEIGHTS).unlink(), lambda: Path(WEIGHTS).symlink_to("nowhere")),
        MODEL,
    ),
    Case("vl preprocessor_config.json gone", SEEN, lambda: own("vl/preprocessor_config.json").unlink(), VL),
    Case("vl preprocessor_config.json list", SEEN, file_of("vl/preprocessor_config.json", "[]"), VL),
    Case(
        "vl chat template without the image",
        SEEN,
        file_of(
            "vl/chat_template.jinja",
            "{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}",
        ),
        VL,
    ),
    Case(
        "vl chat template that doubles the image",
        SEEN,
        file_of(
            "vl/chat_template.jinja",
            "{% for m in messages %}{% for p in m.content %}{% if p.type == 'image' %}"
            + "<|vision_start|><|image_pad|><|vision_end|>" * 2
            + "{% else %}{{ p.text }}{% endif %}{% endfor %}{% endfor %}",
        ),
        VL,
    ),
    Case(
        "vl weights NaN in the tower",
        SEEN,
        weights(
            lambda t: t[next(k for k in t if "blocks.0" in k or "block" in k)].fill_(float("nan")),
            "vl/model.safetensors",
        ),
        VL,
    ),
]
