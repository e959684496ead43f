"""Norms and similarity of the hidden states of image tokens: of one image, of many, and as text."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

STATISTICS = ("norm_mean", "norm_std", "norm_min", "norm_max", "mean_cosine")


def statistics(states: Sequence[torch.Tensor]) -> list[dict[str, list[Any]]]:
    """Statistics of the image tokens [B, P, C] of B pictures, for every picture one value per layer.

    L2 norm: mean, standard deviation, minimum, maximum. Mean cosine: over all pairs of two different tokens, None for a
    single token. With unit vectors u it is (|sum u|^2 - P) / (P (P - 1)), so no pair is computed.
    """
    if not states:
        return []
    count = states[0].shape[1]
    norms, sums = [], []
    for layer in states:
        layer = layer.float()
        norm = torch.linalg.vector_norm(layer, dim=-1)  # [B, P]
        sums.append(torch.einsum("bpc,bp->bc", layer, norm.clamp_min(1e-30).reciprocal()).cpu())
        norms.append(norm.cpu())
    length, total = torch.stack(norms, dim=1).double(), torch.stack(sums, dim=1).double()  # [B, L, P], [B, L, C]
    squared = total.square().sum(dim=-1)
    cosine = ((squared - count) / (count * (count - 1))).tolist() if count > 1 else [[None] * len(states)] * len(length)
    found = (length.mean(-1), length.std(-1, correction=0), length.amin(-1), length.amax(-1))
    values = (*(each.tolist() for each in found), cosine)
    return [dict(zip(STATISTICS, picture, strict=True)) for picture in zip(*values, strict=True)]


def row_count(record: Mapping[str, Any]) -> int:
    """How many states an image has at each layer: one for each of its tokens, unless it says otherwise."""
    return int(record.get("row_count", record["token_count"]))


def over_all(records: Sequence[Mapping[str, Any]], layers: Sequence[int]) -> dict[str, list[Any]]:
    """The statistics of all rows of all images by layer; the mean cosine is the mean over the images."""
    counts = torch.tensor([float(row_count(record)) for record in records], dtype=torch.float64)[:, None]
    mean, std, low, high = (
        torch.tensor([record[key] for record in records], dtype=torch.float64) for key in STATISTICS[:4]
    )  # [images, layers]
    whole = (counts * mean).sum(0) / counts.sum()
    spread = ((counts * (std.square() + (mean - whole).square())).sum(0) / counts.sum()).sqrt()
    cosines = [record["mean_cosine"] for record in records if row_count(record) > 1]
    cosine = torch.tensor(cosines, dtype=torch.float64).mean(0).tolist() if cosines else [None] * len(layers)
    found = (whole.tolist(), spread.tolist(), low.amin(0).tolist(), high.amax(0).tolist(), cosine)
    return dict(zip(STATISTICS, found, strict=True))


def over_injections(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """{"deepstack": statistics of what the model adds between its blocks, by the first layer that contains it}; empty
    where it adds nothing, or where some records are of before this was measured."""
    found = [record.get("deepstack") for record in records]
    layers = found[0]["layers"] if found and found[0] else []
    if not layers or any(each is None or each["layers"] != layers for each in found):
        return {}
    counted = [{"token_count": record["token_count"], **record["deepstack"]} for record in records]
    return {"deepstack": {"layers": layers, **over_all(counted, layers)}}


def injection_table(found: Mapping[str, Any]) -> list[str]:
    """What `over_injections` gives, as lines of text."""
    if not (added := found.get("deepstack")):
        return []
    return [
        "added to the image tokens (deepstack), by the first layer that contains it:",
        *table(added["layers"], added),
    ]


def table(layers: Sequence[int], found: Mapping[str, list[Any]]) -> list[str]:
    """The statistics by layer, as lines of text."""
    lines = ["layer   norm mean      std      min      max   mean cosine"]
    for index, layer in enumerate(layers):
        mean, std, low, high, cosine = (found[key][index] for key in STATISTICS)
        alike = "-" if cosine is None else f"{cosine:.3f}"
        lines.append(f"{layer:5d} {mean:11.4g} {std:8.4g} {low:8.4g} {high:8.4g} {alike:>13}")
    return lines
