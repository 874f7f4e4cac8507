"""What the checks of a curvature fit call a defect, and that a real fit, also a rank-deficient one, has none."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from compute.covariances import ModuleCovariances, covariance_defect
from compute.eigenbasis import Decomposition, basis_defect
from compute.eigenvalues import eigenvalue_defect


def covariances(dtype=torch.float32, *, samples: int = 5, size: int = 40) -> ModuleCovariances:
    """Of fewer samples than dimensions, so that most eigenvalues are zero, and rounding makes some negative."""
    draw = torch.Generator().manual_seed(0)
    a_NI, g_NO = (torch.randn(samples, size, generator=draw, dtype=dtype) * 30 for _ in range(2))
    return ModuleCovariances(a_NI.T @ a_NI / samples, g_NO.T @ g_NO / samples, samples)


def test_a_real_fit_has_no_defect(fitted):
    for name, module in fitted.covariances.items():
        assert covariance_defect(name, module) is None
        assert basis_defect(name, fitted.curvature.eigenbasis[name]) is None
        assert eigenvalue_defect(name, fitted.curvature.eigenvalues[name]) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_neither_has_a_rank_deficient_one(dtype):
    module = covariances(dtype)
    assert covariance_defect("m", module) is None
    assert basis_defect("m", Decomposition().of_module(module)) is None
    assert covariance_defect("m", ModuleCovariances(torch.zeros(3, 3), torch.zeros(3, 3), 1)) is None


def test_a_matrix_that_is_not_symmetric():
    module = covariances()
    module.gradient_OO[0, 1] += 0.01 * module.gradient_OO.abs().max()
    assert covariance_defect("m", module) == "S of m is not symmetric"


def test_a_negative_eigenvalue():
    module = covariances()
    direction_I = torch.nn.functional.normalize(torch.ones(40), dim=0)
    module.activation_II -= 0.1 * module.activation_II.abs().max() * torch.outer(direction_I, direction_I) + (
        module.activation_II @ direction_I
    ).outer(direction_I)
    module.activation_II[:] = (module.activation_II + module.activation_II.T) / 2
    assert "A of m has a negative eigenvalue" in covariance_defect("m", module)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite(value):
    module = covariances()
    module.activation_II[3, 3] = value
    assert covariance_defect("m", module) == "A of m is not finite"
    basis = Decomposition().of_module(covariances())
    basis.gradient_vectors_OS[0, 0] = value
    assert "Q_S of m is not orthonormal" in basis_defect("m", basis)
    assert eigenvalue_defect("m", torch.tensor([[1.0, value]])) == "Λ of m is not finite"


def test_a_basis_that_is_stretched_and_a_negative_eigenvalue_of_the_fit():
    basis = Decomposition().of_module(covariances())
    stretched = replace(basis, activation_vectors_IA=basis.activation_vectors_IA * 1.01)
    assert "Q_A of m is not orthonormal" in basis_defect("m", stretched)
    assert eigenvalue_defect("m", torch.tensor([[1.0, -1e-9]])) == "Λ of m has the negative entry -1.0e-09"
