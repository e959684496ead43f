"""Encoder-decoders held against brute force: the decoder's self-attention and cross-attention, the encoder's own."""

from __future__ import annotations

from contextlib import contextmanager
from functools import cache

import pytest
import seq2seq_families as seq2seq
import torch
from brute_force import distances
from families import calls_interface
from float64 import true_float64
from outcomes import measured_or_refused

from mask_impact.effects.answer import Effects
from mask_impact.effects.asked import Window
from mask_impact.errors import UnsupportedModel
from mask_impact.impact.meter import Meter, Wanted
from mask_impact.impact.record import record_generation
from mask_impact.prompt.units import Unit

torch.set_num_threads(1)
STEPS = 3
INTERFACE = [name for name in seq2seq.available() if calls_interface(seq2seq.FAMILIES[name].model_type)]
KINDS = ("self", "cross", "encoder")
ATTENTION = {"self": "decoder to itself", "cross": "decoder to encoder", "encoder": "encoder"}
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
def test_equals_brute_force_or_refused_by_name(name, kind, record_property):
    """L2 to 1e-9 of its size in float64, every layer, query and head; and what a query cannot see changes nothing."""
    family = seq2seq.FAMILIES[name].model_type
    row = f"{name}, {ATTENTION[kind]}"
    with true_float64(), measured_or_refused(record_property, "encoder-decoder", row, family):
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
    moved = 0
    updates = {}  # of each layer, without a mask and with each
    for layer in {layer for layer, _ in found}:
        where = model(name, dtype), name, seq2seq.prompt(), answer, kind, layer
        updates[layer] = seq2seq.update(*where), seq2seq.update(*where, MASKS[kind], ablation == "zero-value")
    for (layer, position), impact in found.items():
        base = {variant: of[0, position] for variant, of in updates[layer][0].items()}
        for row, mask in enumerate(MASKS[kind]):
            masked = {variant: of[row, position] for variant, of in updates[layer][1].items()}
            for column, variant in enumerate(base):
                l2, cosine = distances(base[variant], masked[variant])
                scale = base[variant].norm().item()
                got = impact.l2[row, column].item(), impact.cosine[row, column].item()
                assert abs(got[0] - l2) <= tolerance * max(scale, l2), (layer, position, mask, variant, got, l2)
                left = masked[variant].norm().item()  # of which base + change keeps fewer digits, the shorter it is
                rounding = torch.finfo(dtype).eps * 4 * scale / max(left, 1e-30)
                assert abs(got[1] - cosine) <= 10 * tolerance + rounding, (layer, position, mask, variant, got, cosine)
                moved += l2 > 1e-3 * scale
            if kind == "self" and min(mask) > position:
                assert not impact.l2[row].any() and not impact.cosine[row].any()
    assert moved > 20  # the comparison was of something


@contextmanager
def projected_again(built, name, length):
    """The encoder's projections to keys and values, by the name of the matrix, that run in the block."""
    found, handles = [], []
    for layer in seq2seq.layers_of(built, name, "cross"):
        for path, module in seq2seq.attention_of(layer, name, "cross").named_modules():
            if isinstance(module, torch.nn.Linear):

                def note(_, args, path=path):
                    if args[0].shape[-2] == length:  # queries are one, or as many as the decoder has tokens
                        found.append(path)

                handles.append(module.register_forward_pre_hook(note))
    yield found
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("name", INTERFACE)
def test_the_encoder_is_projected_once(name):
    """Whatever a release calls the cache, it reaches the layer, and the recorded keys and values are found in it."""
    built, ids = model(name, torch.float32), seq2seq.prompt()
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with projected_again(built, name, ids.shape[1]) as found, torch.no_grad():
        recording = record_generation(built, inputs, 1, [])
        assert len(found) == 2 * len(recording.layers)  # keys and values
        found.clear()
        for record in recording.layers:
            for view in (record, record.other):
                for query in view.queries.values():
                    Meter(built, Wanted()).impact(view, query, [(0,), (1, 2)])
        assert found == []


@pytest.mark.parametrize("name", [name for name in ("t5", "umt5", "bart", "marian") if name in INTERFACE])
def test_effects_do_not_project_the_encoder_again(name):
    built, ids = model(name, torch.float32), seq2seq.prompt()
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "decoder_input_ids": START}
    effects = Effects(built, Words(), inputs, 0)
    with projected_again(built, name, ids.shape[1]) as found:
        effects.measure(UNITS, Window(0, 2), "all")
    assert found == []


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
    with pytest.raises(UnsupportedModel, match=r"decoder cannot be run alone \("):
        Effects(built, Words(), inputs | {"decoder_input_ids": START}, 0)


class Words:
    """A tokenizer, as far as effects need one."""

    all_special_ids = ()

    def __len__(self):
        return 0

    def decode(self, ids, **how):
        return str(ids)


START = torch.tensor([[2, 17, 33]])
UNITS = [Unit(str(positions), positions) for positions in ((0,), (8,), (1, 2, 7), (9,), (10,), (11,), (3, 10))]


COMBINATIONS = [(block, ablation) for block in ("all", "last") for ablation in ("neg-inf", "zero-value")]
EVERY_COMBINATION = ("t5", "bart")  # elsewhere one of them


@pytest.mark.parametrize(
    ("name", "block", "ablation"),
    [
        (name, *each)
        for name in seq2seq.available()
        for each in (COMBINATIONS if name in EVERY_COMBINATION else COMBINATIONS[:1])
    ],
)
def test_effects_equal_brute_force_or_are_refused_by_name(name, block, ablation, record_property):
    """Log-probabilities and last states to 1e-9 in float64."""
    family = seq2seq.FAMILIES[name].model_type
    with true_float64(), measured_or_refused(record_property, "encoder-decoder", f"{name}, effects", family):
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
