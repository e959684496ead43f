"""A model that needs a package that is not installed: the line names it, and the command that installs it.

Which packages are installed is made up here; what transformers says is what 4.57.1 and 5.24 say.
"""

from itertools import pairwise
from pathlib import Path

import checkpoints
import pytest

from mask_impact.errors import UserError
from mask_impact.model import packages
from mask_impact.model.find import find_model, loading
from mask_impact.model.load import load_tokenizer

PROTOBUF = ImportError("requires the protobuf library but it was not found in your environment. Check out the")
SENTENCEPIECE = ImportError(
    "MarianTokenizer requires the SentencePiece library but it was not found in your environment."
)
TIKTOKEN = ValueError("`tiktoken` is required to read a `tiktoken` file. Install it with `pip install tiktoken`.")
NO_TIKTOKEN = ModuleNotFoundError("No module named 'tiktoken'", name="tiktoken")
SACREMOSES = ImportError("You need to install sacremoses to use XLMTokenizer. See https://pypi.org/project/sacremoses/")
FUGASHI = ModuleNotFoundError(
    "You need to install fugashi to use MecabTokenizer. See https://pypi.org/project/fugashi/"
)
REMOTE = ImportError(
    "This modeling file requires the following packages that were not found in your environment: einops, xpos. Run "
    "`pip install einops xpos`"
)
QUANTIZED = ImportError(
    "Using `compressed_tensors` quantized models requires the compressed-tensors library: `pip install "
    "compressed-tensors`"
)
PIECES, RANKS = b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02", b"IQ== 0\nIg== 1\n"

CASES = {  # what was raised, outermost first; the checkpoint's files; the packages
    "Marian": ([SENTENCEPIECE], {"source.spm": PIECES}, ["sentencepiece", "protobuf"]),
    "Llama in 5": ([TIKTOKEN, NO_TIKTOKEN], {"tokenizer.model": PIECES}, ["sentencepiece", "protobuf"]),
    "Llama in 4": ([PROTOBUF, TIKTOKEN, NO_TIKTOKEN], {"tokenizer.model": PIECES}, ["sentencepiece", "protobuf"]),
    "Llama 3's own": ([PROTOBUF, TIKTOKEN, NO_TIKTOKEN], {"tokenizer.model": RANKS}, ["tiktoken"]),
    "no files": ([PROTOBUF, TIKTOKEN, NO_TIKTOKEN], {}, []),
    "XLM": ([PROTOBUF, SACREMOSES], {}, ["sacremoses"]),
    "BERT in Japanese": ([FUGASHI], {}, ["fugashi"]),
    "its own code": ([REMOTE], {}, ["einops", "xpos"]),
    "quantized": ([QUANTIZED], {}, ["compressed-tensors"]),
    "another reason": ([ValueError("the vocabulary is damaged")], {"tokenizer.model": PIECES}, []),
}


@pytest.mark.parametrize("name", CASES)
def test_the_package_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raised, files, expected = CASES[name]
    for file, content in files.items():
        (tmp_path / file).write_bytes(content)
    for outer, inner in pairwise(raised):
        outer.__context__ = inner
    monkeypatch.setattr(packages, "installed", lambda package: False)
    assert packages.missing_packages(raised[0], tmp_path) == expected
    monkeypatch.setattr(packages, "installed", lambda package: True)
    assert packages.missing_packages(raised[0], tmp_path) == []


def test_the_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "source.spm").write_bytes(PIECES)
    monkeypatch.setattr(packages, "installed", lambda package: package != "sentencepiece")
    with pytest.raises(UserError) as caught, loading(str(tmp_path)):
        raise SENTENCEPIECE
    assert str(caught.value) == (
        f"model '{tmp_path}' needs the package sentencepiece; install with: pip install sentencepiece"
    )


def test_installed() -> None:
    assert packages.installed("torch")
    assert packages.installed("pyyaml")  # its module is yaml
    assert not packages.installed("no-such-package")
    assert not packages.installed("no.such.package")


def test_code_that_imports_what_is_not_there(tmp_path: Path) -> None:
    folder = checkpoints.qwen3(tmp_path / "model")
    for file in folder.glob("token*"):
        file.unlink()
    (folder / "tok.py").write_text(
        "import no_such_package\nfrom transformers import PreTrainedTokenizer\nclass T(PreTrainedTokenizer): pass\n"
    )
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "T", "auto_map": {"AutoTokenizer": ["tok.T", null]}}'
    )
    with pytest.raises(UserError, match="needs the package no_such_package; install with: pip install no_such_package"):
        load_tokenizer(find_model(str(folder), trust_remote_code=True))


@pytest.mark.parametrize("family", ["t5", "xglm", "marian", "llama", "qwen3"])
def test_files_that_are_not_there(family: str, tmp_path: Path) -> None:
    """transformers 5 makes a tokenizer of nothing, for T5 one with pieces that are not special."""
    (tmp_path / "config.json").write_text(f'{{"model_type": "{family}"}}')
    with pytest.raises(UserError, match="has no tokenizer files"):
        load_tokenizer(find_model(str(tmp_path)))
