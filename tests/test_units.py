"""What is masked together: tokens, words, sentences, spans and regions, with real tokenizers and processors."""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast
from vl_families import make_vl_checkpoint, picture

from mask_impact.errors import UserError
from mask_impact.model.find import find_model
from mask_impact.model.load import load_tokenizer
from mask_impact.model.processors import load_processor
from mask_impact.prompt.grids import Layout
from mask_impact.prompt.inputs import ModelInputs, Token, text_inputs, tokens_of
from mask_impact.prompt.unit_syntax import Chosen, Region, RegionMask, Span, parse_region, parse_region_mask, parse_span
from mask_impact.prompt.units import MASKED, Unit, _region_mask, units
from mask_impact.prompt.vision import open_pictures, vision_inputs
from mask_impact.prompt.words import _by_offsets, _by_texts, reading

ROOT = Path(__file__).parent.parent
TOM = "Tom has a red ball. Ann has a blue cup. Ann's cup is blue."


# --- tokenizers -------------------------------------------------------------------------------------------
def byte_level() -> Any:
    return checkpoints.tokenizer()


def trimming() -> Any:
    """Offsets without the space around a token, as Llama 3, GPT-NeoX and others give them."""
    tokenizer = checkpoints.tokenizer()
    tokenizer.add_tokens([AddedToken(".\n", normalized=False)])
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return tokenizer


def sentencepiece() -> Any:
    """As Llama 2: a space is "▁", one is put in front and taken away in decoding, other characters are bytes."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁▁", "▁t", "▁th", "▁the", "."]
    letters = [letter for letter in "abcdefghijklmnopqrstuvwxyzTASG'?!" if letter not in pieces]
    vocabulary = {piece: index for index, piece in enumerate([*pieces, *letters])}
    merges = [("▁", "▁"), ("▁", "t"), ("▁t", "h"), ("▁th", "e")]
    bpe = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    bpe.decoder = decoders.Sequence(parts)
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


class Slow:
    """A tokenizer without offsets, as those written in Python are."""

    is_fast = False

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)

    def __call__(self, *args: Any, **settings: Any) -> Any:
        assert "return_offsets_mapping" not in settings
        return self.tokenizer(*args, **settings)


def demo() -> Any:
    return load_tokenizer(find_model("demo"))


def demo_vl() -> Any:
    return load_processor(find_model("demo", vision=True)).tokenizer


TOKENIZERS: dict[str, Callable[[], Any]] = {
    made.__name__: cache(made) for made in (byte_level, trimming, sentencepiece, demo, demo_vl)
}
TOKENIZERS["slow"] = cache(lambda: Slow(byte_level()))


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return TOKENIZERS[request.param]()


def with_tokens(text: str, tokenizer: Any = None, chat: bool = False) -> tuple[ModelInputs, list[Token]]:
    inputs = text_inputs(tokenizer or byte_level(), text, chat)
    return inputs, inputs.tokens


def found(
    unit: str, tokenizer: Any, text: str, chat: bool = False, generated: Sequence[int] = (), mode: str = "text"
) -> list[Unit]:
    inputs = text_inputs(tokenizer, text, chat)
    tokens = [*inputs.tokens, *tokens_of(tokenizer, generated, first=len(inputs.tokens))]
    return units(Chosen.of(unit), tokenizer, inputs, tokens, mode)


def labels(unit: str, tokenizer: Any, text: str, **more: Any) -> list[str]:
    return [each.label for each in found(unit, tokenizer, text, **more)]


def spelt(tokenizer: Any, text: str) -> list[int]:
    """The ids of a text letter by letter, as a tokenizer would not cut it."""
    return [token_id for letter in text for token_id in tokenizer(letter, add_special_tokens=False)["input_ids"]]


def covered(found: Sequence[Unit]) -> list[int]:
    return [position for unit in found for position in unit.positions]


def check_parts(found: Sequence[Unit], tokens: Sequence[Token], mode: str = "text") -> None:
    """They are the maskable tokens, each once, in order; a unit of several tokens has text tokens alone."""
    assert covered(found) == [token.position for token in tokens if MASKED[mode](token)]
    for unit in found:
        assert unit.positions == tuple(range(unit.positions[0], unit.positions[-1] + 1))
        kinds = {tokens[position].kind for position in unit.positions}
        assert len(unit.positions) == 1 or kinds == {"text"}
        blank = all(tokens[position].text.isspace() for position in unit.positions)
        assert blank or unit.label == unit.label.strip() != ""


# --- what was asked for -----------------------------------------------------------------------------------
def test_chosen_is_plain_data():
    chosen = Chosen.of(spans=["a", "b=/c/"], regions="0,0,1,1", region_masks=("m.png",))
    assert chosen == Chosen("span", ("a", "b=/c/"), ("0,0,1,1",), ("m.png",)) and hash(chosen)
    again = json.loads(json.dumps(dataclasses.asdict(chosen)))
    assert Chosen(**{key: tuple(value) if key != "unit" else value for key, value in again.items()}) == chosen


def test_plain():
    assert Chosen().plain and Chosen.of().plain and Chosen.of("token").plain
    assert not any(chosen.plain for chosen in (Chosen("word"), Chosen(spans=("a",)), Chosen.of(regions=["0,0,0,0"])))


def test_spans_are_implied():
    assert Chosen.of(spans="cup") == Chosen("span", ("cup",)) == Chosen.of("span", ["cup"])
    assert units(Chosen(spans=("red",)), byte_level(), *with_tokens(TOM), "text") == [Unit("red", (3,))]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Chosen.of("letter"), "unknown unit 'letter'; choose from token, word, sentence, span"),
        (lambda: Chosen.of("word", "a"), "unit 'word' and --span 'a' were both given; leave one of them away"),
        (
            lambda: Chosen.of("sentence", regions="0,0,1,1"),
            "unit 'sentence' and --region '0,0,1,1' were both given; leave one of them away",
        ),
        (
            lambda: Chosen.of("token", region_masks="a.png"),
            "unit 'token' and --region-mask 'a.png' were both given; leave one of them away",
        ),
        (
            lambda: Chosen.of("span"),
            "unit 'span' was chosen, but no span; give --span, --region or --region-mask",
        ),
        (lambda: Chosen.of(spans=["a=x", "b=y", "a=z"]), "2 spans have the name 'a'; give each a name of its own"),
        (lambda: Chosen.of(spans="9-3"), "--span '9-3': the positions run backwards; write 3-9"),
        (
            lambda: Chosen.of(regions="9"),
            "--region '9' is no region; write row0,col0,row1,col1 such as 0,0,2,3, and for picture 1 1:0,0,2,3",
        ),
    ],
)
def test_what_cannot_be_meant(make, message):
    with pytest.raises(UserError) as error:
        make()
    assert str(error.value) == message


def test_no_torch_and_no_pillow_before_there_is_a_model():
    code = (
        "import sys; from mask_impact.prompt.unit_syntax import Chosen; "
        "Chosen.of(spans=['a', '/b/'], regions=['0,0,1,1']); "
        "assert not {'torch', 'PIL', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


# --- the texts --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("red", Span("", text="red")),
        (" red ", Span("", text=" red ")),
        ("colour=red", Span("colour", text="red")),
        ("colour=/red|blue/", Span("colour", regex="red|blue")),
        ("=a=b", Span("", text="a=b")),
        ("==", Span("", text="=")),
        ("2+2=4", Span("", text="2+2=4")),
        ("12", Span("", positions=(12, 12))),
        ("12-18", Span("", positions=(12, 18))),
        ("who=3-3", Span("who", positions=(3, 3))),
        ("-3", Span("", text="-3")),
        ("1-2-3", Span("", text="1-2-3")),
        ("image:0", Span("", image=0)),
        ("first=image:12", Span("first", image=12)),
        ("image: a cat", Span("", text="image: a cat")),
        ("/", Span("", text="/")),
        ("/usr/bin", Span("", text="/usr/bin")),
        (r"/\//", Span("", regex=r"\/")),
        ("/a=b/", Span("", regex="a=b")),
        ("größe=é", Span("größe", text="é")),
        ("٣", Span("", text="٣")),  # a digit, but none to count positions with
    ],
)
def test_parse_span(text, span):
    assert parse_span(text) == span


@pytest.mark.parametrize(
    ("text", "region"),
    [
        ("0,0,2,3", Region("", 0, 0, 0, 2, 3)),
        (" 1, 2 ,3,4", Region("", 0, 1, 2, 3, 4)),
        ("1:0,0,0,0", Region("", 1, 0, 0, 0, 0)),
        ("sky=1:0,0,2,3", Region("sky", 1, 0, 0, 2, 3)),
    ],
)
def test_parse_region(text, region):
    assert parse_region(text) == region


@pytest.mark.parametrize(
    ("text", "mask"),
    [
        ("m.png", RegionMask("", 0, "m.png")),
        ("1:m.png", RegionMask("", 1, "m.png")),
        ("cat=1:m.png", RegionMask("cat", 1, "m.png")),
        ("=a=b.png", RegionMask("", 0, "a=b.png")),
        ("c:/masks/m.png", RegionMask("", 0, "c:/masks/m.png")),
        ("masks/a=b.png", RegionMask("", 0, "masks/a=b.png")),
    ],
)
def test_parse_region_mask(text, mask):
    assert parse_region_mask(text) == mask


NO_SPAN = "is no span; write a text of the prompt, /a regular expression/, positions such as 12-18, or image:0"
NO_REGION = "is no region; write row0,col0,row1,col1 such as 0,0,2,3, and for picture 1 1:0,0,2,3"
NO_FILE = "names no file; write the path of an image, white where to mask"


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (parse_span, "", f"'' {NO_SPAN}"),
        (parse_span, "a=", f"'a=' {NO_SPAN}"),
        (parse_span, "18-12", "'18-12': the positions run backwards; write 12-18"),
        (parse_span, "//", "'//' is an empty regular expression; write one between the slashes"),
        (
            parse_span,
            "/(red/",
            "'/(red/' is not a regular expression (missing ), unterminated subpattern at position 0); mend it, or "
            "write the text without slashes around it",
        ),
        (parse_region, "", f"'' {NO_REGION}"),
        (parse_region, "1,2,3", f"'1,2,3' {NO_REGION}"),
        (parse_region, "1,2,3,-4", f"'1,2,3,-4' {NO_REGION}"),
        (parse_region, "a:1,2,3,4", f"'a:1,2,3,4' {NO_REGION}"),
        (parse_region, "3,0,1,2", "'3,0,1,2' runs backwards; write 1,0,3,2"),
        (parse_region_mask, "", f"'' {NO_FILE}"),
        (parse_region_mask, "a=0:", f"'a=0:' {NO_FILE}"),
    ],
)
def test_texts_that_are_wrong_by_themselves(parse, text, message):
    with pytest.raises(argparse.ArgumentTypeError) as error:
        parse(text)
    assert str(error.value) == message


# --- tokens -----------------------------------------------------------------------------------------------
def test_tokens_are_as_they_were(tokenizer):
    """With their spaces, and pieces of characters as the tokenizer shows them."""
    inputs = text_inputs(tokenizer, "a red 😀\n")
    expected = [Unit(token.text, (token.position,)) for token in inputs.tokens]
    assert units(Chosen(), tokenizer, inputs, inputs.tokens, "text") == expected


# --- words ------------------------------------------------------------------------------------------------
WORDS = {
    "A red ball. Ann's cup\n": ["A", "red", "ball", ".", "Ann's", "cup", "\n"],
    "well-known (it’s) a_b, 3.14": ["well-known", "(", "it’s", ")", "a_b", ",", "3", ".", "14"],
    "'quoted' -x- rock'n'roll": ["'", "quoted", "'", "-", "x", "-", "rock'n'roll"],
    "\ttabs\tand\n\nnew\r\nlines": ["tabs", "and", "new", "lines"],
    "a\u00a0b\u3000c": ["a", "b", "c"],
    "😀😀 ok 👍🏽": ["😀", "😀", "ok", "👍🏽"],
    "👩‍👩‍👧 ❤️‍🔥! 🇫🇷🇩🇪 1️⃣": ["👩‍👩‍👧", "❤️‍🔥", "!", "🇫🇷", "🇩🇪", "1️⃣"],
    "שלום עולם! מה שלומך?": ["שלום", "עולם", "!", "מה", "שלומך", "?"],
    "שָׁלוֹם מَرْحَبًا": ["שָׁלוֹם", "מَرْحَبًا"],  # vowels as characters of their own
    "می‌خواهم \u200fرفتن": ["می‌خواهم", "\u200fرفتن"],
    "हिन्दी में": ["हिन्दी", "में"],
    "cafe\u0301 au": ["cafe\u0301", "au"],
    "我喜欢猫。真的": ["我喜欢猫", "。", "真的"],  # no spaces: one word per run
    "a\0b": ["a\0b"],
}


@pytest.mark.parametrize("text", WORDS)
@pytest.mark.parametrize("name", ["byte_level", "trimming", "slow"])
def test_words(name, text):
    got = found("word", TOKENIZERS[name](), text)
    assert [unit.label for unit in got] == WORDS[text]
    check_parts(got, text_inputs(TOKENIZERS[name](), text).tokens)


def test_space_goes_to_the_word_that_follows():
    """Token by token: "a", " ", " ", " b", "\\n", "\\n", "." in one tokenizer."""
    tokenizer = byte_level()
    inputs, tokens = with_tokens("a   b\n\n. \n", tokenizer)
    assert [token.text for token in tokens] == ["a", " ", " ", " b", "\n", "\n", ".", " ", "\n"]
    expected = [Unit("a", (0,)), Unit("b", (1, 2, 3)), Unit(".", (4, 5, 6)), Unit(" \n", (7, 8))]
    assert units(Chosen("word"), tokenizer, inputs, tokens, "text") == expected


def test_parts_of_a_character_are_one_word(tokenizer):
    got = found("word", tokenizer, "a 😀! 你 b")
    emoji = next(unit for unit in got if unit.label == "😀")
    assert len(emoji.positions) >= 4  # bytes, in some tokenizers with the space before them
    assert [unit.label for unit in got if unit.label != "<s>"] == ["a", "😀", "!", "你", "b"]


def test_special_tokens_are_by_themselves():
    tokenizer = byte_level()
    inputs, tokens = with_tokens("Tom's cup.", tokenizer, chat=True)
    got = units(Chosen("word"), tokenizer, inputs, tokens, "text")
    start, end = "<|im_start|>", "<|im_end|>"
    assert [unit.label for unit in got] == [start, "user", "Tom's", "cup", ".", end, "\n", start, "assistant", "\n"]
    check_parts(got, tokens)


def test_special_token_of_letters_is_no_part_of_a_word():
    tokenizer = byte_level()
    tokenizer.add_tokens([AddedToken("TILE", special=True)], special_tokens=True)
    got = found("word", tokenizer, "redTILEball")
    assert [unit.label for unit in got] == ["red", "TILE", "ball"]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_generated_tokens_belong_to_the_text(name):
    """They may go on with the prompt's last word, and their spelling is the model's."""
    tokenizer = TOKENIZERS[name]()
    first = [] if name != "sentencepiece" else ["<s>"]
    generated = spelt(TOKENIZERS["byte_level"]() if name == "slow" else tokenizer, "ris!")
    if name == "sentencepiece":  # which spells every letter with a space
        generated = [tokenizer.convert_tokens_to_ids(letter) for letter in "ris!"]
    for count, last in enumerate(["Pa", "Par", "Pari", "Paris", "!"]):
        got = found("word", tokenizer, "is Pa", generated=generated[:count])
        assert [unit.label for unit in got][: len(first) + 2] == [*first, "is", "Pa" + "ris"[:count]]
        assert got[-1].label == last
        assert covered(got) == list(range(covered(got)[-1] + 1))


def test_prompt_words_stay_while_a_character_is_being_generated():
    tokenizer = byte_level()
    for text in ("Ann 😀 is", "שלום 👍🏽 x"):
        before = found("word", tokenizer, text)
        emoji = tokenizer(" 😀", add_special_tokens=False)["input_ids"]
        for count in range(1, len(emoji) + 1):
            got = found("word", tokenizer, text, generated=emoji[:count])
            assert got[: len(before)] == before
            expected = {1: " ", len(emoji): "😀"}.get(count)
            assert expected is None or got[-1].label == expected
            assert len(got) == len(before) + 1
    length = len(tokenizer("Ann")["input_ids"])
    expected = Unit("😀", tuple(range(length, length + len(emoji))))
    assert found("word", tokenizer, "Ann", generated=emoji)[-1] == expected


# --- sentences --------------------------------------------------------------------------------------------
SENTENCES = {
    TOM: ["Tom has a red ball.", "Ann has a blue cup.", "Ann's cup is blue."],
    "One! Two? Three… Four": ["One!", "Two?", "Three…", "Four"],
    "Really?! (Yes.) “No.” so 3.14 is a.b": ["Really?!", "(Yes.)", "“No.”", "so 3.14 is a.b"],
    "first line\nsecond line\r\n\r\nthird. fourth\n": ["first line", "second line", "third.", "fourth", "\n"],
    "Mr. Smith": ["Mr.", "Smith"],  # the rule is no more than it says
    "我喜欢猫。你呢？“好！”真的": ["我喜欢猫。", "你呢？", "“好！”", "真的"],
    "مرحبا. كيف حالك؟ بخير": ["مرحبا.", "كيف حالك؟", "بخير"],
    "😀! 👍🏽": ["😀!", "👍🏽"],
    "no end": ["no end"],
}


@pytest.mark.parametrize("text", SENTENCES)
@pytest.mark.parametrize("name", ["byte_level", "trimming", "slow"])
def test_sentences(name, text):
    got = found("sentence", TOKENIZERS[name](), text)
    assert [unit.label for unit in got] == SENTENCES[text]
    check_parts(got, text_inputs(TOKENIZERS[name](), text).tokens)


def test_sentences_in_a_chat():
    tokenizer = byte_level()
    got = found("sentence", tokenizer, "Tom is red. Ann?", chat=True, generated=[*spelt(tokenizer, " No. Yes"), 2])
    start, end = "<|im_start|>", "<|im_end|>"
    assert [unit.label for unit in got] == [
        start, "user", "Tom is red.", "Ann?", end, "\n", start, "assistant", "No.", "Yes", end
    ]  # fmt: skip


# --- any text ---------------------------------------------------------------------------------------------
PIECES = [
    *"abcXYZ019_", *".,!?…'’\"-()/=", *" \t\n\r\u00a0\u3000", "  ", "\n\n", ". ", "red", " ball", " Ann's", "don't",
    "é", "e\u0301", "ß", "😀", "👍🏽", "👩‍👩‍👧", "🇫🇷", "\u200d", "\u200c", "\u200f", "\ufffd", "\0", "שלום", "שָׁ",
    "مرحبا", "؟", "हिन्दी", "。", "你好", "！", "¿", "—", "“", "”", "𝔘", "<|im_end|>", "<s>", "\x1c",
    "\x85", "\u2028", "ﬁ",
]  # fmt: skip


def random_texts(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return ["a" + "".join(draw.choices(PIECES, k=draw.randint(0, 30))) for _ in range(count)]


@pytest.mark.parametrize("unit", ["word", "sentence"])
def test_parts_of_any_text(tokenizer, unit):
    ids = sorted(set(tokenizer.get_vocab().values()))
    draw = random.Random(5)
    for text in random_texts(60, seed=1):
        inputs = text_inputs(tokenizer, text)
        generated = tokens_of(tokenizer, draw.choices(ids, k=draw.randint(0, 6)), first=len(inputs.tokens))
        tokens = [*inputs.tokens, *generated]
        got = units(Chosen(unit), tokenizer, inputs, tokens, "text")
        assert covered(got) == list(range(len(tokens))), repr(text)
        assert all(len(each.positions) == 1 or tokens[each.positions[0]].kind == "text" for each in got)
        before = units(Chosen(unit), tokenizer, inputs, inputs.tokens, "text")
        # What is generated may go on with the last part, and take the space after it
        kept = before[:-2]
        assert got[: len(kept)] == kept, repr(text)


@pytest.mark.parametrize("name", ["byte_level", "trimming", "demo", "demo_vl"])
def test_offsets_and_texts_agree(name):
    """Two ways to the same: where the tokens stand in the decoded text."""
    tokenizer, exact = TOKENIZERS[name](), 0
    for text in random_texts(150, seed=2):
        tokens = text_inputs(tokenizer, text).tokens
        by_texts, by_offsets = _by_texts(tokenizer, tokens), _by_offsets(tokenizer, tokens)
        assert by_texts[0] == tokenizer.decode([token.id for token in tokens])
        if by_offsets is None:
            continue
        exact += 1
        assert by_offsets[0] == by_texts[0]
        for token, inner, outer in zip(tokens, by_offsets[1], by_texts[1], strict=True):
            assert outer[0] <= inner[0] <= inner[1] <= outer[1], repr(text)
            assert inner == outer or "\ufffd" in token.text, repr(text)  # parts of several characters in a row
    assert exact > 100


def test_offsets_cover_the_text(tokenizer):
    for text in random_texts(60, seed=3):
        tokens = text_inputs(tokenizer, text).tokens
        shown = reading(tokenizer, tokens, len(tokens))
        assert shown.places[0][0] == 0 and shown.places[-1][1] == len(shown.text)
        assert all(right[0] <= left[1] and left[0] <= right[0] for left, right in pairwise(shown.places)), repr(text)


@cache
def letters() -> Any:
    """A tokenizer whose tokens are characters."""
    alphabet = sorted({*map(chr, range(1, 0x250)), *"".join(PIECES), "<unk>"})
    bpe = Tokenizer(models.BPE({letter: index for index, letter in enumerate(alphabet)}, [], unk_token="<unk>"))
    bpe.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=bpe, unk_token="<unk>")


def test_words_of_any_text_letter_by_letter():
    """Against a definition of their own: where every token is a character, a word is what the text says it is."""
    word = re.compile(r"[a-z0-9_]+(?:['’-][a-z0-9_]+)*|[^\sa-z0-9_]", re.IGNORECASE)
    draw = random.Random(7)
    for _ in range(300):
        text = "a" + "".join(draw.choices("abC1_'’-.,! \t\n", k=draw.randint(0, 40)))
        got = labels("word", letters(), text)
        assert got[: -1 if got[-1].isspace() else None] == word.findall(text), repr(text)


def test_sentences_of_any_text_letter_by_letter():
    draw = random.Random(8)
    for _ in range(300):
        text = "a" + "".join(draw.choices("abc.!?\")' \n", k=draw.randint(0, 40)))
        got = labels("sentence", letters(), text)
        lines = [line for line in text.split("\n") if line.strip()]
        cut = [part for line in lines for part in re.sub(r"([.!?]+[\"')]*)(?=\s|$)", r"\1\0", line).split("\0")]
        assert got[: -1 if got[-1].isspace() else None] == [part.strip() for part in cut if part.strip()], repr(text)


# --- spans ------------------------------------------------------------------------------------------------
def span(tokenizer: Any, text: str, *spans: str, chat: bool = False) -> list[Unit]:
    inputs, tokens = with_tokens(text, tokenizer, chat)
    return units(Chosen.of(spans=spans), tokenizer, inputs, tokens, "text")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("red", Unit("red", (3,))),
        (" red", Unit("red", (3,))),
        ("red ball. Ann", Unit("red ball. Ann", (3, 4, 5, 6))),
        ("ed b", Unit("red ball", (3, 4))),  # every token that has one of its characters
        ("what=red ball", Unit("what", (3, 4))),
        (r"/\bb\w+l\b/", Unit("ball", (4,))),
        ("colour=/(?i)RED|green/", Unit("colour", (3,))),
        ("3", Unit("red", (3,))),
        ("3-5", Unit("red ball.", (3, 4, 5))),
        ("0-0", Unit("Tom", (0,))),
        (TOM, Unit(TOM, tuple(range(18)))),
    ],
)
@pytest.mark.parametrize("name", ["byte_level", "trimming", "slow"])
def test_spans(name, given, expected):
    assert span(TOKENIZERS[name](), TOM, given) == [expected]


def test_spans_may_overlap_and_keep_their_order():
    got = span(byte_level(), TOM, "red ball", "a red", "12", "/T.m/")
    assert [unit.positions for unit in got] == [(3, 4), (2, 3), (12,), (0,)]


def test_spans_of_parts_of_characters(tokenizer):
    text = "a 😀😁 b"
    tokens = text_inputs(tokenizer, text).tokens
    for emoji in "😀😁":
        (unit,) = span(tokenizer, text, emoji)
        ids = [tokens[position].id for position in unit.positions]
        assert unit.label == emoji and tokenizer.decode(ids).strip() == emoji


def test_spans_of_space_that_the_offsets_leave_out():
    tokens = text_inputs(TOKENIZERS["trimming"](), "a.\n b").tokens
    assert [token.text for token in tokens] == ["a", ".\n", " b"]
    got = span(TOKENIZERS["trimming"](), "a.\n b", "a.", "x=.\n", "y=/\\n/", "z=/ b/")
    assert [unit.positions for unit in got] == [(0, 1), (1,), (1,), (2,)]


def test_spans_of_characters_that_tokens_cut_across():
    """The offsets know that "é" ends in the token that "è" begins in; the tokens' texts, that they are two or three."""
    first, second = ("".join(byte_level().backend_tokenizer.pre_tokenizer.pre_tokenize_str(e)[0][0]) for e in "éè")
    pieces = [*dict.fromkeys([*first, *second]), first[1] + second[0]]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    bpe = Tokenizer(models.BPE(vocabulary, [(first[1], second[0])]))
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe)
    assert len(text_inputs(tokenizer, "éè").tokens) == 3
    got = span(tokenizer, "éè", "é", "e=è")
    assert [unit.positions for unit in got] == [(0, 1), (1, 2)]
    got = span(Slow(tokenizer), "éè", "é")
    assert [unit.positions for unit in got] == [(0, 1, 2)]


def test_spans_of_special_tokens():
    tokenizer = byte_level()
    (unit,) = span(tokenizer, "im red", "<|im_start|>user", chat=True)
    assert unit == Unit("<|im_start|>user", (0, *unit.positions[1:]))
    (unit,) = span(tokenizer, "im red", "im", chat=True)  # no part of <|im_start|>
    assert unit.label == "im"


def test_spans_are_of_the_prompt_alone():
    """What is generated may say it again."""
    tokenizer = byte_level()
    inputs = text_inputs(tokenizer, "Tom is red")
    generated = tokens_of(tokenizer, tokenizer(" red red")["input_ids"], first=len(inputs.tokens))
    for tokens in (inputs.tokens, [*inputs.tokens, *generated]):
        (unit,) = units(Chosen.of(spans="red"), tokenizer, inputs, tokens, "text")
        assert unit.label == "red" and unit.positions[-1] == len(inputs.tokens) - 1


def test_spans_of_random_places(tokenizer):
    """The tokens of a text that stands once have it, and none of them could be left away at the ends."""
    draw, tried = random.Random(9), 0
    for text in random_texts(80, seed=4):
        tokens = text_inputs(tokenizer, text).tokens
        shown = reading(tokenizer, tokens, len(tokens))
        start = draw.randrange(len(shown.text))
        given = shown.text[start : start + draw.randint(1, 8)]
        if len(re.findall(f"(?={re.escape(given)})", shown.text)) > 1 or not {"<", "|", ">"}.isdisjoint(given):
            continue
        inputs = text_inputs(tokenizer, text)
        inside = [token for token in tokens if token.kind == "special"]
        if any(given in token.text for token in inside):
            continue
        (unit,) = units(Chosen.of(spans=f"name=/{re.escape(given)}/"), tokenizer, inputs, tokens, "text")
        end, positions = start + len(given), set(unit.positions)
        assert unit.positions == tuple(sorted(positions))
        for position, (first, last) in enumerate(shown.places):
            assert (position in positions) == (first < end and last > start), (text, given)
        tried += 1
    assert tried > 30


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        (
            ["cup"],
            "--span 'cup' stands at 2 places: at position 10 in \"… has a blue cup. Ann's cup …\", at position 14 in "
            '"… cup. Ann\'s cup is blue."; give more of the text around it, or positions such as 10',
        ),
        (
            ["/[Aa]nn('s)? \\w+/"],
            "--span \"/[Aa]nn('s)? \\\\w+/\" stands at 2 places: at positions 6-7 in '…a red ball. Ann has a blue "
            "cup.…', at positions 12-14 in \"…a blue cup. Ann's cup is blue.\"; give more of the text around it, or "
            "positions such as 6-7",
        ),
        (
            ["Cup"],
            f"--span 'Cup' stands nowhere in the prompt {TOM!r}; "
            "give a text that does, exactly as it is written there, or positions from 0 to 17",
        ),
        (
            ["/x*/"],
            f"--span '/x*/' stands nowhere in the prompt {TOM!r}; "
            "give a text that does, exactly as it is written there, or positions from 0 to 17",
        ),
        (["3-18"], "--span '3-18': there is no position 18; the prompt has 0 to 17 (digits that are a text: /18/)"),
        (["image:0"], "--span 'image:0' needs an image, but none was given; add --image, or give a text of the prompt"),
        (
            ["red", "/r.d/"],
            "--span 'red' and --span '/r.d/' would both stand in the table as 'red' at position 3; leave one away, or "
            "give it a name: NAME=...",
        ),
    ],
)
def test_spans_that_are_not_there(spans, message):
    with pytest.raises(UserError) as error:
        span(byte_level(), TOM, *spans)
    assert str(error.value) == message


def test_many_places_are_not_all_listed():
    with pytest.raises(UserError) as error:
        span(byte_level(), "aaaaaa" + " b" * 40, "aa")
    assert str(error.value) == (
        "--span 'aa' stands at 5 places: at positions 0-1 in 'aaaaaa b b b b…', at positions 1-2 in "
        "'aaaaaa b b b b …', at positions 2-3 in 'aaaaaa b b b b b…', at positions 3-4 in 'aaaaaa b b b b b …', and 1 "
        "more; give more of the text around it, or positions such as 0-1"
    )
    with pytest.raises(UserError, match=f"the prompt 'aaaaaa{' b' * 27}…';"):
        span(byte_level(), "aaaaaa" + " b" * 40, "c")


def test_region_of_a_text():
    inputs, tokens = with_tokens(TOM)
    for more, what in (({"regions": "0,0,1,1"}, "--region '0,0,1,1'"), ({"region_masks": "m"}, "--region-mask 'm'")):
        with pytest.raises(UserError) as error:
            units(Chosen.of(**more), byte_level(), inputs, tokens, "text")
        expected = "needs an image, but none was given; add --image, or give a text of the prompt"
        assert str(error.value) == f"{what} {expected}"


# --- pictures ---------------------------------------------------------------------------------------------
@pytest.fixture(scope="session")
def vl_source(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("units")

    @cache
    def load(name: str) -> tuple[Any, Any]:
        path = "demo" if name == "demo" else str(make_vl_checkpoint(name, root / name))
        source = find_model(path, vision=True)
        return load_processor(source), source.config

    return load


@pytest.fixture
def encode(vl_source: Any) -> Any:
    def call(name: str, prompt: str, *pictures: Any) -> tuple[Any, ModelInputs]:
        processor, config = vl_source(name)
        return processor.tokenizer, vision_inputs(processor, config, prompt, open_pictures(list(pictures)))

    return call


TESTIMG = str(ROOT / "testimg.png")
QUESTION = "What color is the circle? Or is it 😀?"
AROUND = {  # what stands beside the picture, and what is generated
    "word": ["Look", ":", "What", "color", "is", "the", "circle", "?", "Or", "it", "😀", "red", "."],
    "sentence": ["What color is the circle?", "Or is it 😀?", "red."],
}
FAMILIES = {"demo": TESTIMG, "qwen2_vl": picture(112, 84), "gemma3": picture(80, 80), "llava_pixtral": picture(64, 48)}


@pytest.mark.parametrize("mode", MASKED)
@pytest.mark.parametrize("name", FAMILIES)
def test_words_and_sentences_around_pictures(name, mode, encode):
    tokenizer, inputs = encode(name, f"Look: <image> {QUESTION}", FAMILIES[name])
    generated = spelt(tokenizer, "red.") if name != "gemma3" else tokenizer("red.")["input_ids"][1:]
    tokens = [*inputs.tokens, *tokens_of(tokenizer, generated, first=len(inputs.tokens))]
    for unit in ("word", "sentence"):
        got = units(Chosen(unit), tokenizer, inputs, tokens, mode)
        check_parts(got, tokens, mode)
        shown = [each.label for each in got if tokens[each.positions[0]].kind == "text"]
        assert all(label in shown for label in AROUND[unit]) if mode != "vision" else not shown
        patches = [each for each in got if tokens[each.positions[0]].kind == "image"]
        assert len(patches) == (inputs.images[0]["tokens"] if mode != "text" else 0)


@pytest.mark.parametrize("name", FAMILIES)
def test_text_of_the_processors_prompt_is_exact(name, encode):
    tokenizer, inputs = encode(name, QUESTION, FAMILIES[name])
    assert _by_offsets(tokenizer, inputs.tokens) is not None


@pytest.mark.parametrize("mode", MASKED)
@pytest.mark.parametrize("name", FAMILIES)
def test_spans_with_a_picture(name, mode, encode):
    tokenizer, inputs = encode(name, QUESTION, FAMILIES[name])
    spans = ["image:0", "it=image:0", "the circle", "q=/What.*circle/"]
    got = units(Chosen.of(spans=spans), tokenizer, inputs, inputs.tokens, mode)
    own = tuple(token.position for token in inputs.tokens if token.image == 0)
    assert got[0] == Unit("image:0", own) and got[1] == Unit("it", own)
    assert [unit.label for unit in got[2:]] == ["the circle", "q"]
    assert set(got[2].positions) < set(got[3].positions)


def test_positions_over_a_picture_write_its_token_once(encode):
    tokenizer, inputs = encode("demo", QUESTION, TESTIMG)
    first, last = inputs.images[0]["positions"]
    spans = f"{first - 1}-{last + 1}"
    (unit,) = units(Chosen.of(spans=spans), tokenizer, inputs, inputs.tokens, "text")
    assert unit.label == "<|vision_start|><|image_pad|><|vision_end|>"
    assert unit.positions == tuple(range(first - 1, last + 2))


def test_image_is_no_text_of_an_image_token(encode):
    tokenizer, inputs = encode("demo", "What is in this image?", TESTIMG)
    (unit,) = units(Chosen.of(spans="image"), tokenizer, inputs, inputs.tokens, "text")
    assert unit.label == "image"
    with pytest.raises(UserError, match=r"--span '<\|image_pad\|>' stands at 16 places: .*, and 12 more; "):
        units(Chosen.of(spans="<|image_pad|>"), tokenizer, inputs, inputs.tokens, "text")


def test_regions(encode):
    tokenizer, inputs = encode("qwen2_vl", "Compare.", picture(112, 84), picture(56, 112, seed=1))
    assert [image["grid"] for image in inputs.images] == [[4, 3], [2, 4]]
    (first, _), (second, _) = (image["positions"] for image in inputs.images)
    chosen = Chosen.of(regions=["0,0,3,2", "1,1,2,1", "corner=1:1,3,1,3", "1:0,2,1,3"])
    got = units(chosen, tokenizer, inputs, inputs.tokens, "text")  # whatever the mask mode
    assert got == [
        Unit("region 0,0,3,2", tuple(range(first, first + 12))),
        Unit("region 1,1,2,1", (first + 4, first + 7)),
        Unit("corner", (second + 7,)),
        Unit("region 1:0,2,1,3", (second + 2, second + 3, second + 6, second + 7)),
    ]


def test_regions_and_spans_together(encode):
    tokenizer, inputs = encode("demo", QUESTION, TESTIMG)
    chosen = Chosen.of(spans="circle", regions="0,0,1,1")
    got = units(chosen, tokenizer, inputs, inputs.tokens, "vision")
    assert [unit.label for unit in got] == ["circle", "region 0,0,1,1"]
    for position in got[1].positions:
        token = inputs.tokens[position]
        assert token.kind == "image" and token.row in (0, 1) and token.col in (0, 1)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (
            Chosen(regions=("0,0,4,1",)),
            "--region '0,0,4,1' goes beyond the 4 x 3 grid of picture 0; give rows from 0 to 3 and columns from 0 to 2",
        ),
        (
            Chosen(regions=("sky=0,0,0,3",)),
            "--region 'sky=0,0,0,3' goes beyond the 4 x 3 grid of picture 0; give rows from 0 to 3 and columns from 0 "
            "to 2",
        ),
        (
            Chosen(regions=("1:0,0,0,0",)),
            "--region '1:0,0,0,0': there is no picture 1; only picture 0 is there (the first is picture 0)",
        ),
        (
            Chosen(spans=("image:7",)),
            "--span 'image:7': there is no picture 7; only picture 0 is there (the first is picture 0)",
        ),
        (
            Chosen(region_masks=("nowhere.png",)),
            "the image nowhere.png does not exist; give the path of an image file on this machine",
        ),
    ],
)
def test_regions_that_are_not_there(chosen, message, encode):
    tokenizer, inputs = encode("qwen2_vl", "Why?", picture(112, 84))
    with pytest.raises(UserError) as error:
        units(chosen, tokenizer, inputs, inputs.tokens, "both")
    assert str(error.value) == message


def test_picture_that_is_not_among_several(encode):
    tokenizer, inputs = encode("qwen2_vl", "Why?", picture(112, 84), picture(56, 56))
    with pytest.raises(UserError, match=r"there is no picture 2; pictures 0 to 1 are there \(the first is picture 0\)"):
        units(Chosen.of(spans="image:2"), tokenizer, inputs, inputs.tokens, "both")


def test_region_without_a_grid(encode):
    tokenizer, inputs = encode("llava_next", "Why?", picture(112, 84))
    first, last = inputs.images[0]["positions"]
    for more in ({"regions": "0,0,1,1"}, {"region_masks": TESTIMG}):
        chosen = Chosen.of(**more)
        with pytest.raises(UserError) as error:
            units(chosen, tokenizer, inputs, inputs.tokens, "both")
        flag, text = chosen.given[0]
        assert str(error.value) == (
            f"{flag} {text!r}: this model's tokens of picture 0 lie in no grid ({inputs.images[0]['layout']}); give "
            f"--span image:0, or positions from {first} to {last}"
        )
    (whole,) = units(Chosen.of(spans="image:0"), tokenizer, inputs, inputs.tokens, "both")
    assert len(whole.positions) == inputs.images[0]["tokens"]


# --- masks that are drawn ---------------------------------------------------------------------------------
def masked(encode: Any, path: Path, white: np.ndarray, name: str = "qwen2_vl", shown: Any = None) -> Unit:
    """The unit of a mask with these white pixels."""
    Image.fromarray(np.where(white, 255, 0).astype(np.uint8)).save(path)
    tokenizer, inputs = encode(name, "Why?", shown or picture(112, 84))
    (unit,) = units(Chosen.of(region_masks=str(path)), tokenizer, inputs, inputs.tokens, "text")
    return unit


def more_than_half(white: np.ndarray, rows: int, cols: int) -> np.ndarray:
    """[rows, cols] exact: every pixel of the mask cut into rows x cols pieces, counted by patch."""
    height, width = white.shape
    pieces = white.repeat(rows, axis=0).repeat(cols, axis=1).reshape(rows, height, cols, width)
    return pieces.sum(axis=(1, 3)) * 2 > height * width


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 5), (4, 3), (7, 4), (8, 6), (5, 64), (112, 84), (100, 333)])
def test_masks_of_any_size(size, encode, tmp_path):
    draw = np.random.default_rng(size[0])
    for chance in (0.4, 0.5, 0.7, 1.0):
        white = draw.random(size) < chance
        expected = more_than_half(white, 4, 3)
        if not expected.any():
            continue
        unit = masked(encode, tmp_path / "m.png", white)
        first = unit.positions[0] - int(np.flatnonzero(expected)[0])
        assert [position - first for position in unit.positions] == np.flatnonzero(expected).tolist()


def test_masks_over_grids_of_any_size(tmp_path):
    """Also where a half is a little more in floating point."""
    draw = np.random.default_rng(2)
    for _ in range(100):
        rows, cols, height, width = (int(number) for number in draw.integers(1, 30, 4))
        size = int(draw.integers(20, 400)), int(draw.integers(20, 400))
        box = (0.0, 0.0, float(size[0]), float(size[1]))
        places = Layout(rows * cols, size, rows, cols, box).places()
        tokens = [Token(at, 0, "", "image", 0, *place) for at, place in enumerate(places)]
        images = [{"grid": [rows, cols], "size": list(size)}]
        left = draw.random((height, width)) < 0.5
        white = np.stack([left, ~left], axis=2).reshape(height, 2 * width)  # so that many patches are half white
        expected = more_than_half(white, rows, cols).ravel()
        Image.fromarray(np.where(white, 255, 0).astype(np.uint8)).save(tmp_path / "m.png")
        inputs = ModelInputs({}, tokens, "", False, images)
        mask = RegionMask("", 0, str(tmp_path / "m.png"))
        if expected.any():
            assert _region_mask("", mask, inputs) == tuple(np.flatnonzero(expected).tolist())
        else:
            with pytest.raises(UserError, match="covers no more than half"):
                _region_mask("", mask, inputs)


def test_half_is_not_more_than_half(encode, tmp_path):
    """A column of this grid is 28 pixels wide."""
    shown = picture(84, 112)
    first, _ = encode("qwen2_vl", "Why?", shown)[1].images[0]["positions"]
    for edge, cols in ((15, 1), (42, 1), (43, 2), (56, 2), (84, 3)):
        white = np.zeros((84, 112), bool)
        white[:, :edge] = True
        unit = masked(encode, tmp_path / "m.png", white, shown=shown)
        assert unit.positions == tuple(first + 4 * row + col for row in range(3) for col in range(cols)), edge


def test_masks_where_the_grid_covers_the_middle(encode, tmp_path):
    """LLaVA's is cut to a square: what a mask has beside it counts for nothing."""
    shown = picture(56, 112)
    inputs = encode("llava", "Why?", shown)[1]
    first = inputs.images[0]["positions"][0]
    white = np.zeros((56, 112), bool)
    white[:28, :56] = True
    unit = masked(encode, tmp_path / "m.png", white, "llava", shown)
    expected = [token.position for token in inputs.tokens if token.box and token.box[2] <= 56 and token.box[3] <= 28]
    assert unit.positions == tuple(expected) == (first, first + 1, first + 4, first + 5)
    white[:] = False
    white[:, :28] = True
    with pytest.raises(UserError, match="covers no more than half of any patch"):
        masked(encode, tmp_path / "m.png", white, "llava", shown)


def test_masks_of_other_kinds(encode, tmp_path):
    """Grey above 127 is white; palettes, bits and 16 bits are as they look; rotated as a viewer shows it."""
    tokenizer, inputs = encode("qwen2_vl", "Why?", picture(112, 84))
    first = inputs.images[0]["positions"][0]
    grey = np.array([[127, 128, 0]], np.uint8)  # columns
    column = tuple(first + 3 * row + 1 for row in range(4))
    image = Image.fromarray(grey)
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    kinds = {
        "grey.png": (image, {}),
        "rgb.png": (image.convert("RGB"), {}),
        "palette.png": (image.convert("P"), {}),
        "bits.png": (image.point(lambda value: 255 * (value > 127)).convert("1"), {}),
        "deep.png": (Image.fromarray(grey.astype(np.uint16) * 257), {}),
        "turned.png": (Image.fromarray(grey[:, ::-1]), {"exif": exif}),
    }
    for name, (drawn, settings) in kinds.items():
        drawn.save(tmp_path / name, **settings)
        chosen = Chosen.of(region_masks=f"{name.split('.')[0]}={tmp_path / name}")
        assert units(chosen, tokenizer, inputs, inputs.tokens, "text") == [Unit(name.split(".")[0], column)], name


def test_mask_of_another_picture(encode, tmp_path):
    path = tmp_path / "m.png"
    Image.new("L", (3, 3), 255).save(path)
    tokenizer, inputs = encode("qwen2_vl", "Why?", picture(112, 84), picture(56, 112, seed=1))
    (unit,) = units(Chosen.of(region_masks=f"1:{path}"), tokenizer, inputs, inputs.tokens, "text")
    assert unit.label == f"1:{path}"
    assert unit.positions == tuple(token.position for token in inputs.tokens if token.image == 1)


def test_masks_that_mask_nothing(encode, tmp_path):
    path = tmp_path / "m.png"
    tokenizer, inputs = encode("qwen2_vl", "Why?", picture(112, 84))
    dot = Image.new("L", (400, 300), 0)
    dot.putpixel((3, 3), 255)
    for drawn, message in (
        (Image.new("L", (9, 9), 127), "is black all over; paint white what is to be masked"),
        (dot, "covers no more than half of any patch of picture 0 (4 x 3 grid); paint more of it white"),
        (
            Image.new("RGBA", (9, 9), (255, 255, 255, 10)),
            "has transparent parts; save it without transparency, white where to mask, else black",
        ),
    ):
        drawn.save(path)
        with pytest.raises(UserError) as error:
            units(Chosen.of(region_masks=str(path)), tokenizer, inputs, inputs.tokens, "text")
        assert str(error.value) == f"--region-mask {str(path)!r} {message}"
