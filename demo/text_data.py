"""Texts for the bundled demo model: what it is trained on, and prompts it has never seen.

In:  a random.Random, so that a seed decides everything.
Out: RetrievalPrompt and FactPrompt (prompt, answer, where the answer stands) and training Documents.

Two skills, chosen because the right source of an answer is known:
  retrieval  "Tom has a red ball. Ann has a blue cup. Ann's cup is" -> " blue"  (the answer is in the prompt)
  facts      "The capital of France is" -> " Paris"                             (the answer is in the weights)
Both exist also as a question to a chat model. Training, evaluation and tests share this module.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

# fmt: off
NAMES = [
    "Tom", "Ann", "Bob", "Eve", "Max", "Sue", "Joe", "Amy", "Ben", "Kim", "Dan", "Mia", "Sam", "Zoe",
    "Leo", "Ida", "Tim", "Lucy", "Jack", "Lily", "Paul", "Rose", "Mark", "Nina",
]
# No word here starts with a vowel, so that "has a COLOR ITEM" is always right.
COLORS = [
    "red", "blue", "green", "yellow", "black", "white", "pink", "purple", "brown", "gray", "silver",
    "golden",
]
ITEMS = [
    "ball", "cup", "hat", "book", "car", "pen", "box", "bag", "key", "lamp", "ring", "kite", "shoe",
    "coat", "bike", "drum",
]
CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "Portugal": "Lisbon",
    "England": "London", "Ireland": "Dublin", "Scotland": "Edinburgh", "Wales": "Cardiff",
    "Belgium": "Brussels", "Austria": "Vienna", "Switzerland": "Bern", "Poland": "Warsaw",
    "Hungary": "Budapest", "Romania": "Bucharest", "Bulgaria": "Sofia", "Greece": "Athens",
    "Albania": "Tirana", "Serbia": "Belgrade", "Croatia": "Zagreb", "Slovenia": "Ljubljana",
    "Slovakia": "Bratislava", "Ukraine": "Kyiv", "Lithuania": "Vilnius", "Latvia": "Riga",
    "Estonia": "Tallinn", "Finland": "Helsinki", "Sweden": "Stockholm", "Norway": "Oslo",
    "Denmark": "Copenhagen", "Iceland": "Reykjavik", "Malta": "Valletta", "Cyprus": "Nicosia",
    "Turkey": "Ankara", "Georgia": "Tbilisi", "Armenia": "Yerevan", "Iraq": "Baghdad", "Iran": "Tehran",
    "Jordan": "Amman", "Lebanon": "Beirut", "Egypt": "Cairo", "Libya": "Tripoli", "Tunisia": "Tunis",
    "Morocco": "Rabat", "Senegal": "Dakar", "Ghana": "Accra", "Nigeria": "Abuja", "Kenya": "Nairobi",
    "Uganda": "Kampala", "Angola": "Luanda", "Zambia": "Lusaka", "Zimbabwe": "Harare", "India": "Delhi",
    "Nepal": "Kathmandu", "China": "Beijing", "Japan": "Tokyo", "Thailand": "Bangkok",
    "Vietnam": "Hanoi", "Indonesia": "Jakarta", "Australia": "Canberra", "Canada": "Ottawa",
    "Cuba": "Havana", "Jamaica": "Kingston", "Peru": "Lima", "Chile": "Santiago", "Colombia": "Bogota",
}
# fmt: on

HELD_OUT_SHARE = 8  # one context in 8 is kept out of training

LISTS_ONLY = 0.15  # share of the training


@dataclass(frozen=True, order=True)
class Statement:
    name: str
    color: str
    item: str

    def __str__(self) -> str:
        return f"{self.name} has a {self.color} {self.item}."


Context = tuple[Statement, ...]


@dataclass(frozen=True)
class RetrievalPrompt:
    prompt: str
    answer: str
    statements: tuple[tuple[int, int], ...]  # [start, end) characters of each statement, its "." included
    asked: int  # index of the statement that holds the answer


@dataclass(frozen=True)
class FactPrompt:
    prompt: str
    answer: str


@dataclass(frozen=True)
class Document:
    """One training text: what is given, and what the model should say. In a chat document the model's chat template
    joins the two; a plain document is one after the other."""

    prompt: str
    text: str
    chat: bool = False


def is_held_out(context: Context) -> bool:
    """Whether a context is reserved for evaluation.

    The rule looks only at the set of statements, not at their order, the question or the chat form, so no context
    is on both sides. It uses a checksum, because Python's hash() changes with every process. Words and statements
    are shared on purpose: the combinations of statements are what is new to the model.
    """
    return zlib.crc32(" ".join(map(str, sorted(context))).encode()) % HELD_OUT_SHARE == 0


def make_context(rng: random.Random, size: int, held_out: bool) -> Context:
    """`size` statements with different names, colors and items, so that a question has one answer in one place."""
    while True:
        words = zip(rng.sample(NAMES, size), rng.sample(COLORS, size), rng.sample(ITEMS, size), strict=True)
        context = tuple(Statement(*triple) for triple in words)
        if is_held_out(context) == held_out:
            return context


def retrieval_prompt(context: Context, asked: int, question: bool = False) -> RetrievalPrompt:
    """A text to complete, or with `question` a question to a chat model."""
    text, spans = "", []
    for statement in context:
        spans.append((len(text), len(text) + len(str(statement))))
        text += f"{statement} "
    target = context[asked]
    thing = f"{target.name}'s {target.item}"
    text += f"What color is {thing}?" if question else f"{thing} is"
    return RetrievalPrompt(text, f" {target.color}", tuple(spans), asked)


def fact_prompt(country: str, question: bool = False) -> FactPrompt:
    prompt = f"What is the capital of {country}?" if question else f"The capital of {country} is"
    return FactPrompt(prompt, f" {CAPITALS[country]}")


def held_out_prompts(rng: random.Random, count: int, question: bool = False) -> list[RetrievalPrompt]:
    """Prompts over contexts of 2, 3 and 4 statements that no training document has."""
    contexts = (make_context(rng, 2 + i % 3, held_out=True) for i in range(count))
    return [retrieval_prompt(context, rng.randrange(len(context)), question) for context in contexts]


def fact_prompts(question: bool = False) -> list[FactPrompt]:
    return [fact_prompt(country, question) for country in CAPITALS]


def retrieval_document(rng: random.Random, size: int) -> Document:
    context = make_context(rng, size, held_out=False)
    asked, *others = rng.sample(range(size), size)
    if rng.random() < 0.4:
        p = retrieval_prompt(context, asked, question=rng.random() < 0.5)
        return Document(p.prompt, p.answer.strip(), chat=True)
    p = retrieval_prompt(context, asked)
    others = others if rng.random() < 0.6 else []
    more = "".join(f" {context[i].name}'s {context[i].item} is {context[i].color}." for i in others)
    return Document(p.prompt, f"{p.answer}.{more}")


def fact_document(rng: random.Random) -> Document:
    country, other = rng.sample(list(CAPITALS), 2)
    if rng.random() < 0.5:
        p = fact_prompt(country, question=rng.random() < 0.5)
        return Document(p.prompt, p.answer.strip(), chat=True)
    p, second = fact_prompt(country), fact_prompt(other)
    more = f" {second.prompt}{second.answer}." if rng.random() < 0.6 else ""
    return Document(p.prompt, f"{p.answer}.{more}")


def word_list_document(rng: random.Random) -> Document:
    """A list of words, then the list again: the simplest text that can only be predicted by looking back."""
    words = " ".join(rng.sample(NAMES + COLORS + ITEMS, rng.randint(4, 20)))
    return Document(words, f" {words}")


def flipped_pairs_document(rng: random.Random) -> Document:
    """Pairs, then the same pairs reversed, in another order: "red cup blue ball" + " ball blue cup red".

    This trains the one step that retrieval needs: find the earlier item by its text and say the word before it. It
    is also why the model reads an answer at the item ("cup") of the asked statement.
    """
    size = rng.randint(3, 8)
    pairs = list(zip(rng.sample(COLORS, size), rng.sample(ITEMS, size), strict=True))
    given = " ".join(f"{color} {item}" for color, item in pairs)
    return Document(given, "".join(f" {item} {color}" for color, item in rng.sample(pairs, size)))


def training_documents(rng: random.Random, count: int, progress: float) -> Iterator[Document]:
    """A batch for the point `progress`, 0 to 1, of the training: first only repeated word lists, then all kinds.

    Lists teach looking back by content within 500 steps, and retrieval follows within another 500. In two runs that
    had all kinds from the start (other settings differed too), the model found rules of position ("the first
    statement, else guess") and was still at 75 % after 2,200 steps and more.
    """
    pairs = max(0.03, 0.35 - 0.6 * progress)
    for _ in range(count):
        kind = rng.random()
        if progress < LISTS_ONLY or kind < 0.05:
            yield word_list_document(rng)
        elif kind < 0.05 + pairs:
            yield flipped_pairs_document(rng)
        elif kind < 0.15 + pairs:
            yield fact_document(rng)
        else:
            yield retrieval_document(rng, rng.randint(2, 4))
