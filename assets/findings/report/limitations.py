"""What the page does not show: said on it, with the study’s own numbers where they are known."""

from __future__ import annotations

import math
from collections.abc import Mapping

from assets.findings.report.numerals import number, plural

FEW = 10


def limitations(
    groups: Mapping[str, int], *, agreement: float, spurious: float, resamples: int, rank: int | str, documents: int
) -> list[tuple[str, str]]:
    """Heading and text of each. `groups`: queries of each group; `spurious`: share of the listed documents."""
    return [
        ("One model, one corpus, one set of queries", _samples(groups, documents)),
        ("What the p-values mean", _p_values(resamples)),
        ("What influence is", INFLUENCE),
        ("Rank of the scores", _agreement(agreement, rank)),
        ("Coloured tokens", _tokens(spurious)),
        ("Answers and kinds of document", MATCHING),
    ]


INFLUENCE = (
    "A score estimates how the loss of a completion would change if a document were weighted up by a little, in a "
    "quadratic approximation around the trained weights, with a curvature that is itself approximated (EK-FAC), "
    "through the tracked modules alone. It is not a retraining without the document, and says nothing of what many "
    "documents do together. High influence does not mean that the document states what the model wrote, and low "
    "influence does not mean that the model has not learned from it: what many documents teach alike, no single one "
    "is influential for. Documents outside of the scored corpus have no score, whatever they taught."
)
MATCHING = (
    "Answers are matched by their words: a paraphrase is missed, and a short number may stand in a document for other "
    "reasons, which the comparison with chance and with the controls is for. Kinds of document come from rules (or, "
    "where a study has one, from a judge) that make mistakes; a procedure that is shown in other words counts as none."
)


def _samples(groups: Mapping[str, int], documents: int) -> str:
    listed = ", ".join(f"{group} {count}" for group, count in groups.items())
    small = [group for group, count in groups.items() if count < FEW]
    text = (
        f"The findings are about the queries of this study ({listed or 'none'}) and the "
        f"{plural(documents, 'document')} that were scored. Intervals tell how far another draw of such queries could "
        "lie, of the same tasks: tasks are taken as fixed, and queries of one task as independent, so an effect may "
        "be that of these tasks and not of their kind. They do not tell how another model, another sample of the "
        "corpus or another seed of training would do."
    )
    if small:
        text += (
            f" Groups of fewer than {FEW} queries ({', '.join(small)}) have intervals that are too narrow, and their "
            "tests find only large effects."
        )
    return text


def _p_values(resamples: int) -> str:
    return (
        "Queries are the unit of every interval and test, never documents: over millions of documents any difference "
        "would be significant. Intervals are bootstraps over queries, p-values permutations of queries "
        f"({resamples:,} resamples). A mean is tested against chance: a share of queries by the exact distribution of "
        "hits in a random order of the documents, any other mean by Student’s t over queries. All p-values are "
        "two-sided and corrected (Holm) for the tests of their family, which is fixed beforehand: of one analysis and "
        "method all contrasts, or all means of kinds that are tested against chance at every depth and for every "
        "source, or the same means of the controls. They are not corrected for all of the page, nor for other studies "
        "that were tried. The claims that are stated first are those that hold, which the correction allows for. "
        "A small p-value says that chance is an unlikely explanation; it does not say that the effect is large, nor "
        "that its cause is the one that a claim names. One that is not small is no proof that there is no effect, so "
        "an effect counts as specific to the task only where the controls could have shown it and do not, and have a "
        "smaller one: the interval of the difference, which is not corrected for many comparisons, excludes none, and "
        "where the evidence has that contrast, and so many queries and resamples could have shown it, its corrected "
        "p-value is below 0.05. Where controls are so few that no corrected p-value of theirs could be below 0.05, "
        "the page says that they are too few to tell."
    )


def _agreement(agreement: float, rank: int | str) -> str:
    if rank == "full":
        return "Scores were computed with full-rank gradients of the queries, so no rank was cut."
    cut = "ranks chosen per query and module" if rank == "auto" else f"rank {rank}"
    measured = (
        "how well they agree with exact ones is not known, since no query lists documents with different scores"
        if math.isnan(agreement)
        else "over the documents that the rankings list they correlate with exact scores at "
        f"{number(agreement)} (Pearson, the median query)"
    )
    return (
        f"All scores come from gradients of the queries that were cut to {cut}; {measured}. These are documents "
        "at the ends of the rankings, chosen by the scores that are judged, so the number is not the agreement over "
        "the whole corpus. Where it is low, single ranks should not be trusted; the exact score stands beside every "
        "document shown."
    )


def _tokens(spurious: float) -> str:
    flagged = "" if math.isnan(spurious) else f" Of the documents listed here {number(spurious, '%')} are flagged so."
    return (
        "A token’s colour is the share of the score that flows through the weights at its position. Later tokens’ "
        "losses flow through it too, so it is not the share of predicting the next token. Where a single token "
        f"carries nearly everything, the document is flagged as likely spurious.{flagged}"
    )
