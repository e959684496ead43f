"""A span is found as the prompt says it, whatever the tokenizer makes of it: by offsets into the prompt as given."""

from typing import Any

import checkpoints
import pytest
from test_chat_templates import LLAMA2, words
from test_token_text import fast, llama2, metaspace
from test_units import Slow
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from mask_impact.errors import UserError
from mask_impact.prompt.inputs import text_inputs
from mask_impact.prompt.unit_syntax import Chosen
from mask_impact.prompt.units import Unit, units


def of(tokenizer: Any, prompt: str, *spans: str, **how: Any) -> list[Unit]:
    inputs = text_inputs(tokenizer, prompt, **how)
    return units(Chosen.of(spans=spans), tokenizer, inputs, inputs.tokens, "text")


def texts(tokenizer: Any, prompt: str, span: str, **how: Any) -> list[str]:
    """Of the tokens of a span."""
    (unit,) = of(tokenizer, prompt, span, **how)
    tokens = text_inputs(tokenizer, prompt, **how).tokens
    return [tokens[position].text for position in unit.positions]


def normalizing(*steps: Any) -> Any:
    """Whole words, after these normalizers."""
    pieces = ["<unk>", "▁", "▁the", "▁house", "...", "▁is", "▁red", "▁cafe", *"abcdefghijklmnopqrstuvwxyz."]
    unigram = Tokenizer(models.Unigram([(piece, -1.0 if len(piece) > 1 else -9.0) for piece in pieces], 0))
    unigram.normalizer = normalizers.Sequence(list(steps))
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    unigram.decoder = decoders.Metaspace()
    return fast(unigram, unk_token="<unk>")


NFKC = normalizers.NFKC()
ONE_SPACE = normalizers.Replace(Regex(" {2,}"), " ")
LOWER = normalizers.Lowercase()
ACCENTS = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])
TRIM = normalizers.Strip()

AS_WRITTEN = [  # normalizers, prompt, span, texts of its tokens
    ([NFKC], "the house… is red", "house…", [" house", "..."]),
    ([NFKC], "the house… is red", "…", ["..."]),
    ([NFKC], "the ｈｏｕｓｅ is red", "ｈｏｕｓｅ", [" house"]),
    ([ONE_SPACE], "the  house is red", "the  house", [" the", " house"]),
    ([ONE_SPACE], "the  house is red", "house is", [" house", " is"]),
    ([LOWER], "The HOUSE is red", "HOUSE is", [" house", " is"]),
    ([LOWER], "The HOUSE is red", "/[A-Z]{2,}/", [" house"]),
    ([ACCENTS], "the café is red", "café", [" cafe"]),
    ([ACCENTS], "the cafe\u0301 is red", "cafe\u0301", [" cafe"]),
    ([LOWER, ACCENTS], "the CAFÉ is red", "CAFÉ", [" cafe"]),
    ([TRIM], "  the house", "house", [" house"]),
    ([NFKC], "the house… is red", "house...", [" house", "..."]),  # as the tokens say
    ([LOWER], "The HOUSE is red", "house", [" house"]),
]


@pytest.mark.parametrize(("steps", "prompt", "span", "expected"), AS_WRITTEN)
def test_normalizers(steps: list[Any], prompt: str, span: str, expected: list[str]) -> None:
    assert texts(normalizing(*steps), prompt, span) == expected


def test_the_label_is_the_prompts_own_text() -> None:
    assert [unit.label for unit in of(normalizing(NFKC), "the house… is red", "house…")] == ["house…"]


def test_nowhere_says_what_the_tokenizer_made_of_the_prompt() -> None:
    with pytest.raises(UserError, match=r"stands nowhere in the prompt 'The CAFÉ' \(to the tokenizer: ' the cafe'\)"):
        of(normalizing(LOWER, ACCENTS), "The CAFÉ", "cafÉ")
    with pytest.raises(UserError, match="stands nowhere in the prompt 'the house'; give"):  # nothing was changed
        of(normalizing(LOWER), "the house", "mouse")


@pytest.mark.parametrize("scheme", ["always", "first", "never"])
def test_runs_of_spaces(scheme: str) -> None:
    found = metaspace(scheme)
    assert "".join(texts(found, "x    return  x", "    return")) == "    return"
    assert "".join(texts(llama2(), "x    ret  x", "    ret")) == "    ret"


def test_a_space_that_the_tokenizer_put_before_the_text_belongs_to_no_span() -> None:
    (unit,) = of(metaspace("always"), "1 2", "1")
    assert unit.positions == (1,)


def test_in_a_conversation() -> None:
    """The offsets are those of the whole text in the template."""
    prompt = "Ann has a blue cup."
    assert texts(words(), prompt, "blue cup", chat=True) == [" blue", " cup"]
    assert "".join(texts(words(), prompt, "assistant\n", chat=True)) == "assistant\n"
    turns = [
        {"role": "user", "content": "red"},
        {"role": "assistant", "content": "blue"},
        {"role": "user", "content": "a"},
    ]
    assert "".join(texts(words(), "", "red<|im_end|>\n<|im_start|>assistant\nblue", messages=turns)) == (
        "red<|im_end|>\n<|im_start|>assistant\nblue"
    )
    assert "".join(texts(words(LLAMA2, "<|im_start|>"), prompt, "cup. [/INST]", chat=True)).strip() == "cup. [/INST]"


def test_across_a_token_that_the_tokenizer_added() -> None:
    assert texts(llama2(), "x ret", "/<s>.*x/") == ["<s>", " x"]
    assert texts(llama2(), "x ret", "<s>") == ["<s>"]


def test_a_tokenizer_without_offsets() -> None:
    slow = Slow(normalizing(LOWER))
    assert texts(slow, "The HOUSE is red", "house is") == [" house", " is"]
    with pytest.raises(UserError, match=r"stands nowhere in the prompt 'The HOUSE is red'"):
        of(slow, "The HOUSE is red", "HOUSE")
    assert texts(Slow(checkpoints.tokenizer()), "Ann has a blue cup", "blue cup") == [" blue", " cup"]


def test_words_are_the_prompts_own() -> None:
    inputs = text_inputs(normalizing(LOWER, ACCENTS), "The CAFÉ is red")
    found = units(Chosen.of("word"), normalizing(LOWER, ACCENTS), inputs, inputs.tokens, "text")
    assert [unit.label for unit in found] == ["The", "CAFÉ", "is", "red"]


def test_a_text_with_an_equals_sign_is_not_taken_for_a_name() -> None:
    tokenizer = checkpoints.tokenizer()
    for prompt, span in (("if a=b then", "a=b"), ("x=12 or y", "x=12")):
        with pytest.raises(UserError, match=f"the prompt has this text.*write '={span}' for the text"):
            of(tokenizer, prompt, span)
        (unit,) = of(tokenizer, prompt, f"={span}")
        assert unit.label == span
    (unit,) = of(tokenizer, "if a=b then", "name=then")
    assert unit.label == "name"


def test_a_word_that_the_tokenizer_does_not_know_is_found_where_it_stands() -> None:
    tokenizer = normalizing(NFKC)
    assert tokenizer("the €uro is")["input_ids"].count(0) == 1  # the unknown token
    for prompt, span in (("the € is", "€"), ("the € is", "€ is"), ("the €", "€")):
        assert len(of(tokenizer, prompt, span)[0].positions) >= 1, (prompt, span)
