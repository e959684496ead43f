"""What the program finds in a real model: tables and pictures of heads that move a name, of facts, and of cues.

In:  output/validation/heads*.jsonl, recall*.jsonl, cues*.jsonl and sinks*.jsonl, where they are there;
     program.jsonl for the tokens of the sinks.
Out: Markdown on stdout; docs/validation_heads.svg and docs/validation_recall.svg. Intervals are 95 % bootstraps.

    python -m validation.found
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from validation import draw
from validation.cues import EFFECTS
from validation.heads import TOGETHER, listed, strongest
from validation.recall import PARTS, WINDOW
from validation.sinks import ABLATIONS
from validation.statistics import Interval, bootstrap
from validation.stored import Store

DOCS = Path(__file__).resolve().parent.parent / "docs"
MODELS = {"SmolLM2": "", "untrained": "_untrained"}


def band(values: np.ndarray) -> np.ndarray:
    """[prompts, layers] -> [3, layers]: mean and interval."""
    found = [bootstrap(column.tolist()) for column in values.T]
    return np.array([[each.mean, each.low, each.high] for each in found]).T


def of_heads() -> None:
    for model, end in MODELS.items():
        single = list(Store(f"heads{end}").known.values())
        if not single:
            continue
        joint = of_these(Store(f"heads_together{end}").known, strongest(single))
        mean = np.mean(single, axis=0)
        print(f"\n{model}: {len(single)} prompts, one head at a time; the {TOGETHER} strongest:")
        for layer, head in strongest(single):
            print(f"- {layer}.{head}: {bootstrap([each[layer][head] for each in single])}")
        layer, head = np.unravel_index(mean.argmin(), mean.shape)
        ends = f"largest {mean.max():.3f}, smallest {mean.min():.3f} (of {layer}.{head})"
        print(f"median of all {mean.size} heads {np.median(mean):.4f}; {ends}")
        if joint:
            print(f"together, on {len(joint)} other prompts:")
            print("\n".join(f"- {name}: {bootstrap([each[name] for each in joint])}" for name in joint[0]))
        if not end:
            title = f"loss of preference (logits) when one head stops reading the name; {len(single)} prompts"
            (DOCS / "validation_heads.svg").write_text(draw.heads(mean, title), encoding="utf-8")


def of_these(joint: dict[str, dict[str, float]], chosen: list[tuple[int, int]]) -> list[dict[str, float]]:
    """What heads do together, where these are the strongest: a quick try beforehand may have found others."""
    return [found for key, found in joint.items() if key.startswith(f"{listed(chosen)}: ")]


def until(falls: np.ndarray) -> int:
    """From which layer on does a mask cost less than half of what it costs from layer 0, for good?"""
    enough = np.nonzero(falls >= falls[0] / 2)[0]
    return int(enough.max()) + 1


def counted(values: Iterable[Any]) -> str:
    return ", ".join(f"{value} x {count}" for value, count in sorted(Counter(values).items()))


def of_recall() -> None:
    series = {}
    for model, end in MODELS.items():
        rows: list[dict[str, Any]] = list(Store(f"recall{end}").known.values())
        if not rows:
            continue
        print(f"\n{model}: {len(rows)} facts; fall of ln p(answer)")
        peaks = {}
        for part in PARTS:
            windows = np.array([row[f"{part}, window:{WINDOW}"] for row in rows])
            series[f"{part}, {model}"] = band(windows)
            peaks[part] = windows.argmax(axis=1) + WINDOW // 2
            of_part(part, windows, np.array([row[f"{part}, from"] for row in rows]), peaks[part])
        apart = peaks["subject"] - peaks["relation"]
        later = f"later in {(apart > 0).sum()} of {len(rows)}"
        print(f"- layers from the relation's centre to the subject's: {bootstrap(apart.tolist())}; {later}")
    if series:
        below = f"first of {WINDOW} layers in which the last position does not read it"
        title = "What hiding a part of a fact from the last position costs"
        picture = draw.lines(title, series, below, "fall of ln p(answer)")
        (DOCS / "validation_recall.svg").write_text(picture, encoding="utf-8")


def of_part(part: str, windows: np.ndarray, onwards: np.ndarray, peaks: np.ndarray) -> None:
    """Until when the last position needs it: [facts, first masked layer] the falls, and [facts] the centre of the
    WINDOW layers that cost most."""
    needed = [until(each) for each in onwards if each[0] > 0.1]
    print(f"- {part}, not read at all: {bootstrap(onwards[:, 0].tolist())}")
    print(f"  - mean by the first of {WINDOW} layers: {', '.join(f'{fall:.2f}' for fall in windows.mean(axis=0))}")
    print(f"  - centre of the {WINDOW} layers that cost most: layer {bootstrap(peaks.tolist())}")
    print(f"    layer x facts: {counted(peaks.tolist())}")
    if needed:
        print(f"  - of {len(needed)} facts that lose 0.1 or more, a mask costs less than half")
        print(f"    from layer {bootstrap(needed)} on; layer x facts: {counted(needed)}")


def of_cues() -> None:
    for model, end in MODELS.items():
        rows: list[dict[str, Any]] = list(Store(f"cues{end}").known.values())
        if not rows:
            continue
        print(f"\n{model}: {len(rows)} prompts; the cue above the distractor, and above all words but the ends")
        for name in rows[0]["scores"]:
            above, first = [], []
            for row in rows:
                scores = np.array(row["scores"][name])
                cue = max(scores[place] for place in row["cue"])
                others = [place for place in range(1, len(scores) - 1) if place not in row["cue"]]
                above.append(float(cue > max(scores[place] for place in row["distractor"])))
                first.append(float(cue > max(scores[others])))
            print(f"| {name} | {bootstrap(above)} | {bootstrap(first)} |")
        of_needed_cues(rows)


def of_needed_cues(rows: Sequence[dict[str, Any]]) -> None:
    """By how much the preference of the right verb falls without the cue, and without the distractor, in nats."""
    for part in ("cue", "distractor"):
        falls = [sum(row["scores"][EFFECTS][place] for place in row[part]) for row in rows]
        print(f"- the preference falls without the {part} by {bootstrap(falls)}")


def of_sinks() -> None:
    for model, end in MODELS.items():
        rows = [{"key": text, **found} for text, found in Store(f"sinks{end}").known.items()]
        if not rows:
            continue
        print(f"\n{model}: {len(rows)} prompts; position 0, and the mean of the others")
        print(f"- attention weight: {first_and_others([row['attention'] for row in rows])}")
        for ablation in ABLATIONS:
            shares = [np.array(row[ablation]) / np.sum(row[ablation]) for row in rows]
            print(f"- share of the L2 distances, {ablation}: {first_and_others(shares)}")
        of_labels(rows)


def first_and_others(values: Sequence[Any]) -> str:
    first, others = [each[0] for each in values], [float(np.mean(each[1:])) for each in values]
    return f"{bootstrap(first)}, {bootstrap(others)}"


def labelled_elsewhere(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The tokens that are labelled beside position 0, of prompts whose tokens are known."""
    known = Store("program").known
    for row in rows:
        if row["key"] in known:
            yield from (known[row["key"]]["tokens"][place] for place in row["labelled"] if place)


def of_labels(rows: Sequence[dict[str, Any]]) -> None:
    """What the label of a sink, made from runs out of the softmax, says of runs in which values are zeroed."""
    first = [float(0 in row["labelled"]) for row in rows]
    others = [float(len(set(row["labelled"]) - {0})) for row in rows]
    print(f"labelled sinks: position 0 in {bootstrap(first)} of the prompts, {bootstrap(others)} others a prompt")
    if elsewhere := counted(map(repr, labelled_elsewhere(rows))):
        print(f"- which others: {elsewhere}")
    for name in (*ABLATIONS, *(f"{ablation}, fall" for ablation in ABLATIONS)):
        print(f"- {name}: labelled {by_label(rows, name, True)}, others {by_label(rows, name, False)}")


def by_label(rows: Sequence[dict[str, Any]], name: str, labelled: bool) -> Interval:
    """Over prompts with such tokens, but the last: the mean fall of ln p(answer), or share of the L2 distances beside
    the share of the attention."""
    found = []
    for row in rows:
        values, weights = np.array(row[name]), np.array(row["attention"])
        of = np.isin(np.arange(len(values) - 1), row["labelled"]) == labelled
        if of.any():
            shares = values[:-1][of].sum() / values.sum() / (weights[:-1][of].sum() / weights.sum())
            found.append(float(values[:-1][of].mean() if name.endswith("fall") else shares))
    return bootstrap(found) if found else Interval(math.nan, math.nan, math.nan)


def main() -> int:
    of_heads()
    of_recall()
    of_cues()
    of_sinks()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
