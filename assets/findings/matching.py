"""Whether a document holds an answer: by its words, or by its very characters.

`normalized` compares words and numbers as `assets.study.answers` does: case, punctuation and spacing do not count, and
a number counts as a whole, so 7 is not in 17, 0.7 or -7. `exact` asks for the answer's characters as well, with a word
border at both ends; whatever is exact is normalized too. A script that puts no spaces between words is one long word
to both.

A document is cut into words once for all queries. A look into its set of words then leaves few answers, and each of
those is a search for a row of words, ` 4 2 6 `, in the document's row of words: the answers cost next to nothing, and
the time is that of cutting (an Aho–Corasick automaton or one expression of alternatives would save nothing of it,
and would have to tell borders of numbers besides).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from assets.study.answers import words

ANSWER = "answer"
EXACT, NORMALIZED = "exact", "normalized"


@dataclass(frozen=True, slots=True)
class Sought:
    """One text that is looked for: the answer of a query, or that of one of its steps."""

    query_id: str
    part: str
    text: str


@dataclass(frozen=True, slots=True)
class Hit:
    """What a document holds, and how closely: EXACT, or NORMALIZED where only the words are the same."""

    query_id: str
    part: str
    match: str


def sought_parts(query: Mapping) -> list[Sought]:
    """What is looked for on a query's behalf: `answer`, `step 1`, `step 2`, …; nothing where no answer is known.

    `query` has query_id, answer and step_answers, as a row of its set's table.
    """
    steps = query.get("step_answers") or ()
    named = {ANSWER: query.get("answer"), **{f"step {number}": step for number, step in enumerate(steps, 1)}}
    return [Sought(query["query_id"], part, text) for part, text in named.items() if text and text.strip()]


def answered_rank(best_ranks: Mapping[str, int], parts: Iterable[str]) -> int | None:
    """The rank down to which a query is answered, or None: how far one has to read until every part was found.

    `best_ranks` is the best rank at which each part was found, and `parts` is all that is sought for the query. A
    factual query has the one part `answer`, which one document must hold as a whole; the steps of a reasoning query
    and its answer may be found in several documents.
    """
    ranks = [best_ranks.get(part) for part in parts]
    return max(ranks) if ranks and None not in ranks else None


class AnswerMatcher:
    """Finds all that is sought, for any number of queries, in one document after another."""

    def __init__(self, sought: Iterable[Sought]) -> None:
        asked: dict[str, list[Sought]] = defaultdict(list)
        for one in sought:
            asked[one.text.strip()].append(one)
        self._by_word: dict[str, list[_Text]] = defaultdict(list)
        self._wordless: list[_Text] = []  # such as "+": sought by their characters alone
        for place, (text, owners) in enumerate(asked.items()):
            one = _Text(text, place, tuple(owners))
            # Under its longest word, which is seldom met, so that few texts are looked at.
            (self._by_word[max(one.words, key=len)] if one.words else self._wordless).append(one)

    def find(self, document: str) -> list[Hit]:
        """What the document holds, in the order in which it was asked for."""
        row = words(document)
        held = set(row)
        met = [text for word in self._by_word.keys() & held for text in self._by_word[word] if text.words_held(held)]
        joined = f" {' '.join(row)} " if met else ""
        found = [(text, text.match(document)) for text in met if len(text.words) == 1 or text.needle in joined]
        found += [(text, EXACT) for text in self._wordless if text.stands_in(document)]
        found.sort(key=lambda pair: pair[0].place)
        return [Hit(one.query_id, one.part, match) for text, match in found for one in text.owners]


class _Text:
    """A text that is looked for, on behalf of all who ask for it."""

    def __init__(self, text: str, place: int, owners: tuple[Sought, ...]) -> None:
        self.text, self.place, self.owners, self.words = text, place, owners, words(text)
        self.needle = f" {' '.join(self.words)} "
        self._bordered = re.compile("".join((*_before(text), re.escape(text), *_after(text))))

    def words_held(self, held: set[str]) -> bool:
        return held.issuperset(self.words)

    def match(self, document: str) -> str:
        return EXACT if self.stands_in(document) else NORMALIZED

    def stands_in(self, document: str) -> bool:
        """Whether the very characters do, where no word or number goes on beyond them."""
        start = document.find(self.text)
        while start >= 0 and not self._bordered.match(document, start):
            start = document.find(self.text, start + 1)
        return start >= 0


def _before(text: str) -> Iterable[str]:
    if re.match(r"\w", text):
        yield r"(?<!\w)"
    if re.match(r"\d", text):
        yield r"(?<!\d[.,])(?<![^\w.]-)(?<!^-)"  # neither decimals nor a number with a sign before it
    elif re.match(r"-\d", text):
        yield r"(?<![\w.])"  # otherwise the dash is no sign
    elif re.match(r"[.,]\d", text):
        yield r"(?<!\d)"


def _after(text: str) -> Iterable[str]:
    if re.search(r"\w\Z", text):
        yield r"(?!\w)"
    if re.search(r"\d\Z", text):
        yield r"(?![.,]\d)"
    elif re.search(r"\d[.,]\Z", text):
        yield r"(?!\d)"
