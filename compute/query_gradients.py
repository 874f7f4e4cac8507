"""Query gradients: the gradient of a completion's loss, preconditioned by the inverse curvature, at low rank.

Grosse et al. 2023, equation 18: (H + λ)⁻¹ ∇L(q) = Q_S ((Q_Sᵀ V Q_A) ⊘ (Λ + λ)) Q_Aᵀ per module, with
λ = damping · mean(Λ). Method `dot` is the plain gradient (TracIn at one checkpoint, Pruthi et al. 2020).
O outputs, I inputs (with the bias column), S and A eigen-directions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compute.batches import Batch, Sequence
from compute.eigenbasis import ModuleEigenbasis
from compute.errors import BadInput
from compute.low_rank import LowRankGradient, full_rank, keeps_full_rank, truncate_rotated, truncate_together
from compute.module_gradients import document_gradients
from compute.passes import backward_passes, placement
from compute.tracked_modules import TrackedModule

METHODS = ("ekfac", "dot")


@dataclass
class Curvature:
    """An EK-FAC fit: the eigenbasis and Λ_SA of each module by name, and `damping` as a multiple of mean(Λ)."""

    eigenbasis: dict[str, ModuleEigenbasis]
    eigenvalues: dict[str, Tensor]
    damping: float = 0.1

    def precondition(self, name: str, gradient_OI: Tensor) -> Tensor:
        """The inverse-curvature-vector product of one module's gradient."""
        basis = self.eigenbasis[name]
        return basis.rotate_back(self.divide(name, basis.rotate(gradient_OI)))

    def divide(self, name: str, rotated_SA: Tensor) -> Tensor:
        """A gradient in the eigenbasis, divided by the damped eigenvalues."""
        eigenvalues_SA = self.eigenvalues[name]
        damped_SA = eigenvalues_SA + self.damping * eigenvalues_SA.mean()
        # A direction that no document used must not divide by zero, whatever the damping.
        floor = torch.finfo(eigenvalues_SA.dtype).eps * eigenvalues_SA.max()
        return rotated_SA / damped_SA.clamp(min=floor) if floor > 0 else torch.zeros_like(rotated_SA)


def query_gradients(
    model: nn.Module,
    modules: SequenceOf[TrackedModule],
    queries: SequenceOf[Sequence],
    curvature: Curvature,
    *,
    rank: int | None = 32,
    agreement: float | None = None,
    methods: SequenceOf[str] = METHODS,
    on_query: Callable[[str], None] | None = None,
) -> Iterator[tuple[str, str, dict[str, LowRankGradient]]]:
    """Per query and method: (method, query key, factors per module name), one query's gradients in memory at a time.

    `rank` None keeps the full rank; `agreement` chooses ranks per module instead, for scores that are expected to
    correlate with full-rank ones at it. Raises BadInput for an unknown method or a query whose loss is not finite.
    """
    for method in methods:
        check_method(method)
    for query in queries:
        gradients = dense_gradients(model, modules, query)
        if agreement is None:
            by_module = {name: _low_rank(name, each, curvature, rank, methods) for name, each in gradients.items()}
            cut = {method: {name: factors[method] for name, factors in by_module.items()} for method in methods}
        else:
            cut = _agreeing(gradients, curvature, agreement, methods)
        for method in methods:
            yield method, query.key, cut[method]
        if on_query:
            on_query(query.key)


def _low_rank(
    name: str, gradient_OI: Tensor, curvature: Curvature, rank: int | None, methods: SequenceOf[str]
) -> dict[str, LowRankGradient]:
    """One module's factors per method, from a single turn into the eigenbasis."""
    if keeps_full_rank(gradient_OI, rank):
        return {method: full_rank(directed(method, {name: gradient_OI}, curvature)[name]) for method in methods}
    basis = curvature.eigenbasis[name]
    rotated_SA = basis.rotate(gradient_OI)
    return {
        method: truncate_rotated(_directed_rotated(method, name, rotated_SA, curvature), basis, rank)
        for method in methods
    }


def _agreeing(
    gradients: dict[str, Tensor], curvature: Curvature, agreement: float, methods: SequenceOf[str]
) -> dict[str, dict[str, LowRankGradient]]:
    """Factors per method and module, at ranks that are chosen over all modules together."""
    rotated = {name: curvature.eigenbasis[name].rotate(gradient_OI) for name, gradient_OI in gradients.items()}
    found = {}
    for method in methods:
        directed = {name: _directed_rotated(method, name, each, curvature) for name, each in rotated.items()}
        found[method] = truncate_together(directed, curvature.eigenbasis, agreement)
    return found


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
    """The direction whose inner product with a document's gradient is the method's score."""
    check_method(method)
    if method == "dot":
        return gradients
    return {name: curvature.precondition(name, gradient_OI) for name, gradient_OI in gradients.items()}


def check_method(method: str) -> None:
    """Raises BadInput for a method that is not known."""
    if method not in METHODS:
        raise BadInput(f"options.methods: {method!r} is not known; known are {', '.join(METHODS)}")


def _directed_rotated(method: str, name: str, rotated_SA: Tensor, curvature: Curvature) -> Tensor:
    check_method(method)
    return rotated_SA if method == "dot" else curvature.divide(name, rotated_SA)
