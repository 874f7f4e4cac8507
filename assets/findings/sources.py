"""study/<study>/sources: which sources are over- and under-represented at both ends of the rankings (analysis 6)."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from assets.findings.analysis import Analysis, Found, framed, queries_of
from assets.findings.comparing import Comparing
from assets.findings.magnitude import GROUP, TASK
from assets.findings.merged import merged_histograms, merged_source_histograms
from assets.findings.score_histogram import ScoreHistogram, share_above
from assets.findings.score_statistics import score_statistics_table, source_statistics_table
from assets.lake.columns import METHOD, QUERY_ID, SOURCE, STAMP
from assets.lake.tables import Column, Table
from assets.specs.study import Study
from assets.step.step import Step

STORY = "How often each source stands at the top and the bottom, against its share of the corpus."


def sources_table(study: str) -> Table:
    return Table(
        key=("study", study, "sources"),
        grain="one row per method, query, end, cut-off and source",
        columns=(
            METHOD,
            QUERY_ID,
            GROUP,
            TASK,
            Column("end", pa.string(), "top: the most positive documents; bottom: the most negative."),
            Column("cut_off", pa.int64(), "How many documents at that end are looked at."),
            SOURCE,
            Column("documents", pa.float64(), "Documents of the source among them; fractions where a bin was cut."),
            Column("uncertain", pa.float64(), "How far that number may be off, since the cut goes through a bin."),
            Column("share", pa.float64(), "The same as a share of the cut-off."),
            Column("corpus_share", pa.float64(), "Share of the corpus's documents that are of the source."),
            Column(
                "representation", pa.float64(), "share / corpus_share: 1 is what chance gives, 2 is twice as often."
            ),
            STAMP,
        ),
        sort_by=("method", "query_id", "end", "cut_off", "source"),
    )


def find_sources(step: Step, study: Study) -> Found:
    """Representation of every source at every cut-off that the corpus is larger than."""
    queries = queries_of(step, study)
    histograms = merged_histograms(step, study, study.spec.findings.ranking)
    by_source = merged_source_histograms(step, study, study.spec.findings.ranking)
    rows = framed(_rows(study, histograms, by_source), sources_table(study.name), "group", "task")
    rows = rows.join(queries.select("query_id", "group", "task"), on="query_id", how="left")
    comparing, evidence = Comparing(queries, study.spec.findings), []
    for (method, end, cut_off, source), part in rows.group_by(
        "method", "end", "cut_off", "source", maintain_order=True
    ):
        values, statistic = (
            part.select("query_id", value="representation"),
            f"representation of {source}, {end} {cut_off}",
        )
        is_top, bounds = end == "top", (0.0, 1 / part["corpus_share"][0])
        tests = {"tested": is_top and cut_off == study.spec.findings.cutoffs[0], "against_chance": is_top}
        evidence += comparing.found(method, statistic, values, chance=1.0, bounds=bounds, **tests)
    return Found(rows, evidence)


def _rows(
    study: Study,
    histograms: dict[tuple[str, str], ScoreHistogram],
    by_source: dict[tuple[str, str, str], ScoreHistogram],
) -> Iterator[dict]:
    sources = sorted({source for _, _, source in by_source})
    for (method, query), whole in sorted(histograms.items()):
        parts = {source: by_source[method, query, source] for source in sources if (method, query, source) in by_source}
        for end in ("top", "bottom"):
            turned = whole if end == "top" else whole.negated()
            for cut_off in (cut for cut in study.spec.findings.cutoffs if cut < whole.documents):
                for source, part in parts.items():
                    count, uncertain = share_above(part if end == "top" else part.negated(), turned, cut_off)
                    corpus_share = part.documents / whole.documents
                    yield {
                        "method": method,
                        "query_id": query,
                        "end": end,
                        "cut_off": cut_off,
                        "source": source,
                        "documents": count,
                        "uncertain": uncertain,
                        "share": count / cut_off,
                        "corpus_share": corpus_share,
                        "representation": count / cut_off / corpus_share,
                    }


SOURCES = Analysis(
    "sources",
    "2",
    STORY,
    sources_table,
    lambda study: [score_statistics_table(study.name), source_statistics_table(study.name)],
    find_sources,
)
