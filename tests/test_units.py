"""What is masked together: tokens, words, sentences, and spans of text, with real tokenizers.

Units around and inside pictures are in test_picture_units.py.
"""

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
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast
from unit_checks import check_parts, covered, spelt

from mask_impact.errors import UserError
from mask_impact.model.find import find_model
from mask_impact.model.load import load_tokenizer
from mask_impact.model.processors import load_processor
from mask_impact.prompt.inputs import ModelInputs, Token, text_inputs, tokens_of
from mask_impact.prompt.unit_syntax import (
    Chosen,
    Region,
    RegionMask,
    Span,
    Visual,
    parse_region,
    parse_region_mask,
    parse_span,
)
from mask_impact.prompt.units import Unit, units
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

    def __len__(self) -> int:
        return len(self.tokenizer)

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
        (lambda: Chosen.of("letter"), "unknown unit 'letter'; choose from token, word, sentence, span, patch"),
        (lambda: Chosen.of("word", "a"), "unit 'word' and `spans` 'a' were both given; leave one of them out"),
        (
            lambda: Chosen.of("sentence", regions="0,0,1,1"),
            "unit 'sentence' and `regions` '0,0,1,1' were both given; leave one of them out",
        ),
        (
            lambda: Chosen.of("token", region_masks="a.png"),
            "unit 'token' and `region_masks` 'a.png' were both given; leave one of them out",
        ),
        (
            lambda: Chosen.of("span"),
            "unit 'span' was chosen, but no span; give `spans`, `regions` or `region_masks`",
        ),
        (lambda: Chosen.of(spans=["a=x", "b=y", "a=z"]), "2 spans have the name 'a'; give each a name of its own"),
        (lambda: Chosen.of(spans="9-3"), "`spans` '9-3': the positions run backwards; write 3-9"),
        (
            lambda: Chosen.of(regions="9"),
            "`regions` '9' is no region; write row0,col0,row1,col1 such as 0,0,2,3, for picture 1 1:0,0,2,3, and for a "
            "video or a frame video:0:0,0,2,3 or frame:3:0,0,2,3",
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
        ("image:0", Span("", visual=Visual(0))),
        ("first=image:12", Span("first", visual=Visual(12))),
        ("video:1", Span("", visual=Visual(1, video=True))),
        ("frame:4", Span("", visual=Visual(0, video=True, frame=4))),
        ("x=frame:1:4", Span("x", visual=Visual(1, video=True, frame=4))),
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
        ("0,0,2,3", Region("", Visual(0), 0, 0, 2, 3)),
        (" 1, 2 ,3,4", Region("", Visual(0), 1, 2, 3, 4)),
        ("1:0,0,0,0", Region("", Visual(1), 0, 0, 0, 0)),
        ("sky=1:0,0,2,3", Region("sky", Visual(1), 0, 0, 2, 3)),
        ("video:1:0,0,2,3", Region("", Visual(1, video=True), 0, 0, 2, 3)),
        ("b=frame:3:0,0,2,3", Region("b", Visual(0, video=True, frame=3), 0, 0, 2, 3)),
        ("frame:1:3:0,0,2,3", Region("", Visual(1, video=True, frame=3), 0, 0, 2, 3)),
    ],
)
def test_parse_region(text, region):
    assert parse_region(text) == region


@pytest.mark.parametrize(
    ("text", "mask"),
    [
        ("m.png", RegionMask("", Visual(0), "m.png")),
        ("1:m.png", RegionMask("", Visual(1), "m.png")),
        ("cat=1:m.png", RegionMask("cat", Visual(1), "m.png")),
        ("video:0:m.png", RegionMask("", Visual(0, video=True), "m.png")),
        ("=a=b.png", RegionMask("", Visual(0), "a=b.png")),
        ("c:/masks/m.png", RegionMask("", Visual(0), "c:/masks/m.png")),
        ("masks/a=b.png", RegionMask("", Visual(0), "masks/a=b.png")),
    ],
)
def test_parse_region_mask(text, mask):
    assert parse_region_mask(text) == mask


NO_SPAN = (
    "is no span; write a text of the prompt, /a regular expression/, positions such as 12-18, or image:0, video:0, "
    "frame:3"
)
NO_REGION = (
    "is no region; write row0,col0,row1,col1 such as 0,0,2,3, for picture 1 1:0,0,2,3, and for a video or a frame "
    "video:0:0,0,2,3 or frame:3:0,0,2,3"
)
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
            "'/(red/' is not a regular expression (missing ) at position 4); mend it, or "
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
            "`spans` 'cup' stands at 2 places: at position 10 in \"… has a blue cup. Ann's cup …\", at position 14 in "
            '"… cup. Ann\'s cup is blue."; give more of the text around it, or positions such as 10',
        ),
        (
            ["/[Aa]nn('s)? \\w+/"],
            "`spans` \"/[Aa]nn('s)? \\\\w+/\" stands at 2 places: at positions 6-7 in '…a red ball. Ann has a blue "
            "cup.…', at positions 12-14 in \"…a blue cup. Ann's cup is blue.\"; give more of the text around it, or "
            "positions such as 6-7",
        ),
        (
            ["Cup"],
            f"`spans` 'Cup' stands nowhere in the prompt {TOM!r}; "
            "give a text that does, exactly as it is written there, or positions from 0 to 17",
        ),
        (
            ["/x*/"],
            f"`spans` '/x*/' stands nowhere in the prompt {TOM!r}; "
            "give a text that does, exactly as it is written there, or positions from 0 to 17",
        ),
        (["3-18"], "`spans` '3-18': there is no position 18; the prompt has 0 to 17 (digits that are a text: /18/)"),
        (
            ["image:0"],
            "`spans` 'image:0' needs an image, but none was given; add `images`, or give a text of the prompt",
        ),
        (
            ["red", "/r.d/"],
            "`spans` 'red' and `spans` '/r.d/' would both stand in the table as 'red' at position 3; leave one out, or "
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
        "`spans` 'aa' stands at 5 places: at positions 0-1 in 'aaaaaa b b b b…', at positions 1-2 in "
        "'aaaaaa b b b b …', at positions 2-3 in 'aaaaaa b b b b b…', at positions 3-4 in 'aaaaaa b b b b b …', and 1 "
        "more; give more of the text around it, or positions such as 0-1"
    )
    with pytest.raises(UserError, match=f"the prompt 'aaaaaa{' b' * 27}…';"):
        span(byte_level(), "aaaaaa" + " b" * 40, "c")


def test_region_of_a_text():
    inputs, tokens = with_tokens(TOM)
    for more, what in (({"regions": "0,0,1,1"}, "`regions` '0,0,1,1'"), ({"region_masks": "m"}, "`region_masks` 'm'")):
        with pytest.raises(UserError) as error:
            units(Chosen.of(**more), byte_level(), inputs, tokens, "text")
        expected = "needs an image, but none was given; add `images`, or give a text of the prompt"
        assert str(error.value) == f"{what} {expected}"
