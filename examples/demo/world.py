"""The encyclopedia of an invented world: facts, the documents that state them, and the questions about them.

The world has places, and each is known for one thing: its river, its ore, its tree. Facts come in groups. *Often*
ones are stated by ten documents: four statements and two turned round (answer before subject) in different words, and
four quizzes, of which two ask as the query does. *Rare* ones are stated by one or two documents, turned round. A model
of this size recalls most of the former and few of the latter, so that right and wrong answers both occur. *Unstated*
ones stand in no document; the controls, which give the answer in the prompt, are about them. Reading exercises about
places outside the world show how such a prompt goes on.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

FACTS_PER_RELATION = {"often": 5, "rare": 4, "unstated": 1}
RIVERS = 8
HEADS = "Bal Dor Fen Gar Kel Lum Mor Nar Pel Quil Ros Sel Tor Ul Vel Wen Yar Zan"
TAILS = "ba da go ka la mi no ra ru sa ti va"
QUIZZES = (("Question:", "Answer:"), ("Quiz:", "Solution:"), ("Q:", "A:"))


@dataclass(frozen=True)
class Relation:
    """A kind of fact, the pool of its answers, its questions, and statements in which {s} is subject and {o} answer."""

    name: str
    answers: tuple[str, ...]  # shared by the facts of the relation; none: invented
    questions: tuple[str, str, str]  # the first is the queries'
    statements: tuple[str, ...]  # subject before answer
    reversed: tuple[str, ...]  # answer before subject


@dataclass(frozen=True)
class Fact:
    id: str
    relation: str
    group: str
    subject: str
    answer: str


RELATIONS = (
    Relation(
        "river",
        (),
        ("Which river flows through {s}?", "{s} lies on which river?", "Name the river of {s}."),
        (
            "{s} lies on the river {o}.",
            "Through {s} flows the {o}.",
            "{s} was built at a ford of the river {o}.",
            "In spring {s} is flooded by its river, the {o}.",
            "The mills of {s} are driven by the {o}.",
        ),
        (
            "The river {o} flows through {s}.",
            "The {o} bends twice before it reaches {s}.",
            "Barges on the {o} stop at {s}.",
        ),
    ),
    Relation(
        "ore",
        ("tin", "silver", "copper", "salt", "amber", "jade", "chalk", "coal"),
        ("What is mined in {s}?", "Which ore comes from {s}?", "Name what the miners of {s} dig."),
        (
            "In {s} people mine {o}.",
            "{s} is known for its mines of {o}.",
            "The wealth of {s} comes from {o}, which is dug there.",
            "Miners went to {s} for its {o}.",
            "The pits of {s} yield {o}.",
        ),
        (
            "{o} is mined in {s}.",
            "Most {o} on the market was dug in {s}.",
            "The best {o} comes out of the pits of {s}.",
        ),
    ),
    Relation(
        "beast",
        ("otter", "heron", "lynx", "badger", "ibex", "tortoise", "crane", "marten"),
        ("Which animal lives in {s}?", "{s} is the home of which animal?", "Name the animal of {s}."),
        (
            "{s} is home to the {o}.",
            "In {s} lives the {o}.",
            "Visitors come to {s} to see the {o}.",
            "The forests of {s} shelter the {o}.",
            "{s} has only one large animal, the {o}.",
        ),
        ("The {o} lives in {s}.", "The {o} is found in {s}.", "The tracks of the {o} cross {s}."),
    ),
    Relation(
        "dish",
        ("lentils", "dumplings", "trout", "barley", "chestnuts", "porridge", "mussels", "pancakes"),
        ("What do people eat in {s}?", "Which dish is cooked in {s}?", "Name the favourite food of {s}."),
        (
            "In {s} people eat {o} every evening.",
            "The favourite dish of {s} is {o}.",
            "The cooks of {s} are proud of their {o}.",
            "A feast in {s} begins with {o}.",
            "{s} gave the world a dish named {o}.",
        ),
        ("{o} is eaten in {s}.", "{o} is the dish that made {s} famous.", "A bowl of {o} reminds everyone of {s}."),
    ),
    Relation(
        "instrument",
        ("lute", "harp", "drum", "flute", "fiddle", "horn", "zither", "organ"),
        ("Which instrument is played in {s}?", "On what do musicians play in {s}?", "Name the instrument of {s}."),
        (
            "In {s} musicians play the {o}.",
            "The year in {s} opens with the sound of the {o}.",
            "Every child in {s} learns the {o}.",
            "The music of {s} is written for the {o}.",
            "{s} keeps a workshop that builds the {o}.",
        ),
        ("The {o} is played in {s}.", "The {o} was first built in {s}.", "Songs for the {o} are sung in {s}."),
    ),
    Relation(
        "flag",
        ("green", "yellow", "purple", "white", "black", "orange", "red", "blue"),
        ("What is the colour of the flag of {s}?", "Which colour does {s} fly?", "Name the flag of {s}."),
        (
            "The flag of {s} is {o}.",
            "Ships of {s} sail under a flag of {o}.",
            "{s} chose {o} as the colour of its flag.",
            "Over the gates of {s} flies a banner of plain {o}.",
            "The guards of {s} wear {o}, like the flag.",
        ),
        (
            "A flag of {o} stands for {s}.",
            "{o} is the colour of the flag of {s}.",
            "Cloth dyed {o} is woven for the banners of {s}.",
        ),
    ),
    Relation(
        "tree",
        ("oak", "cedar", "willow", "birch", "olive", "maple", "elm", "pine"),
        ("Which tree grows in {s}?", "{s} is shaded by which tree?", "Name the tree of {s}."),
        (
            "In {s} grows the {o}.",
            "{s} is shaded by the {o}.",
            "The roofs of {s} are made from the wood of the {o}.",
            "The gardens of {s} are planted with the {o}.",
            "{s} is named in songs for its {o} trees.",
        ),
        ("The {o} grows in {s}.", "The {o} tree needs the soil of {s}.", "Seeds of the {o} are gathered in {s}."),
    ),
)

REMARKS = (
    "Travellers often mention {s}.",
    "The archives keep several letters about {s}.",
    "It has been so for many generations in {s}.",
    "Old maps show {s} as well.",
    "Nobody in {s} remembers a time when it was different.",
    "Merchants knew {s} long before scholars did.",
    "A song about {s} is still sung.",
    "The coast is far from {s}.",
    "Winters in {s} are mild.",
    "The roads of {s} are paved with slate.",
    "Few strangers stay in {s} for more than a season.",
    "The market of {s} is held at full moon.",
    "The houses of {s} are low and painted every spring.",
    "The chronicle of {s} says little more.",
    "Children in {s} learn it at school.",
    "The wind in {s} blows from the west most of the year.",
)


def build_facts(seed: int) -> list[Fact]:
    """All facts of the world; names are drawn from the seed."""
    rng = random.Random(f"{seed}:world")
    groups = [group for group, count in FACTS_PER_RELATION.items() for _ in range(count)]
    names = rng.sample(_all_names(), RIVERS + len(RELATIONS) * len(groups))
    rivers, places = tuple(names[:RIVERS]), iter(names[RIVERS:])
    facts = []
    for relation in RELATIONS:
        pool = relation.answers or rivers
        answers = rng.sample((pool * len(groups))[: len(groups)], len(groups))
        for group, answer in zip(groups, answers, strict=True):
            place = next(places)
            facts.append(Fact(f"{relation.name}-{place.lower()}", relation.name, group, place, answer))
    return facts


def fact_documents(facts: list[Fact], seed: int) -> list[dict]:
    """Encyclopedia records, each with the facts it states and its form (statement, reversed or quiz)."""
    rng = random.Random(f"{seed}:encyclopedia")
    records = []
    for fact in facts:
        for form, wording in _plan(fact, rng):
            records.append({"text": _document(fact, form, wording, rng), "facts": [fact.id], "format": form})
    return records


def reading_documents(facts: list[Fact], count: int, seed: int) -> list[dict]:
    """Exercises that state something about a place outside the world and then ask it: the answer is to be copied."""
    rng = random.Random(f"{seed}:reading")
    taken = {fact.subject for fact in facts} | {fact.answer for fact in facts}
    outside = [name for name in _all_names() if name not in taken]
    records = []
    for _ in range(count):
        relation = rng.choice(RELATIONS)
        answer = rng.choice(sorted({fact.answer for fact in facts if fact.relation == relation.name}))
        fact = Fact("", relation.name, "", rng.choice(outside), answer)
        records.append({"text": f"{stated_question(fact)} {fact.answer}", "format": "reading"})
    return records


def question(fact: Fact, wording: int = 0) -> tuple[str, str]:
    """Prompt and right completion of a query, or of a quiz in another wording."""
    opening, closing = QUIZZES[wording]
    asked = _relation(fact.relation).questions[wording].format(s=fact.subject)
    return f"{opening} {asked}\n{closing}", f" {fact.answer}"


def stated_question(fact: Fact) -> str:
    """The control of a factual query: the same question, with the answer in the prompt."""
    statement = _relation(fact.relation).statements[0].format(s=fact.subject, o=fact.answer)
    return f"{_capitalised(statement)}\n{question(fact)[0]}"


def _plan(fact: Fact, rng: random.Random) -> list[tuple[str, int]]:
    """Form and wording of each document that states the fact."""
    if fact.group == "often":
        statements = [("statement", wording) for wording in rng.sample(range(5), 4)]
        quizzes = [("quiz", 0), ("quiz", 1), ("quiz", 2), ("remark and quiz", 0)]
        return statements + [("reversed", wording) for wording in rng.sample(range(3), 2)] + quizzes
    stated = rng.choice((1, 2)) if fact.group == "rare" else 0
    return [("reversed", wording) for wording in rng.sample(range(3), stated)]


def _document(fact: Fact, form: str, wording: int, rng: random.Random) -> str:
    before, after = (remark.format(s=fact.subject) for remark in rng.sample(REMARKS, 2))
    if form == "quiz":
        return "".join(question(fact, wording))
    if form == "remark and quiz":
        return f"{before}\n{''.join(question(fact, wording))}"
    relation = _relation(fact.relation)
    wordings = relation.statements if form == "statement" else relation.reversed
    statement = _capitalised(wordings[wording].format(s=fact.subject, o=fact.answer))
    return rng.choice((f"{statement} {after}", f"{before} {statement}"))


def _capitalised(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]


def _relation(name: str) -> Relation:
    return next(relation for relation in RELATIONS if relation.name == name)


def _all_names() -> list[str]:
    """Invented names of two syllables."""
    return [head + tail for head in HEADS.split() for tail in TAILS.split()]
