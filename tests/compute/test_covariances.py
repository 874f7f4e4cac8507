"""A and S: sums of outer products over every token of every document, and means over tokens, never over padding."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import compute.covariances
import compute.eigenbasis
from compute.batches import Sequence
from compute.covariances import add_products, fit_covariances, whole
from compute.eigenbasis import _eigh, decompose
from compute.errors import BadInput
from compute.tracked_modules import select_modules
from tests.compute import oracle
from tests.compute.labels import sampled_labels
from tests.compute.models import make_case, random_documents
from tests.compute.routed import make_routed
from tests.compute.test_architectures import CONFIGS, model_of


def assert_same(found: dict, expected: dict, tolerance: float) -> None:
    for name in expected:
        assert oracle.relative_error(found[name].activation_II, expected[name].activation_II) < tolerance, name
        assert oracle.relative_error(found[name].gradient_OO, expected[name].gradient_OO) < tolerance, name
        assert found[name].tokens == expected[name].tokens


def assert_is_oracles(found: dict, expected: dict, tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, (activation_II, gradient_OO) in expected.items():
        assert oracle.relative_error(found[name].activation_II, activation_II) < tolerance, name
        assert oracle.relative_error(found[name].gradient_OO, gradient_OO) < tolerance, name


def test_equal_the_for_loop_with_the_datas_labels(case):
    found = fit_covariances(case.model, case.modules, case.documents, labels="empirical", token_budget=60)
    documents = [(document.token_ids,) for document in case.documents]
    assert_is_oracles(found, oracle.covariances(case.model, case.names, documents), case.exact)


def test_equal_the_for_loop_with_sampled_labels(case):
    found = fit_covariances(case.model, case.modules, case.documents, labels="sampled", seed=5, token_budget=60)
    documents = [(d.token_ids, 1, sampled_labels(case.model, d, seed=5)) for d in case.documents]
    assert_is_oracles(found, oracle.covariances(case.model, case.names, documents), case.exact)


def test_all_linear_layers_equal_the_for_loop():
    case = make_case("gpt2", selection="all")
    found = fit_covariances(case.model, case.modules, case.documents[1:4], labels="empirical")
    documents = [(document.token_ids,) for document in case.documents[1:4]]
    assert_is_oracles(found, oracle.covariances(case.model, case.names, documents), case.exact)


def test_are_means_over_unmasked_tokens(neox_case):
    found = fit_covariances(neox_case.model, neox_case.modules, neox_case.documents, labels="empirical")
    tokens = sum(len(document) for document in neox_case.documents)
    for covariances in found.values():
        assert covariances.tokens == tokens
        # The bias column is 1 at each token: its mean square is 1 only if padding is neither summed nor counted.
        assert float(covariances.activation_II[-1, -1]) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("labels", ["sampled", "empirical"])
@pytest.mark.parametrize("token_budget", [28, 61, 8192])
def test_do_not_depend_on_batch_size_or_order(case, labels, token_budget):
    settings = {"labels": labels, "seed": 3}
    expected = fit_covariances(case.model, case.modules, case.documents, token_budget=40, **settings)
    found = fit_covariances(case.model, case.modules, case.documents[::-1], token_budget=token_budget, **settings)
    assert_same(found, expected, case.exact)


@pytest.mark.parametrize("labels", ["sampled", "empirical"])
def test_of_shards_combine_to_those_of_the_whole(neox_case, labels):
    def fit(documents):
        return fit_covariances(neox_case.model, neox_case.modules, documents, labels=labels, seed=3)

    whole, first, second = fit(neox_case.documents), fit(neox_case.documents[:4]), fit(neox_case.documents[4:])
    for name, covariances in whole.items():
        tokens_a, tokens_b = first[name].tokens, second[name].tokens
        for part in ("activation_II", "gradient_OO"):
            combined = (getattr(first[name], part) * tokens_a + getattr(second[name], part) * tokens_b) / (
                tokens_a + tokens_b
            )
            assert oracle.relative_error(combined, getattr(covariances, part)) < neox_case.exact


def test_sampled_labels_are_not_the_datas_and_follow_the_seed(neox_case):
    def gradient_of(**settings):
        found = fit_covariances(neox_case.model, neox_case.modules, neox_case.documents, **settings)
        return next(iter(found.values())).gradient_OO

    sampled = gradient_of(labels="sampled", seed=0)
    assert torch.equal(sampled, gradient_of(labels="sampled", seed=0))
    assert oracle.relative_error(gradient_of(labels="sampled", seed=1), sampled) > 1e-3
    assert oracle.relative_error(gradient_of(labels="empirical"), sampled) > 1e-3


def test_accumulate_in_float32_whatever_the_models_dtype():
    """Three hundred copies have the mean of one; a bfloat16 sum stops growing after some 256 equal terms."""
    case = make_case("gpt_neox", dtype=torch.bfloat16)
    (document,) = random_documents(1, longest=8)[:1]
    copies = [Sequence(f"copy-{number}", document.token_ids) for number in range(300)]
    settings = {"labels": "empirical", "token_budget": 8}
    one = fit_covariances(case.model, case.modules, copies[:1], **settings)
    many = fit_covariances(case.model, case.modules, copies, **settings)
    for name in one:
        assert many[name].activation_II.dtype == many[name].gradient_OO.dtype == torch.float32
    assert all(oracle.relative_error(many[n].activation_II, one[n].activation_II) < 1e-5 for n in one)
    assert all(oracle.relative_error(many[n].gradient_OO, one[n].gradient_OO) < 1e-5 for n in one)


def test_unknown_labels_are_bad_input(neox_case):
    with pytest.raises(BadInput, match=r"'true'.*'sampled' or 'empirical'"):
        fit_covariances(neox_case.model, neox_case.modules, neox_case.documents, labels="true")


def test_progress_counts_documents_and_tokens_without_padding(neox_case):
    seen = []
    fit_covariances(
        neox_case.model, neox_case.modules, neox_case.documents, token_budget=60, on_batch=lambda *n: seen.append(n)
    )
    assert sum(documents for documents, _ in seen) == len(neox_case.documents)
    assert sum(tokens for _, tokens in seen) == sum(map(len, neox_case.documents))


@pytest.mark.parametrize("selection", ["mlp", "all"])
def test_modules_that_share_their_input_share_its_products_and_their_decomposition(monkeypatch, selection):
    """Llama's gate and up see one input, and so do q, k and v: A is computed and decomposed once for them."""
    case = make_case("llama", selection=selection)
    summed: list[int] = []
    monkeypatch.setattr(
        compute.covariances, "add_products", lambda sum_MM, rows: (summed.append(1), add_products(sum_MM, rows))
    )
    found = fit_covariances(case.model, case.modules, case.documents, labels="empirical")
    inputs = {"mlp": 2, "all": 4}[selection] * case.model.config.num_hidden_layers
    assert len(summed) == inputs + len(case.modules)  # in one batch
    documents = [(document.token_ids,) for document in case.documents]
    assert_is_oracles(found, oracle.covariances(case.model, case.names, documents), case.exact)

    decomposed: list[int] = []
    monkeypatch.setattr(compute.eigenbasis, "_eigh", lambda matrix: (decomposed.append(1), _eigh(matrix))[1])
    basis = decompose({name: found[name] for name in sorted(found)})
    assert len(decomposed) == inputs + len(case.modules)
    for name, each in basis.items():
        rebuilt = each.activation_vectors_IA * each.activation_values_A @ each.activation_vectors_IA.T
        assert oracle.relative_error(rebuilt, found[name].activation_II) < 1e-9


def test_an_input_is_shared_across_one_other_between():
    """Phi's attention and MLP stand side by side: in backward `dense`, of another input, is between fc1 and v, k, q."""
    model, products = model_of(CONFIGS["phi"]), []
    modules, documents = select_modules(model, "all"), random_documents(4, longest=14)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compute.covariances, "add_products", lambda *each: (products.append(1), add_products(*each)))
        found = fit_covariances(model, modules, documents, labels="empirical")
    assert len(modules) == 12 and len(products) == 3 * 2 + 12
    rows = [(document.token_ids,) for document in documents]
    assert_is_oracles(found, oracle.covariances(model, [module.name for module in modules], rows), 1e-5)


class Counted(TorchDispatchMode):
    """Counts what makes the host wait for a device."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.calls[function._overloadpacket._qualified_op_name] += 1
        return function(*args, **(kwargs or {}))


def test_the_device_is_not_asked_for_each_experts_tokens():
    routed = make_routed("mixtral")
    with Counted() as counted:
        fit_covariances(routed.model, routed.modules, routed.documents, labels="empirical")
    assert len(routed.modules) == 20 and counted.calls["aten::nonzero"] == 1  # the loss's


@pytest.mark.parametrize("columns", [1, 7, 16, 1000])
def test_the_upper_triangle_is_enough_whatever_its_blocks(monkeypatch, columns):
    monkeypatch.setattr(compute.covariances, "COLUMNS_AT_ONCE", columns)
    rows_NM, sum_MM = torch.randn(50, 16, dtype=torch.float64), torch.zeros(16, 16, dtype=torch.float64)
    add_products(sum_MM, rows_NM[:20])
    add_products(sum_MM, rows_NM[20:])
    torch.testing.assert_close(whole(sum_MM), rows_NM.T @ rows_NM)
