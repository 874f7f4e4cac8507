"""Exact scores: per module and per token they sum to the score, and each share is the oracle's."""

from __future__ import annotations

import numpy as np
import pytest

from compute.exact_scores import ExactScore, exact_scores
from compute.influence import score_documents
from compute.low_rank import full_rank
from compute.query_gradients import dense_gradients, directed
from tests.compute import oracle


@pytest.fixture(params=["ekfac", "dot"])
def directions(request, case, fitted) -> list[dict]:
    gradients = [dense_gradients(case.model, case.modules, query) for query in case.queries]
    return [directed(request.param, gradient, fitted.curvature) for gradient in gradients]


def oracle_gradients(case, document) -> dict:
    return oracle.weight_gradients(case.model, case.names, document.token_ids)


def test_are_the_inner_products(case, directions):
    for direction in directions:
        for document, found in zip(
            case.documents, exact_scores(case.model, case.modules, direction, case.documents), strict=True
        ):
            expected = oracle.score(direction, oracle_gradients(case, document))
            assert found.key == document.key
            assert found.score == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_module_scores_are_each_modules_inner_product_and_sum_to_the_score(case, directions):
    for document, found in zip(
        case.documents, exact_scores(case.model, case.modules, directions[0], case.documents), strict=True
    ):
        gradient = oracle_gradients(case, document)
        assert found.module_scores.keys() == set(case.names)
        for name, share in found.module_scores.items():
            expected = float((directions[0][name] * gradient[name]).sum())
            assert share == pytest.approx(expected, rel=1e-6, abs=1e-9)
        assert sum(found.module_scores.values()) == pytest.approx(found.score, rel=1e-9)


def test_token_scores_are_each_positions_share_and_sum_to_the_score(case, directions):
    for document, found in zip(
        case.documents, exact_scores(case.model, case.modules, directions[0], case.documents), strict=True
    ):
        expected_T = np.zeros(len(document))
        factors = oracle.activations_and_output_gradients(case.model, case.names, document.token_ids)
        for name, (a_TI, g_TO) in factors.items():
            for position, (a_I, g_O) in enumerate(zip(a_TI, g_TO, strict=True)):
                expected_T[position] += float(g_O @ directions[0][name] @ a_I)
        assert oracle.relative_error(found.token_scores_T, expected_T) < 1e-6
        assert float(found.token_scores_T.sum()) == pytest.approx(found.score, rel=1e-6, abs=1e-9)
        assert found.token_scores_T[-1] == 0.0  # the last token predicts nothing


@pytest.mark.parametrize("token_budget", [28, 61, 8192])
def test_do_not_depend_on_batch_size_or_order(case, directions, token_budget):
    expected = exact_scores(case.model, case.modules, directions[0], case.documents, token_budget=40)
    found = exact_scores(case.model, case.modules, directions[0], case.documents[::-1], token_budget=token_budget)
    for one, other in zip(found[::-1], expected, strict=True):
        assert one.key == other.key
        assert one.score == pytest.approx(other.score, rel=1e-6, abs=1e-9)
        assert oracle.relative_error(one.token_scores_T, other.token_scores_T) < case.exact


def test_equal_the_full_rank_scores_of_the_pass(case, directions):
    factors = [{name: full_rank(gradient_OI) for name, gradient_OI in direction.items()} for direction in directions]
    scores_QD = score_documents(case.model, case.modules, factors, case.documents).scores_QD
    for row, direction in enumerate(directions):
        found = [exact.score for exact in exact_scores(case.model, case.modules, direction, case.documents)]
        assert oracle.relative_error(np.array(found), scores_QD[row]) < case.exact


@pytest.mark.parametrize(
    ("token_scores", "concentration", "spurious"),
    [([5.0, 0.0, 0.0], 1.0, True), ([1.0, -1.0, 1.0, 1.0], 0.5, False), ([0.0, 0.0], 0.0, False)],
)
def test_influence_on_a_single_token_is_likely_spurious(token_scores, concentration, spurious):
    found = ExactScore("document", sum(token_scores), {}, np.array(token_scores))
    assert found.concentration == pytest.approx(concentration)
    assert found.likely_spurious == spurious
