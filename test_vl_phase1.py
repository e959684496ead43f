#!/usr/bin/env python3
"""Is a vision-language model measured as it is? Five checks: loading, inputs, forward, layers, positions.

In: a model, a picture, a question. Out: for each check what was compared and by how much it differed; exit code 1 if
one fails. pytest collects this file too, on the bundled demo model.

    python test_vl_phase1.py
    python test_vl_phase1.py --model path/to/checkpoint --image photo.jpg
    python test_vl_phase1.py --model Qwen/Qwen3-VL-4B-Instruct --prompt "What is on the left?"
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
IMAGE = ROOT / "testimg.png"
PROMPT = "What's in this image?"
TOLERANCE = 1e-4  # of what is compared: float32 rounding through a whole forward


@dataclass
class Check:
    """What one check compared."""

    name: str
    passed: bool
    found: list[str]

    def __str__(self) -> str:
        return "\n".join(
            [f"{'ok  ' if self.passed else 'FAIL'} {self.name}", *(f"       {line}" for line in self.found)]
        )


@dataclass
class Subject:
    """A loaded model with one question about one picture."""

    source: Any
    model: Any
    processor: Any
    inputs: Any  # ModelInputs
    recording: Any  # of one generated token, with every prompt position as a query

    @property
    def length(self) -> int:
        return len(self.inputs.tokens)

    @property
    def places(self) -> list[int]:
        """Positions of image tokens."""
        return [token.position for token in self.inputs.tokens if token.kind == "image"]


def load(name: str, image: Path = IMAGE, prompt: str = PROMPT) -> Subject:
    import torch

    from mask_impact.impact.record import record_generation
    from mask_impact.model import find
    from mask_impact.model.load import load_model
    from mask_impact.model.processors import load_processor
    from mask_impact.prompt.vision import open_pictures, vision_inputs

    source = find.find_model(name, vision=True)
    processor = load_processor(source)
    inputs = vision_inputs(processor, source.config, prompt, open_pictures(image))
    model = load_model(source, torch.device("cpu"), torch.float32)
    everywhere = range(len(inputs.tokens))
    recording = record_generation(model, inputs.tensors, 1, [], everywhere.__contains__)
    return Subject(source, model, processor, inputs, recording)


def loading(subject: Subject) -> Check:
    """The right class with every weight of the checkpoint (`load_model` refuses any other), and a vision tower."""
    from mask_impact.model.towers import decoder_layers

    config, model = subject.source.config, subject.model
    count = sum(parameter.numel() for parameter in model.parameters())
    layers = decoder_layers(model)
    in_decoder = {id(parameter) for layer in layers for parameter in layer.parameters()}
    others = sum(p.numel() for n, p in model.named_parameters() if id(p) not in in_decoder and "vis" in n)
    wanted = (config.architectures or [type(model).__name__])[0]
    return Check(
        "loading",
        type(model).__name__ == wanted and len(layers) == subject.source.num_layers and others > 0,
        [
            f"class {type(model).__name__}, the checkpoint names {wanted}",
            f"{count:,} parameters, {others:,} of them in the vision tower; no weight missing or unknown",
            f"{len(layers)} decoder layers, the config says {subject.source.num_layers}",
        ],
    )


def inputs(subject: Subject) -> Check:
    """As many image tokens as the vision tower makes, and its features in their places, not the placeholder's."""
    import torch

    (picture,) = subject.inputs.images
    first = torch.stack([subject.recording.layers[0].queries[q].hidden[0, 0] for q in range(subject.length)])
    table = subject.model.get_input_embeddings().weight
    ids = subject.inputs.tensors["input_ids"][0]
    placed = subject.places
    text = [q for q in range(subject.length) if q not in placed]
    scale = first[text[0]].norm() / table[ids[text[0]]].norm()  # Gemma multiplies its embeddings
    apart = (first - table[ids] * scale).norm(dim=-1) / first.norm(dim=-1)
    spread = (first[placed] - first[placed].mean(dim=0)).norm(dim=-1).min() / first[placed].norm(dim=-1).mean()
    grid = picture["grid"]
    return Check(
        "input processing",
        bool(apart[text].max() < TOLERANCE and apart[placed].min() > 0.01 and spread > 1e-4)
        and (grid is None or grid[0] * grid[1] == len(placed)),
        [
            f"{picture['size'][0]} x {picture['size'][1]} pixels, resized to {picture['resized']}, "
            f"{picture['layout']}: {len(placed)} image tokens, positions {placed[0]} to {placed[-1]}",
            f"text tokens enter the decoder as their embeddings: largest difference {apart[text].max():.1e}",
            f"image tokens do not enter as the placeholder's: smallest difference {apart[placed].min():.1e} of their "
            f"length, smallest distance from their mean {spread:.1e}",
        ],
    )


def forward(subject: Subject) -> Check:
    """The record holds what the model computes in a plain forward, and its token is that forward's choice."""
    import torch

    entered: list[torch.Tensor] = []

    def keep(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        entered.append((args[0] if args else kwargs["hidden_states"])[0])

    handles = [record.layer.register_forward_pre_hook(keep, with_kwargs=True) for record in subject.recording.layers]
    try:
        with torch.no_grad():
            plain = subject.model(**subject.inputs.tensors, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    worst = 0.0
    for record, hidden in zip(subject.recording.layers, entered, strict=True):
        recorded = torch.stack([record.queries[q].hidden[0, 0] for q in range(subject.length)])
        worst = max(worst, ((recorded - hidden).norm() / hidden.norm()).item())
    logits = plain.logits[0, -1].float()
    chosen, expected = subject.recording.tokens[0], int(logits.argmax())
    probability = logits.softmax(-1).max().item()
    off = abs(probability - subject.recording.probabilities[0])
    return Check(
        "forward",
        worst < TOLERANCE and chosen == expected and off < 1e-3,
        [
            f"layer inputs, recorded against a plain forward: largest difference {worst:.1e} of their length",
            f"first output token {subject.processor.tokenizer.decode([chosen])!r} (id {chosen}), a plain forward "
            f"chooses {expected}; probability {subject.recording.probabilities[0]:.4f}, differs by {off:.1e}",
        ],
    )


def layers(subject: Subject) -> Check:
    """Every decoder layer was reached, and replaying it without a mask gives the model's own update."""
    import torch

    from mask_impact.impact.meter import Meter, Wanted

    meter, query = Meter(subject.model, Wanted()), subject.length - 1
    worst = {"Full": 0.0, "Head": 0.0}
    still = []
    with torch.no_grad():
        for record in subject.recording.with_attention():
            impact = meter.impact(record, record.queries[query], [[q] for q in range(query + 1)])
            for name, (_, relative) in impact.noise.items():
                worst[name] = max(worst[name], relative)
            if not impact.l2.any():
                still.append(record.index)
    measured, skipped = subject.recording.with_attention(), subject.recording.without_attention()
    count = len(measured) + len(skipped)
    return Check(
        "layers",
        count == subject.source.num_layers and max(worst.values()) < TOLERANCE and not still,
        [
            f"{len(measured)} of {count} layers have attention and were hooked; the config says "
            f"{subject.source.num_layers} layers"
            + (f"; without attention: {[record.index for record in skipped]}" if skipped else ""),
            *(f"replay without a mask against the record, {name}: {relative:.1e}" for name, relative in worst.items()),
            f"layers where masking changes nothing: {still or 'none'}",
        ],
    )


def positions(subject: Subject) -> Check:
    """Rotary tables in the record are the model's own for every token; their ids are those of the token grid."""
    import torch

    calls: list[tuple[Any, Any]] = []
    rotary = [
        module
        for name, module in subject.model.named_modules()
        if "RotaryEmbedding" in type(module).__name__ and "vis" not in (name + type(module).__name__).lower()
    ]
    if not rotary:
        return Check("positions", True, ["this model has no rotary positions in its decoder"])

    def keep(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        calls.append((kwargs.get("position_ids", args[1] if len(args) > 1 else None), output))

    handles = [module.register_forward_hook(keep, with_kwargs=True) for module in rotary]
    try:
        with torch.no_grad():
            subject.model(**subject.inputs.tensors, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    ids, tables = calls[0][0], [table for _, output in calls for table in output]
    worst = 0.0
    for record in subject.recording.with_attention():
        for query in range(subject.length):
            recorded = record.queries[query].kwargs.get("position_embeddings")
            if recorded is not None:
                worst = max(worst, _nearest(recorded, tables, query, subject.length))
    expected = expected_ids(subject.inputs.tokens, ids)
    wrong = int((ids.cpu() != expected).sum())
    return Check(
        "positions",
        worst < 1e-6 and wrong == 0,
        [
            f"rotary tables of every layer and token against the model's own forward: largest difference {worst:.1e}",
            f"position ids {list(ids.shape)}, made again from the tokens' places: {wrong} of {ids.numel()} differ; "
            f"last one {ids[..., -1].flatten().tolist()}",
        ],
    )


def _nearest(recorded: Sequence[Any], tables: Sequence[Any], query: int, length: int) -> float:
    """The difference of a layer's (cos, sin) at `query` from the nearest pair the model computed: some families have a
    pair for each kind of layer."""
    best = float("inf")
    for cos, sin in zip(tables[::2], tables[1::2], strict=True):
        if cos.shape[-2] != length or cos.shape[-1] != recorded[0].shape[-1]:
            continue
        pairs = zip((cos, sin), recorded, strict=True)
        best = min(best, max((own.narrow(-2, query, 1) - theirs).abs().max().item() for own, theirs in pairs))
    return best


def expected_ids(tokens: Sequence[Any], like: Any) -> Any:
    """Position ids of the shape of `like`: counted one by one, or for three axes (time, height, width) text counting on
    all of them and a picture's tokens at their row and column (Qwen2-VL, arXiv 2409.12191, section 2.1)."""
    import torch

    if like.ndim < 3:
        return torch.arange(len(tokens)).expand(like.shape) + like.flatten()[0].item()
    found: list[tuple[int, int, int]] = []
    start, image = 0, None
    for token in tokens:
        if token.image is None or token.image != image:
            start, image = max((max(known) for known in found), default=-1) + 1, token.image
        found.append((start, start + (token.row or 0), start + (token.col or 0)))
    axes = torch.tensor(found).T[:, None]  # [3, 1, N]
    if like.shape[0] == 4:  # text positions first
        axes = torch.cat([torch.arange(len(tokens))[None, None], axes])
    return axes


CHECKS: tuple[Callable[[Subject], Check], ...] = (loading, inputs, forward, layers, positions)


def test_five_checks_on_the_demo_model() -> None:
    subject = load("demo")
    for check in CHECKS:
        result = check(subject)
        print(result)
        assert result.passed, str(result)


def main(argv: Sequence[str] | None = None) -> int:
    from mask_impact.commands import exit_codes, flags
    from mask_impact.model.quiet import quiet_libraries

    parser = flags.Parser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", metavar="NAME_OR_PATH", default="demo", help="default: demo")
    parser.add_argument("--image", metavar="PATH", type=Path, default=IMAGE, help="default: testimg.png")
    parser.add_argument("--prompt", metavar="TEXT", default=PROMPT, help="default: %(default)r")
    parser.add_argument("--verbose", action="store_true", help="print tracebacks of errors")
    args = parser.parse_args(argv)
    args.exit_code = 0

    def command(args: argparse.Namespace) -> None:
        with quiet_libraries(args.verbose):
            subject = load(args.model, args.image, args.prompt)
            for check in CHECKS:
                result = check(subject)
                print(result, flush=True)
                args.exit_code |= not result.passed

    return exit_codes.guarded(command, args) or int(args.exit_code)


if __name__ == "__main__":
    sys.exit(main())
