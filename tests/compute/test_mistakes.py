"""The mistakes that other implementations made (`method.md`, last section), those that no other file here tests.

Tested elsewhere: Λ as a mean and sums in float32 (test_eigenvalues, test_covariances), λ's default and masked prompts
(test_query_gradients), tied heads and Conv1D (test_tracked_modules; gpt2 throughout), batches and order (everywhere).
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, BertConfig

from compute.batches import Batch, Sequence, plan_batches
from compute.capture import captured
from compute.checkpoint import load_model
from compute.covariances import fit_covariances
from compute.eigenvalues import fit_eigenvalues
from compute.errors import BadInput
from compute.exact_scores import exact_scores
from compute.influence import score_documents
from compute.low_rank import full_rank
from compute.query_gradients import dense_gradients, query_gradients
from compute.token_loss import DATA, Labels, run_batch
from tests.compute import oracle
from tests.compute.models import VOCABULARY, batches_of, fit, make_case, random_documents


def with_garbage_in_the_padding(batch: Batch) -> Batch:
    token_ids_BT = torch.where(batch.attention_BT.bool(), batch.token_ids_BT, VOCABULARY - 1 - batch.token_ids_BT)
    return Batch(batch.index_B, batch.keys_B, token_ids_BT, batch.attention_BT, batch.target_BT)


def sums_over(case, batch: Batch, labels: Labels) -> dict[str, torch.Tensor]:
    """Per module what padding could reach: each document's Σ g aᵀ, and the g of padded positions."""
    found: dict[str, torch.Tensor] = {}

    def consume(module, a_BTI, g_BTO) -> None:
        found[module.name] = torch.einsum("bto,bti->boi", g_BTO, a_BTI)
        found[f"{module.name} padding"] = g_BTO[~batch.attention_BT.bool()]

    with captured(case.model, case.modules, consume):
        found["loss"] = run_batch(case.model, batch, labels)
    return found


@pytest.mark.parametrize("labels", [DATA, Labels(sampled=True, seed=1)])
def test_what_stands_in_the_padding_reaches_nothing(case, labels):
    (batch,) = batches_of(case.documents, token_budget=8192)
    assert (batch.attention_BT == 0).any()
    clean, dirty = sums_over(case, batch, labels), sums_over(case, with_garbage_in_the_padding(batch), labels)
    for name, value in clean.items():
        if name.endswith("padding"):
            assert (value == 0).all() and (dirty[name] == 0).all()
        else:
            assert oracle.relative_error(dirty[name], value) < case.exact


def test_padding_leaks_into_no_factor_and_no_score(case):
    """A document's results are the same alone, where there is no padding, and next to one that pads it ninefold."""
    short, long = Sequence("short", [5, 9, 2]), case.documents[0]
    curvature = fit(case).curvature
    gradients = [f for *_, f in query_gradients(case.model, case.modules, case.queries, curvature, rank=4)]

    def covariance_sum(documents):
        found = fit_covariances(case.model, case.modules, documents, labels="sampled")
        return {name: (c.activation_II * c.tokens, c.gradient_OO * c.tokens) for name, c in found.items()}

    def eigenvalue_sum(documents):
        found = fit_eigenvalues(case.model, case.modules, curvature.eigenbasis, documents, labels="sampled")
        return {name: value * len(documents) for name, value in found.items()}

    alone, other, both = covariance_sum([short]), covariance_sum([long]), covariance_sum([short, long])
    for name in case.names:
        for part in (0, 1):
            assert oracle.relative_error(alone[name][part] + other[name][part], both[name][part]) < case.exact
    alone, other, both = eigenvalue_sum([short]), eigenvalue_sum([long]), eigenvalue_sum([short, long])
    for name in case.names:
        assert oracle.relative_error(alone[name] + other[name], both[name]) < case.exact
    alone = score_documents(case.model, case.modules, gradients, [short])
    both = score_documents(case.model, case.modules, gradients, [short, long])
    assert oracle.relative_error(both.scores_QD[:, :1], alone.scores_QD) < case.exact
    assert oracle.relative_error(both.norms_D[:1], alone.norms_D) < case.exact


def test_batches_mark_padding_and_targets():
    documents = [Sequence("a", [7, 8, 9]), Sequence("b", [1, 2, 3, 4, 5], loss_start=3)]
    (batch,) = batches_of(documents, token_budget=10)
    assert batch.keys_B == ["b", "a"] and batch.index_B == [1, 0]
    assert batch.attention_BT.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert batch.target_BT.long().tolist() == [[0, 0, 0, 1, 1], [0, 1, 1, 0, 0]]
    assert batch.token_ids_BT[0].tolist() == [1, 2, 3, 4, 5] and batch.token_ids_BT[1, :3].tolist() == [7, 8, 9]
    assert batch.tokens == 8


def test_a_model_that_looks_to_the_right_is_refused(tmp_path):
    """Padding stands on the right and is not masked, which only causal attention makes harmless."""
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 40, "num_attention_heads": 2}
    for is_decoder in (True, False):
        config = BertConfig(**sizes, num_hidden_layers=1, max_position_embeddings=32, is_decoder=is_decoder)
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / str(is_decoder))
    load_model(str(tmp_path / "True"), device="cpu")
    with pytest.raises(BadInput, match=r"False: .*tokens that follow"):
        load_model(str(tmp_path / "False"), device="cpu")


def gradient_of(case) -> dict:
    gradients = dense_gradients(case.model, case.modules, case.queries[0])
    return {name: full_rank(gradient_OI) for name, gradient_OI in gradients.items()}


@pytest.mark.parametrize("lengths", [[1], [5, 3, 9, 9, 2, 7], [4] * 11, list(range(2, 40))])
@pytest.mark.parametrize("token_budget", [40, 97, 8192])
def test_batches_hold_each_document_once_within_the_budget(lengths, token_budget):
    plan = plan_batches(lengths, token_budget)
    assert sorted(index for batch in plan for index in batch) == list(range(len(lengths)))
    for batch in plan:
        assert len(batch) * max(lengths[index] for index in batch) <= token_budget


STAGES = {
    "covariances": lambda case, fitted, documents: fit_covariances(
        case.model, case.modules, documents, labels="empirical"
    ),
    "sampled covariances": lambda case, fitted, documents: fit_covariances(case.model, case.modules, documents),
    "eigenvalues": lambda case, fitted, documents: fit_eigenvalues(
        case.model, case.modules, fitted.curvature.eigenbasis, documents
    ),
    "queries": lambda case, fitted, documents: list(
        query_gradients(case.model, case.modules, documents, fitted.curvature)
    ),
    "scores": lambda case, fitted, documents: score_documents(case.model, case.modules, [gradient_of(case)], documents),
    "exact scores": lambda case, fitted, documents: exact_scores(
        case.model,
        case.modules,
        [dense_gradients(case.model, case.modules, case.queries[0])],
        documents,
        [[0]] * len(documents),
    ),
}


@pytest.mark.parametrize("token_ids", [[], [4]])
@pytest.mark.parametrize("stage", STAGES)
def test_documents_of_fewer_than_two_tokens_are_refused_by_key(neox_case, neox_fitted, stage, token_ids):
    documents = [*neox_case.documents[:2], Sequence("too-short", token_ids)]
    with pytest.raises(BadInput, match="too-short"):
        STAGES[stage](neox_case, neox_fitted, documents)


@pytest.mark.parametrize("stage", STAGES)
def test_a_document_with_a_nan_loss_is_refused_by_key(neox_fitted, stage):
    case = make_case("gpt_neox")
    clean = [Sequence(d.key, [token % (VOCABULARY - 1) for token in d.token_ids]) for d in random_documents(3)]
    case.queries[:] = clean[:1]
    with torch.no_grad():
        case.model.get_input_embeddings().weight[VOCABULARY - 1] = torch.nan
    STAGES[stage](case, neox_fitted, clean)
    with pytest.raises(BadInput, match=r"broken.*nan"):
        STAGES[stage](case, neox_fitted, [*clean, Sequence("broken", [3, VOCABULARY - 1, 4])])


def test_a_document_longer_than_the_token_budget_is_refused_by_key(neox_case):
    with pytest.raises(BadInput, match=r"long.*token_budget"):
        fit_covariances(neox_case.model, neox_case.modules, [Sequence("long", [1] * 20)], token_budget=19)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("architecture", ["gpt_neox", "gpt2", "llama"])
def test_half_precision_models_are_scored_with_float32_sums(architecture, dtype):
    """The half-precision model against the float32 one with the same (rounded) weights."""
    half = make_case(architecture, dtype=dtype)
    single = make_case(architecture, dtype=dtype)
    single.model.float()
    results = []
    for case in (half, single):
        curvature = fit(case).curvature
        gradients = [f for *_, f in query_gradients(case.model, case.modules, case.queries, curvature, rank=None)]
        scores = score_documents(case.model, case.modules, gradients, case.documents)
        assert scores.scores_QD.dtype == scores.norms_D.dtype == np.float32
        assert np.isfinite(scores.scores_QD).all() and np.isfinite(scores.norms_D).all()
        assert all(value.dtype == torch.float32 for value in curvature.eigenvalues.values())
        assert all(factor.left_OR.dtype == torch.float32 for gradient in gradients for factor in gradient.values())
        results.append(scores)
    assert np.allclose(results[0].norms_D, results[1].norms_D, rtol=0.03)
    assert np.allclose(results[0].loss_D, results[1].loss_D, rtol=0.01)
    dot_rows = slice(1, None, 2)
    for found, expected in zip(results[0].scores_QD[dot_rows], results[1].scores_QD[dot_rows], strict=True):
        assert np.corrcoef(found, expected)[0, 1] > 0.99


def test_the_corpus_is_read_once_for_all_queries(neox_case, monkeypatch):
    """One forward pass per batch of documents, however many queries there are."""
    passes, forward, gradients = [], neox_case.model.forward, [gradient_of(neox_case)] * 50
    monkeypatch.setattr(neox_case.model, "forward", lambda **inputs: (passes.append(1), forward(**inputs))[1])
    score_documents(neox_case.model, neox_case.modules, gradients, neox_case.documents, token_budget=60)
    assert len(passes) == len(plan_batches([len(document) for document in neox_case.documents], 60))


def test_no_weight_gradient_is_formed(neox_case, monkeypatch):
    """With frozen weights backward yields activation gradients only: no parameter takes part in the graph."""
    required = []
    forward = neox_case.model.forward

    def spying(**inputs):
        required.extend(parameter.requires_grad for parameter in neox_case.model.parameters())
        return forward(**inputs)

    monkeypatch.setattr(neox_case.model, "forward", spying)
    fit_covariances(neox_case.model, neox_case.modules, neox_case.documents[:2])
    assert required and not any(required)


def test_dense_query_gradients_stay_within_their_budget(neox_case, neox_fitted):
    """What the pass keeps per query is its factors, unless the dense form fits the budget that was given."""
    from compute.influence import InfluencePass
    from compute.query_products import Kept

    gradients = [f for *_, f in query_gradients(
        neox_case.model, neox_case.modules, neox_case.queries, neox_fitted.curvature, rank=2
    )]  # fmt: skip
    one_module = len(gradients) * 40 * 17 * 8
    memory_bytes = 3 * one_module  # of which a quarter is for documents' gradients
    influence = InfluencePass(
        neox_case.model, neox_case.modules, gradients, typical_tokens=4096, memory_bytes=memory_bytes
    )
    kept = [getattr(route, "queries", None) for route in influence.routes.values()]
    dense = [queries.weight_QP for queries in kept if isinstance(queries, Kept)]
    assert 0 < sum(tensor.numel() * tensor.element_size() for tensor in dense) <= 0.75 * memory_bytes
