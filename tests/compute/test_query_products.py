"""Documents' gradients that are gathered over several batches for one product with those of the queries."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import compute.document_norms
import compute.query_products
import compute.routes
from compute.errors import BadInput
from compute.influence import InfluencePass, Scores
from compute.query_gradients import query_gradients
from compute.routes import Choice, Workload, choose_routes, documents_at_once, rebuilt_at_once
from compute.tracked_modules import TrackedModule
from tests.compute import oracle
from tests.compute.models import VOCABULARY, random_documents

GATHERED = 5
LAYERS = [TrackedModule(f"{layer}.{side}", *sides, True) for layer in range(4) for side, sides in (
    ("up", (256, 1024)), ("down", (1024, 256))
)]  # fmt: skip
MIB = 2**20


@pytest.fixture(params=["formed", "rebuilt"])
def gathering(request, monkeypatch) -> str:
    """Every module forms gradients, and gathers five documents of them for a product."""
    monkeypatch.setattr(compute.routes, "choose", lambda *_, **__: Choice(request.param, {request.param: 1.0}, {}))
    monkeypatch.setattr(compute.routes, "_ways", lambda *_: [(GATHERED, 2**20)])
    monkeypatch.setattr(compute.query_products, "rebuilt_at_once", lambda *_, **__: (3, 5))
    return request.param


def gradients_of(case, fitted, methods=("ekfac",)) -> list[dict]:
    found = query_gradients(case.model, case.modules, case.queries, fitted.curvature, rank=3, methods=methods)
    return [factors for *_, factors in found]


def expected_scores(case, gradients, documents) -> Scores:
    """By the for-loop oracle, from each document's own gradient."""
    directions = [{name: factor.dense() for name, factor in each.items()} for each in gradients]
    formed = [oracle.weight_gradients(case.model, case.names, each.token_ids) for each in documents]
    scores = np.array([[oracle.score(direction, each) for each in formed] for direction in directions])
    losses = [float(oracle.loss(case.model, document.token_ids).detach()) for document in documents]
    return Scores(scores, np.array([oracle.norm(each) for each in formed]), np.array(losses))


def assert_equal(found: Scores, expected: Scores, tolerance: float) -> None:
    assert oracle.relative_error(found.scores_QD, expected.scores_QD) < tolerance
    assert oracle.relative_error(found.norms_D, expected.norms_D) < tolerance
    assert oracle.relative_error(found.loss_D, expected.loss_D) < tolerance


# Batches of one document; of a few, that do not fill the five; of nearly all, more than five.
@pytest.mark.parametrize("token_budget", [28, 60, 8192])
def test_scores_are_those_of_the_documents_gradients(case, fitted, gathering, token_budget):
    gradients = gradients_of(case, fitted)
    influence = InfluencePass(case.model, case.modules, gradients, token_budget=token_budget)
    found = influence.score(case.documents)
    assert_equal(found, expected_scores(case, gradients, case.documents), case.exact)


def test_a_second_list_of_documents_knows_nothing_of_the_first(neox_case, neox_fitted, gathering):
    """Nor of one that ended with an error, whose gradients still wait."""
    gradients = gradients_of(neox_case, neox_fitted)
    influence = InfluencePass(neox_case.model, neox_case.modules, gradients, token_budget=60)
    influence.score(neox_case.documents)
    others = random_documents(7, seed=3)
    weight = neox_case.model.get_input_embeddings().weight
    kept = weight[VOCABULARY - 1].clone()
    with torch.no_grad():
        weight[VOCABULARY - 1] = torch.nan
    try:
        with pytest.raises(BadInput, match="nan"):
            influence.score([*others, *(each for each in neox_case.documents if VOCABULARY - 1 in each.token_ids)])
    finally:
        with torch.no_grad():
            weight[VOCABULARY - 1] = kept
    assert_equal(influence.score(others), expected_scores(neox_case, gradients, others), neox_case.exact)


def test_a_product_is_for_all_that_are_gathered(neox_case, neox_fitted, gathering, monkeypatch):
    """Batches of one document: five wait for a product."""
    documents = [each.__class__(each.key, each.token_ids[:8]) for each in random_documents(23, seed=5)]
    influence = InfluencePass(neox_case.model, neox_case.modules, gradients_of(neox_case, neox_fitted), token_budget=8)
    rows = []
    products = compute.query_products.DenseQueries.products

    def counted(self, weight_DP, bias_DO):
        rows.append(len(weight_DP))
        return products(self, weight_DP, bias_DO)

    monkeypatch.setattr(compute.query_products.DenseQueries, "products", counted)
    influence.score(documents)
    assert len(rows) == math.ceil(23 / GATHERED) * len(neox_case.modules)
    assert sorted(set(rows)) == [23 % GATHERED, GATHERED]


TAKES_MEMORY = [
    (torch, "bmm"),  # documents' gradients are formed
    (compute.query_products, "squared_norms"),
    (compute.query_products.DenseQueries, "products"),
    (compute.query_products.Products, "to"),  # scores are brought to where they are added up
    (compute.document_norms.DocumentNorms, "of_module"),
]


@pytest.mark.parametrize(
    ("gathering", "of", "name"),
    [
        ("rebuilt", torch, "mm"),  # queries' gradients are made of their factors
        *((route, *each) for route in ("formed", "rebuilt") for each in TAKES_MEMORY),
    ],
    indirect=["gathering"],
)
@pytest.mark.parametrize("failing", [1, 2, 3, 5, 7, 8])
def test_memory_that_runs_out_loses_nothing_and_adds_nothing_twice(
    neox_case, neox_fitted, gathering, monkeypatch, of, name, failing
):
    """The n-th time that something takes memory; also with one method that is whitened."""
    methods = ("ekfac", "trackstar")
    gradients = gradients_of(neox_case, neox_fitted, methods)
    settings = {"methods": methods * len(neox_case.queries), "curvature": neox_fitted.curvature, "token_budget": 60}
    influence = InfluencePass(neox_case.model, neox_case.modules, gradients, **settings)
    expected = influence.score(neox_case.documents)
    kept, calls = getattr(of, name), []

    def sometimes(*arguments, **named):
        calls.append(1)
        if len(calls) == failing:
            raise torch.OutOfMemoryError("injected")
        return kept(*arguments, **named)

    monkeypatch.setattr(of, name, sometimes)
    found = influence.score(neox_case.documents)
    assert len(calls) > failing
    assert_equal(found, expected, neox_case.exact)


@pytest.fixture
def narrow(monkeypatch) -> list[int]:
    """Products of more gradients than the list says run out of memory; appended are how many each was for."""
    most, products = [10**9], compute.query_products.DenseQueries.products

    def limited(self, weight_DP, bias_DO):
        most.append(len(weight_DP))
        if len(weight_DP) > most[0]:
            raise torch.OutOfMemoryError("injected")
        return products(self, weight_DP, bias_DO)

    monkeypatch.setattr(compute.query_products.DenseQueries, "products", limited)
    return most


@pytest.mark.parametrize("most", [1, 2, 3])
@pytest.mark.parametrize("documents", [4, 23])  # all of them wait for the end of the pass; several products before it
def test_a_product_that_does_not_fit_is_done_again_in_halves(
    neox_case, neox_fitted, gathering, narrow, documents, most, caplog
):
    documents = [each.__class__(each.key, each.token_ids[:8]) for each in random_documents(documents, seed=5)]
    influence = InfluencePass(neox_case.model, neox_case.modules, gradients_of(neox_case, neox_fitted), token_budget=8)
    expected = influence.score(documents)
    narrow[:] = [most]
    assert_equal(influence.score(documents), expected, neox_case.exact)
    assert max(narrow[1:]) > most
    for module in neox_case.modules:
        assert f"out of memory: documents that are gathered for {module.name} are halved to" in caplog.text
    tried = len(caplog.records)
    assert_equal(influence.score(documents), expected, neox_case.exact)
    assert len(caplog.records) == tried  # what does not fit is not tried again


def test_one_document_whose_product_does_not_fit_is_told_of(neox_case, neox_fitted, gathering, narrow):
    """At the end, and in the middle, where the batch that asks for room is not what is too large."""
    documents = [each.__class__(each.key, each.token_ids[:8]) for each in random_documents(23, seed=5)]
    influence = InfluencePass(neox_case.model, neox_case.modules, gradients_of(neox_case, neox_fitted), token_budget=8)
    expected = influence.score(documents)
    narrow[0] = 0
    with pytest.raises(BadInput, match=rf"options\.memory_mib: .* gradient of {neox_case.names[0]}"):
        influence.score(documents[:4])
    with pytest.raises(BadInput, match=r"gradient of one document .* does not fit in .*; give less options\.mem"):
        influence.score(documents)
    narrow[0] = 10**9
    assert_equal(influence.score(documents), expected, neox_case.exact)  # nothing is left of what has failed


@pytest.mark.parametrize(
    ("queries", "rank", "documents", "memory_mib", "routes", "gathered"),
    [
        (32, 16, 8, 1024, {"formed"}, 32),
        (32, 16, 32, 1024, {"formed"}, 0),  # a batch is enough for a product
        (512, 16, 8, 1024, {"rebuilt"}, 64),  # dense gradients of 512 queries are 4 GiB; more documents, fewer of them
        (512, 16, 32, 1024, {"rebuilt"}, 64),
        (512, 16, 8, 700, {"rebuilt"}, 32),  # the queries' factors are 320 MiB
        (512, 16, 8, 600, {"rebuilt"}, 64),  # … more than half of the memory, and stay where they are
        (64, 16, 8, 256, {"formed", "rebuilt"}, 16),
        (70, 16, 64, 256, {"rebuilt"}, 0),  # documents of a batch take more than a fourth, so that products are whole
        (100, 16, 8, 1024, {"formed", "rebuilt"}, 32),
        (1, 4, 8, 1024, {"formed"}, 32),  # the norm asks for the gradient
    ],
)
def test_the_memory_is_for_queries_and_documents_together(queries, rank, documents, memory_mib, routes, gathered):
    """By hand: a gradient of all modules is 8 MiB, of which a fourth of the memory holds what is formed and let go."""
    workload = Workload(256, documents, memory_mib * MIB)
    chosen = choose_routes(LAYERS, {each.name: [rank] * queries for each in LAYERS}, workload)
    assert set(chosen.names().values()) == routes
    assert chosen.gathered == gathered
    gradient = {each.name: 4 * each.out_features * each.in_dim for each in LAYERS}
    factors = 4 * sum(queries * rank * (each.out_features + each.in_dim) for each in LAYERS)
    assert chosen.kept == (factors <= workload.memory_bytes / 2)
    factors *= chosen.kept
    dense = sum(queries * gradient[name] for name, route in chosen.names().items() if route == "formed")
    taken = [(route, gradient[name]) for name, route in chosen.names().items()]
    passing = gathered * sum(gradient.values())
    if not gathered:
        passing = max(
            documents_at_once(workload, chosen.passing_bytes, size // 4, route) * size for route, size in taken
        )
    rebuilt = [each for each in LAYERS if chosen.choices[each.name].route == "rebuilt"]
    passing += max(
        (
            4 * each.in_features * math.prod(rebuilt_at_once(chosen.passing_bytes, 4, each, queries, kept=chosen.kept))
            for each in rebuilt
        ),
        default=0,
    )
    assert factors + dense + passing <= workload.memory_bytes


def test_full_rank_gradients_are_laid_out_dense_where_these_fit():
    """Their factors take more than they themselves, and need not be kept for it."""
    workload, ranks = Workload(256, 8, 1024 * MIB), {each.name: [256] * 32 for each in LAYERS}
    chosen = choose_routes(LAYERS, ranks, workload)
    assert set(chosen.names().values()) == {"formed"} and chosen.kept
    less = choose_routes(LAYERS, ranks, Workload(256, 8, 600 * MIB))
    assert set(less.names().values()) == {"formed"} and not less.kept


@pytest.mark.parametrize("taken", ["factors", "rebuilt"])
def test_factors_that_are_too_many_for_the_memory_stay_where_they_are(neox_case, neox_fitted, taken, monkeypatch):
    """Nothing of them is copied, also where products are of another precision; scores are the same."""
    monkeypatch.setattr(compute.routes, "choose", lambda *_, **__: Choice(taken, {taken: 1.0}, {}))
    monkeypatch.setattr(compute.query_products, "ELEMENTS_AT_ONCE", 60 * 4)  # four columns of ranks of three
    gradients = gradients_of(neox_case, neox_fitted)
    factors = sum(8 * (f.left_OR.numel() + f.right_IR.numel()) for each in gradients for f in each.values())
    expected = expected_scores(neox_case, gradients, neox_case.documents)
    for products, tolerance in ((torch.float64, neox_case.exact), (torch.float32, 1e-4)):
        memory_bytes = 2 * factors * products.itemsize // 8
        for memory in (memory_bytes, memory_bytes - 8):
            settings = {"memory_bytes": memory, "products": products, "token_budget": 60}
            influence = InfluencePass(neox_case.model, neox_case.modules, gradients, **settings)
            assert influence.chosen.kept == (memory == memory_bytes)
            assert_equal(influence.score(neox_case.documents), expected, tolerance)
        for module in neox_case.modules:  # of the last
            route = influence.routes[module.name]
            held = route.factors if taken == "factors" else route.queries.factors
            assert all(each is by_module[module.name] for each, by_module in zip(held, gradients, strict=True))
