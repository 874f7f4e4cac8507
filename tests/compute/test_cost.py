"""The cost model against operations counted around the engine itself, on models whose shapes differ in every way."""

from __future__ import annotations

import collections
import dataclasses
import os
import re
import subprocess
import sys

import pytest
import torch
import yaml
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from transformers import AutoModelForCausalLM, CohereConfig, GPT2Config, GPTNeoXConfig, LlamaConfig, MixtralConfig

from compute.architecture import architecture_of
from compute.batches import Sequence
from compute.completions import completion_nats
from compute.cost import DECOMPOSITION, HOST_DECOMPOSITION, Cost, CostModel, Setting
from compute.covariances import fit_covariances
from compute.curvature import Curvature
from compute.document_index import indexed_documents
from compute.eigenbasis import decompose
from compute.eigenvalues import fit_eigenvalues
from compute.errors import BadInput
from compute.exact_scores import exact_scores
from compute.factor_memory import gradient_copies, residence
from compute.gradient_sketch import GradientSketch
from compute.hardware import NAMED, hardware_named, hardware_of, measure
from compute.influence import InfluencePass
from compute.machine import machine_name, machine_used
from compute.measured_agreement import AgreementSample
from compute.methods import metrics_of, whitens
from compute.operations import most_chosen
from compute.query_gradients import dense_gradients, directed, query_gradients
from compute.refinement import refined_gradients
from compute.tracked_modules import select_modules
from tests.compute import routed
from tests.compute.test_architectures import CONFIGS
from tests.docs.blocks import ROOT, blocks

PLAN_PAGE = ROOT / "docs/how-to/plan.md"
DOCUMENTS, TOKENS, QUERIES, QUERY_TOKENS, COMPLETION, RANK = 6, 32, 5, 12, 4, 8
#: n³ operations of LAPACK's symmetric decomposition with vectors: 4/3 to tridiagonal form, 4/3 for its Q, and about 6
#: for the rotations of QR iterations on the vectors (LAPACK Working Note 41; Golub and Van Loan round it up).
DECOMPOSED = 9
SHAPE = {"vocab_size": 300, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
MODELS = {
    "gpt_neox": GPTNeoXConfig(**SHAPE, intermediate_size=160, max_position_embeddings=64),
    "gpt2": GPT2Config(vocab_size=300, n_embd=64, n_inner=160, n_layer=3, n_head=4, n_positions=64),
    "llama": LlamaConfig(**SHAPE, intermediate_size=160, num_key_value_heads=2, max_position_embeddings=64),
}


def mixtral(experts: int) -> MixtralConfig:
    """Two of so many experts for each token."""
    shape = SHAPE | {"intermediate_size": 160, "num_key_value_heads": 2, "max_position_embeddings": 64}
    return MixtralConfig(**shape, num_local_experts=experts, num_experts_per_tok=2)


SETTING = Setting(
    documents=DOCUMENTS,
    tokens=TOKENS,
    sample_documents=DOCUMENTS,
    queries=QUERIES,
    query_tokens=QUERY_TOKENS,
    generated=0,
    new_tokens=COMPLETION,
    methods=2,
    metrics=2,
    rank=RANK,
    agreement=False,
    top_k=5,
    token_budget=3 * TOKENS,
    fit_token_budget=3 * TOKENS,
    memory_bytes=2**28,
    exact_bytes=2**30,
    logits_at_once=2**20,
    dtype="float32",
)


class Measured:
    """A real model with its factors, and its cost model from the skeleton alone."""

    def __init__(self, config, selection: str, blocks: int = 1) -> None:
        config._attn_implementation = "eager"  # whose products the counter knows on a CPU
        torch.manual_seed(0)
        self.model = AutoModelForCausalLM.from_config(config).eval()
        self.modules = select_modules(self.model, selection)
        self.blocks = blocks
        self.documents = _sequences("d", DOCUMENTS, TOKENS, 1)
        self.queries = _sequences("q", QUERIES, QUERY_TOKENS, QUERY_TOKENS - COMPLETION)
        covariances = self.covariances()
        basis = decompose(covariances)
        self.fit, self.factors = covariances, basis
        self.curvature = Curvature(basis, self.eigenvalues())
        with torch.device("meta"):
            skeleton = AutoModelForCausalLM.from_config(config)
        architecture = architecture_of(skeleton, select_modules(skeleton, selection))
        self.costs = CostModel(architecture, dataclasses.replace(SETTING, blocks=blocks))

    def covariances(self):
        settings = {"labels": "empirical", "blocks": self.blocks, "token_budget": SETTING.token_budget}
        return fit_covariances(self.model, self.modules, self.documents, **settings)

    def eigenvalues(self):
        budget = SETTING.token_budget
        return fit_eigenvalues(
            self.model, self.modules, self.factors, self.documents, labels="empirical", token_budget=budget
        )

    def gradients(self, rank: int | None = RANK, agreement: float | None = None) -> list:
        found = query_gradients(self.model, self.modules, self.queries, self.curvature, rank=rank, agreement=agreement)
        return [each for _, _, each in found]

    def influence_pass(self, gradients: list, memory_bytes: int, **settings) -> InfluencePass:
        sizes = {"typical_tokens": TOKENS, "token_budget": SETTING.token_budget, "memory_bytes": memory_bytes}
        return InfluencePass(self.model, self.modules, gradients, **sizes, **settings)


def training_pass(measured: Measured) -> None:
    token_ids = torch.tensor([document.token_ids for document in measured.documents])
    measured.model.requires_grad_(True)
    measured.model(input_ids=token_ids, labels=token_ids, use_cache=False).loss.backward()
    measured.model.requires_grad_(False).zero_grad()


def _sequences(name: str, count: int, tokens: int, loss_start: int) -> list[Sequence]:
    draw = torch.Generator().manual_seed(1)
    return [
        Sequence(f"{name}{n}", torch.randint(0, 300, (tokens,), generator=draw).tolist(), loss_start)
        for n in range(count)
    ]


@pytest.fixture(params=[("gpt_neox", "mlp"), ("gpt2", "all"), ("llama", "mlp"), ("llama", "all")], scope="module")
def measured(request):
    name, selection = request.param
    return Measured(MODELS[name], selection)


class Counter(TorchDispatchMode):
    """Operations of products, by PyTorch's own formulas, and of decompositions. (FlopCounterMode itself cannot watch a
    model with hooks on its modules.)"""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0.0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        kind = torch.ops.aten.addmm if func.overloadpacket is torch.ops.aten.addmm_ else func.overloadpacket
        if kind in flop_registry:
            self.operations += flop_registry[kind](*args, **(kwargs or {}), out_val=out)
        elif func.overloadpacket is torch.ops.aten._linalg_eigh:
            self.operations += DECOMPOSED * len(args[0]) ** 3
        return out


def counted(work) -> float:
    with Counter() as counter:
        work()
    return counter.operations


def test_covariances_eigenbasis_and_eigenvalues(measured):
    assert measured.costs.covariances().total == pytest.approx(counted(measured.covariances), rel=0.03)
    eigenbasis = measured.costs.eigenbasis()
    assert eigenbasis.total == pytest.approx(counted(lambda: decompose(measured.fit)), rel=1e-6)
    assert set(eigenbasis.operations) == {HOST_DECOMPOSITION}
    assert measured.costs.eigenvalues().total == pytest.approx(counted(measured.eigenvalues), rel=0.03)


@pytest.mark.parametrize("blocks", [2, 4])
def test_diagonal_blocks(blocks):
    cut = Measured(MODELS["llama"], "all", blocks)
    assert cut.costs.covariances().total == pytest.approx(counted(cut.covariances), rel=0.03)
    assert cut.costs.eigenbasis().total == pytest.approx(counted(lambda: decompose(cut.fit)), rel=1e-6)
    assert cut.costs.eigenvalues().total == pytest.approx(counted(cut.eigenvalues), rel=0.03)
    assert cut.costs.query_gradients().total == pytest.approx(counted(cut.gradients), rel=0.05)


@pytest.mark.parametrize("rank", [RANK, None], ids=["low rank", "full rank"])
def test_query_gradients(measured, rank):
    costs = dataclasses.replace(measured.costs, setting=dataclasses.replace(SETTING, rank=rank)).query_gradients()
    assert costs.total == pytest.approx(counted(lambda: measured.gradients(rank)), rel=0.05)
    assert (costs.operations[DECOMPOSITION] > 0) == (rank is not None)


METHOD_SETS = [
    ("dot",),
    ("ekfac",),
    ("ekfac", "dot"),
    ("ekfac", "kfac"),
    ("kfac", "ekfac", "trackstar"),
    ("dot", "kfac", "ekfac"),
]


def of_methods(setting: Setting, methods: tuple[str, ...]) -> Setting:
    metrics = metrics_of(methods)
    sizes = {"methods": len(methods), "metrics": len(metrics), "turned": len(set(metrics) - {"plain"})}
    return dataclasses.replace(setting, **sizes, whitens=whitens(methods))


def measuring(measured: Measured, setting: Setting, methods: tuple[str, ...] = ("ekfac", "dot")) -> tuple[float, float]:
    """Operations of query gradients whose agreement is measured: planned and counted."""
    measured.curvature.document_tokens = {module.name: float(TOKENS) for module in measured.modules}  # for kfac
    costs = dataclasses.replace(measured.costs, setting=setting)
    sample = AgreementSample(measured.model, measured.modules, measured.documents, SETTING.token_budget)
    copies = gradient_copies(setting.metrics, False)
    at_once = residence(measured.modules, 1, setting.memory_bytes, copies, measured=setting.metrics).queries_at_once
    settings = {"rank": RANK, "sample": sample, "queries_at_once": at_once, "methods": methods}

    def work() -> list:
        return list(query_gradients(measured.model, measured.modules, measured.queries, measured.curvature, **settings))

    return costs.query_gradients().total, counted(work)


@pytest.mark.parametrize("methods", METHOD_SETS, ids=" ".join)
@pytest.mark.parametrize("memory_bytes", [2**28, 2**20], ids=["all queries at once", "a few"])
def test_measuring_their_agreement(measured, memory_bytes, methods):
    """By the metrics that need the gradient in the eigenbasis, whether or not `dot` is beside them."""
    setting = dataclasses.replace(SETTING, agreement_documents=DOCUMENTS, memory_bytes=memory_bytes)
    planned, found = measuring(measured, of_methods(setting, methods), methods)
    assert planned == pytest.approx(found, rel=0.05)


@pytest.mark.parametrize("methods", METHOD_SETS, ids=" ".join)
@pytest.mark.parametrize("rank", [RANK, None], ids=["low rank", "full rank"])
def test_query_gradients_by_other_methods(measured, rank, methods):
    measured.curvature.document_tokens = {module.name: float(TOKENS) for module in measured.modules}
    setting = of_methods(dataclasses.replace(SETTING, rank=rank), methods)
    arguments = (measured.model, measured.modules, measured.queries, measured.curvature)
    work = counted(lambda: list(query_gradients(*arguments, rank=rank, methods=methods)))
    costs = dataclasses.replace(measured.costs, setting=setting).query_gradients()
    assert costs.total == pytest.approx(work, rel=0.05)


def test_ranks_chosen_by_agreement_cost_more_than_fixed_ones(measured):
    setting = dataclasses.replace(SETTING, agreement=True)
    costs = dataclasses.replace(measured.costs, setting=setting).query_gradients()
    assert costs.total == pytest.approx(counted(lambda: measured.gradients(None, 0.99)), rel=0.15)


@pytest.mark.parametrize(("queries", "memory_bytes"), [(QUERIES, 2**28), (60, 2**28), (60, 2**20)])
def test_influence_by_the_routes_that_the_engine_takes(measured, queries, memory_bytes):
    gradients = (measured.gradients() * 12)[: 2 * queries]
    setting = dataclasses.replace(SETTING, queries=queries, memory_bytes=memory_bytes)
    costs = dataclasses.replace(measured.costs, setting=setting).influence()
    influence_pass = measured.influence_pass(gradients, memory_bytes)
    assert {name: choice.route for name, choice in costs.routes.items()} == influence_pass.chosen.names()
    assert costs.total == pytest.approx(counted(lambda: influence_pass.score(measured.documents)), rel=0.05)


@pytest.mark.parametrize("memory_bytes", [2**19, 2**20])  # where fewer documents are gathered than there are
def test_products_in_half_precision_take_the_routes_for_it(measured, memory_bytes):
    gradients = measured.gradients() * 12
    setting = dataclasses.replace(SETTING, queries=12 * QUERIES, memory_bytes=memory_bytes)
    setting = dataclasses.replace(setting, products="bfloat16")
    costs = dataclasses.replace(measured.costs, setting=setting).influence()
    influence_pass = measured.influence_pass(gradients, memory_bytes, products=torch.bfloat16)
    assert {name: choice.route for name, choice in costs.routes.items()} == influence_pass.chosen.names()
    passes = measured.costs.sequence_pass(TOKENS, TOKENS - 1)["float32"] * DOCUMENTS
    assert costs.operations["float32"] == pytest.approx(passes)
    assert costs.total == pytest.approx(counted(lambda: influence_pass.score(measured.documents)), rel=0.05)


def test_other_methods_share_truncations_and_whitening_costs_a_turn(measured):
    methods = ("dot", "cosine", "ekfac", "trackstar")
    costs = dataclasses.replace(measured.costs, setting=of_methods(SETTING, methods))
    found = []

    def direct() -> None:
        settings = {"rank": RANK, "methods": methods}
        found.extend(
            query_gradients(measured.model, measured.modules, measured.queries, measured.curvature, **settings)
        )

    assert costs.query_gradients().total == pytest.approx(counted(direct), rel=0.05)
    influence_pass = measured.influence_pass(
        [factors for *_, factors in found],
        SETTING.memory_bytes,
        methods=[method for method, *_ in found],
        curvature=measured.curvature,
    )
    work = counted(lambda: influence_pass.score(measured.documents))
    assert costs.influence().total == pytest.approx(work, rel=0.05)


@pytest.mark.parametrize("passes", [1, 4])
def test_refined_gradients(measured, passes):
    setting = dataclasses.replace(SETTING, refined_passes=passes, refined_documents=DOCUMENTS)
    costs = dataclasses.replace(measured.costs, setting=setting).refined_gradients()
    arguments = (measured.model, measured.model, measured.modules, measured.queries, measured.curvature)
    done = []
    work = counted(lambda: done.extend(refined_gradients(*arguments, measured.documents, passes=passes)))
    assert {len(each.residuals) for each in done} == {passes}  # none was solved before
    assert costs.total == pytest.approx(work, rel=0.05)


@pytest.mark.parametrize(("selection", "experts"), [("mlp", 4), ("all", 4), ("mlp", 32)])
def test_experts_cost_their_share_of_the_tokens(selection, experts):
    """Exactly where tokens are counted; where documents are kept apart an expert's tokens of each are padded to the
    most of a batch, of which there are more than by chance: like tokens choose like experts."""
    measured = Measured(mixtral(experts), selection)
    costs = measured.costs
    assert costs.covariances().total == pytest.approx(counted(measured.covariances), rel=0.03)
    assert costs.eigenbasis().total == pytest.approx(counted(lambda: decompose(measured.fit)), rel=1e-6)
    assert costs.query_gradients().total == pytest.approx(counted(measured.gradients), rel=0.05)
    assert 0.82 < costs.eigenvalues().total / counted(measured.eigenvalues) < 1
    planned, found = measuring(measured, dataclasses.replace(SETTING, agreement_documents=DOCUMENTS))
    assert planned == pytest.approx(found, rel=0.08)
    influence_pass = measured.influence_pass(measured.gradients(), SETTING.memory_bytes)
    influence = costs.influence()
    assert {name: choice.route for name, choice in influence.routes.items()} == influence_pass.chosen.names()
    assert 0.82 < influence.total / counted(lambda: influence_pass.score(measured.documents)) < 1
    measured.model.set_experts_implementation("eager")  # whose products the counter knows
    assert costs.training_pass() == pytest.approx(counted(lambda: training_pass(measured)), rel=0.03)


@pytest.mark.parametrize(
    ("tokens", "share", "documents"), [(32, 1 / 16, 3), (32, 0.5, 1), (512, 0.25, 16), (9, 0.3, 2)]
)
def test_the_most_tokens_of_a_document_that_reach_an_expert(tokens, share, documents):
    drawn = torch.rand(4000, documents, tokens, generator=torch.Generator().manual_seed(0)) < share
    mean = drawn.sum(-1).amax(-1).double().mean().item()
    assert most_chosen(tokens, share, documents) == pytest.approx(mean, rel=0.02)


def test_what_is_held_beside_covariances(measured):
    """The products of a batch's last two inputs, which modules may share: in turn one of two widths."""
    memory, (narrow, wide) = measured.costs.covariances().memory, {module.in_features for module in measured.modules}
    assert memory["products of a batch"] == 4 * (narrow**2 + wide**2)


def test_exact_scores_and_the_loss_of_completions(measured):
    listed = [list(range(2 * QUERIES))] * DOCUMENTS  # every document for every query and method

    def work() -> None:
        gradients = [dense_gradients(measured.model, measured.modules, query) for query in measured.queries]
        found = directed(("dot", "ekfac"), gradients, measured.curvature)
        directions = [each for of_query in found for each in of_query.values()]
        exact_scores(
            measured.model,
            measured.modules,
            directions,
            measured.documents,
            listed,
            token_budget=SETTING.token_budget,
        )

    assert measured.costs.exact_scores().total == pytest.approx(counted(work), rel=0.05)
    nats = counted(lambda: completion_nats(measured.model, measured.queries, token_budget=64))
    # The engine takes the logits of one position more in every sequence.
    assert measured.costs.completions().total == pytest.approx(nats, rel=0.15)


@pytest.mark.parametrize("blocks", [1, 2])
def test_the_index_of_documents_and_its_agreement(blocks):
    cut = Measured(MODELS["llama"], "all", blocks)
    costs = dataclasses.replace(cut.costs, setting=dataclasses.replace(cut.costs.setting, index_dimensions=4096))
    sketch = GradientSketch(cut.curvature, cut.modules, 4096)
    settings = {"token_budget": SETTING.token_budget}
    batches = []
    work = counted(lambda: batches.extend(indexed_documents(cut.model, sketch, cut.documents, **settings)))
    assert costs.document_index().total == pytest.approx(work, rel=0.05)
    codes = sum(batch.codes.nbytes + batch.factors_B.nbytes + batch.norms_B.nbytes for batch in batches)
    assert codes < costs.document_index().lake_bytes < 1.2 * codes  # and the ids
    kept = sum(each.place_N.nbytes + each.weight_N.nbytes for each in sketch._kept.values())
    assert costs._sketch_bytes() == pytest.approx(kept, rel=0.01)

    gradients = cut.gradients()[::2]  # by one of the two methods

    def sketches() -> None:
        for of_query in gradients:
            sketch.of_direction({name: each.dense() for name, each in of_query.items()})

    agreement = costs.index_statistics()
    assert agreement.total == pytest.approx(counted(sketches), rel=0.01)
    assert agreement.codes_compared == DOCUMENTS * QUERIES * 4096 / 8  # and read once, whatever the number of queries
    index_bytes = DOCUMENTS * QUERIES * 6 + costs.document_index().lake_bytes
    assert agreement.lake_read == index_bytes + costs.curvature_bytes() + costs.query_factor_bytes()


def test_stages_are_those_that_are_asked_for(measured):
    index = {"document_index", "index_statistics"}
    assert not (index | {"refined_gradients"}) & measured.costs.stages().keys()
    setting = dataclasses.replace(SETTING, index_dimensions=4096, refined_passes=1, refined_documents=2)
    assert index | {"refined_gradients"} <= dataclasses.replace(measured.costs, setting=setting).stages().keys()


def test_the_yardstick_is_a_training_pass(measured):
    assert measured.costs.training_pass() == pytest.approx(counted(lambda: training_pass(measured)), rel=0.03)


PAPER = dataclasses.replace(
    SETTING,
    documents=5_000_000,
    tokens=512,
    sample_documents=100_000,
    queries=100,
    query_tokens=128,
    generated=100,
    new_tokens=64,
    methods=1,
    metrics=1,
    rank=32,
    top_k=50,
    token_budget=8192,
    fit_token_budget=8192,
    memory_bytes=2**31,
    logits_at_once=2**27,
    dtype="bfloat16",
)


@pytest.fixture(scope="module")
def command_r():
    """The shapes of docs/how-to/plan.md: Command R, 35 B parameters, MLP modules."""
    config = CohereConfig(
        vocab_size=256_000,
        hidden_size=8192,
        intermediate_size=22_528,
        num_hidden_layers=40,
        num_attention_heads=64,
        num_key_value_heads=64,
    )
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(config)
    return architecture_of(skeleton, select_modules(skeleton, "mlp"))


def test_the_papers_setting_by_hand(command_r):
    """The arithmetic of docs/how-to/plan.md."""
    model = command_r
    narrow, wide, layers, T = 8192, 22_528, 40, 512
    mlp, attention, head = 3 * narrow * wide, 4 * narrow**2, narrow * 256_000
    assert sum(each.weights for each in model.tracked) == layers * mlp == 22_145_925_120
    costs = CostModel(model, PAPER)

    training = 6 * T * (layers * (mlp + attention) + head) + 12 * T**2 * layers * narrow
    assert costs.training_pass() == 5_000_000 * training == pytest.approx(5.42e20, rel=0.01)
    # Backward stops above attention, gate and up of the first layer.
    passed = layers * (mlp + attention) - attention - 2 * narrow * wide
    forward = 2 * T * layers * (mlp + attention) + 4 * T**2 * layers * narrow + 2 * (T - 1) * head
    backward = 2 * T * passed + 8 * T**2 * (layers - 1) * narrow + 2 * (T - 1) * head
    per_module = 2 * (T * 100 * 32 * (narrow + wide) + T**2 * (narrow + wide))
    influence = costs.influence()
    assert influence.operations["bfloat16"] == pytest.approx(5_000_000 * (forward + backward), rel=1e-9)
    assert influence.operations["float32"] == pytest.approx(5_000_000 * 3 * layers * per_module, rel=1e-9)
    assert {choice.route for choice in influence.routes.values()} == {"factors"}
    assert influence.total / costs.training_pass() == pytest.approx(0.793, abs=0.001)

    # A of gate and up once; S of all three; A of down. Rows of blocks 256 wide: N² + 256 N.
    triangles = 3 * wide * (wide + 256) + 2 * narrow * (narrow + 256)
    assert costs.covariances().operations["float32"] == pytest.approx(100_000 * T * layers * triangles, rel=1e-9)
    assert costs.eigenbasis().total == pytest.approx(9 * layers * (3 * wide**3 + 2 * narrow**3), rel=1e-9)
    rotated = 3 * layers * (2 * T * narrow * wide + 2 * T * (narrow**2 + wide**2))
    assert costs.eigenvalues().operations["float32"] == pytest.approx(100_000 * rotated, rel=1e-9)

    factors = 4 * 3 * layers * (narrow**2 + wide**2)
    of_entries = 2 * 4 * 3 * layers * narrow * wide  # Λ, and a batch's share of it
    assert costs.covariances().lake_bytes == costs.covariances().memory["covariances"] == factors
    assert costs.eigenvalues().memory["eigenbasis and eigenvalues"] == factors + of_entries
    in_blocks = CostModel(model, dataclasses.replace(PAPER, blocks=4))
    cut = 3 * wide * (wide // 4 + 256) + 2 * narrow * (narrow // 4 + 256)
    assert in_blocks.covariances().operations["float32"] == pytest.approx(100_000 * T * layers * cut, rel=1e-9)
    assert in_blocks.eigenvalues().memory["eigenbasis and eigenvalues"] == factors / 4 + of_entries
    assert in_blocks.eigenbasis().total == costs.eigenbasis().total / 16
    assert in_blocks.influence() == influence


def page_tables() -> list[dict[str, dict[str, str]]]:
    """The tables of stages in docs/how-to/plan.md: by stage, and by column."""
    found: list[dict[str, dict[str, str]]] = []
    for line in PLAN_PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] == "stage":
            found.append({})
            columns = cells[1:]
        elif found and line.startswith("| "):
            found[-1][cells[0].replace(" ", "_")] = dict(zip(columns, cells[1:], strict=True))
    return found


def is_shown(text: str, value: float) -> bool:
    """Whether a number of the page, such as `1.06 · 10¹⁹` or `2 min`, is this value, rounded."""
    digits, power = re.fullmatch(r"([\d.]+)(?: · 10([⁰¹²³⁴-⁹]+))?(?: \w+)?", text).groups()
    unit = 10.0 ** int(power.translate(str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789"))) if power else 1.0
    return f"{value / unit:.{len(digits.partition('.')[2])}f}" == digits


def time_is_shown(text: str, cost: Cost) -> bool:
    unit = {"h": 3600, "min": 60}[text.split()[1]]
    return is_shown(text, sum(NAMED["h100"].seconds(cost).values()) / unit)


def test_the_papers_setting_is_what_its_table_says(command_r):
    costs, (table, _) = CostModel(command_r, PAPER), page_tables()
    assert table.keys() == costs.stages().keys()
    for name, cost in costs.stages().items():
        shown = table[name]
        assert is_shown(shown["operations"], cost.total), name
        assert is_shown(shown["× training"], cost.total / costs.training_pass()), name
        assert time_is_shown(shown["time on one H100"], cost), name
        assert cost.lake_bytes < 1e7 if shown["lake"] == "–" else is_shown(shown["lake"], cost.lake_bytes / 1e9), name


@pytest.mark.parametrize(
    ("stage", "memory_mib", "time"), [("query_gradients", 432_000, "7 h"), ("rankings", 516_480, "9 h")]
)
def test_factors_are_read_once_where_memory_holds_them(command_r, stage, memory_mib, time):
    there, short = (
        CostModel(command_r, dataclasses.replace(PAPER, memory_bytes=mib * 2**20)).stage(stage)
        for mib in (memory_mib, memory_mib - 1)
    )
    assert time_is_shown(time, there) and there.lake_read < short.lake_read


def test_the_setting_that_fits_four_cards(command_r):
    """Weights and queries' gradients are spread over cards by module; all the rest is taken to be on one of them."""
    said = yaml.safe_load(next(blocks(PLAN_PAGE, "yaml")).text)
    fit, options = said["curvature"], said["options"]
    setting = dataclasses.replace(
        PAPER,
        sample_documents=fit["sample_documents"],
        blocks=fit["blocks"],
        fit_memory_bytes=fit["memory_mib"] * 2**20,
        fit_token_budget=fit["token_budget"],
        methods=len(options["methods"]),
        token_budget=options["token_budget"],
        products=options["products"],
    )
    costs, (_, table) = CostModel(command_r, setting), page_tables()
    assert table.keys() == costs.stages().keys() - {"eigenbasis"}
    for name, shown in table.items():
        memory = costs.stage(name).memory
        spread = sum(memory.get(what, 0) for what in ("weights", "queries' gradients", "full-rank gradients"))
        of_a_card = spread / 4 + sum(memory.values()) - spread
        assert is_shown(shown["memory in all"], sum(memory.values()) / 2**30), name
        assert is_shown(shown["of a card"], of_a_card / 2**30) and of_a_card < 0.95 * NAMED["h100"].memory, name
        assert time_is_shown(shown["time on one H100"], costs.stage(name)), name

    whole = CostModel(command_r, dataclasses.replace(setting, fit_memory_bytes=None)).eigenvalues().memory
    spread = whole["weights"] + whole["eigenbasis and eigenvalues"]
    on_four, on_six = ((spread / cards + sum(whole.values()) - spread) / 2**30 for cards in (4, 6))
    assert round(on_four) == 91 and round(on_six) == 67


def test_one_querys_gradients_are_those_of_the_page(command_r):
    """Beyond `options.memory_mib`, whatever it says."""
    costs = CostModel(command_r, PAPER)
    held = {stage: needed / 2**30 for stage, needed in costs.bytes_of_query().items()}
    page = PLAN_PAGE.read_text(encoding="utf-8")
    of_query = f"{held['query_gradients']:.1f} GiB and the two of rankings {held['rankings']:.0f} GiB"
    assert f"One query's full gradient takes {of_query}, whatever the option says" in page
    assert costs.query_gradients().memory["queries' gradients"] == costs.bytes_of_query()["query_gradients"]
    in_double = CostModel(command_r, dataclasses.replace(PAPER, dtype="float64"))
    assert in_double.bytes_of_query() == {stage: 2 * needed for stage, needed in costs.bytes_of_query().items()}


def test_scoring_is_bound_by_float32_as_the_page_says(command_r):
    page = PLAN_PAGE.read_text(encoding="utf-8")
    in_float32, in_bfloat16 = (
        NAMED["h100"].seconds(CostModel(command_r, dataclasses.replace(PAPER, products=products)).influence())
        for products in ("float32", "bfloat16")
    )
    whole, half = (sum(each.values()) / 3600 for each in (in_float32, in_bfloat16))
    assert f"({in_float32['float32 products'] / 3600:.0f} of {whole:.0f} h)" in page
    assert f"With `options.products: bfloat16` influence takes {half:.0f} h" in page
    assert f"# in float32 influence takes {whole:.0f} h" in page


MEASURE = """
import sys, torch
from transformers import AutoModelForCausalLM, GPTNeoXConfig
from compute.batches import Sequence
from compute.covariances import fit_covariances
from compute.curvature import Curvature
from compute.document_index import indexed_documents
from compute.eigenbasis import ModuleEigenbasis
from compute.gradient_sketch import GradientSketch
from compute.tracked_modules import select_modules
from tests.compute.test_architectures import CONFIGS

def high_water():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

def documents(count):
    return [Sequence(f"d{n}", torch.randint(0, 2000, (256,)).tolist()) for n in range(count)]

def covariances(modules, count, budget):
    fit_covariances(model, modules, documents(count), labels="empirical", token_budget=budget)

def document_index(modules, count, budget):
    basis, eigenvalues = {}, {}
    for module in modules:
        sides = module.in_dim, module.out_features
        vectors_and_values = [(torch.randn(side, side), torch.rand(side)) for side in sides]
        basis[module.name] = ModuleEigenbasis(*sum(vectors_and_values, ()))
        eigenvalues[module.name] = torch.rand(module.out_features, module.in_dim)
    sketch = GradientSketch(Curvature(basis, eigenvalues, 0.1), modules, 4096)
    for _ in indexed_documents(model, sketch, documents(count), token_budget=budget):
        pass

model = AutoModelForCausalLM.from_config(GPTNeoXConfig(**eval(sys.argv[1]))).eval()
modules = select_modules(model, "mlp")
work = globals()[sys.argv[2]]
work(modules[:1], 1, 256)
open("/proc/self/clear_refs", "w").write("5")
before = high_water()
work(modules, 16, 4096)
print((high_water() - before) * 1024)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="reads Linux's high-water mark")
@pytest.mark.parametrize("stage", ["covariances", "document_index"])
def test_memory_of_a_real_pass(stage):
    shape = {"vocab_size": 2000, "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4}
    shape |= {"intermediate_size": 1024, "max_position_embeddings": 256}
    command = [sys.executable, "-c", MEASURE, repr(shape), stage]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(GPTNeoXConfig(**shape))
    sizes = {"documents": 16, "sample_documents": 16, "tokens": 256, "index_dimensions": 4096}
    setting = dataclasses.replace(SETTING, fit_token_budget=4096, token_budget=4096, **sizes)
    memory = CostModel(architecture_of(skeleton, select_modules(skeleton, "mlp")), setting).stage(stage).memory
    expected = sum(memory.values()) - memory["weights"]
    assert 0.4 < expected / int(done.stdout) < 2.5, (memory, int(done.stdout))


FAMILIES = CONFIGS | routed.CONFIGS


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_can_be_followed_without_weights(family):
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(FAMILIES[family])
    modules = select_modules(skeleton, "mlp")
    model = architecture_of(skeleton, modules)
    assert {each.module for each in model.tracked} == set(modules)
    assert model.attention_layers == 2 and model.attention_layers_backward == 1
    assert not model.linears[0].backward and model.linears[-1].backward


def test_this_machine_is_measured_and_others_are_named():
    here = hardware_named(None, ("float32",)) if not torch.cuda.is_available() else measure("cpu", ("float32",))
    assert here.measured and all(rate > 1e7 for rate in here.rates.values()) and here.memory > 2**28
    cost = Cost(collections.Counter({"float32": 1e9, HOST_DECOMPOSITION: 1e9}), lake_bytes=2.5e8)
    seconds = here.seconds(cost)
    assert seconds["float32 products"] == pytest.approx(1e9 / here.rates["float32"] / here.efficiency)
    assert seconds["the lake"] == pytest.approx(1) and seconds[HOST_DECOMPOSITION] > 0
    assert hardware_named("H100", ()).rates["bfloat16"] > 10 * hardware_named("h100", ()).rates["float32"]
    with pytest.raises(BadInput, match="--hardware: abacus is not known"):
        hardware_named("abacus", ())


@pytest.mark.parametrize(
    ("machine", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),  # a slice
        ("NVIDIA GH200 480GB", None),
        ("2 × abacus", None),
    ],
)
def test_recorded_machines_are_those_that_are_named(machine, name):
    found = hardware_of(machine, NAMED["a100"], ("float32",))
    assert (found and found.name) == name


def test_the_machine_that_is_measured_is_known_again():
    cpu = machine_name("cpu")
    here = dataclasses.replace(NAMED["h100"], measured=True, machine=cpu)
    assert hardware_of(cpu, here, ("float32",)) is here
    assert not here.is_of("NVIDIA H100 80GB HBM3")  # measured here, which is another machine
    assert cpu.startswith(f"{os.cpu_count()} × ") and len(cpu) > 6
    if not torch.cuda.is_initialized():
        assert machine_used() == cpu
