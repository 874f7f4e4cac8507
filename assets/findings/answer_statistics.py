"""study/<study>/answer_statistics and /kind_statistics: which of a shard's documents hold answers, and of what kind
they are, counted so that shards add up."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import polars as pl
import pyarrow as pa

from assets.corpus.documents import documents_table
from assets.corpus.partitions import several_shards_per_run, shard_partitions
from assets.findings.document_rules import DocumentRules, read_rules
from assets.findings.matching import EXACT, NORMALIZED, AnswerMatcher, Sought, sought_parts
from assets.findings.scores import HAS_NORMS, scanned_scores, score_stamps, score_tables
from assets.lake.columns import METHOD, QUERY_ID, SHARD, STAMP
from assets.lake.lake import Lake
from assets.lake.tables import Column, Table
from assets.queries.queries import queries_table
from assets.specs.study import Study
from assets.step.declaring import AFTER_A_CRASH, dagster_name, spec_arguments
from assets.step.fingerprints import fingerprint
from assets.step.step import Step, run_step
from assets.step.stored_now import StoredNow
from assets.study.influence import document_norms_table
from assets.tracking.tracking import Tracking

CODE_VERSION = "3"
ANSWERS_STORY = "Which documents hold an answer, or that of a step: how many, and the most influential of them."
KINDS_STORY = "How many documents are of which kind for a task, by the study's rules."
NO_RULE = "none"
MATCH = Column("match", pa.string(), "normalized: documents with its words; exact: those with its very characters.")


def answer_statistics_table(study: str) -> Table:
    return Table(
        key=("study", study, "answer_statistics"),
        grain="one row per shard, method, query, part of its answer and way of matching",
        columns=(
            SHARD,
            METHOD,
            QUERY_ID,
            Column("part", pa.string(), "answer, or the answer of a step: step 1, step 2, …"),
            Column("answer", pa.string(), "What is looked for."),
            MATCH,
            Column("documents", pa.int64(), "Documents that hold it."),
            Column(
                "best_score",
                pa.float32(),
                "What the best of them is ranked by (findings.ranking); null: none.",
                nullable=True,
            ),
            Column("best_document_id", pa.string(), "The document that has it; ties by id.", nullable=True),
            STAMP,
        ),
        partition_by=("shard",),
        sort_by=("method", "query_id", "part", "match"),
    )


def kind_statistics_table(study: str) -> Table:
    return Table(
        key=("study", study, "kind_statistics"),
        grain="one row per shard, task and kind of document",
        columns=(
            SHARD,
            Column("task", pa.string(), "The queries' task that the kind is told for."),
            Column(
                "kind", pa.string(), "worked_example, code, fact or other, by the study's rules; none: no rule fits."
            ),
            Column("documents", pa.int64(), "Documents of that kind."),
            STAMP,
        ),
        partition_by=("shard",),
    )


def answer_statistics_asset(study: Study) -> dg.AssetsDefinition:
    """Looks through the texts of shards."""
    stories = {answer_statistics_table: ANSWERS_STORY}
    if study.spec.findings.document_rules:
        stories[kind_statistics_table] = KINDS_STORY
    upstream = (*score_tables(study), document_norms_table(study.name), documents_table(study.spec.corpus.name))
    deps = [each.asset_key for each in (*upstream, queries_table(study.spec.queries.name))]

    @dg.multi_asset(
        name=dagster_name(f"study__{study.name}__answer_statistics"),
        specs=[
            dg.AssetSpec(
                **spec_arguments(
                    table(study.name), f"study_{study.name}", CODE_VERSION, story, owners=study.spec.owners
                ),
                deps=deps,
            )
            for table, story in stories.items()
        ],
        partitions_def=shard_partitions(study.spec.corpus.name),
        backfill_policy=several_shards_per_run(),
        retry_policy=AFTER_A_CRASH,
    )
    def answers(context: dg.AssetExecutionContext, lake: Lake, tracking: Tracking) -> Iterator[dg.MaterializeResult]:
        yield from run_step(context, lake, tracking, lambda step: _look_through(step, study))

    return answers


def study_rules(study: Study) -> DocumentRules | None:
    """The rules that the study names. Raises BadInput where the file cannot be read."""
    path = study.spec.findings.document_rules
    return read_rules(Path(study.base) / path) if path else None


def answers_stamps(stored: Step | StoredNow, study: Study) -> dict[str, str]:
    """The fingerprint that the answers of each scored shard have when they are up to date."""
    asked = stored.fingerprint(queries_table(study.spec.queries.name))
    documents = stored.shard_fingerprints(documents_table(study.spec.corpus.name))
    return {
        shard: fingerprint(
            "answer_statistics", CODE_VERSION, study.spec.findings.ranking, asked, scores, documents.get(shard)
        )
        for shard, scores in score_stamps(stored, study).items()
    }


def kinds_stamps(stored: Step | StoredNow, study: Study) -> dict[str, str]:
    """The same of the kinds of each shard's documents; none where the study has no rules."""
    rules, documents = study_rules(study), stored.shard_fingerprints(documents_table(study.spec.corpus.name))
    if rules is None:
        return {}
    return {shard: fingerprint("kind_statistics", CODE_VERSION, rules.content, cut) for shard, cut in documents.items()}


def _look_through(step: Step, study: Study) -> None:
    rules, shards = study_rules(study), step.context.partition_keys
    queries = step.scan(queries_table(study.spec.queries.name)).collect()
    sought = [part for query in queries.iter_rows(named=True) for part in sought_parts(query)]
    matcher = AnswerMatcher(sought)
    stamps, told = answers_stamps(step, study), kinds_stamps(step, study)
    with step.progress(f"{study.name}: answers and kinds", len(shards), "shards") as progress:

        def look(shard: str) -> None:
            _look_through_shard(step, study, shard, matcher, sought, stamps.get(shard), rules, told.get(shard))
            progress.advance(1)

        step.each_shard(look, shards)


def _look_through_shard(
    step: Step,
    study: Study,
    shard: str,
    matcher: AnswerMatcher,
    sought: list[Sought],
    stamp: str | None,
    rules: DocumentRules | None,
    told: str | None,
) -> None:
    answers, kinds = answer_statistics_table(study.name), kind_statistics_table(study.name)
    answers_kept = step.is_current(answers, stamp, shard)
    kinds_kept = rules is None or step.is_current(kinds, told, shard)
    if answers_kept and kinds_kept:
        return
    documents = step.scan(documents_table(study.spec.corpus.name), shard=shard)
    texts = documents.select("document_id", "text").collect()
    if not answers_kept:
        rows = _answer_rows(step, study, shard, texts, matcher, sought, stamp)
        step.write(answers, rows, stamp, shard=shard)
    if rules and not kinds_kept:
        step.write(kinds, kind_rows(shard, texts["text"], rules, told), told, shard=shard)


def _answer_rows(
    step: Step, study: Study, shard: str, texts: pl.DataFrame, matcher: AnswerMatcher, sought: list[Sought], stamp
) -> pa.Table:
    hits = pl.DataFrame(
        [
            (document, hit.query_id, hit.part, match)
            for document, text in texts.iter_rows()
            for hit in matcher.find(text)
            for match in {NORMALIZED, hit.match}  # whatever is exact is normalized too
        ],
        schema={"document_id": pl.String, "query_id": pl.String, "part": pl.String, "match": pl.String},
        orient="row",
    )
    scores = scanned_scores(step, study, shard)
    scored = scores.join(hits.lazy(), on=["query_id", "document_id"])
    if study.spec.findings.ranking == "normed":
        norms = step.scan(document_norms_table(study.name), shard=shard).select("document_id", "norm")
        normed = (pl.col("score") / pl.col("norm")).fill_nan(0.0).cast(pl.Float32)
        scored = scored.join(norms, on="document_id")
        scored = scored.with_columns(score=pl.when(HAS_NORMS).then(normed).otherwise("score"))
    key = ["method", "query_id", "part", "match"]
    counted = (
        scored.sort("score", "document_id", descending=[True, False])
        .group_by(key)
        .agg(
            documents=pl.len().cast(pl.Int64),
            best_score=pl.col("score").first(),
            best_document_id=pl.col("document_id").first(),
        )
        .collect()
    )
    asked = pl.DataFrame(
        [(one.query_id, one.part, one.text, match) for one in sought for match in (EXACT, NORMALIZED)],
        schema={"query_id": pl.String, "part": pl.String, "answer": pl.String, "match": pl.String},
        orient="row",
    )
    methods = scores.select(pl.col("method").unique()).collect()
    whole = methods.join(asked, how="cross").join(counted, on=key, how="left")
    whole = whole.with_columns(
        pl.col("documents").fill_null(0), shard=pl.lit(shard), fingerprint=pl.lit(stamp, pl.String)
    )
    return whole.select(answer_statistics_table("any").schema.names).to_arrow()


def kind_rows(shard: str, texts: pl.Series, rules: DocumentRules, stamp: str | None) -> pa.Table:
    """How many of a shard's documents are of which kind, for every task that the rules name."""
    counts: dict[tuple[str, str], int] = {}
    for text in texts:
        for task, found in rules.classify(text).items():
            key = (task, found.kind if found else NO_RULE)
            counts[key] = counts.get(key, 0) + 1
    rows = [
        {"shard": shard, "task": task, "kind": kind, "documents": count, "fingerprint": stamp}
        for (task, kind), count in sorted(counts.items())
    ]
    return pa.Table.from_pylist(rows, schema=kind_statistics_table("any").schema)
