"""Exact scores of listed documents: full-rank gradients of a group of queries at a time, one pass per group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from assets.corpus.tokenizer import stored_tokenizer
from assets.curvature.factors import stored_curvature
from assets.model.memory import gradient_beyond, refuse_beyond_memory
from assets.model.opening import open_traced_model
from assets.study.completions import completions_table, query_sequences
from assets.study.refined_gradients import stored_refined
from compute.methods import known_method, whitens

if TYPE_CHECKING:
    from assets.specs.study import Study
    from assets.step.step import Step
    from compute.exact_scores import ExactScore


def add_exact_scores(step: Step, study: Study, ranked: pl.DataFrame) -> tuple[pl.DataFrame, float]:
    """`ranked` with exact, token and module scores, and how well its low-rank scores agree (`agreement_of`)."""
    model, modules = open_traced_model(step, study)
    pairs = _scored_pairs(step, study, ranked, model, modules)
    tokenizer, _ = stored_tokenizer(step, study.spec.corpus.name)
    scored = [pairs[key] for key in ranked.select("method", "query_id", "document_id").iter_rows()]
    exact = pl.Series("exact_score", [pair.score for pair in scored], pl.Float64)
    rows = with_shares(ranked.with_columns(exact), scored, [module.name for module in modules], tokenizer)
    return rows, agreement_of(rows)


def with_shares(rows: pl.DataFrame, scored: Sequence[ExactScore], names: Sequence[str], tokenizer) -> pl.DataFrame:
    """`rows` (with token_ids) with the shares of their tokens and of the modules called `names`, a pair a row."""
    text_of = {token: tokenizer.decode([token]) for token in rows["token_ids"].explode().unique()}
    return rows.with_columns(
        pl.Series("tokens", [[text_of[token] for token in ids] for ids in rows["token_ids"]], pl.List(pl.String)),
        pl.Series("token_scores", [pair.token_scores_T.tolist() for pair in scored], pl.List(pl.Float32)),
        pl.Series("modules", [names] * len(scored), pl.List(pl.String)),
        pl.Series("module_scores", [[pair.module_scores[n] for n in names] for pair in scored], pl.List(pl.Float32)),
        pl.Series("concentration", [pair.concentration for pair in scored], pl.Float32),
        pl.Series("likely_spurious", [pair.likely_spurious for pair in scored], pl.Boolean),
    )


def _scored_pairs(step: Step, study: Study, ranked: pl.DataFrame, model, modules) -> dict:
    """ExactScore by (method, query, document)."""
    from compute.exact_scores import DENSE_BYTES
    from compute.factor_memory import residence

    queries = query_sequences(step.scan(completions_table(study.name)).sort("position").collect().to_dicts())
    longest = ranked["token_ids"].list.len().max() or 2
    sizes = {"documents": ranked["document_id"].n_unique(), "tokens": longest, "queries": len(queries)}
    refuse_beyond_memory(study, "rankings", model, modules, **sizes)
    methods = study.spec.options.methods
    copies = 1 + len(methods)  # a gradient, and the directions along it
    held = residence(
        modules,
        study.spec.curvature.blocks,
        study.spec.options.memory_bytes,
        copies,
        keeps_all=whitens(methods),  # the pass over documents needs them too
        double=study.spec.model.dtype == "float64",
    )
    if beyond := gradient_beyond(study, "rankings", held.bytes_of_query):
        step.context.log.info(f"{study.name}: {beyond}")
    curvature = stored_curvature(step, study, model, modules, keeps_all=held.keeps_all)
    query_model = open_traced_model(step, study, query_side=True)[0] if study.spec.query_model else model
    at_once = max(1, DENSE_BYTES // held.bytes_of_query)
    pairs: dict = {}
    groups = [(group, _of_queries(ranked, group)) for group in _groups(queries, at_once)]
    total = sum(part["document_id"].n_unique() for _, part in groups)
    with step.progress(f"{study.name}: exact scores", total, "documents") as progress:
        for group, part in groups:
            directions = _directions(step, study, model, query_model, modules, group, curvature)
            pairs |= _score_group(study, part, model, modules, directions, curvature, progress)
    return pairs


def _groups(queries: list, at_once: int) -> list[list]:
    return [queries[start : start + at_once] for start in range(0, len(queries), at_once)]


def _of_queries(ranked: pl.DataFrame, queries: list) -> pl.DataFrame:
    return ranked.filter(pl.col("query_id").is_in([query.key for query in queries]))


def _directions(step: Step, study: Study, model, query_model, modules, queries: list, curvature) -> dict:
    """Full-rank directions by (method, query); refined ones as they are stored, placed once where documents pass."""
    from compute.query_gradients import dense_gradients, directed

    methods = study.spec.options.methods
    plain = [method for method in methods if not known_method(method).refined]
    found: list[dict] = [{} for _ in queries]
    if plain:
        found = directed(plain, [dense_gradients(query_model, modules, query) for query in queries], curvature)
    return {
        (method, query.key): of_query[method]
        if method in of_query
        else stored_refined(step, study.name, query.key, model, modules)
        for query, of_query in zip(queries, found, strict=True)
        for method in methods
    }


def _score_group(study: Study, part: pl.DataFrame, model, modules, directions: dict, curvature, progress) -> dict:
    from compute import batches
    from compute.exact_scores import exact_scores

    place = {key: number for number, key in enumerate(directions)}
    documents = part.unique("document_id", maintain_order=True)
    wanted: dict[str, set[int]] = {}
    for method, query_id, document_id in part.select("method", "query_id", "document_id").unique().iter_rows():
        wanted.setdefault(document_id, set()).add(place[method, query_id])
    scored = exact_scores(
        model,
        modules,
        list(directions.values()),
        [batches.Sequence(*row) for row in documents.select("document_id", "token_ids").iter_rows()],
        [sorted(wanted[document_id]) for document_id in documents["document_id"]],
        methods=[method for method, _ in directions],
        curvature=curvature,
        token_budget=study.spec.options.token_budget,
        on_batch=lambda count, _: progress.advance(count),
    )
    keys = list(directions)
    return {(*keys[number], score.key): score for of_document in scored for number, score in of_document.items()}


def agreement_of(rows: pl.DataFrame) -> float:
    """Median over methods and queries of the correlation of low-rank with exact scores, over the listed documents."""
    unique = rows.unique(["method", "query_id", "document_id"])
    by_query = unique.group_by("method", "query_id").agg(pl.corr("score", "exact_score"))
    values = by_query["score"].drop_nulls().drop_nans().to_numpy()
    return float(np.median(values)) if len(values) else float("nan")
