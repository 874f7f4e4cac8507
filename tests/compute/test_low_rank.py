"""Low-rank query gradients: exact at full rank, and best in the norm that the covariances give at any other."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from compute.covariances import ModuleCovariances
from compute.eigenbasis import Decomposition, ModuleEigenbasis
from compute.low_rank import LowRankGradient, truncate, truncate_together
from tests.compute import oracle

OUTPUTS, INPUTS = 12, 17


@pytest.fixture
def factors() -> tuple[Tensor, Tensor, Tensor, ModuleEigenbasis]:
    """A gradient, A and S with eigenvalues over three decades, and their eigenbasis."""
    torch.manual_seed(0)
    A_II, S_OO = covariance(INPUTS), covariance(OUTPUTS)
    gradient_OI = torch.randn(OUTPUTS, INPUTS, dtype=torch.float64)
    return gradient_OI, A_II, S_OO, Decomposition().of_module(ModuleCovariances(A_II, S_OO, tokens=1))


def covariance(size: int, *, decades: float = 3.0) -> Tensor:
    rotation, _ = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64))
    return rotation @ torch.diag(torch.logspace(-decades, 0, size, dtype=torch.float64)) @ rotation.T


def weighted_error(gradient_OI: Tensor, low_rank_OI: Tensor, A_II: Tensor, S_OO: Tensor) -> float:
    """E[(gᵀ (P − P̂) a)²] for independent tokens with these covariances: tr(Dᵀ S D A)."""
    difference = gradient_OI - low_rank_OI
    return float(torch.trace(difference.T @ S_OO @ difference @ A_II))


def plain_truncation(gradient_OI: Tensor, rank: int) -> Tensor:
    U, s, Vh = torch.linalg.svd(gradient_OI, full_matrices=False)
    return U[:, :rank] @ torch.diag(s[:rank]) @ Vh[:rank]


def square_root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag(values.clamp(min=0).sqrt()) @ vectors.T


@pytest.mark.parametrize("rank", [None, OUTPUTS, 99])
def test_full_rank_is_exact(factors, rank):
    gradient_OI, _, _, basis = factors
    for gradient in (gradient_OI, gradient_OI.float()):
        assert torch.equal(truncate(gradient, basis, rank).dense(), gradient)
    tall = ModuleEigenbasis(
        basis.gradient_vectors_OS, basis.gradient_values_S, basis.activation_vectors_IA, basis.activation_values_A
    )
    assert torch.equal(truncate(gradient_OI.T.contiguous(), tall, rank).dense(), gradient_OI.T)


@pytest.mark.parametrize("rank", [1, 4, 11])
def test_has_the_rank_asked_for(factors, rank):
    gradient_OI, _, _, basis = factors
    factor = truncate(gradient_OI, basis, rank)
    assert factor.rank == rank
    assert factor.left_OR.shape == (OUTPUTS, rank)
    assert factor.right_IR.shape == (INPUTS, rank)
    assert torch.linalg.matrix_rank(factor.dense()) == rank


@pytest.mark.parametrize("rank", [1, 2, 4, 8, 11])
def test_error_is_the_least_possible_in_the_covariances_norm(factors, rank):
    """Eckart–Young: no rank-r matrix has a smaller weighted error than the discarded singular values of S^½ P A^½."""
    gradient_OI, A_II, S_OO, basis = factors
    singular_values = torch.linalg.svdvals(square_root(S_OO) @ gradient_OI @ square_root(A_II))
    least = float((singular_values[rank:] ** 2).sum())
    error = weighted_error(gradient_OI, truncate(gradient_OI, basis, rank).dense(), A_II, S_OO)
    assert error == pytest.approx(least, rel=1e-6)


@pytest.mark.parametrize("rank", [1, 2, 4, 8])
def test_beats_the_plain_truncation_where_it_counts(factors, rank):
    gradient_OI, A_II, S_OO, basis = factors
    weighted, plain = truncate(gradient_OI, basis, rank).dense(), plain_truncation(gradient_OI, rank)
    assert weighted_error(gradient_OI, weighted, A_II, S_OO) < 0.9 * weighted_error(gradient_OI, plain, A_II, S_OO)
    # and loses in the norm that does not count, or it would be the plain truncation
    assert torch.linalg.norm(gradient_OI - weighted) > torch.linalg.norm(gradient_OI - plain)


def test_predicts_the_scores_of_tokens_better_than_the_plain_truncation(factors):
    """The claim itself, on drawn tokens: mean squared error of gᵀ P a."""
    gradient_OI, A_II, S_OO, basis = factors
    torch.manual_seed(1)
    a_NI = torch.randn(20_000, INPUTS, dtype=torch.float64) @ square_root(A_II)
    g_NO = torch.randn(20_000, OUTPUTS, dtype=torch.float64) @ square_root(S_OO)

    def error(low_rank_OI: Tensor) -> float:
        return float((((g_NO @ (gradient_OI - low_rank_OI)) * a_NI).sum(1) ** 2).mean())

    assert error(truncate(gradient_OI, basis, 4).dense()) < 0.9 * error(plain_truncation(gradient_OI, 4))


def test_error_falls_with_rank(factors):
    gradient_OI, A_II, S_OO, basis = factors
    errors = [
        weighted_error(gradient_OI, truncate(gradient_OI, basis, rank).dense(), A_II, S_OO)
        for rank in range(1, OUTPUTS + 1)
    ]
    assert all(larger > smaller for larger, smaller in pairwise(errors))
    assert errors[-1] < 1e-20


def test_equal_covariances_give_the_plain_truncation(factors):
    gradient_OI = factors[0]
    identity = ModuleCovariances(
        torch.eye(INPUTS, dtype=torch.float64), torch.eye(OUTPUTS, dtype=torch.float64), tokens=1
    )
    found = truncate(gradient_OI, Decomposition().of_module(identity), 4).dense()
    assert oracle.relative_error(found, plain_truncation(gradient_OI, 4)) < 1e-10


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("true_rank", [1, 3])
def test_a_gradient_of_lower_rank_than_asked_for_is_exact(factors, dtype, true_rank):
    """A short query's plain gradient is a sum over fewer tokens than the rank: the rest must be zeros, not 0 · ∞."""
    _, A_II, S_OO, _ = factors
    basis = Decomposition().of_module(ModuleCovariances(A_II.to(dtype), S_OO.to(dtype), tokens=1))
    for seed in range(10):
        torch.manual_seed(seed)
        # Whole numbers, so that the product has this rank exactly in float32 too.
        left, right = torch.randint(-4, 5, (OUTPUTS, true_rank)), torch.randint(-4, 5, (true_rank, INPUTS))
        gradient_OI = (left @ right).to(dtype)
        factor = truncate(gradient_OI, basis, 8)
        assert torch.isfinite(factor.left_OR).all() and torch.isfinite(factor.right_IR).all()
        assert oracle.relative_error(factor.dense(), gradient_OI) < (1e-4 if dtype == torch.float32 else 1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_zero_gradient_stays_zero(factors, dtype):
    _, A_II, S_OO, _ = factors
    basis = Decomposition().of_module(ModuleCovariances(A_II.to(dtype), S_OO.to(dtype), tokens=1))
    factor = truncate(torch.zeros(OUTPUTS, INPUTS, dtype=dtype), basis, 4)
    assert torch.equal(factor.dense(), torch.zeros(OUTPUTS, INPUTS, dtype=dtype))


@pytest.mark.parametrize("unused", [1, 5])
def test_directions_that_no_token_used_do_no_harm(factors, unused):
    """Zero (or, by rounding, negative) eigenvalues: weights are floored before they are undone."""
    gradient_OI, _, _, basis = factors
    values_A, values_S = basis.activation_values_A.clone(), basis.gradient_values_S.clone()
    values_A[:unused], values_S[:unused] = 0.0, -1e-18
    flat = ModuleEigenbasis(basis.activation_vectors_IA, values_A, basis.gradient_vectors_OS, values_S)
    assert torch.isfinite(truncate(gradient_OI, flat, 8).dense()).all()
    A_seen = basis.activation_vectors_IA @ torch.diag(values_A) @ basis.activation_vectors_IA.T
    S_seen = basis.gradient_vectors_OS @ torch.diag(values_S.clamp(min=0)) @ basis.gradient_vectors_OS.T
    least = torch.linalg.svdvals(square_root(S_seen) @ gradient_OI @ square_root(A_seen))
    error = weighted_error(gradient_OI, truncate(gradient_OI, flat, 3).dense(), A_seen, S_seen)
    assert error == pytest.approx(float((least[3:] ** 2).sum()), rel=1e-4)


def test_a_module_that_no_token_reached_is_truncated_plainly(factors):
    gradient_OI = factors[0]
    nothing = ModuleCovariances(
        torch.zeros(INPUTS, INPUTS, dtype=torch.float64), torch.zeros(OUTPUTS, OUTPUTS, dtype=torch.float64), tokens=1
    )
    found = truncate(gradient_OI, Decomposition().of_module(nothing), 4).dense()
    assert oracle.relative_error(found, plain_truncation(gradient_OI, 4)) < 1e-10


def test_dense_is_left_times_right_with_the_bias_column_last():
    left, right = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [4.0], [5.0]])
    assert torch.equal(LowRankGradient(left, right).dense(), torch.tensor([[3.0, 4.0, 5.0], [6.0, 8.0, 10.0]]))


def several(count: int) -> tuple[dict[str, Tensor], dict[str, ModuleEigenbasis], dict[str, tuple[Tensor, Tensor]]]:
    """Gradients of modules of very different weight in the score, in their eigenbases, with A and S of each."""
    torch.manual_seed(3)
    rotated, bases, covariances = {}, {}, {}
    for number in range(count):
        A_II, S_OO = covariance(INPUTS), covariance(OUTPUTS)
        name = f"m{number}"
        bases[name] = Decomposition().of_module(ModuleCovariances(A_II, S_OO, tokens=1))
        rotated[name] = bases[name].rotate(10.0**-number * torch.randn(OUTPUTS, INPUTS, dtype=torch.float64))
        covariances[name] = (A_II, S_OO)
    return rotated, bases, covariances


def together(rotated: dict[str, Tensor], bases, agreement: float, **settings) -> dict[str, LowRankGradient]:
    """One gradient alone."""
    (found,) = truncate_together(list(rotated), lambda name: [rotated[name]], bases, agreement, **settings)
    return found


def test_gradients_that_are_cut_side_by_side_are_cut_as_each_alone():
    """Also where the components of one of them suffice and those of another do not."""
    rotated, bases, _ = several(2)
    many = [rotated, {name: torch.outer(each[:, 0], each[0]) for name, each in rotated.items()}]
    found = truncate_together(list(rotated), lambda name: [each[name] for each in many], bases, 0.9999, most=2)
    assert max(factors.rank for factors in found[0].values()) > 2
    for alone, cut in zip(many, found, strict=True):
        for name, factors in together(alone, bases, 0.9999, most=2).items():
            assert torch.equal(cut[name].dense(), factors.dense())


@pytest.mark.parametrize("agreement", [0.5, 0.9, 0.99, 0.9999])
def test_ranks_that_are_chosen_together_reach_the_agreement_and_are_not_higher(agreement):
    """Of Gaussian tokens with these covariances the scores' correlation is √(1 − dropped ∕ whole), over all modules."""
    rotated, bases, covariances = several(3)
    found = together(rotated, bases, agreement)
    whole, dropped, smallest = 0.0, 0.0, float("inf")
    for name, (A_II, S_OO) in covariances.items():
        gradient_OI = bases[name].rotate_back(rotated[name])
        whole += weighted_error(gradient_OI, torch.zeros_like(gradient_OI), A_II, S_OO)
        dropped += weighted_error(gradient_OI, found[name].dense(), A_II, S_OO)
        if found[name].rank > 1:
            one_less = truncate(gradient_OI, bases[name], found[name].rank - 1)
            more = weighted_error(gradient_OI, one_less.dense(), A_II, S_OO)
            smallest = min(smallest, more - weighted_error(gradient_OI, found[name].dense(), A_II, S_OO))
    assert (1 - dropped / whole) ** 0.5 >= agreement - 1e-6
    assert (dropped + smallest) / whole > 1 - agreement**2  # one component less would be too few


def test_a_module_that_says_little_of_the_score_gets_a_low_rank():
    rotated, bases, _ = several(3)
    ranks = [factors.rank for factors in together(rotated, bases, 0.99).values()]
    assert ranks[0] > 3 and ranks[1:] == [1, 1]


def test_a_gradient_of_nothing_is_cut_too():
    rotated, bases, _ = several(2)
    found = together({name: torch.zeros_like(each) for name, each in rotated.items()}, bases, 0.99)
    assert all(torch.isfinite(factors.dense()).all() and not factors.dense().any() for factors in found.values())


def test_where_the_components_that_are_kept_are_too_few_all_are_taken():
    rotated, bases, _ = several(2)
    found = together(rotated, bases, 0.9999, most=2)
    assert max(factors.rank for factors in found.values()) > 2
    expected = together(rotated, bases, 0.9999)
    for name, factors in expected.items():
        torch.testing.assert_close(found[name].dense(), factors.dense())
