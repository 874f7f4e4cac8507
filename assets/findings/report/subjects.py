"""What each analysis asks, how it is measured, and which of its statistics a reader should see first."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from assets.findings.cuts import tested_percentage
from assets.findings.report.numerals import PERCENT, POINTS

SHARE = r"top ([0-9.e+-]+) %$"


@dataclass(frozen=True)
class Subject:
    """One analysis as a section. `leads` are patterns of statistics; of those that capture a number, the smallest, or,
    of a subject `by_share`, that at which groups are compared."""

    analysis: str
    title: str
    asked: str
    measured: str
    leads: tuple[str, ...]
    unit: str = ""
    groups: str = "$^"  # pattern of groups that are shown next to the kinds
    note: str = ""
    most: int = 12  # statistics shown; of more, some that are spread over all of them
    by_share: bool = False
    is_optional: bool = False  # no word of it where the study does not have it

    def leading(self, statistics: Sequence[str]) -> list[str]:
        """The statistics that the section shows, in the order of `leads`; the first ones where none is known."""
        found: list[str] = []
        for pattern in self.leads:
            matches = {each: re.search(pattern, each) for each in statistics if re.search(pattern, each)}
            cuts = [float(match[1]) for match in matches.values() if match.groups()]
            cut = (tested_percentage if self.by_share else min)(cuts) if cuts else None
            found += sorted(
                (each for each, match in matches.items() if not cuts or float(match[1]) == cut), key=in_order
            )
        found = list(dict.fromkeys(found)) or sorted(statistics, key=in_order)
        if len(found) <= self.most:
            return found
        return [found[round(at * (len(found) - 1) / (self.most - 1))] for at in range(self.most)]

    def unit_of(self, statistic: str, *, is_difference: bool = False) -> str:
        is_share = statistic.startswith(("positive coverage", "negative coverage", "share of "))
        unit = PERCENT if is_share else self.unit
        return POINTS if is_difference and unit == PERCENT else unit


def in_order(statistic: str) -> list[tuple[int, float, str]]:
    """By words and numbers: top 50 before top 500."""
    parts = re.split(r"(\d+(?:\.\d+)?)", statistic)
    return [(1, float(part), "") if index % 2 else (0, 0.0, part) for index, part in enumerate(parts)]


SUBJECTS = (
    Subject(
        "answers",
        "Answers",
        "Do the most influential documents state the answer?",
        "A model that repeats what it has read needs a document that says so; one that works an answer out does not. "
        "In every document of the corpus the query’s answer is looked for by its words; a calculation needs the "
        "answers of all its steps, perhaps in several documents. The figure and the table give the share of queries "
        "whose answer stands among the top documents by score. (The table evidence has the same of the answer’s very "
        "characters.) Chance is what a random order of the same documents would give.",
        (r"^answer in the top",),
        "%",
        most=3,
    ),
    Subject(
        "kinds",
        "Kinds of document",
        "Are the most influential documents those that show how it is done: worked examples of the same procedure on "
        "other numbers, or code that carries it out?",
        "The study’s rules sort documents by kind for the task of each query. A query’s value is the share of "
        "procedural documents among its top documents, none where its procedure is nowhere in the corpus; the table "
        "gives the mean over queries. Chance is their share of the corpus.",
        (r"^share of procedural",),
        "%",
    ),
    Subject(
        "verdicts",
        "Verdicts of a judge",
        "What does a language model say that reads the most influential documents?",
        "A judge was asked of each of the top documents whether it holds the query’s answer, in whatever words, and of "
        "what kind it is for the query’s task. A query is answered where each part of its answer is in one of its "
        "documents; the share of procedural documents is the mean over queries. Verdicts that could not be read are "
        "left out. Nobody judged the whole corpus, so what chance gives is not known: compare the groups.",
        (r"^answer in the top", r"^share of procedural"),
        "%",
        is_optional=True,
    ),
    Subject(
        "sources",
        "Sources",
        "Which sources do the influential documents come from, compared with what the corpus is made of?",
        "Of each query’s most positive and most negative documents, the share that is from a source is divided by that "
        "source’s share of the corpus: 1 × is what chance gives, 2 × is twice as often. The table shows the smallest "
        "cut-off at the positive end, the figure the others too. Values are means over queries.",
        (r"^representation of .*, top (\d+)$",),
        "×",
    ),
    Subject(
        "correlation",
        "Correlation between queries",
        "Do queries draw on the same documents?",
        "Queries that need the same procedure should, whatever their numbers; facts should each depend on documents "
        "of their own. For each pair of queries, Pearson’s correlation of their scores over all documents of the "
        "corpus. Pairs share queries and are not independent, so intervals resample queries, and tests permute them. "
        "0 is what unrelated queries would give.",
        (r"^mean correlation", r"^correlation with study "),
        groups=r", (?:same|other) task$|^(?!.*control)[^:,]* × [^:,]*$",
    ),
    Subject(
        "magnitude",
        "How much influence",
        "How much does a completion rest on single documents, and how far do queries of a kind lie apart?",
        "The scores of the most positive documents are summed and divided by the completion’s information in nats, so "
        "that long and short completions can be compared. Coverage is the same sum as a share of all positive "
        "influence; volatility is how far a query lies from the mean of its kind (a control from that of the "
        "kind’s controls), relative to it.",
        (
            rf"^positive influence per nat, {SHARE}",
            rf"^negative influence per nat, {SHARE}",
            rf"^positive coverage, {SHARE}",
            rf"^volatility of positive influence per nat, {SHARE}",
        ),
        by_share=True,
        note="Methods score on scales of their own: compare groups under one method, not methods with each other.",
    ),
    Subject(
        "power_law",
        "Power law",
        "How fast does influence fall off from the first document to the next ones?",
        "A steep fall means that few documents matter. Two definitions: the slope of the logarithm of the score "
        "against the logarithm of the rank over the top documents, by least squares; and the exponent α of the tail "
        "of the scores' distribution, by maximum likelihood, with the Kolmogorov–Smirnov distance as its goodness of "
        "fit. Both are taken per query.",
        (r"^slope", r"^alpha", r"^share of queries whose tail"),
    ),
    Subject(
        "ablation",
        "What cheaper settings cost in agreement",
        "Would a lower rank, a lower precision or a simpler curvature have ranked the same documents?",
        "A sample of the documents was scored for all queries at full rank in float32, and again with one setting "
        "changed at a time, and as the study itself is scored. A query’s value is the correlation of its scores with "
        "those at full rank, or the share of the documents at the top that both have. (Heavy tails dominate Pearson’s "
        "correlation, so read both; Spearman’s is in the figure.) Time is that of one pass over the sample.",
        (r"^Pearson correlation", r"^share of the top"),
        most=60,
        is_optional=True,
    ),
)
