"""Query gradients: the gradient of a completion's loss, preconditioned by the inverse curvature, at low rank.

Grosse et al. 2023, equation 18: (H + λ)⁻¹ ∇L(q) = Q_S ((Q_Sᵀ V Q_A) ⊘ (Λ + λ)) Q_Aᵀ per module, with
λ = damping · mean(Λ). The other methods, by other metrics or at unit norm, are told in `compute/methods.py`.
O outputs, I inputs (with the bias column), S and A eigen-directions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compute.batches import Batch, Sequence
from compute.curvature import Curvature, over
from compute.devices import module_device, summed
from compute.low_rank import LowRankGradient, full_rank, keeps_full_rank, truncate_rotated, truncate_together
from compute.measured_agreement import AgreementSample
from compute.methods import USUAL, Metric, known_method, metrics_of, norm_metrics
from compute.module_gradients import document_gradients
from compute.passes import accumulation_dtype, backward_passes
from compute.tracked_modules import TrackedModule

STRICTER = (4, 16, 64)
"""What may be dropped is divided by these in turn, where the agreement that was measured falls short."""


def query_gradients(
    model: nn.Module,
    modules: SequenceOf[TrackedModule],
    queries: SequenceOf[Sequence],
    curvature: Curvature,
    *,
    rank: int | None = 32,
    agreement: float | None = None,
    sample: AgreementSample | None = None,
    methods: SequenceOf[str] = USUAL,
    queries_at_once: int = 1,
    refined: Callable[[str], dict[str, Tensor]] | None = None,
    on_query: Callable[[str], None] | None = None,
    on_agreement: Callable[[str, str, float], None] | None = None,
) -> Iterator[tuple[str, str, dict[str, LowRankGradient]]]:
    """Per query and method: (method, query key, factors per module name).

    The full gradients of `queries_at_once` queries are in memory at a time, and are preconditioned module by module, so
    that the curvature is gone through once for all of them. `rank` None keeps the full rank; `agreement` chooses ranks
    per module instead, for scores that are expected to correlate with full-rank ones at it, of methods of unit norm
    before they are divided by a document's. On a `sample` of documents the correlation is measured, and told to
    `on_agreement` by method and query key; gradients that fall short of `agreement` get higher ranks, and at last the
    full one. `refined` gives the gradients that refined methods take instead, by a query's key. Raises BadInput for an
    unknown method or a query whose loss is not finite.
    """
    metrics = metrics_of(method for method in methods if not known_method(method).refined)
    names, keeps = [module.name for module in modules], _Keeps(rank, agreement, sample)
    for start in range(0, len(queries), queries_at_once):
        some = queries[start : start + queries_at_once]
        gradients = [dense_gradients(model, modules, query) for query in some]
        norms = _norms(gradients, names, curvature, methods)
        cut = _cut(gradients, names, curvature, keeps, metrics)
        if any(known_method(method).refined for method in methods):
            gradients = [refined(query.key) for query in some]  # in place of those, which have been used
            of_refined = _cut(gradients, names, curvature, keeps, ["plain"])
        for number, query in enumerate(some):
            for method in methods:
                known = known_method(method)
                found = of_refined[number]["plain"] if known.refined else cut[number][known.metric]
                if on_agreement and found.agreement is not None:
                    on_agreement(method, query.key, found.agreement)
                yield method, query.key, _at_norm(method, found.factors, norms[number])
            if on_query:
                on_query(query.key)


@dataclass(frozen=True)
class _Keeps:
    """What is kept of a gradient: one rank, or ranks that are chosen for an agreement, measured on a sample."""

    rank: int | None
    agreement: float | None
    sample: AgreementSample | None = None


@dataclass(frozen=True)
class _Cut:
    """Factors per module, and how well their scores agree with full-rank ones; None where it was not measured."""

    factors: dict[str, LowRankGradient]
    agreement: float | None = None


def _cut(
    gradients: SequenceOf[dict[str, Tensor]],
    names: SequenceOf[str],
    curvature: Curvature,
    keeps: _Keeps,
    metrics: SequenceOf[Metric],
) -> list[dict[Metric, _Cut]]:
    """Per query: what is kept per metric. Where the agreement that is measured falls short of the one asked for, less
    is dropped, some times over; what then still falls short is kept whole."""
    cut = _cut_at(gradients, names, curvature, keeps, metrics)
    if keeps.sample is None or (keeps.rank is None and keeps.agreement is None):
        return [{metric: _Cut(factors) for metric, factors in of_query.items()} for of_query in cut]
    found: list[dict[Metric, _Cut]] = [{} for _ in gradients]
    due = [(number, metric) for number in range(len(gradients)) for metric in metrics]

    def whole(name: str, place: int) -> Tensor:
        number, metric = due[place]
        return curvature.precondition(name, gradients[number][name], metric)

    for stricter in (*STRICTER, None):
        some = [cut[number][metric] for number, metric in due]
        for (number, metric), factors, agreed in zip(due, some, keeps.sample.agreement(some, whole), strict=True):
            found[number][metric] = _Cut(factors, agreed)
        due = [pair for pair in due if keeps.agreement and found[pair[0]][pair[1]].agreement < keeps.agreement]
        if not due or stricter is None:
            break
        agreement = (1 - (1 - keeps.agreement**2) / stricter) ** 0.5
        for number in {number for number, _ in due}:
            falling_short = [metric for each, metric in due if each == number]
            (cut[number],) = _cut_at([gradients[number]], names, curvature, _Keeps(None, agreement), falling_short)
    for place, (number, metric) in enumerate(due):
        found[number][metric] = _Cut({name: full_rank(whole(name, place)) for name in names}, 1.0)
    return found


def _cut_at(
    gradients: SequenceOf[dict[str, Tensor]],
    names: SequenceOf[str],
    curvature: Curvature,
    keeps: _Keeps,
    metrics: SequenceOf[Metric],
) -> list[dict[Metric, dict[str, LowRankGradient]]]:
    """Per query: factors per metric and module, at one rank or at those that the curvature has for an agreement."""
    if keeps.agreement is not None:
        return _agreeing(gradients, names, curvature, keeps.agreement, metrics)
    cut: list[dict[Metric, dict[str, LowRankGradient]]] = [{metric: {} for metric in metrics} for _ in gradients]
    for name in names:
        for of_metric, of_query in zip(cut, gradients, strict=True):
            for metric, factors in _low_rank(name, of_query[name], curvature, keeps.rank, metrics).items():
                of_metric[metric][name] = factors
    return cut


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
    gradients: SequenceOf[dict[str, Tensor]],
    names: SequenceOf[str],
    curvature: Curvature,
    agreement: float,
    metrics: SequenceOf[Metric],
) -> list[dict[Metric, dict[str, LowRankGradient]]]:
    """Per query: factors per metric and module, at ranks that are chosen over all modules together."""

    def rotated(name: str) -> list[Tensor]:
        turned = [curvature.eigenbasis[name].rotate(of_query[name]) for of_query in gradients]
        return [curvature.divide(name, each_SA, metric) for each_SA in turned for metric in metrics]

    if not metrics:
        return [{} for _ in gradients]
    cut = truncate_together(names, rotated, curvature.eigenbasis, agreement)
    return [
        dict(zip(metrics, cut[start : start + len(metrics)], strict=True)) for start in range(0, len(cut), len(metrics))
    ]


def _norms(
    gradients: SequenceOf[dict[str, Tensor]], names: SequenceOf[str], curvature: Curvature, methods: SequenceOf[str]
) -> list[dict[Metric, Tensor]]:
    """Per query: the norm of its whole gradient in the metrics in which methods divide by it."""
    metrics = norm_metrics(methods)
    squares: list[dict[Metric, list[Tensor]]] = [{metric: [] for metric in metrics} for _ in gradients]
    for name in names if metrics else ():
        for of_query, gradient in zip(squares, gradients, strict=True):
            for metric in metrics:
                of_query[metric].append(curvature.square(name, gradient[name], metric))
    return [{metric: summed(each).sqrt() for metric, each in of_query.items()} for of_query in squares]


def _at_norm(method: str, cut: dict[str, LowRankGradient], norms: dict[Metric, Tensor]) -> dict[str, LowRankGradient]:
    """The factors divided by the norm of the query's whole gradient, where the method says so."""
    if not known_method(method).unit_norm:
        return cut
    norm = norms[known_method(method).metric]
    return {
        name: LowRankGradient(over(each.left_OR, norm.to(each.left_OR.device)), each.right_IR)
        for name, each in cut.items()
    }


def dense_gradients(model: nn.Module, modules: SequenceOf[TrackedModule], sequence: Sequence) -> dict[str, Tensor]:
    """The full gradient G_OI of one sequence's loss per module name; zero for an expert that it does not reach."""
    gradients: dict[str, Tensor] = {}
    dtype = accumulation_dtype(model)

    def consume(_: Batch, module: TrackedModule, activation_BTI: Tensor, gradient_BTO: Tensor) -> None:
        (gradients[module.name],) = next(document_gradients(module, activation_BTI.to(dtype), gradient_BTO.to(dtype)))

    for _ in backward_passes(model, modules, [sequence], consume, token_budget=len(sequence)):
        pass
    for module in modules:
        if module.name not in gradients:
            device = module_device(model, module)
            gradients[module.name] = torch.zeros(module.out_features, module.in_dim, dtype=dtype, device=device)
    return gradients


def directed(
    methods: SequenceOf[str], gradients: SequenceOf[dict[str, Tensor]], curvature: Curvature
) -> list[dict[str, dict[str, Tensor]]]:
    """Per gradient, method and module name: the direction whose inner product with a document's gradient is the score.

    Of methods of unit norm, before it is divided by the document's. Modules are gone through one after the other.
    """
    names, metrics = list(gradients[0]) if gradients else [], metrics_of(methods)
    found: list[dict[Metric, dict[str, Tensor]]] = [{metric: {} for metric in metrics} for _ in gradients]
    for name in names:
        for of_metric, gradient in zip(found, gradients, strict=True):
            for metric in metrics:
                of_metric[metric][name] = curvature.precondition(name, gradient[name], metric)
    norms = _norms(gradients, names, curvature, methods)
    return [
        {method: _direction(method, of_metric[known_method(method).metric], norm) for method in methods}
        for of_metric, norm in zip(found, norms, strict=True)
    ]


def _direction(method: str, found: dict[str, Tensor], norms: dict[Metric, Tensor]) -> dict[str, Tensor]:
    if not known_method(method).unit_norm:
        return found
    norm = norms[known_method(method).metric]
    return {name: over(direction_OI, norm.to(direction_OI.device)) for name, direction_OI in found.items()}
