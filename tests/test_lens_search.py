"""The search against a search in float64 over all rows, by numpy alone."""

import builtins

import numpy as np
import pytest
import torch

from mask_impact.errors import UserError
from mask_impact.lens import approximate, search
from mask_impact.lens.search import Nearest, margin, merged, nearest, rescored


def brute(queries, bank, k):
    """[Q, k] similarity and index in float64; equally similar rows by index."""
    queries, bank = queries.double().numpy(), bank.double().numpy()
    lengths = np.sqrt((queries**2).sum(1))[:, None] * np.sqrt((bank**2).sum(1))
    similarity = np.stack([(bank * query).sum(1) for query in queries]) / np.where(lengths == 0, 1, lengths)
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(similarity, order, axis=1), order


@pytest.fixture
def small_blocks(monkeypatch):
    """Many blocks, groups of queries and chunks of candidates, in banks of a few hundred rows."""
    monkeypatch.setattr(search, "BLOCK_VALUES", 4000)
    monkeypatch.setattr(search, "QUERIES", 7)
    monkeypatch.setattr(search, "RESCORED_VALUES", 500)


def agree(queries, parts, k):
    found = nearest(queries, parts, k)
    similarity, index = brute(queries, torch.cat([part.float() for part in parts]), k)
    assert np.array_equal(found.index, index), f"{(found.index != index).sum()} of {index.size} rows differ"
    assert np.abs(found.similarity - similarity).max() < 1e-14


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("rows", "hidden", "k"), [((1000,), 40, 5), ((3, 500, 64, 130), 33, 11), ((2, 1), 64, 9)])
def test_equal_to_float64_over_all_rows(small_blocks, dtype, rows, hidden, k):
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(n, hidden, generator=generator).to(dtype) * 3 for n in rows]
    agree(torch.randn(20, hidden, generator=generator), parts, k)


def test_equal_rows_by_the_lower_index(small_blocks):
    """Small whole numbers: many rows are the same, and more are equally similar, some of them of other lengths."""
    generator = torch.Generator().manual_seed(1)
    bank = torch.randint(-1, 2, (900, 4), generator=generator).half()
    bank[::7] *= 2
    queries = torch.randint(-1, 2, (15, 4), generator=generator).float()
    queries[3] = 0
    similarity, _ = brute(queries, bank, 6)
    assert (np.diff(similarity) == 0).mean() > 0.9
    agree(queries, bank.split(77), 6)


def test_rows_that_float32_cannot_tell_apart(small_blocks):
    generator = torch.Generator().manual_seed(2)
    queries = torch.randn(8, 256, generator=generator)
    bank = queries.repeat(60, 1) + 3e-5 * torch.randn(480, 256, generator=generator)
    order = (torch.nn.functional.normalize(queries) @ torch.nn.functional.normalize(bank).T).topk(5).indices
    _, expected = brute(queries, bank, 5)
    assert (order.numpy() != expected).mean() > 0.2, "float32 alone must not be enough here"
    agree(queries, [bank], 5)


def test_rows_that_get_ever_more_similar(small_blocks):
    """Each block is better than all before it: the bound never helps."""
    generator = torch.Generator().manual_seed(3)
    query = torch.randn(1, 32, generator=generator)
    bank = query + torch.linspace(3, 0.01, 2000)[:, None] * torch.randn(2000, 32, generator=generator)
    agree(query, [bank], 4)


def test_the_bound_holds_for_the_worst_rounding():
    """Sums of one sign, where errors of rounding add up: their largest is within the margin."""
    generator = torch.Generator().manual_seed(4)
    for hidden in (64, 512, 4096):
        query, bank = (torch.rand(n, hidden, generator=generator) for n in (8, 500))
        units = query / torch.linalg.vector_norm(query, dim=1, keepdim=True)
        off = (units @ bank.T) / torch.linalg.vector_norm(bank, dim=1)
        exact = torch.nn.functional.normalize(query.double()) @ torch.nn.functional.normalize(bank.double()).T
        assert (off - exact).abs().max() < margin(hidden) / 2
        assert margin(hidden) < 1e-3


def test_little_is_computed_in_float64(monkeypatch):
    """Of a random bank a few rows beyond the neighbours themselves."""
    computed = []
    original = search._cosines
    monkeypatch.setattr(search, "_cosines", lambda *given: computed.append(len(given[2])) or original(*given))
    generator = torch.Generator().manual_seed(5)
    bank, queries = torch.randn(40_000, 128, generator=generator).half(), torch.randn(50, 128, generator=generator)
    nearest(queries, [bank], 5)
    assert sum(computed) / 50 < 200, "rows of each query, of 40,000"


def test_vectors_that_are_not_finite_are_refused():
    bank = torch.zeros(10, 4).half()
    bank[7, 1] = torch.inf
    with pytest.raises(UserError, match="row 17 of the bank is not finite"):
        nearest(torch.ones(1, 4), [torch.ones(10, 4), bank], 2)
    with pytest.raises(UserError, match="hidden state"):
        nearest(torch.full((1, 4), torch.nan), [bank], 2)


def test_the_length_of_a_vector_does_not_matter(small_blocks):
    generator = torch.Generator().manual_seed(8)
    bank = torch.randn(300, 16, generator=generator) * 10.0 ** torch.randint(-36, 15, (300, 1), generator=generator)
    agree(torch.randn(9, 16, generator=generator), [bank], 6)


def test_the_setting_for_products_is_put_back():
    torch.set_float32_matmul_precision("medium")
    try:
        nearest(torch.ones(1, 4), [torch.ones(3, 4)], 1)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_merged_is_a_search_over_all_layers_together():
    generator = torch.Generator().manual_seed(6)
    layers = {8: torch.randn(30, 6, generator=generator), 2: torch.randn(50, 6, generator=generator)}
    layers[8][4] = layers[2][9]  # equally similar: the lower layer comes first
    queries = torch.cat([torch.randn(9, 6, generator=generator), layers[2][9:10]])
    found, layer = merged({name: nearest(queries, [rows], 5) for name, rows in layers.items()}, 5)
    similarity, index = brute(queries, torch.cat([layers[2], layers[8]]), 5)
    assert np.array_equal(np.where(layer == 8, found.index + 50, found.index), index)
    assert np.abs(found.similarity - similarity).max() < 1e-14
    assert layer[-1, :2].tolist() == [2, 8]


def test_rescored_rows_are_searched_and_no_others():
    generator = torch.Generator().manual_seed(7)
    bank, queries = torch.randn(200, 8, generator=generator).half(), torch.randn(5, 8, generator=generator)
    named = np.stack([np.random.default_rng(n).choice(200, 30, replace=False) for n in range(5)])
    named[:, 3] = -1
    found = rescored(queries, bank.split(64), named, 4)
    for query in range(5):
        own = np.sort(named[query][named[query] >= 0])
        similarity, place = brute(queries[query : query + 1], bank[own], 4)
        assert found.index[query].tolist() == own[place[0]].tolist()
        assert np.abs(found.similarity[query] - similarity[0]).max() < 1e-14


# --- approximate ------------------------------------------------------------------------------------------
class Rows:
    """A bank in memory."""

    def __init__(self, folder, rows):
        self.folder, self.bank, self.hidden_size, self.identity = folder, rows, rows.shape[1], {"kind": "test"}

    def rows(self, layer):
        return len(self.bank)

    def parts(self, layer):
        return iter(self.bank.split(7000))


def clustered(rows, hidden, seed):
    """What states of a few hundred tokens in context are like: near one of so many places."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.randn(300, hidden, generator=torch.Generator().manual_seed(0))
    chosen = torch.randint(300, (rows,), generator=generator)
    return places[chosen] + 0.7 * torch.randn(rows, hidden, generator=generator)


def test_the_approximate_search_finds_most_and_its_similarities_are_exact(tmp_path, monkeypatch):
    monkeypatch.setattr(approximate, "SMALL", 1000)
    bank, queries = Rows(tmp_path, clustered(9000, 32, 1).half()), clustered(40, 32, 2)
    expected: Nearest = nearest(queries, bank.parts(0), 5)
    for _ in range(2):  # the index is made, then read
        found = approximate.nearest(queries, bank, 0, 5)
        shared = [len({*a} & {*b}) / 5 for a, b in zip(found.index.tolist(), expected.index.tolist(), strict=True)]
        assert np.mean(shared) > 0.9, f"recall {np.mean(shared):.2f}"
        right = found.index == expected.index
        assert right.any() and np.abs(found.similarity[right] - expected.similarity[right]).max() < 1e-14
    assert [path.name.startswith("index_layer_0_") for path in tmp_path.iterdir()] == [True]


def test_a_small_bank_loses_nothing_to_the_index(tmp_path):
    bank, queries = Rows(tmp_path, clustered(500, 12, 1)), clustered(9, 12, 2)
    expected = nearest(queries, bank.parts(0), 3)
    assert np.array_equal(approximate.nearest(queries, bank, 0, 3).index, expected.index)


def test_without_faiss_one_line_says_what_to_do(monkeypatch):
    original = builtins.__import__

    def missing(name, *given, **named):
        if name == "faiss":
            raise ImportError(name)
        return original(name, *given, **named)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UserError, match="pip install faiss-cpu"):
        approximate.faiss()
