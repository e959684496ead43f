"""Which text tokens a bank keeps: chosen from the tokens of the captions alone, before the model runs.

In:  captions and a tokenizer.
Out: Contexts: for every kept token, its caption and position, in the order in which the bank stores them.

In a causal model the hidden states of a token depend only on the ids up to it. So if captions begin alike, their common
tokens are kept once. The key is the ids themselves: captions are sorted by them, and a prefix is new where it differs
from that of the caption above. From the distinct prefixes, at most `max_per_token` for each vocabulary item are drawn
uniformly, by reservoir sampling with random keys (Vitter 1985, section 2: the smallest keys stay). The keys are seeded,
so the same captions give the same contexts.

Shapes: N captions, T tokens of all captions, P distinct prefixes, M contexts kept. Memory: the captions as texts and
about 60 bytes per token, whatever the size of the bank.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mask_impact.errors import UserError
from mask_impact.prompt.bounds import check_text
from mask_impact.prompt.text_files import check_regular
from mask_impact.prompt.token_text import special_ids

LONGEST = 512  # further tokens of a caption are ignored
SEED = 0
LONGEST_LINE = 100_000  # bytes
TOKENIZED = 10_000  # captions at a time


@dataclass(frozen=True)
class Corpus:
    """Captions as token ids."""

    captions: Sequence[str]  # [N]
    ids: np.ndarray  # [T] int32, one caption after the other
    starts: np.ndarray  # [N + 1] int64, where each caption begins, and the end
    special: np.ndarray  # ids of tokens that are not text

    def caption_ids(self, caption: int) -> np.ndarray:
        return self.ids[self.starts[caption] : self.starts[caption + 1]]


@dataclass(frozen=True)
class Contexts:
    """What a bank keeps, one row per token: captions in the order in which they are run, positions rising."""

    caption: np.ndarray  # [M] int64, index in the corpus
    position: np.ndarray  # [M] int64, in the caption's tokens
    token: np.ndarray  # [M] int64, id
    found: int  # tokens that could have been kept, repeated prefixes included
    distinct: int  # how many of these have different prefixes

    def shards(self, rows: int) -> list[slice]:
        """Consecutive rows of whole captions; every shard but the last has at least `rows`."""
        ends = np.append(np.flatnonzero(np.diff(self.caption)) + 1, len(self.caption))
        shards, start = [], 0
        for end in ends.tolist():
            if end - start >= rows or end == len(self.caption):
                shards.append(slice(start, end))
                start = end
        return shards


def read_captions(path: Path, count: int | None = None) -> tuple[list[str], str]:
    """The first `count` captions of a text file, one per line, and the SHA-256 of the file. Raises UserError."""
    digest = hashlib.sha256()
    captions: list[str] = []
    try:
        check_regular(path, f"the file of captions {path}")
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE + 1), b""), 1):
                if len(line) > LONGEST_LINE:
                    raise UserError(
                        f"line {number} of {path} is longer than {LONGEST_LINE:,} bytes; write one caption a line"
                    )
                digest.update(line)
                if count is not None and len(captions) == count:
                    continue
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                except UnicodeDecodeError as error:
                    raise UserError(f"line {number} of {path} is not UTF-8 text; save the captions as UTF-8") from error
                if text:
                    captions.append(text)
    except OSError as error:
        raise UserError(f"the captions {path} cannot be read ({error.strerror}); give a text file") from error
    if not captions:
        raise UserError(f"the captions {path} are empty; write one caption a line")
    if count is not None and len(captions) < count:
        raise UserError(f"{path} has {len(captions):,} captions, not {count:,}; give a smaller --num-captions")
    return captions, digest.hexdigest()


def tokenized(tokenizer: Any, captions: Sequence[str], longest: int = LONGEST) -> Corpus:
    """The ids of the captions, with the special tokens that the tokenizer puts first, cut to `longest`."""
    check_text(tokenizer, max(captions, key=len), "a caption")
    found: list[np.ndarray] = []
    for start in range(0, len(captions), TOKENIZED):
        some = tokenizer(list(captions[start : start + TOKENIZED]), padding=False)["input_ids"]
        found += [np.array(ids[:longest], np.int32) for ids in some]
    starts = np.cumsum([0, *map(len, found)])
    return Corpus(captions, np.concatenate(found), starts, np.array(sorted(special_ids(tokenizer)), np.int64))


def choose(corpus: Corpus, max_per_token: int, seed: int = SEED, causal: bool = True) -> Contexts:
    """The contexts of a bank.

    A text token is kept if there is at least one text token before it. The first one reads only itself, and in most
    models it is an attention sink.

    Args:
        causal: False for a model whose tokens also read later ones; then only equal captions have equal states.
    """
    caption, position = _distinct(corpus, causal)
    could = _could_be_kept(corpus)
    kept = could[corpus.starts[caption] + position]
    caption, position = caption[kept], position[kept]
    token = corpus.ids[corpus.starts[caption] + position].astype(np.int64)
    stays = _sample(token, max_per_token, seed)
    caption, position, token = caption[stays], position[stays], token[stays]
    last = np.zeros(len(corpus.captions), np.int64)
    np.maximum.at(last, caption, position)
    order = np.lexsort((position, caption, last[caption]))  # captions by the length that is run, for the batches
    return Contexts(caption[order], position[order], token[order], int(could.sum()), len(kept.nonzero()[0]))


def _distinct(corpus: Corpus, causal: bool) -> tuple[np.ndarray, np.ndarray]:
    """Every distinct prefix once: (caption, position) [P] of its last token, in the first caption that has it."""
    lengths = np.diff(corpus.starts)
    texts = [corpus.caption_ids(n).astype(">u4").tobytes() for n in range(len(lengths))]  # big end first: in id order
    order = np.array(sorted(range(len(texts)), key=texts.__getitem__))
    common = _common_with_the_one_above(corpus, order, lengths)
    if not causal:
        alike = (common == lengths[order]) & (common == lengths[np.roll(order, 1)])
        common = np.where(alike, common, 0)
    captions, positions = [], []
    rows = np.arange(len(order))
    for place in range(int(lengths.max())):
        rows = rows[lengths[order[rows]] > place]
        begins = np.flatnonzero(common[rows] <= place)  # the first of each run of captions that are equal up to here
        captions.append(np.minimum.reduceat(order[rows], begins))
        positions.append(np.full(len(begins), place))
    caption, position = np.concatenate(captions), np.concatenate(positions)
    order = np.lexsort((position, caption))
    return caption[order], position[order]


def _common_with_the_one_above(corpus: Corpus, order: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """[N] how many leading tokens each caption shares with the one before it in `order`; 0 for the first."""
    common = np.zeros(len(order), np.int64)
    row, place = np.arange(1, len(order)), 0
    while len(row):
        above, here = order[row - 1], order[row]
        there = np.minimum(lengths[above], lengths[here]) > place
        row, above, here = row[there], above[there], here[there]
        row = row[corpus.ids[corpus.starts[above] + place] == corpus.ids[corpus.starts[here] + place]]
        place += 1
        common[row] = place
    return common


def _could_be_kept(corpus: Corpus) -> np.ndarray:
    """[T] whether a token is text and has text before it in its caption."""
    text = ~np.isin(corpus.ids, corpus.special)
    so_far = np.append(0, np.cumsum(text))  # tokens of text before each token, of all captions
    before_caption = np.repeat(so_far[corpus.starts[:-1]], np.diff(corpus.starts))
    return text & (so_far[:-1] > before_caption)


def _sample(token: np.ndarray, most: int, seed: int) -> np.ndarray:
    """[P] bool: for every token, at most `most` of its prefixes, drawn uniformly."""
    keys = np.random.default_rng(seed).random(len(token))
    order = np.lexsort((keys, token))
    ranked = token[order]
    rank = np.arange(len(token)) - np.searchsorted(ranked, ranked)  # among those of the same token
    stays = np.empty(len(token), bool)
    stays[order] = rank < most
    return stays


def batches(contexts: Contexts, rows: slice, size: int) -> Iterator[slice]:
    """The rows of a shard in batches of `size` captions."""
    captions = contexts.caption[rows]
    begins = np.append(0, np.flatnonzero(np.diff(captions)) + 1)[::size].tolist()
    for begin, end in zip(begins, [*begins[1:], len(captions)], strict=True):
        yield slice(rows.start + begin, rows.start + end)
