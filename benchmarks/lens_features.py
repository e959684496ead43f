"""Features of image tokens compared with one plain forward per image: every layer is read, nothing is saved.

Two tables: forwards alone, by image tokens and by images per forward; and the whole command on the demo model, from
image files on, compared with reading the same files and one forward each.
"""

import random
import tempfile
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import timed
from benchmarks.models import IMAGE_PAD, TEXT_TOKENS, Inputs, Setup
from benchmarks.tables import Sample, Table, say
from benchmarks.work import plain_forward
from mask_impact.commands.terminal import ProgressBar
from mask_impact.jobs.session import Session
from mask_impact.lens.feature_files import FeatureFiles
from mask_impact.lens.features import Extraction, features_of
from mask_impact.lens.image_files import drawn
from mask_impact.lens.ready import Ready
from mask_impact.lens.stacks import Decoder
from mask_impact.lens.states import chosen
from mask_impact.model.generation import model_tensors
from mask_impact.model.memory import Portion
from mask_impact.model.quiet import quiet_libraries
from mask_impact.options import Settings
from mask_impact.prompt.vision import open_pictures, vision_inputs

AT_ONCE = (1, 4)  # images per forward
DEMO_IMAGES = 48
TARGET = "<= 1.15"
PROMPT = "Describe this image."


def forwards(repetitions: int) -> int:
    """How many forwards of a prompt this part takes, to choose the number of layers."""
    return (repetitions + 1) * 2 * sum(AT_ONCE)


def forward_sample(model: Any, inputs: Inputs, count: int, layers: Sequence[int]) -> Sample:
    """One repetition: `count` images one by one in plain forwards, then together with every layer read."""
    image, stack = Ready({}, inputs, inputs["input_ids"] == IMAGE_PAD), Decoder(model.config)

    def one_by_one() -> None:
        for _ in range(count):
            plain_forward(model, inputs)

    _, plain = timed(one_by_one)
    _, features = timed(lambda: list(features_of(stack, model, [image] * count, layers, Portion())))
    return {"plain": plain / count, "features": features / count, "ratio": features / plain}


def features_table(setup: Setup, model: Any, sizes: Sequence[int], repetitions: int) -> Table:
    layers = chosen((), setup.layers)
    columns = {}
    for size in sizes:
        for count in AT_ONCE:
            name = f"{size} tokens, {count} at once"
            say(f"features, {name}")
            inputs = setup.inputs(size)
            forward_sample(model, inputs, count, layers)  # to warm up
            columns[name] = [forward_sample(model, inputs, count, layers) for _ in range(repetitions)]
    labels = {
        "plain": "plain forward, an image [s]",
        "features": "features of every layer with their statistics, an image [s]",
        "ratio": "features / plain",
    }
    notes = [
        f"median (smallest-largest) of {repetitions} repetitions, timed in turn in this process",
        "plain forward: one image, vision tower, decoder, logits of the last position; features of several images are "
        "next to as many of them",
        "features end before the final norm and the head",
    ]
    title = f"Features: one square image and {TEXT_TOKENS} text tokens, {len(layers)} layers read; {setup}"
    return Table.of_samples(title, labels, {"ratio": TARGET}, columns, notes)


def demo_sample(session: Session, paths: Sequence[Path], folder: Path) -> Sample:
    def plain() -> None:
        for path in paths:
            inputs = vision_inputs(session.reader, session.source.config, PROMPT, open_pictures([path]))
            plain_forward(session.model, model_tensors(session.model, inputs))

    def features(batch_size: int) -> Callable[[], Any]:
        def work() -> None:
            layers = chosen((), session.source.num_layers)
            args = Namespace(prompt=PROMPT, max_pixels=None, videos=(), batch_size=batch_size)
            request = {"layers": list(layers), "stored": None}
            stack = Decoder(session.source.config)
            files = FeatureFiles(folder, "demo", request, stack.width, resume=False, overwrite=True)
            with files, ProgressBar("", quiet=True) as progress:
                Extraction(session, stack, args, layers).run(paths, files, progress)
                files.finish({})

        return work

    found = {"plain": timed(plain)[1], "single": timed(features(1))[1], "batch": timed(features(8))[1]}
    rates = {f"{key} rate": len(paths) / seconds for key, seconds in found.items()}
    return rates | {f"{key} ratio": found[key] / found["plain"] for key in ("single", "batch")}


def demo_table(repetitions: int) -> Table:
    say(f"features of {DEMO_IMAGES} images of the demo model")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # in a model this small, several threads only wait for each other
    with tempfile.TemporaryDirectory() as name, quiet_libraries(verbose=False):
        session = Session(Settings("demo", vision=True, device="cpu"))
        paths = drawn(DEMO_IMAGES, Path(name) / "scenes")
        random.Random(0).shuffle(paths)
        demo_sample(session, paths, Path(name))  # to warm up
        samples = [demo_sample(session, paths, Path(name)) for _ in range(repetitions)]
    torch.set_num_threads(threads)
    labels = {
        "plain rate": "read the file, preprocess, one plain forward [images/s]",
        "single rate": "the features command, one image in a forward [images/s]",
        "batch rate": "  up to 8 of one size in a forward [images/s]",
        "single ratio": "features / plain, one image in a forward",
        "batch ratio": "  up to 8",
    }
    targets = {"single ratio": TARGET, "batch ratio": TARGET}
    notes = [
        "from image files to the summary, every layer read, no features saved; loading the model left out; 1 thread"
    ]
    return Table.of_samples("Features: the whole command on the demo model", labels, targets, {"": samples}, notes)


def tables(setup: Setup, sizes: Sequence[int], repetitions: int) -> list[Table]:
    with torch.no_grad():
        return [features_table(setup, setup.model(), sizes, repetitions), demo_table(repetitions)]
