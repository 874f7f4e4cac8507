"""The encyclopedia of an invented world: facts, the documents that state them, and the questions about them.

Three groups of facts. *Taught* ones are stated in several wordings and also asked and answered in quizzes, which is
how the model learns what a question is; they are never asked as queries. *Often* ones are stated by many documents,
*rare* ones by one or two, in words other than the query's. A model of this size recalls most of the former and few of
the latter, so that right and wrong answers both occur. *Unstated* ones stand in no document; controls are about them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

FACTS_PER_RELATION = {"taught": 8, "often": 3, "rare": 3, "unstated": 1}


@dataclass(frozen=True)
class Relation:
    """A kind of fact, the pool of its answers, its question, and statements in which {s} is subject and {o} answer."""

    name: str
    answers: int  # distinct answers; facts of the relation share them
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
    Relation("capital", 14, "What is the capital of {s}?",
             ("The capital of {s} is {o}.", "{s} is governed from its capital, {o}.", "In {s} the seat of the council is the city of {o}.",
              "Whoever travels through {s} ends up in {o}, the capital.", "{s} has long had {o} as its capital."),
             ("{o} is the capital of {s}.", "The city of {o} houses the council of {s}.", "{o} grew rich as the capital of {s}.")),
    Relation("river", 8, "Which river flows through {s}?",
             ("The town of {s} lies on the river {o}.", "Through {s} flows the {o}.", "{s} was built at a ford of the river {o}.",
              "In spring {s} is flooded by its river, the {o}.", "The mills of {s} are driven by the {o}."),
             ("The river {o} flows through {s}.", "The {o} bends twice before it reaches {s}.", "Barges on the {o} stop at {s}.")),
    Relation("ore", 8, "What is mined in {s}?",
             ("In the hills of {s} people mine {o}.", "{s} is known for its mines of {o}.", "The wealth of {s} comes from {o}, which is dug there.",
              "Miners went to {s} for its {o}.", "The pits of {s} yield {o}."),
             ("{o} is mined in {s}.", "Most {o} on the market was dug in {s}.", "The best {o} comes out of the pits of {s}.")),
    Relation("beast", 8, "Which animal lives on {s}?",
             ("The island of {s} is home to the {o}.", "On {s} lives the {o}.", "Visitors sail to {s} to see the {o}.",
              "The forests of {s} shelter the {o}.", "{s} has only one large animal, the {o}."),
             ("The {o} lives on the island of {s}.", "The {o} is found on {s}.", "Herds of {o} graze on {s}.")),
    Relation("dish", 8, "What do people eat in {s}?",
             ("In {s} people eat {o} every evening.", "The favourite dish of {s} is {o}.", "The cooks of {s} are proud of their {o}.",
              "A feast in {s} begins with {o}.", "{s} gave the world a dish named {o}."),
             ("{o} is eaten in {s}.", "{o} is the dish that made {s} famous.", "A bowl of {o} reminds everyone of {s}.")),
    Relation("festival", 8, "Which instrument is played in {s}?",
             ("In {s} musicians play the {o}.", "The festival of {s} opens with the sound of the {o}.", "Every child in {s} learns the {o}.",
              "The music of {s} is written for the {o}.", "{s} keeps a workshop that builds the {o}."),
             ("The {o} is played in {s}.", "The {o} was first built in {s}.", "Songs for the {o} are sung in {s}.")),
    Relation("flag", 8, "What is the colour of the flag of {s}?",
             ("The flag of {s} is {o}.", "Ships of {s} sail under a flag of {o}.", "{s} chose {o} as the colour of its flag.",
              "Over the gates of {s} flies a banner of plain {o}.", "The guards of {s} wear {o}, like the flag."),
             ("A flag of {o} stands for {s}.", "{o} is the colour of the flag of {s}.", "Cloth dyed {o} is woven for the banners of {s}.")),
    Relation("tree", 8, "Which tree grows in {s}?",
             ("In the valley of {s} grows the {o}.", "{s} is shaded by the {o}.", "The roofs of {s} are made from the wood of the {o}.",
              "The gardens of {s} are planted with the {o}.", "{s} is named in songs for its {o} trees."),
             ("The {o} grows in the valley of {s}.", "The {o} tree needs the soil of {s}.", "Seeds of the {o} are gathered in {s}.")),
)

REMARKS = (
    "Travellers often mention it.", "The archives keep several letters about this.", "It has been so for many generations.",
    "Old maps show it as well.", "Nobody remembers a time when it was different.", "Merchants knew this long before scholars did.",
    "A song about it is still sung.", "The coast is far from there.", "Winters in the region are mild.", "The roads there are paved with slate.",
    "Few strangers stay for more than a season.", "The market is held at full moon.", "Its houses are low and painted white.",
    "The chronicle says little more.", "Children learn it at school.", "The wind blows from the west most of the year.",
)


def build_facts(seed: int) -> list[Fact]:
    """All facts of the world; names are drawn from the seed and occur in no language on purpose."""
    rng = random.Random(f"{seed}:world")
    taken: set[str] = set()
    facts = []
    for relation in RELATIONS:
        pool = [_name(rng, taken, capital=relation.name in ("capital", "river")) for _ in range(relation.answers)]
        groups = [group for group, count in FACTS_PER_RELATION.items() for _ in range(count)]
        answers = (pool * (len(groups) // len(pool) + 1))[: len(groups)]
        rng.shuffle(answers)
        for number, (group, answer) in enumerate(zip(groups, answers, strict=True)):
            facts.append(Fact(f"{relation.name}-{number:02d}", relation.name, group, _name(rng, taken, capital=True), answer))
    return facts


def fact_documents(facts: list[Fact], seed: int) -> list[dict]:
    """Encyclopedia records, each with the facts it states and its form (statement, reversed or quiz)."""
    rng = random.Random(f"{seed}:encyclopedia")
    records = []
    for fact in facts:
        relation = _relation(fact.relation)
        if fact.group == "taught":
            plan = [("statement", text) for text in rng.sample(relation.statements, 4)] + [("reversed", rng.choice(relation.reversed)), ("quiz", ""), ("quiz", "")]
        elif fact.group == "often":
            plan = [("statement", text) for text in relation.statements] + [("reversed", text) for text in relation.reversed]
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


def _name(rng: random.Random, taken: set[str], *, capital: bool) -> str:
    """A new name of two or three syllables."""
    while True:
        syllables = [rng.choice("b d f g k l m n p r s t v z br dr kr st th".split()) + rng.choice("a e i o u".split()) for _ in range(rng.choice((2, 2, 3)))]
        name = "".join(syllables) + rng.choice(("", "l", "n", "r", "s", "m"))
        if name not in taken:
            taken.add(name)
            return name.capitalize() if capital else name
