"""Exact scores: per module and per token they sum to the score, and each share is the oracle's."""

from __future__ import annotations

import numpy as np
import pytest

from compute.batches import plan_batches
from compute.exact_scores import ExactScore, exact_scores
from compute.influence import score_documents
from compute.low_rank import full_rank
from compute.query_gradients import dense_gradients, directed
from tests.compute import oracle


@pytest.fixture(params=["ekfac", "dot"])
def directions(request, case, fitted) -> list[dict]:
    gradients = [dense_gradients(case.model, case.modules, query) for query in case.queries]
    return [each[request.param] for each in directed([request.param], gradients, fitted.curvature)]


def all_pairs(case, directions, **settings) -> list[dict[int, ExactScore]]:
    wanted = [range(len(directions))] * len(case.documents)
    return exact_scores(case.model, case.modules, directions, case.documents, wanted, **settings)


def oracle_gradients(case, document) -> dict:
    return oracle.weight_gradients(case.model, case.names, document.token_ids)


def same(found: float, expected: float) -> bool:
    return found == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_are_the_inner_products(case, directions):
    for document, found in zip(case.documents, all_pairs(case, directions, token_budget=60), strict=True):
        gradient = oracle_gradients(case, document)
        assert found.keys() == set(range(len(directions)))
        for row, exact in found.items():
            assert exact.key == document.key
            assert same(exact.score, oracle.score(directions[row], gradient))


def test_module_scores_are_each_modules_inner_product_and_sum_to_the_score(case, directions):
    for document, found in zip(case.documents, all_pairs(case, directions), strict=True):
        gradient = oracle_gradients(case, document)
        for row, exact in found.items():
            assert exact.module_scores.keys() == set(case.names)
            for name, share in exact.module_scores.items():
                assert same(share, float((directions[row][name] * gradient[name]).sum()))
            assert same(sum(exact.module_scores.values()), exact.score)


def test_token_scores_are_each_positions_share_and_sum_to_the_score(case, directions):
    for document, found in zip(case.documents, all_pairs(case, directions), strict=True):
        factors = oracle.activations_and_output_gradients(case.model, case.names, document.token_ids)
        for row, exact in found.items():
            expected_T = np.zeros(len(document))
            for name, (a_TI, g_TO) in factors.items():
                for position in range(len(document)):
                    expected_T[position] += float(g_TO[position] @ directions[row][name] @ a_TI[position])
            assert oracle.relative_error(exact.token_scores_T, expected_T) < 1e-6
            assert same(float(exact.token_scores_T.sum()), exact.score)
            assert exact.token_scores_T[-1] == 0.0  # the last token predicts nothing


@pytest.mark.parametrize("token_budget", [28, 61, 8192])
def test_do_not_depend_on_batch_size_or_order(case, directions, token_budget):
    expected = all_pairs(case, directions, token_budget=40)
    wanted = [range(len(directions))] * len(case.documents)
    found = exact_scores(case.model, case.modules, directions, case.documents[::-1], wanted, token_budget=token_budget)
    for one, other in zip(found[::-1], expected, strict=True):
        for row in one:
            assert one[row].key == other[row].key
            assert same(one[row].score, other[row].score)
            assert oracle.relative_error(one[row].token_scores_T, other[row].token_scores_T) < case.exact


def test_only_the_pairs_asked_for_are_scored_and_each_as_if_alone(case, directions):
    wanted = [[0], [], [1, 3], [2], [0, 1, 2, 3], [], [3], [1], [0]]
    found = exact_scores(case.model, case.modules, directions, case.documents, wanted)
    everything = all_pairs(case, directions)
    for scores, expected, rows in zip(found, everything, wanted, strict=True):
        assert list(scores) == sorted(rows)
        for row in rows:
            assert same(scores[row].score, expected[row].score)
            assert oracle.relative_error(scores[row].token_scores_T, expected[row].token_scores_T) < case.exact


def test_each_document_goes_through_the_model_once(neox_case, neox_fitted, monkeypatch):
    passes, forward = [], neox_case.model.forward
    gradients = [dense_gradients(neox_case.model, neox_case.modules, query) for query in neox_case.queries]
    monkeypatch.setattr(neox_case.model, "forward", lambda **inputs: (passes.append(1), forward(**inputs))[1])
    all_pairs(neox_case, gradients * 5, token_budget=60)
    assert len(passes) == len(plan_batches([len(document) for document in neox_case.documents], 60))


def test_equal_the_full_rank_scores_of_the_pass(case, directions):
    factors = [{name: full_rank(gradient_OI) for name, gradient_OI in direction.items()} for direction in directions]
    scores_QD = score_documents(case.model, case.modules, factors, case.documents).scores_QD
    found = all_pairs(case, directions)
    exact_QD = np.array([[scores[row].score for scores in found] for row in range(len(directions))])
    assert oracle.relative_error(exact_QD, scores_QD) < case.exact


@pytest.mark.parametrize(
    ("token_scores", "concentration", "spurious"),
    [([5.0, 0.0, 0.0], 1.0, True), ([1.0, -1.0, 1.0, 1.0], 0.5, False), ([0.0, 0.0], 0.0, False)],
)
def test_influence_on_a_single_token_is_likely_spurious(token_scores, concentration, spurious):
    found = ExactScore("document", sum(token_scores), {}, np.array(token_scores))
    assert found.concentration == pytest.approx(concentration)
    assert found.likely_spurious == spurious
