"""`Request.queries`: positions other than those that predict the output, against brute force, and in every file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from asking import asked
from brute_force import distances, observe, variants
from families import build, find
from float64 import true_float64
from test_experiment import Words, analyse, dynamic_model, inputs, same
from test_vl_engine import PROMPT, folders, images, load, row, tensors  # noqa: F401
from value_zeroing import values_zeroed

from mask_impact.errors import UserError
from mask_impact.files import results
from mask_impact.files.notebook import write_report
from mask_impact.files.results import COLUMNS, Block, ResultFiles, load_many, read_csv, to_dataframe
from mask_impact.impact import recordings as recording_plan
from mask_impact.impact.record import Recording
from mask_impact.impact.run import run
from mask_impact.prompt.positions import after_encoder, in_encoder, in_text

LENGTH = 9
FAMILIES = ["llama", "mistral", "gemma2", "gpt_oss", "deepseek_v3", "qwen3_next"]


def places(blocks: list[Block]) -> list[tuple[int, int | None, int]]:
    return [(block.generation_step, block.query_position, block.layer) for block in blocks]


# --- the numbers ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("ablation", ["neg-inf", "zero-value"])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_query_equals_brute_force(name: str, ablation: str) -> None:
    """The row of (query, token) is that of the prompt cut after the query; a generated token is a query too."""
    model = build(name, dtype=torch.float64)
    with true_float64():
        blocks, found = analyse("", model=model, num_tokens=2, queries="all", ablation=ablation)
        ids = torch.tensor([[entry["id"] for entry in found.manifest["tokens"]]])
        attends = find(name).attends
        queries = [(max(0, query - LENGTH + 1), query) for query in range(LENGTH + 1)]
        assert places(blocks) == [(step, query, layer) for step, query in queries for layer in attends]
        for block in blocks:
            query = block.query_position
            assert query is not None and block.positions.tolist() == list(range(query + 1))
            prefix = ids[:, : query + 1]
            base = observe(model, find(name), prefix)[block.layer].at(query)
            for masked in {0, query // 2, query}:
                if ablation == "neg-inf":
                    changed = observe(model, find(name), prefix, block.layer, [masked], until=block.layer)
                else:
                    with values_zeroed(model, find(name), block.layer, query, [[masked]]):
                        changed = observe(model, find(name), prefix, until=block.layer)
                for column, (variant, before, after) in enumerate(variants(base, changed[block.layer].at(query))):
                    expected, _ = distances(before, after)
                    found_l2 = block.l2[masked, column]
                    assert found_l2 == pytest.approx(expected, rel=1e-6, abs=1e-12), (query, masked, variant)


@pytest.mark.parametrize("name", FAMILIES)
def test_all_holds_the_rows_of_last(name: str) -> None:
    """Bit for bit, and beside the column nothing else differs."""
    last, plain = analyse(name, num_tokens=3)
    every, found = analyse(name, num_tokens=3, queries="all")
    predicting = [block for block in every if block.query_position is not None and block.query_position >= LENGTH - 1]
    same(predicting, last)
    assert [block.query_position for block in predicting] == [
        LENGTH - 1 + block.generation_step for block in predicting
    ]
    assert all(block.query_position is None for block in last)
    assert found.top.ranked() == plain.top.ranked(), "only what predicts the output counts, where it was measured"
    assert (plain.manifest["queries"], found.manifest["queries"]) == ("last", "all")


def test_some_queries() -> None:
    every, _ = analyse("llama", num_tokens=3, queries="all")
    some, found = analyse("llama", num_tokens=3, queries=((9, 10), (2, 3), (3, 3)))
    wanted = [block for block in every if block.query_position in (2, 3, 9, 10)]
    same(some, wanted)
    assert places(some) == places(wanted) and [block.generation_step for block in some[::3]] == [0, 0, 1, 2]
    _, found = analyse("llama", queries=((2, 3),))
    assert max(position for position, _, _ in found.top.ranked()) == 3, "without a predicting position, all count"


def test_outside_the_window_is_exactly_zero() -> None:
    blocks, _ = analyse("mistral", queries="all")  # a window of 5 in every layer
    for block in blocks:
        query = block.query_position
        assert query is not None
        far = block.positions < query - 4
        assert (block.l2[far] == 0).all() and (block.cosine[far] == 0).all() and (block.l2[~far, 0] > 0).all()


def test_records_in_parts_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for one query position at a time, every one before the prompt's last costs a forward."""
    expected, _ = analyse("llama", num_tokens=2, queries="all")
    monkeypatch.setattr(recording_plan, "memory_budget", lambda device: 1)
    said: list[str] = []
    blocks: list[Block] = []
    model = build("llama")
    model.generation_config.eos_token_id = model.config.eos_token_id = None
    run(
        model,
        asked(model, Words(), inputs(), num_tokens=2, queries="all"),
        blocks.append,
        lambda what, work=1.0: said.append(what),
    )
    same(blocks, expected, within=1e-6)
    assert said.count("generate and record") == 2 + LENGTH - 1
    assert said.count("replay query position 4 layer 1") == 1


def test_a_part_fits_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    budget, recordings, honest = 50_000, [], recording_plan.record_generation

    def kept(*args: Any, **kwargs: Any) -> Recording:
        recordings.append(honest(*args, **kwargs))
        return recordings[-1]

    def size(value: Any) -> int:
        if isinstance(value, dict):
            value = list(value.values())
        return value.nbytes if isinstance(value, torch.Tensor) else sum(map(size, value or ())) if held(value) else 0

    def held(value: Any) -> bool:
        return isinstance(value, list | tuple)

    monkeypatch.setattr(recording_plan, "memory_budget", lambda device: budget)
    monkeypatch.setattr(recording_plan, "record_generation", kept)
    analyse("llama", length=40, queries="all")
    _, *parts = recordings
    assert 2 < len(parts) < 39, "more than one query position in each"
    for part in parts:  # what is one tensor in two places counts twice here: the layer's input
        assert sum(size(vars(query)) for layer in part.layers for query in layer.queries.values()) < 1.2 * budget


def test_positions_that_depend_on_the_length() -> None:
    """Dynamic NTK: a query of the prompt is that of the prompt's own forward, not of a shorter prompt."""
    model = dynamic_model(torch.float64)
    with true_float64():
        blocks, found = analyse("", model=model, num_tokens=2, queries="all")
        ids = torch.tensor([[entry["id"] for entry in found.manifest["tokens"]]])
        for block in (block for block in blocks if block.query_position in (3, 7, 8, 9)):
            query, prefix = block.query_position, ids[:, : LENGTH + block.generation_step]
            model(ids[:, :1])
            base = observe(model, find("llama"), prefix)[block.layer].at(query)
            changed = observe(model, find("llama"), prefix, block.layer, [2])[block.layer].at(query)
            for column, (variant, before, after) in enumerate(variants(base, changed)):
                expected, _ = distances(before, after)
                assert block.l2[2, column] == pytest.approx(expected, rel=1e-6), (query, variant)


def test_a_picture_whose_tokens_see_each_other(load: Any) -> None:  # noqa: F811
    """Gemma 3: for an image token as query, the later tokens of its picture are masked too, each a row."""
    loaded = load("gemma3", torch.float64)
    given = loaded.inputs(PROMPT, *images())
    picture = [found.position for found in given.tokens if found.kind == "image"]
    query = picture[len(picture) // 2]
    blocks: list[Block] = []
    with true_float64():
        queries = ((picture[0] - 1, picture[0] - 1), (query, query))
        wanted = asked(loaded.model, loaded.processor.tokenizer, given, mask_mode="both", queries=queries)
        run(loaded.model, wanted, blocks.append)
        before, inside = blocks[: len(blocks) // 2], blocks[len(blocks) // 2 :]
        assert all(block.positions.tolist() == list(range(picture[0])) for block in before)
        assert all(block.positions.tolist() == list(range(picture[-1] + 1)) for block in inside)
        family, pixels = row("gemma3"), tensors(given, torch.float64)
        base = observe(loaded.model, family, pixels)
        for block in inside:
            for masked in (0, picture[0], query, picture[-1]):
                changed = observe(loaded.model, family, pixels, block.layer, [masked])[block.layer].at(query)
                for column, (variant, plain, after) in enumerate(variants(base[block.layer].at(query), changed)):
                    expected, _ = distances(plain, after)
                    found_l2 = block.l2[masked, column]
                    assert found_l2 == pytest.approx(expected, rel=1e-6, abs=1e-12), (masked, variant)
        assert max(block.l2[-1].max() for block in inside) > 0, "the last token of the picture bears on an earlier one"


# --- what cannot be asked for -----------------------------------------------------------------------------
def test_query_positions() -> None:
    places = in_text(prompt=5, num_tokens=3)
    assert places.queries("last") == [4, 5, 6]
    assert places.queries("all") == [0, 1, 2, 3, 4, 5, 6]
    assert places.queries(((6, 6), (0, 2), (1, 3))) == [0, 1, 2, 3, 6]
    decoder = after_encoder(5, 3)  # of an encoder-decoder: the start token at 5, then the output
    assert decoder.queries("last") == decoder.queries("all") == [5, 6, 7]
    encoder = in_encoder(5, 1)
    assert (encoder.queries("last"), encoder.queries("all")) == ([4], [0, 1, 2, 3, 4])


@pytest.mark.parametrize(
    ("queries", "message"),
    [
        (((0, 11),), "no query position 11: 9 tokens in the prompt and 2 to be generated have query positions 0 to 9"),
        (((-1, 3),), "there is no query position -1"),
        ("first", "unknown queries 'first'; choose last, all, or positions"),
        ((), "name no position"),
        (((5, 3),), "name no position"),
    ],
)
def test_queries_that_are_not_there(queries: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        analyse("llama", num_tokens=2, queries=queries)


def test_generation_that_ends_before_a_query(monkeypatch: pytest.MonkeyPatch) -> None:
    _, found = analyse("llama", num_tokens=4)
    ids = [entry["id"] for entry in found.manifest["generated"]]
    monkeypatch.setattr(Words, "eos_token_id", ids[1])
    reached = LENGTH - 1 + ids.index(ids[1]) + 1
    blocks, found = analyse("llama", num_tokens=4, queries=((LENGTH - 1, LENGTH + 2),))
    assert {block.query_position for block in blocks} == set(range(LENGTH - 1, reached))
    ended = f"generation ended after {reached - LENGTH + 1} tokens, before query position"
    assert f"{ended}s {reached} to {LENGTH + 2}" in found.manifest["notes"]
    with pytest.raises(UserError, match=f"{ended} {LENGTH + 2}: there is nothing to measure"):
        analyse("llama", num_tokens=4, queries=((LENGTH + 2, LENGTH + 2),))


# --- files ------------------------------------------------------------------------------------------------
def save(folder: Path, name: str, blocks: list[Block], *formats: str) -> tuple[dict[str, Path], list[str]]:
    with ResultFiles(folder, name, formats or ("csv", "json", "parquet", "html")) as files:
        for block in blocks:
            files.write(block)
        return files.commit({"name": name}), files.notes


@pytest.fixture(scope="module")
def blocks() -> list[Block]:
    return analyse("llama", num_tokens=2, queries="all")[0]


def test_the_column_comes_back_from_every_format(tmp_path: Path, blocks: list[Block]) -> None:
    want = to_dataframe(blocks)
    assert list(want.columns) == [*COLUMNS, "query_position"] and str(want.query_position.dtype) == "int64"
    assert len(want) == sum(block.rows for block in blocks)
    assert want.query_position.to_list() == [b.query_position for b in blocks for _ in range(b.rows)]
    paths, notes = save(tmp_path, "run", blocks)
    assert list(paths) == ["csv", "json", "parquet", "html", "run"] and not notes
    assert json.loads(paths["run"].read_bytes())["rows"] == len(want)
    for path in paths.values():
        pd.testing.assert_frame_equal(results.load(path), want, check_exact=True)
    pd.testing.assert_frame_equal(read_csv(paths["csv"]), want, check_exact=True)
    pd.testing.assert_frame_equal(pd.read_parquet(paths["parquet"]), want, check_exact=True)
    assert list(pd.read_json(paths["json"]).columns) == list(want.columns)
    first = blocks[0]
    lines = paths["csv"].read_text("utf-8").splitlines()
    assert lines[0] == ",".join([*COLUMNS, "query_position"])
    assert lines[1] == f'0,0,"{first.tokens[0]}",0,Full,{first.l2[0, 0]!s},{first.cosine[0, 0]!s},0'


def test_without_the_column_nothing_is_said_of_it(tmp_path: Path, blocks: list[Block]) -> None:
    plain = analyse("llama", num_tokens=2)[0]
    paths, notes = save(tmp_path, "plain", plain)
    assert list(paths) == ["csv", "json", "parquet", "html", "run"] and not notes
    for path in paths.values():
        assert list(results.load(path).columns) == list(COLUMNS)
        assert b"query_position" not in path.read_bytes() or path.suffix == ".html", path
    save(tmp_path, "run", blocks)
    both = load_many(tmp_path)
    assert both[both.name == "plain"].query_position.isna().all()
    assert both[both.name == "run"].query_position.notna().all()


def test_a_report_of_blocks_is_that_of_the_table_in_any_order(tmp_path: Path, blocks: list[Block]) -> None:
    table = to_dataframe(blocks)
    one = write_report(tmp_path / "one.html", blocks, {"name": "x"})
    two = write_report(tmp_path / "two.html", table.sample(frac=1, random_state=0), {"name": "x"})
    assert one.read_bytes() == two.read_bytes()
    pd.testing.assert_frame_equal(results.load(one), table, check_exact=True)


@pytest.mark.parametrize("fmt", ["csv", "json", "parquet", "html"])
def test_one_table_has_one_kind_of_rows(tmp_path: Path, blocks: list[Block], fmt: str) -> None:
    plain = analyse("llama")[0]
    for first, second in ((plain, blocks), (blocks, plain)):
        with pytest.raises(ValueError, match="query_position"):
            save(tmp_path, "run", [first[0], second[0]], fmt)


def test_the_order_of_the_rows(blocks: list[Block]) -> None:
    table = to_dataframe(blocks)
    order = ["generation_step", "query_position", "layer", "token_position"]
    assert np.array_equal(table.sort_values(order, kind="stable").index, table.index)
