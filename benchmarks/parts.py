"""From flags to tables: which model on which device with how many layers, one function per part."""

import argparse
import gc
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch

from benchmarks import batch, effects, files, lens_features, lens_search, memory, text, vision
from benchmarks.machine import available_bytes, machine_table, timed
from benchmarks.models import TEXT, TEXT_TOKENS, VISION, Setup, Shape
from benchmarks.tables import Table
from benchmarks.work import plain_forward

MEMORY_SHARE = 0.6  # of the available memory
TEXT_SECONDS, VISION_SECONDS = 380.0, 150.0  # for which the default number of layers is chosen, on the CPU
BANK_LAYERS = 3  # enough, since the ratio depends on tokens, not on layers
FEATURES_TOKENS = 256  # the largest image for features


@torch.no_grad()
def layers_that_fit_time(shape: Shape, forwards: float, seconds: float) -> int:
    """How many layers do `forwards` in `seconds`, estimated from a forward of 2 layers; 1 to all."""
    setup = Setup(replace(shape, vocabulary=256, tower=None), 2)
    model, inputs = setup.model(), setup.inputs(512)
    one_token = min(timed(lambda: plain_forward(model, inputs))[1] for _ in range(3)) / 2 / 512
    return max(1, min(shape.layers, int(seconds / (one_token * forwards))))


def layers_that_fit_memory(shape: Shape, positions: int) -> int:
    """How many layers fit: the float32 model and a run over `positions`, within MEMORY_SHARE; 1 to all."""
    per_layer = 4 * shape.layer_weights() + Setup(shape, 1).kv_cache_bytes(positions)
    fixed = 4 * shape.vocabulary * shape.hidden + 500_000_000
    return max(1, min(shape.layers, int((MEMORY_SHARE * available_bytes() - fixed) // per_layer)))


def tables(args: argparse.Namespace, wanted: tuple[str, ...]) -> Iterator[Table]:
    """The requested tables, each as soon as it is measured."""
    yield machine_table()
    if {"speed", "steps"} & {*wanted}:
        yield from text_speed(args, wanted)
    if "effects" in wanted:
        yield carried_effects(args)
    if "memory" in wanted:
        layers = args.layers or layers_that_fit_memory(TEXT["small"], args.memory_length)
        yield memory.memory_table(Setup(TEXT["small"], layers), args.memory_length, text.STEPS, args.repetitions)
    if "rows" in wanted:
        yield files.rows_table(args.repetitions)
    if "batch" in wanted:
        yield batch.batch_table()
    if "vision" in wanted:
        yield from vision_language(args)
    if "features" in wanted:
        yield from features(args)
    if "search" in wanted:
        yield from lens_search.tables(Setup(TEXT["small"], args.layers or BANK_LAYERS), args.repetitions)


@torch.no_grad()
def text_speed(args: argparse.Namespace, wanted: tuple[str, ...]) -> Iterator[Table]:
    forwards = sum(args.lengths) * (text.FORWARDS_PER_REPETITION * args.repetitions + text.FORWARDS_WARM_UP)
    setup = in_time(args, TEXT, max(args.lengths), forwards, TEXT_SECONDS)
    model = setup.model()
    if "speed" in wanted:
        yield text.speed_table(setup, model, args.lengths, args.repetitions)
    if "steps" in wanted:
        yield text.steps_table(setup, model, args.steps_lengths, args.repetitions)


@torch.no_grad()
def carried_effects(args: argparse.Namespace) -> Table:
    """The effects part, with a few layers: the ratio depends on tokens, not on layers."""
    setup = chosen(args, TEXT, args.layers or args.effects_layers)
    return effects.effects_table(setup, setup.model(), args.effects_lengths, min(args.repetitions, effects.REPETITIONS))


@torch.no_grad()
def vision_language(args: argparse.Namespace) -> Iterator[Table]:
    lengths = [size + TEXT_TOKENS for size in args.image_tokens]
    forwards = sum(lengths) * (vision.forwards(args.steps) * args.repetitions + vision.FORWARDS_WARM_UP)
    setup = vision_setup(args, forwards)
    yield memory.memory_table(setup, max(args.image_tokens), args.steps, args.repetitions)
    gc.collect()
    yield vision.vision_table(setup, setup.model(), args.image_tokens, args.steps, args.repetitions)


def features(args: argparse.Namespace) -> list[Table]:
    sizes = [size for size in args.image_tokens if size <= FEATURES_TOKENS] or args.image_tokens[:1]
    forwards = sum(size + TEXT_TOKENS for size in sizes) * lens_features.forwards(args.repetitions)
    return lens_features.tables(vision_setup(args, forwards), sizes, args.repetitions)


def vision_setup(args: argparse.Namespace, forwards: float) -> Setup:
    return in_time(args, VISION, max(args.image_tokens) + TEXT_TOKENS, forwards, VISION_SECONDS)


def in_time(
    args: argparse.Namespace, shapes: Mapping[str, Shape], longest: int, forwards: float, seconds: float
) -> Setup:
    """The requested model; on the CPU with as many layers as do `forwards` in `seconds`."""
    setup = chosen(args, shapes, args.layers)
    if args.layers or setup.device.type == "cuda":
        return setup
    fit = layers_that_fit_memory(setup.shape, longest), layers_that_fit_time(setup.shape, forwards, seconds)
    return replace(setup, layers=min(fit))


def chosen(args: argparse.Namespace, shapes: Mapping[str, Shape], layers: int | None) -> Setup:
    """One of `shapes` with `layers`, by default all, on the requested device and in the requested dtype."""
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    gpu = device.type == "cuda"
    shape = shapes[args.shape or ("4b" if gpu else "small")]
    return Setup(
        shape, layers or shape.layers, device, getattr(torch, args.dtype or ("bfloat16" if gpu else "float32"))
    )
