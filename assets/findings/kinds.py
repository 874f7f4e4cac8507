"""study/<study>/kinds: what kinds of document are among the most influential ones, by the study's rules (analysis 5).

A document is procedural for a task where it works an example of the same procedure or holds code that does. A query of
a task that the rules do not name is left out; one whose procedure is nowhere in the corpus counts as none of its top
documents.
"""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl
import pyarrow as pa

from assets.corpus.documents import documents_table
from assets.findings.analysis import Analysis, Found, queries_of
from assets.findings.answer_statistics import NO_RULE, kind_statistics_table, study_rules
from assets.findings.comparing import Comparing
from assets.findings.document_rules import PROCEDURAL, DocumentRules
from assets.findings.magnitude import GROUP, TASK
from assets.findings.merged import merged_ends
from assets.findings.score_statistics import score_statistics_table
from assets.lake.columns import METHOD, QUERY_ID, STAMP
from assets.lake.tables import Column, Table
from assets.specs.study import Study
from assets.step.step import Step

STORY = "Kinds of the most influential documents for the query's task, against their share of the corpus."


def kinds_table(study: str) -> Table:
    return Table(
        key=("study", study, "kinds"),
        grain="one row per method, query and kind of document",
        columns=(
            METHOD,
            QUERY_ID,
            GROUP,
            TASK,
            Column(
                "kind", pa.string(), "Of the documents, for the query's task: worked_example, code, fact, other, none."
            ),
            Column("documents", pa.int64(), "Documents of that kind among the top findings.kinds_depth, by score."),
            Column("share", pa.float64(), "The same as a share of those."),
            Column("corpus_share", pa.float64(), "Share of the corpus's documents that are of that kind."),
            STAMP,
        ),
        sort_by=("method", "query_id", "kind"),
    )


def find_kinds(step: Step, study: Study) -> Found:
    """Kinds at the top of every query whose task the rules name, and the share of procedural documents."""
    queries, rules = queries_of(step, study), study_rules(study)
    asked = queries.filter(pl.col("task").is_in(rules.tasks)).select("query_id", "group", "task")
    top = merged_ends(step, study, study.spec.findings.ranking, "top").filter(
        pl.col("rank") <= study.spec.findings.kinds_depth
    )
    top = top.join(asked, on="query_id")
    names = dict.fromkeys(("document_id", "task", "kind"), pl.String)
    kinds = pl.DataFrame(list(_classified(step, study, top, rules)), schema=names, orient="row")
    rows = _with_shares(top.join(kinds, on=["document_id", "task"]), _corpus_shares(step, study))
    depth = min(study.spec.findings.kinds_depth, int(top["rank"].max() or 0))
    comparing, evidence = Comparing(queries.filter(pl.col("task").is_in(rules.tasks)), study.spec.findings), []
    # A query whose procedure is nowhere in the corpus counts, too: none of its top documents is procedural.
    procedural = pl.when(pl.col("kind").is_in(PROCEDURAL)).then(pl.col("share", "corpus_share")).otherwise(0.0)
    for (method,), part in rows.with_columns(procedural).group_by("method", maintain_order=True):
        sums = part.group_by("query_id", maintain_order=True).agg(pl.col("share", "corpus_share").sum())
        chance = dict(sums.select("query_id", "corpus_share").iter_rows())
        values = sums.select("query_id", value="share")
        tests = {"chance": chance, "against_chance": True, "bounds": (0.0, 1.0)}
        evidence += comparing.found(method, f"share of procedural documents, top {depth}", values, **tests)
    return Found(rows, evidence)


def _classified(step: Step, study: Study, top: pl.DataFrame, rules: DocumentRules) -> Iterator[tuple[str, str, str]]:
    """Document, task and kind, of all documents listed and all tasks of the rules."""
    listed = pl.col("shard").is_in(top["shard"].unique()) & pl.col("document_id").is_in(top["document_id"].unique())
    documents = (
        step.scan(documents_table(study.spec.corpus.name)).filter(listed).select("document_id", "text").collect()
    )
    for document, text in documents.iter_rows():
        for task, found in rules.classify(text).items():
            yield document, task, found.kind if found else NO_RULE


def _corpus_shares(step: Step, study: Study) -> pl.DataFrame:
    counts = step.scan(kind_statistics_table(study.name)).group_by("task", "kind").agg(pl.col("documents").sum())
    share = pl.col("documents") / pl.col("documents").sum().over("task")
    return counts.with_columns(corpus_share=share).select("task", "kind", "corpus_share").collect()


def _with_shares(top: pl.DataFrame, corpus: pl.DataFrame) -> pl.DataFrame:
    """One row for every kind that the corpus has for the task, also where the top has none of it."""
    queries = top.group_by("method", "query_id", "group", "task").agg(listed=pl.len())
    counted = top.group_by("method", "query_id", "kind").agg(documents=pl.len().cast(pl.Int64))
    whole = queries.join(corpus, on="task").join(counted, on=["method", "query_id", "kind"], how="left")
    whole = whole.with_columns(pl.col("documents").fill_null(0)).sort("method", "query_id", "kind")
    return whole.with_columns(share=pl.col("documents") / pl.col("listed")).drop("listed")


KINDS = Analysis(
    "kinds",
    "2",
    STORY,
    kinds_table,
    lambda study: [kind_statistics_table(study.name), score_statistics_table(study.name)],
    find_kinds,
)
