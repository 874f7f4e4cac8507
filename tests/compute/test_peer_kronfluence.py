"""Agreement with kronfluence 1.0.1 on trained models: equal checkpoint, documents, queries and settings.

With the data's labels both compute the same quantity and must agree to rounding. With sampled labels each draws its
own, so that agreement is bounded by what the draws leave open: kronfluence under two seeds agrees with itself to 0.997
for the worst query at 1,000 documents (0.976 at 100); the empirical Fisher in place of the true one gives 0.97.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from benchmarks.engine.kronfluence_analysis import Peer
from compute.influence import score_documents
from compute.query_gradients import query_gradients
from compute.tracked_modules import select_modules
from tests.compute import language, oracle
from tests.compute.models import Case, Fitted, fit

DOCUMENTS, SAMPLE, QUERIES, RANK = 100, 800, 16, 32


@dataclass
class Pair:
    """One trained model under both tools: ours and the peer, fitted on the documents with the data's labels."""

    case: Case
    ours: Fitted
    peer: Peer


@pytest.fixture(scope="session", params=["gpt_neox", "gpt2"])
def pair(request, tmp_path_factory) -> Pair:
    model = language.trained_model(request.param)
    case = Case(model, select_modules(model, "mlp"), language.documents(DOCUMENTS, seed=5), language.queries(QUERIES))
    peer = Peer(model, case.names, tmp_path_factory.mktemp("kronfluence"))
    peer.fit(case.documents)
    return Pair(case, fit(case), peer)


def our_scores(case: Case, fitted: Fitted, *, rank: int | None) -> torch.Tensor:
    found = query_gradients(case.model, case.modules, case.queries, fitted.curvature, rank=rank, methods=("ekfac",))
    gradients = [factors for _, _, factors in found]
    return torch.from_numpy(score_documents(case.model, case.modules, gradients, case.documents).scores_QD)


def pearson(found_QD, expected_QD) -> torch.Tensor:
    """The correlation over documents of each query's scores."""
    found, expected = (torch.as_tensor(scores).double() for scores in (found_QD, expected_QD))
    found, expected = (scores - scores.mean(1, keepdim=True) for scores in (found, expected))
    return (found * expected).sum(1) / (found.norm(dim=1) * expected.norm(dim=1))


def test_the_models_have_learnt_something(pair):
    """Or the comparison would be of noise: a uniform guess costs log(100) = 4.6 nats a token."""
    losses = [float(oracle.loss(pair.case.model, d.token_ids)) / (len(d) - 1) for d in pair.case.documents[:20]]
    assert sum(losses) / len(losses) < 2.5


def test_covariances_agree(pair):
    theirs = pair.peer.analyzer.load_covariance_matrices("factors")
    for name, ours in pair.ours.covariances.items():
        for part, count, mine in (
            ("activation_covariance", "num_activation_covariance_processed", ours.activation_II),
            ("gradient_covariance", "num_gradient_covariance_processed", ours.gradient_OO),
        ):
            assert int(theirs[count][name]) == ours.tokens
            assert oracle.relative_error(mine, theirs[part][name] / theirs[count][name]) < 1e-4, (name, part)


def test_eigenvalues_agree_where_the_basis_does_not_matter(pair):
    """ΣΛ is the mean squared gradient norm in any basis, and the largest Λ belong to well separated directions."""
    theirs = pair.peer.analyzer.load_lambda_matrices("factors")
    for name, ours_SA in pair.ours.curvature.eigenvalues.items():
        theirs_SA = theirs["lambda_matrix"][name] / theirs["num_lambda_processed"][name]
        assert float(ours_SA.sum()) == pytest.approx(float(theirs_SA.sum()), rel=1e-4)
        top, their_top = ours_SA.flatten().topk(10).values, theirs_SA.flatten().topk(10).values
        assert oracle.relative_error(top, their_top) < 1e-3


def test_full_rank_scores_agree_for_every_query(pair):
    ours, theirs = our_scores(pair.case, pair.ours, rank=None), pair.peer.scores(pair.case.queries, pair.case.documents)
    assert float(pearson(ours, theirs).min()) >= 0.999
    # and in size, since a wrong mean or damping would only rescale: the regression through zero has slope one
    assert float((ours * theirs).sum() / (theirs * theirs).sum()) == pytest.approx(1.0, abs=1e-3)


def test_low_rank_scores_agree_on_average(pair):
    ours = our_scores(pair.case, pair.ours, rank=RANK)
    low_rank = pair.peer.scores(pair.case.queries, pair.case.documents, rank=RANK)
    full = pair.peer.scores(pair.case.queries, pair.case.documents)
    assert not torch.allclose(low_rank, full, rtol=1e-4), "rank 32 truncates nothing here"
    assert float(pearson(ours, low_rank).mean()) >= 0.99
    # Weighted by the covariances, ours loses less of the full scores than the plain truncation of the same rank.
    assert float(pearson(ours, full).mean()) >= float(pearson(low_rank, full).mean())


def test_scores_with_sampled_labels_agree_for_every_query(pair, tmp_path):
    case = Case(pair.case.model, pair.case.modules, language.documents(SAMPLE, seed=6), pair.case.queries)
    sampled = fit(case, labels="sampled")
    peer = Peer(case.model, case.names, tmp_path, empirical=False)
    torch.manual_seed(0)
    peer.fit(case.documents)
    theirs = peer.scores(pair.case.queries, pair.case.documents)
    assert float(pearson(our_scores(pair.case, sampled, rank=None), theirs).min()) >= 0.995
    # The data's labels would not do: agreement is that of the true Fisher.
    assert float(pearson(our_scores(pair.case, fit(case), rank=None), theirs).mean()) < 0.995
