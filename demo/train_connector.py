"""Train the connector that gives SmolLM2-135M the eyes of DINOv2-small.

In:  the two wheels that joined.py names; pictures and questions are made by scenes.py from a fixed seed.
Out: connector.safetensors (default in demo/smollm2_vl): the projector of a transformers LLaVA, bfloat16. Progress, with
     the share of whole answers that are right on scenes held out of training, goes to stdout.

    python demo/train_connector.py --steps 4 --naming 4 --output /tmp/connector  # smoke run, a minute
    python demo/train_connector.py                                               # the connector in this repository

Training begins with naming: the token of a patch on a red circle is drawn to the mean of the embeddings of " red" and
" circle", which needs no language model. Then the answers train it, through the language model. SmolLM2 cannot tell
which color belongs to which shape even from words (told_in_words.py), so its query and value projections are changed
too, by products of two thin matrices that are kept beside the connector; all else of it and all of DINOv2 stays.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from scenes import (
    LITTLE,
    NOTHING,
    SIZES,
    Question,
    Scene,
    all_questions,
    draw,
    inside,
    make_scene,
    training_scenes,
)
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from transformers import AutoProcessor, LlavaForConditionalGeneration

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from mask_impact.model import joined

FOLDER = Path(__file__).resolve().parent / joined.FOLDER
SEED = 0
NAMING, STEPS = 60, 420
NAMING_BATCH, BATCH = 32, 4  # scenes
NAMING_RATE, RATE, LOW_RANK_RATE = 2e-3, 5e-4, 2e-3
WARM_UP = 10  # steps; the rate then falls along a cosine that ends at STEPS
REPORT_EVERY = 50
HELD_OUT = 10  # scenes for each number of objects, in the progress
RANK = 8  # of what is added to the query and value projections of the language model
CHANGED = ("q_proj", "v_proj")
CONTEXT = "."  # whose embedding a patch of the background is drawn to


@dataclass
class Parts:
    """What is trained, and what it is trained between."""

    model: Any
    processor: Any
    connector: Any  # a Connector
    low_rank: dict[str, LowRank]


class Connector(nn.Module):
    """LLaVA's projector with its inputs in units of their spread and its outputs in units of the embeddings' length,
    which training needs. `folded` takes both into the weights."""

    def __init__(self, features: torch.Tensor, embeddings: torch.Tensor) -> None:
        """Args:
        features: [..., C] of some pictures.
        embeddings: [vocabulary, hidden] of the language model.
        """
        super().__init__()
        hidden = embeddings.shape[1]
        self.linear_1, self.linear_2 = nn.Linear(features.shape[-1], hidden), nn.Linear(hidden, hidden)
        flat = features.flatten(0, -2)
        self.mean, self.spread = flat.mean(0), flat.std(0)
        self.scale = embeddings.float().pow(2).mean().sqrt()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        inputs = (features - self.mean) / self.spread
        return self.scale * self.linear_2(nn.functional.gelu(self.linear_1(inputs)))

    @torch.no_grad()
    def folded(self) -> dict[str, torch.Tensor]:
        first = self.linear_1.weight / self.spread
        return {
            "linear_1.weight": first.bfloat16(),
            "linear_1.bias": (self.linear_1.bias - first @ self.mean).bfloat16(),
            "linear_2.weight": (self.scale * self.linear_2.weight).bfloat16(),
            "linear_2.bias": (self.scale * self.linear_2.bias).bfloat16(),
        }


class LowRank(nn.Module):
    """A linear layer of the frozen model, and a product of two thin matrices that is added to its weights."""

    def __init__(self, frozen: nn.Linear) -> None:
        super().__init__()
        self.frozen = frozen
        self.down = nn.Parameter(torch.randn(RANK, frozen.in_features) / math.sqrt(frozen.in_features))
        self.up = nn.Parameter(torch.zeros(frozen.out_features, RANK))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.frozen(x) + x @ self.down.T.to(x.dtype) @ self.up.T.to(x.dtype)


def add_low_rank(model: Any) -> dict[str, LowRank]:
    """Put one in the place of each projection that is `CHANGED`; by the names that joined.py gives the layers."""
    made = {}
    for i, layer in enumerate(model.model.language_model.layers):
        for name in CHANGED:
            low_rank = LowRank(getattr(layer.self_attn, name))
            setattr(layer.self_attn, name, low_rank)
            made[f"language_model.model.layers.{i}.self_attn.{name}"] = low_rank
    return made


def trained(parts: Parts) -> dict[str, torch.Tensor]:
    """What the file holds."""
    found = {f"multi_modal_projector.{name}": value for name, value in parts.connector.folded().items()}
    for name, low_rank in parts.low_rank.items():
        found |= {f"{name}.down": low_rank.down.detach().bfloat16(), f"{name}.up": low_rank.up.detach().bfloat16()}
    return found


@torch.no_grad()
def look(parts: Parts, scenes: Sequence[Scene]) -> torch.Tensor:
    """[scene, patch, C] the layers of the vision encoder that the model's config names, side by side."""
    model, processor = parts.model, parts.processor
    pixels = processor.image_processor([draw(scene) for scene in scenes], return_tensors="pt")["pixel_values"]
    states = model.model.vision_tower(pixels.to(model.dtype), output_hidden_states=True).hidden_states
    return torch.cat([states[layer][:, 1:] for layer in model.config.vision_feature_layer], dim=-1).float()


def shown(scene: Scene, side: int) -> list[int]:
    """What is in the middle of each cell of a side x side grid over the picture, row by row: the index of an object;
    LITTLE where one begins in the cell; else NOTHING."""
    width, height = scene.width / side, scene.height / side
    x, y = np.meshgrid((np.arange(side) + 0.5) * width, (np.arange(side) + 0.5) * height)
    cells = np.full(x.shape, NOTHING)
    for i, o in enumerate(scene.objects):
        depth = inside(o.shape, o.radius, x - o.x, y - o.y)
        cells = np.where(depth > 0, i, np.where((depth > -max(width, height)) & (cells == NOTHING), LITTLE, cells))
    return [int(cell) for cell in cells.flat]


def naming_loss(parts: Parts, scenes: Sequence[Scene]) -> torch.Tensor:
    """How far the tokens are from the words for what they show, in units of the embeddings' length."""
    tokens = parts.connector(look(parts, scenes))
    table = parts.model.get_input_embeddings().weight.float()
    wanted, counts = [], []
    for scene in scenes:
        for cell in shown(scene, math.isqrt(tokens.shape[1])):
            o = scene.objects[cell] if cell >= 0 else None
            ids = [word_id(parts.processor, f" {w}") for w in (o.color, o.shape)] if o else []
            wanted.append(table[ids or [word_id(parts.processor, CONTEXT)]].mean(0))
            counts.append(cell != LITTLE)
    scale = parts.connector.scale
    return mse_loss(tokens.flatten(0, 1)[counts] / scale, torch.stack(wanted)[counts] / scale)


@cache
def word_id(processor: Any, word: str) -> int:
    (found,) = processor.tokenizer(word)["input_ids"]
    return found


@dataclass
class Row:
    """One picture and its questions, as one sequence; a question sees the picture and itself."""

    ids: list[int]
    part: list[int]  # 0: up to the end of the picture
    place: list[int]  # rotary position
    target: list[int]  # the next token where it is part of an answer, else -100


@cache
def encode(processor: Any, question: Question, patches: int) -> tuple[list[int], list[int], int]:
    """Token ids of a chat: those up to the end of the picture, those after it up to the end of the answer, and how
    many of the latter are the question."""
    user = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question.text}]}
    given = processor.apply_chat_template([user], add_generation_prompt=True)
    whole = given + question.answer + processor.tokenizer.eos_token
    before, after = whole.split(processor.image_token)
    ids = processor.tokenizer(before)["input_ids"] + [processor.image_token_id] * patches
    asked = processor.tokenizer(given.split(processor.image_token)[1])["input_ids"]
    return ids, processor.tokenizer(after)["input_ids"], len(asked)


def make_row(processor: Any, questions: Sequence[Question], patches: int) -> Row:
    start = encode(processor, questions[0], patches)[0]
    row = Row([*start], [0] * len(start), [*range(len(start))], [-100] * len(start))
    for part, question in enumerate(questions, 1):
        _, ids, asked = encode(processor, question, patches)
        row.ids += ids
        row.part += [part] * len(ids)
        row.place += range(len(start), len(start) + len(ids))
        row.target += [-100] * (asked - 1) + ids[asked:] + [-100]
    return row


def answer_logits(
    parts: Parts, scenes: Sequence[Scene], questions: Sequence[Sequence[Question]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [answer token, vocabulary] that predict each token of the answers, and these tokens, in order."""
    model, processor = parts.model, parts.processor
    tokens = parts.connector(look(parts, scenes))
    rows = [make_row(processor, asked, tokens.shape[1]) for asked in questions]
    length = max(len(row.ids) for row in rows)
    ids, part, place, target = (
        torch.tensor([values + [fill] * (length - len(values)) for values in column])
        for column, fill in (
            ([r.ids for r in rows], processor.tokenizer.pad_token_id),
            ([r.part for r in rows], 99),  # padding sees the picture and itself
            ([r.place for r in rows], 0),
            ([r.target for r in rows], -100),
        )
    )  # each [row, token]
    is_image = (ids == processor.image_token_id)[..., None]
    embeddings = model.get_input_embeddings()(ids).masked_scatter(is_image, tokens.to(model.dtype))
    same = (part[:, :, None] == part[:, None, :]) | (part[:, None, :] == 0)
    mask = same & torch.ones(length, length, dtype=torch.bool).tril()  # [row, query, key]
    states = model.model.language_model(
        inputs_embeds=embeddings, attention_mask=mask[:, None], position_ids=place, use_cache=False
    ).last_hidden_state
    answers = target >= 0
    return model.lm_head(states[answers]).float(), target[answers]


def training_questions(rng: random.Random, scene: Scene) -> list[Question]:
    """The color and the shape of every object, a count and a description."""
    questions = all_questions(scene)
    asked = [q for q in questions if q.asked is not None]
    return asked + [rng.choice([q for q in questions if q.kind == kind]) for kind in ("count", "description")]


@torch.no_grad()
def report(parts: Parts, line: str) -> None:
    """Print the progress: the share of answers in which every token is right, on held-out scenes other than those of
    the evaluation."""
    rng, figures = random.Random(1), []
    for count in (1, 2, 3):
        scenes = [make_scene(rng, count, held_out=True, size=SIZES[0]) for _ in range(HELD_OUT)]
        questions = [all_questions(scene) for scene in scenes]
        logits, target = answer_logits(parts, scenes, questions)
        asked = [q for some in questions for q in some]
        lengths = [len(parts.processor.tokenizer(q.answer)["input_ids"]) + 1 for q in asked]  # with <|im_end|>
        hits: dict[str, list[bool]] = {}
        for question, right in zip(asked, (logits.argmax(-1) == target).split(lengths), strict=True):
            hits.setdefault(question.kind, []).append(bool(right.all()))
        figures.append(f"{count} " + " ".join(f"{k} {sum(h) / len(h):.0%}" for k, h in hits.items()))
    print(f"{line}  {'  '.join(figures)}", flush=True)


def make_parts() -> Parts:
    """The two frozen parts as they are in the wheels, and a fresh connector."""
    with tempfile.TemporaryDirectory() as folder:
        joined.write(Path(folder), FOLDER, trained={})
        processor = AutoProcessor.from_pretrained(folder)
        model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16)
    model.eval().requires_grad_(False)
    parts = Parts(model, processor, None, {})
    rng = random.Random(SEED)
    some = look(parts, [make_scene(rng, 1 + i % 3, held_out=False) for i in range(NAMING_BATCH)])
    parts.connector = Connector(some, model.get_input_embeddings().weight)
    parts.low_rank = add_low_rank(model)
    return parts


def rate_factor(steps: int, step: int) -> float:
    """Share of the learning rate to use at a step."""
    return min((step + 1) / WARM_UP, 0.02 + 0.98 * (1 + math.cos(math.pi * step / steps)) / 2)


def train(naming: int, steps: int, output: Path) -> None:
    torch.manual_seed(SEED)
    rng = random.Random(SEED)
    parts = make_parts()
    output.mkdir(parents=True, exist_ok=True)
    started = time.process_time()
    low_rank = [value for each in parts.low_rank.values() for value in (each.down, each.up)]
    for stage, many, rate in (("naming", naming, NAMING_RATE), ("answers", steps, RATE)):
        groups = [{"params": [*parts.connector.parameters()], "lr": rate}, {"params": low_rank, "lr": LOW_RANK_RATE}]
        optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(rate_factor, many))
        for step in range(many):
            loss = training_loss(parts, rng, step / many if stage == "answers" else None)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_([*parts.connector.parameters(), *low_rank], 1.0)
            optimizer.step()
            schedule.step()
            if (step + 1) % REPORT_EVERY == 0 or step + 1 == many:
                minutes = (time.process_time() - started) / 60
                report(parts, f"{stage} {step + 1:5}  {minutes:5.1f} CPU min  loss {loss.item():.3f}")
                save_file(trained(parts), output / joined.CONNECTOR)


def training_loss(parts: Parts, rng: random.Random, progress: float | None) -> torch.Tensor:
    """The loss of a new batch: of naming, or with `progress`, 0 to 1, of the answers."""
    if progress is None:
        return naming_loss(parts, training_scenes(rng, NAMING_BATCH, 1.0))
    scenes = training_scenes(rng, BATCH, progress)
    return cross_entropy(*answer_logits(parts, scenes, [training_questions(rng, scene) for scene in scenes]))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--naming", type=int, default=NAMING, help=f"optimizer steps of naming (default: {NAMING})")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"steps with answers (default: {STEPS})")
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder for the connector")
    args = parser.parse_args(argv)
    train(args.naming, args.steps, args.output)
    print(f"saved to {args.output / joined.CONNECTOR}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
