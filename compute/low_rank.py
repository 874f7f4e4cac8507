"""Low-rank query gradients whose truncation minimizes the expected error of the scores.

A document's score is Σ_t g_tᵀ P a_t. Taking tokens as independent and a as independent of g, the expected squared
error of replacing P by P̂ is ‖S^½ (P − P̂) A^½‖²_F, so the best rank R is the truncated decomposition of S^½ P A^½
with the weights undone afterwards. Grosse et al. 2023 (section 3.2.2) truncate P itself, which minimizes ‖P − P̂‖_F
instead. In the eigenbasis the weights are square roots of the eigenvalues of A and S. O outputs, I inputs, R rank.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

import torch
from torch import Tensor

from compute.eigenbasis import ModuleEigenbasis

MOST_COMPONENTS = 256  # of a module's gradient, where its rank is chosen by agreement
WEIGHT_FLOOR = 1e-6  # of the largest weight: directions that no sampled token used keep a finite weight


@dataclass
class LowRankGradient:
    """A query's gradient of one module as left_OR @ right_IR.T, the bias column last among the I."""

    left_OR: Tensor
    right_IR: Tensor

    @property
    def rank(self) -> int:
        return self.left_OR.shape[1]

    @property
    def bytes(self) -> int:
        return self.left_OR.nbytes + self.right_IR.nbytes

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
    return _components(rotated_SA, basis, rank).largest(rank, basis)


def truncate_together(
    names: SequenceOf[str],
    rotated: Callable[[str], SequenceOf[Tensor]],
    bases: Mapping[str, ModuleEigenbasis],
    agreement: float,
    most: int | None = MOST_COMPONENTS,
) -> list[dict[str, LowRankGradient]]:
    """Gradients over all modules, each at the ranks at which its scores are expected to agree this well.

    `rotated` gives for a module's name its part of each gradient. Modules are gone through one after the other, so that
    of `bases` one at a time is needed. What is dropped has no expected correlation with what is kept, so scores
    correlate with full-rank ones at √(1 − dropped ∕ whole), of the expected squares of the scores. The smallest
    components of all modules are dropped up to that: a module whose gradient says little of the score gets a low rank.
    Where `most` components of each are too few, all are taken into account.
    """
    found: list[dict[str, _Components]] = []
    ranks: list[dict[str, int] | None] = []
    for limit in (most, None):
        for name in names:
            _find(found, name, rotated(name), bases[name], limit, ranks)
        ranks = [
            known or _agreeing_ranks(each, agreement, whole=limit is None)
            for each, known in zip(found, ranks or [None] * len(found), strict=True)
        ]
        if all(ranks):
            break
    cut: list[dict[str, LowRankGradient]] = [{} for _ in found]
    for name in names:
        for low, each, by_name in zip(cut, found, ranks, strict=True):
            low[name] = each.pop(name).largest(by_name[name], bases[name])
    return cut


def _find(
    found: list[dict[str, _Components]],
    name: str,
    rotated: SequenceOf[Tensor],
    basis: ModuleEigenbasis,
    limit: int | None,
    ranks: SequenceOf[dict[str, int] | None],
) -> None:
    """One module's components of the gradients whose ranks are not known yet."""
    if not found:
        found += [{} for _ in rotated]
    for number, each_SA in enumerate(rotated):
        if not (ranks and ranks[number]):
            found[number][name] = _components(each_SA, basis, limit or min(each_SA.shape))


def _agreeing_ranks(found: dict[str, _Components], agreement: float, *, whole: bool) -> dict[str, int] | None:
    """One gradient's ranks by module; None where what is not among the components is too much already."""
    squares_K = torch.cat([each.squares_R.cpu() for each in found.values()]).sort().values
    total = sum(each.whole for each in found.values())
    allowed = (1 - agreement**2) * total - (total - float(squares_K.sum()))
    if allowed < 0 and not whole:
        return None
    dropped = int(torch.searchsorted(squares_K.cumsum(0), max(0.0, allowed), right=True))
    least = squares_K[min(dropped, len(squares_K) - 1)]
    return {name: max(1, int((each.squares_R >= float(least)).sum())) for name, each in found.items()}


@dataclass
class _Components:
    """A gradient's largest components in the eigenbasis, smallest first: balanced factors, the expected square of what
    each adds to a score, and of the whole gradient's score."""

    left_SR: Tensor
    right_AR: Tensor
    squares_R: Tensor
    whole: float
    dtype: torch.dtype

    def largest(self, rank: int, basis: ModuleEigenbasis) -> LowRankGradient:
        return LowRankGradient(
            basis.gradient_vectors_OS @ self.left_SR[:, -rank:].to(self.dtype),
            basis.activation_vectors_IA @ self.right_AR[:, -rank:].to(self.dtype),
        )


def _components(rotated_SA: Tensor, basis: ModuleEigenbasis, most: int) -> _Components:
    scale_S, scale_A = _weights(basis.gradient_values_S), _weights(basis.activation_values_A)
    weighted_SA = rotated_SA.double() * scale_S[:, None] * scale_A
    left_SR, right_AR, squares_R = _truncated_factors(weighted_SA, min(most, *weighted_SA.shape))
    whole = float(weighted_SA.square().sum())
    return _Components(left_SR / scale_S[:, None], right_AR / scale_A[:, None], squares_R, whole, rotated_SA.dtype)


def _weights(values_N: Tensor) -> Tensor:
    scale_N = values_N.double().clamp(min=0).sqrt()
    # All zero where no token reached the module: any constant weight then gives the plain truncation.
    return scale_N.clamp(min=WEIGHT_FLOOR * scale_N.max()) if scale_N.max() > 0 else torch.ones_like(scale_N)


def _truncated_factors(matrix_SA: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Balanced factors of the best rank-`rank` approximation and its squared singular values, the smallest first.

    By the eigenvectors of the smaller Gram matrix: in float64 it resolves singular values down to 1e-8 of the largest,
    far below a truncation's error, and costs a fraction of a singular value decomposition.
    """
    if matrix_SA.shape[0] > matrix_SA.shape[1]:
        right_AR, left_SR, squares_R = _truncated_factors(matrix_SA.T, rank)
        return left_SR, right_AR, squares_R
    values_S, vectors_SS = torch.linalg.eigh(matrix_SA @ matrix_SA.T)
    left_SR = vectors_SS[:, -rank:]
    # A short query's gradient has a lower rank than asked for; its null directions come out of eigh as rounding noise
    # of either sign, and must not be blown up by balancing them.
    precision = torch.finfo(torch.float64)
    balance_R = values_S[-rank:].clamp(min=max(float(values_S[-1]) * precision.eps, precision.tiny)) ** 0.25
    return left_SR * balance_R, (matrix_SA.T @ left_SR) / balance_R, values_S[-rank:].clamp(min=0)
