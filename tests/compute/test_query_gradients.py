"""Query gradients: of the completion alone, preconditioned as the dense Kronecker form says, with λ = 0.1 · mean(Λ)."""

from __future__ import annotations

import pytest
import torch

from compute.batches import Sequence
from compute.curvature import Curvature
from compute.errors import BadInput
from compute.query_gradients import dense_gradients, query_gradients
from tests.compute import oracle
from tests.compute.models import VOCABULARY, fit, make_case


def gradients_by_method(case, fitted, *, curvature=None, **settings) -> dict:
    found = query_gradients(case.model, case.modules, case.queries, curvature or fitted.curvature, **settings)
    return {(method, key): factors for method, key, factors in found}


def oracle_gradient(case, query) -> dict:
    return oracle.weight_gradients(case.model, case.names, query.token_ids, query.loss_start)


def oracle_preconditioned(case, fitted, query) -> dict:
    """Through the dense matrix over all entries of the weight, with a tenth of the mean of Λ added."""
    result = {}
    for name, gradient_OI in oracle_gradient(case, query).items():
        basis, lambda_OI = fitted.curvature.eigenbasis[name], fitted.curvature.eigenvalues[name]
        Q_A, Q_S = basis.activation_vectors_IA, basis.gradient_vectors_OS
        result[name] = oracle.precondition(Q_A, Q_S, lambda_OI, 0.1 * float(lambda_OI.mean()), gradient_OI)
    return result


def test_dense_gradients_are_autograds(case):
    for sequence in [*case.queries, *case.documents]:
        found = dense_gradients(case.model, case.modules, sequence)
        for name, expected in oracle_gradient(case, sequence).items():
            assert oracle.relative_error(found[name], expected) < case.exact, (sequence.key, name)


def test_the_bias_gradient_is_the_last_column(neox_case):
    (query, *_), name = neox_case.queries, neox_case.names[0]
    bias = neox_case.model.get_submodule(name).bias.requires_grad_(True)
    expected = torch.autograd.grad(oracle.loss(neox_case.model, query.token_ids, query.loss_start), bias)[0]
    found = dense_gradients(neox_case.model, neox_case.modules, query)[name][:, -1]
    assert oracle.relative_error(found, expected) < neox_case.exact


def test_prompt_tokens_carry_no_loss(case):
    """The gradient is that of the completion alone: the document's minus the prompt's share."""
    query = case.queries[0]
    whole = dense_gradients(case.model, case.modules, Sequence("whole", query.token_ids))
    prompt = dense_gradients(case.model, case.modules, Sequence("prompt", query.token_ids[: query.loss_start]))
    completion = dense_gradients(case.model, case.modules, query)
    for name in case.names:
        assert oracle.relative_error(completion[name], whole[name] - prompt[name]) < case.exact
        assert oracle.relative_error(completion[name], whole[name]) > 1e-2


def test_preconditioned_is_the_dense_kronecker_form(case, fitted):
    found = gradients_by_method(case, fitted, rank=None, methods=("ekfac",))
    for query in case.queries:
        for name, expected in oracle_preconditioned(case, fitted, query).items():
            assert oracle.relative_error(found["ekfac", query.key][name].dense(), expected) < case.exact, name


def test_zero_damping_is_the_dense_inverse(case, fitted):
    """Λ is lifted a little: layer norm leaves one direction of (a, 1) and of g without curvature, and no inverse."""
    lifted = {name: value + 1e-3 * value.mean() for name, value in fitted.curvature.eigenvalues.items()}
    curvature = Curvature(fitted.curvature.eigenbasis, lifted, damping=0.0)
    found = gradients_by_method(case, fitted, curvature=curvature, rank=None, methods=("ekfac",))
    query = case.queries[0]
    for name, gradient_OI in oracle_gradient(case, query).items():
        basis = curvature.eigenbasis[name]
        inverse = oracle.kronecker_inverse(basis.activation_vectors_IA, basis.gradient_vectors_OS, lifted[name], 0.0)
        expected = oracle.unvec(inverse @ oracle.vec(gradient_OI), len(gradient_OI))
        assert oracle.relative_error(found["ekfac", query.key][name].dense(), expected) < 1e-8, name


@pytest.mark.parametrize("damping", [0.0, 0.1])
def test_curvature_times_the_inverse_is_the_identity(case, fitted, damping):
    """(H + λ)(H + λ)⁻¹ G = G, with H G built densely from Q diag(Λ) Qᵀ on samples of gradients."""
    curvature = Curvature(fitted.curvature.eigenbasis, fitted.curvature.eigenvalues, damping)
    for name in case.names:
        basis, lambda_OI = curvature.eigenbasis[name], curvature.eigenvalues[name]
        Q = torch.kron(basis.activation_vectors_IA, basis.gradient_vectors_OS)
        H = Q @ torch.diag(oracle.vec(lambda_OI) + damping * lambda_OI.mean()) @ Q.T
        for document in case.documents[:3]:
            gradient_OI = oracle_gradient(case, document)[name]
            found = oracle.unvec(H @ oracle.vec(curvature.precondition(name, gradient_OI)), len(gradient_OI))
            assert oracle.relative_error(found, gradient_OI) < 1e-6, name


def test_damping_is_a_tenth_of_the_mean_eigenvalue_unless_said_otherwise(case, fitted):
    default = Curvature(fitted.curvature.eigenbasis, fitted.curvature.eigenvalues)
    assert default.damping == 0.1
    for name in case.names:
        basis, lambda_SA = default.eigenbasis[name], default.eigenvalues[name]
        rotated_SA = basis.rotate(default.precondition(name, basis.rotate_back(torch.ones_like(lambda_SA))))
        assert oracle.relative_error(1 / rotated_SA, lambda_SA + 0.1 * lambda_SA.mean()) < 1e-6


def test_damping_is_per_module(neox_case, neox_fitted):
    """λ follows each module's own mean(Λ): scaling one module's Λ scales its result and leaves the others alone."""
    scaled = dict(neox_fitted.curvature.eigenvalues)
    first, second = neox_case.names[:2]
    scaled[first] = 7.0 * scaled[first]
    curvature = Curvature(neox_fitted.curvature.eigenbasis, scaled)
    gradients = oracle_gradient(neox_case, neox_case.queries[0])
    for name, factor in ((first, 1 / 7), (second, 1.0)):
        expected = neox_fitted.curvature.precondition(name, gradients[name]) * factor
        assert oracle.relative_error(curvature.precondition(name, gradients[name]), expected) < neox_case.exact


def test_a_direction_without_curvature_is_not_divided_by_zero(neox_case, neox_fitted):
    name = neox_case.names[0]
    gradient_OI = oracle_gradient(neox_case, neox_case.queries[0])[name]
    for eigenvalues in (torch.zeros_like, lambda value: torch.where(value > value.median(), value, 0)):
        for damping in (0.0, 0.1):
            found = Curvature(
                neox_fitted.curvature.eigenbasis, {name: eigenvalues(neox_fitted.curvature.eigenvalues[name])}, damping
            ).precondition(name, gradient_OI)
            assert torch.isfinite(found).all()


def test_dot_is_the_plain_gradient(case, fitted):
    found = gradients_by_method(case, fitted, rank=None)
    for query in case.queries:
        for name, expected in oracle_gradient(case, query).items():
            assert oracle.relative_error(found["dot", query.key][name].dense(), expected) < case.exact


def test_come_for_each_query_and_method_in_order(case, fitted):
    seen: list[str] = []
    found = query_gradients(case.model, case.modules, case.queries, fitted.curvature, rank=2, on_query=seen.append)
    expected = [(method, query.key) for query in case.queries for method in ("ekfac", "dot")]
    assert [(method, key) for method, key, _ in found] == expected
    assert seen == [query.key for query in case.queries]


def test_do_not_depend_on_the_other_queries(case, fitted):
    together = gradients_by_method(case, fitted, rank=4)
    for query in case.queries:
        alone = query_gradients(case.model, case.modules, [query], fitted.curvature, rank=4)
        for method, key, factors in alone:
            for name in case.names:
                assert oracle.relative_error(factors[name].dense(), together[method, key][name].dense()) < case.exact


@pytest.mark.parametrize("architecture", ["gpt_neox", "gpt2", "llama"])
def test_a_float32_query_shorter_than_the_rank_stays_finite(architecture):
    """The plain gradient of T tokens has rank at most T: the missing directions must not become 0 · ∞."""
    case = make_case(architecture, dtype=torch.float32)
    curvature = fit(case).curvature
    for _, key, factors in query_gradients(case.model, case.modules, case.queries, curvature, rank=12):
        for name, factor in factors.items():
            assert torch.isfinite(factor.left_OR).all() and torch.isfinite(factor.right_IR).all(), (key, name)


def test_an_unknown_method_is_bad_input(case, fitted):
    with pytest.raises(BadInput, match=r"'tracin'.*ekfac, dot"):
        gradients_by_method(case, fitted, methods=("tracin",))


def test_a_query_without_a_completion_is_bad_input(case, fitted):
    query = Sequence("empty-completion", [1, 2, 3], loss_start=3)
    with pytest.raises(BadInput, match="empty-completion"):
        list(query_gradients(case.model, case.modules, [query], fitted.curvature))


def test_a_query_whose_loss_is_not_finite_is_named(neox_case, neox_fitted):
    case = make_case("gpt_neox")
    with torch.no_grad():
        case.model.get_input_embeddings().weight[VOCABULARY - 1] = torch.nan
    queries = [Sequence("fine", [1, 2, 3], 1), Sequence("broken", [1, VOCABULARY - 1, 3], 2)]
    with pytest.raises(BadInput, match="broken"):
        list(query_gradients(case.model, case.modules, queries, neox_fitted.curvature))
