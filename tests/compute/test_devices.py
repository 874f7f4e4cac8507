"""A model whose weights accelerate left in its files computes what the whole model computes, in less memory."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.multiprocessing.reductions import StorageWeakRef

import compute.passes
from compute.checkpoint import load_model
from compute.completions import completion_nats, greedy_completions
from compute.covariances import fit_covariances
from compute.curvature import Curvature
from compute.devices import _bringing, input_device, module_device
from compute.document_index import indexed_documents
from compute.eigenbasis import decompose
from compute.eigenvalues import fit_eigenvalues
from compute.errors import BadInput
from compute.exact_scores import exact_scores
from compute.gradient_sketch import GradientSketch
from compute.influence import score_documents
from compute.query_gradients import dense_gradients, directed, query_gradients
from compute.tracked_modules import select_modules
from tests.compute.models import make_case, random_documents, random_queries, tiny_model
from tests.compute.routed import tiny
from tests.compute.test_document_index import in_order

METHODS = ("ekfac", "dot", "trackstar")
FAMILIES = ["gpt_neox", "gpt2", "llama", "mixtral"]


def spread(directory, **settings):
    return load_model(str(directory), spread=True, **({"max_memory": {"cpu": "25KiB"}} | settings))


@pytest.fixture(scope="module", params=FAMILIES)
def both(request, tmp_path_factory):
    """The same checkpoint whole in memory, and most of it left in its files."""
    model = (tiny if request.param == "mixtral" else tiny_model)(request.param).float()
    directory = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(directory)
    whole, parted = load_model(str(directory)), spread(directory)
    modules = select_modules(whole, "mlp")
    assert select_modules(parted, "mlp") == modules
    waiting = {name.rpartition(".")[0] for name, each in parted.named_parameters() if each.device.type == "meta"}
    assert waiting & {module.expert.layer if module.expert else module.name for module in modules}
    return SimpleNamespace(whole=whole, parted=parted, modules=modules)


def everything(model, modules) -> dict:
    """What all stages come to, by name."""
    documents, queries = random_documents(6), random_queries(3)
    settings = {"labels": "sampled", "seed": 1, "token_budget": 60}
    covariances = fit_covariances(model, modules, documents, **settings)
    basis = decompose(covariances)
    curvature = Curvature(basis, fit_eigenvalues(model, modules, basis, documents, **settings))
    rows = [(m, f) for m, _, f in query_gradients(model, modules, queries, curvature, rank=4, methods=METHODS)]
    scored = score_documents(
        model, modules, [f for _, f in rows], documents, methods=[m for m, _ in rows], curvature=curvature
    )
    (dense,) = directed(("ekfac",), [dense_gradients(model, modules, queries[0])], curvature)
    exact = exact_scores(model, modules, list(dense.values()), documents, [[0]] * len(documents))
    nats = completion_nats(model, queries, token_budget=60)
    sketch = GradientSketch(curvature, modules, 512)
    codes, factors, norms = in_order(indexed_documents(model, sketch, documents, token_budget=60))
    return {
        "A": {name: each.activation_II for name, each in covariances.items()},
        "S": {name: each.gradient_OO for name, each in covariances.items()},
        "eigenvalues": curvature.eigenvalues,
        "scores": scored.scores_QD,
        "norms": scored.norms_D,
        "exact": np.stack([each[0].token_scores_T.sum() for each in exact]),
        "nats": np.array(list(nats.values())),
        "codes": codes,
        "code factors": factors,
        "indexed norms": norms,
        "completions": greedy_completions(model, queries[:1], max_new_tokens=3, end_token=None),
    }


def differing_bits(codes: np.ndarray, others: np.ndarray) -> int:
    """What is zero to rounding has either sign."""
    return int(np.unpackbits(codes ^ others).sum())


def test_all_stages_are_those_of_the_whole_model(both):
    expected, found = (everything(model, both.modules) for model in (both.whole, both.parted))
    assert expected.pop("completions") == found.pop("completions")
    assert differing_bits(expected.pop("codes"), found.pop("codes")) <= 3  # of 3,072
    for what, values in expected.items():
        pairs = values.items() if isinstance(values, dict) else [(what, values)]
        for name, value in pairs:
            other = found[what][name] if isinstance(values, dict) else found[what]
            value, other = torch.as_tensor(value), torch.as_tensor(other)
            assert (value - other).abs().max() <= 1e-5 * value.abs().max(), (what, name)


def test_documents_of_a_model_that_waits_as_a_whole_are_indexed(tmp_path):
    tiny_model("gpt2").float().save_pretrained(tmp_path)
    documents, of = random_documents(6), {}
    for where, model in (
        ("whole", load_model(str(tmp_path))),
        ("parted", spread(tmp_path, max_memory={"cpu": "0KiB"})),
    ):
        modules = select_modules(model)
        basis = decompose(fit_covariances(model, modules, documents))
        sketch = GradientSketch(Curvature(basis, fit_eigenvalues(model, modules, basis, documents)), modules, 512)
        of[where] = in_order(indexed_documents(model, sketch, documents, token_budget=60))
    assert next(model.parameters()).device.type == "meta"
    assert differing_bits(of["whole"][0], of["parted"][0]) <= 3
    for one, other in zip(of["whole"][1:], of["parted"][1:], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4)


class Alive:
    """Counts the bytes of waiting weights that were brought and are still held by anything."""

    def __init__(self) -> None:
        self.brought: list[tuple[StorageWeakRef, int]] = []
        self.most = 0

    def add(self, weight: torch.Tensor) -> None:
        storage = weight.untyped_storage()
        self.brought = [(held, size) for held, size in self.brought if not held.expired()]
        self.brought.append((StorageWeakRef(storage), storage.nbytes()))
        self.most = max(self.most, sum(size for _, size in self.brought))


class _Counted(dict):
    def __init__(self, weights, alive: Alive) -> None:
        super().__init__()
        self.weights, self.alive = weights, alive

    def __getitem__(self, name: str) -> torch.Tensor:
        weight = self.weights[name]
        self.alive.add(weight)
        return weight


def most_brought(model, modules) -> int:
    """The most bytes of waiting weights that a pass over a batch holds at once."""
    alive = Alive()
    hooks = [hook for _, hook in _bringing(model)]
    held = [hook.weights_map for hook in hooks]
    for hook in hooks:
        hook.weights_map = _Counted(hook.weights_map, alive)
    try:
        fit_covariances(model, modules, random_documents(4), labels="empirical")
    finally:
        for hook, weights in zip(hooks, held, strict=True):
            hook.weights_map = weights
    return alive.most


def test_a_pass_holds_a_modules_weights_at_a_time_and_not_the_models(both, monkeypatch):
    most = most_brought(both.parted, both.modules)
    sizes = {name: p.nbytes for name, p in both.parted.named_parameters() if p.device.type == "meta"}
    assert most <= 3 * max(sizes.values())
    monkeypatch.setattr(compute.passes, "brought_again", lambda _: nullcontext())
    kept = most_brought(both.parted, both.modules)
    assert kept > 1.5 * most and kept > 0.5 * sum(sizes.values())  # what autograd keeps otherwise


def test_results_come_together_where_token_ids_go_in(both):
    assert input_device(both.parted) == torch.device("cpu")
    assert {module_device(both.parted, module) for module in both.modules} == {torch.device("cpu")}


def test_a_step_that_only_looks_leaves_gpus_alone_and_may_use_the_disk(both, tmp_path):
    both.whole.save_pretrained(tmp_path)
    model = spread(tmp_path, device="cpu", max_memory={0: "1GiB", "cpu": "25KiB"})
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu", "meta"}
    whole = spread(tmp_path, device="cpu", max_memory=None)
    assert {parameter.device.type for parameter in whole.parameters()} == {"cpu"}


def test_values_that_are_not_finite_are_told_of_weights_that_wait_too(tmp_path):
    make_case("llama", dtype=torch.float32).model.save_pretrained(tmp_path)
    file, broken = tmp_path / "model.safetensors", "model.layers.1.mlp.down_proj.weight"
    weights = load_file(file)
    weights[broken][0, 0] = torch.nan
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(BadInput, match=f"{broken} holds values that are not finite"):
        spread(tmp_path)


def test_weights_that_a_device_has_no_room_for_are_told_in_a_sentence(tmp_path, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("injected")

    tiny_model("llama").float().save_pretrained(tmp_path)
    monkeypatch.setattr(torch.nn.Module, "to", full)
    with pytest.raises(BadInput, match=r"in bfloat16 do not fit into the memory of cpu; give model\.device_map"):
        load_model(str(tmp_path), dtype="bfloat16", device="cpu")
