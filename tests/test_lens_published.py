"""Banks in the layout of the latentlens package (0.1.0): read without trusting a pickle, or refused in one line.

The package itself reads and searches the same folder in benchmarks/latentlens_wheel.py.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

import latent_lens
from mask_impact.errors import UserError
from mask_impact.lens.neighbors import open_bank
from mask_impact.lens.search import merged, nearest
from mask_impact.model import find

HIDDEN = 128  # the demo model's


def save(folder, layers=(1, 2), rows=50, hidden=HIDDEN):
    generator = torch.Generator().manual_seed(0)
    for layer in layers:
        vectors = torch.nn.functional.normalize(torch.randn(rows, hidden, generator=generator), dim=1).half()
        about = [
            {"token_str": f" t{row}", "token_id": row, "caption": f"caption {row // 9}", "position": row % 9}
            for row in range(rows)
        ]
        (folder / f"layer_{layer}").mkdir(parents=True)
        torch.save({"embeddings": vectors, "metadata": about}, folder / f"layer_{layer}" / "embeddings_cache.pt")
    (folder / "metadata.json").write_text('{"layers": [1, 2], "hidden_dim": 128}')
    return folder


def test_a_published_bank_is_found_by_its_files_and_searched(tmp_path):
    bank = open_bank(save(tmp_path / "b", layers=(10, 2)))
    assert bank.layers == (2, 10) and bank.hidden_size == HIDDEN and bank.rows(2) == 50
    [rows] = bank.parts(10)
    found, layer = merged({each: nearest(rows[[7, 30]], bank.parts(each), 3) for each in bank.layers}, 3)
    assert layer[:, 0].tolist() == [10, 10] and found.index[:, 0].tolist() == [7, 30]
    assert found.similarity[:, 0] == pytest.approx(1, abs=1e-12)
    about = bank.contexts(10, np.array([30, 7]))
    assert about == {"token": [" t30", " t7"], "caption": ["caption 3", "caption 0"], "caption_position": [3, 7]}


def test_neighbors_of_a_published_bank(tmp_path, capsys):
    bank = save(tmp_path / "b")
    image = Path(__file__).parent.parent / "testimg.png"
    flags = ["--image", str(image), "--layers", "0,4", "--output-dir", str(tmp_path / "out")]
    assert latent_lens.main(["neighbors", "--model", "demo", "--bank", str(bank), *flags]) == 0
    assert (tmp_path / "out" / "testimg_neighbors.csv").read_text().count("caption ") == 16 * 2 * 3 * 5


class Harm:
    def __reduce__(self):
        return (Path.touch, (Path("harmed"),))


def change(folder, make):
    path = folder / "layer_1" / "embeddings_cache.pt"
    torch.save(make(torch.load(path, weights_only=True)), path)


@pytest.mark.parametrize(
    ("make", "say"),
    [
        (lambda cache: cache | {"metadata": Harm()}, "more than tensors, texts and numbers, and is not read"),
        (lambda cache: cache | {"metadata": cache["metadata"][1:]}, "fit together: 50 embeddings, 49 metadata"),
        (lambda cache: cache | {"embeddings": cache["embeddings"][:, 1:]}, "127 numbers in layer 1, 128 in layer 2"),
        (lambda cache: {"metadata": cache["metadata"]}, "has no matrix of embeddings"),
        (lambda cache: [1, 2], "has no matrix of embeddings"),
    ],
)
def test_what_does_not_fit_is_one_line_and_no_code_is_run(tmp_path, monkeypatch, make, say):
    monkeypatch.chdir(tmp_path)
    folder = save(tmp_path / "b")
    change(folder, make)
    with pytest.raises(UserError) as error:
        open_bank(folder)
    assert say in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "harmed").exists()


def test_a_file_that_is_cut_off_is_named(tmp_path):
    path = save(tmp_path / "b") / "layer_2" / "embeddings_cache.pt"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"layer_2/embeddings_cache.pt is damaged"):
        open_bank(tmp_path / "b")


def test_another_models_is_seen_by_its_size_and_layers(tmp_path):
    source = find.find_model("demo", vision=True)
    open_bank(save(tmp_path / "a")).check(source, "")
    with pytest.raises(UserError, match="its hidden size is 64, that of demo is 128"):
        open_bank(save(tmp_path / "b", hidden=64)).check(source, "")
    with pytest.raises(UserError, match="it has layer 27, demo has 0 to 4"):
        open_bank(save(tmp_path / "c", layers=(1, 27))).check(source, "")
