"""Low-rank query gradients whose truncation minimizes the expected error of the scores.

A document's score is Σ_t g_tᵀ P a_t. Taking tokens as independent and a as independent of g, the expected squared
error of replacing P by P̂ is ‖S^½ (P − P̂) A^½‖²_F, so the best rank R is the truncated decomposition of S^½ P A^½
with the weights undone afterwards. Grosse et al. 2023 (section 3.2.2) truncate P itself, which minimizes ‖P − P̂‖_F
instead. In the eigenbasis the weights are square roots of the eigenvalues of A and S. O outputs, I inputs, R rank.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from compute.eigenbasis import ModuleEigenbasis

WEIGHT_FLOOR = 1e-6  # of the largest weight: directions that no sampled token used keep a finite weight


@dataclass
class LowRankGradient:
    """A query's gradient of one module as left_OR @ right_IR.T, the bias column last among the I."""

    left_OR: Tensor
    right_IR: Tensor

    @property
    def rank(self) -> int:
        return self.left_OR.shape[1]

    def dense(self) -> Tensor:
        return self.left_OR @ self.right_IR.T


def full_rank(gradient_OI: Tensor) -> LowRankGradient:
    """The gradient itself as a product, without a decomposition: identity times gradient, on the smaller side."""
    outputs, inputs = gradient_OI.shape
    if outputs <= inputs:
        return LowRankGradient(torch.eye(outputs, dtype=gradient_OI.dtype, device=gradient_OI.device), gradient_OI.T)
    return LowRankGradient(gradient_OI, torch.eye(inputs, dtype=gradient_OI.dtype, device=gradient_OI.device))


def truncate(gradient_OI: Tensor, basis: ModuleEigenbasis, rank: int | None) -> LowRankGradient:
    """The score-optimal rank-`rank` factors of a gradient; the gradient itself where `rank` is None or not smaller."""
    if keeps_full_rank(gradient_OI, rank):
        return full_rank(gradient_OI)
    return truncate_rotated(basis.rotate(gradient_OI), basis, rank)


def keeps_full_rank(gradient: Tensor, rank: int | None) -> bool:
    return rank is None or rank >= min(gradient.shape)


def truncate_rotated(rotated_SA: Tensor, basis: ModuleEigenbasis, rank: int) -> LowRankGradient:
    """The same for a gradient that is in the eigenbasis already, as a preconditioned one is."""
    scale_S, scale_A = _weights(basis.gradient_values_S), _weights(basis.activation_values_A)
    left_SR, right_AR = _truncated_factors(rotated_SA.double() * scale_S[:, None] * scale_A, rank)
    dtype = rotated_SA.dtype
    return LowRankGradient(
        basis.gradient_vectors_OS @ (left_SR / scale_S[:, None]).to(dtype),
        basis.activation_vectors_IA @ (right_AR / scale_A[:, None]).to(dtype),
    )


def _weights(values_N: Tensor) -> Tensor:
    scale_N = values_N.double().clamp(min=0).sqrt()
    # All zero where no token reached the module: any constant weight then gives the plain truncation.
    return scale_N.clamp(min=WEIGHT_FLOOR * scale_N.max()) if scale_N.max() > 0 else torch.ones_like(scale_N)


def _truncated_factors(matrix_SA: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Balanced factors of the best rank-`rank` approximation, by the eigenvectors of the smaller Gram matrix.

    In float64 the Gram matrix resolves singular values down to 1e-8 of the largest, far below a truncation's error,
    and costs a fraction of a singular value decomposition.
    """
    if matrix_SA.shape[0] > matrix_SA.shape[1]:
        right_AR, left_SR = _truncated_factors(matrix_SA.T, rank)
        return left_SR, right_AR
    values_S, vectors_SS = torch.linalg.eigh(matrix_SA @ matrix_SA.T)
    left_SR = vectors_SS[:, -rank:]
    # A short query's gradient has a lower rank than asked for; its null directions come out of eigh as rounding noise
    # of either sign, and must not be blown up by balancing them.
    precision = torch.finfo(torch.float64)
    balance_R = values_S[-rank:].clamp(min=max(float(values_S[-1]) * precision.eps, precision.tiny)) ** 0.25
    return left_SR * balance_R, (matrix_SA.T @ left_SR) / balance_R
