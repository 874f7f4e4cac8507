"""The agreement of low ranks that is measured on documents, against for loops over autograd; ranks that follow it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from compute.batches import Sequence
from compute.errors import BadInput
from compute.measured_agreement import AgreementSample
from compute.query_gradients import query_gradients
from tests.compute import oracle
from tests.compute.models import VOCABULARY, make_case

METHODS = ("ekfac", "dot", "cosine")
TOGETHER = pytest.mark.parametrize("queries_at_once", [1, 3])


@dataclass
class Found:
    """Factors and agreements by method and query."""

    factors: dict = field(default_factory=dict)
    agreements: dict = field(default_factory=dict)


def found(case, fitted, documents, *, token_budget: int = 60, **settings) -> Found:
    result = Found()
    sample = AgreementSample(case.model, case.modules, documents, token_budget) if documents is not None else None
    told = query_gradients(
        case.model,
        case.modules,
        case.queries,
        fitted.curvature,
        methods=METHODS,
        sample=sample,
        on_agreement=lambda method, query, agreement: result.agreements.update({(method, query): agreement}),
        **settings,
    )
    for method, query, factors in told:
        result.factors[method, query] = factors
    return result


def scores(case, factors, documents) -> np.ndarray:
    """A document at a time, a module at a time."""
    by_document = []
    for document in documents:
        gradients = oracle.weight_gradients(case.model, case.names, document.token_ids, document.loss_start)
        by_document.append(sum(float((gradients[name] * factors[name].dense()).sum()) for name in case.names))
    return np.array(by_document)


@TOGETHER
def test_it_is_the_correlation_with_full_rank_scores(case, fitted, queries_at_once):
    low = found(case, fitted, case.documents, rank=1, queries_at_once=queries_at_once)
    full = found(case, fitted, None, rank=None)
    assert low.agreements.keys() == full.factors.keys() and not full.agreements
    for key, agreement in low.agreements.items():
        pair = (scores(case, each.factors[key], case.documents) for each in (low, full))
        assert agreement == pytest.approx(np.corrcoef(*pair)[0, 1], abs=1e-6)
    assert min(low.agreements.values()) < 0.99


@TOGETHER
def test_ranks_are_raised_until_the_documents_agree(case, fitted, queries_at_once):
    """The curvature of nine documents promises too much; every query gets what it was promised all the same."""
    promised = found(case, fitted, None, agreement=0.98)
    kept = found(case, fitted, case.documents, agreement=0.98, queries_at_once=queries_at_once)
    full = found(case, fitted, None, rank=None)
    raised = 0
    for key, agreement in kept.agreements.items():
        expected = scores(case, full.factors[key], case.documents)
        before, after = (
            np.corrcoef(scores(case, each.factors[key], case.documents), expected)[0, 1] for each in (promised, kept)
        )
        assert after == pytest.approx(agreement, abs=1e-6) and after >= 0.98
        ranks = [[each.factors[key][name].rank for name in case.names] for each in (promised, kept)]
        assert (ranks[0] == ranks[1]) == (before >= 0.98)
        raised += before < 0.98
    assert 0 < raised < len(kept.agreements)


def test_what_never_agrees_is_kept_whole(neox_case, neox_fitted, monkeypatch):
    tried = []

    def short(sample, cut, whole) -> list[float]:
        tried.append(len(cut))
        return [0.5] * len(cut)

    monkeypatch.setattr(AgreementSample, "agreement", short)
    kept = found(neox_case, neox_fitted, neox_case.documents, agreement=0.9, queries_at_once=10)
    full = found(neox_case, neox_fitted, None, rank=None)
    assert tried == [2 * len(neox_case.queries)] * 4  # by both metrics: as the curvature has it, and three times more
    assert set(kept.agreements.values()) == {1.0}
    for key, factors in kept.factors.items():
        for name in neox_case.names:
            error = oracle.relative_error(factors[name].dense(), full.factors[key][name].dense())
            assert error < neox_case.exact


def test_a_fixed_rank_is_measured_and_stays(neox_case, neox_fitted):
    measured = found(neox_case, neox_fitted, neox_case.documents, rank=2)
    plain = found(neox_case, neox_fitted, None, rank=2)
    for key, factors in measured.factors.items():
        for name in neox_case.names:
            assert torch.equal(factors[name].dense(), plain.factors[key][name].dense())


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_documents_have_no_correlation(neox_case, neox_fitted, count):
    kept = found(neox_case, neox_fitted, neox_case.documents[:count], agreement=0.9)
    assert all(math.isnan(each) for each in kept.agreements.values())
    plain = found(neox_case, neox_fitted, None, agreement=0.9)
    for key, factors in kept.factors.items():
        assert [factors[name].rank for name in neox_case.names] == [
            plain.factors[key][name].rank for name in neox_case.names
        ]


def test_a_document_without_a_finite_loss_is_named(neox_fitted):
    case = make_case("gpt_neox")
    with torch.no_grad():
        case.model.get_input_embeddings().weight[VOCABULARY - 1] = torch.nan
    case.queries[:] = [Sequence("fine", [1, 2, 3], 1)]
    broken = [*(Sequence(f"d{n}", [1, 2, 3 + n]) for n in range(3)), Sequence("broken", [1, VOCABULARY - 1, 3])]
    with pytest.raises(BadInput, match="broken"):
        found(case, neox_fitted, broken, rank=2)
