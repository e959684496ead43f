"""How large is large? Where the value of a token stands among those of other prompts, its null distribution.

A token counts as in top_tokens.py: with the root of the sum of squares over layers, so that every layer weighs in a
percentile what it weighs in the ranking. It is compared with tokens of its own kind:

    text      what somebody wrote
    template  the chat template's own tokens, which often rank high whatever stands between them
    image     image tokens, of which there are many, each with little
    output    the prompt's last position, which reads itself, and the output

The first position as a single token, which often just absorbs attention, has no percentile.

In:  manifests with their rankings. Out: the manifest's `null`, and a percentile for each of its top_tokens.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mask_impact.impact.top_tokens import set_apart
from mask_impact.prompt.template import template_positions

KINDS = ("text", "template", "image", "output")
Ranking = Sequence[tuple[int, float, int]]  # as TopTokens.ranked gives it


def values_by_kind(manifest: Mapping[str, Any], ranking: Ranking) -> dict[str, list[float]]:
    """The values of a run, the largest first."""
    kinds, apart = kinds_of(manifest), set_apart(manifest["units"])
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for position, value, _ in ranking:
        if position not in apart:
            found[kinds[position]].append(value)
    return found


def kinds_of(manifest: Mapping[str, Any]) -> dict[int, str]:
    """One of KINDS for each position."""
    template = template_positions(manifest)
    start = manifest["decoder_start"]
    output = manifest["prompt_length"] - 1 if start is None else start

    def kind(token: Mapping[str, Any]) -> str:
        if token["position"] >= output:
            return "output"
        if token["kind"] == "image":
            return "image"
        return "template" if token["position"] in template else "text"

    return {token["position"]: kind(token) for token in manifest["tokens"]}


@dataclass(frozen=True)
class Null:
    """The values of other prompts' tokens."""

    values: Mapping[str, np.ndarray]  # by kind, rising
    runs: int

    @classmethod
    def of(cls, runs: Sequence[Mapping[str, Sequence[float]]]) -> "Null":
        """`runs`: of each its values by kind."""
        return cls({kind: np.sort([value for run in runs for value in run[kind]]) for kind in KINDS}, len(runs))

    def percentile(self, kind: str, value: float) -> float | None:
        """How many in a hundred values of this kind are smaller, the value itself counted among them: 0 to below 100.

        So 100 minus it is the usual estimate (b + 1) / (n + 1) of the chance that another token has such a value. None
        where there are no values of the kind.
        """
        values = self.values[kind]
        smaller = int(np.searchsorted(values, value, side="left"))
        return 100 * smaller / (len(values) + 1) if len(values) else None

    @property
    def digest(self) -> str:
        """For `--resume`: another one of other values."""
        found = hashlib.sha256()
        for kind in KINDS:
            found.update(f"{kind} {len(self.values[kind])} ".encode() + self.values[kind].tobytes())
        return found.hexdigest()


def add_percentiles(manifest: dict[str, Any], ranking: Ranking, null: Null | None) -> None:
    """Write the percentile of every ranked token into a manifest that has its top_tokens, and what they are among."""
    manifest["null"] = None
    if null is None:
        return
    kinds, apart = kinds_of(manifest), set_apart(manifest["units"])
    percentiles = [
        {"position": position, "value": value, "percentile": null.percentile(kinds[position], value)}
        for position, value, _ in ranking
        if position not in apart
    ]
    found = {each["position"]: each["percentile"] for each in percentiles}
    for row in manifest["top_tokens"]:
        row["percentile"] = found.get(row["position"])
    counts = {kind: len(values) for kind, values in null.values.items()}
    manifest["null"] = {"runs": null.runs, "values": counts, "percentiles": percentiles}
