"""Experts that a model keeps in one three-dimensional weight, run one by one: each is linear modules of its own.

transformers' experts modules state how their weights lie (transposed, with biases, gated), and let another function do
their forward pass. The one here sends each expert its tokens alone. It stands in for the model's own while a pass is
captured; the model's weights and their names stay as they are. Padding is sent to no expert.

B documents, T positions, N = B×T tokens, K experts of a token, n tokens of one expert, C columns: the most tokens of
one document that reach the expert. I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Sequence as SequenceOf
from contextlib import ExitStack, contextmanager
from copy import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from compute.batches import Batch
from compute.errors import BadInput

LAYOUT = ("num_experts", "has_gate", "has_bias", "is_transposed", "has_post_expert_norm", "_apply_gate")
CHOSEN = ("num_experts_per_tok", "top_k_experts", "moe_topk", "moe_top_k")  # names that configurations have for K


@dataclass(frozen=True)
class Expert:
    """One weight of one expert: the experts module's name, the expert's number, the weight's name, and the share of
    all tokens that reaches an expert on average."""

    layer: str
    number: int
    projection: str
    token_share: float

    @property
    def name(self) -> str:
        return expert_name(self.layer, self.number, self.projection)


def expert_name(layer: str, number: int, projection: str) -> str:
    return f"{layer}.{number}.{projection}"


@dataclass(frozen=True, kw_only=True)
class ExpertBatch(Batch):
    """What one expert sees of a `whole` batch. Many experts ask for these, and the device is not asked for each."""

    whole: Batch
    real_places: Tensor

    @property
    def places(self) -> Tensor:
        return self.whole.places


@dataclass(frozen=True)
class RoutedTokens:
    """The tokens that reach one expert, and where they stand among its documents' columns.

    `batch` has the documents' rows and C columns: `attention_BT` marks those that hold a token, `position_BT` says
    where in the document it stands.
    """

    batch: Batch
    token_n: Tensor
    choice_n: Tensor
    document_n: Tensor
    column_n: Tensor

    def by_document(self, values_nM: Tensor) -> Tensor:
        """B×C×M, zero where a document has fewer than C tokens."""
        values_BCM = values_nM.new_zeros(*self.batch.attention_BT.shape, values_nM.shape[1])
        values_BCM[self.document_n, self.column_n] = values_nM
        return values_BCM


Watch = Callable[[int, str, Tensor, Tensor, RoutedTokens | None], Tensor]
"""Called with an expert's number, the weight's name, its inputs n×I, its outputs n×O, and their tokens (None where it
is given all of them); returns the outputs to go on with."""


def is_fused(module: nn.Module) -> bool:
    """Whether `module` holds experts in a layout that is known."""
    if not all(hasattr(module, name) for name in LAYOUT):
        return False
    weights = [getattr(module, name, None) for name in _projections(module)]
    return all(isinstance(weight, Tensor) and weight.ndim == 3 for weight in weights)


def expert_weights(name: str, module: nn.Module) -> Iterator[tuple[Expert, int, int, bool]]:
    """Each weight of each expert of the experts module `name`, with its inputs, outputs, and whether it has a bias."""
    share = _token_share(module)
    for number in range(module.num_experts):
        for projection in _projections(module):
            sizes = getattr(module, projection).shape[1:]
            inputs, outputs = sizes if module.is_transposed else sizes[::-1]
            yield Expert(name, number, projection, share), inputs, outputs, module.has_bias


def _projections(module: nn.Module) -> tuple[str, str]:
    return ("gate_up_proj" if module.has_gate else "up_proj", "down_proj")


def _token_share(module: nn.Module) -> float:
    chosen = (getattr(module.config, name, None) for name in CHOSEN)
    return next((min(1.0, each / module.num_experts) for each in chosen if isinstance(each, int)), 1.0)


@contextmanager
def one_by_one(experts: nn.Module, current: SequenceOf[Batch], watch: Watch) -> Iterator[None]:
    """While open, `experts` runs its experts one by one on the batch in `current`, and shows `watch` what each does."""
    experts.current_batch = current
    with _standing_in(experts, "one_by_one", _forward, watch):
        try:
            yield
        finally:
            del experts.current_batch


@contextmanager
def all_for_all(experts: nn.Module, watch: Watch) -> Iterator[None]:
    """While open, `experts` gives every expert all tokens, and shows `watch` what each does: of tensors on the meta
    device nobody knows which tokens reach which."""
    with _standing_in(experts, "all_for_all", _forward_all, watch):
        yield


@contextmanager
def eager_experts(model: nn.Module) -> Iterator[None]:
    """While open, experts are computed by the one way of transformers' that has a derivative forwards."""
    with ExitStack() as undo:
        for module in model.modules():
            if hasattr(module, "is_transposed") and hasattr(module, "config"):  # what chooses among ways, known or not
                undo.enter_context(_computed_by(module, "eager"))
        yield


@contextmanager
def _standing_in(experts: nn.Module, name: str, forward: Callable[..., Tensor], watch: Watch) -> Iterator[None]:
    ALL_EXPERTS_FUNCTIONS.register(name, forward)
    experts.watch_expert = watch
    try:
        with _computed_by(experts, name):
            yield
    finally:
        del experts.watch_expert


@contextmanager
def _computed_by(experts: nn.Module, name: str) -> Iterator[None]:
    config = experts.config
    experts.config = copy(config)  # of this module alone: the configuration is shared by the whole model
    experts.config._experts_implementation = name
    try:
        yield
    finally:
        experts.config = config


def _forward_all(experts: nn.Module, hidden_NI: Tensor, _choice_NK: Tensor, _weight_NK: Tensor) -> Tensor:
    return sum(_run_expert(experts, number, hidden_NI, None) for number in range(experts.num_experts))


def _forward(experts: nn.Module, hidden_NI: Tensor, choice_NK: Tensor, weight_NK: Tensor) -> Tensor:
    (batch,) = experts.current_batch
    batch = batch.to(hidden_NI.device)
    if choice_NK.shape[0] != batch.attention_BT.numel():
        raise BadInput(f"curvature.modules: a {type(experts).__name__} does not see every token; leave it out of them")
    result_NI = torch.zeros_like(hidden_NI)
    for number, tokens in route(batch, choice_NK, experts.num_experts):
        output_nI = _run_expert(experts, number, hidden_NI[tokens.token_n], tokens)
        output_nI = output_nI * weight_NK[tokens.token_n, tokens.choice_n, None]
        result_NI.index_add_(0, tokens.token_n, output_nI.to(result_NI.dtype))
    return result_NI


def _run_expert(experts: nn.Module, number: int, value_nM: Tensor, tokens: RoutedTokens | None) -> Tensor:
    widen, narrow = _projections(experts)
    value_nM = _linear(experts, number, widen, value_nM, tokens)
    value_nM = experts._apply_gate(value_nM) if experts.has_gate else experts.act_fn(value_nM)
    value_nM = _linear(experts, number, narrow, value_nM, tokens)
    return experts.post_expert_norm(value_nM) if experts.has_post_expert_norm else value_nM


def _linear(experts: nn.Module, number: int, projection: str, input_nI: Tensor, tokens: RoutedTokens | None) -> Tensor:
    weight = getattr(experts, projection)[number]
    bias = getattr(experts, f"{projection}_bias")[number] if experts.has_bias else None
    output_nO = functional.linear(input_nI, weight.T if experts.is_transposed else weight, bias)
    return experts.watch_expert(number, projection, input_nI, output_nO, tokens)


def route(batch: Batch, choice_NK: Tensor, experts: int) -> Iterator[tuple[int, RoutedTokens]]:
    """Each expert that a token of the batch reaches, with its tokens in their order; padding reaches none.

    The counts of all experts are read at once, so that a device waits once per layer.
    """
    documents, positions = batch.attention_BT.shape
    # Padding, and what a model sends to no expert (numbers from `experts` on), is sorted behind all others.
    expert_NK = choice_NK.masked_fill(batch.attention_BT.view(-1, 1) == 0, experts).clamp(max=experts)
    expert_P, pair_P = expert_NK.flatten().sort(stable=True)
    token_P = pair_P // choice_NK.shape[1]
    document_P = token_P // positions
    group_P = expert_P * documents + document_P
    count_G = torch.bincount(group_P, minlength=(experts + 1) * documents)
    column_P = torch.arange(len(pair_P), device=pair_P.device) - (count_G.cumsum(0) - count_G)[group_P]
    count_EB = count_G.view(experts + 1, documents)[:-1]
    start = 0
    for number, (count, most) in enumerate(torch.stack([count_EB.sum(1), count_EB.amax(1)], 1).tolist()):
        of_expert, start = slice(start, start + count), start + count
        if count:
            where = token_P[of_expert], document_P[of_expert], column_P[of_expert]
            yield number, _routed(batch, most, *where, pair_P[of_expert] % choice_NK.shape[1])


def _routed(
    batch: Batch, columns: int, token_n: Tensor, document_n: Tensor, column_n: Tensor, choice_n: Tensor
) -> RoutedTokens:
    documents, positions = batch.attention_BT.shape
    attention_BC = batch.attention_BT.new_zeros(documents, columns)
    position_BC = attention_BC.clone()
    attention_BC[document_n, column_n] = 1
    position_BC[document_n, column_n] = token_n % positions
    of_expert = ExpertBatch(
        index_B=batch.index_B,
        keys_B=batch.keys_B,
        whole=batch,
        real_places=document_n * columns + column_n,  # the tokens of an expert stand in their order
        token_ids_BT=batch.token_ids_BT.gather(1, position_BC) * attention_BC,
        attention_BT=attention_BC,
        target_BT=batch.target_BT.gather(1, position_BC) & attention_BC.bool(),
        position_BT=position_BC,
    )
    return RoutedTokens(of_expert, token_n, choice_n, document_n, column_n)
