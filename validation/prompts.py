"""The prompts of the validation: indirect objects, facts and agreement, made from templates and lists of this file.

In:  a number of prompts and a seed.
Out: `Prompt`s, in an order that the seed decides, so that any first N of them are a sample of all.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

NAMES = re.findall(
    r"\w+",
    """Mary John Tom James Anna David Sarah Paul Emma Peter Alice Mark Laura Robert Jane Michael Lisa Daniel Julia
Kevin Rachel Simon Helen Adam Karen Brian Susan Eric Linda Frank Grace Henry Maria Jack Ruth Sam Kate George Amy
Charles""",
)
PLACES = re.findall(r"\w+", "store park school office beach station library market museum garden hospital restaurant")
THINGS = ["book", "drink", "ring", "ball", "letter", "basket", "camera", "ticket", "map", "flower", "coin", "key"]
STORIES = (  # {a} is the indirect object, {b} the subject; {first} and {second} are the two in one of their orders
    "When {first} and {second} went to the {place}, {b} gave a {thing} to",
    "Then, {first} and {second} went to the {place}. {b} gave a {thing} to",
    "After {first} and {second} met at the {place}, {b} handed the {thing} to",
    "While {first} and {second} were at the {place}, {b} decided to give a {thing} to",
    "Today {first} and {second} were working at the {place}. {b} passed the {thing} to",
    "Yesterday {first} and {second} had a long talk at the {place}. Afterwards {b} gave the {thing} to",
)

CAPITALS = """
France:Paris Germany:Berlin Italy:Rome Spain:Madrid Portugal:Lisbon Greece:Athens Austria:Vienna Poland:Warsaw
Hungary:Budapest Russia:Moscow Japan:Tokyo China:Beijing India:Delhi Egypt:Cairo Kenya:Nairobi England:London
Ireland:Dublin Scotland:Edinburgh Norway:Oslo Sweden:Stockholm Finland:Helsinki Denmark:Copenhagen Belgium:Brussels
Cuba:Havana Peru:Lima Chile:Santiago Turkey:Istanbul Iran:Tehran Iraq:Baghdad Syria:Damascus Lebanon:Beirut
Thailand:Bangkok Vietnam:Hanoi Afghanistan:Kabul Ukraine:Kiev Romania:Bucharest Bulgaria:Sofia Serbia:Belgrade
Croatia:Zagreb Canada:Ottawa Nepal:Kathmandu Bangladesh:Dhaka Pakistan:Islamabad Indonesia:Jakarta Philippines:Manila
Argentina:Buenos Colombia:Bogotá Venezuela:Caracas Ethiopia:Addis Australia:Canberra Netherlands:Amsterdam
Switzerland:Bern Libya:Tripoli Morocco:Rabat Tunisia:Tunis Ghana:Accra Uganda:Kampala
"""
LANGUAGES = """
France:French Germany:German Italy:Italian Spain:Spanish Portugal:Portuguese Greece:Greek Poland:Polish Russia:Russian
Japan:Japanese China:Chinese Brazil:Portuguese Mexico:Spanish Argentina:Spanish Egypt:Arabic Iraq:Arabic Turkey:Turkish
Norway:Norwegian Sweden:Swedish Finland:Finnish Denmark:Danish Hungary:Hungarian Austria:German Australia:English
England:English Cuba:Spanish Peru:Spanish Chile:Spanish Colombia:Spanish Morocco:Arabic Iran:Persian Thailand:Thai
Vietnam:Vietnamese Korea:Korean Romania:Romanian Ukraine:Ukrainian Jordan:Arabic Libya:Arabic Syria:Arabic
"""
CONTINENTS = """
France:Europe Germany:Europe Italy:Europe Spain:Europe Poland:Europe Greece:Europe Japan:Asia China:Asia India:Asia
Vietnam:Asia Thailand:Asia Nepal:Asia Egypt:Africa Kenya:Africa Ghana:Africa Uganda:Africa Nigeria:Africa
Morocco:Africa Brazil:South Peru:South Chile:South Argentina:South Canada:North Mexico:North Sweden:Europe
Norway:Europe Hungary:Europe Zambia:Africa Mali:Africa Mongolia:Asia Pakistan:Asia Iran:Asia Austria:Europe
"""
LANDMARKS = """
the Eiffel Tower:Paris|the Colosseum:Rome|the Louvre Museum:Paris|Big Ben:London|the Brandenburg Gate:Berlin
the Kremlin:Moscow|the Acropolis:Athens|Notre Dame Cathedral:Paris|Buckingham Palace:London|the Tower Bridge:London
the Statue of Liberty:New|the Parthenon:Athens|the Vatican Museums:Rome|Central Park:New|the Prado Museum:Madrid
the Golden Gate Bridge:San|the Forbidden City:Beijing|the Empire State Building:New|the Opera House:Sydney
the British Museum:London|the Arc de Triomphe:Paris|the Pantheon:Rome|the Red Square:Moscow|the Trevi Fountain:Rome
"""
FACTS = (  # (relation's words after the subject, or around it, and its list)
    ("The capital of {subject} is the city of", "capital", CAPITALS.split()),
    ("{subject}'s capital city is called", "capital", CAPITALS.split()),
    ("The official language of {subject} is", "language", LANGUAGES.split()),
    ("People who live in {subject} speak the language called", "language", LANGUAGES.split()),
    ("The main language spoken in {subject} is", "main language", LANGUAGES.split()),
    ("{subject} is a country on the continent of", "continent", CONTINENTS.split()),
    ("On a map of the world, {subject} lies in the continent of", "continent", CONTINENTS.split()),
    (
        "Everyone knows that {subject} is located in the city of",
        "located in",
        LANDMARKS.strip().replace("\n", "|").split("|"),
    ),
    ("To visit {subject}, tourists travel to the city of", "city", LANDMARKS.strip().replace("\n", "|").split("|")),
)

NOUNS = re.findall(r"\w+", "key dog teacher picture car book friend doctor student house boy girl")  # plural with an s
BETWEEN = ("near the", "behind the", "next to the", "with the", "beside the")


@dataclass(frozen=True)
class Prompt:
    """A text, and what comes next."""

    task: str  # "names", "facts" or "agreement"
    text: str
    answer: str  # with its space in front
    other: str = ""  # the answer that would be wrong
    parts: dict[str, tuple[int, int]] = field(default_factory=dict, hash=False)  # characters [first, last) of a part


def part(text: str, words: str, which: int = 0) -> tuple[int, int]:
    """Where the `which`-th occurrence of `words` is, as characters [first, last)."""
    first = -1
    for _ in range(which + 1):
        first = text.index(words, first + 1)
    return first, first + len(words)


def indirect_objects(seed: int = 0) -> Iterator[Prompt]:
    """Without end: "When Mary and John went to the store, John gave a drink to" -> " Mary"."""
    rng, made = random.Random(seed), set[str]()
    while True:
        a, b = rng.sample(NAMES, 2)
        first, second = rng.choice([(a, b), (b, a)])
        story = rng.choice(STORIES)
        text = story.format(first=first, second=second, b=b, place=rng.choice(PLACES), thing=rng.choice(THINGS))
        if text not in made:
            made.add(text)
            parts = {"object": part(text, a), "subject": part(text, b), "subject again": part(text, b, 1)}
            yield Prompt("names", text, f" {a}", f" {b}", parts)


def facts(seed: int = 0) -> Iterator[Prompt]:
    """Every template with every subject of its list: "The capital of France is the city of" -> " Paris"."""
    every = [(template, words, pair.split(":")) for template, words, pairs in FACTS for pair in pairs]
    random.Random(seed).shuffle(every)
    for template, words, (subject, answer) in every:
        text = template.format(subject=subject)
        text = text[0].upper() + text[1:]
        where = template.index("{subject}")
        parts = {"subject": (where, where + len(subject)), "relation": part(text, words)}
        yield Prompt("facts", text, f" {answer}", "", parts)


def agreement(seed: int = 0) -> Iterator[Prompt]:
    """Subject and verb around a noun of the other number: "The keys near the car clearly" -> " are", not " is"."""
    every = [(a, b, words, number) for a in NOUNS for b in NOUNS if a != b for words in BETWEEN for number in (0, 1)]
    random.Random(seed).shuffle(every)
    verbs = (" is", " are")
    for cue, distractor, words, number in every:
        text = f"The {cue}{'s' * number} {words} {distractor}{'s' * (1 - number)} clearly"
        parts = {"cue": part(text, cue), "distractor": part(text, distractor)}
        yield Prompt("agreement", text, verbs[number], verbs[1 - number], parts)
