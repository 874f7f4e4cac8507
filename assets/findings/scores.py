"""The scores that findings are of: those of influence and, where the study asks for it, BM25 beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from assets.corpus.documents import documents_table
from assets.findings.bm25 import bm25_stamp, bm25_table
from assets.specs.methods import NORMED_AS_THEY_ARE
from assets.step.fingerprints import fingerprint
from assets.study.influence import influence_table
from compute.errors import BadInput

if TYPE_CHECKING:
    from assets.lake.tables import Table
    from assets.specs.study import Study
    from assets.step.step import Step
    from assets.step.stored_now import StoredNow

HAS_NORMS = ~pl.col("method").is_in(NORMED_AS_THEY_ARE)
"""Of the methods whose scores a document's norm divides; by any other the score itself is what "normed" means."""


def score_tables(study: Study) -> list[Table]:
    """Where they are."""
    bm25 = [bm25_table(study.name)] if study.spec.findings.bm25 else []
    return [influence_table(study.name), *bm25]


def scanned_scores(step: Step, study: Study, shard: str) -> pl.LazyFrame:
    """method, query_id, document_id and score of a shard, by every method."""
    columns = ("method", "query_id", "document_id", "score")
    return pl.concat([step.scan(table, shard=shard).select(columns) for table in score_tables(study)])


def score_stamps(step: Step | StoredNow, study: Study) -> dict[str, str]:
    """By shard, the fingerprint of its scores, as of a step or as they are now.

    Raises BadInput where BM25 is not of the corpus as it is now: a shard of other frequencies than the next would make
    one ranking of two.
    """
    influence = step.shard_fingerprints(influence_table(study.name))
    if not study.spec.findings.bm25:
        return influence
    documents = step.shard_fingerprints(documents_table(study.spec.corpus.name))
    bm25, stamp = step.shard_fingerprints(bm25_table(study.name)), bm25_stamp(step, study)
    if behind := sorted(shard for shard in documents if bm25.get(shard) != stamp):
        raise BadInput(
            f"study {study.name}: BM25 is not of the documents and completions as they are now (shard {behind[0]}); "
            f"materialize {bm25_table(study.name).path} first"
        )
    return {shard: fingerprint(each, stamp) for shard, each in influence.items()}
