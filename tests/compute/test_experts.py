"""Experts in one three-dimensional weight, each traced as linear modules of its own: against autograd's gradients of
the model's own weights, in for-loops over documents, with nothing taken apart.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    GptOssConfig,
    MixtralConfig,
    OlmoeConfig,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
)

from compute.batches import Sequence, make_batches
from compute.capture import captured
from compute.checkpoint import load_model, model_skeleton, same_architecture
from compute.covariances import covariance_defect, fit_covariances
from compute.eigenbasis import basis_defect, decompose
from compute.eigenvalues import eigenvalue_defect, fit_eigenvalues
from compute.errors import BadInput
from compute.exact_scores import exact_scores
from compute.experts import route
from compute.influence import InfluencePass, score_documents
from compute.low_rank import full_rank
from compute.passes import backward_passes
from compute.query_gradients import Curvature, dense_gradients, query_gradients
from compute.routes import Workload, choose
from compute.token_loss import run_batch
from compute.tracked_modules import TrackedModule, select_modules
from tests.compute import oracle
from tests.compute.models import CONTEXT, NO_SPECIAL_TOKENS, VOCABULARY, random_documents, random_queries

EXPERTS = 5
SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": CONTEXT, **NO_SPECIAL_TOKENS,
}  # fmt: skip
TWO_OF_FIVE = {"num_experts": EXPERTS, "num_experts_per_tok": 2}
CONFIGS = {
    "mixtral": MixtralConfig(**SIZES, intermediate_size=20, num_local_experts=EXPERTS),
    "qwen2_moe": Qwen2MoeConfig(
        **SIZES, **TWO_OF_FIVE, moe_intermediate_size=20, shared_expert_intermediate_size=24, mlp_only_layers=[0],
        intermediate_size=28,
    ),
    "qwen3_moe": Qwen3MoeConfig(**SIZES, **TWO_OF_FIVE, head_dim=8, moe_intermediate_size=20, intermediate_size=24),
    "olmoe": OlmoeConfig(**SIZES, **TWO_OF_FIVE, intermediate_size=20),
    "deepseek_v3": DeepseekV3Config(
        **{**SIZES, "num_key_value_heads": 4}, n_routed_experts=EXPERTS, num_experts_per_tok=2, n_group=1, topk_group=1,
        moe_intermediate_size=20, intermediate_size=24, first_k_dense_replace=1, q_lora_rank=8, kv_lora_rank=8,
        qk_rope_head_dim=4, qk_nope_head_dim=4, v_head_dim=4,
    ),
    "gpt_oss (biases, transposed)": GptOssConfig(
        **SIZES, num_local_experts=EXPERTS, num_experts_per_tok=2, intermediate_size=20, head_dim=4, sliding_window=4
    ),
}  # fmt: skip
ROUNDING = 1e-5  # norms, rotary positions and routers are float32 in these, whatever the weights are
UNUSED = 4  # the expert that no token is sent to


def tiny(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[name]).double()
    model.set_experts_implementation("eager")  # the only one of transformers' own that knows float64
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn_like(parameter)
            parameter.copy_(parameter + 0.3 * noise if parameter.ndim == 1 else 0.25 * noise)
    return model.eval()


@dataclass
class Routed:
    """A model with experts, its tracked modules, and what runs through it."""

    model: nn.Module
    modules: tuple[TrackedModule, ...]
    documents: list[Sequence] = field(default_factory=lambda: random_documents(5, longest=14))
    queries: list[Sequence] = field(default_factory=lambda: random_queries(2))

    @property
    def names(self) -> list[str]:
        return [module.name for module in self.modules]

    @property
    def experts(self) -> list[TrackedModule]:
        return [module for module in self.modules if module.expert]


@pytest.fixture(scope="module", params=CONFIGS)
def routed(request):
    model = tiny(request.param)
    return Routed(model, select_modules(model, "mlp"))


@pytest.fixture(scope="module")
def mixtral():
    model = tiny("mixtral")
    return Routed(model, select_modules(model, "mlp"))


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


# --- the reference: gradients of the fused weights themselves, and what each expert is given, by hand


def parameters_of(model: nn.Module, module: TrackedModule) -> list[tuple[nn.Parameter, object]]:
    """Weight and bias of a tracked module, each with what is to be done to its gradient to make it O×I, or O."""
    *_, number, projection = module.name.split(".")
    if not module.name.endswith(("gate_up_proj", "down_proj")) or not number.isdigit():
        return [(parameter, lambda g: g) for parameter in model.get_submodule(module.name).parameters()]
    layer = model.get_submodule(module.name.rsplit(".", 2)[0])
    weight, bias = getattr(layer, projection), getattr(layer, f"{projection}_bias", None)
    transposed = bias is not None  # of these families GPT-OSS alone, with inputs × outputs
    found = [(weight, lambda g: g[int(number)].T if transposed else g[int(number)])]
    return found if bias is None else [*found, (bias, lambda g: g[int(number)])]


def gradients_by_hand(model: nn.Module, modules, sequence: Sequence) -> dict[str, Tensor]:
    wanted = {module.name: parameters_of(model, module) for module in modules}
    flat = list({id(p): p.requires_grad_(True) for each in wanted.values() for p, _ in each}.values())
    loss = oracle.loss(model, sequence.token_ids, sequence.loss_start)
    found = torch.autograd.grad(loss, flat, allow_unused=True)
    of = {id(p): torch.zeros_like(p) if g is None else g for p, g in zip(flat, found, strict=True)}
    for parameter in flat:
        parameter.requires_grad_(False)
    parts = {name: [shape(of[id(p)]) for p, shape in each] for name, each in wanted.items()}
    return {n: torch.cat([w, *(b[:, None] for b in rest)], 1) for n, (w, *rest) in parts.items()}


@dataclass
class Seen:
    """What a module was given: rows a_nI (with the column of ones) and g_nO over all documents."""

    activations: list[Tensor] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        return len(self.activations)

    def mean(self, rows: list[Tensor], like: int) -> Tensor:
        total = torch.zeros(like, like, dtype=torch.float64)
        for row in rows:
            total += torch.outer(row, row)
        return total / max(1, self.tokens)


def rows_by_hand(model: nn.Module, modules, documents) -> dict[str, Seen]:
    """Every token of every document sent to its experts one at a time, by the formulas of the models' papers."""
    seen = {module.name: Seen() for module in modules}
    layers = {module.expert.layer for module in modules if module.expert}
    kept = {layer: model.get_submodule(layer).forward for layer in layers}
    for document in documents:
        pending: list[tuple[str, Tensor, Tensor]] = []
        for layer in layers:
            model.get_submodule(layer).forward = token_by_token(layer, model.get_submodule(layer), pending)
        try:
            loss = oracle.loss(model, document.token_ids)
        finally:
            for layer, forward in kept.items():
                model.get_submodule(layer).forward = forward
        gradients = torch.autograd.grad(loss, [zeros for _, _, zeros in pending])
        for (name, activation_I, _), gradient_O in zip(pending, gradients, strict=True):
            seen[name].activations.append(activation_I)
            seen[name].gradients.append(gradient_O)
    return seen


def token_by_token(layer: str, experts: nn.Module, pending: list):
    biased = hasattr(experts, "down_proj_bias")

    def linear(projection: str, number: int, input_I: Tensor) -> Tensor:
        weight = getattr(experts, projection)[number]
        output_O = (weight.T if biased else weight) @ input_I
        row_I = input_I.detach()
        if biased:
            output_O = output_O + getattr(experts, f"{projection}_bias")[number]
            row_I = torch.cat([row_I, torch.ones(1, dtype=row_I.dtype)])
        zeros_O = torch.zeros_like(output_O, requires_grad=True)
        pending.append((f"{layer}.{number}.{projection}", row_I, zeros_O))
        return output_O + zeros_O

    def gated(value_M: Tensor) -> Tensor:
        if not biased:
            half = len(value_M) // 2
            return torch.nn.functional.silu(value_M[:half]) * value_M[half:]
        gate, up = value_M[::2].clamp(max=7.0), value_M[1::2].clamp(-7.0, 7.0)  # GPT-OSS
        return (up + 1) * gate * torch.sigmoid(1.702 * gate)

    def forward(hidden_NI: Tensor, choice_NK: Tensor, weight_NK: Tensor) -> Tensor:
        rows = []
        for hidden_I, choice_K, weight_K in zip(hidden_NI, choice_NK, weight_NK, strict=True):
            parts = [
                weight * linear("down_proj", int(number), gated(linear("gate_up_proj", int(number), hidden_I)))
                for number, weight in zip(choice_K, weight_K, strict=True)
            ]
            rows.append(sum(parts))
        return torch.stack(rows).to(hidden_NI.dtype)

    return forward


def fitted(routed: Routed, **settings):
    arguments = {"labels": "empirical", "token_budget": 30} | settings
    covariances = fit_covariances(routed.model, routed.modules, routed.documents, **arguments)
    basis = decompose(covariances)
    return covariances, basis, fit_eigenvalues(routed.model, routed.modules, basis, routed.documents, **arguments)


# --- names


def test_each_expert_is_two_linear_modules_of_its_layer(mixtral):
    assert len(mixtral.modules) == 2 * EXPERTS * 2
    assert mixtral.names[:4] == [
        "model.layers.0.mlp.experts.0.gate_up_proj",
        "model.layers.0.mlp.experts.0.down_proj",
        "model.layers.0.mlp.experts.1.gate_up_proj",
        "model.layers.0.mlp.experts.1.down_proj",
    ]
    sizes = {(module.in_features, module.out_features, module.has_bias) for module in mixtral.modules}
    assert sizes == {(16, 40, False), (20, 16, False)}
    assert {module.token_share for module in mixtral.modules} == {2 / EXPERTS}


def test_sizes_do_not_depend_on_how_a_weight_lies():
    modules = select_modules(tiny("gpt_oss (biases, transposed)"), "mlp")
    sizes = {(module.in_features, module.out_features, module.has_bias) for module in modules}
    assert sizes == {(16, 40, True), (20, 16, True)}


@pytest.mark.parametrize("name", CONFIGS)
def test_what_chooses_and_weighs_experts_is_not_mlp(name):
    names = [module.name for module in select_modules(tiny(name), "mlp")]
    assert not [each for each in names if each.endswith(("gate", "router"))]
    assert any(".experts.3." in each for each in names)


def test_a_gate_that_is_a_linear_module_can_be_named():
    model = tiny("qwen2_moe")
    (gate,) = select_modules(model, ["shared_expert_gate"])
    assert gate.name == "model.layers.1.mlp.shared_expert_gate"
    assert gate in select_modules(model, "all")


def test_shared_experts_and_layers_without_experts_are_mlp():
    names = [module.name for module in select_modules(tiny("qwen2_moe"), "mlp")]
    assert "model.layers.0.mlp.gate_proj" in names
    assert "model.layers.1.mlp.shared_expert.down_proj" in names


def test_a_pattern_chooses_experts(mixtral):
    (module,) = select_modules(mixtral.model, [r"layers\.1.*experts\.3\.down"])
    assert module.name == "model.layers.1.mlp.experts.3.down_proj"


# --- the model's own results


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm"])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_models_outputs_are_its_own_while_experts_run_one_by_one(name, implementation):
    model, documents = tiny(name).float(), random_documents(5, longest=14)
    model.set_experts_implementation(implementation)
    (batch,) = make_batches(documents, token_budget=8192)
    with torch.no_grad():
        own_BTV = model(input_ids=batch.token_ids_BT, use_cache=False).logits
        with captured(model, select_modules(model, "mlp"), lambda *_: None, [batch]):
            found_BTV = model(input_ids=batch.token_ids_BT, use_cache=False).logits
        after_BTV = model(input_ids=batch.token_ids_BT, use_cache=False).logits
    assert model.config._experts_implementation == implementation
    real_BT = batch.attention_BT.bool()
    assert oracle.relative_error(found_BTV[real_BT], own_BTV[real_BT]) < ROUNDING
    assert torch.equal(after_BTV, own_BTV)


def test_tokens_are_routed_once_and_padding_is_not(mixtral):
    (batch,) = make_batches(mixtral.documents, token_budget=8192)
    generator = torch.Generator().manual_seed(3)
    choice_NK = torch.rand(batch.attention_BT.numel(), EXPERTS, generator=generator).argsort(1)[:, :2]
    seen = []
    for number, tokens in route(batch, choice_NK, EXPERTS):
        values_BC1 = tokens.by_document(tokens.token_n[:, None].double())
        for document, (row_C, held_C) in enumerate(zip(values_BC1[..., 0], tokens.batch.attention_BT, strict=True)):
            for token in row_C[held_C.bool()].int().tolist():
                seen.append((token, number))
                assert token // batch.attention_BT.shape[1] == document
                assert choice_NK[token].tolist().count(number) == 1
        assert torch.equal(tokens.batch.token_ids_BT[tokens.document_n, tokens.column_n],
                           batch.token_ids_BT.flatten()[tokens.token_n])  # fmt: skip
    real = batch.attention_BT.flatten().nonzero().flatten().tolist()
    assert sorted(seen) == sorted((token, number) for token in real for number in choice_NK[token].tolist())


# --- factors and scores against the for-loops


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
    monkeypatch.setattr("compute.influence.choose", lambda *arguments: forced(route_name, *arguments))
    scoring = InfluencePass(routed.model, routed.modules, factors, token_budget=30)
    assert set(scoring.route_names().values()) == {route_name}
    found = scoring.score(routed.documents)
    assert oracle.relative_error(found.scores_QD, by_hand) < ROUNDING
    assert oracle.relative_error(found.norms_D, [oracle.norm(each) for each in gradients]) < ROUNDING


def forced(route_name: str, *arguments):
    choice = choose(*arguments)
    return type(choice)(route_name, choice.costs)


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


# --- experts without tokens


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
    _, basis, eigenvalues = fitted(lonely)
    curvature = Curvature(basis, eigenvalues, damping)
    found = list(query_gradients(lonely.model, lonely.modules, lonely.queries, curvature, **settings))
    for _, _, factors in found:
        assert factors.keys() == set(lonely.names)
        assert all(torch.isfinite(each.dense()).all() for each in factors.values())
    scores = score_documents(lonely.model, lonely.modules, [factors for *_, factors in found], lonely.documents)
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


# --- out of memory, precision, costs


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
    model = tiny("qwen3_moe").bfloat16()
    covariances, basis, eigenvalues = fitted(Routed(model, select_modules(model, "mlp")))
    for name, each in covariances.items():
        assert each.activation_II.dtype == each.gradient_OO.dtype == eigenvalues[name].dtype == torch.float32
        assert torch.isfinite(eigenvalues[name]).all() and basis_defect(name, basis[name]) is None


def test_a_consumer_is_given_the_columns_of_an_experts_own_tokens(mixtral):
    """What an expert costs follows the tokens that reach it, not those of the batch."""
    widths = []
    passes = backward_passes(
        mixtral.model, mixtral.modules, mixtral.documents,
        lambda batch, module, a_BCI, g_BCO: widths.append((batch.attention_BT.shape, a_BCI.shape[:2], g_BCO.shape[:2])),
        token_budget=8192,
    )  # fmt: skip
    assert len(list(passes)) == 1 and widths
    assert all(one == two == three for one, two, three in widths)
    assert np.mean([shape[1] for shape, *_ in widths]) < max(map(len, mixtral.documents))


def test_a_route_is_chosen_for_the_tokens_that_reach_an_expert(mixtral):
    workload = Workload(tokens=100, documents=4, memory_bytes=2**20)
    expert, dense = mixtral.modules[0], TrackedModule("dense", 16, 40, False)
    assert choose(expert, [4], workload, 2**20) == choose(dense, [4], Workload(40, 4, 2**20), 2**20)


def test_experts_that_no_batch_is_given_for_are_refused_for_another_number_of_tokens(mixtral):
    (batch,) = make_batches(mixtral.documents, token_budget=8192)
    with (
        captured(mixtral.model, mixtral.modules, lambda *_: None, [batch]),
        pytest.raises(BadInput, match="MixtralExperts"),
    ):
        mixtral.model(input_ids=batch.token_ids_BT[:, :-1])


# --- checkpoints


@pytest.mark.parametrize("name", ["mixtral", "olmoe"])
def test_a_checkpoint_is_traced_under_the_same_names_and_saved_as_it_was(tmp_path, name):
    model = tiny(name)
    modules, documents = select_modules(model, "mlp"), random_documents(3, longest=8)
    list(backward_passes(model, modules, documents, lambda *_: None, token_budget=8192))  # leaves no trace
    model.save_pretrained(tmp_path / "saved")
    loaded, skeleton = load_model(str(tmp_path / "saved"), dtype="float64"), model_skeleton(str(tmp_path / "saved"))
    assert select_modules(loaded, "mlp") == select_modules(skeleton, "mlp") == modules
    assert same_architecture(loaded, skeleton) and same_architecture(loaded, model)
    (batch,) = make_batches(documents, token_budget=8192)
    with captured(loaded, modules, lambda *_: None, [batch]):
        losses = run_batch(loaded, batch)
    by_hand = [oracle.loss(model, documents[index].token_ids).item() for index in batch.index_B]
    assert losses.tolist() == pytest.approx(by_hand, rel=ROUNDING)
