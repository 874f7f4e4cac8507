"""An expert that no token reaches: its factors and scores are zero, and nothing becomes NaN or infinite."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from compute.covariances import covariance_defect
from compute.curvature import Curvature
from compute.eigenbasis import basis_defect
from compute.eigenvalues import eigenvalue_defect
from compute.exact_scores import exact_scores
from compute.influence import score_documents
from compute.low_rank import full_rank
from compute.methods import METHODS
from compute.query_gradients import dense_gradients, query_gradients
from compute.tracked_modules import select_modules
from tests.compute.routed import Routed, fitted, tiny

UNUSED = 4  # the expert that no token is sent to


@pytest.fixture(scope="module")
def lonely():
    """A model whose routers send no token to one of the experts."""
    model = tiny("olmoe")
    forwards = [layer.mlp.gate.forward for layer in model.model.layers]
    for layer, forward in zip(model.model.layers, forwards, strict=True):
        layer.mlp.gate.forward = without_unused(forward)
    return Routed(model, select_modules(model, "mlp"))


def without_unused(forward):
    def route_elsewhere(hidden_NI: Tensor):
        logits_NE, weight_NK, choice_NK = forward(hidden_NI)
        others_NK = torch.stack([choice_NK[:, 0] % UNUSED, (choice_NK[:, 0] + 1) % UNUSED], 1)
        return logits_NE, weight_NK, others_NK

    return route_elsewhere


def test_an_expert_without_tokens_has_zeros_and_no_defect(lonely):
    covariances, basis, eigenvalues = fitted(lonely)
    unused = [module.name for module in lonely.modules if module.expert.number == UNUSED]
    assert len(unused) == 4
    for name in lonely.names:
        assert (covariances[name].tokens == 0) == (name in unused)
        assert (not eigenvalues[name].any()) == (name in unused)
        assert covariance_defect(name, covariances[name]) is None
        assert basis_defect(name, basis[name]) is None
        assert eigenvalue_defect(name, eigenvalues[name]) is None
    for name in unused:
        assert not covariances[name].activation_II.any() and not covariances[name].gradient_OO.any()


@pytest.mark.parametrize("settings", [{"rank": 4}, {"rank": None}, {"agreement": 0.99}])
@pytest.mark.parametrize("damping", [0.0, 0.1])
def test_scores_with_an_expert_without_tokens_are_finite(lonely, damping, settings):
    covariances, basis, eigenvalues = fitted(lonely)
    tokens = {name: each.tokens / len(lonely.documents) for name, each in covariances.items()}
    curvature = Curvature(basis, eigenvalues, damping, tokens)
    settings = settings | {"methods": [name for name, each in METHODS.items() if not each.refined]}
    found = list(query_gradients(lonely.model, lonely.modules, lonely.queries, curvature, **settings))
    for _, _, factors in found:
        assert factors.keys() == set(lonely.names)
        assert all(torch.isfinite(each.dense()).all() for each in factors.values())
    named = {"methods": [method for method, *_ in found], "curvature": curvature}
    gradients = [factors for *_, factors in found]
    scores = score_documents(lonely.model, lonely.modules, gradients, lonely.documents, **named)
    assert np.isfinite(scores.scores_QD).all() and (scores.norms_D > 0).all()


def test_a_query_to_an_expert_without_curvature_adds_nothing(lonely):
    """The curvature's sample reached no token of the expert, a query and documents do: their score leaves it out."""
    _, basis, eigenvalues = fitted(lonely)
    routed = tiny("olmoe")  # the same weights, and its routers as they are
    settings = {"rank": None, "methods": ["dot", "ekfac"]}
    found = query_gradients(routed, lonely.modules, lonely.queries[:1], Curvature(basis, eigenvalues, 0.1), **settings)
    plain, preconditioned = (factors for *_, factors in found)
    unused = [module.name for module in lonely.modules if module.expert.number == UNUSED]
    assert any(plain[name].dense().any() for name in unused)
    assert not any(preconditioned[name].dense().any() for name in unused)


def test_documents_that_reach_none_of_the_tracked_experts_score_zero(lonely):
    modules = select_modules(lonely.model, [rf"experts\.{UNUSED}\."])
    document, query = lonely.documents[0], lonely.queries[0]
    gradients = dense_gradients(lonely.model, modules, query)
    assert len(gradients) == 4 and not any(each.any() for each in gradients.values())
    factors = [{name: full_rank(torch.ones_like(each)) for name, each in gradients.items()}]
    scores = score_documents(lonely.model, modules, factors, [document])
    assert scores.scores_QD.tolist() == [[0.0]] and scores.norms_D.tolist() == [0.0] and scores.loss_D[0] > 0
    (exact,) = exact_scores(lonely.model, modules, [gradients], [document], [[0]])
    assert exact[0].score == 0 and exact[0].module_scores == dict.fromkeys(gradients, 0.0)
    assert exact[0].token_scores_T.tolist() == [0.0] * len(document) and exact[0].concentration == 0
