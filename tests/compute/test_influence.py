"""Scores: equal to the for-loop oracle's from end to end, on both routes, whatever the batches, shards and order."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

import compute.module_gradients
import compute.query_products
import compute.routes
from compute.batches import Sequence
from compute.errors import BadInput
from compute.influence import InfluencePass, score_documents
from compute.low_rank import full_rank
from compute.query_gradients import query_gradients
from compute.routes import Choice, Workload, choose, choose_routes
from compute.token_loss import batch_loss
from compute.tracked_modules import TrackedModule
from tests.compute import oracle
from tests.compute.models import VOCABULARY, Case, batches_of, fit, make_case, random_documents


@pytest.fixture(params=["factors", "formed", "rebuilt"])
def route(request, monkeypatch) -> str:
    """Every module takes this route, whatever it costs."""
    monkeypatch.setattr(compute.routes, "choose", lambda *_, **__: Choice(request.param, {request.param: 1.0}, {}))
    return request.param


def engine_gradients(case, curvature, *, rank: int | None = None, methods=("ekfac",)) -> list[dict]:
    return [factors for _, _, factors in query_gradients(
        case.model, case.modules, case.queries, curvature, rank=rank, methods=methods
    )]  # fmt: skip


def plain_gradients(case) -> list[dict]:
    """Each query's own gradient by autograd, as the engine's full-rank factors."""
    return [
        {name: full_rank(gradient_OI) for name, gradient_OI in oracle_gradients(case, query).items()}
        for query in case.queries
    ]


def oracle_gradients(case, sequence) -> dict:
    return oracle.weight_gradients(case.model, case.names, sequence.token_ids, sequence.loss_start)


def oracle_scores(case, directions: list[dict]) -> np.ndarray:
    gradients = [oracle_gradients(case, document) for document in case.documents]
    return np.array([[oracle.score(direction, gradient) for gradient in gradients] for direction in directions])


def routes_of(case, gradients, **settings) -> set[str]:
    return set(InfluencePass(case.model, case.modules, gradients, **settings).chosen.names().values())


def test_equal_the_for_loop_from_end_to_end(case):
    """Nothing of the engine's is in what is expected: the oracle's covariances, eigenvectors, Λ, inverse and scores."""
    documents = [(document.token_ids,) for document in case.documents]
    covariances = oracle.covariances(case.model, case.names, documents)
    bases = {name: (torch.linalg.eigh(A)[1], torch.linalg.eigh(S)[1]) for name, (A, S) in covariances.items()}
    eigenvalues = oracle.eigenvalue_correction(case.model, bases, documents)
    directions = [
        {
            name: oracle.precondition(*bases[name], eigenvalues[name], 0.1 * float(eigenvalues[name].mean()), gradient)
            for name, gradient in oracle_gradients(case, query).items()
        }
        for query in case.queries
    ]
    gradients = engine_gradients(case, fit(case).curvature)
    found = score_documents(case.model, case.modules, gradients, case.documents, token_budget=60)
    assert oracle.relative_error(found.scores_QD, oracle_scores(case, directions)) < 1e-5


def test_all_routes_give_the_inner_products(case, route):
    gradients = plain_gradients(case)
    assert routes_of(case, gradients) == {route}
    found = score_documents(case.model, case.modules, gradients, case.documents, token_budget=60)
    expected = oracle_scores(case, [oracle_gradients(case, query) for query in case.queries])
    assert oracle.relative_error(found.scores_QD, expected) < case.exact


@pytest.mark.parametrize("token_budget", [28, 8192])  # short batches take the Gram matrices' way to the norm
def test_norms_are_those_of_the_documents_gradients(case, route, token_budget):
    gradients = plain_gradients(case)
    found = score_documents(case.model, case.modules, gradients, case.documents, token_budget=token_budget)
    expected = np.array([oracle.norm(oracle_gradients(case, document)) for document in case.documents])
    assert oracle.relative_error(found.norms_D, expected) < case.exact


def test_losses_are_summed_over_tokens_in_nats(case):
    found = score_documents(case.model, case.modules, plain_gradients(case), case.documents, token_budget=60)
    expected = [float(oracle.loss(case.model, document.token_ids).detach()) for document in case.documents]
    assert oracle.relative_error(found.loss_D, np.array(expected)) < case.exact


def test_a_forward_pass_alone_gives_the_same_losses(case):
    sequences = [*case.documents, *case.queries]
    for batch in batches_of(sequences, token_budget=60):
        expected = [
            float(oracle.loss(case.model, sequences[index].token_ids, sequences[index].loss_start).detach())
            for index in batch.index_B
        ]
        assert oracle.relative_error(batch_loss(case.model, batch), np.array(expected)) < case.exact


@pytest.mark.parametrize("rank", [1, 4])
def test_low_rank_scores_are_those_of_the_truncated_gradient(case, fitted, rank, route):
    gradients = engine_gradients(case, fitted.curvature, rank=rank, methods=("ekfac", "dot"))
    found = score_documents(case.model, case.modules, gradients, case.documents)
    dense = [{name: factor.dense() for name, factor in gradient.items()} for gradient in gradients]
    assert oracle.relative_error(found.scores_QD, oracle_scores(case, dense)) < case.exact


def test_low_rank_scores_approach_the_full_ones(case, fitted):
    full = score_documents(case.model, case.modules, engine_gradients(case, fitted.curvature), case.documents).scores_QD
    errors = []
    for rank in (2, 4, 8, 12, 16):
        gradients = engine_gradients(case, fitted.curvature, rank=rank)
        found = score_documents(case.model, case.modules, gradients, case.documents).scores_QD
        errors.append(float(((found - full) ** 2).sum()))
    assert errors[-1] < 0.05 * errors[0]
    assert sum(later < earlier for earlier, later in pairwise(errors)) >= 3


@pytest.mark.parametrize("token_budget", [28, 61, 8192])
def test_do_not_depend_on_batch_size_padding_or_order(case, fitted, token_budget, route):
    gradients = engine_gradients(case, fitted.curvature, rank=4)

    def scored(documents, budget):
        return score_documents(case.model, case.modules, gradients, documents, token_budget=budget)

    expected, found = scored(case.documents, 40), scored(case.documents[::-1], token_budget)
    assert oracle.relative_error(found.scores_QD[:, ::-1].copy(), expected.scores_QD) < case.exact
    assert oracle.relative_error(found.norms_D[::-1].copy(), expected.norms_D) < case.exact
    assert oracle.relative_error(found.loss_D[::-1].copy(), expected.loss_D) < case.exact


@pytest.mark.parametrize("split", [1, 4, 8])
def test_do_not_depend_on_the_split_into_shards(case, fitted, split):
    influence = InfluencePass(case.model, case.modules, engine_gradients(case, fitted.curvature))
    whole = influence.score(case.documents)
    shards = [influence.score(case.documents[:split]), influence.score(case.documents[split:])]
    for part in ("scores_QD", "norms_D", "loss_D"):
        combined = np.concatenate([getattr(shard, part) for shard in shards], axis=-1)
        assert oracle.relative_error(combined, getattr(whole, part)) < case.exact


def test_do_not_depend_on_the_other_queries(case, fitted):
    gradients = engine_gradients(case, fitted.curvature, rank=4)
    together = score_documents(case.model, case.modules, gradients, case.documents).scores_QD
    for row, gradient in enumerate(gradients):
        alone = score_documents(case.model, case.modules, [gradient], case.documents).scores_QD
        assert oracle.relative_error(alone[0], together[row]) < case.exact


def test_queries_may_differ_in_rank(neox_case, neox_fitted, route):
    mixed = [
        engine_gradients(neox_case, neox_fitted.curvature, rank=rank)[row] for row, rank in enumerate((None, 1, 3, 7))
    ]
    found = score_documents(neox_case.model, neox_case.modules, mixed, neox_case.documents)
    dense = [{name: factor.dense() for name, factor in gradient.items()} for gradient in mixed]
    assert oracle.relative_error(found.scores_QD, oracle_scores(neox_case, dense)) < neox_case.exact


def test_do_not_depend_on_how_much_is_computed_at_once(neox_case, neox_fitted, monkeypatch, route):
    gradients = engine_gradients(neox_case, neox_fitted.curvature, rank=4)

    def scored(memory_bytes):
        arguments = (neox_case.model, neox_case.modules, gradients, neox_case.documents)
        return score_documents(*arguments, memory_bytes=memory_bytes)

    expected = scored(2**31)
    monkeypatch.setattr(compute.module_gradients, "ELEMENTS_AT_ONCE", 2 * 40 * 17)
    monkeypatch.setattr(compute.query_products, "ELEMENTS_AT_ONCE", 9 * 28 * 3)  # three columns of projections
    monkeypatch.setattr("compute.token_loss.LOGITS_AT_ONCE", 5)
    found = scored(8 * 4 * 40 * 17 * 6)  # gradients of six documents, or of three documents and three queries
    assert oracle.relative_error(found.scores_QD, expected.scores_QD) < neox_case.exact
    assert oracle.relative_error(found.norms_D, expected.norms_D) < neox_case.exact


def test_all_linear_layers_can_be_scored():
    case = make_case("gpt2", selection="all")
    found = score_documents(case.model, case.modules, plain_gradients(case), case.documents)
    expected = oracle_scores(case, [oracle_gradients(case, query) for query in case.queries])
    assert oracle.relative_error(found.scores_QD, expected) < case.exact


def test_a_model_in_float32_agrees_with_float64(case, fitted):
    single = Case(make_case(case.model.config.model_type, dtype=torch.float32).model, case.modules)
    expected = score_documents(case.model, case.modules, engine_gradients(case, fitted.curvature), case.documents)
    gradients = engine_gradients(single, fit(single).curvature)
    found = score_documents(single.model, single.modules, gradients, single.documents)
    assert found.scores_QD.dtype == found.norms_D.dtype == np.float32
    assert oracle.relative_error(found.scores_QD, expected.scores_QD) < 1e-3
    assert oracle.relative_error(found.norms_D, expected.norms_D) < 1e-5


def moved_loss(case: Case, query: Sequence, direction: dict, step: float) -> float:
    """The query's loss after moving the tracked weights by `step` times a direction; the weights are put back."""
    moved = {name: case.model.get_submodule(name) for name in case.names}
    with torch.no_grad():
        for name, layer in moved.items():
            _move(layer, direction[name], step)
        loss = float(oracle.loss(case.model, query.token_ids, query.loss_start))
        for name, layer in moved.items():
            _move(layer, direction[name], -step)
    return loss


def _move(layer, direction_OI, step: float) -> None:
    weight_OI = direction_OI if layer.bias is None else direction_OI[:, :-1]
    layer.weight.add_(step * (weight_OI.T if type(layer).__name__ == "Conv1D" else weight_OI))
    if layer.bias is not None:
        layer.bias.add_(step * direction_OI[:, -1])


@pytest.mark.parametrize("method", ["dot", "ekfac"])
def test_positive_means_that_training_on_the_document_lowers_the_querys_loss(architecture_case, method):
    """A descent step on the document, preconditioned for ekfac, changes the query's loss by −step × score."""
    case = architecture_case
    curvature = fit(case).curvature
    gradients = engine_gradients(case, curvature, methods=(method,))
    scores_QD = score_documents(case.model, case.modules, gradients, case.documents).scores_QD
    signs = set()
    for column, document in enumerate(case.documents[:5]):
        descent = {name: -gradient_OI for name, gradient_OI in oracle_gradients(case, document).items()}
        if method == "ekfac":
            descent = {name: curvature.precondition(name, gradient_OI) for name, gradient_OI in descent.items()}
        step = 1e-5 / oracle.norm(descent)
        for row, query in enumerate(case.queries):
            ahead, behind = moved_loss(case, query, descent, step), moved_loss(case, query, descent, -step)
            assert (ahead - behind) / (2 * step) == pytest.approx(-scores_QD[row, column], rel=1e-3, abs=1e-3)
            signs.add(ahead < behind)
    assert signs == {True, False}


@pytest.fixture(params=["gpt_neox", "gpt2"])
def architecture_case(request) -> Case:
    """A model of one's own, since its weights are moved; in whole float64, so that a small step is exact."""
    return make_case(request.param)


def test_weights_and_mode_are_left_as_they_were():
    case = make_case("gpt_neox")
    case.model.train().requires_grad_(True)
    before = {name: parameter.detach().clone() for name, parameter in case.model.named_parameters()}
    gradients = engine_gradients(case, fit(case).curvature)
    score_documents(case.model, case.modules, gradients, case.documents)
    assert case.model.training
    for name, parameter in case.model.named_parameters():
        assert torch.equal(parameter, before[name]) and parameter.grad is None and parameter.requires_grad
    hooked = [module for module in case.model.modules() if module._forward_hooks]
    assert not hooked


def test_dropout_is_off_while_scoring():
    case = make_case("gpt2", resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5)
    case.model.train()
    gradients = plain_gradients(Case(make_case("gpt2").model, case.modules))
    scores = [score_documents(case.model, case.modules, gradients, case.documents).scores_QD for _ in range(2)]
    assert np.array_equal(*scores)


def test_a_document_whose_loss_is_not_finite_is_named(neox_fitted):
    case = make_case("gpt_neox")
    gradients = plain_gradients(case)
    with torch.no_grad():
        case.model.get_input_embeddings().weight[VOCABULARY - 1] = torch.nan
    clean = [Sequence(d.key, [token % (VOCABULARY - 1) for token in d.token_ids]) for d in random_documents(5)]
    broken = Sequence("broken", [3, VOCABULARY - 1, 4])
    assert np.isfinite(score_documents(case.model, case.modules, gradients, clean).scores_QD).all()
    with pytest.raises(BadInput, match=r"broken.*nan"):
        score_documents(case.model, case.modules, gradients, [*clean, broken])


def test_products_in_bfloat16_agree_and_are_summed_in_float32(route):
    """Nothing but the products' rounding: 2⁻⁸ of each. Norms and scores come out in float32."""
    case = make_case("gpt_neox", dtype=torch.float32)
    gradients = engine_gradients(case, fit(case).curvature, rank=8)
    expected = score_documents(case.model, case.modules, gradients, case.documents)
    found = score_documents(case.model, case.modules, gradients, case.documents, products=torch.bfloat16)
    assert found.scores_QD.dtype == found.norms_D.dtype == np.float32
    assert oracle.relative_error(found.norms_D, expected.norms_D) < 0.01
    for one, other in zip(found.scores_QD, expected.scores_QD, strict=True):
        assert np.corrcoef(one, other)[0, 1] > 0.999
    assert (found.scores_QD != expected.scores_QD).any()


WIDE = TrackedModule("m", 256, 1024, True)
GIB = 2**30


@pytest.mark.parametrize(
    ("queries", "rank", "tokens", "memory_bytes", "expected"),
    [
        (1, 8, 64, 2 * GIB, "factors"),
        (32, 32, 256, 2 * GIB, "formed"),
        (512, 32, 256, 2 * GIB, "formed"),
        (512, 32, 256, 2**28, "rebuilt"),  # 512 dense gradients are 1/2 GiB
        (512, 32, 8, 2**28, "factors"),  # documents so short that a gradient is not worth its while
    ],
)
def test_the_route_is_the_cheapest_that_fits(queries, rank, tokens, memory_bytes, expected):
    workload = Workload(tokens, 8192 // tokens, memory_bytes)
    choice = choose(WIDE, [rank] * queries, workload, memory_bytes - workload.passing_bytes)
    assert choice.route == expected
    assert choice.costs[expected] == min(
        cost for name, cost in choice.costs.items() if name != "formed" or expected == "formed"
    )


def test_costs_are_multiples_of_the_modules_own_forward_pass():
    """By hand: 32 queries of rank 32, documents of 256 tokens, 32 in a batch."""
    choice = choose(WIDE, [32] * 32, Workload(256, 32, 2 * GIB), 2 * GIB)
    factors = 1024 * (1024 + 257) / (1024 * 257)
    assert 256 * (1024 + 257) > 1024 * 257  # the norm by forming the gradient is the cheaper one
    assert choice.multiplications["formed"] == pytest.approx(1 + 32 / 256)
    assert choice.multiplications["rebuilt"] == pytest.approx(1 + 32 / 256 + 32 * 32 / 32 / 256)
    assert choice.multiplications["factors"] == pytest.approx(factors + 1)
    assert choice.costs["formed"] == pytest.approx(1.3 + 32 / 256)
    assert choice.costs["rebuilt"] == pytest.approx(1.3 + 32 / 256 + 32 * 32 / 32 / 256)
    assert choice.costs["factors"] == pytest.approx(factors + 1.3)
    few = choose(WIDE, [32] * 32, Workload(256, 8, 2 * GIB), 2 * GIB)
    assert few.costs["rebuilt"] == pytest.approx(1.3 + 32 / 8 * 32 / 256 + 32 * 32 / 8 / 256)
    gathered = choose(WIDE, [32] * 32, Workload(256, 8, 2 * GIB), 2 * GIB, gathered=32)
    assert gathered.costs == choice.costs


def test_a_budget_too_small_for_one_documents_gradient_is_refused():
    """Where gradients are formed: at the factor side none is."""
    workload = Workload(tokens=256, documents=32, memory_bytes=2**21)
    with pytest.raises(BadInput, match=r"memory_mib: 2 is too little .* gradient of m, of 2 MiB; give 6 at least"):
        choose_routes([WIDE], {WIDE.name: [256] * 400}, workload)
    assert choose_routes([WIDE], {WIDE.name: [8]}, workload).choices[WIDE.name].route == "factors"
