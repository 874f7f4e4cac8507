"""The demo's figures on a corpus small enough to work out by hand."""

from __future__ import annotations

import random

import polars as pl
import pytest

from examples.demo import findings

TRUTH = {
    "facts": {"river-a": ["e-0", "e-1"], "river-b": ["e-2"]},
    "procedures": {"e-0": "none", "e-1": "none", "e-2": "none", "s-0": "slope", "s-1": "slope", "q-0": "equation"},
}
DOCUMENTS = pl.DataFrame({"document_id": ["e-0#0", "e-0#1", "e-1#0", "e-2#0", "s-0#0", "s-1#0", "q-0#0", "x#y#0"]})
QUERIES = pl.DataFrame(
    {
        "query_id": ["fa", "fb", "sl", "eq", "co"],
        "kind": ["factual", "factual", "reasoning", "reasoning", "control"],
        "task": ["river", "river", "slope", "equation", "slope"],
        "fact": ["river-a", "river-b", None, None, None],
    }
)


def _rankings(**orders: list[str]) -> pl.DataFrame:
    return pl.DataFrame(
        [(method_query.split("_")[0], method_query.split("_")[1], document, rank)
         for method_query, order in orders.items() for rank, document in enumerate(order, 1)],
        schema=["method", "query_id", "document_id", "rank"], orient="row",
    )  # fmt: skip


RANKINGS = _rankings(
    ekfac_fa=["s-0#0", "e-0#1", "e-1#0"],
    ekfac_fb=["e-2#0", "e-0#0", "e-1#0"],
    ekfac_sl=["s-1#0", "s-0#0", "q-0#0"],
    ekfac_eq=["q-0#0", "s-0#0", "s-1#0"],
    dot_fa=["s-0#0", "s-1#0", "q-0#0"],
    dot_fb=["e-0#0", "e-2#0", "e-1#0"],
    dot_sl=["e-0#0", "e-1#0", "s-0#0"],
)


def _row(table: pl.DataFrame, method: str) -> dict:
    return table.row(by_predicate=pl.col("method") == method, named=True)


def test_record_id_is_what_stands_before_the_last_hash():
    assert DOCUMENTS.select(findings.record_id())["document_id"].to_list()[-1] == "x#y"


def test_facts_found_among_the_top():
    table = findings.fact_recall(RANKINGS, QUERIES, DOCUMENTS, TRUTH, tops=(1, 2, 8))
    assert _row(table, "ekfac") == {"method": "ekfac", "queries": 2, "top 1": 0.5, "top 2": 1.0, "top 8": 1.0}
    assert _row(table, "dot") == {"method": "dot", "queries": 2, "top 1": 0.0, "top 2": 0.5, "top 8": 0.5}


def test_chance_of_facts_is_hypergeometric():
    chance = _row(findings.fact_recall(RANKINGS, QUERIES, DOCUMENTS, TRUTH, tops=(1, 2, 8)), "chance")
    assert chance["top 1"] == pytest.approx((3 / 8 + 1 / 8) / 2)
    assert chance["top 2"] == pytest.approx((1 - 5 / 8 * 4 / 7 + 2 / 8) / 2)
    assert chance["top 8"] == 1.0


def test_chance_of_facts_is_what_random_orders_give():
    rng, hits, rounds = random.Random(0), 0, 4000
    documents = DOCUMENTS["document_id"].to_list()
    for _ in range(rounds):
        hits += bool(set(rng.sample(documents, 3)) & {"e-0#0", "e-0#1", "e-1#0"})
    only = QUERIES.filter(pl.col("query_id") == "fa")
    chance = _row(findings.fact_recall(RANKINGS, only, DOCUMENTS, TRUTH, tops=(3,)), "chance")
    assert chance["top 3"] == pytest.approx(hits / rounds, abs=0.03)


def test_share_of_the_same_procedure():
    table = findings.same_procedure_share(RANKINGS, QUERIES, DOCUMENTS, TRUTH, tops=(1, 2))
    assert _row(table, "ekfac") == {"method": "ekfac", "queries": 2, "top 1": 1.0, "top 2": 0.75}
    assert _row(table, "dot") == {"method": "dot", "queries": 2, "top 1": 0.0, "top 2": 0.0}
    assert _row(table, "chance")["top 2"] == pytest.approx((2 / 8 + 1 / 8) / 2)
