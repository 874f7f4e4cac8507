"""EK-FAC with A and S cut into diagonal blocks, against dense matrices whose other entries are set to zero."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from compute.block_diagonal import BlockDiagonal, blocks_of, check_blocks, without_last_row
from compute.covariances import covariance_defect, cut_covariances, fit_covariances
from compute.curvature import Curvature
from compute.eigenbasis import basis_defect, decompose
from compute.eigenvalues import fit_eigenvalues
from compute.errors import BadInput
from compute.influence import score_documents
from compute.query_gradients import query_gradients
from tests.compute import oracle
from tests.compute.models import Case, make_case

BLOCKS = 4
METHODS = ("ekfac", "kfac", "trackstar")


@pytest.fixture(scope="module", params=["gpt_neox", "gpt2", "llama"])
def case(request) -> Case:
    return make_case(request.param, selection="all")


@pytest.fixture(scope="module")
def covariances(case):
    return fit_covariances(case.model, case.modules, case.documents, labels="empirical", blocks=BLOCKS)


@pytest.fixture(scope="module")
def curvature(case, covariances) -> Curvature:
    basis = decompose(covariances)
    eigenvalues = fit_eigenvalues(case.model, case.modules, basis, case.documents, labels="empirical")
    tokens = sum(map(len, case.documents)) / len(case.documents)
    return Curvature(basis, eigenvalues, 0.1, dict.fromkeys(case.names, tokens))


@pytest.fixture(scope="module")
def dense(case):
    """Per module: A and S without what lies outside of the blocks, Q_A, Q_S and Λ, all of them dense."""
    documents = [(document.token_ids,) for document in case.documents]
    masked = {
        name: tuple(map(masked_to_blocks, both))
        for name, both in oracle.covariances(case.model, case.names, documents).items()
    }
    bases = {name: tuple(map(dense_eigenvectors, both)) for name, both in masked.items()}
    lambdas = oracle.eigenvalue_correction(case.model, bases, documents)
    return {name: (*masked[name], *bases[name], lambdas[name]) for name in case.names}


def sides(length: int) -> list[int]:
    """The blocks of features whose number 4 divides; a bias column is in the last one."""
    side, bias = divmod(length, BLOCKS)
    assert bias in (0, 1)
    return [side] * (BLOCKS - 1) + [side + bias]


def slices(length: int) -> list[slice]:
    ends = np.cumsum(sides(length)).tolist()
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def masked_to_blocks(matrix_NN):
    mask_NN = torch.zeros_like(matrix_NN)
    for block in slices(len(matrix_NN)):
        mask_NN[block, block] = 1
    return matrix_NN * mask_NN


def dense_eigenvectors(masked_NN):
    vectors_NN = np.zeros(masked_NN.shape)
    for block in slices(len(masked_NN)):
        vectors_NN[block, block] = np.linalg.eigh(masked_NN[block, block].numpy())[1]
    return torch.from_numpy(vectors_NN)


def whole(matrix) -> torch.Tensor:
    return torch.block_diag(*blocks_of(matrix))


def test_covariances_are_the_dense_ones_in_their_blocks(case, covariances, dense):
    for name, (A_II, S_OO, *_) in dense.items():
        found = covariances[name]
        assert isinstance(found.activation_II, BlockDiagonal) and isinstance(found.gradient_OO, BlockDiagonal)
        assert [len(block) for block in found.activation_II.blocks] == sides(len(A_II))
        assert oracle.relative_error(whole(found.activation_II), A_II) < case.exact
        assert oracle.relative_error(whole(found.gradient_OO), S_OO) < case.exact
        assert covariance_defect(name, found) is None


def test_whole_covariances_are_cut_into_the_blocks_that_a_fit_of_blocks_has(case, covariances):
    whole = fit_covariances(case.model, case.modules, case.documents, labels="empirical")
    for name in case.names:
        found, expected = cut_covariances(whole[name], BLOCKS), covariances[name]
        assert found.tokens == expected.tokens
        for side in ("activation_II", "gradient_OO"):
            blocks, others = blocks_of(getattr(found, side)), blocks_of(getattr(expected, side))
            assert len(blocks) == len(others) == BLOCKS
            for block, other in zip(blocks, others, strict=True):
                torch.testing.assert_close(block, other, rtol=case.exact, atol=1e-12)
        assert torch.equal(cut_covariances(whole[name], 1).activation_II, whole[name].activation_II)


def test_eigenvectors_rebuild_the_blocks(covariances, curvature):
    for name, basis in curvature.eigenbasis.items():
        for vectors, values, matrix in (
            (basis.activation_vectors_IA, basis.activation_values_A, covariances[name].activation_II),
            (basis.gradient_vectors_OS, basis.gradient_values_S, covariances[name].gradient_OO),
        ):
            Q = whole(vectors)
            assert oracle.relative_error(Q @ torch.diag(values) @ Q.T, whole(matrix)) < 1e-10
        assert basis_defect(name, basis) is None


def test_a_gradient_is_preconditioned_as_by_the_dense_inverse(case, curvature, dense):
    for query in case.queries:
        gradients = oracle.weight_gradients(case.model, case.names, query.token_ids, query.loss_start)
        for name, (_, _, Q_A, Q_S, lambda_OI) in dense.items():
            damping = 0.1 * float(lambda_OI.mean())
            expected = oracle.precondition(Q_A, Q_S, lambda_OI, damping, gradients[name])
            found = curvature.precondition(name, gradients[name])
            assert oracle.relative_error(found, expected) < 10 * case.exact, (query.key, name)


def test_kfac_solves_the_dense_system_of_the_blocks(case, curvature, dense):
    gradients = oracle.weight_gradients(case.model, case.names, case.queries[0].token_ids, case.queries[0].loss_start)
    for name in case.names[:2]:
        A_II, S_OO, *_ = dense[name]
        expected = oracle.kfac_preconditioned(A_II, S_OO, curvature.document_tokens[name], 0.1, gradients[name])
        found = curvature.precondition(name, gradients[name], "kfac")
        assert oracle.relative_error(found, expected) < 10 * case.exact, name


def test_scores_are_those_of_the_dense_matrices(case, curvature, dense):
    found = score_queries(case, curvature, rank=None)
    documents = [oracle.weight_gradients(case.model, case.names, each.token_ids) for each in case.documents]
    for row, query in enumerate(case.queries):
        gradient = oracle.weight_gradients(case.model, case.names, query.token_ids, query.loss_start)
        direction, white = {}, {}
        for name, (_, _, Q_A, Q_S, lambda_OI) in dense.items():
            damping = 0.1 * float(lambda_OI.mean())
            direction[name] = oracle.precondition(Q_A, Q_S, lambda_OI, damping, gradient[name])
            white[name] = (Q_A, Q_S, lambda_OI, damping)
        whitened = [{name: oracle.whitened(*white[name], each[name]) for name in white} for each in documents]
        of_query = {name: oracle.whitened(*white[name], gradient[name]) for name in white}
        expected = torch.tensor([oracle.score(direction, each) for each in documents], dtype=torch.float64)
        assert oracle.relative_error(found["ekfac"][row], expected) < 10 * case.exact
        cosines = torch.tensor([oracle.cosine(of_query, each) for each in whitened], dtype=torch.float64)
        assert oracle.relative_error(found["trackstar"][row], cosines) < 10 * case.exact


def test_the_low_rank_is_the_best_under_the_dense_weights(case, curvature, dense):
    """S^½ P A^½ truncated by a singular value decomposition, the weights undone by dense inverses."""
    query = case.queries[0]
    gradient = oracle.weight_gradients(case.model, case.names, query.token_ids, query.loss_start)
    (_, _, found), *_ = query_gradients(case.model, case.modules, [query], curvature, rank=3, methods=("ekfac",))
    for name, (A_II, S_OO, Q_A, Q_S, lambda_OI) in dense.items():
        exact = oracle.precondition(Q_A, Q_S, lambda_OI, 0.1 * float(lambda_OI.mean()), gradient[name])
        root_A, root_S = root(A_II), root(S_OO)
        s = torch.linalg.svdvals(root_S @ exact @ root_A)
        best = (s[3:] ** 2).sum().sqrt()
        error = torch.linalg.norm(root_S @ (exact - found[name].dense()) @ root_A)
        assert float(error) == pytest.approx(float(best), rel=1e-3, abs=1e-5 * float(s[0])), name


def root(matrix_NN):
    values_N, vectors_NN = torch.linalg.eigh(matrix_NN)
    return vectors_NN @ torch.diag(values_N.clamp(min=0).sqrt()) @ vectors_NN.T


def score_queries(case, curvature, rank):
    found = query_gradients(case.model, case.modules, case.queries, curvature, rank=rank, methods=METHODS)
    rows = [(method, gradients) for method, _, gradients in found]
    scores = score_documents(
        case.model,
        case.modules,
        [gradients for _, gradients in rows],
        case.documents,
        methods=[method for method, _ in rows],
        curvature=curvature,
    ).scores_QD
    return {method: scores[[row for row, (each, _) in enumerate(rows) if each == method]] for method in METHODS}


def test_one_block_is_what_no_blocks_are(case):
    settings = {"labels": "sampled", "seed": 3, "token_budget": 40}
    whole_ones = fit_covariances(case.model, case.modules, case.documents, **settings)
    one_block = fit_covariances(case.model, case.modules, case.documents, blocks=1, **settings)
    for name, each in whole_ones.items():
        assert torch.equal(each.activation_II, one_block[name].activation_II)
        assert torch.equal(each.gradient_OO, one_block[name].gradient_OO)


def test_blocks_keep_a_part_of_the_entries_and_change_the_scores(case, covariances, curvature):
    def entries(found):
        return sum(block.numel() for each in found.values() for block in blocks_of(each.gradient_OO))

    whole_ones = fit_covariances(case.model, case.modules, case.documents, labels="empirical")
    assert entries(covariances) * BLOCKS == entries(whole_ones)
    basis = decompose(whole_ones)
    eigenvalues = fit_eigenvalues(case.model, case.modules, basis, case.documents, labels="empirical")
    uncut = score_queries(case, replace(curvature, eigenbasis=basis, eigenvalues=eigenvalues), None)["ekfac"]
    cut = score_queries(case, curvature, None)["ekfac"]
    assert np.abs(cut - uncut).max() > 1e-3 * np.abs(uncut).max()


def test_products_are_those_of_the_dense_matrix():
    torch.manual_seed(0)
    matrix = BlockDiagonal(tuple(torch.randn(side, side, dtype=torch.float64) for side in (3, 3, 4)))
    left, right, many = (torch.randn(*shape, dtype=torch.float64) for shape in ((5, 10), (10, 6), (2, 10, 10)))
    torch.testing.assert_close(left @ matrix, left @ whole(matrix))
    torch.testing.assert_close(matrix @ right, whole(matrix) @ right)
    torch.testing.assert_close(matrix.T @ many @ matrix, whole(matrix).T @ many @ whole(matrix))
    rows, last_N = without_last_row(matrix)
    torch.testing.assert_close(left[:, :9] @ rows, left[:, :9] @ whole(matrix)[:9])
    torch.testing.assert_close(last_N, whole(matrix)[-1])
    assert len(matrix) == 10


@pytest.mark.parametrize(("blocks", "reason"), [(3, "which that does not divide"), (200, "fewer than that")])
def test_blocks_that_do_not_divide_a_module_are_refused_before_a_pass(case, blocks, reason, monkeypatch):
    monkeypatch.setattr("compute.covariances.backward_passes", lambda *_, **__: pytest.fail("a pass was begun"))
    with pytest.raises(BadInput, match=rf"curvature\.blocks: {blocks}, and .* has \d+ (in|out)puts, {reason}"):
        fit_covariances(case.model, case.modules, case.documents, blocks=blocks)


def test_blocks_that_divide_every_module_are_taken(case):
    for blocks in (1, 2, 4, 8):
        check_blocks(case.modules, blocks)


def test_a_defect_in_any_block_is_told(covariances, curvature):
    name, found = next(iter(covariances.items()))
    broken = [block.clone() for block in found.gradient_OO.blocks]
    broken[2][0, 1] += broken[2].abs().max()
    assert covariance_defect(name, replace(found, gradient_OO=BlockDiagonal(tuple(broken)))) == (
        f"S of {name} is not symmetric"
    )
    basis = curvature.eigenbasis[name]
    for value in (torch.nan, 3.0):
        vectors = [block.clone() for block in basis.activation_vectors_IA.blocks]
        vectors[1][0, 0] = value
        bent = replace(basis, activation_vectors_IA=BlockDiagonal(tuple(vectors)))
        assert basis_defect(name, bent).startswith(f"Q_A of {name} is not orthonormal")
