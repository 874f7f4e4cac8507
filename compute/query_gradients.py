"""Query gradients: the gradient of a completion's loss, preconditioned by the inverse curvature, at low rank.

Grosse et al. 2023, equation 18: (H + λ)⁻¹ ∇L(q) = Q_S ((Q_Sᵀ V Q_A) ⊘ (Λ + λ)) Q_Aᵀ per module, with
λ = damping · mean(Λ). Method `dot` is the plain gradient (TracIn at one checkpoint, Pruthi et al. 2020).
O outputs, I inputs (with the bias column), S and A eigen-directions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence as SequenceOf
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compute.batches import Sequence, make_batches
from compute.eigenbasis import ModuleEigenbasis
from compute.errors import BadInput
from compute.low_rank import LowRankGradient, truncate
from compute.module_gradients import document_gradients
from compute.passes import accumulation_dtype, captured, run_batch
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
        basis, eigenvalues_SA = self.eigenbasis[name], self.eigenvalues[name]
        damped_SA = eigenvalues_SA + self.damping * eigenvalues_SA.mean()
        # A direction that no document used must not divide by zero, whatever the damping.
        floor = torch.finfo(eigenvalues_SA.dtype).eps * eigenvalues_SA.max()
        if floor == 0:
            return torch.zeros_like(gradient_OI)
        return basis.rotate_back(basis.rotate(gradient_OI) / damped_SA.clamp(min=floor))


def query_gradients(
    model: nn.Module,
    modules: SequenceOf[TrackedModule],
    queries: SequenceOf[Sequence],
    curvature: Curvature,
    *,
    rank: int | None = 32,
    methods: SequenceOf[str] = METHODS,
    on_query: Callable[[str], None] | None = None,
) -> Iterator[tuple[str, str, dict[str, LowRankGradient]]]:
    """Per query and method: (method, query key, factors per module name), one query's gradients in memory at a time.

    `rank` None keeps the full rank. Raises BadInput for an unknown method or a query whose loss is not finite.
    """
    for query in queries:
        gradients = dense_gradients(model, modules, query)
        for method in methods:
            yield method, query.key, {
                name: truncate(directed_OI, curvature.eigenbasis[name], rank)
                for name, directed_OI in directed(method, gradients, curvature).items()
            }
        if on_query:
            on_query(query.key)


def dense_gradients(model: nn.Module, modules: SequenceOf[TrackedModule], sequence: Sequence) -> dict[str, Tensor]:
    """The full gradient G_OI of one sequence's loss per module name."""
    gradients: dict[str, Tensor] = {}
    dtype = accumulation_dtype(model)

    def consume(module: TrackedModule, activation_BTI: Tensor, gradient_BTO: Tensor) -> None:
        (gradients[module.name],) = next(document_gradients(module, activation_BTI.to(dtype), gradient_BTO.to(dtype)))

    (batch,) = make_batches([sequence], token_budget=len(sequence), device=next(model.parameters()).device)
    with captured(model, modules, consume):
        run_batch(model, batch)
    return gradients


def directed(method: str, gradients: dict[str, Tensor], curvature: Curvature) -> dict[str, Tensor]:
    """The direction whose inner product with a document's gradient is the method's score."""
    if method == "ekfac":
        return {name: curvature.precondition(name, gradient_OI) for name, gradient_OI in gradients.items()}
    if method == "dot":
        return gradients
    raise BadInput(f"options.methods: {method!r} is not known; known are {', '.join(METHODS)}")
