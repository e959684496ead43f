"""A token has one text: joined, the texts of a prompt's tokens are the prompt, for every kind of tokenizer."""

from collections.abc import Callable
from functools import cache
from typing import Any

import checkpoints
import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from mask_impact.effects.asked import contrast_id
from mask_impact.errors import UserError
from mask_impact.prompt.inputs import Token, text_inputs
from mask_impact.prompt.token_text import CUT, decoded, ids_of_text, token_text

LETTERS = "abcdefghijklmnopqrstuvwxyz():=123"
PROMPTS = ["x    return  x", "if x:\n  return (a = 1)", " x", "  x", "x ", "x  ", "é x", "return"]


def fast(tokenizer: Tokenizer, **names: str) -> Any:
    found = PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **names)
    return found


def llama2() -> Any:
    """Llama 2's kind: runs of spaces are tokens, bytes stand in for other letters, the decoder strips one space."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{byte:02X}>": byte + 3 for byte in range(256)}
    merges = [("▁", "▁"), ("▁▁", "▁▁"), ("▁▁", "▁"), ("r", "e"), ("re", "t"), ("▁", "x")]
    for piece in ["▁", *LETTERS, *(a + b for a, b in merges)]:
        vocab.setdefault(piece, len(vocab))
    bpe = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    strip = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    bpe.decoder = decoders.Sequence(strip)
    bpe.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )  # fmt: skip
    bpe.add_special_tokens(["<unk>", "<s>", "</s>"])
    return fast(bpe, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def metaspace(scheme: str) -> Any:
    pieces = ["<unk>", "▁", "▁▁", "▁▁▁▁", "▁x", "▁return", "return", "\n", "é", *LETTERS]
    unigram = Tokenizer(models.Unigram([(piece, -1.0 - len(piece) / 99) for piece in pieces], 0))
    unigram.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    unigram.decoder = decoders.Metaspace(prepend_scheme=scheme)
    return fast(unigram, unk_token="<unk>")


def suffixed() -> Any:
    """OpenAI GPT's kind: a token that ends a word says so."""
    vocab = {"<unk>": 0} | {piece + end: 0 for piece in LETTERS for end in ("", "</w>")}
    vocab |= {"re": 0, "return</w>": 0}
    bpe = Tokenizer(
        models.BPE(
            {piece: at for at, piece in enumerate(vocab)}, [("r", "e")], unk_token="<unk>", end_of_word_suffix="</w>"
        )
    )
    bpe.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    bpe.decoder = decoders.BPEDecoder(suffix="</w>")
    return fast(bpe, unk_token="<unk>")


def wordpiece() -> Any:
    vocab = ["[UNK]", "[CLS]", "[SEP]", "return", "x", "re", "##turn", "##s", "."]
    bert = Tokenizer(models.WordPiece({piece: at for at, piece in enumerate(vocab)}, unk_token="[UNK]"))
    bert.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    bert.decoder = decoders.WordPiece()
    bert.add_special_tokens(vocab[:3])
    return fast(bert, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")


KINDS: dict[str, Callable[[], Any]] = {
    "llama 2": llama2,
    "byte level": checkpoints.tokenizer,
    **{f"metaspace {scheme}": lambda scheme=scheme: metaspace(scheme) for scheme in ("first", "always", "never")},
    "bytes, in Python": ByT5Tokenizer,
}
MADE = {name: cache(make) for name, make in KINDS.items()}


def texts(tokenizer: Any, prompt: str) -> list[str]:
    return [token.text for token in tokens(tokenizer, prompt)]


def tokens(tokenizer: Any, prompt: str) -> list[Token]:
    return [token for token in text_inputs(tokenizer, prompt).tokens if token.kind == "text"]


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("name", MADE)
def test_joined_they_are_the_prompt(name: str, prompt: str) -> None:
    found = tokens(MADE[name](), prompt)
    whole = decoded(MADE[name](), [token.id for token in found])
    assert whole in (prompt, " " + prompt)
    if prompt.isascii():  # else some tokens are parts of a character
        assert "".join(token.text for token in found) == whole


def test_runs_of_spaces() -> None:
    assert texts(llama2(), "x    ret  x") == [" x", "    ", "ret", "  ", "x"]
    assert token_text(llama2(), 1) == "<s>"


def test_parts_of_characters() -> None:
    assert texts(ByT5Tokenizer(), "é") == [CUT, CUT]
    assert texts(llama2(), "aé") == [" ", "a", CUT, CUT]


def test_words_that_are_marked_at_their_end_or_in_their_middle() -> None:
    assert texts(suffixed(), "xre x") == ["x", "r", "e ", "x "]
    assert texts(wordpiece(), "return returns.") == [" return", " return", "s", "."]
    assert token_text(wordpiece(), 1) == "[CLS]"


def test_added_tokens_are_as_they_were_added() -> None:
    found = checkpoints.tokenizer()
    found.add_tokens([AddedToken("é", special=False), AddedToken("<call>", special=False)])
    assert texts(found, "aé <call>") == ["a", "é", " ", "<call>"]


# --- the way back --------------------------------------------------------------------------------------------
def test_a_text_names_its_token() -> None:
    found = llama2()
    vocab = found.get_vocab()
    for text, piece in ((" x", "▁x"), ("x", "x"), ("    ", "▁▁▁▁"), ("<s>", "<s>"), ("re", "re"), (CUT, None)):
        if piece:
            assert contrast_id(found, text) == vocab[piece]
    assert ids_of_text(found, "A") == [vocab["<0x41>"]]  # no other piece is an A
    assert ids_of_text(found, "x") == [vocab["x"]]  # and not its byte


def test_the_vocabulary_is_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch asks for the tokens of every prompt's contrast; decoding 150,000 of them takes seconds."""
    found = checkpoints.tokenizer()
    one, other = token_text(found, 3), token_text(found, 4)
    assert ids_of_text(found, one) == [3]
    monkeypatch.setattr("mask_impact.prompt.token_text.token_text", None)
    assert ids_of_text(found, other) == [4] and ids_of_text(found, "nowhere") == []


def test_a_text_of_several_tokens_is_refused() -> None:
    with pytest.raises(UserError, match=r"is the text of 128 tokens of this model: '<0x80>' \(131\)"):
        contrast_id(llama2(), CUT)
    assert contrast_id(llama2(), "xx") is None


def test_a_normalizer_changes_what_the_tokens_say() -> None:
    bpe = metaspace("always")
    bpe.backend_tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    assert texts(bpe, "X  RETURN") == [" x", " return"]
