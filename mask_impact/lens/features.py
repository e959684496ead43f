"""Hidden states of the image tokens of many images, layer by layer: their norms, their similarity, and the states. With
--tower vision those of the patches inside the vision encoder.

In: image files and videos. Out: extraction_summary_NAME.json, and with --save-features one file per layer
(feature_files.py).

Images are read one after the other. Those that become the same number of tokens are computed together, and written as
soon as they are computed, so memory does not grow with their number.
"""

import argparse
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from mask_impact.commands.summary import counted, noted
from mask_impact.commands.terminal import ProgressBar, complain, described, show
from mask_impact.errors import UserError
from mask_impact.files.folder import output_folder
from mask_impact.jobs.session import Session
from mask_impact.lens.feature_files import FeatureFiles, Record
from mask_impact.lens.given import check_videos, inputs_of, sampling_of
from mask_impact.lens.image_files import image_files
from mask_impact.lens.norms import injection_table, over_all, over_injections, row_count, statistics, table
from mask_impact.lens.ready import Ready, ready
from mask_impact.lens.stacks import Stack, stack_of
from mask_impact.lens.states import chosen
from mask_impact.model.memory import Portion, explained
from mask_impact.options import Settings, merged
from mask_impact.prompt.films import video_sha256
from mask_impact.prompt.images import file_sha256
from mask_impact.prompt.video_part import FAMILIES, video_part
from mask_impact.prompt.vision import image_token_id
from mask_impact.prompt.wording import own_tokens, wording

WAITING_BYTES = 256 * 2**20  # of inputs that wait for others of the same size
TOKENS_AT_ONCE = 16384  # in one forward
SHOWN = 5  # how many skipped images are listed


def command(args: argparse.Namespace) -> int:
    started = time.perf_counter()
    session = Session(Settings(**merged(Settings, vars(args))), args.flags)
    source, folder = session.source, session.settings.output_dir
    stack = asked_stack(source.config, args)
    layers = chosen(args.layers or (), stack.blocks)
    check_prompt(session, args)
    with output_folder(folder), ProgressBar(f"reading {source.name}", args.quiet) as progress:
        paths = image_files(args, folder)
        files = FeatureFiles(
            folder, args.output or default_name(source.name, stack), request(session, args, stack, layers),
            stack.width, args.resume, args.overwrite,
        )  # fmt: skip
        with files:
            extraction = Extraction(session, stack, args, layers)
            try:
                skipped = extraction.run(paths, files, progress)
            except KeyboardInterrupt:
                complain(f"interrupted: {finished(files.records)} finished; go on with --resume")
                return 130
            seconds = time.perf_counter() - started
            written = files.finish(
                {
                    "model": source.manifest
                    | {"blocks": stack.blocks, "hidden_size": files.width, "notes": session.notes},
                    "over_all_images": over_all(files.records, layers) | over_injections(files.records),
                    "skipped": skipped,
                    "notes": notes(session, files.records),
                    "seconds": {"total": seconds, "images": extraction.seconds},
                }
            )
    if not args.quiet:
        show("\n".join([report(files.records, layers, extraction, written), *noted(notes(session, files.records))]))
    for lost in skipped[:SHOWN]:
        complain(f"skipped: {lost['path']}: {lost['reason']}")
    if skipped:
        number = images_and_videos(len(skipped), sum(Path(each["path"]) in args.videos for each in skipped))
        complain(f"{number} of {len(paths)} skipped; {files.summary} lists them")
    return int(bool(skipped))


def check_prompt(session: Session, args: argparse.Namespace) -> None:
    """Raises UserError for what is wrong with every image: the prompt, or a model that takes no videos."""
    check_videos(session, args)
    config = session.source.config
    if args.videos:
        video_part(session.reader, config)
    image = session.reader.tokenizer.convert_ids_to_tokens(image_token_id(session.reader, config))
    own = own_tokens(session.reader, image, config.model_type in FAMILIES)
    pictures = args.images or args.num_images or args.test_only or not args.videos
    for kind, given in (("image", pictures), ("video", args.videos)):
        if given:
            wording(session.reader, args.prompt, {kind: 1}, None, own)


def asked_stack(config: Any, args: argparse.Namespace) -> Stack:
    """Raises UserError."""
    if args.unit and args.tower != "vision":
        raise UserError("--unit chooses the rows of the vision encoder; add --tower vision, or leave it out")
    return stack_of(config, args.tower, args.unit or "patch")


def request(session: Session, args: argparse.Namespace, stack: Stack, layers: Sequence[int]) -> dict[str, Any]:
    """Everything the numbers depend on besides the images. That of the decoder says nothing of towers."""
    stored = {"dtype": args.feature_dtype, "format": args.feature_format} if args.save_features else None
    return {
        **session.identity,
        **({"tower": stack.name, "unit": stack.unit} if stack.name == "vision" else {}),
        "prompt": args.prompt,
        "max_pixels": args.max_pixels,
        **sampling_of(args),
        "layers": list(layers),
        "stored": stored,
    }


def notes(session: Session, records: Sequence[Record]) -> list[str]:
    """What was left out, added or chosen; what was done to each picture or video is in its record, too."""
    of_videos = [f"{record['path']}: {note}" for record in records if "frames" in record for note in record["notes"]]
    if len(of_videos) > SHOWN:
        of_videos[SHOWN:] = [f"{len(of_videos) - SHOWN} more notes on videos are in the summary"]
    left_out = sum(record.get("rows_without_token", 0) for record in records)
    what = "rows of the vision encoder become no image token (CLS, registers, padding) and are left out"
    return [*session.notes, *of_videos, *([f"{left_out} {what}"] if left_out else [])]


def default_name(model: str, stack: Stack) -> str:
    return file_name(model) + ("_vision" if stack.name == "vision" else "")


def file_name(model: str) -> str:
    """A model in a file name: "Qwen/Qwen2-VL-7B-Instruct" -> "Qwen_Qwen2-VL-7B-Instruct"; of a folder, its name."""
    name = Path(model).resolve().name if Path(model).is_dir() else model
    return re.sub(r"[^\w.-]+", "_", name).strip("._") or "model"


# --- one extraction -----------------------------------------------------------------------------------------
class Extraction:
    """The features of images, one prompt around each."""

    def __init__(self, session: Session, stack: Stack, args: argparse.Namespace, layers: Sequence[int]) -> None:
        self.session, self.stack, self.args, self.layers = session, stack, args, layers
        self.videos = set(args.videos)
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

        def readable() -> Iterator[Ready]:
            for path in paths:
                try:
                    if known and (str(path), self.digest(path)) in known:
                        progress("kept")
                        continue
                    image = self.prepared(path)
                except UserError as error:
                    skipped.append({"path": str(path), "reason": described(error, self.session.names)})
                    progress("skipped")
                    continue
                yield image

        started = time.perf_counter()
        for batch in batches(readable(), self.args.batch_size):
            started += self._load_seconds()
            for part, states, found in features_of(self.stack, self.session.model, batch, self.layers, self.portion):
                about = [self.stack.about(self.session.model, image) for image in part]
                records = zip(part, about, found, strict=True)
                files.append([image.record | rows | own for image, rows, own in records], states)
                self.images += len(part)
                self.seconds = time.perf_counter() - started
                for _ in part:
                    progress(f"{self.images / self.seconds:.3g} images/s")
        if not files.records:
            raise UserError(
                f"none of {images_and_videos(len(paths), len(self.videos))} can be read: {skipped[0]['reason']}"
            )
        return skipped

    def _load_seconds(self) -> float:
        """How long loading the model took just now; 0 if it was loaded before."""
        started = time.perf_counter()
        self.session.model  # noqa: B018
        return time.perf_counter() - started

    def digest(self, path: Path) -> str:
        return video_sha256(path) if path in self.videos else file_sha256(path)

    def prepared(self, path: Path) -> Ready:
        """Read one image or video. Raises UserError for a file that is none or that the processor rejects."""
        given = {"videos" if path in self.videos else "images": [path]}
        return ready(inputs_of(self.session, self.args, **given))


def batches(images: Iterator[Ready], size: int) -> Iterator[list[Ready]]:
    """Images that go into one forward, at most `size`; waiting images hold at most WAITING_BYTES."""
    groups: list[list[Ready]] = []
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


Measured = tuple[Sequence[Ready], dict[int, torch.Tensor], list[dict[str, Any]]]


def features_of(
    stack: Stack, model: Any, batch: Sequence[Ready], layers: Sequence[int], portion: Portion
) -> Iterator[Measured]:
    """Compute images that go together, in one forward or in as many as the memory needs.

    Yields the images of a forward, {layer: [P, C]} of their rows one after the other, and the statistics of each image
    by layer; under "deepstack" those of what the model adds between its blocks. Raises OutOfMemory if not even one
    image fits.
    """
    length = batch[0].tokens.shape[1]

    def forward(part: Sequence[Ready]) -> Measured:
        added: dict[int, torch.Tensor] = {}
        states = states_of(stack, model, part, layers, added)
        found, between = (
            statistics([each[layer].unflatten(0, (len(part), -1)) for layer in named])
            for each, named in ((states, layers), (added, sorted(added)))
        )
        deep = [{"deepstack": {"layers": sorted(added), **own}} for own in between]
        return part, states, [one | more for one, more in zip(found, deep or [{}] * len(part), strict=True)]

    with explained(f"a forward over {length} tokens"):
        most = max(length, stack.about(model, batch[0]).get("row_count", 0))
        yield from portion.pieces(batch, max(1, TOKENS_AT_ONCE // most), forward)


def states_of(
    stack: Stack, model: Any, images: Sequence[Ready], layers: Sequence[int], added: dict[int, torch.Tensor]
) -> dict[int, torch.Tensor]:
    """{layer: [P, C]} of images that go together, their rows one after the other; `added` as in `hidden_states`."""
    return stack.states(model, images, layers, added)


def images_and_videos(count: int, videos: int) -> str:
    """How many of `count` are what: "2 images and 1 video"."""
    parts = [(count - videos, "image"), (videos, "video")]
    return " and ".join(counted(number, kind) for number, kind in parts if number)


def finished(records: Sequence[Record]) -> str:
    return images_and_videos(len(records), sum("frames" in record for record in records))


def report(records: Sequence[Record], layers: Sequence[int], extraction: Extraction, written: Sequence[Path]) -> str:
    rows, what = sum(map(row_count, records)), "patches" if extraction.stack.unit == "patch" else "image tokens"
    new = extraction.images
    rate = f", {new / extraction.seconds:.3g} images/s" if new else ""
    kept = f", {len(records) - new} of them kept" if len(records) > new else ""
    others = f" and {len(written) - 2} more" if len(written) > 2 else ""
    return "\n".join(
        [
            f"{finished(records)}, {rows} {what}{kept}{rate}",
            *table(layers, over_all(records, layers)),
            *injection_table(over_injections(records)),
            f"written {written[-1]}" + (f", {written[0]}{others}" if written[1:] else ""),
        ]
    )
