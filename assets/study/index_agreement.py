"""study/<study>/index_agreement: how well the index of documents tells the scores of the queries that there are.

What it will do for a query that is asked later is measured on those of the set: the estimates of the index against the
scores of the pass, over all documents, and whether the documents that come first are among those that it proposes.
"""

from collections.abc import Iterable, Iterator

import dagster as dg
import numpy as np
import pyarrow as pa

from assets.lake.columns import QUERY_ID, STAMP
from assets.lake.lake import Lake
from assets.lake.tables import Column, Table
from assets.specs.study import Study
from assets.step.checks import Check
from assets.step.declaring import asset_arguments
from assets.step.fingerprints import fingerprint
from assets.step.step import Step, run_step
from assets.study.coverage import coverage_table, refuse_incomplete
from assets.study.index_search import refuse_without_index
from assets.study.index_statistics import (
    FIRST,
    OVERLAPPING,
    estimates_kept,
    index_statistics_stamps,
    index_statistics_table,
)
from assets.study.moments import Moments
from assets.tracking.tracking import Tracking
from compute.errors import BadInput

CODE_VERSION = "2"
STORY = "Estimates of the index against the scores of the pass: what headwater ask will find of a query's documents."


def index_agreement_table(study: str) -> Table:
    found = f"Share of the {FIRST} documents with the highest {{}} that are among the proposed ones."
    return Table(
        key=("study", study, "index_agreement"),
        grain="one row per query",
        columns=(
            QUERY_ID,
            Column("documents", pa.int64(), "Documents that were compared."),
            Column("pearson", pa.float64(), "Correlation of estimates with EK-FAC scores; NaN: all are alike."),
            Column("overlap", pa.int32(), f"How many of the {OVERLAPPING} best by scores are so by estimates too."),
            Column(
                "proposed", pa.int32(), "Documents that the index proposes: options.index.candidates, or all of fewer."
            ),
            Column("found", pa.float64(), found.format("score")),
            Column("found_normed", pa.float64(), found.format("score ÷ norm")),
            STAMP,
        ),
        sort_by=("query_id",),
    )


def index_agreement_asset(study: Study) -> dg.AssetsDefinition:
    """Adds up what the shards tell of the index."""
    name = study.name
    table, check = index_agreement_table(name), _found_check(study)

    @dg.asset(
        **asset_arguments(
            table, f"study_{name}", CODE_VERSION, STORY, owners=study.spec.owners, kinds=("polars",), checks=[check]
        ),
        deps=[
            dg.AssetDep(index_statistics_table(name).asset_key, partition_mapping=dg.AllPartitionMapping()),
            coverage_table(name).asset_key,
        ],
    )
    def index_agreement(
        context: dg.AssetExecutionContext, lake: Lake, tracking: Tracking
    ) -> Iterator[dg.MaterializeResult]:
        yield from run_step(context, lake, tracking, lambda step: _add_up(step, study, table, check), checks=[check])

    return index_agreement


def _found_check(study: Study) -> Check:
    index = study.spec.options.index
    sentence = (
        f"Of the {FIRST} documents with the highest score ÷ norm, a share of {index.min_found} "
        f"(options.index.min_found) is among the {index.candidates} that the index proposes, in the mean over queries."
    )
    return Check(index_agreement_table(study.name), "documents_found", sentence, blocking=False)


def _add_up(step: Step, study: Study, table: Table, check: Check) -> None:
    refuse_incomplete(step, study)
    refuse_without_index(step, study)
    statistics, candidates = index_statistics_table(study.name), study.spec.options.index.candidates
    told, expected = step.shard_fingerprints(statistics), index_statistics_stamps(step, study)
    if behind := sorted(shard for shard in told.keys() | expected.keys() if told.get(shard) != expected.get(shard)):
        others = f" (and {len(behind) - 1} more)" if len(behind) > 1 else ""
        raise BadInput(
            f"study {study.name}: shard {behind[0]}{others} of its index is not compared with its scores as they are "
            "now; materialize its index_statistics"
        )
    stamp = fingerprint("index_agreement", CODE_VERSION, candidates, told)
    if step.is_current(table, stamp):
        _judge(step, study, check, step.scan(table).collect()["found_normed"].to_list())
        return
    rows = agreement_rows((row for batch in step.batches(statistics) for row in batch.to_pylist()), candidates)
    means = {
        f"mean {name}": round(float(np.mean([row[name] for row in rows])), 4)
        for name in ("pearson", "overlap", "found", "found_normed")
    }
    data = pa.Table.from_pylist([row | {"fingerprint": stamp} for row in rows], schema=table.schema)
    step.write(table, data, stamp, metadata={name: mean for name, mean in means.items() if mean == mean} | _worst(rows))
    _judge(step, study, check, [row["found_normed"] for row in rows])


def _worst(rows: list[dict]) -> dict[str, str]:
    """The query whose best documents are found least, of several the one whose estimates correlate least."""
    if not rows:
        return {}
    worst = min(rows, key=lambda row: (row["found_normed"], np.nan_to_num(row["pearson"], nan=-1.0)))
    return {"worst query": f"{worst['query_id']} (found {worst['found_normed']:.2f}, pearson {worst['pearson']:.4f})"}


def _judge(step: Step, study: Study, check: Check, found_normed: list[float]) -> None:
    """Also of what was kept: the option may have changed since."""
    found, index = sum(found_normed) / max(1, len(found_normed)), study.spec.options.index
    low = (
        f"study {study.name}: the index proposes {found:.2f} of the best documents; raise options.index.dimensions or "
        "options.index.candidates"
    )
    step.check(check, None if found >= index.min_found else low, metadata={"share found, mean": round(found, 4)})


def agreement_rows(statistics: Iterable[dict], candidates: int) -> list[dict]:
    """The rows of index_agreement, without fingerprints, of those of index_statistics, one at a time."""
    queries: dict[str, _Query] = {}
    for row in statistics:
        queries.setdefault(row["query_id"], _Query(candidates)).add(row)
    return [{"query_id": query_id, **query.told()} for query_id, query in sorted(queries.items())]


class _Query:
    """One query's statistics of the shards so far."""

    def __init__(self, candidates: int) -> None:
        self.candidates = candidates
        self.moments: Moments | None = None
        self.best = self.best_normed = np.empty(0, np.float32)
        self.top = self.top_normed = np.empty((2, 0), np.float32)

    def add(self, row: dict) -> None:
        """A row of index_statistics."""
        (scores, both, estimates), kept = row["co_moments"], estimates_kept(self.candidates)
        shard = Moments(row["documents"], np.array(row["means"]), np.array([[scores, both], [both, estimates]]))
        self.moments = Moments.added([self.moments, shard]) if self.moments else shard
        self.best = _highest(self.best, row["best_estimates"], kept)
        self.best_normed = _highest(self.best_normed, row["best_normed_estimates"], kept)
        self.top = _first(self.top, row["top_scores"], row["top_estimates"], OVERLAPPING)
        self.top_normed = _first(self.top_normed, row["top_normed_scores"], row["top_normed_estimates"], FIRST)

    def told(self) -> dict:
        """What the shards tell together, by column of index_agreement."""
        return {
            "documents": self.moments.documents,
            "pearson": float(self.moments.correlations()[0, 1]),
            "overlap": int(_among(self.top[1], self.best, OVERLAPPING).sum()),
            "proposed": min(self.moments.documents, self.candidates),
            "found": float(_among(self.top[1][:FIRST], self.best, self.candidates).mean()),
            "found_normed": float(_among(self.top_normed[1], self.best_normed, self.candidates).mean()),
        }


def _highest(values: np.ndarray, more: list[float], count: int) -> np.ndarray:
    """The `count` highest of both, rising."""
    return np.sort(np.concatenate([values, np.array(more, np.float32)]))[-count:]


def _first(pairs: np.ndarray, scores: list[float], estimates: list[float], count: int) -> np.ndarray:
    """Scores and estimates of the documents with the `count` highest scores, falling; ties by shard, then by id."""
    both = np.concatenate([pairs, np.array([scores, estimates], np.float32)], axis=1)
    return both[:, np.argsort(-both[0], kind="stable")[:count]]


def _among(estimates: np.ndarray, best: np.ndarray, count: int) -> np.ndarray:
    """Whether fewer than `count` of the `best`, rising, are higher, for each of the estimates."""
    return len(best) - np.searchsorted(best, estimates, side="right") < count
