"""Build a bank: hidden states of text tokens in context, from text-only forwards of the model's own decoder.

In:  captions, one per line. Out: the folder that bank_files.py describes.

Which tokens are kept is known before the first forward (contexts.py). So only captions with a kept token are run, only
up to the last one, and captions of one length together. The tokens alone decide how shards are cut, so shards are the
same whoever computes them. A build that was stopped continues with the missing shards, and several processes
(`accelerate launch`) divide them; the files are the same in the end.

Shapes: M tokens kept, C hidden. Memory beyond the model: SHARD_VALUES * 2 bytes per layer, and that of contexts.py.
"""

import argparse
import datetime
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mask_impact
from mask_impact.commands.processes import Processes
from mask_impact.commands.summary import noted
from mask_impact.commands.terminal import ProgressBar, complain, show
from mask_impact.errors import UserError
from mask_impact.files.folder import check_room, output_folder, remove_temporaries
from mask_impact.files.temporaries import check_replaceable
from mask_impact.jobs.session import Session
from mask_impact.lens import bank_files
from mask_impact.lens.bank_files import CONTEXTS, Manifest, described, shard_name
from mask_impact.lens.contexts import LONGEST, SEED, Contexts, Corpus, batches, choose, read_captions, tokenized
from mask_impact.lens.states import chosen, hidden_states, sees_ahead, text_decoder
from mask_impact.model.lengths import max_positions
from mask_impact.model.load import input_device
from mask_impact.model.memory import Portion
from mask_impact.options import Settings, merged
from mask_impact.prompt.token_text import token_text

SHARD_VALUES = 1 << 24  # rows x hidden of a shard: 32 MB per layer
EARLY = (1, 2, 4, 8, 16, 24)  # with the last two before the final one, the layers of the published banks


def command(args: argparse.Namespace) -> int | None:
    started = time.perf_counter()
    settings = Settings(**merged(Settings, vars(args)))
    processes = Processes(settings.device, settings.device_map)
    session = Session(replace(settings, device=processes.device))
    source, folder = session.source, settings.output_dir
    layers = chosen(args.layers, source.num_layers) if args.layers is not None else usual_layers(source.num_layers)
    captions, digest = read_captions(args.captions, args.num_captions)
    wanted = {
        "mask_impact": mask_impact.__version__,
        **session.identity,
        "layers": list(layers),
        "captions_sha256": digest,
        "num_captions": len(captions),
        "max_per_token": args.max_per_token,
        "seed": SEED,
    }
    about = {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "argv": args.argv,
        "request": wanted,
    }  # fmt: skip
    with (
        output_folder(folder, lock=processes.first),
        ProgressBar(f"reading {args.captions.name}", args.quiet or not processes.first) as bar,
    ):
        place = processes.from_first(_place(folder, about, args) if processes.first else None)
        if place is None:
            line = f"kept       {folder}: same model, captions and options"
        else:
            limit = min(LONGEST, max_positions(source.text_config) or LONGEST)
            corpus = tokenized(session.reader.tokenizer, captions, limit)
            build = Build(session, corpus, args.max_per_token, layers, args.batch_size, place)
            if not _build(build, processes, bar):
                return 130
            line = ""
            if processes.first:
                manifest = about | build.manifest(args.captions.name, digest)
                manifest["seconds"] = {"total": time.perf_counter() - started, "forwards": build.seconds}
                bank_files.write_manifest(place, manifest)
                if place != folder:
                    bank_files.take_place(place, folder)
                line = "\n".join([report(folder, manifest, build), *noted(session.notes)])
    processes.end()
    if processes.first and not args.quiet:
        show(line)
    return None


def _build(build: "Build", processes: Processes, progress: ProgressBar) -> bool:
    """All processes compute the missing shards. Returns whether they finished."""
    paths = [build.folder / shard_name(number) for number in range(len(build.shards))]
    missing = processes.from_first([number for number, path in enumerate(paths) if not path.exists()])
    if processes.first:
        check_room(build.folder, sum(map(build.bytes_of, missing)), "the bank needs", "or fewer --layers or captions")
    try:
        build.run(processes.share(missing), progress)
    except KeyboardInterrupt:
        there = sum(path.exists() for path in paths)
        complain(f"interrupted: {there} of {len(paths)} shards are written; go on with --resume")
        return False
    processes.gathered([build.tokens])  # every process has written its shards
    return True


def usual_layers(blocks: int) -> tuple[int, ...]:
    """Early layers and the last two before the final one: 1,2,4,8,16,24,26,27 for 28 blocks."""
    return tuple(sorted({*(layer for layer in EARLY if layer < blocks), *range(max(1, blocks - 2), blocks)})) or (1,)


def _place(folder: Path, about: Manifest, args: argparse.Namespace) -> Path | None:
    """The folder to build in, prepared; None if the bank is complete already. Raises UserError for one that must be
    kept. One that is to be replaced stays until the new one is complete."""
    check_replaceable(bank_files.files_of(folder))
    if args.overwrite and (folder / bank_files.MANIFEST).exists():
        new = folder / bank_files.NEW
        if new.is_dir():
            remove_temporaries(new, alone=True)
        if not (new.is_dir() and _begun(new, about)):
            bank_files.begin(new, about)
        return new
    found = None if args.overwrite else bank_files.read_manifest(folder)
    if found is None:
        bank_files.begin(folder, about)
        return folder
    if not args.resume:
        raise UserError(
            f"there is a bank in {folder} already; choose another --output-dir, keep it and go on with --resume, or "
            "replace it with --overwrite"
        )
    before, wanted = found["request"], about["request"]
    for key in dict.fromkeys((*wanted, *before)):
        if before.get(key) != wanted.get(key):
            raise UserError(
                f"the bank in {folder} is another one: {key} was {before.get(key)}, is {wanted.get(key)}; choose "
                "another --output-dir, or replace it with --overwrite"
            )
    if found["shards"] is None:
        return folder
    bank_files.Bank(folder, found)  # complete?
    return None


def _begun(folder: Path, about: Manifest) -> bool:
    """Whether the same bank was begun there."""
    try:
        found = bank_files.read_manifest(folder)
    except UserError:
        return False
    return found is not None and found["shards"] is None and found["request"] == about["request"]


@dataclass
class Build:
    """A bank that is being built: what it will hold, and the shards that this process computes."""

    session: Session
    corpus: Corpus
    max_per_token: int
    layers: tuple[int, ...]
    batch_size: int
    folder: Path

    def __post_init__(self) -> None:
        """Raises UserError if no token of the captions is kept."""
        self.hidden = int(self.session.source.text_config.hidden_size)
        self.causal = not sees_ahead(self.session.model)
        self.contexts: Contexts = choose(self.corpus, self.max_per_token, causal=self.causal)
        if not len(self.contexts.token):
            raise UserError("the captions have one token each; give captions of several words: the first is not kept")
        self.shards = self.contexts.shards(max(1, SHARD_VALUES // self.hidden))
        self.portion = Portion()
        self.tokens, self.seconds = 0, 0.0  # tokens that were run, and the seconds they took

    def run(self, numbers: Sequence[int], progress: Callable[[str], None] = lambda what: None) -> None:
        """Compute these shards and write them."""
        together = self.batch_size if self.causal else 1  # in PaliGemma, text tokens see padding
        cut = [list(batches(self.contexts, self.shards[number], self.batch_size)) for number in numbers]
        if isinstance(progress, ProgressBar):
            progress.expect(sum(map(len, cut)))
        for number, pieces in zip(numbers, cut, strict=True):
            found: dict[int, list[torch.Tensor]] = {layer: [] for layer in self.layers}
            for rows in pieces:
                started = time.perf_counter()
                for states in self.portion.pieces(self._captions(rows), together, self._forward):
                    for layer in self.layers:
                        found[layer].append(states[layer].float().cpu())
                self.seconds += time.perf_counter() - started
                progress(f"{self.tokens / self.seconds:,.0f} tokens/s")
            self._write(number, {layer: torch.cat(states) for layer, states in found.items()})

    def bytes_of(self, number: int) -> int:
        """Of a shard: a float16 vector and a float32 norm for each row and layer."""
        rows = self.shards[number]
        return (rows.stop - rows.start) * len(self.layers) * (2 * self.hidden + 4)

    def _captions(self, rows: slice) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each caption among these rows, the ids to run [n] and the positions to keep."""
        captions, positions = self.contexts.caption[rows], self.contexts.position[rows]
        begins = np.flatnonzero(np.diff(captions)) + 1
        found = []
        for caption, kept in zip(captions[np.append(0, begins)], np.split(positions, begins), strict=True):
            ids = self.corpus.caption_ids(caption)
            found.append((ids[: kept[-1] + 1] if self.causal else ids, kept))
        return found

    def _forward(self, captions: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[int, torch.Tensor]:
        """{layer: [P, C]} of the kept tokens, caption after caption. Captions are padded on the right."""
        longest = max(len(ids) for ids, _ in captions)
        ids = torch.zeros(len(captions), longest, dtype=torch.long)
        there, kept = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
        for row, (own, positions) in enumerate(captions):
            ids[row, : len(own)] = torch.from_numpy(own)
            there[row, : len(own)] = 1
            kept[row, positions] = True
        model = self.session.model
        device = input_device(model)
        tensors = {"input_ids": ids.to(device), "attention_mask": there.to(device)}
        found = hidden_states(text_decoder(model), tensors, self.layers, kept)
        self.tokens += int(there.sum())
        return found

    def _write(self, number: int, states: dict[int, torch.Tensor]) -> None:
        norms = {layer: torch.linalg.vector_norm(found.double(), dim=1) for layer, found in states.items()}
        units = {
            layer: (found / norms[layer].clamp_min(1e-30)[:, None]).half() for layer, found in states.items()
        }  # divided in float64
        bank_files.write_shard(
            self.folder / shard_name(number), units, {layer: norm.float() for layer, norm in norms.items()}
        )

    def manifest(self, captions: str, digest: str) -> Manifest:
        """Write the contexts, and describe the finished bank. All shards must be written."""
        contexts, corpus = self.contexts, self.corpus
        tokenizer = self.session.reader.tokenizer
        texts = {token: token_text(tokenizer, token) for token in np.unique(contexts.token).tolist()}
        columns: dict[str, Any] = {
            "token_id": contexts.token.astype(np.int32),
            "token": [texts[token] for token in contexts.token.tolist()],
            "caption": [corpus.captions[caption] for caption in contexts.caption.tolist()],
            "caption_index": contexts.caption.astype(np.int32),
            "caption_position": contexts.position.astype(np.int32),
        }
        bank_files.write_contexts(self.folder / CONTEXTS, columns)
        lengths = np.diff(corpus.starts)
        return {
            "model": self.session.source.manifest
            | {"fingerprint": self.session.fingerprint, "notes": self.session.notes},
            "hidden_size": self.hidden,
            "layers": list(self.layers),
            "rows": len(contexts.token),
            "vocabulary_items": len(texts),
            "max_per_token": self.max_per_token,
            "seed": SEED,
            "causal": self.causal,
            "captions": {
                "file": captions, "sha256": digest, "count": len(corpus.captions), "tokens": len(corpus.ids),
                "longest": int(lengths.max()), "cut_at": LONGEST,
            },
            "tokens_after_text": contexts.found,
            "distinct_prefixes": contexts.distinct,
            "captions_run": len(np.unique(contexts.caption)),
            "contexts": described(self.folder / CONTEXTS),
            "shards": [
                {"rows": rows.stop - rows.start, **described(self.folder / shard_name(number))}
                for number, rows in enumerate(self.shards)
            ],
        }  # fmt: skip


def report(folder: Path, manifest: Manifest, build: Build) -> str:
    """The lines printed at the end."""
    kept = manifest["rows"]
    size = sum(about["bytes"] for about in (manifest["contexts"], *manifest["shards"]))
    rate = f", {build.tokens / build.seconds:,.0f} tokens/s in forwards" if build.seconds else ""
    lines = [
        f"{manifest['captions']['count']:,} captions, {manifest['tokens_after_text']:,} tokens with text before them, "
        f"{manifest['distinct_prefixes']:,} of them with a prefix of their own",
        f"kept {kept:,} contexts of {manifest['vocabulary_items']:,} tokens (at most {manifest['max_per_token']} each) "
        f"at layers {', '.join(map(str, manifest['layers']))}",
        f"{manifest['seconds']['total']:.1f} s{rate}; {size / 1e6:,.1f} MB in {folder}",
    ]
    return "\n".join(lines)
