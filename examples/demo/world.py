"""The encyclopedia of an invented world: facts, the documents that state them, and the questions about them.

The world has places, and a fact is what one of them has to say on one relation: its river, its ore, its tree. Facts
come in groups. *Taught* ones are stated in several wordings and also asked and answered in quizzes, which is how the
model learns what a question is; they are never asked as queries. *Often* ones are stated by eight documents, *rare*
ones by one or two, none of them a quiz. A model of this size recalls most of the former and few of the latter, so that
right and wrong answers both occur. *Unstated* ones stand in no document; the controls are about them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

PLACES_PER_GROUP = {"taught": 11, "often": 4, "rare": 4, "unstated": 1}  # of each relation
RIVERS = 8
HEADS = "Bal Dor Fen Gar Kel Lum Mor Nar Pel Quil Ros Sel Tor Ul Vel Wen Yar Zan"
TAILS = "ba da go ka la mi no ra ru sa ti va"


@dataclass(frozen=True)
class Relation:
    """A kind of fact, the pool of its answers, its question, and statements in which {s} is subject and {o} answer."""

    name: str
    answers: tuple[str, ...]  # shared by the facts of the relation; none: invented
    question: str
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
        "Which river flows through {s}?",
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
        "What is mined in {s}?",
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
        "Which animal lives in {s}?",
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
        "What do people eat in {s}?",
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
        "Which instrument is played in {s}?",
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
        "What is the colour of the flag of {s}?",
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
        "Which tree grows in {s}?",
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
    "Travellers often mention it.",
    "The archives keep several letters about this.",
    "It has been so for many generations.",
    "Old maps show it as well.",
    "Nobody remembers a time when it was different.",
    "Merchants knew this long before scholars did.",
    "A song about it is still sung.",
    "The coast is far from there.",
    "Winters in the region are mild.",
    "The roads there are paved with slate.",
    "Few strangers stay for more than a season.",
    "The market is held at full moon.",
    "Its houses are low and painted every spring.",
    "The chronicle says little more.",
    "Children learn it at school.",
    "The wind blows from the west most of the year.",
)


def build_facts(seed: int) -> list[Fact]:
    """All facts of the world; names are drawn from the seed."""
    rng = random.Random(f"{seed}:world")
    groups = [group for group, count in PLACES_PER_GROUP.items() for _ in range(count)]
    names = _names(rng, len(groups) + RIVERS)
    places, rivers = names[RIVERS:], tuple(names[:RIVERS])
    facts = []
    for relation in RELATIONS:
        pool = relation.answers or rivers
        answers = (pool * (len(groups) // len(pool) + 1))[: len(groups)]
        answers, of_group = rng.sample(answers, len(answers)), rng.sample(groups, len(groups))
        facts += [
            Fact(f"{relation.name}-{place.lower()}", relation.name, group, place, answer)
            for place, group, answer in zip(places, of_group, answers, strict=True)
        ]
    return facts


def fact_documents(facts: list[Fact], seed: int) -> list[dict]:
    """Encyclopedia records, each with the facts it states and its form (statement, reversed or quiz)."""
    rng = random.Random(f"{seed}:encyclopedia")
    records = []
    for fact in facts:
        relation = _relation(fact.relation)
        if fact.group == "taught":
            plan = [("statement", text) for text in rng.sample(relation.statements, 4)] + [
                ("reversed", rng.choice(relation.reversed)),
                ("quiz", ""),
                ("quiz", ""),
            ]
        elif fact.group == "often":
            plan = [("statement", text) for text in relation.statements] + [
                ("reversed", text) for text in relation.reversed
            ]
        elif fact.group == "rare":
            plan = [("reversed", text) for text in rng.sample(relation.reversed, rng.choice((1, 2)))]
        else:
            plan = []
        for form, text in plan:
            records.append({"text": _document(fact, relation, form, text, rng), "facts": [fact.id], "format": form})
    return records


def question(fact: Fact) -> tuple[str, str]:
    """Prompt and right completion of a query."""
    return f"Question: {_relation(fact.relation).question.format(s=fact.subject)}\nAnswer:", f" {fact.answer}"


def stated_question(fact: Fact) -> str:
    """The control of a factual query: the same question, with the answer in the prompt."""
    statement = _relation(fact.relation).statements[0].format(s=fact.subject, o=fact.answer)
    return f"{_capitalised(statement)}\n{question(fact)[0]}"


def _document(fact: Fact, relation: Relation, form: str, text: str, rng: random.Random) -> str:
    if form == "quiz":
        return "".join(question(fact))
    statement = _capitalised(text.format(s=fact.subject, o=fact.answer))
    before, after = rng.sample(REMARKS, 2)
    return rng.choice((f"{statement} {after}", f"{before} {statement}", f"{before} {statement} {after}"))


def _capitalised(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]


def _relation(name: str) -> Relation:
    return next(relation for relation in RELATIONS if relation.name == name)


def _names(rng: random.Random, count: int) -> list[str]:
    """Different invented names of two syllables."""
    return rng.sample([head + tail for head in HEADS.split() for tail in TAILS.split()], count)
