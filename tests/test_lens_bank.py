"""Banks: which tokens are kept, what is stored of them, and that no crash, no second process, no bad input harms it."""

import json
import os
import shutil
import subprocess
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from prepared import PREPARED
from safetensors import safe_open

import latent_lens
from mask_impact.errors import UserError
from mask_impact.files.folder import output_folder
from mask_impact.lens import bank, bank_files, contexts
from mask_impact.lens.bank import usual_layers
from mask_impact.lens.neighbors import open_bank
from mask_impact.lens.search import nearest
from mask_impact.model import find, load

HERE = Path(__file__).parent
CAPTIONS = HERE.parent / "demo" / "captions.txt"
SPECIAL = 0


def corpus_of(rows):
    """Captions by their ids; 0 is special."""
    starts = np.cumsum([0, *map(len, rows)])
    texts = [" ".join(map(str, row)) for row in rows]
    ids = np.array([token for row in rows for token in row], np.int32)
    return contexts.Corpus(texts, ids, starts, np.array([SPECIAL]))


def random_rows(count, seed=0):
    """Captions of few words, so that many begin alike; some are empty, some repeated, some begin with specials."""
    chance = np.random.default_rng(seed)
    rows = [[0] * chance.integers(0, 2) + chance.integers(1, 5, chance.integers(0, 7)).tolist() for _ in range(count)]
    return [*rows, *rows[:20], [], [70000, 3, 70000, 3]]


def by_hand(rows, whole=False):
    """{prefix, or (whole caption, position): (caption, position)} of the first that has it, specials left out."""
    first = {}
    for caption, row in enumerate(rows):
        for position, token in enumerate(row):
            if token != SPECIAL and any(each != SPECIAL for each in row[:position]):
                key = (tuple(row), position) if whole else tuple(row[: position + 1])
                first.setdefault(key, (caption, position))
    return first


@pytest.mark.parametrize("causal", [True, False])
def test_every_distinct_prefix_is_kept_once(causal):
    rows = random_rows(400)
    found = contexts.choose(corpus_of(rows), 10**6, causal=causal)
    expected = by_hand(rows, whole=not causal)
    assert sorted(zip(found.caption.tolist(), found.position.tolist(), strict=True)) == sorted(expected.values())
    assert found.distinct == len(expected) == len(found.token)
    assert found.token.tolist() == [rows[c][p] for c, p in zip(found.caption, found.position, strict=True)]


def test_captions_come_by_the_length_that_is_run():
    found = contexts.choose(corpus_of(random_rows(300)), 15)
    last = dict(zip(found.caption.tolist(), found.position.tolist(), strict=True))
    order = list(dict.fromkeys(found.caption.tolist()))
    assert [last[caption] for caption in order] == sorted(last.values())
    assert len(order) == 1 + np.count_nonzero(np.diff(found.caption)), "the rows of a caption stand together"


def test_at_most_so_many_of_a_token_and_all_of_a_rare_one():
    rows = random_rows(400)
    of_token = Counter(prefix[-1] for prefix in by_hand(rows))
    found = Counter(contexts.choose(corpus_of(rows), 25).token.tolist())
    assert found == {token: min(25, count) for token, count in of_token.items()}
    assert of_token[1] > 100 and found[70000] == 1


def test_the_same_seed_draws_the_same_and_another_others():
    corpus = corpus_of(random_rows(200))
    first, same, other = (contexts.choose(corpus, 5, seed) for seed in (0, 0, 1))
    assert np.array_equal(first.caption, same.caption) and np.array_equal(first.position, same.position)
    assert not np.array_equal(first.caption, other.caption)


def test_every_context_is_drawn_equally_often():
    """40 contexts of one token, 10 kept, 1,500 seeds: chi-squared with 39 degrees of freedom is below 80 (p = 0.0001);
    a draw of 10 of 40 varies 0.75 times as much as independent ones."""
    corpus = corpus_of([[number + 2, 1] for number in range(40)])
    drawn = Counter(caption for seed in range(1500) for caption in contexts.choose(corpus, 10, seed).caption.tolist())
    expected = 1500 * 10 / 40
    assert len(drawn) == 40 and sum(drawn.values()) == 15_000
    assert 5 < sum((count - expected) ** 2 / expected for count in drawn.values()) / 0.75 < 80


def test_shards_are_whole_captions_and_batches_are_within_them():
    found = contexts.choose(corpus_of(random_rows(300)), 40)
    shards = found.shards(30)
    assert [shard.start for shard in shards] == [0, *(shard.stop for shard in shards[:-1])]
    assert shards[-1].stop == len(found.token) and all(shard.stop - shard.start >= 30 for shard in shards[:-1])
    for before, after in pairwise(shards):
        assert found.caption[before.stop - 1] != found.caption[after.start]
    cut = list(contexts.batches(found, shards[2], 4))
    assert (cut[0].start, cut[-1].stop) == (shards[2].start, shards[2].stop)
    assert all(len(np.unique(found.caption[rows])) == 4 for rows in cut[:-1])
    assert sum(len(np.unique(found.caption[rows])) for rows in cut) == len(np.unique(found.caption[shards[2]]))


def test_the_usual_layers_are_the_papers():
    assert usual_layers(28) == (1, 2, 4, 8, 16, 24, 26, 27) and usual_layers(32) == (1, 2, 4, 8, 16, 24, 30, 31)
    assert usual_layers(4) == (1, 2, 3) and usual_layers(1) == (1,)


# --- with the demo model ----------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def captions(tmp_path_factory):
    path = tmp_path_factory.mktemp("captions") / "some.txt"
    path.write_text("\n".join(CAPTIONS.read_text().splitlines()[:150]) + "\n\n  \n")
    return path


def build(captions, folder, *flags):
    return latent_lens.main(
        ["bank", "--model", "demo", "--captions", str(captions), "--output-dir", str(folder), "--quiet", *flags]
    )


@pytest.fixture(scope="module")
def whole(captions, tmp_path_factory):
    """Every distinct prefix at all layers."""
    folder = tmp_path_factory.mktemp("whole")
    assert build(captions, folder, "--layers", "all", "--max-per-token", "100000", "--batch-size", "7") == 0
    return open_bank(folder)


@pytest.fixture(scope="module")
def plain(captions):
    """Every token of every caption, from forwards of its own: {(caption, position): states [5, C]} and its prefix."""
    from mask_impact.model.processors import load_processor

    source = find.find_model("demo", vision=True)
    model = load.load_model(source, torch.device("cpu"), torch.float32)
    tokenizer = load_processor(source).tokenizer
    found, last = {}, []
    model.model.language_model.layers[-1].register_forward_hook(
        lambda *given: last.append(given[2][0] if isinstance(given[2], tuple) else given[2])
    )
    for number, text in enumerate(line for line in captions.read_text().splitlines() if line.strip()):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            states = list(model(input_ids=ids, output_hidden_states=True).hidden_states)
        states[-1] = last.pop().reshape(states[-1].shape)  # which transformers gives after the final norm
        for position in range(1, ids.shape[1]):
            at = torch.stack([layer[0, position] for layer in states])
            found[number, position] = at, tuple(ids[0, : position + 1].tolist())
    return found


def vectors(bank, layer):
    return torch.cat(list(bank.parts(layer)))


def table(bank):
    return bank._table.to_pydict()


def test_what_is_stored_are_the_hidden_states_of_plain_forwards(whole, plain):
    rows = table(whole)
    keys = list(zip(rows["caption_index"], rows["caption_position"], strict=True))
    assert sorted(plain[key][1] for key in keys) == sorted({prefix for _, prefix in plain.values()})
    assert [plain[key][1][-1] for key in keys] == rows["token_id"]
    for layer in whole.layers:
        expected = torch.stack([plain[key][0][layer] for key in keys])
        norms = torch.linalg.vector_norm(expected, dim=1)
        assert (whole.norms(layer) / norms - 1).abs().max() < 1e-5
        difference = (vectors(whole, layer).float() - expected / norms[:, None]).abs().max()
        assert difference < 2**-11, f"layer {layer}: {difference}, and float16 rounds by 2^-12 at most"


def test_leaving_out_equal_prefixes_changes_no_neighbour(whole, plain):
    """A bank of every token of every caption: the same neighbours, but each as often as its prefix is there."""
    rows = table(whole)
    keys = list(plain)
    prefix_of = [plain[key][1] for key in keys]
    own = [plain[key][1] for key in zip(rows["caption_index"], rows["caption_position"], strict=True)]
    assert len(prefix_of) > 1.5 * len(own), "there must be something to leave out"
    queries = torch.randn(20, whole.hidden_size, generator=torch.Generator().manual_seed(0))
    queries[:10] += 3 * torch.stack([plain[key][0][2] for key in keys[40:50]])
    same = []
    for layer in (1, 2, 4):
        units = torch.nn.functional.normalize(torch.stack([plain[key][0][layer] for key in keys])).half()
        everything = nearest(queries, [units], 400)
        found = nearest(queries, whole.parts(layer), 5)
        for query in range(len(queries)):
            similar = {}
            for row, value in zip(everything.index[query], everything.similarity[query], strict=True):
                similar.setdefault(prefix_of[row], value)
            best = list(similar.items())[:5]
            for (prefix, value), row, ours in zip(best, found.index[query], found.similarity[query], strict=True):
                assert abs(value - ours) < 1e-3  # in float16, of states whose last digits differ
                assert abs(similar[own[row]] - value) < 1e-3
                same.append(prefix == own[row])
    assert np.mean(same) > 0.95, f"{np.mean(same):.3f}"


def test_a_caption_is_run_only_as_far_as_it_is_kept(captions, tmp_path, capsys):
    assert build(captions, tmp_path / "b", "--max-per-token", "2") == 0
    manifest = json.loads((tmp_path / "b" / "bank.json").read_text())
    rows = table(open_bank(tmp_path / "b"))
    last = {}
    for caption, position in zip(rows["caption_index"], rows["caption_position"], strict=True):
        last[caption] = max(last.get(caption, 0), position)
    assert manifest["captions_run"] == len(last) < 80 < manifest["captions"]["count"] == 150
    assert manifest["layers"] == [1, 2, 3]


def same_files(one, other):
    names = sorted(path.name for path in one.glob("[!.]*"))
    assert names == sorted(path.name for path in other.glob("[!.]*")) and len(names) > 6
    for name in names:
        if name != "bank.json":
            assert (one / name).read_bytes() == (other / name).read_bytes(), name
    manifests = [json.loads((folder / "bank.json").read_text()) for folder in (one, other)]
    for manifest in manifests:
        for key in ("created", "argv", "seconds"):
            manifest.pop(key)
    assert manifests[0] == manifests[1]


LAUNCHED = """
import sys, torch
torch.set_num_threads(1)
import latent_lens
from mask_impact.lens import bank
bank.SHARD_VALUES = 3000
sys.exit(latent_lens.main(sys.argv[1:]))
"""


def test_killed_and_resumed_and_by_two_processes_the_files_are_the_same(captions, tmp_path):
    one, other, two = (tmp_path / name for name in ("one", "other", "two"))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)}
    command = [*PREPARED, str(HERE / "kill_bank.py"), str(captions), str(other), "1,3", str(one)]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert ended.returncode == 0, ended.stderr
    report = json.loads(ended.stdout)
    assert report["codes"] == [0, 0]
    for found, later in zip(report["seen"], [*report["seen"][1:], report["end"]], strict=True):
        assert 0 < len(found) < len(report["end"])
        assert found.items() <= later.items(), "a finished shard is written once"
    same_files(one, other)
    assert not list(other.glob(".*.tmp"))
    script = tmp_path / "launched.py"
    script.write_text(LAUNCHED)
    flags = ["--batch-size", "4", "--quiet", "--model", "demo", "--max-per-token", "8"]
    launched = [*PREPARED, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    command = [*launched, *PREPARED, str(script), "bank", "--captions", str(captions), "--output-dir", str(two), *flags]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert ended.returncode == 0, ended.stderr
    same_files(one, two)


def test_a_shard_is_never_there_in_part(tmp_path, monkeypatch):
    """Writing fails in the middle: the file that was there before is as it was."""
    (tmp_path / "bank.json").write_text("{}")
    path = tmp_path / "shard_00000.safetensors"
    rows = {1: torch.ones(3, 4).half()}, {1: torch.ones(3)}
    bank_files.write_shard(path, *rows)
    before = path.read_bytes()

    def failing(tensors, target):
        Path(target).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bank_files, "save_file", failing)
    with pytest.raises(OSError):
        bank_files.write_shard(path, *rows)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 2


# --- what is there already, and bad input -----------------------------------------------------------------
@pytest.fixture
def small(whole, tmp_path):
    """A copy that a test may harm."""
    return Path(shutil.copytree(whole.folder, tmp_path / "small"))


def test_a_bank_is_kept_replaced_or_refused(captions, small, capsys):
    flags = ("--layers", "all", "--max-per-token", "100000")
    before = (small / "bank.json").read_bytes()
    assert build(captions, small, *flags) == 2
    assert "there is a bank in" in capsys.readouterr().err
    assert build(captions, small, *flags, "--resume") == 0
    assert build(captions, small, "--layers", "1,2", "--max-per-token", "100000", "--resume") == 2
    assert "layers was [0, 1, 2, 3, 4], is [1, 2]" in capsys.readouterr().err
    assert (small / "bank.json").read_bytes() == before
    assert build(captions, small, "--layers", "2", "--num-captions", "30", "--overwrite") == 0
    assert open_bank(small).layers == (2,)


def test_one_command_at_a_time_writes_into_a_folder(captions, tmp_path, capsys):
    with output_folder(tmp_path / "bank"):
        assert build(captions, tmp_path / "bank") == 2
    assert "another run is writing into" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "flags", "say"),
    [
        (None, (), "cannot be read"),
        ("\n \n", (), "are empty"),
        ("a\nb", (), "the first is not kept"),
        ("a red circle", ("--num-captions", "2"), "has 1 captions, not 2"),
        ("a red circle", ("--layers", "1,5"), "there is no layer 5; this model has layers 0 to 4"),
        (b"a red\xff circle", (), "line 1 of"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_made(tmp_path, capsys, text, flags, say):
    path = tmp_path / "captions.txt"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert build(path, tmp_path / "bank", *flags) == 2
    error = capsys.readouterr().err
    assert say in error and error.count("\n") == 1
    assert not list((tmp_path / "bank").glob("shard*"))


def test_a_damaged_or_missing_shard_is_named(small):
    path = small / "shard_00000.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    found = open_bank(small)  # of the right size: seen when it is read
    with pytest.raises(UserError, match=r"shard_00000\.safetensors is damaged: SHA-256"):
        next(found.parts(1))
    path.write_bytes(data[:-1])
    with pytest.raises(UserError, match=r"shard_00000.safetensors is damaged: [\d,]+ bytes, not"):
        open_bank(small)
    path.unlink()
    with pytest.raises(UserError, match=r"lacks shard_00000\.safetensors"):
        open_bank(small)


def test_an_unfinished_bank_and_a_folder_without_one_are_refused(small, tmp_path):
    manifest = json.loads((small / "bank.json").read_text())
    (small / "bank.json").write_text(json.dumps(manifest | {"shards": None}))
    with pytest.raises(UserError, match="is not finished"):
        open_bank(small)
    (small / "bank.json").write_text(json.dumps(manifest)[:-9])
    with pytest.raises(UserError, match=r"bank.json is damaged"):
        open_bank(small)
    with pytest.raises(UserError, match="there is no bank in"):
        open_bank(tmp_path)
    with pytest.raises(UserError, match="there is no folder"):
        open_bank(tmp_path / "nowhere")


def test_a_bank_of_another_model_is_refused_saying_which(whole):
    source = find.find_model("demo", vision=True)
    fingerprint = find.fingerprint(source)
    whole.check(source, fingerprint)
    with pytest.raises(UserError, match=r"is of another model: it was built with demo \("):
        whole.check(source, "0" * 16)
    source.config.text_config.num_hidden_layers = 3
    with pytest.raises(UserError, match="it has layer 4, demo has 0 to 3"):
        whole.check(source, fingerprint)
    source.config.text_config.hidden_size = 64
    with pytest.raises(UserError, match="its hidden size is 128, that of demo is 64"):
        whole.check(source, fingerprint)


def test_a_model_that_gives_what_is_not_finite_writes_nothing(tmp_path):
    rows = torch.ones(3, 4).half()
    rows[1, 1] = torch.nan
    with pytest.raises(UserError, match="layer 7 gives numbers that are not finite"):
        bank_files.write_shard(tmp_path / "s.safetensors", {7: rows}, {7: torch.ones(3)})
    assert not list(tmp_path.iterdir())


def test_shards_are_what_the_docs_say(whole):
    with safe_open(whole.folder / "shard_00000.safetensors", framework="pt") as file:
        assert set(file.keys()) == {f"{name}_{layer}" for name in ("layer", "norm") for layer in range(5)}
        assert file.get_tensor("layer_2").dtype == torch.float16 and file.get_tensor("norm_2").dtype == torch.float32
    assert bank.SHARD_VALUES * 2 == 2**25
