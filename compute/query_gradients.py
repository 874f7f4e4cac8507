"""Query gradients: the gradient of a completion's loss, preconditioned by the inverse curvature, at low rank.

Grosse et al. 2023, equation 18: (H + λ)⁻¹ ∇L(q) = Q_S ((Q_Sᵀ V Q_A) ⊘ (Λ + λ)) Q_Aᵀ per module, with
λ = damping · mean(Λ). The other methods, by other metrics or at unit norm, are told in `compute/methods.py`.
O outputs, I inputs (with the bias column), S and A eigen-directions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Sequence as SequenceOf

import torch
from torch import Tensor, nn

from compute.batches import Batch, Sequence
from compute.curvature import Curvature, over
from compute.low_rank import LowRankGradient, full_rank, keeps_full_rank, truncate_rotated, truncate_together
from compute.methods import USUAL, Metric, known_method, metrics_of
from compute.module_gradients import document_gradients
from compute.passes import backward_passes, placement
from compute.tracked_modules import TrackedModule


def query_gradients(
    model: nn.Module,
    modules: SequenceOf[TrackedModule],
    queries: SequenceOf[Sequence],
    curvature: Curvature,
    *,
    rank: int | None = 32,
    agreement: float | None = None,
    methods: SequenceOf[str] = USUAL,
    refined: Callable[[str], dict[str, Tensor]] | None = None,
    on_query: Callable[[str], None] | None = None,
) -> Iterator[tuple[str, str, dict[str, LowRankGradient]]]:
    """Per query and method: (method, query key, factors per module name), one query's gradients in memory at a time.

    `rank` None keeps the full rank; `agreement` chooses ranks per module instead, for scores that are expected to
    correlate with full-rank ones at it, of methods of unit norm before they are divided by a document's. `refined`
    gives the gradients that refined methods take instead, by a query's key. Raises BadInput for an unknown method or a
    query whose loss is not finite.
    """
    metrics = metrics_of(method for method in methods if not known_method(method).refined)
    for query in queries:
        gradients = dense_gradients(model, modules, query)
        cut = _cut(gradients, curvature, rank, agreement, metrics)
        for method in methods:
            known = known_method(method)
            if known.refined:
                yield method, query.key, _cut(refined(query.key), curvature, rank, agreement, ["plain"])["plain"]
            else:
                yield method, query.key, _at_norm(method, cut[known.metric], gradients, curvature)
        if on_query:
            on_query(query.key)


def _cut(
    gradients: dict[str, Tensor],
    curvature: Curvature,
    rank: int | None,
    agreement: float | None,
    metrics: SequenceOf[Metric],
) -> dict[Metric, dict[str, LowRankGradient]]:
    """Factors per metric and module name, at one rank or at those that are chosen for an agreement."""
    if agreement is not None:
        return _agreeing(gradients, curvature, agreement, metrics)
    by_module = {name: _low_rank(name, each, curvature, rank, metrics) for name, each in gradients.items()}
    return {metric: {name: factors[metric] for name, factors in by_module.items()} for metric in metrics}


def _low_rank(
    name: str, gradient_OI: Tensor, curvature: Curvature, rank: int | None, metrics: SequenceOf[Metric]
) -> dict[Metric, LowRankGradient]:
    """One module's factors per metric, from a single turn into the eigenbasis."""
    if keeps_full_rank(gradient_OI, rank):
        return {metric: full_rank(curvature.precondition(name, gradient_OI, metric)) for metric in metrics}
    basis = curvature.eigenbasis[name]
    rotated_SA = basis.rotate(gradient_OI)
    return {metric: truncate_rotated(curvature.divide(name, rotated_SA, metric), basis, rank) for metric in metrics}


def _agreeing(
    gradients: dict[str, Tensor], curvature: Curvature, agreement: float, metrics: SequenceOf[Metric]
) -> dict[Metric, dict[str, LowRankGradient]]:
    """Factors per metric and module, at ranks that are chosen over all modules together."""
    rotated = {name: curvature.eigenbasis[name].rotate(gradient_OI) for name, gradient_OI in gradients.items()}
    found = {}
    for metric in metrics:
        divided = {name: curvature.divide(name, rotated_SA, metric) for name, rotated_SA in rotated.items()}
        found[metric] = truncate_together(divided, curvature.eigenbasis, agreement)
    return found


def _at_norm(
    method: str, cut: dict[str, LowRankGradient], gradients: dict[str, Tensor], curvature: Curvature
) -> dict[str, LowRankGradient]:
    """The factors divided by the norm of the query's whole gradient, where the method says so."""
    if not known_method(method).unit_norm:
        return cut
    norm = curvature.norm(gradients, known_method(method).metric)
    return {name: LowRankGradient(over(each.left_OR, norm), each.right_IR) for name, each in cut.items()}


def dense_gradients(model: nn.Module, modules: SequenceOf[TrackedModule], sequence: Sequence) -> dict[str, Tensor]:
    """The full gradient G_OI of one sequence's loss per module name; zero for an expert that it does not reach."""
    gradients: dict[str, Tensor] = {}
    device, dtype = placement(model)

    def consume(_: Batch, module: TrackedModule, activation_BTI: Tensor, gradient_BTO: Tensor) -> None:
        (gradients[module.name],) = next(document_gradients(module, activation_BTI.to(dtype), gradient_BTO.to(dtype)))

    for _ in backward_passes(model, modules, [sequence], consume, token_budget=len(sequence)):
        pass
    for module in modules:
        if module.name not in gradients:
            gradients[module.name] = torch.zeros(module.out_features, module.in_dim, dtype=dtype, device=device)
    return gradients


def directed(method: str, gradients: dict[str, Tensor], curvature: Curvature) -> dict[str, Tensor]:
    """The direction whose inner product with a document's gradient is the method's score.

    Of methods of unit norm, before it is divided by the document's.
    """
    metric = known_method(method).metric
    found = {name: curvature.precondition(name, gradient_OI, metric) for name, gradient_OI in gradients.items()}
    if not known_method(method).unit_norm:
        return found
    norm = curvature.norm(gradients, metric)
    return {name: over(direction_OI, norm) for name, direction_OI in found.items()}
