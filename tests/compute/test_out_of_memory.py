"""Out of memory: the batch is cut in two and done again, says so, and every result stays the same to rounding.

The errors are injected where they happen on a device: in a layer's forward pass, and in the middle of backward, when
some modules have consumed the batch and others have not.
"""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

import compute.covariances
from compute.batches import Sequence
from compute.completions import completion_nats, greedy_completions
from compute.covariances import add_products, fit_covariances
from compute.eigenvalues import fit_eigenvalues
from compute.errors import BadInput
from compute.exact_scores import exact_scores
from compute.influence import InfluencePass, score_documents
from compute.passes import backward_passes
from compute.query_gradients import dense_gradients, query_gradients
from tests.compute import oracle
from tests.compute.models import VOCABULARY, random_documents


@pytest.fixture(params=["forward", "backward"])
def limited(request, neox_case):
    """Sets how many padded tokens the second layer takes at a time; the list holds how often it was too much."""
    failures: list[int] = []
    limit = [10**9]

    def too_much(tokens: int) -> None:
        if tokens > limit[0]:
            failures.append(tokens)
            raise torch.OutOfMemoryError("injected")

    def hook(_, __, output: torch.Tensor):
        hidden = output[0] if isinstance(output, tuple) else output
        if request.param == "forward" or not hidden.requires_grad:
            too_much(hidden.shape[:2].numel())
        else:
            hidden.register_hook(lambda gradient: too_much(gradient.shape[:2].numel()))

    # The first layer's output: in backward the second layer's modules have consumed the batch by then.
    handle = neox_case.model.gpt_neox.layers[0].register_forward_hook(hook)
    yield limit, failures
    handle.remove()


def gradients_of(case, fitted) -> list[dict]:
    found = query_gradients(case.model, case.modules, case.queries, fitted.curvature, rank=4)
    return [factors for *_, factors in found]


@pytest.mark.parametrize("most", [40, 30])
def test_scores_stay_the_same(neox_case, neox_fitted, limited, most, caplog):
    limit, failures = limited
    documents = [*neox_case.documents, *random_documents(20, seed=5)]
    arguments = (neox_case.model, neox_case.modules, gradients_of(neox_case, neox_fitted), documents)
    expected = score_documents(*arguments)
    limit[0] = most
    with caplog.at_level(logging.WARNING):
        found = score_documents(*arguments, token_budget=300)
    assert len(failures) > 2
    assert "out of memory: the token budget is halved to 140" in caplog.text
    assert oracle.relative_error(found.scores_QD, expected.scores_QD) < neox_case.exact
    assert oracle.relative_error(found.norms_D, expected.norms_D) < neox_case.exact
    np.testing.assert_allclose(found.loss_D, expected.loss_D)


def test_factors_and_exact_scores_stay_the_same(neox_case, neox_fitted, limited):
    limit, failures = limited
    basis, documents = neox_fitted.curvature.eigenbasis, neox_case.documents
    directions = [dense_gradients(neox_case.model, neox_case.modules, query) for query in neox_case.queries[:2]]
    wanted = [[0, 1] if index % 2 else [1] for index in range(len(documents))]

    def results():
        covariances = fit_covariances(neox_case.model, neox_case.modules, documents, labels="sampled")
        eigenvalues = fit_eigenvalues(neox_case.model, neox_case.modules, basis, documents, labels="sampled")
        scores = exact_scores(neox_case.model, neox_case.modules, directions, documents, wanted)
        nats = completion_nats(neox_case.model, documents, token_budget=8192)
        return covariances, eigenvalues, scores, nats

    expected = results()
    limit[0] = 40
    found = results()
    assert len(failures) >= 4
    for name in neox_case.names:
        for side in ("activation_II", "gradient_OO"):
            assert oracle.relative_error(getattr(found[0][name], side), getattr(expected[0][name], side)) < 1e-9
        assert found[0][name].tokens == expected[0][name].tokens
        assert oracle.relative_error(found[1][name], expected[1][name]) < 1e-9
    for one, other in zip(found[2], expected[2], strict=True):
        assert one.keys() == other.keys()
        for direction, score in one.items():
            np.testing.assert_allclose(score.token_scores_T, other[direction].token_scores_T, rtol=1e-9, atol=1e-12)
    assert found[3].keys() == expected[3].keys()
    assert all(found[3][key] == pytest.approx(expected[3][key]) for key in expected[3])


def test_a_document_that_does_not_fit_alone_is_named(neox_case, neox_fitted, limited):
    limit, _ = limited
    gradients = gradients_of(neox_case, neox_fitted)
    limit[0] = 20
    with pytest.raises(BadInput, match=r"document-0: its 28 tokens do not fit in memory even alone"):
        score_documents(neox_case.model, neox_case.modules, gradients, neox_case.documents)


def test_a_consumer_that_does_not_fit_is_not_blamed_on_the_document(neox_case, neox_fitted, monkeypatch):
    """But on the module that it consumes, with what helps where it is."""
    name, (model, modules, documents) = neox_case.names[1], (neox_case.model, neox_case.modules, neox_case.documents)

    def never(*_):
        raise torch.OutOfMemoryError("injected")

    influence = InfluencePass(model, modules, gradients_of(neox_case, neox_fitted))
    monkeypatch.setattr(influence.routes[name], "score", never)
    told = r"curvature.modules: .* {}'s gradient of one document \(document-\d\) does not fit .* next to the model; {}"
    with pytest.raises(BadInput, match=told.format(name, "give less options.memory_mib")):
        influence.score(documents)
    last = neox_case.names[-1]
    monkeypatch.setattr("compute.covariances.add_products", never)
    with pytest.raises(BadInput, match=told.format(last, "give curvature.memory_mib, or less of it")):
        fit_covariances(model, modules, documents)


def test_a_consumer_that_fits_halves_is_done_again(neox_case, neox_fitted, monkeypatch, caplog):
    influence = InfluencePass(neox_case.model, neox_case.modules, gradients_of(neox_case, neox_fitted))
    expected = influence.score(neox_case.documents)
    route = influence.routes[neox_case.names[1]]
    score = route.score

    def limited(places_B, *each):
        if len(places_B) > 2:
            raise torch.OutOfMemoryError("injected")
        return score(places_B, *each)

    monkeypatch.setattr(route, "score", limited)
    found = influence.score(neox_case.documents)
    assert "out of memory" in caplog.text
    assert oracle.relative_error(found.scores_QD, expected.scores_QD) < neox_case.exact


def test_a_budget_that_was_halved_for_one_shard_is_so_for_the_next(neox_case, neox_fitted, limited, caplog):
    """Which is told once. A document longer than it is a batch of its own, and is not refused."""
    limit, failures = limited
    influence = InfluencePass(
        neox_case.model, neox_case.modules, gradients_of(neox_case, neox_fitted), token_budget=300
    )
    shards = [neox_case.documents, random_documents(20, seed=5)]
    expected = [influence.score(shard) for shard in shards]
    limit[0] = 28
    found = [influence.score(shards[0])]
    told, failed = caplog.text.count("out of memory: the token budget is halved"), len(failures)
    assert told == failed > 1
    found.append(influence.score(shards[1]))
    assert len(failures) == failed and caplog.text.count("out of memory: the token budget is halved") == told
    assert influence.budget.fitting <= 28 < influence.budget.given == 300
    for one, other in zip(found, expected, strict=True):
        assert oracle.relative_error(one.scores_QD, other.scores_QD) < neox_case.exact
    with pytest.raises(BadInput, match=r"more than options.token_budget \(300\)"):
        influence.score(random_documents(2, longest=301))


def test_queries_that_do_not_fit_are_told_before_a_document_is_read(neox_case, neox_fitted, monkeypatch):
    def never(*_):
        raise torch.OutOfMemoryError("injected")

    gradients = gradients_of(neox_case, neox_fitted)
    monkeypatch.setattr("compute.influence.query_products", never)
    told = f"options.memory_mib: {len(gradients)} gradients of .* do not fit, at {neox_case.names[0]}, .*; give less"
    with pytest.raises(BadInput, match=told):
        InfluencePass(neox_case.model, neox_case.modules, gradients)


@pytest.mark.parametrize("failing", range(1, 9))
def test_memory_that_runs_out_inside_of_a_consumer_adds_nothing_twice(neox_case, monkeypatch, failing):
    """The n-th product of the first batch: of a module's inputs, or of its output gradients."""
    expected = fit_covariances(neox_case.model, neox_case.modules, neox_case.documents, labels="empirical")
    calls: list[int] = []

    def sometimes(sum_MM, rows_NM):
        calls.append(1)
        if len(calls) == failing:
            raise torch.OutOfMemoryError("injected")
        add_products(sum_MM, rows_NM)

    monkeypatch.setattr("compute.covariances.add_products", sometimes)
    found = fit_covariances(neox_case.model, neox_case.modules, neox_case.documents, labels="empirical")
    for name in neox_case.names:
        for side in ("activation_II", "gradient_OO"):
            assert oracle.relative_error(getattr(found[name], side), getattr(expected[name], side)) < 1e-9
        assert found[name].tokens == expected[name].tokens


@pytest.mark.parametrize("failing", [1, 2, 4, None])
def test_nothing_of_a_batch_is_kept_while_memory_is_let_go(request, neox_case, monkeypatch, failing):
    """Where a consumer has run out of it, or (`None`) backward after some modules were consumed; nor afterwards."""
    inputs, held, calls = [], [], []

    class Watched(compute.covariances._Inputs):
        def __init__(self, *settings) -> None:
            super().__init__(*settings)
            inputs.append(self)

    def sometimes(sum_MM, rows_NM):
        calls.append(1)
        if len(calls) == failing:
            raise torch.OutOfMemoryError("injected")
        add_products(sum_MM, rows_NM)

    def once(_, __, output: torch.Tensor) -> None:
        def fail(_) -> None:
            if failing is None and not held:
                raise torch.OutOfMemoryError("injected")

        hidden = output[0] if isinstance(output, tuple) else output
        if hidden.requires_grad:
            hidden.register_hook(fail)

    monkeypatch.setattr("compute.covariances._Inputs", Watched)
    monkeypatch.setattr("compute.covariances.add_products", sometimes)
    monkeypatch.setattr("compute.passes._let_go", lambda _: held.append(len(inputs[0]._recent)))
    request.addfinalizer(neox_case.model.gpt_neox.layers[0].register_forward_hook(once).remove)
    fit_covariances(neox_case.model, neox_case.modules, neox_case.documents, labels="empirical")
    assert held == [0] and not inputs[0]._recent and calls


def prompts_of(lengths) -> list[Sequence]:
    return [
        Sequence(f"prompt-{number}", [(7 * number + token) % VOCABULARY for token in range(length)])
        for number, length in enumerate(lengths)
    ]


def test_completions_are_generated_for_half_as_many_prompts(neox_case, monkeypatch, caplog):
    prompts = prompts_of([5] * 11 + [4] * 6)
    settings = {"max_new_tokens": 3, "end_token": None}
    expected = greedy_completions(neox_case.model, prompts, **settings)
    generate, tried, told = neox_case.model.generate, [], []

    def limited(input_ids, **options):
        tried.append(len(input_ids))
        if len(input_ids) > 3:
            raise torch.OutOfMemoryError("injected")
        return generate(input_ids=input_ids, **options)

    monkeypatch.setattr(neox_case.model, "generate", limited)
    found = greedy_completions(neox_case.model, prompts, on_batch=told.append, **settings)
    assert found == expected and list(found) == list(expected)
    assert tried == [11, 5, 2, 2, 2, 2, 2, 1, 2, 2, 2] and sum(told) == len(prompts)
    assert "out of memory: prompts are halved to 5 at a time" in caplog.text


def test_a_prompt_that_does_not_fit_alone_is_not_tried_for_ever(neox_case, monkeypatch):
    def never(**_):
        raise torch.OutOfMemoryError("injected")

    monkeypatch.setattr(neox_case.model, "generate", never)
    with pytest.raises(BadInput, match="query prompt-0: its 5 tokens do not fit in memory even alone; make it shorter"):
        greedy_completions(neox_case.model, prompts_of([5, 5, 5]), max_new_tokens=3, end_token=None)


SETTINGS = torch.backends.cuda.matmul


def reduced() -> tuple[bool, bool]:
    return SETTINGS.allow_bf16_reduced_precision_reduction, SETTINGS.allow_fp16_reduced_precision_reduction


@pytest.fixture(params=[(True, True), (True, False)])
def usual(request):
    before = reduced()
    SETTINGS.allow_bf16_reduced_precision_reduction, SETTINGS.allow_fp16_reduced_precision_reduction = request.param
    yield request.param
    SETTINGS.allow_bf16_reduced_precision_reduction, SETTINGS.allow_fp16_reduced_precision_reduction = before


def test_half_precisions_are_summed_up_in_float32_during_a_pass(neox_case, neox_fitted, monkeypatch, usual):
    """And as before after it, also where it ends with an error; in scoring also for the last products."""
    model, modules, documents = neox_case.model, neox_case.modules, neox_case.documents
    seen = []

    def consume(*_):
        seen.append(reduced())
        nats = completion_nats(model, documents[:1], token_budget=60)  # a pass within a pass
        assert nats and reduced() == (False, False)

    for _ in backward_passes(model, modules, documents, consume, token_budget=60):
        assert reduced() == (False, False)
    assert set(seen) == {(False, False)} and reduced() == usual

    influence = InfluencePass(model, modules, gradients_of(neox_case, neox_fitted))
    finished = []
    for route in influence.routes.values():
        monkeypatch.setattr(route, "finish", lambda: (finished.append(reduced()), [])[1])
    influence.score(documents)
    assert set(finished) == {(False, False)} and reduced() == usual
    with pytest.raises(BadInput, match="token_budget"):
        influence.score(random_documents(2, longest=28_000))
    passes = backward_passes(model, modules, documents, consume, token_budget=60)
    next(passes)
    passes.close()
    assert reduced() == usual
