"""Factors in bounded memory: modules in groups, and the same results whatever is held at once."""

from __future__ import annotations

import pytest
import torch

from compute.block_diagonal import blocks_of
from compute.covariances import fit_covariances
from compute.eigenvalues import fit_eigenvalues
from compute.errors import BadInput
from compute.factor_memory import bytes_to_fit, entry_bytes, gradient_copies, module_groups, residence, side_bytes
from compute.query_gradients import dense_gradients, directed, query_gradients
from compute.tracked_modules import TrackedModule
from tests.compute import oracle
from tests.compute.models import fit, make_case

METHODS = ("ekfac", "dot", "trackstar")


@pytest.fixture(scope="module")
def case():
    return make_case("llama", selection="all")


@pytest.fixture(scope="module")
def fitted(case):
    return fit(case)


def modules_of(*sizes: int) -> list[TrackedModule]:
    return [TrackedModule(f"m{number}", size, size, has_bias=False) for number, size in enumerate(sizes)]


def test_groups_are_neighbours_and_hold_what_fits():
    modules = modules_of(3, 4, 5, 10, 1, 1)
    groups = module_groups(modules, lambda module: module.in_features, 10)
    assert [[module.in_features for module in group] for group in groups] == [[3, 4], [5], [10], [1, 1]]
    assert module_groups(modules, lambda module: module.in_features, 24) == [tuple(modules)]
    assert module_groups(modules, lambda module: module.in_features, None) == [tuple(modules)]


def test_a_module_that_does_not_fit_alone_is_refused():
    with pytest.raises(BadInput, match=r"curvature\.memory_mib: 2, and the factors of m1 alone take 4 MiB; raise it"):
        module_groups(modules_of(8, 1024, 2048), lambda module: 2**12 * module.in_features, 2**21)


@pytest.mark.parametrize("blocks", [1, 4])
def test_bytes_are_those_of_the_tensors(case, blocks):
    found = fit_covariances(case.model, case.modules, case.documents, labels="empirical", blocks=blocks)
    for module in case.modules:
        both = (found[module.name].activation_II, found[module.name].gradient_OO)
        entries = sum(block.numel() for matrix in both for block in blocks_of(matrix))
        assert 4 * entries == side_bytes(module, blocks) == bytes_to_fit("covariances", module, blocks)
        of_lambda = bytes_to_fit("eigenvalues", module, blocks) - side_bytes(module, blocks)
        assert of_lambda == 2 * entry_bytes(module) == 8 * module.out_features * module.in_dim


@pytest.mark.parametrize("labels", ["sampled", "empirical"])
def test_groups_are_fitted_as_all_at_once(case, fitted, labels):
    settings = {"labels": labels, "seed": 2, "token_budget": 60}
    basis = fitted.curvature.eigenbasis
    at_once = (
        fit_covariances(case.model, case.modules, case.documents, **settings),
        fit_eigenvalues(case.model, case.modules, basis, case.documents, **settings),
    )
    most = max(bytes_to_fit("eigenvalues", module) for module in case.modules)
    groups = module_groups(case.modules, lambda module: bytes_to_fit("eigenvalues", module), most)
    assert len(groups) > 2
    for group in groups:
        covariances = fit_covariances(case.model, group, case.documents, **settings)
        eigenvalues = fit_eigenvalues(case.model, group, basis, case.documents, **settings)
        assert list(covariances) == list(eigenvalues) == [module.name for module in group]
        for name, found in covariances.items():
            assert oracle.relative_error(found.activation_II, at_once[0][name].activation_II) < 1e-12
            assert oracle.relative_error(found.gradient_OO, at_once[0][name].gradient_OO) < 1e-12
            assert oracle.relative_error(eigenvalues[name], at_once[1][name]) < 1e-12


@pytest.mark.parametrize("settings", [{"rank": 3}, {"rank": None}, {"agreement": 0.99}])
@pytest.mark.parametrize("at_once", [2, 3, 100])
def test_queries_side_by_side_have_the_gradients_of_each_alone(case, fitted, settings, at_once):
    alone = list(query_gradients(case.model, case.modules, case.queries, fitted.curvature, methods=METHODS, **settings))
    seen: list[str] = []
    together = query_gradients(
        case.model,
        case.modules,
        case.queries,
        fitted.curvature,
        methods=METHODS,
        queries_at_once=at_once,
        on_query=seen.append,
        **settings,
    )
    for (method, key, expected), (other, other_key, found) in zip(alone, together, strict=True):
        assert (method, key) == (other, other_key)
        for name, factors in expected.items():
            assert torch.equal(factors.left_OR, found[name].left_OR)
            assert torch.equal(factors.right_IR, found[name].right_IR)
    assert seen == [query.key for query in case.queries]


def test_directions_side_by_side_are_those_of_each_alone(case, fitted):
    gradients = [dense_gradients(case.model, case.modules, query) for query in case.queries]
    together = directed(METHODS, gradients, fitted.curvature)
    for gradient, found in zip(gradients, together, strict=True):
        (alone,) = directed(METHODS, [gradient], fitted.curvature)
        assert list(found) == list(METHODS)
        assert all(torch.equal(found[m][name], alone[m][name]) for m in METHODS for name in gradient)


def test_all_factors_are_kept_where_they_fit_and_as_many_gradients_as_fit_where_not():
    modules = modules_of(100, 200, 100)
    entries = 4 * (100**2 + 200**2 + 100**2)
    whole = 2 * entries + entries
    assert residence(modules, 1, whole + entries, 1).keeps_all
    assert residence(modules, 1, whole + entries - 1, 1) == residence(modules, 1, 3 * entries, 1)
    streamed = residence(modules, 1, 3 * entries, 1)
    assert not streamed.keeps_all and streamed.queries_at_once == 3
    assert residence(modules, 1, 3 * entries, 2).queries_at_once == residence(modules, 1, 10, 1).queries_at_once == 1
    assert residence(modules, 2, whole, 1).keeps_all and residence(modules, 1, 10, 1, keeps_all=True).keeps_all
    assert streamed.bytes_of_query == entries and residence(modules, 1, 10, 2, measured=1).bytes_of_query > 2 * entries
    assert [gradient_copies(2, agreement) for agreement in (False, True)] == [1, 5]


def test_entries_of_a_float64_model_take_twice_as_much():
    modules = modules_of(100, 200, 100)
    entries = 4 * (100**2 + 200**2 + 100**2)
    assert not residence(modules, 1, 4 * entries, 1, double=True).keeps_all
    assert residence(modules, 1, 8 * entries, 1, double=True).keeps_all
    assert residence(modules, 1, 6 * entries, 1, double=True).queries_at_once == 3
    for stage in ("covariances", "eigenvalues"):
        assert bytes_to_fit(stage, modules[0], double=True) == 2 * bytes_to_fit(stage, modules[0])
