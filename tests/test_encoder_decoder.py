"""Encoder-decoders held against brute force: self-attention and cross-attention of the decoder, and the encoder's own."""

from __future__ import annotations

from functools import cache

import pytest
import seq2seq_families as seq2seq
import torch
from brute_force import distances
from float64 import true_float64

from mask_impact.capture import record_generation
from mask_impact.impact import Meter, Wanted

torch.set_num_threads(1)
STEPS = 3
KINDS = ("self", "cross", "encoder")
MASKS = {"self": [[0], [1], [2], [0, 2]], "cross": [[0], [3], [8], [1, 2, 7]], "encoder": [[0], [3], [8], [1, 2, 7]]}


@cache
def model(name, dtype):
    return seq2seq.build(name, dtype)


def measured(name, dtype, kind, ablation="neg-inf"):
    """{(layer, query, mask): Impact}, and the decoder's tokens [1, M]."""
    built, ids = model(name, dtype), seq2seq.prompt()
    everywhere = None if kind != "encoder" else (lambda position: position in (0, 4, 8))
    tower = "encoder" if kind == "encoder" else "decoder"
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    recording = record_generation(built, inputs, STEPS, [], everywhere, tower=tower)
    meter, found = Meter(built, Wanted(), ablation), {}
    for record in recording.layers:
        view = record.other if kind == "cross" else record
        for position, query in view.queries.items():
            found[record.index, position] = meter.impact(view, query, MASKS[kind])
    start = built.config.decoder_start_token_id
    return found, torch.tensor([[start, *recording.tokens[:-1]]])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", seq2seq.available())
def test_equals_brute_force(name, kind):
    """L2 to 1e-9 of its size in float64, every layer, query and head; and what a query cannot see changes nothing."""
    with true_float64():
        compare(name, kind, torch.float64, 1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["t5", "bart"])
def test_equals_brute_force_in_float32(name, kind):
    compare(name, kind, torch.float32, 1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["t5", "bart"])
def test_zeroed_values_equal_brute_force(name, kind):
    with true_float64():
        compare(name, kind, torch.float64, 1e-9, "zero-value")


def compare(name, kind, dtype, tolerance, ablation="neg-inf"):
    with torch.no_grad():
        found, answer = measured(name, dtype, kind, ablation)
    ids, moved = seq2seq.prompt(), 0
    for (layer, position), impact in found.items():
        where = model(name, dtype), name, ids, answer, kind, layer, position
        base = seq2seq.update(*where)
        for row, mask in enumerate(MASKS[kind]):
            masked = seq2seq.update(*where, mask, ablation == "zero-value")
            for column, variant in enumerate(base):
                l2, cosine = distances(base[variant], masked[variant])
                scale = base[variant].norm().item()
                got = impact.l2[row, column].item(), impact.cosine[row, column].item()
                assert abs(got[0] - l2) <= tolerance * max(scale, l2), (layer, position, mask, variant, got, l2)
                assert abs(got[1] - cosine) <= 10 * tolerance, (layer, position, mask, variant, got, cosine)
                moved += l2 > 1e-3 * scale
            if kind == "self" and min(mask) > position:
                assert not impact.l2[row].any() and not impact.cosine[row].any()
    assert moved > 20  # the comparison was of something
