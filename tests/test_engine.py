"""The engine against brute force: every layer, token and variant of every family, and the rules at the edges.

The reference (`brute_force.py`) reruns the whole model with hooks and shares no code with the engine. In float64 both
sides run under `true_float64`, so that what is left is the method's own error.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence

import pytest
import torch
from agreement import singles, worst_error, worst_whole_error
from families import FAMILIES, HYBRIDS, TABLES, available, distinct, find
from families import build as built
from float64 import true_float64
from outcomes import Record, measured_or_refused
from torch import nn

from mask_impact.errors import UnsupportedModel
from mask_impact.impact.masking import QueryAttention
from mask_impact.impact.meter import Meter, Wanted
from mask_impact.impact.record import Recording, record_generation
from mask_impact.impact.whole_calls import record_calls
from mask_impact.model import memory
from mask_impact.model.towers import decoder_layers, family
from mask_impact.options import ABLATIONS

LENGTH, STEPS = 9, 2
DEVICE = torch.device(os.environ.get("MASK_IMPACT_DEVICE", "cpu"))  # cuda: the same on a GPU
# Their transformers code is not the same cached and in one forward, so the reference is another one (see families.py).
CACHE_DIFFERS = {"minimax"}
MEASURED = [name for name in [*available(FAMILIES), *available(HYBRIDS)] if name not in CACHE_DIFFERS]


def build(name: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    return built(name, dtype=dtype).to(DEVICE)


def prompt(length: int = LENGTH, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, 97, (1, length), generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def record(model: nn.Module, ids: torch.Tensor, steps: int = 1, queries: Sequence[int] | None = None) -> Recording:
    wanted = None if queries is None else set(queries).__contains__
    return record_generation(model, everything(ids), steps, [], wanted)


@pytest.mark.parametrize("name", [name for table in TABLES for name, row in table.items() if row.available])
def test_measured_and_equal_to_brute_force_or_refused_by_name(name: str, record_property: Record) -> None:
    """Relative error under 1e-9 beside float64's own rounding of the vectors that the reference subtracts."""
    model = build(name, dtype=torch.float64)
    with true_float64(), measured_or_refused(record_property, "text", name, family(model)):
        try:
            by_rows(name, model)
        except UnsupportedModel:
            by_whole_calls(name, model)


def by_rows(name: str, model: nn.Module) -> None:
    recording = record(model, prompt(), STEPS)
    ids = torch.cat([prompt(), torch.tensor([recording.tokens], device=DEVICE)], dim=1)
    for query in range(LENGTH - 1, LENGTH - 1 + STEPS):  # each step against a fresh run on its prefix
        error, where = worst_error(
            find(name), model, ids[:, : query + 1], recording, query, singles(query), relative=1e-9, rounding=3e-14
        )
        assert error < 1, f"query {query}: {error:.3g} times the allowed error at {where}"


def by_whole_calls(name: str, model: nn.Module) -> None:
    ids = prompt()
    for query in range(LENGTH - 1, LENGTH - 1 + STEPS):
        recording = record_calls(model, everything(ids), 1, [], query.__eq__)
        for ablation in ABLATIONS:
            error, where = worst_whole_error(find(name), model, ids, recording, ablation)
            assert error < 1, f"{ablation}, query {query}: {error:.3g} times the allowed error at {where}"
        ids = torch.cat([ids, torch.tensor([recording.tokens], device=DEVICE)], dim=1)


def everything(ids: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@pytest.mark.parametrize("name", distinct(MEASURED))
def test_float32_equals_brute_force(name: str) -> None:
    """Under 1e-5 of the distance, beside float32's rounding of the vectors that the reference subtracts."""
    model = build(name)
    recording = record(model, prompt())
    error, where = worst_error(
        find(name), model, prompt(), recording, LENGTH - 1, singles(LENGTH - 1), relative=1e-5, rounding=1e-5
    )
    assert error < 1, f"{error:.3g} times the allowed error at {where}"


SDPA = [name for name in MEASURED if not find(name).sdpa]


@pytest.mark.parametrize("name", distinct(SDPA))
def test_sdpa_is_measured_as_sdpa(name: str) -> None:
    """What users load runs sdpa; its masks come in another form (none at all, or boolean)."""
    model = build(name, dtype=torch.float64)
    model.set_attn_implementation("sdpa")
    with true_float64():
        recording = record(model, prompt())
        error, where = worst_error(
            find(name), model, prompt(), recording, LENGTH - 1, singles(LENGTH - 1), relative=1e-9, rounding=3e-14
        )
    assert error < 1, f"{error:.3g} times the allowed error at {where}"


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "qwen3", "cohere", "olmo2", "gpt_neox"])
def test_bfloat16_within_its_rounding(name: str) -> None:
    """bfloat16 keeps 8 bits: the engine and brute force on the same bfloat16 model agree to a few of its steps."""
    model = build(name, dtype=torch.bfloat16)
    recording = record(model, prompt())
    error, where = worst_error(
        find(name), model, prompt(), recording, LENGTH - 1, singles(LENGTH - 1), relative=0.05, rounding=6 * 2**-8
    )
    assert error < 1, f"{error:.3g} times the allowed error at {where}"


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2", "gpt_oss", "deepseek_v3"])
def test_sets_of_positions_and_other_queries(name: str) -> None:
    model = build(name, dtype=torch.float64)
    masks = [(0, 1), (2, 3, 4, 5), (1, 6), ()]
    with true_float64():
        recording = record(model, prompt(), queries=[2, 6, LENGTH - 1])
        for query in (6, LENGTH - 1):
            error, where = worst_error(
                find(name), model, prompt(), recording, query, masks, relative=1e-9, rounding=3e-14
            )
            assert error < 1, f"query {query}: {error:.3g} times the allowed error at {where}"


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_oss", "gpt2", "deepseek_v3"])
def test_leave_one_out_equals_explicit(name: str) -> None:
    """The closed form against the family's attention with -inf, also where nearly all weight is masked."""
    recording = record(build(name), prompt())
    for layer in recording.with_attention():
        assert layer.attention is not None
        attention = QueryAttention(layer.attention, layer.queries[LENGTH - 1])
        assert attention.weights is not None, "this family has leave-one-out"
        masks = [*singles(LENGTH - 1), (), (0, 3), tuple(range(LENGTH - 1)), tuple(range(LENGTH))]
        apart = (attention.masked(masks).change - (attention.explicit(masks) - attention.output)).abs().max()
        assert apart < 2e-6 * attention.output.abs().max(), f"layer {layer.index}: {apart:.3g}"


def test_leave_one_out_of_nearly_all_weight() -> None:
    """At p = 0.99999 the closed form alone would be off by about 0.3; that row must be recomputed."""
    recording = record(build("llama"), prompt())
    layer = recording.with_attention()[0]
    assert layer.attention is not None
    query = layer.queries[LENGTH - 1]
    query.bias = query.bias.clone()
    query.bias[..., 4] += 20.0
    attention = QueryAttention(layer.attention, query)
    assert attention.weights is not None and attention.weights[..., 4].max() > 0.99999
    apart = (attention.masked([(4,)]).change - (attention.explicit([(4,)]) - attention.output)).abs().max()
    assert apart < 1e-6, f"{apart:.3g}"


def impacts(model: nn.Module, recording: Recording, wanted: Wanted | None = None) -> list[torch.Tensor]:
    meter = Meter(model, wanted or Wanted())
    return [
        meter.impact(layer, query, singles(query.position)).l2
        for layer in recording.with_attention()
        for query in layer.queries.values()
    ]


@pytest.mark.parametrize("name", ["llama", "gemma2", "mixtral"])
def test_rows_in_pieces_give_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(name)
    recording = record(model, prompt(), STEPS)
    whole = impacts(model, recording)
    monkeypatch.setattr(memory, "MEMORY_BUDGET", 1)  # two rows at a time, one explicit row
    for expected, found in zip(whole, impacts(model, recording), strict=True):
        apart = (found - expected).abs().max()
        assert apart < 1e-5 * expected.abs().max(), f"{apart:.3g}"


@pytest.mark.parametrize("name", ["llama", "mistral", "gpt_oss", "mixtral", "falcon_h1", "deepseek_v3"])
@pytest.mark.parametrize("ablation", ABLATIONS)
def test_several_queries_are_one_call_and_the_same(name: str, ablation: str) -> None:
    """Windows, sinks, experts, a Mamba branch: one call of the layer for all queries, and what each gives alone."""
    model = build(name, dtype=torch.float64)
    with true_float64():
        recording, meter = record(model, prompt(), 4), Meter(model, Wanted(), ablation)
        calls: list[int] = []
        honest = meter.replay.rows
        meter.replay.rows = lambda *given: calls.append(1) or honest(*given)  # type: ignore[method-assign]
        for layer in recording.with_attention():
            queries, masks = list(layer.queries.values()), [singles(query) for query in layer.queries]
            masks[1] = [(0, 3), (2,), tuple(range(LENGTH))]  # others than those beside it
            calls.clear()
            together = meter.impacts(layer, queries, masks)
            assert len(calls) == 1, "a call for all queries; nothing is magnified that its query cannot see"
            for query, mine, found in zip(queries, masks, together, strict=True):
                alone = Meter(model, Wanted(), ablation).impact(layer, query, mine)
                assert (found.blind, found.heads, list(found.noise)) == (alone.blind, alone.heads, list(alone.noise))
                for ours, theirs in ((found.values, alone.values), (found.lengths, alone.lengths)):
                    assert (ours - theirs).abs().max() <= 1e-11 * theirs.abs().max(), f"layer {layer.index}"


def test_a_layer_that_takes_no_sequence_is_called_for_each_query() -> None:
    """GPT-2 makes a view of its input that copies of several tokens do not have."""
    model = build("gpt2")
    recording, meter = record(model, prompt(), 3), Meter(model, Wanted())
    layer = recording.with_attention()[0]
    masks = [singles(query) for query in layer.queries]
    together = meter.impacts(layer, list(layer.queries.values()), masks)
    assert meter.one_by_one == {type(layer.layer)}
    for query, mine, found in zip(layer.queries.values(), masks, together, strict=True):
        assert torch.equal(found.values, Meter(model, Wanted()).impact(layer, query, mine).values)


@pytest.mark.parametrize("name", ["llama", "cohere", "gpt_oss"])
def test_equal_rows_are_computed_once_and_the_same(name: str) -> None:
    model = build(name, dtype=torch.float64)
    with true_float64():
        recording = record(model, prompt())
        layer = recording.with_attention()[0]
        assert layer.attention is not None
        query = layer.queries[LENGTH - 1]
        attention = QueryAttention(layer.attention, query)
        masked = attention.masked([(), (0,), (1, 2)])
        meter = Meter(model, Wanted())
        shared = meter.replay.rows(layer, query, masked)
        meter.replay.share_rows = False
        copied = meter.replay.rows(layer, query, masked)
        apart = (shared.update - copied.update).abs().max()
    assert apart < 1e-12, f"{apart:.3g}"


def test_outside_the_window_is_exactly_zero() -> None:
    model = build("mistral")  # a window of 5 in every layer
    recording = record(model, prompt(), STEPS)
    for layer in recording.with_attention():
        for position, query in layer.queries.items():
            l2 = Meter(model, Wanted()).impact(layer, query, singles(position)).l2
            assert (l2[: position - 4] == 0).all() and (l2[position - 4 :] > 0).all(), f"query {position}: {l2[:, 0]}"


def test_nothing_left_to_attend_to_is_attention_zero() -> None:
    """A one-token prompt: masking it makes the attention output 0 by definition, and Attn's l2 its length."""
    model = build("llama", dtype=torch.float64)
    with true_float64():
        recording = record(model, prompt(1))
        for layer in recording.with_attention():
            impact = Meter(model, Wanted()).impact(layer, layer.queries[0], [(0,)])
            assert impact.blind
            assert torch.isfinite(impact.l2).all() and torch.isfinite(impact.cosine).all()
            heads = layer.queries[0].heads[0].norm(dim=-1).cpu()
            torch.testing.assert_close(impact.l2[0, 2:], heads, rtol=1e-12, atol=0)


def test_a_share_of_each_head_adds_up_to_attn() -> None:
    """In residual space the heads' changes add up to the change of Attn (Llama adds o_proj's output as it is)."""
    from mask_impact.impact.replay import head_shares

    model = build("llama", dtype=torch.float64)
    with true_float64():
        layer = record(model, prompt()).with_attention()[1]
        assert layer.attention is not None
        query = layer.queries[LENGTH - 1]
        attention = QueryAttention(layer.attention, query)
        masked = attention.masked([(), (0,), (3,), (2, 5)])
        rows = Meter(model, Wanted()).replay.rows(layer, query, masked)
        assert rows.attention is not None and rows.projection is not None
        total = head_shares(masked.change, rows.projection).sum(dim=-2)
        apart = (total - (rows.attention - rows.attention[0])).abs().max()
    assert apart < 1e-12, f"{apart:.3g}"


def test_attention_free_layers_are_skipped() -> None:
    recording = record(build("qwen3_next"), prompt())
    assert [layer.index for layer in recording.with_attention()] == [1]
    assert [layer.index for layer in recording.without_attention()] == [0, 2]


def test_a_replay_that_is_not_the_model_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rotary tables cut at the wrong row: plausible numbers, but not this model's."""
    model = build("gemma2")
    recording = record(model, prompt())
    for layer in recording.with_attention():
        for query in layer.queries.values():
            query.hidden = query.hidden + 0.1
            query.args = tuple(query.hidden if item is query.args[0] else item for item in query.args)
    with pytest.raises(UnsupportedModel, match=r"differs from the model's own by 0\.\d"):
        impacts(model, recording)


def test_the_record_is_of_the_real_forward() -> None:
    """Layer input and output of the record are those of transformers' own hidden states."""
    model = build("qwen3")
    hidden = model(prompt(), output_hidden_states=True).hidden_states
    recording = record(model, prompt(), queries=range(LENGTH))
    for layer in recording.layers:
        for position, query in layer.queries.items():
            torch.testing.assert_close(query.hidden[0, 0], hidden[layer.index][0, position])


@contextlib.contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    def state() -> tuple[object, ...]:
        config = model.config
        hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
        return config._attn_implementation, hooks, id(model.generation_config), model.training

    before, weights = state(), [parameter.clone() for parameter in model.parameters()]
    yield
    assert state() == before
    assert all(torch.equal(old, new) for old, new in zip(weights, model.parameters(), strict=True))
    from transformers import AttentionInterface

    assert "mask_impact" not in AttentionInterface()


def test_the_model_is_put_back() -> None:
    model = build("llama")
    with unchanged(model):
        impacts(model, record(model, prompt(), STEPS))


def test_the_model_is_put_back_after_an_exception() -> None:
    model = build("llama")
    with unchanged(model), pytest.raises(KeyboardInterrupt):

        def stop() -> None:
            raise KeyboardInterrupt

        record_generation(model, {"input_ids": prompt()}, 2, [], progress=stop)
    with unchanged(model), pytest.raises(UnsupportedModel, match=r"family 'llama' .* fails .*division by zero"):
        handle = decoder_layers(model)[1].register_forward_pre_hook(lambda *_: 1 / 0)
        try:
            record(model, prompt())
        finally:
            handle.remove()


def test_generation_is_greedy_and_stops() -> None:
    """The checkpoint's own sampling settings (here a repetition penalty) do not change the analysed tokens."""
    model = build("llama")
    plain = record(model, prompt(), 6)
    model.generation_config.repetition_penalty = 5.0
    model.generation_config.do_sample = True
    assert record(model, prompt(), 6).tokens == plain.tokens
    ids = prompt()
    for token_id, probability in zip(plain.tokens, plain.probabilities, strict=True):
        chances = model(ids).logits[0, -1].softmax(dim=-1)
        assert token_id == chances.argmax()
        assert probability == pytest.approx(chances.max().item(), rel=1e-4)
        ids = torch.cat([ids, torch.tensor([[token_id]], device=DEVICE)], dim=1)
    stop = plain.tokens[2]
    stopped = record_generation(model, {"input_ids": prompt()}, 6, [stop])
    assert stopped.tokens == plain.tokens[: plain.tokens.index(stop) + 1]
