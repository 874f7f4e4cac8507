"""The eigenbasis is compared as recomposed matrices: the sign and rotation of eigenvectors are arbitrary."""

from __future__ import annotations

import pytest
import torch

from compute.covariances import ModuleCovariances
from compute.eigenbasis import decompose
from tests.compute import oracle


def test_recomposes_both_covariances(fitted):
    for name, basis in fitted.curvature.eigenbasis.items():
        Q_A, Q_S = basis.activation_vectors_IA, basis.gradient_vectors_OS
        activation_II = Q_A @ torch.diag(basis.activation_values_A) @ Q_A.T
        gradient_OO = Q_S @ torch.diag(basis.gradient_values_S) @ Q_S.T
        assert oracle.relative_error(activation_II, fitted.covariances[name].activation_II) < 1e-10
        assert oracle.relative_error(gradient_OO, fitted.covariances[name].gradient_OO) < 1e-10


def test_eigenvectors_are_orthonormal_columns(fitted):
    for basis in fitted.curvature.eigenbasis.values():
        for vectors in (basis.activation_vectors_IA, basis.gradient_vectors_OS):
            assert oracle.relative_error(vectors.T @ vectors, torch.eye(len(vectors))) < 1e-10


def test_rotating_there_and_back_is_the_identity(fitted):
    for name, basis in fitted.curvature.eigenbasis.items():
        gradient_OI = torch.randn(fitted.curvature.eigenvalues[name].shape, dtype=torch.float64)
        assert oracle.relative_error(basis.rotate_back(basis.rotate(gradient_OI)), gradient_OI) < 1e-10


def test_float32_covariances_are_decomposed_in_float64():
    """Exact in float32, with eigenvalues 1.25 and 7.6e-7: float32 arithmetic would lose the small one's digits."""
    matrix = torch.tensor([[1.0, 0.5], [0.5, 0.25 + 2.0**-20]])
    smallest = 2.0**-20 / 1.25
    basis = decompose({"module": ModuleCovariances(matrix, matrix, tokens=1)})["module"]
    assert float(basis.activation_values_A[0]) == pytest.approx(smallest, rel=1e-5)
    assert float(basis.gradient_values_S[0]) == pytest.approx(smallest, rel=1e-5)
    assert basis.activation_vectors_IA.dtype == torch.float32
