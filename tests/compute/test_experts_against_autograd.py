"""Factors and scores of experts, against autograd's gradients of the model's own weights, document by document."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compute.batches import Sequence
from compute.covariances import fit_covariances
from compute.curvature import Curvature
from compute.eigenbasis import basis_defect
from compute.eigenvalues import fit_eigenvalues
from compute.exact_scores import exact_scores
from compute.influence import InfluencePass
from compute.low_rank import full_rank
from compute.query_gradients import dense_gradients, query_gradients
from compute.routes import choose
from tests.compute import oracle
from tests.compute.routed import CONFIGS, ROUNDING, Routed, fitted, gradients_by_hand, make_routed, rows_by_hand


@pytest.fixture(scope="module", params=CONFIGS)
def routed(request):
    return make_routed(request.param)


@pytest.fixture(scope="module")
def mixtral():
    return make_routed("mixtral")


def test_covariances_are_means_over_the_tokens_that_reached_an_expert(routed):
    found = fit_covariances(routed.model, routed.modules, routed.documents, labels="empirical", token_budget=30)
    expected = rows_by_hand(routed.model, routed.experts, routed.documents)
    tokens = sum(map(len, routed.documents))
    for module in routed.experts:
        each, seen = found[module.name], expected[module.name]
        assert each.tokens == seen.tokens < tokens
        A_II, S_OO = seen.mean(seen.activations, module.in_dim), seen.mean(seen.gradients, module.out_features)
        assert oracle.relative_error(each.activation_II, A_II) < ROUNDING, module.name
        assert oracle.relative_error(each.gradient_OO, S_OO) < ROUNDING, module.name
        if module.has_bias:
            assert float(each.activation_II[-1, -1]) == pytest.approx(1.0)
    layers = {module.expert.layer for module in routed.experts}
    for layer in layers:
        reached = sum(found[m.name].tokens for m in routed.experts if m.expert.layer == layer)
        assert reached == 2 * 2 * tokens  # two experts a token, two weights an expert
    assert {found[module.name].tokens for module in routed.modules if not module.expert} <= {tokens}


def test_eigenvalues_are_means_over_all_documents(routed):
    _, basis, eigenvalues = fitted(routed)
    gradients = [gradients_by_hand(routed.model, routed.modules, document) for document in routed.documents]
    for name, each in basis.items():
        Q_A, Q_S = each.activation_vectors_IA, each.gradient_vectors_OS
        expected = sum((Q_S.T @ gradient[name] @ Q_A) ** 2 for gradient in gradients) / len(gradients)
        assert oracle.relative_error(eigenvalues[name], expected) < ROUNDING, name


@pytest.mark.parametrize("route_name", ["factors", "formed", "rebuilt"])
def test_scores_and_norms_on_every_route(routed, route_name, monkeypatch):
    directions = [gradients_by_hand(routed.model, routed.modules, query) for query in routed.queries]
    gradients = [gradients_by_hand(routed.model, routed.modules, document) for document in routed.documents]
    by_hand = np.array([[oracle.score(direction, each) for each in gradients] for direction in directions])
    factors = [{name: full_rank(each) for name, each in direction.items()} for direction in directions]
    monkeypatch.setattr("compute.routes.choose", lambda *arguments, **named: forced(route_name, *arguments, **named))
    scoring = InfluencePass(routed.model, routed.modules, factors, token_budget=30)
    assert set(scoring.chosen.names().values()) == {route_name}
    found = scoring.score(routed.documents)
    assert oracle.relative_error(found.scores_QD, by_hand) < ROUNDING
    assert oracle.relative_error(found.norms_D, [oracle.norm(each) for each in gradients]) < ROUNDING


@pytest.mark.parametrize("method", ["kfac", "cosine", "trackstar"])
def test_other_methods_take_experts_by_their_own_tokens(mixtral, method):
    covariances, basis, eigenvalues = fitted(mixtral)
    tokens = {name: each.tokens / len(mixtral.documents) for name, each in covariances.items()}
    curvature = Curvature(basis, eigenvalues, 0.1, tokens)
    queries, documents = (
        [compared_by(method, gradients_by_hand(mixtral.model, mixtral.modules, each), covariances, curvature)[side]
         for each in sequences]
        for side, sequences in enumerate((mixtral.queries, mixtral.documents))
    )  # fmt: skip
    compare = oracle.score if method == "kfac" else oracle.cosine
    by_hand = np.array([[compare(query, document) for document in documents] for query in queries])
    settings = {"rank": None, "methods": [method]}
    found = list(query_gradients(mixtral.model, mixtral.modules, mixtral.queries, curvature, **settings))
    named = {"methods": [method] * len(found), "curvature": curvature, "token_budget": 30}
    gradients = [factors for *_, factors in found]
    scores = InfluencePass(mixtral.model, mixtral.modules, gradients, **named).score(mixtral.documents)
    assert oracle.relative_error(scores.scores_QD, by_hand) < ROUNDING

    dense = [{name: each.dense() for name, each in factors.items()} for factors in gradients]
    del named["token_budget"]
    wanted = [range(len(dense))] * len(mixtral.documents)
    exact = exact_scores(mixtral.model, mixtral.modules, dense, mixtral.documents, wanted, token_budget=30, **named)
    found_QD = [[of_document[number].score for of_document in exact] for number in range(len(dense))]
    assert oracle.relative_error(np.array(found_QD), by_hand) < ROUNDING


def compared_by(method: str, gradients: dict, covariances: dict, curvature: Curvature) -> tuple[dict, dict]:
    """What a method makes of a gradient as a query's and as a document's, by dense matrices."""
    if method == "cosine":
        return gradients, gradients
    if method == "kfac":
        tokens = curvature.document_tokens
        directed = {
            name: oracle.kfac_preconditioned(each.activation_II, each.gradient_OO, tokens[name], 0.1, gradients[name])
            for name, each in covariances.items()
        }
        return directed, gradients
    whitened = {
        name: oracle.whitened(
            each.activation_vectors_IA,
            each.gradient_vectors_OS,
            curvature.eigenvalues[name],
            0.1 * float(curvature.eigenvalues[name].mean()),
            gradients[name],
        )
        for name, each in curvature.eigenbasis.items()
    }
    return whitened, whitened


def forced(route_name: str, *arguments, **named):
    choice = choose(*arguments, **named)
    return type(choice)(route_name, choice.costs, choice.multiplications)


def test_dense_gradients_are_zero_where_a_query_reaches_no_expert(routed):
    short = Sequence("short", [5, 6], loss_start=1)
    found, expected = (f(routed.model, routed.modules, short) for f in (dense_gradients, gradients_by_hand))
    assert found.keys() == expected.keys()
    assert [name for name in found if not found[name].any()]  # two tokens do not reach five experts of two layers
    for name, gradient_OI in expected.items():
        assert oracle.relative_error(found[name], gradient_OI) < ROUNDING, name


def test_exact_scores_per_module_and_token(routed):
    directions = [gradients_by_hand(routed.model, routed.modules, query) for query in routed.queries]
    wanted = [[0, 1], [1], [0], [], [0, 1]]
    found = exact_scores(routed.model, routed.modules, directions, routed.documents, wanted, token_budget=30)
    for document, scores, asked in zip(routed.documents, found, wanted, strict=True):
        assert sorted(scores) == asked
        gradient = gradients_by_hand(routed.model, routed.modules, document)
        for number, each in scores.items():
            expected = {name: float((directions[number][name] * gradient[name]).sum()) for name in gradient}
            assert each.module_scores.keys() == expected.keys()
            largest = max(map(abs, expected.values()))
            assert each.module_scores == pytest.approx(expected, abs=ROUNDING * largest)
            assert each.token_scores_T.shape == (len(document),)
            assert each.token_scores_T.sum() == pytest.approx(each.score)


def test_a_tokens_share_stands_at_its_position(mixtral):
    (document,), (direction,) = mixtral.documents[:1], [
        gradients_by_hand(mixtral.model, mixtral.modules, query) for query in mixtral.queries[:1]
    ]  # fmt: skip
    (found,) = exact_scores(mixtral.model, mixtral.modules, [direction], [document], [[0]])
    expected_T, order = np.zeros(len(document)), rows_with_positions(mixtral, document)
    for name, position, activation_I, gradient_O in order:
        expected_T[position] += float(gradient_O @ direction[name] @ activation_I)
    np.testing.assert_allclose(found[0].token_scores_T, expected_T, rtol=1e-4, atol=1e-6 * np.abs(expected_T).max())


def rows_with_positions(routed: Routed, document: Sequence):
    """Rows of every module in the order of a layer's tokens: two experts' two weights for one token after the other."""
    seen = rows_by_hand(routed.model, routed.experts, [document])
    tokens: dict[str, list[int]] = {}
    with captured_choices(routed.model) as choices, torch.no_grad():
        routed.model(input_ids=torch.tensor([list(document.token_ids)]))
    for layer, choice_NK in choices.items():
        for position, choice_K in enumerate(choice_NK.tolist()):
            for number in choice_K:
                tokens.setdefault(f"{layer}.{number}", []).append(position)
    for name, each in seen.items():
        positions = tokens.get(name.rpartition(".")[0], [])
        yield from ((name, *row) for row in zip(positions, each.activations, each.gradients, strict=True))


class captured_choices:  # noqa: N801 (a context manager used like a function)
    """Which experts a model's tokens go to, by the name of the layer's experts module."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.choices, self.handles = model, {}, []

    def __enter__(self) -> dict[str, Tensor]:
        for name, module in self.model.named_modules():
            if name.endswith(".experts"):
                hook = lambda _, inputs, name=name: self.choices.update({name: inputs[1]})  # noqa: E731
                self.handles.append(module.register_forward_pre_hook(hook))
        return self.choices

    def __exit__(self, *_) -> None:
        for handle in self.handles:
            handle.remove()


@pytest.mark.parametrize("labels", ["sampled", "empirical"])
@pytest.mark.parametrize("token_budget", [14, 8192])
def test_results_do_not_depend_on_batch_size_or_order(mixtral, labels, token_budget):
    turned = Routed(mixtral.model, mixtral.modules, mixtral.documents[::-1])
    expected, found = fitted(mixtral, labels=labels), fitted(turned, labels=labels, token_budget=token_budget)
    for name in mixtral.names:
        assert found[0][name].tokens == expected[0][name].tokens
        assert oracle.relative_error(found[0][name].activation_II, expected[0][name].activation_II) < ROUNDING
        assert oracle.relative_error(found[0][name].gradient_OO, expected[0][name].gradient_OO) < ROUNDING
    _, basis, eigenvalues = expected
    again = fit_eigenvalues(
        mixtral.model, mixtral.modules, basis, turned.documents, labels=labels, token_budget=token_budget
    )
    assert max(oracle.relative_error(again[name], eigenvalues[name]) for name in mixtral.names) < ROUNDING


def test_a_batch_that_is_out_of_memory_is_halved_and_experts_count_each_token_once(mixtral):
    expected, *_ = fitted(mixtral)
    failures = []

    def once(_, __, output: Tensor) -> None:
        def hook(_: Tensor) -> None:
            if not failures:
                failures.append(1)
                raise torch.OutOfMemoryError("injected")

        if (hidden := output[0] if isinstance(output, tuple) else output).requires_grad:
            hidden.register_hook(hook)

    handle = mixtral.model.model.layers[0].register_forward_hook(once)
    try:
        found = fit_covariances(
            mixtral.model, mixtral.modules, mixtral.documents, labels="empirical", token_budget=8192
        )
    finally:
        handle.remove()
    assert failures
    for name in mixtral.names:
        assert found[name].tokens == expected[name].tokens
        assert oracle.relative_error(found[name].gradient_OO, expected[name].gradient_OO) < ROUNDING


def test_bfloat16_models_are_traced_with_float32_sums():
    routed = make_routed("qwen3_moe")
    routed.model.bfloat16()
    covariances, basis, eigenvalues = fitted(routed)
    for name, each in covariances.items():
        assert each.activation_II.dtype == each.gradient_OO.dtype == eigenvalues[name].dtype == torch.float32
        assert torch.isfinite(eigenvalues[name]).all() and basis_defect(name, basis[name]) is None


@pytest.mark.parametrize("stage", ["scores", "exact scores"])
def test_experts_share_what_is_copied_to_the_device_for_a_batch(mixtral, monkeypatch, stage):
    """The places of its documents, and the rows that want each direction."""
    directions = [dense_gradients(mixtral.model, mixtral.modules, query) for query in mixtral.queries]
    scoring = InfluencePass(
        mixtral.model, mixtral.modules, [{n: full_rank(g) for n, g in d.items()} for d in directions]
    )
    made, tensor = [], torch.tensor
    monkeypatch.setattr(torch, "tensor", lambda *each, **settings: (made.append(each), tensor(*each, **settings))[1])
    if stage == "scores":
        scoring.score(mixtral.documents)
        assert len(made) == 1
    else:
        wanted = [[0, 1]] * len(mixtral.documents)
        exact_scores(mixtral.model, mixtral.modules, directions, mixtral.documents, wanted)
        assert len(made) == 1 + 2
