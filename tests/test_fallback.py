"""Families whose attention is not called through transformers' interface: what is said of them, and their effects.

`test_engine.py` compares the measured layers of these families with brute force; here are sdpa, copies, pieces, what
cannot be read off, and `--effects`, whose reference takes keys out of the softmax in forwards of the whole model.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from agreement import singles, worst_whole_error
from checkpoints import tokenizer
from families import build, find, prompt
from float64 import true_float64
from seq2seq_families import without

from mask_impact.effects.answer import Effects
from mask_impact.effects.edits import Edit
from mask_impact.effects.masked_forwards import MaskedForwards
from mask_impact.errors import UnsupportedModel
from mask_impact.impact.meter import Wanted
from mask_impact.impact.record import Recording
from mask_impact.impact.rerun import RerunMeter
from mask_impact.impact.run import run
from mask_impact.impact.whole_calls import record_calls
from mask_impact.jobs.prepared import fitted
from mask_impact.jobs.session import run_prepared
from mask_impact.model import memory
from mask_impact.model.towers import decoder_layers
from mask_impact.options import ABLATIONS, Request
from mask_impact.prompt.inputs import ModelInputs, tokens_of
from mask_impact.table import Block

LENGTH = 9
LAST = LENGTH - 1
OWN = ["falcon", "bloom", "mpt", "gpt_neo", "xglm", "gpt_neox_japanese"]  # attention of their own


def record(model: Any, queries: Sequence[int] = (LAST,)) -> Recording:
    ids = prompt(LENGTH)
    return record_calls(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, 1, [], queries.__contains__)


def prepared(model: Any, **options: Any) -> Any:
    """A request on random ids, with a tokenizer that only names them."""
    words, ids = tokenizer(), prompt(LENGTH)
    inputs = ModelInputs(
        {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, tokens_of(words, ids[0].tolist()), "random", False
    )
    return fitted(words, model.config, inputs, Request("random", **options))


def l2(model: Any, recording: Recording) -> torch.Tensor:
    return torch.cat(
        [
            RerunMeter(model, Wanted()).impact(layer, query, singles(query.position)).l2
            for layer in recording.with_attention()
            for query in layer.queries.values()
        ]
    )


def test_sdpa_is_masked_where_it_is_called() -> None:
    model = build("falcon", torch.float64)
    model.config._attn_implementation = "sdpa"
    called: list[Any] = []
    honest = torch.nn.functional.scaled_dot_product_attention
    with true_float64(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            torch.nn.functional,
            "scaled_dot_product_attention",
            lambda *args, **kwargs: called.append(args) or honest(*args, **kwargs),
        )
        recording = record(model)
        assert called, "falcon does not run sdpa"
        found = l2(model, recording)
        model.config._attn_implementation = "eager"
        expected = l2(model, record(model))
    assert (found - expected).abs().max() < 1e-12 * expected.max()


@pytest.mark.parametrize("name", ["falcon", "bloom"])  # bloom's ALiBi does not fit several copies: one after the other
def test_copies_in_pieces_give_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(name)
    recording = record(model)
    whole = l2(model, recording)
    monkeypatch.setattr(memory, "MEMORY_BUDGET", 1)
    assert (l2(model, recording) - whole).abs().max() < 1e-5 * whole.max()


def test_earlier_queries() -> None:
    """Each against a forward that ends there."""
    model = build("mpt", torch.float64)
    with true_float64():
        recording = record(model, (3, 6, LAST))
        for query in (3, 6):
            error, where = worst_whole_error(find("mpt"), model, prompt(LENGTH)[:, : query + 1], recording)
            assert error < 1, f"query {query}: {error:.3g} times the allowed error at {where}"


@pytest.mark.parametrize("name", OWN)
def test_all_variants_are_measured_and_the_manifest_says_how(name: str) -> None:
    """Together with why rows were not possible, once; a family that is replayed on rows has no such note."""
    blocks: list[Block] = []
    model = build(name)
    manifest = run(model, prepared(model, num_tokens=2), blocks.append).manifest
    assert manifest["variants"] == ["Full", "Attn", "Head_0", "Head_1", "Head_2", "Head_3"]
    said = [note for note in manifest["notes"] if "called again on its whole input" in note]
    assert manifest["replay"] == "fallback" and said == manifest["notes"][:1]
    assert "does not compute its attention through transformers' AttentionInterface" in manifest["notes"][0]
    assert {block.generation_step for block in blocks} == {0, 1}
    plain = build("llama")
    manifest = run(plain, prepared(plain), blocks.append).manifest
    assert manifest["replay"] == "rows" and not any("whole input" in note for note in manifest["notes"])


@pytest.mark.parametrize("name", ["diffllama", "longcat_flash", "zamba2"])
def test_what_cannot_be_read_off_is_refused_with_advice(name: str) -> None:
    model = build(name)
    with pytest.raises(UnsupportedModel, match=f"'{find(name).model_type}'.*measure it with `variants` full"):
        run(model, prepared(model), lambda block: None)
    run(model, prepared(model, variants=("full",)), lambda block: None)


def test_nothing_left_to_attend_to_is_attention_zero() -> None:
    """All positions masked: the change of Attn is its own length."""
    model = build("falcon", torch.float64)
    with true_float64():
        for layer in record(model).with_attention():
            impact = RerunMeter(model, Wanted()).impact(layer, layer.queries[LAST], [tuple(range(LENGTH))])
            assert impact.blind
            torch.testing.assert_close(impact.l2[0, 1:], impact.lengths[1:], rtol=1e-9, atol=1e-12)


# --- effects ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("name", [*OWN, "diffllama", "zamba2", "gemma3n"])
def test_effects_equal_masked_forwards(name: str, ablation: str) -> None:
    model, ids = build(name, torch.float64), prompt(LENGTH)
    with true_float64():
        given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        runner = Effects(model, tokenizer(), given, 0, ablation=ablation).runner
        assert isinstance(runner, MaskedForwards) or name not in OWN
        for first, last in ((0, 2), (1, 1)):
            edits = [Edit(each, readers) for each in ((3,), (0, 5)) for readers in (None, (LAST,))]
            found = runner.run(first, last, 0, edits)
            for row, edit in enumerate(edits):
                logits, state = masked_forward(model, ids, range(first, last + 1), edit, ablation)
                states = () if name == "gemma3n" else ((found.states[2][row, -1], state),)  # of which there are four
                for ours, theirs in ((found.logits[row, -1], logits), *states):
                    apart = (ours - theirs).norm() / theirs.norm()
                    assert apart < 1e-9, f"layers {first} to {last}, {edit}: {apart:.3g}"


@torch.no_grad()
def masked_forward(
    model: Any, ids: torch.Tensor, layers: Sequence[int], edit: Edit, ablation: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """[V] logits and [C] last layer's state at the last position, with the keys taken from the softmax of `layers`."""
    rows = torch.arange(LENGTH)
    hidden = torch.zeros(LENGTH, LENGTH, dtype=torch.bool)
    for position in edit.positions:
        hidden[:, position] |= (rows == LAST) if edit.readers else (rows > position)
    states: list[torch.Tensor] = []
    every = decoder_layers(model)
    with ExitStack() as undo:
        for layer in layers:
            undo.enter_context(without(every[layer], hidden, ablation == "zero-value"))
        keep = every[-1].register_forward_hook(
            lambda _, __, output: states.append(output[0] if isinstance(output, tuple) else output)
        )
        undo.callback(keep.remove)
        logits = model(input_ids=ids, use_cache=False).logits[0, -1]
    return logits, states[0][0, -1]


def test_effects_say_that_whole_forwards_were_run() -> None:
    model = build("bloom")
    found, tables = run_prepared(model, prepared(model, effects=True), lambda block: None)
    assert len(tables["effects"]["kl"]) == LENGTH
    assert "one forward of the whole model was run for every mask" in found.manifest["effects"]["notes"][0]
