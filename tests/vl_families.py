"""Tiny random vision-language checkpoints, one row per family, as folders that look like the downloaded ones.

In: a row's name and a folder. Out: that folder with config.json, weights, tokenizer, image processor and chat template
in the files and under the keys where the family's checkpoints on the hub have them (`hub` names the one looked at), so
that transformers' own `from_pretrained` reads it in any version, with or without torchvision. Seeded, no download, well
under a second each.

    make_vl_checkpoint("qwen2_vl", folder)
    text, images = prompt("qwen2_vl", processor), [picture(112, 84)]

A row is data: dictionaries that are written to the JSON files as they stand, except that a token's text under a key
that ends in `_token_id`, `_token_index` or `token_ids` becomes its id. No mask_impact import here.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from packaging.version import Version
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText
from transformers import __version__ as transformers_version

TEXTS = ["What is in the picture? A red ball is on the left. A blue cup is on the right. system user assistant"]
QUESTION = "What is on the left?"

# --- text and vision towers ---------------------------------------------------------------------------------
TEXT: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 2048, "tie_word_embeddings": False, "torch_dtype": "float32",
}  # fmt: skip
HEAD16 = {"head_dim": 16}
WINDOW = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
MOE = {
    "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "decoder_sparse_step": 1,
    "mlp_only_layers": [], "norm_topk_prob": True,
}  # fmt: skip
ENCODER: dict[str, Any] = {  # CLIP's, SigLIP's and Pixtral's names
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
}  # fmt: skip


def mrope(section: list[int], **more: Any) -> dict[str, Any]:
    """Rotary positions with time, height and width; `section` sums to head_dim / 2."""
    return {"rope_scaling": {"type": "mrope", "rope_type": "default", "mrope_section": section} | more}


def siglip(image: int, patch: int, **more: Any) -> dict[str, Any]:
    size = {"image_size": image, "patch_size": patch, "vision_use_head": False}
    return {"model_type": "siglip_vision_model", **ENCODER, **size, **more}


def pixtral(image: int, patch: int) -> dict[str, Any]:
    return {"model_type": "pixtral", **ENCODER, "head_dim": 8, "image_size": image, "patch_size": patch,
            "num_channels": 3, "hidden_act": "gelu", "rope_theta": 10000.0}  # fmt: skip


# --- image processors -----------------------------------------------------------------------------------------
CLIP_NORM = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
HALF_NORM = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
STEPS = {"do_convert_rgb": True, "do_normalize": True, "do_rescale": True, "do_resize": True, "rescale_factor": 1 / 255}


def square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


# --- chat templates -------------------------------------------------------------------------------------------
def chat(
    image: str, user: str, assistant: str, user_end: str, assistant_end: str, start: str = "", video: str = ""
) -> str:
    """A template for messages whose content is a text, or a list of {"type": "image"} and {"type": "text"} parts."""
    return (
        f"{{{{ {json.dumps(start)} }}}}"
        "{% for message in messages %}{% set mine = message['role'] == 'assistant' %}"
        f"{{{{ {json.dumps(assistant)} if mine else {json.dumps(user)}.replace('ROLE', message['role']) }}}}"
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
        f"{{% if part['type'] == 'image' %}}{{{{ {json.dumps(image)} }}}}"
        f"{{% elif part['type'] == 'video' %}}{{{{ {json.dumps(video)} }}}}"
        "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
        f"{{{{ {json.dumps(assistant_end)} if mine else {json.dumps(user_end)} }}}}"
        "{% endfor %}"
        f"{{% if add_generation_prompt %}}{{{{ {json.dumps(assistant)} }}}}{{% endif %}}"
    )


def chatml(image: str, video: str = "") -> str:
    end, user, assistant = "<|im_end|>\n", "<|im_start|>ROLE\n", "<|im_start|>assistant\n"
    return chat(image, user, assistant, end, end, video=video)


# --- rows -----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class VLFamily:
    """One row. `config`, `image_processor`, `processor`, `video_processor`: the JSON files, None where the hub's
    checkpoint has no such file. `special`: the tokenizer's special tokens, the first is end of text and padding."""

    hub: str  # the checkpoint whose files were followed
    note: str  # what this row is in the table for
    config: dict[str, Any]  # config.json
    image_processor: dict[str, Any]  # preprocessor_config.json
    special: tuple[str, ...]
    image_token: str  # what a text has once per image, for a processor called without a chat template
    chat_template: str | None
    processor: dict[str, Any] | None = None  # processor_config.json
    video_processor: dict[str, Any] | None = None  # video_preprocessor_config.json
    template_file: str = "chat_template.json"  # or chat_template.jinja, or tokenizer_config.json
    tokenizer_class: str = "PreTrainedTokenizerFast"
    sentencepiece: bool = False  # a space is "▁", as in Llama and Gemma; else byte level
    bos: str | None = None  # put before every text
    named: dict[str, str] = field(default_factory=dict)  # tokenizer attributes, extra_special_tokens on the hub
    extra_tokens: tuple[str, ...] = ()  # in the vocabulary, not special
    min_version: str = "4.57"

    @property
    def available(self) -> bool:
        return Version(Version(transformers_version).base_version) >= Version(self.min_version)


QWEN_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
    "<|video_pad|>",
)  # fmt: skip
QWEN_IDS = {
    "image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>", "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>", "eos_token_id": "<|endoftext|>", "bos_token_id": "<|endoftext|>",
}  # fmt: skip
QWEN_VIDEO = "<|vision_start|><|video_pad|><|vision_end|>"
QWEN_CHAT = chatml("<|vision_start|><|image_pad|><|vision_end|>", QWEN_VIDEO)
QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
QWEN3_VISION = {
    "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "in_channels": 3, "patch_size": 16,
    "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": 64, "num_position_embeddings": 16,
    "deepstack_visual_indexes": [0, 1], "hidden_act": "gelu_pytorch_tanh",
}  # fmt: skip
QWEN3_PIXELS = {"size": {"longest_edge": 16 * 32 * 32, "shortest_edge": 4 * 32 * 32}}
QWEN3_VIDEO = {"size": {"longest_edge": 48 * 32 * 32, "shortest_edge": 4 * 32 * 32}}  # of all frames together
QWEN3_PATCHES = {"patch_size": 16, "temporal_patch_size": 2, "merge_size": 2, **HALF_NORM}


def qwen2_pixels(processor: str) -> dict[str, Any]:
    """At most 16 image tokens of 28 x 28 pixels."""
    return {
        "min_pixels": 4 * 28 * 28, "max_pixels": 16 * 28 * 28, "patch_size": 14, "temporal_patch_size": 2,
        "merge_size": 2, **CLIP_NORM, "image_processor_type": "Qwen2VLImageProcessor", "processor_class": processor,
    }  # fmt: skip


def qwen3_vl(model_type: str, architecture: str, hub: str, note: str, **text: Any) -> VLFamily:
    return VLFamily(
        hub, note,
        {"model_type": model_type, "architectures": [architecture], **QWEN_IDS, "tie_word_embeddings": False,
         "text_config": {"model_type": f"{model_type}_text", **TEXT, **HEAD16, "rope_theta": 5e6, **text,
                         **mrope([4, 2, 2], mrope_interleaved=True)},
         "vision_config": {"model_type": model_type, **QWEN3_VISION}},
        {**QWEN3_PIXELS, **QWEN3_PATCHES, "image_processor_type": "Qwen2VLImageProcessorFast",
         "processor_class": "Qwen3VLProcessor"},
        QWEN_TOKENS, QWEN_IMAGE, QWEN_CHAT, tokenizer_class="Qwen2Tokenizer",
        video_processor={**QWEN3_VIDEO, **QWEN3_PATCHES, "video_processor_type": "Qwen3VLVideoProcessor",
                         "processor_class": "Qwen3VLProcessor"},
    )  # fmt: skip


LLAMA_TOKENS = ("</s>", "<s>", "<unk>", "<pad>", "<image>")
LLAMA_IDS = {"bos_token_id": "<s>", "eos_token_id": "</s>", "pad_token_id": "<pad>"}
PIXTRAL_TOKENS = ("</s>", "<s>", "<unk>", "<pad>", "[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]")
PIXTRAL_PROCESSOR = {
    "image_break_token": "[IMG_BREAK]", "image_end_token": "[IMG_END]", "image_token": "[IMG]",
    "processor_class": "PixtralProcessor",
}  # fmt: skip
PIXTRAL_CHAT = chat("[IMG]", "[INST]", "", "[/INST]", "</s>", start="<s>")
TILES = 4
IDEFICS_TOKENS = (
    "<|im_end|>", "<|im_start|>", "<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>",
    *(f"<row_{row}_col_{col}>" for row in range(1, TILES + 1) for col in range(1, TILES + 1)),
)  # fmt: skip
IDEFICS_PIXELS = {  # tiles of 64 x 64; 8 x 8 patches, shuffled to 4 x 4 tokens
    **STEPS, **HALF_NORM, "do_image_splitting": True, "do_pad": True, "resample": 1,
    "max_image_size": {"longest_edge": 64}, "size": {"longest_edge": 128},
}  # fmt: skip
IDEFICS_CHAT = chat("<image>", "<|im_start|>User:", "Assistant:", "<end_of_utterance>\n", "<end_of_utterance>\n")
GEMMA_TOKENS = ("<eos>", "<pad>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>")
GEMMA3_TOKENS = (*GEMMA_TOKENS, "<start_of_image>", "<end_of_image>", "<image_soft_token>")
GEMMA_IDS = {"bos_token_id": "<bos>", "eos_token_id": "<eos>", "pad_token_id": "<pad>"}
AYA_TOKENS = (
    "<|END_OF_TURN_TOKEN|>", "<PAD>", "<BOS_TOKEN>", "<|START_OF_TURN_TOKEN|>", "<image>", "<|START_OF_IMG|>",
    "<|END_OF_IMG|>", "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>", "TILE_GLOBAL", "TILE",
    *(f"TILE_{tile}" for tile in range(1, 5)),
)  # fmt: skip
GLM_TOKENS = (
    "<|endoftext|>", "[gMASK]", "<sop>", "<|user|>", "<|assistant|>", "<|begin_of_image|>", "<|end_of_image|>",
    "<|image|>", "<|begin_of_video|>", "<|end_of_video|>", "<|video|>",
)  # fmt: skip
INTERNVL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>")
IMAGE_MARK = "<image_placeholder>"  # DeepSeek's and Janus's
DEEPSEEK_TOKENS = ("</s>", "<s>", "<pad>", IMAGE_MARK)
DEEPSEEK_IDS = {"image_token_id": IMAGE_MARK, "tie_word_embeddings": False}
DEEPSEEK_PIXELS = {  # 4 x 4 patches
    **STEPS, **HALF_NORM, "do_pad": True, "min_size": 14, "resample": 3, "size": square(64),
}  # fmt: skip
DEEPSEEK_CHAT = chat(IMAGE_MARK, "User: ", "Assistant:", "\n\n", "</s>")
MINICPM_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|image_pad|>", "<|video_pad|>", "<image>", "</image>", "<slice>",
    "</slice>", "<image_id>", "</image_id>",
)  # fmt: skip

VL_FAMILIES: dict[str, VLFamily] = {
    "qwen2_vl": VLFamily(
        "Qwen/Qwen2-VL-2B-Instruct", "grid of any shape, 2 x 2 merge, three-part rotary; the text config is flat",
        {"model_type": "qwen2_vl", "architectures": ["Qwen2VLForConditionalGeneration"], **TEXT, **QWEN_IDS,
         "use_sliding_window": False, "rope_theta": 1e6, **mrope([2, 3, 3]),
         "vision_config": {"depth": 2, "embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2, "num_heads": 4,
                           "in_chans": 3, "patch_size": 14, "spatial_merge_size": 2, "spatial_patch_size": 14,
                           "temporal_patch_size": 2}},
        qwen2_pixels("Qwen2VLProcessor"), QWEN_TOKENS, QWEN_IMAGE, QWEN_CHAT, tokenizer_class="Qwen2Tokenizer",
    ),
    "qwen2_5_vl": VLFamily(
        "Qwen/Qwen2.5-VL-3B-Instruct", "as qwen2_vl, with windows in the vision tower (block 0; block 1 is full)",
        {"model_type": "qwen2_5_vl", "architectures": ["Qwen2_5_VLForConditionalGeneration"], **TEXT, **QWEN_IDS,
         "use_sliding_window": False, "rope_theta": 1e6, **mrope([2, 3, 3]),
         "vision_config": {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "in_chans": 3,
                           "out_hidden_size": 64, "patch_size": 14, "spatial_merge_size": 2, "spatial_patch_size": 14,
                           "temporal_patch_size": 2, "window_size": 56, "fullatt_block_indexes": [1],
                           "tokens_per_second": 2, "hidden_act": "silu"}},
        qwen2_pixels("Qwen2_5_VLProcessor"), QWEN_TOKENS, QWEN_IMAGE, QWEN_CHAT, tokenizer_class="Qwen2Tokenizer",
    ),
    "qwen3_vl": qwen3_vl(
        "qwen3_vl", "Qwen3VLForConditionalGeneration", "Qwen/Qwen3-VL-4B-Instruct",
        "vision features are added to the image tokens after the first decoder layers too (deepstack)",
    ),
    "qwen3_vl_moe": qwen3_vl(
        "qwen3_vl_moe", "Qwen3VLMoeForConditionalGeneration", "Qwen/Qwen3-VL-30B-A3B-Instruct",
        "deepstack, experts", **MOE,
    ),
    "gemma3": VLFamily(
        "google/gemma-3-4b-it", "image tokens see each other both ways; windows; 4 x 4 tokens by pooling",
        {"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"],
         "boi_token_index": "<start_of_image>", "eoi_token_index": "<end_of_image>",
         "image_token_index": "<image_soft_token>", "eos_token_id": "<eos>", "mm_tokens_per_image": 16,
         "text_config": {"model_type": "gemma3_text", **TEXT, **HEAD16, **WINDOW, **GEMMA_IDS,
                         "query_pre_attn_scalar": 16, "tie_word_embeddings": True,
                         "rope_scaling": {"factor": 8.0, "rope_type": "linear"}},
         "vision_config": siglip(112, 14)},
        {"do_convert_rgb": None, "do_normalize": True, "do_pan_and_scan": None, "do_rescale": True, "do_resize": True,
         **HALF_NORM, "image_processor_type": "Gemma3ImageProcessor", "image_seq_length": 16,
         "pan_and_scan_max_num_crops": None, "pan_and_scan_min_crop_size": None,
         "pan_and_scan_min_ratio_to_activate": None, "processor_class": "Gemma3Processor", "resample": 2,
         "rescale_factor": 1 / 255, "size": square(112)},
        GEMMA3_TOKENS, "<start_of_image>",
        chat("<start_of_image>", "<start_of_turn>ROLE\n", "<start_of_turn>model\n", "<end_of_turn>\n",
             "<end_of_turn>\n", start="<bos>"),
        processor={"image_seq_length": 16, "processor_class": "Gemma3Processor"},
        tokenizer_class="GemmaTokenizer", sentencepiece=True, bos="<bos>",
        named={"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"},
    ),
    "llava": VLFamily(
        "llava-hf/llava-1.5-7b-hf", "CLIP and Llama; short side to 56, then the centre; 4 x 4 tokens",
        {"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"], "image_token_index": "<image>",
         "pad_token_id": "<pad>", "ignore_index": -100, "projector_hidden_act": "gelu", "image_seq_length": 16,
         "vision_feature_layer": -2, "vision_feature_select_strategy": "default", "tie_word_embeddings": False,
         "text_config": {"model_type": "llama", **TEXT, **LLAMA_IDS},
         "vision_config": {"model_type": "clip_vision_model", **ENCODER, "image_size": 56, "patch_size": 14,
                           "projection_dim": 32}},
        {**STEPS, **CLIP_NORM, "do_center_crop": True, "crop_size": square(56), "size": {"shortest_edge": 56},
         "resample": 3, "image_processor_type": "CLIPImageProcessor", "processor_class": "LlavaProcessor"},
        LLAMA_TOKENS, "<image>", chat("<image>\n", "USER: ", "ASSISTANT: ", " ", "</s>"),
        processor={"image_token": "<image>", "num_additional_image_tokens": 1, "patch_size": 14,
                   "processor_class": "LlavaProcessor", "vision_feature_select_strategy": "default"},
        bos="<s>", named={"image_token": "<image>"},
    ),
    "llava_next": VLFamily(
        "llava-hf/llava-v1.6-mistral-7b-hf", "4 x 4 of the whole, then tiles with a newline token per row",
        {"model_type": "llava_next", "architectures": ["LlavaNextForConditionalGeneration"],
         "image_grid_pinpoints": [[56, 112], [112, 56], [112, 112]], "image_token_index": "<image>",
         "pad_token_id": "<pad>", "ignore_index": -100, "projector_hidden_act": "gelu", "image_seq_length": 16,
         "use_image_newline_parameter": True, "vision_feature_layer": -2, "vision_feature_select_strategy": "default",
         "tie_word_embeddings": False,
         "text_config": {"model_type": "mistral", **TEXT, **LLAMA_IDS, "sliding_window": None},
         "vision_config": {"model_type": "clip_vision_model", **ENCODER, "image_size": 56, "patch_size": 14,
                           "projection_dim": 32}},
        {**STEPS, **CLIP_NORM, "aspect_ratio_setting": "anyres", "crop_size": square(56), "do_center_crop": True,
         "do_pad": True, "image_grid_pinpoints": [[56, 112], [112, 56], [112, 112]], "size": {"shortest_edge": 56},
         "resample": 3, "image_processor_type": "LlavaNextImageProcessor", "processor_class": "LlavaNextProcessor"},
        (*LLAMA_TOKENS, "[INST]", "[/INST]"), "<image>", chat("<image>\n", "[INST] ", "", " [/INST] ", "</s>"),
        processor={"image_token": "<image>", "num_additional_image_tokens": 1, "patch_size": 14,
                   "processor_class": "LlavaNextProcessor", "vision_feature_select_strategy": "default"},
        bos="<s>", named={"image_token": "<image>"},
    ),
    "llava_onevision": VLFamily(
        "llava-hf/llava-onevision-qwen2-0.5b-ov-hf", "as llava_next, with SigLIP and Qwen2",
        {"model_type": "llava_onevision", "architectures": ["LlavaOnevisionForConditionalGeneration"],
         "image_grid_pinpoints": [[56, 56], [56, 112], [112, 56], [112, 112]], "image_token_index": "<image>",
         "video_token_index": "<video>", "projector_hidden_act": "gelu", "use_image_newline_parameter": True,
         "vision_aspect_ratio": "anyres_max_9", "vision_feature_layer": -1, "vision_feature_select_strategy": "full",
         "tie_word_embeddings": False,
         "text_config": {"model_type": "qwen2", **TEXT, "use_sliding_window": False, "eos_token_id": "<|im_end|>",
                         "bos_token_id": "<|endoftext|>"},
         "vision_config": siglip(56, 14)},
        {**STEPS, **HALF_NORM, "do_pad": True, "image_grid_pinpoints": [[56, 56], [56, 112], [112, 56], [112, 112]],
         "resample": 3, "size": square(56), "image_processor_type": "LlavaOnevisionImageProcessor",
         "processor_class": "LlavaOnevisionProcessor"},
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>"), "<image>", chatml("<image>\n"),
        processor={"image_token": "<image>", "num_image_tokens": 16, "processor_class": "LlavaOnevisionProcessor",
                   "video_token": "<video>", "vision_feature_select_strategy": "full"},
        tokenizer_class="Qwen2Tokenizer",
    ),
    "smolvlm": VLFamily(
        "HuggingFaceTB/SmolVLM2-500M-Video-Instruct", "as idefics3; needs num2words",
        {"model_type": "smolvlm", "architectures": ["SmolVLMForConditionalGeneration"], "image_token_id": "<image>",
         "scale_factor": 2, "tie_word_embeddings": False, "pad_token_id": "<|im_end|>",
         "text_config": {"model_type": "llama", **TEXT, "bos_token_id": "<|im_start|>", "eos_token_id": "<|im_end|>",
                         "pad_token_id": "<|im_end|>"},
         "vision_config": {"model_type": "smolvlm_vision", **ENCODER, "image_size": 64, "patch_size": 8}},
        {**IDEFICS_PIXELS, "image_processor_type": "SmolVLMImageProcessor", "processor_class": "SmolVLMProcessor",
         "video_sampling": {"fps": 1, "max_frames": 64, "video_size": {"longest_edge": 64}}},
        IDEFICS_TOKENS, "<image>", IDEFICS_CHAT,
        processor={"image_seq_len": 16, "processor_class": "SmolVLMProcessor"},
        named={"fake_image_token": "<fake_token_around_image>", "image_token": "<image>",
               "global_image_token": "<global-img>", "end_of_utterance_token": "<end_of_utterance>"},
    ),
    "idefics3": VLFamily(
        "HuggingFaceM4/Idefics3-8B-Llama3", "tiles with row and column tokens, then the whole",
        {"model_type": "idefics3", "architectures": ["Idefics3ForConditionalGeneration"], "image_token_id": "<image>",
         "scale_factor": 2, "tie_word_embeddings": False, "pad_token_id": "<|im_end|>",
         "text_config": {"model_type": "llama", **TEXT, "bos_token_id": "<|im_start|>", "eos_token_id": "<|im_end|>",
                         "pad_token_id": "<|im_end|>"},
         "vision_config": {"model_type": "idefics3", **ENCODER, "image_size": 64, "patch_size": 8}},
        {**IDEFICS_PIXELS, "image_processor_type": "Idefics3ImageProcessor", "processor_class": "Idefics3Processor"},
        IDEFICS_TOKENS, "<image>", IDEFICS_CHAT,
        processor={"image_seq_len": 16, "processor_class": "Idefics3Processor"},
    ),
    "internvl": VLFamily(
        "OpenGVLab/InternVL3-1B-hf", "tiles, then the whole if there is more than one; shuffled to 4 x 4 tokens",
        {"model_type": "internvl", "architectures": ["InternVLForConditionalGeneration"], "downsample_ratio": 0.5,
         "image_seq_length": 16, "image_token_id": "<IMG_CONTEXT>", "projector_hidden_act": "gelu",
         "tie_word_embeddings": False,
         "vision_feature_layer": -1, "vision_feature_select_strategy": "default",
         "text_config": {"model_type": "qwen2", **TEXT, "use_sliding_window": False, "eos_token_id": "<|im_end|>",
                         "bos_token_id": "<|endoftext|>"},
         "vision_config": {"model_type": "internvl_vision", **ENCODER, "image_size": [64, 64], "patch_size": [8, 8],
                           "norm_type": "layer_norm", "use_qk_norm": False, "attention_bias": True,
                           "use_absolute_position_embeddings": True}},
        {**STEPS, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "crop_to_patches": False,
         "min_patches": 1, "max_patches": 4, "resample": 3, "size": square(64),
         "image_processor_type": "GotOcr2ImageProcessorFast", "processor_class": "InternVLProcessor"},
        INTERNVL_TOKENS, "<IMG_CONTEXT>", chatml("<IMG_CONTEXT>\n"), template_file="chat_template.jinja",
        processor={"image_seq_length": 16, "processor_class": "InternVLProcessor"},
        video_processor={**STEPS, "size": square(64), "resample": 3, "video_processor_type": "InternVLVideoProcessor",
                         "processor_class": "InternVLProcessor"},
        tokenizer_class="Qwen2Tokenizer",
        named={"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
               "video_token": "<video>"},
    ),
    "paligemma": VLFamily(
        "google/paligemma-3b-mix-224", "the image, <bos>, then the text; all see each other; no chat template",
        {"model_type": "paligemma", "architectures": ["PaliGemmaForConditionalGeneration"], **GEMMA_IDS,
         "image_token_index": "<image>", "hidden_size": 64, "projection_dim": 64, "ignore_index": -100,
         "text_config": {"model_type": "gemma", **TEXT, **HEAD16, "num_image_tokens": 16, "tie_word_embeddings": True},
         "vision_config": siglip(56, 14, projection_dim=64, num_image_tokens=16)},
        {**STEPS, **HALF_NORM, "do_convert_rgb": None, "image_seq_length": 16, "size": square(56), "resample": 3,
         "image_processor_type": "SiglipImageProcessor", "processor_class": "PaliGemmaProcessor"},
        (*GEMMA_TOKENS, "<image>"), "<image>", None, tokenizer_class="GemmaTokenizer", sentencepiece=True, bos="<bos>",
        extra_tokens=tuple([f"<loc{i:0>4}>" for i in range(1024)] + [f"<seg{i:0>3}>" for i in range(128)]),
    ),
    "mistral3": VLFamily(
        "mistralai/Mistral-Small-3.1-24B-Instruct-2503", "Pixtral vision with 2 x 2 merge; a break token ends a row",
        {"model_type": "mistral3", "architectures": ["Mistral3ForConditionalGeneration"], "image_token_index": "[IMG]",
         "multimodal_projector_bias": False, "projector_hidden_act": "gelu", "spatial_merge_size": 2,
         "vision_feature_layer": -1, "tie_word_embeddings": False,
         "text_config": {"model_type": "mistral", **TEXT, **HEAD16, "sliding_window": None, "rope_theta": 1e9},
         "vision_config": pixtral(112, 14)},
        {**STEPS, **CLIP_NORM, "patch_size": 14, "resample": 3, "size": {"longest_edge": 112},
         "image_processor_type": "PixtralImageProcessorFast", "processor_class": "PixtralProcessor"},
        PIXTRAL_TOKENS, "[IMG]", PIXTRAL_CHAT, template_file="chat_template.jinja",
        processor=PIXTRAL_PROCESSOR | {"patch_size": 14, "spatial_merge_size": 2}, bos="<s>",
    ),
    "llava_pixtral": VLFamily(
        "mistral-community/pixtral-12b", "model_type llava with Pixtral vision: a grid of any shape, break tokens",
        {"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"], "image_token_index": "[IMG]",
         "ignore_index": -100, "image_seq_length": 1, "projector_hidden_act": "gelu", "vision_feature_layer": -1,
         "vision_feature_select_strategy": "full", "tie_word_embeddings": False,
         "text_config": {"model_type": "mistral", **TEXT, **HEAD16, "sliding_window": None, "rope_theta": 1e9},
         "vision_config": pixtral(64, 16)},
        {**STEPS, **CLIP_NORM, "patch_size": {"height": 16, "width": 16}, "resample": 3, "size": {"longest_edge": 64},
         "image_processor_type": "PixtralImageProcessor", "processor_class": "PixtralProcessor"},
        PIXTRAL_TOKENS, "[IMG]", PIXTRAL_CHAT,
        processor=PIXTRAL_PROCESSOR | {"patch_size": 16}, bos="<s>",
    ),
    "aya_vision": VLFamily(
        "CohereLabs/aya-vision-8b", "tiles that are numbered, then the whole; shuffled to 4 x 4 tokens",
        {"model_type": "aya_vision", "architectures": ["AyaVisionForConditionalGeneration"], "downsample_factor": 2,
         "adapter_layer_norm_eps": 1e-6, "alignment_intermediate_size": 64, "image_token_index": "<|IMG_PATCH|>",
         "vision_feature_layer": -1, "vision_feature_select_strategy": "full",
         "text_config": {"model_type": "cohere2", **TEXT, **HEAD16, **WINDOW, "bos_token_id": "<BOS_TOKEN>",
                         "eos_token_id": "<|END_OF_TURN_TOKEN|>", "pad_token_id": "<PAD>", "tie_word_embeddings": True},
         "vision_config": siglip(64, 8)},
        {**STEPS, **HALF_NORM, "crop_to_patches": True, "min_patches": 1, "max_patches": 4, "resample": 3,
         "size": square(64), "image_processor_type": "GotOcr2ImageProcessor", "processor_class": "AyaVisionProcessor"},
        AYA_TOKENS, "<image>",
        chat("<image>", "<|START_OF_TURN_TOKEN|>ROLE", "<|START_OF_TURN_TOKEN|>assistant", "<|END_OF_TURN_TOKEN|>",
             "<|END_OF_TURN_TOKEN|>", start="<BOS_TOKEN>"),
        processor={"downsample_factor": 2, "image_token": "<image>", "img_size": 64, "patch_size": 8,
                   "processor_class": "AyaVisionProcessor"},
        bos="<BOS_TOKEN>",
    ),
    "glm4v": VLFamily(
        "zai-org/GLM-4.1V-9B-Thinking", "as qwen2_vl: a grid of any shape, 2 x 2 merge, three-part rotary",
        {"model_type": "glm4v", "architectures": ["Glm4vForConditionalGeneration"], "image_token_id": "<|image|>",
         "video_token_id": "<|video|>", "image_start_token_id": "<|begin_of_image|>",
         "image_end_token_id": "<|end_of_image|>", "video_start_token_id": "<|begin_of_video|>",
         "video_end_token_id": "<|end_of_video|>", "tie_word_embeddings": False,
         "text_config": {"model_type": "glm4v_text", **TEXT, "eos_token_id": "<|endoftext|>", "rope_theta": 1e4,
                         "partial_rotary_factor": 0.5, "pad_token_id": "<|endoftext|>",
                         "rope_scaling": {"type": "default", "rope_type": "default", "mrope_section": [1, 1, 2]}},
         "vision_config": {"model_type": "glm4v", "depth": 2, "hidden_size": 32, "intermediate_size": 48,
                           "num_heads": 4, "out_hidden_size": 64, "image_size": 56, "patch_size": 14,
                           "spatial_merge_size": 2, "temporal_patch_size": 2}},
        {**CLIP_NORM, "size": {"shortest_edge": 4 * 28 * 28, "longest_edge": 32 * 28 * 28}, "do_rescale": True,
         "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2, "image_processor_type": "Glm4vImageProcessor",
         "processor_class": "Glm4vProcessor"},
        GLM_TOKENS, "<|begin_of_image|><|image|><|end_of_image|>",
        chat("<|begin_of_image|><|image|><|end_of_image|>", "<|user|>\n", "<|assistant|>\n", "", "",
             start="[gMASK]<sop>"),
        template_file="chat_template.jinja",
        video_processor={**CLIP_NORM, "size": {"shortest_edge": 4 * 28 * 28, "longest_edge": 32 * 28 * 28},
                         "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2,
                         "video_processor_type": "Glm4vVideoProcessor", "processor_class": "Glm4vProcessor"},
    ),
    "gemma4": VLFamily(
        "google/gemma-4-E4B-it", "patches of any shape, padded to a number, and pooled 3 x 3",
        {"model_type": "gemma4", "architectures": ["Gemma4ForConditionalGeneration"], "audio_config": None,
         "image_token_id": "<|image|>", "boi_token_id": "<|image>", "eoi_token_id": "<image|>",
         "audio_token_id": "<|audio|>", "boa_token_id": "<|audio>", "eoa_token_index": "<audio|>",
         "video_token_id": "<|video|>",
         "text_config": {"model_type": "gemma4_text", **TEXT, **HEAD16, **WINDOW, **GEMMA_IDS, "global_head_dim": 16,
                         "hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 300,
                         "num_kv_shared_layers": 0, "tie_word_embeddings": True},
         "vision_config": {"model_type": "gemma4_vision", **ENCODER, "num_key_value_heads": 4, "head_dim": 8,
                           "patch_size": 8, "pooling_kernel_size": 3, "position_embedding_size": 128}},
        {"do_resize": True, "do_rescale": True, "do_normalize": False, "do_convert_rgb": True, "resample": 3,
         "rescale_factor": 1 / 255, "image_mean": [0.0] * 3, "image_std": [1.0] * 3, "patch_size": 8,
         "pooling_kernel_size": 3, "max_soft_tokens": 70, "image_processor_type": "Gemma4ImageProcessor",
         "processor_class": "Gemma4Processor"},
        (*GEMMA_TOKENS, "<|turn>", "<turn|>", "<|image|>", "<|image>", "<image|>", "<|audio|>", "<|audio>", "<audio|>",
         "<|video|>"),
        "<|image|>",
        chat("<|image|>", "<|turn>ROLE\n", "<|turn>model\n", "<turn|>\n", "<turn|>\n", start="<bos>"),
        processor={"image_seq_length": 70, "processor_class": "Gemma4Processor"}, template_file="chat_template.jinja",
        tokenizer_class="GemmaTokenizer", sentencepiece=True, bos="<bos>",
        named={"boi_token": "<|image>", "eoi_token": "<image|>", "image_token": "<|image|>",
               "boa_token": "<|audio>", "eoa_token": "<audio|>", "audio_token": "<|audio|>"},
        min_version="5.24",
    ),
    "deepseek_vl": VLFamily(
        "deepseek-community/deepseek-vl-1.3b-chat", "padded to a square after it was shrunk; 4 x 4 tokens",
        {"model_type": "deepseek_vl", "architectures": ["DeepseekVLForConditionalGeneration"], **DEEPSEEK_IDS,
         "text_config": {"model_type": "llama", **TEXT}, "vision_config": siglip(64, 16)},
        {**DEEPSEEK_PIXELS, "image_processor_type": "DeepseekVLImageProcessor",
         "processor_class": "DeepseekVLProcessor"},
        DEEPSEEK_TOKENS, IMAGE_MARK, DEEPSEEK_CHAT,
        processor={"num_image_tokens": 16, "processor_class": "DeepseekVLProcessor"},
        bos="<s>", named={"image_token": IMAGE_MARK},
    ),
    "deepseek_vl_hybrid": VLFamily(
        "deepseek-community/deepseek-vl-7b-chat", "as deepseek_vl, with a second tower (SAM) on a larger picture",
        {"model_type": "deepseek_vl_hybrid", "architectures": ["DeepseekVLHybridForConditionalGeneration"],
         **DEEPSEEK_IDS, "text_config": {"model_type": "llama", **TEXT}, "vision_config": siglip(64, 16),
         "high_res_vision_config": {"model_type": "sam_vision_model", **ENCODER, "image_size": 128, "patch_size": 16,
                                    "output_channels": 16, "window_size": 4, "global_attn_indexes": [1],
                                    "mlp_dim": 48}},
        {**DEEPSEEK_PIXELS, "high_res_size": square(128), "high_res_resample": 3, "high_res_image_mean": [0.5] * 3,
         "high_res_image_std": [0.5] * 3, "image_processor_type": "DeepseekVLHybridImageProcessor",
         "processor_class": "DeepseekVLHybridProcessor"},
        DEEPSEEK_TOKENS, IMAGE_MARK, DEEPSEEK_CHAT,
        processor={"num_image_tokens": 16, "processor_class": "DeepseekVLHybridProcessor"},
        bos="<s>", named={"image_token": IMAGE_MARK}, min_version="5.24",  # 4.57 fails at these small sizes
    ),
    "janus": VLFamily(
        "deepseek-community/Janus-Pro-1B", "as deepseek_vl; its generate drops logits processors",
        {"model_type": "janus", "architectures": ["JanusForConditionalGeneration"], "image_token_id": IMAGE_MARK,
         "tie_word_embeddings": False, "text_config": {"model_type": "llama", **TEXT},
         "vision_config": {"model_type": "janus_vision_model", **ENCODER, "image_size": 64, "patch_size": 16,
                           "num_image_tokens": 16, "projection_dim": 64, "depth": 2},
         "vq_config": {"model_type": "janus_vqgan", "base_channels": 32, "channel_multiplier": [1], "embed_dim": 8,
                       "num_embeddings": 8, "latent_channels": 32, "num_res_blocks": 1, "projection_dim": 64,
                       "image_token_embed_dim": 64, "num_patches": 4}},
        {**DEEPSEEK_PIXELS, "image_processor_type": "JanusImageProcessor", "processor_class": "JanusProcessor"},
        (*DEEPSEEK_TOKENS, "<begin_of_image>", "<end_of_image>"), IMAGE_MARK, DEEPSEEK_CHAT,
        processor={"num_image_tokens": 16, "processor_class": "JanusProcessor"}, template_file="chat_template.jinja",
        bos="<s>", named={"image_token": IMAGE_MARK, "boi_token": "<begin_of_image>", "eoi_token": "<end_of_image>"},
        min_version="5.24",  # 4.57's processor always makes 576 tokens
    ),
    "ovis2": VLFamily(
        "thisisiron/Ovis2-2B-hf", "image tokens are mixtures of a visual vocabulary; 4 x 4 of one tile",
        {"model_type": "ovis2", "architectures": ["Ovis2ForConditionalGeneration"], "image_token_id": "<IMG_ATOM>",
         "visual_indicator_token_ids": ["<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>"],
         "hidden_size": 64, "tie_word_embeddings": False,
         "text_config": {"model_type": "qwen2", **TEXT, "use_sliding_window": False},
         "vision_config": {**ENCODER, "image_size": 64, "patch_size": 8, "hidden_stride": 2, "vocab_size": 48,
                           "num_visual_indicator_tokens": 5}},
        {**STEPS, **CLIP_NORM, "resample": 3, "size": square(64), "crop_to_patches": False,
         "image_processor_type": "Ovis2ImageProcessor", "processor_class": "Ovis2Processor"},
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<IMG_ATOM>", "<IMG_START>", "<IMG_GRID>",
         "<IMG_COL>", "<IMG_ROW>", "<IMG_END>"),
        "<image>", chatml("<image>\n"), tokenizer_class="Qwen2Tokenizer", template_file="chat_template.jinja",
        processor={"image_seq_length": 16, "processor_class": "Ovis2Processor"},
    ),
    "minicpmv4_6": VLFamily(
        "openbmb/MiniCPM-V-4_6", "a grid of any shape, merged 2 x 2 twice; larger pictures are sliced",
        {"model_type": "minicpmv4_6", "architectures": ["MiniCPMV4_6ForConditionalGeneration"],
         "image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>", "insert_layer_id": 0,
         "tie_word_embeddings": False, "image_size": 112,
         "text_config": {"model_type": "qwen3_5_text", **TEXT, **HEAD16, "linear_num_value_heads": 4,
                         "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
                         "layer_types": ["linear_attention", "full_attention", "full_attention"]},
         "vision_config": {**ENCODER, "image_size": 112, "patch_size": 7}},
        {**STEPS, **HALF_NORM, "resample": 3, "patch_size": 7, "scale_resolution": 112, "max_slice_nums": 4,
         "image_processor_type": "MiniCPMV4_6ImageProcessor", "processor_class": "MiniCPMV4_6Processor"},
        MINICPM_TOKENS, "<|image_pad|>", chatml("<|image_pad|>\n"), tokenizer_class="Qwen2Tokenizer",
        video_processor={**STEPS, **HALF_NORM, "video_processor_type": "MiniCPMV4_6VideoProcessor",
                         "processor_class": "MiniCPMV4_6Processor"},
        template_file="chat_template.jinja",
        named={"image_token": "<|image_pad|>", "video_token": "<|video_pad|>", "image_start_token": "<image>",
               "image_end_token": "</image>", "slice_start_token": "<slice>", "slice_end_token": "</slice>",
               "image_id_start_token": "<image_id>", "image_id_end_token": "</image_id>"},
        min_version="5.24",
    ),
    "got_ocr2": VLFamily(
        "stepfun-ai/GOT-OCR-2.0-hf", "SAM, always 16 x 16 tokens; one flat list of pictures; no chat template",
        {"model_type": "got_ocr2", "architectures": ["GotOcr2ForConditionalGeneration"],
         "image_token_index": "<imgpad>", "image_seq_length": 256, "tie_word_embeddings": True,
         "text_config": {"model_type": "qwen2", **TEXT, "use_sliding_window": False},
         "vision_config": {**ENCODER, "image_size": 256, "patch_size": 4, "output_channels": 16, "window_size": 4,
                           "global_attn_indexes": [], "mlp_dim": 48}},
        {**STEPS, **CLIP_NORM, "resample": 3, "size": square(256), "crop_to_patches": False,
         "image_processor_type": "GotOcr2ImageProcessor", "processor_class": "GotOcr2Processor"},
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<imgpad>"), "<imgpad>", None,
        tokenizer_class="Qwen2Tokenizer", processor={"processor_class": "GotOcr2Processor"},
        min_version="5.24",  # 4.57's processor makes one token of a picture where a text is given
    ),
}  # fmt: skip


# --- a folder from a row --------------------------------------------------------------------------------------
def available() -> list[str]:
    """The rows that the installed transformers can build."""
    return [name for name, family in VL_FAMILIES.items() if family.available]


def byte_level(family: VLFamily) -> Tokenizer:
    """Special tokens first, then the 256 bytes and a few words."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=list(family.special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(TEXTS * 2, trainer)
    return bpe


def sentencepiece(family: VLFamily) -> Tokenizer:
    """Special tokens first, then the letters of TEXTS; every other character is spelt in bytes."""
    pieces = [*family.special, *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    pieces += sorted(set("".join(TEXTS)) - {" "})
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    bpe = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    bpe.normalizer = normalizers.Replace(" ", "▁")
    bpe.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return bpe


def make_tokenizer(family: VLFamily) -> Tokenizer:
    words = sentencepiece(family) if family.sentencepiece else byte_level(family)
    words.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in family.special])
    words.add_tokens([AddedToken(token, normalized=False) for token in family.extra_tokens])
    if family.bos:
        first = [(family.bos, words.token_to_id(family.bos))]
        words.post_processor = processors.TemplateProcessing(
            single=f"{family.bos} $A", pair=f"{family.bos} $A $B", special_tokens=first
        )
    return words


def tokenizer_config(family: VLFamily) -> dict[str, Any]:
    settings = {
        "tokenizer_class": family.tokenizer_class,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": 2048,
        "bos_token": family.bos,
        "eos_token": family.special[0],
        "pad_token": next((token for token in family.special if token.lower() == "<pad>"), family.special[0]),
        "padding_side": "left",
        "extra_special_tokens": dict(family.named),
        "processor_class": family.image_processor["processor_class"],
    }
    if "<unk>" in family.special:
        settings["unk_token"] = "<unk>"
    if family.bos and family.sentencepiece:
        settings |= {"add_bos_token": True, "add_eos_token": False}
    return settings


def with_ids(settings: Any, ids: dict[str, int]) -> Any:
    """The row's config with its tokens' texts replaced by their ids, and each text part told the vocabulary's size."""
    if not isinstance(settings, dict):
        return settings

    def one(key: str, value: Any) -> Any:
        if not re.search("token_(id|ids|index)$", key):
            return with_ids(value, ids)
        return [ids[each] for each in value] if isinstance(value, list) else ids.get(value, value)

    return {key: one(key, value) for key, value in settings.items()}


@torch.no_grad()
def redraw(model: nn.Module, gain: float, seed: int) -> None:
    """Draw weights large enough that attention is far from uniform and that every token and pixel can be told apart.

    Embeddings: normal. Other matrices: normal, gain / sqrt(inputs). Vectors (norm weights, biases): as they were
    initialised, + noise.
    """
    generator = torch.Generator().manual_seed(seed)
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    for _, weight in sorted(model.named_parameters()):
        noise = torch.randn(weight.shape, generator=generator)
        if id(weight) in tables:
            weight.copy_(noise)
        elif weight.dim() < 2 or weight.shape[:-1].numel() == 1:
            weight.add_(0.1 * noise)
        else:
            weight.copy_(gain * noise / (weight.shape[-1] if weight.dim() < 4 else weight[0].numel()) ** 0.5)


def with_names_of_the_hub(path: Path, vision: str) -> None:
    """Rewrite the weights where transformers 5 saves other names and shapes than the hub's checkpoints have."""
    tensors = load_file(path)
    if vision in ("siglip_vision_model", "clip_vision_model"):
        tensors = {
            re.sub(r"^vision_tower\.(?!vision_model\.)", "vision_tower.vision_model.", key): tensor
            for key, tensor in tensors.items()
        }
    for key, tensor in tensors.items():
        if (
            key.endswith("mlp.experts.down_proj") and tensor.shape[1] > tensor.shape[2]
        ):  # [experts, inner, hidden] there
            for each in (key, key.replace("down_proj", "gate_up_proj")):
                tensors[each] = tensors[each].transpose(1, 2).contiguous()
    save_file(tensors, path, metadata={"format": "pt"})


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def make_vl_checkpoint(name: str, folder: str | Path, seed: int = 0, gain: float = 1.5) -> Path:
    """Write the checkpoint of family `name` into `folder` (made if missing); the same weights every time."""
    family, folder = VL_FAMILIES[name], Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    words = make_tokenizer(family)
    ids = words.get_vocab()
    config = with_ids(family.config, ids)
    config.setdefault("text_config", config)["vocab_size"] = len(ids)
    if config["text_config"] is config:  # a flat one, as Qwen's before 3
        del config["text_config"]
    write_json(folder / "config.json", config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32)
    redraw(model, gain, seed)
    model.save_pretrained(folder)  # writes its own config.json, in the installed version's words
    write_json(folder / "config.json", config)
    with_names_of_the_hub(folder / "model.safetensors", model.config.vision_config.model_type)

    words.save(str(folder / "tokenizer.json"))
    settings = tokenizer_config(family)
    if family.chat_template and family.template_file == "chat_template.jinja":
        (folder / family.template_file).write_text(family.chat_template, encoding="utf-8")
    elif family.chat_template and family.template_file == "chat_template.json":
        write_json(folder / family.template_file, {"chat_template": family.chat_template})
    elif family.chat_template:
        settings["chat_template"] = family.chat_template
    write_json(folder / "tokenizer_config.json", settings)
    write_json(folder / "preprocessor_config.json", family.image_processor)
    for file, content in (
        ("processor_config.json", family.processor),
        ("video_preprocessor_config.json", family.video_processor),
    ):
        if content is not None:
            write_json(folder / file, content)
    return folder


# --- something to ask -----------------------------------------------------------------------------------------
def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    """A seeded picture of random pixels, smooth over 8 x 8 of them."""
    coarse = np.random.default_rng(seed).integers(0, 256, (-(-height // 8), -(-width // 8), 3), dtype=np.uint8)
    return Image.fromarray(coarse.repeat(8, axis=0).repeat(8, axis=1)[:height, :width])


def prompt(name: str, processor: Any, question: str = QUESTION, images: int = 1) -> str:
    """`question` about `images` pictures, in the family's chat template; without one, the placeholders, then it."""
    if VL_FAMILIES[name].chat_template is None:
        return VL_FAMILIES[name].image_token * images + question
    parts = [{"type": "image"}] * images + [{"type": "text", "text": question}]
    return processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)
