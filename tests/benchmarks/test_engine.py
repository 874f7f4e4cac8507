"""The comparison of the engine with its peers runs at a tiny size, so that `make bench` cannot rot unseen."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.engine.__main__ import main
from benchmarks.engine.agreement import agreement
from benchmarks.engine.setting import QUICK, draw_documents, draw_queries

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A quick run with the peer that the tests' environment has."""
    directory = tmp_path_factory.mktemp("bench")
    places = ["--cache", str(directory / "cache"), "--results", str(directory / "results")]
    return main(["--quick", "--peers", "kronfluence", *places])


def test_every_target_stands_next_to_what_was_measured(page):
    measured = json.loads(page.with_suffix(".json").read_text())
    assert len(measured["targets"]) == 8
    for target in measured["targets"][:7]:
        assert target["met"] is not None, target
    for target in measured["targets"]:
        assert f"| {target['what']} | {target['measured']} |" in page.read_text()


def test_every_row_was_repeated_on_both_clocks(page):
    runs = json.loads(page.with_suffix(".json").read_text())["runs"]
    tools = ("training pass", "floor", "headwater, 4 queries", "headwater, 12 queries", "kronfluence, 4 queries")
    for row in (*tools, "headwater factors", "kronfluence factors", "headwater, 4 queries in bfloat16"):
        (run,) = runs[row]
        for seconds in run["seconds"].values():
            assert min(seconds["wall"], seconds["processor"]) > 0


def test_headwater_and_its_peer_compute_the_same_scores(page):
    agreements = json.loads(page.with_suffix(".json").read_text())["agreements"]
    assert agreements["headwater and kronfluence, both at full rank"]["pearson_worst"] > 0.999


def test_agreement_tells_a_query_that_differs():
    expected_QD = np.random.default_rng(0).standard_normal((3, 60))
    found_QD = expected_QD.copy()
    assert agreement(found_QD, expected_QD).meets
    found_QD[1] = -found_QD[1]
    found = agreement(found_QD, expected_QD)
    assert not found.meets
    assert found.overlap_worst == 0 and found.listed == 10
    assert found.pearson_worst == pytest.approx(-1) and found.spearman_worst == pytest.approx(-1)


def test_what_is_drawn_is_the_same_each_time_and_facts_are_in_documents():
    documents, queries = draw_documents(QUICK), draw_queries(QUICK)
    assert documents == draw_documents(QUICK) and len(documents) == QUICK.documents
    assert {len(document) for document in documents} == {QUICK.tokens}
    for query in queries:
        fact = query.token_ids[-8:]
        assert query.loss_start == len(query) - 4
        holds = [_holds(document.token_ids, fact) for document in documents]
        assert 0 < sum(holds) < len(documents)


def _holds(tokens: list[int], part: list[int]) -> bool:
    return any(tokens[start : start + len(part)] == part for start in range(len(tokens)))
