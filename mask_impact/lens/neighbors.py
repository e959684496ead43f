"""For every image token and layer the nearest text tokens in context, and the nearest rows of the static vocabulary.

In:  a model, a bank of this model, images, videos and a prompt; optionally a run of mask_impact_vl.py on the same.
Out: NAME_neighbors.csv / .json / .parquet with one row per neighbour, the manifest NAME_neighbors_run.json, and
     NAME_neighbors.html, the viewer with both.

Each row has a `kind`: "merged", the nearest of all bank layers together; "layer", the nearest within one bank layer;
"static", rows of the model's input embedding matrix, which have no caption. For users: docs/latent-lens.md.

Shapes: L layers of image tokens, P image tokens, C hidden, k neighbours; Q = L * P queries, layer after layer.
"""

import argparse
import datetime
import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mask_impact
from mask_impact.commands.summary import noted
from mask_impact.commands.terminal import ProgressBar, show
from mask_impact.errors import UserError
from mask_impact.files import notebook
from mask_impact.files.folder import output_folder
from mask_impact.jobs.session import Session
from mask_impact.lens import approximate, bank_files, published, search
from mask_impact.lens.bank_files import MANIFEST, Searchable
from mask_impact.lens.given import check_videos, first_name, inputs_of, sampling_of
from mask_impact.lens.masking_run import Masking, read_masking
from mask_impact.lens.search import Nearest
from mask_impact.lens.states import chosen, hidden_states
from mask_impact.lens.table_files import Files
from mask_impact.model.generation import model_tensors
from mask_impact.model.load import input_device
from mask_impact.options import Settings
from mask_impact.options import merged as merged_settings
from mask_impact.prompt.inputs import ModelInputs, Token
from mask_impact.prompt.token_text import token_text
from mask_impact.table import Columns

NONE = -1  # caption_position and bank_layer of static rows; row and col of a token without a grid
EMBEDDED = 8192  # rows of the vocabulary at a time
MOST_ROWS = 4_000_000  # of the table of neighbours, about 1 GB
SHOWN = 3  # how many layers the summary on stdout has


def open_bank(folder: Path) -> Searchable:
    """The bank in a folder: one of ours, or a published one. Raises UserError."""
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; give one that the bank command has written")
    if (manifest := bank_files.read_manifest(folder)) is not None:
        return bank_files.Bank(folder, manifest)
    if published.cache_files(folder):
        return published.PublishedBank(folder)
    raise UserError(
        f"there is no bank in {folder}: neither {MANIFEST}, which the bank command writes, nor latentlens's "
        f"layer_N/{published.CACHE}"
    )


def command(args: argparse.Namespace) -> int | None:
    started = time.perf_counter()
    name = args.output or first_name(args)
    session = Session(Settings(**merged_settings(Settings, vars(args))))
    source, folder = session.source, session.settings.output_dir
    layers = chosen(args.layers or (), source.num_layers)
    bank = open_bank(args.bank)
    bank.check(source, session.fingerprint)
    if args.search == "approximate":
        approximate.faiss()
    check_videos(session, args)
    inputs = inputs_of(session, args, args.images, args.videos)
    check_rows(bank, layers, inputs, args.top_k)
    masking = read_masking(args.run, session.fingerprint, inputs) if args.run else None
    request = identity(session, args, bank, inputs, layers, masking)
    with output_folder(folder), ProgressBar(f"loading {source.name}", args.quiet) as progress:
        files = Files(folder, f"{name}_neighbors", args.formats)
        if args.resume and files.keep(request, "model, bank, image, prompt and options", progress.say):
            return None
        files.check_writable(keeping=args.output and not (args.overwrite or args.resume))
        lens = Lens(session, bank, layers, args.top_k, args.static, args.search == "approximate")
        found = lens.look(inputs, masking, progress)
        seconds = time.perf_counter() - started
        manifest = {
            "name": name,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "argv": args.argv,
            "request": request,
            "model": source.manifest
            | {"blocks": source.num_layers, "hidden_size": bank.hidden_size, "notes": session.notes},
            "bank": bank.identity,
            "prompt": args.prompt,
            "prompt_length": len(inputs.tokens),
            "tokens": [token.described for token in inputs.tokens],
            "images": inputs.images,
            **({"videos": inputs.videos} if inputs.videos else {}),
            "notes": inputs.notes,
            "layers": list(layers),
            "top_k": args.top_k,
            "static": args.static,
            "search": args.search,
            "evolution": found.evolution(),
            "masking": masking and masking.manifest,
            "seconds": {"total": seconds, **lens.seconds},
        }
        if reason := files.write(found.columns(), manifest, inputs.pictures, notebook.write_neighbors):
            progress.say(reason)
    if not args.quiet:
        show("\n".join([report(found, files.paths[-1], seconds), *noted([*session.notes, *inputs.notes])]))
    return None


def check_rows(bank: Searchable, layers: Sequence[int], inputs: ModelInputs, top_k: int) -> None:
    """Raises UserError for more neighbours than can be held."""
    tokens = sum(token.kind == "image" for token in inputs.tokens)
    found = sum(min(top_k, bank.rows(layer)) for layer in bank.layers)
    if (rows := 2 * tokens * len(layers) * found) > MOST_ROWS:
        raise UserError(
            f"--top-k {top_k:,} gives about {rows:,} rows of neighbours, at most {MOST_ROWS:,} can be held; lower "
            "--top-k, or choose fewer --layers"
        )


def identity(
    session: Session,
    args: argparse.Namespace,
    bank: Searchable,
    inputs: ModelInputs,
    layers: Sequence[int],
    masking: Masking | None,
) -> dict[str, Any]:
    """Everything the neighbours depend on, as plain JSON; --resume compares it with the manifest."""
    made_from = {
        "mask_impact": mask_impact.__version__,
        **session.identity,
        "bank": bank.identity,
        "images_sha256": [picture["sha256"] for picture in inputs.images],
        "prompt_sha256": hashlib.sha256(args.prompt.encode()).hexdigest(),
        "max_pixels": args.max_pixels,
        **sampling_of(args),
        "layers": list(layers),
        "top_k": args.top_k,
        "static": args.static,
        "search": args.search,
        "masking_sha256": masking and masking.sha256,
    }
    return json.loads(json.dumps(made_from))  # tuples become lists, as when it is read back


# --- looking up ---------------------------------------------------------------------------------------------
@dataclass
class Lens:
    """A model and its bank."""

    session: Session
    bank: Searchable
    layers: Sequence[int]
    top_k: int = 5
    static: bool = False
    approximate: bool = False
    seconds: dict[str, float] = field(default_factory=dict)

    def look(
        self, inputs: ModelInputs, masking: "Masking | None" = None, progress: ProgressBar | None = None
    ) -> "Neighbors":
        """The neighbours of every image token. Raises UserError."""
        tell: Callable[[str], None] = progress or (lambda what: None)
        tokens = [token for token in inputs.tokens if token.kind == "image"]
        model = self.session.model
        started = time.perf_counter()
        kept = torch.tensor([[token.kind == "image" for token in inputs.tokens]])
        states = hidden_states(model, model_tensors(model, inputs), self.layers, kept)
        queries = torch.cat([states[layer].float().cpu() for layer in self.layers])  # [Q, C]
        self.seconds["forward"] = time.perf_counter() - started
        device = self.session.device if self.session.device.type == "cuda" else "cpu"
        by_layer = {}
        for layer in self.bank.layers:
            tell(f"bank layer {layer}")
            if self.approximate:
                by_layer[layer] = approximate.nearest(queries, self.bank, layer, self.top_k)
            else:
                k = min(self.top_k, self.bank.rows(layer))
                by_layer[layer] = search.nearest(queries, self.bank.parts(layer), k, device)
        static = None
        if self.static:
            tell("static vocabulary")
            k = min(self.top_k, len(self.session.reader.tokenizer))
            static = search.nearest(queries, self._vocabulary(), k, device)
        self.seconds["search"] = time.perf_counter() - started - self.seconds["forward"]
        return Neighbors(
            self.bank, self.session.reader.tokenizer, self.layers, tokens, by_layer, self.top_k, static, masking
        )

    @torch.no_grad()
    def _vocabulary(self) -> Iterator[torch.Tensor]:
        """The input embedding of every id that the tokenizer knows, computed by the module, which may be offloaded."""
        embedding = self.session.model.get_input_embeddings()
        rows = min(len(self.session.reader.tokenizer), embedding.weight.shape[0])
        device = input_device(self.session.model)
        for start in range(0, rows, EMBEDDED):
            yield embedding(torch.arange(start, min(rows, start + EMBEDDED), device=device))


@dataclass
class Neighbors:
    """The neighbours found for one prompt."""

    bank: Searchable
    tokenizer: Any
    layers: Sequence[int]
    tokens: Sequence[Token]  # [P] image tokens
    by_layer: dict[int, Nearest]  # for each bank layer, [Q, k]
    top_k: int
    static: Nearest | None
    masking: "Masking | None" = None

    def __post_init__(self) -> None:
        self.merged, self.merged_layer = search.merged(self.by_layer, self.top_k)  # layer [Q, k]

    def columns(self) -> Columns:
        """The long table: merged rows, then the rows of each bank layer, then static rows."""
        blocks = [self._block("merged", self.merged, self.merged_layer)]
        for layer, found in self.by_layer.items():
            blocks.append(self._block("layer", found, np.full(found.index.shape, layer)))
        if self.static is not None:
            blocks.append(self._block("static", self.static, np.full(self.static.index.shape, NONE)))
        names = list(blocks[0])
        return {name: _joined([block[name] for block in blocks]) for name in names}

    def _block(self, kind: str, found: Nearest, bank_layer: np.ndarray) -> Columns:
        """The rows of one kind, ordered by layer, token and rank."""
        queries, k = found.index.shape
        layer = np.repeat(np.array(self.layers), len(self.tokens))  # [Q]

        def of_token(values: Sequence[Any], dtype: Any = np.int64) -> np.ndarray:
            return np.repeat(np.tile(np.array(values, dtype), len(self.layers)), k)

        texts = self._texts(kind, found.index.ravel(), bank_layer.ravel())
        columns = {
            "image": of_token([token.image for token in self.tokens]),
            **self._times(of_token),
            "layer": np.repeat(layer, k),
            "token_position": of_token([token.position for token in self.tokens]),
            "row": of_token([NONE if token.row is None else token.row for token in self.tokens]),
            "col": of_token([NONE if token.col is None else token.col for token in self.tokens]),
            "rank": np.tile(np.arange(1, k + 1), queries),
            "neighbor_token": texts["token"],
            "caption": texts["caption"],
            "caption_position": np.array(texts["caption_position"], np.int64),
            "bank_layer": bank_layer.ravel().astype(np.int64),
            "similarity": found.similarity.ravel().astype(np.float32),
            "kind": [kind] * (queries * k),
        }
        if self.masking is not None:
            impact = [self.masking.of(int(each), token.position) for each in self.layers for token in self.tokens]
            columns["masking_impact"] = [value for value in impact for _ in range(k)]
        return columns

    def _times(self, of_token: Callable[..., np.ndarray]) -> Columns:
        """Which frame of which video a token is of, and when its first picture is shown, where there are videos."""
        if all(token.video is None for token in self.tokens):
            return {}
        seconds = [NONE if token.seconds is None else token.seconds[0] for token in self.tokens]
        return {
            "video": of_token([NONE if token.video is None else token.video for token in self.tokens]),
            "frame": of_token([NONE if token.frame is None else token.frame for token in self.tokens]),
            "seconds": of_token(seconds, np.float32),
        }

    def _texts(self, kind: str, rows: np.ndarray, bank_layer: np.ndarray) -> dict[str, list[Any]]:
        """ "token", "caption" and "caption_position" of bank rows; each row is looked up once."""
        names = ("token", "caption", "caption_position")
        pairs = list(zip(bank_layer.tolist(), rows.tolist(), strict=True))
        known: dict[tuple[int, int], tuple[Any, ...]] = {}
        if kind == "static":
            known = {(NONE, row): (token_text(self.tokenizer, row), "", NONE) for row in np.unique(rows).tolist()}
        else:
            for layer in np.unique(bank_layer).tolist():
                own = np.unique(rows[bank_layer == layer])
                found = self.bank.contexts(layer, own)
                about = zip(*(found[name] for name in names), strict=True)
                known |= zip(((layer, row) for row in own.tolist()), about, strict=True)
        return {name: [known[pair][place] for pair in pairs] for place, name in enumerate(names)}

    def evolution(self) -> list[dict[str, Any]]:
        """For each layer of the image tokens: how often the nearest neighbour of all is in each bank layer, and the
        mean similarity of the nearest within each bank layer and in the static vocabulary."""
        count = len(self.tokens)
        found = []
        for place, layer in enumerate(self.layers):
            own = slice(place * count, (place + 1) * count)
            wins = Counter(self.merged_layer[own, 0].tolist())
            nearest = {str(each): float(near.similarity[own, 0].mean()) for each, near in self.by_layer.items()}
            found.append(
                {
                    "layer": int(layer),
                    "wins": {str(each): wins[each] for each in self.by_layer},
                    "mean_similarity": nearest,
                    "static_mean_similarity": self.static and float(self.static.similarity[own, 0].mean()),
                }
            )
        return found


def _joined(parts: Sequence[Any]) -> Any:
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    return [value for part in parts for value in part]


def report(found: Neighbors, written: Path, seconds: float) -> str:
    """The summary on stdout: which bank layer wins, and what is nearest to the image token in the middle."""
    lines = [f"{len(found.tokens)} image tokens, {len(found.layers)} layers, {seconds:.1f} s"]
    lines.append("layer   nearest neighbours come from bank layer   most frequent nearest tokens")
    count = len(found.tokens)
    for place, about in enumerate(found.evolution()):
        own = slice(place * count, (place + 1) * count)
        texts = found._texts("merged", found.merged.index[own, 0], found.merged_layer[own, 0])["token"]
        wins = ", ".join(f"{layer}: {n}" for layer, n in about["wins"].items() if n)
        frequent = ", ".join(f"{text!r} {n}" for text, n in Counter(texts).most_common(5))
        lines.append(f"{about['layer']:5}   {wins:<41} {frequent}")
    return "\n".join([*lines, f"written {written}"])
