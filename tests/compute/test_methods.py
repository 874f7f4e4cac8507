"""Each method against a for-loop oracle: dense matrices and single documents, nothing of the engine's in what is
expected. Scores of the pass, exact scores with their shares, low ranks, and what they do not depend on."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch

import compute.routes
from assets.specs.study import StudyOptions
from compute.exact_scores import exact_scores
from compute.influence import InfluencePass, score_documents
from compute.methods import METHODS as ALL_METHODS
from compute.query_gradients import dense_gradients, directed, query_gradients
from compute.routes import Choice
from tests.compute import oracle
from tests.compute.models import fit, make_case

DAMPING = 0.1
METHODS = [name for name, each in ALL_METHODS.items() if not each.refined]  # of those: test_refinement.py
UNIT_NORM = ("cosine", "trackstar")


@pytest.fixture(scope="module")
def expected(case) -> SimpleNamespace:
    """The oracle's own fit: covariances, eigenvectors, Λ; and the whole gradients of queries and documents."""
    documents = [(document.token_ids,) for document in case.documents]
    covariances = oracle.covariances(case.model, case.names, documents)
    bases = {name: (torch.linalg.eigh(A)[1], torch.linalg.eigh(S)[1]) for name, (A, S) in covariances.items()}

    def gradients(sequences) -> list[dict]:
        return [oracle.weight_gradients(case.model, case.names, s.token_ids, s.loss_start) for s in sequences]

    return SimpleNamespace(
        covariances=covariances,
        bases=bases,
        eigenvalues=oracle.eigenvalue_correction(case.model, bases, documents),
        tokens=sum(map(len, case.documents)) / len(case.documents),
        queries=gradients(case.queries),
        documents=gradients(case.documents),
    )


@pytest.fixture(scope="module")
def oracles(expected) -> dict[str, np.ndarray]:
    """The scores of each method, Q×D."""
    return {method: oracle_scores(expected, method) for method in METHODS}


@pytest.fixture(scope="module")
def curvature(case, fitted):
    return curvature_of(case, fitted)


def curvature_of(case, fitted, damping: float = DAMPING):
    tokens = sum(map(len, case.documents)) / len(case.documents)
    return replace(fitted.curvature, document_tokens=dict.fromkeys(case.names, tokens), damping=damping)


def oracle_scores(expected, method: str, damping: float = DAMPING) -> np.ndarray:
    """Q×D, one query and document after the other."""
    queries, documents, compare = expected.queries, expected.documents, oracle.score
    if method == "kfac":
        queries = [kfac_of(expected, query, damping) for query in queries]
    if method in ("ekfac", "trackstar"):
        queries, documents = ([whitened_of(expected, each, damping) for each in side] for side in (queries, documents))
    if method in UNIT_NORM:
        compare = oracle.cosine
    return np.array([[compare(query, document) for document in documents] for query in queries])


def kfac_of(expected, gradient: dict, damping: float) -> dict:
    return {
        name: oracle.kfac_preconditioned(*expected.covariances[name], expected.tokens, damping, gradient_OI)
        for name, gradient_OI in gradient.items()
    }


def whitened_of(expected, gradient: dict, damping: float) -> dict:
    return {
        name: oracle.whitened(*expected.bases[name], values, damping * float(values.mean()), gradient[name])
        for name, values in expected.eigenvalues.items()
    }


def engine_gradients(case, curvature, methods, **settings) -> tuple[list[str], list[dict]]:
    settings = {"rank": None} | settings
    found = list(query_gradients(case.model, case.modules, case.queries, curvature, methods=methods, **settings))
    return [method for method, _, _ in found], [factors for _, _, factors in found]


def engine_scores(case, curvature, methods, documents=None, *, token_budget: int = 60, **settings) -> dict:
    """Q×D by method."""
    named, gradients = engine_gradients(case, curvature, methods, **settings)
    influence = InfluencePass(
        case.model, case.modules, gradients, methods=named, curvature=curvature, token_budget=token_budget
    )
    scores_QD = influence.score(documents or case.documents).scores_QD
    return {method: scores_QD[[row for row, each in enumerate(named) if each == method]] for method in methods}


@pytest.fixture(params=["factors", "formed", "rebuilt"])
def route(request, monkeypatch) -> str:
    monkeypatch.setattr(compute.routes, "choose", lambda *_, **__: Choice(request.param, {request.param: 1.0}, {}))
    return request.param


def test_scores_are_the_oracles_from_end_to_end(case, oracles, curvature, route):
    found = engine_scores(case, curvature, tuple(METHODS))
    for method in METHODS:
        assert oracle.relative_error(found[method], oracles[method]) < 1e-5, method


def test_a_method_alone_scores_as_among_all(case, curvature):
    together = engine_scores(case, curvature, tuple(METHODS), rank=4)
    for method in METHODS:
        alone = engine_scores(case, curvature, (method,), rank=4)[method]
        assert oracle.relative_error(alone, together[method]) < case.exact, method


def test_damping_is_of_the_mean_of_the_eigenvalues_that_are_damped(case, fitted, expected):
    damping = 1.0
    found = engine_scores(case, curvature_of(case, fitted, damping), ("kfac", "trackstar"))
    for method, scores_QD in found.items():
        assert oracle.relative_error(scores_QD, oracle_scores(expected, method, damping)) < 1e-5, method


def test_kfac_is_in_the_units_of_documents(case, curvature):
    """Documents of twice the tokens have twice the curvature, and half the scores; ekfac's know nothing of it."""
    tokens = {name: 2 * each for name, each in curvature.document_tokens.items()}
    doubled = replace(curvature, document_tokens=tokens)
    found, half = (engine_scores(case, each, ("kfac", "ekfac")) for each in (curvature, doubled))
    assert oracle.relative_error(2 * half["kfac"], found["kfac"]) < 1e-9
    assert np.array_equal(half["ekfac"], found["ekfac"])
    with pytest.raises(ValueError, match="document_tokens"):
        engine_scores(case, replace(curvature, document_tokens=None), ("kfac",))


@pytest.mark.parametrize("method", UNIT_NORM)
def test_a_document_scores_one_for_itself_and_no_other_more(case, curvature, method):
    """The query is a document: the cosine of a gradient with itself is 1, and with any other between −1 and 1."""
    own = replace(case, queries=case.documents[:4])
    found = engine_scores(own, curvature, (method,))[method]
    assert np.allclose(np.diagonal(found), 1.0, atol=1e-6)
    assert np.abs(found).max() <= 1 + 1e-9 and found.min() < 0.9


@pytest.mark.parametrize("method", UNIT_NORM)
@pytest.mark.parametrize("token_budget", [28, 8192])
def test_do_not_depend_on_batches_or_order(case, curvature, method, token_budget):
    one = engine_scores(case, curvature, (method,), rank=4)[method]
    other = engine_scores(case, curvature, (method,), case.documents[::-1], token_budget=token_budget, rank=4)[method]
    assert oracle.relative_error(other[:, ::-1].copy(), one) < case.exact


@pytest.mark.parametrize("settings", [{"rank": 4}, {"agreement": 0.99}])
def test_low_ranks_are_those_of_the_metric_at_the_querys_whole_norm(case, curvature, settings):
    """A method of unit norm divides by the norm of the whole gradient, not of what is left of it."""
    named, gradients = engine_gradients(case, curvature, tuple(METHODS), **settings)
    by_method = {method: [f for each, f in zip(named, gradients, strict=True) if each == method] for method in METHODS}
    for method, plain in (("cosine", "dot"), ("trackstar", "ekfac")):
        for row, query in enumerate(case.queries):
            gradient = dense_gradients(case.model, case.modules, query)
            norm = oracle.score(directed([plain], [gradient], curvature)[0][plain], gradient) ** 0.5
            for name, factor in by_method[method][row].items():
                expected_OI = by_method[plain][row][name].dense() / norm
                assert oracle.relative_error(factor.dense(), expected_OI) < case.exact


@pytest.mark.parametrize("method", METHODS)
def test_exact_scores_are_the_oracles_and_all_shares_sum_to_them(case, oracles, curvature, method):
    gradients = [dense_gradients(case.model, case.modules, query) for query in case.queries]
    directions = [each[method] for each in directed([method], gradients, curvature)]
    found = exact_scores(
        case.model,
        case.modules,
        directions,
        case.documents,
        [range(len(directions))] * len(case.documents),
        methods=[method] * len(directions),
        curvature=curvature,
        token_budget=60,
    )
    scores_QD = np.array([[scores[row].score for scores in found] for row in range(len(directions))])
    assert oracle.relative_error(scores_QD, oracles[method]) < 1e-5
    for scores in found:
        for exact in scores.values():
            assert float(exact.token_scores_T.sum()) == pytest.approx(exact.score, rel=1e-6, abs=1e-9)
            assert sum(exact.module_scores.values()) == pytest.approx(exact.score, rel=1e-6, abs=1e-9)
    assert oracle.relative_error(scores_QD, engine_scores(case, curvature, (method,))[method]) < case.exact


def test_exact_scores_of_some_methods_are_divided_and_those_of_others_not(case, curvature):
    """Directions of several methods in one pass, each pair as if alone."""
    methods = ["dot", "cosine", "trackstar", "ekfac"]
    gradient = dense_gradients(case.model, case.modules, case.queries[0])
    directions = list(directed(methods, [gradient], curvature)[0].values())
    wanted = [[0, 1], [], [2], [3, 2], [0, 1, 2, 3], [1], [], [0], [2, 3]]
    settings = {"methods": methods, "curvature": curvature}
    found = exact_scores(case.model, case.modules, directions, case.documents, wanted, token_budget=40, **settings)
    whole = engine_scores(case, curvature, tuple(methods))
    for place, (scores, rows) in enumerate(zip(found, wanted, strict=True)):
        assert sorted(scores) == sorted(rows)
        for row in rows:
            assert scores[row].score == pytest.approx(whole[methods[row]][0, place], rel=1e-6, abs=1e-9)


def test_norms_of_the_documents_are_the_plain_ones_whatever_the_methods(case, curvature):
    named, gradients = engine_gradients(case, curvature, tuple(METHODS))
    settings = {"methods": named, "curvature": curvature}
    found = score_documents(case.model, case.modules, gradients, case.documents, **settings)
    usual = score_documents(case.model, case.modules, gradients, case.documents)
    assert np.array_equal(found.norms_D, usual.norms_D) and np.array_equal(found.loss_D, usual.loss_D)


@pytest.mark.parametrize("method", UNIT_NORM)
def test_what_has_no_gradient_scores_zero(neox_case, neox_fitted, method):
    case = make_case("gpt_neox")
    with torch.no_grad():  # no loss reaches the tracked modules
        case.model.get_output_embeddings().weight.zero_()
    curvature = curvature_of(neox_case, neox_fitted)
    assert not engine_scores(case, curvature, (method,))[method].any()


def test_a_float32_model_agrees_with_float64(case, curvature):
    single = make_case(case.model.config.model_type, dtype=torch.float32)
    found = engine_scores(single, curvature_of(single, fit(single)), tuple(METHODS))
    whole = engine_scores(case, curvature, tuple(METHODS))
    for method in METHODS:
        assert oracle.relative_error(found[method], whole[method]) < 1e-3, method


@pytest.mark.parametrize("settings", [{"rank": None}, {"rank": 4}, {"agreement": 0.99}])
def test_gradients_of_a_refined_method_are_those_that_are_given_cut_as_they_are(case, curvature, settings):
    given = {query.key: dense_gradients(case.model, case.modules, query) for query in case.queries}
    named, found = engine_gradients(case, curvature, ("astra", "dot"), refined=given.__getitem__, **settings)
    for name, each, plain in zip(named[::2], found[::2], found[1::2], strict=True):
        assert name == "astra"
        for module in case.names:
            assert oracle.relative_error(each[module].dense(), plain[module].dense()) < case.exact


def test_trackstar_without_a_curvature_and_methods_of_another_number_are_refused(neox_case, neox_fitted):
    _, gradients = engine_gradients(neox_case, curvature_of(neox_case, neox_fitted), ("trackstar",))
    arguments = (neox_case.model, neox_case.modules, gradients)
    with pytest.raises(ValueError, match="need a curvature"):
        InfluencePass(*arguments, methods=["trackstar"] * len(gradients)).score(neox_case.documents)
    with pytest.raises(ValueError, match="1 methods for 4 gradients"):
        InfluencePass(*arguments, methods=["trackstar"])


def test_a_study_may_ask_for_every_method_and_for_each_once():
    declared = get_args(get_args(get_type_hints(StudyOptions)["methods"])[0])
    assert declared == tuple(ALL_METHODS)
    with pytest.raises(ValueError, match="methods lists cosine twice"):
        StudyOptions(methods=("cosine", "dot", "cosine"))
