"""Hidden states of the image tokens of many images, layer by layer: their norms, their similarity, and the states.

In: image files. Out: extraction_summary_NAME.json, and with --save-features one file per layer (feature_files.py).

Images are read one after the other. Those that become the same number of tokens are computed together, and written as
soon as they are computed, so memory does not grow with their number.
"""

import argparse
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mask_impact.commands.summary import counted, noted
from mask_impact.commands.terminal import ProgressBar, complain, described, show
from mask_impact.errors import UserError
from mask_impact.files.folder import output_folder
from mask_impact.jobs.session import Session
from mask_impact.lens.feature_files import FeatureFiles, Record, ranges
from mask_impact.lens.image_files import image_files
from mask_impact.lens.norms import injection_table, over_all, over_injections, statistics, table
from mask_impact.lens.states import chosen, hidden_states
from mask_impact.model.generation import model_tensors
from mask_impact.model.lengths import check_length
from mask_impact.model.memory import Portion, explained
from mask_impact.options import Settings, merged
from mask_impact.prompt.images import file_sha256
from mask_impact.prompt.inputs import ModelInputs
from mask_impact.prompt.vision import image_token_id, open_pictures, vision_inputs
from mask_impact.prompt.wording import own_tokens, wording

WAITING_BYTES = 256 * 2**20  # of inputs that wait for others of the same size
TOKENS_AT_ONCE = 16384  # in one forward
SHOWN = 5  # how many skipped images are listed


def command(args: argparse.Namespace) -> int:
    started = time.perf_counter()
    session = Session(Settings(**merged(Settings, vars(args))), args.flags)
    source, folder = session.source, session.settings.output_dir
    layers = chosen(args.layers or (), source.num_layers)
    own = own_tokens(session.reader, session.reader.tokenizer.convert_ids_to_tokens(_image_id(session)))
    wording(session.reader, args.prompt, {"image": 1}, None, own)  # its errors are not those of an image
    with output_folder(folder), ProgressBar(f"reading {source.name}", args.quiet) as progress:
        paths = image_files(args, folder)
        files = FeatureFiles(
            folder, args.output or file_name(source.name), request(session, args, layers),
            source.text_config.hidden_size, args.resume, args.overwrite,
        )  # fmt: skip
        with files:
            extraction = Extraction(session, args.prompt, layers, args.max_pixels, args.batch_size)
            try:
                skipped = extraction.run(paths, files, progress)
            except KeyboardInterrupt:
                complain(f"interrupted: {counted(len(files.records), 'image')} finished; go on with --resume")
                return 130
            seconds = time.perf_counter() - started
            written = files.finish(
                {
                    "model": source.manifest
                    | {"blocks": source.num_layers, "hidden_size": files.width, "notes": session.notes},
                    "over_all_images": over_all(files.records, layers) | over_injections(files.records),
                    "skipped": skipped,
                    "seconds": {"total": seconds, "images": extraction.seconds},
                }
            )
    if not args.quiet:
        show("\n".join([report(files.records, layers, extraction, written), *noted(session.notes)]))
    for lost in skipped[:SHOWN]:
        complain(f"skipped: {lost['path']}: {lost['reason']}")
    if skipped:
        complain(f"{counted(len(skipped), 'image')} of {len(paths)} skipped; {files.summary} lists them")
    return int(bool(skipped))


def request(session: Session, args: argparse.Namespace, layers: Sequence[int]) -> dict[str, Any]:
    """Everything the numbers depend on besides the images."""
    stored = {"dtype": args.feature_dtype, "format": args.feature_format} if args.save_features else None
    return {
        **session.identity,
        "prompt": args.prompt,
        "max_pixels": args.max_pixels,
        "layers": list(layers),
        "stored": stored,
    }


def file_name(model: str) -> str:
    """A model in a file name: "Qwen/Qwen2-VL-7B-Instruct" -> "Qwen_Qwen2-VL-7B-Instruct"; of a folder, its name."""
    name = Path(model).resolve().name if Path(model).is_dir() else model
    return re.sub(r"[^\w.-]+", "_", name).strip("._") or "model"


# --- one extraction -----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Waiting:
    """An image that is ready to be computed."""

    record: Record
    tensors: dict[str, torch.Tensor]
    tokens: torch.Tensor  # [1, N] bool: its image tokens

    @property
    def bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def goes_with(self, other: "Waiting") -> bool:
        """Whether one forward can take both: the same text around equally many patches."""
        return (
            self.tensors.keys() == other.tensors.keys()
            and all(tensor.shape == other.tensors[name].shape for name, tensor in self.tensors.items())
            and torch.equal(self.tensors["input_ids"], other.tensors["input_ids"])
        )


class Extraction:
    """The features of images, one prompt around each."""

    def __init__(
        self, session: Session, prompt: str, layers: Sequence[int], max_pixels: int | None, batch_size: int
    ) -> None:
        self.session, self.prompt, self.layers = session, prompt, layers
        self.max_pixels, self.batch_size = max_pixels, batch_size
        self.portion = Portion()
        self.seconds = 0.0  # without loading the model
        self.images = 0

    def run(self, paths: Sequence[Path], files: FeatureFiles, progress: ProgressBar) -> list[dict[str, str]]:
        """Compute what `files` does not have yet. Returns the skipped images, with the reasons.

        Raises UserError if all images are skipped.
        """
        known = {(record["path"], record["sha256"]) for record in files.records}
        progress.expect(len(paths))
        skipped: list[dict[str, str]] = []

        def readable() -> Iterator[Waiting]:
            for path in paths:
                try:
                    if known and (str(path), file_sha256(path)) in known:
                        progress("kept")
                        continue
                    waiting = self.prepared(path)
                except UserError as error:
                    skipped.append({"path": str(path), "reason": described(error, self.session.names)})
                    progress("skipped")
                    continue
                yield waiting

        started = time.perf_counter()
        for batch in batches(readable(), self.batch_size):
            started += self._load_seconds()
            for part, states, found in features_of(self.session.model, batch, self.layers, self.portion):
                files.append([waiting.record | own for waiting, own in zip(part, found, strict=True)], states)
                self.images += len(part)
                self.seconds = time.perf_counter() - started
                for _ in part:
                    progress(f"{self.images / self.seconds:.3g} images/s")
        if not files.records:
            raise UserError(f"none of {counted(len(paths), 'image')} can be read: {skipped[0]['reason']}")
        return skipped

    def _load_seconds(self) -> float:
        """How long loading the model took just now; 0 if it was loaded before."""
        started = time.perf_counter()
        self.session.model  # noqa: B018
        return time.perf_counter() - started

    def prepared(self, path: Path) -> Waiting:
        """Read one image. Raises UserError for a file that is not an image or that the processor rejects."""
        source = self.session.source
        inputs = vision_inputs(self.session.reader, source.config, self.prompt, open_pictures([path]), self.max_pixels)
        check_length(source.text_config, len(inputs.tokens), 1)
        return Waiting(record(inputs), dict(inputs.tensors), image_tokens(inputs))


def batches(images: Iterator[Waiting], size: int) -> Iterator[list[Waiting]]:
    """Images that go into one forward, at most `size`; waiting images hold at most WAITING_BYTES."""
    groups: list[list[Waiting]] = []
    for image in images:
        group = next((group for group in groups if group[0].goes_with(image)), None)
        if group is None:
            groups.append(group := [])
        group.append(image)
        if len(group) == size:
            groups = [other for other in groups if other is not group]
            yield group
        while sum(waiting.bytes for group in groups for waiting in group) > WAITING_BYTES:
            yield groups.pop(0)
    yield from groups


Measured = tuple[Sequence[Waiting], dict[int, torch.Tensor], list[dict[str, Any]]]


def features_of(model: Any, batch: Sequence[Waiting], layers: Sequence[int], portion: Portion) -> Iterator[Measured]:
    """Compute images that go together, in one forward or in as many as the memory needs.

    Yields the images of a forward, {layer: [P, C]} of their image tokens one after the other, and the statistics of
    each image by layer; under "deepstack" those of what the model adds between its blocks. Raises OutOfMemory if not
    even one image fits.
    """
    length = batch[0].tokens.shape[1]

    def forward(part: Sequence[Waiting]) -> Measured:
        added: dict[int, torch.Tensor] = {}
        states = states_of(model, part, layers, added)
        found, between = (
            statistics([each[layer].unflatten(0, (len(part), -1)) for layer in named])
            for each, named in ((states, layers), (added, sorted(added)))
        )
        deep = [{"deepstack": {"layers": sorted(added), **own}} for own in between]
        return part, states, [one | more for one, more in zip(found, deep or [{}] * len(part), strict=True)]

    with explained(f"a forward over {length} tokens"):
        yield from portion.pieces(batch, max(1, TOKENS_AT_ONCE // length), forward)


def states_of(
    model: Any, images: Sequence[Waiting], layers: Sequence[int], added: dict[int, torch.Tensor] | None = None
) -> dict[int, torch.Tensor]:
    """{layer: [P, C]} of images that go together, their image tokens one after the other; `added` as in
    `hidden_states`."""
    tensors = together([image.tensors for image in images])
    tokens = torch.cat([image.tokens for image in images])
    return hidden_states(model, model_tensors(model, ModelInputs(tensors, [], "", chat=True)), layers, tokens, added)


def together(each: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The model's inputs for several images in one forward. Images follow each other along the first axis; MiniCPM-V's
    pixels, which `target_sizes` tells apart, along the last."""
    packed = "pixel_values" if "target_sizes" in each[0] else ""
    return {name: torch.cat([one[name] for one in each], dim=-1 if name == packed else 0) for name in each[0]}


def image_tokens(inputs: ModelInputs) -> torch.Tensor:
    """[1, N] bool: which tokens are image tokens."""
    return torch.tensor([[token.kind == "image" for token in inputs.tokens]])


def record(inputs: ModelInputs) -> Record:
    """What the summary says about the image of `inputs`."""
    [described] = inputs.images
    about = {key: described[key] for key in ("path", "sha256", "notes", "size", "resized", "grid", "layout")}
    positions = [token.position for token in inputs.tokens if token.kind == "image"]
    return about | {
        "token_count": len(positions), "token_ranges": ranges(positions), "prompt_length": len(inputs.tokens)
    }  # fmt: skip


def report(records: Sequence[Record], layers: Sequence[int], extraction: Extraction, written: Sequence[Path]) -> str:
    tokens = sum(record["token_count"] for record in records)
    new = extraction.images
    rate = f", {new / extraction.seconds:.3g} images/s" if new else ""
    kept = f", {len(records) - new} of them kept" if len(records) > new else ""
    others = f" and {len(written) - 2} more" if len(written) > 2 else ""
    return "\n".join(
        [
            f"{counted(len(records), 'image')}, {tokens} image tokens{kept}{rate}",
            *table(layers, over_all(records, layers)),
            *injection_table(over_injections(records)),
            f"written {written[-1]}" + (f", {written[0]}{others}" if written[1:] else ""),
        ]
    )


def _image_id(session: Session) -> int:
    return image_token_id(session.reader, session.source.config)
