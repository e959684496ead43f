"""Encoder-decoders held against brute force: the decoder's self-attention and cross-attention, the encoder's own."""

from __future__ import annotations

from functools import cache

import pytest
import seq2seq_families as seq2seq
import torch
from brute_force import distances
from float64 import true_float64

from mask_impact.capture import record_generation
from mask_impact.effects import Effects, Window
from mask_impact.errors import UnsupportedModel
from mask_impact.impact import Meter, Wanted
from mask_impact.units import Unit

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
    if kind == "encoder" and seq2seq.FAMILIES[name].encoder_refused:
        with pytest.raises(UnsupportedModel, match="does not compute its attention through transformers"):
            measured(name, torch.float32, kind)
        return
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


def test_a_decoder_that_reads_both_at_once_is_refused(monkeypatch):
    """As of T5Gemma 2: one call of attention in a layer."""
    built, ids = seq2seq.build("bart"), seq2seq.prompt()
    for layer in seq2seq.layers_of(built, "bart", "cross"):
        monkeypatch.setattr(layer.encoder_attn, "forward", lambda hidden_states, **_: (hidden_states, None))
    with pytest.raises(UnsupportedModel, match="not have one attention to its own tokens and one to"):
        record_generation(built, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, 1, [])


def test_a_decoder_that_cannot_be_run_by_itself_is_refused(monkeypatch):
    """As of NLLB-MoE, which wants more of its encoder than the states."""
    built = seq2seq.build("bart")
    whole = built.forward

    def forward(*args, **kwargs):
        assert kwargs.get("encoder_outputs") is None or kwargs["encoder_outputs"].router_logits
        return whole(*args, **kwargs)

    monkeypatch.setattr(built, "forward", forward)
    inputs = {"input_ids": seq2seq.prompt(), "attention_mask": torch.ones(1, 9, dtype=torch.int64)}
    with pytest.raises(UnsupportedModel, match=r"decoder cannot be run by itself \('BaseModelOutput' object has no"):
        Effects(built, Words(), inputs | {"decoder_input_ids": START}, 0)


class Words:
    """A tokenizer, as far as effects need one."""

    def decode(self, ids):
        return str(ids)


START = torch.tensor([[2, 17, 33]])
UNITS = [Unit(str(positions), positions) for positions in ((0,), (8,), (1, 2, 7), (9,), (10,), (11,), (3, 10))]


@pytest.mark.parametrize("ablation", ["neg-inf", "zero-value"])
@pytest.mark.parametrize("block", ["last", "all"])
@pytest.mark.parametrize("name", ["t5", "bart", "mt5", "marian", "t5gemma", "longt5"])
def test_effects_equal_brute_force(name, block, ablation):
    """Log-probabilities and last states to 1e-9 in float64."""
    with true_float64():
        compare_effects(name, block, ablation, torch.float64, 1e-9)


@pytest.mark.parametrize("block", ["last", "all"])
@pytest.mark.parametrize("name", ["t5", "bart"])
def test_effects_equal_brute_force_in_float32(name, block):
    compare_effects(name, block, "neg-inf", torch.float32, 1e-5)


def compare_effects(name, block, ablation, dtype, tolerance):
    built, ids, moved = model(name, dtype), seq2seq.prompt(), 0
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "decoder_input_ids": START}
    found = Effects(built, Words(), inputs, 0, (), ablation)
    base, state = seq2seq.answer(built, name, ids, START, (), (), block)
    for window in (Window(0, 2), Window(1, 1), Window(2, 2)):
        rows, traces = found.measure(UNITS, window, block, trace=True)
        for unit, row in zip(UNITS, rows, strict=True):
            layers = range(window.first, window.last + 1)
            logprobs, masked = seq2seq.answer(
                built, name, ids, START, layers, unit.positions, block, ablation != "neg-inf"
            )
            chosen = int(base.argmax())
            assert abs(row.logprob - logprobs[chosen].item()) <= tolerance * (1 + abs(logprobs[chosen].item()))
            assert row.rank == int((logprobs > logprobs[chosen]).sum()) + 1
            l2, _ = distances(state, masked)
            assert abs(row.final_l2 - l2) <= tolerance * state.norm().item(), (unit, window)
            moved += l2 > 1e-3 * state.norm().item()
            if unit.positions == (11,) and block == "all":  # nothing comes after it
                assert row.logprob_change == row.final_l2 == row.kl == 0
            last = [trace for trace in traces if trace.token_masked == unit.label][-1]
            assert (last.layer, last.l2_distance) == (2, row.final_l2)
    assert moved > 5
