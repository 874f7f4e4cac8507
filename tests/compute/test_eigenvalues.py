"""Λ: the mean over documents of squared rotated gradients, whatever the batches and whichever side is rotated."""

from __future__ import annotations

import pytest
import torch

import compute.module_gradients
from compute.batches import Sequence
from compute.eigenvalues import fit_eigenvalues
from tests.compute import oracle
from tests.compute.labels import sampled_labels
from tests.compute.models import fit, make_case


def bases(fitted) -> dict:
    eigenbasis = fitted.curvature.eigenbasis
    return {name: (basis.activation_vectors_IA, basis.gradient_vectors_OS) for name, basis in eigenbasis.items()}


def assert_same(found: dict, expected: dict, tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        assert oracle.relative_error(found[name], expected[name]) < tolerance, name


@pytest.mark.parametrize("token_budget", [28, 8192])  # 28: short documents by themselves, so that tokens are rotated
def test_equal_the_for_loop_with_the_datas_labels(case, fitted, token_budget):
    found = fit_eigenvalues(
        case.model,
        case.modules,
        fitted.curvature.eigenbasis,
        case.documents,
        labels="empirical",
        token_budget=token_budget,
    )
    expected = oracle.eigenvalue_correction(case.model, bases(fitted), [(d.token_ids,) for d in case.documents])
    assert_same(found, expected, case.exact)


def test_equal_the_for_loop_with_sampled_labels(case, fitted):
    found = fit_eigenvalues(
        case.model, case.modules, fitted.curvature.eigenbasis, case.documents, labels="sampled", seed=5
    )
    documents = [(d.token_ids, 1, sampled_labels(case.model, d, seed=5)) for d in case.documents]
    assert_same(found, oracle.eigenvalue_correction(case.model, bases(fitted), documents), case.exact)


def test_both_rotations_are_taken(case):
    """Guards the two tests above: their documents must be long enough for one route and short enough for the other."""
    for module in case.modules:
        outputs, inputs = module.out_features, module.in_dim
        even = outputs * inputs * (outputs + inputs) / (outputs**2 + inputs**2)
        assert min(map(len, case.documents)) < even < max(map(len, case.documents))


@pytest.mark.parametrize("labels", ["sampled", "empirical"])
@pytest.mark.parametrize("token_budget", [28, 61, 8192])
def test_do_not_depend_on_batch_size_or_order(case, fitted, labels, token_budget):
    def fitted_in(documents, budget):
        return fit_eigenvalues(
            case.model, case.modules, fitted.curvature.eigenbasis, documents, labels=labels, seed=3, token_budget=budget
        )

    assert_same(fitted_in(case.documents[::-1], token_budget), fitted_in(case.documents, 40), case.exact)


def test_do_not_depend_on_how_many_gradients_are_formed_at_once(neox_case, neox_fitted, monkeypatch):
    def fitted_now():
        return fit_eigenvalues(
            neox_case.model,
            neox_case.modules,
            neox_fitted.curvature.eigenbasis,
            neox_case.documents,
            labels="empirical",
        )

    expected = fitted_now()
    monkeypatch.setattr(compute.module_gradients, "ELEMENTS_AT_ONCE", 2 * 40 * 17)
    assert_same(fitted_now(), expected, neox_case.exact)


def test_are_a_mean_over_documents_not_a_sum(neox_case, neox_fitted):
    def fitted_in(documents):
        return fit_eigenvalues(
            neox_case.model, neox_case.modules, neox_fitted.curvature.eigenbasis, documents, labels="empirical"
        )

    copies = [Sequence(f"{d.key}-{copy}", d.token_ids) for d in neox_case.documents for copy in range(3)]
    assert_same(fitted_in(copies), fitted_in(neox_case.documents), neox_case.exact)


def test_square_the_documents_whole_gradient_not_each_tokens(neox_case, neox_fitted):
    """In any orthonormal basis ΣΛ is the mean squared gradient norm; squaring per token gives another sum."""
    expected = {name: 0.0 for name in neox_case.names}
    for document in neox_case.documents:
        for name, gradient_OI in oracle.weight_gradients(neox_case.model, neox_case.names, document.token_ids).items():
            expected[name] += float((gradient_OI**2).sum()) / len(neox_case.documents)
    for name, eigenvalues_SA in neox_fitted.curvature.eigenvalues.items():
        assert float(eigenvalues_SA.sum()) == pytest.approx(expected[name], rel=neox_case.exact)


def test_accumulate_in_float32_for_a_bfloat16_model():
    case = make_case("gpt_neox", dtype=torch.bfloat16)
    eigenvalues = fit(case).curvature.eigenvalues
    assert all(value.dtype == torch.float32 and torch.isfinite(value).all() for value in eigenvalues.values())
