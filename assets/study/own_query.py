"""A query that is in no set: its gradient, and the documents and texts that drive it, scored exactly.

Three stages that stand alone: `ask` takes the query's gradient, `best_documents` proposes documents by one pass over
the stored ones (an index can take its place), and `ranked_for` scores what is proposed, with shares per token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from assets.corpus.documents import documents_table, refuse_other_tokenizer, shard_documents
from assets.lake.columns import TOKENIZER
from assets.specs.methods import NORMED_AS_THEY_ARE
from assets.study.candidates import smallest
from assets.study.completions import completed_queries, query_sequences
from assets.study.exact import with_shares
from assets.study.own_texts import WINDOWS, is_unicode, rows_of_scores, sequences
from assets.tracking.progress import Progress
from compute.errors import BadInput
from compute.methods import known_method, whitens

if TYPE_CHECKING:
    from assets.study.opened import OpenedStudy
    from compute.influence import Scores
    from compute.low_rank import LowRankGradient

QUERY_ID = "asked"
RANKINGS = {"normed": "normed_score", "raw": "score"}
RANKED = (
    "method",
    "rank",
    "document_id",
    "text_number",
    "window",
    "source",
    "score",
    "score_per_nat",
    "norm",
    "normed_score",
    "loss",
    "text",
    "tokens",
    "token_scores",
    "modules",
    "module_scores",
    "concentration",
    "likely_spurious",
)


@dataclass(frozen=True)
class AskedQuery:
    """A prompt with the completion that is explained.

    `nats` is −log p(completion | prompt), `loss` the same per token; `generated` says whether the completion is the
    model's own. `gradients` holds per method and module name the direction along which documents are scored.
    """

    prompt: str
    completion: str
    generated: bool
    nats: float
    loss: float
    gradients: Mapping[str, Mapping[str, LowRankGradient]] = field(repr=False)


def ask(
    opened: OpenedStudy,
    prompt: str,
    completion: str | None = None,
    *,
    methods: Sequence[str] | str | None = None,
    rank: int | None = None,
) -> AskedQuery:
    """The query with its gradients on the query-side model, directed by the study's methods and its curvature.

    Without a completion the model's own greedy one is explained. `rank` None keeps the full rank: scores are exact.
    Raises BadInput for an unknown method, a rank below 1, and a prompt or completion that is empty, too long or not
    Unicode.
    """
    _refuse_other_than_text(prompt, completion)
    from compute.query_gradients import query_gradients

    of_study = [method for method in opened.study.spec.options.methods if not known_method(method).refined]
    methods = [methods] if isinstance(methods, str) else list(methods or of_study or ["ekfac"])
    for method in methods:
        if known_method(method).refined:
            raise BadInput(f"{method} refines the gradients of a study's own queries; ask by another method")
    if rank is not None and rank < 1:
        raise BadInput(f"rank is {rank}; give at least 1, or leave it out for exact scores")
    row = _completed(opened, prompt, completion)
    gradients = query_gradients(
        opened.query_model, opened.modules, query_sequences([row]), opened.curvature, rank=rank, methods=methods
    )
    directions = {method: factors for method, _, factors in gradients}
    return AskedQuery(prompt, row["completion"], row["generated"], row["nats"], row["loss"], directions)


def _refuse_other_than_text(prompt: str, completion: str | None) -> None:
    if not isinstance(prompt, str) or not prompt.strip():
        raise BadInput("the prompt is empty, or no text; write one")
    if not isinstance(completion, str | None):
        raise BadInput("the completion is no text; write one, or leave it out for the model's own")
    if completion == "":
        raise BadInput("the completion is empty; write one, or leave it out for the model's own")
    for what, text in (("prompt", prompt), ("completion", completion)):
        if text and not is_unicode(text):
            raise BadInput(f"the {what} holds bytes that are not UTF-8; write it in UTF-8")


def _completed(opened: OpenedStudy, prompt: str, completion: str | None) -> dict:
    row = dict.fromkeys(("answer", "kind", "match"))
    row |= {"query_id": QUERY_ID, "location": "prompt", "prompt": prompt, "completion": completion}
    return completed_queries(opened.study, [row], opened.query_model, opened.tokenizer)[0]


def stored_documents(opened: OpenedStudy, ids: Sequence[str] | str) -> pl.DataFrame:
    """The documents of the study's corpus with these ids, in that order and each once, of columns `WINDOWS`.

    Raises BadInput for no ids, and for an id that the corpus does not have.
    """
    corpus, ids = opened.study.spec.corpus.name, [ids] if isinstance(ids, str) else list(dict.fromkeys(ids))
    if not ids:
        raise BadInput("there are no documents; give the id of at least one")
    columns = ("document_id", "window", "source", "shard", "text", "token_ids", TOKENIZER.name)
    found = opened.reading.scan(documents_table(corpus)).filter(pl.col("document_id").is_in(ids)).select(columns)
    rows = pl.DataFrame({"document_id": ids}).join(found.collect(), on="document_id", how="left", maintain_order="left")
    for unknown in rows.filter(pl.col("text").is_null())["document_id"]:
        raise BadInput(f"corpus {corpus}: there is no document {unknown}; its ids are in the table documents")
    refuse_other_tokenizer(opened.reading, corpus, rows)
    return rows.with_columns(text_number=None).select(pl.col(name).cast(kind) for name, kind in WINDOWS.items())


def best_documents(opened: OpenedStudy, asked: AskedQuery, *, ranking: str, count: int) -> list[str]:
    """Ids of the `count` documents of the corpus that come first by any of the query's methods, by one pass over it."""
    is_normed = order_of(ranking) == "normed_score"
    best: list[list[tuple[float, str]]] = [[] for _ in asked.gradients]
    for ids, scores in _scored_shards(opened, asked):
        norms, by_id = scores.norms_D, np.argsort(np.argsort(np.array(ids)))
        for method, kept, row in zip(asked.gradients, best, scores.scores_QD, strict=True):
            if is_normed and method not in NORMED_AS_THEY_ARE:
                row = np.divide(row, norms, out=np.zeros_like(row), where=norms > 0)
            kept += [(-float(row[index]), ids[index]) for index in smallest(-row, by_id, count)]
            kept[:] = sorted(kept)[:count]
    return sorted({document_id for kept in best for _, document_id in kept})


def _scored_shards(opened: OpenedStudy, asked: AskedQuery) -> Iterator[tuple[list[str], Scores]]:
    """Per shard the ids of its documents, and their scores along the query's gradients."""
    spec, reading = opened.study.spec, opened.reading
    table, along = documents_table(spec.corpus.name), opened.pass_along(list(asked.gradients.items()))
    shards = reading.lake.partition_rows(table, version=reading.version(table))
    with Progress(opened.study.name, sum(shards.values()), "documents", log=lambda _: None) as progress:
        for shard in shards:
            documents = shard_documents(reading, spec.corpus.name, shard)
            yield documents.ids, along.score(documents.sequences, on_batch=lambda count, _: progress.advance(count))


def order_of(ranking: str) -> str:
    """The column by which a ranking orders. Raises BadInput for an unknown one."""
    if ranking not in RANKINGS:
        raise BadInput(f"there is no ranking {ranking}; choose {' or '.join(RANKINGS)}")
    return RANKINGS[ranking]


def ranked_for(
    opened: OpenedStudy, asked: AskedQuery, windows: pl.DataFrame, *, ranking: str, count: int | None = None
) -> pl.DataFrame:
    """The windows by falling score (raw) or score per norm (normed), per method the first `count` of them.

    One row per method and window, of the columns `RANKED`: they mean what those of the table rankings do, but for the
    score, which is exact unless the query was asked at a lower rank.
    """
    order, methods = order_of(ranking), list(asked.gradients)
    scores = opened.pass_along(list(asked.gradients.items()), "float32").score(sequences(windows))
    rows = rows_of_scores([(method, QUERY_ID) for method in methods], windows.with_row_index("place"), scores)
    rows = rows.sort(pl.col("method").cast(pl.Enum(methods)), order, "place", descending=[False, True, False])
    rows = rows.with_columns(
        rank=pl.int_range(1, pl.len() + 1, dtype=pl.Int32).over("method"),
        score_per_nat=pl.col("score").cast(pl.Float64) / asked.nats,
    )
    kept = rows.filter(pl.col("rank") <= count) if count else rows
    return _with_shares(opened, asked, windows, kept).select(RANKED)


def _with_shares(opened: OpenedStudy, asked: AskedQuery, windows: pl.DataFrame, kept: pl.DataFrame) -> pl.DataFrame:
    from compute.exact_scores import exact_scores

    methods = list(asked.gradients)
    wanted: list[set[int]] = [set() for _ in range(len(windows))]
    for method, place in kept.select("method", "place").iter_rows():
        wanted[place].add(methods.index(method))
    directions = [{name: factors.dense() for name, factors in asked.gradients[method].items()} for method in methods]
    listed = [place for place, numbers in enumerate(wanted) if numbers]
    found = exact_scores(
        opened.model,
        opened.modules,
        directions,
        sequences(windows[listed]),
        [sorted(wanted[place]) for place in listed],
        methods=methods,
        curvature=opened.curvature if whitens(methods) else None,
        token_budget=opened.study.spec.options.token_budget,
    )
    at = dict(zip(listed, found, strict=True))
    pairs = [at[place][methods.index(method)] for method, place in kept.select("method", "place").iter_rows()]
    rows = kept.with_columns(token_ids=windows["token_ids"].gather(kept["place"]))
    return with_shares(rows, pairs, [module.name for module in opened.modules], opened.tokenizer)
