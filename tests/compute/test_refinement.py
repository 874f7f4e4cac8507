"""Products with the Gauss–Newton matrix, and refined gradients, against dense linear algebra: the matrix is built from
the derivative of every logit by every tracked weight, by autograd, and the system is solved at once."""

from __future__ import annotations

import pytest
import torch

from compute.errors import BadInput
from compute.refinement import _inner, gauss_newton_product, refined_gradients
from compute.tracked_modules import select_modules
from tests.compute import oracle
from tests.compute.models import fit, make_case, random_documents
from tests.compute.routed import CONFIGS, make_routed, tiny
from tests.compute.test_covariances import Counted

DAMPING = 10.0  # four documents say nothing of most directions, where EK-FAC takes them for known: λ must count


@pytest.fixture(scope="module", params=["gpt_neox", "gpt2", "llama"])
def case(request):
    """The first layer's MLP alone, so that the dense matrix stays small; what stands above it takes part in J."""
    case = make_case(request.param, selection=[r"\.0\.mlp"])
    case.documents, case.queries = case.documents[1:5], case.queries[:2]
    return case


@pytest.fixture(scope="module")
def curvature(case):
    return fit(case, damping=DAMPING).curvature


@pytest.fixture(scope="module")
def matrix(case) -> torch.Tensor:
    """(1/D) Σ_d Σ_t J_tᵀ (diag(p) − p pᵀ) J_t over the entries of all modules, module after module, O×I each."""
    total = torch.zeros(())
    oracle.require_gradients(case.model, case.names)
    for document in case.documents:
        logits_TV = case.model(torch.tensor([document.token_ids])).logits[0, :-1]
        for logits_V in logits_TV:
            rows = [oracle.gradients_of(case.model, case.names, logit, again=True) for logit in logits_V]
            J = torch.stack([flat(case, row) for row in rows])
            p = torch.softmax(logits_V.detach(), 0)
            total = total + J.T @ (torch.diag(p) - torch.outer(p, p)) @ J
    return total / len(case.documents)


def flat(case, vector: dict) -> torch.Tensor:
    return torch.cat([vector[name].flatten() for name in case.names])


def unflat(case, row: torch.Tensor) -> dict:
    parts = row.split([module.out_features * module.in_dim for module in case.modules])
    return {m.name: part.view(m.out_features, m.in_dim) for m, part in zip(case.modules, parts, strict=True)}


def damped(case, curvature, matrix: torch.Tensor) -> torch.Tensor:
    sizes = {module.name: module.out_features * module.in_dim for module in case.modules}
    λ = [torch.full((sizes[n],), DAMPING * float(curvature.eigenvalues[n].mean()), dtype=matrix.dtype) for n in sizes]
    return matrix + torch.diag(torch.cat(λ))


def query_gradients_of(case) -> torch.Tensor:
    found = [oracle.weight_gradients(case.model, case.names, q.token_ids, q.loss_start) for q in case.queries]
    return torch.stack([flat(case, each) for each in found])


def refined(case, curvature, passes: int, **settings) -> list:
    arguments = (case.model, case.model, case.modules, case.queries, curvature, case.documents)
    return list(refined_gradients(*arguments, passes=passes, **settings))


def test_a_product_is_that_with_the_dense_matrix(case, matrix):
    torch.manual_seed(3)
    vector = torch.randn(len(matrix), dtype=matrix.dtype)
    found = gauss_newton_product(case.model, case.modules, case.documents, unflat(case, vector))
    assert oracle.relative_error(flat(case, found), matrix @ vector) < case.exact


def test_batches_change_nothing(case):
    torch.manual_seed(4)
    vector = {m.name: torch.randn(m.out_features, m.in_dim, dtype=torch.float64) for m in case.modules}
    one, other = (
        gauss_newton_product(case.model, case.modules, case.documents, vector, token_budget=budget)
        for budget in (28, 8192)
    )
    assert oracle.relative_error(flat(case, one), flat(case, other)) < case.exact


def test_gradient_checkpointing_changes_nothing(case):
    torch.manual_seed(4)
    vector = {m.name: torch.randn(m.out_features, m.in_dim, dtype=torch.float64) for m in case.modules}
    expected = gauss_newton_product(case.model, case.modules, case.documents, vector)
    case.model.gradient_checkpointing_enable()
    found = gauss_newton_product(case.model, case.modules, case.documents, vector)
    case.model.gradient_checkpointing_disable()
    assert all(torch.equal(found[name], expected[name]) for name in case.names)


def test_many_passes_solve_the_system(case, curvature, matrix):
    expected = torch.linalg.solve(damped(case, curvature, matrix), query_gradients_of(case).T).T
    found = refined(case, curvature, 25)
    assert [each.key for each in found] == [query.key for query in case.queries]
    for one, other in zip(found, expected, strict=True):
        assert one.residuals[-1] < 1e-3
        assert oracle.relative_error(flat(case, one.gradients), other) < 1e-2


def test_the_first_pass_goes_along_ekfac_and_more_come_closer(case, curvature, matrix):
    exact = torch.linalg.solve(damped(case, curvature, matrix), query_gradients_of(case).T).T
    for plain, one, other, expected in zip(
        query_gradients_of(case), refined(case, curvature, 1), refined(case, curvature, 8), exact, strict=True
    ):
        gradient = unflat(case, plain)
        ekfac = flat(case, {name: curvature.precondition(name, gradient[name]) for name in case.names})
        assert torch.cosine_similarity(flat(case, one.gradients), ekfac, dim=0) > 1 - 1e-12
        errors = [oracle.relative_error(flat(case, each.gradients), expected) for each in (one, other)]
        assert errors[1] < 0.5 * errors[0]


def test_the_residual_is_that_of_the_system(case, curvature, matrix):
    (first, *_), right = refined(case, curvature, 3), query_gradients_of(case)[0]
    left = unflat(case, right - damped(case, curvature, matrix) @ flat(case, first.gradients))
    whole = unflat(case, right)

    def norm(vector: dict) -> float:
        return sum(float((vector[n] * curvature.precondition(n, vector[n])).sum()) for n in case.names) ** 0.5

    assert first.residuals[-1] == pytest.approx(norm(left) / norm(whole), rel=1e-4)


def test_inner_products_of_all_modules_are_asked_for_once(case, curvature):
    one, other = (query_gradients_of(case)[n] for n in (0, 1))
    with Counted() as counted:
        found = _inner(unflat(case, one), unflat(case, other))
    assert found == pytest.approx(float(one @ other)) and counted.calls["aten::_local_scalar_dense"] == 1


def test_routed_experts_are_refused():
    case = make_routed("mixtral")
    queries = make_case("gpt_neox").queries
    with pytest.raises(BadInput, match="astra cannot refine routed experts"):
        list(refined_gradients(case.model, case.model, case.modules, queries, None, queries, passes=1))


@pytest.mark.parametrize("name", CONFIGS)
def test_attention_of_a_model_with_experts_is_refined(name):
    """As transformers computes experts by itself, which has no derivative forwards. ⟨x, G y⟩ = ⟨y, G x⟩ where the
    derivative forwards is the adjoint of the one backwards."""
    model = tiny(name).float()
    model.set_experts_implementation("grouped_mm")
    modules, documents = select_modules(model, ["o_proj"]), random_documents(3, longest=10)
    torch.manual_seed(5)
    x, y = ({m.name: torch.randn(m.out_features, m.in_dim) for m in modules} for _ in range(2))
    (Gx, Gy) = (gauss_newton_product(model, modules, documents, each) for each in (x, y))
    one, other = (sum(float((v[n] * Gv[n]).sum()) for n in v) for v, Gv in ((x, Gy), (y, Gx)))
    assert one == pytest.approx(other, rel=1e-3)
    assert all(each.config is model.config for each in model.modules() if hasattr(each, "is_transposed"))
    assert model.config._experts_implementation == "grouped_mm"


def test_no_pass_is_refused(case, curvature):
    with pytest.raises(ValueError, match="one is the least"):
        refined(case, curvature, 0)
