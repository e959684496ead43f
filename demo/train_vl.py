"""Train the bundled vision-language demo model from scratch on a CPU and save it as a checkpoint folder.

In:  nothing; pictures and questions are made by scenes.py from a fixed seed.
Out: a folder (default demo/vl) that Qwen3VLForConditionalGeneration, AutoTokenizer and AutoImageProcessor load:
     bfloat16 weights, byte-level BPE tokenizer with a ChatML chat template. Progress, with the accuracy on scenes
     held out of training, goes to stdout. Needs transformers 5; the result loads with 4.57 too.

    python demo/train_vl.py --steps 20 --output /tmp/run  # smoke run, seconds; the model knows nothing
    python demo/train_vl.py                               # the checkpoint in this repository
    python demo/evaluate_vl.py                            # measure it
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from evaluate_vl import FOLDER
from PIL import Image
from scenes import (
    COLORS,
    NOTHING,
    SHAPES,
    SIZES,
    Question,
    Scene,
    all_questions,
    draw,
    make_scene,
    squares,
    training_questions,
    training_scenes,
)
from text_data import Document
from tokenizers import AddedToken
from torch.nn.functional import cross_entropy, linear, scaled_dot_product_attention
from train_text import END, IM_END, TOKENIZER_CONFIG, make_tokenizer
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.models.qwen3_vl.modeling_qwen3_vl import apply_rotary_pos_emb_vision
from transformers.vision_utils import get_vision_interpolation_indices_and_weights, get_vision_position_ids

SEED = 0
STEPS = 4100
NAMING_ONLY = 0.37  # share of the steps, the first ones, that train only the vision tower
BATCH = 32  # scenes; each has four to six questions
LEARNING_RATE = 2e-3
WARM_UP = 100
DECAY = 0.45  # share of the steps, the last ones, in which the rate falls linearly to zero
REPORT_EVERY = 200
PATCH, MERGE = 16, 2
VISION_START, VISION_END, IMAGE, VIDEO = "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for item in message['content'] %}"
    "{% if item['type'] == 'image' %}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{% elif item['type'] == 'video' %}{{ '<|vision_start|><|video_pad|><|vision_end|>' }}"
    "{% else %}{{ item['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{{ '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
VL_TOKENIZER_CONFIG = {
    **TOKENIZER_CONFIG,
    "additional_special_tokens": ["<|im_start|>", IM_END, VISION_START, VISION_END, IMAGE, VIDEO],
    "chat_template": CHAT_TEMPLATE,
}
IMAGE_PROCESSOR_CONFIG = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "do_convert_rgb": True,
    "do_resize": True,
    "size": {"shortest_edge": 128 * 128, "longest_edge": 192 * 128},  # total pixels: the sizes used in training
    "min_pixels": 128 * 128,  # repeated, because transformers 4.57 ignores "size" in this file
    "max_pixels": 192 * 128,
    "resample": 3,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "patch_size": PATCH,
    "temporal_patch_size": 2,
    "merge_size": MERGE,
}
VIDEO_PROCESSOR_CONFIG = {  # the model has not learnt videos; 4 to 8 frames are as large as the pictures it has learnt
    **{name: value for name, value in IMAGE_PROCESSOR_CONFIG.items() if not name.endswith(("_pixels", "_type"))},
    "video_processor_type": "Qwen3VLVideoProcessor",
    "size": {"shortest_edge": 4 * 128 * 128, "longest_edge": 8 * 192 * 128},  # pixels of all frames together
    "fps": 4,
}


@dataclass(frozen=True)
class Seen:
    """The output of the vision tower for pictures of one size."""

    tokens: torch.Tensor  # [picture, token, hidden]
    deep: list[torch.Tensor]  # the same for each DeepStack layer
    columns: int  # of image tokens


@dataclass(frozen=True)
class Row:
    """One scene with its questions in one sequence. The parts, a question with its answer each, do not see each other,
    and have the positions they would have alone. The result equals one sequence per question, with the picture computed
    once."""

    ids: list[int]
    part: list[int]  # 0 up to the end of the picture, then 1, 2, ... for the questions
    place: list[int]  # position of the token in a sequence with only its question
    target: list[int]  # the next token if it belongs to an answer, else -100


def make_vl_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer like that of the text model, over the words of this data, with the tokens around pictures."""
    rng = random.Random(SEED)
    questions = [q for scene in training_scenes(rng, 2000, 1.0) for q in training_questions(rng, scene)]
    bpe = make_tokenizer([Document(q.text, q.answer, chat=True) for q in questions]).backend_tokenizer
    tokens = [VISION_START, VISION_END, IMAGE, VIDEO]
    bpe.add_special_tokens([AddedToken(token, normalized=False) for token in tokens])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, **VL_TOKENIZER_CONFIG)


def make_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3VLForConditionalGeneration:
    end, im_end = tokenizer.convert_tokens_to_ids([END, IM_END])
    hidden = 128
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden,
        "intermediate_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 16,
        "max_position_embeddings": 2048,
        "initializer_range": 0.05,
        "tie_word_embeddings": True,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "mrope_section": [4, 2, 2],
            "mrope_interleaved": True,
        },
        "eos_token_id": end,
        "pad_token_id": end,
    }
    vision = {
        "depth": 3,
        "hidden_size": 96,
        "intermediate_size": 192,
        "num_heads": 4,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": 2,
        "out_hidden_size": hidden,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1],
        "initializer_range": 0.1,
    }
    config = Qwen3VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
        video_token_id=tokenizer.convert_tokens_to_ids(VIDEO),
        vision_start_token_id=tokenizer.convert_tokens_to_ids(VISION_START),
        vision_end_token_id=tokenizer.convert_tokens_to_ids(VISION_END),
        tie_word_embeddings=True,
    )
    model = Qwen3VLForConditionalGeneration(config)
    model.generation_config = GenerationConfig(do_sample=False, eos_token_id=[end, im_end], pad_token_id=end)
    return model


def to_patches(images: Sequence[Image.Image]) -> torch.Tensor:
    """Pictures of one size, cut like the image processor cuts them, [picture, patch, channel x height x width]. The
    processor has each patch twice, as two frames of a video; here it stands once."""
    pixels = np.stack([np.asarray(image) for image in images]).astype(np.float32) / 127.5 - 1
    n, height, width, channels = pixels.shape
    across, side = MERGE * PATCH, (MERGE, PATCH)
    blocks = pixels.reshape(n, height // across, *side, width // across, *side, channels)
    patches = blocks.transpose(0, 1, 4, 2, 5, 7, 3, 6)  # [n, block row, block column, row, column, channel, y, x]
    return torch.from_numpy(patches.reshape(n, height * width // PATCH**2, channels * PATCH**2))


def attend(layer: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Vision attention on all pictures at once; the layer itself takes them one after the other."""
    query, key, value = layer.qkv(x).unflatten(-1, (3, layer.num_heads, -1)).unbind(2)  # [picture, patch, head, width]
    query, key = apply_rotary_pos_emb_vision(query, key, cos, sin)
    out = scaled_dot_product_attention(*(t.transpose(1, 2) for t in (query, key, value)))
    return layer.proj(out.transpose(1, 2).flatten(2))


def look(model: Qwen3VLForConditionalGeneration, images: Sequence[Image.Image]) -> Seen:
    """The vision tower on pictures of one size: equal to its own forward, but faster."""
    tower = model.model.visual
    columns, rows = (side // PATCH for side in images[0].size)
    grid = torch.tensor([[1, rows, columns]])
    near, weights = get_vision_interpolation_indices_and_weights(
        grid, tower.num_grid_per_side, align_corners=True, spatial_merge_size=MERGE
    )
    filters = tower.patch_embed.proj
    x = linear(to_patches(images), filters.weight.sum(2).flatten(1), filters.bias)  # both frames are the same
    x = x + (tower.pos_embed(near) * weights[..., None]).sum(1)  # [picture, patch, hidden]
    cos, sin = tower.rotary_pos_emb(x, get_vision_position_ids(grid, MERGE))
    deep: list[torch.Tensor] = []
    for i, block in enumerate(tower.blocks):
        x = x + attend(block.attn, block.norm1(x), cos, sin)
        x = x + block.mlp(block.norm2(x))
        if i in tower.deepstack_visual_indexes:
            deep.append(tower.deepstack_merger_list[len(deep)](x).unflatten(0, (len(images), -1)))
    return Seen(tower.merger(x).unflatten(0, (len(images), -1)), deep, columns // MERGE)


def naming_loss(head: torch.nn.Linear, seen: Seen, scenes: Sequence[Scene]) -> torch.Tensor:
    """Cross-entropy of naming the shape and color that each image token shows, or that it shows nothing, with a head
    that is discarded after training. Tokens with a small part of an object do not count."""
    shapes, colors = [*SHAPES], [*COLORS]
    shape, color = [], []
    for scene in scenes:
        for index in squares(scene, MERGE * PATCH):
            shown = scene.objects[index] if index >= 0 else None
            nothing = len(shapes) if index == NOTHING else -100
            shape.append(shapes.index(shown.shape) if shown else nothing)
            color.append(colors.index(shown.color) if shown else -100)
    logits = head(seen.tokens).flatten(0, 1)  # [token, shape or nothing, then color]
    split = logits.split([len(shapes) + 1, len(colors)], dim=-1)
    return cross_entropy(split[0], torch.tensor(shape)) + cross_entropy(split[1], torch.tensor(color))


@cache
def encode(tokenizer: PreTrainedTokenizerFast, question: Question, tokens: int) -> tuple[list[int], list[int], int]:
    """Token ids of a chat about a picture of `tokens` tokens: those up to the end of the picture, those after it up to
    the end of the answer, and how many of the latter are the question."""
    picture_and_text = [{"type": "image"}, {"type": "text", "text": question.text}]
    user = {"role": "user", "content": picture_and_text}
    answer = {"role": "assistant", "content": question.answer}
    given = tokenizer.apply_chat_template([user], tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template([user, answer], tokenize=False).rstrip("\n")
    ids = tokenizer(whole.replace(IMAGE, IMAGE * tokens))["input_ids"]
    start = len(tokenizer(given[: given.index(VISION_END)])["input_ids"]) + tokens
    return ids[:start], ids[start:], len(tokenizer(given)["input_ids"]) - 1 + tokens - start


def make_row(tokenizer: PreTrainedTokenizerFast, questions: Sequence[Question], tokens: int) -> Row:
    start = encode(tokenizer, questions[0], tokens)[0]
    row = Row([*start], [0] * len(start), [*range(len(start))], [-100] * len(start))
    for part, question in enumerate(questions, 1):
        _, ids, given = encode(tokenizer, question, tokens)
        row.ids.extend(ids)
        row.part.extend([part] * len(ids))
        row.place.extend(range(len(start), len(start) + len(ids)))
        row.target.extend([-100] * (given - 1) + ids[given:] + [-100])
    return row


def positions(ids: torch.Tensor, place: torch.Tensor, image: int, columns: int) -> torch.Tensor:
    """Multimodal rotary positions, [time/height/width, row, token]: an image token has its row and column, and the
    text after a picture starts after the larger of its sides. `columns` counts image tokens."""
    is_image = ids == image
    tokens, start = int(is_image[0].sum()), int(is_image[0].int().argmax())
    nth = place - start
    in_picture = start + torch.stack([0 * nth, nth // columns, nth % columns])
    text = torch.where(nth < 0, place, place - tokens + max(tokens // columns, columns))
    return torch.where(is_image, in_picture, text)


def answer_logits(
    model: Qwen3VLForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    seen: Seen,
    questions: Sequence[Sequence[Question]],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [answer token, vocabulary] that predict each token of the answers, and these tokens, question after
    question, with several questions per picture."""
    made = [make_row(tokenizer, asked, seen.tokens.shape[1]) for asked in questions]
    length = max(len(row.ids) for row in made)
    ids, part, place, target = (
        torch.tensor([values + [fill] * (length - len(values)) for values in column])
        for column, fill in (
            ([r.ids for r in made], tokenizer.pad_token_id),
            ([r.part for r in made], 99),  # padding sees the picture and itself
            ([r.place for r in made], 0),
            ([r.target for r in made], -100),
        )
    )  # each [row, token]
    image = model.config.image_token_id
    is_image = ids == image
    embeddings = model.get_input_embeddings()(ids).masked_scatter(is_image[..., None], seen.tokens)
    same = (part[:, :, None] == part[:, None, :]) | (part[:, None, :] == 0)
    mask = same & torch.ones(length, length, dtype=torch.bool).tril()  # [row, query, key]
    hidden = model.model.language_model(
        inputs_embeds=embeddings,
        attention_mask=mask[:, None],
        position_ids=positions(ids, place, image, seen.columns),
        visual_pos_masks=is_image,
        deepstack_visual_embeds=[d.flatten(0, 1) for d in seen.deep],
        use_cache=False,
    ).last_hidden_state
    answers = target >= 0
    return model.lm_head(hidden[answers]), target[answers]


@torch.no_grad()
def report(model: Qwen3VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, line: str) -> None:
    """Print the progress: the share of answers in which every token is right, on held-out scenes other than those of
    evaluate_vl.py."""
    model.eval()
    figures = []
    rng = random.Random(1)
    for count in (1, 2, 3):
        scenes = [make_scene(rng, count, held_out=True, size=SIZES[0]) for _ in range(64)]
        questions = [all_questions(scene) for scene in scenes]
        logits, target = answer_logits(model, tokenizer, look(model, [draw(scene) for scene in scenes]), questions)
        asked = [q for some in questions for q in some]
        lengths = [len(tokenizer(q.answer)["input_ids"]) + 1 for q in asked]  # with <|im_end|>
        hits: dict[str, list[bool]] = {}
        for question, right in zip(asked, (logits.argmax(-1) == target).split(lengths), strict=True):
            hits.setdefault(question.kind, []).append(bool(right.all()))
        figures += [f"{count} " + " ".join(f"{k} {sum(h) / len(h):.0%}" for k, h in hits.items())]
    model.train()
    print(f"{line}  {'  '.join(figures)}", flush=True)


def rate_factor(step: int, steps: int) -> float:
    """Share of LEARNING_RATE to use at a step; the language model warms up when its training begins."""
    since = step - talking_from(steps) if step >= talking_from(steps) else step
    return min(1.0, (since + 1) / WARM_UP, (steps - step) / (DECAY * steps))


def talking_from(steps: int) -> int:
    return int(NAMING_ONLY * steps)


def training_loss(
    model: Qwen3VLForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    head: torch.nn.Linear,
    rng: random.Random,
    progress: float | None,
) -> torch.Tensor:
    """The loss of a new batch: naming what each image token shows, and with `progress` also the answers."""
    scenes = training_scenes(rng, BATCH, 1.0 if progress is None else progress)
    seen = look(model, [draw(scene) for scene in scenes])
    loss = naming_loss(head, seen, scenes)
    if progress is None:
        return loss
    questions = [training_questions(rng, scene) for scene in scenes]
    return loss + cross_entropy(*answer_logits(model, tokenizer, seen, questions))


def train(steps: int, output: Path) -> tuple[Qwen3VLForConditionalGeneration, PreTrainedTokenizerFast]:
    torch.manual_seed(SEED)
    torch.set_num_threads(1)  # the same sums in the same order on every machine
    rng = random.Random(SEED)
    tokenizer = make_vl_tokenizer()
    model = make_model(tokenizer).train()
    print(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens", flush=True)
    head = torch.nn.Linear(model.config.text_config.hidden_size, len(SHAPES) + 1 + len(COLORS))
    parameters = [*model.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(step, steps))
    started = time.perf_counter()
    first = talking_from(steps)
    for step in range(steps):
        progress = (step - first) / (steps - first) if step >= first else None
        loss = training_loss(model, tokenizer, head, rng, progress)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % REPORT_EVERY == 0 or step + 1 == steps:
            minutes = (time.perf_counter() - started) / 60
            line = f"step {step + 1:5}  {minutes:4.1f} min  loss {loss.item():.3f}"
            if progress is None:
                print(line, flush=True)
            else:
                report(model, tokenizer, line)
            save(model, tokenizer, output)
    return model.eval(), tokenizer


def save(model: Qwen3VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the checkpoint so that transformers 4.57 loads it too."""
    weights = {name: value.to(torch.bfloat16) for name, value in model.state_dict().items()}
    del weights["lm_head.weight"]  # tied to the embeddings
    model.save_pretrained(folder, state_dict=weights)
    (folder / "model.safetensors").chmod(0o644)  # safetensors makes it readable only for its owner
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    # Version 4 reads the rotary settings under two other keys.
    rope = dict(config["text_config"]["rope_parameters"])
    config["text_config"]["rope_theta"] = rope.pop("rope_theta")
    config["text_config"]["rope_scaling"] = rope
    write_json(path, config | {"dtype": "bfloat16"})
    # the tokenizer and the processor both find the template in a separate file
    settings = {"tokenizer_class": "Qwen2Tokenizer", **VL_TOKENIZER_CONFIG}  # version 4's processor accepts no other
    (folder / "chat_template.jinja").write_text(str(settings.pop("chat_template")), encoding="utf-8")
    write_json(folder / "tokenizer_config.json", settings)
    write_json(folder / "preprocessor_config.json", IMAGE_PROCESSOR_CONFIG)
    write_json(folder / "video_preprocessor_config.json", VIDEO_PROCESSOR_CONFIG)


def write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=STEPS, help=f"optimizer steps (default: {STEPS})")
    parser.add_argument("--output", type=Path, default=FOLDER, help="checkpoint folder (default: demo/vl)")
    args = parser.parse_args(argv)
    train(args.steps, args.output)
    print(f"saved to {args.output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
